"""
HTTP as uvicorn speaks it over httptools, with bounds on what it leaves unbounded: heads, and what frames a body.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["HEAD_BYTES", "HEAD_S", "BoundedProtocol"]

HEAD_BYTES = 64 * 2**10
"""The longest request line with its headers; also of trailers, and of anything else that is no body."""

HEAD_S = 15.0
"""How long sending them may take, from the opening of the connection, or from the first byte."""


class BoundedProtocol(HttpToolsProtocol):
    """A connection whose client must say what it wants, in not too many words, and soon."""

    head_s = HEAD_S
    """How long a head may take."""
    _head: asyncio.TimerHandle | None = None
    _size = 0

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, error: Exception | None) -> None:
        """Wait for nothing more."""
        self._end_head()
        super().connection_lost(error)

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

    def _refuse(self, status: bytes, told: bytes) -> None:
        body = b'{"error":{"message":"%b"}}' % told
        self.transport.write(
            b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
            % (status, len(body), body)
        )
        self.transport.close()
