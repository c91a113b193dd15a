"""
What the doctor calls a mistake: an examination that finds everything that can be wrong with a folder.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from gymcore.collection import Journal
from gymcore.collection.line_checksum import with_checksum
from gymcore.doctor.crashes import crash, examine, tear
from gymcore.doctor.workload import line_of, make_rollout

LINES = [line_of(make_rollout(number)) + b"\n" for number in range(4)]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda data: data, []),
        (lambda data: data[: len(LINES[0])], ["rollout 1 was safe and is lost"]),
        (lambda data: data + LINES[0], ["2 x b'", "3 lines are whole, and 2 count"]),
        (lambda data: data + LINES[3], ["nobody wrote b'"]),
        (lambda data: data + LINES[2], []),
        (lambda data: data + with_checksum(b'{"a":1}') + b"\n", ["nobody wrote b'", "3 lines are whole, and 2 count"]),
        (lambda data: data + b'{"torn', []),
    ],
    ids=["well", "lost", "twice", "unknown", "begun", "no rollout", "torn"],
)
def test_an_examination_finds_what_is_wrong(tmp_path: Path, change: Callable[[bytes], bytes], found: list[str]) -> None:
    """
    Lost, twice, of unknown origin, or whole and yet not counted; what was begun may be there or not.
    """
    with Journal(tmp_path) as journal:
        journal.append([make_rollout(0), make_rollout(1)])
    path = tmp_path / "rollouts.jsonl"
    path.write_bytes(change(path.read_bytes()))

    wrong = examine(tmp_path, safe=[0, 1], written=[0, 1, 2])

    assert len(wrong) == len(found)
    assert all(line.startswith(start) for line, start in zip(wrong, found, strict=True))


def test_crashing_leaves_nothing_behind_and_comes_out_the_same_for_the_same_seed(tmp_path: Path) -> None:
    """
    Four kinds of interruption, in a scratch folder that is gone afterwards.
    """
    first = list(crash(tmp_path / "a", 2, 7))
    second = list(crash(tmp_path / "b", 2, 7))

    assert [check.name for check in first] == ["kill", "torn tail", "power cut", "full disk"]
    assert all(check.is_well for check in first), first
    assert [check.found for check in first[1:]] == [check.found for check in second[1:]]
    assert list((tmp_path / "a").iterdir()) == []


def test_a_line_is_torn_at_its_ends_and_at_places_between(tmp_path: Path) -> None:
    """
    As many as asked for, the first and the last byte among them, and never more than there are.
    """
    check = tear(tmp_path / "torn", 20, random.Random(0))

    assert check.is_well, check.remarks
    assert "at 20 of its bytes" in check.found
    size = len(LINES[2])
    assert {(tmp_path / "torn" / str(number) / "rollouts.jsonl").stat().st_size for number in range(20)} == {
        len(b"".join(LINES[:3]))
    }
    asides = sorted(path.stat().st_size for path in (tmp_path / "torn").glob("*/quarantine/*"))
    assert len(asides) == 19
    assert (asides[0], asides[-1]) == (1, size - 1)
