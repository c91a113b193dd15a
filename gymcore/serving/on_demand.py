"""
Rollouts that somebody asks for: played once for each number a client gives, and on the disk before they are answered.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from gymcore.composition import Composition, Route
from gymcore.documents import encode_json
from gymcore.errors import EndpointError, GymcoreError
from gymcore.records import Rollout
from gymcore.runtime.executor import Executor, Withdrawn
from gymcore.runtime.schedule import Planned
from gymcore.serving.outages import DEATHS, Unplayable, failure_of
from gymcore.serving.recorder import Recorder
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

LOST_S = 0.2
"""So often it is looked, while a server stops, whether what is played can still be kept."""

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
    Plays rows that are sent, as many at once as the plan allows, and has every rollout recorded.

    Args:
        composition: Whose routes serve them.
        executor: What plays.
        recorder: Who numbers what they come to, and keeps it.
        unplayable: What is not played any more.
        kept_s: How long answers are kept for who asks again.
        kept_bytes: What they take together, at most.

    Attributes:
        in_flight: How many rollouts of each environment are being played, or wait to be written.
    """

    def __init__(
        self,
        composition: Composition,
        executor: Executor,
        recorder: Recorder,
        unplayable: Unplayable,
        *,
        kept_s: float = KEPT_S,
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        self._executor = executor
        self._recorder = recorder
        self._unplayable = unplayable
        self._answers = _Answers(kept_s, kept_bytes)
        self._queued: set[asyncio.Task[bytes]] = set()
        """What waits for room."""
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
            if self._recorder.is_stopping:
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
            if self._recorder.is_stopping:
                raise self._recorder.interrupted() from None
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

    def stop(self) -> None:
        """Begin nothing more; what waits for room is told so."""
        self._recorder.is_stopping = True
        for waiting in list(self._queued):
            waiting.cancel()

    def cancel(self) -> None:
        """End what is being played; nobody gets an answer."""
        self.stop()
        self._executor.cancel()
        for answering in self._answering:
            answering.cancel()

    async def close(self, drain_s: float) -> None:
        """
        Begin nothing more, wait a while for what is being played, and cancel the rest.

        Neither what waits for what is gone is waited for, nor anything once nothing can be kept any more.

        Args:
            drain_s: How long, at most, in seconds.
        """
        self.stop()
        self._executor.withdraw()
        until = self._loop.time() + drain_s
        while self._answering and self._recorder.lost is None and (left_s := until - self._loop.time()) > 0:
            await asyncio.wait(self._answering, timeout=min(left_s, LOST_S))
        self.cancel()
        if self._answering:
            await asyncio.wait(self._answering)
        self._answers.clear()

    async def _play(self, sent: SentRow, asked: _Asked) -> bytes:
        route = sent.route
        try:
            rollout = await self._in_turn(sent, asked)
        except EndpointError as error:
            failure = self._unplayable.told(sent.row.identity, failure_of(error))
            raise FailedRollout(failure, played=sent.row) from None
        except GymcoreError as error:
            raise refusal_of_error(error) from None
        except asyncio.CancelledError:
            if self._recorder.is_stopping:
                raise self._recorder.interrupted() from None
            raise
        if rollout.reward is None:
            assert rollout.failure is not None  # a rollout has one of the two
            failure = self._unplayable.told(rollout.row.identity, rollout.failure)
            raise FailedRollout(failure, played=sent.row)
        params = sent.row.value["responses_create_params"]
        response = rollout.trajectory.to_response(route.model, params)
        return encode_json(scored(sent.sent, rollout.row.identity, response, rollout.trajectory.stop, rollout.reward))

    async def _in_turn(self, sent: SentRow, asked: _Asked) -> Rollout:
        """Play a rollout when there is room; one whose environment waits for what is gone leaves it to others."""
        while True:
            try:
                async with self._room_for(sent.route):
                    self._unplayable.refuse(sent.row.identity)
                    if await asked.is_orphan():
                        raise Refusal(499, "nobody waits for this rollout any more")
                    return await self._recorded(sent)
            except Withdrawn as withdrawn:
                with self._queueing():
                    await withdrawn.over()

    @contextmanager
    def _queueing(self) -> Iterator[None]:
        """Wait inside for what comes before a rollout is begun; `stop` ends that."""
        task = asyncio.current_task()
        assert task is not None
        self._queued.add(task)
        try:
            yield
        finally:
            self._queued.discard(task)
        if self._recorder.is_stopping:
            raise stopping()

    @asynccontextmanager
    async def _room_for(self, route: Route) -> AsyncIterator[None]:
        """Wait until a rollout of a route may be in flight, and let another in afterwards."""
        async with AsyncExitStack() as room:
            with self._queueing():
                for name in (("environment", route.environment), ("model", route.model)):
                    if name in self._rooms:
                        await room.enter_async_context(self._rooms[name])
                await room.enter_async_context(self._room)
            yield

    async def _recorded(self, sent: SentRow) -> Rollout:
        """Play a rollout, and wait until it is on the disk."""
        planned = self._recorder.take(sent)
        self.in_flight[sent.route.environment] += 1
        try:
            return await self._recorder.keep(planned, await self._played(planned))
        finally:
            self.in_flight[sent.route.environment] -= 1
            self._recorder.give_back(planned)

    async def _played(self, planned: Planned) -> Rollout:
        """Play a rollout, anew where its worker has died of another."""
        rollout = await self._executor.play(planned)
        for _ in range(DEATHS - 1):
            failure = rollout.failure
            if (
                failure is None
                or failure.stage != "worker"
                or not self._unplayable.told(planned.key[:2], failure).retryable
            ):
                break
            rollout = await self._executor.play(planned)
        return rollout
