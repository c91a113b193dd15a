"""
The transport against replies as they stand on the wire.
"""

import asyncio
import gc
import gzip
import hashlib
import importlib.util
import subprocess
import sys
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress

import httpx
import pytest
from gym_plugin_openai_model.connections import Connections, TooLargeError, _ring
from gym_plugin_openai_model.prepared import Prepared

from gymcore.testing.endpoint import LoopbackEndpoint, hangs, says, slow

WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


LOOPS = [asyncio.new_event_loop]
if importlib.util.find_spec("uvloop"):
    import uvloop

    LOOPS.append(uvloop.new_event_loop)


@pytest.fixture(params=LOOPS, ids=lambda make: make.__module__)
def run(request, caplog):
    """
    Runs a coroutine in a loop of its own, and checks that nothing was left to complain about.
    """

    def work(coroutine):
        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(coroutine)

    yield work
    gc.collect()
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


@asynccontextmanager
async def listening(serve):
    """Let a function serve connections; gives the address."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1024)
    try:
        yield httpx.URL(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    finally:
        server.close()
        await asyncio.sleep(0.01)


def carrier(address):
    """Return a transport that does not wait long."""
    return Connections(address, timeout_s=60, connect_timeout_s=60)


async def ask(transport, address):
    """Make one request."""
    return await transport.handle_async_request(httpx.Request("POST", address, content=b"{  }"))


async def exchange(pieces, requests=1):
    """Serve each request with the pieces of one reply; return the replies and the number of connections made."""
    connections = 0
    ended = asyncio.Event()

    async def serve(reader, writer):
        nonlocal connections
        connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                assert b"content-length: 4" in head.lower()
                await reader.readexactly(4)
                for piece in pieces:
                    if piece is None:
                        return
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()
            ended.set()

    async with listening(serve) as address, carrier(address) as transport:
        replies = []
        for _ in range(requests):
            replies.append(await asyncio.wait_for(ask(transport, address), 30))
            if None in pieces:  # the news of a closed connection needs a few turns of the event loop
                await ended.wait()
                await asyncio.sleep(0.01)
        return replies, connections


def cut(data, size):
    return [data[start : start + size] for start in range(0, len(data), size)]


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;x=y\r\no\r\n1\r\nk\r\n0\r\n\r\n"
TRAILERS = CHUNKED[:-2] + b"X-Sum: 1\r\nX-More: 2\r\n\r\n"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + WHOLE


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("data", [WHOLE, CHUNKED, TRAILERS, INTERIM], ids=["whole", "chunked", "trailers", "interim"])
def test_reads_a_reply_in_any_pieces(data, size):
    """
    However a reply is cut by the network, it is read whole, and its connection is used again.
    """
    replies, connections = asyncio.run(exchange(cut(data, size), requests=3))

    assert [(reply.status_code, reply.content) for reply in replies] == [(200, b"ok")] * 3
    assert connections == 1


@pytest.mark.parametrize(
    "pieces",
    [
        [b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", None],
        [b"HTTP/1.1 200 OK\r\n\r\nok", None],
        [b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", None],
        [WHOLE, None],
        [WHOLE + b"HTTP/1.1 500 Not asked for\r\n\r\n"],
    ],
    ids=["close", "until close", "HTTP/1.0", "closed when idle", "too much"],
)
def test_does_not_use_a_connection_again_that_ended(pieces):
    """
    A connection that ended, or holds what nobody asked for, is replaced.
    """
    replies, connections = asyncio.run(exchange(pieces, requests=2))

    assert [reply.content for reply in replies] == [b"ok"] * 2
    assert connections == 2


def test_undoes_compression():
    """
    A compressed reply is read as what it says.
    """
    body = gzip.compress(b"ok")
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body)
    replies, _ = asyncio.run(exchange([head + body]))

    assert replies[0].content == b"ok"


@pytest.mark.parametrize(
    "pieces",
    [
        [None],
        [b"HTTP/1.1 200 OK\r\nContent-Le", None],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", None],
        [CHUNKED[:-5], None],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nok"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok"],
        [b"220 mail.example.org ESMTP\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\nX: " + 500_000 * b"x"],
        [CHUNKED[:-2], b"X: ", *[10_000 * b"x"] * 50],
        [CHUNKED[:-2], *[b"X: y\r\n" * 2_000] * 50],
        [b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"] * 3_000,
    ],
    ids=[
        "nothing",
        "half a head",
        "half a body",
        "half the chunks",
        "chunk",
        "length",
        "mail",
        "endless",
        "endless trailer",
        "endless trailers",
        "endless hints",
    ],
)
def test_refuses_a_reply_that_is_not_whole(pieces):
    """
    Half a reply, or no HTTP at all, is an error at once and never waits.
    """
    with pytest.raises(httpx.TransportError):
        asyncio.run(exchange(pieces))


def test_a_trailer_is_no_header():
    """
    What stands behind the content cannot pass for a header: it asks for no pause and describes no coding.
    """
    trailers = b"Retry-After: 300\r\nContent-Encoding: gzip\r\n\r\n"
    [reply], _ = asyncio.run(exchange([CHUNKED[:-2] + trailers]))

    assert reply.content == b"ok"
    assert dict(reply.headers) == {"transfer-encoding": "chunked"}


def test_refuses_what_stands_behind_a_compressed_reply():
    """
    A compressed reply of several parts is not taken for its first.
    """
    body = gzip.compress(b'{"a": 1}') + gzip.compress(b", more")
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body)
    with pytest.raises(httpx.TransportError, match="goes on behind its end"):
        asyncio.run(exchange([head + body]))


def test_a_reply_in_tiny_chunks_weighs_what_it_holds(run):
    """
    While a reply comes two bytes at a time it takes little more memory than its content, and once it is read its idle
    connection holds none of it.
    """
    size = 1_000_000
    held = []

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(size // 10_000):
            writer.write(b"2\r\nok\r\n" * 5_000)
            await writer.drain()
        while len(held) < 2 or held[-1] - held[-2] > 10_000:  # until all that was sent has been read
            await asyncio.sleep(0.05)
            held.append(held_now())
        writer.write(b"0\r\n\r\n")
        await reader.read()
        writer.close()

    def held_now():
        return tracemalloc.get_traced_memory()[0]

    async def work():
        async with listening(serve) as address, carrier(address) as transport:
            tracemalloc.start()
            reply = await ask(transport, address)
            length = len(reply.content)
            del reply
            await asyncio.sleep(0)  # the event loop itself holds what it has just delivered
            return length, held_now()

    try:
        length, left = run(work())
    finally:
        tracemalloc.stop()

    assert length == size
    assert size < held[-1] < 3 * size
    assert left < size / 2


def test_a_connection_whose_request_is_half_sent_is_not_used_again(run):
    """
    An endpoint that refuses a long request before it has read it, and reads no more, does not hold up the next one.
    """
    connections, left = [], asyncio.Event()

    async def serve(reader, writer):
        connections.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(WHOLE if len(connections) > 1 else WHOLE.replace(b"200 OK", b"413 Content Too Large"))
        await asyncio.wait_for(left.wait(), 30)
        writer.close()

    async def work():
        async with listening(serve) as address, carrier(address) as transport:
            long = httpx.Request("POST", address, content=bytes(20_000_000))
            codes = [(await transport.handle_async_request(long)).status_code]
            codes.append((await asyncio.wait_for(ask(transport, address), 30)).status_code)
            left.set()
            return codes

    assert run(work()) == [413, 200]
    assert len(connections) == 2


def test_sends_headers_and_body_as_they_are_given():
    """
    Any httpx request goes out whole: its method, path, headers and body, with the length counted once.
    """
    heads = []

    async def serve(reader, writer):
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(WHOLE)
        writer.close()

    async def work():
        headers = {"X-Team": "blue", "Accept-Encoding": "gzip"}
        async with listening(serve) as address, httpx.AsyncClient(transport=carrier(address)) as client:
            return await client.put(address.join("/a%20b?c=d"), headers=headers, content=b"{  }")

    reply = asyncio.run(work())
    [head] = heads

    assert (reply.status_code, reply.text, reply.headers["content-length"]) == (200, "ok", "2")
    assert head.startswith("PUT /a%20b?c=d HTTP/1.1\r\n")
    lines = head.lower().split("\r\n")
    assert [line for line in lines if line.startswith(("x-team", "accept-encoding", "content-length"))] == [
        "x-team: blue",
        "accept-encoding: gzip",
        "content-length: 4",
    ]


@pytest.mark.parametrize("is_prepared", [True, False])
def test_sends_each_header_once(is_prepared):
    """
    A host and a coding of the user's own take the place of ours, and the length is that of the content.
    """
    headers = {"host": "model.internal", "accept-encoding": "gzip", "content-length": "7"}
    heads = []

    async def serve(reader, writer):
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(WHOLE)
        writer.close()

    async def work():
        async with listening(serve) as address, carrier(address) as transport:
            request = httpx.Request("POST", address, headers=headers, content=b"{  }")
            if is_prepared:
                request = Prepared(address, headers, {}).request(b"{  }")
            return await transport.handle_async_request(request)

    asyncio.run(work())
    lines = heads[0].lower().split("\r\n")

    assert [line for line in lines if line.startswith("host:")] == ["host: model.internal"]
    assert [line for line in lines if line.startswith("accept-encoding:")] == ["accept-encoding: gzip"]
    assert [line for line in lines if line.startswith("content-length:")] == ["content-length: 4"]


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 5000000\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n10000\r\n",
        b"Content-Encoding: gzip\r\nConnection: close\r\n\r\n",
    ],
    ids=["announced", "without end", "compressed"],
)
def test_does_not_fill_the_memory_with_one_reply(head):
    """
    A reply larger than the bound is refused, announced or not, counted after decompression, and no more of it is read.
    """
    left = asyncio.Event()
    compressed = gzip.compress(bytes(5_000_000))

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n" + head)
        try:
            if b"gzip" in head:
                writer.write(compressed)
            while b"gzip" not in head:
                writer.write(bytes(65536) + (b"\r\n10000\r\n" if b"chunked" in head else b""))
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            left.set()
            writer.close()

    async def work():
        bounds = {"timeout_s": 60, "connect_timeout_s": 60, "max_reply_bytes": 2**20}
        async with listening(serve) as address, Connections(address, **bounds) as transport:
            with pytest.raises(TooLargeError, match="at most 1,048,576 are read"):
                await ask(transport, address)
            await asyncio.wait_for(left.wait(), 30)

    asyncio.run(work())


def test_carries_a_hundred_megabytes_both_ways():
    """
    A long conversation with images goes out, and a long reply comes in, byte for byte.
    """
    sent = bytes(range(256)) * 400_000
    digests = []

    async def serve(reader, writer):
        digest = hashlib.blake2b()
        await reader.readuntil(b"\r\n\r\n")
        missing = len(sent)
        while missing:
            data = await reader.read(2**20)
            missing -= len(data)
            digest.update(data)
        digests.append(digest.digest())
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(sent))
        writer.write(sent)
        await writer.drain()
        writer.close()

    async def work():
        async with listening(serve) as address, Connections(address, timeout_s=60, connect_timeout_s=60) as transport:
            return await transport.handle_async_request(httpx.Request("POST", address, content=sent))

    reply = asyncio.run(work())

    assert reply.content == sent
    assert digests == [hashlib.blake2b(sent).digest()]


class Silent:
    """A server that answers nothing until it is told to, and counts who is connected."""

    def __init__(self):
        self.connected = 0
        self.moved = asyncio.Event()
        self.heard = asyncio.Event()
        self.speaks = False

    async def serve(self, reader, writer):
        self.connected += 1
        self.moved.set()
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                await reader.readexactly(4)
                self.heard.set()
                if not self.speaks:
                    await reader.read()  # until the client leaves
                    return
                writer.write(WHOLE)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.connected -= 1
            self.moved.set()
            writer.close()

    async def waits_for(self, count):
        async with asyncio.timeout(30):
            while self.connected != count:
                self.moved.clear()
                await self.moved.wait()


def test_a_cancelled_request_leaves_nothing_behind(run):
    """
    After a thousand requests were cancelled their connections are gone at once, so that the endpoint stops working for
    nobody; the next request works, and nobody complains.
    """
    server = Silent()

    async def work():
        async with listening(server.serve) as address:
            async with Connections(address, timeout_s=60, connect_timeout_s=60) as transport:
                asked = [asyncio.create_task(ask(transport, address)) for _ in range(1000)]
                await server.waits_for(1000)
                for task in asked:
                    task.cancel()
                ended = await asyncio.gather(*asked, return_exceptions=True)
                await server.waits_for(0)
                server.speaks = True
                reply = await asyncio.wait_for(ask(transport, address), 30)
                await server.waits_for(1)
            await server.waits_for(0)
            return ended, reply

    ended, reply = run(work())

    assert {type(error) for error in ended} == {asyncio.CancelledError}
    assert reply.content == b"ok"


@pytest.mark.parametrize("leaves", ["cancelled", "too late"])
def test_a_reply_that_comes_too_late_hands_its_connection_to_nobody(run, leaves):
    """
    When a reply arrives after its request was given up, and before whoever asked has woken, the next request gets a
    connection of its own, and its reply.
    """
    server = Silent()

    async def work():
        async with listening(server.serve) as address, carrier(address) as transport:
            first = asyncio.create_task(ask(transport, address))
            await server.heard.wait()
            [connection] = transport._all
            turn = asyncio.Event()
            given_up = []

            async def next_one():
                await turn.wait()
                return await ask(transport, address)

            second = asyncio.create_task(next_one())
            await asyncio.sleep(0)

            def give_up():  # the second is woken before the first, and the reply is read before either runs
                turn.set()
                if leaves == "cancelled":
                    first.cancel()
                else:
                    _ring(connection._waiting)
                server.speaks = True
                connection.data_received(WHOLE)
                given_up.append(connection.is_open)

            asyncio.get_running_loop().call_soon(give_up)
            return given_up, await asyncio.gather(first, second, return_exceptions=True)

    given_up, (first, second) = run(work())

    assert given_up == [False]
    assert isinstance(first, asyncio.CancelledError if leaves == "cancelled" else httpx.ReadTimeout)
    assert second.content == b"ok"


def test_nobody_waits_for_a_connection_that_was_closed(run):
    """
    Whoever waits for a reply is told when its connection is ended from here, for whatever reason.
    """
    server = Silent()

    async def work():
        async with listening(server.serve) as address, carrier(address) as transport:
            asked = asyncio.create_task(ask(transport, address))
            await server.heard.wait()
            [connection] = transport._all
            connection.abort()
            return (await asyncio.wait_for(asyncio.gather(asked, return_exceptions=True), 30))[0]

    assert isinstance(run(work()), httpx.ReadError)


def test_says_which_bound_struck(run):
    """
    No reply in time and no connection in time are told apart, and each names its option.
    """
    server = Silent()

    async def work():
        async with listening(server.serve) as address:
            async with Connections(address, timeout_s=0.1, connect_timeout_s=60) as transport:
                with pytest.raises(httpx.ReadTimeout, match=r"^no reply within 0\.1 s \(timeout_s\)$"):
                    await ask(transport, address)
            await server.waits_for(0)
            secure = address.copy_with(scheme="https")  # whose handshake is never answered
            async with Connections(secure, timeout_s=60, connect_timeout_s=0.1) as transport:
                with pytest.raises(httpx.ConnectTimeout, match=r"^no connection within 0\.1 s \(connect_timeout_s\)$"):
                    await ask(transport, secure)

    run(work())


def test_closing_ends_what_is_in_flight(run):
    """
    Requests still in flight when the transport is closed fail at once, and idle connections are closed.
    """
    server = Silent()

    async def work():
        async with listening(server.serve) as address:
            server.speaks = True
            async with carrier(address) as transport:
                await asyncio.gather(*(ask(transport, address) for _ in range(10)))
                assert server.connected > 0
            await server.waits_for(0)
            server.speaks = False
            async with carrier(address) as transport:
                asked = [asyncio.create_task(ask(transport, address)) for _ in range(10)]
                await server.waits_for(10)
            return await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 30)

    ended = run(work())

    assert {str(error) for error in ended} == {"the connections were closed while the reply was due"}
    assert {type(error) for error in ended} == {httpx.ReadError}


def test_a_loop_may_end_with_requests_in_flight(run):
    """
    A notebook starts a new event loop after it gave one up; the next finds no trace of what the first was waiting for.
    """

    async def give_up(address):
        transport = await carrier(address).__aenter__()
        tasks = [asyncio.create_task(ask(transport, address)) for _ in range(10)]
        while len(endpoint.requests) < 10:  # noqa: ASYNC110, an endpoint in another thread
            await asyncio.sleep(0.01)
        return transport, tasks

    async def go_on(transport, address):
        reply = await ask(transport, address)
        await transport.aclose()
        return reply

    with LoopbackEndpoint(*[slow(1.0, says("Late."))] * 10, says("In time.")) as endpoint:
        address = httpx.URL(endpoint.base_url + "/responses")
        transport, tasks = run(give_up(address))
        while endpoint._in_flight:  # the replies to nobody arrive
            time.sleep(0.01)
        reply = run(go_on(transport, address))

    assert all(task.cancelled() for task in tasks)
    assert b"In time." in reply.content


def test_works_from_any_thread():
    """
    Event loops of several threads each have their own connections.
    """

    async def work(address):
        async with carrier(address) as transport:
            return [(await ask(transport, address)).status_code for _ in range(20)]

    with LoopbackEndpoint(says("Hi.")) as endpoint, ThreadPoolExecutor(4) as pool:
        address = httpx.URL(endpoint.base_url + "/responses")
        codes = list(pool.map(lambda _: asyncio.run(work(address)), range(8)))

    assert codes == [[200] * 20] * 8


def test_connects_four_thousand_times_at_once():
    """
    More connections than a server's queue holds are all made: none is refused, none is lost.
    """
    resource = pytest.importorskip("resource")
    count = 4096
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2 * count + 500:
        pytest.skip(f"needs {2 * count + 500} open files, and the limit is {hard}")

    async def work(address):
        async with Connections(address, timeout_s=60, connect_timeout_s=60) as transport:
            return await asyncio.gather(*(ask(transport, address) for _ in range(count)))

    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * count + 500), hard))
    try:
        with LoopbackEndpoint(slow(0.5, says("Hi."))) as endpoint:
            replies = asyncio.run(work(httpx.URL(endpoint.base_url + "/responses")))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert [reply.status_code for reply in replies] == [200] * count
    assert len(endpoint.requests) == count


FEW_FILES = """
import asyncio, collections, resource, sys
import httpx
from gym_plugin_openai_model.connections import Connections

resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))

async def ask(transport, address):
    try:
        return (await transport.handle_async_request(httpx.Request("POST", address, content=b"{}"))).status_code
    except httpx.ConnectError as error:
        return str(error)

async def work(address):
    async with Connections(address, timeout_s=60, connect_timeout_s=60) as transport:
        seen = collections.Counter(await asyncio.gather(*(ask(transport, address) for _ in range(200))))
        after = await ask(transport, address)
    print(len(seen), seen[200] > 0, after)
    print(*(text for text in seen if text != 200))

asyncio.run(work(httpx.URL(sys.argv[1])))
"""


def test_says_that_there_are_too_many_open_files():
    """
    A process that may open no more files gets a plain message for the requests beyond, and the others go on.
    """
    pytest.importorskip("resource")
    with LoopbackEndpoint(slow(0.2, says("Hi."))) as endpoint:
        command = [sys.executable, "-c", FEW_FILES, endpoint.base_url + "/responses"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)

    first, second = done.stdout.splitlines()
    assert done.stderr == ""
    assert first == "2 True 200"
    assert second == "too many open files; raise the limit (`ulimit -n`) or lower collect.concurrency"


def test_a_process_ends_quietly_with_requests_in_flight():
    """
    Whoever stops in the middle gets back to the prompt at once, without a word.
    """
    script = """
import asyncio, sys
import httpx
from gym_plugin_openai_model.connections import Connections

async def work(address):
    asyncio.get_running_loop().slow_callback_duration = 60  # how busy the machine is belongs to another test
    transport = await Connections(address, timeout_s=60, connect_timeout_s=60).__aenter__()
    asked = [
        asyncio.create_task(transport.handle_async_request(httpx.Request("POST", address, content=b"{}")))
        for _ in range(100)
    ]
    await asyncio.to_thread(sys.stdin.readline)

asyncio.run(work(httpx.URL(sys.argv[1])))
"""
    with LoopbackEndpoint(hangs()) as endpoint:
        command = [sys.executable, "-X", "dev", "-c", script, endpoint.base_url + "/responses"]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        with subprocess.Popen(command, text=True, **pipes) as process:
            while len(endpoint.requests) < 100 and process.poll() is None:
                time.sleep(0.01)
            said = process.communicate("go\n", timeout=60)

    assert (process.returncode, *said) == (0, "", "")
    assert len(endpoint.requests) == 100


def test_a_request_is_sent_once_whatever_happens_to_its_connection():
    """
    An endpoint that closes every connection after its first reply is asked once for each request: how often to try
    again is decided where requests are counted.
    """
    asked = []

    async def serve(reader, writer):
        with suppress(asyncio.IncompleteReadError):
            for answer in (WHOLE, b""):
                await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(4)
                asked.append(answer)
                writer.write(answer)
        writer.close()

    async def work():
        async with listening(serve) as address, carrier(address) as transport:
            await asyncio.gather(*(ask(transport, address) for _ in range(5)))
            with pytest.raises(httpx.TransportError, match="without a reply"):
                await ask(transport, address)

    asyncio.run(work())

    assert asked == [WHOLE] * 5 + [b""]
