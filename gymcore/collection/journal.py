"""
The run folder's two growing files: rollouts.jsonl and failures.jsonl, one writer, append-only, checked on opening.

Nothing that was written is rewritten. Bytes that are not a whole line are copied to `quarantine/`; the torn end that a
killed process leaves is cut off once that copy is on the disk, because the next line must start on its own.
"""

from __future__ import annotations

import errno
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from gymcore.collection.disk import Disk
from gymcore.collection.finished import Finished
from gymcore.collection.line_checksum import is_whole, with_checksum
from gymcore.documents import DocumentError, decode_json
from gymcore.errors import StorageError
from gymcore.records import Rollout, RolloutKey
from gymcore.run_folder import FAILURES_NAME, QUARANTINE_NAME, ROLLOUTS_NAME, disk_error, only_writer, part_of

__all__ = [
    "Collection",
    "Damage",
    "Journal",
    "read_collection",
    "read_lines",
    "read_rollouts",
]


@dataclass(frozen=True)
class Collection:
    """What a run folder holds."""

    folder: Path
    finished: Finished = field(default_factory=Finished)
    """Every rollout that has a reward, once: `key in finished` and `len(finished)`."""
    failed: int = 0
    """Attempts in this call that gave no reward."""
    duplicates: int = 0
    """Rollouts that came although they were finished already; they were dropped."""
    damaged: tuple[str, ...] = ()
    """What was not whole in the files, one line each; those rollouts are owed again."""


@dataclass(frozen=True, slots=True)
class Damage:
    """A stretch of a journal file that is not whole."""

    offset: int
    data: bytes
    is_tail: bool


def read_lines(path: Path) -> Iterator[tuple[int, bytes] | Damage]:
    """
    Yield each whole line of a journal file with its offset, and each damaged stretch as such; blank lines are nothing.

    Raises:
        StorageError: the file is there and cannot be read.
    """
    offset = 0
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    except OSError as error:
        raise StorageError(f"the file cannot be read: {error.strerror}", where=str(path)) from None
    with file:
        for line in file:
            is_tail = not line.endswith(b"\n")
            if not is_tail and is_whole(line[:-1]):
                yield offset, line[:-1]
            elif is_tail:
                yield Damage(offset, line, is_tail)
            elif line.strip():
                yield from _after_damage(offset, line)
            offset += len(line)


_CLOSED = re.compile(rb',"crc":"[0-9a-f]{8}"\}')
_PLACES_TRIED = 64


def _after_damage(offset: int, line: bytes) -> Iterator[tuple[int, bytes] | Damage]:
    """Yield a line that is not whole; where it swallowed the next one by losing its line break, that one by itself."""
    for _, closed in zip(range(_PLACES_TRIED), _CLOSED.finditer(line), strict=False):
        start = closed.end() + 1
        if is_whole(line[start:-1]):
            yield Damage(offset, line[:start], is_tail=False)
            yield offset + start, line[start:-1]
            return
    yield Damage(offset, line, is_tail=False)


def _scan(path: Path, finished: Finished | None = None) -> list[Damage]:
    """Read a journal file through: count the rollouts it holds, where somebody wants to know, and find the damage."""
    damages = []
    for found in read_lines(path):
        if isinstance(found, Damage):
            damages.append(found)
            continue
        offset, line = found
        try:
            value = decode_json(line)
            key = (str(value["environment"]), str(value["task_id"]), int(value["repeat"]))
            if finished is not None:
                finished.add(key, value.get("reward"))
        except (DocumentError, KeyError, TypeError, ValueError):
            damages.append(Damage(offset, line + b"\n", is_tail=False))
    return damages


def _describe(path: Path, damages: Sequence[Damage]) -> tuple[str, ...]:
    return tuple(
        f"{path.name}: {'a torn line at the end' if damage.is_tail else 'a damaged line'}, "
        f"{len(damage.data)} bytes at offset {damage.offset}"
        for damage in damages
    )


def read_collection(folder: Path) -> Collection:
    """
    Look at what a run folder holds, changing nothing.

    Raises:
        StorageError: its files cannot be read.
    """
    finished = Finished()
    damages = _scan(folder / ROLLOUTS_NAME, finished)
    return Collection(folder, finished, damaged=_describe(folder / ROLLOUTS_NAME, damages))


def read_rollouts(folder: Path | str) -> Iterator[Rollout]:
    """Yield the finished rollouts of a run folder in the order in which they ended, each once; damage is skipped."""
    seen = Finished()
    for found in read_lines(Path(folder) / ROLLOUTS_NAME):
        if not isinstance(found, Damage):
            rollout = Rollout.from_line(found[1])
            if seen.add(rollout.key, None):
                yield rollout


class Journal:
    """
    The one writer of a run folder; open it with `with`.

    Args:
        folder: The run folder; it is made where there is none.
        disk: Where it lives.

    Attributes:
        finished: Every rollout that has a reward and is safe on disk.
        damaged: What was found not to be whole on opening and not set aside before, one line each.

    Raises:
        RunFolderError: another process writes to this folder.
        StorageError: the folder cannot be read or written.
    """

    def __init__(self, folder: Path, disk: Disk | None = None) -> None:
        self.folder = folder
        self.finished = Finished()
        self.damaged: tuple[str, ...] = ()
        self.duplicates = 0
        self.failed = 0
        self._disk = disk or Disk()
        self._files: dict[str, int] = {}
        self._failure: str | None = None
        self._open = ExitStack()

    def __enter__(self) -> Journal:
        try:
            with ExitStack() as opening:
                opening.enter_context(only_writer(self.folder))
                for name in (ROLLOUTS_NAME, FAILURES_NAME):
                    self._files[name] = self._disk.open(self.folder / name)
                    opening.callback(self._disk.close, self._files[name])
                self._disk.sync_folder(self.folder)
                self.finished = Finished()
                damages = self._recover(ROLLOUTS_NAME, self.finished)
                self.damaged = (*damages, *self._recover(FAILURES_NAME))
                self._open = opening.pop_all()
        except OSError as error:
            raise disk_error("the run folder cannot be written", error, self.folder) from None
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def _recover(self, name: str, finished: Finished | None = None) -> tuple[str, ...]:
        """
        Read a file, copy what is not whole to the quarantine, and cut a torn end off.

        Args:
            name: The file's.
            finished: Where the rollouts that it holds are counted.

        Returns:
            A line on each damage that was not set aside before.
        """
        path = self.folder / name
        damages = _scan(path, finished)
        found = [damage for damage in damages if self._set_aside(name, damage)]
        if damages:
            # Also for what was set aside before: whoever did it may have been killed before it was stored.
            self._disk.sync_folder(self.folder / QUARANTINE_NAME)
            self._disk.sync_folder(self.folder)
        if damages and damages[-1].is_tail:
            self._disk.truncate(self._files[name], damages[-1].offset)
        # A killed process may have left lines that nobody synchronised; from here on they count.
        self._disk.sync(self._files[name])
        return _describe(path, found)

    def _set_aside(self, name: str, damage: Damage) -> bool:
        """Copy damaged bytes into the quarantine, whole or not at all; return whether they were not there before."""
        # Named by its bytes too: another crash may tear another line at the same place.
        aside = self.folder / QUARANTINE_NAME / f"{name}.{damage.offset}.{zlib.crc32(damage.data):08x}"
        if aside.exists():
            return False
        self._disk.make_folder(aside.parent)
        file = self._disk.open(part_of(aside))
        try:
            self._disk.truncate(file, 0)
            self._write_all(file, damage.data)
            self._disk.sync(file)
        finally:
            self._disk.close(file)
        self._disk.rename(part_of(aside), aside)
        return True

    def append(self, rollouts: Sequence[Rollout]) -> list[Rollout]:
        """
        Write rollouts and wait until they are safe; whoever was finished already is dropped.

        Returns:
            Those that were written, failures included.

        Raises:
            StorageError: the disk failed; nothing of this call counts, and a line that was begun is cut off.
        """
        written: list[Rollout] = []
        lines: dict[str, list[bytes]] = {ROLLOUTS_NAME: [], FAILURES_NAME: []}
        new: dict[RolloutKey, float | None] = {}
        for rollout in rollouts:
            key = rollout.key
            if key in self.finished or key in new:
                self.duplicates += 1
            elif rollout.failure is not None:
                lines[FAILURES_NAME].append(with_checksum(rollout.to_failure_line()) + b"\n")
                written.append(rollout)
            else:
                lines[ROLLOUTS_NAME].append(with_checksum(rollout.to_line()) + b"\n")
                new[key] = rollout.reward.value if rollout.reward is not None else None
                written.append(rollout)
        for name, batch in lines.items():
            if batch:
                self._write(name, b"".join(batch))
        for key, reward in new.items():
            self.finished.add(key, reward)
        self.failed += len(lines[FAILURES_NAME])
        return written

    def _write(self, name: str, data: bytes) -> None:
        if self._failure is not None:
            # Whatever a disk says after a failed synchronisation, nobody knows what of it is true.
            raise self._storage_error(name, self._failure)
        file = self._files[name]
        end = self._disk.size(file)
        try:
            self._write_all(file, data)
            self._disk.sync(file)
        except BaseException as error:
            with suppress(OSError):  # else what was begun is cut off by whoever opens the folder next
                self._disk.truncate(file, end)
                self._disk.sync(file)
            self._failure = (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
            if isinstance(error, OSError):
                raise self._storage_error(name, self._failure) from None
            raise

    def _write_all(self, file: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            count = self._disk.write(file, view)
            if count == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            view = view[count:]

    def _storage_error(self, name: str, reason: str) -> StorageError:
        return StorageError(
            f"the rollouts cannot be written: {reason}",
            where=str(self.folder / name),
            hints=["everything reported as done before is safe; the same command goes on from there"],
        )
