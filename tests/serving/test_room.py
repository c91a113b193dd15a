"""
Room that bodies share: who gets how much of it, and when.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from gymcore.serving.room import Place, Room

SIZE, KEPT, SHORT = 40, 8, 3


def short(place: Place) -> bool:
    """Whether it is one that a part is kept for."""
    return place.size <= SHORT


@dataclass
class Watched:
    """A room, everybody who was ever in it, in the order in which they came, and what must be true of them."""

    room: Room = field(default_factory=lambda: Room(SIZE, KEPT, SHORT))
    inside: list[Place] = field(default_factory=list)
    waiting: list[Place] = field(default_factory=list)

    def enter(self, size: int) -> Place:
        """Ask for a place."""
        place = self.room.enter(size)
        self.waiting.append(place)
        self.look()
        return place

    def leave(self, place: Place) -> None:
        """Leave, whether inside or not."""
        known = self.inside if place in self.inside else self.waiting
        known.remove(place)
        self.room.leave(place)
        self.room.leave(place)
        self.look()

    def shrink(self, place: Place, size: int) -> None:
        """Take less."""
        self.room.shrink(place, size)
        self.look()

    def taken(self, *, is_short: bool) -> int:
        """What all of a class take."""
        return sum(place.size for place in self.inside if short(place) is is_short)

    def look(self) -> None:
        """Look whom it has let in, and whether it should have."""
        for is_short in (True, False):
            told = [place.is_given for place in self.waiting if short(place) is is_short]
            assert told == sorted(told, reverse=True), "one was overtaken in its class"
        self.inside += [place for place in self.waiting if place.is_given]
        self.waiting = [place for place in self.waiting if not place.is_given]
        assert all(place.is_given and place.told.is_set() for place in self.inside)
        assert not any(place.told.is_set() for place in self.waiting)

        by_short, by_long = self.taken(is_short=True), self.taken(is_short=False)
        assert by_short + by_long <= SIZE
        assert by_long <= SIZE - KEPT
        if self.waiting:
            first = self.waiting[0]
            is_full = by_short + by_long + first.size > SIZE
            assert is_full or (not short(first) and by_long + first.size > SIZE - KEPT)
        for place in [place for place in self.waiting if short(place)][:1]:
            is_full = by_short + by_long + place.size > SIZE
            assert is_full or by_short + place.size + self.waiting[0].size > SIZE
            assert by_short + place.size > KEPT


moves = st.lists(
    st.one_of(
        st.tuples(st.just("enter"), st.one_of(st.integers(0, SHORT), st.integers(0, SIZE - KEPT))),
        st.tuples(st.just("leave"), st.integers(0, 1_000)),
        st.tuples(st.just("shrink"), st.integers(0, 1_000)),
    ),
    max_size=60,
)


@given(moves)
def test_room_is_given_in_order_and_never_more_than_there_is(moves: list[tuple[str, int]]) -> None:
    """
    Whoever comes, leaves, or takes less: nobody waits whose turn it is, and at last everybody is served.
    """
    watched = Watched()
    for move, number in moves:
        everybody = watched.inside + watched.waiting
        if move == "enter":
            watched.enter(number)
        elif move == "leave" and everybody:
            watched.leave(everybody[number % len(everybody)])
        elif move == "shrink" and watched.inside:
            place = watched.inside[number % len(watched.inside)]
            watched.shrink(place, number % (place.size + 1))

    while watched.inside:
        watched.leave(watched.inside[0])
    assert watched.waiting == []
    assert watched.enter(SIZE - KEPT).is_given  # nothing was lost
    assert all(watched.enter(1).is_given for _ in range(KEPT))


@given(st.integers(SHORT + 1, SIZE - KEPT), st.lists(st.integers(1, SHORT), min_size=1, max_size=5))
def test_a_long_one_is_served_however_many_short_ones_come(size: int, sizes: list[int]) -> None:
    """
    One that waits is overtaken only as long as its own room is left, so only those that were there are waited for.
    """
    watched = Watched()
    before = [watched.enter(1) for _ in range(SIZE)]
    long = watched.enter(size)
    for number, place in enumerate(before):
        watched.leave(place)
        for further in range(2):
            watched.enter(sizes[(number + further) % len(sizes)])

    assert long.is_given


def test_those_who_wait_when_it_closes_are_told_so() -> None:
    """
    Nobody waits any more; what is free can still be had.
    """
    room = Room(SIZE, KEPT, SHORT)
    inside, waiting = room.enter(20), room.enter(20)
    room.close()
    late, free = room.enter(20), room.enter(10)
    assert [place.is_given for place in (inside, waiting, late, free)] == [True, False, False, True]
    assert waiting.told.is_set()
    assert late.told.is_set()

    for place in (inside, waiting, late, free):
        room.leave(place)
    assert room.enter(SIZE - KEPT).is_given
