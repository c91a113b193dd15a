"""
The token ids of a reply, as trainers want them: on its last item, under the names that NeMo Gym gave them.

A completion has them in other places: its own as `token_id:17` among its log-probabilities, and those of the
conversation that it answers only where it is asked for them, or at `/tokenize`.
"""

from __future__ import annotations

from typing import Any, TypeGuard

from gymcore.chat import TOKEN_IDS
from gymcore.responses import Item

__all__ = ["ASKED", "PROMPT_KEYS", "WithoutTokenIdsError", "read_token_ids", "tokens_in"]

ASKED = {"logprobs": True, "top_logprobs": 0, "return_tokens_as_token_ids": True}
"""
Parameters by which vLLM and its kin say which tokens a completion consists of.

`top_logprobs` is said, too, because a row's own would bring alternatives that nobody reads, or none at all.
"""

PROMPT_KEYS = frozenset(
    {
        "add_generation_prompt",
        "add_special_tokens",
        "chat_template",
        "chat_template_kwargs",
        "continue_final_message",
        "messages",
        "mm_processor_kwargs",
        "model",
        "tools",
    }
)
"""The keys of a chat request that decide which tokens it begins with; `/tokenize` takes them, and no others."""


class WithoutTokenIdsError(Exception):
    """An endpoint does not say what the tokens are; the message says what is missing."""


def read_token_ids(item: Item) -> bool:
    """
    Put the ids and log-probabilities of a completion where trainers look for them.

    Args:
        item: The last item of the reply, with what the completion says beyond chat; it is changed.

    Returns:
        Whether the ids of what it answers are known as well.

    Raises:
        WithoutTokenIdsError: the completion does not say what its tokens are.
    """
    logprobs, ids = item.pop("logprobs", None), item.pop("token_ids", None)
    if all(isinstance(item.get(key), list) for key in TOKEN_IDS):
        _compare(item)
        return True  # NeMo Gym's own model server says them as they are wanted
    entries = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not isinstance(entries, list):
        raise WithoutTokenIdsError("the reply has no logprobs")
    try:
        item["generation_log_probs"] = [float(entry["logprob"]) for entry in entries]
        # vLLM's `return_token_ids`, for which `extra_body` may ask, says them once more.
        item["generation_token_ids"] = ids if _is_ids(ids) else [_id_in(entry["token"]) for entry in entries]
    except (KeyError, TypeError, ValueError, AttributeError):
        told = "the logprobs of the reply name no token ids (`return_tokens_as_token_ids` was asked for)"
        raise WithoutTokenIdsError(told) from None
    _compare(item)
    return _is_ids(item.get("prompt_token_ids"))


def _compare(item: Item) -> None:
    ids, logprobs = len(item["generation_token_ids"]), len(item["generation_log_probs"])
    if ids != logprobs:
        raise WithoutTokenIdsError(f"the reply has {ids:,} token ids and {logprobs:,} log-probabilities")


def tokens_in(reply: Any) -> list[int]:  # any JSON
    """
    Return the tokens of a reply of `/tokenize`.

    Raises:
        WithoutTokenIdsError: there are none.
    """
    tokens = reply.get("tokens") if isinstance(reply, dict) else None
    if not _is_ids(tokens) or not tokens:
        raise WithoutTokenIdsError("the reply of /tokenize holds no `tokens`")
    return tokens


def _is_ids(value: Any) -> TypeGuard[list[int]]:
    return type(value) is list and all(type(number) is int for number in value)


def _id_in(token: str) -> int:
    name, _, number = token.partition(":")
    if name != "token_id":
        raise ValueError(token)
    return int(number)
