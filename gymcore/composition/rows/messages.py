"""
Rows that say what is asked in the words of chat completions, `messages`, or in a plain `prompt`: turned into `input`.

Sources: https://platform.openai.com/docs/api-reference/chat/create and
https://platform.openai.com/docs/api-reference/responses/create
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

from gymcore.chat import TOKEN_IDS
from gymcore.documents import encode_json
from gymcore.responses import Item, function_call_output

__all__ = ["ASKING_KEYS", "MessageError", "input_of", "input_of_messages"]

ASKING_KEYS = ("messages", "prompt", "input")
"""Keys at the top of a row that may say what is asked, where `responses_create_params.input` does not."""

_ROLES = ("system", "developer", "user", "assistant", "tool")
_OF_RESPONSES = ("input_text", "output_text", "refusal", "input_image", "input_file")


class MessageError(Exception):
    """What a row asks cannot be understood; the message says where and why."""


def input_of(row: Mapping[str, Any]) -> tuple[str, str | list[Item]] | None:
    """
    Find what a row without an `input` of its own asks.

    Returns:
        The key that says it, and the `input` that it becomes; None where no key does.

    Raises:
        MessageError: two keys say it, or what one says is no conversation.
    """
    found = [key for key in ASKING_KEYS if row.get(key) is not None]
    if not found:
        return None
    if len(found) > 1:
        raise MessageError(f"the row asks in {' and in '.join(f'`{key}`' for key in found)}; which one is meant?")
    key = found[0]
    value = row[key]
    if isinstance(value, str) and key != "messages":
        if not value.strip():
            raise MessageError(f"`{key}` is empty")
        return key, value
    if not isinstance(value, list):
        what = "a list of messages" if key == "messages" else "a text or a list of messages"
        raise MessageError(f"`{key}` must be {what}, not {_shown(value)}")
    if not value:
        raise MessageError(f"`{key}` is empty")
    if key == "input":
        return key, value  # whose name is that of the Responses API, and so are its items
    return key, input_of_messages(value, key)


def input_of_messages(messages: list[Any], where: str = "messages") -> list[Item]:
    """
    Turn the messages of a chat completion into items of the Responses API.

    An assistant's tool calls become `function_call` items, a tool's message a `function_call_output`. A call without an
    id gets one, and a tool's message that names no call answers the first that has no answer yet. Token ids, which are
    those of a whole reply, stand on its last item.

    Args:
        messages: The messages, oldest first.
        where: How messages name the list.

    Raises:
        MessageError: it is no conversation.
    """
    items: list[Item] = []
    unanswered: list[str] = []
    new_ids = _new_ids(messages)
    for index, message in enumerate(messages):
        place = f"{where}.{index}"
        if not isinstance(message, dict):
            raise MessageError(f"{place} is no message: {_shown(message)}")
        role = message.get("role")
        if role not in _ROLES:
            raise MessageError(f"{place}.role is {_shown(role)}, and none of {', '.join(_ROLES)}")
        content = message.get("content")
        if role == "tool":
            call_id = message.get("tool_call_id") or next(iter(unanswered), None)
            if call_id not in unanswered:
                raise MessageError(f"{place} answers {_shown(call_id)}, which no message before it has called")
            unanswered.remove(call_id)
            items.append(function_call_output(call_id, _output(content, place)))
            continue
        asked = message.get("tool_calls") or []
        if not isinstance(asked, list):
            raise MessageError(f"{place}.tool_calls is no list")
        if asked and role != "assistant":
            raise MessageError(f"{place}.tool_calls: only an assistant calls tools")
        if content is None or content == [] or (asked and content == ""):
            if not asked:
                raise MessageError(f"{place} has no content")
        else:
            # What else a message says is kept; columns of tables write null where there is nothing.
            rest = {key: value for key, value in message.items() if key not in _READ and value is not None}
            items.append({"role": role, "content": _content(content, role, place), **rest})
        for number, call in enumerate(asked):
            item = _call(call, f"{place}.tool_calls.{number}", new_ids)
            if item["call_id"] in unanswered:
                raise MessageError(f"{place}.tool_calls.{number}: the id {_shown(item['call_id'])} stands twice")
            unanswered.append(item["call_id"])
            items.append(item)
        items[-1].update((key, message[key]) for key in TOKEN_IDS if message.get(key) is not None)
    return items


def _new_ids(messages: list[Any]) -> Iterator[str]:
    """Yield ids for calls without one, which no message of the conversation says; it is read when one is needed."""
    said = set()
    for message in messages:
        calls = message.get("tool_calls") if isinstance(message, dict) else None
        said |= {str(call.get("id")) for call in (calls if isinstance(calls, list) else ()) if isinstance(call, dict)}
    yield from (name for name in map("call_{}".format, count()) if name not in said)


_READ = ("role", "content", "tool_calls", "tool_call_id", *TOKEN_IDS)


def _call(call: Any, place: str, new_ids: Iterator[str]) -> Item:
    function = call.get("function") if isinstance(call, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(name, str):
        raise MessageError(f'{place} must look like {{"id": ..., "function": {{"name": ..., "arguments": ...}}}}')
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        arguments = encode_json({} if arguments is None else arguments).decode()
    call_id = call.get("id") or next(new_ids)
    if not isinstance(call_id, str):
        raise MessageError(f"{place}.id must be a text, not {_shown(call_id)}")
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}


def _output(content: Any, place: str) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(
        isinstance(part, dict) and isinstance(part.get("text"), str) for part in content
    ):
        return "".join(part["text"] for part in content)
    raise MessageError(f"{place}.content of a tool must be a text, not {_shown(content)}")


def _content(content: Any, role: str, place: str) -> Any:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise MessageError(f"{place}.content must be a text or a list of parts, not {_shown(content)}")
    return [_part(part, role, f"{place}.content.{index}") for index, part in enumerate(content)]


def _part(part: Any, role: str, place: str) -> Item:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in _OF_RESPONSES:
        return dict(part)
    if kind == "text" and isinstance(part.get("text"), str):
        return {"type": "output_text" if role == "assistant" else "input_text", "text": part["text"]}
    if kind == "image_url":
        image = part.get("image_url")
        image = {"url": image} if isinstance(image, str) else image
        if isinstance(image, dict) and isinstance(image.get("url"), str):
            return {"type": "input_image", "image_url": image["url"], "detail": image.get("detail") or "auto"}
    if kind == "input_audio" and isinstance(part.get("input_audio"), dict):
        return dict(part)
    if kind == "file" and isinstance(part.get("file"), dict):
        return {"type": "input_file", **part["file"]}
    raise MessageError(f"{place} is no part that can be read: {_shown(part)}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
