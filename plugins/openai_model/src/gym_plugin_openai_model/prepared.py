"""
Requests that differ only in their content, and replies that are read whole.

httpx copies headers and parses the URL for every request, and does as much again for a reply; that costs more than
sending them. Whoever looks at these sees a whole `httpx.Request` or `httpx.Response`: what is seldom looked at is put
together only then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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

    def request(self, content: bytes) -> PreparedRequest:
        """Return the request that carries `content`."""
        return PreparedRequest(self, content)


class PreparedRequest(httpx.Request):
    """A request whose headers and stream are made when somebody asks for them."""

    # Not httpx's constructor: building headers is what it would do.
    def __init__(self, prepared: Prepared, content: bytes) -> None:
        self.method = "POST"
        self.url = prepared.url
        self.extensions = prepared.extensions
        self.prepared = prepared
        self._content = content

    @cached_property
    def headers(self) -> httpx.Headers:  # type: ignore[override]
        """The headers, `host` and `content-length` included."""
        whole = httpx.Request("POST", self.url, headers=dict(self.prepared.headers), content=self._content)
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
        headers: Gives the headers, in order and decoded; asked at most once.
        content: The body, decoded.
        request: What it answers.
    """

    def __init__(
        self, status: int, headers: Callable[[], list[tuple[str, str]]], content: bytes, request: httpx.Request
    ) -> None:
        super().__init__(status, stream=httpx.ByteStream(content), request=request)
        self._whole = content
        self._pairs = headers
        del self.__dict__["headers"]  # the empty ones; the property below takes their place

    @cached_property
    def headers(self) -> httpx.Headers:  # type: ignore[override]
        """The headers, without those that described how the content was coded."""
        return httpx.Headers(self._pairs())

    @property
    def content(self) -> bytes:
        """The body."""
        return self._whole

    def read(self) -> bytes:
        """Return the body."""
        return self._whole

    async def aread(self) -> bytes:
        """Return the body."""
        return self._whole
