"""
What a second core gives: `gym run` with the executors `local` and `ray`, on a verifier that only computes.

    python tests/benchmarks/ray_speedup.py [--rollouts 1000] [--milliseconds 30] [--workers 2] [--runs 3]

Needs Ray: pip install 'gymcore[ray]'. Wall time is that of playing, from the first rollout that is started to the
last that is durable, because Ray takes seconds to start, whatever is played; the time of the whole command stands
beside it. The same rollouts are played in turn by both, in processes of their own. A second table, of a verifier that
costs nothing, says what handing a rollout over costs the process that holds the journal.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from measure import Figure, machine, run_once

from gymcore.documents import encode_json
from gymcore.testing.plugins import PluginFolder

ENVIRONMENT = """
import time

from gymcore import Config, Environment, option, say


class ComputeConfig(Config):
    rounds: int = option(0)


class Compute(Environment[ComputeConfig]):
    async def solve(self):
        yield say("done")

    def verify(self, trajectory):
        total = 0
        for number in range(self.config.rounds):
            total += number * number % 7
        return 1.0
"""

PLAY = """
import asyncio, json, os, sys, time
from pathlib import Path
from gymcore import Plan, collect, compose, discover, run

async def main(plan, out):
    composition = compose(Plan.model_validate(plan), discover())
    async with run(composition) as rollouts:
        wall, cpu = time.perf_counter(), time.process_time()
        collection = await collect(rollouts, Path(out))
        figures = time.perf_counter() - wall, time.process_time() - cpu, len(collection.finished)
    print(json.dumps(figures))

asyncio.run(main(json.loads(sys.argv[1]), sys.argv[2]))
"""


def rounds_for(milliseconds: float) -> int:
    """Return how many rounds of the verifier take so long here."""
    rounds = 100_000
    best = min(_timed(rounds) for _ in range(5))
    return int(rounds * milliseconds / 1000 / best)


def _timed(rounds: int) -> float:
    started = time.process_time()
    total = 0
    for number in range(rounds):
        total += number * number % 7
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--rollouts", type=int, default=1000)
    parser.add_argument("--milliseconds", type=float, default=30.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "plugins"
        folder.mkdir()
        with PluginFolder(folder) as plugins:
            files = {"compute_plugin/__init__.py": ENVIRONMENT, "compute_plugin/gym.yaml": "gym_api: 1\n"}
            entry_points = {"gymcore.environments": {"compute": "compute_plugin:Compute"}}
            plugins.install("gym-plugin-compute", files, entry_points)
            environ = plugins.environ
        for rounds, rollouts in ((rounds_for(options.milliseconds), options.rollouts), (0, 20 * options.rollouts)):
            compare(Path(scratch), environ, rounds, rollouts, options)


def compare(scratch: Path, environ: dict[str, str], rounds: int, rollouts: int, options: argparse.Namespace) -> None:
    """Play the same rollouts with both executors in turn, and print what they took."""
    data, out = scratch / "rows.jsonl", scratch / "run"
    data.write_bytes(encode_json({"responses_create_params": {"input": "compute"}}) + b"\n")
    figures: dict[str, list[tuple[Figure, tuple[float, float, int]]]] = {"local": [], "ray": []}
    for _ in range(options.runs):
        for executor, found in figures.items():
            plan = {
                "environments": {"compute": {"data": [str(data)], "config": {"rounds": rounds}}},
                "collect": {"executor": executor, "ray": {"workers": options.workers}, "repeats": rollouts},
            }
            shutil.rmtree(out, ignore_errors=True)
            figure = run_once([sys.executable, "-c", PLAY, json.dumps(plan), str(out)], environ)
            found.append((figure, json.loads(figure.output.splitlines()[-1])))
    per = f"{options.milliseconds:g} ms of pure Python" if rounds else "nothing to compute"
    print(f"\n{rollouts:,} rollouts, {per} in each verifier, {options.workers} workers, load {os.getloadavg()[0]:.1f}")
    print(f"{'':8} {'playing s':>10} {'rollouts/s':>11} {'CPU ms/rollout here':>20} {'whole command s':>16}")
    for executor, found in figures.items():
        wall = statistics.median(played[0] for _, played in found)
        cpu = statistics.median(played[1] for _, played in found)
        whole = statistics.median(figure.wall_s for figure, _ in found)
        assert all(played[2] == rollouts for _, played in found)
        print(f"{executor:8} {wall:10.2f} {rollouts / wall:11.1f} {cpu / rollouts * 1000:20.3f} {whole:16.2f}")
    pairs = zip(figures["local"], figures["ray"], strict=True)
    ratios = [local[1][0] / ray[1][0] for local, ray in pairs]
    shown = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    print(f"ray is {statistics.median(ratios):.2f} times as fast as local (pair by pair: {shown})")
    fastest = {executor: min(played[0] for _, played in found) for executor, found in figures.items()}
    print(f"the fastest run of ray is {fastest['local'] / fastest['ray']:.2f} times as fast as that of local")
    print(machine([figure for found in figures.values() for figure, _ in found]))


if __name__ == "__main__":
    main()
