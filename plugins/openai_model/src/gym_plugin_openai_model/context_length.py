"""
Refusals that mean that a conversation has outgrown the context of the model.

Servers answer with a status of 400 and words of their own; it is no fault of anybody, but the end of what can be
said.
"""

from __future__ import annotations

import re
from typing import Any

from gymcore.responses import Response, message

__all__ = ["ended_for_want_of_room", "is_for_want_of_room"]

_STATUSES = (400, 413, 422)
_CODES = ("context_length_exceeded", "exceed_context_size_error")
"""The `code` or `type` of such an error: of OpenAI and those who follow it, and of llama.cpp."""
_WORDS = re.compile(
    r"maximum (?:context|model) length"  # vLLM, OpenAI, SGLang, Mistral, DeepSeek
    r"|exceeds? (?:the|this|its) (?:\w+'s |available )?context (?:length|size|window)"  # OpenAI, llama.cpp
    r"|longer than the model's context length"  # SGLang
    r"|max_(?:completion_)?tokens must be at least 1, got (?:-\d|0)"  # vLLM, where the prompt alone fills the context
    r"|prompt is too long: \d+ tokens"  # Anthropic
    r"|`?inputs`? tokens \+ `?max_new_tokens`? must be",  # TGI
    re.IGNORECASE,
)
_LENGTH = re.compile(r"maximum (?:context|model) length (?:is|of) (\d+)", re.IGNORECASE)
_ASKED = re.compile(r"too large: (\d+)|(\d+) in the completion", re.IGNORECASE)


def is_for_want_of_room(status: int, body: Any, told: str) -> bool:
    """
    Decide whether a refusal says that the context is full.

    It is not where the tokens that a reply may have would not fit alone: then no conversation is to blame, but
    `max_output_tokens`.

    Args:
        status: The HTTP status.
        body: The body of the reply, any JSON.
        told: What it says, as one text.
    """
    if status not in _STATUSES:
        return False
    error = body.get("error") if isinstance(body, dict) else None
    codes = [value.get(key) for value in (body, error) if isinstance(value, dict) for key in ("code", "type")]
    if not (any(code in _CODES for code in codes) or _WORDS.search(told)):
        return False
    length, asked = _LENGTH.search(told), _ASKED.search(told)
    return not (length and asked) or int(asked[1] or asked[2]) < int(length[1])


def ended_for_want_of_room(told: str) -> Response:
    """
    Return the reply of a model that has no room for any: empty and incomplete, so that what was done before counts.

    Args:
        told: The endpoint's own words.

    Source:
        `vllm_model` of nemo-gym 0.4.0 answers the same.
    """
    details = {"reason": "max_output_tokens", "message": told}
    return Response([message("")], object="response", status="incomplete", incomplete_details=details)
