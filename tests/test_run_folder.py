"""
Who may write to a run folder: one process, which is named to all others, and which leaves no lock behind.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from gymcore.collection import Journal
from gymcore.doctor.workload import make_rollout
from gymcore.errors import RunFolderError
from gymcore.run_folder import WRITER_NAME, only_writer

HOST = os.uname().nodename

FORKED_POOL = """
import multiprocessing, os, sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from gymcore.collection import Journal
from gymcore.doctor.workload import make_rollout

with Journal(Path(sys.argv[1])) as journal:
    pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork"))
    child = pool.submit(os.getpid).result()
    journal.append([make_rollout(0)])
    print(child, flush=True)
    sys.stdin.read()
"""

FORKED_IN_C = """
import ctypes, sys
from pathlib import Path
from gymcore.run_folder import only_writer

libc = ctypes.CDLL(None)
with only_writer(Path(sys.argv[1])):
    child = libc.fork()
    if child == 0:
        while True:
            libc.pause()
    print(child, flush=True)
    sys.stdin.read()
"""


@contextmanager
def killed_beside_its_child(code: str, folder: Path) -> Iterator[int]:
    """Start a process that holds a run folder and forks a child, kill it, and give its number; the child lives on."""
    arguments = [sys.executable, "-W", "ignore", "-c", code, str(folder)]
    process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdin is not None
    child = int(process.stdout.readline())
    try:
        with pytest.raises(RunFolderError, match=f"writing to this folder: process {process.pid} on {HOST} "):
            Journal(folder).__enter__()
        process.kill()
        process.wait()
        os.kill(child, 0)
        yield process.pid
        os.kill(child, 0)
    finally:
        process.kill()
        process.wait()
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        process.stdin.close()
        process.stdout.close()


def test_a_forked_child_that_outlives_a_killed_run_does_not_keep_its_folder(tmp_path: Path) -> None:
    """
    A plugin's pool of processes survives the SIGKILL of the run; the same command goes on all the same.
    """
    with killed_beside_its_child(FORKED_POOL, tmp_path), Journal(tmp_path) as journal:
        assert len(journal.finished) == 1
        journal.append([make_rollout(1)])


def test_who_keeps_the_lock_of_a_dead_process_is_told_as_its_leftover(tmp_path: Path) -> None:
    """
    A child that was forked past Python still holds the lock: the message says whose it is and how to find it.
    """
    with killed_beside_its_child(FORKED_IN_C, tmp_path) as pid, pytest.raises(RunFolderError) as caught:
        Journal(tmp_path).__enter__()

    assert f"one that process {pid} on {HOST} left behind, which has ended" in str(caught.value)
    assert f"who it is: fuser {tmp_path / WRITER_NAME}" in str(caught.value)


@pytest.mark.parametrize("target", ["a file", "nothing"])
def test_the_lock_is_not_taken_through_a_link(tmp_path: Path, target: str) -> None:
    """
    What the link leads to would be emptied, or made.
    """
    if target == "a file":
        (tmp_path / "precious").write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / WRITER_NAME).symlink_to(tmp_path / "precious")

    with pytest.raises(RunFolderError), Journal(tmp_path / "run"):
        pass

    assert (tmp_path / "precious").exists() == (target == "a file")
    assert target == "nothing" or (tmp_path / "precious").read_text() == "precious"


def test_what_is_no_file_is_no_lock(tmp_path: Path) -> None:
    """
    A pipe of that name is somebody else's.
    """
    os.mkfifo(tmp_path / WRITER_NAME)

    with pytest.raises(RunFolderError, match="this is no file"), Journal(tmp_path):
        pass


def test_the_writer_is_named_while_it_writes(tmp_path: Path) -> None:
    """
    By process and machine, which on a shared disk is another one; nothing is left afterwards.
    """
    (tmp_path / WRITER_NAME).write_text("what a killed process with a much longer name left behind\n")
    with only_writer(tmp_path):
        assert (tmp_path / WRITER_NAME).read_text() == f"{os.getpid()} {HOST}\n"
        with pytest.raises(RunFolderError, match=rf"process {os.getpid()} on {HOST}, which is this one \("):
            only_writer(tmp_path).__enter__()
    assert (tmp_path / WRITER_NAME).read_bytes() == b""


@pytest.mark.parametrize(
    ("word", "said"),
    [
        (b"", "another process is writing to this folder ("),
        (b"\x1b[31m 12 x\n", "another process is writing to this folder ("),
        (b"12 " + b"x" * 400 + b"\n", "another process is writing to this folder ("),
        (b"99999999999999999999 x\n", "another process is writing to this folder ("),
        (b"12 other.host\n", "another process is writing to this folder: process 12 on other.host ("),
    ],
    ids=["nothing", "control characters", "too long", "no number of a process", "elsewhere"],
)
def test_whatever_stands_in_its_file_the_message_is_plain(tmp_path: Path, word: bytes, said: str) -> None:
    """
    A machine of the future, another program, or nobody may have written it.
    """
    with only_writer(tmp_path):
        (tmp_path / WRITER_NAME).write_bytes(word)
        with pytest.raises(RunFolderError) as caught:
            only_writer(tmp_path).__enter__()

    assert str(caught.value).startswith(said)
