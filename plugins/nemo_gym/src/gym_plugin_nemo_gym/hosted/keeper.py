"""
A hosted server that is started again when it has ended and a rollout needs it, but not for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from types import TracebackType
from typing import Any

from gym_plugin_nemo_gym.hosted.process import HostedWire
from gymcore import EndpointError, PluginError
from gymcore.runtime.brackets import log

__all__ = ["Keeper"]

APART_S = 3.0
"""At least so long lies between two starts, in seconds."""
MOST_ENDS = 3
"""After so many ends in a row before a rollout was scored, it is started no more."""


class Keeper(AbstractAsyncContextManager["Keeper"]):
    """
    Keeps a server; use it with `async with`, which starts it and in the end leaves nothing of it.

    Args:
        start: Starts it, and ends it on leaving.
        apart_s: How long lies between two starts, at least.
        sleep: Waits.
    """

    def __init__(
        self,
        start: Callable[[], AbstractAsyncContextManager[HostedWire]],
        *,
        apart_s: float = APART_S,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
    ) -> None:
        self._start = start
        self._apart_s = apart_s
        self._sleep = sleep
        self._loop = asyncio.get_running_loop()
        self._ends = 0
        """How often in a row it has ended before it scored a rollout."""
        self._started = 0.0
        self._wire: HostedWire
        self._life = AsyncExitStack()
        self._starting: asyncio.Task[HostedWire] | None = None
        self._given_up: str | None = None
        """Why it is started no more."""

    async def __aenter__(self) -> Keeper:
        """
        Start the server.

        Raises:
            PluginError: it does not start.
        """
        await self._begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it, or what was begun of it."""
        if self._starting is not None and not self._starting.done():
            self._starting.cancel()
            await asyncio.wait([self._starting])
        await self._life.aclose()

    @property
    def is_gone(self) -> bool:
        """Whether there is no server at this moment, and one may be started."""
        return self._given_up is None and (self._starting is not None or self._wire.fault is not None)

    async def wire(self) -> HostedWire:
        """
        Return the connection to the server, which is started again where it has ended; all who ask wait for one start.

        Raises:
            EndpointError: it ends again and again, and is started no more.
        """
        if self._given_up is not None:
            raise _gone(self._given_up)
        if self._starting is None:
            if self._wire.fault is None:
                return self._wire
            self._starting = asyncio.create_task(self._start_again(self._wire))
            self._starting.add_done_callback(self._on_started)
        return await asyncio.shield(self._starting)

    async def _begin(self) -> HostedWire:
        self._started = self._loop.time()
        self._wire = await self._life.enter_async_context(self._start())
        return self._wire

    async def _start_again(self, ended: HostedWire) -> HostedWire:
        """
        Clear away what is left of a server that has ended, and start it until it stays.

        Raises:
            EndpointError: it has ended, or has not started, too often.
        """
        fault = ended.fault
        assert fault is not None
        self._ends = 0 if ended.has_scored else self._ends + 1
        while self._ends < MOST_ENDS:
            log(f"{fault}; it is started again")
            await self._life.aclose()
            await self._sleep(max(0.0, self._started + self._apart_s - self._loop.time()))
            try:
                return await self._begin()
            except PluginError as error:
                fault = error.message
                self._ends += 1
        self._given_up = (
            f"{fault}; it is not started again: {self._ends} times in a row it ended before it scored a rollout"
        )
        raise _gone(self._given_up)

    def _on_started(self, starting: asyncio.Task[HostedWire]) -> None:
        self._starting = None
        if not starting.cancelled():
            starting.exception()  # whoever waited may be gone by now


def _gone(why: str) -> EndpointError:
    return EndpointError(why, hints=["try: the same command again"], has_worked=True, is_lasting=True)
