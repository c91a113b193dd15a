"""
A Dataset: routed rows in order, on disk, with an index of 14 bytes a row in memory.
"""

from __future__ import annotations

import hashlib
import os
import weakref
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

from gymcore.errors import StorageError
from gymcore.records import Row

__all__ = ["Dataset", "DatasetWriter", "route_numbers"]


def route_numbers(routes: int) -> array[int]:
    """Return an empty array for numbers from 0 to `routes` - 1, with as few bytes a number as they need."""
    return array("H" if routes <= 1 << 16 else "I")


class Dataset:
    """
    The tasks of a composition in the order of the mix.

    Rows are read from a file when they are needed, so a million need little more memory than a thousand.

    Args:
        file: The open file that holds the rows; it stays open as long as the dataset lives, and is closed with it.
        offsets: Byte offset of each row, in the order of the mix.
        lengths: Length of each row in bytes.
        routes: For each row, the index of its route in `route_names`.
        route_names: The `agent_ref.name` of each route.
    """

    def __init__(
        self, file: IO[bytes], offsets: array[int], lengths: array[int], routes: array[int], route_names: list[str]
    ) -> None:
        self._file = file
        weakref.finalize(self, file.close)
        self._offsets = offsets
        self._lengths = lengths
        self._routes = routes
        self._positions: dict[str, array[int]] | None = None
        self.route_names = route_names

    def __len__(self) -> int:
        return len(self._offsets)

    def __iter__(self) -> Iterator[Row]:
        return (self.row(position) for position in range(len(self)))

    def row(self, position: int) -> Row:
        """
        Read the row at a position of the mix, from 0.

        Raises:
            StorageError: the disk fails, or somebody has cut the file off.
        """
        length = self._lengths[position]
        try:
            data = os.pread(self._file.fileno(), length, self._offsets[position])
        except OSError as error:
            raise StorageError(f"the dataset cannot be read: {error.strerror}") from None
        if len(data) != length:
            raise StorageError("the dataset has become shorter while it was used")
        return Row(data)

    def counts(self) -> dict[str, int]:
        """Return for each route how many rows it has."""
        found = Counter(self._routes)
        return {name: found[index] for index, name in enumerate(self.route_names)}

    def positions(self) -> dict[str, Sequence[int]]:
        """Return for each route the positions of its rows, in order; they are kept, in 4 or 8 bytes a row."""
        if self._positions is None:
            by_index = [array("I" if len(self) < 1 << 32 else "Q") for _ in self.route_names]
            for position, route in enumerate(self._routes):
                by_index[route].append(position)
            self._positions = dict(zip(self.route_names, by_index, strict=True))
        return dict(self._positions)

    def write(self, path: Path) -> str:
        """
        Write the rows to a file, one a line, and return the SHA-256 of its bytes.

        The file is not renamed or synchronised here: the caller decides when it is whole.
        """
        digest = hashlib.sha256()
        with path.open("wb") as out:
            for row in self:
                line = row.data + b"\n"
                digest.update(line)
                out.write(line)
            out.flush()
            os.fsync(out.fileno())
        return digest.hexdigest()

    def sha256(self) -> str:
        """Return the SHA-256 of the file that `write` writes."""
        digest = hashlib.sha256()
        for row in self:
            digest.update(row.data + b"\n")
        return digest.hexdigest()


class DatasetWriter:
    """
    Takes rows route by route and gives them back as a Dataset in the order of a mix.

    Args:
        file: An empty file opened for reading and writing; it becomes the dataset's.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._end = 0
        self._route_names: list[str] = []
        self._offsets: list[array[int]] = []
        self._lengths: list[array[int]] = []
        self._index: dict[str, int] = {}

    def add(self, route: str, row: bytes) -> None:
        """Append a row to a route; a line break inside it would be a mistake of the caller."""
        index = self._index.get(route)
        if index is None:
            index = self._index[route] = len(self._route_names)
            self._route_names.append(route)
            self._offsets.append(array("Q"))
            self._lengths.append(array("I"))
        self._file.write(row)
        self._offsets[index].append(self._end)
        self._lengths[index].append(len(row))
        self._end += len(row)

    def size(self, route: str) -> int:
        """Return how many rows a route has so far."""
        index = self._index.get(route)
        return 0 if index is None else len(self._offsets[index])

    def sizes(self) -> dict[str, int]:
        """Return how many rows each route has so far."""
        return {name: len(self._offsets[index]) for name, index in self._index.items()}

    def finish(self, order: Iterable[str]) -> Dataset:
        """Return the dataset whose rows follow each other as `order` names their routes."""
        self._file.flush()
        offsets, lengths, routes = array("Q"), array("I"), route_numbers(len(self._route_names))
        taken = [0] * len(self._route_names)
        for name in order:
            index = self._index[name]
            offsets.append(self._offsets[index][taken[index]])
            lengths.append(self._lengths[index][taken[index]])
            routes.append(index)
            taken[index] += 1
        return Dataset(self._file, offsets, lengths, routes, self._route_names)
