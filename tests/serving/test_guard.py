"""
Who may ask, from which page, how much, and for how long; and that no answer tells what a client need not know.
"""

from __future__ import annotations

import asyncio
import gc
import io
import json
import socket
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from click import IntRange
from starlette.requests import Request
from starlette.responses import Response as Answer
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from gymcore import Environment, Model, Response, Trajectory
from gymcore.cli.serve import command
from gymcore.collection import Journal
from gymcore.composition import Composition
from gymcore.errors import RequestError
from gymcore.responses import message
from gymcore.serving import Address, bind
from gymcore.serving.app import LONGEST_PAUSE_S, _read_episode, application
from gymcore.serving.collected import IN_MEMORY, _take, received
from gymcore.serving.guard import BODY_S, HELD_BYTES, SLOW_S, SMALL_BYTES, STALL_S, Guard, is_loopback
from gymcore.serving.models import read_asked, read_chat
from gymcore.serving.protocol import TAKE_S, TCP_INFO, BoundedProtocol
from gymcore.serving.refusals import Refusal
from gymcore.serving.rows import read_row
from gymcore.serving.server import answering, opened
from gymcore.serving.steps import read_turn
from gymcore.testing.simulated_time import run_in_simulated_time

from .conftest import no_garbage_collected, refusing_s, until

Composed = Callable[..., Composition]
Serving = Callable[..., Any]

TOKEN = "a-token-of-enough-letters"


class Says(Model):
    """A policy that answers at once."""

    async def respond(self, request: Any, rollout: Any) -> Response:
        return Response(output=[message("hi")])


class World(Environment):
    """One that is content."""

    def verify(self, trajectory: Trajectory) -> float:
        return 1.0


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:9", 200),
        ("127.0.0.1.", 200),
        ("localhost", 421),
        ("evil.example", 421),
        ("", 421),
        ("127.0.0.1.evil.example", 421),
        ("[127.0.0.1]evil", 421),
        ("user@127.0.0.1", 421),
        ("127.0.0.1:1/evil", 421),
    ],
)
async def test_only_its_own_names_reach_the_server(composed: Composed, wire: Serving, host: str, status: int) -> None:
    """
    A page in a browser can make a name of its own lead to this machine, and not choose the header that names it.
    """
    async with wire(composed({"a": (World, 1)}, Says), hosts={"127.0.0.1"}) as served:
        reply = await served.client.get("/", headers={"host": host})

    assert reply.status_code == status


@pytest.mark.parametrize(
    ("origin", "status"), [("http://127.0.0.1:1", 200), ("http://evil.example", 403), ("null", 403), ("", 403)]
)
async def test_pages_of_other_origins_are_refused(composed: Composed, wire: Serving, origin: str, status: int) -> None:
    """
    There is no CORS: what a browser sends for another page is not even read.
    """
    async with wire(composed({"a": (World, 1)}, Says)) as served:
        reply = await served.client.post("/run", json=served.rows()[0], headers={"origin": origin})
        asked = await served.client.options("/run", headers={"origin": origin})

    assert reply.status_code == status
    assert not any(name.startswith("access-control") for name in (*reply.headers, *asked.headers))


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ({"authorization": f"Bearer {TOKEN}"}, 200),
        ({"authorization": f"Bearer {TOKEN}x"}, 401),
        ({"authorization": f"Bearer {TOKEN[:-1]}"}, 401),
        ({"authorization": "Bearer x"}, 401),
        ({"authorization": TOKEN}, 401),
        ({"x-api-key": TOKEN}, 200),
        ({"x-api-key": TOKEN, "authorization": "Bearer x"}, 200),
        ({"x-api-key": f"Bearer {TOKEN}"}, 401),
        ({"x-api-key": ""}, 401),
        ({}, 401),
    ],
)
async def test_where_a_token_is_asked_for_nothing_is_told_without_it(
    composed: Composed, wire: Serving, header: dict[str, str], status: int
) -> None:
    """
    Not even what is served.
    """
    async with wire(composed({"a": (World, 1)}, Says), hosts=None, token=TOKEN) as served:
        for path in ("/", "/openapi.json", "/global_config_dict_yaml", "/v1/nothing"):
            reply = await served.client.get(path, headers=header)
            assert reply.status_code == (404 if path == "/v1/nothing" and status == 200 else status)


@pytest.mark.parametrize("length", [None, "99999999999", "-1", "x"])
async def test_a_body_that_is_too_long_is_not_read(composed: Composed, wire: Serving, length: str | None) -> None:
    """
    Whether it says so or not.
    """

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b" " * 1000

    async with wire(composed({"a": (World, 1)}, Says), body_bytes=10_000) as served:
        headers = {} if length is None else {"content-length": length}
        content: Any = endless() if length is None else b"{}"
        reply = await served.client.post("/run", content=content, headers=headers)

    assert reply.status_code == 413


@pytest.mark.parametrize(
    ("host", "is_inside"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False)],
)
def test_others_are_let_in_only_with_a_token(host: str, is_inside: bool) -> None:
    """
    An address that other machines reach is refused without one.
    """
    assert is_loopback(host) is is_inside
    assert Address(host, token=TOKEN).token == TOKEN
    if not is_inside:
        with pytest.raises(RequestError, match="no token keeps them out"):
            Address(host)


@pytest.mark.parametrize(
    "token", ["", "short", "with spaces in it, which end it", "ünïcödé-ünïcödé-ünïcödé", "from-a-file-as-it-is\n"]
)
def test_a_token_that_cannot_be_sent_or_can_be_guessed_is_refused(token: str) -> None:
    """
    It must fit into a header, and be long.
    """
    with pytest.raises(RequestError, match="at least 16"):
        Address("0.0.0.0", token=token)


@pytest.mark.parametrize("name", ["trainer", "Trainer-1.example", "10.0.0.7", "fe80::1"])
def test_a_further_name_is_one_that_a_client_can_say(name: str) -> None:
    """
    Whatever its case.
    """
    assert name.lower() in (Address(names=[name]).hosts() or ())


@pytest.mark.parametrize("name", ["", "trainer:8000", "trainer.", "http://trainer", "two words", "[fe80::1]", "a/b"])
def test_a_name_under_which_nobody_can_call_is_refused(name: str) -> None:
    """
    Before every client gets 421.
    """
    with pytest.raises(RequestError, match="that is no name of a host"):
        Address(names=[name])


def test_a_port_that_is_taken_is_told_so() -> None:
    """
    With what to try.
    """
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RequestError, match="the port is taken") as raised, bind(Address(port=port)):
            pass

    assert raised.value.where == f"127.0.0.1:{port}"
    assert "--port 0" in str(raised.value)


async def test_no_secret_stands_in_any_answer(composed: Composed, wire: Serving) -> None:
    """
    What the head tells holds names and the address, and no option of any plugin.
    """
    from pydantic import SecretStr

    from gymcore.interfaces import Config

    class Secret(Config):
        api_key: SecretStr = SecretStr("sk-very-secret")
        base_url: str = "http://user:password@inner.example/v1"

    class Keyed(Says):
        config_model = Secret

    async with wire(composed({"a": (World, 1)}, Keyed)) as served:
        texts = [(await served.client.get(path)).text for path in ("/", "/ready", "/health", "/openapi.json")]
        texts += [(await served.client.get(path)).text for path in ("/global_config_dict_yaml", "/server_instances")]
        texts.append((await served.client.get("/v1/models")).text)
        texts.append((await served.post("/run", served.rows()[0])).text)

    assert not any(word in text for text in texts for word in ("secret", "password", "inner.example"))


# -- what only a real connection shows --------------------------------------------------------------------------------


@asynccontextmanager
async def listening(
    composition: Composition, folder: Path, http: type[BoundedProtocol] = BoundedProtocol, **bounds: Any
) -> AsyncIterator[int]:
    """Serve on a port."""
    with Journal(folder) as journal, bind(Address()) as taken:
        async with opened(composition, journal, lambda rollouts: None) as (served, _):
            app = Guard(application(served), hosts={"127.0.0.1"}, token=None, **bounds)
            async with answering(app, taken, http=http):
                yield taken.getsockname()[1]


async def spoken(port: int, *parts: bytes | Callable[[], bool], pause_s: float = 0.0) -> bytes:
    """
    Send bytes, as soon as what stands before them holds, and return what comes until the connection ends.

    On a bare socket: a stream of asyncio forgets what has come when the connection is reset after it.
    """
    loop = asyncio.get_running_loop()
    said = b""
    with socket.socket() as client:
        client.setblocking(False)
        await loop.sock_connect(client, ("127.0.0.1", port))
        with suppress(ConnectionError):
            for part in parts:
                if callable(part):
                    await until(part)
                    continue
                await loop.sock_sendall(client, part)
                await asyncio.sleep(pause_s)
        with suppress(ConnectionError):
            async with asyncio.timeout(60):
                while piece := await loop.sock_recv(client, 2**16):
                    said += piece
    return said


async def test_a_header_that_says_who_asks_stands_once(composed: Composed, tmp_path: Path) -> None:
    """
    Of two, one part of a server might look at the first, and another at the last.
    """
    head = b"GET /health HTTP/1.1\r\nhost: evil.example\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n"
    async with listening(composed({"a": (World, 1)}, Says), tmp_path) as port:
        said = await spoken(port, head)

    assert b"400" in said.split(b"\r\n")[0]


@pytest.mark.parametrize(
    ("further", "told"),
    [
        (b'"x": [' + b'{"a":1},' * 130_000 + b"1]", "objects"),
        (b'"x": {' + b'"":1,' * 260_000 + b'"a":1}', "keys"),
        (b'"x": [' + b"[]," * 260_000 + b"1]", "lists"),
        (b'"x": [' + b'"",' * 1_010_000 + b"1]", "texts"),
        (b'"x": [' + b"1," * 4_010_000 + b"1]", "values"),
    ],
    ids=["objects", "keys", "lists", "texts", "values"],
)
async def test_a_body_of_very_many_parts_is_not_read(
    composed: Composed, wire: Serving, further: bytes, told: str
) -> None:
    """
    A few bytes of each take a hundred times as much, and the time of everybody.
    """
    async with wire(composed({"a": (World, 1)}, Says)) as served:
        row = json.dumps(served.rows()[0])[:-1].encode()
        reply = await served.client.post("/run", content=row + b", " + further + b"}")

    assert reply.status_code == 413
    assert told in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    "further",
    [
        {"prompt_token_ids": [list(range(i, 200_000 + i)) for i in range(5)]},
        {"code": 'x = {"a": [1, 2], "b\\": {}}, ' * 60_000},
    ],
    ids=["tokens", "text"],
)
async def test_many_numbers_and_long_texts_are_read(composed: Composed, wire: Serving, further: dict[str, Any]) -> None:
    """
    Rows hold ids of tokens, and code in which brackets and colons are no parts.
    """
    async with wire(composed({"a": (World, 1)}, Says)) as served:
        reply = await served.post("/run", {**served.rows()[0], **further})

    assert reply.status_code == 200


@pytest.mark.parametrize("names", [[str(number) for number in range(1_001)], ["a" * 201]], ids=["many", "long"])
async def test_rollouts_do_not_measure_very_much(composed: Composed, wire: Serving, names: list[str]) -> None:
    """
    Each number comes back ten times, with its name.
    """
    async with wire(composed({"a": (World, 1)}, Says)) as served:
        reply = await served.post("/aggregate_metrics", {"verify_responses": [dict.fromkeys(names, 1)]})

    assert reply.status_code == 413


async def test_others_are_answered_while_thousands_of_rollouts_are_summed_up(composed: Composed, wire: Serving) -> None:
    """
    However many they are.
    """
    rollouts = [{"_ng_task_index": index, **{str(name): 1 for name in range(20)}} for index in range(8_000)]
    async with wire(composed({"a": (World, 1)}, Says)) as served:
        summing = asyncio.create_task(served.post("/aggregate_metrics", {"verify_responses": rollouts}))
        count = 0
        while not summing.done():
            await served.client.get("/health")
            await asyncio.sleep(0.002)
            count += 1

    assert summing.result().status_code == 200
    assert count > 10


@pytest.mark.parametrize(
    ("path", "refused", "read"),
    [
        ("run", b'{"agent_ref": {"name": "nobody"}, ', read_row),
        ("verify", b'{"response": {}, ', _read_episode),
        ("seed_session", b'{"agent_ref": {"name": "nobody"}, ', read_row),
        ("step", b'{"response": {}, ', lambda body, routes: read_turn(body)),
        ("v1/responses", b'{"input": "x", "temperature": "hot", ', lambda body, routes: read_asked(body)),
        ("v1/chat/completions", b'{"messages": [], ', lambda body, routes: read_chat(body)),
    ],
)
async def test_long_bodies_that_are_refused_get_little_time(
    composed: Composed, wire: Serving, path: str, refused: bytes, read: Callable[..., Any]
) -> None:
    """
    Whatever they are sent to: after one the next waits for many times as long as it took.
    """
    async with wire(composed({"a": (World, 1)}, Says)) as served:
        row = served.rows()[0]
        seeded = await served.post("/seed_session", row) if path == "step" else None
        content = refused + b'"x": [' + b"[]," * 40_000 + b'"' + b"x" * 300_000 + b'"]}'
        headers = {} if seeded is None else {"cookie": seeded.headers["set-cookie"].partition(";")[0]}
        with no_garbage_collected():
            least_s = refusing_s(lambda: read(content, served.served.composition.routes))
            begun = time.monotonic()
            reply = await served.client.post(f"/{path}", content=content, headers=headers)
            fine = await served.post("/run", {**row, "x": "x" * 300_000})
            took_s = time.monotonic() - begun

    assert 400 <= reply.status_code < 500
    assert fine.status_code == 200
    assert took_s > min(10 * least_s, LONGEST_PAUSE_S)


async def test_a_request_that_is_cut_off_by_the_end_is_told_so(composed: Composed, tmp_path: Path) -> None:
    """
    In JSON, with a status, and without a traceback.
    """

    class Slow(World):
        async def open(self) -> None:
            await asyncio.sleep(30)

    with Journal(tmp_path) as journal, bind(Address()) as taken:
        port = taken.getsockname()[1]
        async with opened(composed({"a": (Slow, 1)}, Says), journal, lambda rollouts: None) as (served, _):
            row = json.dumps(next(iter(served.composition.dataset)).value).encode()
            head = b"POST /seed_session HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: %d\r\n\r\n" % len(row)
            app = Guard(application(served), hosts={"127.0.0.1"}, token=None, held_bytes=len(row) * 3 // 2)
            async with answering(app, taken):
                # The second finds no room beside the first.
                asked = [asyncio.create_task(spoken(port, head + row)) for _ in range(2)]
                await until(lambda: len(served.sessions) == 1 and len(app._room._waiting) == 1)
            said = [await one for one in asked]

    assert [b"503" in one.split(b"\r\n")[0] for one in said] == [True, True]
    assert all(json.loads(one.rpartition(b"\r\n\r\n")[2])["error"]["message"] for one in said)


async def test_a_head_without_end_is_refused(composed: Composed, tmp_path: Path) -> None:
    """
    Headers that go on and on are read no further than a bound.
    """
    async with listening(composed({"a": (World, 1)}, Says), tmp_path) as port:
        said = await spoken(port, b"GET / HTTP/1.1\r\n", b"x-a: " + b"y" * 70_000 + b"\r\n", pause_s=0.05)

    assert b"431" in said.split(b"\r\n")[0]


CHUNKED = b"POST /run HTTP/1.1\r\nhost: 127.0.0.1\r\ntransfer-encoding: chunked\r\n"


@pytest.mark.parametrize(
    "endless", [b"0\r\n" + b"a: b\r\n" * 70_000, b"0\r\na: " + b"b" * 420_000, b"1;" + b"a" * 420_000]
)
async def test_what_frames_a_body_has_an_end(composed: Composed, tmp_path: Path, endless: bytes) -> None:
    """
    Trailers and chunk extensions are read no further than headers, beside what came at once with the last of the body.
    """
    async with listening(composed({"a": (World, 1)}, Says), tmp_path) as port:
        said = await spoken(port, CHUNKED + b"\r\n2\r\n{}\r\n" + endless)

    assert b"431" in said.split(b"\r\n")[0]


async def test_trailers_are_no_headers(composed: Composed, tmp_path: Path) -> None:
    """
    Whatever they say of who asks.
    """
    body = b"2\r\n{}\r\n0\r\nhost: 127.0.0.1\r\norigin: http://evil.example\r\n\r\n"
    async with listening(composed({"a": (World, 1)}, Says), tmp_path) as port:
        said = await spoken(port, CHUNKED + b"connection: close\r\n\r\n" + body)

    assert b"422" in said.split(b"\r\n")[0]


async def test_a_head_that_does_not_come_is_not_waited_for(composed: Composed, tmp_path: Path) -> None:
    """
    One byte a while keeps no connection open for ever.
    """

    class Hasty(BoundedProtocol):
        head_s = 1.0

    async with listening(composed({"a": (World, 1)}, Says), tmp_path, Hasty) as port:
        silent, slow = await asyncio.gather(spoken(port), spoken(port, b"GET / HTTP/1.1\r\n"))

    assert silent == b""
    assert b"408" in slow.split(b"\r\n")[0]


async def test_a_body_that_does_not_come_is_not_waited_for(composed: Composed, tmp_path: Path) -> None:
    """
    Whoever promises bytes and sends none is told so.
    """
    head = b"POST /run HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 100\r\n\r\n{"
    async with listening(composed({"a": (World, 1)}, Says), tmp_path, body_s=0.3) as port:
        said = await spoken(port, head)

    assert b"408" in said.split(b"\r\n")[0]


@pytest.mark.parametrize(
    ("pauses_s", "status"),
    [([STALL_S - 1] * 5, 200), ([STALL_S - 1, STALL_S + 1, 1], 408), ([STALL_S - 1] * 10, 408)],
    ids=["steady", "stalled", "endless"],
)
def test_nothing_of_a_body_is_not_waited_for_as_long_as_the_rest(pauses_s: list[float], status: int) -> None:
    """
    A body may take its time, but it must come, and have an end.
    """
    left = list(pauses_s)

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(left.pop(0))
        return {"type": "http.request", "body": b" " * 20, "more_body": bool(left)}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            said.append(message["status"])

    said: list[int] = []
    headers = [(b"host", b"127.0.0.1"), (b"content-length", b"200")]
    scope = {"type": "http", "method": "POST", "path": "/", "headers": headers}
    run_in_simulated_time(Guard(Answer(), hosts=None, token=None)(scope, receive, send))

    assert said == [status]


async def test_bodies_that_stall_shut_nobody_out(composed: Composed, tmp_path: Path) -> None:
    """
    Where there is no more room, those that come slowly make some.
    """
    stalled = b"POST /run HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 30000\r\n\r\n" + b" " * 999
    honest = b"POST /run HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 15002\r\nconnection: close\r\n\r\n"
    bounds: Any = {"stall_s": 60.0, "held_bytes": 105_000}
    async with listening(composed({"a": (World, 1)}, Says), tmp_path, **bounds) as port:
        slow = [asyncio.create_task(spoken(port, stalled)) for _ in range(3)]
        await asyncio.sleep(SLOW_S + 0.2)
        said = [await spoken(port, honest + b"{" + b" " * 15_000 + b"}") for _ in range(3)]
        done, _ = await asyncio.wait(slow, timeout=5, return_when=asyncio.FIRST_COMPLETED)
        for task in slow:
            task.cancel()

    assert all(b"422" in one.split(b"\r\n")[0] for one in said)
    assert [b"408" in task.result().split(b"\r\n")[0] for task in done] == [True]


def test_a_body_that_turns_out_to_be_slow_makes_room() -> None:
    """
    One that has just begun when another finds no room is looked at again, as long as that one waits.
    """
    guard = Guard(Answer(), hosts=None, token=None, held_bytes=8_000, body_bytes=7_000)
    said: dict[str, tuple[int, float]] = {}

    async def posted(path: str, size: int, pause_s: float) -> None:
        now = asyncio.get_running_loop().time

        async def receive() -> dict[str, Any]:
            await asyncio.sleep(pause_s)
            return {"type": "http.request", "body": b" " * (1 if pause_s else size), "more_body": pause_s > 0}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                said[path] = (message["status"], now())

        headers = [(b"host", b"127.0.0.1"), (b"content-length", b"%d" % size)]
        await guard({"type": "http", "method": "POST", "path": path, "headers": headers}, receive, send)

    async def both() -> None:
        slow = asyncio.create_task(posted("/slow", 7_000, STALL_S - 1))
        await asyncio.sleep(SLOW_S / 2)
        await asyncio.gather(slow, posted("/next", 6_000, 0.0))

    run_in_simulated_time(both())

    assert said == {"/slow": (408, 1.5 * SLOW_S), "/next": (200, 1.5 * SLOW_S)}


async def test_long_bodies_that_are_still_coming_shut_out_no_short_ones(composed: Composed, tmp_path: Path) -> None:
    """
    An eighth of the room is for these; a long one that comes at its pace loses nothing to another that waits for it.
    """
    length = 2 * SMALL_BYTES
    long = b"POST /run HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % length
    short = b"POST /run HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}"
    halves = [b" " * (length // 2), b" " * (length // 2 - 1) + b"x"]
    bounds: Any = {"held_bytes": 2 * length}
    async with listening(composed({"a": (World, 1)}, Says), tmp_path, **bounds) as port:
        coming = [asyncio.create_task(spoken(port, long + halves[0], halves[1], pause_s=SLOW_S + 1.5))]
        await asyncio.sleep(SLOW_S / 4)
        coming.append(asyncio.create_task(spoken(port, long + halves[0] + halves[1])))
        await asyncio.sleep(SLOW_S / 4)
        said = await spoken(port, short)
        waits = [task.done() for task in coming]
        whole = [await task for task in coming]

    assert b"422" in said.split(b"\r\n")[0]
    assert waits == [False, False]
    assert [b"400" in one.split(b"\r\n")[0] for one in whole] == [True, True]  # no JSON, of which all was read


@pytest.mark.parametrize("is_chunked", [False, True])
async def test_many_long_bodies_at_once_are_all_played(composed: Composed, tmp_path: Path, is_chunked: bool) -> None:
    """
    What does not fit beside the others waits, whether it says its length or not.
    """
    composition = composed({"a": (World, 1)}, Says)
    row = next(iter(composition.dataset)).value
    head = b"POST /run HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n"
    requests = []
    for number in range(8):
        body = json.dumps({**row, "_ng_rollout_index": number, "x": "x" * (2 * SMALL_BYTES)}).encode()
        length = b"content-length: %d\r\n\r\n" % len(body)
        chunk = b"transfer-encoding: chunked\r\n\r\n%x\r\n" % len(body)
        requests.append(head + chunk + body + b"\r\n0\r\n\r\n" if is_chunked else head + length + body)
    bounds: Any = {"held_bytes": 6 * SMALL_BYTES, "body_bytes": 3 * SMALL_BYTES}
    async with listening(composition, tmp_path, **bounds) as port:
        said = await asyncio.gather(*(spoken(port, request) for request in requests))

    assert [one.split(b"\r\n")[0] for one in said] == [b"HTTP/1.1 200 OK"] * 8
    assert len((tmp_path / "rollouts.jsonl").read_bytes().splitlines()) == 8


async def test_a_body_waits_for_the_room_of_those_that_are_being_played(composed: Composed, tmp_path: Path) -> None:
    """
    More rows at once than there is room for are played one after another, and none is refused.
    """
    composition = composed({"a": (World, 1)}, Says)
    row = next(iter(composition.dataset)).value
    bodies = [json.dumps({**row, "_ng_rollout_index": number, "x": "x" * 100_000}).encode() for number in range(12)]
    head = b"POST /run HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
    async with listening(composition, tmp_path, held_bytes=250_000) as port:
        said = await asyncio.gather(*(spoken(port, head % len(body) + body) for body in bodies))
        refused = await spoken(port, head % 250_001)

    assert [one.split(b"\r\n")[0] for one in said] == [b"HTTP/1.1 200 OK"] * 12
    assert len((tmp_path / "rollouts.jsonl").read_bytes().splitlines()) == 12
    assert b"413" in refused.split(b"\r\n")[0]


class Holds:
    """What answers every request, those to `/held` when they may be."""

    def __init__(self) -> None:
        self.came: list[str] = []
        self.may_go = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        self.came.append(scope["path"])
        if scope["path"] == "/held":
            await self.may_go.wait()
        await Answer()(scope, receive, send)

    @asynccontextmanager
    async def guarded(self, **bounds: Any) -> AsyncIterator[tuple[Guard, int]]:
        """Serve on a port."""
        guard = Guard(self, hosts=None, token=None, **bounds)
        with bind(Address()) as taken:
            async with answering(guard, taken):
                yield guard, taken.getsockname()[1]


def posted(port: int, path: str, size: int) -> asyncio.Task[bytes]:
    """Send a body of a size."""
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\ncontent-length: {size}\r\n\r\n"
    return asyncio.create_task(spoken(port, head.encode() + b" " * size))


async def test_nobody_overtakes_a_long_body_but_short_ones_that_leave_its_room() -> None:
    """
    Those that would fit sooner wait behind it, or it would wait for ever.
    """
    app = Holds()
    async with app.guarded(held_bytes=8_000, body_bytes=8_000) as (guard, port):
        asked = []
        for path, size, came, waiting in (
            ("/held", 4_000, 1, 0),
            ("/long", 6_000, 1, 1),
            ("/later", 2_000, 1, 2),
            ("/short", 500, 2, 2),
        ):
            asked.append(posted(port, path, size))
            await until(
                lambda came=came, waiting=waiting: (len(app.came), len(guard._room._waiting)) == (came, waiting)
            )
        before = list(app.came)
        app.may_go.set()
        said = [await one for one in asked]

    assert before == ["/held", "/short"]
    assert app.came == ["/held", "/short", "/long", "/later"]
    assert all(one.startswith(b"HTTP/1.1 200") for one in said)


@pytest.mark.skipif(TCP_INFO is None, reason="the system does not tell of clients that leave while nothing is read")
async def test_who_leaves_while_waiting_for_room_is_waited_for_no_longer() -> None:
    """
    Neither is its connection kept, nor do others wait behind it.
    """
    app = Holds()
    async with app.guarded(held_bytes=80_000, body_bytes=80_000) as (guard, port):
        held = posted(port, "/held", 40_000)
        await until(lambda: app.came == ["/held"])
        with socket.create_connection(("127.0.0.1", port)) as leaving:
            leaving.sendall(b"POST /gone HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 70000\r\n\r\n" + b" " * 69_000)
            await until(lambda: len(guard._room._waiting) == 1)
            later = posted(port, "/later", 20_000)
            await until(lambda: len(guard._room._waiting) == 2)
        said = await later
        app.may_go.set()
        await held

    assert said.startswith(b"HTTP/1.1 200")
    assert app.came == ["/held", "/later"]
    assert not guard._waiting


async def test_a_connection_that_has_ended_leaves_nothing_to_be_collected() -> None:
    """
    A server that lives for long has its garbage looked for rarely, and a training run makes millions of connections.
    """
    made: list[weakref.ref[Any]] = []

    class Watched(BoundedProtocol):
        def connection_made(self, transport: Any) -> None:
            made.append(weakref.ref(self))
            super().connection_made(transport)

    gc.disable()
    try:
        with bind(Address()) as taken:
            async with answering(Guard(Holds(), hosts=None, token=None), taken, http=Watched):
                said = [await posted(taken.getsockname()[1], "/x", 100) for _ in range(3)]
                await until(lambda: [one() for one in made] == [None] * 3)
    finally:
        gc.enable()

    assert all(one.startswith(b"HTTP/1.1 200") for one in said)


async def test_what_a_body_did_not_need_is_given_to_the_next_at_once() -> None:
    """
    One that does not say its length takes the room of the longest only as long as it comes.
    """
    app = Holds()
    head = b"POST /held HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
    async with app.guarded(held_bytes=8_000, body_bytes=7_000) as (guard, port):
        room = guard._room
        rest = b"2\r\n{}\r\n0\r\n\r\n"
        asked = [asyncio.create_task(spoken(port, head, lambda: len(room._waiting) == 1, rest))]
        await until(lambda: room._by_long == 7_000)
        asked.append(posted(port, "/next", 6_000))
        await until(lambda: bool(app.came))
        asked.append(posted(port, "/last", 6_000))
        await asyncio.wait(asked[1:])
        app.may_go.set()
        said = [await one for one in asked]

    assert app.came == ["/held", "/next", "/last"]
    assert all(one.startswith(b"HTTP/1.1 200") for one in said)


async def test_bodies_that_wait_are_told_when_the_server_stops() -> None:
    """
    And do not wait for room of which nothing will be played.
    """
    app = Holds()
    async with app.guarded(held_bytes=8_000, body_bytes=7_000) as (guard, port):
        held = posted(port, "/held", 7_000)
        await until(lambda: app.came == ["/held"])
        waiting = posted(port, "/waiting", 7_000)
        await until(lambda: len(guard._room._waiting) == 1)
        guard.stop()
        refused = [await waiting, await posted(port, "/late", 7_000)]
        fine = await posted(port, "/short", 500)
        app.may_go.set()
        whole = await held

    assert [b"the server is stopping" in one and b"retry-after" in one for one in refused] == [True, True]
    assert [one.split(b"\r\n")[0] for one in (fine, whole)] == [b"HTTP/1.1 200 OK"] * 2
    assert app.came == ["/held", "/short"]


async def test_a_body_is_never_longer_than_there_is_room_for() -> None:
    """
    Whatever was asked for, and what is told says how long it may be.
    """
    app = Holds()
    async with app.guarded(held_bytes=16 * 2**20, body_bytes=64 * 2**20) as (_, port):
        said = await spoken(
            port, b"POST / HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: %d\r\n\r\n" % (14 * 2**20 + 1)
        )
        fine = await posted(port, "/", 14 * 2**20)

    assert b"413" in said.split(b"\r\n")[0]
    assert b"longer than 14 MB" in said
    assert fine.startswith(b"HTTP/1.1 200")


def test_the_longest_body_that_can_be_asked_for_finds_room() -> None:
    """
    An eighth of the room is for short ones.
    """
    option = next(option for option in command.params if option.name == "max_body")

    assert isinstance(option.type, IntRange)
    assert option.type.max == (HELD_BYTES - HELD_BYTES // 8) >> 20


async def test_an_answer_that_is_not_taken_is_not_kept(composed: Composed, tmp_path: Path) -> None:
    """
    A client may read slowly, but it must read.
    """
    dropped = asyncio.Event()

    class Hasty(BoundedProtocol):
        take_s = 1.0

        def connection_lost(self, error: Exception | None) -> None:
            super().connection_lost(error)
            dropped.set()

    composition = composed({"a": (World, 1)}, Says)
    row = json.dumps({**next(iter(composition.dataset)).value, "x": "x" * 14_000_000}).encode()
    head = b"POST /run HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(row)
    loop = asyncio.get_running_loop()
    async with listening(composition, tmp_path, Hasty) as port:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 100_000)
            client.setblocking(False)
            await loop.sock_connect(client, ("127.0.0.1", port))
            await loop.sock_sendall(client, head + row)
            size = len(await loop.sock_recv(client, 1))
            await asyncio.wait_for(dropped.wait(), 60)
            with suppress(ConnectionError):
                while part := await loop.sock_recv(client, 200_000):
                    size += len(part)

    assert size < len(row)


class Waiting(asyncio.Transport):
    """A connection on which so much waits to be sent."""

    left = 0
    is_aborted = False

    def get_write_buffer_size(self) -> int:
        """Return how much."""
        return self.left

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Take no notice."""

    def abort(self) -> None:
        """Take note of it."""
        self.is_aborted = True


def test_an_answer_that_is_taken_slowly_is_kept() -> None:
    """
    However long all of it takes.
    """

    async def taken_slowly() -> list[bool]:
        protocol, connection = BoundedProtocol(uvicorn.Config(Answer()), ServerState(), {}), Waiting()
        protocol.connection_made(connection)
        protocol._end_head()  # as if a request had come
        connection.left = 10
        protocol.pause_writing()
        for _ in range(9):
            await asyncio.sleep(0.9 * TAKE_S)
            connection.left -= 1
        seen = [connection.is_aborted]
        await asyncio.sleep(2.1 * TAKE_S)
        return [*seen, connection.is_aborted]

    assert run_in_simulated_time(taken_slowly()) == [False, True]


@pytest.mark.parametrize(
    "rubbish", [b"\x00" * 100, b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"A" * 100_000]
)
async def test_what_is_no_http_ends_its_own_connection(composed: Composed, tmp_path: Path, rubbish: bytes) -> None:
    """
    And nobody else's.
    """
    async with listening(composed({"a": (World, 1)}, Says), tmp_path) as port:
        said = await spoken(port, rubbish)
        fine = await spoken(port, b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")

    assert said == b"" or said.startswith(b"HTTP/1.1 4")
    assert json.loads(fine.rpartition(b"\r\n\r\n")[2]) == {"status": "ok"}


async def test_many_requests_on_one_connection_are_answered_in_order(composed: Composed, tmp_path: Path) -> None:
    """
    Clients keep connections, and may send the next request before the first is answered.
    """
    one = b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
    last = b"GET /ready HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n"
    async with listening(composed({"a": (World, 1)}, Says), tmp_path) as port:
        said = await spoken(port, one * 5 + last)

    assert said.count(b"HTTP/1.1 200") == 6
    assert said.rindex(b'"ready"') > said.rindex(b'"ok"')


@pytest.mark.parametrize(
    ("parts", "headers", "status"),
    [
        ([], [], 408),
        ([b"{"] * 3, [], 408),
        ([b"{", None], [], 400),
        ([b"{"], [(b"content-length", b"2000000000")], 413),
    ],
    ids=["nothing", "some", "left", "long"],
)
async def test_long_bodies_are_not_waited_for_either(
    parts: list[bytes | None], headers: list[tuple[bytes, bytes]], status: int
) -> None:
    """
    Those of all rollouts of an evaluation, which are read as they come.
    """
    coming = iter(parts)

    async def receive() -> dict[str, Any]:
        for part in coming:
            if part is None:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": part, "more_body": True}
        await asyncio.Event().wait()
        raise AssertionError

    with pytest.raises(Refusal) as raised:
        await received(Request({"type": "http", "method": "POST", "headers": headers}, receive), stall_s=0.1)

    assert raised.value.status == status


def test_a_disk_that_is_slow_is_no_slow_client() -> None:
    """
    While what has come is written, nothing more is waited for, however long that takes.
    """
    left = [b"x" * IN_MEMORY, b"x"]

    class Loop(asyncio.SelectorEventLoop):
        now = 0.0

        def time(self) -> float:
            return self.now

    loop = Loop()

    class Slow(io.BytesIO):
        def writelines(self, parts: Iterable[Any]) -> None:
            loop.now += 2 * BODY_S  # time passes nowhere else
            super().writelines(parts)

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0)  # who is late finds out here
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    file = Slow()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(_take(Request({"type": "http", "method": "POST", "headers": []}, receive), file, STALL_S))

    assert len(file.getvalue()) == IN_MEMORY + 1
