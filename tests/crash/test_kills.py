"""
SIGKILL at random moments of real processes: nothing finished is lost, there twice, or done again.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gymcore.doctor.crashes import kill
from gymcore.testing import PluginFolder

PATIENCE_S = 120.0

WORLD = '''
import asyncio, os, random
from gymcore import Environment, hookimpl, say

def note(name, text):
    file = os.open(os.environ[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, text.encode())
    os.close(file)

class World(Environment):
    """Notes what is played, outside of the run folder."""

    async def open(self):
        note("CRASH_PLAYED", f"{self.task.task_id}\\n")
        await asyncio.sleep(random.random() * 0.02)

    def verify(self, trajectory):
        return self.task.number / 10_000

    async def solve(self):
        yield say("x" * (self.task.number % 7 * 500))

@hookimpl
def gym_rollouts(folder, rollouts):
    note("CRASH_SAFE", "".join(f"{rollout.key[1]}\\n" for rollout in rollouts))
'''


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PluginFolder]:
    """One real distribution: an environment that notes what is played, and a hook that notes what is safe."""
    rows = (
        {"responses_create_params": {"input": f"task {number}"}, "number": number, "task_id": f"t{number}"}
        for number in range(2000)
    )
    with PluginFolder(tmp_path_factory.mktemp("kit")) as plugins:
        plugins.install(
            "gym-plugin-crash",
            {
                "crash_world/__init__.py": WORLD,
                "crash_world/gym.yaml": "gym_api: 1\ndescription: Made by a test.\nsplits:\n  example: rows.jsonl\n",
                "crash_world/rows.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
            },
            {
                "gymcore.environments": {"crash_world": "crash_world:World"},
                "gymcore.hooks": {"crash_notes": "crash_world"},
            },
        )
        yield plugins


@dataclass
class Run:
    """One run folder, the command that fills it, and what is known of it from outside."""

    folder: Path
    kit: PluginFolder
    rollouts: int
    finished: set[str] = field(default_factory=set)
    """What was whole in the file, or acknowledged, before the last launch."""
    before: bytes = b""

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self.played, self.safe = self.folder / "played", self.folder / "safe"
        self.path = self.folder / "run" / "rollouts.jsonl"

    def start(self) -> subprocess.Popen[bytes]:
        """Start the command; always the same one."""
        self.played.write_bytes(b"")
        self.safe.touch()
        names = {"CRASH_PLAYED": str(self.played), "CRASH_SAFE": str(self.safe)}
        options = ("--limit", str(self.rollouts), "--concurrency", "32", "--hook", "crash_notes", "--out", "run")
        return subprocess.Popen(
            [sys.executable, "-m", "gymcore", "run", "--env", "crash_world", *options],
            cwd=self.folder,
            env={**self.kit.environ, **names},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def lines(self) -> list[bytes]:
        """Return the whole lines of the file."""
        data = self.path.read_bytes() if self.path.exists() else b""
        return data[: data.rfind(b"\n") + 1].splitlines()

    def check(self) -> None:
        """Look at what a launch did, against everything that was known before it."""
        again = self.finished & set(self.played.read_text().split())
        assert not again, f"finished and played again: {sorted(again)[:5]}"
        lines = self.lines()
        data = b"".join(line + b"\n" for line in lines)
        assert data.startswith(self.before), "lines that were written have changed"
        there = Counter(json.loads(line)["task_id"] for line in lines)
        twice = [task for task, count in there.items() if count > 1]
        assert not twice, f"there twice: {twice[:5]}"
        lost = set(self.safe.read_text().split()) - there.keys()
        assert not lost, f"acknowledged and lost: {sorted(lost)[:5]}"
        self.before, self.finished = data, set(there)


def count_lines(path: Path) -> int:
    """Return how many lines a file has."""
    return path.read_bytes().count(b"\n")


def wait_for_moment(run: Run, process: subprocess.Popen[bytes], chance: random.Random) -> None:
    """Wait until a random number of rollouts was acknowledged since the start, or, now and then, only a random time."""
    if chance.random() < 0.1:
        time.sleep(chance.random())
        return
    wanted = count_lines(run.safe) + chance.randrange(run.rollouts // 2)
    end = time.monotonic() + PATIENCE_S
    while count_lines(run.safe) < wanted and process.poll() is None:
        assert time.monotonic() < end, "the run does not get on"
        time.sleep(0.002)
    time.sleep(chance.random() * 0.01)


@pytest.mark.parametrize(
    ("kills", "rollouts"),
    [(5, 300), pytest.param(200, 2000, marks=pytest.mark.rig)],
    ids=["5 kills", "200 kills"],
)
def test_gym_run_survives_sigkill_at_any_moment(
    kit: PluginFolder, tmp_path: Path, chance: random.Random, kills: int, rollouts: int
) -> None:
    """
    The same command after each kill: at the end every rollout is there once, and none was played after it finished.
    """
    killed = runs = lines = 0
    while killed < kills:
        runs += 1
        run = Run(tmp_path / str(runs), kit, rollouts)
        code = None
        while code != 0:
            process = run.start()
            if killed < kills:
                wait_for_moment(run, process, chance)
                process.kill()
            _, talk = process.communicate(timeout=PATIENCE_S)
            code = process.returncode
            assert code in (0, -signal.SIGKILL), talk.decode()
            killed += code != 0
            run.check()
        assert run.finished == {f"t{number}" for number in range(rollouts)}
        lines += len(run.finished)
    print(f"{killed} kills in {runs} runs of {rollouts} rollouts: {lines} finished, 0 lost, 0 twice, 0 done again")


def test_the_doctor_kills_and_finds_nothing(tmp_path: Path, chance: random.Random) -> None:
    """
    The same with the processes that `gym doctor` starts, which need no plugin.
    """
    check = kill(tmp_path / "kill", 3, chance)

    assert check.is_well, check.remarks
    assert check.found.startswith("3 processes killed in ")
    assert [path.name for path in tmp_path.iterdir()] == ["kill"]
