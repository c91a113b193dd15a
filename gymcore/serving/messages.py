"""
Anthropic's Messages API in the words of the Responses API, and back.

What can be said to a model is said, what is about Anthropic's own service (caches, tiers, who asks) is passed over, and
what only that service could do, such as tools that run there, is refused by name.

Sources: https://platform.claude.com/docs/en/api/messages, its pages on streaming and errors beside it, and
https://platform.claude.com/docs/en/agents-and-tools/tool-use/fine-grained-tool-streaming for input that is no JSON.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

from gymcore.chat import TOKEN_IDS
from gymcore.documents import DocumentError, decode_exactly, encode_json
from gymcore.responses import Item, function_call_output
from gymcore.serving.refusals import Refusal
from gymcore.serving.streams import named_events

__all__ = ["create_params_of", "error_of", "events_of", "message_of"]

_ROLES = {
    "user": ("text", "image", "tool_result"),
    "assistant": ("text", "thinking", "redacted_thinking", "tool_use"),
    "system": ("text",),
}
"""Who says something, and in which blocks."""

_SAME = ("model", "temperature", "top_k", "top_p")
"""What is called alike in both; `top_k` is no parameter of the Responses API, but one of most open servers."""

_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_NO_JSON = "INVALID_JSON"
"""The key under which the input of a tool stands, as text, where it is no JSON object."""


# -- the request -------------------------------------------------------------------------------------------------------


def create_params_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """
    Say a request of the Messages API in the words of the Responses API.

    How much a model thinks (`thinking`, `effort`) is not said: a budget in tokens is no degree of effort, Anthropic's
    effort is not one of reasoning alone, and many models refuse either. The plan says it.

    Raises:
        Refusal: it cannot be said; with the place.
    """
    messages, limit, stops = body.get("messages"), body.get("max_tokens"), body.get("stop_sequences")
    if not isinstance(messages, list) or not messages:
        raise Refusal(422, "`messages` must be a list of messages")
    if body.get("mcp_servers"):
        raise Refusal(422, "mcp_servers: only tools that the client runs are served")
    params: dict[str, Any] = {"input": [*_system(body.get("system")), *_items(messages)]}
    params |= {key: body[key] for key in _SAME if body.get(key) is not None}
    if limit is not None:
        if type(limit) is not int or limit < 1:
            raise Refusal(422, "max_tokens: must be an integer of at least 1")
        params["max_output_tokens"] = limit
    if stops:
        if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
            raise Refusal(422, "stop_sequences: must be a list of texts")
        params["stop"] = stops
    if (tools := body.get("tools")) is not None:
        if not isinstance(tools, list):
            raise Refusal(422, "tools: must be a list of tools")
        params["tools"] = [_tool(tool, f"tools.{index}") for index, tool in enumerate(tools)]
    if (choice := body.get("tool_choice")) is not None:
        params |= _choice(choice)
    if (schema := _schema(body.get("output_config"))) is not None:
        params["text"] = {"format": {"type": "json_schema", "name": "output", "schema": schema, "strict": True}}
    return params


def _system(system: Any) -> Iterator[Item]:
    # As a message, like that of a chat request, and as one text: many chat templates know no parts there.
    texts = [block["text"] for block in _blocks(system or [], "system", ("text",))]
    if texts:
        yield {"type": "message", "role": "system", "content": "\n".join(texts)}


def _items(messages: list[Any]) -> list[Item]:
    items: list[Item] = []
    unanswered: set[str] = set()
    for index, message in enumerate(messages):
        place = f"messages.{index}"
        role = message.get("role") if isinstance(message, dict) else None
        if not isinstance(role, str) or role not in _ROLES:
            raise Refusal(422, f"{place}: must be a message whose `role` is one of {', '.join(_ROLES)}")
        blocks = _blocks(message.get("content"), f"{place}.content", _ROLES[role])
        added = list(_items_of(role, blocks, f"{place}.content", unanswered))
        if added:
            # Token ids are those of a whole reply, and stand on its last item.
            added[-1].update((key, block[key]) for block in blocks for key in TOKEN_IDS if block.get(key) is not None)
        items += added
    if not items:
        raise Refusal(422, "`messages` must not be empty: nothing is asked")
    return items


def _blocks(content: Any, place: str, kinds: tuple[str, ...]) -> list[Item]:
    """Return content as blocks, which are of some kinds; those that are texts have one."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise Refusal(422, f"{place}: must be a text or a list of blocks")
    for index, block in enumerate(content):
        kind = block.get("type") if isinstance(block, dict) else None
        if kind not in kinds:
            told = f"is of type {kind!r:.60}" if isinstance(kind, str) else "is no block with a `type`"
            raise Refusal(422, f"{place}.{index}: {told}; served there: {', '.join(kinds)}")
        if kind == "text":
            _text(block, "text", f"{place}.{index}")
    return content


def _text(block: Item, key: str, place: str) -> str:
    value = block.get(key)
    if not isinstance(value, str):
        raise Refusal(422, f"{place}.{key}: must be a text")
    return value


def _items_of(role: str, blocks: list[Item], place: str, unanswered: set[str]) -> Iterator[Item]:
    """Yield what the blocks of a message say; `unanswered` are the calls that wait for a result, and is kept so."""
    for is_said, group in groupby(enumerate(blocks), lambda numbered: numbered[1]["type"] in ("text", "image")):
        if not is_said:
            for index, block in group:
                yield from _item(block, f"{place}.{index}", unanswered)
        elif role == "user":
            parts = [_part(block, f"{place}.{index}") for index, block in group]
            is_one_text = len(parts) == 1 and "text" in parts[0]
            yield {"type": "message", "role": role, "content": parts[0]["text"] if is_one_text else parts}
        else:
            # As one text: parts of a reply are known to endpoints only together with the id that they gave it.
            joint = "" if role == "assistant" else "\n"
            yield {"type": "message", "role": role, "content": joint.join(block["text"] for _, block in group)}


def _part(block: Item, place: str) -> Item:
    if block["type"] == "text":
        return {"type": "input_text", "text": block["text"]}
    source = block.get("source")
    if isinstance(source, dict) and source.get("type") == "base64":
        kind, data = _text(source, "media_type", f"{place}.source"), _text(source, "data", f"{place}.source")
        url = f"data:{kind};base64,{data}"
    elif isinstance(source, dict) and source.get("type") == "url":
        url = _text(source, "url", f"{place}.source")
    else:
        raise Refusal(422, f"{place}.source: must be of type base64 or url")
    return {"type": "input_image", "image_url": url, "detail": "auto"}


def _item(block: Item, place: str, unanswered: set[str]) -> Iterator[Item]:
    kind = block["type"]
    if kind == "tool_use":
        call_id, asked = _text(block, "id", place), block.get("input")
        if call_id in unanswered:
            raise Refusal(422, f"{place}.id: {call_id!r:.60} stands twice")
        if not isinstance(asked, dict):
            raise Refusal(422, f"{place}.input: must be an object")
        unanswered.add(call_id)
        was_none = asked.keys() == {_NO_JSON} and isinstance(asked[_NO_JSON], str)
        arguments = asked[_NO_JSON] if was_none else encode_json(asked).decode()
        name = _text(block, "name", place)
        yield {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}
    elif kind == "tool_result":
        call_id = _text(block, "tool_use_id", place)
        if call_id not in unanswered:
            raise Refusal(422, f"{place}.tool_use_id: {call_id!r:.60} is no call before it that waits for a result")
        unanswered.remove(call_id)
        # That it is an error (`is_error`) has no other words than those of the result itself.
        found = _blocks(block.get("content") or "", f"{place}.content", ("text", "image"))
        parts = [_part(inner, f"{place}.content.{index}") for index, inner in enumerate(found)]
        is_text = all("text" in part for part in parts)
        output: Any = "\n".join(part["text"] for part in parts) if is_text else parts
        yield function_call_output(call_id, output)
    elif kind == "redacted_thinking":
        yield _sealed("", _text(block, "data", place))
    elif block.get("signature"):
        yield _sealed(_text(block, "thinking", place), _text(block, "signature", place))
    elif thought := _text(block, "thinking", place):
        # Open servers insist on an id, and look for nothing under it.
        told = [{"type": "reasoning_text", "text": thought}]
        yield {"id": f"rs_{place.replace('.', '_')}", "type": "reasoning", "summary": [], "content": told}


def _sealed(thought: str, seal: str) -> Item:
    """Return reasoning that its endpoint reads itself; without an id, because it refuses any but its own."""
    summary = [{"type": "summary_text", "text": thought}] if thought else []
    return {"type": "reasoning", "summary": summary, "encrypted_content": seal}


def _tool(tool: Any, place: str) -> Item:
    if not isinstance(tool, dict):
        raise Refusal(422, f"{place}: must be a tool")
    kind, schema = tool.get("type"), tool.get("input_schema")
    if kind not in (None, "custom"):
        raise Refusal(422, f"{place}: a tool of type {kind!r:.60} is Anthropic's own; served are those with a schema")
    if not isinstance(schema, dict):
        raise Refusal(422, f"{place}.input_schema: must be an object")
    told = {"description": tool["description"]} if tool.get("description") is not None else {}
    # Said outright, because it is off by default in one API and on in the other.
    strict = tool.get("strict") is True
    return {"type": "function", "name": _text(tool, "name", place), **told, "parameters": schema, "strict": strict}


def _choice(choice: Any) -> dict[str, Any]:
    kind = choice.get("type") if isinstance(choice, dict) else None
    if kind == "tool":
        chosen: Any = {"type": "function", "name": _text(choice, "name", "tool_choice")}
    elif isinstance(kind, str) and kind in _CHOICES:
        chosen = _CHOICES[kind]
    else:
        raise Refusal(422, f"tool_choice: must be an object whose `type` is one of {', '.join(_CHOICES)}, tool")
    return {
        "tool_choice": chosen,
        **({"parallel_tool_calls": False} if choice.get("disable_parallel_tool_use") else {}),
    }


def _schema(config: Any) -> dict[str, Any] | None:
    """Return the schema that an answer is asked to fit, if it is."""
    style = config.get("format") if isinstance(config, dict) else None
    if style is None:
        return None
    schema = style.get("schema") if isinstance(style, dict) and style.get("type") == "json_schema" else None
    if not isinstance(schema, dict):
        raise Refusal(422, "output_config.format: must be of type json_schema, with a `schema`")
    return schema


# -- the answer --------------------------------------------------------------------------------------------------------


def message_of(response: Mapping[str, Any], further: Mapping[str, Any]) -> dict[str, Any]:
    """
    Say a response in the words of the Messages API.

    Args:
        response: A whole response.
        further: What else its last item says, such as token ids; the last block says it, which clients send back.

    Raises:
        Refusal: there are no words for it.
    """
    blocks = [block for item in response["output"] for block in _blocks_of(item)]
    named: set[str] = set()
    for call in (block for block in blocks if block["type"] == "tool_use"):
        if not call["id"] or call["id"] in named:  # what is sent back must say which call is meant
            call["id"] = f"toolu_{uuid.uuid4().hex}"
        named.add(call["id"])
    if blocks:
        blocks[-1] = {**further, **blocks[-1]}
    usage = response.get("usage") or {}
    details = usage.get("input_tokens_details")
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else 0
    return {
        "id": f"msg_{uuid.uuid4().hex}",
        "type": "message",
        "role": "assistant",
        "model": response["model"],
        "content": blocks,
        "stop_reason": _stop_reason(response, any(block["type"] == "tool_use" for block in blocks)),
        "stop_sequence": None,
        # What was read from a cache is counted beside the rest there, and with it by the Responses API.
        "usage": {
            "input_tokens": max(0, _count(usage.get("input_tokens")) - cached),
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached,
            "output_tokens": _count(usage.get("output_tokens")),
        },
    }


def _count(value: Any) -> int:
    return value if type(value) is int else 0


def _stop_reason(response: Mapping[str, Any], is_calling: bool) -> str:
    if response.get("status") == "incomplete":
        details = response.get("incomplete_details") or {}
        if details.get("reason") == "content_filter":
            return "refusal"
        # Where there was no room for a reply its endpoint has said so, in words.
        return "model_context_window_exceeded" if details.get("message") else "max_tokens"
    return "tool_use" if is_calling else "end_turn"


def _blocks_of(item: Item) -> Iterator[Item]:
    kind = item.get("type", "message")
    if kind == "message":
        # Anthropic refuses a text that is empty, where it is sent back.
        yield from ({"type": "text", "text": text} for text in _texts(item.get("content")) if text)
    elif kind == "function_call":
        call = {"id": item.get("call_id"), "name": item.get("name", "")}
        yield {"type": "tool_use", **call, "input": _input(item.get("arguments"))}
    elif kind == "reasoning":
        thought, seal = "\n".join(_texts(item.get("content") or item.get("summary"))), item.get("encrypted_content")
        if thought:
            yield {"type": "thinking", "thinking": thought, "signature": seal or ""}
        elif seal:
            yield {"type": "redacted_thinking", "data": seal}
    else:
        raise _wordless(f"an item of type {kind!r:.60}")


def _texts(content: Any) -> Iterator[str]:
    """Yield the texts of what a model said or thought: of each part one."""
    if content is None or isinstance(content, str):
        yield content or ""
        return
    for part in content if isinstance(content, list) else [content]:
        text = part.get("text", part.get("refusal")) if isinstance(part, dict) else None
        if not isinstance(text, str):
            raise _wordless("a part that is no text")
        yield text


def _input(arguments: Any) -> dict[str, Any]:
    """Return the input of a tool; what a model wrote that is no JSON object, for its client to tell the model."""
    text = arguments if isinstance(arguments, str) else encode_json({} if arguments is None else arguments).decode()
    try:
        value = decode_exactly(text.encode("utf-8", "replace") or b"{}")
    except DocumentError:
        value = None
    return value if isinstance(value, dict) else {_NO_JSON: text}


def _wordless(what: str) -> Refusal:
    return Refusal(502, f"the Messages API has no words for {what}, which the model answered")


_EMPTY: Mapping[str, Item] = {
    "redacted_thinking": {},
    "text": {"text": ""},
    "thinking": {"thinking": "", "signature": ""},
    "tool_use": {"input": {}},
}
"""How the blocks of a stream begin: without what is added to them, but with all else."""


def events_of(message: Mapping[str, Any]) -> bytes:
    """
    Return a message as server-sent events: each block in one piece.

    Source: https://platform.claude.com/docs/en/build-with-claude/streaming
    """
    usage = {**message["usage"], "output_tokens": 0}
    begun = {**message, "content": [], "stop_reason": None, "usage": usage}
    ended = {"stop_reason": message["stop_reason"], "stop_sequence": message["stop_sequence"]}
    events: list[Item] = [{"type": "message_start", "message": begun}]
    for index, block in enumerate(message["content"]):
        start = {**block, **_EMPTY[block["type"]]}
        events.append({"type": "content_block_start", "index": index, "content_block": start})
        events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in _deltas(block)]
        events.append({"type": "content_block_stop", "index": index})
    events.append({"type": "message_delta", "delta": ended, "usage": message["usage"]})
    events.append({"type": "message_stop"})
    return named_events(events)


def _deltas(block: Item) -> Iterator[Item]:
    if block["type"] == "text":
        yield {"type": "text_delta", "text": block["text"]}
    elif block["type"] == "tool_use":
        yield {"type": "input_json_delta", "partial_json": encode_json(block["input"]).decode()}
    elif block["type"] == "thinking":
        yield {"type": "thinking_delta", "thinking": block["thinking"]}
        yield {"type": "signature_delta", "signature": block["signature"]}


_ERRORS = {
    400: "invalid_request_error",
    404: "not_found_error",
    422: "invalid_request_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def error_of(refusal: Refusal) -> dict[str, Any]:
    """Return what is told of a refusal as the Messages API has it, with all that other calls tell."""
    return {"type": "error", "error": {**refusal.told, "type": _ERRORS.get(refusal.status, "api_error")}}
