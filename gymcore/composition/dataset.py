"""
A Dataset: routed rows in order, on disk, with an index of some 16 bytes a row in memory.
"""

from __future__ import annotations

import hashlib
import os
import weakref
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, count, repeat
from pathlib import Path
from typing import IO

from xxhash import xxh3_64_intdigest

from gymcore.errors import StorageError
from gymcore.records import Row

__all__ = ["BLOCK", "Dataset", "DatasetWriter", "route_numbers"]

BLOCK = 1 << 17
"""How many bytes of a file are read and written at once."""


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
        epochs: For each row, how often the mix has come round to its task, from 1; None where the rows say it
            themselves, or no mix repeats them.
        most_epochs: The highest epoch of the rows of each route, where the rows say it themselves.
    """

    def __init__(
        self,
        file: IO[bytes],
        offsets: array[int],
        lengths: array[int],
        routes: array[int],
        route_names: list[str],
        epochs: array[int] | None = None,
        most_epochs: Mapping[str, int] | None = None,
    ) -> None:
        self._file = file
        weakref.finalize(self, file.close)
        self._offsets = offsets
        self._lengths = lengths
        self._routes = routes
        self._epochs = epochs
        self._most_epochs = dict(most_epochs or {})
        self._positions: dict[str, array[int]] | None = None
        self._sha256: str | None = None
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
        offset = self._offsets[position]
        data = self._bytes(offset, offset + self._lengths[position])
        if self._epochs is not None and (epoch := self._epochs[position]) > 1:
            data = _with_epoch(data, epoch)
        return Row(data)

    def counts(self) -> dict[str, int]:
        """Return for each route how many rows it has."""
        found = Counter(self._routes)
        return {name: found[index] for index, name in enumerate(self.route_names)}

    def epochs(self) -> dict[str, int]:
        """Return for each route the highest epoch of its rows."""
        if self._epochs is None:
            return {name: self._most_epochs.get(name, 1) for name in self.route_names}
        most = [1] * len(self.route_names)
        for route, epoch in zip(self._routes, self._epochs, strict=True):
            if epoch > most[route]:
                most[route] = epoch
        return dict(zip(self.route_names, most, strict=True))

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
        with path.open("wb") as out:
            for block in self._blocks():
                out.write(block)
            out.flush()
            os.fsync(out.fileno())
        return self.sha256()

    def sha256(self) -> str:
        """Return the SHA-256 of the file that `write` writes; it is worked out once."""
        if self._sha256 is None:
            digest = hashlib.sha256()
            for block in self._blocks():
                digest.update(block)
            self._sha256 = digest.hexdigest()
        return self._sha256

    def _blocks(self) -> Iterator[bytes]:
        """Yield what the rows are in a file, line breaks included, about `BLOCK` bytes at a time."""
        parts: list[bytes] = []
        size = 0
        begin, end = 0, 0  # rows that follow each other in the file as well are read in one go
        for offset, length, epoch in zip(self._offsets, self._lengths, self._epochs or repeat(1), strict=False):
            if offset == end and epoch == 1 and end - begin < BLOCK:
                end += length + 1
                continue
            if begin < end:
                parts.append(self._bytes(begin, end))
                size += end - begin
                if size >= BLOCK:
                    yield b"".join(parts)
                    parts.clear()
                    size = 0
            begin, end = offset, offset + length + 1
            if epoch > 1:
                parts.append(_with_epoch(self._bytes(offset, offset + length), epoch) + b"\n")
                size += length
                begin = end = 0
        if begin < end:
            parts.append(self._bytes(begin, end))
        if parts:
            yield b"".join(parts)

    def _bytes(self, begin: int, end: int) -> bytes:
        try:
            data = os.pread(self._file.fileno(), end - begin, begin)
        except OSError as error:
            raise StorageError(f"the dataset cannot be read: {error.strerror}") from None
        if len(data) != end - begin:
            raise StorageError("the dataset has become shorter while it was used")
        return data


def _with_epoch(row: bytes, epoch: int) -> bytes:
    return b'%b,"epoch":%d}' % (row[:-1], epoch)


class DatasetWriter:
    """
    Takes rows environment by environment and gives them back as a Dataset in the order of a mix.

    Args:
        file: An empty file opened for reading and writing; it becomes the dataset's.
        shuffle: Says by which seed an environment's rows are put in order; None keeps the order of the files.
    """

    def __init__(self, file: IO[bytes], *, shuffle: Callable[[str], int | None] = lambda environment: None) -> None:
        self._file = file
        self._shuffle = shuffle
        self._end = 0
        self._pending: list[bytes] = []
        self._written = 0
        """How much of all rows is in the file; the others are pending."""
        self._routes: dict[str, int] = {}
        self._rows: dict[str, _Rows] = {}

    def add(self, environment: str, route: str, row: bytes, identity: str = "", epoch: int = 1) -> None:
        """
        Append a row to an environment; a line break inside it would be a mistake of the caller.

        Args:
            environment: Whose row it is.
            route: The route that serves it.
            row: Its bytes.
            identity: What names its task among all others of the environment; decides its place in a shuffled order.
            epoch: The epoch that the row says, where it comes from a mix that repeated its rows.
        """
        rows = self._rows.get(environment)
        if rows is None:
            rows = self._rows[environment] = _Rows(self._shuffle(environment))
        number = self._routes.get(route)
        if number is None:
            number = self._routes[route] = len(self._routes)
        if epoch > 1:
            rows.epochs[len(rows.offsets)] = epoch
            identity = f"{identity}\0{epoch}"
        if rows.seed is not None:
            rows.identities.append(xxh3_64_intdigest(identity.encode("utf-8", "surrogatepass")))
        rows.offsets.append(self._end)
        rows.lengths.append(len(row))
        rows.routes.append(number)
        self._pending.append(row)
        self._end += len(row) + 1
        if self._end - self._written >= BLOCK:
            self._write_pending()

    def _write_pending(self) -> None:
        if self._pending:
            self._pending.append(b"")  # which ends the last line
            self._file.write(b"\n".join(self._pending))
            self._pending.clear()
            self._written = self._end

    @property
    def has_epochs(self) -> bool:
        """Whether some rows say an epoch beyond the first."""
        return any(rows.epochs for rows in self._rows.values())

    def size(self, environment: str) -> int:
        """Return how many rows an environment has so far."""
        rows = self._rows.get(environment)
        return 0 if rows is None else len(rows.offsets)

    def sizes(self) -> dict[str, int]:
        """Return how many rows each environment has so far."""
        return {name: len(rows.offsets) for name, rows in self._rows.items()}

    def finish(
        self, order: Iterable[str], *, limits: Mapping[str, int | None] | None = None, repeat: bool = False
    ) -> Dataset:
        """
        Return the dataset whose rows follow each other as `order` names their environments.

        Args:
            order: The environment of each row; it must not ask for more rows than an environment has, unless they are
                repeated.
            limits: How many rows of an environment are taken, the first in its order.
            repeat: Begin the next epoch where an environment has no more rows: in another order, where it shuffles.
        """
        self._write_pending()
        self._file.flush()
        offsets, lengths, routes = array("Q"), array("I"), route_numbers(len(self._routes))
        epochs = array("I")
        taking = {
            name: (self._taken(name, rows, (limits or {}).get(name), is_endless=repeat).__next__, rows)
            for name, rows in self._rows.items()
        }
        said: dict[str, int] = {}
        names = list(self._routes)
        for name in order:
            take, rows = taking[name]
            epoch, index = take()
            if rows.epochs and index in rows.epochs:
                route = names[rows.routes[index]]
                said[route] = max(said.get(route, 1), rows.epochs[index])
            offsets.append(rows.offsets[index])
            lengths.append(rows.lengths[index])
            routes.append(rows.routes[index])
            epochs.append(epoch)
        counted = epochs if max(epochs, default=1) > 1 else None
        return Dataset(self._file, offsets, lengths, routes, names, counted, said)

    def _taken(self, name: str, rows: _Rows, limit: int | None, *, is_endless: bool) -> Iterator[tuple[int, int]]:
        """Return (epoch, index) of an environment's rows, in order."""
        return chain.from_iterable(self._epochs_of(name, rows, limit, is_endless=is_endless))

    def _epochs_of(
        self, name: str, rows: _Rows, limit: int | None, *, is_endless: bool
    ) -> Iterator[Iterable[tuple[int, int]]]:
        taken: Sequence[int] = range(len(rows.offsets))
        for epoch in count(1):
            if rows.seed is not None:
                taken = _shuffled(name, rows, taken, rows.seed, epoch)
            if epoch == 1:
                taken = taken[:limit]
            yield zip(repeat(epoch), taken, strict=False)
            if not is_endless:
                return


class _Rows:
    """Where the rows of one environment stand: 16 bytes each, and 8 more where they are shuffled."""

    __slots__ = ("epochs", "identities", "lengths", "offsets", "routes", "seed")

    def __init__(self, seed: int | None) -> None:
        self.seed = seed
        """By which they are put in order; None for the order of the files."""
        self.offsets = array("Q")
        self.lengths = array("I")
        self.routes = array("I")
        self.identities = array("Q")
        self.epochs: dict[int, int] = {}
        """The epochs beyond the first that rows say, by their index; few datasets have some."""


def _shuffled(name: str, rows: _Rows, taken: Sequence[int], seed: int, epoch: int) -> Sequence[int]:
    # Hash each task on its own instead of shuffling one list: adding or dropping rows, or a whole environment, then
    # leaves every other task in the order it had, so two datasets stay comparable.
    salt = xxh3_64_intdigest(f"{seed}/{epoch}/{name}".encode())
    identities = rows.identities
    keys = array("Q", bytes(8 * len(identities)))
    for index in taken:
        keys[index] = xxh3_64_intdigest(identities[index].to_bytes(8), salt)
    return array("I", sorted(taken, key=keys.__getitem__))
