"""
Does a model answer? Asked once, by the code that a run would ask with, and within a bound.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

from pydantic import BaseModel, SecretBytes, SecretStr

from gymcore.composition.routes import ModelChoice
from gymcore.doctor.check import Check
from gymcore.errors import GymcoreError
from gymcore.interfaces import Environment, RolloutContext
from gymcore.records import Task
from gymcore.responses import Request, Response, message

__all__ = ["ask"]

QUESTION = "Say OK."
TOKENS = 64


def ask(choice: ModelChoice, limit_s: float) -> Check:
    """
    Ask a model of a plan one short question.

    Args:
        choice: The model, with its class and its options.
        limit_s: How long everything may take together, in seconds.
    """
    title = f"model {choice.name!r} ({choice.plugin.name})"
    if choice.plugin.distribution == "gymcore":
        return Check("model", True, f"{title} needs no endpoint")
    started = time.monotonic()
    try:
        response = asyncio.run(_asked(choice, limit_s))
    except GymcoreError as error:
        found, remarks, is_well = error.message, [*([error.where] if error.where else []), *error.hints], False
        if not error.hints:
            remarks.append(
                "try: look at its address, its key and the name of the model, in the plan or the environment"
            )
    except TimeoutError as error:
        found, is_well = f"gave no answer within {limit_s:g} s", False
        remarks = [str(error)] if str(error) else []
        remarks.append("try: is something listening at its address? a larger --timeout, for one that is only slow")
    except Exception as error:  # code of a plugin
        found, remarks, is_well = f"raised {type(error).__name__}: {error}", [_reinstall(choice)], False
    else:
        tokens = (response.usage or {}).get("output_tokens")
        found = "is reachable, accepts what it was sent, and answered" + (f" with {tokens} tokens" if tokens else "")
        remarks, is_well = [], True
    hide = _Hider(choice.options.config)
    return Check(
        "model",
        is_well,
        hide(f"{title} {found}"),
        tuple(hide(remark) for remark in remarks),
        round(time.monotonic() - started, 3),
    )


def _reinstall(choice: ModelChoice) -> str:
    return f"try: pip install --force-reinstall {choice.plugin.distribution}; or tell its author"


async def _asked(choice: ModelChoice, limit_s: float) -> Response:
    config: Any = choice.options.config
    if "max_retries" in type(config).model_fields:  # what came first is the answer; retries would hide it until the end
        config = config.model_copy(update={"max_retries": 0})
    model = choice.model_class(config)
    question = Request(input=(message(QUESTION, role="user"),), params={"max_output_tokens": TOKENS})
    task = Task.model_validate({"responses_create_params": {"input": QUESTION}})
    async with AsyncExitStack() as stack:
        try:
            async with asyncio.timeout(limit_s):
                await stack.enter_async_context(model.opened())
                rollout = RolloutContext(Environment(task), ("doctor", "doctor", 0), 0, stack)
                return await model.respond(question, rollout)
        except TimeoutError:
            raise TimeoutError(model.status() or "") from None


class _Hider:
    """Puts `***` in the place of the secrets of some options, whatever a plugin says of them."""

    def __init__(self, config: Any) -> None:
        self._secrets = sorted(set(_secrets(config)), key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def _secrets(value: Any) -> Iterator[str]:
    if isinstance(value, SecretStr):
        yield from filter(None, [value.get_secret_value()])
    elif isinstance(value, SecretBytes):
        yield from filter(None, [value.get_secret_value().decode("utf-8", "replace")])
    elif isinstance(value, BaseModel):
        yield from _secrets(list(value.__dict__.values()))
    elif isinstance(value, dict):
        yield from _secrets(list(value.values()))
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from _secrets(item)
