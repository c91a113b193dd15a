"""
A client of NeMo Gym's protocol: requests to one server, each sent once, unless it is certain that nobody had it.

Which transport carries them, TCP or a Unix socket, is said by whoever makes it.
"""

from __future__ import annotations

import asyncio
import os
import random
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import IO, Any, Literal

import httpx

from gymcore.cookie_jar import CookieJar
from gymcore.documents import DocumentError, decode_json

__all__ = [
    "MAX_WAIT_S",
    "Line",
    "Patience",
    "Reply",
    "ServerFault",
    "ServerUnavailable",
    "ServerUnreachable",
    "Transport",
    "Wire",
    "over_tcp",
    "over_unix_socket",
]

KEEP_ALIVE_S = 2.0
"""
How long an idle connection is used again. Less than any server keeps one: a request that meets the end of its
connection may have been carried out, and cannot be sent again.
"""
FIRST_WAIT_S, MAX_WAIT_S = 0.25, 5.0
"""Before a request is sent again whose connection could not be made: the first wait, and the longest."""
PIECE = 2**18
"""The bytes of a file that are sent at once."""
MOST_OF_COOKIES = 16_000
"""Characters of all cookies of a rollout together; more are no answer, because a session may be among them."""
SHOWN = 300
"""Characters of a reply that messages quote."""

_SET_COOKIE = b"set-cookie"
_BUSY = (408, 410, 425, 429, 502, 503, 504)
"""Statuses after which the same rollout may succeed another time."""


class ServerUnavailable(ConnectionError):
    """The server could not be asked, or what became of a request is not known; another time it may work."""


class ServerUnreachable(ServerUnavailable):
    """No connection could be made, however often that was tried; nobody has received anything."""


class ServerFault(Exception):
    """The server has failed, or said what cannot be used; the same rollout is likely to fail again."""


class _NotSent(Exception):
    """A request that nobody has received."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the server is waited for."""

    connect_s: float = 5.0
    """Making a connection, in seconds."""
    request_s: float = 300.0
    """One request, from sending it to the end of its reply, in seconds."""
    retries: int = 4
    """How often a request is sent again that may be."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the server answered."""

    status: int
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode("utf-8", "replace")

    def value(self) -> Any:  # any JSON value
        """Return the body as JSON; None where it is none."""
        try:
            return decode_json(self.body)
        except DocumentError:
            return None

    @property
    def error(self) -> dict[str, Any] | None:
        """What a gymcore server says of a request that it did not carry out, or of a rollout that failed."""
        value = self.value() if self.status >= 400 else None
        told = value.get("error") if isinstance(value, dict) else None
        return told if isinstance(told, dict) and isinstance(told.get("message"), str) else None

    def refuse(self, what: str) -> None:
        """
        Raise what a status says that is no success.

        Args:
            what: What was asked for, for the message.

        Raises:
            ServerUnavailable, ServerFault: the status is 300 or more.
        """
        if self.status < 300:
            return
        error = self.error or {}
        quoted = " ".join(str(error.get("message", self.text[: 4 * SHOWN])).split())[:SHOWN]
        told = f"{what} was answered with status {self.status}" + (f": {quoted}" if quoted else "")
        hints = error.get("hints")
        if isinstance(hints, list) and hints and isinstance(hints[0], str):
            told += f"; it says: {' '.join(hints[0].split())[:SHOWN]}"
        if error.get("retryable", self.status in _BUSY):
            raise ServerUnavailable(told)
        raise ServerFault(told)


Transport = Callable[[], httpx.AsyncBaseTransport]
"""Makes what carries the requests of one rollout."""


def over_tcp(*, is_encrypted: bool = False) -> Transport:
    """Return what carries requests to an address; directly, whatever proxy the environment names."""
    # Made once: reading the certificates of all authorities takes longer than a rollout.
    context = httpx.create_ssl_context() if is_encrypted else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return lambda: httpx.AsyncHTTPTransport(verify=context, limits=_LIMITS)


def over_unix_socket(path: str) -> Transport:
    """Return what carries requests to a Unix socket, whatever host the address names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return lambda: httpx.AsyncHTTPTransport(verify=context, uds=path, limits=_LIMITS)


_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=1, keepalive_expiry=KEEP_ALIVE_S)


class Wire:
    """
    One server, for all rollouts of a run; `aclose` closes every line that is still open.

    Args:
        url: The address before the names of calls, without a slash at the end.
        transport: What carries requests.
        patience: How long the server is waited for.
        token: Sent along as a bearer token.
        sleep: Waits.
        chance: Gives a number from 0.0 to 1.0, so that many who wait do not come back together.
        clock: Gives seconds that only grow.

    Attributes:
        heard: When the server last answered, by `clock`; None before the first time.
    """

    def __init__(
        self,
        url: str,
        transport: Transport,
        patience: Patience | None = None,
        *,
        token: str | None = None,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = url
        self.heard: float | None = None
        self.patience = patience or Patience()
        self.sleep = sleep
        self.chance = chance
        self.clock = clock
        self.headers = [(b"accept", b"*/*"), (b"accept-encoding", b"identity"), (b"user-agent", b"gymcore")]
        if token is not None:
            self.headers.append((b"authorization", b"Bearer " + token.encode()))
        self._transport = transport
        self._lines: set[Line] = set()

    def line(self) -> Line:
        """Return a line of its own for one rollout, to be closed in the end."""
        line = Line(self, self._transport(), self._lines.discard)
        self._lines.add(line)
        return line

    async def aclose(self) -> None:
        """Close every line."""
        for line in list(self._lines):
            await line.aclose()


class Line:
    """
    Sends the requests of one rollout, with its cookies; `Wire.line` makes it.

    A connection of its own for each rollout: httpx looks at every connection of a pool for every request, which costs
    more than all the rest where there are many rollouts.

    Attributes:
        jar: What the server has set.
    """

    def __init__(self, wire: Wire, transport: httpx.AsyncBaseTransport, on_close: Callable[[Line], None]) -> None:
        self.jar = CookieJar(MOST_OF_COOKIES)
        self._wire = wire
        self._transport = transport
        self._on_close = on_close

    async def aclose(self) -> None:
        """Close its connection."""
        self._on_close(self)
        await self._transport.aclose()

    async def send(
        self,
        path: str,
        body: bytes | IO[bytes] | None,
        *,
        again: Literal["if unsent", "always"] = "if unsent",
        most_bytes: int,
        limit_s: float | None = None,
        retries: int | None = None,
        on_waiting: Callable[[bool], None] | None = None,
    ) -> Reply:
        """
        Send a request, and read its reply to the end.

        Args:
            path: What follows the address, quoted already.
            body: JSON, for a POST, or a file with it, which is sent in pieces; None is a GET.
            again: When it may be sent again: if its connection could not be made, so that nobody had it; or also
                where the connection was lost on the way, because doing it twice is the same as doing it once.
            most_bytes: The longest reply; a longer one is not read to its end.
            limit_s: How long one try may take; what `patience` says where it is None.
            retries: How often it may be sent again; what `patience` says where it is None.
            on_waiting: Told that no connection could be made, and that the request goes out: until then nobody has it.

        Raises:
            ServerUnreachable: no connection to the server could be made.
            ServerUnavailable: no whole reply came.
            ServerFault: the reply is none that can be used.
        """
        patience = self._wire.patience
        left = patience.retries if retries is None else retries
        wait_s = FIRST_WAIT_S
        while True:
            try:
                return await self._exchange(path, body, most_bytes, limit_s or patience.request_s, on_waiting)
            except _NotSent as error:
                if on_waiting is not None:
                    on_waiting(True)
                if not left:
                    raise ServerUnreachable(f"nobody could be asked at {self._wire.url}: {error}") from None
            except ServerUnavailable:
                if not left or again == "if unsent":
                    raise
            left -= 1
            await self._wire.sleep(wait_s * (0.5 + 0.5 * self._wire.chance()))
            wait_s = min(MAX_WAIT_S, 2 * wait_s)

    async def _sent(self, request: httpx.Request) -> httpx.Response:
        """Hand a request to the transport, and return the beginning of its reply."""
        try:
            return await self._transport.handle_async_request(request)
        except AttributeError as error:  # anyio asks for the socket that uvloop has lost already
            raise httpx.ReadError("the connection was lost as soon as it was made") from error

    async def _exchange(
        self,
        path: str,
        body: bytes | IO[bytes] | None,
        most_bytes: int,
        limit_s: float,
        on_waiting: Callable[[bool], None] | None,
    ) -> Reply:
        """Send a request once."""
        told = f"{'GET' if body is None else 'POST'} /{path}"
        request = self._request(path, body, limit_s)
        if on_waiting is not None:
            request.extensions["trace"] = partial(_trace, on_waiting)
        try:
            async with asyncio.timeout(limit_s) as limit:
                response = await self._sent(request)
                try:
                    data = await _read(response, most_bytes, told)
                finally:
                    await response.aclose()
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise _NotSent(_named(error)) from error
        except httpx.TransportError as error:
            unknown = "whether it was done is not known"
            raise ServerUnavailable(f"{told} was sent and not answered, {unknown}: {_named(error)}") from error
        except TimeoutError as error:
            if limit.expired():
                raise ServerUnavailable(f"{told} was not answered within {limit_s:g} s (request_timeout_s)") from error
            raise
        self._wire.heard = self._wire.clock()
        cookies = [value.decode("latin-1") for name, value in response.headers.raw if name.lower() == _SET_COOKIE]
        try:
            for line in cookies:
                self.jar.take(line)
        except ValueError as error:
            raise ServerFault(f"{told}: {error}") from None
        return Reply(response.status_code, data)

    def _request(self, path: str, body: bytes | IO[bytes] | None, limit_s: float) -> httpx.Request:
        headers = list(self._wire.headers)
        if body is not None:
            headers.append((b"content-type", b"application/json"))
        if not isinstance(body, bytes | None):
            headers.append((b"content-length", str(body.seek(0, os.SEEK_END)).encode()))
        if self.jar.header:
            headers.append((b"cookie", self.jar.header.encode()))
        bounds = {"connect": self._wire.patience.connect_s, "read": limit_s, "write": limit_s, "pool": limit_s}
        return httpx.Request(
            "GET" if body is None else "POST",
            f"{self._wire.url}/{path}",
            headers=headers,
            content=body if isinstance(body, bytes | None) else _pieces(body),
            extensions={"timeout": bounds},
        )


async def _pieces(file: IO[bytes]) -> AsyncIterator[bytes]:
    file.seek(0)
    while piece := file.read(PIECE):
        yield piece


async def _trace(on_waiting: Callable[[bool], None], event: str, info: object) -> None:
    """Take what httpcore tells of a request while it carries it."""
    if event.endswith(".send_request_headers.started"):
        on_waiting(False)


async def _read(response: httpx.Response, most_bytes: int, told: str) -> bytes:
    """
    Read a reply to its end.

    Raises:
        ServerFault: it is too long, or packed although nobody asked for that.
    """
    coding = response.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise ServerFault(f"{told} was answered in the coding {coding[:40]!r}, which was not asked for")
    parts: list[bytes] = []
    size = 0
    async for part in response.aiter_raw():
        size += len(part)
        if size > most_bytes:
            raise ServerFault(f"{told} was answered with more than {most_bytes:,} bytes")
        parts.append(part)
    return b"".join(parts)


def _named(error: Exception) -> str:
    text = " ".join(str(error).split())[:SHOWN]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
