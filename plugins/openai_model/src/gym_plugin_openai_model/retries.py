"""
What is retried, for how long, and how much of it an endpoint may bear.

One loop retries, in `model`; this file only decides, and waits for nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Literal

__all__ = [
    "MAX_RETRY_AFTER_S",
    "MAX_WAIT_S",
    "UNPROVEN_S",
    "Fault",
    "Kind",
    "Patience",
    "RetryBudget",
    "kind_of_status",
    "retry_after_s",
]

MAX_WAIT_S = 30.0
"""The longest wait before the next try of a call, pauses of the whole endpoint aside."""
MAX_RETRY_AFTER_S = 300.0
"""The longest pause an endpoint is granted at once; it is asked again then, and may ask for another."""
UNPROVEN_S = 3.0
"""How long an address that was never reached may go on refusing connections: a wrong one is told within seconds."""

MAX_TIMEOUTS = 2
"""Further tries after a timeout; each may cost all of `timeout_s`."""
MAX_THROTTLED = 40
"""Further tries of a call that is told to come later; being told so is no fault of the call."""
PATIENCE_S = {"connect": 60.0, "rate_limit": 900.0, "transient": 120.0, "timeout": math.inf, "terminal": 0.0}
"""Seconds from a call's first fault during which it is tried again; waiting at a closed gate does not count."""

RETRIES_AT_FIRST = 10
MAX_RETRIES_SAVED = 100
RETRY_EVERY_S = 1.0
"""Beyond its budget an endpoint gets one retry in this time, so that one that has recovered is found out."""

_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]*)?")

Kind = Literal["connect", "rate_limit", "transient", "timeout", "terminal"]


class Fault(Exception):
    """
    One HTTP request that brought no reply.

    Args:
        kind: What is done about it.
        message: What happened, in one line.
        status: The HTTP status, where there was one.
        retry_after_s: How long the endpoint asks to wait, where it says so.
        wants_room: Whether it is refused because the context of the model is full.
        was_reached: Whether a connection to the address could be made before; where one could not be made now.
    """

    def __init__(
        self,
        kind: Kind,
        message: str,
        *,
        status: int | None = None,
        retry_after_s: float | None = None,
        wants_room: bool = False,
        was_reached: bool = False,
    ) -> None:
        self.kind: Kind = kind
        self.message = message
        self.status = status
        self.retry_after_s = retry_after_s
        self.wants_room = wants_room
        self.was_reached = was_reached
        super().__init__(message)

    @property
    def is_throttling(self) -> bool:
        """Whether the endpoint says that it has too much to do: 429, or 503 with or without `Retry-After`."""
        return self.kind == "rate_limit" or self.status == 503

    @property
    def told(self) -> str:
        """What happened, with the status where there was one."""
        return self.message if self.status is None else f"status {self.status}: {self.message}"


def kind_of_status(status: int, *, has_retry_after: bool) -> Kind:
    """Sort a status of 300 or more; what the request itself is to blame for is terminal."""
    if status == 429 or (status == 503 and has_retry_after):
        return "rate_limit"
    return "transient" if status in (408, 409, 425) or status >= 500 else "terminal"


def retry_after_s(headers: Mapping[str, str], now: float) -> float | None:
    """
    Read how long an endpoint asks to wait.

    Args:
        headers: `retry-after-ms`, or else `Retry-After` in seconds or as an HTTP date, which is one of UTC.
        now: Seconds since 1970.

    Returns:
        Seconds from now, at least 0; None where it does not say, or not clearly.

    Source:
        RFC 9110, section 10.2.3; `retry-after-ms` is OpenAI's and Azure's.
    """
    if _NUMBER.fullmatch(text := headers.get("retry-after-ms", "").strip()):
        return float(text) / 1000
    if _NUMBER.fullmatch(text := headers.get("retry-after", "").strip()):
        return float(text)
    if not text[:1].isalpha():
        return None
    try:
        moment = parsedate_to_datetime(text)
        # Without a zone, as in C's asctime, a date is one of UTC like every other, and not of where we happen to be.
        moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
        return max(0.0, moment.timestamp() - now)
    except (ValueError, OverflowError):
        return None


class Patience:
    """
    How long one model call goes on trying, counted from its first fault.

    Args:
        max_retries: Further tries after the first, at most; being throttled does not use them up.
        random: Gives a number from 0.0 to 1.0.
    """

    def __init__(self, max_retries: int, random: Callable[[], float]) -> None:
        self._max_retries = max_retries
        self._random = random
        self._timeouts = 0.0
        self._throttled = 0
        self._faults = 0.0
        self._first: float | None = None
        self._excused_s = 0.0
        self.tries = 0

    def excuse(self, seconds: float) -> None:
        """Take time out of account that the call spent waiting at a closed gate."""
        self._excused_s += seconds

    def wait_s(self, fault: Fault, *, now: float, is_probe: bool = False) -> float | None:
        """
        Decide what to do about a fault.

        Args:
            fault: What went wrong.
            now: Seconds on a clock that only grows.
            is_probe: The endpoint was known to be down, so that this call is hardly to blame: such a fault counts
                half, and a connection that could not be made does not count at all.

        Returns:
            Seconds to wait before the next try; None when there is none.

        Source:
            Full jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
        """
        self.tries += 1
        if is_probe and fault.kind == "connect":
            return 0.0
        if self._first is None:
            self._first = now
        if fault.kind == "rate_limit":
            self._throttled += 1
        else:
            weight = 0.5 if is_probe else 1.0
            self._faults += weight
            self._timeouts += weight * (fault.kind == "timeout")
        if self._is_over(fault.kind) or now - self._first - self._excused_s > PATIENCE_S[fault.kind]:
            return None
        number = min(math.ceil(self._faults) + self._throttled, 16)
        wait_s = self._random() * min(MAX_WAIT_S, 0.5 * 2.0 ** (number - 1))
        # A longer pause is the gate's business, where everybody waits for it; a shorter one, or one that is over when
        # it comes, would let a call use up all its tries at once.
        return 0.0 if (fault.retry_after_s or 0.0) >= wait_s else wait_s

    def _is_over(self, kind: Kind) -> bool:
        if kind == "rate_limit":
            return self._throttled > (MAX_THROTTLED if self._max_retries else 0)
        return kind == "terminal" or self._faults > self._max_retries or self._timeouts > MAX_TIMEOUTS


class RetryBudget:
    """
    How many retries an endpoint may be sent: one for every reply it gave, and a few to begin with.

    While at least half of all tries bring a reply, no retry waits; below that, retries wait for replies, and an
    endpoint that gives none gets one in `RETRY_EVERY_S`. So all requests together never exceed twice the replies by
    more than the calls themselves, the first few, and the seconds that went by.
    """

    def __init__(self) -> None:
        self._saved = RETRIES_AT_FIRST
        self._next = -math.inf

    def earn(self) -> None:
        """Note a reply."""
        if self._saved < MAX_RETRIES_SAVED:
            self._saved += 1

    def wait_s(self, now: float) -> float:
        """Return how long the next retry has to wait, if no reply comes before."""
        return 0.0 if self._saved else max(0.0, self._next - now)

    def spend(self, now: float) -> None:
        """Note a retry, which `wait_s` allowed."""
        if self._saved:
            self._saved -= 1
        if not self._saved:
            self._next = now + RETRY_EVERY_S
