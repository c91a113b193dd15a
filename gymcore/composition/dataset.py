"""
A Dataset: routed rows in order, on disk, with an index of some 16 bytes a row in memory.
"""

from __future__ import annotations

import hashlib
import os
import weakref
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import IO

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
            data = b'%b,"epoch":%d}' % (data[:-1], epoch)
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
        with path.open("wb", buffering=BLOCK) as out:
            for line in self._lines():
                out.write(line)
            out.flush()
            os.fsync(out.fileno())
        return self.sha256()

    def sha256(self) -> str:
        """Return the SHA-256 of the file that `write` writes; it is worked out once."""
        if self._sha256 is None:
            digest = hashlib.sha256()
            for line in self._lines():
                digest.update(line)
            self._sha256 = digest.hexdigest()
        return self._sha256

    def _lines(self) -> Iterator[bytes]:
        """Yield what the rows are in a file, line breaks included; rows that follow each other in one go."""
        if self._epochs is not None:
            yield from (row.data + b"\n" for row in self)
            return
        begin, end = 0, 0
        for offset, length in zip(self._offsets, self._lengths, strict=True):
            if offset != end or end - begin > BLOCK:
                yield from self._stretch(begin, end)
                begin = offset
            end = offset + length + 1
        yield from self._stretch(begin, end)

    def _stretch(self, begin: int, end: int) -> Iterator[bytes]:
        """Yield the bytes of some rows that follow each other; the last line break may be missing in the file."""
        if begin < end:
            yield self._bytes(begin, end - 1)
            yield b"\n"

    def _bytes(self, begin: int, end: int) -> bytes:
        try:
            data = os.pread(self._file.fileno(), end - begin, begin)
        except OSError as error:
            raise StorageError(f"the dataset cannot be read: {error.strerror}") from None
        if len(data) != end - begin:
            raise StorageError("the dataset has become shorter while it was used")
        return data


class DatasetWriter:
    """
    Takes rows environment by environment and gives them back as a Dataset in the order of a mix.

    Args:
        file: An empty file opened for reading and writing; it becomes the dataset's.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._end = 0
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
            rows = self._rows[environment] = _Rows()
        self._file.write(b"%b\n" % row)
        rows.offsets.append(self._end)
        rows.lengths.append(len(row))
        rows.routes.append(self._routes.setdefault(route, len(self._routes)))
        if epoch > 1:
            rows.epochs.update({len(rows.identities): epoch})
            identity = f"{identity}\0{epoch}"
        rows.identities.append(_eight_bytes(blake2b(identity.encode("utf-8", "surrogatepass"), digest_size=8)))
        self._end += len(row) + 1

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
        self,
        order: Iterable[str],
        *,
        limits: Mapping[str, int | None] | None = None,
        shuffle: int | None = None,
        repeat: bool = False,
    ) -> Dataset:
        """
        Return the dataset whose rows follow each other as `order` names their environments.

        Args:
            order: The environment of each row; it must not ask for more rows than an environment has, unless they are
                repeated.
            limits: How many rows of an environment are taken, the first in its order.
            shuffle: The seed by which each environment's rows are put in order; None keeps the order of the files.
            repeat: Begin the next epoch, in another order, where an environment has no more rows.
        """
        self._file.flush()
        offsets, lengths, routes = array("Q"), array("I"), route_numbers(len(self._routes))
        epochs = array("I")
        orders = {
            name: _epochs_of(name, rows, (limits or {}).get(name), shuffle, is_endless=repeat)
            for name, rows in self._rows.items()
        }
        said: dict[str, int] = {}
        names = list(self._routes)
        for name in order:
            epoch, index = next(orders[name])
            rows = self._rows[name]
            if index in rows.epochs:
                route = names[rows.routes[index]]
                said[route] = max(said.get(route, 1), rows.epochs[index])
            offsets.append(rows.offsets[index])
            lengths.append(rows.lengths[index])
            routes.append(rows.routes[index])
            epochs.append(epoch)
        counted = epochs if max(epochs, default=1) > 1 else None
        return Dataset(self._file, offsets, lengths, routes, names, counted, said)


class _Rows:
    """Where the rows of one environment stand: 24 bytes each."""

    def __init__(self) -> None:
        self.offsets = array("Q")
        self.lengths = array("I")
        self.routes = array("I")
        self.identities = array("Q")
        self.epochs: dict[int, int] = {}
        """The epochs beyond the first that rows say, by their index; few datasets have some."""


def _epochs_of(
    name: str, rows: _Rows, limit: int | None, seed: int | None, *, is_endless: bool
) -> Iterator[tuple[int, int]]:
    """Yield (epoch, index) of an environment's rows, in order."""
    taken: Sequence[int] = range(len(rows.offsets))
    if seed is not None:
        taken = _shuffled(name, rows, taken, seed, epoch=1)
    taken = taken[:limit]
    epoch = 1
    yield from ((epoch, index) for index in taken)
    while is_endless:
        epoch += 1
        if seed is not None:
            taken = _shuffled(name, rows, taken, seed, epoch)
        for index in taken:
            yield epoch, index


def _shuffled(name: str, rows: _Rows, taken: Sequence[int], seed: int, epoch: int) -> Sequence[int]:
    # Hash each task on its own instead of shuffling one list: adding or dropping rows, or a whole environment, then
    # leaves every other task in the order it had, so two datasets stay comparable.
    salt = blake2b(f"{seed}/{epoch}/{name}".encode(), digest_size=16).digest()
    identities = rows.identities
    keys = array("Q", bytes(8 * len(identities)))
    for index in taken:
        keys[index] = _eight_bytes(blake2b(identities[index].to_bytes(8), key=salt, digest_size=8))
    return array("I", sorted(taken, key=keys.__getitem__))


def _eight_bytes(digest: blake2b) -> int:
    return int.from_bytes(digest.digest())
