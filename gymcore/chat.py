"""
The items and tools of the Responses API in the words of Chat Completions.

The Responses API is the richer of the two: what chat cannot carry is refused by name instead of being lost.

Source: https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from gymcore.documents import encode_json
from gymcore.responses import Item

__all__ = [
    "HELD_ELSEWHERE",
    "TOKEN_IDS",
    "WITHOUT_MEANING",
    "InexpressibleError",
    "continues_reply",
    "joins_replies",
    "to_chat_options",
    "to_chat_tool",
    "to_messages",
]

HELD_ELSEWHERE = ("conversation", "previous_response_id", "prompt")
"""Parameters of the Responses API that name text which only an endpoint holds."""

WITHOUT_MEANING = ("background", "include", "max_tool_calls", "truncation")
"""Parameters of the Responses API that ask for nothing a completion could give."""


TOKEN_IDS = ("prompt_token_ids", "generation_token_ids", "generation_log_probs")
"""
What trainers read on the last item of a reply: the ids of all that it answers, its own, and their log-probabilities.

Source: the `TokenIDLogProbMixin` of NeMo Gym, whose names these are.
"""


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


def to_chat_options(params: Mapping[str, Any], *, has_tools: bool) -> Item:
    """
    Turn the create parameters that say how to answer into those of a chat request.

    Args:
        params: The create parameters; those that are no options (`input`, `instructions`, `tools`) are passed over.
        has_tools: Whether tools are offered; endpoints refuse choices among none.

    Raises:
        InexpressibleError: one of them is not what the API says.
    """
    over = {
        "input",
        "instructions",
        "tools",
        "text",
        "reasoning",
        "max_output_tokens",
        *HELD_ELSEWHERE,
        *WITHOUT_MEANING,
    }
    options = {key: value for key, value in params.items() if value is not None and key not in over}
    if not has_tools:
        options.pop("tool_choice", None)
        options.pop("parallel_tool_calls", None)
    choice = options.get("tool_choice")
    if isinstance(choice, dict) and choice.get("type") == "function" and "name" in choice:
        options["tool_choice"] = {"type": "function", "function": {"name": choice["name"]}}
    if params.get("max_output_tokens") is not None:
        # Not `max_completion_tokens`: only newer servers know it, and all know the older name.
        options["max_tokens"] = params["max_output_tokens"]
    if effort := _object(params, "reasoning").get("effort"):
        options["reasoning_effort"] = effort
    options.update(_text_options(_object(params, "text")))
    include = params.get("include")
    if "top_logprobs" in options or (isinstance(include, list) and "message.output_text.logprobs" in include):
        options["logprobs"] = True
    return options


def _object(params: Mapping[str, Any], key: str) -> Item:
    value = params.get(key)
    if not isinstance(value, dict | None):
        raise InexpressibleError(f"the parameter {key!r}, which is no object")
    return value or {}


def _text_options(text: Mapping[str, Any]) -> Item:
    options = {key: value for key, value in text.items() if key == "verbosity" and value is not None}
    style = _object(text, "format")
    if style.get("type") == "json_schema":
        inner = {key: value for key, value in style.items() if key != "type" and value is not None}
        options["response_format"] = {"type": "json_schema", "json_schema": inner}
    elif style.get("type", "text") != "text":
        options["response_format"] = style
    return options


def _is_reply(item: Item) -> bool:
    """Whether an item is something a model said, thought or asked for."""
    return item.get("type") in ("function_call", "reasoning") or item.get("role") == "assistant"


def continues_reply(earlier: Sequence[Item], items: Sequence[Item]) -> bool:
    """Whether the message that `earlier` ends with would go on in `items`."""
    return bool(earlier and items) and _is_reply(earlier[-1]) and _is_reply(items[0])


def joins_replies(items: Iterable[Item]) -> bool:
    """Whether several messages of a model follow each other, of which `to_messages` makes one."""
    groups = (group for is_reply, group in groupby(items, _is_reply) if is_reply)
    return any(sum(item.get("role") == "assistant" for item in group) > 1 for group in groups)


def to_messages(items: Iterable[Item], keep: Collection[str] = ()) -> Iterator[Item]:
    """
    Turn items into chat messages.

    Args:
        items: The items, oldest first.
        keep: Keys that say something of a whole reply, as `TOKEN_IDS` do: where its last item has them, so has the
            message.

    Raises:
        InexpressibleError: chat has no words for one.
    """
    for is_reply, group in groupby(items, _is_reply):
        if is_reply:
            reply = list(group)
            further = {key: reply[-1][key] for key in keep if reply[-1].get(key) is not None}
            yield {**_assistant_message(reply), **further}
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
    names: dict[str, None] = {}
    for item in items:
        kind = item.get("type", "message")
        if kind == "reasoning":
            thoughts.append(_thought(item))
        elif kind == "function_call":
            calls.append(_call(item.get("call_id", ""), item))
        elif kind == "message":
            parts = _said(item.get("content"))
            texts.append("".join(_as_text(part["text"]) for part in parts if "text" in part))
            refusals.extend(_as_text(part["refusal"]) for part in parts if "refusal" in part)
            # A row may have been written in chat's words.
            refusals.extend(_given(item, "refusal"))
            thoughts.extend(_given(item, "reasoning_content"))
            names.update(dict.fromkeys(_given(item, "name")))
            calls.extend(_chat_calls(item))
        else:
            raise InexpressibleError(f"an item of type {kind!r}")
    chat: Item = {"role": "assistant", "content": "\n".join(filter(None, texts)) or None}
    if len(names) > 1:
        raise InexpressibleError(f"one reply under several names ({', '.join(names)})")
    if names:
        chat["name"] = next(iter(names))
    if chat["content"] is None and not calls and not refusals:
        chat["content"] = ""
    if refusals:
        chat["refusal"] = "\n".join(refusals)
    if any(thoughts):
        chat["reasoning_content"] = "\n".join(filter(None, thoughts))
    if calls:
        chat["tool_calls"] = calls
    return chat


def _call(call_id: Any, function: Item) -> Item:
    inner = {"name": function.get("name", ""), "arguments": _as_text(function.get("arguments", ""))}
    return {"id": call_id, "type": "function", "function": inner}


def _chat_calls(item: Item) -> Iterator[Item]:
    """
    Yield the tool calls of a message that is written in chat's words.

    Raises:
        InexpressibleError: they are no calls of functions.
    """
    for key in ("audio", "function_call"):
        if item.get(key) is not None:
            raise InexpressibleError(f"a reply with {key!r}")
    calls = item.get("tool_calls") or []
    if not isinstance(calls, list):
        raise InexpressibleError("tool calls that are no list")
    for call in calls:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or call.get("type", "function") != "function":
            raise InexpressibleError("a tool call of a message that is none of a function")
        yield _call(call.get("id", ""), function)


def _given(item: Item, key: str) -> list[str]:
    """Return what an item says under a key, if it says anything."""
    value = item.get(key)
    return [] if value is None else [_as_text(value)]


_SAID = (None, "output_text", "input_text", "text", "refusal", "reasoning_text", "summary_text")
"""The types of the parts that are texts."""


def _said(content: Any) -> list[Item]:
    """
    Return the parts of what a model said, whatever JSON a row holds in their place.

    Raises:
        InexpressibleError: one of them is no text.
    """
    if content is None:
        return []
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        return [{"text": content}]
    for part in content:
        if part.get("type") not in _SAID or not ("text" in part or "refusal" in part):
            raise InexpressibleError(f"a part of type {part.get('type')!r} in what a model said")
    return content


def _thought(item: Item) -> str:
    """
    Return the text of a reasoning item: what was thought where it is shown, else its summary.

    Raises:
        InexpressibleError: it is encrypted, and only its endpoint can read it.
    """
    parts = _said(item.get("content") or item.get("summary"))
    if not parts and item.get("encrypted_content") is not None:
        raise InexpressibleError("encrypted reasoning")
    return "\n".join(_as_text(part.get("text", "")) for part in parts)


def _other_message(item: Item) -> Item:
    kind = item.get("type", "message")
    if kind == "function_call_output":
        return {"role": "tool", "tool_call_id": item.get("call_id", ""), "content": _content(item.get("output", ""))}
    if kind != "message":
        raise InexpressibleError(f"an item of type {kind!r}")
    # Chat templates of open models know `system` only; where both are known they mean the same.
    role = "system" if item.get("role") == "developer" else item.get("role", "user")
    # A row may have been written in chat's words.
    further = {key: item[key] for key in ("name", "tool_call_id") if item.get(key) is not None}
    return {"role": role, **further, "content": _content(item.get("content", ""))}


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
        if part.get("image_url") is None:
            raise InexpressibleError("an image by its file id" if part.get("file_id") else "an image without its URL")
        image = {"url": part["image_url"], "detail": part.get("detail")}
        return {"type": "image_url", "image_url": {key: value for key, value in image.items() if value is not None}}
    if kind == "input_file":
        if part.get("file_url") is not None:
            raise InexpressibleError("a file by its URL")
        file = {key: value for key, value in part.items() if key != "type" and value is not None}
        return {"type": "file", "file": file}
    return part  # input_audio is the same in both; what only a server knows (video_url) goes there as it is


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else encode_json(value).decode()
