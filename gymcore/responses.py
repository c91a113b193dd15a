"""
The objects of the OpenAI Responses API, lossless: what we do not know travels through untouched.

An *item* (message, function call, tool output, reasoning, image, ...) stays the plain JSON object it came as, so
token ids, log-probabilities and fields of next year arrive where they are going; functions here read and build items.

Source: https://platform.openai.com/docs/api-reference/responses
"""

from __future__ import annotations

import reprlib
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, SkipValidation, ValidationError, model_validator
from pydantic_core import PydanticCustomError

__all__ = [
    "CREATE_PARAMS",
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
    "whole_response",
]

Item = dict[str, Any]
"""One input or output item: a JSON object with, usually, a `type`; any other key may appear."""


class _Open(BaseModel):
    """A frozen object whose undeclared keys are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")


_ROLES = ("user", "assistant", "system", "developer")


_Mistakes = list[tuple[tuple[str | int, ...], str]]
"""Where each stands, and what it is."""

_MOST_TOLD = 10
"""After so many nobody looks for more."""


def _mistakes_in_input(items: Any) -> _Mistakes:
    """Look at the items that are messages; what others hold is for whoever answers them."""
    found: _Mistakes = []
    if type(items) is not list:
        return (
            found if type(items) is str else [(("input",), f"must be a text, or a list of items, not {_shown(items)}")]
        )
    for index, item in enumerate(items):
        if len(found) == _MOST_TOLD:
            break
        if type(item) is not dict:
            found.append((("input", index), f"must be an object, not {_shown(item)}"))
            continue
        kind = item.get("type")
        if kind is None or kind == "message":
            role, content = item.get("role"), item.get("content")
            if role not in _ROLES:
                if kind is None and role is None:
                    found.append((("input", index), "an item has a `type`, and a message a `role`"))
                else:
                    found.append((("input", index, "role"), f"must be one of {', '.join(_ROLES)}, not {_shown(role)}"))
            elif type(content) is not str and not (type(content) is list and all(map(_is_part, content))):
                found.append((("input", index, "content"), "must be a text, or a list of parts that have a `type`"))
        elif type(kind) is not str:
            found.append((("input", index, "type"), f"must be a text, not {_shown(kind)}"))
    return found if items else [(("input",), "must not be empty: nothing is asked")]


def _mistakes_in_tools(tools: Any) -> _Mistakes:
    found: _Mistakes = []
    if type(tools) is not list:
        return [(("tools",), f"must be a list of tools, not {_shown(tools)}")]
    for index, tool in enumerate(tools):
        if len(found) == _MOST_TOLD:
            break
        if type(tool) is not dict:
            found.append((("tools", index), f"must be an object, not {_shown(tool)}"))
            continue
        kind = tool.get("type")
        if type(kind) is not str:
            found.append((("tools", index), 'a tool has a `type`, such as "function"'))
        elif kind == "function" and type(tool.get("name")) is not str:
            found.append((("tools", index), "a function has a `name`, which is a text"))
    return found


def _is_part(part: Any) -> bool:  # any JSON value
    return type(part) is dict and type(part.get("type")) is str


def _shown(value: Any) -> str:
    return reprlib.repr(value)  # bounded, because a value may be as long as a row


def _number(least: float, most: float) -> tuple[Callable[[Any], bool], str]:
    return (
        lambda value: type(value) in (int, float) and least <= value <= most,
        f"a number from {least:g} to {most:g}",
    )


def _integer(least: int, most: int | None = None) -> tuple[Callable[[Any], bool], str]:
    def fits(value: Any) -> bool:
        return type(value) is int and value >= least and (most is None or value <= most)

    return fits, f"an integer of at least {least}" if most is None else f"an integer from {least} to {most}"


def _one_of(*words: str) -> tuple[Callable[[Any], bool], str]:
    return lambda value: value in words, f"one of {', '.join(words)}"


def _is_texts(value: Any) -> bool:
    return type(value) is list and all(type(item) is str for item in value)


def _is_metadata(value: Any) -> bool:
    return type(value) is dict and all(type(item) is str for item in value.values())


def _is_choice(value: Any) -> bool:
    return type(value) is dict or value in ("none", "auto", "required")


_TEXT = (lambda value: type(value) is str, "a text")
_FLAG = (lambda value: type(value) is bool, "true or false")
_OBJECT = (lambda value: type(value) is dict, "an object")

_PARAMS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "background": _FLAG,
    "include": (_is_texts, "a list of texts"),
    "instructions": _TEXT,
    "max_output_tokens": _integer(1),
    "max_tool_calls": _integer(1),
    "metadata": (_is_metadata, "an object of texts"),
    "model": _TEXT,
    "parallel_tool_calls": _FLAG,
    "previous_response_id": _TEXT,
    "prompt": _OBJECT,
    "reasoning": _OBJECT,
    "service_tier": _TEXT,
    "store": _FLAG,
    "stream": _FLAG,
    "temperature": _number(0, 2),
    "text": _OBJECT,
    "tool_choice": (_is_choice, "none, auto, required or an object"),
    "top_logprobs": _integer(0, 20),
    "top_p": _number(0, 1),
    "truncation": _one_of("auto", "disabled"),
    "user": _TEXT,
}
"""What the API takes for each parameter, beside null: whether a value is that, and how to say it."""

CREATE_PARAMS = frozenset(("input", "tools", *_PARAMS))
"""The parameters that others know (https://platform.openai.com/docs/api-reference/responses/create); any travels."""


class CreateParams(_Open):
    """
    The parameters that a row gives for creating the first response (`responses_create_params`).

    Those that the API knows must be what it takes, because an endpoint would refuse them after everything was set up;
    they stay as they came, and any other key travels untouched.
    """

    input: SkipValidation[str | list[Item]]
    """The prompt: a text, or a list of items in order."""
    tools: SkipValidation[list[Item] | None] = None
    """The tools offered; None or absent means all tools of the environment."""

    @model_validator(mode="after")
    def _refuse_what_an_endpoint_would(self) -> CreateParams:
        # One function for all of it, and rules only for keys that are there: as declared fields, with their defaults
        # and unions, they would cost every row several times as much.
        found = _mistakes_in_input(self.input)
        if self.tools is not None:
            found += _mistakes_in_tools(self.tools)
        for key, value in (self.__pydantic_extra__ or {}).items():
            rule = _PARAMS.get(key)
            if rule is not None and value is not None and not rule[0](value):
                found.append(((key,), f"must be {rule[1]}, not {_shown(value)}"))
        if found:
            raise ValidationError.from_exception_data(
                "CreateParams",
                [
                    {
                        "type": PydanticCustomError("create_params", "{told}", {"told": told}),
                        "loc": place,
                        "input": None,
                    }
                    for place, told in found[:_MOST_TOLD]
                ],
            )
        return self

    def request(self) -> Request:
        """Return the first request that these parameters ask for."""
        rest = dict(self.model_extra or {})
        if "tools" in self.model_fields_set:
            rest["tools"] = self.tools
        items = (message(self.input, role="user"),) if isinstance(self.input, str) else tuple(self.input)
        return Request(input=items, params=rest)


@dataclass(frozen=True, slots=True)
class Request:
    """What a model is asked: the conversation so far, and how to answer."""

    input: tuple[Item, ...]
    """Every item of the conversation, oldest first; to change one, put another in its place."""
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


class Response:
    """
    One reply of a model, exactly as it came: the few keys that are read are checked, all others are kept.

    Args:
        output: What the model said and asked for, in order.
        keys: Further keys: `id`, `model`, `status`, `usage`, ... as the API names them.

    Raises:
        ValueError: a key that is read holds something else than the API says; with its place.

    Attributes:
        body: The reply as a plain JSON object; treat it as frozen.
    """

    __slots__ = ("body",)

    def __init__(self, output: Sequence[Item] = (), **keys: Any) -> None:
        self.body: dict[str, Any] = {**keys, "output": list(output)}
        self._check()

    @classmethod
    def parse(cls, body: Any) -> Response:  # any JSON value
        """
        Take what an endpoint sent, without copying it.

        Raises:
            ValueError: it is no response; with the place.
        """
        response = cls.__new__(cls)
        response.body = body
        response._check()
        return response

    def _check(self) -> None:
        body = self.body
        if not isinstance(body, dict):
            raise ValueError("the reply is no JSON object")  # noqa: TRY004, a wrong value and not a wrong program
        output = body.get("output")
        if not isinstance(output, list):
            raise ValueError("the reply has no output")  # noqa: TRY004
        for index, item in enumerate(output):
            if not isinstance(item, dict):
                raise ValueError(f"the reply's output.{index} is no object")  # noqa: TRY004
        for key, kind, what in _READ:
            value = body.get(key)
            if value is not None and not isinstance(value, kind):
                raise ValueError(f"the reply's {key} is no {what}")

    @property
    def output(self) -> list[Item]:
        """What the model said and asked for, in order."""
        output: list[Item] = self.body["output"]
        return output

    @property
    def id(self) -> str | None:
        """What the endpoint calls this reply."""
        return self.body.get("id")

    @property
    def model(self) -> str | None:
        """Which model answered."""
        return self.body.get("model")

    @property
    def status(self) -> str | None:
        """`completed`, `incomplete`, `failed`, ... as the endpoint reports it; None counts as completed."""
        return self.body.get("status")

    @property
    def usage(self) -> dict[str, Any] | None:
        """Token counts, as the endpoint gave them; `Usage` reads the usual ones."""
        return self.body.get("usage")

    @property
    def envelope(self) -> dict[str, Any]:
        """The reply without its output and its usage."""
        return {key: value for key, value in self.body.items() if key not in ("output", "usage")}

    @property
    def is_truncated(self) -> bool:
        """Whether the endpoint cut the reply off (`max_output_tokens`, a filter, a full context)."""
        return self.status == "incomplete"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Response) and self.body == other.body

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"Response({self.body!r})"


_READ = (
    ("id", str, "text"),
    ("model", str, "text"),
    ("status", str, "text"),
    ("usage", dict, "object"),
    ("incomplete_details", dict, "object"),
)
"""The keys of a reply that are read, beside its output."""


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
    if not isinstance(content, (list, tuple)):
        return ""
    texts = [part.get("text", part.get("refusal", "")) for part in content if isinstance(part, dict)]
    return "".join([text for text in texts if isinstance(text, str)])


def whole_response(body: Mapping[str, Any], model: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return a response with the keys that clients of the API insist on.

    Args:
        body: What is known of it.
        model: Which model answered, where it does not say.
        params: What it was asked with.
    """
    choice, is_parallel = params.get("tool_choice"), params.get("parallel_tool_calls")
    name = uuid.uuid4().hex
    return {
        "id": f"resp_{name}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "completed",
        "model": model,
        "parallel_tool_calls": True if is_parallel is None else is_parallel,
        "tool_choice": "auto" if choice is None else choice,
        "tools": params.get("tools") or [],
        **{key: value for key, value in body.items() if value is not None},
        "output": [_whole_item(item, f"{name}_{index}") for index, item in enumerate(body["output"])],
        "usage": _whole_usage(body.get("usage")),
    }


def _whole_item(item: Item, name: str) -> Item:
    """Return an output item with the keys that clients of the API insist on, those that it has untouched."""
    kind = item.get("type", "message")
    if kind == "message" and item.get("role") == "assistant":
        return {"id": f"msg_{name}", "type": kind, "status": "completed", **item}
    return {"id": f"rs_{name}", "summary": [], **item} if kind == "reasoning" else item


_USAGE = {
    "input_tokens": 0,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens": 0,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 0,
}


def _whole_usage(usage: Any) -> dict[str, Any] | None:
    """Return token counts with the keys that clients of the API insist on; None where nothing was counted."""
    return {**_USAGE, **usage} if isinstance(usage, dict) else None


def sum_usage(usages: Iterable[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """
    Add token counts up, key by key and inside nested objects.

    Objects more than eight levels deep, and numbers that no count can be (NaN, 2**63 and above, and their negatives),
    are left out: the first would end the run, and the second every sum and mean in which they stand.

    Returns:
        The sums, or None when no reply reported any.
    """
    total: dict[str, Any] | None = None
    for usage in usages:
        if usage is None:
            continue
        total = _add(total or {}, usage)
    return total


def _add(total: dict[str, Any], usage: Mapping[str, Any], levels_left: int = 8) -> dict[str, Any]:
    for key, value in usage.items():
        kind = type(value)  # what JSON gives: no subclasses, and a bool is no number
        before = total.get(key)
        if kind is int or kind is float:
            if -_TOO_MANY < value < _TOO_MANY:
                total[key] = before + value if type(before) in _NUMBERS else value
        elif kind is dict:
            if levels_left:
                total[key] = _add(dict(before) if type(before) is dict else {}, value, levels_left - 1)
        elif before is None:
            total[key] = value
    return total


_NUMBERS = (int, float)
_TOO_MANY = 2**63
