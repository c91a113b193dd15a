"""
`collect()`: what it answers for is on disk, whatever ends the stream.
"""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from gymcore.collection import Journal, collect, read_rollouts
from gymcore.collection.disk import Disk
from gymcore.documents import encode_json
from gymcore.errors import EndpointError, RunFolderError, StorageError
from gymcore.records import Failure, Reward, Rollout, Row, Trajectory


def rollout(number: int, *, failed: bool = False) -> Rollout:
    """Return a rollout of task `number`."""
    value = {"responses_create_params": {"input": "hi"}, "environment": "world", "task_id": str(number)}
    return Rollout(
        row=Row(encode_json(value)),
        repeat=0,
        trajectory=Trajectory(),
        reward=None if failed else Reward(value=1.0),
        failure=Failure(stage="verify", error="E", message="no", retryable=False) if failed else None,
    )


async def stream(count: int, *, then: BaseException | None = None) -> AsyncIterator[Rollout]:
    """Yield some rollouts, and raise at the end."""
    for number in range(count):
        yield rollout(number)
        await asyncio.sleep(0)
    if then is not None:
        raise then


def tasks_in(folder: Path) -> list[int]:
    """Return the tasks that a folder has finished rollouts of, in the order of its lines."""
    return [int(found.key[1]) for found in read_rollouts(folder)]


def test_everything_of_a_stream_is_written_in_its_order(tmp_path: Path) -> None:
    """
    Rollouts wait for each other's synchronisation, never for their turn.
    """
    collection = asyncio.run(collect(stream(500), tmp_path))

    assert tasks_in(tmp_path) == list(range(500))
    assert collection.folder == tmp_path
    assert len(collection.finished) == 500
    assert (collection.failed, collection.duplicates, collection.damaged) == (0, 0, ())


def test_a_rollout_is_reported_only_once_it_is_on_disk(tmp_path: Path) -> None:
    """
    Whoever is told can read it back at once; everything is told exactly once, in order, off the event loop.
    """
    told: list[int] = []

    def durable(rollouts: Sequence[Rollout]) -> None:
        assert threading.current_thread() is not threading.main_thread()
        told.extend(int(found.key[1]) for found in rollouts)
        assert set(told) <= set(tasks_in(tmp_path))

    asyncio.run(collect(stream(60), tmp_path, on_durable=durable))

    assert told == list(range(60))


def test_failures_and_duplicates_are_counted(tmp_path: Path) -> None:
    """
    The collection says what came of the stream; what was finished before stays as it was.
    """

    async def mixed() -> AsyncIterator[Rollout]:
        for number in (0, 1, 1, 2):
            yield rollout(number)
        yield rollout(9, failed=True)

    told: list[Sequence[Rollout]] = []
    asyncio.run(collect(stream(1), tmp_path))
    collection = asyncio.run(collect(mixed(), tmp_path, on_durable=told.append))

    assert (len(collection.finished), collection.failed, collection.duplicates) == (3, 1, 2)
    assert sorted(found.key[1] for batch in told for found in batch) == ["1", "2", "9"]


@pytest.mark.parametrize("error", [EndpointError("gone"), RuntimeError("a bug"), asyncio.CancelledError()])
def test_what_came_before_a_stream_fails_is_written(tmp_path: Path, error: BaseException) -> None:
    """
    The error surfaces, after everything that was taken is safe.
    """
    with pytest.raises(type(error)):
        asyncio.run(collect(stream(20, then=error), tmp_path))

    assert tasks_in(tmp_path) == list(range(20))


def test_what_came_before_a_cancellation_is_written(tmp_path: Path) -> None:
    """
    Cancelling the collector loses nothing that the stream had given it, and frees the folder.
    """

    async def endless() -> AsyncIterator[Rollout]:
        async for found in stream(20):
            yield found
        await asyncio.Event().wait()

    async def play() -> None:
        before = asyncio.all_tasks()
        told: list[Rollout] = []
        collecting = asyncio.create_task(collect(endless(), tmp_path, on_durable=told.extend))
        while len(told) < 20:
            await asyncio.sleep(0.001)
        collecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await collecting
        assert asyncio.all_tasks() == before

    asyncio.run(asyncio.wait_for(play(), 20))

    assert tasks_in(tmp_path) == list(range(20))
    with Journal(tmp_path):
        pass


def test_a_disk_that_fails_ends_the_run(
    tmp_path: Path, full_disk: Callable[[int], AbstractContextManager[None]]
) -> None:
    """
    The error comes out instead of the rest of the stream; what was reported is whole, and the next run does the rest.
    """
    told: list[Rollout] = []
    taken: list[Rollout] = []

    async def counted() -> AsyncIterator[Rollout]:
        async for found in stream(5000):
            taken.append(found)
            yield found

    with full_disk(20_000), pytest.raises(StorageError, match="File too large"):
        asyncio.run(collect(counted(), tmp_path, on_durable=told.extend))

    assert 0 < len(told) <= len(taken) < 5000
    assert tasks_in(tmp_path) == list(range(len(told)))
    collection = asyncio.run(collect(stream(200), tmp_path))
    assert tasks_in(tmp_path) == list(range(200))
    assert collection.damaged == ()


def test_a_second_collector_is_refused_before_it_takes_anything(tmp_path: Path) -> None:
    """
    Nothing of its stream is played for nothing.
    """
    asked: list[int] = []

    async def noted() -> AsyncIterator[Rollout]:
        asked.append(1)
        yield rollout(0)

    with Journal(tmp_path), pytest.raises(RunFolderError):
        asyncio.run(collect(noted(), tmp_path))

    assert asked == []


def test_a_busy_pool_of_threads_does_not_keep_rollouts_from_the_disk(tmp_path: Path) -> None:
    """
    Blocking tools of a plugin may fill the event loop's own threads; the journal has one to itself.
    """
    release = threading.Event()

    async def play() -> int:
        blocked = [asyncio.create_task(asyncio.to_thread(release.wait)) for _ in range(64)]
        try:
            return len((await asyncio.wait_for(collect(stream(5), tmp_path), 10)).finished)
        finally:
            release.set()
            await asyncio.gather(*blocked)

    assert asyncio.run(play()) == 5


class BrokenDisk(Disk):
    """A disk that takes nothing, and says when it was asked."""

    def __init__(self, asked: Callable[[], None]) -> None:
        self.asked = asked

    def write(self, file: int, data: memoryview) -> int:
        """Refuse."""
        self.asked()
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("turns", range(6))
def test_a_disk_that_fails_as_the_stream_ends_is_a_storage_error_and_nothing_else(tmp_path: Path, turns: int) -> None:
    """
    In whichever turn of the event loop the two meet, nothing is cancelled that comes afterwards.
    """

    async def work() -> None:
        loop = asyncio.get_running_loop()
        gate = asyncio.Event()

        async def one() -> AsyncIterator[Rollout]:
            yield rollout(0)
            await gate.wait()
            for _ in range(turns):
                await asyncio.sleep(0)

        disk = BrokenDisk(lambda: loop.call_soon_threadsafe(gate.set))
        with Journal(tmp_path, disk) as journal, pytest.raises(StorageError):
            await collect(one(), journal)
        for _ in range(10):
            await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0, "whoever waits with a bound next would take it for its own"

    for _ in range(20):
        asyncio.run(work())


def test_however_often_it_is_cancelled_the_files_stay_open_until_the_writer_is_done(tmp_path: Path) -> None:
    """
    A descriptor that was closed under a thread that writes would be somebody else's file.
    """
    writing, go_on = threading.Event(), threading.Event()

    class SlowDisk(Disk):
        def write(self, file: int, data: memoryview) -> int:
            writing.set()
            go_on.wait(10)
            return super().write(file, data)

    async def endless() -> AsyncIterator[Rollout]:
        yield rollout(0)
        await asyncio.sleep(60)

    async def work() -> None:
        with Journal(tmp_path, SlowDisk()) as journal:
            collecting = asyncio.create_task(collect(endless(), journal))
            await asyncio.to_thread(writing.wait, 10)
            for _ in range(3):
                collecting.cancel()
                await asyncio.sleep(0.01)
                assert not collecting.done()
            go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await collecting

    asyncio.run(work())

    assert tasks_in(tmp_path) == [0]
