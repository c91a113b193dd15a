"""
Which rollout comes next: a free slot goes to the environment with the smallest share in flight.

No environment waits for another, and none gets ahead of one that has fewer rollouts in flight and room for more.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from collections import deque
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import repeat as repeat_value
from operator import itemgetter

from gymcore.composition import Composition, Route
from gymcore.records import RolloutKey, Row

__all__ = ["Planned", "Schedule"]

LOOK_AHEAD = 200
"""
How many finished rollouts are passed over at once, about half a millisecond, before others get their turn: a resumed
run may have millions of them.
"""


FEW = 8
"""So many suspects are played one at a time; of more, as many at once as there will be such groups."""


@dataclass(frozen=True, slots=True)
class Planned:
    """One rollout that is still to be played."""

    position: int
    """Where its task stands in the dataset."""
    route: Route
    row: Row
    repeat: int
    is_alone: bool = False
    """Whether nothing else of its environment may be in flight, so that a worker that dies has died of it."""

    @property
    def key(self) -> RolloutKey:
        """What it will be a rollout of."""
        return (self.route.environment, self.row.identity[1], self.repeat)


class _Room:
    """How many rollouts may be in flight at once, and how many are."""

    __slots__ = ("in_flight", "limit")

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.in_flight = 0

    @property
    def is_full(self) -> bool:
        return self.limit is not None and self.in_flight >= self.limit


class _Lane:
    """The planned rollouts of one environment, read ahead by one."""

    __slots__ = (
        "_group",
        "_group_size",
        "_rollouts",
        "_together",
        "accused",
        "head",
        "is_apart",
        "is_stopped",
        "model",
        "outage",
        "returned",
        "room",
        "suspects",
    )

    def __init__(self, rollouts: Iterator[Planned | None], room: _Room, model: _Room) -> None:
        self._rollouts: Iterator[Planned | None] | None = rollouts
        self.room = room
        self.model = model
        self.head: Planned | None = None
        self.returned: deque[Planned] = deque()
        """Rollouts that were taken and not begun."""
        self.suspects: deque[Planned] = deque()
        """Rollouts whose worker died, to be played once more in small groups, with nothing else in flight."""
        self.accused: deque[Planned] = deque()
        """Those of a group whose worker died again, to be played one at a time."""
        self.is_apart = False
        """Whether what is in flight are some of these."""
        self._together = 0
        """How many suspects make a group, as long as there are some."""
        self._group = 0
        """How many more may join the group in flight."""
        self._group_size = 0
        self.is_stopped = False
        self.outage: asyncio.Future[None] | None = None
        """Nothing is started until this is done."""

    @property
    def is_looking(self) -> bool:
        """Whether it is not known yet what comes next."""
        return self.head is None and self._rollouts is not None

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to be started."""
        return self.is_stopped or (self._following() is None and self._rollouts is None)

    @property
    def next_position(self) -> int:
        planned = self._following()
        return -1 if planned is None else planned.position

    def _following(self) -> Planned | None:
        for waiting in (self.accused, self.suspects, self.returned):
            if waiting:
                return waiting[0]
        return self.head

    def look(self) -> None:
        """Find out what comes next, or at least pass over some of what is finished."""
        if self.head is None and self._rollouts is not None:
            try:
                self.head = next(self._rollouts)
            except StopIteration:
                self._rollouts = None

    def may_start(self) -> bool:
        """Whether there is a rollout, and room for it."""
        if self.is_stopped or self.model.is_full or (self.outage is not None and not self.outage.done()):
            return False
        if self.accused:
            return self.room.in_flight == 0
        if self.suspects or self.is_apart:
            return self.room.in_flight == 0 or (self.has_group and not self.room.is_full)
        return (self.head is not None or bool(self.returned)) and not self.room.is_full

    def take(self) -> Planned:
        """Take the next rollout, which is in flight from now on."""
        taken = self.head
        if self.accused or self.suspects:
            taken = self._take_suspect()
        elif self.returned:
            taken = self.returned.popleft()
        else:
            self.head = None
            self.look()
        assert taken is not None
        self.room.in_flight += 1
        self.model.in_flight += 1
        return taken

    @property
    def has_group(self) -> bool:
        """Whether suspects may join those in flight."""
        return self._group > 0 and bool(self.suspects)

    def _take_suspect(self) -> Planned:
        """
        Take one of those whose worker died.

        A worker that dies takes innocent rollouts with it. One after the other, five hundred of them would play for
        days; in groups of their square root it is so many groups, and then one group whose members play alone.
        """
        if self.room.in_flight == 0:
            self.is_apart = True
            count = len(self.suspects)
            self._together = max(self._together, 1 if count <= FEW else math.isqrt(count - 1) + 1)
            self._group = self._group_size = 1 if self.accused else self._together
        self._group -= 1
        taken = (self.accused or self.suspects).popleft()
        if not self.suspects:
            self._together = 0
        return replace(taken, is_alone=self._group_size == 1)

    def leave(self) -> bool:
        """Take note that a rollout is over, and return whether others were held back beside it."""
        self.room.in_flight -= 1
        self.model.in_flight -= 1
        if not self.is_apart or self.room.in_flight:
            return False
        self.is_apart = False
        self._group = 0
        return True


class Schedule:
    """
    Hands out planned rollouts one at a time; within an environment the repeats of a task follow each other.

    A slot goes to the environment with the fewest rollouts in flight among those that have room and something to play;
    between equals, to the task that comes first in the dataset. Room is bounded in total (`collect.concurrency`), for
    each environment and for each model that plays.

    Args:
        composition: What is to be played.
        finished: Rollouts that need not be played again.
        look_ahead: How many of those are passed over at once.
    """

    def __init__(
        self, composition: Composition, finished: Container[RolloutKey], *, look_ahead: int = LOOK_AHEAD
    ) -> None:
        plan = composition.plan
        self._composition = composition
        self._finished = finished
        self._look_ahead = look_ahead
        self._total = _Room(plan.collect.concurrency)
        self._changed = asyncio.Event()
        self._closed = False
        self._lanes: dict[str, _Lane] = {}
        # An environment that somebody else serves may have a model that the plan does not name.
        models = {name: _Room(model.concurrency) for name, model in plan.models.items()}
        positions = composition.dataset.positions()
        routes: dict[str, list[Route]] = {}
        for route in composition.routes.values():
            routes.setdefault(route.environment, []).append(route)
        for name in sorted(routes):
            served = [zip(positions[route.name], repeat_value(route)) for route in routes[name]]
            in_order = served[0] if len(served) == 1 else heapq.merge(*served, key=itemgetter(0))
            model = models.setdefault(routes[name][0].model, _Room(None))
            self._lanes[name] = _Lane(self._owed(in_order), _Room(routes[name][0].plan.concurrency), model)

    def _owed(self, in_order: Iterable[tuple[int, Route]]) -> Iterator[Planned | None]:
        """Yield what is not finished, and now and then None, so that nobody looks for it for long without a break."""
        passed = 0
        for position, route in in_order:
            row = self._composition.dataset.row(position)
            task_id = row.identity[1]
            first = (row.epoch - 1) * route.repeats  # each epoch plays the task anew
            for repeat in range(first, first + route.repeats):
                if (route.environment, task_id, repeat) not in self._finished:
                    yield Planned(position, route, row, repeat)
                    continue
                passed += 1
                if passed % self._look_ahead == 0:
                    yield None

    def take_now(self) -> Planned | None:
        """Take the next rollout that may start at this moment, if there is one."""
        if self._closed or self._total.is_full:
            return None
        best: _Lane | None = None
        for lane in self._lanes.values():
            if lane.head is None:
                lane.look()
            if not lane.may_start():
                continue
            # Compared one after the other: this runs for every environment at every rollout.
            if (
                best is None
                or lane.room.in_flight < best.room.in_flight
                or (lane.room.in_flight == best.room.in_flight and lane.next_position < best.next_position)
            ):
                best = lane
        if best is None:
            return None
        self._total.in_flight += 1
        taken = best.take()
        if best.has_group:
            self._changed.set()  # others may start beside it
        return taken

    async def take(self) -> Planned | None:
        """Wait for the next rollout that may start; None when there is nothing left to start."""
        while not self._closed:
            planned = self.take_now()
            if planned is not None:
                return planned
            if self._total.in_flight == 0 and all(lane.is_over for lane in self._lanes.values()):
                return None
            if self._is_looking() and not self._total.is_full:
                await asyncio.sleep(0)
                continue
            self._changed.clear()
            await self._changed.wait()
        return None

    def exchange(self, over: Planned) -> Planned | None:
        """
        Say that a rollout is over, and take one that may start in its place, if there is one.

        Whoever plays one rollout after the other is spared the wait; where more than one may start, `take` goes on.
        """
        self._leave(over)
        planned = self.take_now()
        if planned is None or self._is_looking():
            self._changed.set()
        return planned

    def give_back(self, planned: Planned) -> None:
        """Say that a rollout is over, so that there is room again."""
        self._leave(planned)
        self._changed.set()

    def put_back(self, planned: Planned) -> None:
        """Play a rollout, which was in flight and not begun, after all."""
        lane = self._lanes[planned.route.environment]
        # A suspect stays one; it will be said anew whether it plays alone.
        (lane.suspects if lane.is_apart else lane.returned).append(replace(planned, is_alone=False))

    def suspect(self, planned: Planned, deaths: int) -> None:
        """
        Play a rollout, which is in flight, once more when it is over: with few or no others of its environment.

        Args:
            planned: The rollout.
            deaths: How often its worker has died.
        """
        lane = self._lanes[planned.route.environment]
        (lane.suspects if deaths == 1 else lane.accused).append(planned)

    def pause(self, environment: str, until: asyncio.Future[None]) -> None:
        """Start nothing more of one environment until something is done; what was put back meanwhile comes first."""
        self._lanes[environment].outage = until
        until.add_done_callback(lambda _: self._changed.set())

    def stop(self, environment: str) -> None:
        """Start nothing more of one environment."""
        self._lanes[environment].is_stopped = True
        self._changed.set()

    def close(self) -> None:
        """Start nothing more."""
        self._closed = True
        self._changed.set()

    def in_flight(self) -> dict[str, int]:
        """Return how many rollouts of each environment are being played."""
        return {name: lane.room.in_flight for name, lane in self._lanes.items()}

    def _leave(self, planned: Planned) -> None:
        self._total.in_flight -= 1
        if self._lanes[planned.route.environment].leave():
            self._changed.set()  # what was held back may start, and that may be several

    def _is_looking(self) -> bool:
        return any(lane.is_looking and not lane.is_stopped for lane in self._lanes.values())
