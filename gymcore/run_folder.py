"""
The files of a run folder: their names, how one is written whole, and the lock that makes one process its only writer.

What stands in the files is the business of the stage that writes them.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gymcore.errors import RunFolderError, StorageError

__all__ = [
    "DATASET_NAME",
    "FAILURES_NAME",
    "LOCK_NAME",
    "PLAN_NAME",
    "QUARANTINE_NAME",
    "REPORT_NAME",
    "ROLLOUTS_NAME",
    "WRITER_NAME",
    "disk_error",
    "only_writer",
    "part_of",
    "size_of",
    "sync_folder",
    "write_part",
    "write_whole",
]

PLAN_NAME = "plan.yaml"
LOCK_NAME = "gym.lock"
DATASET_NAME = "dataset.jsonl"
ROLLOUTS_NAME = "rollouts.jsonl"
FAILURES_NAME = "failures.jsonl"
REPORT_NAME = "report.json"
QUARANTINE_NAME = "quarantine"
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
        RunFolderError: another process writes to it.
        OSError: the folder cannot be made or written.
    """
    _make_folder(folder)
    with (folder / WRITER_NAME).open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunFolderError(
                "another process is writing to this folder",
                where=str(folder),
                hints=["try: wait for it, or another --out"],
            ) from None
        yield


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
