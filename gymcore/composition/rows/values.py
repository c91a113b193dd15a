"""
What stands in a row at a key path such as `metadata.level` or `choices.0`: keys of objects and places in lists.

Rows are plain JSON, and nothing but JSON is looked into: no attributes, no methods, nothing is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gymcore.errors import nearest

__all__ = ["MISSING", "key_path", "keys_near", "value_at"]

MISSING: Any = object()
"""Stands where a row has nothing, not even null."""


def key_path(text: str) -> tuple[str, ...]:
    """Split a key path at its dots."""
    return tuple(text.split("."))


def value_at(row: Any, path: tuple[str, ...]) -> Any:  # any JSON value
    """Return what stands in a row at a path, or `MISSING`."""
    value = row
    for part in path:
        if type(value) is dict:
            value = value.get(part, MISSING)
        elif type(value) is list and part.isascii() and part.isdigit() and len(part) < 10:
            index = int(part)
            value = value[index] if index < len(value) else MISSING
        else:
            return MISSING
        if value is MISSING:
            return MISSING
    return value


def keys_near(row: Mapping[str, Any], path: tuple[str, ...]) -> str:
    """Say which keys a row has where a path leads nowhere: those that were probably meant, or all of them."""
    above: Any = row
    done: list[str] = []
    for part in path:
        inner = value_at(above, (part,))
        if inner is MISSING:
            break
        done.append(part)
        above = inner
    head = ".".join([*done, ""]) if done else ""
    if isinstance(above, dict) and above:
        wanted = path[len(done)] if len(done) < len(path) else ""
        close = nearest(wanted, above)
        if close:
            return "try: " + " or ".join(head + key for key in close)
        keys = sorted(above)
        shown = ", ".join(head + key for key in keys[:12])
        return f"its keys: {shown}" + (f" and {len(keys) - 12} more" if len(keys) > 12 else "")
    what = f"a list of {len(above)}" if isinstance(above, list) else "an object without keys"
    return f"`{'.'.join(done)}` holds {what if isinstance(above, dict | list) else type(above).__name__}"
