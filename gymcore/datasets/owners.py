"""
Whose the rows of a dataset file are: installed environments by the routes that lead to them, as compose finds them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gymcore.composition.rows.prompts import Prompt, compile_prompt
from gymcore.discovery import Catalog, Plugin
from gymcore.plan import PromptPlan

__all__ = ["FURTHER", "NAME_LETTERS", "OWNERS", "RouteError", "manifest_prompt", "route_name", "routes_of"]

OWNERS = 1000
"""So many environments are told apart, whatever somebody has put in the place of their names."""
FURTHER = "(further environments)"
"""The name of all others together."""
NAME_LETTERS = 100
"""So much of a route's name is shown where nobody of that name is installed."""


class RouteError(Exception):
    """What a row has in the place of a route is none."""


def routes_of(catalog: Catalog) -> dict[str, str]:
    """Return the environment behind each `agent_ref.name` that is possible with what is installed."""
    environments = {plugin.name for plugin in catalog.of_kind("environment")}
    agents = sorted({plugin.name for plugin in catalog.of_kind("agent")})
    # Where two of them make the same name, the longest environment comes last and has it.
    return {
        f"{name}_{agent}": name for name in sorted(environments, key=lambda name: (len(name), name)) for agent in agents
    }


def route_name(row: Mapping[str, Any]) -> str:
    """
    Return the name of the route that a row asks for; empty where it asks for none.

    Raises:
        RouteError: what it has there is no route.
    """
    reference = row.get("agent_ref")
    if reference is None:
        return ""
    name = reference.get("name") if isinstance(reference, dict) else None
    if not isinstance(name, str):
        raise RouteError('`agent_ref` must look like {"name": "ENVIRONMENT_AGENT"}')
    return name if len(name) <= NAME_LETTERS else f"{name[: NAME_LETTERS - 3]}..."


def manifest_prompt(plugin: Plugin) -> Prompt | None:
    """Return what the manifest of an environment asks with, if it does."""
    asked = PromptPlan(**plugin.manifest.prompt) if plugin.manifest.prompt else None
    return compile_prompt(asked, "prompt")[0]
