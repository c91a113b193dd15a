"""
What a rollout costs against an endpoint, beside a bare loop that only makes the same HTTP calls.

    python tests/benchmarks/rollouts.py --base-url http://127.0.0.1:8900/v1 [--data rows.jsonl ...] [--repeats 100]

The tasks are the ten example rows of the two bundled environments, or the rows of --data (routed by `agent_ref`).
First `gym run` plays them; then a bare httpx loop sends the request bodies that those rollouts were made of, with the
same concurrency and nothing else. Both are whole processes, in turn; CPU time is the kernel's.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from measure import Figure, machine, run_once

BARE = """
import asyncio, sys
import httpx

async def main(bodies, url, concurrency):
    pending = iter(bodies)
    limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    async with httpx.AsyncClient(timeout=600, limits=limits, trust_env=False, verify=False) as client:
        async def work():
            for body in pending:
                reply = await client.post(url, content=body, headers={"Content-Type": "application/json"})
                reply.json()
        await asyncio.gather(*(work() for _ in range(concurrency)))

bodies = open(sys.argv[1], "rb").read().splitlines()
asyncio.run(main(bodies, sys.argv[2] + "/responses", int(sys.argv[3])))
"""


def bodies_of(rollouts: Path) -> list[bytes]:
    """Return the body of every request that made these rollouts, in the order of the rollouts."""
    bodies = []
    for line in rollouts.read_bytes().splitlines():
        rollout = json.loads(line)
        params = rollout["responses_create_params"]
        items, output = list(params["input"]), rollout["response"]["output"]
        for turn in rollout["turns"]:
            bodies.append(json.dumps({**params, "input": items}, separators=(",", ":")).encode())
            count = turn["output"] + turn["results"] + turn["answer"]
            items, output = [*items, *output[:count]], output[count:]
    return bodies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--data", nargs="*", default=[])
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    chosen = [f"--data={path}" for path in options.data]
    chosen = chosen or ["--env=example_single_tool_call", "--env=example_multi_step"]
    ours: list[Figure] = []
    bare: list[Figure] = []
    with tempfile.TemporaryDirectory() as scratch:
        out, bodies_file = Path(scratch) / "run", Path(scratch) / "bodies"
        gym = [sys.executable, "-m", "gymcore", "run", *chosen, "--model=openai_model", f"--out={out}"]
        gym += [f"--set=models.policy.config.base_url={options.base_url}"]
        gym += [f"--repeats={options.repeats}", f"--concurrency={options.concurrency}"]
        for _ in range(options.runs):
            shutil.rmtree(out, ignore_errors=True)
            ours.append(run_once(gym))
            bodies = bodies_of(out / "rollouts.jsonl")
            bodies_file.write_bytes(b"\n".join(bodies))
            loop = [sys.executable, "-c", BARE, str(bodies_file), options.base_url, str(options.concurrency)]
            bare.append(run_once(loop))
        rollouts = len((out / "rollouts.jsonl").read_bytes().splitlines())
    report(ours, bare, rollouts, len(bodies), options.concurrency)


def report(ours: list[Figure], bare: list[Figure], rollouts: int, calls: int, concurrency: int) -> None:
    print(f"{rollouts:,} rollouts, {calls:,} model calls, {concurrency} in flight")
    print(f"{'':12} {'CPU ms/rollout':>15} {'CPU ms/call':>12} {'wall s':>8} {'rollouts/s':>11} {'peak MB':>8}")
    for name, figures in (("gym run", ours), ("bare httpx", bare)):
        cpu = statistics.median(figure.cpu_s for figure in figures)
        wall = statistics.median(figure.wall_s for figure in figures)
        peak = statistics.median(figure.peak_mb for figure in figures)
        per_rollout, per_call = cpu / rollouts * 1000, cpu / calls * 1000
        print(f"{name:12} {per_rollout:15.2f} {per_call:12.2f} {wall:8.2f} {rollouts / wall:11.1f} {peak:8.0f}")
    ratios = [a.cpu_s / b.cpu_s for a, b in zip(ours, bare, strict=True)]
    print(f"ratio of CPU time, pair by pair: median {statistics.median(ratios):.2f}")
    print(machine(ours))


if __name__ == "__main__":
    main()
