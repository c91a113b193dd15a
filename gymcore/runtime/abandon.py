"""
What becomes of a coroutine that ignores its cancellation: it is left behind, and nobody waits for it any more.

It cannot touch what counts afterwards: its outcome is settled. A plugin that blocks the event loop is out of reach.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

__all__ = ["GRACE_S", "abandon", "whereabouts"]

GRACE_S = 2.0
"""Seconds to clean up in after a cancellation; clean-up that needs longer belongs into `close()`, which has a bound."""

_HIDDEN = (str(Path(asyncio.__file__).parent), str(Path(__file__).parent))


def whereabouts(task: asyncio.Task[Any]) -> str | None:
    """Return the file and line of the plugin in which a task waits, where it is in one."""
    awaited: Any = task.get_coro()
    found: str | None = None
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        if frame is not None and not frame.f_code.co_filename.startswith(_HIDDEN):
            found = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
    return found


def abandon(task: asyncio.Task[Any]) -> None:
    """
    Make a task end now, although it ignores its cancellation; to be called while it waits.

    Its coroutine is closed; one that refuses even that is cut off from its task, and never resumed.
    """
    if task.done():
        return
    task.add_done_callback(_hear)
    coroutine: Any = task.get_coro()
    try:
        coroutine.close()
    except BaseException:  # plugin code runs here for the last time
        asyncio.Future.cancel(task)
    else:
        task.cancel()  # finds nothing to cancel, and ends


def _hear(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()  # or asyncio would log that nobody did
