"""
`gym doctor` as a process: what it prints, what it leaves, and how it ends.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

Gym = Callable[..., subprocess.CompletedProcess[str]]


def test_a_look_takes_a_second_and_leaves_nothing(gym: Gym, tmp_path: Path) -> None:
    """
    Three lines, exit code 0, and no folder that was not there before.
    """
    done = gym("doctor")

    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"folder +well .*\n( .*\n)?lock +well .*\nstore +well .*\n( .*\n)?", done.stdout)
    assert list(tmp_path.iterdir()) == []


def test_crashes_are_told_one_line_a_kind(gym: Gym, tmp_path: Path) -> None:
    """
    Real processes are killed; every kind has a verdict, and the scratch folder is gone.
    """
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")

    done = gym("doctor", "mine", "--crash", "3", "--seed", "5")

    assert done.returncode == 0, done.stdout + done.stderr
    for kind in ("kill", "torn tail", "power cut", "full disk"):
        assert re.search(
            rf"^{kind} +well +.*: nothing lost, twice, damaged or done again \(\d+\.\d s\)$", done.stdout, re.MULTILINE
        )
    assert "3 processes killed" in done.stdout
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_json_is_one_document_on_stdout(gym: Gym) -> None:
    """
    For whoever checks a cluster's disks by script.
    """
    done = gym("doctor", "--crash", "1", "--json", "--seed", "3")

    value = json.loads(done.stdout)
    assert (value["folder"], value["seed"]) == ("runs", 3)
    assert [check["name"] for check in value["checks"]] == [
        "folder",
        "lock",
        "store",
        "kill",
        "torn tail",
        "power cut",
        "full disk",
    ]
    keys = {"name", "is_well", "found", "remarks", "seconds"}
    assert all(check["is_well"] and set(check) == keys for check in value["checks"])


def test_a_folder_that_cannot_be_written_is_a_wrong_request(gym: Gym, tmp_path: Path) -> None:
    """
    One line, exit code 2, and nothing is touched.
    """
    (tmp_path / "file").write_text("mine")

    done = gym("doctor", "file", "--crash", "1")

    assert done.returncode == 2
    assert done.stderr.startswith("RunFolderError: the folder cannot be written: ")
    assert "Traceback" not in done.stderr
    assert (tmp_path / "file").read_text() == "mine"


def test_a_disk_that_is_full_is_told_as_such(gym: Gym, tmp_path: Path) -> None:
    """
    Exit code 5 where no file may grow, which is no mistake of the doctor's.
    """
    done = subprocess.run(
        ["bash", "-c", 'ulimit -f 0; exec "$0" -m gymcore doctor', sys.executable],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 5, done.stderr
    assert done.stderr.startswith("StorageError: the folder cannot be written: File too large")


@pytest.mark.parametrize(
    "signals", [[signal.SIGINT], [signal.SIGTERM], [signal.SIGTERM] * 3], ids=["Ctrl-C", "TERM", "TERM three times"]
)
def test_a_signal_leaves_nothing_behind(tmp_path: Path, signals: list[signal.Signals]) -> None:
    """
    No scratch folder, no process that goes on, no traceback; exit code 130, however often it is asked to stop.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "gymcore", "doctor", "--crash", "100000"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    while not process.stdout.readline().startswith("store"):
        assert process.poll() is None
    end = time.monotonic() + 30
    while not list(tmp_path.glob("runs/.gym-doctor-*/kill/1")):
        assert time.monotonic() < end
        time.sleep(0.01)

    for number in signals:
        process.send_signal(number)
        time.sleep(0.005)
    _, talk = process.communicate(timeout=30)

    if len(signals) == 1:
        assert (process.returncode, talk.strip()) == (130, "interrupted")
    assert "Traceback" not in talk
    assert list(tmp_path.iterdir()) == []
