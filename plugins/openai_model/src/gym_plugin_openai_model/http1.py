"""
One connection that speaks HTTP/1.1: requests go out, replies come back whole, one after the other.

llhttp (through httptools) reads what comes; this file only says what follows from it.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable
from typing import NamedTuple, cast

import httptools

__all__ = ["ClosedError", "Connection", "HttpError", "RawReply", "TooLargeError"]

MAX_HEAD_BYTES = 65_536
"""Status line and headers of a reply, at most; trailers and whatever else brings no content are bounded alike."""
LONG_CONTENT_BYTES = 65_536
"""A request of this length may be answered before it is sent to its end."""


class HttpError(Exception):
    """What came is no whole HTTP reply."""


class ClosedError(HttpError):
    """The connection was closed from here."""


class TooLargeError(Exception):
    """A reply is larger than anybody has use for."""


class _TunnelError(HttpError):
    """The head of a CONNECT's reply was read: what follows it is no HTTP of ours."""


class RawReply(NamedTuple):
    """A reply as it came, its content decoded."""

    status: int
    headers: list[tuple[bytes, bytes]]
    """Names in lower case."""
    content: bytes


class Connection(asyncio.Protocol):
    """
    One connection and the request that waits for its reply on it.

    Args:
        max_reply_bytes: The largest content that is taken, decoded.
        on_idle: Called when the next request may be sent.
        on_lost: Called when it has ended.
    """

    def __init__(
        self,
        max_reply_bytes: int,
        on_idle: Callable[[Connection], None],
        on_lost: Callable[[Connection], None],
    ) -> None:
        self._max_reply_bytes = max_reply_bytes
        self._on_idle = on_idle
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._waiting: asyncio.Future[RawReply] | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._content: bytes | bytearray = b""
        self._size = 0
        self._framing_size = 0
        self._is_long = False
        self._is_in_body = False
        self._ends_with_connection = False
        self._takes_no_more = False
        self._is_tunnelling = False
        self._has_heard = False

    # -- from here ---------------------------------------------------------------------------------------------------

    def send(self, head: bytes, content: bytes) -> asyncio.Future[RawReply]:
        """
        Send a request.

        Returns:
            What the reply will be; it fails with HttpError, TooLargeError or OSError.
        """
        assert self._transport is not None
        assert self._waiting is None
        self._waiting = asyncio.get_running_loop().create_future()
        self._has_heard = False
        self._is_long = len(content) >= LONG_CONTENT_BYTES
        if not self._is_long:
            self._transport.write(b"%b%d\r\n\r\n%b" % (head, len(content), content))
        else:
            self._transport.writelines([b"%b%d\r\n\r\n" % (head, len(content)), content])
        return self._waiting

    def ask_for_tunnel(self, request: bytes) -> asyncio.Future[RawReply]:
        """Send a CONNECT request; its reply is only a head, and what follows it belongs to whoever is behind it."""
        assert self._transport is not None
        self._waiting = asyncio.get_running_loop().create_future()
        self._is_tunnelling = True
        self._transport.write(request)
        return self._waiting

    def abort(self) -> None:
        """End the connection now; whoever still waits is told."""
        self._takes_no_more = True
        self._settle(ClosedError("the connections were closed while the reply was due"))
        if self._transport is not None:
            self._transport.abort()

    def carry_on_over(self, transport: asyncio.Transport) -> None:
        """Go on over another transport: the same connection, inside TLS."""
        self._transport = transport

    @property
    def transport(self) -> asyncio.Transport | None:
        """What carries the bytes."""
        return self._transport

    @property
    def is_open(self) -> bool:
        """Whether another request may be sent."""
        return self._transport is not None and not self._takes_no_more and not self._transport.is_closing()

    def _settle(self, outcome: RawReply | BaseException) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is None or waiting.done():
            return
        if isinstance(outcome, BaseException):
            waiting.set_exception(outcome)
        else:
            waiting.set_result(outcome)

    def _fail(self, error: BaseException) -> None:
        self._settle(error)
        self.abort()

    # -- from asyncio ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one without being derived from it

    def data_received(self, data: bytes) -> None:
        if self._waiting is None:  # nobody asked: whatever it is, the next reply cannot be told from it
            self.abort()
            return
        self._has_heard = True
        size = self._size
        try:
            self._parser.feed_data(data)
            if self._waiting is not None:
                self._framing_size = self._framing_size + len(data) if self._size == size else 0
                if self._framing_size > MAX_HEAD_BYTES:
                    part = "tail" if self._is_in_body else "head"
                    self._fail(HttpError(f"the {part} of the reply does not end within {MAX_HEAD_BYTES:,} bytes"))
        except httptools.HttpParserUpgrade:
            self._fail(HttpError("the endpoint wants to speak another protocol"))
        except httptools.HttpParserError as error:
            cause = error.__context__
            if isinstance(cause, _TunnelError):
                return
            self._fail(cause if isinstance(cause, TooLargeError | HttpError) else HttpError(f"no HTTP: {error}"))

    def eof_received(self) -> bool:
        if self._is_in_body and self._ends_with_connection:
            self.on_message_complete()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._takes_no_more = True
        if self._is_in_body and self._ends_with_connection and error is None:
            self.on_message_complete()
        began = "in the middle of a reply" if self._has_heard else "without a reply"
        self._settle(error or HttpError(f"the endpoint closed the connection {began}"))
        self._on_lost(self)

    # -- from the parser ---------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._waiting is None:
            raise HttpError("more came than was asked for")
        self._ends_with_connection = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_in_body:  # a trailer: nobody reads it, and it may not pass for a header
            return
        name = name.lower()
        self._headers.append((name, value))
        if name == b"content-length":
            self._ends_with_connection = False
            if value.isdigit() and int(value) > self._max_reply_bytes and not self._is_tunnelling:
                raise too_large(self._max_reply_bytes)
        elif name == b"transfer-encoding":
            self._ends_with_connection = False

    def on_headers_complete(self) -> None:
        self._is_in_body = True
        if self._is_tunnelling:
            self._answer_for_tunnel()

    def _answer_for_tunnel(self) -> None:
        """Take the head of a CONNECT's reply for the whole; a new reader reads what comes through the tunnel."""
        status = self._parser.get_status_code()
        self._is_tunnelling = self._is_in_body = False
        self._headers = []
        self._framing_size = 0
        self._settle(RawReply(status, [], b""))
        self._parser = httptools.HttpResponseParser(self)
        raise _TunnelError  # else the old reader would take what follows for a reply, and offer the connection

    def on_body(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._max_reply_bytes:
            raise too_large(self._max_reply_bytes)
        if not self._content:
            self._content = data
        elif isinstance(self._content, bytearray):
            self._content += data
        else:  # in one piece, because a list of small chunks would weigh twenty times what they hold
            self._content = bytearray(self._content)
            self._content += data

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        headers, content = self._headers, bytes(self._content)
        # Nothing of a reply stays behind: the connection may be idle for hours.
        self._headers, self._content, self._size, self._is_in_body = [], b"", 0, False
        if status < 200:  # an interim reply: the real one follows
            return
        self._framing_size = 0
        waiting = self._waiting
        if waiting is None or waiting.done():
            # Whoever asked has given up, and ends this connection as soon as it wakes: nobody else may have it.
            self.abort()
            return
        if self._ends_with_connection and status not in (204, 304):
            self._takes_no_more = True
        try:
            headers, content = decoded(headers, content, self._max_reply_bytes)
        except (HttpError, TooLargeError) as error:
            self._fail(error)
            return
        if not self._parser.should_keep_alive():
            self._takes_no_more = True
        self._waiting = None
        waiting.set_result(RawReply(status, headers, content))
        if self.is_open and self._is_sent(status):
            self._on_idle(self)
        else:
            self.abort()

    def _is_sent(self, status: int) -> bool:
        """Whether the request has gone out to its end: what is left of it would stand before the next one."""
        assert self._transport is not None
        if self._transport.get_write_buffer_size():
            return False
        # Inside TLS no transport tells what the one below it still holds; but only a refusal comes so early.
        return status < 400 or not self._is_long or self._transport.get_extra_info("ssl_object") is None


def too_large(limit: int) -> TooLargeError:
    """Return the error for a reply of more than `limit` bytes."""
    return TooLargeError(f"the reply is too large; at most {limit:,} are read")


def decoded(headers: list[tuple[bytes, bytes]], content: bytes, limit: int) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """
    Undo the compression of a reply.

    Returns:
        The headers without those that described it, and the content.

    Raises:
        HttpError: nobody here can undo it, or it is damaged.
        TooLargeError: there is more in it than `limit` bytes.
    """
    codings = [value.strip().lower() for name, value in headers if name == b"content-encoding"]
    if not codings or codings == [b"identity"]:
        return headers, content
    if codings not in ([b"gzip"], [b"deflate"]):
        raise HttpError(f"the reply is coded as {b', '.join(codings).decode('latin-1')}, which nobody asked for")
    try:
        unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)
        plain = unpacker.decompress(content, limit + 1)
    except zlib.error as error:
        raise HttpError(f"the compressed reply is damaged: {error}") from None
    if len(plain) > limit:
        raise too_large(limit)
    if not unpacker.eof:
        raise HttpError("the compressed reply is not whole")
    if unpacker.unused_data:
        raise HttpError("the compressed reply goes on behind its end")
    return [pair for pair in headers if pair[0] not in (b"content-encoding", b"content-length")], plain
