"""
What a hostile environment costs the good ones that are played with it.

    python tests/benchmarks/hostile.py [--slots 48] [--tasks 600] [--seconds 0.05] [WAY ...]

Two good environments are played with one that misbehaves, and with one that behaves in its place; the figure is how
many rollouts a second the good ones finish. The goal is that they finish all of them, at 90 % of their speed or more;
exits with 1 where it is missed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping
from typing import Any

from worlds import HOSTILE, ISOLATED, Played, play, worlds

from gymcore.plan import EnvironmentPlan

GOAL = 0.9


def plan_of(third: Mapping[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Return the plan of two good environments and a third."""
    good = {"use": "sleeps", "limit": options.tasks, "config": {"seconds": options.seconds}}
    limits = {"timeout_s": 2.0, "tool_timeout_s": 1.0, "verify_timeout_s": 1.0}
    return {
        "environments": {"a": good, "b": good, "third": {**good, **limits, **third}},
        "collect": {"concurrency": options.slots},
    }


def speed(played: Mapping[str, Played]) -> float:
    """Return how many rollouts the good environments finish a second, together."""
    return sum(played[name].per_second for name in ("a", "b"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("ways", nargs="*", metavar="WAY", help="Which; all where none is named.")
    parser.add_argument("--slots", type=int, default=48)
    parser.add_argument("--tasks", type=int, default=600)
    parser.add_argument("--seconds", type=float, default=0.05)
    options = parser.parse_args()
    known = {**HOSTILE, **(ISOLATED if "isolation" in EnvironmentPlan.model_fields else {})}
    missed = 0
    with worlds() as plugins:
        baseline = statistics.median(speed(play(plugins, plan_of({}, options))) for _ in range(3))
        print(f"{'beside':18} {'finished':>12} {'rollouts/s':>10} {'of usual':>9}")
        print(f"{'a third good one':18} {'':12} {baseline:10.0f} {'100 %':>9}")
        for way in options.ways or known:
            third = {"use": way, **({"isolation": "process"} if way in ISOLATED else {})}
            played = play(plugins, plan_of(third, options))
            finished = played["a"].finished + played["b"].finished
            share = speed(played) / baseline
            missed += finished < 2 * options.tasks or share < GOAL
            shown = f"{finished:,} / {2 * options.tasks:,}"
            print(f"{way:18} {shown:>12} {speed(played):10.0f} {share:9.0%}  {known[way]}")
    print(f"{missed} ways miss the goal: all rollouts of the others, at {GOAL:.0%} of their speed")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
