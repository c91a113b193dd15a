"""
Responses objects as Chat Completions, and back.

`gymcore.chat` has the words; what chat cannot carry is refused with a `ModelError` instead of being lost, and what a
completion holds beyond the standard (token ids, log-probabilities) travels on the last item of the reply.

Source: https://platform.openai.com/docs/api-reference/chat, and vLLM's additions to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from gymcore.chat import HELD_ELSEWHERE, TOKEN_IDS, InexpressibleError, continues_reply, to_chat_options, to_chat_tool
from gymcore.chat import to_messages as messages_of
from gymcore.documents import encode_json
from gymcore.errors import ModelError
from gymcore.responses import Item, function_call, message

__all__ = ["MalformedReplyError", "continues_reply", "to_chat_body", "to_messages", "to_response_body"]


class MalformedReplyError(Exception):
    """A reply with status 200 that is none."""


# -- the request -----------------------------------------------------------------------------------------------------


def to_chat_body(params: Mapping[str, Any], items: Iterable[Item]) -> dict[str, Any]:
    """
    Turn a Responses request into the body of a chat request.

    Args:
        params: The create parameters without `input`; none of them None.
        items: The conversation.

    Raises:
        ModelError: chat has no words for it.
    """
    for key in HELD_ELSEWHERE:
        if key in params:
            raise _cannot_carry(f"the parameter {key!r}")
    messages = list(to_messages(items))
    if "instructions" in params:
        messages.insert(0, {"role": "system", "content": params["instructions"]})
    try:
        tools = [to_chat_tool(tool) for tool in params.get("tools", ())]
        body = to_chat_options(params, has_tools=bool(tools))
    except InexpressibleError as error:
        raise _cannot_carry(str(error)) from None
    if tools:
        body["tools"] = tools
    return {**body, "messages": messages}


def _cannot_carry(what: str) -> ModelError:
    return ModelError(f"the Chat Completions API cannot carry {what}", hints=["try: api: responses"], retryable=False)


def to_messages(items: Iterable[Item], *, has_token_ids: bool = False) -> Iterator[Item]:
    """
    Turn items into chat messages.

    Args:
        items: The items, oldest first.
        has_token_ids: Whether the token ids of earlier replies go along.

    Raises:
        ModelError: chat has no words for one.
    """
    try:
        yield from messages_of(items, TOKEN_IDS if has_token_ids else ())
    except InexpressibleError as error:
        raise _cannot_carry(str(error)) from None


# -- the reply -------------------------------------------------------------------------------------------------------

_MESSAGE_KEYS = ("role", "content", "refusal", "tool_calls", "reasoning_content", "reasoning", "annotations")
_CHOICE_KEYS = ("index", "message", "finish_reason")
_COMPLETION_KEYS = ("id", "object", "created", "model", "choices", "usage", "prompt_token_ids")
_INCOMPLETE = {
    "length": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "model_length": "max_output_tokens",
    "content_filter": "content_filter",
}
"""Reasons by which endpoints say that a completion was cut off; the later names are Anthropic's and Mistral's."""
_COMPLETE = (
    None,
    "",
    "stop",
    "tool_calls",
    "function_call",
    "eos",
    "eos_token",
    "stop_sequence",
    "end_turn",
    "tool_use",
)
"""
Reasons by which endpoints say that the model itself ended a completion.

Any other is the endpoint's own: `abort` and `error` of vLLM, SGLang and routers, `insufficient_system_resource` of
DeepSeek, and whatever comes next.
"""


def to_response_body(completion: Any, number: int) -> dict[str, Any]:  # any JSON an endpoint may send
    """
    Turn a completion into the body of a response.

    Args:
        completion: What the endpoint sent, parsed.
        number: Which reply of its rollout this is; it names calls to which the endpoint gave no id.

    Raises:
        MalformedReplyError: it is no completion, or one that the endpoint broke off.
    """
    choice = _first_choice(completion)
    chat, reason = choice["message"], choice.get("finish_reason")
    output = [*_reasoning(chat), *_said(chat), *_asked(chat, number)]
    # Trainers look for token ids on the last item of a reply; only items of every reply reach the run folder.
    _add_rest(output[-1], chat, drop=_MESSAGE_KEYS)
    _add_rest(output[-1], choice, drop=_CHOICE_KEYS)
    _add_rest(output[-1], completion, keep=("prompt_token_ids",))
    body = {
        "id": completion.get("id"),
        "object": "response",
        "created_at": completion.get("created"),
        "model": completion.get("model"),
        "status": "incomplete" if reason in _INCOMPLETE else "completed",
        "incomplete_details": {"reason": _INCOMPLETE[reason]} if reason in _INCOMPLETE else None,
        "output": output,
        "usage": _usage(completion.get("usage")),
    }
    _add_rest(body, completion, drop=_COMPLETION_KEYS)
    return body


def _first_choice(completion: Any) -> dict[str, Any]:
    if not isinstance(completion, dict):
        raise MalformedReplyError("the reply is no JSON object")
    choices = completion.get("choices")
    if not isinstance(choices, list) or not choices:
        raise MalformedReplyError(f"the reply has no choices{_error_in(completion)}")
    choice = choices[0]
    if not isinstance(choice, dict) or not isinstance(choice.get("message"), dict):
        raise MalformedReplyError("the reply's first choice has no message")
    if not isinstance(choice.get("finish_reason"), str | None):
        raise MalformedReplyError("the reply's finish_reason is no text")
    reason = choice.get("finish_reason")
    if reason not in _COMPLETE and reason not in _INCOMPLETE:
        raise MalformedReplyError(f"the endpoint broke the reply off ({reason}){_error_in(choice)}")
    return choice


def _error_in(value: Mapping[str, Any]) -> str:
    error = value.get("error")
    return f": {encode_json(error).decode()}" if error else ""


def _add_rest(
    target: dict[str, Any], value: Mapping[str, Any], *, drop: Sequence[str] = (), keep: Sequence[str] = ()
) -> None:
    """Add what of an object was not read and is not empty, under names that mean nothing here yet."""
    for key, inner in value.items():
        if inner is not None and (key in keep if keep else key not in drop):
            target.setdefault(key, inner)


def _reasoning(chat: Mapping[str, Any]) -> Iterator[Item]:
    # Servers disagree on the name; vLLM has used both.
    text = chat.get("reasoning_content") or chat.get("reasoning")
    if isinstance(text, str) and text:
        # The summary is empty because nobody summed up: these are the thoughts themselves.
        yield {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": text}]}


def _said(chat: Mapping[str, Any]) -> Iterator[Item]:
    content, refusal = chat.get("content"), chat.get("refusal")
    if isinstance(content, list):
        texts = [part.get("text", "") for part in content if isinstance(part, dict)]
        content = "".join(texts) if all(isinstance(text, str) for text in texts) else texts
    if content is not None and not isinstance(content, str):
        raise MalformedReplyError("the reply's content is no text")
    # A reply without anything still is a message: its token ids need an item to travel on.
    if content or refusal or not chat.get("tool_calls"):
        item = message(content or "")
        if annotations := chat.get("annotations"):
            item["content"][0]["annotations"] = annotations
        if refusal:
            refused = {"type": "refusal", "refusal": str(refusal)}
            item["content"] = [*item["content"], refused] if content else [refused]
        yield item


def _asked(chat: Mapping[str, Any], number: int) -> Iterator[Item]:
    calls = chat.get("tool_calls") or []
    if not isinstance(calls, list):
        raise MalformedReplyError("the reply's tool calls are no list")
    for index, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise MalformedReplyError("a tool call of the reply names no function")
        arguments = function.get("arguments")
        text = arguments if isinstance(arguments, str) else "" if arguments is None else encode_json(arguments).decode()
        yield function_call(function["name"], text, str(call.get("id") or f"call_{number}_{index}"))


def _usage(usage: Any) -> dict[str, Any] | None:
    if not isinstance(usage, dict):
        return None
    names = {
        "prompt_tokens": "input_tokens",
        "completion_tokens": "output_tokens",
        "prompt_tokens_details": "input_tokens_details",
        "completion_tokens_details": "output_tokens_details",
    }
    return {names.get(key) or key: value for key, value in usage.items() if value is not None}
