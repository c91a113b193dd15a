"""
The items and tools of the Responses API in the words of Chat Completions.

The Responses API is the richer of the two: what chat cannot carry is refused by name instead of being lost.

Source: https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from gymcore.documents import encode_json
from gymcore.responses import Item

__all__ = ["HELD_ELSEWHERE", "InexpressibleError", "continues_reply", "to_chat_tool", "to_messages"]

HELD_ELSEWHERE = ("conversation", "previous_response_id", "prompt")
"""Parameters of the Responses API that name text which only an endpoint holds."""


class InexpressibleError(ValueError):
    """
    Chat has no words for something; the message names it.
    """


def to_chat_tool(tool: Mapping[str, Any]) -> Item:
    """
    Turn a tool as a Responses request offers it into one as a chat request does.

    Raises:
        InexpressibleError: it is no function.
    """
    if tool.get("type") != "function":
        raise InexpressibleError(f"a tool of type {tool.get('type')!r}")
    if "function" in tool:
        return dict(tool)
    inner = {key: value for key, value in tool.items() if key != "type" and value is not None}
    return {"type": "function", "function": inner}


def _is_reply(item: Item) -> bool:
    """Whether an item is something a model said, thought or asked for."""
    return item.get("type") in ("function_call", "reasoning") or item.get("role") == "assistant"


def continues_reply(earlier: Sequence[Item], items: Sequence[Item]) -> bool:
    """Whether the message that `earlier` ends with would go on in `items`."""
    return bool(earlier and items) and _is_reply(earlier[-1]) and _is_reply(items[0])


def to_messages(items: Iterable[Item]) -> Iterator[Item]:
    """
    Turn items into chat messages.

    Raises:
        InexpressibleError: chat has no words for one.
    """
    for is_reply, group in groupby(items, _is_reply):
        if is_reply:
            yield _assistant_message(group)
        else:
            yield from map(_other_message, group)


def _assistant_message(items: Iterable[Item]) -> Item:
    """
    Make one message of all that the model did in one turn.

    One, because tool results must follow the message that asks for them, and many chat templates want roles to
    alternate.
    """
    texts: list[str] = []
    refusals: list[str] = []
    thoughts: list[str] = []
    calls: list[Item] = []
    for item in items:
        kind = item.get("type", "message")
        if kind == "reasoning":
            thoughts.append(_thought(item))
        elif kind == "function_call":
            function = {"name": item.get("name", ""), "arguments": _as_text(item.get("arguments", ""))}
            calls.append({"id": item.get("call_id", ""), "type": "function", "function": function})
        elif kind == "message":
            parts = _parts_of(item.get("content"))
            texts.append("".join(_as_text(part["text"]) for part in parts if "text" in part))
            refusals.extend(_as_text(part["refusal"]) for part in parts if "refusal" in part)
        else:
            raise InexpressibleError(f"an item of type {kind!r}")
    chat: Item = {"role": "assistant", "content": "\n".join(filter(None, texts)) or None}
    if chat["content"] is None and not calls and not refusals:
        chat["content"] = ""
    if refusals:
        chat["refusal"] = "\n".join(refusals)
    if any(thoughts):
        chat["reasoning_content"] = "\n".join(filter(None, thoughts))
    if calls:
        chat["tool_calls"] = calls
    return chat


def _parts_of(content: Any) -> list[Item]:
    """Return the parts of a message, whatever JSON a row holds in their place."""
    if content is None:
        return []
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        return content
    return [{"text": content}]


def _thought(item: Item) -> str:
    """Return the text of a reasoning item: what was thought where it is shown, else its summary."""
    parts = _parts_of(item.get("content") or item.get("summary"))
    return "\n".join(_as_text(part.get("text", "")) for part in parts)


def _other_message(item: Item) -> Item:
    kind = item.get("type", "message")
    if kind == "function_call_output":
        return {"role": "tool", "tool_call_id": item.get("call_id", ""), "content": _content(item.get("output", ""))}
    if kind != "message":
        raise InexpressibleError(f"an item of type {kind!r}")
    # Chat templates of open models know `system` only; where both are known they mean the same.
    role = "system" if item.get("role") == "developer" else item.get("role", "user")
    return {"role": role, "content": _content(item.get("content", ""))}


def _content(content: Any) -> str | list[Item]:  # a string or parts; rows and tools of others may hold any JSON
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        return _as_text(content)
    parts = [_part(part) for part in content]
    # One text as a plain string, which every chat template understands.
    return parts[0]["text"] if len(parts) == 1 and parts[0].get("type") == "text" else parts


def _part(part: Item) -> Item:
    kind = part.get("type")
    if kind in ("input_text", "output_text"):
        return {"type": "text", "text": part.get("text", "")}
    if kind == "input_image":
        if "image_url" not in part:
            raise InexpressibleError("an image by its file id")
        image = {"url": part["image_url"], "detail": part.get("detail")}
        return {"type": "image_url", "image_url": {key: value for key, value in image.items() if value is not None}}
    if kind == "input_file":
        if "file_url" in part:
            raise InexpressibleError("a file by its URL")
        return {"type": "file", "file": {key: value for key, value in part.items() if key != "type"}}
    return part  # input_audio is the same in both; what only a server knows (video_url) goes there as it is


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else encode_json(value).decode()
