"""
The transport and the proxies that the process environment names.
"""

import asyncio

import httpx
import pytest
from gym_plugin_openai_model.connections import Connections

REPLY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
REFUSAL = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"


def ask(url, answer=REPLY, environ=lambda port: {}):
    """Ask an address while a server, which may be meant as a proxy, gives one answer; return reply and heads."""
    heads = []

    async def serve(reader, writer):
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(answer)
        await writer.drain()
        writer.close()

    async def work():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        address = httpx.URL(url.format(port=port))
        try:
            with pytest.MonkeyPatch.context() as patch:
                for name, value in {"no_proxy": "", **environ(port)}.items():
                    patch.setenv(name, value)
                async with Connections(address, timeout_s=60, connect_timeout_s=60) as transport:
                    return await transport.handle_async_request(httpx.Request("POST", address, content=b"body"))
        finally:
            server.close()

    return asyncio.run(work()), heads


def fail(url, answer=REPLY, environ=lambda port: {}):
    """Return the message of the proxy's failure."""
    with pytest.raises(httpx.ProxyError) as caught:
        ask(url, answer, environ)
    return str(caught.value)


@pytest.mark.parametrize("prefix", ["http://", ""], ids=["URL", "host and port"])
def test_asks_a_proxy_for_the_whole_address(prefix):
    """
    A proxy is given the whole address and its own user and password; it may be named with or without `http://`.
    """
    environ = {"http_proxy": prefix + "me:p%40ss@127.0.0.1:{port}"}
    reply, [head] = ask(
        "http://model.invalid/v1?a=b",
        environ=lambda port: {name: text.format(port=port) for name, text in environ.items()},
    )

    assert reply.content == b"ok"
    assert head.startswith("POST http://model.invalid/v1?a=b HTTP/1.1\r\n")
    assert "host: model.invalid\r\n" in head.lower()
    assert "proxy-authorization: basic bwu6cebzcw==\r\n" in head.lower()


def test_takes_all_proxy_where_none_is_named_for_the_scheme():
    """
    `all_proxy` serves every scheme that has no proxy of its own.
    """
    reply, [head] = ask("http://model.invalid/v1", environ=lambda port: {"all_proxy": f"http://127.0.0.1:{port}"})

    assert reply.content == b"ok"
    assert head.startswith("POST http://model.invalid/v1 ")


def test_goes_directly_where_the_environment_says_so():
    """
    Hosts in `no_proxy` are asked without the proxy.
    """
    reply, [head] = ask(
        "http://127.0.0.1:{port}/v1",
        environ=lambda _: {
            "http_proxy": "http://127.0.0.1:1",
            "all_proxy": "http://127.0.0.1:1",
            "no_proxy": "127.0.0.1",
        },
    )

    assert reply.content == b"ok"
    assert head.startswith("POST /v1 ")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_names_a_proxy_that_is_not_there(scheme):
    """
    Whose connection is refused is said: the proxy's, without its password.
    """
    message = fail(
        f"{scheme}://model.invalid/v1", environ=lambda _: {f"{scheme}_proxy": "http://me:secret@127.0.0.1:1"}
    )

    assert message == "the proxy http://127.0.0.1:1: connection refused"


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_names_a_proxy_that_is_unknown(scheme):
    """
    A proxy that has no address is told from an endpoint that has none.
    """
    message = fail(f"{scheme}://127.0.0.1/v1", environ=lambda _: {f"{scheme}_proxy": "http://nowhere.invalid:3128"})

    assert message.startswith("the proxy http://nowhere.invalid:3128: unknown host (")


def test_says_that_a_proxy_wants_a_password():
    """
    A tunnel that is refused for want of a password is said to be that.
    """
    message = fail("https://model.invalid/v1", REFUSAL, lambda port: {"https_proxy": f"http://127.0.0.1:{port}"})

    assert message.endswith("it wants a user and a password (status 407)")


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 502 Bad Gateway\r\n\r\n"], ids=["nothing", "502"])
def test_names_a_proxy_that_makes_no_tunnel(answer):
    """
    A proxy that cannot reach the endpoint is what failed.
    """
    message = fail("https://model.invalid/v1", answer, lambda port: {"https_proxy": f"http://127.0.0.1:{port}"})

    assert message.startswith("the proxy http://127.0.0.1:")


def test_refuses_a_proxy_that_is_no_address():
    """
    Nonsense in a variable is told by its name in the first request.
    """
    message = fail("http://model.invalid/v1", environ=lambda _: {"http_proxy": "http://[::"})

    assert message.startswith("the proxy http://[:: is no address")


def test_shows_no_password_of_a_proxy_that_is_no_address():
    """
    A slash in a password ends no address, and what is wrong with the rest is said without it.
    """
    message = fail("http://model.invalid/v1", environ=lambda _: {"http_proxy": "http://me:SEC/RET@127.0.0.1:port"})

    assert message.startswith("the proxy http://127.0.0.1:port is no address")
    assert "SEC" not in message


@pytest.mark.parametrize("proxy", ["https://127.0.0.1:3128", "socks5://127.0.0.1:1080"])
def test_refuses_a_proxy_that_speaks_something_else(proxy):
    """
    What cannot be spoken is said, instead of being tried as something else.
    """
    message = fail("http://model.invalid/v1", environ=lambda _: {"http_proxy": proxy})

    assert message == f"the proxy {proxy} cannot be used: proxies are spoken to over http:// only"
