"""
What plugins bracket a run with, a table or a container for all rollouts: opened and closed within bounds.

Each bracket has a task of its own. It is entered and left there, as some contexts ask for, and one that hangs is left
behind without taking the run along.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from gymcore.errors import GymcoreError, PluginError
from gymcore.runtime.abandon import GRACE_S, abandon
from gymcore.runtime.faults import is_interrupt, message_of

__all__ = ["Bounds", "Say", "bracket", "broken", "log"]

Say = Callable[[str], None]
"""Tells a person something, in one line."""


def log(line: str) -> None:
    """Say something where nobody asked to be told."""
    logging.getLogger("gymcore").warning(line)


@dataclass(frozen=True, slots=True)
class Bounds:
    """How long a bracket may take, in seconds."""

    opening_s: float = 600.0
    """Loading weights or pulling an image takes minutes; what takes longer than this has most likely hung."""
    closing_s: float = 30.0
    """Everything is on disk by then, and somebody waits for the shell."""
    slow_s: float = 5.0
    """After this it is said what is being waited for."""
    grace_s: float = GRACE_S
    """For cleaning up after a cancellation."""


class _Host:
    """A context manager that is held open by a task of its own; `is_ours` as for `bracket`."""

    def __init__(self, context: AbstractAsyncContextManager[Any], is_ours: bool) -> None:
        self._is_ours = is_ours
        self.opened: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.error: BaseException | None = None
        self._leaving = asyncio.Event()
        self.task = asyncio.create_task(self._hold(context))

    @property
    def is_leaving(self) -> bool:
        """Whether it was asked to close."""
        return self._leaving.is_set()

    def leave(self) -> None:
        """Ask it to close."""
        self._leaving.set()

    async def wait(self, awaited: asyncio.Future[Any], bounds: Bounds, limit_s: float, complain: Say) -> bool:
        """
        Wait for something, or for the end of the task.

        Returns:
            Whether it came in time; where it did not, or the waiting was cancelled, the task has been ended.
        """
        try:
            first_s = min(bounds.slow_s, limit_s)
            done, _ = await asyncio.wait({self.task, awaited}, timeout=first_s, return_when=asyncio.FIRST_COMPLETED)
            if not done and limit_s > first_s:
                complain(f"for {first_s:g} s now; it may take {limit_s:g} s")
                done, _ = await asyncio.wait(
                    {self.task, awaited}, timeout=limit_s - first_s, return_when=asyncio.FIRST_COMPLETED
                )
            if not done:
                await self._end(bounds.grace_s)
        except asyncio.CancelledError:
            await self._end(bounds.grace_s)
            raise
        return bool(done)

    async def _hold(self, context: AbstractAsyncContextManager[Any]) -> None:
        try:
            async with context as value:
                self.opened.set_result(value)
                await self._stay()
        except BaseException as error:  # an exit or an interrupt in a task would end the event loop
            self.error = error

    async def _stay(self) -> None:
        while not self._leaving.is_set():
            try:
                await self._leaving.wait()
            except asyncio.CancelledError:
                if not self._is_ours:
                    raise
                while self.task.cancelling():
                    self.task.uncancel()

    async def _end(self, grace_s: float) -> None:
        self.task.cancel()
        try:
            await asyncio.wait({self.task}, timeout=grace_s)
        finally:
            abandon(self.task)


@asynccontextmanager
async def bracket(
    context: AbstractAsyncContextManager[Any],
    plugin: str,
    say: Say = log,
    bounds: Bounds | None = None,
    *,
    is_ours: bool = False,
) -> AsyncIterator[Any]:
    """
    Enter and leave what a plugin brackets the run with.

    What goes wrong while leaving is said and not raised: what was played is complete by then.

    Args:
        context: The bracket.
        plugin: Whose it is, for messages.
        say: Told what takes long, and what went wrong at the end.
        bounds: How long it may take.
        is_ours: Whether the context is code of ours, for a plugin. A plugin's own may cancel the task that holds it,
            as a task group does; what is ours stays open then, because it was a plugin that cancels all tasks.

    Yields:
        What the context yields.

    Raises:
        GymcoreError: the plugin raised one while opening.
        PluginError: it raised anything else, or took too long.
    """
    bounds = bounds or Bounds()
    host = _Host(context, is_ours)
    is_in_time = await host.wait(host.opened, bounds, bounds.opening_s, lambda text: say(f"opening {plugin} {text}"))
    if not is_in_time:
        raise PluginError(f"{plugin} could not be opened: it took longer than {bounds.opening_s:g} s", plugin=plugin)
    if not host.opened.done():
        error = host.error or RuntimeError("it ended without yielding")
        if isinstance(error, GymcoreError) or is_interrupt(error):
            raise error
        raise broken(plugin, "opened", error) from error

    def ended(task: asyncio.Task[None]) -> None:
        if not host.is_leaving:
            say(f"what {plugin} opened for the run has ended while the run goes on: {_describe(host.error)}")
            host.error = None

    host.task.add_done_callback(ended)
    try:
        yield host.opened.result()
    finally:
        host.leave()
        if not await host.wait(host.task, bounds, bounds.closing_s, lambda text: say(f"closing {plugin} {text}")):
            say(f"{plugin} could not be closed within {bounds.closing_s:g} s, and was left as it is")
        elif host.error is not None:
            if is_interrupt(host.error):
                raise host.error
            error = host.error
            say(str(error) if isinstance(error, GymcoreError) else broken(plugin, "closed", error).message)


def broken(plugin: str, what: str, error: BaseException) -> PluginError:
    """Return the error that says what a plugin raised while it was being opened or closed."""
    return PluginError(f"{plugin} could not be {what}: {_describe(error)}", plugin=plugin)


def _describe(error: BaseException | None) -> str:
    return "it returned" if error is None else f"{type(error).__name__}: {message_of(error)}"
