"""
`nemo-gym`: the format that our rows are in already, so their bytes are passed on.

A row that leaves something to the environment or the plan gets it written out, because nobody else knows our plan: the
tools where it brings none, and the plan's `params`. NeMo Gym routes by `agent_ref.name`; `environment` and `task_id`
travel along as keys of the row.

Source: nemo-gym 0.4.0
"""

from __future__ import annotations

from gymcore.documents import encode_json
from gymcore.integrations.composed_row import ComposedRow
from gymcore.integrations.formats import LineFormat

__all__ = ["FORMAT"]


def line(row: ComposedRow) -> bytes:
    """Return the row as it is, with what a run would add to its create parameters."""
    if row.params == row.value["responses_create_params"]:
        return row.row.data
    return encode_json({**row.value, "responses_create_params": row.params})


FORMAT = LineFormat("nemo-gym", line)
