"""
An event loop whose clock jumps over every wait.
"""

from __future__ import annotations

import asyncio
import time

import pytest

from gymcore.testing.simulated_time import DeadlockError, run_in_simulated_time


def test_a_day_of_waiting_takes_no_time() -> None:
    """
    Sleeps and timeouts end when they should by the clock of the loop, and at once by any other.
    """

    async def work() -> list[float]:
        clock = asyncio.get_running_loop().time
        moments = [clock()]
        await asyncio.sleep(86_400)
        moments.append(clock())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.sleep(10)
        moments.append(clock())
        return moments

    began = time.monotonic()

    assert run_in_simulated_time(work()) == pytest.approx([0, 86_400, 86_405], abs=0.001)
    assert time.monotonic() - began < 5


def test_those_who_sleep_wake_in_order() -> None:
    """
    Tasks that sleep side by side end in the order of their times.
    """
    ended: list[int] = []

    async def nap(seconds: int) -> None:
        await asyncio.sleep(seconds)
        ended.append(seconds)

    async def work() -> None:
        await asyncio.gather(*(nap(seconds) for seconds in (30, 10, 20)))

    run_in_simulated_time(work())

    assert ended == [10, 20, 30]


def test_a_deadlock_is_an_error() -> None:
    """
    Where nobody can ever go on, the test fails instead of hanging.
    """

    async def work() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(DeadlockError, match="no timer is set"):
        run_in_simulated_time(work())
