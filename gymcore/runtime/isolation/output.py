"""
What a worker prints: read away at a bounded speed, so that it cannot block or flood anybody, and only its end kept.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress

__all__ = ["Output", "one_line"]

KEPT_BYTES = 8192
SHOWN_CHARACTERS = 600
READ_BYTES = 2**20
BYTES_PER_S = 100e6
"""Who prints faster waits: reading at this speed costs a few hundredths of a core, and no more."""
CRASH = "Fatal Python error"
"""Where `faulthandler` begins to say where the interpreter crashed, the innermost call first."""


class Output:
    """
    The reading end of a pipe into which a process prints.

    Args:
        loop: The event loop that reads.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._end = b""
        self._pause: asyncio.TimerHandle | None = None
        self._reading, self.writing = os.pipe()
        """`writing` is the other end, for the process."""
        os.set_blocking(self._reading, False)
        _widen(self._reading)
        loop.add_reader(self._reading, self._read)

    def _read(self) -> None:
        self._loop.remove_reader(self._reading)
        size = self.take()
        if size:
            pause_s = size / BYTES_PER_S
            self._pause = self._loop.call_later(pause_s, self._loop.add_reader, self._reading, self._read)

    def take(self) -> int:
        """Read what is there, and return how much it was; 0 at the end."""
        data = b""
        with suppress(BlockingIOError):
            data = os.read(self._reading, READ_BYTES)
        self._end = (self._end + data[-KEPT_BYTES:])[-KEPT_BYTES:]
        return len(data)

    def close(self) -> None:
        """Take what was printed last, and read no further."""
        self._loop.remove_reader(self._reading)
        if self._pause is not None:
            self._pause.cancel()
        self.take()
        os.close(self._reading)

    def last(self) -> str:
        """Return the end of what was printed, on one line and without control characters."""
        line = one_line(self._end.decode("utf-8", "replace"))
        crash = line.rfind(CRASH)
        return line[crash:][:SHOWN_CHARACTERS] if crash >= 0 else line[-SHOWN_CHARACTERS:]


def one_line(text: str) -> str:
    """Return a text on one line and without control characters."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


def _widen(pipe: int) -> None:
    """Let a pipe hold as much as is read at once, where that can be asked for: fewer reads, and less waiting."""
    import fcntl

    if hasattr(fcntl, "F_SETPIPE_SZ"):
        with suppress(OSError):
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, READ_BYTES)
