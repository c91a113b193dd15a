"""
`skyrl`: a table for SkyRL's `PromptDataset`.

`env_class` is the id under which an environment is registered with `skyrl_gym`, which is its name in the plan; all
other columns reach it as `extras`.

Source: skyrl_gym 0.4.0, and skyrl_train/dataset/dataset.py
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gymcore.integrations.composed_row import ComposedRow
from gymcore.integrations.formats import MESSAGES, TEXT, TableFormat

__all__ = ["FORMAT"]


def record(row: ComposedRow) -> dict[str, Any]:
    """Return the prompt with SkyRL's routing columns; the task is the only truth a verifier needs."""
    return {
        "data_source": row.environment,
        "prompt": row.text_messages,
        "env_class": row.environment,
        "reward_spec": {"method": "rule", "ground_truth": row.task_id},
        "extra_info": {
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
        yield f"SkyRL has no column for {option}, which stands only in the row"


FORMAT = TableFormat(
    "skyrl",
    {
        "data_source": TEXT,
        "prompt": MESSAGES,
        "env_class": TEXT,
        "reward_spec": {"method": TEXT, "ground_truth": TEXT},
        "extra_info": {"environment": TEXT, "task_id": TEXT, "tools": TEXT, "row": TEXT},
    },
    record,
    remarks,
)
