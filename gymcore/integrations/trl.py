"""
`trl`: a table for the trainers of TRL that play environments.

`environment` chooses the environment of a row among those of `environment_factory`; all other columns are given to its
`reset`.

Source: trl/trainer/grpo_trainer.py of trl 1.16
"""

from __future__ import annotations

from typing import Any

from gymcore.integrations.composed_row import ComposedRow
from gymcore.integrations.formats import MESSAGES, TEXT, TableFormat

__all__ = ["FORMAT"]


def record(row: ComposedRow) -> dict[str, Any]:
    """
    Return the prompt with TRL's routing column.

    Raises:
        InexpressibleError: the row offers a tool that is no function; TRL's tools are methods.
    """
    _ = row.tools  # they are methods of the environment, so no column holds them
    return {
        "prompt": row.text_messages,
        "environment": row.environment,
        "task_id": row.task_id,
        "row": row.text,
    }


def remark(row: ComposedRow) -> str | None:
    """Say where a row offers only some of the tools: TRL always offers every method."""
    offered = {tool.get("name") for tool in row.params.get("tools") or ()}
    left_out = [name for name in row.route.environment_class.tools if name not in offered]
    if not left_out:
        return None
    return (
        f"{row.environment}: TRL offers all tools of an environment, also {', '.join(left_out)}, which rows leave out"
    )


FORMAT = TableFormat("trl", {"prompt": MESSAGES, "environment": TEXT, "task_id": TEXT, "row": TEXT}, record, remark)
