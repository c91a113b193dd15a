"""
The run folder's two growing files: rollouts.jsonl and failures.jsonl, one writer, append-only, checked on opening.

Nothing that was written is rewritten. Bytes that are not a whole line are copied to `quarantine/`; the torn end that a
killed process leaves is cut off after that, because the next line must start on its own.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from gymcore.collection.line_checksum import is_whole, with_checksum
from gymcore.documents import DocumentError, decode_json
from gymcore.errors import StorageError
from gymcore.records import Rollout, RolloutKey
from gymcore.run_folder import FAILURES_NAME, QUARANTINE_NAME, ROLLOUTS_NAME, disk_error, only_writer

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
    finished: frozenset[RolloutKey]
    """Every rollout that has a reward, once."""
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
            elif is_tail or line.strip():
                yield Damage(offset, line, is_tail)
            offset += len(line)


def _scan(path: Path) -> tuple[dict[RolloutKey, float | None], list[Damage]]:
    """Read a journal file through: what it holds a line of, with the reward where there is one, and what is damaged."""
    rewards: dict[RolloutKey, float | None] = {}
    damages = []
    for found in read_lines(path):
        if isinstance(found, Damage):
            damages.append(found)
            continue
        offset, line = found
        try:
            value = decode_json(line)
            key = (str(value["environment"]), str(value["task_id"]), int(value["repeat"]))
            rewards.setdefault(key, value.get("reward"))
        except (DocumentError, KeyError, TypeError, ValueError):
            damages.append(Damage(offset, line + b"\n", is_tail=False))
    return rewards, damages


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
    rewards, damages = _scan(folder / ROLLOUTS_NAME)
    return Collection(folder, frozenset(rewards), damaged=_describe(folder / ROLLOUTS_NAME, damages))


def read_rollouts(folder: Path | str) -> Iterator[Rollout]:
    """Yield the finished rollouts of a run folder in the order in which they ended, each once; damage is skipped."""
    seen: set[RolloutKey] = set()
    for found in read_lines(Path(folder) / ROLLOUTS_NAME):
        if not isinstance(found, Damage):
            rollout = Rollout.from_line(found[1])
            if rollout.key not in seen:
                seen.add(rollout.key)
                yield rollout


class Journal:
    """
    The one writer of a run folder; open it with `with`.

    Attributes:
        finished: The reward of every rollout that is safe on disk.
        damaged: What was found not to be whole on opening and not set aside before, one line each.

    Raises:
        RunFolderError: another process writes to this folder.
        StorageError: the folder cannot be read or written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.finished: dict[RolloutKey, float | None] = {}
        self.damaged: tuple[str, ...] = ()
        self.duplicates = 0
        self.failed = 0
        self._files: dict[str, IO[bytes]] = {}
        self._open = ExitStack()

    def __enter__(self) -> Journal:
        try:
            with ExitStack() as opening:
                opening.enter_context(only_writer(self.folder))
                self.finished, damages = self._recover(self.folder / ROLLOUTS_NAME)
                _, failure_damages = self._recover(self.folder / FAILURES_NAME)
                self.damaged = (*damages, *failure_damages)
                for name in (ROLLOUTS_NAME, FAILURES_NAME):
                    self._files[name] = opening.enter_context((self.folder / name).open("ab", buffering=0))
                _sync_folder(self.folder)
                self._open = opening.pop_all()
        except OSError as error:
            raise disk_error("the run folder cannot be written", error, self.folder) from None
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def _recover(self, path: Path) -> tuple[dict[RolloutKey, float | None], tuple[str, ...]]:
        """
        Read a file, copy what is not whole to the quarantine, and cut a torn end off.

        Returns:
            The rewards, and a line on each damage that was not set aside before.
        """
        rewards, damages = _scan(path)
        found = []
        for damage in damages:
            # Named by its bytes too: another crash may tear another line at the same place.
            name = f"{path.name}.{damage.offset}.{zlib.crc32(damage.data):08x}"
            aside = self.folder / QUARANTINE_NAME / name
            aside.parent.mkdir(exist_ok=True)
            if not aside.exists():
                found.append(damage)
            aside.write_bytes(damage.data)
            if damage.is_tail:
                with path.open("r+b") as file:
                    file.truncate(damage.offset)
                    os.fsync(file.fileno())
        return rewards, _describe(path, found)

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
            if rollout.key in self.finished or rollout.key in new:
                self.duplicates += 1
            elif rollout.failure is not None:
                lines[FAILURES_NAME].append(with_checksum(rollout.to_failure_line()) + b"\n")
                written.append(rollout)
            else:
                lines[ROLLOUTS_NAME].append(with_checksum(rollout.to_line()) + b"\n")
                new[rollout.key] = rollout.reward.value if rollout.reward is not None else None
                written.append(rollout)
        for name, batch in lines.items():
            if batch:
                self._write(name, b"".join(batch))
        self.finished.update(new)
        self.failed += len(lines[FAILURES_NAME])
        return written

    def _write(self, name: str, data: bytes) -> None:
        file = self._files[name]
        end = file.seek(0, os.SEEK_END)
        try:
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]
            os.fdatasync(file.fileno())
        except OSError as error:
            with suppress(OSError):  # else the torn line is cut off by whoever opens the folder next
                file.truncate(end)
            raise StorageError(
                f"the rollouts cannot be written: {error.strerror}",
                where=str(self.folder / name),
                hints=["everything reported as done before is safe; the same command goes on from there"],
            ) from None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
