"""
What to try, said for commands that take no plan: `gym data` has fewer options than whoever raises the errors expects.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from gymcore.discovery import Plugin
from gymcore.errors import GymcoreError, PlanError

__all__ = ["hints_without_a_plan"]

_OF_A_PLAN = re.compile(r"--(?:set|isolate|data|split|agent|model|executor|size|exhausted)\b")
"""Options of `gym compose` that `gym data` has not, as far as hints name them."""
_CONFIG = re.compile(r"--set (?:environments\.[^.\s]+\.)?config\.(\w+)=\.\.\.")


@contextmanager
def hints_without_a_plan(plugin: Plugin | None = None) -> Iterator[None]:
    """
    Say in the hints of errors that are raised inside which command has the options that they name.

    Args:
        plugin: The environment whose argument, where it takes one, is given after a colon and not by `--set`.
    """
    try:
        yield
    except PlanError as error:
        problems = [replace(each, hints=_told(each.hints, plugin)) for each in error.problems]
        raise PlanError(problems) if tuple(problems) != error.problems else error from None
    except GymcoreError as error:
        error.hints = _told(error.hints, plugin)
        error.args = (error.render(),)
        raise


def _told(hints: tuple[str, ...], plugin: Plugin | None) -> tuple[str, ...]:
    return tuple(_hint(hint, plugin) for hint in hints)


def _hint(hint: str, plugin: Plugin | None) -> str:
    option = None if plugin is None else plugin.manifest.argument
    found = _CONFIG.search(hint)
    if plugin is not None and option is not None and found is not None and found[1] == option:
        return f"{hint[: found.start()]}--env {plugin.shortest}:{option.upper()}{hint[found.end() :]}"
    return hint if "gym " in hint else _OF_A_PLAN.sub(lambda match: f"gym compose {match[0]}", hint, count=1)
