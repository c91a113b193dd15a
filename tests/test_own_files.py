"""
Files of one process: what it opens for itself alone, no child that it forks keeps open.
"""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from gymcore.own_files import close_own, open_own

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def in_a_forked_child(ask: Callable[[], int | None]) -> int:
    """Fork, ask the child something, and return its answer, from 0 to 200; 255 where it fails."""
    child = os.fork()
    if child == 0:
        answer = 255
        try:
            answer = ask() or 0
        finally:
            os._exit(answer)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_forked_child_can_neither_write_nor_unlock(tmp_path: Path) -> None:
    """
    A write there is an error, and closing is harmless: the parent's lock holds.
    """
    path = tmp_path / "file"
    file = open_own(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(file, fcntl.LOCK_EX)

    def ask() -> int | None:
        try:
            os.write(file, b"of the child")
        except OSError as error:
            close_own(file)
            return error.errno
        return 0

    assert in_a_forked_child(ask) == errno.EBADF
    os.write(file, b"of the parent")
    assert path.read_bytes() == b"of the parent"
    with path.open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    close_own(file)


def test_a_forked_child_may_have_files_of_its_own(tmp_path: Path) -> None:
    """
    What it opens after the fork is its own, and its children's is theirs.
    """

    def ask() -> int:
        file = open_own(tmp_path / "file", os.O_RDWR | os.O_CREAT)
        os.write(file, b"mine")

        def ask_again() -> int:
            return len(os.read(file, 10))

        return in_a_forked_child(ask_again)

    assert in_a_forked_child(ask) == 0
    assert (tmp_path / "file").read_bytes() == b"mine"


def test_what_was_closed_is_no_longer_ours(tmp_path: Path) -> None:
    """
    The number of a closed file may be anybody's; a fork takes nothing from its new owner.
    """
    file = open_own(tmp_path / "mine", os.O_RDWR | os.O_CREAT)
    close_own(file)
    other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
    assert other == file

    assert in_a_forked_child(lambda: os.write(other, b"seven b")) == 7
    os.close(other)


@pytest.mark.parametrize("forks", [30, pytest.param(300, marks=pytest.mark.rig)])
def test_forks_while_other_threads_open_and_close_take_only_what_is_own(tmp_path: Path, forks: int) -> None:
    """
    No fork falls between the opening of a file and its being known, nor between its closing and being forgotten.
    """
    is_over = threading.Event()
    foreign = os.open(tmp_path / "foreign", os.O_RDWR | os.O_CREAT)

    def open_and_close(path: Path) -> None:
        while not is_over.is_set():
            close_own(open_own(path, os.O_RDWR | os.O_CREAT))

    def ask() -> int:
        names = []
        for link in Path("/proc/self/fd").iterdir():
            try:
                names.append(str(link.readlink()))
            except OSError:
                continue
        return sum(name.startswith(f"{tmp_path}/own") for name in names) + 10 * (f"{tmp_path}/foreign" not in names)

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("this system does not say what a process has open")
    threads = [threading.Thread(target=open_and_close, args=(tmp_path / f"own{number}",)) for number in range(2)]
    for thread in threads:
        thread.start()
    try:
        assert {in_a_forked_child(ask) for _ in range(forks)} == {0}
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
        os.close(foreign)


def test_a_program_that_is_started_gets_none_of_them(tmp_path: Path) -> None:
    """
    Not even where it is given all that may be inherited.
    """
    file = open_own(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    code = f"import os; os.fstat({file})"
    done = subprocess.run([sys.executable, "-c", code], close_fds=False, capture_output=True, text=True, check=False)

    assert "Bad file descriptor" in done.stderr
    close_own(file)
