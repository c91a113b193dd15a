"""
How the benchmarks measure: child processes one after another, their CPU time as the kernel counts it, medians.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Figure", "alternate", "machine", "run_once"]


@dataclass(frozen=True)
class Figure:
    """What one child process cost."""

    cpu_s: float
    """User and system time, its own children included."""
    wall_s: float
    peak_mb: float
    """The largest resident size of the process."""
    output: str


def run_once(command: Sequence[str], environ: Mapping[str, str] | None = None) -> Figure:
    """
    Run a command to its end.

    Raises:
        SystemExit: it failed; with what it printed.
    """
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environ)
    assert process.stdout is not None
    output = process.stdout.read().decode(errors="replace")
    process.stdout.close()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - started
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{output}")
    return Figure(usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss / 1024, output)


def alternate(commands: Mapping[str, Sequence[str]], runs: int) -> dict[str, list[Figure]]:
    """Run several commands in turn, so that a machine that slows down slows all of them; the first round is warm-up."""
    figures: dict[str, list[Figure]] = {name: [] for name in commands}
    for number in range(runs + 1):
        for name, command in commands.items():
            figure = run_once(command)
            if number:
                figures[name].append(figure)
    return figures


def machine(figures: Sequence[Figure]) -> str:
    """Say how noisy the machine was while these figures of one command were taken."""
    cpu = [figure.cpu_s for figure in figures]
    load = os.getloadavg()[0]
    spread = (max(cpu) - min(cpu)) / statistics.median(cpu)
    return f"{os.cpu_count()} cores, load {load:.1f}, the same command's CPU time varied by {spread:.0%}"
