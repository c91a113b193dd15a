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
from gymcore.integrations.formats import LineFormat, Uniform

__all__ = ["FORMAT"]


def line(row: ComposedRow) -> bytes:
    """Return the row's values as JSON."""
    return encode_json(record(row))


def record(row: ComposedRow) -> dict[str, Any]:
    """Return `messages`, `tools` where there are any, how to answer, and the route."""
    tools = row.tools
    chat: dict[str, Any] = {"messages": row.messages}
    if tools:
        chat["tools"] = tools
    chat.update(to_chat_options(row.params, has_tools=bool(tools)))
    route = {"environment": row.environment, "task_id": row.task_id, "agent_ref": row.row.value["agent_ref"]}
    return {**chat, **route}


def is_wide(row: ComposedRow) -> bool:
    """Whether some message is a list of parts, with images or without; readers take a key for what it is at first."""
    return any(isinstance(said["content"], list) for said in row.messages)


def widened(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values with every content as a list of parts."""
    messages = [{**said, "content": _parts_of(said["content"])} for said in values["messages"]]
    return {**values, "messages": messages}


def _parts_of(content: Any) -> Any:  # a text, parts, or None
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def marked(values: dict[str, Any]) -> dict[str, Any] | None:
    """Return the values with a first message that has a key more than it needs, so that messages differ from it."""
    if not values["messages"]:
        return None
    first, *others = values["messages"]
    # Any key would do; these are the API's own, and chat templates do not ask for them.
    key = "refusal" if "name" in first else "name"
    return {**values, "messages": [{**first, key: None}, *others]}


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
    Uniform(
        record,
        is_wide,
        widened,
        "some messages hold parts, such as images, so the content of every message is a list of parts",
        "messages",
        marked,
        "some later messages hold other keys than the first ones, so the very first has a key that is null: "
        "by that load_dataset sees that messages differ",
    ),
)
