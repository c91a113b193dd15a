"""
The two kinds of files that an export writes: lines of JSON, and tables in Parquet.

A format is a name and a pure function from one row to one row; which one, is the business of the file that is called
like its trainer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from gymcore.integrations.composed_row import ComposedRow

__all__ = ["INTEGER", "MESSAGES", "TEXT", "Columns", "LineFormat", "TableFormat", "Uniform"]

TEXT = "text"
INTEGER = "integer"
MESSAGES = "messages"
"""A list of chat messages; which keys they have besides `role` and `content` is found by looking at every row."""

Columns: TypeAlias = Mapping[str, Any]
"""The type of each column: one of the words above, a list of one type, or columns again for an object."""


@dataclass(frozen=True)
class Uniform:
    """What makes the lines of a file alike for a reader that settles on types by the first of them."""

    record: Callable[[ComposedRow], dict[str, Any]]
    """Return the values of the row's line; raises as `LineFormat.line` does."""
    is_wide: Callable[[ComposedRow], bool]
    """Whether the row needs a type of its own for some key; one that does makes all rows wide."""
    widened: Callable[[dict[str, Any]], dict[str, Any]]
    """Return values with types that are the same in all wide rows."""
    wide_note: str
    """What a reader should know about a file of wide rows."""
    column: str
    """The column whose objects may have different keys."""
    marked: Callable[[dict[str, Any]], dict[str, Any] | None]
    """Return values of which a reader sees that they may; None where there is nothing to see it by."""
    mark_note: str
    """What a reader should know about a file whose first row is marked."""


@dataclass(frozen=True)
class LineFormat:
    """JSON lines."""

    suffix: ClassVar[str] = ".jsonl"

    name: str
    line: Callable[[ComposedRow], bytes]
    """Return the row's line, without its end; raises `InexpressibleError` where the format has no words for it."""
    remarks: Callable[[ComposedRow], Iterable[str]] = lambda row: ()
    """Yield what a reader should know about the row, in words that are the same for all such rows; they are counted."""
    uniform: Uniform | None = None
    """How its lines are written where readers settle on types; None where they do not."""

    @property
    def file_name(self) -> str:
        """How a file of it is called in a run folder, where nobody says otherwise."""
        return f"{self.name}{self.suffix}"


@dataclass(frozen=True)
class TableFormat:
    """A table in one Parquet file, whose columns have the same types from the first row to the last."""

    suffix: ClassVar[str] = ".parquet"

    name: str
    columns: Columns
    record: Callable[[ComposedRow], dict[str, Any]]
    """Return the row's values by column; raises `InexpressibleError` where the format has no words for it."""
    remarks: Callable[[ComposedRow], Iterable[str]] = lambda row: ()
    """As for `LineFormat`."""

    @property
    def file_name(self) -> str:
        """How a file of it is called in a run folder, where nobody says otherwise."""
        return f"dataset{self.suffix}" if self.suffix == f".{self.name}" else f"{self.name}{self.suffix}"
