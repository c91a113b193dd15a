"""
`parquet`: every row in full, as JSON text, beside what one filters and counts by.
"""

from __future__ import annotations

from typing import Any

from gymcore.integrations.composed_row import ComposedRow
from gymcore.integrations.formats import INTEGER, TEXT, TableFormat

__all__ = ["FORMAT"]


def record(row: ComposedRow) -> dict[str, Any]:
    """Return the row's identity, its prompt as one text with the instructions before it, and the row itself."""
    return {
        "environment": row.environment,
        "task_id": row.task_id,
        "route": row.route.name,
        "epoch": row.row.epoch,
        "prompt": row.prompt,
        "row": row.text,
    }


FORMAT = TableFormat(
    "parquet",
    {"environment": TEXT, "task_id": TEXT, "route": TEXT, "epoch": INTEGER, "prompt": TEXT, "row": TEXT},
    record,
)
