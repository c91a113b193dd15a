"""
The transport against replies as they stand on the wire.
"""

import asyncio

import httpx
import pytest
from gym_plugin_openai_model.aiohttp_transport import AiohttpTransport
from gym_plugin_openai_model.connections import open_transport

WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


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

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        async with AiohttpTransport() as transport:
            replies = []
            for _ in range(requests):
                request = httpx.Request("POST", f"http://127.0.0.1:{port}/", content=b"body")
                replies.append(await asyncio.wait_for(transport.handle_async_request(request), 5))
                if None in pieces:  # the news of a closed connection needs a few turns of the event loop
                    await ended.wait()
                    for _ in range(10):
                        await asyncio.sleep(0)
            return replies, connections
    finally:
        server.close()
        await asyncio.sleep(0.01)


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
    import gzip

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
        [b"HTTP/1.1 200 OK\r\nX: " + 70_000 * b"x"],
    ],
    ids=["nothing", "half a head", "half a body", "half the chunks", "chunk", "length", "mail", "endless"],
)
def test_refuses_a_reply_that_is_not_whole(pieces):
    """
    Half a reply, or no HTTP at all, is an error at once and never waits.
    """
    with pytest.raises(httpx.TransportError):
        asyncio.run(exchange(pieces))


def test_uses_aiohttp_where_it_is_installed():
    """
    The extra `fast` is all that has to be installed.
    """
    assert isinstance(open_transport(httpx.URL("http://127.0.0.1/")), AiohttpTransport)
