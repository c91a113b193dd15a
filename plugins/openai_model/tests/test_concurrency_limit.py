"""
How many requests may be in flight at an endpoint that throttles: laws, and the endpoint of a simulation.
"""

import math
import random

from gym_plugin_openai_model.concurrency_limit import ConcurrencyLimit
from hypothesis import given, settings
from hypothesis import strategies as some


class Simulation:
    """
    An endpoint that answers `capacity` requests at once after one unit of time, and throttles the others at once.

    Time goes by in rounds: all requests that are accepted in one are answered in the next.
    """

    def __init__(self, workers, capacity):
        self.limit = ConcurrencyLimit()
        self.workers, self.capacity = workers, capacity
        self.running = []
        self.newest = self.requests = self.replies = 0

    def round(self, now):
        sent, asking = [], self.workers - len(self.running)
        # Whoever is throttled waits for the next round; the room that leaves is used by the next in line.
        while asking and self.limit.has_room(len(self.running) + len(sent)):
            batch = 0
            while asking and self.limit.has_room(len(self.running) + len(sent)):
                self.newest += 1
                self.requests += 1
                batch += 1
                asking -= 1
                sent.append(self.newest)
            while len(self.running) < self.capacity and sent:
                self.running.append(sent.pop(0))
            while sent:
                number = sent.pop(0)
                self.limit.throttled(
                    number=number, newest=self.newest, in_flight=len(self.running) + len(sent) + 1, now=now
                )
        while self.running:
            number = self.running.pop(0)
            self.replies += 1
            self.limit.replied(
                number=number,
                in_flight=len(self.running) + 1,
                is_waited_for=self.workers > len(self.running) + 1,
                now=now,
            )


@settings(max_examples=40, deadline=None)
@given(some.integers(1, 60), some.integers(1, 150))
def test_keeps_an_endpoint_busy_without_hurting_it(capacity, workers):
    """
    After it has found its level, at most one request in seven is throttled and nine tenths of the capacity are used.
    """
    simulation = Simulation(workers, capacity)
    for now in range(100):
        simulation.round(now)
    requests, replies = simulation.requests, simulation.replies
    for now in range(100, 200):
        simulation.round(now)
    requests, replies = simulation.requests - requests, simulation.replies - replies

    assert requests <= 1.15 * replies + 1
    assert replies >= 0.85 * 100 * min(capacity, workers)


@settings(deadline=None)
@given(some.integers(100, 5000), some.floats(0, 0.02), some.integers(0, 1000))
def test_does_not_limit_an_endpoint_that_throttles_now_and_then(workers, share, seed):
    """
    Where a few requests are throttled by chance, however many are in flight, nobody is kept waiting for long.
    """
    chance = random.Random(seed)
    limit = ConcurrencyLimit()
    for number in range(1, 2000):
        if chance.random() < share:
            limit.throttled(number=number, newest=number + workers - 1, in_flight=workers, now=0.0)
        else:
            limit.replied(number=number, in_flight=workers, is_waited_for=False, now=0.0)

    assert limit.value == math.inf or workers < 2 * limit.value


events = some.sampled_from(["reply", "throttled", "late", "asks", "outage"])


@settings(deadline=None)
@given(some.lists(some.tuples(events, some.integers(1, 300)), max_size=80))
def test_there_is_always_room_for_one(story):
    """
    Whatever an endpoint does, the limit is at least one, and a throttled request never raises it.
    """
    limit = ConcurrencyLimit()
    for newest, (event, in_flight) in enumerate(story, 1):
        before = limit.value
        if event == "reply":
            limit.replied(number=newest, in_flight=in_flight, is_waited_for=True, now=float(newest))
        elif event == "outage":
            limit.recover()
        else:
            number = newest if event != "late" else max(1, newest - 5)
            pause_s = 1.0 if event == "asks" else 0.0
            limit.throttled(number=number, newest=newest, in_flight=in_flight, now=float(newest), pause_s=pause_s)
            assert limit.value <= before
        assert limit.value >= 1
        assert limit.has_room(0)


def test_chance_does_not_keep_a_limit_small():
    """
    Where one request in twenty is throttled by chance, a limit that is small grows all the same.
    """
    chance = random.Random(3)
    limit = ConcurrencyLimit()
    limit.throttled(number=1, newest=1, in_flight=10, now=0.0, pause_s=1.0)
    assert limit.value == 5
    for number in range(2, 20_000):
        in_flight = int(min(limit.value, 256))
        if chance.random() < 0.05:
            limit.throttled(number=number, newest=number + in_flight - 1, in_flight=in_flight, now=100.0)
        else:
            limit.replied(number=number, in_flight=in_flight, is_waited_for=in_flight < 256, now=100.0)

    assert limit.value >= 200


def test_chance_that_ends_is_forgotten_when_a_cut_is_of_use():
    """
    After one request in five was refused by chance, room for 20 is found as if nothing had been.
    """
    chance = random.Random(7)
    limit = ConcurrencyLimit()
    number = 0
    for _ in range(4000):
        number += 1
        in_flight = int(min(limit.value, 64))
        if chance.random() < 0.2:
            limit.throttled(number=number, newest=number + in_flight - 1, in_flight=in_flight, now=0.0)
        else:
            limit.replied(number=number, in_flight=in_flight, is_waited_for=in_flight < 64, now=0.0)
    tolerant = limit.value
    simulation = Simulation(64, 20)
    simulation.limit, simulation.newest = limit, number + 64
    for now in range(1, 200):
        simulation.round(now)
    requests, replies = simulation.requests, simulation.replies
    for now in range(200, 300):
        simulation.round(now)

    assert tolerant >= 50
    assert simulation.requests - requests <= 1.2 * (simulation.replies - replies)
    assert simulation.replies - replies >= 0.8 * 100 * 20


def test_one_burst_is_one_cut_down_to_what_was_accepted():
    """
    Of 256 requests 32 are accepted: the limit halves once, and then follows what is left in flight.
    """
    limit = ConcurrencyLimit()
    seen = []
    for number in range(33, 257):
        limit.throttled(number=number, newest=256, in_flight=256 - (number - 33), now=0.0)
        seen.append(limit.value)

    assert seen[0] == math.inf
    assert max(value for value in seen if value < math.inf) <= 128
    assert limit.value == 32


def test_a_halving_that_was_too_much_is_made_good_within_a_round():
    """
    Of 256 requests 200 are accepted: soon after the halving 180 may be in flight.
    """
    limit = ConcurrencyLimit()
    for number in range(201, 257):
        limit.throttled(number=number, newest=256, in_flight=256 - (number - 201), now=0.0)
    halved = limit.value
    for _ in range(128):
        limit.replied(number=257, in_flight=128, is_waited_for=True, now=0.0)

    assert halved <= 128
    assert 180 <= limit.value <= 190


def test_holds_still_after_a_pause_that_was_asked_for():
    """
    Where one request too many costs everybody a second, the limit stays below what that was for ten.
    """
    limit = ConcurrencyLimit()
    limit.throttled(number=20, newest=20, in_flight=20, now=0.0, pause_s=1.0)
    for _ in range(200):
        limit.replied(number=999, in_flight=10, is_waited_for=True, now=10.9)
    held = limit.value
    for _ in range(200):
        limit.replied(number=999, in_flight=10, is_waited_for=True, now=11.1)

    assert held == 17
    assert limit.value > held


def test_comes_back_from_an_outage_in_doubling_rounds():
    """
    The first round after an outage is of four, and nine rounds later a thousand may be in flight again.
    """
    limit = ConcurrencyLimit()
    limit.recover()
    sizes = []
    while limit.value < 1000:
        sizes.append(int(limit.value))
        for _ in range(sizes[-1]):
            limit.replied(number=999, in_flight=sizes[-1], is_waited_for=True, now=0.0)

    assert sizes == [4 * 2**power for power in range(8)]
    limit.replied(number=999, in_flight=5, is_waited_for=False, now=0.0)
    assert limit.value == math.inf


def test_an_outage_does_not_make_an_endpoint_forget_its_capacity():
    """
    What was known of the endpoint before it went down holds again when it is back, even if it said 503 meanwhile.
    """
    limit = ConcurrencyLimit()
    for number in range(33, 257):
        limit.throttled(number=number, newest=256, in_flight=256 - (number - 33), now=0.0)
    for _ in range(4):
        limit.replied(number=257, in_flight=28, is_waited_for=True, now=0.0)
    limit.replied(number=999, in_flight=32, is_waited_for=True, now=0.0)
    for number in range(300, 320):
        limit.throttled(number=number, newest=number, in_flight=8, now=0.0)
    limit.recover()
    sizes = []
    for _ in range(30):
        limit.replied(number=999, in_flight=4, is_waited_for=True, now=0.0)
        sizes.append(limit.value)

    assert sizes[0] == 5
    assert sizes[-1] == 32
