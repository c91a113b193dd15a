"""
The hooks a plugin may answer, and `hookimpl` to mark the answers with.

A component is chosen by name and is a class; a hook is for what many may answer at once. A hook plugin is active only
when the plan names it, and one that fails or does not come back is switched off for the rest of the run, so that it
starves nobody else. Each is called in a thread of its own, the same for a whole run.
"""

from __future__ import annotations

import asyncio
import inspect
import queue
import re
import threading
import traceback
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from typing import TYPE_CHECKING, Any

import pluggy

from gymcore.errors import GymcoreError, PluginError

if TYPE_CHECKING:
    from pathlib import Path

    from gymcore.records import Rollout

__all__ = ["Hooks", "Observers", "hookimpl"]

hookspec = pluggy.HookspecMarker("gymcore")
hookimpl = pluggy.HookimplMarker("gymcore")


HOOK_S = 60.0
"""How long a hook may take: what is uploaded at the end of a run takes some seconds, and the run waits for it."""


class Hooks:
    """What happens in a run, for those who want to know."""

    @hookspec
    def gym_plan(self, plan: dict[str, Any]) -> None:
        """Look at the resolved plan before anything runs; raise `RequestError` to refuse it."""

    @hookspec
    def gym_run_start(self, folder: Path, planned: int) -> None:
        """A run begins that will hold `planned` rollouts when it is complete."""

    @hookspec
    def gym_rollouts(self, folder: Path, rollouts: Sequence[Rollout]) -> None:
        """Some rollouts are finished and safe on disk; called in batches, off the event loop."""

    @hookspec
    def gym_run_finish(self, folder: Path, report: dict[str, Any]) -> None:
        """The run is over; `report` is what `gym report --json` prints."""

    @hookspec(firstresult=True)
    def gym_secret(self, name: str) -> str | None:
        """
        Return what `${secret:NAME}` stands for in the plan, or None where it is kept elsewhere.

        Called while a plan is composed, so before all others, and once for each name.
        """


HOOKS = tuple(name for name in vars(Hooks) if name.startswith("gym_"))


class Observers:
    """
    The hook plugins of one run.

    Args:
        plugins: Each hook plugin's qualified name and the module or object that holds its implementations.
        complain: Told, in one line, when a plugin fails and is switched off.
        limit_s: How long a hook may take; then its thread is left as it is, and the plugin is switched off.

    Raises:
        PluginError: a plugin implements a hook that does not exist, or an `async def`; the hooks are listed.
    """

    def __init__(
        self,
        plugins: dict[str, object],
        complain: Callable[[str], None] = lambda line: None,
        *,
        limit_s: float = HOOK_S,
    ) -> None:
        self._complain = complain
        self._limit_s = limit_s
        # A manager for each: pluggy stops at the first implementation that raises, and the others would hear nothing.
        self._managers = {name: _registered(name, plugin) for name, plugin in plugins.items()}
        self._threads = {name: _Thread(f"gymcore-hook-{name}") for name in plugins}
        self._switched_off: list[str] = []
        weakref.finalize(self, _end, list(self._threads.values()))

    def plan(self, plan: dict[str, Any]) -> None:
        """
        Show the plan to everybody.

        Raises:
            RequestError: a plugin refuses it.
            PluginError: a plugin failed instead of looking at it, or did not come back.
        """
        for name, manager in self._managers.items():
            _, error = self._call(name, manager, "gym_plan", {"plan": plan})
            if isinstance(error, GymcoreError):
                raise error
            if error is not None:
                raise PluginError(f"the hook gym_plan of {name} {_told(error)}", plugin=name) from error

    def secret(self, name: str) -> str | None:
        """
        Ask one plugin after the other for a secret, and return the first answer; None where nobody knows it.

        Raises:
            PluginError: a plugin failed, did not come back, or gave no text. Of what it raised only the class is told,
                because its words may hold the secret; those of a `GymcoreError` were written to be read.
        """
        for plugin, manager in self._managers.items():
            answer, error = self._call(plugin, manager, "gym_secret", {"name": name})
            asked = f"the hook gym_secret of {plugin}, asked for {name!r},"
            if isinstance(error, GymcoreError):
                raise PluginError(f"{asked} says: {error.message}", plugin=plugin, hints=error.hints) from None
            if error is not None:
                told = str(error) if isinstance(error, _Late) else f"raised {type(error).__name__}"
                raise PluginError(f"{asked} {told}", plugin=plugin, where=_place(error)) from None
            if isinstance(answer, str):
                return answer
            if answer is not None:
                kind = type(answer).__name__
                raise PluginError(f"{asked} returned no text and not None, but {kind!r}", plugin=plugin)
        return None

    @property
    def keepers(self) -> tuple[str, ...]:
        """The plugins that answer gym_secret."""
        return tuple(name for name, manager in self._managers.items() if _answers(manager, "gym_secret"))

    @property
    def switched_off(self) -> tuple[str, ...]:
        """The plugins that failed in the middle of a run, and hear nothing more."""
        return tuple(self._switched_off)

    async def run_start(self, folder: Path, planned: int) -> None:
        """Tell everybody that a run begins, while the event loop goes on."""
        if self._managers:
            await _in_thread(lambda: self._tell("gym_run_start", folder=folder, planned=planned))

    def rollouts(self, folder: Path, rollouts: Sequence[Rollout]) -> None:
        """Tell everybody about rollouts that are safe on disk; not to be called on the event loop."""
        self._tell("gym_rollouts", folder=folder, rollouts=rollouts)

    async def run_finish(self, folder: Path, report: dict[str, Any]) -> None:
        """Tell everybody that the run is over, while the event loop goes on."""
        if self._managers:
            await _in_thread(lambda: self._tell("gym_run_finish", folder=folder, report=report))

    def _tell(self, hook: str, **arguments: Any) -> None:
        for name, manager in list(self._managers.items()):
            _, error = self._call(name, manager, hook, arguments)
            if error is not None:
                del self._managers[name]
                self._switched_off.append(name)
                self._complain(f"hook {name} is switched off for this run: {hook} {_told(error)}")

    def _call(
        self, name: str, manager: pluggy.PluginManager, hook: str, arguments: dict[str, Any]
    ) -> tuple[object, BaseException | None]:
        """Call a hook of a plugin, and return its answer, and what it raised, or that it did not come back."""
        if not _answers(manager, hook):
            return None, None
        future = self._threads[name].call(lambda: getattr(manager.hook, hook)(**arguments))
        if future not in wait_for([future], self._limit_s).done:
            return None, _Late(f"did not come back within {self._limit_s:g} s")
        error = future.exception()
        return (None, error) if error is not None else (future.result(), None)


class _Late(Exception):
    """A hook did not come back; its thread is left as it is."""


def _answers(manager: pluggy.PluginManager, hook: str) -> bool:
    return bool(getattr(manager.hook, hook).get_hookimpls())


def _place(error: BaseException) -> str | None:
    """Return the file and line from which an error comes."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else None


TOLD_LETTERS = 500
"""As much of what an error says goes into one line."""


def _told(error: BaseException) -> str:
    if isinstance(error, _Late):
        return str(error)
    # On one line, and without what stands before an @ in an address: exporters talk to servers, some with a password.
    said = re.sub(r"//[^/\s@]*@", "//***@", " ".join(str(error).split()))
    return f"raised {type(error).__name__}: {said if len(said) <= TOLD_LETTERS else said[:TOLD_LETTERS] + '...'}"


class _Thread:
    """A thread in which the hooks of one plugin are called, one after the other; it starts with the first."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: queue.SimpleQueue[tuple[Callable[[], object], Future[object]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def call(self, function: Callable[[], object]) -> Future[object]:
        """Call a function there."""
        if self._thread is None:
            # A daemon: the process does not wait for a hook that hangs.
            self._thread = threading.Thread(target=_serve, args=(self._calls,), name=self._name, daemon=True)
            self._thread.start()
        future: Future[object] = Future()
        self._calls.put((function, future))
        return future

    def end(self) -> None:
        """Let the thread end when it has nothing more to do."""
        self._calls.put(None)


async def _in_thread(function: Callable[[], object]) -> None:
    """Wait for a function in a thread of its own, which is left as it is when the waiting is cancelled."""
    thread = _Thread("gymcore-hooks")
    future = thread.call(function)
    thread.end()
    await asyncio.wait([asyncio.wrap_future(future)])  # this does not cancel what it waits for
    future.result()


def _serve(calls: queue.SimpleQueue[tuple[Callable[[], object], Future[object]] | None]) -> None:
    while (found := calls.get()) is not None:
        function, future = found
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)
        del found, function, future


def _end(threads: Sequence[_Thread]) -> None:
    for thread in threads:
        thread.end()


def _registered(name: str, plugin: object) -> pluggy.PluginManager:
    """Return a manager of one plugin's hooks, or refuse them."""
    manager = pluggy.PluginManager("gymcore")
    manager.add_hookspecs(Hooks)
    try:
        manager.register(plugin, name=name)
    except (pluggy.PluginValidationError, ValueError) as error:
        raise PluginError(f"the hooks of {name} cannot be used: {error}", plugin=name) from None
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginError(
            f"{name} implements a hook that does not exist: {error}",
            plugin=name,
            hints=[f"hooks are: {', '.join(HOOKS)}"],
        ) from None
    for caller in manager.get_hookcallers(plugin) or ():
        if any(inspect.iscoroutinefunction(found.function) for found in caller.get_hookimpls()):
            raise PluginError(
                f"the hook {caller.name} of {name} is an `async def`, which nobody would wait for",
                plugin=name,
                hints=["try: a plain `def`; gym_rollouts is called off the event loop and may block"],
            )
    return manager
