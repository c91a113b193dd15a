"""
The client itself: the transports that may carry its requests.
"""

from __future__ import annotations

import asyncio
import importlib.util
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gym_plugin_nemo_gym.session import Session
from gym_plugin_nemo_gym.wire import Patience, ServerUnavailable, Wire, over_tcp, over_unix_socket

from .conftest import Answer, Heard

LOOPS = [asyncio.new_event_loop]
if importlib.util.find_spec("uvloop"):
    import uvloop

    LOOPS.append(uvloop.new_event_loop)

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


@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.__module__)
def test_a_connection_that_is_lost_at_once_is_a_server_that_is_gone(loop: Callable[[], Any]) -> None:
    """
    A server that is killed resets what it has not accepted yet, in whatever moment of beginning that is.
    """

    def reset_all() -> None:
        while not is_over.is_set():
            connection, _ = listening.accept()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()

    async def ask(wire: Wire) -> BaseException | None:
        line = wire.line()
        try:
            await line.send("seed_session", b"{}", most_bytes=100)
        except Exception as error:
            return error
        finally:
            await line.aclose()
        return None

    async def ask_often(url: str) -> list[BaseException | None]:
        wire = Wire(url, over_tcp(), Patience(retries=0))
        return [error for _ in range(20) for error in await asyncio.gather(*(ask(wire) for _ in range(20)))]

    is_over = threading.Event()
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listening:
        thread = threading.Thread(target=reset_all)
        thread.start()
        try:
            with asyncio.Runner(loop_factory=loop) as runner:
                found = runner.run(ask_often(f"http://127.0.0.1:{listening.getsockname()[1]}"))
        finally:
            is_over.set()
            socket.create_connection(listening.getsockname()).close()
            thread.join()

    assert [error for error in found if not isinstance(error, ServerUnavailable)] == []
