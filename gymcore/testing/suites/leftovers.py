"""
What rollouts leave behind, however they end.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import os
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from gymcore.interfaces import Agent, Config, Environment
from gymcore.runtime.in_process import TimeLimits
from gymcore.testing.playing import opened_table
from gymcore.testing.suites.attempts import PATIENT_AGENT, Attempt, Cast, Judges, judge_models

__all__ = ["Leftovers", "find_leftovers"]

HANG_S = 3600.0
LATE_S = 0.05
"""The bound on a rollout that is to meet it."""
ENOUGH = 6
"""After so many findings nothing more is looked for."""
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
    arrival = _Arrival()
    look = partial(_look, config=config, judges=judges, agent=agent, arrival=arrival)
    found = Leftovers()
    success = attempts["success"]
    plain, hanging, own, breaking, unjudged = (
        _Counted(environment, arrival, how) for how in ("plain", "hanging", "own", "breaking", "unjudged")
    )
    stuck = Attempt("stuck", success.where, success.row, (_Never(),))
    looks: dict[str, Callable[..., None]] = {
        how: partial(look, counted=plain, attempt=attempt) for how, attempt in attempts.items()
    }
    looks["a cancellation"] = partial(look, counted=plain, attempt=stuck, is_cancelled=True)
    looks["a model that hangs"] = partial(look, counted=plain, attempt=stuck, is_late=True)
    looks["a verifier that breaks"] = partial(look, counted=unjudged, attempt=success)
    if environment.tools:
        looks["a cancellation inside a tool"] = partial(look, counted=hanging, attempt=success, is_cancelled=True)
        looks["a tool that hangs"] = partial(look, counted=hanging, attempt=success, is_late=True)
        looks["a tool that breaks"] = partial(look, counted=breaking, attempt=success)
    if own.has_own:
        looks["a cancellation inside its own tool"] = partial(look, counted=own, attempt=success, is_cancelled=True)
    with _young_garbage(), _temporary_folder() as folder:
        for how, looking in looks.items():
            first, second = Leftovers(), Leftovers()
            looking(first, how, folder=folder)
            if first.closing or first.left:  # what libraries open once, and keep, is not found again
                looking(second, how, folder=folder)
            found.closing += second.closing
            found.left += second.left
            if len(found.closing) + len(found.left) >= ENOUGH:
                break
    return found


class _Arrival:
    """Tells when a rollout has come to where it hangs, and how long it took there."""

    def __init__(self) -> None:
        self.took_s = 0.0
        self._began = 0.0
        self._event = asyncio.Event()

    def begin(self) -> None:
        """A rollout begins."""
        self._event = asyncio.Event()
        self._began = time.monotonic()

    def arrive(self) -> None:
        """It is there."""
        self.took_s = time.monotonic() - self._began
        self._event.set()

    async def met_by(self, playing: asyncio.Task[Any]) -> None:
        """Wait until a rollout is there, or ends."""
        waiting = asyncio.ensure_future(self._event.wait())
        await asyncio.wait({playing, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        await asyncio.wait({waiting})


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Path]:
    """Let temporary files be made in a folder of its own, where what is left of them is seen."""
    before, environ = tempfile.tempdir, os.environ.get("TMPDIR")
    with tempfile.TemporaryDirectory(prefix="gymcore-leftovers-") as name:
        tempfile.tempdir = os.environ["TMPDIR"] = name
        try:
            yield Path(name)
        finally:
            tempfile.tempdir = before
            if environ is None:
                del os.environ["TMPDIR"]
            else:
                os.environ["TMPDIR"] = environ


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

    def __init__(self, attempt: Attempt, arrival: _Arrival) -> None:
        super().__init__([attempt])
        self._arrival = arrival

    async def respond(self, request: Any, rollout: Any) -> Any:
        try:
            return await super().respond(request, rollout)
        except _Never:
            self._arrival.arrive()
            await asyncio.sleep(HANG_S)


class _Counted:
    """
    An environment's class that counts how its instances are closed.

    Args:
        environment: The class.
        arrival: Is told when a tool is called.
        how: What its tools do: `hanging`, `breaking`, or what they do by themselves; `unjudged` if the verifier breaks.
    """

    def __init__(self, environment: type[Environment[Any, Any]], arrival: _Arrival, how: str) -> None:
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
            arrival.arrive()
            await asyncio.sleep(HANG_S)

        def breaks(self: Any, *arguments: Any, **keywords: Any) -> None:
            raise ZeroDivisionError("planted by the suite")

        def begins(method: Callable[..., Any]) -> Callable[..., Any]:
            async def begin(self: Any, **arguments: Any) -> Any:
                arrival.arrive()
                return await method(self, **arguments)

            return begin

        methods = {tool.method: getattr(environment, tool.method, None) for tool in environment.tools.values()}
        own = {name: begins(method) for name, method in methods.items() if inspect.iscoroutinefunction(method)}
        self.has_own = bool(own)
        body: dict[str, Any] = {"open": open, "close": close, "__module__": environment.__module__}
        if how == "unjudged":
            body["verify"] = breaks
        elif how == "own":
            body |= own
        elif how == "breaking":
            body |= dict.fromkeys(methods, breaks)
        elif how == "hanging":
            body |= dict.fromkeys(methods, hang)
            # In a thread nobody would wait for what an `async def` returns.
            body["tools"] = {name: replace(tool, in_thread=False) for name, tool in environment.tools.items()}
        self.type = type(environment.__name__, (environment,), body)


def _look(
    found: Leftovers,
    how: str,
    *,
    counted: _Counted,
    attempt: Attempt,
    folder: Path,
    config: Config,
    judges: Judges,
    agent: Agent[Any],
    arrival: _Arrival,
    is_late: bool = False,
    is_cancelled: bool = False,
) -> None:
    """Play one attempt, in an event loop of its own, and write down what it leaves."""
    counted.closed.clear()
    counted.errors.clear()
    tasks: list[str] = []
    # How long it takes to where it hangs, the cancellation there has shown.
    limits = TimeLimits(rollout_s=LATE_S + 3 * arrival.took_s if is_late else 20.0, tool_s=20.0, verify_s=20.0)
    with _watching(folder) as left:
        cast = _StuckCast(attempt, arrival)
        waiting = arrival if is_cancelled else None
        asyncio.run(_play(counted.type, attempt, config, judges, agent, cast, limits, arrival, waiting, tasks))
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
    cast: _StuckCast,
    limits: TimeLimits,
    arrival: _Arrival,
    cancelled_at: _Arrival | None,
    tasks: list[str],
) -> None:
    models = judge_models(judges)
    async with opened_table(environment, cast, agent=agent, config=config, judges=models, limits=limits) as table:
        before = asyncio.all_tasks()
        arrival.begin()
        playing = asyncio.get_running_loop().create_task(table.play(attempt.row))
        if cancelled_at is not None:
            await cancelled_at.met_by(playing)
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
def _watching(folder: Path) -> Iterator[Callable[[], list[str]]]:
    """Look at threads, processes, descriptors, temporary files and warnings, before and after a block."""
    gc.collect()
    threads, descriptors = set(threading.enumerate()), _descriptors()
    processes, files = _processes(), set(os.listdir(folder))  # noqa: PTH208
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        yield lambda: found
        gc.collect()
    for thread in set(threading.enumerate()) - threads:
        thread.join(SETTLE_S)
    found = [f"the thread {thread.name!r} still runs" for thread in set(threading.enumerate()) - threads]
    waited_s = 0.0
    while _processes().keys() - processes.keys() and waited_s < SETTLE_S:
        time.sleep(0.02)
        waited_s += 0.02
    new = [(number, what) for number, what in _processes().items() if number not in processes]
    found += [f"the process {number} ({what}) is still there" for number, what in new]
    found += [f"{name} is left in the temporary folder" for name in sorted(set(os.listdir(folder)) - files)]  # noqa: PTH208
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


def _processes() -> dict[int, str]:
    """Return the processes that this one has started and not waited for, where the system tells."""
    found = {}
    with contextlib.suppress(OSError):
        for name in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208
            with contextlib.suppress(OSError):
                what, _, rest = Path("/proc", name, "stat").read_text("utf-8", "replace").rpartition(")")
                if int(rest.split()[1]) == os.getpid():
                    found[int(name)] = what.partition("(")[2]
    return found
