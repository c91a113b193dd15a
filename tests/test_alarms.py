"""
`gymcore.alarms`: bounds of which hardly one is ever met.
"""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gymcore.alarms import Alarm, Alarms
from gymcore.testing.simulated_time import run_in_simulated_time

steps = st.lists(
    st.tuples(st.floats(0, 20), st.sampled_from([0.5, 3.0, 10.0]), st.one_of(st.none(), st.floats(0, 12))),
    max_size=30,
)
"""When an alarm is set, for how long, and after how long it is cancelled, if at all."""


@given(steps)
def test_rings_when_it_is_due_unless_it_was_cancelled(planned: list[tuple[float, float, float | None]]) -> None:
    """
    Whatever others are set and cancelled meanwhile, each alarm rings once, at its own time, or never.
    """
    rung: dict[int, list[float]] = {number: [] for number in range(len(planned))}

    async def set_one(alarms: Alarms, number: int, start: float, length: float, cancelled: float | None) -> None:
        clock = asyncio.get_running_loop().time
        await asyncio.sleep(start)
        began = clock()
        alarm = alarms.after(length, lambda: rung[number].append(clock() - began))
        if cancelled is not None:
            await asyncio.sleep(cancelled)
            alarm.cancel()

    async def work() -> None:
        alarms = Alarms()
        async with asyncio.TaskGroup() as group:
            for number, step in enumerate(planned):
                group.create_task(set_one(alarms, number, *step))
        await asyncio.sleep(11)

    run_in_simulated_time(work())

    for number, (_, length, cancelled) in enumerate(planned):
        if cancelled is not None and cancelled < length - 0.01:
            assert rung[number] == []
        elif cancelled is None or cancelled > length + 0.01:
            assert rung[number] == [pytest.approx(length, abs=0.01)]


def test_an_alarm_that_fails_does_not_silence_the_others() -> None:
    """
    Each rings, and the loop's handler hears of the error.
    """
    rung: list[str] = []
    told: list[str] = []

    def fail() -> None:
        raise ValueError("broken bell")

    async def work() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(str(context["exception"])))
        alarms = Alarms()
        alarms.after(1.0, fail)
        alarms.after(1.0, lambda: rung.append("second"))
        await asyncio.sleep(2)

    run_in_simulated_time(work())

    assert (rung, told) == (["second"], ["broken bell"])


def test_an_alarm_may_set_another() -> None:
    """
    What rings may set the next alarm of the same length.
    """
    rung: list[float] = []

    async def work() -> None:
        alarms = Alarms()
        clock = asyncio.get_running_loop().time

        def ring() -> None:
            rung.append(clock())
            if len(rung) < 3:
                alarms.after(1.0, ring)

        alarms.after(1.0, ring)
        await asyncio.sleep(5)

    run_in_simulated_time(work())

    assert rung == [pytest.approx(1, abs=0.01), pytest.approx(2, abs=0.01), pytest.approx(3, abs=0.01)]


def test_what_was_cancelled_is_freed_at_once() -> None:
    """
    An alarm and its owner, which lead to each other, do not wait for the garbage collector.
    """

    class Owner:
        alarm: Alarm

        def ring(self) -> None:
            """Never called."""

    async def work() -> weakref.ref[Owner]:
        owner = Owner()
        owner.alarm = Alarms().after(60.0, owner.ring)
        owner.alarm.cancel()
        return weakref.ref(owner)

    gc.disable()
    try:
        assert run_in_simulated_time(work())() is None
    finally:
        gc.enable()


def test_an_alarm_that_sets_another_delays_nobody() -> None:
    """
    Those that were set before it ring at their own time.
    """
    rung: list[tuple[str, float]] = []

    async def work() -> None:
        alarms = Alarms()
        clock = asyncio.get_running_loop().time
        alarms.after(1.0, lambda: alarms.after(1.0, lambda: rung.append(("later", clock()))))
        await asyncio.sleep(0.2)
        alarms.after(1.0, lambda: rung.append(("own", clock())))
        await asyncio.sleep(5)

    run_in_simulated_time(work())

    assert rung == [("own", pytest.approx(1.2, abs=0.01)), ("later", pytest.approx(2.0, abs=0.01))]
