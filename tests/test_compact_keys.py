"""
Sets and numberings of many keys: they say what `set` and `dict` would say, in a small part of the memory.
"""

from __future__ import annotations

import sys
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from gymcore.compact_keys import KeyNumbers, KeySet

KEYS = st.lists(st.one_of(st.binary(max_size=3), st.integers(0, 50).map(lambda number: b"%d" % number)), max_size=200)


@given(KEYS)
def test_a_set_of_keys_is_a_set(keys: list[bytes]) -> None:
    """
    A key is new once, and there from then on.
    """
    found, expected = KeySet(), set()
    for key in keys:
        assert (key in found) == (key in expected)
        assert found.add(key) == (key not in expected)
        expected.add(key)

    assert len(found) == len(expected)
    assert all(key in found for key in expected)


@given(KEYS)
def test_keys_are_numbered_in_the_order_of_their_first_appearance(keys: list[bytes]) -> None:
    """
    The same key has the same number, and no number is left out.
    """
    numbers = KeyNumbers()
    expected: dict[bytes, int] = {}

    assert [numbers.number(key) for key in keys] == [expected.setdefault(key, len(expected)) for key in keys]
    assert len(numbers) == len(expected)


@given(KEYS, KEYS)
def test_a_copy_goes_its_own_way(before: list[bytes], after: list[bytes]) -> None:
    """
    What is added to one is not in the other.
    """
    original = KeySet()
    for key in before:
        original.add(key)
    copy = original.copy()
    for key in after:
        copy.add(key)

    assert len(original) == len(set(before))
    assert len(copy) == len({*before, *after})
    assert not any(key in original for key in set(after) - set(before))


def test_many_keys_share_their_buckets_and_take_little_memory() -> None:
    """
    With several keys in each bucket they are still told apart, in less than 60 bytes each; a `set` takes 140.
    """
    count = 100_000
    tracemalloc.start()
    try:
        numbers = KeyNumbers()
        found = [numbers.number(b"environment/%d" % number) for number in range(count)]
        size = tracemalloc.get_traced_memory()[0] - sys.getsizeof(found) - sum(map(sys.getsizeof, range(257, count)))
    finally:
        tracemalloc.stop()
    keys = KeySet()

    assert found == list(range(count))
    assert all(numbers.find(b"environment/%d" % number) == number for number in range(0, count, 7))
    assert all(numbers.find(b"environment/%d" % number) is None for number in range(count, count + 1000))
    assert size < 60 * count
    assert all(keys.add(b"environment/%d" % number) for number in range(count))
    assert all(b"environment/%d" % number in keys for number in range(0, count, 7))
    assert not any(b"environment/%d" % number in keys for number in range(count, count + 10_000))
