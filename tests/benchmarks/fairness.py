"""
What a slow environment costs the fast ones that are played with it.

    python tests/benchmarks/fairness.py [--slots 64] [--tasks 600] [--seconds 0.05] [--slower 60]

Three environments take --seconds for a rollout, a fourth takes --slower times as long; all four have as many tasks,
half as many for the slow one. The fair-share time of an environment is what it takes with a quarter of the slots for
itself and no overhead. The goal is that the three fast ones end within 1.25 times that; where it is missed, the script
exits with 1.
"""

from __future__ import annotations

import argparse
import sys

from worlds import play, worlds

GOAL = 1.25


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--tasks", type=int, default=600)
    parser.add_argument("--seconds", type=float, default=0.05)
    parser.add_argument("--slower", type=float, default=60.0)
    options = parser.parse_args()
    seconds = {"slow": options.seconds * options.slower, **dict.fromkeys(("a", "b", "c"), options.seconds)}
    counts = {"slow": options.tasks // 2, **dict.fromkeys(("a", "b", "c"), options.tasks)}
    with worlds() as plugins:
        played = play(
            plugins,
            {
                "environments": {
                    name: {"use": "sleeps", "limit": counts[name], "config": {"seconds": taken}}
                    for name, taken in seconds.items()
                },
                "collect": {"concurrency": options.slots},
            },
        )
    print(f"{options.slots} slots")
    print(f"{'environment':12} {'rollouts':>8} {'each s':>7} {'done at s':>10} {'fair s':>7} {'x':>6}")
    worst = 0.0
    for name, taken in seconds.items():
        fair = counts[name] * taken / (options.slots / 4)
        if name == "slow":  # which has all slots once the others are over
            others = max(played[other].last_s for other in "abc")
            fair = (counts[name] * taken - others * options.slots / 4) / options.slots + others
        else:
            worst = max(worst, played[name].last_s / fair)
        figures = f"{taken:7.2f} {played[name].last_s:10.2f} {fair:7.2f} {played[name].last_s / fair:6.2f}"
        print(f"{name:12} {played[name].finished:8,} {figures}")
    print(f"the fast ones end within {worst:.2f} times their fair-share time; the goal is {GOAL}")
    return int(worst > GOAL or any(played[name].finished != counts[name] for name in seconds))


if __name__ == "__main__":
    sys.exit(main())
