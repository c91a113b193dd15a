"""
What rollouts leave behind, however they end.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from gymcore.interfaces import Agent, Config, Environment
from gymcore.runtime.in_process import TimeLimits
from gymcore.testing.playing import opened_table
from gymcore.testing.suites.attempts import PATIENT_AGENT, Attempt, Cast, Judges, judge_models

__all__ = ["Leftovers", "find_leftovers"]

HANG_S = 3600.0
LATE_S = 0.05
"""The bound on a rollout that is to meet it."""
SETTLE_S = 0.25
"""For which threads and tasks may take to end after their rollout."""


@dataclass
class Leftovers:
    """What was found."""

    closing: list[str] = field(default_factory=list)
    """Rollouts that were not closed exactly once, or not quietly."""
    left: list[str] = field(default_factory=list)
    """What was still open."""


def find_leftovers(
    environment: type[Environment[Any, Any]],
    attempts: Mapping[str, Attempt],
    config: Config,
    judges: Judges,
    agent: Agent[Any] = PATIENT_AGENT,
) -> Leftovers:
    """
    Play attempts that end in every way, and look at what is left after each.

    Args:
        environment: Its class.
        attempts: Ways to end by name; the one called `success` is also played with a tool and a model that hang.
        config: Its options.
        judges: Models that it may ask.
        agent: Who plays.
    """
    look = partial(_look, config=config, judges=judges, agent=agent)
    found = Leftovers()
    success = attempts["success"]
    opens = _Counted(environment, hangs=False)
    hanging = _Counted(environment, hangs=True)
    stuck = Attempt("stuck", success.where, success.row, (_Never(),))
    with _young_garbage():
        for _ in range(2):  # what libraries open once, and keep, is not found again
            found.closing.clear()
            found.left.clear()
            for how, attempt in attempts.items():
                look(found, how, opens, attempt)
            look(found, "a model that hangs", opens, stuck, limit_s=LATE_S)
            look(found, "a cancellation", opens, stuck, cancel_s=LATE_S)
            if environment.tools:
                look(found, "a tool that hangs", hanging, success, limit_s=LATE_S)
                look(found, "a cancellation inside a tool", hanging, success, cancel_s=LATE_S)
            if not (found.closing or found.left):
                break
    return found


@contextlib.contextmanager
def _young_garbage() -> Iterator[None]:
    """Let collections look only at what is made from now on: all that is there already takes a second each time."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class _Never(Exception):
    """Stands in a script for a reply that never comes."""


class _StuckCast(Cast):
    """Never replies where the script says so."""

    async def respond(self, request: Any, rollout: Any) -> Any:
        try:
            return await super().respond(request, rollout)
        except _Never:
            await asyncio.sleep(HANG_S)


class _Counted:
    """An environment's class that counts how its instances are closed."""

    def __init__(self, environment: type[Environment[Any, Any]], *, hangs: bool) -> None:
        self.closed: dict[int, int] = {}
        self.errors: list[str] = []
        counted = self

        async def open(self: Any) -> None:
            counted.closed[id(self)] = 0
            await environment.open(self)

        async def close(self: Any) -> None:
            counted.closed[id(self)] = counted.closed.get(id(self), 0) + 1
            try:
                closing: Any = environment.close(self)
                if hasattr(closing, "__await__"):
                    await closing
            except Exception as error:
                counted.errors.append(f"close() raises {type(error).__name__}: {error}")
                raise

        async def hang(self: Any, **arguments: Any) -> None:
            await asyncio.sleep(HANG_S)

        body: dict[str, Any] = {"open": open, "close": close, "__module__": environment.__module__}
        if hangs:
            body |= {tool.method: hang for tool in environment.tools.values()}
            # In a thread nobody would wait for what an `async def` returns.
            body["tools"] = {name: replace(tool, in_thread=False) for name, tool in environment.tools.items()}
        self.type = type(environment.__name__, (environment,), body)


def _look(
    found: Leftovers,
    how: str,
    counted: _Counted,
    attempt: Attempt,
    *,
    config: Config,
    judges: Judges,
    agent: Agent[Any],
    limit_s: float = 20.0,
    cancel_s: float | None = None,
) -> None:
    """Play one attempt, in an event loop of its own, and write down what it leaves."""
    counted.closed.clear()
    counted.errors.clear()
    tasks: list[str] = []
    with _watching() as left:
        asyncio.run(_play(counted.type, attempt, config, judges, agent, limit_s, cancel_s, tasks))
    times = list(counted.closed.values())
    found.closing += [f"after {how}: close() was called {count} times, and not once" for count in times if count != 1]
    found.closing += [f"after {how}: {error}" for error in dict.fromkeys(counted.errors)]
    found.left += [f"after {how}: {what}" for what in dict.fromkeys([*tasks, *left()])]


async def _play(
    environment: type[Environment[Any, Any]],
    attempt: Attempt,
    config: Config,
    judges: Judges,
    agent: Agent[Any],
    limit_s: float,
    cancel_s: float | None,
    tasks: list[str],
) -> None:
    limits = TimeLimits(rollout_s=limit_s, tool_s=20.0, verify_s=20.0)
    async with opened_table(
        environment,
        _StuckCast([attempt]),
        agent=agent,
        config=config,
        judges=judge_models(judges),
        limits=limits,
    ) as table:
        before = asyncio.all_tasks()
        playing = asyncio.get_running_loop().create_task(table.play(attempt.row))
        if cancel_s is not None:
            await asyncio.sleep(cancel_s)
            playing.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await playing
        await _settled(lambda: not asyncio.all_tasks() - before - {playing})
        for task in asyncio.all_tasks() - before - {playing}:
            code = getattr(task.get_coro(), "cr_code", None)
            place = f" ({code.co_filename}:{code.co_firstlineno})" if code is not None else ""
            tasks.append(f"the task {getattr(task.get_coro(), '__qualname__', task.get_name())}{place} still runs")


async def _settled(is_quiet: Callable[[], bool]) -> None:
    waited_s = 0.0
    while not is_quiet() and waited_s < SETTLE_S:
        await asyncio.sleep(0.02)
        waited_s += 0.02


@contextlib.contextmanager
def _watching() -> Iterator[Callable[[], list[str]]]:
    """Look at threads, descriptors and warnings about what was not closed, before and after a block."""
    gc.collect()
    threads, descriptors = set(threading.enumerate()), _descriptors()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        yield lambda: found
        gc.collect()
    for thread in set(threading.enumerate()) - threads:
        thread.join(SETTLE_S)
    found = [f"the thread {thread.name!r} still runs" for thread in set(threading.enumerate()) - threads]
    found += [f"{what} is still open" for number, what in _descriptors().items() if descriptors.get(number) != what]
    found += [str(item.message) for item in caught if issubclass(item.category, ResourceWarning)]


def _descriptors() -> dict[int, str]:
    """Return what this process has open, where the system tells."""
    found = {}
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
            with contextlib.suppress(OSError):
                found[int(name)] = os.readlink(f"/proc/self/fd/{name}")  # noqa: PTH115
    return {number: what for number, what in found.items() if not what.startswith("/proc/")}
