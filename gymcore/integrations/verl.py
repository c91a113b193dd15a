"""
`verl`: a table for its `RLHFDataset`.

`agent_name` chooses the agent loop, which is called `gymcore` for every row, and `data_source` the reward function and
the group of metrics, which is the environment. What an agent loop and a reward function need to find the task is in
`extra_info`, because both are given that.

Source: verl/utils/dataset/rl_dataset.py and verl/experimental/agent_loop/agent_loop.py of verl 0.7
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gymcore.integrations.composed_row import ComposedRow
from gymcore.integrations.formats import INTEGER, MESSAGES, TEXT, TableFormat

__all__ = ["AGENT_NAME", "FORMAT"]

AGENT_NAME = "gymcore"
"""The agent loop that every row asks for."""


def record(row: ComposedRow) -> dict[str, Any]:
    """Return the prompt with verl's routing columns; the task is the only truth a reward function needs."""
    return {
        "data_source": row.environment,
        "agent_name": AGENT_NAME,
        "prompt": row.text_messages,
        "reward_model": {"style": "rule", "ground_truth": row.task_id},
        "extra_info": {
            "index": row.position,
            "environment": row.environment,
            "task_id": row.task_id,
            "tools": row.tools_text,
            "row": row.text,
        },
    }


def remarks(row: ComposedRow) -> Iterator[str]:
    """Say how a row asks to be answered, for which there is no column."""
    yield from row.remarks()
    for option in row.options:
        yield f"verl has no column for {option}, which stands only in the row"


FORMAT = TableFormat(
    "verl",
    {
        "data_source": TEXT,
        "agent_name": TEXT,
        "prompt": MESSAGES,
        "reward_model": {"style": TEXT, "ground_truth": TEXT},
        "extra_info": {"index": INTEGER, "environment": TEXT, "task_id": TEXT, "tools": TEXT, "row": TEXT},
    },
    record,
    remarks,
)
