"""
`openai_model`: whatever speaks the OpenAI API, asked by one HTTP request for every model call.
"""

from __future__ import annotations

import asyncio
import random as random_module
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, NoReturn

from gym_plugin_openai_model.endpoints import Endpoint, Endpoints
from gym_plugin_openai_model.options import OpenAIModelConfig
from gym_plugin_openai_model.request_body import RequestBody
from gym_plugin_openai_model.retries import MAX_RETRY_AFTER_S, Fault, Patience
from gymcore import EndpointError, Model, ModelError, Request, Response, RolloutContext

if TYPE_CHECKING:
    import httpx

    from gym_plugin_openai_model.exchange import Exchange

__all__ = ["OpenAIModel", "OpenAIModelConfig"]

PATHS = {"responses": "/responses", "chat": "/chat/completions"}


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
        self._body = RequestBody(options)
        headers = {"content-type": "application/json", "accept": "application/json", "user-agent": "gymcore"}
        if options.api_key is not None:
            headers["authorization"] = f"Bearer {options.api_key.get_secret_value()}"
        for name, secret in options.default_headers.items():
            headers[name.lower()] = secret.get_secret_value()
        self._headers = headers
        self._exchange: Exchange | None = None
        given = [options.api_key, *options.default_headers.values()]
        # The last word, because "Bearer <key>" may come back as the bare key.
        self._secrets = [words[-1] for words in (item.get_secret_value().split() for item in given if item) if words]

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Get ready to connect; connections are made when they are needed and closed here."""
        import httpx  # here, because compose imports this module and connects to nothing

        from gym_plugin_openai_model.connections import open_transport
        from gym_plugin_openai_model.exchange import Exchange

        self._exchange = Exchange(
            self._headers,
            self._secrets,
            is_chat=self.config.api == "chat",
            timeout_s=self.config.timeout_s,
            clock=self._clock,
        )
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
        assert self._exchange is not None, "open the model first: async with model.opened()"
        content = self._body.encode(request)
        patience = Patience(self.config.max_retries, self._random)
        successes = endpoint.successes
        while True:
            self._check(endpoint)
            began = self._clock()
            try:
                async with self._slots or nullcontext():
                    rollout.attempts += 1
                    response = await self._exchange.ask(endpoint, content, rollout.attempts)
            except Fault as fault:
                wait_s = patience.wait_s(fault, began=began, now=self._clock(), is_proven=endpoint.successes > 0)
                if wait_s is None:
                    self._give_up(endpoint, fault, patience.tries, is_silent=endpoint.successes == successes)
            else:
                endpoint.succeeded()
                return response
            await self._sleep(wait_s)

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
