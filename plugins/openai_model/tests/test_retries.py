"""
What is retried and for how long: laws, without any clock or socket.
"""

import math
import time
from email.utils import formatdate
from itertools import cycle

import pytest
from gym_plugin_openai_model.retries import (
    PATIENCE_S,
    RETRIES_AT_FIRST,
    RETRY_EVERY_S,
    Fault,
    Patience,
    RetryBudget,
    kind_of_status,
    retry_after_s,
)
from hypothesis import given, settings
from hypothesis import strategies as some

KINDS = ["connect", "rate_limit", "transient", "timeout", "terminal"]
kinds = some.sampled_from(KINDS)
chances = some.floats(0, 1)


@settings(deadline=None)
@given(some.integers(0, 12), some.lists(some.tuples(kinds, chances, some.floats(0, 400)), min_size=1, max_size=20))
def test_no_call_is_tried_for_ever(max_retries, story):
    """
    Whatever happens, a call ends within bounded tries, and its waits are between 0 and 30 s.
    """
    chance = [0.0]
    patience = Patience(max_retries, lambda: chance[0])
    now = 0.0
    for kind, chance[0], took_s in cycle(story):
        now += took_s
        wait_s = patience.wait_s(Fault(kind, "no"), now=now)
        if wait_s is None:
            break
        assert 0 <= wait_s <= 30
        now += wait_s

    assert wait_s is None
    assert 1 <= patience.tries <= max_retries + 41


@settings(deadline=None)
@given(kinds, some.integers(0, 12))
def test_clocks_start_at_the_first_fault(kind, max_retries):
    """
    A call that took an hour before its first fault is given the same tries as one that took no time.
    """
    quick, slow = Patience(max_retries, lambda: 1.0), Patience(max_retries, lambda: 1.0)

    assert quick.wait_s(Fault(kind, "no"), now=0.0) == slow.wait_s(Fault(kind, "no"), now=3600.0)


@pytest.mark.parametrize("kind", ["connect", "rate_limit", "transient"])
def test_each_kind_has_its_own_patience(kind):
    """
    Further tries end when the time for this kind of fault has gone by, however many are left.
    """
    patience = Patience(100, lambda: 0.0)

    assert patience.wait_s(Fault(kind, "no"), now=0.0) is not None
    assert patience.wait_s(Fault(kind, "no"), now=PATIENCE_S[kind]) is not None
    assert patience.wait_s(Fault(kind, "no"), now=PATIENCE_S[kind] + 1) is None


@settings(deadline=None)
@given(some.floats(0, 1e6))
def test_waiting_at_a_closed_gate_costs_no_patience(seconds):
    """
    A call that was kept waiting because the endpoint was down is not given up for the time that took.
    """
    patience = Patience(5, lambda: 0.0)
    patience.wait_s(Fault("transient", "no"), now=0.0)
    patience.excuse(seconds)

    assert patience.wait_s(Fault("transient", "no"), now=seconds) is not None


def test_a_probe_that_finds_nobody_costs_its_call_nothing():
    """
    While an endpoint is down, refused connections do not use up the tries of the call that probes.
    """
    patience = Patience(1, lambda: 1.0)

    assert [patience.wait_s(Fault("connect", "no"), now=9e9, is_probe=True) for _ in range(99)] == [0.0] * 99
    assert patience.wait_s(Fault("connect", "no"), now=9e9) == 0.5


def test_being_throttled_uses_up_no_tries():
    """
    Who was throttled ten times still has every try for faults; without retries there is none for either.
    """
    patience = Patience(2, lambda: 0.0)
    throttled = [patience.wait_s(Fault("rate_limit", "later"), now=0.0) for _ in range(10)]
    failed = [patience.wait_s(Fault("transient", "no"), now=0.0) for _ in range(3)]

    assert None not in throttled
    assert failed == [0.0, 0.0, None]
    assert Patience(0, lambda: 0.0).wait_s(Fault("rate_limit", "later"), now=0.0) is None


@pytest.mark.parametrize("asked_s", [0.0, 0.001])
def test_being_told_to_come_back_at_once_does_not_use_up_the_tries_at_once(asked_s):
    """
    Where an endpoint asks for no pause, or for a tiny one, a call waits between its tries as it does without being
    asked, and goes on for as long.
    """
    patience, silent = Patience(5, lambda: 0.5), Patience(5, lambda: 0.5)
    waits = [patience.wait_s(Fault("rate_limit", "later", retry_after_s=asked_s), now=0.0) for _ in range(40)]

    assert waits == [silent.wait_s(Fault("rate_limit", "later"), now=0.0) for _ in range(40)]
    assert sum(waits) > 300


def test_a_pause_that_everybody_is_asked_for_is_not_waited_twice():
    """
    The gate keeps a pause that is longer than the usual wait; the call itself adds nothing to it.
    """
    patience = Patience(5, lambda: 1.0)

    assert patience.wait_s(Fault("rate_limit", "later", retry_after_s=7.0), now=0.0) == 0.0


# -- the budget ------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(some.lists(some.tuples(some.sampled_from(["reply", "retry"]), some.floats(0, 3)), max_size=100))
def test_retries_never_exceed_replies(story):
    """
    At every moment there were at most as many retries as replies, ten, and one for every second that went by.
    """
    budget = RetryBudget()
    now, replies, retries = 0.0, 0, 0
    for what, passed_s in story:
        now += passed_s
        if what == "reply":
            budget.earn()
            replies += 1
        elif budget.wait_s(now) == 0:
            budget.spend(now)
            retries += 1
        assert retries <= replies + RETRIES_AT_FIRST + 1 + now / RETRY_EVERY_S


@settings(deadline=None)
@given(some.lists(some.booleans(), min_size=1, max_size=200))
def test_no_retry_waits_while_half_of_all_tries_succeed(faults):
    """
    One retry after each reply never has to wait.
    """
    budget = RetryBudget()
    for has_fault in faults:
        budget.earn()
        if has_fault:
            assert budget.wait_s(0.0) == 0
            budget.spend(0.0)


def test_beyond_the_budget_one_retry_goes_each_second():
    """
    An endpoint that gives nothing but faults is still tried, once a second.
    """
    budget = RetryBudget()
    for _ in range(RETRIES_AT_FIRST):
        assert budget.wait_s(7.0) == 0
        budget.spend(7.0)

    assert budget.wait_s(7.0) == pytest.approx(1.0)
    assert budget.wait_s(7.75) == pytest.approx(0.25)
    assert budget.wait_s(8.0) == 0
    budget.spend(8.0)
    assert budget.wait_s(8.0) == pytest.approx(1.0)
    budget.earn()
    assert budget.wait_s(8.0) == 0


# -- what an endpoint says -------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(some.integers(300, 999), some.booleans())
def test_every_status_has_a_kind(status, has_retry_after):
    """
    Any status is sorted; what asks for patience is never taken for a mistake of the request.
    """
    kind = kind_of_status(status, has_retry_after=has_retry_after)

    assert kind in ("rate_limit", "transient", "terminal")
    if status in (408, 409, 425, 429) or status >= 500:
        assert kind != "terminal"


@settings(deadline=None)
@given(some.text(max_size=40), some.sampled_from(["retry-after", "retry-after-ms"]))
def test_no_header_is_a_surprise(text, name):
    """
    Whatever stands in the header, it means seconds that are not negative, or nothing.
    """
    seconds = retry_after_s({name: text}, 1_750_000_000.0)

    assert seconds is None or seconds >= 0
    assert seconds is None or not math.isnan(seconds)


@settings(deadline=None)
@given(some.integers(1, 10_000))
def test_a_date_means_the_seconds_until_then(seconds):
    """
    An HTTP date is as good as a number.
    """
    now = 1_750_000_000.0
    date = formatdate(now + seconds, usegmt=True)

    assert retry_after_s({"retry-after": date}, now) == retry_after_s({"retry-after": str(seconds)}, now) == seconds


@pytest.mark.parametrize(
    "date",
    [
        "Sun, 15 Jun 2025 15:07:40 GMT",
        "Sunday, 15-Jun-25 15:07:40 GMT",
        "Sun Jun 15 15:07:40 2025",
        "Sun, 15 Jun 2025 15:07:40",
        "Sun, 15 Jun 2025 15:07:40 -0000",
        "Sun, 15 Jun 2025 17:07:40 +0200",
    ],
)
def test_a_date_without_a_zone_is_one_of_utc(date, monkeypatch):
    """
    All forms of an HTTP date mean the same moment, wherever they are read.
    """
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        assert retry_after_s({"retry-after": date}, 1_750_000_000.0) == 60.0
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after-ms": "x", "retry-after": "7"}, 7.0),
        ({"retry-after-ms": "", "retry-after": "7"}, 7.0),
        ({"retry-after-ms": "1500", "retry-after": "7"}, 1.5),
        ({"retry-after": " 7. "}, 7.0),
        ({"retry-after": "1_000"}, None),
        ({"retry-after": "\u0663"}, None),
        ({"retry-after": "1e3"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "5, 10"}, None),
        ({"retry-after": "2025-06-15T15:07:40Z"}, None),
        ({}, None),
    ],
)
def test_only_plain_numbers_are_numbers(headers, seconds):
    """
    What only Python would read as a number says nothing, and an unreadable header leaves room for the other.
    """
    assert retry_after_s(headers, 1_750_000_000.0) == seconds
