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
from gymcore.responses import Item

__all__ = ["FORMAT"]


def line(row: ComposedRow) -> bytes:
    """Return `messages`, `tools` where there are any, how to answer, and the route."""
    return _line(row, row.messages)


def is_wide(row: ComposedRow) -> bool:
    """Whether some message is a list of parts, with images or without; readers take a key for what it is at first."""
    return any(isinstance(said["content"], list) for said in row.messages)


def wide_line(row: ComposedRow) -> bytes:
    """Return the line with every content as a list of parts."""
    return _line(row, [{**said, "content": _parts_of(said["content"])} for said in row.messages])


def _parts_of(content: Any) -> Any:  # a text, parts, or None
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _line(row: ComposedRow, messages: list[Item]) -> bytes:
    tools = row.tools
    chat: dict[str, Any] = {"messages": messages}
    if tools:
        chat["tools"] = tools
    chat.update(to_chat_options(row.params, has_tools=bool(tools)))
    route = {"environment": row.environment, "task_id": row.task_id, "agent_ref": row.row.value["agent_ref"]}
    return encode_json({**chat, **route})


def remarks(row: ComposedRow) -> Iterator[str]:
    """Say which parameters a chat request does not have."""
    yield from row.remarks()
    for option in row.options:
        if option in WITHOUT_MEANING:
            yield f"a chat request has no {option}"


FORMAT = LineFormat(
    "openai-messages",
    line,
    remarks,
    is_wide,
    wide_line,
    "some messages hold parts, such as images, so the content of every message is a list of parts; "
    "load_dataset needs a chunksize above the size of the file, to see them all before it settles on types",
)
