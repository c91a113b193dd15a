"""
One plugin cannot hurt another: beside an environment that misbehaves, a good one is played whole and at its pace.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import threading
from collections.abc import Callable
from typing import Any

import pytest

from gymcore import Environment, Rollout, Trajectory, run, tool
from gymcore.composition import Composition
from gymcore.testing import ScriptedModel, calls, says

Composed = Callable[..., Composition]
TASKS = 24
OVER = threading.Event()
"""Set when a test is over."""


class Good(Environment):
    """Takes ten milliseconds, has a tool, and always gives 1."""

    async def open(self) -> None:
        await asyncio.sleep(0.01)

    @tool
    def act(self) -> str:
        """Do what there is to do."""
        return "done"

    def verify(self, trajectory: Trajectory) -> Any:
        return 1.0


class Odd(BaseException):
    """What no `except Exception` catches, and what cannot even be printed."""

    def __str__(self) -> str:
        raise ValueError("\ud800")


class RaisesAnything(Good):
    @tool
    def act(self) -> str:
        """Fail."""
        raise Odd


class Exits(Good):
    def verify(self, trajectory: Trajectory) -> Any:
        raise SystemExit(0)


class HangsForEver(Good):
    async def open(self) -> None:
        await asyncio.Event().wait()


class HangsInAThread(Good):
    @tool(thread=True)
    def act(self) -> str:
        """Answer when nobody listens any more."""
        OVER.wait(60)
        return "late"


class HangsWhileClosing(Good):
    async def verify(self, trajectory: Trajectory) -> Any:
        await asyncio.Event().wait()

    async def close(self) -> None:
        raise Odd


class Floods(Good):
    async def open(self) -> None:
        for _ in range(200):
            print("x" * 1000)


class Vandal(Good):
    async def open(self) -> None:
        extra = self.task.model_extra
        assert extra is not None
        extra["notes"].clear()
        self.task.__dict__["task_id"] = "stolen"

    def verify(self, trajectory: Trajectory) -> Any:
        for turn in trajectory.turns:
            for item in turn.output:
                item.clear()
        return 1.0


class CancelsItself(Good):
    @tool
    async def act(self) -> str:
        """Stop."""
        raise asyncio.CancelledError


class GivesNoNumber(Good):
    def verify(self, trajectory: Trajectory) -> Any:
        return float("nan")


class CancelsItsTask(Good):
    async def verify(self, trajectory: Trajectory) -> Any:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)


class PretendsToBeClosed(Good):
    def verify(self, trajectory: Trajectory) -> Any:
        raise GeneratorExit


class PretendsThatSomebodyPressesCtrlC(Good):
    def verify(self, trajectory: Trajectory) -> Any:
        raise KeyboardInterrupt


class LeavesTasksBehind(Good):
    async def open(self) -> None:
        async def fail() -> None:
            await asyncio.sleep(0.001)
            raise ValueError("nobody hears this")

        self.tasks = [asyncio.create_task(fail()) for _ in range(3)]

    async def close(self) -> None:
        await asyncio.gather(*self.tasks)


WAYS: dict[type[Environment[Any, Any]], tuple[str | None, str | None]] = {
    RaisesAnything: ("tool", "Odd"),
    Exits: ("verify", "SystemExit"),
    HangsForEver: ("timeout", "TimeoutError"),
    HangsInAThread: ("tool", "TimeoutError"),
    HangsWhileClosing: ("verify", "TimeoutError"),
    Floods: (None, None),
    Vandal: (None, None),
    CancelsItself: ("tool", "CancelledError"),
    CancelsItsTask: ("verify", "CancelledError"),
    PretendsToBeClosed: ("verify", "GeneratorExit"),
    PretendsThatSomebodyPressesCtrlC: ("verify", "KeyboardInterrupt"),
    GivesNoNumber: ("verify", "ValidationError"),
    LeavesTasksBehind: (None, None),
}
"""Each way to misbehave, with the stage and the error of the failures that come of it; None where none does."""


LIMITS: dict[type[Environment[Any, Any]], dict[str, float]] = {
    HangsForEver: {"timeout_s": 0.9},
    HangsInAThread: {"tool_timeout_s": 0.6},
    HangsWhileClosing: {"verify_timeout_s": 0.6},
}
"""The bounds that end what hangs; what does not is not to meet one because the machine is busy."""


async def _play(composition: Composition) -> list[Rollout]:
    async with run(composition) as rollouts:
        return [rollout async for rollout in rollouts]


@pytest.mark.parametrize("hostile", WAYS, ids=lambda hostile: hostile.__name__)
def test_a_good_environment_does_not_notice_a_hostile_one(
    composed: Composed, hostile: type[Environment[Any, Any]]
) -> None:
    """
    It is played completely; the hostile one's rollouts are failures that say where, and no reward.
    """
    composition = composed(
        {"good": (Good, TASKS), "bad": (hostile, TASKS)},
        ScriptedModel(calls("act"), says("Done.")),
        rows=[{"notes": [1, 2]} for _ in range(TASKS)],
        environments={"bad": LIMITS.get(hostile, {})},
        collect={"concurrency": 8},
    )
    before = [row.data for row in composition.dataset]

    OVER.clear()

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            found = asyncio.run(asyncio.wait_for(_play(composition), 60))
    finally:
        OVER.set()

    good = [rollout for rollout in found if rollout.environment == "good"]
    bad = [rollout for rollout in found if rollout.environment == "bad"]
    assert [rollout.reward and rollout.reward.value for rollout in good] == [1.0] * TASKS
    assert len({rollout.key for rollout in bad}) == len(bad) == TASKS
    stage, error = WAYS[hostile]
    for rollout in bad:
        assert (rollout.failure.stage if rollout.failure else None) == stage
        assert (rollout.failure.error if rollout.failure else None) == error
        assert (rollout.reward is None) == (rollout.failure is not None)
    assert [row.data for row in composition.dataset] == before
    assert all(Rollout.from_line(rollout.to_line()).row in composition.dataset for rollout in good)
