"""
Time passes for progress although nothing ends, and who holds the event loop up is named.
"""

from __future__ import annotations

import asyncio
import re
import time

from gymcore.cli.watch import Watch

LONGEST_S = 60.0


def _blocks(told: list[str | None]) -> None:
    until = time.monotonic() + LONGEST_S
    while not any(told) and time.monotonic() < until:
        re.sub("a+b", "", "a" * 400)


def test_ticks_while_the_loop_waits() -> None:
    """
    Every so often, with nothing to complain of; never after the end.
    """
    told: list[str | None] = []

    async def wait() -> None:
        with Watch(told.append, tick_s=0.01, held_s=5):
            while len(told) < 5:
                await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(wait(), LONGEST_S))
    count = len(told)
    time.sleep(0.05)

    assert told == [None] * count


def test_names_the_code_that_holds_the_loop_up() -> None:
    """
    The innermost code that is not Python's own, with its file; and all is well when the loop answers again.
    """
    told: list[str | None] = []

    async def hold() -> None:
        with Watch(told.append, tick_s=0.01, held_s=0.1):
            _blocks(told)
            while told[-1] is not None:
                await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(hold(), LONGEST_S))

    complaints = {line for line in told if line is not None}
    assert len(complaints) == 1
    place = r"_blocks\(\) \(.*test_watch\.py:\d+\)"
    pattern = rf"nothing goes on since \d\d:\d\d:\d\d: the event loop is held up by {place}"
    assert re.fullmatch(pattern, complaints.pop())


def test_a_pause_of_the_whole_process_is_nobodys_fault() -> None:
    """
    After Ctrl-Z and `fg`, the loop and its watch were both away: nobody has held anything up.
    """
    told: list[str | None] = []

    def tell(held_up: str | None) -> None:
        told.append(held_up)
        time.sleep(0.3)  # the watch is away for longer than the loop may take to answer

    async def wait() -> None:
        with Watch(tell, tick_s=0.01, held_s=0.1):
            while len(told) < 3:
                await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(wait(), LONGEST_S))

    assert not any(told)
