"""
A journal on a disk that fails: it stops, takes back what it had begun, and never claims anything again.
"""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from gymcore.collection import Journal, collect, read_collection
from gymcore.collection.collector import WAITING
from gymcore.collection.disk import Disk
from gymcore.doctor.power_cut import RecordingDisk
from gymcore.doctor.workload import key_of, line_of, make_rollout
from gymcore.documents import encode_json
from gymcore.errors import RunFolderError, StorageError
from gymcore.records import Rollout, Row


def numbers_in(folder: Path) -> list[int]:
    """Return which made-up rollouts a folder holds."""
    finished = read_collection(folder).finished
    return [number for number in range(50) if key_of(number) in finished]


class FailingDisk(RecordingDisk):
    """A real disk, of which chosen operations fail from a moment on."""

    def __init__(self, folder: Path, *failing: str, number: int = errno.EIO, takes: int = 0) -> None:
        super().__init__(folder)
        self.failing = failing
        self.is_broken = False
        self._number = number
        self._takes = takes

    def _fail(self, operation: str) -> None:
        if self.is_broken and operation in self.failing:
            raise OSError(self._number, os.strerror(self._number))

    def write(self, file: int, data: memoryview) -> int:
        if self._takes and self.is_broken:
            count, self._takes = min(self._takes, len(data)), 0
            return super().write(file, data[:count])
        self._fail("write")
        return super().write(file, data)

    def sync(self, file: int) -> None:
        self._fail("sync")
        super().sync(file)

    def truncate(self, file: int, size: int) -> None:
        self._fail("truncate")
        super().truncate(file, size)


@pytest.mark.parametrize("failed", [False, True], ids=["rollouts", "failures"])
@pytest.mark.parametrize(
    ("failing", "takes"), [(("write",), 0), (("write",), 100), (("sync",), 0)], ids=["write", "short write", "sync"]
)
def test_a_failed_operation_is_taken_back_and_final(
    tmp_path: Path, failing: tuple[str, ...], takes: int, failed: bool
) -> None:
    """
    What was begun is cut off, and so synchronised where the disk still can; after that nothing is taken any more.
    """
    disk = FailingDisk(tmp_path, *failing, takes=takes)
    with Journal(tmp_path, disk) as journal:
        journal.append([make_rollout(0), make_rollout(1, failed=True)])
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        disk.is_broken = True

        with pytest.raises(StorageError, match="cannot be written: Input/output error") as caught:
            journal.append([make_rollout(2, failed=failed)])

        assert caught.value.exit_code == 5
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
        last = [operation.kind for operation in disk.operations[-2:]]
        assert last[-1:] == ["truncate"] if failing == ("sync",) else last == ["truncate", "sync"]
        disk.is_broken = False
        with pytest.raises(StorageError, match="Input/output error"):
            journal.append([make_rollout(3)])
        assert key_of(2) not in journal.finished
        assert (journal.failed, len(journal.finished)) == (1, 1)

    assert numbers_in(tmp_path) == [0]


@pytest.mark.parametrize("fails", ["rollouts.jsonl", "failures.jsonl"])
def test_of_a_batch_for_two_files_what_is_safe_counts_and_is_told(tmp_path: Path, fails: str) -> None:
    """
    Each file is an answer of its own: when one takes nothing, what the other took is counted, told, and read back.
    """

    class OneFileFails(Disk):
        def write(self, file: int, data: memoryview) -> int:
            if os.path.sameopenfile(file, broken):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(file, data)

    told: list[Rollout] = []
    batch = [make_rollout(7, failed=True), make_rollout(0), make_rollout(1), make_rollout(8, failed=True)]
    with Journal(tmp_path, OneFileFails()) as journal:
        broken = os.open(tmp_path / fails, os.O_RDONLY)
        with pytest.raises(StorageError, match="No space left on device") as caught:
            journal.append(batch, told.extend)
        os.close(broken)
        assert caught.value.where == str(tmp_path / fails)
        safe = [] if fails == "rollouts.jsonl" else [0, 1]
        assert [rollout.key for rollout in told] == [key_of(number) for number in safe]
        assert (len(journal.finished), journal.failed) == (len(safe), 0)

    assert numbers_in(tmp_path) == safe
    assert (tmp_path / "failures.jsonl").read_bytes() == b""


def test_of_a_batch_for_two_files_both_are_told(tmp_path: Path) -> None:
    """
    The finished ones first, and each exactly once.
    """
    told: list[Sequence[Rollout]] = []
    with Journal(tmp_path) as journal:
        batch = [make_rollout(7, failed=True), make_rollout(0), make_rollout(0)]
        written = journal.append(batch, told.append)

    assert told == [[make_rollout(0)], [make_rollout(7, failed=True)]]
    assert written == [make_rollout(0), make_rollout(7, failed=True)]
    assert (journal.failed, journal.duplicates) == (1, 1)


def test_what_cannot_even_be_cut_off_is_set_aside_by_the_next_run(tmp_path: Path) -> None:
    """
    A disk that takes nothing any more leaves a torn line; it is owed again, and its bytes are kept.
    """
    disk = FailingDisk(tmp_path, "write", "truncate", "sync", number=errno.ENOSPC, takes=100)
    with Journal(tmp_path, disk) as journal:
        journal.append([make_rollout(0)])
        disk.is_broken = True
        with pytest.raises(StorageError, match="No space left on device"):
            journal.append([make_rollout(1)])

    with Journal(tmp_path) as journal:
        assert journal.damaged == (
            f"rollouts.jsonl: a torn line at the end, 100 bytes at offset {len(line_of(make_rollout(0))) + 1}",
        )
        journal.append([make_rollout(1)])
    assert numbers_in(tmp_path) == [0, 1]
    assert [path.read_bytes() for path in (tmp_path / "quarantine").iterdir()] == [line_of(make_rollout(1))[:100]]


def test_a_disk_that_takes_no_byte_is_full(tmp_path: Path) -> None:
    """
    A write that returns zero is no reason to try for ever.
    """

    class Zero(Disk):
        def write(self, file: int, data: memoryview) -> int:
            return 0

    with Journal(tmp_path, Zero()) as journal, pytest.raises(StorageError, match="No space left on device"):
        journal.append([make_rollout(0)])


def test_a_file_that_was_deleted_takes_nothing(tmp_path: Path) -> None:
    """
    What is written to it succeeds and is found by nobody; one that was moved is still the file.
    """
    with Journal(tmp_path) as journal:
        (tmp_path / "rollouts.jsonl").rename(tmp_path / "moved.jsonl")
        journal.append([make_rollout(0)])
        (tmp_path / "moved.jsonl").unlink()
        with pytest.raises(StorageError, match="the file was deleted meanwhile"):
            journal.append([make_rollout(1)])

        assert len(journal.finished) == 1


def test_a_file_system_that_counts_no_names_deletes_nothing(tmp_path: Path) -> None:
    """
    Where a file has none from the beginning, that says nothing.
    """

    class Countless(Disk):
        def names(self, file: int) -> int:
            return 0

    with Journal(tmp_path, Countless()) as journal:
        journal.append([make_rollout(0)])

    assert numbers_in(tmp_path) == [0]


def test_an_interruption_in_the_middle_of_a_write_glues_no_lines(tmp_path: Path) -> None:
    """
    Ctrl-C in a script that writes by itself: what was begun is cut off.
    """

    class Interrupted(Disk):
        def sync(self, file: int) -> None:
            if os.fstat(file).st_size:
                raise KeyboardInterrupt

    with Journal(tmp_path, Interrupted()) as journal:
        with pytest.raises(KeyboardInterrupt):
            journal.append([make_rollout(0)])
        with pytest.raises(StorageError, match="KeyboardInterrupt"):
            journal.append([make_rollout(0)])

    assert (tmp_path / "rollouts.jsonl").read_bytes() == b""


@pytest.mark.parametrize(("number", "kind"), [(errno.EIO, StorageError), (errno.EROFS, RunFolderError)])
def test_a_disk_that_fails_on_opening_is_told_from_a_wrong_place(
    tmp_path: Path, number: int, kind: type[Exception]
) -> None:
    """
    Before anything is played, and the folder is free again.
    """
    disk = FailingDisk(tmp_path, "sync", number=number)
    disk.is_broken = True

    with pytest.raises(kind, match="the run folder cannot be written"):
        Journal(tmp_path, disk).__enter__()

    with Journal(tmp_path):
        pass


def test_what_counts_on_opening_is_on_the_disk_by_then(tmp_path: Path) -> None:
    """
    A process that was killed between writing and synchronising left whole lines; who finds them makes them safe.
    """
    with Journal(tmp_path):
        pass
    (tmp_path / "rollouts.jsonl").write_bytes(line_of(make_rollout(0)) + b"\n")
    disk = RecordingDisk(tmp_path)

    with Journal(tmp_path, disk) as journal:
        assert key_of(0) in journal.finished
        assert "sync" in [operation.kind for operation in disk.operations]


def test_a_run_folder_and_those_above_it_are_made(tmp_path: Path) -> None:
    """
    As deep as it is to lie.
    """
    with Journal(tmp_path / "a" / "b" / "c") as journal:
        journal.append([make_rollout(0)])

    assert numbers_in(tmp_path / "a" / "b" / "c") == [0]


# -- while a stream is collected ---------------------------------------------------------------------------------------


async def endless(count: int) -> AsyncIterator[Rollout]:
    """Yield some rollouts, and then nothing for ever."""
    for number in range(count):
        yield make_rollout(number)
    await asyncio.Event().wait()


def test_a_disk_that_fails_stops_the_run_at_once(tmp_path: Path) -> None:
    """
    Nobody waits for the next rollout, which may take an hour or never come.
    """
    disk = FailingDisk(tmp_path, "sync")

    async def play() -> None:
        before = asyncio.all_tasks()
        with Journal(tmp_path, disk) as journal:
            disk.is_broken = True
            with pytest.raises(StorageError, match="Input/output error"):
                await collect(endless(3), journal)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        assert asyncio.all_tasks() == before
        await asyncio.sleep(0)  # no cancellation is left over

    asyncio.run(asyncio.wait_for(play(), 20))

    assert numbers_in(tmp_path) == []


def test_a_disk_that_fails_later_keeps_what_was_safe(tmp_path: Path) -> None:
    """
    What `on_durable` was told stays; the rest of the stream is not waited for.
    """
    disk = FailingDisk(tmp_path, "write", number=errno.ENOSPC)

    told: list[Rollout] = []

    def tell(rollouts: Sequence[Rollout]) -> None:
        told.extend(rollouts)
        disk.is_broken = len(told) == 4

    async def one_by_one() -> AsyncIterator[Rollout]:
        for number in range(30):
            yield make_rollout(number)
            while len(told) <= number:  # each is safe before the next comes, however slow the disk is
                await asyncio.sleep(0.001)

    async def play() -> None:
        with Journal(tmp_path, disk) as journal:
            await collect(one_by_one(), journal, on_durable=tell)

    with pytest.raises(StorageError, match="No space left on device"):
        asyncio.run(asyncio.wait_for(play(), 20))

    assert numbers_in(tmp_path) == [0, 1, 2, 3]
    assert [rollout.key for rollout in told] == [key_of(number) for number in range(4)]


def test_an_observer_that_breaks_stops_the_run_at_once(tmp_path: Path) -> None:
    """
    Its error comes out; what was written before is safe.
    """

    def broken(rollouts: object) -> None:
        raise RuntimeError("an observer fell over")

    with pytest.raises(RuntimeError, match="an observer fell over"):
        asyncio.run(asyncio.wait_for(collect(endless(1), tmp_path, on_durable=broken), 20))

    assert numbers_in(tmp_path) == [0]


def test_a_cancellation_from_outside_stays_one(tmp_path: Path) -> None:
    """
    Whoever cancels the collector hears of it, also while the disk is well.
    """

    async def play() -> None:
        told: list[object] = []
        collecting = asyncio.create_task(collect(endless(2), tmp_path, on_durable=told.append))
        while not told:
            await asyncio.sleep(0.001)
        collecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await collecting

    asyncio.run(asyncio.wait_for(play(), 20))
    assert numbers_in(tmp_path) == [0, 1]


def test_what_waits_for_room_when_the_run_is_cancelled_is_written(tmp_path: Path) -> None:
    """
    A disk that cannot keep up holds the stream back; the rollout that waits at that moment is not lost.
    """

    go_on = threading.Event()

    class Slow(Disk):
        def sync(self, file: int) -> None:
            go_on.wait(60)
            super().sync(file)

    taken = []
    made = make_rollout(0)

    async def flood() -> AsyncIterator[Rollout]:
        for number in range(5000):
            row = Row(encode_json({**made.row.value, "task_id": str(number)}))
            taken.append(number)
            yield replace(made, row=row)

    async def play() -> int:
        go_on.set()
        with Journal(tmp_path, Slow()) as journal:
            go_on.clear()
            collecting = asyncio.create_task(collect(flood(), journal))
            while len(taken) <= 2 * WAITING:  # as many as the writer has are waiting behind it, and one for room
                await asyncio.sleep(0.001)
            for _ in range(3):  # somebody who presses Ctrl-C again
                collecting.cancel()
                await asyncio.sleep(0)
            go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await collecting
            return len(journal.finished)

    assert asyncio.run(asyncio.wait_for(play(), 20)) == len(taken)
    assert len(taken) == 2 * WAITING + 1
