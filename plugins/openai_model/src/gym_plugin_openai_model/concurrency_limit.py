"""
How many requests may be in flight at an endpoint that throttles.

No clock of its own and nobody waits here: counts come in, a number comes out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

__all__ = ["ConcurrencyLimit"]

TOLERATED_SHARE = 0.1
"""
Requests that may be throttled without consequence: some endpoints throttle now and then, whatever is in flight, and
with less in flight would do so just as often.
"""
TOLERATED_BURST = 2
"""Throttled requests in a row that are taken for chance, at least."""
MARGIN = 1.25
"""Chance is granted a quarter more than what was seen of it, and ten times that in a row."""
MIN_TRIAL = 48
"""Replies after a cut that show whether it was of use, at least."""
MIN_EVIDENCE = 2
"""Throttled requests after a cut without which it is taken to have been of use."""
DEEP = 0.6
"""Whether a cut was of use shows only where no more than this part was left."""
DOUBT = 0.25
"""
A cut was of no use if the share of throttled requests fell by less than three quarters of what it should have.

Where the load is the cause it falls to nothing, as a rule, or stays far too high; so chance gets the benefit.
"""
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

    What an endpoint throttles whatever is in flight (by a proxy, by a quota that others use up, by chance) must not be
    taken for load, or every cut would be followed by the next, down to one. So each cut is put to the proof: if less in
    flight leaves the share of throttled requests where it was, the limit is lifted again, by doubling from round to
    round, and that share is tolerated from then on, until a cut is of use.

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
        self._accepted = 0
        self._peak = _Peak()
        self._chance = 0.0
        self._seen = _Counts()
        self._trial: _Trial | None = None

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
        self._seen.replies += 1
        self._peak.note(in_flight)
        self._surplus = max(0.0, self._surplus - self._tolerated_share)
        if self._surplus == 0:
            self._seen = _Counts()
            if self.value == math.inf:
                self._peak = _Peak()
        if self._trial is not None:
            self._trial.after.replies += 1
            self._judge(self._trial, number, in_flight)
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
            is_fine = self._throttled <= self._tolerated_share * self._replies
            if self._was_full and is_fine and now >= self._hold_until and self._trial is None:
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
            if self._trial is not None:
                self._trial.before.throttled += 1
            self._accepted -= 1
            self._accept()
            return
        self._throttled += 1
        self._seen.throttled += 1
        self._peak.note(in_flight)
        self._surplus += 1
        if self._trial is not None:
            self._trial.after.throttled += 1
        is_asked = pause_s > 0 and self._expected == 0
        if not is_asked and self._surplus <= self._tolerated_burst(in_flight):
            return
        level = min(self._peak.value, self.value)  # not what is in flight now: much of it may just have been answered
        # What is in flight counts as accepted until it is refused.
        before = _Counts(self._seen.replies + in_flight - 1, self._seen.throttled)
        is_known = self.value != math.inf and not self._is_recovering
        self._cut(level, STEP_BACK if is_known else HALF, newest, before)
        self._floor = max(1, int(level) // MAX_CUT)
        self._accepted = max(in_flight - 1, int(level) - self._seen.throttled)
        self._accept()
        self._seen = _Counts()
        self._peak = _Peak()

    def _cut(self, level: float, part: float, newest: int, before: _Counts) -> None:
        """Go down to a part of a level, and begin to look whether that is of use."""
        self._trial = _Trial(level, before)
        self.value = max(1, int(level * part))
        self._cut_at = newest
        self._surplus = 0.0
        self._replies = self._throttled = 0
        self._was_full = False

    @property
    def _expected(self) -> float:
        """Throttled requests for each reply that are chance, as far as is known or being tried."""
        return self._chance if self._trial is None else max(self._chance, self._trial.suspected)

    @property
    def _tolerated_share(self) -> float:
        return TOLERATED_SHARE + MARGIN * self._expected

    def _tolerated_burst(self, in_flight: int) -> float:
        # Of what is sent together, those come back first that were refused.
        by_chance = self._expected * (10 * MARGIN + min(self._peak.value, self.value))
        return max(TOLERATED_BURST, TOLERATED_SHARE * in_flight) + by_chance

    def _judge(self, trial: _Trial, number: int, in_flight: int) -> None:
        """Decide, once enough replies have come since a cut, whether it was of use."""
        if trial.after.replies < max(MIN_TRIAL, min(self.value, trial.level)):
            return
        after = _Counts(trial.after.replies + in_flight - 1, trial.after.throttled)
        is_chance_possible = trial.suspected and after.throttled >= MIN_EVIDENCE and after.may_be_chance
        if is_chance_possible and after.share > DOUBT * trial.before.share:
            part = self.value / trial.level
            if part > DEEP and self.value > 1:
                # Too small a step to tell.
                self._cut(self.value, HALF, number + in_flight, after)
                self._target, self._is_recovering = self.value, False
                return
            # What would be left if the endpoint accepted so many and no more.
            share = max(0.0, 1 - (1 - trial.before.share_at_least) / part)
            if after.share > share + DOUBT * (trial.before.share_at_least - share):
                self._trial = None
                self._chance = after.rate
                self._target = math.inf
                self._is_recovering = True
                return
        self._trial = None
        self._chance = min(self._chance, after.rate)

    def _accept(self) -> None:
        """Take what was not refused for what the endpoint bears: more never, a bit less at once."""
        accepted = max(self._floor, self._accepted)
        self.value = max(1, min(self.value, accepted))
        self._target = max(self.value, int(accepted * STEP_BACK))
        self._is_recovering = self.value < self._target

    def recover(self) -> None:
        """Begin again with a few requests, after an outage."""
        self._target = self._proven_value
        self.value = min(FIRST_AFTER_OUTAGE, self._target)
        self._is_recovering = self.value < self._target
        self._replies = self._throttled = 0
        self._was_full = False
        self._trial = None


@dataclass(slots=True)
class _Counts:
    """How requests ended."""

    replies: int = 0
    throttled: int = 0

    @property
    def share(self) -> float:
        """The part that was throttled."""
        return self.throttled / max(1, self.replies + self.throttled)

    @property
    def share_at_least(self) -> float:
        """The part that was throttled, less one deviation: whoever looks after a few in a row sees too many."""
        share = self.share
        return max(0.0, share - math.sqrt(share * (1 - share) / max(1, self.replies + self.throttled)))

    @property
    def rate(self) -> float:
        """Throttled requests for each reply."""
        return self.throttled / max(1, self.replies)

    @property
    def may_be_chance(self) -> bool:
        """Whether so many may be throttled where nobody has too much to do: half of all, and two deviations more."""
        return self.throttled - self.replies <= 2 * math.sqrt(self.throttled + self.replies)


class _Peak:
    """The most requests in flight of late: among the last replies, as many as that, and at least as a round has."""

    __slots__ = ("_before", "_noted", "_now")

    def __init__(self) -> None:
        self._before = self._now = self._noted = 0

    def note(self, in_flight: int) -> None:
        """Note how many are in flight."""
        if self._noted >= max(MIN_ROUND, self._now):
            self._before, self._now, self._noted = self._now, 0, 0
        self._noted += 1
        self._now = max(self._now, in_flight)

    @property
    def value(self) -> int:
        """The most."""
        return max(self._before, self._now)


@dataclass(slots=True)
class _Trial:
    """A cut that has to prove its use."""

    level: float
    """What was in flight then."""
    before: _Counts
    after: _Counts = field(default_factory=_Counts)

    @property
    def suspected(self) -> float:
        """Throttled requests for each reply, if they are chance; 0 where they are too many for that."""
        return min(1.0, self.before.rate) if self.before.may_be_chance else 0.0
