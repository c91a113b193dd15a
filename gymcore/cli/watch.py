"""
A thread beside the event loop: it lets progress be shown when nothing ends, and finds out who holds the loop up.
"""

from __future__ import annotations

import asyncio
import sys
import sysconfig
import threading
import time
from collections.abc import Callable
from types import FrameType

__all__ = ["Watch"]

TICK_S = 1.0
HELD_S = 5.0
"""After how long without an answer the event loop counts as held up, in ticks: a pause of all of us is one of them."""

_STANDARD_LIBRARY = sysconfig.get_path("stdlib")


class Watch:
    """
    Calls a function every second while a `with` block runs on an event loop.

    Args:
        tick: Called in a thread of its own, with a line on what holds the event loop up, or None.
        tick_s: How often.
        held_s: How long the loop may take to answer.
    """

    def __init__(self, tick: Callable[[str | None], None], *, tick_s: float = TICK_S, held_s: float = HELD_S) -> None:
        self._tick = tick
        self._tick_s = tick_s
        self._held_s = held_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gymcore-watch", daemon=True)

    def __enter__(self) -> Watch:
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._answer()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _answer(self) -> None:
        self._unanswered, self._answered_at = 0, time.time()

    def _run(self) -> None:
        held_up: str | None = None
        while not self._over.wait(self._tick_s):
            self._unanswered += 1
            # Counted and not timed: who stops the process, with Ctrl-Z say, stops the loop and its watch alike.
            if self._unanswered * self._tick_s < self._held_s:
                self._loop.call_soon_threadsafe(self._answer)
                held_up = None
            elif held_up is None:  # once: it is the same story until the loop answers
                held_up = self._describe()
            self._tick(held_up)

    def _describe(self) -> str:
        since = time.strftime("%H:%M:%S", time.localtime(self._answered_at))
        frame = sys._current_frames().get(self._loop_thread)
        return f"nothing goes on since {since}: the event loop is held up by {_place(frame)}"


def _place(frame: FrameType | None) -> str:
    """Name the innermost code that is not of the standard library."""
    found = frame
    while found is not None and _is_standard(found.f_code.co_filename):
        found = found.f_back
    code = None if frame is None else (found or frame).f_code
    return "an unknown place" if code is None else f"{code.co_name}() ({code.co_filename}:{code.co_firstlineno})"


def _is_standard(file: str) -> bool:
    return file.startswith("<") or (file.startswith(_STANDARD_LIBRARY) and "site-packages" not in file)
