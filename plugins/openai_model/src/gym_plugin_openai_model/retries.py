"""
What is retried, and how long to wait before it.

One loop retries, in `model`; this file only decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Literal

__all__ = ["MAX_RETRY_AFTER_S", "UNPROVEN_S", "Fault", "Patience", "kind_of_status", "retry_after_s"]

MAX_WAIT_S = 30.0
MAX_RETRY_AFTER_S = 300.0
"""Whoever is asked to wait longer fails at once: the rollout can be played again later."""
MAX_TIMEOUTS = 2
"""Further tries after a timeout; each may cost all of `timeout_s`."""
UNPROVEN_S = 3.0
"""How long an address that never answered may go on refusing connections: a wrong one is told within seconds."""

Kind = Literal["connect", "rate_limit", "transient", "timeout", "terminal"]


class Fault(Exception):
    """
    One HTTP request that brought no reply.

    Args:
        kind: What is done about it.
        message: What happened, in one line.
        status: The HTTP status, where there was one.
        retry_after_s: How long the endpoint asks to wait, where it says so.
    """

    def __init__(
        self, kind: Kind, message: str, *, status: int | None = None, retry_after_s: float | None = None
    ) -> None:
        self.kind: Kind = kind
        self.message = message
        self.status = status
        self.retry_after_s = retry_after_s
        super().__init__(message)


def kind_of_status(status: int, *, has_retry_after: bool) -> Kind:
    """Sort a status of 300 or more; what the request itself is to blame for is terminal."""
    if status == 429 or (status == 503 and has_retry_after):
        return "rate_limit"
    return "transient" if status in (408, 409, 425) or status >= 500 else "terminal"


def retry_after_s(headers: Mapping[str, str], now: float) -> float | None:
    """
    Read how long an endpoint asks to wait.

    Args:
        headers: `retry-after-ms`, or `Retry-After` in seconds or as an HTTP date.
        now: Seconds since 1970.

    Returns:
        Seconds from now, at least 0; None where it does not say, or not clearly.

    Source:
        RFC 9110, section 10.2.3; `retry-after-ms` is OpenAI's and Azure's.
    """
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        text = headers.get("retry-after", "")
        if not text[:1].isalpha():
            return max(0.0, float(text))
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except ValueError:
        return None


class Patience:
    """
    How long one model call goes on trying.

    Args:
        max_retries: Further tries after the first, at most.
        random: Gives a number from 0.0 to 1.0.
    """

    def __init__(self, max_retries: int, random: Callable[[], float]) -> None:
        self._max_retries = max_retries
        self._random = random
        self._timeouts = 0
        self._refused_since: float | None = None
        self.tries = 0

    def wait_s(self, fault: Fault, *, began: float, now: float, is_proven: bool) -> float | None:
        """
        Decide what to do about a fault.

        Args:
            fault: What went wrong.
            began: When the request was made, seconds on any clock.
            now: The same clock now.
            is_proven: Whether the address has ever answered.

        Returns:
            Seconds to wait before the next try; None when there is none.

        Source:
            Full jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
        """
        self.tries += 1
        self._timeouts += fault.kind == "timeout"
        if fault.kind == "terminal" or self.tries > self._max_retries or self._timeouts > MAX_TIMEOUTS:
            return None
        if fault.retry_after_s is not None:
            return fault.retry_after_s if fault.retry_after_s <= MAX_RETRY_AFTER_S else None
        wait_s = self._random() * min(MAX_WAIT_S, 0.5 * 2.0 ** (self.tries - 1))
        if fault.kind == "connect" and not is_proven:
            self._refused_since = began if self._refused_since is None else self._refused_since
            if now + wait_s - self._refused_since >= UNPROVEN_S:
                return None
        return wait_s
