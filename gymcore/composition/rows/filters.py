"""
Which rows of an environment are taken: the `filter` of a plan, conditions on what stands in a row.

Conditions are plain values, compared by type and content; there is no expression language and nothing is executed.
There are no regular expressions either: those of the standard library cannot be bounded in time, and a row is whatever
somebody wrote. `contains` says most of what they are wanted for, and jq the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gymcore.composition.rows.values import MISSING, key_path, value_at
from gymcore.errors import Problem, nearest
from gymcore.plan import FILTER_CONDITIONS

__all__ = ["Filter", "compile_filter"]

MAX_DEPTH = 20


@dataclass(frozen=True, slots=True)
class Equal:
    """Holds for one value of the same type; numbers are equal as numbers, and true is no number."""

    value: Any

    def holds(self, found: Any) -> bool:
        """Whether what stands in a row fits."""
        return _same(found, self.value)


@dataclass(frozen=True, slots=True)
class OneOf:
    """Holds for any of some values."""

    values: tuple[Any, ...]

    def holds(self, found: Any) -> bool:
        """Whether what stands in a row fits."""
        return any(_same(found, value) for value in self.values)


@dataclass(frozen=True, slots=True)
class Between:
    """Holds for numbers, or for texts in the order of their characters, from one value to another, both included."""

    least: Any
    most: Any

    def holds(self, found: Any) -> bool:
        """Whether what stands in a row fits; what has another type than the bounds does not."""
        bound = self.least if self.least is not None else self.most
        if not (type(found) is type(bound) is str or (_is_number(found) and _is_number(bound))):
            return False
        return (self.least is None or found >= self.least) and (self.most is None or found <= self.most)


@dataclass(frozen=True, slots=True)
class Contains:
    """Holds for a text with a text in it, and for a list with a value in it."""

    value: Any

    def holds(self, found: Any) -> bool:
        """Whether what stands in a row fits."""
        if type(found) is str:
            return type(self.value) is str and self.value in found
        return type(found) is list and any(_same(item, self.value) for item in found)


@dataclass(frozen=True, slots=True)
class Exists:
    """Holds where a row has the key, or where it has not; a key that holds null is there."""

    is_wanted: bool

    def holds(self, found: Any) -> bool:
        """Whether what stands in a row fits."""
        return (found is not MISSING) is self.is_wanted


@dataclass(frozen=True, slots=True)
class Not:
    """Holds where another condition does not, also where the row has nothing."""

    condition: Condition

    def holds(self, found: Any) -> bool:
        """Whether what stands in a row fits."""
        return not self.condition.holds(found)


@dataclass(frozen=True, slots=True)
class AllOf:
    """Holds where several conditions do."""

    conditions: tuple[Condition, ...]

    def holds(self, found: Any) -> bool:
        """Whether what stands in a row fits."""
        return all(condition.holds(found) for condition in self.conditions)


Condition = Equal | OneOf | Between | Contains | Exists | Not | AllOf


@dataclass(frozen=True, slots=True)
class Filter:
    """The conditions of an environment, all of which a row must meet."""

    conditions: tuple[tuple[str, tuple[str, ...], Condition], ...]
    """Key path as written, its parts, and what must hold there."""

    def failing(self, row: Mapping[str, Any]) -> list[str]:
        """Return the key paths whose condition a row does not meet; none where it is taken."""
        return [text for text, path, condition in self.conditions if not condition.holds(value_at(row, path))]


def compile_filter(asked: Mapping[str, Any], where: str) -> tuple[Filter | None, list[Problem]]:
    """
    Understand the `filter` of a plan.

    Args:
        asked: Its plain values.
        where: Its key path, for messages.

    Returns:
        The filter, None where nothing is asked or something is wrong, and every mistake in it.
    """
    problems: list[Problem] = []
    conditions = []
    for text, value in asked.items():
        if not all(key_path(text)):
            problems.append(Problem(f"{text!r} is no key path, such as level or metadata.level", f"{where}.{text}"))
            continue
        found: list[Problem] = []
        condition = _read(value, f"{where}.{text}", found, 0)
        problems.extend(found)
        if condition is not None and not found:
            conditions.append((text, key_path(text), condition))
    return (Filter(tuple(conditions)) if conditions and not problems else None), problems


def _read(value: Any, where: str, problems: list[Problem], depth: int) -> Condition | None:
    if depth > MAX_DEPTH:
        problems.append(Problem("the condition is nested too deeply", where))
        return None
    if isinstance(value, dict):
        parts = list(_read_named(value, where, problems, depth))
        if not value:
            problems.append(Problem("the condition is empty", where, (f"conditions: {', '.join(FILTER_CONDITIONS)}",)))
        return parts[0] if len(parts) == 1 else AllOf(tuple(parts))
    if isinstance(value, list):
        if not value:
            problems.append(Problem("an empty list of values holds for no row", where))
        if any(isinstance(item, dict | list) for item in value):
            problems.append(Problem("a list of values holds texts, numbers, true, false and null", where))
        return OneOf(tuple(value))
    return Equal(value)


def _read_named(value: dict[str, Any], where: str, problems: list[Problem], depth: int) -> Iterator[Condition]:
    for key in value:
        if key not in FILTER_CONDITIONS:
            close = nearest(key, FILTER_CONDITIONS)
            hint = f"try: {close[0]}" if close else f"conditions: {', '.join(FILTER_CONDITIONS)}"
            inner = f"for a key inside, write {where.rpartition('.')[2]}.{key}: ..."
            problems.append(Problem(f"unknown condition {key!r}", f"{where}.{key}", (hint, inner)))
    least, most = value.get("min"), value.get("max")
    if "min" in value or "max" in value:
        for key in ("min", "max"):
            if key in value and not isinstance(value[key], str) and not _is_number(value[key]):
                problems.append(Problem(f"`{key}` is a number or a text, not {value[key]!r:.60}", f"{where}.{key}"))
                return
        if least is not None and most is not None:
            if isinstance(least, str) is not isinstance(most, str):
                problems.append(Problem("`min` and `max` are of different types", where))
                return
            if least > most:
                problems.append(Problem(f"no value is from {least!r:.60} to {most!r:.60}", where))
                return
        yield Between(least, most)
    if "contains" in value:
        if isinstance(value["contains"], dict | list):
            problems.append(Problem("`contains` is one value", f"{where}.contains"))
        yield Contains(value["contains"])
    if "exists" in value:
        if not isinstance(value["exists"], bool):
            problems.append(Problem(f"`exists` is true or false, not {value['exists']!r:.60}", f"{where}.exists"))
        yield Exists(value["exists"] is True)
    if "not" in value:
        condition = _read(value["not"], f"{where}.not", problems, depth + 1)
        if condition is not None:
            yield Not(condition)


def _is_number(value: Any) -> bool:
    return type(value) is int or type(value) is float


def _same(found: Any, wanted: Any) -> bool:
    if _is_number(wanted):
        return _is_number(found) and bool(found == wanted)
    return type(found) is type(wanted) and bool(found == wanted)
