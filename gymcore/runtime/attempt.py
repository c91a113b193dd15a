"""
Rollouts whose loop is somebody else's: a trainer's in this process, or a client's over the wire.

They are played like all others, opened, bounded, verified and closed; only what is done next is said from outside.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, TypeVar

from gymcore.composition import Route
from gymcore.interfaces import Agent, BoundModel, OpenEnvironment
from gymcore.records import Rollout, ToolCall, Trajectory
from gymcore.runtime.executor import Executor, LocalExecutor
from gymcore.runtime.schedule import Planned

__all__ = ["Attempt", "AttemptEnded", "directed"]

Result = TypeVar("Result")
Wish = Callable[[OpenEnvironment, BoundModel], Awaitable[Any]]

ROLLOUT_S = 86_400.0
"""The bound on such a rollout: most of it is spent waiting for whoever directs it, who has bounds of their own."""


class AttemptEnded(Exception):
    """
    The rollout is over, and nothing more can be done in it.

    Attributes:
        rollout: What became of it; None where it was cancelled.
    """

    def __init__(self, rollout: Rollout | None) -> None:
        self.rollout = rollout
        failure = None if rollout is None else rollout.failure
        super().__init__("the rollout is over" if failure is None else f"the rollout has failed: {failure.message}")


class Attempt:
    """
    One rollout, which waits for what is wanted of it; used on the event loop of its executor only.

    Args:
        executor: What plays it; `directed` makes it.
        planned: Which rollout.
        limit_s: How long one thing that is wanted may take, in seconds; then the rollout is ended.

    Attributes:
        playing: Its outcome, in the end.
    """

    def __init__(self, executor: Executor, planned: Planned, limit_s: float = ROLLOUT_S) -> None:
        loop = asyncio.get_running_loop()
        self._limit_s = limit_s
        self._wishes: asyncio.Queue[tuple[Wish | Trajectory, asyncio.Future[Any]]] = asyncio.Queue()
        token = _ATTEMPT.set(self)
        try:  # the session's task, and the agent in it, are made in this context
            self.playing: asyncio.Task[Rollout] = loop.create_task(executor.play(planned))
        finally:
            _ATTEMPT.reset(token)

    async def do(self, wish: Callable[[OpenEnvironment, BoundModel], Awaitable[Result]]) -> Result:
        """
        Have something done inside the rollout, beside what is being done there.

        Raises:
            AttemptEnded: the rollout is over, perhaps because of this.
            TimeoutError: it took longer than it may, and the rollout is being ended.
        """
        answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._wishes.put_nowait((wish, answer))
        either: set[asyncio.Future[Any]] = {answer, self.playing}
        done, _ = await asyncio.wait(either, timeout=self._limit_s, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            self.playing.cancel()
            raise TimeoutError(f"it took longer than {self._limit_s:g} s")
        if not answer.done():
            raise AttemptEnded(None if self.playing.cancelled() else self.playing.result())
        return answer.result()

    async def opened(self) -> None:
        """
        Wait until the environment is open.

        Raises:
            AttemptEnded: it could not be opened.
        """
        await self.do(_nothing)

    async def call(self, call: ToolCall) -> str:
        """
        Have a tool called.

        Raises:
            AttemptEnded: the rollout is over.
        """

        async def called(environment: OpenEnvironment, model: BoundModel) -> str:
            output: str = (await environment.call(call))["output"]
            return output

        return await self.do(called)

    async def finish(self, trajectory: Trajectory) -> Rollout:
        """
        Have a trajectory verified, and everything closed.

        Raises:
            AttemptEnded: it was abandoned.
        """
        self._wishes.put_nowait((trajectory, asyncio.get_running_loop().create_future()))
        await asyncio.wait([self.playing])
        if self.playing.cancelled():
            raise AttemptEnded(None)
        return self.playing.result()

    async def abandon(self) -> None:
        """End a rollout that nobody scores, and wait until it is closed."""
        if not self.playing.done():
            self.playing.cancel()
            await asyncio.wait([self.playing])

    async def _play(self, environment: OpenEnvironment, model: BoundModel) -> Trajectory:
        async with asyncio.TaskGroup() as group:  # what fails ends the rollout, and everything that goes on beside it
            while True:
                wish, answer = await self._wishes.get()
                if isinstance(wish, Trajectory):
                    break
                group.create_task(_answered(wish(environment, model), answer))
        return wish


async def _nothing(environment: OpenEnvironment, model: BoundModel) -> None:
    return None


async def _answered(work: Awaitable[Any], answer: asyncio.Future[Any]) -> None:
    result = await work
    if not answer.done():  # it is when nobody waits any more
        answer.set_result(result)


_ATTEMPT: ContextVar[Attempt] = ContextVar("attempt")


class _Directed(Agent):
    """The agent that does what is said from outside."""

    async def play(self, environment: OpenEnvironment, model: BoundModel) -> Trajectory:
        """Do it until the trajectory is there."""
        return await _ATTEMPT.get()._play(environment, model)


def directed(executor: LocalExecutor, routes: Mapping[str, Route]) -> LocalExecutor:
    """Return an executor over the same opened plugins for attempts that are directed from outside."""
    stage = executor.stage
    limits = {name: replace(limit, rollout_s=ROLLOUT_S) for name, limit in stage.limits.items()}
    return LocalExecutor(replace(stage, agents=dict.fromkeys(routes, _Directed()), limits=limits))
