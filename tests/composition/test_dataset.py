"""
A Dataset: rows in the order of the mix, and where those of each route stand.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from gymcore.composition.dataset import Dataset, DatasetWriter

ROUTES = st.lists(st.sampled_from(["one", "two", "three"]), max_size=40)


def _dataset(read: list[str], order: list[str]) -> Dataset:
    """Write a row for each name in the order of reading, and put them into another order."""
    writer = DatasetWriter(tempfile.TemporaryFile())  # noqa: SIM115, the dataset owns it
    for number, route in enumerate(read):
        writer.add(route, b'{"row":%d}' % number)
        assert writer.size(route) == read[: number + 1].count(route)
    return writer.finish(order)


@given(ROUTES, st.randoms())
def test_every_route_keeps_its_rows_and_their_order(read: list[str], chance: Random) -> None:
    """
    In whatever order the routes take turns, each gives its rows as they were read; counts and positions agree.
    """
    order = list(read)
    chance.shuffle(order)

    dataset = _dataset(read, order)

    rows = [row.value["row"] for row in dataset]
    assert sorted(rows) == list(range(len(read)))
    assert dataset.counts() == {name: read.count(name) for name in dict.fromkeys(read)}
    for name, positions in dataset.positions().items():
        assert list(positions) == [position for position, route in enumerate(order) if route == name]
        assert [rows[position] for position in positions] == [
            number for number, route in enumerate(read) if route == name
        ]


def test_what_is_written_is_what_was_promised(tmp_path: Path) -> None:
    """
    The digest in the lock is that of the file, also when it is asked for twice.
    """
    dataset = _dataset(["one", "two", "one"], ["one", "one", "two"])

    assert dataset.write(tmp_path / "rows") == dataset.sha256() == dataset.sha256()
    assert (tmp_path / "rows").read_bytes() == b'{"row":0}\n{"row":2}\n{"row":1}\n'
