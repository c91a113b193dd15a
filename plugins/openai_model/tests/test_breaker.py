"""
When an address counts as down, and how rarely it is tried then.
"""

import math

import pytest
from gym_plugin_openai_model.breaker import MAX_PROBE_S, MAX_WEIGHT, WEIGHTS, Breaker
from gym_plugin_openai_model.retries import UNPROVEN_S, Fault
from hypothesis import given, settings
from hypothesis import strategies as some

REFUSED = Fault("connect", "connection refused")
BROKEN = Fault("transient", "bad gateway", status=502)


def proven(patience_s=1800.0, chance=1.0):
    breaker = Breaker(patience_s, lambda: chance)
    breaker.answered()
    return breaker


@settings(deadline=None)
@given(some.lists(some.sampled_from(["reply", "connect", "transient", "timeout", "rate_limit"]), max_size=60))
def test_is_down_exactly_after_enough_faults_in_a_row(story):
    """
    Any reply, and any sign of life, begins the count anew.
    """
    breaker = proven()
    for now, event in enumerate(story):
        if event == "reply":
            breaker.answered()
        else:
            breaker.failed(Fault(event, "no"), began=now, now=now)
        streak = []
        for earlier in reversed(story[: now + 1]):
            if earlier in ("reply", "rate_limit"):
                break
            streak.append(earlier)
        is_down = sum(WEIGHTS[earlier] for earlier in streak) >= MAX_WEIGHT
        assert breaker.is_open == is_down
        assert (breaker.since is None) == (event == "reply")
        if not is_down:
            assert breaker.wait_s(now) == 0


@settings(deadline=None)
@given(some.floats(1, 10_000), some.floats(0, 1))
def test_an_outage_of_any_length_sees_few_probes_and_is_over_soon(outage_s, chance):
    """
    Sixty seconds see at most 14 probes, an hour about two a minute, and the end is noticed within half the outage.
    """
    breaker = proven(math.inf, chance)
    for _ in range(MAX_WEIGHT):
        breaker.failed(REFUSED, began=0.0, now=0.0)
    now, probes = 0.0, 0
    while True:
        now += breaker.wait_s(now)
        breaker.probed(now)
        if now >= outage_s:
            break
        probes += 1
        breaker.failed(REFUSED, began=now, now=now)
    breaker.answered()

    assert probes <= 14 + outage_s / (0.75 * MAX_PROBE_S)
    if outage_s <= 60:
        assert probes <= 14
    assert now - outage_s <= min(MAX_PROBE_S, 1.0 + outage_s / 2)
    assert not breaker.is_open
    assert breaker.wait_s(now) == 0


def test_quick_faults_among_slow_replies_are_no_outage():
    """
    While more requests are in flight than have failed in a row, they may still be answered.
    """
    breaker = proven()
    for number in range(80):
        breaker.failed(BROKEN, began=0.0, now=0.0, in_flight=255 - number)
    among_many = breaker.is_open
    for number in range(80, 130):
        breaker.failed(BROKEN, began=0.0, now=0.0, in_flight=255 - number)

    assert not among_many
    assert breaker.is_open


def test_refused_connections_are_an_outage_however_many_requests_hang():
    """
    A connection that could not be made says enough by itself.
    """
    breaker = proven()
    for _ in range(5):
        breaker.failed(REFUSED, began=0.0, now=0.0, in_flight=1000)

    assert breaker.is_open


def test_says_since_when_and_why():
    """
    The time is that of the first fault after the last reply, the reason that of the latest.
    """
    breaker = proven()
    for now in (100.0, 101.0):
        breaker.failed(BROKEN, began=40.0, now=now)
    breaker.failed(REFUSED, began=102.0, now=103.0)

    assert breaker.since == 100.0
    assert breaker.why == "connection refused"


def test_an_address_that_never_answered_is_given_up_within_seconds():
    """
    One refused connection is enough there, and three seconds of them end the wait.
    """
    breaker = Breaker(1800.0, lambda: 1.0)
    breaker.failed(REFUSED, began=0.0, now=0.1)

    assert breaker.is_open
    assert breaker.gives_up_at == UNPROVEN_S


def test_an_address_that_was_reached_is_no_wrong_one():
    """
    Where thousands connect at once, some connections may be late before the first reply has come.
    """
    breaker = Breaker(1800.0, lambda: 1.0)
    late = Fault("connect", "no connection within 5 s", was_reached=True)
    breaker.failed(late, began=0.0, now=5.0)

    assert not breaker.is_open
    for _ in range(MAX_WEIGHT):
        breaker.failed(late, began=0.0, now=5.0)
    assert breaker.is_open
    assert breaker.gives_up_at == 1800.0


@pytest.mark.parametrize("fault", [REFUSED, BROKEN])
def test_an_address_that_answered_is_waited_for(fault):
    """
    Waiting has no point any more when the patience is over, counted from the first fault.
    """
    breaker = proven(patience_s=600.0)
    for number in range(MAX_WEIGHT):
        breaker.failed(fault, began=50.0, now=50.0 + number)

    assert breaker.gives_up_at == 650.0
    breaker.answered()
    assert breaker.gives_up_at == math.inf


def test_an_endpoint_that_only_throttles_is_not_down_but_not_waited_for_for_ever():
    """
    A quota that is used up for the day ends the run when the patience is over.
    """
    breaker = proven(patience_s=600.0)
    for number in range(100):
        breaker.failed(Fault("rate_limit", "quota used up", status=429), began=0.0, now=float(number))

    assert not breaker.is_open
    assert breaker.gives_up_at == 600.0
