"""
What a reader that settles on types takes a file of JSON lines for, by the rows at its beginning.

`datasets` reads a chunk, settles on one type for each column, and fails at a later row that has another. Objects whose
keys differ within the first chunk are taken for JSON of any kind, and so is what is a list here and a text there. A
null settles nothing: a column that is null in all of the first chunk is null for good.

Source: datasets 5.2, `packaged_modules/json/json.py`
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

__all__ = ["READER_CHUNK", "FirstTypes"]

READER_CHUNK = 10 << 20
"""So many bytes, and the rest of their last line, are the first chunk, unless `chunksize` says otherwise."""

JsonType: TypeAlias = Any
"""None for null, a word for a text, a number or anything, `[type]` for a list, and a type for each key of an object."""

_ANYTHING = "anything"
_DEPTH = 100
"""What lies deeper is not looked at."""
_KINDS = {str: "text", bool: "truth", int: "integer", float: "number"}


class FirstTypes:
    """
    Sees rows in the order of the file, and says which of them a reader would not expect.

    Args:
        chunk: How many bytes the reader looks at first.
    """

    def __init__(self, chunk: int = READER_CHUNK) -> None:
        self._chunk = chunk
        self._types: dict[str, JsonType] = {}
        self._numbers: dict[str, set[type]] = {}
        self._read = 0
        self.late: set[str] = set()
        """The columns that are something else in a later row than in the first chunk."""
        self.sufficient = 0
        """How many bytes a first chunk must have, for a reader to expect all rows; 0 where it does."""

    def see(self, record: Mapping[str, Any], length: int) -> None:
        """Look at the next row, which has so many bytes."""
        is_first = self._read <= self._chunk
        self._read += length
        for key, value in record.items():
            if type(value) in (int, float):
                self._numbers.setdefault(key, set()).add(type(value))
            if is_first:
                self._types[key] = _widened(self._types.get(key), value)
            elif not _accepts(self._types.get(key), value):
                self.late.add(key)
                self.sufficient = self._read

    @property
    def mixed_numbers(self) -> set[str]:
        """The columns that hold an integer in one row and another number in some other."""
        return {key for key, kinds in self._numbers.items() if len(kinds) > 1}


def _widened(known: JsonType, value: Any, depth: int = 0) -> JsonType:
    """Return the type of a value and of what was known before."""
    if value is None or known == _ANYTHING:
        return known
    if depth == _DEPTH:
        return _ANYTHING
    if isinstance(value, dict):
        if known is None and value:
            return {key: _widened(None, inner, depth + 1) for key, inner in value.items()}
        if isinstance(known, dict) and known.keys() == value.keys():
            return {key: _widened(known[key], inner, depth + 1) for key, inner in value.items()}
        return _ANYTHING
    if isinstance(value, list):
        if not isinstance(known, list | None):
            return _ANYTHING
        item_type = known[0] if known else None
        for item in value:
            item_type = _widened(item_type, item, depth + 1)
        return [item_type]
    kind = _KINDS[type(value)]
    if known in (None, kind):
        return kind
    return "number" if [known, kind] in (["integer", "number"], ["number", "integer"]) else _ANYTHING


def _accepts(known: JsonType, value: Any) -> bool:
    """Whether a value is read as it is where a type was settled on."""
    if value is None or known == _ANYTHING:
        return True
    if isinstance(value, dict):
        # A reader adds keys that are missing, with nulls, which is not what was written.
        return (
            isinstance(known, dict)
            and known.keys() == value.keys()
            and all(_accepts(known[key], inner) for key, inner in value.items())
        )
    if isinstance(value, list):
        return isinstance(known, list) and all(_accepts(known[0], item) for item in value)
    kind = _KINDS[type(value)]
    return kind == known or (kind == "integer" and known == "number")
