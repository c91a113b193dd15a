"""
`collect()`: takes rollouts from a stream as they end and answers for them once they are safe on disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

from gymcore.collection.journal import Collection, Journal
from gymcore.records import Rollout

__all__ = ["collect"]

WAITING = 256
"""How many rollouts may wait for the disk; when the disk stalls, the run stalls, and memory does not grow."""


async def collect(
    rollouts: AsyncIterable[Rollout],
    into: Path | Journal,
    *,
    on_durable: Callable[[Sequence[Rollout]], None] | None = None,
) -> Collection:
    """
    Write every rollout of a stream into a run folder.

    What arrives while the disk is busy is written together next, so each write waits for one synchronisation only.

    Args:
        rollouts: The stream; failures go to a file of their own.
        into: The run folder, or its journal where the caller has opened it already.
        on_durable: Told, off the event loop, which rollouts have become safe.

    Returns:
        What the folder holds now.

    Raises:
        StorageError: the disk failed; what `on_durable` was told is safe. It is raised at once, without waiting for
            the next rollout of the stream.
        RunFolderError: another process writes to this folder.
    """
    with nullcontext(into) if isinstance(into, Journal) else Journal(into) as journal:
        waiting: asyncio.Queue[Rollout | None] = asyncio.Queue(maxsize=WAITING)
        writer = asyncio.create_task(_write(waiting, journal, on_durable))
        try:
            async with _left_with(writer):
                async for rollout in rollouts:
                    await _put(waiting, rollout, writer)
        finally:
            # Whatever ended the stream, what was taken from it still goes to the disk.
            await _to_the_end(_finish(waiting, writer))
        return Collection(
            folder=journal.folder,
            finished=journal.finished.copy(),
            failed=journal.failed,
            duplicates=journal.duplicates,
            damaged=journal.damaged,
        )


@asynccontextmanager
async def _left_with(writer: asyncio.Task[None]) -> AsyncIterator[None]:
    """Leave the block when the writer ends: the disk failed, and there is no use in waiting for another rollout."""
    task = asyncio.current_task()
    assert task is not None
    before = task.cancelling()
    is_inside = True
    is_cancelled = False

    def leave(ended: asyncio.Task[None]) -> None:
        nonlocal is_cancelled
        if is_inside:  # it may be called a moment after it was removed
            is_cancelled = True
            task.cancel()

    writer.add_done_callback(leave)
    try:
        yield
        is_inside = False
        if is_cancelled:  # too late to have been noticed inside, and it must not hit whatever comes next
            await asyncio.sleep(0)
    except asyncio.CancelledError:
        if not is_cancelled or task.uncancel() > before:  # somebody else cancelled us as well
            raise
    finally:
        is_inside = False
        writer.remove_done_callback(leave)


async def _finish(waiting: asyncio.Queue[Rollout | None], writer: asyncio.Task[None]) -> None:
    """Tell the writer that nothing more comes, and wait for it."""
    await _put(waiting, None, writer)
    await writer


async def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Wait for something however often we are cancelled meanwhile: files must not be closed under the writer."""
    task = asyncio.create_task(work)
    is_cancelled = False
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            is_cancelled = True
    task.result()
    if is_cancelled:
        raise asyncio.CancelledError


async def _put(waiting: asyncio.Queue[Rollout | None], item: Rollout | None, writer: asyncio.Task[None]) -> None:
    """Put an item into the queue, or give up when the writer is gone and nobody would take it."""
    if not waiting.full():
        waiting.put_nowait(item)
        return
    # What was taken from the stream goes to the disk however often we are cancelled, as soon as there is room.
    await _to_the_end(_put_when_there_is_room(waiting, item, writer))


async def _put_when_there_is_room(
    waiting: asyncio.Queue[Rollout | None], item: Rollout | None, writer: asyncio.Task[None]
) -> None:
    putting = asyncio.create_task(waiting.put(item))
    await asyncio.wait({putting, writer}, return_when=asyncio.FIRST_COMPLETED)
    putting.cancel()


async def _write(
    waiting: asyncio.Queue[Rollout | None],
    journal: Journal,
    on_durable: Callable[[Sequence[Rollout]], None] | None,
) -> None:
    # A thread of its own: the event loop's pool is for everybody, and may be full of what others wait for.
    with ThreadPoolExecutor(1, thread_name_prefix="gymcore-journal") as disk:
        while True:
            batch = [await waiting.get()]
            while not waiting.empty():
                batch.append(waiting.get_nowait())
            found = [rollout for rollout in batch if rollout is not None]
            if found:
                await asyncio.get_running_loop().run_in_executor(disk, journal.append, found, on_durable)
            if len(found) < len(batch):
                return
