"""
The run folder's growing files: whatever a crash leaves there, what was whole is kept and the rest is owed again.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gymcore.collection import Finished, Journal, read_collection, read_poisoned, read_rollouts
from gymcore.collection.finished import EnvironmentTally
from gymcore.collection.journal import Damage, read_lines
from gymcore.collection.line_checksum import is_whole, with_checksum
from gymcore.documents import encode_json
from gymcore.errors import GymcoreError, RunFolderError, StorageError
from gymcore.records import Failure, Reward, Rollout, Row, Trajectory, Turn
from gymcore.responses import message


def rollout(number: int, *, reward: float | None = 1.0, text: str = "hi") -> Rollout:
    """Return a rollout of task `number`; a failure where there is no reward."""
    value = {
        "responses_create_params": {"input": f"task {number}"},
        "agent_ref": {"name": "world_agent"},
        "environment": "world",
        "task_id": number,
    }
    return Rollout(
        row=Row(encode_json(value)),
        repeat=0,
        trajectory=Trajectory(turns=(Turn(output=(message(text),)),)),
        reward=None if reward is None else Reward(value=reward),
        failure=None if reward is not None else Failure(stage="model", error="E", message="no", retryable=True),
        started_at=1.0,
        duration_s=0.5,
    )


def key(number: int) -> tuple[str, str, int]:
    """Return the key of the rollout of task `number`."""
    return ("world", str(number), 0)


def keys(numbers: Iterable[int]) -> set[tuple[str, str, int]]:
    """Return the keys of the rollouts of some tasks."""
    return {key(number) for number in numbers}


def known(finished: Finished) -> set[tuple[str, str, int]]:
    """Return what is finished of the first hundred tasks, and see that it is all."""
    found = {key(number) for number in range(100) if key(number) in finished}
    assert len(found) == len(finished)
    return found


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A run folder with the rollouts 0, 1 and 2."""
    with Journal(tmp_path) as journal:
        journal.append([rollout(number) for number in range(3)])
    return tmp_path


def lines_of(folder: Path, name: str = "rollouts.jsonl") -> list[bytes]:
    """Return the lines of a file, with their line breaks."""
    return (folder / name).read_bytes().splitlines(keepends=True)


def reopen(folder: Path) -> tuple[set[tuple[str, str, int]], tuple[str, ...]]:
    """Open a folder to write, and return what it holds and what was damaged."""
    with Journal(folder) as journal:
        return known(journal.finished), journal.damaged


# -- what is written ---------------------------------------------------------------------------------------------------


def test_rollouts_read_back_equal_in_the_order_they_ended(written: Path) -> None:
    """
    A finished rollout is one line, and nothing of it is lost.
    """
    assert list(read_rollouts(written)) == [rollout(number) for number in range(3)]
    collection = read_collection(written)
    assert (collection.folder, known(collection.finished), collection.damaged) == (written, keys(range(3)), ())


def test_failures_go_to_a_file_of_their_own_and_have_no_reward(written: Path) -> None:
    """
    A failure is never a reward: its line has no such key, and the rollout is still owed.
    """
    with Journal(written) as journal:
        assert [each.key for each in journal.append([rollout(7, reward=None)])] == [key(7)]
        assert journal.failed == 1
        assert known(journal.finished) == keys(range(3))

    (line,) = map(json.loads, lines_of(written, "failures.jsonl"))
    assert "reward" not in line
    assert (line["task_id"], line["stage"], line["retryable"]) == ("7", "model", True)
    assert len(lines_of(written)) == 3


def test_the_reward_of_what_is_finished_is_remembered(tmp_path: Path) -> None:
    """
    Who opens a folder again can go on counting.
    """
    with Journal(tmp_path) as journal:
        journal.append([rollout(0, reward=0.0), rollout(1, reward=0.25)])
    with Journal(tmp_path) as journal:
        assert journal.finished.environments == {"world": EnvironmentTally(finished=2, reward_sum=0.25)}
        assert known(journal.finished) == keys(range(2))


def test_a_rollout_that_is_finished_already_is_dropped_and_counted(written: Path) -> None:
    """
    Nothing is there twice: not from another call, not from the same one, and not as a failure.
    """
    before = (written / "rollouts.jsonl").read_bytes()
    with Journal(written) as journal:
        taken = journal.append([rollout(1, reward=0.5), rollout(5), rollout(5), rollout(0, reward=None)])
        assert [each.key for each in taken] == [key(5)]
        assert journal.duplicates == 3
        assert journal.failed == 0

    assert (written / "rollouts.jsonl").read_bytes().startswith(before)
    assert len(lines_of(written)) == 4


def test_a_line_that_somebody_copied_counts_once(written: Path) -> None:
    """
    Readers take the first of two whole lines about the same rollout.
    """
    with (written / "rollouts.jsonl").open("ab") as file:
        file.write(lines_of(written)[0])

    assert len(list(read_rollouts(written))) == 3
    assert reopen(written) == (keys(range(3)), ())


# -- damage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.rig)])
def test_a_last_line_torn_at_any_byte_is_cut_off_and_owed_again(tmp_path: Path, step: int) -> None:
    """
    Wherever a crash ends the last line, the others are kept, its bytes are set aside, and the next line starts clean.
    """
    with Journal(tmp_path / "whole") as journal:
        journal.append([rollout(number) for number in range(3)])
    whole = (tmp_path / "whole" / "rollouts.jsonl").read_bytes()
    kept = b"".join(lines_of(tmp_path / "whole")[:2])

    ends = range(len(kept) + 1, len(whole))
    for end in {*ends[::step], *ends[:3], *ends[-3:]}:
        folder = tmp_path / str(end)
        folder.mkdir()
        path = folder / "rollouts.jsonl"
        path.write_bytes(whole[:end])
        assert known(read_collection(folder).finished) == keys(range(2))
        assert path.read_bytes() == whole[:end], "who only looks changes nothing"

        with Journal(folder) as journal:
            assert known(journal.finished) == keys(range(2))
            assert len(journal.damaged) == 1
            assert "torn" in journal.damaged[0]
            assert path.read_bytes() == kept
            (aside,) = (folder / "quarantine").iterdir()
            assert aside.read_bytes() == whole[len(kept) : end]
            journal.append([rollout(2)])
        assert path.read_bytes() == whole


def test_a_damaged_line_in_the_middle_is_kept_in_place_and_owed_again(written: Path) -> None:
    """
    A flipped digit is found; the bytes stay, a copy is set aside, and that one rollout is missing.
    """
    lines = lines_of(written)
    damaged = lines[1].replace(b'"reward":1.0', b'"reward":9.0')
    assert damaged != lines[1]
    (written / "rollouts.jsonl").write_bytes(lines[0] + damaged + lines[2])

    finished, damages = reopen(written)
    assert finished == keys([0, 2])
    assert damages == (f"rollouts.jsonl: a damaged line, {len(damaged)} bytes at offset {len(lines[0])}",)
    assert reopen(written) == (finished, ()), "what was set aside before is no news"

    assert lines_of(written) == [lines[0], damaged, lines[2]]
    (aside,) = (written / "quarantine").iterdir()
    assert aside.read_bytes() == damaged
    with Journal(written) as journal:
        journal.append([rollout(1)])
    assert [each.key for each in read_rollouts(written)] == [key(0), key(2), key(1)]


@pytest.mark.parametrize(
    "damage",
    [
        b"\x00" * 512,
        b"\x00" * 512 + b"\n",
        b'{"environment":"world"}\n',
        b"not json at all\n",
        b"\xff\xfe\n",
        b"   ",
        b"{",
    ],
    ids=["NUL tail", "NUL line", "no checksum", "text", "binary", "spaces", "brace"],
)
def test_foreign_bytes_at_the_end_harm_nothing(written: Path, damage: bytes) -> None:
    """
    Whatever stands after the last line, what comes next is written so that it can be read.
    """
    with (written / "rollouts.jsonl").open("ab") as file:
        file.write(damage)

    with Journal(written) as journal:
        assert known(journal.finished) == keys(range(3))
        assert len(journal.damaged) == 1
        journal.append([rollout(3)])

    assert [each.key for each in read_rollouts(written)] == [key(number) for number in range(4)]


def test_blank_lines_are_nothing(written: Path) -> None:
    """
    An editor's empty lines are no damage.
    """
    lines = lines_of(written)
    (written / "rollouts.jsonl").write_bytes(b"\n" + lines[0] + b"\n  \n" + lines[1] + lines[2] + b"\n")

    assert reopen(written) == (keys(range(3)), ())


def test_a_whole_line_without_its_line_break_is_owed_again(written: Path) -> None:
    """
    The line break belongs to the line: without it nobody knows that the line had ended.
    """
    path = written / "rollouts.jsonl"
    path.write_bytes(path.read_bytes()[:-1])

    finished, damages = reopen(written)

    assert finished == keys(range(2))
    assert len(damages) == 1


def test_a_whole_line_that_is_no_rollout_is_damage(written: Path) -> None:
    """
    A checksum says that bytes are as written, not that they mean something.
    """
    with (written / "rollouts.jsonl").open("ab") as file:
        file.write(with_checksum(b'{"hello":"world"}') + b"\n")

    finished, damages = reopen(written)

    assert finished == keys(range(3))
    assert len(damages) == 1


def test_what_was_set_aside_is_never_overwritten(written: Path) -> None:
    """
    Two crashes may tear different lines at the same place; both are kept.
    """
    path = written / "rollouts.jsonl"
    whole = path.read_bytes()
    for tail in (b"first", b"second"):
        path.write_bytes(whole + tail)
        reopen(written)

    assert {aside.read_bytes() for aside in (written / "quarantine").iterdir()} == {b"first", b"second"}


def test_a_torn_failure_is_cut_off_too(written: Path) -> None:
    """
    Both files are mended on opening.
    """
    with Journal(written) as journal:
        journal.append([rollout(8, reward=None)])
    path = written / "failures.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:40])

    _, damages = reopen(written)

    assert len(damages) == 1
    assert damages[0].startswith("failures.jsonl: a torn line")
    assert path.read_bytes() == whole


# -- more than there is room for ---------------------------------------------------------------------------------------


def peak_of(act: Callable[[], object]) -> int:
    """Return how many bytes something took at most."""
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@given(
    st.lists(st.sampled_from([b"", b"x", b"\0" * 40, b"ab" * 60, b'{"a":1,"crc":"00000000"}', b"L" * 99, b"L" * 100])),
    st.booleans(),
    st.integers(1, 4),
)
def test_lines_that_are_too_long_are_damage_and_cost_no_other(parts: list[bytes], is_torn: bool, every: int) -> None:
    """
    Whatever stands between them, whole lines within the bound are found at their places, and no byte is unaccounted.
    """
    longest = 100
    lines = [with_checksum(b'{"n":%d}' % number) if number % every == 0 else part for number, part in enumerate(parts)]
    data = b"\n".join(lines) + (b"" if is_torn else b"\n")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lines"
        path.write_bytes(data)
        found = list(read_lines(path, longest))

    covered = bytearray(len(data))
    for each in found:
        start, size = (each.offset, each.size) if isinstance(each, Damage) else (each[0], len(each[1]) + 1)
        assert not any(covered[start : start + size])
        covered[start : start + size] = b"\1" * size
        if not isinstance(each, Damage):
            assert data[start : start + size - 1] == each[1]
    assert all(is_covered or byte == 10 for is_covered, byte in zip(covered, data, strict=True))
    whole = [line for line in (lines[:-1] if is_torn else lines) if is_whole(line)]
    assert [each[1] for each in found if not isinstance(each, Damage)] == whole


def test_a_tail_of_any_size_is_set_aside_in_little_memory(written: Path) -> None:
    """
    A file system may leave gigabytes of zeros after a power cut: they are copied in pieces, and cut off.
    """
    path = written / "rollouts.jsonl"
    whole = path.read_bytes()
    size = 40 * 2**20
    with path.open("ab") as file:
        file.truncate(len(whole) + size)

    def mend() -> None:
        with Journal(written, longest=2**20) as journal:
            assert journal.damaged == (f"rollouts.jsonl: a torn line at the end, {size} bytes at offset {len(whole)}",)
            assert known(journal.finished) == keys(range(3))

    assert peak_of(mend) < 8 * 2**20
    assert path.read_bytes() == whole
    (aside,) = (written / "quarantine").iterdir()
    assert aside.stat().st_size == size


def test_much_damage_takes_little_memory_and_few_words(written: Path) -> None:
    """
    Each stretch is set aside as it is found; the first hundred are described, and the others counted.
    """
    with (written / "rollouts.jsonl").open("ab") as file:
        for number in range(120):
            file.write(b"%d" % number + b"x" * 2**18 + b"\n")

    def mend() -> None:
        with Journal(written) as journal:
            assert len(journal.damaged) == 101
            assert journal.damaged[-1] == "rollouts.jsonl: 20 more damaged lines"
            assert known(journal.finished) == keys(range(3))

    assert peak_of(mend) < 8 * 2**20
    assert len(list((written / "quarantine").iterdir())) == 120
    assert len(read_collection(written).damaged) == 101


def test_a_rollout_that_nobody_could_read_again_is_a_failure(tmp_path: Path) -> None:
    """
    It says how long it was; a line of exactly the bound is kept, and found again.
    """
    longest = len(with_checksum(rollout(1).to_line())) + 1
    told: list[Rollout] = []
    with Journal(tmp_path, longest=longest) as journal:
        journal.append([rollout(0, text="x" * longest), rollout(1)], told.extend)
        assert known(journal.finished) == keys([1])
        assert journal.failed == 1

    assert [(each.key, each.failure is None, each.reward is None) for each in told] == [
        (key(1), True, False),
        (key(0), False, True),
    ]
    (line,) = map(json.loads, lines_of(tmp_path, "failures.jsonl"))
    assert (line["error"], line["retryable"]) == ("RecordTooLong", False)
    assert line["message"].endswith(f"less than {longest:,} can be kept")
    with Journal(tmp_path, longest=longest) as journal:
        assert (known(journal.finished), journal.damaged) == (keys([1]), ())


# -- who may write, and when the disk fails ----------------------------------------------------------------------------


def test_a_second_writer_is_refused(written: Path) -> None:
    """
    One folder has one writer; the other is told, and may open it when the first is gone.
    """
    with Journal(written), pytest.raises(RunFolderError, match="another process is writing to this folder"):
        Journal(written).__enter__()
    assert reopen(written)[1] == ()


def test_another_process_is_refused_as_well(written: Path) -> None:
    """
    The lock is the kernel's: it holds between processes, and a killed one leaves none behind.
    """
    code = "import sys, pathlib; from gymcore.collection import Journal; Journal(pathlib.Path(sys.argv[1])).__enter__()"
    with Journal(written):
        done = subprocess.run([sys.executable, "-c", code, written], capture_output=True, text=True, check=False)

    assert "RunFolderError: another process is writing" in done.stderr
    assert reopen(written)[1] == ()


@pytest.mark.parametrize("name", ["rollouts.jsonl", "failures.jsonl", ".writer"])
def test_files_that_cannot_be_opened_are_a_wrong_place(tmp_path: Path, name: str) -> None:
    """
    What stands in the way is named, and the folder is left unlocked.
    """
    (tmp_path / name).mkdir()
    with pytest.raises(GymcoreError, match=tmp_path.name):
        Journal(tmp_path).__enter__()

    (tmp_path / name).rmdir()
    assert reopen(tmp_path) == (set(), ())


def test_a_folder_inside_a_file_is_a_wrong_place(tmp_path: Path) -> None:
    """
    A run folder cannot be made where a file is.
    """
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot be written"):
        Journal(tmp_path / "file" / "run").__enter__()


def test_a_full_disk_tears_nothing(written: Path, full_disk: Callable[[int], AbstractContextManager[None]]) -> None:
    """
    A write that fails halfway is taken back: what was acknowledged is whole, and the next run has nothing to mend.
    """
    room = (written / "rollouts.jsonl").stat().st_size + 1500
    with Journal(written) as journal, full_disk(room):
        assert len(journal.append([rollout(10)])) == 1
        with pytest.raises(StorageError, match="cannot be written: File too large"):
            journal.append([rollout(number) for number in range(11, 20)])
        assert known(journal.finished) == keys([0, 1, 2, 10])

    assert reopen(written) == (keys([0, 1, 2, 10]), ())


def test_looking_at_a_folder_that_is_not_there_finds_nothing(tmp_path: Path) -> None:
    """
    A run that was never begun holds nothing.
    """
    assert len(read_collection(tmp_path / "none").finished) == 0
    assert list(read_rollouts(tmp_path / "none")) == []


def test_a_rollout_that_cannot_be_written_is_a_failure_and_keeps_no_other_from_the_disk(tmp_path: Path) -> None:
    """
    An agent may return anything; what no line can hold is recorded with its reason, and is no reward.
    """
    bad = replace(rollout(1), trajectory=Trajectory(turns=None))  # type: ignore[arg-type]

    with Journal(tmp_path) as journal:
        written = journal.append([rollout(0), bad, rollout(2)])

    assert [found.key[1] for found in written] == ["0", "2", "1"]
    assert known(read_collection(tmp_path).finished) == keys([0, 2])
    (line,) = (tmp_path / "failures.jsonl").read_text().splitlines()
    failure = json.loads(line)
    assert (failure["task_id"], failure["stage"], failure["error"]) == ("1", "agent", "TypeError")
    assert "cannot be written down" in failure["message"]
    assert "reward" not in failure


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        ({}, {key(1)}),
        ({"stage": "verify"}, set()),
        ({"error": "WorkerDied"}, set()),
    ],
    ids=["recorded", "a plugin's own exception of that name", "played again, and failed otherwise"],
)
def test_poison_is_what_was_recorded_last(tmp_path: Path, last: dict[str, str], expected: set[Any]) -> None:
    """
    Only the runtime calls a rollout poison, and only until it is played again.
    """
    poison = Failure(stage="worker", error="Poison", message="it died twice", retryable=False)
    with Journal(tmp_path) as journal:
        journal.append([replace(rollout(1, reward=None), failure=poison)])
        journal.append([replace(rollout(1, reward=None), failure=poison.model_copy(update=last))])

    assert read_poisoned(tmp_path) == expected
