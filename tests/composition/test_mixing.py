"""
The order of a mix: exact in every prefix, the same every time, and nothing lost.
"""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gymcore.composition import interleave

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
