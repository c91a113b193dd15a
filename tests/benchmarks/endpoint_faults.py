"""
What an endpoint that throttles, goes down or misbehaves has to bear from a run, and what the run loses.

    python tests/benchmarks/endpoint_faults.py [capacity] [outage] [faults] [--scale 1.0] [--json]

Each case starts an endpoint of its own on loopback and plays the bundled weather environment against it with
`gym run`, a process of its own, 256 rollouts at once. `--scale 0.1` does a tenth of the work and of the outage.
Ends with 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gymcore.testing import LoopbackEndpoint, calls, half_a_body, hangs, html, reset, says, slow, status

CONCURRENCY = 256
TASKS = 5
"""Rows of the example data of `example_single_tool_call`; each is solved in two model calls."""


def weather(body: dict[str, Any]) -> Any:
    """Solve the weather environment."""
    asked = any(item.get("type") == "function_call_output" for item in body["input"])
    return says("It is cold.") if asked else calls("get_weather", city="Oslo")


def play(endpoint: LoopbackEndpoint, rollouts: int, folder: Path, **config: Any) -> dict[str, Any]:
    """Play so many rollouts and return what became of them."""
    command = [sys.executable, "-m", "gymcore", "run", "--env=example_single_tool_call", "--model=openai_model"]
    command += [f"--repeats={rollouts // TASKS}", f"--concurrency={CONCURRENCY}", f"--out={folder}"]
    command += [f"--set=models.policy.config.base_url={endpoint.base_url}"]
    command += [f"--set=models.policy.config.{name}={value}" for name, value in config.items()]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("POLICY_")}
    began = time.monotonic()
    process = subprocess.run(command, env={**clean, "NO_COLOR": "1"}, capture_output=True, text=True, check=False)
    took_s = time.monotonic() - began
    if process.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{process.stderr}")
    finished = list(lines_of(folder / "rollouts.jsonl"))
    failures = list(lines_of(folder / "failures.jsonl"))
    done = {key_of(line) for line in finished}
    failed = {key_of(line) for line in failures} - done
    attempts = sum(turn["attempts"] for line in finished for turn in line["turns"])
    return {
        "planned": rollouts // TASKS * TASKS,
        "finished": len(done),
        "twice": len(finished) - len(done),
        "failed": len(failed),
        "failures_with_reward": sum("reward" in line for line in failures),
        "requests": len(endpoint.requests),
        "replies": sum(len(line["turns"]) for line in finished),
        "attempts": attempts,
        "seconds": round(took_s, 1),
    }


def lines_of(file: Path) -> Iterator[dict[str, Any]]:
    if file.exists():
        yield from map(json.loads, file.read_bytes().splitlines())


def key_of(line: dict[str, Any]) -> tuple[str, str, int]:
    return line["environment"], line["task_id"], line["repeat"]


def capacity(scale: float, folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """An endpoint that answers 32 requests at once, and 429 to whoever comes then."""
    with LoopbackEndpoint(lambda body: slow(0.1, weather(body)), capacity=32) as endpoint:
        yield "capacity 32, 256 in flight", play(endpoint, int(5000 * scale), folder / "capacity")


def outage(scale: float, folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """An endpoint that goes away in the middle, in three ways."""
    for name, answer in (("refused", None), ("503", status(503)), ("reset", reset())):
        with LoopbackEndpoint(lambda body: slow(0.5, weather(body))) as endpoint:
            counted: list[int] = []

            @contextmanager
            def down(endpoint: LoopbackEndpoint = endpoint, answer: Any = answer) -> Iterator[None]:
                with endpoint.outage(answer):
                    yield

            stage = threading.Thread(target=go_down, args=(endpoint, down, 60 * scale, counted))
            stage.start()
            result = play(endpoint, max(1500, int(2500 * scale)), folder / name)
            stage.join()
            if name == "refused":  # nobody was there to count: what the rollouts say they asked, less what arrived
                counted = [result["attempts"] - result["requests"]]
            yield f"{name} for {60 * scale:g} s", {**result, "requests_in_outage": counted[0]}


def go_down(endpoint: LoopbackEndpoint, down: Callable[[], Any], seconds: float, counted: list[int]) -> None:
    """Wait until a thousand requests have come, go down, and count those that come although they could know better."""
    while len(endpoint.requests) < 1000:
        time.sleep(0.01)
    with down():
        time.sleep(min(1.0, seconds / 4))  # what was under way when it happened
        before = len(endpoint.requests)
        time.sleep(seconds - min(1.0, seconds / 4))
        counted.append(len(endpoint.requests) - before)


def faults(scale: float, folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """An endpoint of which three requests in ten go wrong, each in one of seven ways."""
    chance = random.Random(0)
    kinds = [
        status(500),
        status(502),
        status(429, headers={"Retry-After": "0"}),
        half_a_body(),
        reset(),
        html(),
        hangs(),
    ]

    def misbehave(body: dict[str, Any]) -> Any:
        return chance.choice(kinds) if chance.random() < 0.3 else weather(body)

    with LoopbackEndpoint(misbehave) as endpoint:
        yield "30 % mixed faults", play(endpoint, int(10_000 * scale), folder / "faults", timeout_s=2)


def missed(case: str, result: dict[str, Any]) -> list[str]:
    """Name the goals that a result misses."""
    wrong = []
    if result["finished"] + result["failed"] != result["planned"] or result["twice"]:
        wrong.append("every rollout ends once, finished or failed")
    if result["failures_with_reward"]:
        wrong.append("no failure has a reward")
    if case == "capacity" and result["requests"] > 1.25 * result["replies"]:
        wrong.append("at most 1.25 requests for a reply")
    if case != "faults" and result["failed"]:
        wrong.append("no rollout fails")
    if result.get("requests_in_outage", 0) > 60:
        wrong.append("at most 60 requests during the outage")
    return wrong


CASES = {"capacity": capacity, "outage": outage, "faults": faults}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("cases", nargs="*", default=list(CASES), metavar="CASE")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if unknown := set(options.cases) - set(CASES):
        parser.error(f"no case is called {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    if not options.json:
        print(
            f"{'':28} {'rollouts':>9} {'finished':>9} {'failed':>7} {'requests/reply':>15} {'in outage':>10} {'s':>7}"
        )
    has_missed = False
    with tempfile.TemporaryDirectory() as scratch:
        for case in options.cases:
            for name, result in CASES[case](options.scale, Path(scratch)):
                goals = missed(case, result)
                has_missed |= bool(goals)
                ratio = result["requests"] / max(1, result["replies"])
                if options.json:
                    told = {"case": name, "requests_per_reply": round(ratio, 4), **result, "missed": goals}
                    print(json.dumps(told), flush=True)
                    continue
                counts = f"{result['planned']:9,} {result['finished']:9,} {result['failed']:7,} {ratio:15.3f}"
                print(
                    f"{name:28} {counts} {result.get('requests_in_outage', '-'):>10} {result['seconds']:7}", flush=True
                )
                for goal in goals:
                    print(f"  missed: {goal}", flush=True)
    sys.exit(has_missed)


if __name__ == "__main__":
    main()
