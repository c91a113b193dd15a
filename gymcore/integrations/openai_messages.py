"""
`openai-messages`: chat messages and tools as the Chat Completions API has them, a conversation a line.

Source: https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gymcore.chat import WITHOUT_MEANING, to_chat_options
from gymcore.documents import encode_json
from gymcore.integrations.composed_row import ComposedRow
from gymcore.integrations.formats import LineFormat

__all__ = ["FORMAT"]


def line(row: ComposedRow) -> bytes:
    """Return `messages`, `tools` where there are any, how to answer, and the route."""
    tools = row.tools
    chat: dict[str, Any] = {"messages": row.messages}
    if tools:
        chat["tools"] = tools
    chat.update(to_chat_options(row.params, has_tools=bool(tools)))
    route = {"environment": row.environment, "task_id": row.task_id, "agent_ref": row.row.value["agent_ref"]}
    return encode_json({**chat, **route})


def remarks(row: ComposedRow) -> Iterator[str]:
    """Say which parameters a chat request does not have."""
    for option in row.options:
        if option in WITHOUT_MEANING:
            yield f"a chat request has no {option}"


FORMAT = LineFormat("openai-messages", line, remarks)
