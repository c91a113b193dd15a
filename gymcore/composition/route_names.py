"""
The names of routes, `{environment}_{agent}`: which halves a name has, and what was probably meant where it has none.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from itertools import islice

from gymcore.discovery import Catalog
from gymcore.errors import nearest

__all__ = ["RouteNames"]

SHOWN = 3
"""So many routes are proposed at most."""

_SETTABLE = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
"""Names of environments that `--set environments.NAME.use` can give."""


class RouteNames:
    """
    Every `agent_ref.name` that leads somewhere.

    Args:
        catalog: What is installed.
        planned: The names that a plan gives its environments.
    """

    def __init__(self, catalog: Catalog, planned: Iterable[str] = ()) -> None:
        self._planned = frozenset(planned)
        environments = self._planned | {plugin.name for plugin in catalog.of_kind("environment")}
        # Where two of them make the same name, the longest comes first and has it.
        self._environments = sorted(environments, key=lambda name: (-len(name), name))
        self._agents = sorted({plugin.name for plugin in catalog.of_kind("agent")})
        self._halves: dict[str, tuple[str, str]] = {}
        for environment in self._environments:
            for agent in self._agents:
                self._halves.setdefault(f"{environment}_{agent}", (environment, agent))

    def halves(self, name: str) -> tuple[str, str] | None:
        """Return the environment and the agent that a name is made of; None where it is none of these."""
        return self._halves.get(name)

    def names_environment(self, name: str) -> bool:
        """
        Whether a name that is none of these begins with an environment of them, and goes on with what is no agent.

        One that ends in an agent names an environment that is not here, however that begins.
        """
        return self._unknown_environment(name) is None and self._known_environment(name) is not None

    def near(self, name: str) -> list[str]:
        """Return what was probably meant by a name that is none of these, the best first."""
        if (unknown := self._unknown_environment(name)) is not None:
            environment, agent = unknown
            return [f"{close}_{agent}" for close in nearest(environment, self._environments)]
        if (known := self._known_environment(name)) is not None:
            rest = name.removeprefix(known).removeprefix("_")
            return [f"{known}_{agent}" for agent in nearest(rest, self._agents) or self._agents][:SHOWN]
        # What the agents have in common, as the end of most of their names, must not decide.
        alike = [each for each in self._environments if nearest(name[: len(each)], [each])]
        return nearest(name, self._routes_of(alike)) or self._routes_of(nearest(name, alike))[:SHOWN]

    def explain(self, name: str) -> str:
        """Say what a name lacks that is none of these, where nothing is near to it."""
        if (unknown := self._unknown_environment(name)) is not None:
            which = "no environment of the plan, and no installed one," if self._planned else "no installed environment"
            return f"{which} is called {unknown[0]!r:.100}"
        if self._known_environment(name) is not None:
            return "no agent is installed"
        return "no installed environment and agent make this name"

    def hints(self, name: str) -> list[str]:
        """Return what to try where a row asks for a name that is none of these."""
        if close := self.near(name):
            return [f"try: {' or '.join(close)}"]
        told = self.explain(name)
        unknown = self._unknown_environment(name)
        if unknown is None:
            routes = list(islice(self._halves, SHOWN + 1))
            more = ", ..." if len(routes) > SHOWN else ""
            return [told, f"routes here: {', '.join(routes[:SHOWN]) or 'none'}{more}"]
        set_it = ""
        if _SETTABLE.fullmatch(unknown[0]):
            set_it = f", or --set environments.{unknown[0]}.use=NAME where it has another name here"
        return [told, f"try: install its plugin{set_it}; `gym list` shows every one"]

    def _unknown_environment(self, name: str) -> tuple[str, str] | None:
        """Return the halves of a name that ends in an agent and names no environment that is here."""
        if name in self._halves:
            return None
        # Of two agents that it may end in, the longest leaves the least that is of nobody.
        for agent in sorted(self._agents, key=len, reverse=True):
            if (environment := name.removesuffix(f"_{agent}")) not in (name, ""):
                return environment, agent
        return None

    def _known_environment(self, name: str) -> str | None:
        return next((each for each in self._environments if name == each or name.startswith(f"{each}_")), None)

    def _routes_of(self, environments: Collection[str]) -> list[str]:
        return [f"{environment}_{agent}" for environment in environments for agent in self._agents]
