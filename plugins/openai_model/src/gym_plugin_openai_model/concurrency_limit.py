"""
How many requests may be in flight at an endpoint that throttles.

No clock of its own and nobody waits here: counts come in, a number comes out.
"""

from __future__ import annotations

import math

__all__ = ["ConcurrencyLimit"]

TOLERATED_SHARE = 0.1
"""
Requests that may be throttled without consequence: some endpoints throttle now and then, whatever is in flight, and
with less in flight would do so just as often.
"""
TOLERATED_BURST = 2
"""Throttled requests in a row that are taken for chance, at least."""
MIN_ROUND = 24
"""Replies that make up a round, at least: the price of one step too many stays below one request in eight."""
GROWTH = 0.05
HALF, STEP_BACK = 0.5, 0.9
MAX_CUT = 8
"""One episode of throttling never leaves less than this part of what was in flight when it began."""
FIRST_AFTER_OUTAGE = 4
HOLD = 10
"""After a pause that the endpoint asked for, the limit stays for this many times its length."""


class ConcurrencyLimit:
    """
    No limit until an endpoint throttles; from then on a number that follows what the endpoint bears.

    The first throttling halves what is in flight; further refusals of requests that were sent before the cut show how
    many the endpoint did accept, and the limit goes there: down at once, to an eighth at most, or up by doubling, to
    nine tenths. Then it grows by a twentieth (at least by one) with every round of replies that used it fully, and
    goes back by a tenth when that was too much. After an outage it begins small and doubles from round to round until
    it is where it was.

    A halving each time, as TCP does it, would leave a quarter of the endpoint unused: unlike a network, an endpoint
    says at once and exactly which request was too many.

    Attributes:
        value: Requests in flight, at most; infinite while nothing is known against it.

    Source:
        Additive increase, multiplicative decrease: Chiu and Jain 1989; slow start and one cut for each flight of
        requests: RFC 5681.
    """

    def __init__(self) -> None:
        self.value = math.inf
        self._target = math.inf
        self._is_recovering = False
        self._proven_value = math.inf
        self._cut_at = 0
        self._floor = 1
        self._replies = 0
        self._throttled = 0
        self._surplus = 0.0
        self._was_full = False
        self._hold_until = -math.inf

    @property
    def has_throttled(self) -> bool:
        """Whether the endpoint has ever had too much to do."""
        return self._cut_at > 0

    @property
    def is_at_rest(self) -> bool:
        """Whether replies need not be noted: there is no limit, and no request was throttled of late."""
        return self._surplus == 0 and self.value == math.inf

    def has_room(self, in_flight: int) -> bool:
        """Whether one more request may be sent."""
        return in_flight + 1 <= self.value

    def replied(self, *, number: int, in_flight: int, is_waited_for: bool, now: float) -> None:
        """
        Note a reply.

        Args:
            number: Which request it answers; they are counted from 1.
            in_flight: Requests in flight, this one included.
            is_waited_for: Whether calls wait for room.
            now: Seconds on any clock.
        """
        if number <= self._cut_at:
            return  # it was sent under another limit and says nothing about this one
        self._surplus = max(0.0, self._surplus - TOLERATED_SHARE)
        self._proven_value = self._target if self._is_recovering else self.value
        if self.value == math.inf:
            return
        is_full = is_waited_for or in_flight + 1 > self.value
        if self._is_recovering:
            if self._target == math.inf and not is_full:
                self.value = math.inf
            elif is_full:
                self.value = min(self._target, self.value + 1)
            self._is_recovering = self.value < self._target
            return
        self._was_full |= is_full
        self._replies += 1
        if self._replies >= max(MIN_ROUND, self.value):
            if self._was_full and self._throttled <= TOLERATED_SHARE * self._replies and now >= self._hold_until:
                self.value += max(1.0, GROWTH * self.value)
            self._replies = self._throttled = 0
            self._was_full = False

    def throttled(self, *, number: int, newest: int, in_flight: int, now: float, pause_s: float = 0.0) -> None:
        """
        Note a request that the endpoint refused because it has too much to do.

        Args:
            number: Which request it was.
            newest: The number of the last request that was sent.
            in_flight: Requests in flight, this one included.
            now: Seconds on any clock.
            pause_s: How long the endpoint asks everybody to wait; whoever asks is taken at its word.
        """
        if pause_s:
            self._hold_until = max(self._hold_until, now + (1 + HOLD) * pause_s)
        if number <= self._cut_at:
            self._accept(max(self._floor, in_flight - 1))
            return
        self._throttled += 1
        self._surplus += 1
        if not pause_s and self._surplus <= max(TOLERATED_BURST, TOLERATED_SHARE * in_flight):
            return
        is_known = self.value != math.inf and not self._is_recovering
        self.value = max(1, int(min(in_flight, self.value) * (STEP_BACK if is_known else HALF)))
        self._floor = max(1, in_flight // MAX_CUT)
        self._cut_at = newest
        self._accept(in_flight - 1)
        self._surplus = 0.0
        self._replies = self._throttled = 0
        self._was_full = False

    def _accept(self, in_flight: int) -> None:
        """Take what is still in flight after a refusal for what the endpoint bears: more never, a bit less at once."""
        self.value = max(1, min(self.value, in_flight))
        self._target = max(self.value, int(in_flight * STEP_BACK))
        self._is_recovering = self.value < self._target

    def recover(self) -> None:
        """Begin again with a few requests, after an outage."""
        self._target = self._proven_value
        self.value = min(FIRST_AFTER_OUTAGE, self._target)
        self._is_recovering = self.value < self._target
        self._replies = self._throttled = 0
        self._was_full = False
