"""
The objects of the OpenAI Responses API, lossless: what we do not know travels through untouched.

An *item* (message, function call, tool output, reasoning, image, ...) stays the plain JSON object it came as, so
token ids, log-probabilities and fields of next year arrive where they are going; functions here read and build items.

Source: https://platform.openai.com/docs/api-reference/responses
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "CreateParams",
    "Item",
    "Request",
    "Response",
    "Usage",
    "function_call",
    "function_call_output",
    "message",
    "sum_usage",
    "text_of",
]

Item = dict[str, Any]
"""One input or output item: a JSON object with, usually, a `type`; any other key may appear."""


class _Open(BaseModel):
    """A frozen object whose undeclared keys are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")


class CreateParams(_Open):
    """The parameters that a row gives for creating the first response (`responses_create_params`)."""

    input: str | list[Item]
    """The prompt: a text, or a list of items in order."""
    tools: list[Item] | None = None
    """The tools offered; None or absent means all tools of the environment."""

    def request(self) -> Request:
        """Return the first request that these parameters ask for."""
        rest = self.model_dump(exclude={"input"}, exclude_unset=True)
        items = [message(self.input, role="user")] if isinstance(self.input, str) else list(self.input)
        return Request(input=tuple(items), params=rest)


@dataclass(frozen=True, slots=True)
class Request:
    """What a model is asked: the conversation so far, and how to answer."""

    input: tuple[Item, ...]
    """Every item of the conversation, oldest first."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """All other create parameters: `tools`, `temperature`, `tool_choice`, ... as the API names them."""

    def continued(self, items: Iterable[Item]) -> Request:
        """Return the request that comes after `items` were added to the conversation."""
        return Request(input=(*self.input, *items), params=self.params)


class Usage(_Open):
    """Tokens counted by the endpoint."""

    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0


class Response(_Open):
    """One reply of a model; keys beyond these are kept and written back."""

    output: list[Item] = Field(default_factory=list)
    """What the model said and asked for, in order."""
    id: str | None = None
    model: str | None = None
    status: str | None = None
    """`completed`, `incomplete`, `failed`, ... as the endpoint reports it; None counts as completed."""
    incomplete_details: dict[str, Any] | None = None
    usage: dict[str, Any] | None = None
    """Token counts, as the endpoint gave them; `Usage` reads the usual ones."""

    @property
    def is_truncated(self) -> bool:
        """Whether the endpoint cut the reply off (`max_output_tokens`, a filter, a full context)."""
        return self.status == "incomplete"


def message(text: str, role: str = "assistant") -> Item:
    """Build a message item; an assistant's message carries its text as an `output_text` part."""
    if role != "assistant":
        return {"type": "message", "role": role, "content": text}
    part = {"type": "output_text", "text": text, "annotations": []}
    return {"type": "message", "role": role, "status": "completed", "content": [part]}


def function_call(name: str, arguments: str, call_id: str) -> Item:
    """Build the item by which a model asks for a tool; `arguments` is JSON text."""
    return {
        "type": "function_call",
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
        "status": "completed",
    }


def function_call_output(call_id: str, output: str) -> Item:
    """Build the item that answers a function call."""
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def text_of(item: Item) -> str:
    """Return the text of a message item: its parts joined, refusals included; empty for any other item."""
    if item.get("type", "message") != "message":
        return ""
    content = item.get("content")
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        return ""
    parts = []
    for part in content:
        if isinstance(part, dict):
            text = part.get("text", part.get("refusal", ""))
            parts.append(text if isinstance(text, str) else "")
    return "".join(parts)


def sum_usage(usages: Iterable[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """
    Add token counts up, key by key and inside nested objects.

    Returns:
        The sums, or None when no reply reported any.
    """
    total: dict[str, Any] | None = None
    for usage in usages:
        if usage is None:
            continue
        total = _add(total or {}, usage)
    return total


def _add(total: dict[str, Any], usage: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in usage.items():
        if isinstance(value, Mapping):
            inner = total.get(key)
            total[key] = _add(dict(inner) if isinstance(inner, dict) else {}, value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            before = total.get(key)
            total[key] = (before if isinstance(before, int | float) else 0) + value
        else:
            total.setdefault(key, value)
    return total
