"""
The hooks a plugin may answer, and `hookimpl` to mark the answers with.

A component is chosen by name and is a class; a hook is for what many may answer at once. A hook plugin is active only
when the plan names it, and one that fails is switched off for the rest of the run, so that it starves nobody else.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pluggy

from gymcore.errors import GymcoreError, PluginError

if TYPE_CHECKING:
    from pathlib import Path

    from gymcore.records import Rollout

__all__ = ["Hooks", "Observers", "hookimpl"]

hookspec = pluggy.HookspecMarker("gymcore")
hookimpl = pluggy.HookimplMarker("gymcore")


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


HOOKS = tuple(name for name in vars(Hooks) if name.startswith("gym_"))


class Observers:
    """
    The hook plugins of one run.

    Args:
        plugins: Each hook plugin's qualified name and the module or object that holds its implementations.
        complain: Told, in one line, when a plugin fails and is switched off.

    Raises:
        PluginError: a plugin implements a hook that does not exist, or an `async def`; the hooks are listed.
    """

    def __init__(self, plugins: dict[str, object], complain: Callable[[str], None] = lambda line: None) -> None:
        self._complain = complain
        # A manager for each: pluggy stops at the first implementation that raises, and the others would hear nothing.
        self._managers = {name: _registered(name, plugin) for name, plugin in plugins.items()}

    def plan(self, plan: dict[str, Any]) -> None:
        """
        Show the plan to everybody.

        Raises:
            RequestError: a plugin refuses it.
            PluginError: a plugin failed instead of looking at it.
        """
        for name, manager in self._managers.items():
            try:
                manager.hook.gym_plan(plan=plan)
            except GymcoreError:
                raise
            except Exception as error:
                message = f"the hook gym_plan of {name} raised {type(error).__name__}: {error}"
                raise PluginError(message, plugin=name) from error

    def run_start(self, folder: Path, planned: int) -> None:
        """Tell everybody that a run begins."""
        self._tell("gym_run_start", folder=folder, planned=planned)

    def rollouts(self, folder: Path, rollouts: Sequence[Rollout]) -> None:
        """Tell everybody about rollouts that are safe on disk."""
        self._tell("gym_rollouts", folder=folder, rollouts=rollouts)

    def run_finish(self, folder: Path, report: dict[str, Any]) -> None:
        """Tell everybody that the run is over."""
        self._tell("gym_run_finish", folder=folder, report=report)

    def _tell(self, hook: str, **arguments: Any) -> None:
        for name, manager in list(self._managers.items()):
            try:
                getattr(manager.hook, hook)(**arguments)
            except (Exception, SystemExit) as error:
                del self._managers[name]
                self._complain(
                    f"hook {name} is switched off for this run: {hook} raised {type(error).__name__}: {error}"
                )


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
