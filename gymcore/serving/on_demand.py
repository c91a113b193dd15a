"""
Rollouts that somebody asks for: played once for each number a client gives, and on the disk before they are answered.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from gymcore.collection import Journal, read_poisoned
from gymcore.composition import Composition, Route
from gymcore.documents import encode_json
from gymcore.errors import GymcoreError
from gymcore.records import POISON, Failure, Rollout, RolloutKey
from gymcore.runtime.executor import Executor
from gymcore.runtime.placement import is_set_aside
from gymcore.runtime.schedule import Planned
from gymcore.runtime.stream import WITHDRAW_S
from gymcore.serving.refusals import FailedRollout, Refusal, refusal_of_error, stopping
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
"""Answers that are kept take no more than this; those that were delivered go first, the oldest before others."""

WORKER_ATTEMPTS = 3
"""How often a rollout is played whose worker dies: it takes innocent ones with it, so one death proves nothing."""

IsGone = Callable[[], Awaitable[bool]]
"""Says whether a client has lost its connection."""

Key = tuple[str, bytes]
"""A route, and the digest of what was sent."""


@dataclass(slots=True, eq=False)
class _Asked:
    """A rollout that somebody asked for."""

    waiting: list[IsGone] = field(default_factory=list)
    """Who waits for it."""
    playing: asyncio.Task[bytes] = field(init=False)
    """What comes of it."""
    is_delivered: bool = False
    end: asyncio.TimerHandle | None = None
    """Forgets it; there once its answer is kept."""

    async def is_orphan(self) -> bool:
        """Whether nobody waits for it any more."""
        for is_gone in list(self.waiting):
            if not await is_gone():
                return False
        return True


class _Answers:
    """
    What was asked, by what was sent, as long as somebody may ask for it again.

    Args:
        kept_s: How long an answer is kept that nobody has got.
        most_bytes: What all of them take together, at most.
    """

    def __init__(self, kept_s: float, most_bytes: int) -> None:
        self._kept_s = kept_s
        self._most_bytes = most_bytes
        self._asked: dict[Key, list[_Asked]] = {}
        self._unclaimed: dict[_Asked, Key] = {}
        self._delivered: dict[_Asked, Key] = {}
        self.kept_bytes = 0
        self._loop = asyncio.get_running_loop()

    async def find(self, key: Key, *, is_numbered: bool) -> _Asked | None:
        """Return the rollout that a request means: its own by its number, else one that has lost its client."""
        for asked in list(self._asked.get(key, ())):
            before = len(asked.waiting)
            if is_numbered or (not asked.is_delivered and await asked.is_orphan() and len(asked.waiting) == before):
                return asked  # and nobody else has taken it while its clients were looked for
        return None

    def add(self, key: Key, asked: _Asked) -> None:
        """Take note of what is being played."""
        self._asked.setdefault(key, []).append(asked)

    def keep(self, key: Key, asked: _Asked) -> None:
        """Keep the answer of a rollout, until somebody has got it."""
        self.kept_bytes += len(asked.playing.result())
        self._unclaimed[asked] = key
        asked.end = self._loop.call_later(self._kept_s, self.forget, key, asked)
        while self.kept_bytes > self._most_bytes:
            oldest = next(iter(self._delivered or self._unclaimed))
            self.forget((self._delivered.get(oldest) or self._unclaimed[oldest]), oldest)

    def deliver(self, key: Key, asked: _Asked, kept_s: float) -> None:
        """Take note that a client has an answer."""
        if asked.end is None or asked.is_delivered:
            return
        asked.end.cancel()
        if not kept_s:
            self.forget(key, asked)
            return
        asked.is_delivered = True
        self._unclaimed.pop(asked, None)
        self._delivered[asked] = key
        asked.end = self._loop.call_later(min(kept_s, self._kept_s), self.forget, key, asked)

    def forget(self, key: Key, asked: _Asked) -> None:
        """Whoever asks again gets another rollout."""
        known = self._asked.get(key, [])
        if asked not in known:
            return
        known.remove(asked)
        if not known:
            del self._asked[key]
        self._unclaimed.pop(asked, None)
        self._delivered.pop(asked, None)
        if asked.end is not None:
            self.kept_bytes -= len(asked.playing.result())
            asked.end.cancel()

    def clear(self) -> None:
        """Forget everything."""
        for key, known in list(self._asked.items()):
            for asked in list(known):
                self.forget(key, asked)


class OnDemand:
    """
    Plays rows that are sent, as many at once as the plan allows, and hands every rollout to the journal.

    What clients play themselves, in sessions, gets its number and its place in the journal here, too.

    Args:
        composition: Whose routes serve them.
        executor: What plays.
        journal: Where they go; it knows which rollouts are there already.
        kept_s: How long answers are kept for who asks again.
        kept_bytes: What they take together, at most.

    Attributes:
        is_stopping: Whether nothing new is begun.
        lost: Why nothing can be written any more; None as long as it can.
    """

    def __init__(
        self,
        composition: Composition,
        executor: Executor,
        journal: Journal,
        *,
        kept_s: float = KEPT_S,
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        self.is_stopping = False
        self._executor = executor
        self._journal = journal
        self._answers = _Answers(kept_s, kept_bytes)
        self._poison = {key[:2] for key in read_poisoned(journal.folder)}
        """Tasks that ended their worker whenever they were played."""
        self._queued: set[asyncio.Task[bytes]] = set()
        """What waits for room."""
        self._given: set[RolloutKey] = set()
        """What is being played, or waits to be written."""
        self._next: Counter[tuple[str, str]] = Counter()
        self._let_go: dict[tuple[str, str], set[int]] = {}
        """Numbers before the next one of a task that came to nothing; they are free again."""
        self._ended: asyncio.Queue[Rollout | None] = asyncio.Queue()
        self._is_finished = False
        self._unwritten: dict[RolloutKey, asyncio.Future[Rollout]] = {}
        self.lost: BaseException | None = None
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
        key = (sent.route.name, sent.digest)
        asked = await self._answers.find(key, is_numbered=sent.is_numbered)
        if asked is None:
            if self.is_stopping:
                raise stopping()
            asked = _Asked()
            self._answers.add(key, asked)
            self._begin(key, asked, sent)
        asked.waiting.append(is_gone)
        try:
            answer = await asyncio.shield(asked.playing)
            if not await is_gone():
                self._answers.deliver(key, asked, DELIVERED_S if sent.is_numbered else 0.0)
        except asyncio.CancelledError:
            if self.is_stopping:
                raise stopping() from None
            raise
        finally:
            asked.waiting.remove(is_gone)
        return answer

    def _begin(self, key: Key, asked: _Asked, sent: SentRow) -> None:
        answering = asked.playing = self._loop.create_task(self._play(sent, asked))
        self._answering.add(answering)

        def ended(task: asyncio.Task[bytes]) -> None:
            self._answering.discard(task)
            if task.cancelled() or task.exception() is not None:  # who asks again gets another attempt
                self._answers.forget(key, asked)
            else:
                self._answers.keep(key, asked)

        answering.add_done_callback(ended)

    @property
    def kept_bytes(self) -> int:
        """What the answers that are kept take."""
        return self._answers.kept_bytes

    def ended(self) -> AsyncIterator[Rollout]:
        """Yield the rollouts in the order in which they end, until `finish`: for the journal."""
        return _until_none(self._ended)

    def written(self, rollouts: Sequence[Rollout]) -> None:
        """Take note that rollouts are safe; may be called from any thread."""
        self._loop.call_soon_threadsafe(self._on_written, tuple(rollouts))

    def stop(self) -> None:
        """Begin nothing more; what waits for room is told so."""
        self.is_stopping = True
        for waiting in list(self._queued):
            waiting.cancel()

    def cancel(self) -> None:
        """End what is being played; nobody gets an answer."""
        self.stop()
        self._executor.cancel()
        for answering in self._answering:
            answering.cancel()

    async def close(self, drain_s: float) -> None:
        """Begin nothing more, wait a while for what is being played and not for who is gone, and cancel the rest."""
        self.stop()
        until = self._loop.time() + drain_s
        while self._answering and (left_s := until - self._loop.time()) > 0:
            self._executor.withdraw()
            await asyncio.wait(self._answering, timeout=min(left_s, WITHDRAW_S))
        self.cancel()
        if self._answering:
            await asyncio.wait(self._answering)
        self._answers.clear()

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

    async def _play(self, sent: SentRow, asked: _Asked) -> bytes:
        route = sent.route
        if (route.environment, sent.row.identity[1]) in self._poison:
            raise FailedRollout(_POISON)
        try:
            async with self._room_for(route):
                if await asked.is_orphan():
                    raise Refusal(499, "nobody waits for this rollout any more")
                rollout = await self._recorded(sent)
        except GymcoreError as error:
            raise refusal_of_error(error) from None
        except asyncio.CancelledError:
            if self.is_stopping:
                raise stopping() from None
            raise
        if rollout.reward is None:
            failure = rollout.failure
            assert failure is not None
            if failure.stage == "worker" and not is_set_aside(failure):
                self._poison.add((route.environment, sent.row.identity[1]))
                failure = failure.model_copy(update={"retryable": False})  # here; another process may try it
            raise FailedRollout(failure)
        params = sent.row.value["responses_create_params"]
        response = rollout.trajectory.to_response(route.model, params)
        return encode_json(scored(sent, response, rollout.trajectory.stop, rollout.reward))

    @asynccontextmanager
    async def _room_for(self, route: Route) -> AsyncIterator[None]:
        """Wait until a rollout of a route may be in flight, and let another in afterwards."""
        async with AsyncExitStack() as room:
            task = asyncio.current_task()
            assert task is not None
            self._queued.add(task)
            try:
                for name in (("environment", route.environment), ("model", route.model)):
                    if name in self._rooms:
                        await room.enter_async_context(self._rooms[name])
                await room.enter_async_context(self._room)
            finally:
                self._queued.discard(task)
            if self.is_stopping:
                raise stopping()
            yield

    async def _recorded(self, sent: SentRow) -> Rollout:
        """Play a rollout, and wait until it is on the disk."""
        planned = self.take(sent)
        self.in_flight[sent.route.environment] += 1
        try:
            return await self.keep(planned, await self._played(planned))
        finally:
            self.in_flight[sent.route.environment] -= 1
            self.give_back(planned)

    async def _played(self, planned: Planned) -> Rollout:
        """Play a rollout, anew where its worker has died of another."""
        rollout = await self._executor.play(planned)
        for _ in range(WORKER_ATTEMPTS - 1):
            failure = rollout.failure
            if failure is None or failure.stage != "worker" or is_set_aside(failure):
                break
            rollout = await self._executor.play(planned)
        return rollout

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


_POISON = Failure(
    stage="worker",
    error=POISON,
    message=f"its worker died {WORKER_ATTEMPTS} times while this task was played, which is not played again",
    retryable=False,
)


async def _until_none(queue: asyncio.Queue[Rollout | None]) -> AsyncIterator[Rollout]:
    while (rollout := await queue.get()) is not None:
        yield rollout
