"""
Replies as server-sent events, for clients that always ask for a stream: what they wait for comes at once, in pieces as
large as what it is about.

Sources: https://platform.openai.com/docs/api-reference/responses-streaming and
https://platform.openai.com/docs/api-reference/chat-streaming
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from gymcore.documents import encode_json
from gymcore.responses import Item

__all__ = ["completion_stream", "named_events", "response_stream"]


def named_events(events: Iterable[Mapping[str, Any]]) -> bytes:
    """Return events as they are sent, each named by its `type`."""
    return b"".join(b"event: %b\ndata: %b\n\n" % (event["type"].encode(), encode_json(event)) for event in events)


def completion_stream(completion: Mapping[str, Any]) -> bytes:
    """Return a chat completion as its events: everything in one chunk, and the end."""
    choice = completion["choices"][0]
    calls = [{"index": index, **call} for index, call in enumerate(choice["message"].get("tool_calls") or ())]
    delta = {**choice["message"], **({"tool_calls": calls} if calls else {})}
    said = {"index": 0, "delta": delta, "finish_reason": choice["finish_reason"], "logprobs": choice["logprobs"]}
    chunk = {**completion, "object": "chat.completion.chunk", "choices": [said]}
    return b"data: %b\n\ndata: [DONE]\n\n" % encode_json(chunk)


def response_stream(response: Mapping[str, Any]) -> bytes:
    """Return a whole response as its events: each text, and the arguments of each call, in one piece."""
    return named_events({**event, "sequence_number": number} for number, event in enumerate(_of_response(response)))


def _of_response(response: Mapping[str, Any]) -> Iterator[Item]:
    begun = {**response, "status": "in_progress", "output": [], "usage": None}
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    for index, item in enumerate(response["output"]):
        yield from _of_item(item, index)
    kind = "incomplete" if response["status"] == "incomplete" else "completed"
    yield {"type": f"response.{kind}", "response": response}


def _of_item(item: Item, index: int) -> Iterator[Item]:
    """Yield the events of one item of the output; one that is neither said nor called comes whole."""
    where = {"output_index": index, "item_id": item.get("id") or item.get("call_id") or f"item_{index}"}
    content, arguments = item.get("content"), item.get("arguments")
    is_said = item.get("type", "message") == "message" and isinstance(content, list)
    is_called = item.get("type") == "function_call" and isinstance(arguments, str)
    empty: Item = {"content": []} if is_said else {"arguments": ""} if is_called else {}
    begun = {**item, **empty, "status": "in_progress"} if empty else item
    yield {"type": "response.output_item.added", "output_index": index, "item": begun}
    if is_said:
        for number, part in enumerate(item["content"]):
            yield from _of_part(part, {**where, "content_index": number})
    if is_called:
        yield {"type": "response.function_call_arguments.delta", **where, "delta": arguments}
        told = {"name": item.get("name"), "arguments": arguments}
        yield {"type": "response.function_call_arguments.done", **where, **told}
    yield {"type": "response.output_item.done", "output_index": index, "item": item}


_TEXTS = {"output_text": ("text", "output_text"), "refusal": ("refusal", "refusal")}
"""Where the text of a part stands, by its type, and what its events are called."""


def _of_part(part: Item, where: Mapping[str, Any]) -> Iterator[Item]:
    key, name = _TEXTS.get(part.get("type", ""), ("", ""))
    text = part.get(key)
    if not isinstance(text, str):
        yield {"type": "response.content_part.added", **where, "part": part}
    else:
        further = {"logprobs": part.get("logprobs") or []} if key == "text" else {}
        yield {"type": "response.content_part.added", **where, "part": {**part, key: ""}}
        yield {"type": f"response.{name}.delta", **where, "delta": text, **further}
        yield {"type": f"response.{name}.done", **where, key: text, **further}
    yield {"type": "response.content_part.done", **where, "part": part}
