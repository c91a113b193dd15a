"""
Frames between a run and its workers: four bytes of length, most significant first, then one JSON object.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from typing import Any

from gymcore.documents import DocumentError, decode_json, encode_json

__all__ = ["FRAME_BYTES", "Channel", "FrameError", "Message", "connect", "connected_pair", "socket_of"]

FRAME_BYTES = 64 * 2**20
"""The largest frame; whoever reads one is held up by it, for about a quarter of a second at this size."""

Message = dict[str, Any]


class FrameError(ValueError):
    """Something is too large for a frame."""


class Channel(asyncio.Protocol):
    """
    One end of a connection.

    Args:
        on_message: Is given every message, in order.
        on_end: Is told once that the connection has ended; with what was wrong where the other end spoke nonsense.
    """

    def __init__(self, on_message: Callable[[Message], None], on_end: Callable[[str | None], None]) -> None:
        self._on_message = on_message
        self._on_end = on_end
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None
        self._writable = asyncio.Event()
        self._nonsense: str | None = None

    def connection_made(self, transport: Any) -> None:
        """Take the transport, on which writing may begin."""
        self._transport = transport
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        """Hand over every frame that is whole."""
        received = self._received
        received += data
        start, end = 0, len(received)
        while end - start >= 4 and self._nonsense is None:
            size = int.from_bytes(received[start : start + 4], "big")
            if size > FRAME_BYTES:
                self._refuse(f"a frame of {size:,} bytes")
                return
            if end - start < 4 + size:
                break
            frame = bytes(received[start + 4 : start + 4 + size])
            start += 4 + size
            try:
                message = decode_json(frame)
            except DocumentError as error:
                self._refuse(f"a frame that is {error.message}")
                return
            if not isinstance(message, dict):
                self._refuse("a frame that is no JSON object")
                return
            self._on_message(message)
        del received[:start]

    def _refuse(self, nonsense: str) -> None:
        self._nonsense = nonsense
        self._received.clear()
        self.abort()

    def connection_lost(self, error: Exception | None) -> None:
        """Let go whoever waits to write, and say that it is over."""
        self._transport = None
        self._writable.set()
        self._on_end(self._nonsense)

    def pause_writing(self) -> None:
        """Too much is waiting to be read at the other end."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """The other end has read on."""
        self._writable.set()

    def send(self, message: Mapping[str, Any]) -> None:
        """
        Send a message, or drop it where the connection has ended.

        Raises:
            FrameError: it is too large; nothing was sent.
        """
        frame = encode_json(message)
        if len(frame) > FRAME_BYTES:
            raise FrameError(f"{len(frame):,} bytes are too much for another process; {FRAME_BYTES:,} can be sent")
        if self._transport is not None:
            self._transport.write(len(frame).to_bytes(4, "big") + frame)

    async def drained(self) -> None:
        """Wait while too much of what was sent is unread."""
        if not self._writable.is_set():
            await self._writable.wait()

    def abort(self) -> None:
        """End the connection now; what was not sent is lost."""
        if self._transport is not None:
            self._transport.abort()


def connected_pair() -> tuple[socket.socket, socket.socket]:
    """Return two connected sockets; they have no address, so nobody else can connect."""
    return socket.socketpair()


def socket_of(descriptor: int) -> socket.socket:
    """Return the socket that was handed to this process under a number."""
    return socket.socket(fileno=descriptor)


async def connect(end: socket.socket, channel: Channel) -> Channel:
    """Let a channel speak over one of two connected sockets, which it closes in the end."""
    await asyncio.get_running_loop().create_unix_connection(lambda: channel, sock=end)
    return channel
