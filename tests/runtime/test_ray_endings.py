"""
How runs on a Ray of their own end, by whatever signal: nothing of Ray is left, neither a process nor a file.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from gymcore.documents import encode_json
from gymcore.testing.plugins import PluginFolder

RAY_FOLDERS = "gymcore-ray-*"
LABOUR = Path(__file__).parents[1] / "data" / "gym_plugin_labour"

pytestmark = [
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is an extra: pip install 'gymcore[ray]'"),
    pytest.mark.rig,
]


class Command:
    """One `gym run` on a Ray of its own, in a process group of its own, as a terminal makes one."""

    def __init__(self, folder: Path, scratch: Path, plugins: PluginFolder, what: str, *options: str) -> None:
        self.mark = f"mark-{uuid.uuid4()}"
        self.log = folder / "log"
        self.out = folder / "run"
        data = folder / "rows.jsonl"
        rows = ({"responses_create_params": {"input": "work"}, "n": n, "what": what} for n in range(12))
        data.write_bytes(b"".join(encode_json(row) + b"\n" for row in rows))
        command = [sys.executable, "-m", "gymcore", "run", "--env", "labour", "--executor", "ray", "--workers", "2"]
        command += ["--set", f"environments.labour.data={data}", "--set", f"environments.labour.config.log={self.log}"]
        self.process = subprocess.Popen(
            [*command, "--concurrency", "4", "--out", str(self.out), *options],
            cwd=folder,
            env={**plugins.environ, "GYMCORE_TEST_MARK": self.mark, "TMPDIR": str(scratch), "NO_COLOR": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def wait_for_work(self) -> None:
        """Wait until four rollouts are in flight."""
        self._wait(lambda: self.log.exists() and self.log.read_text().count(" open ") >= 4, 60)

    def end(self) -> str:
        """Wait for the end and return what was printed."""
        return self.process.communicate(timeout=60)[0]

    def wait_until_nothing_is_left(self) -> None:
        """Wait until every process that inherited our mark is gone."""
        self._wait(lambda: not self.left(), 30)

    def left(self) -> list[str]:
        """Return the processes that are still there."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if self.mark.encode() in (path / "environ").read_bytes():
                    found.append((path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
            except OSError:
                continue
        return found

    def _wait(self, is_so: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not is_so():
            assert time.monotonic() < deadline, self.left()
            time.sleep(0.05)


@pytest.fixture
def scratch() -> Iterator[Path]:
    """
    A folder for temporary files; its path is short, because sockets are among them.
    """
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def plugins(tmp_path: Path) -> Iterator[PluginFolder]:
    """
    The plugins that are played.
    """
    (tmp_path / "plugins").mkdir()
    with PluginFolder(tmp_path / "plugins") as folder:
        folder.install_project(LABOUR)
        yield folder


def test_the_first_interrupt_finishes_what_is_in_flight(plugins: PluginFolder, scratch: Path, tmp_path: Path) -> None:
    """
    Ctrl-C reaches every process of the terminal; the workers go on, and exit code 130 says that more is owed.
    """
    command = Command(tmp_path, scratch, plugins, "slow")
    command.wait_for_work()

    os.killpg(command.process.pid, signal.SIGINT)
    printed = command.end()

    assert command.process.returncode == 130, printed
    finished = len((command.out / "rollouts.jsonl").read_bytes().splitlines())
    assert 4 <= finished < 12
    assert (command.out / "failures.jsonl").read_bytes() == b""
    assert command.log.read_text().count(" open ") == command.log.read_text().count(" close ") == finished
    command.wait_until_nothing_is_left()
    assert list(scratch.glob(RAY_FOLDERS)) == []


def test_the_second_interrupt_closes_and_leaves(plugins: PluginFolder, scratch: Path, tmp_path: Path) -> None:
    """
    What is in flight is closed where it plays, at once.
    """
    command = Command(tmp_path, scratch, plugins, "wait")
    command.wait_for_work()

    os.killpg(command.process.pid, signal.SIGINT)
    time.sleep(0.3)
    started = time.monotonic()
    os.killpg(command.process.pid, signal.SIGINT)
    printed = command.end()

    assert command.process.returncode == 130, printed
    assert time.monotonic() - started < 15
    assert command.log.read_text().count(" close ") == 4
    assert command.log.read_text().count(" unshared") == 2
    command.wait_until_nothing_is_left()
    assert list(scratch.glob(RAY_FOLDERS)) == []


def test_a_terminated_run_ends_like_an_interrupted_one(plugins: PluginFolder, scratch: Path, tmp_path: Path) -> None:
    """
    Ray takes SIGTERM for itself where it may; here it stays ours.
    """
    command = Command(tmp_path, scratch, plugins, "slow")
    command.wait_for_work()

    command.process.send_signal(signal.SIGTERM)
    printed = command.end()

    assert command.process.returncode == 130, printed
    assert len((command.out / "rollouts.jsonl").read_bytes().splitlines()) >= 4
    command.wait_until_nothing_is_left()
    assert list(scratch.glob(RAY_FOLDERS)) == []


def test_a_killed_run_takes_its_ray_with_it(plugins: PluginFolder, scratch: Path, tmp_path: Path) -> None:
    """
    No process survives a SIGKILL of the run that started it, not even one whose verifier never returns.
    """
    command = Command(tmp_path, scratch, plugins, "block")
    deadline = time.monotonic() + 60
    while not (command.log.exists() and command.log.read_text().count(" open ") >= 2):
        assert time.monotonic() < deadline
        time.sleep(0.05)

    command.process.kill()
    command.end()

    command.wait_until_nothing_is_left()
    [left_behind] = scratch.glob(RAY_FOLDERS)
    # The next run that is started a minute later removes what a killed one could not.
    long_ago = time.time() - 120
    os.utime(left_behind, (long_ago, long_ago))
    again = Command(tmp_path, scratch, plugins, "slow", "--out", str(tmp_path / "again"))
    printed = again.end()
    assert again.process.returncode == 0, printed
    assert list(scratch.glob(RAY_FOLDERS)) == []
