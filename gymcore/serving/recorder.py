"""
What becomes of rollouts that are asked for: each gets a number of its own, and is on the disk before anybody is told.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence

from gymcore.collection import Journal
from gymcore.records import Rollout, RolloutKey
from gymcore.runtime.schedule import Planned
from gymcore.serving.refusals import stopping
from gymcore.serving.rows import SentRow

__all__ = ["Recorder"]


class Recorder:
    """
    Numbers rollouts, of this server's agents and of clients, and hands them to the journal.

    Args:
        journal: Where they go; it knows which rollouts are there already.

    Attributes:
        is_stopping: Whether nothing new is begun.
        lost: Why nothing can be written any more; None as long as it can.
    """

    def __init__(self, journal: Journal) -> None:
        self.is_stopping = False
        self.lost: BaseException | None = None
        self._journal = journal
        self._given: set[RolloutKey] = set()
        """What is being played, or waits to be written."""
        self._next: Counter[tuple[str, str]] = Counter()
        self._let_go: dict[tuple[str, str], set[int]] = {}
        """Numbers before the next one of a task that came to nothing; they are free again."""
        self._ended: asyncio.Queue[Rollout | None] = asyncio.Queue()
        self._is_finished = False
        self._unwritten: dict[RolloutKey, asyncio.Future[Rollout]] = {}
        self._loop = asyncio.get_running_loop()

    def take(self, sent: SentRow) -> Planned:
        """Give a rollout its number, which no other gets until `give_back`."""
        planned = Planned(0, sent.route, sent.row, self._repeat(sent))
        self._given.add(planned.key)
        return planned

    def give_back(self, planned: Planned) -> None:
        """Take note that a rollout is over; its number is free again where it has no reward."""
        self._given.discard(planned.key)
        task = planned.key[:2]
        if planned.repeat < self._next.get(task, 0) and planned.key not in self._journal.finished:
            self._let_go.setdefault(task, set()).add(planned.repeat)

    async def keep(self, planned: Planned, rollout: Rollout) -> Rollout:
        """
        Have a rollout written, and return it as it was: one that cannot be written down is a failure.

        Raises:
            StorageError: the disk has failed.
            Refusal: the server has stopped.
        """
        if self.lost is not None:
            raise self.lost
        if self._is_finished:
            raise stopping()
        waiting = self._unwritten[planned.key] = self._loop.create_future()
        try:
            self._ended.put_nowait(rollout)
            written: Rollout = await waiting
            return written
        finally:
            del self._unwritten[planned.key]

    async def ended(self) -> AsyncIterator[Rollout]:
        """Yield the rollouts in the order in which they end, until `finish`: for the journal."""
        while (rollout := await self._ended.get()) is not None:
            yield rollout

    def written(self, rollouts: Sequence[Rollout]) -> None:
        """Take note that rollouts are safe; may be called from any thread."""
        self._loop.call_soon_threadsafe(self._on_written, tuple(rollouts))

    def finish(self) -> None:
        """End the stream of rollouts: nothing more is kept."""
        self._is_finished = True
        self._ended.put_nowait(None)

    def fail(self, error: BaseException) -> None:
        """Tell everybody whose rollout is not written that it never will be."""
        self.is_stopping = True
        self.lost = error
        for waiting in self._unwritten.values():
            if not waiting.done():
                waiting.set_exception(error)

    def interrupted(self) -> BaseException:
        """Return what is said to whoever waits for what was ended because the server stops: that, or why it does."""
        return stopping() if self.lost is None else self.lost

    def _on_written(self, rollouts: Sequence[Rollout]) -> None:
        for rollout in rollouts:
            waiting = self._unwritten.get(rollout.key)
            if waiting is not None and not waiting.done():
                waiting.set_result(rollout)

    def _repeat(self, sent: SentRow) -> int:
        """
        Number a rollout among those of its task: as the client does, or by the next that is free.

        A trainer plays a task anew in every step and counts from 0 each time; nothing that was played is lost for it.
        """
        environment, task_id = sent.row.identity
        repeat = sent.rollout_index + (sent.row.epoch - 1) * sent.route.repeats  # each epoch plays the task anew
        return self._next_free(environment, task_id) if self._is_taken((environment, task_id, repeat)) else repeat

    def _next_free(self, environment: str, task_id: str) -> int:
        while let_go := self._let_go.get((environment, task_id)):
            repeat = min(let_go)
            let_go.discard(repeat)
            if not let_go:
                del self._let_go[environment, task_id]
            if not self._is_taken((environment, task_id, repeat)):
                return repeat
        repeat = self._next[environment, task_id]
        while self._is_taken((environment, task_id, repeat)):
            repeat += 1
        self._next[environment, task_id] = repeat + 1
        return repeat

    def _is_taken(self, key: RolloutKey) -> bool:
        return key in self._given or key in self._journal.finished
