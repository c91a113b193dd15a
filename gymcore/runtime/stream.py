"""
`run()`: opens the plugins of a composition, plays its rollouts with bounded concurrency, and closes everything.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Container
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

from gymcore.composition import Composition
from gymcore.errors import EndpointError
from gymcore.records import Failure, Rollout, RolloutKey, Trajectory
from gymcore.runtime.brackets import Say, log
from gymcore.runtime.budget import FailureBudgets, OverBudget
from gymcore.runtime.executor import Executor, Withdrawn, open_local
from gymcore.runtime.faults import is_cancelled
from gymcore.runtime.placement import is_set_aside
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


WAITING = 64
"""How many rollouts may have left their slots and wait to be taken."""


class RolloutStream:
    """
    The rollouts of a run, in the order in which they end; nothing is played before the first is asked for.

    A rollout keeps its slot until it is handed over; nobody plays on for a reader that does not come.

    Args:
        executor: Who plays.
        schedule: What is to be played, and how much of it at once.
        budgets: How much of it may fail.
        waiting: At most this many rollouts wait to be taken besides those in a slot.
        drain_s: How long what is in flight may go on when an endpoint that has worked refuses everybody.
    """

    def __init__(
        self, executor: Executor, schedule: Schedule, budgets: FailureBudgets, waiting: int, drain_s: float = 30.0
    ) -> None:
        self._executor = executor
        self._schedule = schedule
        self._budgets = budgets
        self._deaths = WorkerDeaths(schedule)
        self._drain_s = drain_s
        self._ended: asyncio.Queue[Rollout | None] = asyncio.Queue(maxsize=waiting)
        self._supervisor: asyncio.Task[None] | None = None
        self._error: BaseException | None = None
        self._stopping = False
        self._is_over = False
        self._is_cancelled = False
        self._drain: asyncio.TimerHandle | None = None

    def status(self) -> Status:
        """Return where the run stands; may be asked from any thread."""
        try:
            notes = self._executor.notes()
        except (Exception, SystemExit) as error:  # what a plugin says of itself never costs a rollout
            notes = (f"status() of a model raised {type(error).__name__}: {error}",)
        return Status(self._schedule.in_flight(), self._stopping, notes, self._budgets.over)

    def stop(self, drain_s: float) -> None:
        """
        Start nothing more; what is in flight may finish, and what only waits for what is gone is owed again.

        Args:
            drain_s: For how long; what is still in flight then is cancelled and owed again.
        """
        self._stopping = True
        self._schedule.close()
        self._end_drain()
        self._drain = asyncio.get_running_loop().call_later(drain_s, self.cancel)
        self._executor.withdraw()

    def _end_drain(self) -> None:
        if self._drain is not None:
            self._drain.cancel()

    def cancel(self) -> None:
        """Cancel what is in flight, which is owed again; its environments are closed, but waited for only a while."""
        self._stopping = self._is_cancelled = True
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
        while True:
            try:
                return await self._play_all(workers)
            except asyncio.CancelledError:
                if self._is_cancelled:  # the event loop is about to be closed
                    raise
                _forget_cancellation()

    async def _play_all(self, workers: set[asyncio.Task[None]]) -> None:
        try:
            await self._start_workers(workers)
        except Exception as error:  # the dataset cannot be read any more, say
            self._fail(error)
        while workers:
            await asyncio.wait(workers)
        self._end_drain()
        await self._ended.put(None)

    def _fail(self, error: BaseException) -> None:
        """End the run; the first error is the cause, what fails while everything is being cancelled is not."""
        if self._error is None:
            self._error = error
        self.cancel()

    async def _start_workers(self, workers: set[asyncio.Task[None]]) -> None:
        started = 0
        while (planned := await self._schedule.take()) is not None:
            given = [planned]
            worker = asyncio.create_task(self._work(given))
            workers.add(worker)
            worker.add_done_callback(workers.discard)
            worker.add_done_callback(partial(self._take_back, given))
            started += 1
            if started % START_TOGETHER == 0:
                await asyncio.sleep(0)

    def _take_back(self, given: list[Planned], worker: asyncio.Task[None]) -> None:
        """Play what a worker has not taken, because it was cancelled before it began."""
        for planned in given:
            self._schedule.put_back(planned)
            self._schedule.give_back(planned)

    async def _work(self, given: list[Planned]) -> None:
        """Play a rollout, then whichever may start in its place, as long as there is one."""
        planned: Planned | None = given.pop()
        try:
            while planned is not None and not self._stopping:
                rollout = await self._attempt(planned)
                if rollout is not None:
                    await self._hand_over(rollout)
                over, planned = planned, None
                planned = self._schedule.exchange(over)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            if not (isinstance(error, EndpointError) and error.has_worked):
                self._fail(error)
                return
            if self._error is None:
                self._error = error
            if self._drain is None:
                self.stop(self._drain_s)
        finally:
            if planned is not None:
                self._schedule.give_back(planned)

    async def _attempt(self, planned: Planned) -> Rollout | None:
        """Play a rollout; None where it is to be played once more, or later."""
        try:
            rollout = await self._play(planned)
        except Withdrawn as withdrawn:
            self._schedule.put_back(planned)
            self._schedule.pause(planned.route.environment, withdrawn.outage)
            return None
        return self._judged(planned, rollout)

    async def _play(self, planned: Planned) -> Rollout:
        """Play a rollout; one that somebody else than the run has cancelled is a failure, and never nothing."""
        try:
            return await self._executor.play(planned)
        except asyncio.CancelledError:
            if self._is_cancelled or (self._stopping and not is_cancelled()):  # it was withdrawn
                raise
            _forget_cancellation()
            text = "the task that waited for the rollout was cancelled, and not by the run: a plugin cancels all tasks"
            failure = Failure(stage="agent", error=asyncio.CancelledError.__name__, message=text, retryable=True)
            return Rollout(
                planned.row, planned.repeat, Trajectory(), failure=failure, started_at=time.time(), duration_s=0.0
            )

    async def _hand_over(self, rollout: Rollout) -> None:
        while True:
            try:
                return await self._ended.put(rollout)
            except asyncio.CancelledError:
                if self._is_cancelled:
                    raise
                _forget_cancellation()

    def _judged(self, planned: Planned, rollout: Rollout) -> Rollout | None:
        """Return what comes out of an attempt; None where the rollout is to be played once more."""
        if rollout.failure is None:
            self._deaths.acquit(planned)
            return rollout
        is_hopeless = is_set_aside(rollout.failure)
        failure = rollout.failure if is_hopeless else self._deaths.judge(planned, rollout.failure)
        if failure is None:
            return None
        is_over = self._budgets.add(planned.route.environment, failure) is not None
        if is_over or is_hopeless:
            self._schedule.stop(planned.route.environment)
        return rollout if failure is rollout.failure else replace(rollout, failure=failure)

    async def aclose(self) -> None:
        """Cancel whatever still runs and wait until it is closed."""
        self._end_drain()
        self.cancel()
        while self._supervisor is not None and not self._supervisor.done():
            while not self._ended.empty():
                self._ended.get_nowait()
            await asyncio.wait([self._supervisor], timeout=0.05)


def _forget_cancellation() -> None:
    """Go on in this task as if nobody had cancelled it: it was not the run, and the run depends on it."""
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()


@asynccontextmanager
async def run(
    composition: Composition, *, finished: Container[RolloutKey] = frozenset(), say: Say = log
) -> AsyncIterator[RolloutStream]:
    """
    Play every task of a composition.

    Args:
        composition: What to play.
        finished: Rollouts that exist already and are not played again.
        say: Told which plugin takes long to open or to close, and what went wrong while one was closed; the logger
            `gymcore` is, where nothing is said.

    Yields:
        The stream of rollouts. Leaving the block cancels what is still in flight and closes every plugin.

    Raises:
        PluginError: a plugin could not be opened.
        EndpointError: while iterating: a model's endpoint cannot be used by anybody.
    """
    async with AsyncExitStack() as stack:
        executor = await stack.enter_async_context(_open_executor(composition, say))
        planned = composition.planned()
        schedule, budgets = Schedule(composition, finished), FailureBudgets(composition, planned)
        collect = composition.plan.collect
        stream = RolloutStream(executor, schedule, budgets, min(WAITING, collect.concurrency), collect.drain_s)
        stack.push_async_callback(stream.aclose)
        yield stream


def _open_executor(composition: Composition, say: Say) -> AbstractAsyncContextManager[Executor]:
    """Open the executor that a plan names; what it raises, it raises when entered."""
    if composition.plan.collect.executor == "ray":
        from gymcore.runtime.on_ray.executor import open_ray  # here, because few need it

        return open_ray(composition)
    return open_local(composition, say, makes_room=True)
