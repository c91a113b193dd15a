"""
`run()`: opens the plugins of a composition, plays its rollouts with bounded concurrency, and closes everything.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Container
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

from gymcore.composition import Composition
from gymcore.records import Rollout, RolloutKey
from gymcore.runtime.budget import FailureBudgets, OverBudget
from gymcore.runtime.executor import Executor, open_executor
from gymcore.runtime.placement import SET_ASIDE
from gymcore.runtime.poison import WorkerDeaths
from gymcore.runtime.schedule import Planned, Schedule

__all__ = ["RolloutStream", "Status", "run"]


@dataclass(frozen=True, slots=True)
class Status:
    """Where a run stands at this moment."""

    in_flight: dict[str, int]
    """Rollouts being played, by environment."""
    is_stopping: bool
    """Whether no new rollout will start."""
    notes: tuple[str, ...] = ()
    """What a person should know at this moment: an endpoint is down, say."""
    stopped: tuple[OverBudget, ...] = ()
    """Environments of which nothing more is started, because too many of their rollouts failed."""


START_TOGETHER = 32
"""So many rollouts are started before those that have started get a turn, and a signal is looked at."""


class RolloutStream:
    """
    The rollouts of a run, in the order in which they end; nothing is played before the first is asked for.

    A rollout keeps its slot until it is handed over; nobody plays on for a reader that does not come.

    Args:
        executor: Who plays.
        schedule: What is to be played, and how much of it at once.
        budgets: How much of it may fail.
        waiting: At most this many rollouts wait to be taken besides those in a slot.
    """

    def __init__(self, executor: Executor, schedule: Schedule, budgets: FailureBudgets, waiting: int) -> None:
        self._executor = executor
        self._schedule = schedule
        self._budgets = budgets
        self._deaths = WorkerDeaths()
        self._ended: asyncio.Queue[Rollout | None] = asyncio.Queue(maxsize=waiting)
        self._supervisor: asyncio.Task[None] | None = None
        self._error: BaseException | None = None
        self._stopping = False
        self._is_over = False
        self._drain: asyncio.TimerHandle | None = None

    def status(self) -> Status:
        """Return where the run stands; may be asked from any thread."""
        try:
            notes = self._executor.notes()
        except Exception as error:  # what a plugin says of itself never costs a rollout
            notes = (f"status() of a model raised {type(error).__name__}: {error}",)
        return Status(self._schedule.in_flight(), self._stopping, notes, self._budgets.over)

    def stop(self, drain_s: float) -> None:
        """
        Start nothing more; what is in flight may finish.

        Args:
            drain_s: For how long; what is still in flight then is cancelled and owed again.
        """
        self._stopping = True
        self._schedule.close()
        if self._drain is not None:
            self._drain.cancel()
        self._drain = asyncio.get_running_loop().call_later(drain_s, self.cancel)

    def cancel(self) -> None:
        """Cancel what is in flight; its environments are closed, and it is owed again."""
        self._stopping = True
        self._schedule.close()
        self._executor.cancel()

    def __aiter__(self) -> RolloutStream:
        return self

    async def __anext__(self) -> Rollout:
        if self._supervisor is None:
            self._supervisor = asyncio.create_task(self._supervise())
        rollout = None if self._is_over else await self._ended.get()
        if rollout is not None:
            return rollout
        self._is_over = True
        error, self._error = self._error, None
        raise StopAsyncIteration if error is None else error

    async def _supervise(self) -> None:
        """Start a worker for every slot that can be used, and wait for all of them."""
        workers: set[asyncio.Task[None]] = set()
        started = 0
        while (planned := await self._schedule.take()) is not None:
            worker = asyncio.create_task(self._work(planned))
            workers.add(worker)
            worker.add_done_callback(workers.discard)
            started += 1
            if started % START_TOGETHER == 0:
                await asyncio.sleep(0)
        if workers:
            await asyncio.wait(workers)
        if self._drain is not None:
            self._drain.cancel()
        await self._ended.put(None)

    async def _work(self, first: Planned) -> None:
        """Play a rollout, then whichever may start in its place, as long as there is one."""
        planned: Planned | None = first
        try:
            while planned is not None and not self._stopping:
                rollout = self._judged(planned, await self._executor.play(planned))
                if rollout is not None:
                    await self._ended.put(rollout)
                over, planned = planned, None
                planned = self._schedule.exchange(over)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            # The first error is the cause; what fails while everything is being cancelled is not.
            if self._error is None:
                self._error = error
            self.cancel()
        finally:
            if planned is not None:
                self._schedule.give_back(planned)

    def _judged(self, planned: Planned, rollout: Rollout) -> Rollout | None:
        """Return what comes out of an attempt; None where the rollout is to be played once more."""
        if rollout.failure is None:
            return rollout
        failure = self._deaths.judge(planned.key, rollout.failure)
        if failure is None:
            self._schedule.put_back(planned)
            return None
        is_over = self._budgets.add(planned.route.environment, failure) is not None
        if is_over or failure.error == SET_ASIDE:
            self._schedule.stop(planned.route.environment)
        return rollout if failure is rollout.failure else replace(rollout, failure=failure)

    async def aclose(self) -> None:
        """Cancel whatever still runs and wait until it is closed."""
        if self._drain is not None:
            self._drain.cancel()
        self.cancel()
        while self._supervisor is not None and not self._supervisor.done():
            while not self._ended.empty():
                self._ended.get_nowait()
            await asyncio.wait([self._supervisor], timeout=0.05)


@asynccontextmanager
async def run(
    composition: Composition, *, finished: Container[RolloutKey] = frozenset()
) -> AsyncIterator[RolloutStream]:
    """
    Play every task of a composition.

    Args:
        composition: What to play.
        finished: Rollouts that exist already and are not played again.

    Yields:
        The stream of rollouts. Leaving the block cancels what is still in flight and closes every plugin.

    Raises:
        PluginError: a plugin could not be opened.
        EndpointError: while iterating: a model's endpoint cannot be used by anybody.
    """
    async with AsyncExitStack() as stack:
        executor = await stack.enter_async_context(open_executor(composition))
        planned = composition.planned()
        schedule, budgets = Schedule(composition, finished), FailureBudgets(composition, planned)
        waiting = min(composition.plan.collect.concurrency, sum(planned.values()) or 1)
        stream = RolloutStream(executor, schedule, budgets, waiting)
        stack.push_async_callback(stream.aclose)
        yield stream
