"""
A server of `remote` that is gone while rollouts begin: who waits for it, for how long, and what is said.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from gym_plugin_nemo_gym.remote.environment import Remote, RemoteConfig
from gym_plugin_nemo_gym.remote.outage import Outage
from gym_plugin_nemo_gym.served import ServedTask
from gym_plugin_nemo_gym.wire import Patience, ServerUnreachable, Wire, over_tcp

from gymcore import EndpointError

from .conftest import Answer, Heard, Server

Serving = Callable[..., Server]

ROW = {"responses_create_params": {"input": "Add."}}


class Far:
    """
    Rollouts with a server, and a clock that only waiting moves.

    Attributes:
        now: What the clock says.
        said: What a person was told.
        events: What happens at which time, while somebody waits.
    """

    def __init__(self, url: str, patience_s: float) -> None:
        self.now = 0.0
        self.said: list[str] = []
        self.events: dict[float, Callable[[], object]] = {}
        self._config = RemoteConfig(url=url, patience_s=patience_s)
        self.wire = Wire(
            url, over_tcp(), Patience(retries=0), sleep=self._sleep, chance=lambda: 1.0, clock=lambda: self.now
        )
        self.outage = Outage(self.wire, patience_s, self.said.append)

    async def _sleep(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            await asyncio.sleep(0)
            self.now = min([until, *(moment for moment in self.events if self.now < moment)])
            if self.now in self.events:
                self.events.pop(self.now)()

    def rollout(self) -> Remote:
        """Return one rollout, which is not open yet."""
        return Remote(ServedTask.model_validate(ROW), self._config, resources=self.outage)

    async def begin(self) -> None:
        """Open one rollout, and close it."""
        environment = self.rollout()
        try:
            await environment.open()
        finally:
            await environment.close()


def _play(far: Far, work: Callable[[Far], Any]) -> None:
    async def playing() -> None:
        try:
            await work(far)
        finally:
            await far.wire.aclose()

    asyncio.run(playing())


def test_a_person_is_told_that_a_server_is_waited_for_and_when_it_answers(serving: Serving) -> None:
    """
    One line each, however many rollouts wait.
    """
    server = serving(lambda heard: Answer())
    far = Far(server.url, 86_400.0)
    server.go()
    far.events[7.0] = lambda: server.come_back(0.0)

    async def begin_many(far: Far) -> None:
        await asyncio.gather(*(far.begin() for _ in range(5)))

    _play(far, begin_many)

    assert len(far.said) == 2
    assert far.said[0].startswith(f"nobody could be asked at {server.url}: ConnectError")
    assert far.said[0].endswith("; waiting for it, up to 86400 s")
    assert far.said[1] == f"{server.url} answers again"


def test_an_outage_that_nobody_saw_end_is_forgotten(serving: Serving) -> None:
    """
    Whoever comes later has the whole patience, and the message tells how long he has waited.
    """
    server = serving(lambda heard: Answer())
    far = Far(server.url, 10.0)
    server.go()

    async def begin_twice(far: Far) -> None:
        with pytest.raises(ServerUnreachable):  # a tool call, say
            await far.wire.line().send("add", b"{}", most_bytes=10)
        with pytest.raises(EndpointError, match="that is so for 10 s, and patience_s is 10"):
            await far.begin()
        far.now = 100.0
        with pytest.raises(EndpointError, match="that is so for 10 s, and patience_s is 10"):
            await far.begin()

    _play(far, begin_twice)

    assert far.now == 110.0
    assert len(far.said) == 1


def test_rollouts_that_begin_one_after_the_other_wait_for_a_server_together(serving: Serving) -> None:
    """
    The patience is that of all of them: who comes late does not wait as long again.
    """
    server = serving(lambda heard: Answer())
    far = Far(server.url, 10.0)
    server.go()
    ended: list[float] = []

    async def begin(far: Far) -> None:
        with pytest.raises(EndpointError):
            await far.begin()
        ended.append(far.now)

    async def begin_late(far: Far) -> None:
        async with asyncio.TaskGroup() as group:
            far.events[6.0] = partial(group.create_task, begin(far))
            group.create_task(begin(far))

    _play(far, begin_late)

    assert len(ended) == 2
    assert max(ended) < 15.0


def test_a_rollout_that_somebody_may_have_begun_waits_no_more(serving: Serving) -> None:
    """
    From the moment that its request goes out: until then nobody can have received it.
    """
    seen: list[bool] = []

    def seed(heard: Heard) -> Answer:
        seen.append(environment.is_waiting)
        return Answer()

    server = serving(seed)
    far = Far(server.url, 86_400.0)
    environment = far.rollout()
    server.go()

    def come_back() -> None:
        seen.append(environment.is_waiting)
        server.come_back(0.0)

    far.events[7.0] = come_back

    async def begin(far: Far) -> None:
        await environment.open()
        seen.append(environment.is_waiting)
        await environment.close()

    _play(far, begin)

    assert seen == [True, False, False]


def test_a_rollout_that_nobody_waits_for_while_it_is_begun_is_closed_over_there(serving: Serving) -> None:
    """
    Its session is there as soon as the server answers, although nobody has the answer.
    """
    cookie = {"set-cookie": "gymcore_session=s1; Path=/"}
    server = serving(lambda heard: Answer(headers=cookie, delay_s=0.5 if heard.path == "/seed_session" else 0.0))
    far = Far(server.url, 10.0)

    async def leave(far: Far) -> None:
        environment = far.rollout()
        opening = asyncio.create_task(environment.open())
        while not server.heard:  # noqa: ASYNC110, a server in another thread
            await asyncio.sleep(0.01)
        opening.cancel()
        await asyncio.wait([opening])
        await environment.close()

    _play(far, leave)

    assert server.paths() == ["/seed_session", "/close_session"]
    assert server.heard[1].headers["cookie"] == "gymcore_session=s1"
