"""
Environments for the benchmarks of mixes: one that behaves, and many that do not, installed as a real distribution.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gymcore.documents import write_yaml
from gymcore.testing import PluginFolder

__all__ = ["HOSTILE", "Played", "play", "worlds"]

WORLDS = '''
import asyncio, os, time
from gymcore import Config, Environment, Task, call, say, tool

class Options(Config):
    seconds: float = 0.05

class Sleeps(Environment[Task, Options]):
    """Takes as long as it is told, as if a model thought."""

    async def open(self):
        await asyncio.sleep(self.config.seconds)

    @tool
    def act(self) -> str:
        """Do what there is to do."""
        return "done"

    def verify(self, trajectory):
        return 1.0

    async def solve(self):
        yield call("act")
        yield say("Done.")

class Raises(Sleeps):
    def verify(self, trajectory):
        raise ValueError("an odd task")

class Exits(Sleeps):
    @tool
    def act(self) -> str:
        """Leave."""
        raise SystemExit(1)

class Hangs(Sleeps):
    async def open(self):
        await asyncio.Event().wait()

class HangsInAThread(Sleeps):
    @tool(thread=True)
    def act(self) -> str:
        """Wait for ever."""
        time.sleep(3600)

class Floods(Sleeps):
    async def open(self):
        await super().open()
        for _ in range(100):
            print("x" * 999)

class Mutates(Sleeps):
    async def open(self):
        await super().open()
        self.task.model_extra.clear()
        self.task.__dict__["environment"] = "stolen"

class Cancels(Sleeps):
    @tool
    async def act(self) -> str:
        """Stop."""
        raise asyncio.CancelledError

class LeavesTasks(Sleeps):
    async def open(self):
        await super().open()
        for _ in range(20):
            asyncio.ensure_future(asyncio.sleep(3600))

class Blocks(Sleeps):
    async def open(self):
        time.sleep(3600)

class Crashes(Sleeps):
    async def open(self):
        await super().open()
        os.abort()
'''

HOSTILE = {
    "raises": "every verifier raises",
    "exits": "every tool raises SystemExit",
    "hangs": "no rollout ever opens",
    "hangs_in_a_thread": "every tool blocks its thread for ever",
    "floods": "100 KB are printed in each rollout",
    "mutates": "the row it is given is changed",
    "cancels": "every tool leaks a CancelledError",
    "leaves_tasks": "twenty tasks are left behind by each rollout",
}
"""What misbehaves in one process, and how."""

ISOLATED = {
    "blocks": "the event loop is blocked for ever",
    "crashes": "every rollout ends its process with SIGABRT",
}
"""What misbehaves so that it needs a process of its own."""

ROWS = 20_000


@contextmanager
def worlds() -> Iterator[PluginFolder]:
    """Install the environments for as long as the block lasts."""
    names = ("sleeps", *HOSTILE, *ISOLATED)
    rows = "".join(
        json.dumps({"responses_create_params": {"input": f"task {number}"}, "task_id": f"t{number}"}) + "\n"
        for number in range(ROWS)
    )
    manifest = "gym_api: 1\ndescription: Made by a benchmark.\nsplits:\n  example: rows.jsonl\n"
    points = {name: "bench_worlds:" + "".join(word.capitalize() for word in name.split("_")) for name in names}
    points["hangs_in_a_thread"] = "bench_worlds:HangsInAThread"
    with tempfile.TemporaryDirectory(prefix="gymcore-worlds-") as folder, PluginFolder(Path(folder)) as plugins:
        plugins.install(
            "gym-plugin-bench-worlds",
            {
                "bench_worlds/__init__.py": WORLDS,
                "bench_worlds/gym.yaml": manifest,
                "bench_worlds/rows.jsonl": rows,
            },
            {"gymcore.environments": points},
        )
        yield plugins


@dataclass(frozen=True)
class Played:
    """What one environment did in a run."""

    finished: int
    first_s: float
    """When its first rollout started, in seconds after the first of the run."""
    last_s: float
    """When its last finished rollout ended, in the same seconds."""

    @property
    def per_second(self) -> float:
        """Finished rollouts per second."""
        return self.finished / self.last_s


def play(plugins: PluginFolder, plan: Mapping[str, Any], *, talk_to: Path | None = None) -> dict[str, Played]:
    """
    Run a plan with `gym run`, as a process of its own.

    Args:
        plugins: Where the environments are installed.
        plan: What to play.
        talk_to: The file that gets what the run says; nobody does where it is None.

    Returns:
        What finished, by environment.

    Raises:
        SystemExit: the run ended with something else than 0 or 1.
    """
    with tempfile.TemporaryDirectory(prefix="gymcore-mix-") as folder:
        plan_file, out, talk = Path(folder) / "plan.yaml", Path(folder) / "run", talk_to or Path(folder) / "talk"
        plan_file.write_text(write_yaml(dict(plan)))
        with talk.open("wb") as file:
            command = [sys.executable, "-m", "gymcore", "run", "--plan", str(plan_file), "--out", str(out)]
            code = subprocess.run(
                command, env=plugins.environ, stdout=subprocess.DEVNULL, stderr=file, check=False
            ).returncode
        if code not in (0, 1):
            raise SystemExit(f"gym run ended with {code}:\n{talk.read_text(errors='replace')[-3000:]}")
        return _sum_up(out)


def _sum_up(out: Path) -> dict[str, Played]:
    times: dict[str, list[tuple[float, float]]] = {}
    for name in ("rollouts.jsonl", "failures.jsonl"):
        for line in (out / name).read_bytes().splitlines():
            value = json.loads(line)
            timing = value["timing"]
            if "reward" in value:
                span = (timing["started_at"], timing["started_at"] + timing["duration_s"])
                times.setdefault(value["environment"], []).append(span)
    zero = min(start for spans in times.values() for start, _ in spans)
    return {
        name: Played(len(spans), min(span[0] for span in spans) - zero, max(span[1] for span in spans) - zero)
        for name, spans in times.items()
    }
