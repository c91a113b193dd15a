"""
`openai_model`: whatever speaks the OpenAI API, asked by one HTTP request for every model call.
"""

from __future__ import annotations

import asyncio
import random as random_module
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, NoReturn, TypeVar

from gym_plugin_openai_model.context_length import ended_for_want_of_room
from gym_plugin_openai_model.endpoints import Endpoint, Endpoints
from gym_plugin_openai_model.gate import ElsewhereError, Gate, OutOfPatienceError, Ticket
from gym_plugin_openai_model.mask import secrets_in_query
from gym_plugin_openai_model.options import OpenAIModelConfig
from gym_plugin_openai_model.request_body import RequestBody
from gym_plugin_openai_model.retries import Fault, Patience
from gym_plugin_openai_model.token_ids import WithoutTokenIdsError, read_token_ids
from gymcore import EndpointError, Model, ModelError, Note, Request, Response, RolloutContext
from gymcore.runtime.brackets import log

if TYPE_CHECKING:
    import httpx

    from gym_plugin_openai_model.exchange import Exchange

__all__ = ["OpenAIModel", "OpenAIModelConfig"]

T = TypeVar("T")

PATHS = {"responses": "/responses", "chat": "/chat/completions"}
MAX_FORBIDDEN = 3
"""Calls in a row that an endpoint forbids (403) before that is taken to concern everybody."""
REFUSED_S = 10.0
"""So long after an endpoint was found to be of no use every call is told so; later ones ask it again."""


class OpenAIModel(Model[OpenAIModelConfig]):
    """
    Asks an OpenAI-compatible endpoint: one HTTP request for a model call, and a bounded number of further tries.

    A rollout stays with one address while that works. What is wrong for everybody (a refused key, a wrong path, nobody
    listening) ends the run within seconds and can be resumed; where the endpoint has worked, rollouts that need no more
    replies finish first. An endpoint that worked and is down is waited for, and one that throttles is asked less;
    anything else costs at most the rollout that met it.
    """

    def __init__(
        self,
        config: OpenAIModelConfig | None = None,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        """
        Get ready without opening anything.

        Args:
            config: The options.
            transport: What carries the requests; connections of its own where it is None.
            sleep: Waits some seconds.
            clock: Gives seconds since 1970.
            steady: Gives seconds that only grow.
            random: Gives numbers from 0.0 to 1.0, for the length of waits.
        """
        super().__init__(config)
        options = self.config
        self._sleep = sleep
        self._clock = clock
        self._steady = steady
        self._random = random
        base_urls = [options.base_url] if isinstance(options.base_url, str) else options.base_url
        self._endpoints = Endpoints(base_urls, PATHS[options.api], self._make_gate, steady)
        self._transport = transport
        self._refusal: EndpointError | None = None
        self._refused_at = 0.0
        self._has_told_of_room = False
        self._body = RequestBody(options)
        headers = {"content-type": "application/json", "accept": "application/json", "user-agent": "gymcore"}
        if options.api_key is not None:
            headers["authorization"] = f"Bearer {options.api_key.get_secret_value()}"
        for name, secret in options.default_headers.items():
            headers[name.lower()] = secret.get_secret_value()
        self._headers = headers
        self._exchange: Exchange | None = None
        given = [options.api_key, *options.default_headers.values()]
        self._secrets = [item.get_secret_value() for item in given if item]
        for url in base_urls:
            self._secrets += secrets_in_query(url)

    def _make_gate(self) -> Gate:
        return Gate(
            max_in_flight=self.config.max_concurrent_requests,
            patience_s=self.config.patience_s,
            sleep=self._sleep,
            clock=self._steady,
            random=self._random,
        )

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Get ready to connect; connections are made when they are needed and closed here."""
        import httpx  # here, because compose imports this module and connects to nothing

        from gym_plugin_openai_model.connections import Connections
        from gym_plugin_openai_model.exchange import Exchange

        secrets = list(self._secrets)
        async with AsyncExitStack() as stack:
            if self._transport is not None:
                await stack.enter_async_context(self._transport)
            for endpoint in self._endpoints:
                endpoint.transport = self._transport
                if endpoint.transport is None:
                    carrier = Connections(
                        httpx.URL(endpoint.url),
                        timeout_s=self.config.timeout_s,
                        connect_timeout_s=self.config.connect_timeout_s,
                    )
                    secrets += carrier.secrets
                    endpoint.transport = await stack.enter_async_context(carrier)
            self._exchange = Exchange(
                self._headers,
                secrets,
                is_chat=self.config.api == "chat",
                timeout_s=self.config.timeout_s,
                connect_timeout_s=self.config.connect_timeout_s,
                clock=self._clock,
            )
            yield

    async def respond(self, request: Request, rollout: RolloutContext) -> Response:
        """
        Ask the endpoint of this rollout, again where that may help.

        Raises:
            ModelError: no reply could be had for this rollout.
            EndpointError: no reply can be had for any.
        """
        if self._refusal is not None and self._steady() - self._refused_at >= REFUSED_S:
            self._ask_anew()
        exchange = self._exchange
        assert exchange is not None, "open the model first: async with model.opened()"
        seed = (lambda: rollout.sampling_seed) if self.config.send_seed else None
        content = self._body.encode(request, rollout.state, seed)

        def ask(endpoint: Endpoint) -> Awaitable[Response]:
            rollout.attempts += 1
            return exchange.ask(endpoint, content, rollout.attempts, rollout.state)

        # Now, because others may have asked by the time of the reply.
        prompt = self._body.encode_prompt(rollout.state) if self.config.token_ids else None
        try:
            response = await self._until_answered(rollout, ask)
        except Fault as fault:  # the only one that is not dealt with there: there is no room for a reply
            self._tell_of_want_of_room(rollout.state[self], fault)
            return ended_for_want_of_room(fault.told)
        if prompt is None:
            return response
        try:
            if not read_token_ids(response.output[-1]):
                tokens = await self._until_answered(
                    rollout, lambda endpoint: exchange.tokens(endpoint, prompt, rollout.state)
                )
                response.output[-1]["prompt_token_ids"] = tokens
        except WithoutTokenIdsError as error:
            self._miss_token_ids(rollout.state[self], str(error))
        rollout.state[self].gives_token_ids = True
        return response

    async def _until_answered(self, rollout: RolloutContext, ask: Callable[[Endpoint], Awaitable[T]]) -> T:
        """
        Ask the endpoint of a rollout for something, again where that may help.

        Args:
            rollout: Whose endpoint is asked.
            ask: Makes one HTTP request; what it raises, faults aside, is for the caller.

        Raises:
            Fault: the context of the model is full.
        """
        endpoint: Endpoint = rollout.state.get(self) or rollout.state.setdefault(self, self._endpoints.choose())
        patience: Patience | None = None
        wait_s = 0.0
        while True:
            ticket = endpoint.gate.pass_at_once() if patience is None else None
            if ticket is None:
                endpoint, ticket = await self._wait(endpoint, rollout, patience, wait_s)
            try:
                answer = await ask(endpoint)
            except Fault as error:
                fault = error
            except BaseException:
                endpoint.gate.left()
                raise
            else:
                endpoint.gate.answered(ticket)
                endpoint.succeeded()
                return answer
            endpoint.gate.failed(ticket, fault)
            if fault.wants_room:
                endpoint.succeeded()
                raise fault
            patience = patience or Patience(self.config.max_retries, self._random)
            wait_s = self._next_wait_s(endpoint, ticket, fault, patience)

    async def _wait(
        self, endpoint: Endpoint, rollout: RolloutContext, patience: Patience | None, wait_s: float
    ) -> tuple[Endpoint, Ticket]:
        """Wait until the rollout may ask, here or elsewhere; its own time stands still meanwhile."""
        with rollout.clock.stopped():
            if wait_s:
                await self._sleep(wait_s)
            began = self._steady()
            while True:
                self._check()
                endpoint = self._endpoints.instead_of(endpoint)
                rollout.state[self] = endpoint
                try:
                    ticket = await endpoint.gate.wait(is_retry=patience is not None)
                    break
                except ElsewhereError:
                    continue
                except OutOfPatienceError:
                    self._check()
                    self._refuse_for_being_down(endpoint)
            if patience is not None:
                patience.excuse(self._steady() - began)
        return endpoint, ticket

    def status(self) -> Note | None:
        """Say which addresses are down or throttle, and what that means for the calls; None while all is well."""
        offset_s = self._clock() - self._steady()
        told = [
            (item.shown, item.gate.status(lambda moment: _time_of_day(moment + offset_s))) for item in self._endpoints
        ]
        said = [(f"{url} {note}", f"{url} {note.key}") for url, note in told if note is not None]
        return Note("; ".join(text for text, _ in said), key="; ".join(key for _, key in said)) if said else None

    # -- giving up ---------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        """Raise where somebody else has found out that asking is of no use."""
        if self._refusal is not None:
            told = self._refusal
            raise EndpointError(told.message, where=told.where, hints=told.hints, has_worked=told.has_worked)

    def _next_wait_s(self, endpoint: Endpoint, ticket: Ticket, fault: Fault, patience: Patience) -> float:
        """Return how long to wait before the next try of this call; raise where there is none."""
        self._check()
        if fault.status in (401, 403) and self._is_shut_by(endpoint, fault):
            return 0.0
        # The refused connection that shows an address to be down is no more the call's than those that follow.
        is_probe = ticket.is_probe or (fault.kind == "connect" and endpoint.gate.breaker.is_open)
        wait_s = patience.wait_s(fault, now=self._steady(), is_probe=is_probe)
        if wait_s is not None:
            return wait_s
        if fault.status == 404 and not endpoint.successes:
            hint = "try: check base_url, which usually ends in /v1, the model's name, and `api`"
            told = f"the endpoint knows no such path or no model {self.config.model!r}: {fault.told}"
            self._refuse(told, endpoint, hint)
        again = f", at the last of {patience.tries} tries" if patience.tries > 1 else ""
        is_retryable = fault.kind != "terminal" or fault.status == 403
        raise ModelError(f"{fault.told}{again}", where=endpoint.shown, retryable=is_retryable)

    def _is_shut_by(self, endpoint: Endpoint, fault: Fault) -> bool:
        """
        Decide what a refused key means: the end of the run, of this address among several, or of one rollout.

        An endpoint that has answered may forbid a single request for what it holds, so there one 403 ends nothing.
        """
        endpoint.refusals += 1
        if endpoint.successes and fault.status == 403 and endpoint.refusals < MAX_FORBIDDEN:
            return False
        if endpoint.successes and any(not other.gate.is_shut for other in self._endpoints if other is not endpoint):
            endpoint.gate.shut(f"it refuses the key: {fault.told}")
            return True
        key = "the api_key that is set" if self.config.api_key else "api_key, which is not set"
        hint = f"try: check {key} (environment variable POLICY_API_KEY)"
        self._refuse(f"the endpoint refuses the key: {fault.told}", endpoint, hint)

    def _tell_of_want_of_room(self, endpoint: Endpoint, fault: Fault) -> None:
        """Say once that rollouts end because the context is full; every single one says so in its record."""
        if not self._has_told_of_room:
            self._has_told_of_room = True
            log(f"{endpoint.shown}: {fault.told}: such a rollout ends there, truncated, and is scored (said once)")

    def _miss_token_ids(self, endpoint: Endpoint, told: str) -> NoReturn:
        """Stop the run because an endpoint gives no token ids; only the rollout where it has given some before."""
        hint = "try: base_url of a server that has them, as vLLM and the workers of NeMo RL; or token_ids: false"
        told = f"the endpoint gives no token ids: {told}"
        if endpoint.gives_token_ids:
            raise ModelError(told, where=endpoint.shown, hints=[hint])
        self._refuse(told, endpoint, hint)

    def _refuse_for_being_down(self, endpoint: Endpoint) -> NoReturn:
        """Stop the run because every address has been down for too long."""
        breaker = endpoint.gate.breaker
        if not breaker.is_proven and breaker.is_open:
            hint = "try: check base_url (environment variable POLICY_BASE_URL) and whether the endpoint runs"
            self._refuse(f"the endpoint cannot be reached: {breaker.why}", endpoint, hint)
        since = ""
        if breaker.since is not None:
            since = f" since {_time_of_day(breaker.since + self._clock() - self._steady())}"
        told = f"the endpoint gives no reply{since}, for longer than {self.config.patience_s:g} s (patience_s)"
        hint = "try: the same command once the endpoint answers again; it does what is missing"
        self._refuse(f"{told}: {breaker.why}", endpoint, hint)

    def _refuse(self, message: str, endpoint: Endpoint, hint: str) -> NoReturn:
        """Stop this rollout and every other that asks; what needs no more replies may finish."""
        has_worked = any(other.successes for other in self._endpoints)
        self._refusal = EndpointError(message, where=endpoint.shown, hints=[hint], has_worked=has_worked)
        self._refused_at = self._steady()
        for other in self._endpoints:
            other.gate.shut(message)
        raise self._refusal

    def _ask_anew(self) -> None:
        """Forget why asking was of no use: a run ends with that, and whoever serves others is asked again."""
        self._refusal = None
        for endpoint in self._endpoints:
            endpoint.refusals = 0
            endpoint.gate.reopen()


def _time_of_day(seconds: float) -> str:
    """Write a moment, given in seconds since 1970, as `14:02:10` of the local time."""
    return time.strftime("%H:%M:%S", time.localtime(seconds))
