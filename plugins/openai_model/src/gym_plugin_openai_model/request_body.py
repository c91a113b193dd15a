"""
The body of a request: what the options say, over it what the task asks for, over both the option `extra_body`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gym_plugin_openai_model.chat import continues_reply, to_chat_body, to_messages
from gym_plugin_openai_model.options import OpenAIModelConfig
from gym_plugin_openai_model.sound import Sound
from gym_plugin_openai_model.token_ids import ASKED, PROMPT_KEYS
from gymcore import ModelError, Request
from gymcore.documents import DocumentError, decode_json, encode_json
from gymcore.responses import Item

__all__ = ["RequestBody"]


class RequestBody:
    """
    Writes requests as the endpoint takes them.

    Args:
        options: What the plan says of them.
    """

    def __init__(self, options: OpenAIModelConfig) -> None:
        self._options = options
        self._is_chat = options.api == "chat"
        names = ("model", "temperature", "top_p", "max_output_tokens")
        self._defaults = {name: getattr(options, name) for name in names if getattr(options, name) is not None}

    def encode(self, request: Request, state: dict[Any, Any], seed: Callable[[], int] | None = None) -> bytes:
        """
        Return the bytes of a request's body; what an earlier one of the same rollout holds is not encoded again.

        Args:
            request: What is asked.
            state: What is kept from one request of a rollout to the next. Items are taken to be the same as long as
                they compare equal, so a changed one is encoded anew.
            seed: Gives the `seed` of the rollout, where one is sent; asked once for the same parameters.

        Raises:
            ModelError: the API has no words for the request.
        """
        kept: _Kept | None = state.get(self)
        if kept is None or kept.params is not request.params:
            kept = state[self] = self._begun(request, seed)
        if kept.is_whole:
            return kept.head
        items = request.input if kept.sound is None else kept.sound.heard_in(request.input)
        count = len(kept.items)
        new = items[count:]
        if items[:count] != kept.items or (self._is_chat and continues_reply(kept.items, new)):
            kept.items, kept.encoded, new = (), kept.first, items
        kept.encoded = b",".join(filter(None, (kept.encoded, *map(encode_json, self._shaped(new)))))
        kept.items = items
        return b"%b%b]}" % (kept.head, kept.encoded)

    def encode_prompt(self, state: Mapping[Any, Any]) -> bytes:
        """
        Return the bytes by which `/tokenize` is asked how the last request of a rollout begins.

        Args:
            state: What `encode` has kept of that request.
        """
        kept: _Kept = state[self]
        return kept.prompt_head if kept.is_whole else b"%b%b]}" % (kept.prompt_head, kept.encoded)

    def _shaped(self, items: Iterable[Item]) -> Iterable[Item]:
        """Give items the form in which the API takes them."""
        if self._options.drop_input_reasoning_items:
            items = [item for item in items if item.get("type") != "reasoning"]
        return to_messages(items, has_token_ids=self._options.token_ids) if self._is_chat else items

    def _begun(self, request: Request, seed: Callable[[], int] | None) -> _Kept:
        """
        Put everything but the conversation together.

        The last wins: the options, the task's `metadata.extra_body`, its own parameters, the option `extra_body`.
        """
        defaults = self._defaults if seed is None else {**self._defaults, "seed": seed()}
        asked = {key: value for key, value in request.params.items() if value is not None}
        rest, own = _split_metadata(asked.pop("metadata", {}))
        sound = Sound.take(rest, request.input, is_chat=self._is_chat)
        if rest:
            asked["metadata"] = rest
        below, above = own.get("extra_body", {}), self._options.extra_body
        if template := own.get("chat_template_kwargs"):
            usual = {**below, **above}.get("chat_template_kwargs", {})
            above = {**above, "chat_template_kwargs": {**usual, **template}}
        key, first = "input", b""
        if self._is_chat:
            key, defaults, asked = "messages", to_chat_body(defaults, ()), to_chat_body(asked, ())
            first = b",".join(map(encode_json, asked[key]))
            if self._options.token_ids:
                asked |= ASKED
        body = {**defaults, **below, **asked}
        for mine in ("stream", key):  # a reply is taken whole, and what is said stands at the end
            body.pop(mine, None)
        body |= above
        is_whole = key in above
        kept = _Kept(request.params, encode_json(body) if is_whole else _opened(body, key), first, is_whole, sound)
        if self._options.token_ids:
            prompt = {name: value for name, value in body.items() if name in PROMPT_KEYS}
            kept.prompt_head = encode_json(prompt) if is_whole else _opened(prompt, key)
        return kept


@dataclass(slots=True)
class _Kept:
    """What the requests of one rollout have in common."""

    params: Mapping[str, Any]
    head: bytes
    """The body up to where the conversation begins."""
    first: bytes
    """What stands first in the conversation."""
    is_whole: bool
    """Whether the head is the whole body, because `extra_body` brings a conversation of its own."""
    sound: Sound | None
    """What the task lets the model hear."""
    prompt_head: bytes = b""
    """The same as `head`, for `/tokenize`."""
    items: tuple[Item, ...] = ()
    encoded: bytes = b""

    def __post_init__(self) -> None:
        self.encoded = self.first


def _opened(body: Mapping[str, Any], key: str) -> bytes:
    """Return the bytes of an object up to the first element of a list that is to stand last in it."""
    head = encode_json(body)
    return b'%b%b"%b":[' % (head[:-1], b"," if body else b"", key.encode())


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
