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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gymcore.collection.disk import Disk
from gymcore.collection.finished import Finished
from gymcore.collection.line_checksum import is_whole, with_checksum
from gymcore.documents import DocumentError, decode_json
from gymcore.errors import StorageError
from gymcore.records import Failure, Rollout, RolloutKey
from gymcore.run_folder import FAILURES_NAME, QUARANTINE_NAME, ROLLOUTS_NAME, disk_error, only_writer, part_of

__all__ = [
    "LONGEST_LINE",
    "Collection",
    "Damage",
    "Journal",
    "read_collection",
    "read_lines",
    "read_rollouts",
]

LONGEST_LINE = 2**28
"""In bytes, the line break included: nothing longer is written or held in memory, whatever a disk made of a file."""
TOLD = 100
"""How much damage is described one by one; the rest of it is counted."""
_CHUNK = 2**20


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
    """A stretch of a journal file that is not whole; its bytes stay in the file."""

    offset: int
    size: int
    is_tail: bool


def read_lines(path: Path, longest: int = LONGEST_LINE) -> Iterator[tuple[int, bytes] | Damage]:
    """
    Yield each whole line of a journal file with its offset, and each damaged stretch as such; blank lines are nothing.

    Args:
        path: The file.
        longest: The bytes of a line beyond which it is damage, because nobody wrote it.

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
        while line := file.readline(longest):
            size = len(line)
            is_tail = not line.endswith(b"\n")
            if is_tail and size == longest:
                while is_tail and (more := file.readline(_CHUNK)):
                    size += len(more)
                    is_tail = not more.endswith(b"\n")
                yield Damage(offset, size, is_tail)
            elif not is_tail and is_whole(line[:-1]):
                yield offset, line[:-1]
            elif is_tail:
                yield Damage(offset, size, is_tail)
            elif line.strip():
                yield from _after_damage(offset, line)
            offset += size


_CLOSED = re.compile(rb',"crc":"[0-9a-f]{8}"\}')
_PLACES_TRIED = 64


def _after_damage(offset: int, line: bytes) -> Iterator[tuple[int, bytes] | Damage]:
    """Yield a line that is not whole; where it swallowed the next one by losing its line break, that one by itself."""
    for _, closed in zip(range(_PLACES_TRIED), _CLOSED.finditer(line), strict=False):
        start = closed.end() + 1
        if is_whole(line[start:-1]):
            yield Damage(offset, start, is_tail=False)
            yield offset + start, line[start:-1]
            return
    yield Damage(offset, len(line), is_tail=False)


_DELETED = "the file was deleted meanwhile"

Shown = Callable[[str, "dict[str, Any] | None"], None]
"""Is told the name of a file and what a line of it says; None for one that is not whole."""


def _scan(
    path: Path, longest: int, finished: Finished | None = None, show: Shown = lambda name, line: None
) -> Iterator[Damage]:
    """Read a journal file through: count the rollouts it holds, where somebody wants to know, and yield the damage."""
    for found in read_lines(path, longest):
        if isinstance(found, Damage):
            if not found.is_tail:
                show(path.name, None)
            yield found
            continue
        offset, line = found
        try:
            value = decode_json(line)
            key = (str(value["environment"]), str(value["task_id"]), int(value["repeat"]))
            if finished is not None:
                finished.add(key, value.get("reward"))
        except (DocumentError, KeyError, TypeError, ValueError):
            show(path.name, None)
            yield Damage(offset, len(line) + 1, is_tail=False)
        else:
            show(path.name, value)


def _describe(path: Path, damages: Iterator[Damage]) -> tuple[str, ...]:
    """Say what each damage is, one line each, and how many more there are than anybody reads."""
    told: list[str] = []
    more = 0
    for damage in damages:
        if len(told) < TOLD:
            kind = "a torn line at the end" if damage.is_tail else "a damaged line"
            told.append(f"{path.name}: {kind}, {damage.size} bytes at offset {damage.offset}")
        else:
            more += 1
    return (*told, f"{path.name}: {more:,} more damaged lines") if more else tuple(told)


def read_collection(folder: Path) -> Collection:
    """
    Look at what a run folder holds, changing nothing.

    Raises:
        StorageError: its files cannot be read.
    """
    finished = Finished()
    path = folder / ROLLOUTS_NAME
    damaged = _describe(path, _scan(path, LONGEST_LINE, finished))
    return Collection(folder, finished, damaged=damaged)


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
        repeats: How many rollouts of each task of an environment are asked for; `finished` counts no others.
        longest: The bytes of the longest line; a rollout that needs a longer one is recorded as a failure.
        show: Shown every line that is there on opening, so that nobody has to read them once more.

    Attributes:
        finished: Every rollout that has a reward and is safe on disk.
        damaged: What was found not to be whole on opening and not set aside before, one line each.

    Raises:
        RunFolderError: another process writes to this folder.
        StorageError: the folder cannot be read or written.
    """

    def __init__(
        self,
        folder: Path,
        disk: Disk | None = None,
        *,
        repeats: Mapping[str, int] | None = None,
        longest: int = LONGEST_LINE,
        show: Shown = lambda name, line: None,
    ) -> None:
        self.folder = folder.absolute()  # a plugin may change the working directory
        self.finished = Finished(repeats)
        self._repeats = repeats
        self._longest = longest
        self._show = show
        self.damaged: tuple[str, ...] = ()
        self.duplicates = 0
        self.failed = 0
        self._disk = disk or Disk()
        self._files: dict[str, int] = {}
        self._counts_names = False
        self._failure: str | None = None
        self._open = ExitStack()

    def __enter__(self) -> Journal:
        try:
            with ExitStack() as opening:
                opening.enter_context(only_writer(self.folder))
                for name in (ROLLOUTS_NAME, FAILURES_NAME):
                    self._files[name] = self._disk.open(self.folder / name)
                    opening.callback(self._disk.close, self._files[name])
                self._counts_names = all(self._disk.names(file) for file in self._files.values())
                self._disk.sync_folder(self.folder)
                self.finished = Finished(self._repeats)
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
        last: Damage | None = None

        def set_aside() -> Iterator[Damage]:  # one at a time: there may be more damage than memory
            nonlocal last
            for damage in _scan(path, self._longest, finished, self._show):
                last = damage
                if self._set_aside(path, damage):
                    yield damage

        told = _describe(path, set_aside())
        if last is not None:
            # Also for what was set aside before: whoever did it may have been killed before it was stored.
            self._disk.sync_folder(self.folder / QUARANTINE_NAME)
            self._disk.sync_folder(self.folder)
            if last.is_tail:
                self._disk.truncate(self._files[name], last.offset)
        # A killed process may have left lines that nobody synchronised; from here on they count.
        self._disk.sync(self._files[name])
        return told

    def _set_aside(self, path: Path, damage: Damage) -> bool:
        """Copy damaged bytes into the quarantine, whole or not at all; return whether they were not there before."""
        # Named by its bytes too: another crash may tear another line at the same place.
        crc = 0
        for data in _bytes_of(path, damage):
            crc = zlib.crc32(data, crc)
        aside = self.folder / QUARANTINE_NAME / f"{path.name}.{damage.offset}.{crc:08x}"
        if aside.exists():
            return False
        self._disk.make_folder(aside.parent)
        file = self._disk.open(part_of(aside))
        try:
            self._disk.truncate(file, 0)
            for data in _bytes_of(path, damage):
                self._write_all(file, data)
            self._disk.sync(file)
        finally:
            self._disk.close(file)
        self._disk.rename(part_of(aside), aside)
        return True

    def append(
        self, rollouts: Sequence[Rollout], on_durable: Callable[[Sequence[Rollout]], None] | None = None
    ) -> list[Rollout]:
        """
        Write rollouts and wait until they are safe; whoever was finished already is dropped.

        Args:
            rollouts: The finished ones are written first, then the failures.
            on_durable: Told of each of the two as soon as it is safe, also when the other one fails.

        Returns:
            Those that were written, failures included.

        Raises:
            StorageError: the disk failed; what `on_durable` was told counts and is safe, nothing else does, and a line
                that was begun is cut off.
        """
        finished: dict[RolloutKey, Rollout] = {}
        failed: list[Rollout] = []
        lines: list[bytes] = []
        for rollout in rollouts:
            key = rollout.key
            if key in self.finished or key in finished:
                self.duplicates += 1
            elif rollout.failure is not None:
                failed.append(rollout)
            elif isinstance(line := _line_of(rollout, self._longest), bytes):
                finished[key] = rollout
                lines.append(line)
            else:
                failed.append(replace(rollout, reward=None, failure=line))
        if finished:
            self._write(ROLLOUTS_NAME, b"".join(lines))
            for key, rollout in finished.items():
                self.finished.add(key, rollout.reward.value if rollout.reward is not None else None)
            if on_durable is not None:
                on_durable([*finished.values()])
        if failed:
            self._write(FAILURES_NAME, b"".join([with_checksum(each.to_failure_line()) + b"\n" for each in failed]))
            self.failed += len(failed)
            if on_durable is not None:
                on_durable(failed)
        return [*finished.values(), *failed]

    def _write(self, name: str, data: bytes) -> None:
        if self._failure is not None:
            # Whatever a disk says after a failed synchronisation, nobody knows what of it is true.
            raise self._storage_error(name, self._failure)
        file = self._files[name]
        end = self._disk.size(file)
        try:
            self._write_all(file, data)
            self._refuse_deleted(file)
            self._disk.sync(file)
        except BaseException as error:
            with suppress(OSError):  # else what was begun is cut off by whoever opens the folder next
                self._disk.truncate(file, end)
                self._disk.sync(file)
            self._failure = (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
            if isinstance(error, OSError):
                raise self._storage_error(name, self._failure) from None
            raise

    def _refuse_deleted(self, file: int) -> None:
        """Raise where nobody will find a file again: writing to it succeeds all the same."""
        if self._counts_names and not self._disk.names(file):
            raise OSError(errno.ENOENT, _DELETED)

    def _write_all(self, file: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            count = self._disk.write(file, view)
            if count == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            view = view[count:]

    def _storage_error(self, name: str, reason: str) -> StorageError:
        hint = "everything reported as done before is safe; the same command goes on from there"
        if reason == _DELETED:
            hint = "what was in it is lost; the same command begins anew"
        return StorageError(f"the rollouts cannot be written: {reason}", where=str(self.folder / name), hints=[hint])


def _bytes_of(path: Path, damage: Damage) -> Iterator[bytes]:
    """Yield the bytes of a damaged stretch in pieces; nobody knows how many they are."""
    with path.open("rb") as file:
        file.seek(damage.offset)
        left = damage.size
        while left and (data := file.read(min(_CHUNK, left))):
            yield data
            left -= len(data)


def _line_of(rollout: Rollout, longest: int) -> bytes | Failure:
    """Return the line of a finished rollout; where nobody could write it, or read it again, what is recorded of it."""
    try:
        line = with_checksum(rollout.to_line())
    except Exception as error:  # one rollout that cannot be written must not keep all others from the disk
        message = f"the rollout cannot be written down: {error}"[:2000].encode("utf-8", "replace").decode()
        return Failure(stage="agent", error=type(error).__name__, message=message, retryable=False)
    if len(line) < longest:
        return line + b"\n"
    message = f"the record of the rollout has {len(line):,} bytes; less than {longest:,} can be kept"
    return Failure(stage="agent", error="RecordTooLong", message=message, retryable=False)
