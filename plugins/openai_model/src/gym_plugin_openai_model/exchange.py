"""
One HTTP request and its reply: the only place where bytes leave and come in.

Whatever goes wrong here is a `Fault`, sorted by what may be done about it; nothing is tried again here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

import httpx

from gym_plugin_openai_model.chat import MalformedReplyError, to_response_body
from gym_plugin_openai_model.connections import Connections, TooLargeError, in_plain_words
from gym_plugin_openai_model.context_length import is_for_want_of_room
from gym_plugin_openai_model.endpoints import Endpoint
from gym_plugin_openai_model.mask import Mask
from gym_plugin_openai_model.prepared import Prepared, Reply
from gym_plugin_openai_model.retries import Fault, kind_of_status, retry_after_s
from gym_plugin_openai_model.token_ids import WithoutTokenIdsError, tokens_in
from gymcore import Response
from gymcore.cookie_jar import CookieJar
from gymcore.documents import DocumentError, decode_json, encode_json

__all__ = ["Exchange"]

MOST_OF_COOKIES = 4096
"""Characters of all cookies of a rollout at one address; one too many is passed over."""
MESSAGE_LENGTH = 2048
BEGINNING_LENGTH = 80
FINISHED = frozenset({None, "completed", "incomplete"})
"""What the status of a reply may be; with any other (`failed`, `queued`, ...) there is nothing to score."""
_NOT_THERE = (404, 405, 501)
"""How servers say that they have no such path."""


class Exchange:
    """
    Asks an endpoint once, for a reply or for the tokens of a conversation.

    Args:
        headers: Headers of every request.
        secrets: What no message may show, nor any part of it.
        is_chat: Whether replies are completions of the Chat API.
        timeout_s: Seconds for one request, connecting included.
        connect_timeout_s: Seconds for making a connection, where one is needed.
        clock: Gives seconds since 1970.
    """

    def __init__(
        self,
        headers: Mapping[str, str],
        secrets: Iterable[str],
        *,
        is_chat: bool,
        timeout_s: float,
        connect_timeout_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._headers = dict(headers)
        self._prepared: dict[str, Prepared] = {}
        self._mask = Mask(secrets)
        self._is_chat = is_chat
        self._timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._clock = clock

    async def ask(self, endpoint: Endpoint, content: bytes, number: int, state: dict[Any, Any]) -> Response:
        """
        Ask for a reply, by one HTTP request.

        Args:
            endpoint: Whom to ask.
            content: The body of the request.
            number: Which request of its rollout this is.
            state: What is kept from one request of the rollout to the next: the cookies of each endpoint.

        Raises:
            Fault: it brought none.
        """
        reply = await self._send(endpoint, endpoint.url, content, state)
        try:
            value = decode_json(reply.content)
            if self._is_chat:
                value = to_response_body(value, number)
            response = Response.parse(value)
        except (DocumentError, MalformedReplyError, ValueError) as error:
            raise self._no_reply(reply, error) from None
        if response.status not in FINISHED:
            detail = response.body.get("error")
            told = f"the response is {response.status!r}" + (f": {_told_in(detail)}" if detail else "")
            raise Fault("transient", f"status {reply.status_code}, but {self.shown(told)}")
        return response

    async def tokens(self, endpoint: Endpoint, content: bytes, state: dict[Any, Any]) -> list[int]:
        """
        Ask for the tokens of a conversation, by one HTTP request; the arguments are those of `ask`.

        Raises:
            WithoutTokenIdsError: the endpoint does not tell them.
            Fault: this request brought no reply.
        """
        try:
            reply = await self._send(endpoint, endpoint.tokenize_url, content, state)
        except Fault as fault:
            if fault.status in _NOT_THERE:
                where = endpoint.tokenize_url.partition("?")[0]  # the query may hold a key
                raise WithoutTokenIdsError(f"{fault.told} ({where})") from None
            told = f"/tokenize: {fault.message}"
            raise Fault(fault.kind, told, status=fault.status, retry_after_s=fault.retry_after_s) from None
        try:
            return tokens_in(decode_json(reply.content))
        except DocumentError as error:
            raise self._no_reply(reply, error, "/tokenize: ") from None

    async def _send(self, endpoint: Endpoint, url: str, content: bytes, state: dict[Any, Any]) -> httpx.Response:
        """
        Make one HTTP request to an address.

        Raises:
            Fault: no reply came, or one that says that something is wrong.
        """
        try:
            cookies: CookieJar | None = state.get(endpoint)
            reply = await self._carry(endpoint, url, content, cookies.header if cookies else "")
        except (TimeoutError, httpx.ReadTimeout):
            raise Fault("timeout", f"no reply within {self._timeout_s:g} s (timeout_s)") from None
        except httpx.ConnectTimeout:
            told = f"no connection within {self._connect_timeout_s:g} s (connect_timeout_s)"
            raise Fault("connect", told, was_reached=_was_reached(endpoint)) from None
        except (httpx.ConnectError, httpx.ProxyError) as error:
            is_told = isinstance(endpoint.transport, Connections)
            told = self.shown(str(error) if is_told else _why_no_connection(error))
            raise Fault("connect", told, was_reached=_was_reached(endpoint)) from error
        except TooLargeError as error:
            raise Fault("terminal", str(error)) from None
        except httpx.HTTPError as error:
            raise Fault("transient", self.shown(str(error) or type(error).__name__)) from error
        asked = reply.set_cookies if isinstance(reply, Reply) else reply.headers.get_list("set-cookie")
        if asked and "cookie" not in self._headers:
            jar: CookieJar = state.setdefault(endpoint, CookieJar(MOST_OF_COOKIES))
            for line in asked:
                with suppress(ValueError):
                    jar.take(line)
        if not 200 <= reply.status_code < 300:
            raise self._refusal(reply)
        return reply

    async def _carry(self, endpoint: Endpoint, url: str, content: bytes, cookie: str) -> httpx.Response:
        assert endpoint.transport is not None
        prepared = self._prepared.get(url)
        if prepared is None:
            extensions = {"timeout": {"connect": self._connect_timeout_s}}
            prepared = self._prepared[url] = Prepared(httpx.URL(url), self._headers, extensions)
        request = prepared.request(content, cookie)
        if isinstance(endpoint.transport, Connections):
            return await endpoint.transport.handle_async_request(request)  # it keeps the time, for less
        async with asyncio.timeout(self._timeout_s):
            reply = await endpoint.transport.handle_async_request(request)
            await reply.aread()
            return reply

    def _refusal(self, reply: httpx.Response) -> Fault:
        """Return the fault that a reply with a bad status is."""
        try:
            body = decode_json(reply.content)
            said = _told_in(body)
        except DocumentError:
            body, said = None, self._mask.over_utf8(reply.content, 2 * MESSAGE_LENGTH)
        told = self.shown(said or reply.headers.get("location", "") or reply.reason_phrase)
        after_s = retry_after_s(reply.headers, self._clock())
        return Fault(
            kind_of_status(reply.status_code, has_retry_after=after_s is not None),
            told,
            status=reply.status_code,
            retry_after_s=after_s,
            wants_room=is_for_want_of_room(reply.status_code, body, told),
        )

    def _no_reply(self, reply: httpx.Response, error: Exception, of: str = "") -> Fault:
        """Return the fault that a reply is, which came with a good status and is none."""
        begins = self._mask.over_utf8(reply.content, BEGINNING_LENGTH)
        message = self.shown(f"{error}; it begins with {begins!r}")
        return Fault("transient", f"{of}status {reply.status_code}, but {message}")

    def shown(self, text: str) -> str:
        """Make text from outside fit for a message: one line, bounded, and without our secrets."""
        # Masked before anything else is done to it: half a secret, or one with other spaces, would not be found.
        text = self._mask.over(text, 2 * MESSAGE_LENGTH)
        line = "".join(character if character.isprintable() else " " for character in text)
        return " ".join(line.split())[:MESSAGE_LENGTH]


def _was_reached(endpoint: Endpoint) -> bool:
    """Whether there was ever a connection to an endpoint, where that is known."""
    return isinstance(endpoint.transport, Connections) and endpoint.transport.has_connected


def _told_in(value: Any) -> str:  # any JSON
    """Return what an error says, without the objects that servers wrap around it."""
    for key in ("error", "message", "detail"):
        if isinstance(value, dict) and value.get(key):
            value = value[key]
    return value if isinstance(value, str) else encode_json(value).decode()


def _why_no_connection(error: BaseException) -> str:
    """Say in plain words why there is no connection: with other transports the cause lies somewhere below."""
    below: list[BaseException] = [error]
    for cause in below:  # grows while it is walked
        if told := in_plain_words(cause):  # the first that is known
            return told
        nested = [cause.__cause__, cause.__context__, *getattr(cause, "exceptions", ())]
        below.extend(inner for inner in nested if inner is not None and inner not in below)
    return str(error) or type(error).__name__
