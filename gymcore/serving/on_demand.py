"""
Rollouts that somebody asks for: played once for each number a client gives, and on the disk before they are answered.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from gymcore.collection import Journal
from gymcore.composition import Composition
from gymcore.documents import encode_json
from gymcore.errors import GymcoreError
from gymcore.records import Rollout, RolloutKey
from gymcore.runtime.executor import Executor
from gymcore.runtime.placement import is_set_aside
from gymcore.runtime.schedule import Planned
from gymcore.serving.refusals import Refusal, refusal_of_error, refusal_of_failure
from gymcore.serving.replies import response_of, scored
from gymcore.serving.rows import SentRow

__all__ = ["KEPT_S", "OnDemand"]

KEPT_S = 60.0
"""
How long an answer is kept for a client that lost its connection and asks again. Not for ever: a trainer may use the
same numbers in its next step, and must not get what an earlier policy did.
"""

KEPT_BYTES = 256 * 2**20
"""Answers that are kept take no more than this; the oldest go first."""

WORKER_ATTEMPTS = 3
"""How often a rollout is played whose worker dies: it takes innocent ones with it, so one death proves nothing."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """An answer that a client may ask for again."""

    answer: bytes
    until: float


class OnDemand:
    """
    Plays rows that are sent, as many at once as the plan allows, and hands every rollout to the journal.

    Args:
        composition: Whose routes serve them.
        executor: What plays.
        journal: Where they go; it knows which rollouts are there already.
        kept_s: How long answers are kept for who asks again.

    Attributes:
        is_stopping: Whether nothing new is begun.
    """

    def __init__(
        self, composition: Composition, executor: Executor, journal: Journal, *, kept_s: float = KEPT_S
    ) -> None:
        self.is_stopping = False
        self._composition = composition
        self._executor = executor
        self._journal = journal
        self._kept_s = kept_s
        self._joined: dict[tuple[Any, ...], asyncio.Task[bytes]] = {}
        """What is being played, by the client's number."""
        self._kept: dict[tuple[Any, ...], _Kept] = {}
        """What was played, the oldest first."""
        self._kept_bytes = 0
        self._given: set[RolloutKey] = set()
        """What is being played, or waits to be written."""
        self._next: Counter[tuple[str, str]] = Counter()
        self._ended: asyncio.Queue[Rollout | None] = asyncio.Queue()
        self._unwritten: dict[RolloutKey, asyncio.Future[Rollout]] = {}
        self._answering: set[asyncio.Task[bytes]] = set()
        self._loop = asyncio.get_running_loop()
        plan = composition.plan
        self._room = asyncio.Semaphore(plan.collect.concurrency)
        self._rooms = {
            ("model", name): asyncio.Semaphore(model.concurrency)
            for name, model in plan.models.items()
            if model.concurrency is not None
        } | {
            ("environment", route.environment): asyncio.Semaphore(route.plan.concurrency)
            for route in composition.routes.values()
            if route.plan.concurrency is not None
        }
        self.in_flight: Counter[str] = Counter()

    async def answer(self, sent: SentRow) -> bytes:
        """
        Play a row and return the answer, or that of the rollout which the same request has begun before.

        The rollout goes on when whoever waits here leaves: who asks again joins it.

        Raises:
            Refusal: the rollout failed, or the server is stopping.
        """
        self._forget_old()
        key = None if sent.number is None else (sent.route.name, *sent.number, sent.digest)
        if key is not None and key in self._kept:
            return self._kept[key].answer
        answering = self._joined.get(key) if key is not None else None
        if answering is None:
            if self.is_stopping:
                raise stopping()
            answering = self._loop.create_task(self._play(sent))
            self._answering.add(answering)
            answering.add_done_callback(partial(self._leave, key))
            if key is not None:
                self._joined[key] = answering
        return await asyncio.shield(answering)

    def ended(self) -> AsyncIterator[Rollout]:
        """Yield the rollouts in the order in which they end, until `close`: for the journal."""
        return _until_none(self._ended)

    def written(self, rollouts: Sequence[Rollout]) -> None:
        """Take note that rollouts are safe; may be called from any thread."""
        self._loop.call_soon_threadsafe(self._on_written, tuple(rollouts))

    def cancel(self) -> None:
        """End what is being played; nobody gets an answer."""
        self.is_stopping = True
        self._executor.cancel()
        for answering in self._answering:
            answering.cancel()

    async def close(self, drain_s: float) -> None:
        """Begin nothing more, wait a while for what is being played, cancel the rest, and end the stream."""
        self.is_stopping = True
        if self._answering:
            await asyncio.wait(self._answering, timeout=drain_s)
        self.cancel()
        if self._answering:
            await asyncio.wait(self._answering)
        self._ended.put_nowait(None)

    def fail(self, error: BaseException) -> None:
        """Tell everybody whose rollout is not written that it never will be."""
        self.is_stopping = True
        for waiting in self._unwritten.values():
            if not waiting.done():
                waiting.set_exception(error)

    async def _play(self, sent: SentRow) -> bytes:
        route = sent.route
        async with AsyncExitStack() as room:
            for name in (("environment", route.environment), ("model", route.model)):
                if name in self._rooms:
                    await room.enter_async_context(self._rooms[name])
            await room.enter_async_context(self._room)
            if self.is_stopping:
                raise stopping()
            planned = Planned(0, route, sent.row, self._repeat(sent))
            self._given.add(planned.key)
            self.in_flight[route.environment] += 1
            try:
                rollout = await self._kept_rollout(planned, await self._played(planned))
            except GymcoreError as error:
                raise refusal_of_error(error) from None
            except asyncio.CancelledError:
                if self.is_stopping:
                    raise stopping() from None
                raise
            finally:
                self.in_flight[route.environment] -= 1
                self._given.discard(planned.key)
        if rollout.reward is None:
            assert rollout.failure is not None
            raise refusal_of_failure(rollout.failure)
        params = sent.row.value["responses_create_params"]
        response = response_of(rollout.trajectory, route.model, params)
        return encode_json(scored(sent, response, rollout.trajectory, rollout.reward))

    async def _played(self, planned: Planned) -> Rollout:
        """Play a rollout, anew where its worker has died of another."""
        rollout = await self._executor.play(planned)
        for _ in range(WORKER_ATTEMPTS - 1):
            failure = rollout.failure
            if failure is None or failure.stage != "worker" or is_set_aside(failure):
                break
            rollout = await self._executor.play(planned)
        return rollout

    async def _kept_rollout(self, planned: Planned, rollout: Rollout) -> Rollout:
        """Have a rollout written, and return it as it was: one that cannot be written down is a failure."""
        waiting = self._unwritten[planned.key] = self._loop.create_future()
        try:
            self._ended.put_nowait(rollout)
            written: Rollout = await waiting
            return written
        finally:
            del self._unwritten[planned.key]

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
        repeat = sent.rollout_index
        if self._is_taken((environment, task_id, repeat)):
            repeat = self._next[environment, task_id]
            while self._is_taken((environment, task_id, repeat)):
                repeat += 1
            self._next[environment, task_id] = repeat + 1
        return repeat

    def _is_taken(self, key: RolloutKey) -> bool:
        return key in self._given or key in self._journal.finished

    def _leave(self, key: tuple[Any, ...] | None, answering: asyncio.Task[bytes]) -> None:
        self._answering.discard(answering)
        if key is not None:
            del self._joined[key]
        # Who asks again for what has failed gets another attempt.
        if not answering.cancelled() and answering.exception() is None and key is not None:
            answer = answering.result()
            self._kept[key] = _Kept(answer, time.monotonic() + self._kept_s)
            self._kept_bytes += len(answer)
            self._forget_old()

    def _forget_old(self) -> None:
        now = time.monotonic()
        while self._kept:
            key, oldest = next(iter(self._kept.items()))
            if oldest.until > now and self._kept_bytes <= KEPT_BYTES:
                return
            self._kept_bytes -= len(oldest.answer)
            del self._kept[key]


def stopping() -> Refusal:
    """Return what is said to whoever comes while the server stops."""
    return Refusal(503, "the server is stopping", hints=["try: again when it is back"], headers={"retry-after": "5"})


async def _until_none(queue: asyncio.Queue[Rollout | None]) -> AsyncIterator[Rollout]:
    while (rollout := await queue.get()) is not None:
        yield rollout
