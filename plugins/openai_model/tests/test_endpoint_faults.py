"""
Endpoints that throttle, go down, hang and come back, for minutes and hours of simulated time.

The model is the real one, from `respond` to its httpx transport; the endpoint behind that keeps its own count.
"""

import asyncio
import itertools
import random
from contextlib import AsyncExitStack, contextmanager

import httpx
import pytest
from gym_plugin_openai_model.model import OpenAIModel, OpenAIModelConfig

from gymcore import EndpointError, Environment, ModelError, Request, RolloutContext, Task
from gymcore.responses import message, text_of
from gymcore.testing.simulated_time import run_in_simulated_time

HELLO = Request(input=(message("Hello.", role="user"),))
ONE, TWO = "http://one.invalid/v1", "http://two.invalid/v1"


def now():
    return asyncio.get_running_loop().time()


class Endpoint:
    """One address: how long it takes, how much it bears, and when it does what instead of answering."""

    def __init__(self, latency_s=1.0, capacity=10**9, headers=None):
        self.latency_s, self.capacity, self.headers = latency_s, capacity, headers or {}
        self.troubles = []
        self.requests = []
        self.in_flight = self.most_in_flight = self.replies = 0

    def trouble(self, begin, end, what):
        """From `begin` to `end` seconds: a status, or "refused", "reset", "hang", or a function that decides."""
        self.troubles.append((begin, end, what))
        return self

    def during(self, begin, end):
        return sum(begin <= at < end for at in self.requests)

    async def answer(self):
        self.requests.append(now())
        [what] = [what for begin, end, what in self.troubles if begin <= now() < end] or [None]
        if callable(what):
            what = what()
        if what == "refused":
            raise httpx.ConnectError("[Errno 111] Connection refused")
        if what is None and self.in_flight >= self.capacity:
            what = 429
        if isinstance(what, int):
            return httpx.Response(what, json={"error": {"message": "scripted"}}, headers=self.headers)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(10**9 if what == "hang" else self.latency_s)
        finally:
            self.in_flight -= 1
        # Whoever is being answered when the endpoint goes down gets nothing.
        if what == "reset" or any(begin <= now() < end for begin, end, what in self.troubles if what == "refused"):
            raise httpx.ReadError("Connection reset by peer")
        if what == "html":
            return httpx.Response(200, text="<html>")
        self.replies += 1
        return httpx.Response(200, json={"output": [message("Hi.")]})


class Web(httpx.AsyncBaseTransport):
    """Every address of a test."""

    def __init__(self, **endpoints):
        self.endpoints = endpoints

    async def handle_async_request(self, request):
        return await self.endpoints[request.url.host.partition(".")[0]].answer()


class StopWatch:
    """The clock of a rollout: how long it stood."""

    waited_s = 0.0

    @contextmanager
    def stopped(self):
        began = now()
        yield
        self.waited_s += now() - began


def rollout(number=0):
    task = Task(responses_create_params={"input": "Hello."})
    return RolloutContext(Environment(task), ("hello", "hello/0", number), 0, AsyncExitStack(), clock=StopWatch())


class Run:
    """Rollouts of some calls each, played by some workers; a failed call ends its rollout."""

    def __init__(self, web=None, base_url=ONE, seed=0, **options):
        self.web = web
        self.options, self.base_url, self.seed = options, base_url, seed
        self.finished, self.failed, self.failures = [], [], []
        self.told = {}

    def play(self, rollouts, *, workers, calls=4, look_at=()):
        run_in_simulated_time(self._play(rollouts, workers, calls, look_at))
        return self

    async def _play(self, rollouts, workers, calls, look_at):
        self.model = OpenAIModel(
            OpenAIModelConfig(base_url=self.base_url, **self.options),
            transport=self.web,
            clock=lambda: 1_750_000_000.0 + now(),
            steady=now,
            random=random.Random(self.seed).random,
        )
        pending = iter(range(rollouts))

        async def work():
            for number in pending:
                player = rollout(number)
                try:
                    for _ in range(calls):
                        await self.model.respond(HELLO, player)
                except ModelError as error:
                    self.failed.append(player)
                    self.failures.append(error)
                else:
                    self.finished.append(player)

        async def look():
            for moment in look_at:
                await asyncio.sleep(moment - now())
                self.told[moment] = self.model.status()

        async with self.model.opened():
            looking = asyncio.create_task(look())
            playing = [asyncio.create_task(work()) for _ in range(workers)]
            try:
                await asyncio.gather(*playing)
            finally:
                for task in playing:
                    task.cancel()
                await asyncio.gather(*playing, return_exceptions=True)
                self.took_s = now()
                looking.cancel()


# -- throttling ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("capacity", "share"), [(32, 1.25), (10, 1.25), (1, 1.35), (200, 1.25)])
def test_an_endpoint_with_little_capacity_is_not_stormed(capacity, share):
    """
    With 256 in flight and room for few, at most 1.25 requests are sent for each reply, and the room is used.
    """
    endpoint = Endpoint(capacity=capacity)
    rollouts = 256 if capacity == 1 else 512
    run = Run(Web(one=endpoint), timeout_s=60).play(rollouts, workers=256)

    assert len(run.finished) == rollouts
    assert len(endpoint.requests) <= share * endpoint.replies
    assert run.took_s <= 1.35 * endpoint.replies * endpoint.latency_s / capacity
    assert max(player.attempts for player in run.finished) < 60


def test_a_pause_that_is_asked_for_holds_for_everybody():
    """
    When one call is told to come back in 30 s, no other is sent in that time either.
    """
    endpoint = Endpoint(headers={"Retry-After": "30"}).trouble(10.2, 10.4, 429)
    answered = iter([429])
    endpoint.troubles[0] = (10.0, 11.0, lambda: next(answered, None))
    run = Run(Web(one=endpoint)).play(64, workers=16, look_at=[20.0])

    assert len(run.finished) == 64
    [asked] = [at for at in endpoint.requests if 10.0 <= at < 11.0][:1]
    assert endpoint.during(asked + 0.001, asked + 30.0) <= 16  # sent in the same instant, before the answer came
    assert "asks everybody to wait, for another 20 s; 16 calls wait" in run.told[20.0]


def test_capacity_is_used_although_every_refusal_costs_a_pause():
    """
    An endpoint that answers 429 with `Retry-After: 1` is seldom given a reason to.
    """
    endpoint = Endpoint(latency_s=0.2, capacity=32, headers={"Retry-After": "1"})
    run = Run(Web(one=endpoint)).play(2000, workers=256)

    assert len(run.finished) == 2000
    assert len(endpoint.requests) <= 1.25 * endpoint.replies
    assert run.took_s <= 2 * endpoint.replies * endpoint.latency_s / endpoint.capacity


def test_a_quota_that_is_used_up_ends_the_run_and_not_its_rollouts():
    """
    Where everybody is told to come back tomorrow, the run stops when the patience is over, having asked rarely.
    """
    endpoint = Endpoint(headers={"Retry-After": "86400"}).trouble(10.0, 1e9, 429)
    run = Run(Web(one=endpoint), patience_s=1800)
    with pytest.raises(EndpointError, match=r"no reply since \d\d:\d\d:\d\d, for longer than 1800 s") as caught:
        run.play(200, workers=16)

    assert run.failed == []
    assert endpoint.during(11.0, 1e9) <= 40
    assert "status 429" in caught.value.message
    assert 1800 < run.took_s < 10 + 1800 + 300 + 5


AT_RANDOM = list(itertools.product((0.06, 0.15, 0.3), (429, 503), ({}, {"Retry-After": "0"})))
QUICK = [AT_RANDOM[0], AT_RANDOM[6], AT_RANDOM[11]]
"""Each share, each status and each header at least once; all together are more than a second each."""


@pytest.mark.parametrize(
    ("share", "status", "headers"),
    [pytest.param(*values, marks=[] if values in QUICK else pytest.mark.rig) for values in AT_RANDOM],
)
def test_throttling_that_has_nothing_to_do_with_load_does_not_slow_the_run_down(share, status, headers):
    """
    Where a share of all requests is refused whatever is in flight, cutting is of no use, and is undone.
    """
    chance = random.Random(1)
    endpoint = Endpoint(headers=headers).trouble(0.0, 1e9, lambda: status if chance.random() < share else None)
    run = Run(Web(one=endpoint), max_retries=20).play(1600, workers=64)

    ideal_s = 1600 * 4 / 64
    assert len(run.finished) == 1600
    assert run.took_s <= 2.5 * ideal_s


def test_load_is_still_found_out_where_some_is_refused_by_chance():
    """
    An endpoint with room for 32 that also refuses one request in ten whatever is in flight: both are respected.
    """
    chance = random.Random(4)
    endpoint = Endpoint(capacity=32).trouble(0.0, 1e9, lambda: 429 if chance.random() < 0.1 else None)
    run = Run(Web(one=endpoint)).play(1000, workers=256)

    assert len(run.finished) == 1000
    assert len(endpoint.requests) <= 1.6 * endpoint.replies
    assert run.took_s <= 2.5 * endpoint.replies / 32


def test_an_endpoint_that_never_throttles_is_never_limited():
    """
    A thousand calls in flight run at the full speed of the endpoint.
    """
    endpoint = Endpoint(latency_s=1.0)
    run = Run(Web(one=endpoint)).play(2000, workers=1000)

    assert endpoint.most_in_flight == 1000
    assert run.took_s == pytest.approx(8.0)
    assert {player.clock.waited_s for player in run.finished} == {0.0}


# -- outages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "workers"),
    [
        *(("refused", workers) for workers in (1, 8, 256)),
        *((what, workers) for what, workers in zip(("reset", "hang", 500, 502, 503), (1, 8, 64, 1, 8), strict=True)),
        *(
            pytest.param(what, workers, marks=pytest.mark.rig)
            for what, few in zip(("reset", "hang", 500, 502, 503), (1, 8, 64, 1, 8), strict=True)
            for workers in (1, 8, 64)
            if workers != few
        ),
    ],
)
def test_an_outage_of_a_minute_costs_no_rollout(what, workers):
    """
    Whatever an outage looks like: the run completes, and during the minute at most 60 requests are made.
    """
    endpoint = Endpoint().trouble(20.0, 80.0, what)
    rollouts = 10 * workers
    run = Run(Web(one=endpoint), timeout_s=10).play(rollouts, workers=workers, look_at=[50.0])

    # What was sent within the first second could not know better yet.
    assert endpoint.during(21.0, 80.0) <= 60
    if workers > 1 or what == "refused":
        assert len(run.finished) == rollouts
        assert "http://one.invalid/v1/responses is down since " in run.told[50.0]
        assert run.took_s <= 80 + 60 + 60 + 15
    else:  # so many faults in a row cannot come from one call, which may be to blame itself
        assert len(run.failed) <= 4
        assert all(error.retryable for error in run.failures)


def test_time_at_a_closed_gate_is_not_the_rollouts_own():
    """
    While an endpoint is down, the clock of every rollout stands.
    """
    endpoint = Endpoint().trouble(20.5, 620.5, "refused")
    run = Run(Web(one=endpoint)).play(160, workers=16)

    assert len(run.finished) == 160
    hit = [player.clock.waited_s for player in run.finished if player.clock.waited_s]
    assert len(hit) == 16
    assert min(hit) > 590


def test_an_endpoint_that_stays_down_ends_the_run_resumably():
    """
    After `patience_s` the run stops, says since when the endpoint is down, and has lost no rollout.
    """
    endpoint = Endpoint().trouble(20.5, 1e9, "refused")
    run = Run(Web(one=endpoint), patience_s=1800)
    with pytest.raises(EndpointError, match=r"no reply since \d\d:\d\d:\d\d, for longer than 1800 s") as caught:
        run.play(1600, workers=16, look_at=[600.0])

    assert run.failed == []
    assert run.took_s == pytest.approx(1820.5, abs=1)
    assert endpoint.during(22.0, 1e9) <= 100
    assert "connection refused" in caught.value.message.lower()
    assert "the same command" in str(caught.value)
    assert "16 calls wait, next try in" in run.told[600.0]


@pytest.mark.parametrize("what", ["refused", 401, 404])
@pytest.mark.parametrize("begin", [0.0, 100.0])
def test_an_endpoint_that_was_of_no_use_is_asked_again_later(what, begin):
    """
    A run ends with that; a server is told for ten seconds, and answers again once somebody has mended the endpoint.
    """
    endpoint = Endpoint().trouble(begin, begin + 60.0, what)
    told = []

    async def play():
        run = Run(Web(one=endpoint), patience_s=5)
        model = OpenAIModel(OpenAIModelConfig(base_url=ONE, patience_s=5), transport=run.web, clock=now, steady=now)
        async with model.opened():
            for moment in (*((50.0,) if begin else ()), begin + 0.5, begin + 15.0, begin + 30.0, begin + 90.0):
                await asyncio.sleep(max(0.0, moment - now()))
                try:
                    await model.respond(HELLO, rollout())
                except (EndpointError, ModelError) as error:
                    told.append(type(error).__name__)
                else:
                    told.append("answered")

    run_in_simulated_time(play())

    assert told[-1] == "answered"
    if begin and what == 404:  # an endpoint that has answered knows its path, so this is one call's mistake
        assert told == ["answered", *["ModelError"] * 3, "answered"]
    else:
        assert told[-4:-1] == ["EndpointError"] * 3


def test_a_call_that_breaks_the_endpoint_does_not_stop_the_run():
    """
    Calls that are answered with 500 whenever they are asked fail one by one; the others are played.
    """
    broken = random.Random(5)
    endpoint = Endpoint(latency_s=0.1).trouble(0.0, 1e9, lambda: 500 if broken.random() < 0.5 else None)
    run = Run(Web(one=endpoint), max_retries=0).play(400, workers=8, calls=1)

    assert len(run.finished) + len(run.failed) == 400
    assert len(run.finished) > 150


@pytest.mark.parametrize(("share", "told"), [(0.55, "gives more faults than replies"), (0.7, "is down since")])
def test_an_endpoint_that_mostly_fails_is_spared(share, told):
    """
    Where most requests fail, retries do not exceed replies, and every call ends within its tries.
    """
    chance = random.Random(1)
    endpoint = Endpoint().trouble(0.0, 1e9, lambda: 500 if chance.random() < share else None)
    run = Run(Web(one=endpoint)).play(500, workers=250, calls=1, look_at=range(5, 60))

    retries = len(endpoint.requests) - 500
    assert len(run.finished) + len(run.failed) == 500
    assert len(run.finished) > 400
    assert all(error.retryable for error in run.failures)
    assert any(told in str(status) for status in run.told.values())
    assert retries <= endpoint.replies + 11 + run.took_s


def test_a_third_of_all_requests_failing_costs_almost_no_rollout():
    """
    With 30 % mixed faults every rollout ends, next to none fails, and retries do not exceed what is needed.
    """
    chance = random.Random(2)

    def trouble():
        return chance.choice([500, 429, "reset", "html", "hang"]) if chance.random() < 0.3 else None

    endpoint = Endpoint(latency_s=0.2).trouble(0.0, 1e9, trouble)
    run = Run(Web(one=endpoint), timeout_s=5).play(2000, workers=64, calls=2)

    assert len(run.finished) + len(run.failed) == 2000
    assert len(run.failed) <= 20
    assert len(endpoint.requests) <= 1.5 * endpoint.replies


@pytest.mark.parametrize("seed", range(5))
def test_gives_way_in_order_and_leaves_nothing_behind(seed):
    """
    Calls that wait for room are let through in the order in which they came, whoever is cancelled meanwhile.
    """
    endpoint = Endpoint()
    order = []
    chance = random.Random(seed)

    async def work():
        run = OpenAIModel(
            OpenAIModelConfig(base_url=ONE, max_concurrent_requests=1), transport=Web(one=endpoint), steady=now
        )

        async def ask(number):
            await run.respond(HELLO, rollout(number))
            order.append(number)

        async with run.opened():
            asking = [asyncio.create_task(ask(number)) for number in range(60)]
            for _ in range(20):
                await asyncio.sleep(3 * chance.random())
                chance.choice(asking).cancel()
            await asyncio.gather(*asking, return_exceptions=True)
            gate = next(iter(run._endpoints)).gate
            assert gate.in_flight == 0
            assert gate.pass_at_once() is not None

    run_in_simulated_time(work())

    assert order == sorted(order)
    assert len(order) > 40
    assert endpoint.most_in_flight == 1


# -- several addresses -----------------------------------------------------------------------------------------------


def test_rollouts_leave_an_address_that_is_down_and_it_comes_back():
    """
    Of two addresses one is down for a while: nobody waits for it, none fails, and later it has its share again.
    """
    one, two = Endpoint(), Endpoint().trouble(10.5, 60.5, "refused")
    run = Run(Web(one=one, two=two), base_url=[ONE, TWO]).play(400, workers=16)

    assert len(run.finished) == 400
    assert run.took_s == pytest.approx(400 * 4 / 16, abs=8)
    assert two.during(12.0, 60.0) <= 20
    assert two.during(80.0, 95.0) > 50


def test_both_addresses_down_is_an_outage():
    """
    When all addresses are down, calls wait for whichever comes back first.
    """
    one, two = Endpoint().trouble(10.5, 5000.0, "refused"), Endpoint().trouble(12.5, 60.5, "refused")
    run = Run(Web(one=one, two=two), base_url=[ONE, TWO]).play(200, workers=16, look_at=[40.0])

    assert len(run.finished) == 200
    assert one.during(14.0, 60.0) + two.during(14.0, 60.0) <= 60
    assert run.told[40.0].count("is down since") == 2


def test_whoever_waits_at_one_address_hears_that_another_is_back():
    """
    Calls do not wait for the next probe of their own address once another has answered.
    """
    one, two = Endpoint().trouble(200.5, 5000.0, "refused"), Endpoint().trouble(200.5, 260.5, "refused")
    run = Run(Web(one=one, two=two), base_url=[ONE, TWO]).play(1000, workers=16)

    back = min(at for at in two.requests if at >= 260.5)
    assert len(run.finished) == 1000
    # Four calls the second after, then eight, then all sixteen: nobody is missing.
    assert two.during(back + 3.5, back + 9.5) >= 6 * 14


def test_a_key_that_one_address_refuses_ends_only_that_address():
    """
    An address that begins to answer 401 is left; when the other does too, the run ends.
    """
    one, two = Endpoint().trouble(50.5, 1e9, 401), Endpoint().trouble(10.5, 1e9, 401)
    run = Run(Web(one=one, two=two), base_url=[ONE, TWO])
    with pytest.raises(EndpointError, match="refuses the key: status 401"):
        run.play(1000, workers=16, look_at=[30.0])

    assert run.failed == []
    assert two.during(11.6, 1e9) == 0
    assert "two.invalid/v1/responses is not asked any more (it refuses the key" in run.told[30.0]
    assert run.took_s == pytest.approx(51.0, abs=1)


def test_a_key_that_is_refused_in_the_middle_ends_the_run():
    """
    With one address, a key that expires stops the run at once.
    """
    endpoint = Endpoint().trouble(10.5, 1e9, 401)
    run = Run(Web(one=endpoint))
    with pytest.raises(EndpointError, match="refuses the key: status 401") as caught:
        run.play(1000, workers=16)

    assert endpoint.during(11.5, 1e9) == 0
    assert caught.value.has_worked  # so that what needs no more replies may finish


@pytest.mark.parametrize("what", [401, 403, 404, "refused"])
def test_what_is_wrong_from_the_start_loses_nothing_by_stopping_at_once(what):
    """
    The error says that no reply has ever come, and comes within five seconds.
    """
    endpoint = Endpoint().trouble(0.0, 1e9, what)
    run = Run(Web(one=endpoint))
    with pytest.raises(EndpointError) as caught:
        run.play(100, workers=16)

    assert not caught.value.has_worked
    assert run.took_s <= 5.0


def test_an_address_that_swallows_everything_is_told_in_five_seconds():
    """
    Nobody refuses the connection and nobody accepts it: with the options as they are, the run ends as soon.
    """

    class BlackHole(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request):
            await asyncio.sleep(request.extensions["timeout"]["connect"])
            raise httpx.ConnectTimeout("")

    run = Run(BlackHole())
    with pytest.raises(EndpointError, match=r"cannot be reached: no connection within 5 s \(connect_timeout_s\)"):
        run.play(100, workers=16)

    assert run.took_s == pytest.approx(5.0)


def test_a_connection_that_is_late_among_many_ends_no_run():
    """
    Where another was made before, the address is no wrong one, although nothing was answered yet.
    """

    async def ask():
        async def answer(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            is_asked.set()
            await may_answer.wait()
            body = b'{"output": [{"type": "message", "role": "assistant", "content": "Hello."}]}'
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
            writer.close()

        is_asked, may_answer = asyncio.Event(), asyncio.Event()
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        model = OpenAIModel(OpenAIModelConfig(base_url=f"http://127.0.0.1:{port}/v1"))
        async with model.opened():
            first = asyncio.create_task(model.respond(HELLO, rollout()))
            await is_asked.wait()
            server.close()  # as a listener whose backlog is full
            second = asyncio.create_task(model.respond(HELLO, rollout(1)))
            breaker = next(iter(model._endpoints)).gate.breaker
            while breaker.since is None:  # noqa: ASYNC110, nobody would set an event
                await asyncio.sleep(0.01)
            assert not breaker.is_open
            may_answer.set()
            said = await first
            again = await asyncio.start_server(answer, "127.0.0.1", port)
            said = [said, await second]
            again.close()
            return said

    replies = asyncio.run(asyncio.wait_for(ask(), 60))

    assert [text_of(reply.output[0]) for reply in replies] == ["Hello."] * 2


def test_whoever_asks_after_a_refusal_hears_the_same_error():
    """
    A rollout that comes back from its tool and needs another reply is told what the first was told.
    """
    endpoint = Endpoint().trouble(10.0, 1e9, 401)

    async def ask():
        model = OpenAIModel(OpenAIModelConfig(base_url=ONE), transport=Web(one=endpoint), steady=now)
        async with model.opened():
            early = rollout()
            await model.respond(HELLO, early)
            await asyncio.sleep(10)
            both = await asyncio.gather(
                model.respond(HELLO, rollout(1)), model.respond(HELLO, rollout(2)), return_exceptions=True
            )
            return [*both, *await asyncio.gather(model.respond(HELLO, early), return_exceptions=True)]

    errors = run_in_simulated_time(ask())

    assert [(type(error), error.has_worked) for error in errors] == [(EndpointError, True)] * 3
    assert len({str(error) for error in errors}) == 1
    assert len(endpoint.requests) <= 3


def test_one_forbidden_request_is_not_a_refused_key():
    """
    A 403 for what a single request holds fails its rollout; three in a row end the run.
    """
    forbidden = iter([403, None, 403, 403])
    endpoint = Endpoint(latency_s=0.0).trouble(10.0, 11.0, lambda: next(forbidden, None))

    async def ask(run):
        model = OpenAIModel(OpenAIModelConfig(base_url=ONE), transport=Web(one=endpoint), steady=now)
        outcomes = []
        async with model.opened():
            await model.respond(HELLO, rollout())
            await asyncio.sleep(10.2)
            for _ in range(4):
                outcomes += await asyncio.gather(model.respond(HELLO, rollout()), return_exceptions=True)
            endpoint.trouble(20.0, 1e9, 403)
            await asyncio.sleep(10)
            for _ in range(3):
                outcomes += await asyncio.gather(model.respond(HELLO, rollout()), return_exceptions=True)
        return outcomes

    outcomes = run_in_simulated_time(ask(None))

    kinds = [type(outcome).__name__ for outcome in outcomes]
    assert kinds[:4] == ["ModelError", "Response", "ModelError", "ModelError"]
    assert kinds[4:] == ["EndpointError"] * 3
    assert text_of(outcomes[1].output[0]) == "Hi."
