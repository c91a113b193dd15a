"""
What may follow the colon of an environment, as its class tells it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from gymcore.discovery import Catalog, Plugin
from gymcore.errors import GymcoreError, PluginError

if TYPE_CHECKING:
    from gymcore.interfaces import Choice

__all__ = ["choice_to_dict", "choices_of"]


def choices_of(catalog: Catalog, plugin: Plugin) -> list[Choice]:
    """
    Import an environment that takes an argument, and ask which ones there are; none where it cannot tell.

    Raises:
        GymcoreError: it cannot be imported, or it says why nobody can tell.
        PluginError: it fails otherwise.
    """
    environment_class = catalog.load(plugin)
    try:
        return [_checked(choice) for choice in environment_class.choices()]
    except GymcoreError:
        raise
    except (Exception, SystemExit) as error:
        told = f"the choices of {plugin.title} cannot be told: {type(error).__name__}: {error}"[:500]
        raise PluginError(told, plugin=plugin.qualified) from error


def _checked(choice: Any) -> Choice:
    """
    Return a choice, of which everything can be printed and written as JSON.

    Raises:
        TypeError: it is none, or holds what its fields do not say.
        ValueError: a text or a number cannot be written.
    """
    from gymcore.interfaces import Choice

    if not isinstance(choice, Choice):
        raise TypeError(f"{type(choice).__name__} is no Choice")
    texts = [choice.argument, choice.description, choice.problem or "", *choice.splits, *choice.details]
    if not all(isinstance(text, str) for text in texts) or not choice.argument:
        raise TypeError("a Choice has a field that is no text")
    if not all(type(rows) is int and 0 <= rows < 1 << 63 for rows in choice.splits.values()):
        raise TypeError(f"a split of the Choice {choice.argument!r} has no count of rows")
    json.dumps(choice_to_dict(choice), ensure_ascii=False, allow_nan=False).encode()
    return choice


def choice_to_dict(choice: Choice) -> dict[str, Any]:
    """Return what `--json` prints of a choice."""
    return {
        "argument": choice.argument,
        "description": choice.description,
        "splits": dict(choice.splits),
        "details": dict(choice.details),
        "problem": choice.problem,
    }
