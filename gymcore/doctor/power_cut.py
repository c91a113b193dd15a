"""
Power cuts without pulling a plug: what a journal does to its disk is recorded, and every state that a power cut may
leave behind is built from the record.

The model is the harshest that a file system may follow and keep its promises: bytes that were synchronised stay as they
are; bytes that were not are there, are missing, are zeros or are garbage, each sector of 512 bytes by itself; a file is
of any length between the shortest and the longest it had since; and a name that was given or changed is there only
once its folder was synchronised, or by luck.

Source:
    Pillai et al. 2014, "All File Systems Are Not Created Equal", https://www.usenix.org/conference/osdi14, on what
    file systems do; "How SQLite Is Tested", https://www.sqlite.org/testing.html, section 3.3, on the method.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gymcore.collection.disk import Disk

__all__ = ["Image", "Operation", "Plug", "RecordingDisk", "write_image"]

SECTOR = 512

Image = dict[str, bytes | None]
"""What lies in a folder: the bytes of each file by its path inside it, and None for each folder inside it."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that was done to the disk, and that a power cut may follow."""

    kind: Literal["make_folder", "create", "write", "truncate", "sync", "rename", "sync_folder"]
    path: str = ""
    """Inside the recorded folder; of the old name where a file is renamed."""
    file: int = -1
    """Which file, whatever it is called at the time."""
    data: bytes = b""
    size: int = 0
    to: str = ""


class RecordingDisk(Disk):
    """
    The real disk, and a record of what is done to it.

    Args:
        folder: What lies in it now counts as stored; operations elsewhere are mistakes of the caller.
    """

    def __init__(self, folder: Path) -> None:
        self.operations: list[Operation] = []
        self._folder = folder.absolute()  # as a journal calls it
        self.start = read_image(folder)
        self._files = {path: number for number, path in enumerate(self.start)}
        self._opened: dict[int, int] = {}
        self._next = len(self._files)

    def _inside(self, path: Path) -> str:
        return path.absolute().relative_to(self._folder).as_posix()

    def make_folder(self, path: Path) -> None:
        is_new = not path.is_dir()
        super().make_folder(path)
        if is_new:
            self.operations.append(Operation("make_folder", self._inside(path)))

    def open(self, path: Path) -> int:
        inside = self._inside(path)
        is_new = not path.exists()
        file = super().open(path)
        if is_new:
            self._files[inside] = self._next
            self._next += 1
            self.operations.append(Operation("create", inside, self._files[inside]))
        self._opened[file] = self._files[inside]
        return file

    def write(self, file: int, data: memoryview) -> int:
        count = super().write(file, data)
        self.operations.append(Operation("write", file=self._opened[file], data=bytes(data[:count])))
        return count

    def truncate(self, file: int, size: int) -> None:
        super().truncate(file, size)
        self.operations.append(Operation("truncate", file=self._opened[file], size=size))

    def sync(self, file: int) -> None:
        super().sync(file)
        self.operations.append(Operation("sync", file=self._opened[file]))

    def rename(self, old: Path, new: Path) -> None:
        super().rename(old, new)
        self._files[self._inside(new)] = self._files.pop(self._inside(old))
        self.operations.append(Operation("rename", self._inside(old), to=self._inside(new)))

    def sync_folder(self, path: Path) -> None:
        super().sync_folder(path)
        self.operations.append(Operation("sync_folder", self._inside(path)))


@dataclass
class _File:
    """What is known of one file: what is stored for certain, what was written, and what was there in between."""

    stored: bytes = b""
    written: bytearray = field(default_factory=bytearray)
    passing: bytearray = field(default_factory=bytearray)
    """The last byte that was written to each place since the last synchronisation."""
    shortest: int = 0
    """The smallest size since the last synchronisation."""

    def sync(self) -> None:
        self.stored = bytes(self.written)
        self.passing = bytearray(self.written)
        self.shortest = len(self.written)

    def write(self, data: bytes) -> None:
        end = len(self.written)
        self.written += data
        self.passing[end : len(self.written)] = data

    def truncate(self, size: int) -> None:
        del self.written[size:]
        self.written += bytes(size - len(self.written))
        self.shortest = min(self.shortest, size)

    def after_a_cut(self, chance: random.Random) -> bytes:
        """Return what a power cut leaves of it: what was stored, and damage where it was not."""
        if self.stored == self.written and len(self.passing) == len(self.written):
            return self.stored
        longest = max(len(self.stored), len(self.passing))
        lengths = (self.shortest, len(self.stored), len(self.written), longest, chance.randint(self.shortest, longest))
        length = chance.choice(lengths)
        left = bytearray(self.stored[: min(self.shortest, length)])
        while len(left) < length:
            end = min(length, (len(left) // SECTOR + 1) * SECTOR)
            size = end - len(left)
            garbage = chance.randbytes(size)
            source = chance.choice((self.written, self.written, self.stored, self.passing, b"", garbage))
            sector = bytes(source if source is garbage else source[len(left) : end])
            left += sector + bytes(size - len(sector))
        return bytes(left)


class Plug:
    """
    Follows recorded operations, and says what would be left if the plug were pulled now.

    Args:
        start: What was stored before the first operation.
    """

    def __init__(self, start: Image) -> None:
        self._files: dict[int, _File] = {}
        self._stored: dict[str, int | None] = {}
        for number, (path, data) in enumerate(start.items()):
            self._stored[path] = None if data is None else number
            if data is not None:
                self._files[number] = _File(data, bytearray(data), bytearray(data), len(data))
        self._names = dict(self._stored)
        self._pending: list[tuple[str, str | None, str, int | None]] = []

    def follow(self, operation: Operation) -> None:
        """Take note of one operation."""
        match operation.kind:
            case "create" | "make_folder":
                number = operation.file if operation.kind == "create" else None
                if number is not None:
                    self._files[number] = _File()
                self._name(operation.path, number)
            case "rename":
                self._name(operation.to, self._names[operation.path], old=operation.path)
            case "sync_folder":
                folder = "" if operation.path == "." else operation.path
                for change in [change for change in self._pending if change[0] == folder]:
                    _change(self._stored, change)
                    self._pending.remove(change)
            case "write":
                self._files[operation.file].write(operation.data)
            case "truncate":
                self._files[operation.file].truncate(operation.size)
            case "sync":
                self._files[operation.file].sync()

    def _name(self, path: str, number: int | None, old: str | None = None) -> None:
        change = (path.rpartition("/")[0], old, path, number)
        _change(self._names, change)
        self._pending.append(change)

    def pull(self, chance: random.Random) -> Image:
        """Return one of the states in which a power cut may leave the folder now."""
        names = dict(self._stored)
        for change in self._pending:
            if chance.random() < 0.5:
                _change(names, change)
        image: Image = {}
        for path, number in sorted(names.items()):
            folder = path.rpartition("/")[0]
            if not folder or folder in image:  # what lies in a folder without a name is lost with it
                image[path] = None if number is None else self._files[number].after_a_cut(chance)
        return image


def _change(names: dict[str, int | None], change: tuple[str, str | None, str, int | None]) -> None:
    _, old, path, number = change
    if old is not None:
        names.pop(old, None)
    names[path] = number


def read_image(folder: Path) -> Image:
    """Return what lies in a folder."""
    found = sorted(folder.rglob("*")) if folder.is_dir() else []
    return {path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None for path in found}


def write_image(image: Image, folder: Path) -> None:
    """Make a folder with what an image holds."""
    folder.mkdir(parents=True)
    for path, data in image.items():
        if data is None:
            (folder / path).mkdir()
        else:
            (folder / path).write_bytes(data)
