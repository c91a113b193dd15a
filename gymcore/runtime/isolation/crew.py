"""
The workers of one environment: who plays next, and what happens when one of them dies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from gymcore.errors import PluginError
from gymcore.records import Failure
from gymcore.runtime.faults import told
from gymcore.runtime.in_process import TimeLimits
from gymcore.runtime.isolation.channel import Message
from gymcore.runtime.isolation.launch import Launch
from gymcore.runtime.isolation.worker import PRINTED, Worker, WorkerDied
from gymcore.runtime.placement import SET_ASIDE

__all__ = ["Crew"]


@dataclass(eq=False, slots=True)
class _Seat:
    """A place for one worker at a time."""

    worker: Worker | None = None
    deaths: int = 0
    """Since one of its workers last finished a rollout."""
    pause: asyncio.TimerHandle | None = None
    """Until the next worker is started."""
    starting: asyncio.Task[None] | None = None


class Crew:
    """
    Keeps workers alive: a dead one is replaced, after a pause that doubles with every death in its seat.

    No task does that, which a plugin elsewhere in the run could cancel, but callbacks: of a death, of a pause, and of
    a start that has ended, however it did.

    After several deaths in every seat, without a finished rollout between them, the environment is set aside. Counted
    over all seats, one event, such as too little memory, would do that while a worker lives and plays.

    Args:
        launch: How workers are started, and how many.
        hello: What each is told first.
        limits: How long the parts of a rollout may take.
        on_news: Given what a worker asks of a model, and what it says of a rollout.
    """

    def __init__(
        self, launch: Launch, hello: Message, limits: TimeLimits, on_news: Callable[[Worker, Message], None]
    ) -> None:
        self._launch = launch
        self._hello = hello
        self._limits = limits
        self._on_news = on_news
        self._seats = [_Seat() for _ in range(launch.workers)]
        self._is_closing = False
        self._changed = asyncio.Event()
        self._last_death = ""
        self.is_set_aside = False
        """Whether nothing more is started."""

    async def open(self) -> None:
        """
        Start every worker.

        Raises:
            GymcoreError: the environment could not be opened.
        """
        try:
            starts = await asyncio.gather(*map(self._start, self._seats), return_exceptions=True)
        except asyncio.CancelledError:
            await self.close()
            raise
        failed = [error for error in starts if error is not None]
        if failed:
            await self.close()
            if isinstance(failed[0], WorkerDied | OSError):
                plugin = self._launch.plugin
                raise PluginError(f"{plugin} could not be opened: {failed[0]}", plugin=plugin) from None
            raise failed[0]

    async def close(self) -> None:
        """
        End every worker.

        Raises:
            PluginError: what the rollouts shared could not be closed.
        """
        self._is_closing = True
        for seat in self._seats:
            if seat.pause is not None:
                seat.pause.cancel()
        starting = [seat.starting for seat in self._seats if seat.starting is not None]
        for start in starting:
            start.cancel()
        if starting:
            await asyncio.wait(starting)
        for said in await asyncio.gather(*(worker.close() for worker in self._alive())):
            if said is not None:
                plugin = self._launch.plugin
                raise PluginError(f"{plugin} could not be closed: {said}", plugin=plugin)

    async def worker(self) -> Worker:
        """
        Return the worker with the fewest rollouts; wait for one while all are dead.

        Raises:
            Told: the environment was set aside.
        """
        while True:
            if self.is_set_aside:
                raise told(Failure(stage="worker", error=SET_ASIDE, message=self._set_aside()[:2000], retryable=True))
            alive = self._alive()
            if alive:
                return min(alive, key=lambda worker: worker.in_flight)
            self._changed.clear()
            await self._changed.wait()

    def finished(self, worker: Worker) -> None:
        """Say that a worker has finished a rollout: the deaths in its seat before that are forgiven."""
        for seat in self._seats:
            if seat.worker is worker:
                seat.deaths = 0

    def status(self) -> str | None:
        """Say what a person should know; None while nothing is wrong."""
        if self.is_set_aside:
            return self._set_aside()
        if self._last_death and len(self._alive()) < self._launch.workers:
            return f"{self._launch.name} waits for a new worker: {self._last_death.partition(PRINTED)[0]}"
        return None

    def _set_aside(self) -> str:
        deaths = sum(seat.deaths for seat in self._seats)
        return (
            f"{self._launch.name} is set aside: its workers died {deaths} times without finishing a rollout; "
            f"the last time, {self._last_death}"
        )

    def _alive(self) -> list[Worker]:
        return [seat.worker for seat in self._seats if seat.worker is not None]

    async def _start(self, seat: _Seat) -> None:
        worker = Worker(self._launch, self._on_news, partial(self._on_death, seat))
        await worker.start(self._hello, self._limits)
        if worker.death is not None:
            raise WorkerDied(worker.death)
        seat.worker = worker
        self._changed.set()

    def _on_death(self, seat: _Seat, worker: Worker) -> None:
        if seat.worker is worker:  # else it died while it was started
            seat.worker = None
            self._count(seat, worker.death or "")

    def _count(self, seat: _Seat, death: str) -> None:
        """Start another worker after a pause, unless there were too many deaths."""
        if self._is_closing:
            return
        self._last_death = death
        seat.deaths += 1
        self.is_set_aside |= all(seat.deaths >= self._launch.deaths for seat in self._seats)
        self._changed.set()
        self._pause(seat)

    def _pause(self, seat: _Seat) -> None:
        if not (self._is_closing or self.is_set_aside):
            pause_s = min(self._launch.max_backoff_s, self._launch.backoff_s * 2.0 ** min(seat.deaths - 1, 60))
            seat.pause = asyncio.get_running_loop().call_later(pause_s, self._restart, seat)

    def _restart(self, seat: _Seat) -> None:
        if not self.is_set_aside:
            seat.starting = asyncio.create_task(self._start(seat))
            seat.starting.add_done_callback(partial(self._on_started, seat))

    def _on_started(self, seat: _Seat, start: asyncio.Task[None]) -> None:
        seat.starting = None
        if start.cancelled():
            self._pause(seat)
        elif (error := start.exception()) is not None:
            self._count(seat, str(error))
