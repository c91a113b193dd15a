"""
The hooks a plugin may answer, and `hookimpl` to mark the answers with.

A component is chosen by name and is a class; a hook is for what many may answer at once. A hook plugin is active only
when the plan names it, and one that fails is switched off for the rest of the run, so that it starves nobody else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pluggy

from gymcore.errors import PluginError

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


class Observers:
    """
    The hook plugins of one run.

    Args:
        plugins: Each hook plugin's qualified name and the module or object that holds its implementations.
        complain: Told, in one line, when a plugin fails and is switched off.

    Raises:
        PluginError: a plugin implements a hook that does not exist; the nearest names are listed.
    """

    def __init__(self, plugins: dict[str, object], complain: Callable[[str], None] = lambda line: None) -> None:
        self._complain = complain
        self._manager = pluggy.PluginManager("gymcore")
        self._manager.add_hookspecs(Hooks)
        for name, plugin in plugins.items():
            try:
                self._manager.register(plugin, name=name)
            except (pluggy.PluginValidationError, ValueError) as error:
                raise PluginError(f"the hooks of {name} cannot be used: {error}", plugin=name) from None
            self._refuse_misspelt(name)

    def _refuse_misspelt(self, name: str) -> None:
        known = [hook for hook in vars(Hooks) if hook.startswith("gym_")]
        try:
            self._manager.check_pending()
        except pluggy.PluginValidationError as error:
            raise PluginError(
                f"{name} implements a hook that does not exist: {error}",
                plugin=name,
                hints=[f"hooks are: {', '.join(known)}"],
            ) from None

    def plan(self, plan: dict[str, Any]) -> None:
        """Show the plan to everybody; whoever raises refuses it."""
        self._manager.hook.gym_plan(plan=plan)

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
        # One by one: pluggy stops at the first implementation that raises, and the others would hear nothing.
        for name, call in self._each(hook):
            with self._switched_off_when_failing(name, hook):
                call(**arguments)

    def _each(self, hook: str) -> Iterator[tuple[str, Callable[..., Any]]]:
        for name, plugin in list(self._manager.list_name_plugin()):
            others = [other for _, other in self._manager.list_name_plugin() if other is not plugin]
            yield name, self._manager.subset_hook_caller(hook, [other for other in others if other is not None])

    @contextmanager
    def _switched_off_when_failing(self, name: str, hook: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._manager.unregister(name=name)
            self._complain(f"hook {name} is switched off for this run: {hook} raised {type(error).__name__}: {error}")
