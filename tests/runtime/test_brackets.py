"""
Opening and closing what a run shares: within bounds, in one task, and never at the cost of what was played.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gymcore import Environment, Model, PluginError, Response, Rollout, Trajectory, run
from gymcore.composition import Composition
from gymcore.errors import EndpointError
from gymcore.responses import message
from gymcore.runtime.brackets import Bounds, bracket
from gymcore.testing.simulated_time import run_in_simulated_time

Composed = Callable[..., Composition]
QUICK = Bounds(opening_s=0.1, closing_s=0.1, slow_s=0.02, grace_s=0.05)


async def hang() -> None:
    """Wait for what never comes."""
    await asyncio.Event().wait()


async def stay() -> None:
    """Wait for ever, and ignore every cancellation."""
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()


def holding(opening: Any = None, closing: Any = None) -> Any:
    """Return a bracket that does something on its way in and out."""

    @asynccontextmanager
    async def held() -> AsyncIterator[str]:
        if opening is not None:
            await opening()
        yield "a table"
        if closing is not None:
            await closing()

    return held()


def within(context: Any, inside: Callable[[], Any] | None = None, **options: Any) -> list[str]:
    """Enter and leave a bracket in simulated time, and return what was said; no task may be left."""
    said: list[str] = []

    async def playing() -> None:
        try:
            async with bracket(context, "testing:a", said.append, QUICK, **options) as value:
                assert value == "a table"
                if inside is not None:
                    await inside()
        finally:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert asyncio.all_tasks() == {asyncio.current_task()}
            assert asyncio.get_running_loop().time() < 2

    run_in_simulated_time(playing())
    return said


def test_what_goes_well_says_nothing() -> None:
    """
    The value of the context is the value of the bracket.
    """
    assert within(holding()) == []


@pytest.mark.parametrize("hangs", [hang, stay])
def test_an_opening_that_hangs_is_a_broken_plugin(hangs: Any) -> None:
    """
    It is said early what is being waited for, and after the bound the run gives it up.
    """
    with pytest.raises(PluginError, match=r"testing:a could not be opened: it took longer than 0.1 s") as caught:
        within(holding(opening=hangs))

    assert caught.value.plugin == "testing:a"


@pytest.mark.parametrize("hangs", [hang, stay])
def test_a_closing_that_hangs_is_said_and_left(hangs: Any) -> None:
    """
    What was played is complete by then, so nothing is raised.
    """
    assert within(holding(closing=hangs)) == [
        "closing testing:a for 0.02 s now; it may take 0.1 s",
        "testing:a could not be closed within 0.1 s, and was left as it is",
    ]


def test_what_takes_long_is_named_while_it_does() -> None:
    """
    A person who waits can see for what.
    """

    async def dawdle() -> None:
        await asyncio.sleep(0.05)

    assert within(holding(opening=dawdle)) == ["opening testing:a for 0.02 s now; it may take 0.1 s"]


@pytest.mark.parametrize(
    "error", [OSError("gone"), SystemExit(3), GeneratorExit(), KeyboardInterrupt(), PluginError("no")]
)
def test_what_is_raised_while_closing_is_said_and_not_raised(error: BaseException) -> None:
    """
    Whatever it is.
    """

    async def fail() -> None:
        raise error

    (line,) = within(holding(closing=fail))

    assert line == ("no" if isinstance(error, PluginError) else line)
    assert line.startswith(f"testing:a could not be closed: {type(error).__name__}") or line == "no"


@pytest.mark.parametrize("error", [OSError("gone"), SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()])
def test_what_is_raised_while_opening_names_the_plugin(error: BaseException) -> None:
    """
    Nothing that a plugin raises there ends the event loop.
    """

    async def fail() -> None:
        raise error

    with pytest.raises(PluginError, match=f"testing:a could not be opened: {type(error).__name__}"):
        within(holding(opening=fail))


def test_an_error_of_ours_keeps_its_class() -> None:
    """
    An endpoint that cannot be used ends the run as what it is.
    """

    async def fail() -> None:
        raise EndpointError("down")

    with pytest.raises(EndpointError):
        within(holding(opening=fail))


@pytest.mark.parametrize("when", ["opening", "closing"])
@pytest.mark.parametrize("hangs", [hang, stay])
def test_whoever_is_cancelled_while_a_plugin_hangs_leaves(when: str, hangs: Any) -> None:
    """
    Ctrl-C does not wait for the bound.
    """

    async def playing() -> None:
        bounds = Bounds(opening_s=60, closing_s=60, grace_s=0.05)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05), bracket(holding(**{when: hangs}), "testing:a", bounds=bounds):
                pass
        assert asyncio.get_running_loop().time() < 2

    run_in_simulated_time(playing())


def test_what_ends_before_its_time_is_said_at_once() -> None:
    """
    A context whose own task fails, as a task group's may, does not end the run in silence.
    """

    @asynccontextmanager
    async def serving() -> AsyncIterator[str]:
        async def serve() -> None:
            await asyncio.sleep(0.01)
            raise OSError("the table is gone")

        async with asyncio.TaskGroup() as group:
            group.create_task(serve())
            yield "a table"

    async def play() -> None:
        await asyncio.sleep(0.03)

    (line,) = within(serving(), play)

    assert line.startswith("what testing:a opened for the run has ended while the run goes on: ExceptionGroup")


@pytest.mark.parametrize("is_ours", [True, False])
def test_what_is_ours_stays_open_when_a_plugin_cancels_all_tasks(is_ours: bool) -> None:
    """
    The workers of an isolated environment do; a plugin's own context may have cancelled itself, and is left to it.
    """
    closed: list[bool] = []

    async def close() -> None:
        closed.append(True)

    async def play() -> None:
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0.01)
        assert closed == []

    said = within(holding(closing=close), play, is_ours=is_ours)

    assert closed == ([True] if is_ours else [])
    assert [line.partition(":")[0] for line in said] == ([] if is_ours else ["what testing"])


def test_a_bracket_is_entered_and_left_in_one_task() -> None:
    """
    As cancel scopes and task groups ask for.
    """
    tasks = []

    @asynccontextmanager
    async def held() -> AsyncIterator[str]:
        tasks.append(asyncio.current_task())
        yield "a table"
        tasks.append(asyncio.current_task())

    assert within(held()) == []
    assert tasks[0] is tasks[1]


class Says(Model):
    """A policy that answers at once."""

    async def respond(self, request: Any, rollout: Any) -> Response:
        return Response(output=[message("hi")])


@pytest.mark.parametrize("what", ["model", "environment"])
def test_a_plugin_that_cannot_be_closed_costs_no_rollout(composed: Composed, what: str) -> None:
    """
    Everything that was played comes out, and then it is said what went wrong.
    """

    async def fail() -> None:
        raise OSError("no connection")

    class World(Environment):
        def verify(self, trajectory: Trajectory) -> float:
            return 1.0

    class Opened(Says):
        pass

    if what == "model":
        Opened.opened = lambda self: holding(closing=fail)  # type: ignore[method-assign]
    else:
        World.shared = classmethod(lambda cls, config: holding(closing=fail))  # type: ignore[assignment]
    said: list[str] = []

    async def playing() -> list[Rollout]:
        async with run(composed({"a": (World, 3)}, Opened), say=said.append) as rollouts:
            return [rollout async for rollout in rollouts]

    found = asyncio.run(playing())

    assert [rollout.reward and rollout.reward.value for rollout in found] == [1.0] * 3
    name = "testing/policy" if what == "model" else "testing/a"
    assert said == [f"{name} could not be closed: OSError: no connection"]
