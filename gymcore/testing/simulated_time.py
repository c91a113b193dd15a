"""
An event loop whose clock jumps: an hour of waiting passes as soon as nobody has anything to do.

For tests of what waits, retries and times out. Nothing in it may wait for the outside world (sockets, threads): while
everybody sleeps, only the next timer can wake anybody.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["DeadlockError", "run_in_simulated_time"]

T = TypeVar("T")


class DeadlockError(Exception):
    """Everybody waits for somebody, and no timer is set: in real time the test would hang."""


class _JumpingSelector(selectors.DefaultSelector):
    """Moves a clock on instead of waiting."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise DeadlockError("everybody waits for somebody, and no timer is set")
        self.now += max(0.0, timeout)
        return super().select(0)


class _SimulatedLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


def run_in_simulated_time(work: Coroutine[Any, Any, T]) -> T:
    """
    Run a coroutine as `asyncio.run` does, in simulated time.

    Inside, `asyncio.get_running_loop().time` is the clock: seconds that begin at 0 and move only while all sleep.

    Raises:
        DeadlockError: nobody can ever go on.
    """
    with asyncio.Runner(loop_factory=_SimulatedLoop) as runner:
        return runner.run(work)
