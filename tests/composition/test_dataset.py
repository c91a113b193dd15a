"""
A Dataset: rows in the order of the mix, and where those of each route stand.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gymcore.composition.dataset import Dataset, DatasetWriter

ROUTES = st.lists(st.sampled_from(["one", "two", "three"]), max_size=40)


def _dataset(read: list[str], order: list[str]) -> Dataset:
    """Write a row for each name in the order of reading, and put them into another order."""
    writer = DatasetWriter(tempfile.TemporaryFile())  # noqa: SIM115, the dataset owns it
    for number, route in enumerate(read):
        writer.add(route, route, b'{"row":%d}' % number)
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


def _of(name: str, count: int, order: list[str], shuffle: int | None = None, **how: Any) -> list[tuple[int, int]]:
    """Return (row, epoch) of a dataset with some rows of one environment, and one of another."""
    writer = DatasetWriter(tempfile.TemporaryFile(), shuffle=lambda environment: shuffle)  # noqa: SIM115, the dataset owns it
    for number in range(count):
        writer.add(name, name, b'{"row":%d}' % number, f"{name}/{number}")
    writer.add("other", "other", b'{"row":-1}', "other/0")
    rows = [row.value for row in writer.finish(order, **how)]
    return [(row["row"], row.get("epoch", 1)) for row in rows if row["row"] >= 0]


@given(st.integers(1, 30), st.integers(0, 5))
def test_a_shuffled_order_depends_on_seed_and_task_alone(count: int, seed: int) -> None:
    """
    Every row comes once; fewer of them, or other environments beside them, leave the rest in its order.
    """
    whole = _of("one", count, ["one"] * count, shuffle=seed)

    assert sorted(whole) == [(number, 1) for number in range(count)]
    assert _of("one", count, ["other", *["one"] * count], shuffle=seed) == whole
    fewer = _of("one", count - 1, ["one"] * (count - 1), shuffle=seed)
    assert fewer == [pair for pair in whole if pair[0] < count - 1]


def test_each_epoch_has_every_row_once_in_an_order_of_its_own() -> None:
    """
    Where rows run out they begin again, and say how often they have.
    """
    found = _of("one", 50, ["one"] * 120, shuffle=3, repeat=True)

    epochs = [[row for row, epoch in found if epoch == number] for number in (1, 2, 3)]
    assert [len(epoch) for epoch in epochs] == [50, 50, 20]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(50))
    assert epochs[0] != epochs[1]
    assert len(set(epochs[2])) == 20


def test_a_limit_takes_the_first_rows_of_the_order() -> None:
    """
    Those of the file where it is kept, those that chance puts first where it is not; each epoch has the same ones.
    """
    assert _of("one", 9, ["one"] * 3, limits={"one": 3}) == [(0, 1), (1, 1), (2, 1)]
    shuffled = _of("one", 9, ["one"] * 9, shuffle=1)
    assert _of("one", 9, ["one"] * 3, shuffle=1, limits={"one": 3}) == shuffled[:3]
    repeated = _of("one", 9, ["one"] * 6, shuffle=1, limits={"one": 3}, repeat=True)
    assert {row for row, epoch in repeated if epoch == 2} == {row for row, _ in shuffled[:3]}
