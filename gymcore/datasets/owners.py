"""
Whose the rows of a dataset file are: what they say of their route, and what they are asked with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gymcore.composition.routes import prompt_plan
from gymcore.composition.rows.prompts import Prompt, compile_prompt
from gymcore.discovery import Plugin
from gymcore.plan import EnvironmentPlan

__all__ = ["FURTHER", "NAME_LETTERS", "OWNERS", "RouteError", "prompt_of", "route_name", "shown_route"]

OWNERS = 1000
"""So many environments are told apart, whatever somebody has put in the place of their names."""
FURTHER = "(further environments)"
"""The name of all others together."""
NAME_LETTERS = 100
"""So much of a route's name is shown where nobody of that name is installed."""


class RouteError(Exception):
    """What a row has in the place of a route is none; `hints` say what to try."""

    def __init__(self, message: str, hints: Sequence[str] = ()) -> None:
        self.hints = tuple(hints)
        super().__init__(message)


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
    return name


def shown_route(name: str) -> str:
    """Return so much of the name of a route that nobody here has as is shown."""
    return name if len(name) <= NAME_LETTERS else f"{name[: NAME_LETTERS - 3]}..."


def prompt_of(plugin: Plugin, entry: EnvironmentPlan | None = None) -> Prompt | None:
    """Return the prompt of `prompt_plan`, to be put into rows."""
    return compile_prompt(prompt_plan(plugin, entry), "prompt")[0]
