"""
What a rollout costs beside its calls: where the microseconds of the core go.

    python tests/benchmarks/overhead.py [--rollouts 20000] [--runs 3] [--concurrency 64]

From the schedule on, one more part is added in every line: the difference to the line before is what it costs. Nothing
is asked over a network. CPU time is that of the whole process, the journal's thread included; each line is the median
of some runs.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from scale import ENVIRONMENT, write_rows

from gymcore import collect, compose, discover, report, run
from gymcore.composition import Composition
from gymcore.plan import Plan
from gymcore.records import Reward, Rollout, Trajectory, Turn
from gymcore.runtime import RolloutStream
from gymcore.runtime.budget import FailureBudgets
from gymcore.runtime.schedule import Planned, Schedule


class Instant:
    """An executor that plays nothing: each rollout is over when it starts, with one empty reply."""

    async def play(self, planned: Planned) -> Rollout:
        """Return a rollout with a reward."""
        return Rollout(
            row=planned.row,
            repeat=planned.repeat,
            trajectory=Trajectory(turns=(Turn(output=(), status="completed"),), stop="empty"),
            reward=Reward(value=0.0, metrics={"called": False, "calls": 0}),
            started_at=time.time(),
            duration_s=0.001,
            provenance={"lock": "0" * 16, "agent": "simple_agent", "model": "policy", "seed": 2**62},
        )

    def withdraw(self) -> None:
        """Nothing waits for what is gone."""

    def cancel(self) -> None:
        """There is nothing to stop."""

    def notes(self) -> tuple[str, ...]:
        """There is nothing to say."""
        return ()


@asynccontextmanager
async def instant(composition: Composition) -> AsyncIterator[RolloutStream]:
    """Open a stream of rollouts that nobody plays."""
    budgets = FailureBudgets(composition, composition.planned())
    concurrency = composition.plan.collect.concurrency
    stream = RolloutStream(Instant(), Schedule(composition, frozenset()), budgets, concurrency)
    try:
        yield stream
    finally:
        await stream.aclose()


async def made(composition: Composition, folder: Path) -> None:
    """Make as many rollouts, of rows that are there: what the executor above costs, and nobody else."""
    (route,) = composition.routes.values()
    executor, row = Instant(), composition.dataset.row(0)
    for position in range(len(composition.dataset)):
        await executor.play(Planned(position, route, row, 0))


async def pull(composition: Composition, folder: Path) -> None:
    """Ask the schedule for every rollout."""
    schedule = Schedule(composition, frozenset())
    planned = await schedule.take()
    while planned is not None:
        planned = schedule.exchange(planned) or await schedule.take()


async def stream(composition: Composition, folder: Path) -> None:
    """Hand every rollout over to a reader."""
    async with instant(composition) as rollouts:
        async for _ in rollouts:
            pass


async def journal(composition: Composition, folder: Path) -> None:
    """Write every rollout down."""
    async with instant(composition) as rollouts:
        await collect(rollouts, folder)


async def session(composition: Composition, folder: Path) -> None:
    """Open, ask, verify and close every rollout."""
    async with run(composition) as rollouts:
        await collect(rollouts, folder)


async def summed_up(composition: Composition, folder: Path) -> None:
    """Sum up what was written."""
    await session(composition, folder)
    report(folder)


BESIDE = "rollouts made of nothing (not the core's)"
LINES: dict[str, Callable[[Composition, Path], Awaitable[None]]] = {
    BESIDE: made,
    "the schedule alone": pull,
    "+ the stream": stream,
    "+ the collector and the journal": journal,
    "+ the session: simple_agent, nop, verify": session,
    "+ the report": summed_up,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--rollouts", type=int, default=20_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--concurrency", type=int, default=64)
    options = parser.parse_args()
    costs: dict[str, list[float]] = {name: [] for name in ("compose", *LINES)}
    with tempfile.TemporaryDirectory(prefix="gymcore-overhead-") as scratch:
        rows = Path(scratch) / "rows.jsonl"
        write_rows(rows, options.rollouts)
        plan = Plan.model_validate(
            {
                "environments": {ENVIRONMENT: {"data": [str(rows)]}},
                "models": {"policy": {"use": "nop"}},
                "collect": {"concurrency": options.concurrency},
            }
        )
        for number in range(options.runs):
            before = time.process_time()
            composition = compose(plan, discover())
            costs["compose"].append(time.process_time() - before)
            for name, line in LINES.items():
                folder = Path(scratch) / f"{number}-{line.__name__}"
                before = time.process_time()
                asyncio.run(line(composition, folder))
                costs[name].append(time.process_time() - before)
            print(f"  run {number + 1} of {options.runs}", file=sys.stderr, flush=True)
    print(f"{options.rollouts:,} rollouts, {options.concurrency} in flight")
    print(f"{'':42} {'us CPU a rollout':>17} {'of it this part':>16}")
    each = {name: statistics.median(taken) / options.rollouts * 1e6 for name, taken in costs.items()}
    last = 0.0
    for name, cost in each.items():
        print(f"{name:42} {cost:17.1f} {cost - last:16.1f}")
        # From the stream on, every line holds those before it; rollouts that are really played are none of these.
        last = 0.0 if name in ("compose", BESIDE) else cost
    core = each["+ the collector and the journal"] - each[BESIDE]
    print(f"pulling, handing over and writing a rollout: {core:.1f} us; the goal is 20")


if __name__ == "__main__":
    main()
