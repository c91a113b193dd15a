"""
What stands before every request: who may ask, from which page, how much, and for how long; and keeps its session.
"""

from __future__ import annotations

import asyncio
import hmac
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gymcore.serving.cookies import named_in, set_cookie
from gymcore.serving.protocol import HAS_LEFT
from gymcore.serving.refusals import Refusal, stopping
from gymcore.serving.room import Place, Room

__all__ = ["BODY_BYTES", "BODY_S", "STALL_S", "Guard", "harmless", "is_loopback", "name_of"]

BODY_BYTES = 16 * 2**20
"""The longest body that is read, where nothing is said: understanding one takes the server's time from all others."""

HELD_BYTES = 256 * 2**20
"""The bodies that are being read or answered take no more than this together."""

PARTS = 250_000
"""So many objects, lists and keys a body may hold: a few bytes of each take a hundred times as much when read."""

VALUES = 4_000_000
"""So many values in all, most of which can only be numbers: the ids of tokens are many, and cheap."""

TEXTS = 1_000_000
"""So many of them may be texts."""

BODY_S = 60.0
"""How long a client may take to send one."""

STALL_S = 10.0
"""How long nothing of it may come."""

SLOW_S = 2.0
"""
A body that has been coming for longer gives its room to one that finds none, where it comes so slowly that the longest
body would not come in time.
"""

SMALL_BYTES = 2**20
"""An eighth of the room is kept for bodies that are no longer than this: most are a few kilobytes."""

STREAMED = ("/aggregate_metrics",)
"""Calls of which nothing is held here: who answers them reads the body as it comes, within bounds of its own."""


def is_loopback(host: str) -> bool:
    """Whether an address or a name can be reached from this machine only."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(eq=False)
class _Body:
    """The body of a request, and since when it has been coming."""

    begun: float = 0.0
    place: Place | None = None
    """The room for all that is to come of it, or for as much as may come, where it does not say; None for nothing."""
    come: int = 0
    deadline: asyncio.Timeout | None = None
    is_dropped: bool = False
    """Whether another has taken its room."""
    has_left: Callable[[], bool] = bool
    """Says whether its client is gone."""


class Guard:
    """
    Refuses what no client of ours sends, before anything of it is read.

    Args:
        app: What serves the rest.
        hosts: The names by which clients may call this server; None takes any, where a token is asked for.
        token: What clients must know; None where only this machine can reach the server.
        body_bytes: The longest body; no longer than there is room for.
        body_s: How long sending one may take, in seconds.
        stall_s: How long nothing of it may come.
        held_bytes: What all bodies may take together; one that finds no room is left unread until there is some.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: Collection[str] | None,
        token: str | None,
        body_bytes: int = BODY_BYTES,
        body_s: float = BODY_S,
        stall_s: float = STALL_S,
        held_bytes: int = HELD_BYTES,
    ) -> None:
        self._app = app
        self._hosts = hosts
        self._token = None if token is None else token.encode()
        kept = held_bytes // 8
        self._room = Room(held_bytes, kept, min(SMALL_BYTES, kept))
        self._body_bytes = min(body_bytes, self._room.longest)
        self._body_s = body_s
        self._stall_s = stall_s
        self._coming: dict[_Body, None] = {}  # the oldest first
        self._waiting: dict[_Body, None] = {}
        self._looking: asyncio.TimerHandle | None = None
        """Looks again for clients that have left, and bodies that come slowly; there while others wait for room."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            return
        coming = _Body(has_left=scope.get("extensions", {}).get(HAS_LEFT, {}).get("has_left", bool))
        try:
            await self._serve(scope, receive, _naming_again(scope, send), coming)
        finally:
            if coming.place is not None:
                self._room.leave(coming.place)

    def stop(self) -> None:
        """Refuse the bodies that wait for room, and those that would have to."""
        self._room.close()

    async def _serve(self, scope: Scope, receive: Receive, send: Send, coming: _Body) -> None:
        body: bytes | None = None
        has_begun = False

        async def sent(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        async def read() -> Message:
            nonlocal body
            if body is None:
                return await receive()  # that the client has left
            message: Message = {"type": "http.request", "body": body, "more_body": False}
            body = None
            return message

        try:
            body = await self._checked(scope, receive, coming)
            await self._app(scope, read, sent)
        except Refusal as refusal:
            refusal.headers.setdefault("connection", "close")  # what is left of the body is not waited for
            await refusal.response()(scope, receive, send)
        except asyncio.CancelledError:  # the server leaves, and this took longer than it waits
            if has_begun:
                raise
            leaving = stopping()
            leaving.headers["connection"] = "close"
            await leaving.response()(scope, receive, send)

    async def _checked(self, scope: Scope, receive: Receive, coming: _Body) -> bytes | None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        names = [name for name, _ in scope["headers"]]
        if any(names.count(name) > 1 for name in _ONCE):
            raise Refusal(400, "a header that says who asks stands twice")
        host = headers.get(b"host", b"").decode("latin-1")
        # A page in a browser may reach this machine under a name of its own; it cannot choose what stands here.
        if self._hosts is not None and name_of(host) not in self._hosts:
            told = f"this server is not called {host[:100]!r}" if host else "the request names no host"
            raise Refusal(421, told, hints=["try: the address that it has printed, or `gym serve --allow-host NAME`"])
        origin = headers.get(b"origin")
        if origin is not None and origin.decode("latin-1").lower() not in (f"http://{host}", f"https://{host}"):
            raise Refusal(403, "pages of other origins may not ask this server")
        if self._token is not None and not _knows(self._token, headers):
            raise Refusal(401, "a token is needed: Authorization: Bearer ...", headers={"www-authenticate": "Bearer"})
        return None if scope["path"] in STREAMED else await self._body(headers, receive, coming)

    async def _body(self, headers: dict[bytes, bytes], receive: Receive, body: _Body) -> bytes:
        size = self._body_bytes if b"transfer-encoding" in headers else 0
        if (length := headers.get(b"content-length")) is not None:
            if not length.isdigit() or int(length) > self._body_bytes:
                raise self._too_long()
            size = int(length)
        if size:
            await self._find_room(body, size)
        body.begun = asyncio.get_running_loop().time()
        self._coming[body] = None
        try:
            async with asyncio.timeout_at(body.begun + self._body_s) as body.deadline:
                return harmless(await self._read(receive, body))
        except TimeoutError:
            if body.is_dropped:
                raise _dropped() from None
            told = f"the body did not come within {self._body_s:g} s, or nothing of it for {self._stall_s:g} s"
            raise Refusal(408, told) from None
        finally:
            self._coming.pop(body, None)

    async def _read(self, receive: Receive, body: _Body) -> bytes:
        """Read a body, waiting for each part of it, but not for long."""
        parts: list[bytes] = []
        now = asyncio.get_running_loop().time
        while True:
            if not body.is_dropped and body.deadline is not None:
                body.deadline.reschedule(min(body.begun + self._body_s, now() + self._stall_s))
            message: Any = await receive()
            if message["type"] == "http.disconnect":
                raise _gone()
            part = message.get("body", b"")
            body.come += len(part)
            if body.is_dropped:
                raise _dropped()
            if body.come > (0 if body.place is None else body.place.size):
                raise self._too_long()
            parts.append(part)
            if not message.get("more_body"):
                if body.place is not None:
                    self._room.shrink(body.place, body.come)
                return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _find_room(self, body: _Body, size: int) -> None:
        """
        Take room for a body before any of it is read, and wait where there is none: a rollout that ends makes some.

        There is no bound on that: rollouts may take long, and most clients of ours end at whatever is refused.

        Raises:
            Refusal: the server stops, or the client has left.
        """
        place = body.place = self._room.enter(size)
        if not place.told.is_set():
            self._waiting[body] = None
            try:
                if self._looking is None:
                    self._look_again()
                else:
                    self._make_room()
                await place.told.wait()
            finally:
                del self._waiting[body]
        if not place.is_given:
            raise _gone() if body.has_left() else stopping()

    def _make_room(self) -> None:
        """Take that of bodies which come slowly, the oldest first, as long as others wait."""
        now = asyncio.get_running_loop().time()
        for body in list(self._coming):
            age_s = now - body.begun
            if not self._room.is_waited_for or age_s <= SLOW_S:
                return
            is_slow = body.come < age_s * self._body_bytes / self._body_s
            if is_slow and body.place is not None and self._room.is_in_the_way(body.place):
                self._drop(body, body.place, now)

    def _look_again(self) -> None:
        """Make room as long as others wait: clients leave, and bodies that have just begun may turn out to be slow."""
        for body in list(self._waiting):
            if body.place is not None and body.has_left():
                self._room.leave(body.place)
                body.place.told.set()
        self._make_room()
        is_waited_for = self._room.is_waited_for
        self._looking = asyncio.get_running_loop().call_later(SLOW_S, self._look_again) if is_waited_for else None

    def _drop(self, body: _Body, place: Place, now: float) -> None:
        """Wait for a body no longer."""
        self._coming.pop(body)
        body.is_dropped = True
        self._room.leave(place)
        if body.deadline is not None and not body.deadline.expired():
            body.deadline.reschedule(now)

    def _too_long(self) -> Refusal:
        return Refusal(413, f"the body is longer than {self._body_bytes >> 20} MB")


def _knows(token: bytes, headers: dict[bytes, bytes]) -> bool:
    """Whether a request says the token, as most clients do or as those of Anthropic's API."""
    is_bearer = hmac.compare_digest(headers.get(b"authorization", b""), b"Bearer " + token)
    return hmac.compare_digest(headers.get(b"x-api-key", b""), token) or is_bearer


def _gone() -> Refusal:
    return Refusal(400, "the client has left")


def _dropped() -> Refusal:
    return Refusal(408, "another needed the room of this body before all of it had come")


def _naming_again(scope: Scope, send: Send) -> Send:
    """
    Return what sends each answer, also one that refuses, with the session that the request has named.

    A client may replace its cookies by those of each answer, and must not lose its session by an error.
    """
    name = named_in(scope)
    if name is None:
        return send
    again = (b"set-cookie", set_cookie(name).encode())

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", ()))
            if not any(key == b"set-cookie" for key, _ in headers):  # a session that was just opened is another
                message = {**message, "headers": [*headers, again]}
        await send(message)

    return sent


def harmless(body: bytes) -> bytes:
    """
    Return a body that can be read in a moment.

    Raises:
        Refusal: it consists of too many parts.
    """
    if len(body) <= PARTS or (_count(body, b"{[:") <= PARTS and _count(body, b',"') <= TEXTS):
        return body
    # What stands in a text is no part, and what is escaped ends none.
    bare = body.replace(rb"\\", b"").replace(rb"\"", b"")
    texts = _count(bare, b'"') // 2
    if texts > TEXTS:
        raise Refusal(413, f"the body holds more than {TEXTS:,} texts")
    if _count(bare, b"{[:") <= PARTS and _count(bare, b",") <= VALUES:
        return body
    bare = b"".join(bare.split(b'"')[::2]) if texts else bare
    if _count(bare, b"{[:") > PARTS:
        raise Refusal(413, f"the body holds more than {PARTS:,} objects, lists and keys")
    if _count(bare, b",") > VALUES:
        raise Refusal(413, f"the body holds more than {VALUES:,} values")
    return body


def _count(data: bytes, signs: bytes) -> int:
    """Return how often some bytes occur, in one pass that takes as long whether they are few or many."""
    return len(data) - len(data.translate(None, signs))


_ONCE = (b"host", b"origin", b"authorization", b"x-api-key", b"content-length")
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^\[\]:@/?#\s]+))(?::\d{1,5})?")


def name_of(host: str) -> str | None:
    """Return the name in a Host header, without its port; None where it is none."""
    found = _HOST.fullmatch(host.lower())
    return None if found is None else (found[1] or found[2]).rstrip(".")
