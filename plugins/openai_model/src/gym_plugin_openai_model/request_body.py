"""
The body of a request: what the options say, over it what the task asks for, over both `extra_body`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gym_plugin_openai_model.chat import to_chat_body
from gym_plugin_openai_model.options import OpenAIModelConfig
from gymcore import ModelError, Request
from gymcore.documents import DocumentError, decode_json, encode_json

__all__ = ["RequestBody"]


class RequestBody:
    """
    Writes requests as the endpoint takes them.

    Args:
        options: What the plan says of them.
    """

    def __init__(self, options: OpenAIModelConfig) -> None:
        self._options = options
        names = ("model", "temperature", "top_p", "max_output_tokens")
        self._defaults = {name: getattr(options, name) for name in names if getattr(options, name) is not None}

    def encode(self, request: Request) -> bytes:
        """
        Return the bytes of a request's body.

        Raises:
            ModelError: the API has no words for the request.
        """
        return encode_json(self._body(request))

    def _body(self, request: Request) -> dict[str, Any]:
        """Put the body together: the options, over them what the task asks for, over both `extra_body`."""
        given = {key: value for key, value in request.params.items() if value is not None}
        params = {**self._defaults, **given}
        params.pop("stream", None)  # a reply is taken whole
        extra = dict(self._options.extra_body)
        if "metadata" in params:
            params["metadata"], own = _split_metadata(params["metadata"])
            extra.update(own.get("extra_body", {}))
            if template := own.get("chat_template_kwargs"):
                extra["chat_template_kwargs"] = {**extra.get("chat_template_kwargs", {}), **template}
            if not params["metadata"]:
                del params["metadata"]
        items = request.input
        if self._options.drop_input_reasoning_items:
            items = tuple(item for item in items if item.get("type") != "reasoning")
        body = to_chat_body(params, items) if self._options.api == "chat" else {**params, "input": items}
        return {**body, **extra}


def _split_metadata(metadata: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """
    Take from a task's metadata what is meant for the body of the request, where it stands as JSON in a string.

    Raises:
        ModelError: it is no JSON object.

    Source:
        The `metadata` of NeMo Gym's create parameters.
    """
    rest = dict(metadata)
    own: dict[str, dict[str, Any]] = {}
    for key in ("extra_body", "chat_template_kwargs"):
        if key not in rest:
            continue
        text = rest.pop(key)
        try:
            value = decode_json(text.encode()) if isinstance(text, str) else text
        except DocumentError as error:
            raise ModelError(f"the task's metadata.{key} is {error}", retryable=False) from None
        if not isinstance(value, dict):
            raise ModelError(f"the task's metadata.{key} is no JSON object", retryable=False)
        own[key] = value
    return rest, own
