"""
One rollout over the wire: seeded, its tools called, verified and closed.

Source: the HTTP interface of the resources servers of nemo-gym 0.4.0.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import IO, Any
from urllib.parse import quote

from gym_plugin_nemo_gym.wire import Reply, ServerFault, ServerUnavailable, Wire
from gymcore.documents import encode_json

__all__ = ["CALLS", "Session", "aggregated"]

CALLS = ("aggregate_metrics", "close_session", "reverify_mode", "run", "seed_session", "verify")
"""Names of the protocol, under which no tool can be called."""

OURS = "gymcore_session"
"""The cookie of a gymcore server: it closes a session when it is told to, and verifies one once however often asked."""

MOST_OF_A_TOOL = 16 * 2**20
MOST_OF_A_ROW = 128 * 2**20
"""The longest replies, in bytes: of a tool, and of what tells a row and its response again."""
CLOSE_S = 5.0

_NOT_CARRIED_OUT = (401, 403, 407, 408, 421, 425, 429, 502, 503, 504)
"""
Statuses that are no answer of a tool: somebody on the way refuses, or is overloaded, or has nothing behind him.

Every other one is, by the protocol: 404 says that there is no such tool, 422 that the arguments do not fit it, and with
500 it has failed, which the agents of NeMo Gym show the model, too.
"""


class Session:
    """
    One rollout; its requests go out one after the other, because a server may keep its state in the cookies.

    Args:
        wire: The server.
        row: The row, as that server takes it.

    Attributes:
        failed_calls: How many tool calls were answered with a status of 500 or more.
    """

    def __init__(self, wire: Wire, row: Mapping[str, Any]) -> None:
        self._wire = wire
        self._row = row
        self._line = wire.line()
        self._turn = asyncio.Lock()
        self._seeding: asyncio.Task[Reply] | None = None
        self._may_be_begun = False
        """Whether somebody over there may have begun it."""
        self.failed_calls = 0

    @property
    def row(self) -> Mapping[str, Any]:
        """The row, as that server takes it."""
        return self._row

    @property
    def is_of_gymcore(self) -> bool:
        """Whether it is one of a gymcore server, as its cookie says."""
        return OURS in self._line.jar

    async def seed(self, on_waiting: Callable[[bool], None] = lambda _: None) -> None:
        """
        Begin it; where nobody waits for that any more, `close` does, so that what is begun over there is ended.

        Args:
            on_waiting: Told that no connection could be made, and that the request goes out: the server may begin it.

        Raises:
            ServerUnavailable, ServerFault: the server could not be asked, or did not begin it.
        """

        def told(is_waiting: bool) -> None:
            self._may_be_begun = not is_waiting
            on_waiting(is_waiting)

        how: dict[str, Any] = {"most_bytes": MOST_OF_A_ROW, "on_waiting": told}
        self._seeding = asyncio.create_task(self._post("seed_session", encode_json(self._row), **how))
        reply = await asyncio.shield(self._seeding)
        reply.refuse("/seed_session")
        value = reply.value()
        if isinstance(value, dict) and value.get("mcp"):
            raise ServerFault("/seed_session: the tools of this server are called over MCP, which is not spoken here")

    async def call(self, tool: str, arguments: bytes) -> str:
        """
        Have a tool called, once, and return what it answered.

        Args:
            tool: Its name.
            arguments: A JSON object.

        Raises:
            ServerUnavailable: nobody could be asked, or whether the call was carried out is not known.
            ServerFault: it was not carried out, or its answer is too long.
        """
        reply = await self._post(quote(tool, safe=""), arguments, most_bytes=MOST_OF_A_TOOL)
        if reply.error is not None or 300 <= reply.status < 400 or reply.status in _NOT_CARRIED_OUT:
            reply.refuse(f"the call of the tool {tool!r}")
        self.failed_calls += reply.status >= 500
        return reply.text

    async def verify(self, response: Mapping[str, Any]) -> dict[str, Any]:
        """
        Have what happened scored.

        Args:
            response: The whole episode.

        Returns:
            What the server says of it.

        Raises:
            ServerUnavailable, ServerFault: it did not score it.
        """
        body = encode_json({**self._row, "response": response})
        again = "always" if self.is_of_gymcore else "if unsent"
        reply = await self._post("verify", body, most_bytes=MOST_OF_A_ROW, again=again)
        return _object_of(reply, "/verify")

    async def reset(self) -> dict[str, Any]:
        """
        Begin it, where it is played step by step; return what is seen first.

        Raises:
            ServerUnavailable, ServerFault: the server could not be asked, or did not begin it.
        """
        return _object_of(await self._post("reset", encode_json(self._row), most_bytes=MOST_OF_A_ROW), "/reset")

    async def step(self, response: Mapping[str, Any]) -> dict[str, Any]:
        """
        Have one reply of the model taken as a step, once, and return what is seen then.

        Raises:
            ServerUnavailable: nobody could be asked, or whether the step was taken is not known.
            ServerFault: it was not taken.
        """
        body = encode_json({**self._row, "response": response})
        return _object_of(await self._post("step", body, most_bytes=MOST_OF_A_ROW), "/step")

    async def close(self) -> None:
        """End it, where the server knows how to, and close its connection; what goes wrong changes nothing."""
        limit_s = min(CLOSE_S, self._wire.patience.request_s)
        try:
            with suppress(ServerUnavailable, ServerFault, TimeoutError):
                async with asyncio.timeout(limit_s):
                    if self._seeding is not None and self._may_be_begun:
                        await asyncio.wait([self._seeding])
                    if self.is_of_gymcore:
                        await self._post("close_session", b"{}", most_bytes=MOST_OF_A_TOOL, limit_s=limit_s, retries=0)
        finally:
            if self._seeding is not None:
                self._seeding.cancel()
                await asyncio.wait([self._seeding])
            await self._line.aclose()

    async def _post(self, path: str, body: bytes, **how: Any) -> Reply:
        async with self._turn:
            return await self._line.send(path, body, **how)


async def aggregated(wire: Wire, body: IO[bytes]) -> dict[str, Any]:
    """
    Have a server sum up rollouts.

    Args:
        wire: The server.
        body: What it is asked with.

    Returns:
        `group_level_metrics`, `agent_metrics` and `key_metrics`.

    Raises:
        ServerUnavailable, ServerFault: it did not sum them up.
    """
    what, line = "/aggregate_metrics", wire.line()
    try:
        told = _object_of(await line.send(what[1:], body, again="always", most_bytes=MOST_OF_A_ROW), what)
    finally:
        await line.aclose()
    kinds: dict[str, type] = {"group_level_metrics": list, "agent_metrics": dict, "key_metrics": dict}
    if not all(isinstance(told.get(key), kind) for key, kind in kinds.items()):
        raise ServerFault(f"{what} was answered with something else than {', '.join(kinds)}")
    return {key: told[key] for key in kinds}


def _object_of(reply: Reply, what: str) -> dict[str, Any]:
    """
    Return the JSON object of a reply.

    Raises:
        ServerUnavailable, ServerFault: it tells of a failure, or is no such object.
    """
    reply.refuse(what)
    value = reply.value()
    if not isinstance(value, dict):
        raise ServerFault(f"{what} was answered with what is no JSON object")
    return value
