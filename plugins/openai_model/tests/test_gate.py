"""
The gate by itself, in simulated time: whatever happens behind it, everybody gets through, in order and within bounds.
"""

import asyncio
import random

import pytest
from gym_plugin_openai_model.gate import ElsewhereError, Gate, OutOfPatienceError
from gym_plugin_openai_model.retries import Fault
from hypothesis import given, settings
from hypothesis import strategies as some

from gymcore.testing.simulated_time import run_in_simulated_time


def now():
    return asyncio.get_running_loop().time()


FAULTS = {
    "connect": Fault("connect", "connection refused"),
    "reset": Fault("transient", "reset"),
    "timeout": Fault("timeout", "no reply"),
    "unavailable": Fault("transient", "unavailable", status=503),
    "throttled": Fault("rate_limit", "slow down", status=429),
    "paused": Fault("rate_limit", "slow down", status=429, retry_after_s=40.0),
    "refused": Fault("terminal", "bad request", status=400),
}
outcomes = some.sampled_from(["reply", "reply", "cancelled", *FAULTS])
calls = some.lists(some.tuples(outcomes, some.floats(0, 5)), min_size=1, max_size=6)


def make_gate(**options):
    return Gate(clock=now, random=random.Random(0).random, **options)


async def play(gates, story, most):
    """Make one call: each outcome of the story but the last leads to a retry."""
    gate = gates[0]
    for number, (outcome, seconds) in enumerate(story):
        ticket = gate.pass_at_once() if number == 0 else None
        while ticket is None:
            try:
                ticket = await gate.wait(is_retry=number > 0)
            except ElsewhereError:
                gate = next(other for other in gates if other.is_working(now()))
        most.append(gate.in_flight)
        await asyncio.sleep(seconds)
        if outcome == "reply":
            gate.answered(ticket)
        elif outcome == "cancelled":
            gate.left()
        else:
            gate.failed(ticket, FAULTS[outcome])


@settings(max_examples=60, deadline=None)
@given(some.lists(some.tuples(calls, some.floats(0, 20)), min_size=1, max_size=25), some.sampled_from([None, 1, 3]))
def test_everybody_gets_through(stories, bound):
    """
    Whatever the endpoint does and in whichever order, no call waits for ever, and the bound on those in flight holds.
    """

    async def work():
        gate = make_gate(max_in_flight=bound, patience_s=1e12)
        gate.breaker.answered()
        most = []

        async def call(story, start):
            await asyncio.sleep(start)
            await play([gate], story, most)

        await asyncio.gather(*(call(story, start) for story, start in stories))
        assert gate.in_flight == 0
        assert bound is None or max(most) <= bound
        assert len(most) == sum(len(story) for story, _ in stories)
        assert not gate._queue.waiting
        assert not gate._retries.waiting

    run_in_simulated_time(work())


@settings(max_examples=40, deadline=None)
@given(
    some.lists(some.tuples(calls, some.floats(0, 20), some.floats(0, 60)), min_size=1, max_size=20),
    some.sampled_from([None, 2]),
)
def test_whoever_is_cancelled_holds_nobody_up(stories, bound):
    """
    Calls that are cancelled while they wait or while they are in flight leave the way free for all others.
    """

    async def work():
        gate = make_gate(max_in_flight=bound, patience_s=1e12)
        gate.breaker.answered()

        async def call(story, start):
            await asyncio.sleep(start)
            ticket = gate.pass_at_once() or await gate.wait(is_retry=False)
            outcome, seconds = story[0]
            try:
                await asyncio.sleep(seconds)
            except asyncio.CancelledError:
                gate.left()
                raise
            if outcome in FAULTS:
                gate.failed(ticket, FAULTS[outcome])
            else:
                gate.answered(ticket)

        tasks = []
        for number, (story, start, end) in enumerate(stories):
            tasks.append(asyncio.create_task(call(story, start)))
            if number % 2:
                asyncio.get_running_loop().call_later(end, tasks[-1].cancel)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert gate.in_flight == 0
        assert all(result is None for result in results[::2])

    run_in_simulated_time(work())


@settings(max_examples=40, deadline=None)
@given(some.lists(some.tuples(calls, some.floats(0, 20)), min_size=1, max_size=20))
def test_two_addresses_do_not_keep_anybody_between_them(stories):
    """
    With two addresses that fail and come back, every call gets through one of them.
    """

    async def work():
        gates = [make_gate(patience_s=1e12), make_gate(patience_s=1e12)]
        for gate in gates:
            gate.gates = gates
            gate.breaker.answered()

        async def call(number, story, start):
            await asyncio.sleep(start)
            await play(gates if number % 2 else gates[::-1], story, [])

        await asyncio.gather(*(call(number, *item) for number, item in enumerate(stories)))
        assert [gate.in_flight for gate in gates] == [0, 0]

    run_in_simulated_time(work())


def test_everybody_hears_that_there_is_no_point_in_waiting():
    """
    When the patience is over, all who wait are told in the same moment.
    """

    async def work():
        gate = make_gate(patience_s=100.0)
        gate.breaker.answered()
        for _ in range(5):
            ticket = gate.pass_at_once()
            gate.failed(ticket, FAULTS["connect"])
        told = []

        async def wait(number):
            try:
                while True:
                    gate.failed(await gate.wait(is_retry=number % 2 == 0), FAULTS["connect"])
            except OutOfPatienceError:
                told.append(now())
                gate.shut("no point in waiting")

        await asyncio.gather(*(wait(number) for number in range(50)))
        return told

    told = run_in_simulated_time(work())

    assert told == pytest.approx([100.0] * 50)


async def try_for_ever(gate, fault, every_s=0.0):
    """Make a call that has nothing but one fault."""
    while True:
        await asyncio.sleep(every_s)
        gate.failed(await gate.wait(is_retry=True), fault)


SLOW_DOWN = Fault("rate_limit", "slow down", status=429, retry_after_s=1.0)


@pytest.mark.parametrize("rest_s", [60.0, 7200.0])
@pytest.mark.parametrize("old", ["reset", "timeout", "throttled"])
def test_an_old_fault_is_no_outage(old, rest_s):
    """
    When everybody was busy elsewhere after a fault that no reply followed, the next fault is the first of its time.
    """

    async def work():
        gate = make_gate(patience_s=50.0)
        gate.answered(gate.pass_at_once())
        gate.failed(gate.pass_at_once(), FAULTS[old])
        await asyncio.sleep(rest_s)
        gate.failed(gate.pass_at_once(), SLOW_DOWN)
        before = now()
        await gate.wait(is_retry=True)
        return now() - before

    assert run_in_simulated_time(work()) == pytest.approx(1.0)


def test_an_address_that_was_down_long_ago_is_tried_before_it_is_given_up():
    """
    Whoever comes back to an address that was left while it was down gets a try, and patience enough for others.
    """

    async def work():
        gate = make_gate(patience_s=50.0)
        gate.answered(gate.pass_at_once())
        for _ in range(5):
            gate.failed(gate.pass_at_once(), FAULTS["connect"])
        assert gate.breaker.is_open
        await asyncio.sleep(7200)
        gate.failed(await gate.wait(is_retry=False), FAULTS["connect"])
        back = now()
        with pytest.raises(OutOfPatienceError):
            await try_for_ever(gate, FAULTS["connect"])
        return now() - back

    assert run_in_simulated_time(work()) == pytest.approx(50.0, abs=0.1)


def test_one_call_alone_is_not_patient_for_ever():
    """
    Waits between the tries of a single call, and pauses that it is asked for, are no rest: an endpoint that gives it
    nothing else is given up when the patience is over.
    """

    async def work():
        gate = make_gate(patience_s=600.0)
        gate.answered(gate.pass_at_once())
        gate.failed(gate.pass_at_once(), FAULTS["paused"])
        with pytest.raises(OutOfPatienceError):
            await try_for_ever(gate, FAULTS["paused"], every_s=30.0)
        return now()

    assert run_in_simulated_time(work()) == pytest.approx(600.0, abs=31.0)
