"""
Ctrl-C, TERM and HUP: while a run plays they are told to it one by one, before and after it they interrupt.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

__all__ = ["Signals", "interrupted_once"]

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PATIENCE = 3
"""How many signals end the process whatever it does."""
CLEANING = 5
"""The same where there is something to clean up first."""


@contextmanager
def interrupted_once() -> Iterator[None]:
    """
    Raise KeyboardInterrupt at the first signal alone, so that the next ones do not stop what cleans up after it.

    The fifth ends the process. Once one has come it stays so: the process is about to end.
    """
    count = 0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal count
        count += 1
        if count >= CLEANING:
            os._exit(130)
        if count == 1:
            raise KeyboardInterrupt

    with _handled(handle, lambda: not count):
        yield


@contextmanager
def _handled(handle: Callable[[int, FrameType | None], None], is_over: Callable[[], bool]) -> Iterator[None]:
    """
    Handle all signals that ask to stop.

    What whoever started us has switched off stays so, as `nohup` does with HUP; Ctrl-C is always heard.

    Args:
        handle: What is called at each.
        is_over: Whether they are handled as before afterwards.
    """
    heard = [n for n in NUMBERS if n == signal.SIGINT or signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in heard}
    try:
        yield
    finally:
        if is_over():
            for number, handler in before.items():
                signal.signal(number, handler)


class Signals:
    """
    The signals that ask a command to stop.

    A handler of Python's, and not of the event loop's: it also runs while a plugin holds the loop up in Python code.

    Attributes:
        count: How many have come.
        leave: What to do for the terminal before the process ends without unwinding.
    """

    def __init__(self) -> None:
        self.count = 0
        self.leave: Callable[[], None] = lambda: None
        self._tell: Callable[[int], None] | None = None

    @contextmanager
    def caught(self) -> Iterator[None]:
        """
        Raise KeyboardInterrupt at the first two, until `told` says otherwise, and end the process at the third.
        """
        with _handled(self._handle, lambda: True):
            yield

    @contextmanager
    def told(self, listener: Callable[[int], None]) -> Iterator[None]:
        """
        Call a listener on the running event loop, with how many have come, instead of interrupting.

        Afterwards nothing is interrupted any more: what is left to do is to say how it ended.

        Raises:
            KeyboardInterrupt: one came before, and was lost where Python has no use for exceptions.
        """
        import asyncio

        if self.count:
            raise KeyboardInterrupt
        loop = asyncio.get_running_loop()

        def tell(count: int) -> None:
            loop.call_soon_threadsafe(listener, count)

        self._tell = tell
        try:
            yield
        finally:
            self._tell = lambda count: None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self.count >= PATIENCE:
            with suppress(Exception):  # the terminal may be what went away
                self.leave()
            os._exit(130)
        if self._tell is None:
            raise KeyboardInterrupt
        self._tell(self.count)
