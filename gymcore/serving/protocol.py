"""
HTTP as uvicorn speaks it over httptools, with bounds on what it leaves unbounded: heads, what frames a body, and
clients that take no answer.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["HAS_LEFT", "HEAD_BYTES", "HEAD_S", "TAKE_S", "BoundedProtocol"]

HAS_LEFT = "gymcore.has_left"
"""The extension of the scope in which stands what says whether the client is gone."""

TCP_INFO: int | None = getattr(socket, "TCP_INFO", None)
"""What tells of the state of a connection; Linux has it."""
ESTABLISHED = 1
"""The state of one that neither end has closed; source: tcp_states.h of Linux."""

HEAD_BYTES = 64 * 2**10
"""The longest request line with its headers; also of trailers, and of anything else that is no body."""

HEAD_S = 15.0
"""How long sending them may take, from the opening of the connection, or from the first byte."""

TAKE_S = 60.0
"""How long a client may take nothing of an answer that waits for it; what the kernel holds counts as taken."""


class BoundedProtocol(HttpToolsProtocol):
    """A connection whose client must say what it wants, in not too many words, and soon, and take what it gets."""

    head_s = HEAD_S
    """How long a head may take."""
    take_s = TAKE_S
    """How long nothing of an answer may be taken."""
    _head: asyncio.TimerHandle | None = None
    _taking: asyncio.TimerHandle | None = None
    _size = 0

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for a request."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # so that `pause_writing` tells of every answer that waits
        self._await_head()

    def connection_lost(self, error: Exception | None) -> None:
        """Wait for nothing more."""
        self._end_head()
        self._end_taking()
        super().connection_lost(error)
        # Each of them leads back here, and a server that lives for months has its garbage looked for rarely.
        ended: Any = self
        ended.parser = ended.cycle = ended.scope = None

    def pause_writing(self) -> None:
        """Begin to wait for the client to take what was written."""
        super().pause_writing()
        self._await_taking()

    def resume_writing(self) -> None:
        """It has taken all of it."""
        self._end_taking()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        """Read on, unless what has come since the last of a body is too long: headers, trailers, chunk extensions."""
        self._size += len(data)
        super().data_received(data)
        if self._size > HEAD_BYTES and not self.transport.is_closing():
            self._refuse(b"431 Request Header Fields Too Large", b"the headers are too long")

    def on_message_begin(self) -> None:
        """Begin to count."""
        super().on_message_begin()
        if self._head is None:
            self._await_head()

        self.scope["extensions"] = {HAS_LEFT: {"has_left": self._has_left}}

    def _has_left(self) -> bool:
        """Whether the client is gone, as far as is known; also while nothing of what it sends is read."""
        connection = self.transport.get_extra_info("socket")
        if self.transport.is_closing() or connection is None:
            return True
        if TCP_INFO is None:
            return False
        try:
            return bool(connection.getsockopt(socket.IPPROTO_TCP, TCP_INFO, 1)[0] != ESTABLISHED)
        except OSError:
            return True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; trailers are left out, because nobody looks at them, and they must not say who asks."""
        if self._head is not None:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Stop waiting, and count anew: what follows is a body, which has bounds of its own."""
        self._end_head()
        self._size = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take some of a body, and count what follows anew."""
        self._size = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Count what follows anew: it is the next request."""
        self._size = 0
        super().on_message_complete()

    def _await_head(self) -> None:
        self._size = 0
        self._head = self.loop.call_later(self.head_s, self._on_late)

    def _end_head(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _on_late(self) -> None:
        self._head = None
        if self.cycle is not None and not self.cycle.response_complete:  # half of a next request waits behind this one
            self._await_head()
            return
        if self._size and not self.transport.is_closing():
            self._refuse(b"408 Request Timeout", b"the headers did not come in time")
        self.transport.close()

    def _await_taking(self) -> None:
        self._end_taking()
        left = self.transport.get_write_buffer_size()
        self._taking = self.loop.call_later(self.take_s, self._on_untaken, left)

    def _end_taking(self) -> None:
        if self._taking is not None:
            self._taking.cancel()
            self._taking = None

    def _on_untaken(self, left: int) -> None:
        """Drop the client if it has taken nothing since so much was left."""
        if self.transport.get_write_buffer_size() < left:
            self._await_taking()
        else:
            self.transport.abort()

    def _refuse(self, status: bytes, told: bytes) -> None:
        body = b'{"error":{"message":"%b"}}' % told
        self.transport.write(
            b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
            % (status, len(body), body)
        )
        self.transport.close()
