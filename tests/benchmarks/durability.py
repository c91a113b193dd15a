"""
How long a finished rollout waits until it is on the disk: rollouts of 20 KB, at 1,000 a second, and as fast as it goes.

    python tests/benchmarks/durability.py [--rate 1000] [--bytes 20000] [--seconds 10] [--folder FOLDER]

The goal is that 99 of 100 wait less than 150 ms at 1,000 a second. What is measured is `collect()` as `gym run` calls
it: from the moment at which the stream gives a rollout to the moment at which `on_durable` is told of it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

from gymcore.collection import Journal, collect
from gymcore.collection.disk import Disk
from gymcore.doctor.disk import file_system_of
from gymcore.doctor.workload import make_rollout
from gymcore.documents import encode_json
from gymcore.records import Rollout, Row

GOAL_MS = 150.0


class TimedDisk(Disk):
    """The real disk, and how long each synchronisation took."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    def sync(self, file: int) -> None:
        begun = time.perf_counter()
        super().sync(file)
        self.waits.append(time.perf_counter() - begun)


def rollouts(count: int, size: int) -> list[Rollout]:
    """Make rollouts of a size up, each of another task."""
    like = make_rollout(0, size=size)
    return [replace(like, row=Row(encode_json({**like.row.value, "task_id": str(number)}))) for number in range(count)]


async def stream(made: Sequence[Rollout], rate: float, given: dict[str, float]) -> AsyncIterator[Rollout]:
    """Give rollouts at a rate, evenly, or as fast as they are taken where it is 0."""
    begun = time.perf_counter()
    for number, rollout in enumerate(made):
        early = begun + number / rate - time.perf_counter() if rate else 0.0
        if early > 0 or number % 64 == 0:
            await asyncio.sleep(max(early, 0.0))
        given[rollout.key[1]] = time.perf_counter()
        yield rollout


def measure(folder: Path, made: Sequence[Rollout], rate: float) -> tuple[list[float], float, float, TimedDisk]:
    """Collect, and return each wait in seconds, the seconds and the CPU seconds of all, and what the disk did."""
    given: dict[str, float] = {}
    waits: list[float] = []

    def told(safe: Sequence[Rollout]) -> None:
        now = time.perf_counter()
        waits.extend(now - given[rollout.key[1]] for rollout in safe)

    disk = TimedDisk()
    with Journal(folder, disk) as journal:
        begun, cpu = time.perf_counter(), time.process_time()
        asyncio.run(collect(stream(made, rate, given), journal, on_durable=told))
        return sorted(waits), time.perf_counter() - begun, time.process_time() - cpu, disk


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--rate", type=float, default=1000.0)
    parser.add_argument("--bytes", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--folder", type=Path, default=Path())
    options = parser.parse_args()
    made = rollouts(int(options.rate * options.seconds), options.bytes)
    size = len(made[0].to_line())
    print(f"{len(made):,} rollouts of {size:,} bytes on {file_system_of(options.folder)}, {os.cpu_count()} cores")
    titles = ("taken/s", "p50 ms", "p99 ms", "max ms", "syncs", "sync ms", "us CPU")
    print(f"{'offered':>14}", *(f"{title:>8}" for title in titles))
    goal = None
    for rate in (options.rate, 0.0):
        with tempfile.TemporaryDirectory(prefix=".durability-", dir=options.folder) as scratch:
            waits, seconds, cpu, disk = measure(Path(scratch) / "run", made, rate)
        p99 = waits[len(waits) * 99 // 100] * 1000
        goal = p99 if goal is None else goal
        figures = (
            f"{len(waits) / seconds:,.0f}",
            f"{waits[len(waits) // 2] * 1000:.1f}",
            f"{p99:.1f}",
            f"{waits[-1] * 1000:.1f}",
            f"{len(disk.waits):,}",
            f"{statistics.median(disk.waits) * 1000:.2f}",
            f"{cpu / len(waits) * 1e6:.0f}",
        )
        print(f"{f'{rate:,.0f} a second' if rate else 'at once':>14}", *(f"{figure:>8}" for figure in figures))
    print(f"p99 at {options.rate:,.0f} a second: {goal:.1f} ms, the goal is {GOAL_MS:g} ms")


if __name__ == "__main__":
    main()
