"""
Which rows two datasets do not share.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gymcore.composition.locking.row_moves import DatasetMoves, compare_rows
from gymcore.errors import RunFolderError


def write(path: Path, rows: list[Any]) -> Path:
    """Write rows given as text `environment/task`, or as values."""
    values = [{"environment": row.split("/")[0], "task_id": row} if isinstance(row, str) else row for row in rows]
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def compared(folder: Path, there: list[Any], here: list[Any]) -> DatasetMoves:
    """Compare two lists of rows."""
    return compare_rows(write(folder / "there", there), write(folder / "here", here))


def test_rows_that_come_and_go_are_counted_and_named(tmp_path: Path) -> None:
    """
    Environment by environment, and nothing is said to have moved.
    """
    found = compared(tmp_path, ["a/1", "b/1", "a/2", "a/3"], ["a/0", "a/1", "b/1", "a/3", "c/1"])

    a, b, c = (found.environments[name] for name in "abc")
    assert (a.added, a.removed, a.moved, a.changed) == (1, 1, 0, 0)
    assert a.examples == {"added": ["a/0"], "removed": ["a/2"]}
    assert b.is_same
    assert c.examples == {"added": ["c/1"]}
    assert not found.is_mixed_otherwise


def test_the_fewest_rows_count_as_moved(tmp_path: Path) -> None:
    """
    Where the last row becomes the first, one has moved, and it is that one.
    """
    found = compared(tmp_path, ["a/1", "a/2", "a/3", "a/4"], ["a/4", "a/1", "a/2", "a/3"])

    assert found.environments["a"].moved == 1
    assert found.environments["a"].examples == {"moved": ["a/4"]}


def test_another_turn_of_environments_moves_no_row_of_theirs(tmp_path: Path) -> None:
    """
    Each has its rows in the same order; only the mix is another.
    """
    found = compared(tmp_path, ["a/1", "a/2", "b/1"], ["b/1", "a/1", "a/2"])

    assert all(moved.is_same for moved in found.environments.values())
    assert found.is_mixed_otherwise


def test_a_task_with_other_bytes_has_changed(tmp_path: Path) -> None:
    """
    An author's own id stays while the row does not.
    """
    row = {"environment": "a", "task_id": 7, "answer": "old"}

    found = compared(tmp_path, [row], [{**row, "answer": "new"}])

    assert found.environments["a"].examples == {"changed": ["7"]}


def test_epochs_are_told_apart(tmp_path: Path) -> None:
    """
    A task that comes round again is another row.
    """
    row = {"environment": "a", "task_id": "t"}

    found = compared(tmp_path, [{**row, "epoch": 1}, {**row, "epoch": 2}], [{**row, "epoch": 1}, {**row, "epoch": 3}])

    assert found.environments["a"].examples == {"added": ["t (epoch 3)"], "removed": ["t (epoch 2)"]}


def test_a_task_that_an_edited_file_holds_twice_counts_twice(tmp_path: Path) -> None:
    """
    One of the two is gone, and not none.
    """
    found = compared(tmp_path, ["a/1", "a/1"], ["a/1"])

    assert (found.environments["a"].removed, found.environments["a"].added) == (1, 0)


def _fewest_moves(there: list[str], here: list[str]) -> int:
    """Return the fewest elements to take out of two orders of the same so that they agree, by trying."""
    table = [[0] * (len(here) + 1) for _ in range(len(there) + 1)]
    for i, one in enumerate(there):
        for j, other in enumerate(here):
            table[i + 1][j + 1] = table[i][j] + 1 if one == other else max(table[i][j + 1], table[i + 1][j])
    return len(there) - table[-1][-1]


@given(st.permutations([f"a/{number}" for number in range(8)]), st.integers(0, 8), st.integers(0, 8))
def test_counts_agree_with_sets_and_the_longest_common_order(
    tmp_path_factory: pytest.TempPathFactory, order: list[str], first: int, last: int
) -> None:
    """
    Added and removed are differences of sets; moved is what the longest common subsequence leaves.
    """
    there, here = sorted(order)[:first], order[:last]
    both = set(there) & set(here)

    found = compared(tmp_path_factory.mktemp("rows"), there, here).environments.get("a")

    if found is None:
        assert not there
        assert not here
        return
    assert (found.added, found.removed) == (len(here) - len(both), len(there) - len(both))
    assert found.moved == _fewest_moves([row for row in there if row in both], [row for row in here if row in both])


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"environment": "a"}', "7"])
def test_a_row_of_somebody_else_is_refused_with_its_line(tmp_path: Path, line: str) -> None:
    """
    The message names the file and the line.
    """
    write(tmp_path / "there", ["a/1"])
    (tmp_path / "here").write_text(f'{{"environment": "a", "task_id": "x"}}\n{line}\n')

    with pytest.raises(RunFolderError) as caught:
        compare_rows(tmp_path / "there", tmp_path / "here")

    assert caught.value.where == f"{tmp_path / 'here'}:2"
