"""
What a fast JSON reader lets pass although it loses something: keys that stand twice, and integers it cannot hold.

The reader keeps the last of two values and says nothing, and makes a nearby float of an integer beyond 64 bits.
"""

from __future__ import annotations

import json
from typing import Any

__all__ = ["lost_in_reading"]

_LEAST, _MOST = -float(1 << 63), float(1 << 64)


class _LostError(Exception):
    """Something that reading loses."""


def lost_in_reading(line: bytes, row: dict[str, Any], *written: bytes) -> str | None:
    """
    Say what is lost between a line and the row that was read from it.

    A row that is whole costs a count of colons: every member of an object has one, spacing has none, and texts have as
    many before and after. (An author who hides a colon of a text in `\\u003a` can hide a twin with it, from nobody but
    himself.)

    Args:
        line: The line.
        row: What was read.
        written: What was read, written as JSON; in several objects whose members are together those of the row.

    Returns:
        What is wrong; None where nothing is lost.
    """
    text = b"".join(written)
    # What is left without its colons, because `count` looks at every byte on its own and takes ten times as long.
    if len(line) - len(line.replace(b":", b"")) == len(text) - len(text.replace(b":", b"")):
        for value in row.values():
            if type(value) is float and not _LEAST < value < _MOST:
                break
        else:
            return None
    try:
        json.loads(line, object_pairs_hook=_refuse_twins, parse_int=_refuse_large)
    except _LostError as error:
        return str(error)
    except (ValueError, RecursionError):  # what the fast reader has read is JSON, whatever the other one says
        return None
    return None


def _refuse_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        twin = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _LostError(f"the key {twin[:60]!r} stands twice in one object, and only the last would count")
    return value


def _refuse_large(text: str) -> int:
    if len(text) > 18 and not -(1 << 63) <= (number := int(text[:400])) < 1 << 64:
        shown = text if len(text) <= 40 else f"{text[:37]}..."
        raise _LostError(f"the integer {shown} has more than 64 bits and would become {float(number)!r}")
    return int(text)
