"""
Which rows two datasets do not share: by task, environment by environment, in some 50 bytes a row.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from gymcore.compact_keys import KeyNumbers
from gymcore.documents import DocumentError, decode_json
from gymcore.errors import RunFolderError

__all__ = ["DatasetMoves", "RowMoves", "compare_rows"]

SHOWN = 5
"""How many tasks of a kind are named."""


@dataclass
class RowMoves:
    """What has become of the rows of one environment; of each kind, how many there are and the first few by id."""

    there: int = 0
    here: int = 0
    added: int = 0
    removed: int = 0
    changed: int = 0
    """Rows of the same task with other bytes."""
    moved: int = 0
    """The fewest rows that would have to be put elsewhere for those that both have to follow each other as before."""
    examples: dict[str, list[str]] = field(default_factory=dict)

    def name(self, kind: str, task: str) -> None:
        """Remember a task where it is one of the first of its kind."""
        named = self.examples.setdefault(kind, [])
        if len(named) < SHOWN:
            named.append(task)

    @property
    def is_same(self) -> bool:
        """Whether nothing has become of them."""
        return not (self.added or self.removed or self.changed or self.moved)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


@dataclass
class DatasetMoves:
    """What has become of the rows of a dataset."""

    environments: dict[str, RowMoves] = field(default_factory=dict)
    is_mixed_otherwise: bool = False
    """Whether the environments take turns otherwise, though each has its rows in the same order."""
    sha256_there: str = ""
    sha256_here: str = ""


def compare_rows(there: Path, here: Path) -> DatasetMoves:
    """
    Compare two datasets, row by row; each is read once, and the first once more where rows of it are gone or moved.

    A task that a mix has repeated is told apart by its epoch.

    Raises:
        RunFolderError: a file cannot be read, or holds something else than a dataset of ours.
    """
    return _Comparison(there, here).result


class _Comparison:
    def __init__(self, there: Path, here: Path) -> None:
        self.result = DatasetMoves()
        self._numbers = KeyNumbers()
        """Of the rows of the first dataset: each has a number, which is its place, from 0."""
        self._contents = array("Q")
        self._read_first(there)
        self._state = bytearray([_GONE]) * len(self._contents)
        """What has become of each of those rows."""
        self._read_second(here)
        self._name_removed_and_moved(there)

    def _of(self, environment: str) -> RowMoves:
        return self.result.environments.setdefault(environment, RowMoves())

    def _read_first(self, path: Path) -> None:
        digest = hashlib.sha256()
        for line, environment, _task, key in _rows(path):
            digest.update(line)
            # An edited file may hold a task twice; then the second is a row of its own.
            while self._numbers.number(key) < len(self._contents):
                key += b"\0again"
            self._contents.append(_content(line))
            self._of(environment).there += 1
        self.result.sha256_there = digest.hexdigest()

    def _read_second(self, path: Path) -> None:
        digest = hashlib.sha256()
        orders: dict[str, _Order] = {}
        last = -1
        is_mixed_otherwise = False
        for line, environment, task, key in _rows(path):
            digest.update(line)
            moved = self._of(environment)
            moved.here += 1
            place = self._numbers.find(key)
            while place is not None and self._state[place] != _GONE:
                key += b"\0again"
                place = self._numbers.find(key)
            if place is None:
                moved.added += 1
                moved.name("added", task)
                continue
            self._state[place] = _STAYS
            if self._contents[place] != _content(line):
                moved.changed += 1
                moved.name("changed", task)
            orders.setdefault(environment, _Order()).add(place)
            is_mixed_otherwise = is_mixed_otherwise or place < last
            last = max(last, place)
        for environment, order in orders.items():
            moved = self._of(environment)
            for place in order.out_of_order():
                self._state[place] = _MOVED
                moved.moved += 1
        for moved in self.result.environments.values():
            moved.removed = moved.there - (moved.here - moved.added)
        is_in_order = not any(moved.moved for moved in self.result.environments.values())
        self.result.is_mixed_otherwise = is_mixed_otherwise and is_in_order
        self.result.sha256_here = digest.hexdigest()

    def _name_removed_and_moved(self, path: Path) -> None:
        left = sum(min(moved.removed, SHOWN) + min(moved.moved, SHOWN) for moved in self.result.environments.values())
        for state, (_, environment, task, _key) in zip(self._state, _rows(path), strict=False):
            if not left:
                return
            kind = _KINDS[state]
            moved = self._of(environment)
            if kind is not None and len(moved.examples.get(kind, ())) < SHOWN:
                moved.name(kind, task)
                left -= 1


_GONE, _STAYS, _MOVED = range(3)
_KINDS = {_GONE: "removed", _STAYS: None, _MOVED: "moved"}


class _Order:
    """
    Places as they follow each other now, and which of them rise as they did: the longest rising sequence of them.

    Source:
        Patience sorting: for every length, the rising sequence of it that ends with the smallest place is kept
        (Fredman 1975, "On computing the length of longest increasing subsequences",
        https://doi.org/10.1016/0012-365X(75)90103-X).
    """

    def __init__(self) -> None:
        self._places = array("I")
        self._before = array("I")
        """For each, where in `_places` the one before it in its sequence stands, plus one."""
        self._ends = array("I")
        """For each length, where in `_places` the smallest end of a sequence of that length stands."""

    def add(self, place: int) -> None:
        """Take in the next place."""
        index = len(self._places)
        self._places.append(place)
        if not self._ends or self._places[self._ends[-1]] < place:
            self._before.append(self._ends[-1] + 1 if self._ends else 0)
            self._ends.append(index)
            return
        length = bisect_left(self._ends, place, key=self._places.__getitem__)
        self._before.append(self._ends[length - 1] + 1 if length else 0)
        self._ends[length] = index

    def out_of_order(self) -> Iterator[int]:
        """Yield the fewest places without which the others rise."""
        rises = bytearray(len(self._places))
        index = self._ends[-1] + 1 if self._ends else 0
        while index:
            rises[index - 1] = 1
            index = self._before[index - 1]
        return (place for place, does_rise in zip(self._places, rises, strict=True) if not does_rise)


def _content(line: bytes) -> int:
    return int.from_bytes(blake2b(line.rstrip(b"\n"), digest_size=8).digest())


def _rows(path: Path) -> Iterator[tuple[bytes, str, str, bytes]]:
    """Yield for each row its line, environment, task id, and a key that no other row of the file has."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    row = decode_json(line)
                    environment, task = str(row["environment"]), str(row["task_id"])
                    epoch = row.get("epoch", 1)
                except (DocumentError, KeyError, TypeError, AttributeError):
                    place = f"{path}:{number}"
                    raise RunFolderError("this row was not written by `gym compose`", where=place) from None
                key = f"{environment}\0{epoch}\0{task}".encode("utf-8", "surrogatepass")
                yield line, environment, task if epoch == 1 else f"{task} (epoch {epoch})", key
    except OSError as error:
        raise RunFolderError(f"the dataset cannot be read: {error.strerror}", where=str(path)) from None
