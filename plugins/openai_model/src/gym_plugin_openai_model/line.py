"""
Calls that wait for the same thing, first come first served.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable

__all__ = ["Line"]


class Line:
    """
    A queue of which only the first looks whether it may go; all others sleep until they are the first.

    Args:
        wait_s: How long the first has to wait: 0 when it may go, infinite when only `changed` can tell. What it raises
            ends the wait of whoever is first.
        sleep: Waits some seconds.

    Attributes:
        waiting: Who waits, in order; empty, and false, when nobody does.
    """

    def __init__(self, wait_s: Callable[[], float], sleep: Callable[[float], Awaitable[None]]) -> None:
        self._wait_s = wait_s
        self._sleep = sleep
        self.waiting: OrderedDict[asyncio.Future[None], None] = OrderedDict()
        self._changed: asyncio.Future[None] | None = None

    async def wait(self) -> None:
        """Wait for one's turn, and until what is waited for has come; raises what the condition raises."""
        turn = asyncio.get_running_loop().create_future()
        is_first = not self.waiting
        self.waiting[turn] = None
        try:
            if not is_first:
                await turn
            while (seconds := self._wait_s()) > 0:
                await self._nap(seconds)
        finally:
            del self.waiting[turn]
            # Whoever leaves calls the next one, however it leaves. It looks when this one has gone.
            following = next(iter(self.waiting), None)
            if following is not None and not following.done():
                following.set_result(None)

    def changed(self) -> None:
        """Let the first look again now."""
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)

    async def _nap(self, seconds: float) -> None:
        """Wait for a change, but no longer than this."""
        self._changed = asyncio.get_running_loop().create_future()
        try:
            if seconds == math.inf:
                await self._changed
                return
            napping = asyncio.ensure_future(self._sleep(seconds))
            try:
                await asyncio.wait({napping, self._changed}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                napping.cancel()
        finally:
            self._changed = None
