"""
Processes that do what may hang, crash or never stop talking: each in a group of its own that ends with it, in time.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

__all__ = ["Child", "Ended", "run_child"]

KEPT_LINES = 200
LINE_LENGTH = 1_000_000
LINGERING_S = 2.0
"""How long what a process has printed is waited for after its end: another one may hold the pipe."""


@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    code: int | None
    """Its exit code, or the negative number of a signal; None where it took too long."""
    limit_s: float
    lines: tuple[str, ...]
    """The last lines of stdout, as far as nobody took them."""
    errors: tuple[str, ...]
    """The last lines of stderr."""

    def told(self) -> str:
        """Say how it ended."""
        if self.code is None:
            return f"did not end within {self.limit_s:g} s"
        if self.code < 0:
            with suppress(ValueError):
                return f"was ended by {signal.Signals(-self.code).name}"
            return f"was ended by signal {-self.code}"
        return f"ended with exit code {self.code}"

    def last(self, count: int = 1) -> tuple[str, ...]:
        """Return the last lines that say something: of stderr, or else of stdout."""
        said = [line for line in self.errors if line.strip()] or [line for line in self.lines if line.strip()]
        return tuple(said[-count:])


class Child:
    """
    A process in a session of its own; leaving the block ends it with everything it has started.

    Args:
        command: The program and its arguments.
        folder: Where it runs.
        environ: Its environment variables.
        limit_s: How long it may take.
        kept: How many lines of what it prints are kept, the last ones.
    """

    def __init__(
        self, command: Sequence[str], folder: Path, environ: Mapping[str, str], limit_s: float, kept: int = KEPT_LINES
    ) -> None:
        self._command, self._folder, self._environ, self._limit_s = command, folder, environ, limit_s
        self._kept = kept
        self._said: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._errors: deque[str] = deque(maxlen=kept)
        self._is_late = self._is_heard = False

    def __enter__(self) -> Child:
        self._deadline = time.monotonic() + self._limit_s
        self._process = subprocess.Popen(
            self._command,
            cwd=self._folder,
            env={**self._environ, "PYTHONDONTWRITEBYTECODE": "1"},  # nothing is left in an author's project
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._threads = (
            threading.Thread(target=self._hear, args=(self._process.stdout,), daemon=True),
            threading.Thread(target=self._note, args=(self._process.stderr,), daemon=True),
            threading.Thread(target=self._process.wait, daemon=True),
        )
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        streams = (self._process.stdout, self._process.stderr, None)
        for thread, stream in zip(self._threads, streams, strict=True):
            thread.join(LINGERING_S)
            # One that still reads holds its stream: what has left the group may have kept the other end.
            if stream is not None and not thread.is_alive():
                stream.close()

    def _hear(self, stream: IO[bytes]) -> None:
        with suppress(OSError, ValueError):
            while line := stream.readline(LINE_LENGTH):
                self._said.put(line.decode("utf-8", "replace").rstrip("\n"))
        self._said.put(None)

    def _note(self, stream: IO[bytes]) -> None:
        with suppress(OSError, ValueError):
            while line := stream.readline(LINE_LENGTH):
                self._errors.append(line.decode("utf-8", "replace").rstrip("\n"))

    def lines(self) -> Iterator[str]:
        """Yield each line of stdout as it comes, until the process has ended or its time is over."""
        grace: float | None = None
        while not self._is_heard:
            now = time.monotonic()
            if grace is None and self._process.returncode is not None:
                grace = now + LINGERING_S
            if now >= (self._deadline if grace is None else max(grace, self._deadline)):
                self._is_late, self._is_heard = grace is None, True
                return
            try:
                line = self._said.get(timeout=0.1)
            except queue.Empty:  # what is there already is not waited for, and read however late that is
                self._is_heard = grace is not None and now >= grace
                continue
            self._is_heard = line is None
            if line is not None:
                yield line
        if self._is_late:
            return
        try:
            self._process.wait(max(0.0, self._deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._is_late = True

    def end(self) -> Ended:
        """Wait for its end, and say how it was."""
        rest = deque(self.lines(), maxlen=self._kept)
        code = None if self._is_late else self._process.returncode
        self._end()
        return Ended(code, self._limit_s, tuple(rest), tuple(self._errors))


def run_child(
    command: Sequence[str], folder: Path, environ: Mapping[str, str], limit_s: float, kept: int = KEPT_LINES
) -> Ended:
    """Run a process to its end, and return how that was; the arguments are those of `Child`."""
    with Child(command, folder, environ, limit_s, kept) as child:
        return child.end()
