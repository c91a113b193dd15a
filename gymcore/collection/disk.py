"""
The disk below a journal: each operation that a full disk or a power cut can interrupt is one method.

`Disk` is the real one. Whoever wants to know what happens between two operations gives the journal another.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from gymcore.own_files import close_own, open_own
from gymcore.run_folder import sync_folder

__all__ = ["Disk"]


class Disk:
    """
    The disk of this machine.

    Every method raises OSError as the system does. Nothing counts as stored before it is synchronised: the bytes of a
    file with `sync`, the names in a folder with `sync_folder`.
    """

    def make_folder(self, path: Path) -> None:
        """Make a folder where there is none."""
        path.mkdir(exist_ok=True)

    def open(self, path: Path) -> int:
        """Open a file, made where there is none, to append to it, and return its descriptor; no forked child has it."""
        return open_own(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)

    def size(self, file: int) -> int:
        """Return the size of an open file in bytes."""
        return os.fstat(file).st_size

    def names(self, file: int) -> int:
        """Return how many names an open file has; 0 where it was deleted, and on file systems that do not count."""
        return os.fstat(file).st_nlink

    def write(self, file: int, data: memoryview) -> int:
        """Append bytes and return how many of them the system took, which may be fewer."""
        return os.write(file, data)

    def truncate(self, file: int, size: int) -> None:
        """Cut a file off after some bytes."""
        os.ftruncate(file, size)

    def sync(self, file: int) -> None:
        """Wait until the bytes and the size of a file are on the disk."""
        full = getattr(fcntl, "F_FULLFSYNC", None)
        if full is not None:  # macOS, where fsync stops at the cache of the drive
            fcntl.fcntl(file, full)
        else:
            os.fdatasync(file)

    def close(self, file: int) -> None:
        """Close a file; this stores nothing."""
        close_own(file)

    def rename(self, old: Path, new: Path) -> None:
        """Give a file another name; a file that has it is replaced."""
        old.replace(new)

    def sync_folder(self, path: Path) -> None:
        """Wait until the names in a folder are on the disk."""
        sync_folder(path)
