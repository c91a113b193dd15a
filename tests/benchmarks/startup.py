"""
What it costs to start: `gym --help`, `gym list`, and two environments ready to play.

    python tests/benchmarks/startup.py [--runs 15]

Prints medians; the goals are 2.5 times the CPU time of `import click` for the first two, and 1 second of wall time and
120 MB for the third.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile

from measure import alternate, machine, run_once

READY = """
import sys, time, asyncio
from pathlib import Path
from gymcore import Plan, compose, discover, run, write_composition

async def first():
    plan = Plan.model_validate({"environments": {"example_single_tool_call": {}, "example_multi_step": {}}})
    composition = compose(plan, discover())
    write_composition(composition, Path(sys.argv[1]))
    async with run(composition) as rollouts:
        # Linux: seconds since this process was started, by the kernel's clock.
        ticks = float(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
        import os
        print(time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))

asyncio.run(first())
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--runs", type=int, default=15)
    options = parser.parse_args()
    python = sys.executable
    figures = alternate(
        {
            "python -c 'import click'": [python, "-c", "import click"],
            "gym --help": [python, "-m", "gymcore", "--help"],
            "gym list": [python, "-m", "gymcore", "list"],
        },
        options.runs,
    )
    base = statistics.median(figure.cpu_s for figure in figures["python -c 'import click'"])
    print(f"{'command':28} {'CPU ms':>8} {'wall ms':>8} {'x import click':>15}")
    for name, taken in figures.items():
        cpu = statistics.median(figure.cpu_s for figure in taken)
        wall = statistics.median(figure.wall_s for figure in taken)
        print(f"{name:28} {cpu * 1000:8.1f} {wall * 1000:8.1f} {cpu / base:15.2f}")
    seconds, peaks, cpus = [], [], []
    for _ in range(options.runs):
        with tempfile.TemporaryDirectory() as folder:
            figure = run_once([python, "-c", READY, f"{folder}/run"])
        seconds.append(float(figure.output))
        peaks.append(figure.peak_mb)
        cpus.append(figure.cpu_s)
    print(
        f"two environments ready to play: {statistics.median(seconds) * 1000:.0f} ms after the process started, "
        f"{statistics.median(cpus) * 1000:.0f} ms CPU, {statistics.median(peaks):.0f} MB resident, one process"
    )
    print(machine(figures["python -c 'import click'"]))


if __name__ == "__main__":
    main()
