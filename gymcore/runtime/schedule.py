"""
Which rollout comes next: in the order of the mix, but never waiting for an environment that has no room.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Container, Iterator
from dataclasses import dataclass
from itertools import repeat as repeat_value
from operator import itemgetter

from gymcore.composition import Composition, Route
from gymcore.records import RolloutKey, Row

__all__ = ["Planned", "Schedule"]


@dataclass(frozen=True, slots=True)
class Planned:
    """One rollout that is still to be played."""

    position: int
    """Where its task stands in the dataset."""
    route: Route
    row: Row
    repeat: int

    @property
    def key(self) -> RolloutKey:
        """What it will be a rollout of."""
        return (self.route.environment, str(self.row.value["task_id"]), self.repeat)


class _Lane:
    """The planned rollouts of one environment, read ahead by one."""

    def __init__(self, rollouts: Iterator[Planned], limit: int | None) -> None:
        self._rollouts = rollouts
        self.limit = limit
        self.in_flight = 0
        self.head = next(rollouts, None)

    def has_room(self) -> bool:
        return self.head is not None and (self.limit is None or self.in_flight < self.limit)

    def take(self) -> Planned:
        taken = self.head
        assert taken is not None
        self.head = next(self._rollouts, None)
        self.in_flight += 1
        return taken


class Schedule:
    """
    Hands out planned rollouts one at a time; the repeats of a task follow each other.

    Args:
        composition: What is to be played.
        finished: Rollouts that need not be played again.
    """

    def __init__(self, composition: Composition, finished: Container[RolloutKey]) -> None:
        positions = composition.dataset.positions()
        routes: dict[str, list[Route]] = {}
        for route in composition.routes.values():
            routes.setdefault(route.environment, []).append(route)

        def planned(environment: str) -> Iterator[Planned]:
            served = [zip(positions[route.name], repeat_value(route)) for route in routes[environment]]
            for position, route in heapq.merge(*served, key=itemgetter(0)):
                row = composition.dataset.row(position)
                for repeat in range(route.repeats):
                    item = Planned(position, route, row, repeat)
                    if item.key not in finished:
                        yield item

        self._lanes = {name: _Lane(planned(name), routes[name][0].plan.concurrency) for name in sorted(routes)}
        self._changed = asyncio.Event()
        self._closed = False

    async def take(self) -> Planned | None:
        """Wait for the next rollout that may start; None when there is nothing left to start."""
        while not self._closed:
            open_lanes = [lane for lane in self._lanes.values() if lane.has_room()]
            if open_lanes:
                return min(open_lanes, key=lambda lane: lane.head.position if lane.head else 0).take()
            if all(lane.head is None for lane in self._lanes.values()):
                return None
            self._changed.clear()
            await self._changed.wait()
        return None

    def give_back(self, planned: Planned) -> None:
        """Say that a rollout is over, so that its environment has room again."""
        self._lanes[planned.route.environment].in_flight -= 1
        self._changed.set()

    def close(self) -> None:
        """Hand out nothing more."""
        self._closed = True
        self._changed.set()

    def in_flight(self) -> dict[str, int]:
        """Return how many rollouts of each environment are being played."""
        return {name: lane.in_flight for name, lane in self._lanes.items()}
