"""
Rollouts that somebody asks for: played once for each number a client gives, and on the disk before they are answered.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from itertools import islice

from gymcore.collection import Journal
from gymcore.composition import Composition
from gymcore.documents import encode_json
from gymcore.errors import EndpointError, GymcoreError
from gymcore.records import Failure, Rollout, RolloutKey, Trajectory
from gymcore.runtime.executor import Executor
from gymcore.runtime.placement import is_set_aside
from gymcore.runtime.schedule import Planned
from gymcore.serving.refusals import FailedRollout, Refusal, refusal_of_error
from gymcore.serving.replies import scored
from gymcore.serving.rows import SentRow

__all__ = ["KEPT_S", "OnDemand"]

KEPT_S = 60.0
"""How long an answer is kept that nobody has got: for a client that lost its connection, and asks again."""

DELIVERED_S = 5.0
"""
How long the answer to a numbered request is kept although its client was there: what was sent may have been lost on the
way. Not longer: whoever collects or trains anew uses the same numbers, and must not get what an earlier policy did.
"""

KEPT_BYTES = 256 * 2**20
"""Answers that are kept take no more than this; the oldest go first."""

LOOKED_AT = 64
"""Of so many kept answers it is looked at each request whether they are to be forgotten."""

WORKER_ATTEMPTS = 3
"""How often a rollout is played whose worker dies: it takes innocent ones with it, so one death proves nothing."""


IsGone = Callable[[], Awaitable[bool]]
"""Says whether a client has lost its connection."""


@dataclass(slots=True)
class _Asked:
    """A rollout that somebody asked for."""

    answering: asyncio.Task[bytes]
    waiting: list[IsGone]
    """Who waits for it."""
    until: float = math.inf
    """When its answer is forgotten."""
    size: int = 0

    async def is_orphan(self) -> bool:
        """Whether nobody waits for it any more."""
        for is_gone in self.waiting:
            if not await is_gone():
                return False
        return True


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
        self._asked: dict[tuple[str, bytes], _Asked] = {}
        """What is being played, and what is kept, by what was sent; the newest that was sent in these bytes."""
        self._kept: deque[tuple[tuple[str, bytes], _Asked]] = deque()
        """What is kept, the oldest first."""
        self._kept_bytes = 0
        self._given: set[RolloutKey] = set()
        """What is being played, or waits to be written."""
        self._next: Counter[tuple[str, str]] = Counter()
        self._ended: asyncio.Queue[Rollout | None] = asyncio.Queue()
        self._unwritten: dict[RolloutKey, asyncio.Future[Rollout]] = {}
        self._lost: BaseException | None = None
        """Why nothing can be written any more."""
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

    async def answer(self, sent: SentRow, is_gone: IsGone) -> bytes:
        """
        Play a row and return the answer, or that of the rollout which the same request has begun before.

        A request that numbers its rollout is answered once, however often it comes. One without a number joins only a
        rollout that has lost its client: a trainer may well want several of the same row.

        The rollout goes on when whoever waits here leaves.

        Args:
            sent: The row.
            is_gone: Says whether the client has left, once there is an answer for it.

        Raises:
            Refusal: the rollout failed, or the server is stopping.
        """
        self._forget_old()
        key = (sent.route.name, sent.digest)
        asked = self._asked.get(key)
        if asked is None or not (sent.is_numbered or await asked.is_orphan()):
            if self.is_stopping:
                raise stopping()
            asked = self._asked[key] = _Asked(self._loop.create_task(self._play(sent)), [])
            self._answering.add(asked.answering)
            asked.answering.add_done_callback(partial(self._keep, key, asked))
        asked.waiting.append(is_gone)
        try:
            answer = await asyncio.shield(asked.answering)
            if not await is_gone():
                self._deliver(key, asked, DELIVERED_S if sent.is_numbered else 0.0)
        finally:
            asked.waiting.remove(is_gone)
        return answer

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
        self._lost = error
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
            raise FailedRollout(rollout.failure)
        params = sent.row.value["responses_create_params"]
        response = rollout.trajectory.to_response(route.model, params)
        return encode_json(scored(sent, response, rollout.trajectory, rollout.reward))

    async def _played(self, planned: Planned) -> Rollout:
        """Play a rollout, anew where its worker has died of another."""
        rollout = await self._attempt(planned)
        for _ in range(WORKER_ATTEMPTS - 1):
            failure = rollout.failure
            if failure is None or failure.stage != "worker" or is_set_aside(failure):
                break
            rollout = await self._attempt(planned)
        return rollout

    async def _attempt(self, planned: Planned) -> Rollout:
        """Play a rollout once; an endpoint that nobody can use ends a run, but here a rollout: others may ask later."""
        started_at, started = time.time(), time.perf_counter()
        try:
            return await self._executor.play(planned)
        except EndpointError as error:
            failure = Failure(stage="model", error=type(error).__name__, message=error.message[:2000], retryable=True)
            return Rollout(
                planned.row,
                planned.repeat,
                Trajectory(),
                failure=failure,
                started_at=started_at,
                duration_s=time.perf_counter() - started,
            )

    async def _kept_rollout(self, planned: Planned, rollout: Rollout) -> Rollout:
        """Have a rollout written, and return it as it was: one that cannot be written down is a failure."""
        if self._lost is not None:
            raise self._lost
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

    def _keep(self, key: tuple[str, bytes], asked: _Asked, answering: asyncio.Task[bytes]) -> None:
        self._answering.discard(answering)
        if answering.cancelled() or answering.exception() is not None:  # who asks again gets another attempt
            self._forget(key, asked)
            return
        asked.until = time.monotonic() + self._kept_s
        asked.size = len(answering.result())
        self._kept_bytes += asked.size
        self._kept.append((key, asked))

    def _deliver(self, key: tuple[str, bytes], asked: _Asked, kept_s: float) -> None:
        """Take note that a client has its answer."""
        asked.until = min(asked.until, time.monotonic() + min(kept_s, self._kept_s))
        if not kept_s:
            self._forget(key, asked)

    def _forget(self, key: tuple[str, bytes], asked: _Asked) -> None:
        if self._asked.get(key) is asked:
            del self._asked[key]

    def _forget_old(self) -> None:
        now = time.monotonic()
        for key, asked in islice(self._kept, LOOKED_AT):
            if asked.until <= now:
                self._forget(key, asked)
        while self._kept:
            key, asked = self._kept[0]
            if self._asked.get(key) is asked and self._kept_bytes <= KEPT_BYTES:
                return
            self._kept.popleft()
            self._kept_bytes -= asked.size
            self._forget(key, asked)


def stopping() -> Refusal:
    """Return what is said to whoever comes while the server stops."""
    return Refusal(503, "the server is stopping", hints=["try: again when it is back"], headers={"retry-after": "5"})


async def _until_none(queue: asyncio.Queue[Rollout | None]) -> AsyncIterator[Rollout]:
    while (rollout := await queue.get()) is not None:
        yield rollout
