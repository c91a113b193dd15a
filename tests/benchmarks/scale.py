"""
What a million rows need beside a thousand: memory, seconds and CPU time of compose, run, resume and report.

    python tests/benchmarks/scale.py [--rows 1000 1000000] [--scratch FOLDER]

The tasks are those of example_single_tool_call, each with a number of its own; the model is `nop`, which replies with
nothing at once. Every stage is a whole process; a million rows take about 5 minutes and 3 GB of the scratch folder,
which are freed again. `resume` is the same command again when everything is finished: it reads all and plays nothing.
The goal is a peak within 100 MB of that of the smallest number of rows.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from measure import Figure, run_once

ENVIRONMENT = "example_single_tool_call"
STAGES = ("compose", "run", "resume", "report")


def write_rows(path: Path, count: int) -> None:
    """Write rows of the weather environment, no two alike."""
    data = files("gym_plugin_example_single_tool_call").joinpath("data/train.jsonl").read_bytes()
    rows = [json.loads(line) for line in data.splitlines()]
    with path.open("w", encoding="utf-8") as out:
        for number in range(count):
            out.write(json.dumps({**rows[number % len(rows)], "id": number}, ensure_ascii=False) + "\n")


def measured(count: int, scratch: Path) -> dict[str, Figure]:
    """Return what each stage costs with so many rows."""
    rows, out = scratch / "rows.jsonl", scratch / "run"
    write_rows(rows, count)
    gym = [sys.executable, "-m", "gymcore"]
    asked = ["--env", ENVIRONMENT, "--set", f"environments.{ENVIRONMENT}.data=[{rows}]", "--model", "nop"]
    commands = {
        "compose": [*gym, "compose", *asked, "--out", str(out)],
        "run": [*gym, "run", str(out)],
        "resume": [*gym, "run", str(out)],
        "report": [*gym, "report", str(out), "--json"],
    }
    figures = {}
    for name in STAGES:
        figures[name] = run_once(commands[name])
        print(f"  {count:,} rows, {name}: {figures[name].wall_s:.1f} s", file=sys.stderr, flush=True)
    reported = json.loads(figures["report"].output)["total"]
    if (reported["finished"], reported["failed"]) != (count, 0):
        raise SystemExit(f"{count:,} rows gave {reported['finished']:,} rollouts, {reported['failed']:,} failed")
    rows.unlink()
    shutil.rmtree(out)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 1_000_000])
    parser.add_argument("--scratch", help="where the files go; the folder for temporary files, where nothing is said")
    options = parser.parse_args()
    figures: dict[int, dict[str, Figure]] = {}
    with tempfile.TemporaryDirectory(prefix="gymcore-scale-", dir=options.scratch) as scratch:
        for count in sorted(options.rows):
            figures[count] = measured(count, Path(scratch))
    least = min(figures)
    print(f"{'stage':8} {'rows':>10} {'peak MB':>8} {'more':>6} {'wall s':>8} {'CPU s':>8} {'us CPU a row':>13}")
    for stage in STAGES:
        for count, taken in figures.items():
            figure, base = taken[stage], figures[least][stage]
            # What starting costs is that of the fewest rows, and no row's.
            per_row = f"{(figure.cpu_s - base.cpu_s) / (count - least) * 1e6:13.1f}" if count > least else f"{'-':>13}"
            print(
                f"{stage:8} {count:10,} {figure.peak_mb:8.1f} {figure.peak_mb - base.peak_mb:6.1f} "
                f"{figure.wall_s:8.1f} {figure.cpu_s:8.1f} {per_row}"
            )


if __name__ == "__main__":
    main()
