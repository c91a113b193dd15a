"""
The client itself: the transports that may carry its requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gym_plugin_nemo_gym.session import Session
from gym_plugin_nemo_gym.wire import Patience, ServerUnavailable, Wire, over_tcp, over_unix_socket

from .conftest import Answer, Heard

ROW = {"responses_create_params": {"input": "Add."}}


def test_a_rollout_may_go_over_a_unix_socket(serving: Callable[..., Any], tmp_path: Path) -> None:
    """
    The same requests, whatever carries them.
    """

    def behave(heard: Heard) -> Answer:
        return Answer(b'{"reward": 1}' if heard.path == "/verify" else b'"said"', headers={"set-cookie": "s=1"})

    path = str(tmp_path / "socket")
    server = serving(behave, path)

    async def play() -> tuple[str, dict[str, Any]]:
        wire = Wire("http://host", over_unix_socket(path))
        session = Session(wire, ROW)
        await session.seed()
        said = await session.call("say", b"{}")
        scored = await session.verify({"output": []})
        await session.close()
        await wire.aclose()
        return said, scored

    assert asyncio.run(play()) == ('"said"', {"reward": 1})
    assert server.paths() == ["/seed_session", "/say", "/verify"]
    server.wait_until_closed()


def test_waits_between_tries_grow_and_have_an_end() -> None:
    """
    A server that is never there is asked as often as it was said, and no more.
    """
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async def ask() -> None:
        patience = Patience(connect_s=1.0, request_s=1.0, retries=7)
        wire = Wire("http://127.0.0.1:1", over_tcp(), patience, sleep=sleep, chance=lambda: 1.0)
        with pytest.raises(ServerUnavailable, match="nobody could be asked at http"):
            await wire.line().send("add", b"{}", most_bytes=10)
        await wire.aclose()

    asyncio.run(ask())
    assert waits == [0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0]


def test_who_leaves_takes_the_connection_along(serving: Callable[..., Any]) -> None:
    """
    A call whose rollout is cancelled leaves nothing open.
    """
    server = serving(lambda heard: Answer(sends="nothing"))

    async def leave() -> None:
        wire = Wire(server.url, over_tcp())
        asking = asyncio.create_task(wire.line().send("add", b"{}", most_bytes=10))
        await asyncio.to_thread(server.wait_until_asked)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await asyncio.to_thread(server.wait_until_closed)
        await wire.aclose()

    asyncio.run(leave())
