"""
Time passes for progress although nothing ends, and who holds the event loop up is named.
"""

from __future__ import annotations

import asyncio
import re
import time

from gymcore.cli.watch import Watch


def _blocks(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        re.sub("a+b", "", "a" * 400)


def test_ticks_while_the_loop_waits() -> None:
    """
    Every so often, with nothing to complain of; never after the end.
    """
    told: list[str | None] = []

    async def wait() -> None:
        with Watch(told.append, tick_s=0.01, held_s=5):
            await asyncio.sleep(0.2)

    asyncio.run(wait())
    count = len(told)
    time.sleep(0.05)

    assert count >= 5
    assert told == [None] * count


def test_names_the_code_that_holds_the_loop_up() -> None:
    """
    The innermost code that is not Python's own, with its file; and all is well when the loop answers again.
    """
    told: list[str | None] = []

    async def hold() -> None:
        with Watch(told.append, tick_s=0.01, held_s=0.1):
            _blocks(0.5)
            await asyncio.sleep(0.1)

    asyncio.run(hold())

    complaints = {line for line in told if line is not None}
    assert len(complaints) == 1
    place = r"_blocks\(\) \(.*test_watch\.py:\d+\)"
    pattern = rf"nothing goes on since \d\d:\d\d:\d\d: the event loop is held up by {place}"
    assert re.fullmatch(pattern, complaints.pop())
    assert told[-1] is None
