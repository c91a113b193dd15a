"""
Ctrl-C, TERM and HUP: while a run plays they are told to it one by one, before and after it they interrupt.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

__all__ = ["NUMBERS", "Interrupts", "Signals", "interrupted_once"]

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PATIENCE = 3
"""How many signals end the process whatever it does."""
IMPATIENCE = 4
"""The same where nothing is left but to clean up, or to say how it ended."""


class Interrupts:
    """
    A signal handler that raises KeyboardInterrupt as long as there is something to be interrupted.

    Args:
        is_once: Whether the first signal is the last that does.

    Attributes:
        is_over: Whether there is nothing more to be interrupted; the fourth signal from then on ends the process.
    """

    def __init__(self, *, is_once: bool = False) -> None:
        self.is_over = False
        self._is_once = is_once
        self._ignored = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Take a signal."""
        if not self.is_over:
            self.is_over = self._is_once
            raise KeyboardInterrupt
        self._ignored += 1
        if self._ignored >= IMPATIENCE:
            os._exit(130)


@contextmanager
def interrupted_once() -> Iterator[None]:
    """
    Raise KeyboardInterrupt at the first signal alone, so that the next ones do not stop what cleans up after it.

    Once one has come it stays so: the process is about to end.
    """
    interrupts = Interrupts(is_once=True)
    with _handled(interrupts, lambda: not interrupts.is_over):
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
