"""
When an address counts as down, and when it is tried again.

Counts and times only: who waits, and on what, is the gate's business.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from gym_plugin_openai_model.retries import UNPROVEN_S, Fault

__all__ = ["Breaker"]

WEIGHTS = {"transient": 1, "connect": 2, "timeout": 3}
"""
What a fault says of the endpoint: the cause of a transient one may lie in the request, a refused connection has
nothing to do with it, and with a timeout nobody had a reply for as long as it lasted.
"""
MAX_WEIGHT = 10
"""
Faults in a row, without a reply in between, after which an address may be down.

It is down only if they also outnumber the requests that are still in flight: where faults are quick and replies slow,
many of the first come before any of the second.
"""
FIRST_PROBE_S = 1.0
PROBE_GROWTH = 1.3
MAX_PROBE_S = 30.0


class Breaker:
    """
    Knows whether an address is down, since when and why, and when the next call may try it.

    While it is down, single calls are let through as probes: the first after 1 s, then after a third as long again
    each time, 30 s at most. So an outage is noticed to be over within half its own length, and 60 s of it see a dozen
    probes. The next probe does not wait for the one before, which may hang, or be a long reply.

    Args:
        patience_s: How long an address may be asked without a reply before there is no point in waiting.
        random: Gives a number from 0.0 to 1.0, so that several runs do not probe together.
    """

    def __init__(self, patience_s: float, random: Callable[[], float]) -> None:
        self._patience_s = patience_s
        self._random = random
        self._weight = 0
        self._unmade = 0
        self._is_refused = False
        self._probes = 0
        self._next_probe = 0.0
        self._is_throttled = False
        self.is_proven = False
        """Whether the address has ever answered."""
        self.is_open = False
        """Whether the address is down."""
        self.since: float | None = None
        """When the first fault came after the last reply; None while all is well."""
        self._patience_from: float | None = None
        self.why = ""

    def failed(self, fault: Fault, *, began: float, now: float, in_flight: int = 0) -> None:
        """
        Note a fault that may be the endpoint's: anything but a refusal of one request.

        Args:
            fault: What went wrong.
            began: When the request was sent.
            now: The same clock now.
            in_flight: Other requests whose outcome is still open.
        """
        first = began if fault.kind == "connect" else now
        if self.since is None:
            self.since = first
        if self._patience_from is None:
            self._patience_from = first
        self.why = fault.told
        self._is_throttled = fault.kind == "rate_limit"
        if self._is_throttled:  # whoever says this is not down
            self._close()
            return
        self._weight += WEIGHTS[fault.kind]
        # Who could be reached is no wrong address: among thousands of connections at once some are late.
        self._is_refused = fault.kind == "connect" and not (self.is_proven or fault.was_reached)
        if fault.kind == "connect":
            self._unmade += WEIGHTS["connect"]
        is_down = self._weight >= max(MAX_WEIGHT, in_flight) or self._unmade >= MAX_WEIGHT or self._is_refused
        if is_down and not self.is_open:
            self.is_open = True
            self._probes = 0
            self._plan_probe(now)

    def answered(self) -> None:
        """Note a reply: the address works."""
        self.is_proven = True
        if self.since is not None:
            self.since = self._patience_from = None
            self._close()

    def rested(self) -> None:
        """Note that nobody asked for a while: nobody's patience was used up, and it is counted anew."""
        self._patience_from = None

    def forget(self) -> None:
        """Take the address for one that nobody has complained of."""
        self.since = self._patience_from = None
        self._close()

    def _close(self) -> None:
        self._weight = self._unmade = 0
        self.is_open = False

    def wait_s(self, now: float) -> float:
        """Return how long until a call may try the address; 0 while it is not down."""
        return max(0.0, self._next_probe - now) if self.is_open else 0.0

    def probed(self, now: float) -> None:
        """Note that a call is sent to an address that is down."""
        self._plan_probe(now)

    def _plan_probe(self, now: float) -> None:
        wait_s = min(MAX_PROBE_S, FIRST_PROBE_S * PROBE_GROWTH ** min(self._probes, 20))
        self._next_probe = now + wait_s * (0.75 + 0.25 * self._random())
        self._probes += 1

    @property
    def gives_up_at(self) -> float:
        """When waiting has no point any more; infinite while the address neither is down nor refuses everybody."""
        if self._patience_from is None or not (self.is_open or self._is_throttled):
            return math.inf
        return self._patience_from + (UNPROVEN_S if self._is_refused else self._patience_s)
