"""
Requests that differ only in their content, and replies that are read whole.

httpx copies headers and parses the URL for every request, and does as much again for a reply; that costs more than
sending them. Whoever looks at these sees a whole `httpx.Request` or `httpx.Response`: what is seldom looked at is put
together only then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import httpx

__all__ = ["Prepared", "PreparedRequest", "Reply"]


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """What is the same in every POST to one address."""

    url: httpx.URL
    headers: Mapping[str, str]
    """Headers of every request, by lower-case name; those that follow from URL and content are not among them."""
    extensions: dict[str, Any]
    """As httpx's transports take them: `timeout`."""

    def request(self, content: bytes, cookie: str = "") -> PreparedRequest:
        """Return the request that carries `content`, and a `cookie` of its own where that is not empty."""
        return PreparedRequest(self, content, cookie)


class PreparedRequest(httpx.Request):
    """A request whose headers and stream are made when somebody asks for them."""

    # Not httpx's constructor: building headers is what it would do.
    def __init__(self, prepared: Prepared, content: bytes, cookie: str) -> None:
        self.method = "POST"
        self.url = prepared.url
        self.extensions = prepared.extensions
        self.prepared = prepared
        self.cookie = cookie
        self._content = content

    @cached_property
    def headers(self) -> httpx.Headers:  # type: ignore[override]
        """The headers, `host` and `content-length` included."""
        own = {"cookie": self.cookie} if self.cookie else {}
        whole = httpx.Request("POST", self.url, headers={**self.prepared.headers, **own}, content=self._content)
        return whole.headers

    @cached_property
    def stream(self) -> httpx.ByteStream:  # type: ignore[override]
        """The content, for transports that stream."""
        return httpx.ByteStream(self._content)


class Reply(httpx.Response):
    """
    A response that has arrived whole.

    Args:
        status: The HTTP status.
        headers: The headers, in order, without those that described how the content was coded.
        content: The body, decoded.
        request: What it answers.
    """

    # What httpx's constructor would set for every response that has been read.
    is_closed = True
    is_stream_consumed = True
    next_request = None
    default_encoding = "utf-8"

    # Not httpx's constructor: preparing to read a stream is what it would do.
    def __init__(self, status: int, headers: list[tuple[bytes, bytes]], content: bytes, request: httpx.Request) -> None:
        self.status_code = status
        self.request = request
        self._pairs = headers
        self._content = content

    @cached_property
    def headers(self) -> httpx.Headers:  # type: ignore[override]
        """The headers."""
        return httpx.Headers(self._pairs)

    @property
    def set_cookies(self) -> list[str]:
        """The cookies that it asks for."""
        return [value.decode("latin-1") for name, value in self._pairs if name == b"set-cookie"]

    @cached_property
    def stream(self) -> httpx.ByteStream:  # type: ignore[override]
        """The body, for readers that stream."""
        return httpx.ByteStream(self._content)

    @cached_property
    def extensions(self) -> dict[str, Any]:  # type: ignore[override]
        """Nothing."""
        return {}

    @cached_property
    def history(self) -> list[httpx.Response]:  # type: ignore[override]
        """No redirect was followed."""
        return []

    @property
    def num_bytes_downloaded(self) -> int:
        """How many bytes the body has."""
        return len(self._content)

    async def aread(self) -> bytes:
        """Return the body."""
        return self._content
