"""
A served environment that is gone, as the rollouts see it that are not begun: they wait for it together, not for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gym_plugin_nemo_gym.wire import MAX_WAIT_S, ServerUnreachable, Wire
from gymcore import EndpointError
from gymcore.runtime.brackets import log

__all__ = ["Outage"]


class Outage:
    """
    Since when a server is gone; one for all rollouts of a run.

    It begins with the first rollout that cannot be begun, and is over when one is begun, or when the last one has
    given up: what becomes of a server that nobody asks is not known.

    Args:
        wire: The way to the server.
        patience_s: How long it is waited for.
        say: Told when the waiting begins, and when the server answers again.

    Attributes:
        is_gone: Whether no connection could be made when that was last tried; whoever tries says so.
    """

    def __init__(self, wire: Wire, patience_s: float, say: Callable[[str], None] = log) -> None:
        self.wire = wire
        self.is_gone = False
        self._is_told = False
        """Whether it was said that the server is gone, and no rollout was begun since."""
        self._patience_s = patience_s
        self._say = say
        self._waiting: set[object] = set()
        self._since: float | None = None

    @contextmanager
    def bridged(self) -> Iterator[Callable[[ServerUnreachable], float]]:
        """
        Begin a rollout inside.

        Yields:
            What says how many seconds to wait before the next try; it raises an EndpointError where that is too long.
        """
        rollout, began = object(), self.wire.clock()

        def wait_s(error: ServerUnreachable) -> float:
            self._waiting.add(rollout)
            return self._wait_s(began, error)

        try:
            yield wait_s
            if self._is_told:
                self._say(f"{self.wire.url} answers again")
            self._is_told, self._since = False, None
        finally:
            self._waiting.discard(rollout)
            if not self._waiting:
                self._since = None

    def _wait_s(self, began: float, error: ServerUnreachable) -> float:
        if self._since is None:
            self._since = began
        if not self._is_told:
            self._is_told = True
            self._say(f"{error}; waiting for it, up to {self._patience_s:g} s")
        # It may answer on connections of before, and refuse new ones: that is no outage for all.
        self._since = max(self._since, self.wire.heard or self._since)
        down_s = self.wire.clock() - self._since
        if down_s >= self._patience_s:
            told = f"{error}; that is so for {down_s:.0f} s, and patience_s is {self._patience_s:g}"
            hint = "try: the same command once the server is back; it does what is missing"
            raise EndpointError(told, hints=[hint], has_worked=True) from error
        return min(MAX_WAIT_S, self._patience_s - down_s) * (0.5 + 0.5 * self.wire.chance())
