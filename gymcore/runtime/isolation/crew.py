"""
The workers of one environment: who plays next, and what happens when one of them dies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gymcore.errors import GymcoreError, PluginError
from gymcore.records import Failure
from gymcore.runtime.faults import told
from gymcore.runtime.in_process import TimeLimits
from gymcore.runtime.isolation.channel import Message
from gymcore.runtime.isolation.launch import Launch
from gymcore.runtime.isolation.worker import PRINTED, Worker, WorkerDied
from gymcore.runtime.placement import SET_ASIDE

__all__ = ["Crew"]


class Crew:
    """
    Keeps workers alive: a dead one is replaced, after a pause that doubles with every death.

    After several deaths without a finished rollout between them the environment is set aside.

    Args:
        launch: How workers are started, and how many.
        hello: What each is told first.
        limits: How long the parts of a rollout may take.
        on_ask: Given what a worker asks of a model.
    """

    def __init__(
        self, launch: Launch, hello: Message, limits: TimeLimits, on_ask: Callable[[Worker, Message], None]
    ) -> None:
        self._launch = launch
        self._hello = hello
        self._limits = limits
        self._on_ask = on_ask
        self._alive: list[Worker] = []
        self._keepers: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()
        self._deaths = 0
        self._last_death = ""

    @property
    def is_set_aside(self) -> bool:
        """Whether nothing more is started."""
        return self._deaths >= self._launch.deaths

    async def open(self) -> None:
        """
        Start every worker.

        Raises:
            GymcoreError: the environment could not be opened.
        """
        try:
            starts = await asyncio.gather(*(self._start() for _ in range(self._launch.workers)), return_exceptions=True)
        except asyncio.CancelledError:
            await self.close()
            raise
        started = [worker for worker in starts if isinstance(worker, Worker)]
        failed = [error for error in starts if isinstance(error, BaseException)]
        self._keepers = [asyncio.create_task(self._keep(worker)) for worker in started]
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
        for keeper in self._keepers:
            keeper.cancel()
        if self._keepers:
            await asyncio.wait(self._keepers)
        workers, self._alive = self._alive, []
        for said in await asyncio.gather(*(worker.close() for worker in workers)):
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
            alive = [worker for worker in self._alive if worker.death is None]
            if alive:
                return min(alive, key=lambda worker: worker.in_flight)
            self._changed.clear()
            await self._changed.wait()

    def finished(self) -> None:
        """Say that a rollout was finished: deaths before it are forgiven."""
        if not self.is_set_aside:
            self._deaths = 0

    def status(self) -> str | None:
        """Say what a person should know; None while nothing is wrong."""
        if self.is_set_aside:
            return self._set_aside()
        if self._deaths and len(self._alive) < self._launch.workers:
            return f"{self._launch.name} waits for a new worker: {self._last_death.partition(PRINTED)[0]}"
        return None

    def _set_aside(self) -> str:
        return (
            f"{self._launch.name} is set aside: its workers died {self._deaths} times without finishing a rollout; "
            f"the last time, {self._last_death}"
        )

    async def _start(self) -> Worker:
        worker = Worker(self._launch, self._on_ask)
        await worker.start(self._hello, self._limits)
        self._alive.append(worker)
        self._changed.set()
        return worker

    async def _keep(self, worker: Worker) -> None:
        """Replace a worker whenever it dies."""
        alive: Worker | None = worker
        while True:
            if alive is not None:
                self._last_death = await alive.ended()
                self._alive.remove(alive)
                alive = None
            self._deaths += 1
            if self.is_set_aside:
                self._changed.set()
                return
            launch = self._launch
            await asyncio.sleep(min(launch.max_backoff_s, launch.backoff_s * 2 ** (self._deaths - 1)))
            if self.is_set_aside:
                return
            try:
                alive = await self._start()
            except (WorkerDied, GymcoreError, OSError) as error:
                self._last_death = str(error)
