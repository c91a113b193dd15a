"""
Work to be interrupted: made-up rollouts, collected as real ones are, and a process that says what it did.

The process, `main(FOLDER, COUNT)`, collects the rollouts that FOLDER does not hold yet, up to COUNT, and prints
`played N` before the N-th begins and `safe N` once it is on disk.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from gymcore.collection import Journal, collect
from gymcore.collection.line_checksum import with_checksum
from gymcore.documents import encode_json
from gymcore.errors import GymcoreError
from gymcore.records import Failure, Reward, Rollout, RolloutKey, Row, Trajectory, Turn
from gymcore.responses import message

__all__ = ["ENVIRONMENT", "key_of", "line_of", "main", "make_rollout"]

ENVIRONMENT = "made_up"


def key_of(number: int) -> RolloutKey:
    """Return what the made-up rollout `number` is a rollout of."""
    return (ENVIRONMENT, str(number), 0)


def make_rollout(number: int, *, size: int | None = None, failed: bool = False) -> Rollout:
    """
    Make up a rollout: the same for the same number, in every process.

    Args:
        number: Which.
        size: About how many bytes its line has; some hundreds to some thousands where it is None.
        failed: Whether it has a failure instead of a reward.
    """
    chance = random.Random(number)
    row = {"responses_create_params": {"input": f"task {number}"}, "environment": ENVIRONMENT, "task_id": str(number)}
    letters = size if size is not None else chance.choice((0, 40, 300, 3000))
    return Rollout(
        row=Row(encode_json(row)),
        repeat=0,
        trajectory=Trajectory(turns=(Turn(output=(message(chance.randbytes(letters // 2).hex()),)),)),
        reward=None if failed else Reward(value=chance.random()),
        failure=Failure(stage="verify", error="Made", message="up", retryable=True) if failed else None,
        started_at=float(number),
        duration_s=0.5,
    )


def line_of(rollout: Rollout) -> bytes:
    """Return the line that a journal writes of a finished rollout, without its line break."""
    return with_checksum(rollout.to_line())


async def _play(journal: Journal, count: int) -> AsyncIterator[Rollout]:
    for number in range(count):
        if key_of(number) not in journal.finished:
            _say(f"played {number}\n")
            yield make_rollout(number)
            await asyncio.sleep(0.0005)  # so that the disk has something to do more than once


def _say(text: str) -> None:
    # Past Python's buffers: what was said before a SIGKILL is heard.
    os.write(1, text.encode())


def _say_safe(rollouts: Sequence[Rollout]) -> None:
    _say("".join(f"safe {rollout.key[1]}\n" for rollout in rollouts))


def main(folder: str, count: str) -> int:
    """Collect, and return the exit code."""
    try:
        with Journal(Path(folder)) as journal:
            asyncio.run(collect(_play(journal, int(count)), journal, on_durable=_say_safe))
    except GymcoreError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return error.exit_code
    return 0
