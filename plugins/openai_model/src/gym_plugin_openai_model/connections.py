"""
What carries the requests: an httpx transport over connections that are kept alive.

httpx's own pool looks at every connection for every request, and what a general client does around a request costs
more than the rest of a model call. Here an idle connection is the last one of a list; `http1` speaks on it.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import os
import socket
import ssl
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx

from gym_plugin_openai_model.endpoints import proxy_for
from gym_plugin_openai_model.http1 import ClosedError, Connection, HttpError, RawReply, TooLargeError
from gym_plugin_openai_model.prepared import Prepared, PreparedRequest, Reply
from gymcore.alarms import Alarms

__all__ = ["MAX_REPLY_BYTES", "Connections", "TooLargeError", "in_plain_words"]

MAX_REPLY_BYTES = 256 * 2**20
"""
The largest reply that is read, decompressed; beyond it something is wrong.

A million tokens with log-probabilities of twenty alternatives each stay below it.
"""

_FRAMING = frozenset({"connection", "content-length", "transfer-encoding"})
"""Headers that follow from the content; they are written here."""
_LENGTH = b"content-length: "
_TOO_MANY_FILES = {errno.EMFILE, errno.ENFILE}


class Connections(httpx.AsyncBaseTransport):
    """
    Carries httpx requests over connections that are kept alive; opened and closed with `async with`.

    There are as many connections as there ever were requests in flight. Redirects are not followed. The proxy that the
    process environment names for the address (`https_proxy`, `no_proxy`, ...) is used, and the certificate authorities
    that httpx trusts, or those that `SSL_CERT_FILE` and `SSL_CERT_DIR` name instead.

    Args:
        address: Where requests go; the proxy is chosen for it.
        timeout_s: Seconds from sending a request to the end of its reply.
        connect_timeout_s: Seconds for making a connection, TLS and proxy included, where one is needed.
        max_reply_bytes: The largest reply that is read.

    Attributes:
        has_connected: Whether a connection was ever made.
    """

    def __init__(
        self,
        address: httpx.URL,
        *,
        timeout_s: float,
        connect_timeout_s: float,
        max_reply_bytes: int = MAX_REPLY_BYTES,
    ) -> None:
        self._proxy = _Proxy.parse(proxy_for(address))
        self._timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._max_reply_bytes = max_reply_bytes
        self._tls: ssl.SSLContext | None = None
        self.has_connected = False
        self._is_open = False
        self._all: set[Connection] = set()
        self._idle: list[Connection] = []
        self._heads: dict[Prepared, bytes] = {}
        self._alarms = Alarms()

    @property
    def secrets(self) -> list[str]:
        """What of the proxy's address no message may show."""
        return [] if self._proxy is None else self._proxy.secrets

    async def __aenter__(self) -> Connections:
        self._is_open = True
        return self

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """
        Send a request and return its reply, read to the end.

        Raises:
            httpx.TransportError: it could not be sent, or the reply is not whole or larger than anybody needs.
        """
        assert self._is_open, "open the transport first: async with Connections(...)"
        head, content = self._written(request)
        connection = self._take_idle() or await self._connect(request.url)
        reply = connection.send(head, content)
        alarm = self._alarms.after(self._timeout_s, partial(_ring, reply))
        try:
            raw = await reply
            return Reply(raw.status, raw.headers, raw.content, request)
        except _TooLateError:
            raise httpx.ReadTimeout(f"no reply within {self._timeout_s:g} s (timeout_s)") from None
        except TooLargeError as error:
            raise ReplyTooLargeError(str(error)) from None
        except ClosedError as error:
            raise httpx.ReadError(str(error)) from None
        except (HttpError, OSError) as error:
            # Also where an idle connection was closed at the moment of its use: whoever counts requests tries again.
            raise httpx.RemoteProtocolError(str(error) or type(error).__name__) from error
        finally:
            alarm.cancel()
            # Whoever leaves without a reply takes its future along, so that nobody is told what nobody waits for.
            if reply.cancel() or reply.cancelled() or reply.exception() is not None:
                connection.abort()

    def _take_idle(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        return None

    def _written(self, request: httpx.Request) -> tuple[bytes, bytes]:
        """Return the head of a request, up to the value of its content-length, and its content."""
        if isinstance(request, PreparedRequest):
            head = self._heads.get(request.prepared)
            if head is None:
                headers = {"accept-encoding": "identity", **request.prepared.headers}
                head = self._heads[request.prepared] = self._head(request, list(headers.items()))
            if request.cookie:
                own = request.cookie.encode("ascii")
                head = b"%bcookie: %b\r\n%b" % (head.removesuffix(_LENGTH), own, _LENGTH)
            return head, request.content
        return self._head(request, request.headers.multi_items()), request.content

    def _head(self, request: httpx.Request, pairs: list[tuple[str, str]]) -> bytes:
        target = request.url.raw_path
        pairs = [(name, value) for name, value in pairs if name not in _FRAMING]
        if not any(name == "host" for name, _ in pairs):
            pairs.insert(0, ("host", request.url.netloc.decode("ascii")))
        if self._proxy is not None and request.url.scheme == "http":
            target = b"http://%b%b" % (request.url.netloc, target)
            pairs = [*self._proxy.headers, *pairs]
        lines = [b"%b %b HTTP/1.1" % (request.method.encode(), target)]
        lines += [name.encode("ascii") + b": " + value.encode("latin-1") for name, value in pairs]
        return b"\r\n".join([*lines, _LENGTH])

    # -- connecting --------------------------------------------------------------------------------------------------

    async def _connect(self, url: httpx.URL) -> Connection:
        """
        Make a connection to where a URL points, through the proxy where there is one.

        Raises:
            httpx.ConnectTimeout, httpx.ConnectError, httpx.ProxyError: it could not be made; in plain words.
        """
        try:
            async with asyncio.timeout(self._connect_timeout_s) as limit:
                connection = await self._connected(url)
        except TimeoutError as error:
            if limit.expired():
                told = f"no connection within {self._connect_timeout_s:g} s (connect_timeout_s)"
                raise httpx.ConnectTimeout(told) from None
            raise httpx.ConnectError(_why(error)) from None
        self.has_connected = True
        return connection

    async def _connected(self, url: httpx.URL) -> Connection:
        host, port = url.host, url.port or (443 if url.scheme == "https" else 80)
        proxy = self._proxy
        if proxy is None:
            try:
                return await self._open(host, port, self._context() if url.scheme == "https" else None)
            except (OSError, ssl.CertificateError) as error:
                raise httpx.ConnectError(_why(error)) from None
        if proxy.problem is not None:
            raise httpx.ProxyError(proxy.problem)
        try:
            connection = await self._open(proxy.host, proxy.port, None)
        except OSError as error:
            raise httpx.ProxyError(f"{proxy.shown}: {_why(error)}") from None
        if url.scheme == "http":
            return connection
        try:
            await self._tunnel(connection, proxy, host, port)
        except BaseException:
            connection.abort()
            self._all.discard(connection)  # inside TLS that failed, nobody tells it that it has ended
            raise
        return connection

    async def _open(self, host: str, port: int, tls: ssl.SSLContext | None) -> Connection:
        connection = Connection(self._max_reply_bytes, self._idle.append, self._all.discard)
        self._all.add(connection)
        loop = asyncio.get_running_loop()
        name = host if tls is not None else None
        try:
            await loop.create_connection(lambda: connection, host, port, ssl=tls, server_hostname=name)
        except BaseException:
            self._all.discard(connection)
            raise
        return connection

    async def _tunnel(self, connection: Connection, proxy: _Proxy, host: str, port: int) -> None:
        """Ask the proxy for a way to the host, and speak TLS over it."""
        where = f"{f'[{host}]' if ':' in host else host}:{port}"
        lines = [f"CONNECT {where} HTTP/1.1", f"host: {where}", *(f"{name}: {value}" for name, value in proxy.headers)]
        try:
            reply: RawReply = await connection.ask_for_tunnel("\r\n".join([*lines, "", ""]).encode("latin-1"))
        except (HttpError, OSError) as error:
            raise httpx.ProxyError(f"{proxy.shown}: {error}") from None
        if not 200 <= reply.status < 300:
            why = "it wants a user and a password" if reply.status == 407 else "it makes no tunnel"
            raise httpx.ProxyError(f"{proxy.shown}: {why} (status {reply.status})")
        assert connection.transport is not None
        loop = asyncio.get_running_loop()
        try:
            inner = await loop.start_tls(connection.transport, connection, self._context(), server_hostname=host)
        except (OSError, ssl.CertificateError) as error:
            raise httpx.ConnectError(_why(error)) from None
        assert inner is not None
        connection.carry_on_over(inner)

    def _context(self) -> ssl.SSLContext:
        """Return whom TLS trusts; read once, because reading the authorities takes 20 ms."""
        if self._tls is None:
            named = os.environ.get("SSL_CERT_FILE")
            if named and not Path(named).is_file():
                raise ssl.SSLError(f"SSL_CERT_FILE names {named}, which is no file")
            self._tls = httpx.create_ssl_context()
        return self._tls

    async def aclose(self) -> None:
        """Close every connection; requests still in flight fail."""
        self._is_open = False
        for connection in list(self._all):
            connection.abort()
        self._idle.clear()
        self._heads.clear()
        for _ in range(100):  # the news reaches the connections in a few turns of the event loop
            if not self._all:
                break
            await asyncio.sleep(0)


class ReplyTooLargeError(TooLargeError, httpx.TransportError):
    """A reply that is larger than anybody has use for."""


class _TooLateError(Exception):
    """The time for a request is over."""


def _ring(reply: asyncio.Future[Any]) -> None:
    if not reply.done():
        reply.set_exception(_TooLateError())


class _Proxy:
    """A proxy as the environment names it: `http://user:password@host:port`, or `host:port` alone, as curl takes it."""

    def __init__(self, url: str) -> None:
        self.problem: str | None = None
        self.headers: list[tuple[str, str]] = []
        self.secrets: list[str] = []
        self.host, self.port = "", 80
        scheme, _, rest = (url if "://" in url else f"http://{url}").partition("://")
        login, sign, place = rest.rpartition("@")
        self.shown = f"the proxy {scheme}://{place}"
        if sign:
            user, _, password = login.partition(":")
            secret = base64.b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()
            self.headers.append(("proxy-authorization", f"Basic {secret}"))
            self.secrets += [secret, login, password, unquote(password)]
        try:
            parts = urlsplit(f"{scheme}://{place}")
            self.host, self.port = parts.hostname or "", parts.port or 80
        except ValueError as error:
            self.problem = f"{self.shown} is no address ({error})"
            return
        if not self.host:
            self.problem = f"{self.shown} is no address (it names no host)"
        elif scheme != "http":
            self.problem = f"{self.shown} cannot be used: proxies are spoken to over http:// only"

    @classmethod
    def parse(cls, url: str | None) -> _Proxy | None:
        """Return the proxy that a URL names; None for None."""
        return None if url is None else cls(url)


def in_plain_words(error: BaseException) -> str | None:
    """Say why there is no connection; None where the error itself says it best."""
    if isinstance(error, ssl.SSLCertVerificationError):
        hint = "; SSL_CERT_FILE may name a file with the authorities to trust"
        return f"TLS failed: the certificate is refused: {error.verify_message}" + (
            hint if error.verify_code in _UNKNOWN_ISSUER else ""
        )
    if isinstance(error, ssl.SSLError):
        told = str(error)
        if any(reason in told for reason in _NO_TLS):
            return f"TLS failed: the other side does not speak it; is the address http://? ({told})"
        return f"TLS failed: {told}"
    if isinstance(error, ConnectionRefusedError) or f"[Errno {errno.ECONNREFUSED}]" in str(error):
        return "connection refused"  # of several addresses that refuse, asyncio joins only the texts
    if isinstance(error, socket.gaierror):
        return f"unknown host ({error.strerror})"
    if isinstance(error, OSError) and error.errno in _TOO_MANY_FILES:
        return "too many open files; raise the limit (`ulimit -n`) or lower collect.concurrency"
    return None


_UNKNOWN_ISSUER = (18, 19, 20, 21)
"""What OpenSSL calls X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT and its neighbours: who signed it is not known."""
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")


def _why(error: BaseException) -> str:
    return in_plain_words(error) or str(error) or type(error).__name__
