"""
Rows that the class of an environment yields itself, where its manifest says `{from: plugin}`.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from typing import Any

from gymcore.composition.configuration import Options
from gymcore.discovery import Plugin
from gymcore.discovery.manifest import PluginRows
from gymcore.errors import GymcoreError, PluginError, RequestError
from gymcore.interfaces import Environment
from gymcore.interpreters.stand_in import StandIn

__all__ = ["plugin_rows", "splits_without_rows"]


def plugin_rows(
    plugin: Plugin, environment_class: type[Environment[Any, Any]], options: Options, split: str
) -> Generator[bytes, None, None]:
    """
    Yield the rows of a split, one a line, line breaks included.

    Args:
        plugin: Whose split it is.
        environment_class: Its class.
        options: Its options, which are in order.
        split: The name of the split.

    Raises:
        GymcoreError: the class raised one.
        PluginError: it raised anything else, or yielded what is no line; or it cannot be asked.
    """
    told = f"{plugin.title} makes the rows of its split {split!r} itself"
    if issubclass(environment_class, StandIn):
        hint = "try: rows of your own, with `data`, or `isolation: process`"
        raise PluginError(f"{told}, and its code is in another interpreter", plugin=plugin.qualified, hints=[hint])
    try:
        for number, line in enumerate(environment_class.own_rows(options.config, split), start=1):
            yield _checked(line, number)
    except GymcoreError:
        raise
    except Exception as error:
        raise PluginError(f"{told}, and failed: {type(error).__name__}: {error}", plugin=plugin.qualified) from error


def splits_without_rows(
    plugin: Plugin, environment_class: type[Environment[Any, Any]], options: Options
) -> dict[str, RequestError]:
    """
    Ask for the first row of every split that the class of an environment yields itself.

    Returns:
        The splits that it has not with these options, whatever its manifest says, and what it says of each.

    Raises:
        GymcoreError: as for `plugin_rows`, where it is no `RequestError`.
    """
    missing = {}
    for split, files in plugin.manifest.splits.items():
        if any(isinstance(source, PluginRows) for source in files):
            try:
                with closing(plugin_rows(plugin, environment_class, options, split)) as rows:
                    next(rows, None)
            except RequestError as error:
                missing[split] = error
    return missing


def _checked(line: Any, number: int) -> bytes:
    """
    Return a row with its line break.

    Raises:
        TypeError: it is no line.
    """
    if not isinstance(line, bytes):
        raise TypeError(f"row {number} is no line of bytes, but {type(line).__name__}")
    if b"\n" in line.removesuffix(b"\n"):
        raise TypeError(f"row {number} is no line of bytes, but several")
    return line if line.endswith(b"\n") else line + b"\n"
