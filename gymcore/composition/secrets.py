"""
What `${secret:NAME}` stands for in a plan: the answer of the first hook plugin of the plan that knows it.

The answers are kept in memory only, for as long as a plan is composed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gymcore.discovery import Catalog
from gymcore.errors import GymcoreError, PlanError, Problem
from gymcore.hookspecs import Observers
from gymcore.plan import Plan

__all__ = ["Secrets", "load_hooks"]


def load_hooks(
    plan: Plan, catalog: Catalog, locate: Callable[[str], str] = lambda where: where
) -> dict[str, Any]:  # a module, or an object of whatever class
    """
    Import the hook plugins that a plan names, and no others.

    Args:
        plan: What names them.
        catalog: What is installed.
        locate: Completes a key path by the place where it stands.

    Returns:
        By qualified name, in the order of the plan, what holds the implementations.

    Raises:
        UnknownPluginError, AmbiguousPluginError: there is no such hook plugin, or there are two.
        PluginError: it is broken.
    """
    found = [catalog.find("hook", name, where=locate(f"hooks.{index}")) for index, name in enumerate(plan.hooks)]
    return {plugin.qualified: catalog.load(plugin) for plugin in found}


class Secrets:
    """
    The secrets of a plan; each is asked for once, and no hook plugin is imported before the first.

    Args:
        plan: What names the hook plugins.
        catalog: What is installed.
        locate: Completes a key path by the place where it stands.
    """

    def __init__(self, plan: Plan, catalog: Catalog, locate: Callable[[str], str] = lambda where: where) -> None:
        self._plan = plan
        self._catalog = catalog
        self._locate = locate
        self._asked: Observers | GymcoreError | None = None
        self._answers: dict[str, str | GymcoreError] = {}

    def __call__(self, name: str) -> str:
        """
        Return a secret.

        Raises:
            PlanError: nobody keeps it; with the plugins that were asked.
            UnknownPluginError, PluginError: a hook plugin that might cannot be used, or failed.
        """
        if name not in self._answers:
            try:
                self._answers[name] = self._ask(name)
            except GymcoreError as error:
                self._answers[name] = error
        answer = self._answers[name]
        if isinstance(answer, GymcoreError):
            raise answer
        return answer

    def _ask(self, name: str) -> str:
        asked = self._observers()
        if (answer := asked.secret(name)) is not None:
            return answer
        if asked.keepers:
            told = f"no hook plugin knows the secret {name!r}"
            hints = [f"asked: {', '.join(asked.keepers)}", "try: put it where one of them looks"]
        else:
            told = f"${{secret:{name}}} is kept by a hook plugin, and the plan names none that answers gym_secret"
            named = [f"its hooks: {', '.join(self._plan.hooks)}"] if self._plan.hooks else []
            hints = [*named, "try: --hook NAME of one that does (`gym list hook`), or ${NAME} for a variable"]
        raise PlanError([Problem(told, hints=tuple(hints))])

    def _observers(self) -> Observers:
        """Return the hook plugins of the plan; where they cannot be used, always with the same error."""
        if self._asked is None:
            try:
                self._asked = Observers(load_hooks(self._plan, self._catalog, self._locate))
            except GymcoreError as error:
                self._asked = error
        if isinstance(self._asked, GymcoreError):
            raise self._asked
        return self._asked
