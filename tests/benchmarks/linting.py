"""
What the linter costs beside composing: CPU time of `gym compose --dry-run` with every warning silenced, and with none.

    python tests/benchmarks/linting.py [--runs 5]

Rows of about 1 KB in two environments, 20,000 in all, whose questions of 40 words are all different, which is the worst
case; and 10,000 rows of about 11 KB in one environment. The goal is at most 30 % more.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import get_args

from measure import alternate, machine

from gymcore.plan import WarningName

NAMES = ("example_single_tool_call", "example_multi_step")


def write_rows(path: Path, name: str, count: int, words: int, seed: int) -> None:
    """Write training rows of an environment with words of chance after the question."""
    chance = random.Random(seed)
    vocabulary = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(2, 9))) for _ in range(8000)]
    lines = files(f"gym_plugin_{name}").joinpath("data/train.jsonl").read_bytes().splitlines()
    with path.open("w", encoding="utf-8") as out:
        for number in range(count):
            row = json.loads(lines[number % len(lines)])
            row["id"] = number
            asked = row["responses_create_params"]["input"][-1]
            asked["content"] += " " + " ".join(chance.choices(vocabulary, k=words))
            if name == NAMES[1]:  # short rows in the place of lists of synonyms
                row["responses_create_params"]["input"][0]["content"] = "Look synonyms up."
            out.write(json.dumps(row) + "\n")


def commands(rows: Sequence[tuple[str, Path]]) -> dict[str, list[str]]:
    """Return the two commands that are compared."""
    asked = [part for name, path in rows for part in ("--env", name, "--set", f"environments.{name}.data=[{path}]")]
    with_linter = [sys.executable, "-m", "gymcore", "compose", *asked, "--dry-run"]
    ignored = [part for name in get_args(WarningName) for part in ("--ignore-warning", name)]
    return {"without": [*with_linter, *ignored], "with": with_linter}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gymcore-linting-") as scratch:
        small = [(name, Path(scratch) / f"{name}.jsonl") for name in NAMES]
        for seed, (name, path) in enumerate(small):
            write_rows(path, name, 10_000, 40, seed)
        large = [(NAMES[1], Path(scratch) / "large.jsonl")]
        write_rows(large[0][1], NAMES[1], 10_000, 1500, 2)
        for title, rows in (("20,000 rows of 1 KB", small), ("10,000 rows of 11 KB", large)):
            figures = alternate(commands(rows), options.runs)
            cpu = {name: statistics.median(figure.cpu_s for figure in found) for name, found in figures.items()}
            share = cpu["with"] / cpu["without"] - 1
            print(
                f"{title}: {cpu['without']:.2f} s of CPU without the linter, {cpu['with']:.2f} s with it: {share:+.0%}"
            )
            print(f"  {machine(figures['with'])}")


if __name__ == "__main__":
    main()
