"""
What carries the requests: an httpx transport over pyreqwest, whose connections live outside the event loop.

httpx's own pool looks at every connection for every request, and asyncio clients cost more with every connection they
hold; pyreqwest (Rust: reqwest, hyper, rustls) costs a third of aiohttp, and the same with four thousand in flight as
with sixty-four. It answers through the event loop that asked, so one transport may serve several in turn.

A request that is cancelled is forgotten here, but not on the wire: pyreqwest cannot take it back. Its connection is
free again when the reply comes, at the latest after `timeout_s`.
"""

from __future__ import annotations

import errno
import os
import re
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import ClientClosedError, ConnectTimeoutError, PyreqwestError, RequestTimeoutError
from pyreqwest.http import HeaderMap, Url
from pyreqwest.proxy import ProxyBuilder

from gym_plugin_openai_model.endpoints import proxy_for
from gym_plugin_openai_model.prepared import Prepared, PreparedRequest, Reply

if TYPE_CHECKING:
    from pyreqwest.request import RequestBuilder
    from pyreqwest.response import Response

__all__ = ["MAX_REPLY_BYTES", "Connections", "TooLargeError"]

MAX_REPLY_BYTES = 256 * 2**20
"""
The largest reply that is read, decompressed; beyond it something is wrong.

A million tokens with log-probabilities of twenty alternatives each stay below it.
"""

_FRAMING = frozenset({"connection", "content-length", "transfer-encoding"})
"""Headers that follow from the content; the client writes them itself."""
_REFUSED = {errno.ECONNREFUSED, 10061}
_TOO_MANY_FILES = {errno.EMFILE, errno.ENFILE, 10024}
"""Error numbers of this system; those of Windows are not the ones of its `errno`."""


class TooLargeError(httpx.TransportError):
    """A reply that is larger than anybody has use for."""


class Connections(httpx.AsyncBaseTransport):
    """
    Carries httpx requests over connections that are kept alive; opened and closed with `async with`.

    There are as many connections as there ever were requests in flight. Redirects are not followed. The proxy that the
    process environment names for the address (`https_proxy`, `no_proxy`, ...) is used, and the certificate authorities
    of the system, or those that `SSL_CERT_FILE` and `SSL_CERT_DIR` name instead.

    Args:
        address: Where requests go; the proxy is chosen for it.
        timeout_s: Seconds for one request, connecting included.
        connect_timeout_s: Seconds for making a connection, TLS and proxy included, where one is needed.
        max_reply_bytes: The largest reply that is read.
    """

    def __init__(
        self,
        address: httpx.URL,
        *,
        timeout_s: float,
        connect_timeout_s: float,
        max_reply_bytes: int = MAX_REPLY_BYTES,
    ) -> None:
        self._proxy = proxy_for(address)
        self._timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._max_reply_bytes = max_reply_bytes
        self._problem: str | None = None
        self._client: Client | None = None
        self._ready: dict[Prepared, tuple[Url, HeaderMap]] = {}

    async def __aenter__(self) -> Connections:
        builder = (
            ClientBuilder()
            .http1_only()
            .follow_redirects(False)
            .timeout(timedelta(seconds=self._timeout_s))
            .connect_timeout(timedelta(seconds=self._connect_timeout_s))
        )
        if self._proxy is None:
            builder = builder.no_proxy()  # what the environment says has been read
        else:
            try:
                builder = builder.proxy(ProxyBuilder.all(_with_scheme(self._proxy)))
            except ValueError as error:
                self._problem = f"{self._shown_proxy} is no address ({error})"
        self._client = builder.build()
        return self

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """
        Send a request and return its reply, read to the end.

        Raises:
            httpx.TransportError: it could not be sent, or the reply is not whole or larger than anybody needs.
        """
        assert self._client is not None, "open the transport first: async with Connections(...)"
        if self._problem is not None:
            raise httpx.ProxyError(self._problem)
        try:
            # Not `send()`, which reads however much comes.
            async with self._builder(request).build_streamed() as response:
                content = await self._content(response)
            return Reply(response.status, lambda: list(response.headers.items()), content, request)
        except PyreqwestError as error:
            failure = self._failure(error, request.url)
        # Outside the handler: pyreqwest's own error shows the whole URL, whose query may hold a key.
        raise failure

    def _builder(self, request: httpx.Request) -> RequestBuilder:
        assert self._client is not None
        if not isinstance(request, PreparedRequest):
            pairs = [(name, value) for name, value in request.headers.multi_items() if name not in _FRAMING]
            builder = self._client.request(request.method, str(request.url)).headers(pairs)
            return builder.body_bytes(request.content) if request.content else builder
        ready = self._ready.get(request.prepared)
        if ready is None:
            # Replies are asked for uncompressed, as they are small or near; one that comes compressed is decoded.
            headers = HeaderMap({"accept-encoding": "identity", **request.prepared.headers})
            ready = self._ready[request.prepared] = (Url(str(request.url)), headers)
        return self._client.post(ready[0]).headers(ready[1]).body_bytes(request.content)

    async def _content(self, response: Response) -> bytes:
        length = response.get_header("content-length")
        if length is not None and length.isdecimal():  # neither compressed nor chunked: it cannot become more
            if int(length) > self._max_reply_bytes:
                raise self._too_large(f"{int(length):,} bytes")
            return (await response.bytes()).to_bytes()
        chunks, size = [], 0
        while (chunk := await response.body_reader.read_chunk()) is not None:
            size += len(chunk)
            if size > self._max_reply_bytes:
                raise self._too_large(f"more than {self._max_reply_bytes:,} bytes")
            chunks.append(chunk)
        return b"".join(chunks)

    def _too_large(self, size: str) -> TooLargeError:
        return TooLargeError(f"the reply has {size}; at most {self._max_reply_bytes:,} are read")

    @property
    def _shown_proxy(self) -> str:
        """The proxy without the user and the password that may stand in its URL."""
        assert self._proxy is not None
        scheme, _, rest = _with_scheme(self._proxy).partition("://")
        return f"the proxy {scheme}://{rest.rpartition('@')[2]}"

    def _failure(self, error: PyreqwestError, url: httpx.URL) -> httpx.TransportError:
        """Say in httpx's classes and in plain words what went wrong: a class of pyreqwest's covers several cases."""
        details = error.args[1] if len(error.args) > 1 and isinstance(error.args[1], dict) else {}
        told = [cause["message"] for cause in details.get("causes") or ()]
        last = told[-1] if told else str(error.args[0])
        is_connecting = "client error (Connect)" in told
        if isinstance(error, ConnectTimeoutError) and is_connecting:
            return httpx.ConnectTimeout(f"no connection within {self._connect_timeout_s:g} s (connect_timeout_s)")
        if isinstance(error, RequestTimeoutError):
            return httpx.ReadTimeout(f"no reply within {self._timeout_s:g} s (timeout_s)")
        if isinstance(error, ClientClosedError):
            return httpx.ReadError("the connections were closed while the reply was due")
        if not is_connecting:
            return httpx.RemoteProtocolError(last)
        is_tunnel = any(cause.startswith("tunnel error") for cause in told)
        if self._proxy is not None and (is_tunnel or url.scheme == "http"):
            return httpx.ProxyError(f"{self._shown_proxy}: {_in_plain_words(told)}")
        return httpx.ConnectError(_in_plain_words(told))

    async def aclose(self) -> None:
        """Close every connection; requests still in flight fail."""
        client, self._client = self._client, None
        self._ready.clear()
        if client is not None:
            await client.close()


def _with_scheme(proxy: str) -> str:
    """Return a proxy as a URL; the variables may hold `host:port` alone, as curl takes it."""
    return proxy if "://" in proxy else f"http://{proxy}"


def _in_plain_words(told: list[str]) -> str:
    """Say why there is no connection, from what each layer said of it, the lowest last."""
    last = told[-1]
    found = re.search(r"\(os error (\d+)\)", last)
    number = int(found[1]) if found else None
    if number in _REFUSED:
        return "connection refused"
    if number in _TOO_MANY_FILES:
        return "too many open files; raise the limit (`ulimit -n`) or lower collect.concurrency"
    if "dns error" in told:
        return f"unknown host ({last.rpartition(': ')[2]})"
    if "tcp connect error" in told or "tcp open error" in told or last.startswith("tunnel error"):
        return last
    return f"TLS failed: {_why_no_tls(last)}"


def _why_no_tls(told: str) -> str:
    if "InvalidContentType" in told:
        return f"the other side does not speak it; is the address http://? ({told})"
    if not told.startswith("invalid peer certificate: UnknownIssuer"):
        return told
    named = os.environ.get("SSL_CERT_FILE")
    if named and not Path(named).is_file():
        return f"{told}; SSL_CERT_FILE names {named}, which is no file"
    return f"{told}; SSL_CERT_FILE may name a file with the authorities to trust"
