"""
Environments that a client plays itself: opened for one row, called tool by tool, scored once, and always closed.

What is scored, or fails, is a rollout like those that are played here, and kept like them before its client is told.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import itsdangerous

from gymcore.composition import Route
from gymcore.documents import encode_json
from gymcore.interfaces import BoundModel, OpenEnvironment
from gymcore.records import Failure, Reward, Rollout, ToolCall, Trajectory, Turn
from gymcore.runtime.attempt import Attempt, AttemptEnded
from gymcore.runtime.executor import Executor
from gymcore.runtime.schedule import Planned
from gymcore.runtime.session import Stage
from gymcore.serving.on_demand import OnDemand
from gymcore.serving.refusals import FailedRollout, Refusal, stopping
from gymcore.serving.rows import SentRow

__all__ = ["COOKIE", "ClientSession", "Score", "Sessions", "named_by", "set_cookie"]

COOKIE = "gymcore_session"
"""The cookie that names a session; it is signed, and every answer sends it again."""

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
    response: bytes
    """The digest of the response that was scored."""


class ClientSession:
    """
    One environment in the hands of a client.

    Args:
        executor: What plays it.
        stage: What it shares with all other rollouts, such as how long one thing in it may take.
        sent: The row it is opened for.
        planned: Which rollout it is.
        recorder: Who keeps what becomes of it, and gave it its number; None where nothing is kept.

    Attributes:
        sent: The row it was opened for.
        heard: When the client last wanted something, in seconds of the monotonic clock.
        turns: What a client that steps has done so far.
    """

    def __init__(
        self,
        executor: Executor,
        stage: Stage,
        sent: SentRow,
        planned: Planned,
        recorder: OnDemand | None,
    ) -> None:
        self.sent = sent
        self.heard = time.monotonic()
        self.busy = 0
        self.turns: list[Turn] = []
        self._calls = 0
        self._planned = planned
        self._provenance = {**stage.provenance_of(planned), **PLAYED_BY}
        self._recorder = recorder
        self._has_number = recorder is not None
        self._again = SAME
        self._started_at, self._started = time.time(), time.perf_counter()
        self._limits = stage.limits[planned.route.environment]
        self._attempt = Attempt(executor, planned, self._limits.rollout_s)
        self._scoring: asyncio.Task[Score] | None = None
        self._recording: asyncio.Task[Rollout] | None = None

    @property
    def route(self) -> Route:
        """Who serves it."""
        return self.sent.route

    async def opened(self) -> None:
        """
        Wait until the environment is open.

        Raises:
            Refusal: it could not be opened.
        """
        await self._guarded(self._attempt.opened())
        if self._recorder is not None:  # else its client knows of no session, and asks for all of it in one request
            self._again = ANOTHER

    async def call(self, call: ToolCall) -> str:
        """
        Have a tool called; what the model did wrong is told in the text.

        Raises:
            Refusal: the environment failed, or the session is over.
        """
        text: str = await self._guarded(self._attempt.call(call))
        return text

    async def do(self, wish: Callable[[OpenEnvironment, BoundModel], Awaitable[Any]]) -> Any:
        """
        Have something done with the environment and its model.

        Raises:
            Refusal: the environment failed, or the session is over.
        """
        return await self._guarded(self._attempt.do(wish))

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
        if self._scoring is None:
            self._scoring = asyncio.create_task(self._score(trajectory, digest))
        score = await asyncio.shield(self._scoring)
        if score.response != digest:
            told = "the session was scored already, with another response"
            raise Refusal(409, told, hints=[f"try: {ANOTHER}"])
        return score

    async def _score(self, trajectory: Trajectory, digest: bytes) -> Score:
        rollout: Rollout = await self._guarded(self._finished(trajectory))
        self.turns = []
        if rollout.failure is not None:
            raise FailedRollout(rollout.failure, self._again)
        assert rollout.reward is not None  # a rollout has one of the two
        return Score(rollout.reward, trajectory.stop, digest)

    async def _finished(self, trajectory: Trajectory) -> Rollout:
        return await self._recorded(await self._attempt.finish(trajectory))

    async def _recorded(self, rollout: Rollout) -> Rollout:
        """Have what became of it kept, once, and wait until it is safe."""
        if self._recorder is None:
            return rollout
        if self._recording is None:
            rollout = replace(rollout, provenance=self._provenance)
            self._recording = asyncio.create_task(self._recorder.keep(self._planned, rollout))
            self._recording.add_done_callback(lambda _: self._let_go())
        return await asyncio.shield(self._recording)

    def _let_go(self) -> None:
        if self._recorder is not None and self._has_number:
            self._has_number = False
            self._recorder.give_back(self._planned)

    async def close(self) -> None:
        """End it; nothing is scored any more, and what was scored is kept first."""
        await self._attempt.abandon()
        for last in (self._scoring, self._recording):
            if last is not None:
                await asyncio.wait([last])
        self._let_go()

    def count(self) -> int:
        """Count the client's calls: each gets a number of its own."""
        self._calls += 1
        return self._calls

    @property
    def is_scored(self) -> bool:
        """Whether it was scored, or is being scored: `verify` tells then what comes of that."""
        return self._scoring is not None

    @property
    def is_over(self) -> bool:
        """Whether its environment is closed."""
        return self._attempt.playing.done()

    async def _guarded(self, work: Awaitable[Any]) -> Any:
        self.busy += 1
        try:
            return await work
        except AttemptEnded as ended:
            if ended.rollout is not None and ended.rollout.failure is not None:
                raise await self._failed(ended.rollout, ended.rollout.failure) from None
            raise Refusal(410, "the session is over", hints=[f"try: {ANOTHER}"]) from None
        except TimeoutError as late:
            told = f"{late} ({self._limits.rollout_option})"
            failure = Failure(stage="timeout", error="TimeoutError", message=told, retryable=True)
            raise await self._failed(self._without_reward(failure), failure) from None
        finally:
            self.busy -= 1
            self.heard = time.monotonic()

    async def _failed(self, rollout: Rollout, failure: Failure) -> FailedRollout:
        await self._recorded(rollout)
        return FailedRollout(failure, self._again)

    def _without_reward(self, failure: Failure) -> Rollout:
        """Return the rollout that it was, of which nothing else will be told: it is being ended."""
        return Rollout(
            self._planned.row,
            self._planned.repeat,
            Trajectory(),
            failure=failure,
            started_at=self._started_at,
            duration_s=time.perf_counter() - self._started,
        )


_NAMED = re.compile(rf'(?:^|[;,])\s*{COOKIE}="?([\w.-]{{1,200}})"?\s*(?=[;,]|$)', re.ASCII)


def named_by(cookies: str) -> str | None:
    """Return the session that a Cookie header names, whether there is one or not; None where it names none."""
    named = _NAMED.findall(cookies)
    return named[-1] if named else None


def set_cookie(name: str) -> str:
    """Return the Set-Cookie header that names a session."""
    return f"{COOKIE}={name}; Path=/; HttpOnly; SameSite=Strict"


class Sessions:
    """
    All sessions of a server; close it in the end.

    Args:
        executor: What plays them; `directed` makes it.
        stage: What they share with all other rollouts.
        recorder: Who numbers what they come to, and keeps it.
        idle_s: After how long an idle one is closed.
        most: How many there may be.
        scored_s: How long it is remembered what one was scored with.
    """

    def __init__(
        self,
        executor: Executor,
        stage: Stage,
        recorder: OnDemand,
        *,
        idle_s: float = IDLE_S,
        most: int = MOST,
        scored_s: float = SCORED_S,
    ) -> None:
        self._executor = executor
        self._stage = stage
        self._recorder = recorder
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
            Refusal: it could not be opened, there are too many, or the server has stopped.
        """
        if self._is_closed:
            raise stopping()
        if len(self._sessions) >= self._most and len(self) >= self._most:
            told = f"{self._most:,} sessions are open, and no more may be"
            raise Refusal(503, told, hints=["try: again when some are closed"], headers={"retry-after": "1"})
        name = secrets.token_urlsafe(18)
        recorder = self._recorder if is_recorded else None
        planned = Planned(0, sent.route, sent.row, self._count) if recorder is None else recorder.take(sent)
        session = self._sessions[name] = ClientSession(self._executor, self._stage, sent, planned, recorder)
        self._count += 1
        try:
            await session.opened()
        except BaseException as error:
            self._sessions.pop(name, None)
            self._close(session)
            if self._recorder.is_stopping and isinstance(error, Refusal) and not isinstance(error, FailedRollout):
                raise stopping() from None  # it waited for what is gone, and was withdrawn
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
        try:
            name = self._signer.unsign(signed.encode()).decode()
        except (itsdangerous.BadSignature, UnicodeError):
            name = ""
        session = self._sessions.get(name)
        if session is None:
            if self._is_closed and self._recorder.lost is not None:
                raise self._recorder.lost
            ended = "the server is stopping" if self._is_closed else "it was over long ago"
            why = self._gone.get(name, ended if name else "another server opened it, or none")
            raise Refusal(410, f"the session is closed: {why}", hints=[f"try: {ANOTHER}"])
        session.heard = time.monotonic()
        return signed, session

    async def end(self, signed: str) -> None:
        """Close a session whose client has no more use for it, and wait until its environment is closed."""
        name = self._signer.unsign(signed.encode()).decode()
        if name in self._sessions:
            await self._forget(name, "its client closed it, or opened another in its place").close()

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

        What is not open yet, because its environment waits for what is gone, is not waited for.
        """
        until = time.monotonic() + limit_s
        while time.monotonic() < until and not self._is_cancelled and self.unfinished(limit_s):
            self._executor.withdraw()
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
