"""
Environments as they are asked for, `NAME`, `DISTRIBUTION/NAME`, or one of them with `:ARGUMENT`: how each is called.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from itertools import chain, count
from typing import Any

from gymcore.discovery.catalog import bare_name, split_argument

__all__ = ["key_of", "shown_name"]

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")


def key_of(asked: str, environments: Mapping[str, Any], plain: Collection[str] = ()) -> str:
    """
    Return the name under which an environment plays that was asked for.

    Args:
        asked: `NAME`, `DISTRIBUTION/NAME`, or one of them with `:ARGUMENT`.
        environments: Those of the plan so far, as plain values.
        plain: The names that were asked for without an argument, which are theirs.
    """
    name, argument = split_argument(asked)
    # A qualified name is no key of a plan: `distribution/name` plays under its own name.
    bare = bare_name(name)
    if argument is None:
        return bare
    own = [argument] if _PLAIN.fullmatch(argument) else []
    return next(
        key
        for key in chain(own, [bare], (f"{bare}_{number}" for number in count(2)))
        if key not in plain and (not environments.get(key) or _is_asked(environments[key], key, name, argument))
    )


def shown_name(asked: str) -> str:
    """Return how messages name what was asked for: with a plain argument, but without an address: it may be secret."""
    bare, argument = split_argument(asked)
    if argument is None:
        return bare_name(asked)
    return f"{bare}:{argument}" if _PLAIN.fullmatch(argument) else f"{bare}:..."


def _is_asked(entry: Any, key: str, name: str, argument: str) -> bool:
    """Whether an entry of a plan, as it was written or as it was resolved, is what a name and an argument ask for."""
    if not isinstance(entry, dict):
        return False
    used, given = split_argument(str(entry.get("use") or key))
    config = entry.get("config")
    options = config.values() if isinstance(config, dict) else ()
    return bare_name(used) == bare_name(name) and (given == argument or (given is None and argument in options))
