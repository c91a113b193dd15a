"""
A whole run: the bounds on what is in flight, the order of play, and that nothing is left behind however it ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gymcore import (
    EndpointError,
    Environment,
    Model,
    PluginError,
    Response,
    Rollout,
    Trajectory,
    run,
)
from gymcore.composition import Composition
from gymcore.composition.dataset import Dataset
from gymcore.errors import StorageError
from gymcore.records import ROUTE_KEYS, Row
from gymcore.responses import message
from gymcore.testing.simulated_time import run_in_simulated_time

Composed = Callable[..., Composition]


class Gauge:
    """Counts what is in flight, by name, and remembers the most."""

    def __init__(self) -> None:
        self.now: dict[str, int] = {}
        self.most: dict[str, int] = {}
        self.most_in_all = 0

    def enter(self, name: str) -> None:
        """One more."""
        self.now[name] = self.now.get(name, 0) + 1
        self.most[name] = max(self.most.get(name, 0), self.now[name])
        self.most_in_all = max(self.most_in_all, sum(self.now.values()))

    def leave(self, name: str) -> None:
        """One less."""
        self.now[name] -= 1


class Says(Model):
    """A policy that answers at once."""

    async def respond(self, request: Any, rollout: Any) -> Response:
        await asyncio.sleep(0)
        return Response(output=[message("hi")])


class Counted(Environment):
    """An environment that is counted while it is open."""

    gauge: Gauge
    closed: list[str]

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        cls.gauge, cls.closed = Gauge(), []

    async def open(self) -> None:
        self.gauge.enter(self.task.environment)

    async def close(self) -> None:
        await asyncio.sleep(0)
        self.closed.append(str(self.task.task_id))
        self.gauge.leave(self.task.environment)

    def verify(self, trajectory: Trajectory) -> float:
        return 1.0


async def everything(composition: Composition, **arguments: Any) -> list[Rollout]:
    """Play all of a composition and leave no task behind."""
    before = asyncio.all_tasks()
    async with run(composition, **arguments) as rollouts:
        found = [rollout async for rollout in rollouts]
    assert asyncio.all_tasks() == before
    return found


def names(rollouts: list[Rollout]) -> list[str]:
    """Return the task ids, in order."""
    return [str(rollout.row.value["task_id"]) for rollout in rollouts]


# -- what plays, and in which order ------------------------------------------------------------------------------------


def test_every_task_is_played_as_often_as_it_is_to_be_repeated(composed: Composed) -> None:
    """
    Each (environment, task, repeat) comes out exactly once.
    """

    class World(Counted):
        pass

    composition = composed({"a": (World, 5), "b": (World, 3)}, Says, environments={"b": {"repeats": 4}})

    keys = [rollout.key for rollout in asyncio.run(everything(composition))]

    assert len(keys) == len(set(keys)) == 5 + 12
    assert {key for key in keys if key[0] == "b"} == {("b", f"b/{n}", r) for n in range(3) for r in range(4)}


def test_tasks_start_in_the_order_of_the_dataset(composed: Composed) -> None:
    """
    With one rollout at a time, the order of play is the order of the mix, and repeats of a task follow each other.
    """

    class World(Counted):
        pass

    composition = composed({"a": (World, 2), "b": (World, 4)}, Says, collect={"concurrency": 1, "repeats": 2})

    rollouts = asyncio.run(everything(composition))

    in_order = [str(row.value["task_id"]) for row in composition.dataset for _ in range(2)]
    assert names(rollouts) == in_order
    assert [rollout.repeat for rollout in rollouts] == [0, 1] * 6


def test_finished_rollouts_are_not_played_again(composed: Composed) -> None:
    """
    Only what is missing is played.
    """

    class World(Counted):
        pass

    composition = composed({"a": (World, 3)}, Says, collect={"repeats": 2})

    rollouts = asyncio.run(everything(composition, finished={("a", "a/0", 0), ("a", "a/2", 1)}))

    assert sorted(rollout.key[1:] for rollout in rollouts) == [("a/0", 1), ("a/1", 0), ("a/1", 1), ("a/2", 0)]


def test_no_more_rollouts_are_in_flight_than_asked_for(composed: Composed) -> None:
    """
    `collect.concurrency` bounds all together, an environment's own `concurrency` bounds it within that.
    """

    class World(Counted):
        async def open(self) -> None:
            await super().open()
            for _ in range(3):
                await asyncio.sleep(0)

    composition = composed(
        {"few": (World, 40), "many": (World, 40)},
        Says,
        environments={"few": {"concurrency": 2}},
        collect={"concurrency": 7},
    )

    rollouts = asyncio.run(everything(composition))

    assert len(rollouts) == 80
    assert World.gauge.most_in_all == 7
    assert World.gauge.most["few"] == 2
    assert set(World.gauge.now.values()) == {0}


def test_an_environment_without_room_holds_nobody_up(composed: Composed) -> None:
    """
    One environment that plays a single slow rollout at a time leaves all other places to the others.
    """
    gate: list[asyncio.Event] = []

    class Slow(Counted):
        async def open(self) -> None:
            await gate[0].wait()

    class Fast(Counted):
        pass

    composition = composed(
        {"fast": (Fast, 50), "slow": (Slow, 50)},
        Says,
        environments={"slow": {"concurrency": 1}},
        collect={"concurrency": 4},
    )

    async def play() -> list[str]:
        gate.append(asyncio.Event())
        found = []
        async with run(composition) as rollouts:
            async for rollout in rollouts:
                found.append(rollout.environment)
                if len(found) == 50:
                    gate[0].set()
        return found

    found = asyncio.run(asyncio.wait_for(play(), 20))

    assert found[:50] == ["fast"] * 50
    assert found[50:] == ["slow"] * 50


def test_rows_are_read_when_their_turn_comes(composed: Composed) -> None:
    """
    A dataset of any size is read a few rows ahead of play, never as a whole.
    """

    class World(Counted):
        pass

    composition = composed({"a": (World, 5000)}, Says, collect={"concurrency": 4})

    async def first_ten() -> int:
        async with run(composition) as rollouts:
            for _ in range(10):
                await anext(rollouts)
            return composition.dataset.reads

    assert asyncio.run(first_ten()) <= 10 + 4 * 3


def test_a_run_plays_no_further_than_its_reader(composed: Composed) -> None:
    """
    When nobody takes the rollouts, no more are played than may wait.
    """

    class World(Counted):
        pass

    composition = composed({"a": (World, 1000)}, Says, collect={"concurrency": 5})

    async def stalled() -> int:
        async with run(composition) as rollouts:
            await anext(rollouts)
            for _ in range(500):
                await asyncio.sleep(0)
            return len(World.closed)

    assert asyncio.run(stalled()) <= 1 + 2 * 5


# -- one world per rollout ---------------------------------------------------------------------------------------------


def test_two_hundred_rollouts_at_once_share_no_state(composed: Composed) -> None:
    """
    Every rollout has an environment, a task and a state of its own, whatever its plugin does to them.
    """
    seen: list[str] = []

    class Messy(Environment):
        async def open(self) -> None:
            self.notes: list[str] = []
            seen.append(self.task.responses_create_params.input)  # type: ignore[arg-type]
            self.task.model_extra["bag"].append("mine")  # type: ignore[index]

        def verify(self, trajectory: Trajectory) -> float:
            self.notes.append("verified")
            assert self.notes == ["verified"]
            return float(len(self.task.model_extra["bag"]))  # type: ignore[index]

    composition = composed(
        {"a": (Messy, 1)}, Says, rows=[{"bag": []} for _ in range(20)], collect={"concurrency": 200, "repeats": 10}
    )

    rollouts = asyncio.run(everything(composition))

    assert len(rollouts) == 200
    assert {rollout.reward.value for rollout in rollouts if rollout.reward} == {1.0}
    assert len(set(seen)) == 20


def test_what_a_plugin_does_to_its_task_is_not_written_down(composed: Composed) -> None:
    """
    A rollout's line holds its row as the dataset has it.
    """

    class Vandal(Environment):
        async def open(self) -> None:
            extra = self.task.model_extra
            assert extra is not None
            extra["deep"]["list"].clear()
            extra.clear()
            self.task.__dict__["task_id"] = "stolen"

        def verify(self, trajectory: Trajectory) -> float:
            return 1.0

    composition = composed({"a": (Vandal, 1)}, Says, rows=[{"deep": {"list": [1, 2]}}], collect={"repeats": 2})

    for rollout in asyncio.run(everything(composition)):
        again = Rollout.from_line(rollout.to_line())
        assert again.row == next(iter(composition.dataset))
        assert again.key == ("a", "a/0", rollout.repeat)
        assert set(ROUTE_KEYS) - {"epoch"} <= again.row.value.keys()


def test_all_repeats_of_a_task_start_from_the_same_seed(composed: Composed) -> None:
    """
    Repeats differ by what the policy does, never by their world; other tasks have other seeds.
    """
    seeds: dict[str, set[int]] = {}

    class World(Counted):
        async def open(self) -> None:
            await super().open()
            seeds.setdefault(str(self.task.task_id), set()).add(self.seed)

    asyncio.run(everything(composed({"a": (World, 4)}, Says, collect={"repeats": 8})))

    assert [len(found) for found in seeds.values()] == [1] * 4
    assert len(set.union(*seeds.values())) == 4


def test_shared_resources_are_one_object_for_the_whole_run_and_closed_after_it(composed: Composed) -> None:
    """
    `shared()` brackets the run: opened once, seen by every rollout, closed when the last is over.
    """
    events: list[str] = []
    seen: list[object] = []

    class World(Environment):
        @classmethod
        @asynccontextmanager
        async def shared(cls, config: Any) -> AsyncIterator[object]:
            events.append("opened")
            yield object()
            events.append("closed")

        def verify(self, trajectory: Trajectory) -> float:
            seen.append(self.resources)
            events.append("verified")
            return 1.0

    asyncio.run(everything(composed({"a": (World, 3)}, Says, collect={"repeats": 2})))

    assert events == ["opened", *["verified"] * 6, "closed"]
    assert len(set(map(id, seen))) == 1


# -- how a run ends ----------------------------------------------------------------------------------------------------


class Refused(Model):
    """A policy whose endpoint lets two requests through and then nobody."""

    asked = 0

    async def respond(self, request: Any, rollout: Any) -> Response:
        type(self).asked += 1
        if type(self).asked > 2:
            raise EndpointError("the key is wrong", where="http://127.0.0.1:1")
        return Response(output=[message("hi")])


def test_an_endpoint_nobody_can_use_ends_the_run_and_is_said_once(composed: Composed) -> None:
    """
    What was finished before comes out, the error is raised once, everything is closed, and no more are started.
    """

    class World(Counted):
        pass

    class Model_(Refused):
        pass

    composition = composed({"a": (World, 500)}, Model_, collect={"concurrency": 8})
    found: list[Rollout] = []

    async def read(rollouts: AsyncIterator[Rollout]) -> None:
        async for rollout in rollouts:
            found.append(rollout)

    async def play() -> None:
        async with run(composition) as rollouts:
            with pytest.raises(EndpointError, match="the key is wrong"):
                await read(rollouts)
            assert [rollout async for rollout in rollouts] == []

    asyncio.run(asyncio.wait_for(play(), 20))

    assert len(found) == 2
    assert all(rollout.reward is not None for rollout in found)
    assert len(World.closed) == len(set(World.closed)) <= 16
    assert set(World.gauge.now.values()) == {0}


class Expired(Model):
    """A policy that lets six requests through; then its key has expired."""

    asked = 0

    async def respond(self, request: Any, rollout: Any) -> Response:
        type(self).asked += 1
        if type(self).asked > 6:
            raise EndpointError("the key has expired", has_worked=True)
        return Response(output=[message("hi")])


@pytest.mark.parametrize(("drain_s", "finished", "took_s"), [(20.0, 6, 0.5), (0.05, 0, 0.05)])
def test_what_needs_no_more_replies_finishes_when_an_endpoint_that_worked_refuses(
    composed: Composed, drain_s: float, finished: int, took_s: float
) -> None:
    """
    Six rollouts are in their verifiers: they come out before the error, unless they take longer than `drain_s`.
    """

    class World(Counted):
        async def verify(self, trajectory: Trajectory) -> float:
            await asyncio.sleep(0.5)
            return 1.0

    class Model_(Expired):
        pass

    composition = composed({"a": (World, 500)}, Model_, collect={"concurrency": 8, "drain_s": drain_s})
    found: list[Rollout] = []

    async def read(rollouts: AsyncIterator[Rollout]) -> None:
        async for rollout in rollouts:
            found.append(rollout)

    async def play() -> float:
        async with run(composition) as rollouts:
            with pytest.raises(EndpointError, match="the key has expired"):
                await read(rollouts)
        return asyncio.get_running_loop().time()

    assert run_in_simulated_time(play()) == pytest.approx(took_s)
    assert [rollout.reward is not None for rollout in found] == [True] * finished
    assert Model_.asked == 8
    assert len(World.closed) == len(set(World.closed)) == 8


def test_an_endpoint_error_inside_a_task_group_ends_the_run_too(composed: Composed) -> None:
    """
    An agent may ask several models side by side; the group that wraps the error does not hide it.
    """
    from gymcore import Agent

    class World(Counted):
        pass

    class Gone(Model):
        async def respond(self, request: Any, rollout: Any) -> Response:
            raise EndpointError("gone")

    class SideBySide(Agent):
        async def play(self, environment: Any, model: Any) -> Trajectory:
            async with asyncio.TaskGroup() as group:
                group.create_task(model.respond(environment.request))
                group.create_task(model.respond(environment.request))
            return Trajectory()

    with pytest.raises(EndpointError, match="gone"):
        asyncio.run(everything(composed({"a": (World, 3)}, Gone, agent=SideBySide)))


def test_a_bug_of_ours_surfaces(composed: Composed) -> None:
    """
    What no plugin raised is not recorded as a failure of a rollout: it ends the run with its own traceback.
    """

    class World(Counted):
        pass

    composition = composed({"a": (World, 3)}, Says)
    del composition.models["policy"]  # type: ignore[attr-defined]

    with pytest.raises(KeyError, match="policy"):
        asyncio.run(everything(composition))


def test_stopping_starts_no_more_and_lets_what_is_in_flight_finish(composed: Composed) -> None:
    """
    After `stop`, exactly what was in flight comes out, with its reward.
    """

    class World(Counted):
        async def open(self) -> None:
            await super().open()
            await asyncio.sleep(0.02)

    composition = composed({"a": (World, 100)}, Says, collect={"concurrency": 6})

    async def play() -> list[Rollout]:
        async with run(composition) as rollouts:
            found = [await anext(rollouts)]
            rollouts.stop(30)
            assert rollouts.status().is_stopping
            return [*found, *[rollout async for rollout in rollouts]]

    found = asyncio.run(asyncio.wait_for(play(), 20))

    assert 6 <= len(found) <= 12
    assert all(rollout.reward is not None for rollout in found)


def test_who_waits_for_what_is_gone_is_owed_again_when_a_run_stops(composed: Composed) -> None:
    """
    At once, and closed, also where that is found while the others finish.
    """
    served = asyncio.Event()

    class Gone(Counted):
        async def open(self) -> None:
            await super().open()
            await served.wait()
            self.is_waiting = True
            await asyncio.Event().wait()

    class World(Counted):
        async def open(self) -> None:
            await super().open()
            served.set()
            await asyncio.sleep(0.5)

    composition = composed({"a": (World, 2), "b": (Gone, 10)}, Says, collect={"concurrency": 12})

    async def play() -> list[Rollout]:
        async with run(composition) as rollouts:
            reading = asyncio.create_task(read(rollouts))
            while Gone.gauge.now.get("b", 0) < 10:
                await asyncio.sleep(0)
            rollouts.stop(60)
            return await reading

    async def read(rollouts: AsyncIterator[Rollout]) -> list[Rollout]:
        return [rollout async for rollout in rollouts]

    found = asyncio.run(asyncio.wait_for(play(), 20))

    assert [rollout.key[0] for rollout in found] == ["a", "a"]
    assert all(rollout.reward is not None for rollout in found)
    assert len(Gone.closed) == len(set(Gone.closed)) == 10


class Endless(Counted):
    """Never gets further than its open."""

    async def open(self) -> None:
        await super().open()
        await asyncio.Event().wait()


@pytest.mark.parametrize("how", ["stop", "cancel", "leave", "stop before the first", "cancel the reader"])
def test_what_hangs_is_closed_and_owed_again(composed: Composed, how: str) -> None:
    """
    However a run is ended, what is in flight is closed once, comes out as nothing, and leaves no task behind.
    """

    class World(Endless):
        pass

    composition = composed({"a": (World, 20)}, Says, collect={"concurrency": 5})

    async def play() -> list[Rollout]:
        before = asyncio.all_tasks()
        found: list[Rollout] = []
        async with run(composition) as rollouts:
            if how == "stop before the first":
                rollouts.stop(0)
            reading = asyncio.create_task(read(rollouts, found))
            while how != "stop before the first" and len(World.gauge.now) == 0:
                await asyncio.sleep(0)
            if how == "stop":
                rollouts.stop(0.01)
            if how == "cancel":
                rollouts.cancel()
                rollouts.cancel()
            if how == "leave":
                reading.cancel()
            if how == "cancel the reader":
                reading.cancel()
                await asyncio.wait([reading])
                rollouts.cancel()
            else:
                await asyncio.wait([reading], timeout=5)
        assert asyncio.all_tasks() == before
        return found

    async def read(rollouts: AsyncIterator[Rollout], found: list[Rollout]) -> None:
        async for rollout in rollouts:
            found.append(rollout)

    assert asyncio.run(asyncio.wait_for(play(), 20)) == []
    assert set(World.gauge.now.values()) <= {0}
    assert len(World.closed) == len(set(World.closed)) == (0 if how == "stop before the first" else 5)


@pytest.mark.parametrize("option", ["timeout_s", "verify_timeout_s"])
def test_a_bound_that_was_met_is_named_by_the_option_that_holds(composed: Composed, option: str) -> None:
    """
    That of the environment where it has one, and else that of all of them.
    """

    class World(Counted):
        async def verify(self, trajectory: Trajectory) -> float:  # type: ignore[override]
            await asyncio.Event().wait()
            return 1.0

    own = {"a": {option: 0.05}}
    composition = composed({"a": (World, 1), "b": (World, 1)}, Says, environments=own, collect={option: 0.06})

    found = asyncio.run(asyncio.wait_for(everything(composition), 20))

    told = {rollout.key[0]: rollout.failure.message for rollout in found if rollout.failure is not None}
    assert told["a"].endswith(f"took longer than 0.05 s (environments.a.{option})")
    assert told["b"].endswith(f"took longer than 0.06 s (collect.{option})")


def test_leaving_the_block_early_closes_everything(composed: Composed) -> None:
    """
    A reader that has seen enough just leaves; nothing plays on.
    """

    class World(Counted):
        pass

    composition = composed({"a": (World, 200)}, Says, collect={"concurrency": 10})

    async def play() -> None:
        before = asyncio.all_tasks()
        async with run(composition) as rollouts:
            async for _ in rollouts:
                break
        assert asyncio.all_tasks() == before

    asyncio.run(asyncio.wait_for(play(), 20))

    assert set(World.gauge.now.values()) == {0}
    assert len(World.closed) < 40


def test_closing_is_not_interrupted_by_a_cancellation(composed: Composed) -> None:
    """
    A rollout whose reward is known when the run is cancelled closes in peace, and comes out.
    """
    closing: list[str] = []

    class World(Environment):
        async def close(self) -> None:
            closing.append("begun")
            await asyncio.sleep(0.05)
            closing.append("ended")

        def verify(self, trajectory: Trajectory) -> float:
            return 1.0

    composition = composed({"a": (World, 1)}, Says)

    async def play() -> list[Rollout]:
        async with run(composition) as rollouts:
            first = asyncio.ensure_future(anext(rollouts))
            while not closing:
                await asyncio.sleep(0)
            rollouts.cancel()
            return [await first]

    found = asyncio.run(asyncio.wait_for(play(), 20))

    assert closing == ["begun", "ended"]
    assert found[0].reward is not None


def test_cancelling_twice_does_not_interrupt_a_plugin_that_cleans_up(composed: Composed) -> None:
    """
    A plugin is told once; what it still does in its `finally` is let to its end.
    """
    opened: list[str] = []
    cleaned: list[str] = []

    class World(Environment):
        async def open(self) -> None:
            opened.append(str(self.task.task_id))
            try:
                await asyncio.Event().wait()
            finally:
                cleaned.append("begun")
                await asyncio.sleep(0.02)
                cleaned.append("ended")

    composition = composed({"a": (World, 1)}, Says)

    async def play() -> None:
        async with run(composition) as rollouts:
            first = asyncio.ensure_future(anext(rollouts, None))
            while not opened:
                await asyncio.sleep(0)
            rollouts.cancel()
            while not cleaned:
                await asyncio.sleep(0)
            rollouts.cancel()
            assert await first is None

    asyncio.run(asyncio.wait_for(play(), 20))

    assert cleaned == ["begun", "ended"]


def test_a_plugin_that_leaks_a_cancellation_loses_no_rollout(composed: Composed) -> None:
    """
    A CancelledError that nobody asked for is a failure of its rollout, and all the others are played.
    """

    class Leaks(Counted):
        async def open(self) -> None:
            raise asyncio.CancelledError

    rollouts = asyncio.run(everything(composed({"a": (Leaks, 30)}, Says, collect={"concurrency": 3})))

    assert [rollout.failure and rollout.failure.stage for rollout in rollouts] == ["open"] * 30


# -- opening -----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def broken_bracket(*arguments: Any) -> AsyncIterator[None]:
    """Fail on the way in."""
    raise OSError("no connection")
    yield


@pytest.mark.parametrize("what", ["model", "environment"])
def test_a_plugin_that_cannot_bracket_the_run_is_named(composed: Composed, what: str) -> None:
    """
    `opened()` and `shared()` are plugin code too: what they raise is a PluginError that names the plugin.
    """

    class World(Counted):
        pass

    class Model_(Says):
        pass

    if what == "model":
        Model_.opened = lambda self: broken_bracket()  # type: ignore[method-assign]
    else:
        World.shared = classmethod(lambda cls, config: broken_bracket())  # type: ignore[assignment]
    name = "testing/policy" if what == "model" else "testing/a"

    with pytest.raises(PluginError, match=f"{name} could not be opened: OSError: no connection") as caught:
        asyncio.run(everything(composed({"a": (World, 1)}, Model_)))

    assert caught.value.plugin == name


def test_what_was_opened_is_closed_when_the_next_cannot_be(composed: Composed) -> None:
    """
    A model that is open already is closed when an environment's `shared()` fails.
    """
    events: list[str] = []

    class World(Counted):
        shared = classmethod(lambda cls, config: broken_bracket())

    class Opened(Says):
        @asynccontextmanager
        async def opened(self) -> AsyncIterator[None]:
            events.append("opened")
            try:
                yield
            finally:
                events.append("closed")

    with pytest.raises(PluginError):
        asyncio.run(everything(composed({"a": (World, 1)}, Opened)))

    assert events == ["opened", "closed"]


def test_a_clean_up_that_hangs_is_left_after_its_bound(composed: Composed) -> None:
    """
    An environment that never finishes closing costs its bound, not the run.
    """

    from gymcore.runtime.in_process import InProcess, TimeLimits
    from gymcore.runtime.schedule import Schedule
    from gymcore.runtime.session import Session, Stage

    class World(Counted):
        async def close(self) -> None:
            await asyncio.Event().wait()

    composition = composed({"a": (World, 1)}, Says)
    route = next(iter(composition.routes.values()))

    async def play() -> tuple[Rollout, float]:
        planned = await Schedule(composition, frozenset()).take()
        assert planned is not None
        stage = Stage(
            agents={route.name: route.agent_class()},
            models={"policy": Says()},
            placements={"a": InProcess(World, route.environment_options.config)},
            limits={"a": TimeLimits(close_s=0.01)},
            seed=0,
            provenance={},
        )
        return await Session(stage, planned).play(), asyncio.get_running_loop().time()

    rollout, took_s = run_in_simulated_time(play())

    assert rollout.reward is not None
    assert took_s == pytest.approx(0.01)


# -- what is told while it plays ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("turns", range(8))
def test_what_was_about_to_start_does_not_start_after_the_end(composed: Composed, turns: int) -> None:
    """
    Cancelled at any moment, also between a slot being given and its use, a run ends: nobody is left to hang.
    """

    class World(Endless):
        pass

    composition = composed({"a": (World, 500)}, Says, collect={"concurrency": 100})

    async def play() -> list[Rollout]:
        async with run(composition) as rollouts:
            reading = asyncio.ensure_future(anext(rollouts, None))
            for _ in range(turns):
                await asyncio.sleep(0)
            rollouts.cancel()
            started = sum(World.gauge.now.values())
            assert await reading is None
            assert len(World.closed) == started
            return [rollout async for rollout in rollouts]

    assert asyncio.run(asyncio.wait_for(play(), 20)) == []


@pytest.mark.parametrize(("said", "shown"), [("down since 14:02", "down since 14:02"), (None, None), (ValueError, "")])
def test_what_a_model_wants_to_be_known_stands_in_the_status(composed: Composed, said: Any, shown: str | None) -> None:
    """
    One line, or nothing; a model that fails while it is asked costs no rollout.
    """

    class World(Counted):
        pass

    class Telling(Says):
        def status(self) -> str | None:
            if said is ValueError:
                raise ValueError("out of order")
            return said  # type: ignore[no-any-return]

    composition = composed({"a": (World, 2)}, Telling)

    async def play() -> tuple[str, ...]:
        async with run(composition) as rollouts:
            notes = rollouts.status().notes
            assert len([rollout async for rollout in rollouts]) == 2
            return notes

    notes = asyncio.run(play())

    assert len(notes) == (shown is not None)
    assert all((shown or "ValueError: out of order") in note for note in notes)


class _Unreadable(Dataset):
    """A dataset on a disk that fails after a while."""

    def row(self, position: int) -> Row:
        """Read the first rows."""
        if position >= 3:
            raise StorageError("the dataset cannot be read: Input/output error")
        return super().row(position)


def test_a_dataset_that_cannot_be_read_any_more_ends_the_run(composed: Composed) -> None:
    """
    The error is raised to whoever reads the stream, who would else wait for ever.
    """

    class World(Counted):
        pass

    composition = composed({"a": (World, 10)}, Says, collect={"concurrency": 8})
    composition.dataset.__class__ = _Unreadable

    with pytest.raises(StorageError, match="Input/output error"):
        asyncio.run(asyncio.wait_for(everything(composition), 10))


def test_a_plugins_exception_of_any_name_is_a_failure_of_one_rollout(composed: Composed) -> None:
    """
    What the runtime calls its own verdicts is no word of command in the mouth of a plugin.
    """

    class SetAside(Exception):
        pass

    class World(Counted):
        async def open(self) -> None:
            await super().open()
            if self.task.task_id == "a/0":
                raise SetAside("no")

    rollouts = asyncio.run(everything(composed({"a": (World, 12)}, Says, collect={"concurrency": 2})))

    assert len(rollouts) == 12
    assert [rollout.key[1] for rollout in rollouts if rollout.failure is not None] == ["a/0"]


def test_what_a_model_says_of_itself_ends_no_run(composed: Composed) -> None:
    """
    Not even by SystemExit.
    """

    class Leaves(Says):
        def status(self) -> str | None:
            raise SystemExit(3)

    class World(Counted):
        pass

    async def work() -> tuple[str, ...]:
        async with run(composed({"a": (World, 1)}, Leaves)) as rollouts:
            return rollouts.status().notes

    assert asyncio.run(work()) == ("status() of a model raised SystemExit: 3",)
