"""
An environment of a run that waits for what is gone, and the others that do not wait for it.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gymcore import EndpointError, Environment, Model, Response, Rollout, RolloutStream, Trajectory, run
from gymcore.composition import Composition
from gymcore.interfaces import RolloutContext
from gymcore.responses import Request, message

from .conftest import compose_by_hand

Composed = Callable[..., Composition]


class Far:
    """
    Something that is there or gone, and those who want it.

    Attributes:
        is_back: Whether it is there.
        open: How many rollouts are open, by environment.
        most: How many were, at most, and in all.
        begun: How many got further than their open, by environment.
        tries: How many rollouts have waited.
        is_given_up: Whether nobody is to wait any more.
    """

    def __init__(self) -> None:
        self.is_back = self.is_given_up = False
        self.open: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.begun: Counter[str] = Counter()
        self.tries = 0

    def enter(self, name: str) -> None:
        """One more is open."""
        self.open[name] += 1
        self.most[name] = max(self.most[name], self.open[name])
        self.most["in all"] = max(self.most["in all"], self.open.total())


def worlds(far: Far, *, work: Callable[[], Any] = lambda: asyncio.sleep(0)) -> tuple[type[Environment], ...]:
    """Return an environment that needs nothing, and one that needs what is far."""

    class Near(Environment):
        async def open(self) -> None:
            far.enter(self.task.environment)
            await work()
            far.begun[self.task.environment] += 1

        async def close(self) -> None:
            await asyncio.sleep(0)
            far.open[self.task.environment] -= 1

        def verify(self, trajectory: Trajectory) -> float:
            return 1.0

    class Needy(Near):
        async def open(self) -> None:
            far.enter(self.task.environment)
            await work()
            while not far.is_back:
                far.tries += not self.is_waiting
                self.is_waiting = True
                await asyncio.sleep(0.001)
                if far.is_given_up:
                    raise EndpointError("it is gone for too long", has_worked=True)
            self.is_waiting = False
            await work()
            far.begun[self.task.environment] += 1

    return Near, Needy


class Says(Model):
    """A policy that answers soon."""

    async def respond(self, request: Request, rollout: RolloutContext) -> Response:
        await asyncio.sleep(0)
        return Response(output=[message("hi")])


async def _read(rollouts: RolloutStream, found: list[Rollout]) -> None:
    async for rollout in rollouts:
        found.append(rollout)


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.001)


def test_who_waits_for_what_is_gone_leaves_the_places_to_others(composed: Composed) -> None:
    """
    One goes on waiting for all of its environment, which are played as soon as it goes on.
    """

    async def play() -> tuple[Far, list[Rollout], list[str]]:
        far, found = Far(), list[Rollout]()
        near, needy = worlds(far)
        composition = composed({"a": (near, 40), "b": (needy, 20)}, Says, collect={"concurrency": 4})
        async with run(composition) as rollouts:
            reading = asyncio.create_task(_read(rollouts, found))
            await _until(lambda: len(found) == 40)  # nothing of the other is there before it is back
            await _until(lambda: rollouts.status().in_flight == {"a": 0, "b": 1})
            while_gone = [rollout.key[0] for rollout in found]
            far.is_back = True
            await reading
        return far, found, while_gone

    far, found, while_gone = asyncio.run(play())

    assert while_gone == ["a"] * 40
    assert len({rollout.key for rollout in found}) == len(found) == 60
    assert all(rollout.reward is not None for rollout in found)
    assert far.most["in all"] <= 4
    assert far.begun == {"a": 40, "b": 20}
    assert far.tries <= 4


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    concurrency=st.integers(1, 9),
    own=st.none() | st.integers(1, 4),
    of_model=st.none() | st.integers(1, 6),
)
def test_every_rollout_is_played_once_however_often_something_is_gone(
    seed: int, concurrency: int, own: int | None, of_model: int | None
) -> None:
    """
    Within every bound, and those of other environments while it is gone as well as while it is there.
    """
    chance = random.Random(seed)

    async def work() -> None:
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)

    async def play() -> tuple[Far, list[Rollout]]:
        far, found = Far(), list[Rollout]()
        near, needy = worlds(far, work=work)
        composition = compose_by_hand(
            {"a": (near, 30), "b": (needy, 30), "c": (needy, 10)},
            Says,
            collect={"concurrency": concurrency, "repeats": 2},
            environments={"b": {"concurrency": own}},
            models={"policy": {"use": "says", "concurrency": of_model}},
        )

        async def come_and_go() -> None:
            while True:
                await asyncio.sleep(chance.choice((0, 0, 0.0005, 0.002)))
                far.is_back = not far.is_back

        async with run(composition) as rollouts:
            going = asyncio.create_task(come_and_go())
            async with asyncio.timeout(60):
                await _read(rollouts, found)
            going.cancel()
        return far, found

    far, found = asyncio.run(play())

    assert len({rollout.key for rollout in found}) == len(found) == 140
    assert all(rollout.reward is not None for rollout in found)
    assert far.open.total() == 0
    assert far.begun == {"a": 60, "b": 60, "c": 20}
    assert far.most["in all"] <= min(concurrency, of_model or concurrency)
    assert far.most["b"] <= (own or concurrency)


def test_what_is_gone_for_too_long_ends_the_run(composed: Composed) -> None:
    """
    Who has left its place is owed as who has kept it, and no failure; others may finish.
    """

    async def play() -> tuple[Far, list[Rollout]]:
        far, found = Far(), list[Rollout]()
        near, needy = worlds(far)
        composition = composed({"a": (near, 5), "b": (needy, 20)}, Says, collect={"concurrency": 8})
        async with run(composition) as rollouts:
            reading = asyncio.create_task(_read(rollouts, found))
            await _until(lambda: rollouts.status().in_flight == {"a": 0, "b": 1})
            far.is_given_up = True
            with pytest.raises(EndpointError, match="gone for too long"):
                await reading
        return far, found

    far, found = asyncio.run(play())

    assert [rollout.key[0] for rollout in found] == ["a"] * 5
    assert far.open.total() == 0
    assert far.begun["b"] == 0


@pytest.mark.parametrize("how", ["stop", "cancel", "leave"])
def test_a_run_ends_at_once_where_all_that_is_left_waits(composed: Composed, how: str) -> None:
    """
    Also what has left its place, and is owed.
    """

    async def play() -> tuple[Far, list[Rollout]]:
        far, found = Far(), list[Rollout]()
        near, needy = worlds(far)
        composition = composed({"a": (near, 5), "b": (needy, 20)}, Says, collect={"concurrency": 8})
        before = asyncio.all_tasks()
        async with run(composition) as rollouts:
            reading = asyncio.create_task(_read(rollouts, found))
            await _until(lambda: len(found) == 5)  # who leaves has read what was there
            await _until(lambda: rollouts.status().in_flight == {"a": 0, "b": 1})
            if how == "leave":
                reading.cancel()
            else:
                rollouts.stop(3600) if how == "stop" else rollouts.cancel()
                await reading
        await asyncio.wait([reading])
        assert asyncio.all_tasks() == before
        return far, found

    far, found = asyncio.run(asyncio.wait_for(play(), 60))

    assert [rollout.key[0] for rollout in found] == ["a"] * 5
    assert far.open.total() == 0
