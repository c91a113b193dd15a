"""
Environments that a client plays itself: opened for one row, called tool by tool, scored once, and always closed.

What is scored, or fails, is a rollout like those that are played here, and kept like them before its client is told.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from typing import Any

import itsdangerous

from gymcore.documents import encode_json
from gymcore.interfaces import BoundModel, OpenEnvironment
from gymcore.records import Failure, Reward, ToolCall, Trajectory, Turn
from gymcore.runtime.attempt import Attempt, AttemptEnded
from gymcore.runtime.executor import Executor
from gymcore.runtime.schedule import Planned
from gymcore.runtime.session import Stage
from gymcore.serving.cookies import COOKIE
from gymcore.serving.outages import Begun, Unplayable
from gymcore.serving.recorder import Recorder
from gymcore.serving.refusals import FailedRollout, Refusal, stopping
from gymcore.serving.rows import SentRow

__all__ = ["ClientSession", "Score", "Sessions"]

IDLE_S = 900.0
"""A session of which nothing was heard for so long is closed."""

SCORED_S = 60.0
"""How long it is remembered what a session was scored with, for who asks again."""

MOST = 20_000
"""So many sessions may be open at once."""

SWEEP_S = 1.0
"""How often it is looked whether one is idle."""

SAME, ANOTHER = "the same request again", "/seed_session, for another"
"""What to ask for after a failure: before there is a session, and once there is one, which is over then."""

PLAYED_BY = {"agent": "client", "model": "client"}
"""What the provenance of a session says: which agent and which model have played is known to its client alone."""


@dataclass(frozen=True, slots=True)
class Score:
    """What a session came to."""

    reward: Reward
    stop: str


class ClientSession:
    """
    One environment in the hands of a client.

    What it comes to is kept as soon as it is over, whoever waits for that; then little of it is left.

    Args:
        executor: What plays it.
        stage: What it shares with all other rollouts, such as how long one thing in it may take.
        sent: The row it is opened for.
        planned: Which rollout it is.
        recorder: Who keeps what becomes of it, where anything is kept, and gave it its number.
        unplayable: Says which failures are worth another attempt.
        is_recorded: Whether anything is kept.

    Attributes:
        route: Who serves it.
        task: Environment and task id.
        told: What its client told of the task.
        heard: When the client last wanted something, in seconds of the monotonic clock.
        busy: How many things the client wants of it at this moment.
        turns: What a client that steps has done so far.
    """

    def __init__(
        self,
        executor: Executor,
        stage: Stage,
        sent: SentRow,
        planned: Planned,
        recorder: Recorder,
        unplayable: Unplayable,
        *,
        is_recorded: bool,
    ) -> None:
        self.route = sent.route
        self.task = sent.row.identity
        self.told = sent.told
        self.heard = time.monotonic()
        self.busy = 0
        self.turns: list[Turn] = []
        self._calls = 0
        self._recorder = recorder
        self._unplayable = unplayable
        self._is_recorded = is_recorded
        self._again = SAME
        self._limits = stage.limits[planned.route.environment]
        self._late: Failure | None = None
        """That it was ended because something in it took too long."""
        self._scored: tuple[str, bytes] | None = None
        """How what was scored has ended, and the digest of its response."""
        attempt = Attempt(executor, planned, self._limits.rollout_s)
        self._attempt: Attempt | None = attempt
        provenance = {**stage.provenance_of(planned), **PLAYED_BY}
        self._outcome = asyncio.create_task(self._ended(attempt, Begun(planned), provenance))
        self._outcome.add_done_callback(_looked_at)

    async def opened(self) -> None:
        """
        Wait until the environment is open.

        Raises:
            Refusal: it could not be opened.
        """
        await self._wanted(Attempt.opened)
        if self._is_recorded:  # else its client knows of no session, and asks for all of it in one request
            self._again = ANOTHER

    async def call(self, call: ToolCall) -> str:
        """
        Have a tool called; what the model did wrong is told in the text.

        Raises:
            Refusal: the environment failed, or the session is over.
        """
        text: str = await self._wanted(lambda attempt: attempt.call(call))
        return text

    async def do(self, wish: Callable[[OpenEnvironment, BoundModel], Awaitable[Any]]) -> Any:
        """
        Have something done with the environment and its model.

        Raises:
            Refusal: the environment failed, or the session is over.
        """
        return await self._wanted(lambda attempt: attempt.do(wish))

    async def verify(self, trajectory: Trajectory, response: Any) -> Score:
        """
        Have what happened scored and kept, once, and the environment closed; who asks again gets the same.

        Args:
            trajectory: What happened.
            response: The same as it came, which tells one request from another.

        Raises:
            Refusal: it failed, or was scored with another response.
            StorageError: it cannot be kept.
        """
        digest = hashlib.blake2b(encode_json(response), digest_size=16).digest()
        with self.in_use():
            if self._scored is None:
                self._scored = trajectory.stop, digest
                if self._attempt is not None:
                    with suppress(AttemptEnded):
                        await self._attempt.finish(trajectory)
            outcome = await asyncio.shield(self._outcome)
        self.turns = []
        if not isinstance(outcome, Reward):
            raise self._refusal(outcome)
        stop, scored = self._scored
        if scored != digest:
            told = "the session was scored already, with another response"
            raise Refusal(409, told, hints=[f"try: {ANOTHER}"])
        return Score(outcome, stop)

    async def close(self) -> None:
        """End it; nothing is scored any more, and what it came to before is kept first."""
        if self._attempt is not None:
            await self._attempt.abandon()
        await asyncio.wait([self._outcome])

    def count(self) -> int:
        """Count the client's calls: each gets a number of its own."""
        self._calls += 1
        return self._calls

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Take note that its client wants something of it, so that it is not idle meanwhile."""
        self.busy += 1
        try:
            yield
        finally:
            self.busy -= 1
            self.heard = time.monotonic()

    @property
    def is_scored(self) -> bool:
        """Whether it was scored, or is being scored: `verify` tells then what comes of that."""
        return self._scored is not None

    @property
    def is_over(self) -> bool:
        """Whether its environment is closed."""
        return self._attempt is None or self._attempt.playing.done()

    async def _ended(self, attempt: Attempt, begun: Begun, provenance: dict[str, Any]) -> Reward | Failure | None:
        """
        Wait until it is over and what it came to is kept, and give its number back; nobody else does any of this.

        Returns:
            What it came to; None where it was ended before that.
        """
        try:
            await asyncio.wait([attempt.playing])
            self._attempt = None
            if not attempt.playing.cancelled():
                rollout = attempt.playing.result()
            elif self._late is not None:
                rollout = begun.failed(self._late)
            else:
                return None
            if self._is_recorded:
                rollout = await self._recorder.keep(begun.planned, replace(rollout, provenance=provenance))
            return rollout.reward if rollout.failure is None else rollout.failure
        finally:
            if self._is_recorded:
                self._recorder.give_back(begun.planned)

    async def _wanted(self, wish: Callable[[Attempt], Awaitable[Any]]) -> Any:
        """Have something done in it, or raise why that cannot be."""
        with self.in_use():
            try:
                if self._attempt is not None:
                    return await wish(self._attempt)
            except AttemptEnded:
                pass
            except TimeoutError as late:
                told = f"{late} ({self._limits.rollout_option})"
                self._late = Failure(stage="timeout", error="TimeoutError", message=told, retryable=True)
            raise self._refusal(await asyncio.shield(self._outcome)) from None

    def _refusal(self, outcome: Reward | Failure | None) -> BaseException:
        if isinstance(outcome, Failure):
            return FailedRollout(self._unplayable.told(self.task, outcome), self._again)
        if outcome is None and self._recorder.is_stopping:
            return self._recorder.interrupted()
        return Refusal(410, "the session is over", hints=[f"try: {ANOTHER}"])


def _looked_at(outcome: asyncio.Task[Any]) -> None:
    """Leave an error to whoever asks; perhaps nobody does."""
    if not outcome.cancelled():
        outcome.exception()


class Sessions:
    """
    All sessions of a server; close it in the end.

    Args:
        executor: What plays them; `directed` makes it.
        stage: What they share with all other rollouts.
        recorder: Who numbers what they come to, and keeps it.
        unplayable: What is not played any more.
        idle_s: After how long an idle one is closed.
        most: How many there may be.
        scored_s: How long it is remembered what one was scored with.
    """

    def __init__(
        self,
        executor: Executor,
        stage: Stage,
        recorder: Recorder,
        unplayable: Unplayable,
        *,
        idle_s: float = IDLE_S,
        most: int = MOST,
        scored_s: float = SCORED_S,
    ) -> None:
        self._executor = executor
        self._stage = stage
        self._recorder = recorder
        self._unplayable = unplayable
        self._scored_s = scored_s
        self._idle_s = idle_s
        self._most = most
        # Nothing is derived from a key that is random already.
        self._signer = itsdangerous.Signer(secrets.token_bytes(32), key_derivation="none")
        self._sessions: dict[str, ClientSession] = {}
        self._gone: dict[str, str] = {}
        """Why the last sessions that were closed are."""
        self._count = 0
        self._is_cancelled = self._is_closed = False
        self._closing: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._sweep = self._loop.call_later(SWEEP_S, self._close_idle)

    def __len__(self) -> int:
        return sum(not session.is_over for session in self._sessions.values())

    async def open(self, sent: SentRow, *, is_recorded: bool = True) -> tuple[str, ClientSession]:
        """
        Open an environment for a row.

        Args:
            sent: The row.
            is_recorded: Whether what becomes of it is kept in the run folder.

        Returns:
            The signed name of the session, and the session.

        Raises:
            Refusal: it could not be opened, its task ends its workers, there are too many, or the server has stopped.
        """
        if self._is_closed or self._recorder.is_stopping:
            raise stopping()
        self._unplayable.refuse(sent.row.identity)
        if len(self._sessions) >= self._most and len(self) >= self._most:
            told = f"{self._most:,} sessions are open, and no more may be"
            raise Refusal(503, told, hints=["try: again when some are closed"], headers={"retry-after": "1"})
        name = secrets.token_urlsafe(18)
        planned = self._recorder.take(sent) if is_recorded else Planned(0, sent.route, sent.row, self._count)
        session = self._sessions[name] = ClientSession(
            self._executor, self._stage, sent, planned, self._recorder, self._unplayable, is_recorded=is_recorded
        )
        self._count += 1
        try:
            await session.opened()
        except BaseException:
            self._sessions.pop(name, None)
            self._close(session)
            raise
        return self._signer.sign(name.encode()).decode(), session

    def find(self, cookies: Mapping[str, str]) -> tuple[str, ClientSession] | None:
        """
        Find the session that a request belongs to; None where it names none.

        Raises:
            Refusal: the session that it names is closed, or never was.
            StorageError: it is closed, because nothing can be kept any more.
        """
        signed = cookies.get(COOKIE)
        if not signed:
            return None
        name = self._name_of(signed)
        session = self._sessions.get(name)
        if session is None:
            if self._is_closed and self._recorder.lost is not None:
                raise self._recorder.lost
            ended = "the server is stopping" if self._is_closed else "it was over long ago"
            why = self._gone.get(name, ended if name else "another server opened it, or none")
            raise Refusal(410, f"the session is closed: {why}", hints=[f"try: {ANOTHER}"])
        session.heard = time.monotonic()
        return signed, session

    def in_use(self, signed: str) -> AbstractContextManager[None]:
        """Keep a session, where there is one of this name, from being closed as idle while inside."""
        session = self._sessions.get(self._name_of(signed))
        return nullcontext() if session is None else session.in_use()

    async def end(self, signed: str) -> None:
        """Close a session whose client has no more use for it, and wait until its environment is closed."""
        name = self._name_of(signed)
        if name in self._sessions:
            await self._forget(name, "its client closed it, or opened another in its place").close()

    def _name_of(self, signed: str) -> str:
        """Return the name that was signed here; an empty one where it was not."""
        try:
            return self._signer.unsign(signed.encode()).decode()
        except (itsdangerous.BadSignature, UnicodeError):
            return ""

    def _forget(self, name: str, why: str) -> ClientSession:
        """Take a session away, and remember a while why, for whoever still asks for it."""
        self._gone[name] = why
        if len(self._gone) > self._most:
            del self._gone[next(iter(self._gone))]
        return self._sessions.pop(name)

    def unfinished(self, within_s: float) -> int:
        """Count the open sessions of which something was heard lately: their clients may still want a reward."""
        since = time.monotonic() - within_s
        sessions = self._sessions.values()
        return sum(session.busy > 0 or (not session.is_over and session.heard > since) for session in sessions)

    async def drain(self, limit_s: float) -> None:
        """
        Wait a while until what is unfinished is scored or closed, or somebody says `cancel`.

        What is not open yet, because its environment waits for what is gone, is not waited for, and nothing is once
        nothing can be kept any more.
        """
        self._executor.withdraw()
        until = time.monotonic() + limit_s
        while time.monotonic() < until and self.unfinished(limit_s):
            if self._is_cancelled or self._recorder.lost is not None:
                return
            await asyncio.sleep(0.05)

    def cancel(self) -> None:
        """Have nobody wait for sessions any more."""
        self._is_cancelled = True

    async def aclose(self) -> None:
        """Close every session, and open no other."""
        self._is_closed = True
        self._sweep.cancel()
        sessions, self._sessions = list(self._sessions.values()), {}
        for session in sessions:
            self._close(session)
        if self._closing:
            await asyncio.wait(self._closing)

    def _close(self, session: ClientSession) -> None:
        closing = self._loop.create_task(session.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def _close_idle(self) -> None:
        now = time.monotonic()
        for name, session in list(self._sessions.items()):
            kept_s = min(self._scored_s, self._idle_s) if session.is_over else self._idle_s
            if session.heard < now - kept_s and not session.busy:
                over = "it was over, and " if session.is_over else ""
                self._close(self._forget(name, f"{over}nothing was heard of it for {kept_s:g} s"))
        self._sweep = self._loop.call_later(SWEEP_S, self._close_idle)
