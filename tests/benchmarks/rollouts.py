"""
What a model call costs, everything included, beside a bare aiohttp loop that only posts the same bodies.

    python tests/benchmarks/rollouts.py --base-url http://127.0.0.1:8900/v1 [--data rows.jsonl ...]
        [--in-flight 64 1024 4096] [--calls 30000] [--runs 3] [--latency-ms 50]

The tasks are the ten example rows of the two bundled environments, or the rows of --data (routed by `agent_ref`).
First `gym run` plays them; then a bare loop posts the bodies of which those rollouts were made, with as many in flight,
and reads the replies without looking into them. Both are whole processes, from start to end, in turn; CPU time is user
and system time of the process, as the kernel counts it.

`--latency-ms` says how long the endpoint waits before it answers: then the rate is compared with the ideal one,
which is what is in flight divided by the calls of a rollout and their latency.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from measure import Figure, machine, run_once

BARE = """
import asyncio, itertools, json, sys
import aiohttp

async def main(bodies, url, in_flight, calls):
    pending = iter(itertools.islice(itertools.cycle(bodies), calls))
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
        async def work():
            for body in pending:
                async with session.post(url, data=body, headers={"Content-Type": "application/json"}) as reply:
                    await reply.read()
                    assert reply.status == 200
        await asyncio.gather(*(work() for _ in range(in_flight)))

bodies = open(sys.argv[1], "rb").read().splitlines()
work = main(bodies, sys.argv[2] + "/responses", int(sys.argv[3]), int(sys.argv[4]))
try:
    import uvloop
except ImportError:
    asyncio.run(work)
else:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)
"""


def bodies_of(rollouts: Path, tasks: int) -> list[bytes]:
    """Return the body of every request of the first rollout of each task."""
    bodies = []
    seen = set()
    for line in rollouts.open("rb"):
        rollout = json.loads(line)
        if rollout["task_id"] in seen:
            continue
        seen.add(rollout["task_id"])
        params = rollout["responses_create_params"]
        items, output = list(params["input"]), rollout["response"]["output"]
        for turn in rollout["turns"]:
            bodies.append(json.dumps({**params, "input": items}, separators=(",", ":")).encode())
            count = turn["output"] + turn["results"] + turn["answer"]
            items, output = [*items, *output[:count]], output[count:]
        if len(seen) == tasks:
            break
    return bodies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--data", nargs="*", default=[])
    parser.add_argument("--calls", type=int, default=30_000, help="model calls of one run, about")
    parser.add_argument("--in-flight", type=int, nargs="*", default=[64, 1024, 4096])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--latency-ms", type=float, default=0.0, help="what the endpoint was started with")
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    chosen = [f"--data={path}" for path in options.data]
    chosen = chosen or ["--env=example_single_tool_call", "--env=example_multi_step"]
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(Path(scratch), options.base_url, chosen)
        bench.learn()
        print(f"{len(bench.bodies)} bodies of {sum(map(len, bench.bodies)) / len(bench.bodies) / 1000:.1f} KB")
        print(HEAD)
        first = None
        for in_flight in options.in_flight:
            pairs = [bench.pair(in_flight, options.calls) for _ in range(options.runs)]
            first = report(bench, in_flight, pairs, options.latency_ms, first)


class Bench:
    """Runs both sides."""

    def __init__(self, scratch: Path, base_url: str, chosen: list[str]) -> None:
        self.out, self.bodies_file = scratch / "run", scratch / "bodies"
        self.base_url = base_url
        self.gym = [sys.executable, "-m", "gymcore", "run", *chosen, "--model=openai_model", f"--out={self.out}"]
        self.gym.append(f"--set=models.policy.config.base_url={base_url}")
        self.bodies: list[bytes] = []
        self.tasks = 0
        self.rollouts = 0

    def learn(self) -> None:
        """Play every task once, to know what is posted."""
        run_once([*self.gym, "--repeats=1"])
        self.tasks = sum(1 for _ in (self.out / "rollouts.jsonl").open("rb"))
        self.bodies = bodies_of(self.out / "rollouts.jsonl", self.tasks)
        self.bodies_file.write_bytes(b"\n".join(self.bodies))

    def pair(self, in_flight: int, calls: int) -> tuple[Figure, Figure]:
        """Run both sides once, with the same number of requests."""
        repeats = max(1, round(calls / len(self.bodies)), -(-in_flight // self.tasks))
        self.rollouts = repeats * self.tasks
        shutil.rmtree(self.out, ignore_errors=True)
        ours = run_once([*self.gym, f"--repeats={repeats}", f"--concurrency={in_flight}"])
        finished = sum(1 for _ in (self.out / "rollouts.jsonl").open("rb"))
        assert finished == self.rollouts, f"{finished} of {self.rollouts} rollouts"
        loop = [sys.executable, "-c", BARE, str(self.bodies_file), self.base_url, str(in_flight)]
        return ours, run_once([*loop, str(repeats * len(self.bodies))])


HEAD = (
    f"{'in flight':>9} {'calls':>7}  {'us CPU/call':>11} {'bare aiohttp':>12} {'ratio':>6} {'to first':>8}"
    f"  {'us CPU/rollout':>14} {'rollouts/s':>10} {'of ideal':>8} {'peak MB':>8}"
)


def report(
    bench: Bench, in_flight: int, pairs: list[tuple[Figure, Figure]], latency_ms: float, first: float | None
) -> float:
    """Print a line of the table, and return the CPU time of a call."""
    calls = bench.rollouts * len(bench.bodies) / bench.tasks
    ours, bare = (statistics.median(pair[side].cpu_s for pair in pairs) / calls * 1e6 for side in (0, 1))
    ratio = statistics.median(pair[0].cpu_s / pair[1].cpu_s for pair in pairs)
    wall = statistics.median(pair[0].wall_s for pair in pairs)
    ideal = in_flight / (len(bench.bodies) / bench.tasks * latency_ms / 1000) if latency_ms else None
    print(
        f"{in_flight:9,} {calls:7,.0f}  {ours:11.0f} {bare:12.0f} {ratio:6.2f} {ours / (first or ours):8.2f}"
        f"  {ours * calls / bench.rollouts:14.0f} {bench.rollouts / wall:10.0f}"
        f" {f'{bench.rollouts / wall / ideal:.0%}' if ideal else '-':>8}"
        f" {statistics.median(pair[0].peak_mb for pair in pairs):8.0f}"
    )
    print(f"{'':9} {machine([pair[0] for pair in pairs])}")
    return first or ours


if __name__ == "__main__":
    main()
