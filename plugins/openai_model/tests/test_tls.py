"""
The transport against TLS servers with certificates of their own: whom it trusts, and what it says of the others.
"""

import asyncio
import datetime
import gc
import importlib.util
import ssl
from contextlib import asynccontextmanager

import httpx
import pytest
import trustme
from gym_plugin_openai_model.connections import Connections
from gym_plugin_openai_model.http1 import Connection

LOOPS = [asyncio.new_event_loop]
if importlib.util.find_spec("uvloop"):
    import uvloop

    LOOPS.append(uvloop.new_event_loop)

YESTERDAY = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
REPLY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture(scope="module")
def authority():
    """
    A certificate authority that nobody knows.
    """
    return trustme.CA()


@pytest.fixture
def trusted(authority, tmp_path, monkeypatch):
    """
    The same authority, named by `SSL_CERT_FILE`.
    """
    path = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(path)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    return authority


class Server:
    """A TLS server that answers every request with `ok`."""

    def __init__(self, certificate):
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(self.context)
        self.connections = 0
        self.port = 0

    async def serve(self, reader, writer):
        self.connections += 1
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(4)
                writer.write(REPLY)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    @asynccontextmanager
    async def running(self):
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0, ssl=self.context)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()
            await asyncio.sleep(0.01)


def ask(server, host="127.0.0.1", requests=1):
    """Make requests one after the other; return the last reply."""

    async def work():
        async with server.running():
            address = httpx.URL(f"https://{host}:{server.port}/v1")
            async with Connections(address, timeout_s=60, connect_timeout_s=60) as transport:
                for _ in range(requests):
                    reply = await transport.handle_async_request(httpx.Request("POST", address, content=b"body"))
        await asyncio.sleep(0.01)
        return reply

    return asyncio.run(work())


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_trusts_the_authorities_that_the_environment_names(trusted, host):
    """
    A certificate of an authority in `SSL_CERT_FILE` is good, and its connection is used again.
    """
    server = Server(trusted.issue_cert("localhost", "127.0.0.1"))
    reply = ask(server, host, requests=3)

    assert (reply.status_code, reply.content) == (200, b"ok")
    assert server.connections == 1


def test_does_not_trust_an_authority_that_nobody_named(authority):
    """
    A certificate of an unknown authority is refused, and the message says how to trust it.
    """
    with pytest.raises(httpx.ConnectError, match=r"TLS failed: the certificate is refused: .*issuer.*SSL_CERT_FILE"):
        ask(Server(authority.issue_cert("127.0.0.1")))


@pytest.mark.parametrize("by_proxy", [False, True], ids=["direct", "by proxy"])
def test_a_handshake_that_fails_leaves_nothing_behind(authority, monkeypatch, by_proxy):
    """
    However often TLS fails, no connection is kept for it.
    """
    server = Server(authority.issue_cert("127.0.0.1"))
    gc.collect()
    of_others = {id(item) for item in gc.get_objects() if isinstance(item, Connection)}

    async def tunnel(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async def work():
        proxy = await asyncio.start_server(tunnel, "127.0.0.1", 0)
        if by_proxy:
            monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}")
            monkeypatch.setenv("no_proxy", "")
        async with server.running():
            address = httpx.URL(f"https://127.0.0.1:{server.port}/v1")
            async with Connections(address, timeout_s=60, connect_timeout_s=60) as transport:
                for _ in range(3):
                    with pytest.raises(httpx.ConnectError, match="TLS failed"):
                        await transport.handle_async_request(httpx.Request("POST", address, content=b"body"))
                await asyncio.sleep(0.01)
                gc.collect()
                kept = [item for item in gc.get_objects() if isinstance(item, Connection) and id(item) not in of_others]
        proxy.close()
        return kept

    assert asyncio.run(work()) == []


def test_says_that_the_file_of_authorities_is_missing(authority, tmp_path, monkeypatch):
    """
    Where `SSL_CERT_FILE` names nothing, that is said.
    """
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nowhere.pem"))
    with pytest.raises(httpx.ConnectError, match=r"nowhere\.pem, which is no file"):
        ask(Server(authority.issue_cert("127.0.0.1")))


def test_refuses_a_certificate_for_somebody_else(trusted):
    """
    A certificate must be for the host that is asked.
    """
    with pytest.raises(httpx.ConnectError, match=r"TLS failed: the certificate is refused: .*mismatch"):
        ask(Server(trusted.issue_cert("other.example")))


def test_refuses_a_certificate_that_has_expired(trusted):
    """
    A certificate must be of today.
    """
    with pytest.raises(httpx.ConnectError, match=r"TLS failed: the certificate is refused: .*expired"):
        ask(Server(trusted.issue_cert("127.0.0.1", not_after=YESTERDAY)))


@pytest.mark.parametrize("header", [b"", b"Content-Length: 0\r\n"], ids=["bare", "with a length"])
def test_speaks_tls_through_a_proxy(trusted, monkeypatch, header):
    """
    A proxy only carries what is said over TLS: it is asked for a tunnel, with its own password, and the certificate is
    the endpoint's. What the proxy says of a content that its answer cannot have means nothing, and the connection
    carries one request at a time.
    """
    server = Server(trusted.issue_cert("model.test"))
    heads = []

    async def relay(source, sink):
        try:
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
        except ConnectionError:
            pass
        finally:
            sink.close()

    async def tunnel(reader, writer):
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"HTTP/1.1 200 Connection established\r\n" + header + b"\r\n")
        await asyncio.gather(relay(reader, inner_writer), relay(inner_reader, writer))

    async def work():
        proxy = await asyncio.start_server(tunnel, "127.0.0.1", 0)
        monkeypatch.setenv("https_proxy", f"http://me:p%40ss@127.0.0.1:{proxy.sockets[0].getsockname()[1]}")
        monkeypatch.setenv("no_proxy", "")
        address = httpx.URL("https://model.test/v1")
        async with server.running():
            async with Connections(address, timeout_s=60, connect_timeout_s=60) as transport:
                replies = []
                for together in (1, 1, 2):
                    requests = [httpx.Request("POST", address, content=b"body") for _ in range(together)]
                    replies += await asyncio.gather(*map(transport.handle_async_request, requests))
            await asyncio.sleep(0.05)
        proxy.close()
        return replies

    replies = asyncio.run(work())

    assert [reply.content for reply in replies] == [b"ok"] * 4
    assert server.connections == 2
    for head in heads:
        assert head.startswith("CONNECT model.test:443 HTTP/1.1\r\n")
        assert "proxy-authorization: basic bwu6cebzcw==" in head.lower()


@pytest.mark.parametrize("make_loop", LOOPS, ids=lambda make: make.__module__)
def test_a_connection_whose_request_is_half_sent_is_not_used_again(trusted, make_loop):
    """
    An endpoint that refuses a long request before it has read it, and reads no more, does not hold up the next one,
    though over TLS nobody tells how much of it is left.
    """
    server = Server(trusted.issue_cert("127.0.0.1"))
    left = asyncio.Event()

    async def refuse(reader, writer):
        server.connections += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(REPLY if server.connections > 1 else REPLY.replace(b"200 OK", b"413 Content Too Large"))
        await asyncio.wait_for(left.wait(), 30)
        writer.transport.abort()

    async def work():
        server.serve = refuse
        async with server.running():
            address = httpx.URL(f"https://127.0.0.1:{server.port}/v1")
            async with Connections(address, timeout_s=60, connect_timeout_s=60) as transport:
                codes = []
                for content in (bytes(20_000_000), b"body"):
                    request = httpx.Request("POST", address, content=content)
                    reply = await asyncio.wait_for(transport.handle_async_request(request), 30)
                    codes.append(reply.status_code)
                left.set()
        return codes

    with asyncio.Runner(loop_factory=make_loop) as runner:
        assert runner.run(work()) == [413, 200]
    assert server.connections == 2
