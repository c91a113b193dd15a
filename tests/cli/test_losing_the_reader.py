"""
Nobody reads: a run goes on when stdout or stderr are closed, full, or a terminal that is gone; and what plugins may do.
"""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gymcore.testing import PluginFolder

PATIENCE_S = 60.0
"""How long anything may take that is at once where the machine does nothing else."""

WORLD = '''
import asyncio, contextlib, os, sys
from gymcore import Environment, say

async def hang(what):
    open(what, "w").close()
    await asyncio.Event().wait()

class World(Environment):
    """Does what KIT says to what is not its own."""

    @classmethod
    @contextlib.asynccontextmanager
    async def shared(cls, config):
        if os.environ["KIT"] == "opening":
            await hang("opening")
        yield
        if os.environ["KIT"] == "closing":
            await hang("closing")
        if os.environ["KIT"] == "closed badly":
            raise ValueError("the index is still locked")

    async def open(self):
        what = os.environ["KIT"]
        while what == "slow" and not os.path.exists("go on"):
            await asyncio.sleep(0.01)
        if what == "hang":
            await asyncio.Event().wait()
        if what == "chdir":
            os.chdir("/")
        if what == "close":
            sys.stdout.close(), sys.stderr.close(), sys.__stderr__.close(), sys.stderr.buffer.close()
        if what == "detach":
            sys.stdout.detach()
        if what == "stop":
            asyncio.get_running_loop().stop()
        if what == "cancel all":
            for task in asyncio.all_tasks():
                task.cancel()
        if what == "linger":
            World.lingering = asyncio.create_task(self.linger())
            await asyncio.sleep(0)

    async def linger(self):
        while True:
            try:
                await asyncio.Event().wait()
            except BaseException:
                pass

    def verify(self, trajectory):
        return 1.0

    async def solve(self):
        yield say("done")
'''


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PluginFolder]:
    """A folder with an environment of eight tasks."""
    rows = [{"responses_create_params": {"input": "x"}, "task_id": f"t{number}"} for number in range(8)]
    with PluginFolder(tmp_path_factory.mktemp("kit")) as plugins:
        plugins.install(
            "gym-plugin-rude",
            {
                "rude_world/__init__.py": WORLD,
                "rude_world/gym.yaml": "gym_api: 1\ndescription: Made by a test.\nsplits:\n  example: rows.jsonl\n",
                "rude_world/rows.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
            },
            {"gymcore.environments": {"rude": "rude_world:World"}},
        )
        yield plugins


class Gym:
    """Runs the command in a folder of its own."""

    def __init__(self, folder: Path, environ: dict[str, str], commands: Any) -> None:
        self.commands = commands
        self.folder = folder
        self.environ = environ
        self.command = [sys.executable, "-m", "gymcore", "run", "--env", "rude", "--out", "run", "--concurrency", "2"]

    def start(self, kit: str, *arguments: str, **streams: int) -> subprocess.Popen[str]:
        """Start it, with its talk in a pipe unless it is to go elsewhere."""
        chosen = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
        command = [*self.command, *arguments]
        environ = {**self.environ, "KIT": kit}
        return subprocess.Popen(command, cwd=self.folder, env=environ, text=True, **chosen)  # type: ignore[call-overload, no-any-return]

    def run(self, kit: str, *arguments: str) -> tuple[int, str, str]:
        """Run it to its end."""
        environ = {**self.environ, "KIT": kit}
        done = self.commands.run(
            *self.command[3:], *arguments, folder=self.folder, environ=environ, timeout_s=PATIENCE_S
        )
        return done.returncode, done.stdout, done.stderr

    def finished(self) -> int:
        """Return how many rollouts are on disk."""
        path = self.folder / "run" / "rollouts.jsonl"
        return len(path.read_bytes().splitlines()) if path.exists() else 0


@pytest.fixture
def gym(kit: PluginFolder, commands: Any, tmp_path: Path) -> Gym:
    """The command, with the kit installed."""
    return Gym(tmp_path, dict(kit.environ), commands)


def wait_for(file: Path) -> None:
    """Wait until something has happened, which a file says."""
    end = time.monotonic() + PATIENCE_S
    while not file.exists():
        assert time.monotonic() < end, f"{file.name} never happened"
        time.sleep(0.01)


UNHEARD = (("2>/dev/full", 0), ("2>&-", 0), ("2>&1 | true", 0), (">/dev/full", 5), (">&-", 5), (">/dev/full 2>&1", 5))


@pytest.mark.parametrize(
    ("redirection", "code", "unbuffered"),
    # An unbuffered stream fails at once rather than when it is flushed.
    [*((where, code, "") for where, code in UNHEARD), ("2>&1 | true", 0, "1"), (">/dev/full", 5, "1")],
)
def test_a_run_survives_whoever_does_not_listen(gym: Gym, redirection: str, code: int, unbuffered: str) -> None:
    """
    Progress is a courtesy; a report that cannot be shown is one line, a code of its own, and still in the folder.
    """
    line = f'"$@" {redirection}; exit ${{PIPESTATUS[0]}}'
    environ = {**gym.environ, "KIT": "well", "PYTHONUNBUFFERED": unbuffered}
    command = ["bash", "-c", line, "bash", *gym.command]
    done = subprocess.run(
        command, cwd=gym.folder, env=environ, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )

    assert done.returncode == code
    assert gym.finished() == 8
    assert json.loads((gym.folder / "run" / "report.json").read_text())["total"]["finished"] == 8
    assert "Traceback" not in done.stdout + done.stderr
    if code == 5 and "2>" not in redirection:
        assert done.stderr.count("stdout cannot be written: ") == 1


@pytest.mark.parametrize("what", ["slow", "hang"])
def test_a_closed_terminal_stops_a_run_as_a_signal_does(gym: Gym, what: str) -> None:
    """
    With nobody left to talk to, HUP drains the run, and a TERM after it ends what does not finish.
    """
    master, slave = pty.openpty()
    process = gym.start(what, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    seen = b""
    while b"2 in flight" not in seen:
        seen += os.read(master, 65536)
    os.close(master)
    process.send_signal(signal.SIGHUP)
    if what == "hang":
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
    else:
        (gym.folder / "go on").touch()

    assert process.wait(PATIENCE_S) == 130
    assert gym.finished() < 8
    assert (gym.folder / "run" / "report.json").exists()
    assert gym.run("well")[0] == 0
    assert gym.finished() == 8


def test_a_signal_is_heard_while_a_plugin_is_opened(gym: Gym) -> None:
    """
    Nothing was played, which the report says; there is nothing to wait for.
    """
    process = gym.start("opening")
    wait_for(gym.folder / "opening")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 130
    assert "stopping: the plugins are not opened any further, and nothing is played" in err
    assert "stopped: 8 rollouts are still owed; go on with: gym run run" in err
    assert "0 / 8" in out
    assert "Traceback" not in err


def test_the_second_signal_leaves_a_plugin_that_does_not_close(gym: Gym) -> None:
    """
    Everything is played, so the run is done.
    """
    process = gym.start("closing")
    wait_for(gym.folder / "closing")
    process.send_signal(signal.SIGINT)
    told = "all is played and safe, and the plugins are being closed; Ctrl-C again to leave them\n"
    killing = threading.Timer(PATIENCE_S, process.kill)
    killing.start()
    assert process.stderr is not None
    while (line := process.stderr.readline()) != told:
        assert line, "it ended"
    killing.cancel()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 0, err
    assert gym.finished() == 8
    assert "done: 8 rollouts" in err
    assert "8 / 8" in out


def test_an_error_while_closing_is_a_complaint(gym: Gym) -> None:
    """
    The report is shown and nothing is owed: the code is 0, and the plugin and its error are named.
    """
    code, out, err = gym.run("closed badly")

    assert code == 0
    assert "8 / 8" in out
    assert "rude" in err
    assert "the index is still locked" in err
    assert "go on with" not in err


@pytest.mark.parametrize("what", ["chdir", "close", "stop", "linger"])
def test_what_plugins_do_to_the_process_ends_no_run(gym: Gym, what: str) -> None:
    """
    They go to another folder, close everybody's streams, stop the event loop, or leave a task that ignores its end.
    """
    code, out, err = gym.run(what)

    assert code == 0, err
    assert gym.finished() == 8
    assert (gym.folder / "run" / "report.json").exists()
    assert "8 / 8" in out
    assert "done: 8 rollouts in run/rollouts.jsonl" in err


def test_a_plugin_cannot_take_the_shared_stream_apart(gym: Gym) -> None:
    """
    Its rollouts fail for that, and the others' talk is shown on.
    """
    code, _, err = gym.run("detach")

    assert code == 1
    assert "not finished: 8 of 8" in err


def test_a_plugin_that_cancels_everything_is_one_line(gym: Gym) -> None:
    """
    The run ends or goes on, but with a documented code and no traceback; what is finished is safe.
    """
    code, _, err = gym.run("cancel all")

    assert code in (0, 1, 4), err
    assert "Traceback" not in err
    assert gym.run("well")[0] == 0
    assert gym.finished() == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--out", ""), "--out is empty"),
        (("--out", "x" * 300), "this cannot be used as a run folder: File name too long"),
        (("--set", "=1"), "a setting looks like key.path=value; this one has no key"),
        (("--plan", "/dev/zero"), "the plan cannot be read: it is no regular file"),
    ],
)
def test_wrong_requests_are_answered_in_words(gym: Gym, arguments: tuple[str, str], message: str) -> None:
    """
    With code 2, and nothing is written.
    """
    code, out, err = gym.run("well", *arguments)

    assert (code, out) == (2, "")
    assert message in err
    assert list(gym.folder.iterdir()) == []


def test_a_signal_while_the_command_is_loaded_is_no_traceback(gym: Gym, tmp_path: Path) -> None:
    """
    Ctrl-C in the first moments ends with 130 and one word.
    """
    (tmp_path / "click.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    environ = {**gym.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "gymcore", "--help"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=PATIENCE_S, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")
