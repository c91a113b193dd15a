"""
What a process of its own costs an environment, and what a hostile environment costs the others.

    python tests/benchmarks/isolation.py [--repeats 400] [--runs 3]

Both figures come from whole `gym run` processes with the oracle as the model, so no endpoint is needed. Cost: the
example environment `example_multi_step` here and in a process; CPU time is the kernel's, workers included, and the time
of a run with one repeat is taken off both. Harm: an orderly environment that plays in the run's own process, alone and
beside hostile ones in theirs; its speed is its rollouts by the time from its first start to its last end.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

from measure import Figure, alternate, machine, run_once

HOSTILE = Path(__file__).parents[1] / "data" / "hostile"
WAYS = ("raises", "exits", "dies", "crashes", "loops", "matches", "floods", "spawns")


def cost(repeats: int, runs: int) -> None:
    """Print the CPU time of a rollout here and in a process."""
    rows = 5  # of its example split
    with tempfile.TemporaryDirectory() as scratch:
        gym = ["sh", "-c", 'rm -rf "$0" && exec "$@"', f"{scratch}/run", sys.executable, "-m", "gymcore", "run"]
        gym += ["--env=example_multi_step", f"--out={scratch}/run"]
        isolated = "--set=environments.example_multi_step.isolation=process"
        figures = alternate(
            {
                "here, once": [*gym, "--repeats=1"],
                "here": [*gym, f"--repeats={repeats}"],
                "process, once": [*gym, "--repeats=1", isolated],
                "process": [*gym, f"--repeats={repeats}", isolated],
            },
            runs,
        )
    rollouts = rows * (repeats - 1)
    print(f"{rollouts:,} rollouts of example_multi_step, oracle")
    for name in ("here", "process"):
        more = _median(figures[name], "cpu_s") - _median(figures[f"{name}, once"], "cpu_s")
        start = _median(figures[f"{name}, once"], "wall_s")
        print(f"{name:8} CPU per rollout {more / rollouts * 1e6:6.0f} us   a run of {rows} rollouts {start:.2f} s")
    print(machine(figures["here"]))


def _median(figures: list[Figure], name: str) -> float:
    return statistics.median(getattr(figure, name) for figure in figures)


def harm(repeats: int, runs: int) -> None:
    """Print the speed of an orderly environment alone and beside hostile ones."""
    speeds: dict[str, list[float]] = {"alone": [], "beside": []}
    for _ in range(runs):
        for name in speeds:
            speeds[name].append(_speed(repeats, WAYS if name == "beside" else ()))
    alone, beside = statistics.median(speeds["alone"]), statistics.median(speeds["beside"])
    print(f"orderly alone {alone:,.0f} rollouts/s, beside {len(WAYS)} hostile ways {beside:,.0f}: {beside / alone:.0%}")


def _speed(repeats: int, ways: tuple[str, ...]) -> float:
    """Return the rollouts per second of the orderly environment; all of them must finish."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "run"
        orderly = Path(scratch) / "orderly.jsonl"
        orderly.write_text(_row("well") * 20)
        gym = [sys.executable, "-m", "gymcore", "run", f"--out={out}", "--env=orderly", "--concurrency=64"]
        gym += [f"--set=environments.orderly={{isolation: none, data: {orderly}, repeats: {repeats}}}"]
        if ways:
            # Each way is tried again and again as long as the orderly one plays.
            rows = Path(scratch) / "hostile.jsonl"
            rows.write_text("".join(_row(way) + _row("well") for way in ways) * 3)
            options = f"{{data: {rows}, isolation: process, workers: 2, concurrency: 4, tool_timeout_s: 1.0}}"
            gym += ["--env=hostile", f"--set=environments.hostile={options}"]
        environ = {**os.environ, "PYTHONPATH": str(HOSTILE)}
        # What is hostile fails, so the exit code is 1; what counts is what is on the disk.
        run_once(["sh", "-c", '"$@" || test $? -eq 1', "gym", *gym], environ)
        lines = [json.loads(line) for line in (out / "rollouts.jsonl").read_bytes().splitlines()]
    timings = [line["timing"] for line in lines if line["environment"] == "orderly"]
    assert len(timings) == 20 * repeats, f"{len(timings)} of {20 * repeats} orderly rollouts are finished"
    end = max(timing["started_at"] + timing["duration_s"] for timing in timings)
    return len(timings) / (end - min(timing["started_at"] for timing in timings))


def _row(how: str) -> str:
    return json.dumps({"responses_create_params": {"input": f"Act: {how}."}, "how": how}) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--repeats", type=int, default=400)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    cost(options.repeats, options.runs)
    harm(options.repeats, options.runs)


if __name__ == "__main__":
    main()
