"""
The options of `openai_model`: where the endpoint is, how to ask it, and how patient to be.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import SecretStr, ValidationError, field_validator, model_validator
from pydantic_core import InitErrorDetails

from gym_plugin_openai_model.endpoints import check_base_url
from gymcore import Config, option

__all__ = ["OpenAIModelConfig"]

_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
"""A token of RFC 9110, section 5.6.2, which every header's name is."""
_FRAMING = frozenset({"connection", "content-length", "expect", "te", "trailer", "transfer-encoding", "upgrade"})
"""Headers that say how a request is sent; they follow from how it is sent here."""


class OpenAIModelConfig(Config):
    """Where the endpoint is, how to ask it, and how patient to be."""

    base_url: str | list[str] = option(
        description="The endpoint's address, usually ending in /v1; several share the rollouts among them.",
        environment_variable="POLICY_BASE_URL",
        operational=True,
    )
    api_key: SecretStr | None = option(
        None, description="Sent as a bearer token.", environment_variable="POLICY_API_KEY", operational=True
    )
    model: str | None = option(
        None, description="The model's name at the endpoint.", environment_variable="POLICY_MODEL_NAME"
    )
    api: Literal["responses", "chat"] = option("responses", description="Which of OpenAI's two APIs to speak.")
    temperature: float | None = option(None, ge=0, description="Used where a task's own parameters do not say.")
    top_p: float | None = option(None, gt=0, le=1, description="Used where a task's own parameters do not say.")
    max_output_tokens: int | None = option(None, ge=1, description="Used where a task's own parameters do not say.")
    send_seed: bool = option(
        False, description="Send a `seed` with each request: the rollout's own, other for each repeat of a task."
    )
    extra_body: dict[str, Any] = option({}, description="Further keys of the request's body; they win over all others.")
    token_ids: bool = option(
        False,
        description="With `api: chat`: get the token ids that trainers need, and send those of earlier replies back.",
    )
    drop_input_reasoning_items: bool = option(False, description="Do not send earlier reasoning back to the model.")
    default_headers: dict[str, SecretStr] = option({}, description="Headers of every request.", operational=True)
    max_concurrent_requests: int | None = option(
        None, ge=1, description="Requests in flight at one address, at most.", operational=True
    )
    connect_timeout_s: float = option(5.0, gt=0, description="Seconds for making a connection.", operational=True)
    timeout_s: float = option(600.0, gt=0, description="Seconds for one request.", operational=True)
    max_retries: int = option(
        5, ge=0, description="Further tries of one model call, being throttled not counted.", operational=True
    )
    patience_s: float = option(
        1800.0,
        gt=0,
        description="Seconds for which the endpoint may be down before the run stops, to be resumed later.",
        operational=True,
    )

    @field_validator("base_url")
    @classmethod
    def _check_addresses(cls, value: str | list[str]) -> str | list[str]:
        if not value:
            raise ValueError("a base URL is needed")
        return check_base_url(value) if isinstance(value, str) else [check_base_url(url) for url in value]

    @model_validator(mode="after")
    def _check_token_ids(self) -> OpenAIModelConfig:
        if self.token_ids and self.api != "chat":
            raise ValueError("token_ids needs `api: chat`; with `responses` they are in the replies, or nowhere")
        return self

    @field_validator("api_key", "default_headers")
    @classmethod
    def _check_headers(cls, value: SecretStr | dict[str, SecretStr] | None) -> Any:  # the same, stripped
        if isinstance(value, dict):
            return {_fit_for_name(name): _fit_for_header(secret) for name, secret in value.items()}
        return _fit_for_header(value) if value else None


def _fit_for_name(name: str) -> str:
    if not _NAME.fullmatch(name):  # not shown: it may be a whole line, with its value
        raise _without_input(ValueError("a header's name may hold only letters, digits and !#$%&'*+-.^_`|~"))
    if name.lower() in _FRAMING:
        raise _without_input(ValueError(f"the header {name!r} follows from the request and cannot be set"))
    return name


def _fit_for_header(secret: SecretStr) -> SecretStr:
    """Strip the newline that files end with; anything else that no header may hold would be shown by HTTP errors."""
    text = secret.get_secret_value().strip()
    if not (text.isascii() and text.isprintable()):
        raise _without_input(ValueError("a key or header may hold only printable ASCII characters"))
    return SecretStr(text)


def _without_input(error: ValueError) -> ValidationError:
    """Make pydantic's error of ours: its own shows the input, which may hold a key or a password."""
    details = InitErrorDetails(type="value_error", input="***", ctx={"error": error})
    return ValidationError.from_exception_data("options", [details])
