"""
What a person sees while a run goes on: one block on a terminal, plain lines elsewhere; always on stderr.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, Any, Protocol

import click

from gymcore.cli.printable import printable
from gymcore.collection.finished import EnvironmentTally
from gymcore.interfaces import Note
from gymcore.records import Rollout
from gymcore.runtime import Status

__all__ = ["Progress"]

PLAIN_EVERY_S = 30.0
STALL_S = 60.0
"""After so long without a rollout that ends, it is said that there is none, and why, where that is known."""
NOTE_LENGTH = 300
REPEAT_S = 30.0
"""A note whose details change is said again after so long, and not each time they do."""
GONE_S = 10.0
"""A note that did not come back for so long is over; what comes and goes more often goes on."""
REFRESH_PER_S = 4


@dataclass
class _Line:
    planned: int
    done: int = 0
    failed: int = 0
    reward_sum: float = 0.0

    @property
    def mean(self) -> str:
        return f"{self.reward_sum / self.done:.3f}" if self.done else "-"


@dataclass
class _Said:
    """A note that is known by now."""

    text: str
    """As it was said."""
    said_at: float
    seen_at: float


class Watched(Protocol):
    """What knows where a run stands: a stream of rollouts."""

    def status(self) -> Status:
        """Return where it stands; asked from any thread."""


class Progress:
    """
    Counts what is safe on disk and shows it.

    Args:
        planned: Rollouts of each environment that the plan asks for.
        clock: Seconds that only grow.
    """

    def __init__(self, planned: Mapping[str, int], clock: Callable[[], float] = time.monotonic) -> None:
        self._lines = {name: _Line(count) for name, count in planned.items()}
        self._clock = clock
        self._started = clock()
        self._last_plain = clock()
        self._last_tenth = 0
        self._here = 0
        self._last_ended = clock()
        self._notes: tuple[Note, ...] = ()
        self._said: dict[str, _Said] = {}
        self._stopped: set[str] = set()
        self._stream: Watched | None = None
        self._lock = threading.RLock()
        """Rollouts become safe in one thread, and time passes in another."""
        self._out: IO[str] | None = None
        self._live: Any = None  # rich.live.Live, imported only on a terminal

    def begin(self, stream: Watched, finished: Mapping[str, EnvironmentTally]) -> None:
        """Start counting: what the folder holds already counts as done."""
        self._stream = stream
        for environment, tally in finished.items():
            line = self._lines.get(environment)
            if line is not None:
                line.done += tally.finished
                line.reward_sum += tally.reward_sum
        self._started = self._last_plain = self._last_ended = self._clock()
        self._last_tenth = self._tenth()

    def durable(self, rollouts: Sequence[Rollout]) -> None:
        """Count rollouts that have become safe."""
        with self._lock:
            for rollout in rollouts:
                line = self._lines[rollout.environment]
                if rollout.reward is None:
                    line.failed += 1
                else:
                    line.done += 1
                    line.reward_sum += rollout.reward.value
                self._here += 1
            if rollouts:
                self._last_ended = self._clock()
            self._tell_stopped(self._status())
            if self._live is None:
                self._print_plain()

    def tick(self, held_up: str | None = None) -> None:
        """
        Show that time passes; called every second or so, from any thread.

        Args:
            held_up: Who keeps everybody else from going on, where somebody does.
        """
        with self._lock:
            status = self._status()
            self._tell_stopped(status)
            found = (*((Note(held_up),) if held_up else ()), *map(_as_note, status.notes))
            self._notes = tuple(Note(_shown(note), key=_shown(note.key)) for note in found)
            if self._live is None:
                self._tell_notes()
                self._print_plain()

    def _tell_notes(self) -> None:
        """Say what is new, what has changed and was not said lately, and what is over."""
        now = self._clock()
        for note in self._notes:
            known = self._said.setdefault(note.key, _Said("", -REPEAT_S, now))
            known.seen_at = now
            if not known.text or (note != known.text and now - known.said_at >= REPEAT_S):
                known.text, known.said_at = note, now
                self.say(note)
        for key, known in list(self._said.items()):
            if now - known.seen_at >= GONE_S:
                del self._said[key]
                self.say(f"no longer: {key}")

    def _status(self) -> Status:
        return Status({}, is_stopping=False) if self._stream is None else self._stream.status()

    def _tell_stopped(self, status: Status) -> None:
        for over in status.stopped:
            if over.environment not in self._stopped:
                self._stopped.add(over.environment)
                self.say(printable(str(over)))

    def say(self, text: str) -> None:
        """Print a line of talk, above the block where there is one; nobody has to be able to read it."""
        with suppress(OSError, ValueError, AttributeError):
            if self._live is not None:
                from rich.text import Text

                self._live.console.print(Text(text), soft_wrap=True)
            else:
                click.echo(text, file=self._err)

    @property
    def _err(self) -> IO[str]:
        return self._out or sys.stderr

    @contextmanager
    def shown(self) -> Iterator[None]:
        """
        Show the block while inside, where stderr is a terminal; the terminal is restored on every way out.

        All progress goes to what stderr is now, also when plugins' prints are sent elsewhere inside.
        """
        self._out = sys.stderr
        try:
            with self._drawn():
                yield
        finally:
            self._out = None

    @contextmanager
    def _drawn(self) -> Iterator[None]:
        if not self._err.isatty():
            yield
            return
        from rich.console import Console
        from rich.live import Live

        console = Console(file=self._err, highlight=False)
        if console.is_dumb_terminal:
            yield
            return
        with Live(get_renderable=self._block, console=console, refresh_per_second=REFRESH_PER_S) as live:
            self._live = live
            try:
                yield
            finally:
                self._live = None

    def restore_terminal(self) -> None:
        """Show the cursor again, for who leaves without unwinding."""
        if self._live is not None:
            with suppress(OSError):  # it may be the terminal that went away
                os.write(2, b"\x1b[?25h\n")

    def _tenth(self) -> int:
        done = sum(line.done + line.failed for line in self._lines.values())
        return done * 10 // max(1, sum(line.planned for line in self._lines.values()))

    def _print_plain(self) -> None:
        now = self._clock()
        if self._tenth() == self._last_tenth and now - self._last_plain < PLAIN_EVERY_S:
            return
        self._last_tenth, self._last_plain = self._tenth(), now
        self.say(self._total())
        if stall := self._stall(self._status()):
            self.say(stall)

    def _stall(self, status: Status) -> str | None:
        """Say for how long no rollout has ended, where that is long, and what is known of the reason."""
        passed_s = self._clock() - self._last_ended
        if passed_s < STALL_S or not any(status.in_flight.values()):
            return None
        waiting = ", ".join(f"{count:,} of {name}" for name, count in status.in_flight.items() if count)
        reasons = "".join(f"; {note}" for note in self._notes)
        return f"no rollout has ended for {_duration(passed_s)}; in flight: {waiting}{reasons}"

    def _total(self) -> str:
        lines = self._lines.values()
        done, failed = sum(line.done for line in lines), sum(line.failed for line in lines)
        planned = sum(line.planned for line in lines)
        rate = self._here / max(self._clock() - self._started, 1e-9)
        left = planned - done - failed
        parts = [f"{done:,} / {planned:,} done"]
        if done:
            parts.append(f"mean reward {sum(line.reward_sum for line in lines) / done:.3f}")
        if failed:
            parts.append(f"{failed:,} failed")
        if self._here:
            parts.append(f"{rate:,.1f} rollouts/s")
        if self._here and left > 0:
            parts.append(f"ETA {_duration(left / rate)}")
        return ", ".join(parts)

    def _block(self) -> Any:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        status = self._status()
        table = Table.grid(padding=(0, 2))
        for name, line in self._lines.items():
            is_stopped = any(over.environment == name for over in status.stopped)
            in_flight = f"{status.in_flight.get(name, 0):,} in flight"
            table.add_row(
                Text(name),
                ProgressBar(total=line.planned, completed=line.done, width=24),
                Text(f"{line.done:,} / {line.planned:,}", justify="right"),
                Text(f"reward {line.mean}"),
                Text(f"{line.failed:,} failed", style="red" if line.failed else "dim"),
                Text(f"stopped, {in_flight}" if is_stopped else in_flight, style="red" if is_stopped else "dim"),
            )
        told: list[str] = [*self._notes]
        told += [stall] if (stall := self._stall(status)) else []
        return Group(table, Text(f"total  {self._total()}"), *(Text(line) for line in told))


def _as_note(said: str) -> Note:
    return said if isinstance(said, Note) else Note(said)


def _shown(text: str) -> str:
    return printable(text[:NOTE_LENGTH])


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
