"""
What `gym list` costs beside 10, 100 and 500 installed distributions.

    python tests/benchmarks/listing.py [--runs 11]

Makes distributions in a temporary folder, ten of them plugins with a manifest each, and puts it on PYTHONPATH; what is
installed for this interpreter comes on top. Prints the median and the least CPU time of whole processes, and the median
compared with that of `import click`. The goal is at most 200 ms beside 500. That no plugin is imported is a test, and
looked at here too.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from measure import Figure, machine, run_once

COUNTS = (10, 100, 500)
PLUGINS = 10
GOAL_MS = 200
LOADED = (
    "import atexit, sys\n"
    "atexit.register(lambda: print(sum(name.startswith('made_') for name in sys.modules), file=sys.stderr))\n"
    "from gymcore.cli import main; main(['list'])"
)


def make_distributions(folder: Path, count: int) -> None:
    """Write what an installer leaves behind of so many distributions; the first ones offer an environment each."""
    for number in range(count):
        info = folder / f"made_{number}-1.0.dist-info"
        info.mkdir(parents=True)
        requires = "".join(f"Requires-Dist: something-{index}>=1\n" for index in range(10))
        text = f"Metadata-Version: 2.1\nName: made-{number}\nVersion: 1.0\n{requires}\n{'A description. ' * 300}"
        (info / "METADATA").write_text(text)
        (info / "RECORD").write_text(f"made_{number}/__init__.py,,\n")
        (info / "entry_points.txt").write_text(f"[console_scripts]\nmade-{number} = made_{number}:main\n")
        if number < PLUGINS:
            package = folder / f"made_{number}"
            package.mkdir()
            (package / "__init__.py").write_text("raise RuntimeError('a listing imports nothing')\n")
            (package / "gym.yaml").write_text(
                "gym_api: 1\ndescription: Made to be listed.\nsplits: {example: a.jsonl}\n"
            )
            offers = f"[gymcore.environments]\nmade_{number} = made_{number}:Made\n"
            (info / "entry_points.txt").write_text(offers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--runs", type=int, default=11)
    options = parser.parse_args()
    head = ("distributions", "CPU ms", "least", "x click", "goal", "plugin modules")
    print("{:>14} {:>8} {:>8} {:>8} {:>6} {:>15}".format(*head))
    with tempfile.TemporaryDirectory() as scratch:
        environs = {}
        for count in COUNTS:
            folder = Path(scratch) / str(count)
            make_distributions(folder, count)
            path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
            environs[count] = {**os.environ, "PYTHONPATH": path}
        taken: dict[int, list[Figure]] = {count: [] for count in COUNTS}
        base: list[Figure] = []
        for _ in range(options.runs):  # in turn, so that a busy minute is everybody's
            base.append(run_once([sys.executable, "-c", "import click"]))
            for count, environ in environs.items():
                taken[count].append(run_once([sys.executable, "-m", "gymcore", "list"], environ))
        for count, environ in environs.items():
            looked = subprocess.run(
                [sys.executable, "-c", LOADED], env=environ, capture_output=True, text=True, check=True
            )
            goal = str(GOAL_MS) if count == COUNTS[-1] else ""
            cpu = statistics.median(figure.cpu_s for figure in taken[count]) * 1000
            least = min(figure.cpu_s for figure in taken[count]) * 1000
            ratio = cpu / 1000 / statistics.median(figure.cpu_s for figure in base)
            print(f"{count:14} {cpu:8.1f} {least:8.1f} {ratio:8.2f} {goal:>6} {looked.stderr.strip():>15}")
    print(machine(taken[COUNTS[-1]]))


if __name__ == "__main__":
    main()
