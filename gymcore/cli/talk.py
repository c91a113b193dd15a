"""
What plugins print while they play: shown, up to a bound.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import IO, Any, cast

__all__ = ["TALK_LENGTH", "Talk", "talk_shown"]

TALK_LENGTH = 200_000
"""So many characters of all plugins together are shown: some thousand lines, and nobody's terminal drowns."""


class Talk:
    """
    A text stream that passes on so much and no more.

    A plugin that closes it, or takes it apart, does neither to the stream behind it. What plugins write past Python,
    to the descriptors 1 and 2, does not come by here and is not bounded.

    Args:
        out: Where it goes; once it takes nothing any more, what comes is dropped.
        length: How many characters, at most.
    """

    closed = False

    def __init__(self, out: IO[str], length: int = TALK_LENGTH) -> None:
        self._out = out
        self._length = self._left = length
        self._lock = threading.Lock()  # tools in threads print too

    def write(self, text: str) -> int:
        """Write what there is room for; the first time there is not enough, say so."""
        if not self._left:
            return len(text)
        with self._lock, suppress(OSError, ValueError):
            shown = text[: self._left]
            self._left -= len(shown)
            self._out.write(shown)
            if not self._left:
                self._out.write(
                    f"\n(plugins have printed {self._length:,} characters; what they print from here on is not shown)\n"
                )
                self._out.flush()
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Show what was written by now."""
        with suppress(OSError, ValueError):
            self._out.flush()

    def close(self) -> None:
        """Do nothing: others talk here too."""

    def detach(self) -> Any:  # as of TextIOWrapper
        """
        Refuse: others talk here too.

        Raises:
            UnsupportedOperation: always.
        """
        raise io.UnsupportedOperation("what a plugin prints is shared with all others")

    def __getattr__(self, name: str) -> Any:  # `encoding`, `fileno`, ...: as of where it goes
        return getattr(self._out, name)


@contextmanager
def talk_shown(out: IO[str], length: int = TALK_LENGTH) -> Iterator[None]:
    """Send what is printed inside, to stdout and to stderr, to one stream, up to a bound."""
    talk = cast(IO[str], Talk(out, length))
    with redirect_stdout(talk), redirect_stderr(talk):
        yield
