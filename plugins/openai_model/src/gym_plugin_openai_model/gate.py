"""
The gate in front of one address: every request passes it, and while all is well nothing happens there.

What the endpoint says and suffers decides how many pass and when; the decisions are made in `retries`, `breaker` and
`concurrency_limit`, and here calls wait for them.
"""

from __future__ import annotations

import asyncio
import math
import random as random_module
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from gym_plugin_openai_model.breaker import Breaker
from gym_plugin_openai_model.concurrency_limit import ConcurrencyLimit
from gym_plugin_openai_model.line import Line
from gym_plugin_openai_model.retries import MAX_RETRY_AFTER_S, MAX_WAIT_S, Fault, RetryBudget
from gymcore import Note

__all__ = ["ElsewhereError", "Gate", "OutOfPatienceError", "Ticket"]

MOVE_AFTER_S = 10.0
"""Whoever would have to pause longer asks another address, where there is one."""
REST_S = MAX_WAIT_S + 5.0
"""Nobody waits so long before the next try of a call: where nothing was asked meanwhile, nobody was there to ask."""


class ElsewhereError(Exception):
    """Another address of the same model has room for this call."""


class OutOfPatienceError(Exception):
    """Every address has been down for longer than anybody wants to wait."""


class Ticket(NamedTuple):
    """What a request holds while it is in flight."""

    number: int
    began: float
    is_probe: bool
    """Whether the address was down when the request was sent."""


class Gate:
    """
    Lets requests through to one address.

    Args:
        max_in_flight: Requests in flight, at most; None for no bound.
        patience_s: How long the address may be down before waiting for it has no point.
        sleep: Waits some seconds.
        clock: Gives seconds that only grow.
        random: Gives numbers from 0.0 to 1.0.

    Attributes:
        gates: The gates of all addresses of the model, this one included.
        in_flight: Requests that have passed and not come back.
    """

    def __init__(
        self,
        *,
        max_in_flight: int | None = None,
        patience_s: float = 1800.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        self.gates = [self]
        self.in_flight = 0
        self.breaker = Breaker(patience_s, random)
        self.limit = ConcurrencyLimit()
        self._budget = RetryBudget()
        self._max_in_flight = math.inf if max_in_flight is None else max_in_flight
        self._clock = clock
        self._newest = 0
        self._busy_until = -math.inf
        self._paused_until = -math.inf
        self._is_paused = False
        self._shut: str | None = None
        self._queue = Line(self._wait_s, sleep)
        self._retries = Line(self._retry_wait_s, sleep)

    # -- passing -----------------------------------------------------------------------------------------------------

    def pass_at_once(self) -> Ticket | None:
        """Let the first try of a call through if nothing is in its way; None when it has to wait."""
        if (
            self._is_paused
            or self.breaker.is_open
            or self._shut is not None
            or self._queue.waiting
            or self.in_flight >= self._max_in_flight
            or self.in_flight + 1 > self.limit.value
        ):
            return None
        if self.breaker.since is not None:
            self._look_back()
        return self._let_through()

    async def wait(self, *, is_retry: bool) -> Ticket:
        """
        Wait until a request may be sent.

        Args:
            is_retry: The call was made before; the budget for retries is asked first.

        Raises:
            ElsewhereError: this address is down and another one is not.
            OutOfPatienceError: every address has been down for too long.
        """
        self._look_back()
        try:
            if is_retry:
                await self._retries.wait()
                if not self.breaker.is_open:
                    self._budget.spend(self._clock())
            await self._queue.wait()
        finally:
            self._retries.changed()
            self._busy_until = self._clock()
        if self.breaker.is_open:
            self.breaker.probed(self._clock())
        return self._let_through()

    def _look_back(self) -> None:
        """Where nobody was here for a while, let an old fault not count as an outage that has lasted since."""
        is_alone = not (self.in_flight or self._queue.waiting or self._retries.waiting)
        if is_alone and self._clock() - self._busy_until > REST_S:
            self.breaker.rested()

    def _let_through(self) -> Ticket:
        self._newest += 1
        self.in_flight += 1
        return Ticket(self._newest, self._clock(), self.breaker.is_open)

    def _wait_s(self) -> float:
        """Return how long the first of the queue has to wait, as far as is known."""
        now = self._clock()
        if not self.is_available(now) and self._is_working_elsewhere(now):
            raise ElsewhereError
        if self._shut is not None:
            raise OutOfPatienceError
        if now >= self._paused_until:
            self._is_paused = False
        if self._is_paused or self.breaker.is_open:
            left_s = max(gate.gives_up_at for gate in self.gates) - now
            if left_s <= 0:
                raise OutOfPatienceError
            if self._is_paused:
                return min(self._paused_until - now, left_s)
            if self.in_flight >= self._max_in_flight:
                return left_s
            return min(self.breaker.wait_s(now), left_s)
        has_room = self.in_flight < self._max_in_flight and self.limit.has_room(self.in_flight)
        return 0.0 if has_room else math.inf

    def _retry_wait_s(self) -> float:
        now = self._clock()
        if self._shut is None and not self.breaker.is_open:
            return self._budget.wait_s(now)
        # While the address is down its breaker paces, and needs no more than one who is ready to try.
        is_needed = self._shut is not None or not self._queue.waiting or self._is_working_elsewhere(now)
        return 0.0 if is_needed else math.inf

    def _is_working_elsewhere(self, now: float) -> bool:
        return any(gate.is_working(now) for gate in self.gates)

    # -- what came back ----------------------------------------------------------------------------------------------

    def answered(self, ticket: Ticket) -> None:
        """Note a reply."""
        was_open = self.breaker.is_open
        if self.breaker.since is not None or not self.breaker.is_proven:
            self.breaker.answered()
            if was_open:
                self.limit.recover()
        if not self.limit.is_at_rest:
            # The time of sending will do, and saves a look at the clock.
            self.limit.replied(
                number=ticket.number,
                in_flight=self.in_flight,
                is_waited_for=bool(self._queue.waiting),
                now=ticket.began,
            )
        self._budget.earn()
        if self._retries.waiting:
            self._retries.changed()
        self._leave()
        if was_open:
            self.wake()

    def failed(self, ticket: Ticket, fault: Fault) -> None:
        """Note a request that brought no reply."""
        now = self._clock()
        if fault.kind == "terminal":  # the endpoint is well: it looked at the request and refused it
            self.answered(ticket)
            return
        self._busy_until = now
        was_open = self.breaker.is_open
        self.breaker.failed(fault, began=ticket.began, now=now, in_flight=self.in_flight - 1)
        pause_s = min(fault.retry_after_s or 0.0, MAX_RETRY_AFTER_S)
        if was_open and not self.breaker.is_open:
            self.limit.recover()
        elif fault.is_throttling:
            self.limit.throttled(
                number=ticket.number, newest=self._newest, in_flight=self.in_flight, now=now, pause_s=pause_s
            )
        if pause_s:
            self._is_paused = True
            self._paused_until = max(self._paused_until, now + pause_s)
        self._leave()
        if was_open != self.breaker.is_open:
            self.wake()

    def left(self) -> None:
        """Note a request that was given up by us."""
        self._busy_until = self._clock()
        self._leave()

    def _leave(self) -> None:
        self.in_flight -= 1
        if self._queue.waiting:
            self._queue.changed()

    def shut(self, why: str) -> None:
        """Let nobody through any more: the address refuses everybody."""
        self._shut = why
        self.wake()

    def reopen(self) -> None:
        """Let calls through again, as if nothing had been."""
        self._shut = None
        self.breaker.forget()

    def wake(self) -> None:
        """Let those who wait at any address look again: one has changed."""
        for gate in self.gates:
            gate._queue.changed()
            gate._retries.changed()

    # -- where it stands ---------------------------------------------------------------------------------------------

    @property
    def is_shut(self) -> bool:
        """Whether the address refuses everybody."""
        return self._shut is not None

    def is_working(self, now: float) -> bool:
        """Whether calls from elsewhere may come here."""
        return not self.breaker.is_open and self.is_available(now)

    def is_available(self, now: float) -> bool:
        """Whether a call that belongs here should ask here: the address works, or it is time to try it again."""
        if self._shut is not None or (self._is_paused and self._paused_until - now > MOVE_AFTER_S):
            return False
        return self.breaker.wait_s(now) == 0

    @property
    def gives_up_at(self) -> float:
        """When waiting has no point any more."""
        return -math.inf if self._shut is not None else self.breaker.gives_up_at

    def status(self, shown_time: Callable[[float], str]) -> Note | None:
        """
        Say in a few words what keeps calls from passing; None when nothing does.

        Args:
            shown_time: Writes a moment of the gate's own clock as people read it.

        Returns:
            What is so, and since when, as its key; the counts and countdowns are details.
        """
        now = self._clock()
        waiting = len(self._queue.waiting) + len(self._retries.waiting)
        wait = f"{waiting:,} calls wait" if waiting != 1 else "1 call waits"
        if self._shut is not None:
            return Note(f"is not asked any more ({self._shut})")
        if self.breaker.is_open and self.breaker.since is not None:
            key = f"is down since {shown_time(self.breaker.since)}"
            return Note(f"{key} ({self.breaker.why}), {wait}, next try in {self.breaker.wait_s(now):.0f} s", key=key)
        # One state, though it is seen in several ways, which take turns: more is asked than the endpoint wants.
        if self._is_paused and self._paused_until > now:
            text = f"asks everybody to wait, for another {self._paused_until - now:.0f} s; {wait}"
            return Note(text, key="throttles")
        if self._retries.waiting:
            key = "gives more faults than replies"
            return Note(f"{key} ({self.breaker.why}), {wait}", key=key)
        if self.limit.value != math.inf:
            what = "throttles" if self.limit.has_throttled else "answers again"
            return Note(f"{what}: {int(self.limit.value):,} in flight at most, {wait}", key=what)
        return None
