"""
The order of a mix: exact in every prefix, the same every time, and nothing lost.
"""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import islice
from math import gcd

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gymcore.composition import interleave
from gymcore.composition.mixing import batches, proportional, rest_of_a_batch, whole_numbers

SIZES = st.lists(st.integers(0, 60), max_size=6)


@given(SIZES)
def test_every_element_of_every_collection_comes_once(sizes: list[int]) -> None:
    """
    Mixing loses no task and invents none.
    """
    assert Counter(interleave(sizes)) == Counter({index: size for index, size in enumerate(sizes) if size})


@given(SIZES)
def test_every_prefix_holds_each_collection_within_one_of_its_share(sizes: list[int]) -> None:
    """
    The mix is exact, not random: no stretch of it favours anybody.
    """
    total = sum(sizes)
    taken = [0] * len(sizes)
    for position, index in enumerate(interleave(sizes), start=1):
        taken[index] += 1
        for size, count in zip(sizes, taken, strict=True):
            assert abs(count * total - position * size) < total, (position, taken)


@given(SIZES)
def test_the_order_depends_on_the_sizes_only(sizes: list[int]) -> None:
    """
    The same plan gives the same bytes.
    """
    assert list(interleave(sizes)) == list(interleave(list(sizes)))


@given(SIZES, st.integers(0, 6))
def test_a_collection_without_elements_changes_nothing(sizes: list[int], place: int) -> None:
    """
    Dropping what is empty moves no other.
    """
    place = min(place, len(sizes))
    with_empty = [*sizes[:place], 0, *sizes[place:]]
    moved = [index - (index > place) for index in interleave(with_empty)]

    assert moved == list(interleave(sizes))


@pytest.mark.parametrize(
    ("sizes", "order"),
    [([], []), ([3], [0, 0, 0]), ([5, 5], [0, 1] * 5), ([2, 2, 2], [0, 1, 2] * 2), ([2, 4], [1, 0, 1, 1, 0, 1])],
)
def test_small_mixes_look_as_one_would_draw_them(sizes: list[int], order: list[int]) -> None:
    """
    Five and five alternate.
    """
    assert list(interleave(sizes)) == order


def test_a_large_mix_is_made_without_holding_it() -> None:
    """
    The order is an iterator, so a million rows cost no list.
    """
    order = interleave([10**12, 10**12])

    assert [next(order) for _ in range(4)] == [0, 1, 0, 1]


SHARES = st.lists(
    st.one_of(st.integers(0, 20), st.sampled_from([1, 37, 1000]), st.integers(45, 55), st.integers(1, 10**9)),
    min_size=1,
    max_size=12,
).filter(any)


def hold_every_prefix(shares: list[int]) -> None:
    """Assert that every prefix of an endless mix is within one of the shares."""
    total = sum(shares)
    taken = [0] * len(shares)
    for position, index in enumerate(islice(proportional(shares), 200), start=1):
        taken[index] += 1
        for share, count in zip(shares, taken, strict=True):
            assert abs(count * total - position * share) < total, (position, taken)


@settings(max_examples=150)
@given(SHARES)
def test_every_prefix_of_an_endless_mix_is_within_one_of_the_shares(shares: list[int]) -> None:
    """
    The law holds for weights as it does for sizes.
    """
    hold_every_prefix(shares)


@pytest.mark.rig
@settings(max_examples=5000)
@given(SHARES)
def test_every_prefix_of_thousands_of_endless_mixes_is_within_one_of_the_shares(shares: list[int]) -> None:
    """
    The same, searched for an exception.
    """
    hold_every_prefix(shares)


def hold_every_batch(shares: list[int], batch: int) -> None:
    """Assert that every batch and all batches together hold the shares."""
    total = sum(shares)
    taken = [0] * len(shares)
    for number, counts in enumerate(islice(batches(shares, batch), 40), start=1):
        assert sum(counts) == batch
        for index, (share, count) in enumerate(zip(shares, counts, strict=True)):
            assert share * batch // total <= count <= -(-share * batch // total), (number, counts)
            taken[index] += count
            assert abs(taken[index] * total - number * batch * share) < total, (number, taken)


@settings(max_examples=200)
@given(SHARES, st.integers(1, 96))
def test_every_batch_and_all_batches_together_hold_the_shares(shares: list[int], batch: int) -> None:
    """
    A batch has the floor or the ceiling of each share, and at its end all rows so far are within one of theirs.
    """
    hold_every_batch(shares, batch)


@pytest.mark.rig
@settings(max_examples=10_000)
@given(SHARES, st.integers(1, 96))
def test_every_batch_of_thousands_of_mixes_holds_the_shares(shares: list[int], batch: int) -> None:
    """
    The same, searched for an exception.
    """
    hold_every_batch(shares, batch)


@given(SHARES, st.integers(2, 40), st.data())
def test_a_last_batch_of_fewer_rows_takes_nobody_further_away(
    shares: list[int], batch: int, data: st.DataObject
) -> None:
    """
    All rows together are within two of the shares, whole and last batch; where they are sizes, every row comes once.
    """
    rows = data.draw(st.integers(1, batch - 1))
    whole = data.draw(st.integers(0, 20))
    done = [0] * len(shares)
    for counts in islice(batches(shares, batch), whole):
        done = [had + count for had, count in zip(done, counts, strict=True)]

    last = rest_of_a_batch(shares, done, rows)

    assert sum(last) == rows
    total, every = sum(shares), whole * batch + rows
    for share, had, count in zip(shares, done, last, strict=True):
        assert abs((had + count) * total - every * share) < 2 * total


@given(st.lists(st.fractions(0, 100), min_size=1, max_size=6).filter(any))
def test_whole_numbers_relate_as_the_fractions_do(weights: list[Fraction]) -> None:
    """
    Exactly, and without a common divisor.
    """
    numbers = whole_numbers(weights)

    assert gcd(*numbers) == 1
    assert [Fraction(number, sum(numbers)) for number in numbers] == [weight / sum(weights) for weight in weights]
