"""
The files of a run folder: their names, how one is written whole, and the lock that makes one process its only writer.

What stands in the files is the business of the stage that writes them.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gymcore.errors import RunFolderError, StorageError
from gymcore.own_files import close_own, open_own

__all__ = [
    "DATASET_NAME",
    "EARLIER_NAME",
    "FAILURES_NAME",
    "LOCK_NAME",
    "PLAN_NAME",
    "QUARANTINE_NAME",
    "REJECTS_NAME",
    "REPORT_NAME",
    "ROLLOUTS_NAME",
    "WRITER_NAME",
    "disk_error",
    "only_writer",
    "part_of",
    "sha256_of",
    "size_of",
    "sync_folder",
    "write_part",
    "write_whole",
]

PLAN_NAME = "plan.yaml"
LOCK_NAME = "gym.lock"
DATASET_NAME = "dataset.jsonl"
REJECTS_NAME = "rejects.jsonl"
ROLLOUTS_NAME = "rollouts.jsonl"
FAILURES_NAME = "failures.jsonl"
REPORT_NAME = "report.json"
QUARANTINE_NAME = "quarantine"
EARLIER_NAME = "earlier"
"""A folder of locks that rollouts name and another has replaced."""
WRITER_NAME = ".writer"


_WRONG_PLACE = {
    errno.EACCES,
    errno.EEXIST,
    errno.EINVAL,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
}


def disk_error(message: str, error: OSError, path: Path) -> RunFolderError | StorageError:
    """
    Tell a place that cannot be used, which is a wrong request, from a disk that fails.

    Args:
        message: What could not be done.
        error: What the system said.
        path: The folder or file.
    """
    kind = RunFolderError if error.errno in _WRONG_PLACE else StorageError
    return kind(f"{message}: {error.strerror}", where=str(path), hints=["try: another folder"])


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """
    Be the only process that writes to a run folder while inside; the kernel gives the lock back even after SIGKILL.

    Raises:
        RunFolderError: another process writes to it, which is named as far as it is known.
        OSError: the folder cannot be made or written.
    """
    _make_folder(folder)
    # Not through a link: the file that it leads to would lose what it holds.
    file = open_own(folder / WRITER_NAME, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise RunFolderError("this is no file, and was not made by gymcore", where=str(folder / WRITER_NAME))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _held_by_another(folder, file) from None
        with _named(file):
            yield
    finally:
        close_own(file)


@contextmanager
def _named(file: int) -> Iterator[None]:
    """Leave word of this process for whoever is kept out; a disk that takes none keeps nobody from working."""
    name = f"{os.getpid()} {os.uname().nodename}\n".encode()
    with suppress(OSError):
        os.pwrite(file, name, 0)
        os.ftruncate(file, len(name))
    try:
        yield
    finally:
        with suppress(OSError):
            os.ftruncate(file, 0)


def _held_by_another(folder: Path, file: int) -> RunFolderError:
    owner = None
    with suppress(OSError):
        owner = re.fullmatch(rb"(\d{1,10}) ([\w.-]{1,255})\n", os.pread(file, 300, 0))
    message = "another process is writing to this folder"
    hints = ["try: wait for it, or another --out"]
    if owner is not None:
        pid, host = int(owner[1]), owner[2].decode()
        is_here = host == os.uname().nodename
        if is_here and not _is_alive(pid):
            message += f": one that process {pid} on {host} left behind, which has ended"
            hints.append(f"who it is: fuser {folder / WRITER_NAME}")
        else:
            message += f": process {pid} on {host}{', which is this one' if is_here and pid == os.getpid() else ''}"
    return RunFolderError(message, where=str(folder), hints=hints)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it, each of which a power cut leaves where it is."""
    if folder.is_dir():
        return
    if folder.parent != folder:
        _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    with suppress(PermissionError):  # a folder that anybody may write to and nobody may list cannot be synchronised
        sync_folder(folder.parent)


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def part_of(path: Path) -> Path:
    """Return the name under which a file is written until it is whole."""
    return path.with_name(f".{path.name}.part")


def write_part(path: Path, data: bytes) -> None:
    """Write a file under its other name, and wait until it is on disk."""
    with part_of(path).open("wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that whoever reads it finds the old content or the new, and never a part."""
    try:
        write_part(path, data)
        part_of(path).replace(path)
    except OSError:
        with suppress(OSError):
            part_of(path).unlink(missing_ok=True)
        raise


def size_of(path: Path) -> int:
    """Return a file's size in bytes; 0 when it is not there."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def sha256_of(path: Path) -> str | None:
    """Return the SHA-256 of a file's bytes; None when it is not there."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None
