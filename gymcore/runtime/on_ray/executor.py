"""
Hands rollouts to workers on Ray and takes them back; what a dead worker was playing is a failure, and nothing is lost.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from gymcore.composition import Composition
from gymcore.composition.locking.lock import lock_digest
from gymcore.errors import GymcoreError, PlanError, PluginError, Problem
from gymcore.records import Failure, Rollout, Trajectory, seed_of
from gymcore.runtime.on_ray.cluster import Cluster, open_cluster
from gymcore.runtime.on_ray.worker import (
    BATCH_BYTES,
    Given,
    RayWorker,
    Setup,
    Taken,
    describe_setup,
    read_error,
    read_rollout,
)
from gymcore.runtime.schedule import Planned

__all__ = ["RayExecutor", "open_ray"]

WAIT_S = 2.0
"""After so long a worker that has finished nothing tells at least what a person should know."""

CLOSE_S = 15.0
"""How long workers may take to close what they play and their plugins; then their processes are ended."""

SLACK_S = 30.0
"""A worker that was silent for longer than any of its rollouts may take, and so much more, answers no more."""

OPENINGS = 3
"""When every worker has failed so often in a row to start in place of one that died, the run ends."""

LONGEST_PAUSE_S = 30.0
"""The longest pause before a worker is started in place of one that died without finishing anything."""

SLOTS = 16
"""Calls that a worker answers at once: a few, because rollouts travel many in one call."""

MESSAGE_LENGTH = 1500


@asynccontextmanager
async def open_ray(
    composition: Composition, *, close_s: float = CLOSE_S, slack_s: float = SLACK_S
) -> AsyncIterator[RayExecutor]:
    """
    Open the plugins of a composition in workers on Ray, and close them at the end.

    Args:
        composition: What is to be played.
        close_s: How long workers may take to close what they play and their plugins; then their processes are ended.
        slack_s: How much longer than its longest rollout may take a worker may be silent; then its process is ended.

    Raises:
        PlanError: Ray is not installed, cannot be used, or has no room for the workers.
        PluginError: a plugin could not be opened.
    """
    plan = composition.plan.collect
    async with open_cluster(plan.ray, plan.concurrency) as cluster:
        executor = RayExecutor(cluster, composition, close_s, slack_s)
        try:
            await executor.open()
            yield executor
        except BaseException:
            with suppress(GymcoreError):  # what ended the run is the news
                await executor.close()
            raise
        else:
            await executor.close()
        finally:
            await executor.end()


@dataclass(eq=False, slots=True)
class _Play:
    """A rollout that somebody waits for."""

    given: Given
    outcome: asyncio.Future[Taken]
    started_at: float
    is_given: bool = False
    """Whether a worker may have begun it."""


@dataclass(eq=False, slots=True)
class _Seat:
    """A place for one worker at a time, with what it is to play."""

    number: int
    actor: Any = None  # Ray's handle
    pid: int = 0
    is_open: bool = False
    """Whether there is a worker that can be given something."""
    was_open: bool = False
    """Whether one of its workers has opened the plugins."""
    failures: int = 0
    """How often in a row none could."""
    is_reserved: bool = False
    """Whether one rollout has it for itself."""
    playing: dict[int, _Play] = field(default_factory=dict)
    """By ticket: what is with the worker, and what is on its way there."""
    waiting: deque[_Play] = field(default_factory=deque)
    """What is to be sent."""
    news: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when something waits to be sent."""
    finished: int = 0
    """Rollouts that its workers gave back."""
    notes: tuple[str, ...] = ()


class RayExecutor:
    """
    Plays rollouts in workers on Ray; each goes to the worker with the fewest in flight.

    Args:
        cluster: Where the workers are started.
        composition: What they open.
        close_s: How long they may take to close it.
        slack_s: How much longer than the longest rollout may take they may be silent.
    """

    def __init__(self, cluster: Cluster, composition: Composition, close_s: float, slack_s: float) -> None:
        collect = composition.plan.collect
        bounds = (route.plan.timeout_s or collect.timeout_s for route in composition.routes.values())
        self._silent_s = WAIT_S + max(bounds, default=collect.timeout_s) + slack_s
        self._cluster = cluster
        self._close_s = close_s
        self._setup: Setup = describe_setup(composition, is_here=cluster.is_here)
        self._start_timeout_s = collect.ray.start_timeout_s
        self._seed = composition.plan.mix.seed
        self._lock = lock_digest(composition.lock)
        self._actor_class = cluster.ray.remote(RayWorker)
        self._seats = [_Seat(number) for number in range(1, cluster.workers + 1)]
        self._keeping: list[asyncio.Task[None]] = []
        self._tickets = itertools.count()
        self._changed = asyncio.Event()
        # Where there is more than one worker, one at least plays what need not be alone.
        self._alone = asyncio.Semaphore(max(1, len(self._seats) - 1))
        self._error: Exception | None = None
        self._is_cancelled = self._is_withdrawing = False
        self._overdue: asyncio.TimerHandle | None = None

    @property
    def workers(self) -> tuple[int, ...]:
        """The numbers of the workers' processes, on whatever machines they are."""
        return tuple(seat.pid for seat in self._seats if seat.is_open)

    def _notify(self) -> None:
        """Wake everybody who waits for a seat to change."""
        self._changed.set()
        self._changed = asyncio.Event()

    # -- opening and closing -----------------------------------------------------------------------------------------

    async def open(self) -> None:
        """
        Start every worker.

        Raises:
            PlanError: some could not be started in time.
            PluginError: a plugin could not be opened.
        """
        self._keeping = [asyncio.create_task(self._keep(seat)) for seat in self._seats]
        with suppress(TimeoutError):
            async with asyncio.timeout(self._start_timeout_s):
                while self._error is None and not all(seat.is_open for seat in self._seats):
                    await self._changed.wait()
        if self._error is not None:
            raise self._error
        ready = sum(seat.is_open for seat in self._seats)
        if ready < len(self._seats):
            message = f"only {ready} of {len(self._seats)} Ray workers could be started in {self._start_timeout_s:g} s"
            hint = f"Ray has {self._cluster.cpus:g} CPUs in all, and each worker needs one that is free"
            raise PlanError([Problem(message, "collect.ray", (hint, "try: fewer, with --workers N"))])

    async def close(self) -> None:
        """
        Close what is still played, and the plugins.

        Raises:
            PluginError: a plugin could not be closed.
        """
        self.cancel()
        closing = [asyncio.ensure_future(seat.actor.close.remote()) for seat in self._seats if seat.is_open]
        if not closing:
            return
        done, late = await asyncio.wait(closing, timeout=self._close_s)
        for waiting in late:
            waiting.cancel()
        told = [closed.result() for closed in done if closed.exception() is None]  # one that died needs no closing
        raised = [read_error(error) for error in told if error is not None]
        if raised:
            raise raised[0]

    async def end(self) -> None:
        """End the processes of the workers; what they still play is lost."""
        self.cancel()
        if self._overdue is not None:
            self._overdue.cancel()
        for keeping in self._keeping:
            keeping.cancel()
        if self._keeping:
            await asyncio.wait(self._keeping)
        for seat in self._seats:
            self._kill(seat)

    def _kill(self, seat: _Seat) -> None:
        actor, seat.actor, seat.is_open = seat.actor, None, False
        if actor is not None:
            with suppress(Exception):  # whatever Ray raises of one that is gone already
                self._cluster.ray.kill(actor, no_restart=True)

    # -- workers -----------------------------------------------------------------------------------------------------

    async def _keep(self, seat: _Seat) -> None:
        """Keep a seat taken; what cannot be helped ends every rollout."""
        try:
            await self._keep_serving(seat)
        except Exception as error:
            self._error = self._error or error
            for other in self._seats:
                for play in list(other.playing.values()):
                    if not play.outcome.done():
                        play.outcome.set_exception(self._error)
        finally:
            self._notify()

    async def _keep_serving(self, seat: _Seat) -> None:
        """Start a worker, serve it, and start another where it dies."""
        pause_s = 0.0
        while True:
            finished = seat.finished
            cause = await self._open(seat)
            if cause is None:
                seat.was_open, seat.failures = True, 0
                cause = await self._serve(seat)
            else:
                seat.failures += 1
            self._kill(seat)
            self._bury(seat, cause)
            if self._is_cancelled:
                return
            if not seat.was_open or all(other.failures >= OPENINGS for other in self._seats):
                if isinstance(cause, GymcoreError):
                    raise cause
                hint = "try: --executor local, which shows whether a plugin ends its process"
                message = f"a Ray worker died while it opened the plugins: {_reason(cause)}"
                raise PluginError(message, hints=[hint])
            pause_s = 0.0 if seat.finished > finished else min(LONGEST_PAUSE_S, pause_s * 2 or 0.5)
            became = "could not be started again" if seat.failures else "died and is started again"
            seat.notes = (f"Ray worker {seat.number} {became}: {_reason(cause)}",)
            await asyncio.sleep(pause_s)

    async def _open(self, seat: _Seat) -> BaseException | None:
        """
        Start a worker; return why none could be, if so.

        Raises:
            BaseException: what is a mistake of ours over there.
        """
        options = {"num_cpus": 1, "max_restarts": 0, "max_concurrency": SLOTS, "scheduling_strategy": "SPREAD"}
        try:
            seat.actor = self._actor_class.options(**options).remote()
            async with asyncio.timeout(self._start_timeout_s):
                # As an argument of a call it goes straight to the worker; those of the actor itself are kept by Ray.
                told = await seat.actor.open.remote(self._setup)
        except (self._cluster.ray.exceptions.RayError, TimeoutError) as error:
            return _death(error)
        if isinstance(told, bytes):
            raised = read_error(told)
            if isinstance(raised, GymcoreError):  # a plugin could not be opened
                return raised
            raise raised
        seat.pid, seat.is_open, seat.notes = told, True, ()
        if self._is_withdrawing:
            seat.actor.withdraw.remote()
        self._notify()
        return None

    async def _serve(self, seat: _Seat) -> BaseException:
        """Give a worker what waits for it, and take what it finishes, until it dies; return how it did."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._give(seat, seat.actor))
                group.create_task(self._take(seat, seat.actor))
        except* (self._cluster.ray.exceptions.RayError, TimeoutError) as errors:
            found: BaseException = errors
            while isinstance(found, BaseExceptionGroup):
                found = found.exceptions[0]
            cause = _death(found)
        return cause

    async def _give(self, seat: _Seat, actor: Any) -> None:
        """Send what waits, all of it in one call; what comes meanwhile goes with the next."""
        while True:
            await seat.news.wait()
            seat.news.clear()
            while seat.waiting:
                batch: list[Given] = []
                size = 0
                while seat.waiting and size < BATCH_BYTES:
                    play = seat.waiting.popleft()
                    if not play.outcome.done():
                        play.is_given = True
                        batch.append(play.given)
                        size += len(play.given[2])
                if batch:
                    await actor.give.remote(batch)

    async def _take(self, seat: _Seat, actor: Any) -> None:
        while True:
            try:
                async with asyncio.timeout(self._silent_s):
                    taken, seat.notes = await actor.take.remote(WAIT_S)
            except TimeoutError:  # its event loop is blocked, or its process stopped
                raise TimeoutError(f"it did not answer for {self._silent_s:g} s") from None
            seat.finished += len(taken)
            for result in taken:
                play = seat.playing.get(result[0])
                if play is not None and not play.outcome.done():
                    play.outcome.set_result(result)

    def _bury(self, seat: _Seat, cause: BaseException) -> None:
        """Say of everything that a dead worker may have begun that it died with it; the rest goes to another one."""
        message = f"the Ray worker that played it (process {seat.pid}) ended: {_reason(cause)}".encode()
        seat.waiting.clear()
        for ticket, play in list(seat.playing.items()):
            if not play.outcome.done():
                what = "cancelled" if self._is_cancelled else "died" if play.is_given else "moved"
                play.outcome.set_result((ticket, what, message))

    # -- playing -----------------------------------------------------------------------------------------------------

    async def play(self, planned: Planned) -> Rollout:
        """Play one rollout to its end."""
        while True:
            playing = self._play_alone(planned) if planned.is_alone else self._play_anywhere(planned)
            rollout = await playing
            if rollout is not None:
                return rollout

    async def _play_anywhere(self, planned: Planned) -> Rollout | None:
        return await self._play_in(await self._free_seat(), planned)

    async def _play_alone(self, planned: Planned) -> Rollout | None:
        """
        Play a rollout in a worker that plays nothing else meanwhile, of no other environment either.

        Workers that played it have died. Should that happen again, nobody else can be suspected of it, nor be hit.
        """
        async with self._alone:
            seat = await self._free_seat()
            seat.is_reserved = True
            try:
                while seat.playing and not self._is_over:
                    await self._changed.wait()
                return await self._play_in(seat, planned)
            finally:
                seat.is_reserved = False
                self._notify()

    @property
    def _is_over(self) -> bool:
        return self._is_cancelled or self._error is not None

    def _raise_if_over(self) -> None:
        if self._error is not None:
            raise self._error
        if self._is_cancelled:
            raise asyncio.CancelledError

    async def _free_seat(self) -> _Seat:
        """Wait for a seat that is nobody's own, and return the one with the least to do."""
        while True:
            self._raise_if_over()
            best: _Seat | None = None
            for seat in self._seats:
                if seat.is_open and not seat.is_reserved and (best is None or len(seat.playing) < len(best.playing)):
                    best = seat
            if best is not None:
                return best
            await self._changed.wait()

    async def _play_in(self, seat: _Seat, planned: Planned) -> Rollout | None:
        """Play a rollout in a seat; None where its worker is gone and had not begun it."""
        self._raise_if_over()
        if not seat.is_open:
            return None
        ticket = next(self._tickets)
        given = (ticket, planned.route.name, planned.row.data, planned.repeat, planned.position)
        play = _Play(given, asyncio.get_running_loop().create_future(), time.time())
        seat.playing[ticket] = play
        seat.waiting.append(play)
        seat.news.set()
        try:
            _, what, content = await play.outcome
        finally:
            del seat.playing[ticket]
            if seat.is_reserved and not seat.playing:
                self._notify()
        if what == "rollout":
            return read_rollout(content, planned)
        if what == "error":
            raise read_error(content)
        if what == "cancelled":
            raise asyncio.CancelledError
        if what == "moved":
            return None
        return self._died(planned, play, content.decode())

    def _died(self, planned: Planned, play: _Play, message: str) -> Rollout:
        """Return what there is of an attempt whose worker died."""
        return Rollout(
            row=planned.row,
            repeat=planned.repeat,
            trajectory=Trajectory(),
            failure=Failure(stage="worker", error="WorkerDied", message=message[:2000], retryable=True),
            started_at=play.started_at,
            duration_s=max(0.0, time.time() - play.started_at),
            provenance={
                "lock": self._lock,
                "agent": planned.route.agent_plugin.name,
                "model": planned.route.model,
                "seed": seed_of(self._seed, planned.key[1]),
            },
        )

    def withdraw(self) -> None:
        """Stop, now and later, every rollout that has not begun because its environment waits for what is gone."""
        self._is_withdrawing = True
        for seat in self._seats:
            if seat.is_open:
                seat.actor.withdraw.remote()

    def cancel(self) -> None:
        """Stop every rollout that is being played; the environments are closed where they play."""
        if self._is_cancelled:
            return
        self._is_cancelled = True
        for seat in self._seats:
            for play in list(seat.playing.values()):
                if not play.is_given and not play.outcome.done():
                    play.outcome.cancel()
            if seat.is_open:
                seat.actor.cancel.remote()
        self._notify()
        # A worker whose verifier never returns hears nothing, and would hold everybody up.
        self._overdue = asyncio.get_running_loop().call_later(self._close_s, self._end_overdue)

    def _end_overdue(self) -> None:
        for seat in self._seats:
            if seat.playing:
                self._kill(seat)

    def notes(self) -> tuple[str, ...]:
        """Return what the models say of their endpoints, each line once, and which workers are missing."""
        return tuple(dict.fromkeys(line for seat in self._seats for line in seat.notes))


def _death(error: BaseException) -> BaseException:
    """
    Return how a worker died.

    Raises:
        BaseException: it did not: a call raised, which is a mistake of ours over there.
    """
    if "RayTaskError" in {kind.__name__ for kind in type(error).__mro__}:
        raise error
    return error


def _reason(error: BaseException) -> str:
    """Say why a worker died, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("class_name:", "actor_id:", "pid:", "namespace:", "ip:"))]
    return " ".join(told)[:MESSAGE_LENGTH] or type(error).__name__
