"""
Statistics of dataset rows, gathered in one pass: how long, how many tools and turns, and what each field holds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from gymcore.composition.tokens import prompt_text
from gymcore.documents import encode_json
from gymcore.records import ROUTE_KEYS

__all__ = ["DISTINCT", "FIELDS", "Numbers", "RowStatistics"]

DISTINCT = 1000
"""Different values of a field that are told apart; beyond them it has `more_than` so many."""
FIELDS = 200
"""Fields of an environment of which statistics are kept; those of further ones are only counted."""


@dataclass
class Numbers:
    """The sum of some numbers, in the words that are printed."""

    count: int = 0
    least: float = math.inf
    most: float = -math.inf
    _mean: float = 0.0
    _squares: float = 0.0

    def add(self, number: float) -> None:
        """Count one number (B. P. Welford's method, Technometrics 4, 1962, which loses no digits to large means)."""
        self.count += 1
        if number < self.least:
            self.least = number
        if number > self.most:
            self.most = number
        difference = number - self._mean
        if math.isinf(difference):  # the mean has room for what the difference of two numbers has not
            self._mean += number / self.count - self._mean / self.count
            self._squares = math.inf
            return
        self._mean += difference / self.count
        self._squares += difference * (number - self._mean)

    def to_dict(self) -> dict[str, Any] | None:
        """
        Return count, mean, standard deviation, minimum and maximum; None where there were no numbers.

        The standard deviation is None where the squares of the numbers are too large to be added up.
        """
        if not self.count:
            return None
        spread = math.sqrt(self._squares / (self.count - 1)) if self.count > 1 else 0.0
        return {
            "count": self.count,
            "mean": round(self._mean, 6),
            "std": round(spread, 6) if math.isfinite(spread) else None,
            "min": self.least,
            "max": self.most,
        }


@dataclass
class _Field:
    """What one field of the rows holds."""

    present: int = 0
    types: dict[str, int] = field(default_factory=dict)
    numbers: Numbers = field(default_factory=Numbers)
    """Of numbers, those inside lists included."""
    lengths: Numbers = field(default_factory=Numbers)
    """Of texts in characters, of lists and objects in members."""
    distinct: set[bytes] = field(default_factory=set)

    def add(self, value: Any) -> None:
        self.present += 1
        kind = _TYPES.get(type(value), "other")
        self.types[kind] = self.types.get(kind, 0) + 1
        if kind in ("integer", "number"):
            self.numbers.add(value)
        elif kind in ("text", "list", "object"):
            self.lengths.add(len(value))
            if kind == "list":
                for item in value:
                    if type(item) in (int, float):
                        self.numbers.add(item)
        if len(self.distinct) <= DISTINCT:
            self.distinct.add(blake2b(encode_json(value), digest_size=8).digest())

    def to_dict(self, rows: int) -> dict[str, Any]:
        distinct = {"distinct": len(self.distinct)}
        if len(self.distinct) > DISTINCT:
            distinct = {"distinct_more_than": DISTINCT}
        told = {"types": self.types, "present": self.present / rows, **distinct}
        for key, numbers in (("numbers", self.numbers), ("lengths", self.lengths)):
            if numbers.count:
                told[key] = numbers.to_dict()
        return told


_TYPES: dict[type, str] = {
    str: "text",
    bool: "boolean",
    int: "integer",
    float: "number",
    list: "list",
    dict: "object",
    type(None): "null",
}


class RowStatistics:
    """
    Statistics of rows that are given one by one; memory grows with the number of fields, and not with that of rows.

    Args:
        count_tokens: What counts the tokens, or the words, of a prompt.
    """

    def __init__(self, count_tokens: Callable[[str], int]) -> None:
        self._count_tokens = count_tokens
        self.rows = 0
        self.bytes = Numbers()
        self.prompt = Numbers()
        self.tools = Numbers()
        self.turns = Numbers()
        self.params: dict[str, _Field] = {}
        self.fields: dict[str, _Field] = {}
        self.further_fields = 0

    def add(self, row: Mapping[str, Any], size: int, tokens: int | None = None) -> int:
        """
        Count one row.

        Args:
            row: The row; its create parameters are all right.
            size: Its length in bytes.
            tokens: How many tokens its prompt has, where they were counted already.

        Returns:
            How many tokens its prompt has.
        """
        params = row["responses_create_params"]
        if tokens is None:
            tokens = self._count_tokens(prompt_text(params))
        self.rows += 1
        self.bytes.add(size)
        self.prompt.add(tokens)
        self.tools.add(len(params.get("tools") or ()))
        self.turns.add(_turns(params["input"]))
        for key, value in params.items():
            if key not in ("input", "tools"):
                self._field(self.params, key, value)
        for key, value in row.items():
            if key == "responses_create_params" or key in ROUTE_KEYS:
                continue
            name = _named(key)
            self._field(self.fields, name, value)
            if type(value) is dict:
                for inner, item in value.items():
                    self._field(self.fields, f"{name}.{_named(inner)}", item)
        return tokens

    def _field(self, fields: dict[str, _Field], key: str, value: Any) -> None:
        known = fields.get(key)
        if known is None:
            if len(fields) >= FIELDS:
                self.further_fields += 1
                return
            known = fields[key] = _Field()
        known.add(value)

    def to_dict(self, unit: str) -> dict[str, Any]:
        """
        Return all of it as plain values.

        Args:
            unit: What prompts are measured in: `words` or `tokens`.
        """
        return {
            "rows": self.rows,
            "bytes": self.bytes.to_dict(),
            unit: self.prompt.to_dict(),
            "tools": self.tools.to_dict(),
            "turns": self.turns.to_dict(),
            "params": {key: item.to_dict(self.rows) for key, item in self.params.items()},
            "fields": {key: item.to_dict(self.rows) for key, item in self.fields.items()},
            **({"further_fields": self.further_fields} if self.further_fields else {}),
        }


def _named(key: str) -> str:
    """Name a key so that one with a dot in it is no other's inner key."""
    return json.dumps(key, ensure_ascii=False) if "." in key else key


def _turns(given: Any) -> int:
    """Return how many messages of the user a prompt holds."""
    if isinstance(given, str):
        return 1
    return sum(isinstance(item, dict) and item.get("role") == "user" for item in given)
