"""
Room that bodies share: given in the order in which they come, and never more than there is.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import islice

__all__ = ["Place", "Room"]


@dataclass(eq=False)
class Place:
    """What one takes of a room, or waits for."""

    size: int
    """In bytes."""
    is_given: bool = False
    told: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once it is given, or never will be."""


class Room:
    """
    Gives places in the order in which they are asked for, except that short ones may overtake a long one.

    They do where there is room, and all short ones together leave as much as the long one needs. Long ones never take
    what is kept for short ones. So each that waits is served in the end: nobody overtakes it in its class, and when
    those that were there before it have left, there is room for it, however many short ones have come.

    Args:
        size: What all take together, at most, in bytes.
        kept: What is kept of it for short ones.
        short: The longest of the short ones; no more than what is kept.

    Attributes:
        longest: The longest place that can be had, in bytes.
    """

    def __init__(self, size: int, kept: int, short: int) -> None:
        self.longest = size - kept
        self._size = size
        self._short = short
        self._by_long = 0
        """What long ones take."""
        self._by_short = 0
        self._waiting: OrderedDict[Place, None] = OrderedDict()
        self._short_waiting: OrderedDict[Place, None] = OrderedDict()
        """Those of them that are short."""
        self._is_closed = False

    @property
    def is_waited_for(self) -> bool:
        """Whether somebody waits for a place."""
        return bool(self._waiting)

    def is_in_the_way(self, place: Place) -> bool:
        """Whether somebody waits to whom the room of a place that was given is of use."""
        for first in (*islice(self._waiting, 1), *islice(self._short_waiting, 1)):
            is_bounded = not self._is_short(first) and self._by_long + first.size > self.longest
            if not (is_bounded and self._is_short(place)):
                return True
        return False

    def enter(self, size: int) -> Place:
        """Ask for a place of no more than `longest`; it is given at once, or later, or never where nobody may wait."""
        place = Place(size)
        self._waiting[place] = None
        if self._is_short(place):
            self._short_waiting[place] = None
        self._give()
        return place

    def shrink(self, place: Place, size: int) -> None:
        """Give back what a place that was given has too much."""
        self._take(place, -1)
        place.size = size
        self._take(place, 1)
        self._give()

    def leave(self, place: Place) -> None:
        """Give a place back, or wait for it no longer; a second time changes nothing."""
        if place.is_given:
            place.is_given = False
            self._take(place, -1)
        else:
            self._forget(place)
        self._give()

    def close(self) -> None:
        """Let nobody wait, now and later: what cannot be given at once never is."""
        self._is_closed = True
        self._give()

    def _give(self) -> None:
        """Give places to all who may have them."""
        while self._waiting and self._has_room(first := next(iter(self._waiting))):
            self._let_in(first)
        while self._short_waiting and self._may_overtake(first := next(iter(self._short_waiting))):
            self._let_in(first)
        while self._is_closed and self._waiting:
            place = next(iter(self._waiting))
            self._forget(place)
            place.told.set()

    def _is_short(self, place: Place) -> bool:
        return place.size <= self._short

    def _has_room(self, place: Place) -> bool:
        if self._by_long + self._by_short + place.size > self._size:
            return False
        return self._is_short(place) or self._by_long + place.size <= self.longest

    def _may_overtake(self, short: Place) -> bool:
        """Whether there is room for a short one beside the first that waits, once the long ones of now have left."""
        first = next(iter(self._waiting))
        return self._has_room(short) and self._by_short + short.size + first.size <= self._size

    def _let_in(self, place: Place) -> None:
        self._forget(place)
        self._take(place, 1)
        place.is_given = True
        place.told.set()

    def _forget(self, place: Place) -> None:
        self._waiting.pop(place, None)
        self._short_waiting.pop(place, None)

    def _take(self, place: Place, sign: int) -> None:
        if self._is_short(place):
            self._by_short += sign * place.size
        else:
            self._by_long += sign * place.size
