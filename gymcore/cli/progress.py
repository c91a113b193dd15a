"""
What a person sees while a run goes on: one block on a terminal, plain lines elsewhere; always on stderr.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import click

from gymcore.records import Rollout
from gymcore.runtime import RolloutStream

__all__ = ["Progress"]

PLAIN_EVERY_S = 30.0
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
        self._stream: RolloutStream | None = None
        self._live: Any = None  # rich.live.Live, imported only on a terminal

    def begin(self, stream: RolloutStream, finished: Mapping[tuple[str, str, int], float | None]) -> None:
        """Start counting: what the folder holds already counts as done."""
        self._stream = stream
        for (environment, _, _), reward in finished.items():
            line = self._lines.get(environment)
            if line is not None:
                line.done += 1
                line.reward_sum += reward or 0.0
        self._started = self._last_plain = self._clock()
        self._last_tenth = self._tenth()

    def durable(self, rollouts: Sequence[Rollout]) -> None:
        """Count rollouts that have become safe."""
        for rollout in rollouts:
            line = self._lines[rollout.environment]
            if rollout.reward is None:
                line.failed += 1
            else:
                line.done += 1
                line.reward_sum += rollout.reward.value
            self._here += 1
        if self._live is None:
            self._print_plain()

    def say(self, text: str) -> None:
        """Print a line of talk, above the block where there is one."""
        if self._live is not None:
            from rich.text import Text

            self._live.console.print(Text(text), soft_wrap=True)
        else:
            click.echo(text, err=True)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the block while inside, where stderr is a terminal; the terminal is restored on every way out."""
        if not sys.stderr.isatty():
            yield
            return
        from rich.console import Console
        from rich.live import Live

        console = Console(stderr=True, highlight=False)
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
            os.write(2, b"\x1b[?25h\n")

    def _tenth(self) -> int:
        done = sum(line.done + line.failed for line in self._lines.values())
        return done * 10 // max(1, sum(line.planned for line in self._lines.values()))

    def _print_plain(self) -> None:
        now = self._clock()
        if self._tenth() == self._last_tenth and now - self._last_plain < PLAIN_EVERY_S:
            return
        self._last_tenth, self._last_plain = self._tenth(), now
        click.echo(self._total(), err=True)

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

        in_flight = self._stream.status().in_flight if self._stream is not None else {}
        table = Table.grid(padding=(0, 2))
        for name, line in self._lines.items():
            table.add_row(
                Text(name),
                ProgressBar(total=line.planned, completed=line.done, width=24),
                Text(f"{line.done:,} / {line.planned:,}", justify="right"),
                Text(f"reward {line.mean}"),
                Text(f"{line.failed:,} failed", style="red" if line.failed else "dim"),
                Text(f"{in_flight.get(name, 0):,} in flight", style="dim"),
            )
        return Group(table, Text(f"total  {self._total()}"))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
