"""
Cancellation: what ignores its own is left behind, and what a plugin cancels by itself is a failure, never nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from gymcore import Agent, Environment, Model, Response, Rollout, Trajectory, run, tool
from gymcore.builtin.simple_agent import SimpleAgent
from gymcore.composition import Composition
from gymcore.responses import message
from gymcore.runtime.in_process import InProcess, TimeLimits
from gymcore.runtime.schedule import Schedule
from gymcore.runtime.session import Session, Stage
from gymcore.testing import ScriptedModel, calls, says
from gymcore.testing.simulated_time import run_in_simulated_time

Composed = Callable[..., Composition]
CLOSED: list[str] = []
"""Which environments were closed since the test began."""


@pytest.fixture(autouse=True)
def nothing_closed() -> None:
    """Forget what other tests have closed."""
    CLOSED.clear()


class Plain(Environment):
    """Pays for any answer, and says when it is closed."""

    @tool
    async def act(self) -> str:
        """Do what there is to do."""
        return "done"

    async def close(self) -> None:
        CLOSED.append(str(self.task.task_id))

    def verify(self, trajectory: Trajectory) -> Any:
        return 1.0


class Says(Model):
    """A policy that answers after a moment."""

    async def respond(self, request: Any, rollout: Any) -> Response:
        await asyncio.sleep(0.001)
        return Response(output=[message("hi")])


async def _stay() -> None:
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            continue


async def _stay_whatever_comes() -> None:
    while True:
        try:
            await asyncio.Event().wait()
        except:  # noqa: E722, as people write it
            continue


async def _stay_in_a_task_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(_stay())


STAYS = [_stay, _stay_whatever_comes, _stay_in_a_task_group]


def session(
    composition: Composition, environment: type[Environment[Any, Any]], model: Model[Any], **limits: float
) -> Session:
    """Return a session of the first rollout of a composition, with bounds of its own."""
    planned = Schedule(composition, frozenset()).take_now()
    assert planned is not None
    stage = Stage(
        agents={planned.route.name: planned.route.agent_class()},
        models={"policy": model},
        placements={"a": InProcess(environment, planned.route.environment_options.config)},
        limits={"a": TimeLimits(**{"grace_s": 0.05, **limits})},
        seed=0,
        provenance={},
    )
    return Session(stage, planned)


def ended(playing: Any) -> Any:
    """
    Run a coroutine in simulated time, where a bound is met by who waits and never by who is slow.

    What it leaves behind on purpose must not keep the loop, as it would keep asyncio.run.
    """

    async def within() -> Any:
        result = await playing()
        assert asyncio.get_running_loop().time() < 5
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            asyncio.Future.cancel(task)  # children of what was left behind
        return result

    return run_in_simulated_time(within())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("stay", STAYS)
@pytest.mark.parametrize("where", ["open", "tool", "agent", "model", "verify"])
def test_what_ignores_its_cancellation_is_left_behind_and_closed(
    composed: Composed, caplog: pytest.LogCaptureFixture, where: str, stay: Any
) -> None:
    """
    The bound on the rollout holds all the same: a failure says what happened and where, and the environment is closed.
    """

    class Stuck(Plain):
        async def open(self) -> None:
            if where == "open":
                await stay()

        @tool
        async def act(self) -> str:
            """Stay."""
            await stay()
            return ""

        async def verify(self, trajectory: Trajectory) -> Any:
            if where == "verify":
                await stay()
            return 1.0

    class StuckAgent(SimpleAgent):
        async def play(self, environment: Any, model: Any) -> Trajectory:
            if where == "agent":
                await stay()
            return await super().play(environment, model)

    class StuckModel(Model):
        async def respond(self, request: Any, rollout: Any) -> Response:
            await stay()
            return Response(output=[])

    model = (
        StuckModel() if where == "model" else ScriptedModel(*([calls("act")] if where == "tool" else []), says("hi"))
    )
    composition = composed({"a": (Stuck, 1)}, Says, agent=StuckAgent)

    async def playing() -> Rollout:
        return await session(composition, Stuck, model, rollout_s=0.05, tool_s=0.02).play()

    rollout = ended(playing)

    assert rollout.reward is None
    assert rollout.failure.stage == "timeout"
    assert "longer than 0.05 s (collect.timeout_s), ignored its cancellation for 0.05 s" in rollout.failure.message
    assert rollout.failure.location.startswith(__file__)
    assert rollout.failure.retryable
    assert CLOSED == ["a/0"]
    assert caplog.messages == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("stay", STAYS)
def test_a_clean_up_that_ignores_its_cancellation_costs_its_bound(composed: Composed, stay: Any) -> None:
    """
    The reward is known by then, and what else is to be closed is closed.
    """

    class Holds(Says):
        async def respond(self, request: Any, rollout: Any) -> Response:
            rollout.stack.push_async_callback(stay)
            return await super().respond(request, rollout)

    class Stuck(Plain):
        async def close(self) -> None:
            await super().close()
            await stay()

    composition = composed({"a": (Stuck, 1)}, Says)

    async def playing() -> Rollout:
        return await session(composition, Stuck, Holds(), close_s=0.05).play()

    rollout = ended(playing)

    assert rollout.reward is not None
    assert CLOSED == ["a/0"]


@pytest.mark.parametrize("where", ["play", "close"])
def test_a_session_that_is_cancelled_ends_whatever_its_plugin_does(composed: Composed, where: str) -> None:
    """
    What had no outcome yet is owed again, and what had one comes out; neither is waited for longer than `stop_s`.
    """

    class Stuck(Plain):
        async def open(self) -> None:
            if where == "play":
                await _stay()

        async def close(self) -> None:
            await super().close()
            await _stay()

    composition = composed({"a": (Stuck, 1)}, Says)

    async def playing() -> Any:
        # The rollout's own bound strikes while it is being stopped, and changes nothing any more.
        playing = session(composition, Stuck, Says(), stop_s=0.2, grace_s=0.1, rollout_s=0.08)
        task = asyncio.create_task(playing.play())
        await asyncio.sleep(0.05)
        playing.cancel()
        return (await asyncio.gather(task, return_exceptions=True))[0]

    found = ended(playing)

    assert CLOSED == ["a/0"]
    if where == "play":
        assert isinstance(found, asyncio.CancelledError)
    else:
        assert found.reward is not None


def test_whoever_stops_waiting_for_a_session_stops_it(composed: Composed) -> None:
    """
    A cancelled `play` ends when its environment is closed, and not before.
    """

    class Slow(Plain):
        async def open(self) -> None:
            await asyncio.Event().wait()

    composition = composed({"a": (Slow, 1)}, Says)

    async def playing() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await session(composition, Slow, Says()).play()
        assert CLOSED == ["a/0"]
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(playing())


@pytest.mark.parametrize("how", ["stop", "leave"])
def test_a_run_that_is_stopped_does_not_wait_for_what_ignores_it(composed: Composed, how: str) -> None:
    """
    Environments that will not go away hold up nobody who wants to.
    """

    class Stuck(Plain):
        async def open(self) -> None:
            await _stay()

    composition = composed({"a": (Stuck, 3)}, Says)

    async def playing() -> list[Rollout]:
        async with run(composition) as rollouts:
            reading = asyncio.ensure_future(anext(rollouts, None))
            await asyncio.sleep(0.02)
            if how == "stop":
                rollouts.stop(0)
                assert await reading is None
        if how == "leave":
            await reading
        assert rollouts.status().in_flight == {"a": 0}
        return []

    ended(playing)

    assert sorted(CLOSED) == ["a/0", "a/1", "a/2"]


# -- what plugins cancel themselves -----------------------------------------------------------------------------------


def cancelling(where: str, whom: str) -> type[Plain]:
    """Return an environment that cancels its own task, or every task there is."""

    def cancel() -> None:
        task = asyncio.current_task()
        assert task is not None
        for each in {task} if whom == "itself" else asyncio.all_tasks() - {MAIN[0]}:
            each.cancel()

    class Cancelling(Plain):
        async def open(self) -> None:
            if where == "open":
                cancel()
                await asyncio.sleep(0)

        @tool
        async def act(self) -> str:
            """Cancel."""
            if where == "tool":
                cancel()
                await asyncio.sleep(0)
            return "acted"

        @tool
        def act_at_once(self) -> str:
            """Cancel, and come back."""
            cancel()
            return "acted"

        def verify(self, trajectory: Trajectory) -> Any:
            if where == "verify":
                cancel()
            return 1.0

        async def close(self) -> None:
            if where == "close":
                cancel()
            await asyncio.sleep(0)
            await super().close()

    return Cancelling


MAIN: list[asyncio.Task[Any] | None] = [None]
"""The task that reads the run, which belongs to the test and not to the run."""


@pytest.mark.parametrize("where", ["open", "tool", "act_at_once", "verify", "close"])
@pytest.mark.parametrize("whom", ["itself", "everybody"])
def test_no_rollout_vanishes_when_a_plugin_cancels_tasks(composed: Composed, where: str, whom: str) -> None:
    """
    Every rollout comes out once, with a reward or with a failure, and is closed; others are not hurt by a task that
    was cancelled before.
    """
    model = ScriptedModel(calls("act_at_once" if where == "act_at_once" else "act"), says("Done."))

    class Failing(Plain):
        async def open(self) -> None:
            await asyncio.sleep(0.001)
            raise ValueError("broken")

    class Act(Plain):
        @tool
        def act_at_once(self) -> str:
            """Do what there is to do."""
            return "done"

    composition = composed(
        {"bad": (cancelling(where, whom), 40), "failing": (Failing, 40), "good": (Act, 40)},
        model,
        collect={"concurrency": 6},
    )

    async def playing() -> list[Rollout]:
        MAIN[0] = asyncio.current_task()
        async with run(composition) as rollouts:
            return [rollout async for rollout in rollouts]

    found = asyncio.run(asyncio.wait_for(playing(), 20)) if whom == "itself" else asyncio.run(playing())

    assert len({rollout.key for rollout in found}) == len(found) == 120
    assert all((rollout.reward is None) != (rollout.failure is None) for rollout in found)
    if where != "close":
        assert set(CLOSED) >= {str(rollout.row.value["task_id"]) for rollout in found if rollout.reward}
    if whom == "itself":
        failures = {rollout.key: rollout.failure.error for rollout in found if rollout.failure}
        assert {key[0]: error for key, error in failures.items() if key[0] != "bad"} == {"failing": "ValueError"}
        assert sum(key[0] == "failing" for key in failures) == 40
        bad = {error for key, error in failures.items() if key[0] == "bad"}
        # What is cancelled and never waits again had its outcome before anybody noticed.
        assert bad == ({"CancelledError"} if where in ("open", "tool") else set())


def test_a_cancellation_that_an_agent_uses_is_its_own_business(composed: Composed) -> None:
    """
    An agent may give a tool less time than the plan does; the tool's CancelledError is what ends it then.
    """

    class Slow(Plain):
        @tool
        async def act(self) -> str:
            """Take too long."""
            await asyncio.Event().wait()
            return ""

    class Hasty(SimpleAgent):
        async def play(self, environment: Any, model: Any) -> Trajectory:
            try:
                async with asyncio.timeout(0.01):
                    return await super().play(environment, model)
            except TimeoutError:
                return Trajectory()

    agent: type[Agent[Any]] = Hasty
    composition = composed({"a": (Slow, 1)}, ScriptedModel(calls("act"), says("Done.")), agent=agent)

    async def playing() -> list[Rollout]:
        async with run(composition) as rollouts:
            return [rollout async for rollout in rollouts]

    (rollout,) = asyncio.run(playing())

    assert rollout.reward is not None
