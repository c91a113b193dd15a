"""
`openai_model`: whatever speaks the OpenAI API, asked by one HTTP request for every model call.
"""

from __future__ import annotations

import asyncio
import random as random_module
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from pydantic import SecretStr, ValidationError, field_validator
from pydantic_core import InitErrorDetails

from gym_plugin_openai_model.chat import MalformedReplyError, to_chat_body, to_response_body
from gym_plugin_openai_model.endpoints import Endpoint, Endpoints, check_base_url
from gym_plugin_openai_model.retries import (
    MAX_RETRY_AFTER_S,
    UNPROVEN_S,
    Fault,
    Patience,
    kind_of_status,
    retry_after_s,
)
from gymcore import Config, EndpointError, Model, ModelError, Request, Response, RolloutContext, option
from gymcore.documents import DocumentError, decode_json, encode_json

if TYPE_CHECKING:
    import httpx

__all__ = ["OpenAIModel", "OpenAIModelConfig"]

CONNECT_TIMEOUT_S = 10.0
MESSAGE_LENGTH = 2048
PATHS = {"responses": "/responses", "chat": "/chat/completions"}


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
    extra_body: dict[str, Any] = option({}, description="Further keys of the request's body; they win over all others.")
    drop_input_reasoning_items: bool = option(False, description="Do not send earlier reasoning back to the model.")
    default_headers: dict[str, SecretStr] = option({}, description="Headers of every request.", operational=True)
    max_concurrent_requests: int | None = option(
        None, ge=1, description="Requests in flight, at most.", operational=True
    )
    timeout_s: float = option(600.0, gt=0, description="Seconds for one request.", operational=True)
    max_retries: int = option(5, ge=0, description="Further tries of one model call.", operational=True)

    @field_validator("base_url")
    @classmethod
    def _check_addresses(cls, value: str | list[str]) -> str | list[str]:
        if not value:
            raise ValueError("a base URL is needed")
        return check_base_url(value) if isinstance(value, str) else [check_base_url(url) for url in value]

    @field_validator("api_key", "default_headers")
    @classmethod
    def _check_headers(cls, value: SecretStr | dict[str, SecretStr] | None) -> Any:  # the same, stripped
        if isinstance(value, dict):
            return {name: _fit_for_header(secret) for name, secret in value.items()}
        return _fit_for_header(value) if value else None


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


class OpenAIModel(Model[OpenAIModelConfig]):
    """
    Asks an OpenAI-compatible endpoint: one HTTP request for a model call, and a bounded number of further tries.

    A rollout stays with one address. What is wrong for everybody (a refused key, a wrong path, nobody listening) ends
    the run within seconds and can be resumed; anything else costs at most the rollout that met it.
    """

    def __init__(
        self,
        config: OpenAIModelConfig | None = None,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.time,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        """
        Get ready without opening anything.

        Args:
            config: The options.
            transport: What carries the requests; connections of its own where it is None.
            sleep: Waits some seconds.
            clock: Gives seconds since 1970.
            random: Gives numbers from 0.0 to 1.0, for the length of waits.
        """
        super().__init__(config)
        options = self.config
        base_urls = [options.base_url] if isinstance(options.base_url, str) else options.base_url
        self._endpoints = Endpoints(base_urls, PATHS[options.api])
        self._transport = transport
        self._sleep = sleep
        self._clock = clock
        self._random = random
        self._slots = asyncio.Semaphore(options.max_concurrent_requests) if options.max_concurrent_requests else None
        self._refusal: EndpointError | None = None
        names = ("model", "temperature", "top_p", "max_output_tokens")
        self._defaults = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
        headers = {"content-type": "application/json", "accept": "application/json", "user-agent": "gymcore"}
        if options.api_key is not None:
            headers["authorization"] = f"Bearer {options.api_key.get_secret_value()}"
        for name, secret in options.default_headers.items():
            headers[name.lower()] = secret.get_secret_value()
        self._headers: Any = headers  # httpx.Headers once it is opened
        given = [options.api_key, *options.default_headers.values()]
        # The last word, because "Bearer <key>" may come back as the bare key.
        self._secrets = [words[-1] for words in (item.get_secret_value().split() for item in given if item) if words]

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Get ready to connect; connections are made when they are needed and closed here."""
        import httpx  # here, because compose imports this module and connects to nothing

        from gym_plugin_openai_model.connections import open_transport

        self._headers = httpx.Headers(self._headers)
        async with AsyncExitStack() as stack:
            if self._transport is not None:
                await stack.enter_async_context(self._transport)
            for endpoint in self._endpoints:
                endpoint.address = httpx.URL(endpoint.url)
                endpoint.transport = self._transport
                if endpoint.transport is None:
                    endpoint.transport = await stack.enter_async_context(open_transport(endpoint.address))
            yield

    async def respond(self, request: Request, rollout: RolloutContext) -> Response:
        """
        Ask the endpoint of this rollout, again where that may help.

        Raises:
            ModelError: no reply could be had for this rollout.
            EndpointError: no reply can be had for any.
        """
        endpoint: Endpoint = rollout.state.get(self) or rollout.state.setdefault(self, self._endpoints.choose())
        content = encode_json(self._body(request))
        patience = Patience(self.config.max_retries, self._random)
        successes = endpoint.successes
        while True:
            self._check(endpoint)
            began = self._clock()
            try:
                async with self._slots or nullcontext():
                    rollout.attempts += 1
                    response = await self._ask(endpoint, content, rollout.attempts)
            except Fault as fault:
                wait_s = patience.wait_s(fault, began=began, now=self._clock(), is_proven=endpoint.successes > 0)
                if wait_s is None:
                    self._give_up(endpoint, fault, patience.tries, is_silent=endpoint.successes == successes)
            else:
                endpoint.succeeded()
                return response
            await self._sleep(wait_s)

    # -- the request -------------------------------------------------------------------------------------------------

    def _body(self, request: Request) -> dict[str, Any]:
        """Put the body together: the options, over them what the task asks for, over both `extra_body`."""
        given = {key: value for key, value in request.params.items() if value is not None}
        params = {**self._defaults, **given}
        params.pop("stream", None)  # a reply is taken whole
        extra = dict(self.config.extra_body)
        if "metadata" in params:
            params["metadata"], own = _split_metadata(params["metadata"])
            extra.update(own.get("extra_body", {}))
            if template := own.get("chat_template_kwargs"):
                extra["chat_template_kwargs"] = {**extra.get("chat_template_kwargs", {}), **template}
            if not params["metadata"]:
                del params["metadata"]
        items = request.input
        if self.config.drop_input_reasoning_items:
            items = tuple(item for item in items if item.get("type") != "reasoning")
        body = to_chat_body(params, items) if self.config.api == "chat" else {**params, "input": items}
        return {**body, **extra}

    async def _ask(self, endpoint: Endpoint, content: bytes, number: int) -> Response:
        """
        Make one HTTP request.

        Raises:
            Fault: it brought no reply.
        """
        import httpx

        assert endpoint.address is not None, "open the model first: async with model.opened()"
        assert endpoint.transport is not None
        limit_s = self.config.timeout_s
        connect_s = min(limit_s, CONNECT_TIMEOUT_S if endpoint.successes else UNPROVEN_S)
        try:
            request = httpx.Request(
                "POST",
                endpoint.address,
                headers=self._headers,
                content=content,
                extensions={"timeout": {"connect": connect_s}},
            )
            async with asyncio.timeout(limit_s):
                reply = await endpoint.transport.handle_async_request(request)
                data = await reply.aread()
        except TimeoutError:
            raise Fault("timeout", f"no reply within {limit_s:g} s (timeout_s)") from None
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
            raise Fault("connect", self._shown(_why_no_connection(error))) from error
        except httpx.HTTPError as error:
            raise Fault("transient", self._shown(str(error) or type(error).__name__)) from error
        if not reply.is_success:
            told = self._shown(_message_in(data) or reply.headers.get("location", "") or reply.reason_phrase)
            after_s = retry_after_s(reply.headers, self._clock())
            kind = kind_of_status(reply.status_code, has_retry_after=after_s is not None)
            raise Fault(kind, told, status=reply.status_code, retry_after_s=after_s)
        try:
            value = decode_json(data)
            if self.config.api == "chat":
                value = to_response_body(value, number)
            return _response(value)
        except (DocumentError, MalformedReplyError) as error:
            begins = data[:80].decode("utf-8", "replace")
            message = self._shown(f"{error}; it begins with {begins!r}")
            raise Fault("transient", f"status {reply.status_code}, but {message}") from None

    # -- giving up ---------------------------------------------------------------------------------------------------

    def _check(self, endpoint: Endpoint) -> None:
        """Raise where somebody else has found out that asking is of no use."""
        if self._refusal is not None:
            raise EndpointError(self._refusal.message, where=self._refusal.where, hints=self._refusal.hints)
        if endpoint.down is not None:
            raise ModelError(f"the endpoint is down: {endpoint.down}", where=endpoint.shown)

    def _give_up(self, endpoint: Endpoint, fault: Fault, tries: int, *, is_silent: bool) -> NoReturn:
        told = fault.message if fault.status is None else f"status {fault.status}: {fault.message}"
        if fault.status in (401, 403):
            key = "the api_key that is set" if self.config.api_key else "api_key, which is not set"
            hint = f"try: check {key} (environment variable POLICY_API_KEY)"
            self._refuse(f"the endpoint refuses the key: {told}", endpoint, hint)
        if fault.status == 404 and not endpoint.successes:
            hint = "try: check base_url, which usually ends in /v1, the model's name, and `api`"
            self._refuse(f"the endpoint knows no such path or no model {self.config.model!r}: {told}", endpoint, hint)
        if fault.kind == "connect" and is_silent:
            endpoint.down = told
            if self._endpoints.all_down:
                hint = "try: check base_url (environment variable POLICY_BASE_URL) and whether the endpoint runs"
                self._refuse(f"the endpoint cannot be reached: {told}", endpoint, hint)
        if fault.retry_after_s is not None and fault.retry_after_s > MAX_RETRY_AFTER_S:
            told = f"{told} (asks to wait {fault.retry_after_s:.0f} s)"
        again = f", at the last of {tries} tries" if tries > 1 else ""
        raise ModelError(f"{told}{again}", where=endpoint.shown, retryable=fault.kind != "terminal")

    def _refuse(self, message: str, endpoint: Endpoint, hint: str) -> NoReturn:
        """Stop this rollout and all others."""
        self._refusal = EndpointError(message, where=endpoint.shown, hints=[hint])
        raise self._refusal

    def _shown(self, text: str) -> str:
        """Make text from outside fit for a message: one line, bounded, and without our secrets."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        line = "".join(character if character.isprintable() else " " for character in text[: 2 * MESSAGE_LENGTH])
        return " ".join(line.split())[:MESSAGE_LENGTH]


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


def _response(value: Any) -> Response:
    if not isinstance(value, dict) or not isinstance(value.get("output"), list):
        raise MalformedReplyError("the reply has no output")
    try:
        return Response.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise MalformedReplyError(f"the reply's {place} is wrong: {first['msg']}") from None


def _message_in(data: bytes) -> str:
    """Return what an error's body says, without the objects that servers wrap around it."""
    try:
        value = decode_json(data)
    except DocumentError:
        return data[: 2 * MESSAGE_LENGTH].decode("utf-8", "replace")
    for key in ("error", "message", "detail"):
        if isinstance(value, dict) and value.get(key):
            value = value[key]
    return value if isinstance(value, str) else encode_json(value).decode()


def _why_no_connection(error: BaseException) -> str:
    """Say in plain words why there is no connection: the cause lies somewhere below the error."""
    import errno
    import socket
    import ssl

    below: list[BaseException] = [error]
    for cause in below:  # grows while it is walked
        # Of several addresses that refuse, asyncio joins only the texts.
        if isinstance(cause, ConnectionRefusedError) or f"[Errno {errno.ECONNREFUSED}]" in str(cause):
            return "connection refused"
        if isinstance(cause, socket.gaierror):
            return f"unknown host ({cause.strerror})"
        if isinstance(cause, ssl.SSLError):
            return f"TLS failed: {cause}"
        nested = [cause.__cause__, cause.__context__, *getattr(cause, "exceptions", ())]
        below.extend(inner for inner in nested if inner is not None and inner not in below)
    return str(error) or type(error).__name__
