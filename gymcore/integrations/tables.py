"""
Parquet tables, written in row groups of a bounded size that all have the same schema.

pyarrow is imported when a table is written; it comes with the extra `gymcore[parquet]`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import IO, Any

from gymcore.errors import RequestError
from gymcore.integrations.formats import INTEGER, MESSAGES, TEXT, Columns

__all__ = ["GROUP_BYTES", "GROUP_ROWS", "PLAIN_KEYS", "need_pyarrow", "write_table"]

GROUP_ROWS = 10_000
GROUP_BYTES = 16_000_000
"""A row group ends with whichever is reached first; one is held in memory, several times as Python objects."""

PLAIN_KEYS = ("role", "content")
"""The keys that every chat message has."""

_CALL = {"id": TEXT, "type": TEXT, "function": {"name": TEXT, "arguments": TEXT}}
_MESSAGE: dict[str, Any] = {
    "role": TEXT,
    "content": TEXT,
    "name": TEXT,
    "reasoning_content": TEXT,
    "refusal": TEXT,
    "tool_calls": [_CALL],
    "tool_call_id": TEXT,
}
"""Every key that a message of `ComposedRow.text_messages` may have, in the order in which they are written."""


def need_pyarrow() -> Any:  # the modules `pyarrow` and `pyarrow.parquet`
    """
    Return pyarrow and its Parquet writer.

    Raises:
        RequestError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise RequestError(
            "a Parquet file needs the package `pyarrow`", hints=["try: pip install 'gymcore[parquet]'"]
        ) from None
    return pyarrow, pyarrow.parquet


def write_table(
    out: IO[bytes],
    columns: Columns,
    records: Iterable[tuple[dict[str, Any], int]],
    *,
    message_keys: Iterable[str] = PLAIN_KEYS,
    facts: Mapping[str, str],
    group_rows: int = GROUP_ROWS,
) -> None:
    """
    Write records as one Parquet file; the same records give the same bytes with the same pyarrow.

    Args:
        out: Where to.
        columns: The columns and their types.
        records: The rows in order, each with about how many bytes it holds.
        message_keys: Which keys chat messages have; a message without one has a null there.
        facts: What is written into the file's metadata.
        group_rows: How many rows a row group has at most.
    """
    pyarrow, parquet = need_pyarrow()
    message = {key: kind for key, kind in _MESSAGE.items() if key in set(message_keys)}
    fields = [(name, _arrow_type(pyarrow, kind, message)) for name, kind in columns.items()]
    schema = pyarrow.schema(fields, metadata=dict(facts))
    with parquet.ParquetWriter(out, schema, compression="zstd") as writer:
        group: list[dict[str, Any]] = []
        size = 0
        for record, length in records:
            group.append(record)
            size += length
            if len(group) == group_rows or size >= GROUP_BYTES:
                writer.write_batch(pyarrow.RecordBatch.from_pylist(group, schema=schema), group_rows)
                group, size = [], 0
        if group:
            writer.write_batch(pyarrow.RecordBatch.from_pylist(group, schema=schema), group_rows)


def _arrow_type(pyarrow: Any, kind: Any, message: Columns) -> Any:
    if kind == TEXT:
        return pyarrow.string()
    if kind == INTEGER:
        return pyarrow.int64()
    if kind == MESSAGES:
        return _arrow_type(pyarrow, [message], message)
    if isinstance(kind, list):
        return pyarrow.list_(_arrow_type(pyarrow, kind[0], message))
    return pyarrow.struct([(name, _arrow_type(pyarrow, inner, message)) for name, inner in kind.items()])
