"""
What stdout and stderr are to a command: a courtesy that costs nobody a run. What stdout could not take is remembered.
"""

from __future__ import annotations

import io
import os
import select
import sys
from contextlib import suppress
from typing import Any, TextIO

__all__ = ["Courtesy", "be_courteous", "lost_output"]

PATIENCE_MS = 1000
"""How long a terminal that takes nothing at the moment is waited for, where somebody has set it to say so."""


class Courtesy(io.RawIOBase):
    """
    A descriptor that takes whatever it is given, and shows it as long as that is possible.

    A terminal may be closed, the reader of a pipe may leave, a disk may be full: what nobody can see is dropped, and
    who talks never learns of it. Closing it does nothing, so that a plugin cannot silence the others.

    Args:
        descriptor: Where it goes; it is not closed.

    Attributes:
        error: Why something was dropped, the first time.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.error: OSError | None = None

    def writable(self) -> bool:
        """Say that it can be written."""
        return True

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Whether somebody sits there."""
        return os.isatty(self._descriptor)

    def write(self, data: Any) -> int:  # any buffer of bytes
        """Write what can be written, and count all of it as written."""
        left = memoryview(data).cast("B")
        size = len(left)
        try:
            while left:
                try:
                    left = left[os.write(self._descriptor, left) :]
                except BlockingIOError:
                    poll = select.poll()
                    poll.register(self._descriptor, select.POLLOUT)
                    if not poll.poll(PATIENCE_MS):
                        raise
        except OSError as error:
            self.error = self.error or error
        return size

    def close(self) -> None:
        """Do nothing."""


class _Buffer(io.BufferedWriter):
    """A buffer that is not closed either."""

    def close(self) -> None:
        """Write what it holds."""
        self.flush()

    def detach(self) -> io.RawIOBase:
        """Refuse: others write here too."""
        raise io.UnsupportedOperation("this stream belongs to the command")


class _Text(io.TextIOWrapper):
    """A text stream that is not closed either."""

    def close(self) -> None:
        """Write what it holds."""
        self.flush()

    def detach(self) -> Any:  # as of TextIOWrapper
        """Refuse: others write here too."""
        raise io.UnsupportedOperation("this stream belongs to the command")


def be_courteous() -> None:
    """
    Make stdout and stderr of this process courtesies, and give them whichever of the standard descriptors is closed.

    A closed one would be given to the next file that is opened, and what is said there would end up in it.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            # It takes the lowest number that is free, which is this one; nobody can write to it, as before.
            os.open(os.devnull, os.O_RDONLY)
    sys.stdout = _courteous(sys.stdout, 1, "strict")
    sys.stderr = _courteous(sys.stderr, 2, "backslashreplace")


def _courteous(stream: TextIO | None, number: int, errors: str) -> TextIO:
    if stream is not None:
        with suppress(OSError, ValueError):  # it may be broken by now
            stream.flush()
    courtesy = Courtesy(os.dup(number))  # a descriptor of its own, because a plugin may close the other
    return _Text(
        _Buffer(courtesy),
        encoding=getattr(stream, "encoding", None) or "utf-8",
        errors=getattr(stream, "errors", None) or errors,
        line_buffering=number == 2 or courtesy.isatty(),
    )


def lost_output() -> OSError | None:
    """Write out what stdout still holds, and return why some of it went nowhere, where it did."""
    if not isinstance(sys.stdout, _Text):
        return None
    sys.stdout.flush()
    raw = getattr(sys.stdout.buffer, "raw", None)
    return raw.error if isinstance(raw, Courtesy) else None
