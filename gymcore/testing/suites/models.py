"""
What every model should hold, asked against an endpoint that misbehaves.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import traceback
import warnings
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any, ClassVar
from unittest import SkipTest

from gymcore.errors import EndpointError, ModelError
from gymcore.interfaces import Config, Environment, Model, RolloutContext
from gymcore.records import Turn
from gymcore.responses import Request, Response, message
from gymcore.testing.endpoint import (
    Answer,
    LoopbackEndpoint,
    Policy,
    half_a_body,
    hangs,
    html,
    raw,
    reset,
    slow,
    status,
)
from gymcore.testing.replies import Reply, calls, says, truncated
from gymcore.testing.suites.leftovers import SETTLE_S
from gymcore.testing.suites.probe import unwritable
from gymcore.testing.suites.suite import PluginSuite, check
from gymcore.testing.suites.world import World, world_row

__all__ = ["ModelSuite"]

SECRET = "sk-gymcore-canary-7b0c1f"
"""The key that is given to models under test."""
SAID = "The weather in Oslo is cold. \u2603"


@dataclass(frozen=True)
class _Asked:
    """What came of asking a model once."""

    told: str
    reply: Response | None = None
    error: BaseException | None = None
    requests: int = 0
    took_s: float = 0.0
    is_late: bool = False


def _misbehaviours() -> dict[str, Answer]:
    codes = (400, 401, 403, 404, 408, 409, 413, 422, 429, 500, 502, 503, 504)
    return {
        **{f"status {code}": status(code) for code in codes},
        "a web page with status 200": html(),
        "a web page with status 502": replace(html(), status=502),
        "half a body": half_a_body(),
        "a connection that is reset": reset(),
        "no answer": hangs(),
        "an empty body": raw(b""),
        "null": raw(b"null"),
        "a list": raw(b"[]"),
        "half a JSON": raw(b'{"id": "resp_1", "output": [{"type": "mess'),
        "an object without a reply": raw({"id": "resp_1"}),
        "an error with status 200": raw({"error": {"message": "overloaded", "type": "server_error"}}),
        "an output that is a text": raw({"output": "Hello.", "choices": "Hello."}),
        "items that are numbers": raw({"output": [1, 2], "choices": [1, 2]}),
        "bytes that are no text": raw(b"\xff\xfe\x00{" * 100),
    }


class ModelSuite(PluginSuite):
    """
    What every model should hold: `class TestMine(ModelSuite): plugin = "mine"`.
    """

    kind: ClassVar[Any] = "model"

    endpoint_option: ClassVar[str | None] = "base_url"
    """The option that says where the endpoint is; a model that has no such option is checked without an endpoint."""
    secret_option: ClassVar[str | None] = "api_key"
    """The option that holds the key."""
    config: ClassVar[Mapping[str, Any]] = {}
    """Options that the checks are made with."""
    impatient: ClassVar[Mapping[str, Any]] = {
        "timeout_s": 1.0,
        "connect_timeout_s": 1.0,
        "max_retries": 0,
        "patience_s": 2.0,
    }
    """
    Options that make it give up after a second or two, where the endpoint misbehaves; those that it does not have are
    left out.
    """
    calls_tools: ClassVar[bool] = True
    """Whether replies may hold tool calls."""
    max_requests: ClassVar[int] = 12
    """How often the endpoint may be asked for one reply."""
    give_up_s: ClassVar[float] = 20.0
    """After which time a reply, or an error, must be there."""
    concurrency: ClassVar[int] = 64
    """How many calls are made at once."""

    def has_endpoint(self) -> bool:
        """Whether the model asks an endpoint."""
        return self.endpoint_option is not None and self.endpoint_option in self.loaded().config_model.model_fields

    def asked(self) -> dict[str, Any]:
        """Return the suite's options, with an address at which nobody listens, and a key."""
        fields = self.loaded().config_model.model_fields
        added: dict[str, Any] = {}
        if self.endpoint_option in fields:
            added[str(self.endpoint_option)] = "http://127.0.0.1:1/v1"
        if self.secret_option in fields:
            added[str(self.secret_option)] = SECRET
        return {**added, **self.config}

    def _model(self, address: str | None = None, *, is_hurried: bool = False) -> Model[Any]:
        """Return a model; hurried where it is to find out that no reply comes, and not to miss one by being hurried."""
        config = self.options()
        fields = type(config).model_fields
        changes = {} if address is None else {str(self.endpoint_option): address}
        if is_hurried:
            changes |= {name: value for name, value in self.impatient.items() if name in fields.keys() - self.config}
        if changes:
            config = type(config).model_validate({**{name: getattr(config, name) for name in fields}, **changes})
        return self.loaded()(config)  # type: ignore[no-any-return]

    @contextlib.asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        """
        Do inside what an endpoint that replies makes possible.

        Raises:
            AssertionError: it took longer than `give_up_s`.
        """
        try:
            async with asyncio.timeout(self.give_up_s) as limit:
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            raise AssertionError(f"the endpoint replies, and there is nothing within {self.give_up_s:g} s") from None

    def _endpoint(self) -> None:
        if not self.has_endpoint():
            raise SkipTest(f"it asks no endpoint (endpoint_option = {self.endpoint_option!r})")

    async def _ask(
        self, told: str, *answers: Reply | Answer | Policy, request: Request | None = None, is_hurried: bool = True
    ) -> _Asked:
        """Ask a fresh model once, with an endpoint that gives these answers."""
        with LoopbackEndpoint(*answers) as endpoint:
            loop = asyncio.get_running_loop()
            began = loop.time()
            asked = _Asked(told)
            try:
                async with asyncio.timeout(self.give_up_s), AsyncExitStack() as stack:
                    model = self._model(endpoint.base_url, is_hurried=is_hurried)
                    await stack.enter_async_context(model.opened())
                    context = _context(0, stack)
                    asked = replace(asked, reply=await model.respond(request or _REQUEST, context))
            except TimeoutError as error:
                is_late = loop.time() - began >= self.give_up_s
                asked = replace(asked, error=error, is_late=is_late)
            except asyncio.CancelledError:
                raise
            except BaseException as error:
                asked = replace(asked, error=error)
            return replace(asked, requests=len(endpoint.requests), took_s=loop.time() - began)

    def _misbehaved(self) -> list[_Asked]:
        """Return what came of every misbehaviour; all are tried at once."""
        self._endpoint()

        async def ask() -> list[_Asked]:
            return list(await asyncio.gather(*(self._ask(told, answer) for told, answer in _misbehaviours().items())))

        return self.once("misbehaved", lambda: asyncio.run(ask()))

    def _replied(self, told: str, *answers: Reply | Answer | Policy) -> Response:
        asked = asyncio.run(self._ask(told, *answers, is_hurried=False))
        if asked.reply is None:
            raise AssertionError(f"{told}: {type(asked.error).__name__}: {asked.error}")
        return asked.reply

    @check(fix="Send the request to the endpoint, and return its reply as `Response.parse(body)`.")
    def test_replies_as_the_endpoint_does(self) -> None:
        """
        What the endpoint says and asks for is what the model returns, and that it was cut off is told.

        Everything else is built upon this.
        """
        self._endpoint()
        reply = self._replied("a text", says(SAID))
        text = Turn(output=tuple(reply.output)).text
        assert text == SAID, f"the endpoint says {SAID!r}, and the model {text!r}"
        assert not reply.is_truncated, "a complete reply counts as cut off"
        if self.calls_tools:
            output = self._replied("a tool call", calls("look_up", city="Oslo")).output
            found = [(call.name, call.parsed()) for call in Turn(output=tuple(output)).calls]
            assert found == [("look_up", {"city": "Oslo"})], (
                f"the endpoint calls look_up(city='Oslo'), the model {found}"
            )
        assert self._replied("a reply that was cut off", truncated("The")).is_truncated, (
            "a cut-off reply counts as whole"
        )

    @check(fix="Raise `ModelError` where the endpoint gave no reply; never return an empty or made-up `Response`.")
    def test_no_reply_is_invented(self) -> None:
        """
        An endpoint that gives no reply gets the model to raise, whatever it sends instead.

        An invented reply is scored, and trained on, as if the policy had said it.
        """
        invented = [
            f"{asked.told}: the model replies {asked.reply!r:.200}" for asked in self._misbehaved() if asked.reply
        ]
        assert not invented, _listed(invented)

    @check(
        fix="Catch what your client raises, and raise `ModelError` (this call) or `EndpointError` (no call can work)."
    )
    def test_errors_are_explained(self) -> None:
        """
        What goes wrong is raised as `ModelError` or `EndpointError`, with a message.

        The first becomes a failure of one rollout and the second stops the run; anything else looks like a bug.
        """
        faults = [
            f"{asked.told}: {type(asked.error).__name__}: {asked.error}"
            for asked in self._misbehaved()
            if asked.error is not None and not asked.is_late and not _is_explained(asked.error)
        ]
        assert not faults, _listed(faults)

    @check(fix="Count the tries of a call, and give up after a few; an option may say how many.")
    def test_retries_are_bounded(self) -> None:
        """
        The endpoint is asked at most `max_requests` times for one reply.

        An endpoint that is in trouble is kept there by clients that never stop.
        """
        faults = [
            f"{asked.told}: the endpoint was asked {asked.requests} times; at most {self.max_requests}"
            for asked in self._misbehaved()
            if asked.requests > self.max_requests
        ]
        assert not faults, _listed(faults)

    @check(
        fix="Give every request a time-out, and let the waits between tries end; name the options that "
        "shorten them in `impatient`."
    )
    def test_gives_up_in_time(self) -> None:
        """
        A reply, or an error, is there within `give_up_s`, also when the endpoint never answers.

        A call that waits for ever holds its rollout, and in the end the run.
        """
        faults = [f"{asked.told}: nothing within {self.give_up_s:g} s" for asked in self._misbehaved() if asked.is_late]
        assert not faults, _listed(faults)

    @check(fix="Wait for a slow endpoint as long as the time-out says.")
    def test_waits_for_a_slow_reply(self) -> None:
        """
        A reply that takes a while arrives.

        Long answers take minutes.
        """
        self._endpoint()
        reply = self._replied("a slow reply", slow(0.2, says(SAID)))
        assert Turn(output=tuple(reply.output)).text == SAID, "the slow reply does not arrive as it was sent"

    @check(fix="Declare the key as `pydantic.SecretStr`, and mask it in messages that quote the endpoint or a request.")
    def test_secrets_are_told_to_nobody(self) -> None:
        """
        The key stands in no error, no traceback, and no `repr`, also when the endpoint repeats it.

        Errors are printed, logged and written into run folders, which people share.
        """
        if self.secret_option is None or self.secret_option not in self.loaded().config_model.model_fields:
            raise SkipTest(f"it has no key (secret_option = {self.secret_option!r})")
        model = self._model()
        shown = {"repr(model)": repr(model), "repr(config)": repr(model.config), "str(config)": str(model.config)}
        with contextlib.suppress(Exception):
            shown["the config as JSON"] = model.config.model_dump_json()
        if self.has_endpoint():
            echo = {"error": {"message": f"invalid key {SECRET}", "type": "auth"}}
            for code in (400, 401, 500):
                asked = asyncio.run(self._ask(f"status {code}", status(code, echo)))
                shown[f"the error after status {code}, which repeats the key"] = _everything(asked.error)
            shown |= {f"the error after {asked.told}": _everything(asked.error) for asked in self._misbehaved()}
        told = [what for what, text in shown.items() if SECRET in text]
        assert not told, f"the key stands in {', '.join(told)}"

    @check(fix="Keep what belongs to a call in local variables, or in `rollout.state`.")
    def test_calls_share_no_state(self) -> None:
        """
        Many calls at once each get the reply to their own request.

        One instance answers all rollouts of a run.
        """
        self._endpoint()

        def repeat(body: dict[str, Any]) -> Reply:
            return says(str(body.get("input", body.get("messages")))[-400:])

        async def ask() -> list[str]:
            with LoopbackEndpoint(repeat) as endpoint:
                model = self._model(endpoint.base_url)
                async with self._in_time(), model.opened():
                    return list(await asyncio.gather(*(call(model, number) for number in range(self.concurrency))))

        async def call(model: Model[Any], number: int) -> str:
            async with AsyncExitStack() as stack:
                request = Request(input=(message(f"word-{number:05d}", role="user"),))
                return Turn(output=tuple((await model.respond(request, _context(number, stack))).output)).text

        texts = asyncio.run(ask())
        wrong = [number for number, text in enumerate(texts) if f"word-{number:05d}" not in text]
        told = f"among {self.concurrency} calls at once, call {wrong and wrong[0]} got another one's reply"
        assert not wrong, told

    @check(fix="Build the body anew for every call; the request and its items belong to the rollout.")
    def test_changes_no_request(self) -> None:
        """
        The request is the same after the call.

        The agent adds to it and asks again, and other rollouts share its parameters.
        """
        request = Request(
            input=(message("Hello.", role="user"),), params={"tools": World.tool_schemas(), "metadata": {}}
        )
        before = repr(request)
        if self.has_endpoint():
            asyncio.run(self._ask("a text", says(SAID), request=request, is_hurried=False))
            asyncio.run(self._ask("status 500", status(500), request=request))
        else:
            self._respond_alone(request)
        assert repr(request) == before, f"the request was {before:.300} and is {request!r:.300}"

    @check(fix="Open connections in `opened()`, and close them there; close a connection whose call was cancelled.")
    def test_nothing_is_left_open(self) -> None:
        """
        After `opened()` no connection is left, also when a call was cancelled, and the model can be opened again.

        A run has a thousand files, and a model may be used in two runs of one process.
        """
        self._endpoint()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            gc.collect()  # what others have left is not this model's
            warnings.simplefilter("always", ResourceWarning)
            tasks = asyncio.run(self._cancel_and_ask_again())
            gc.collect()
        left = [str(item.message) for item in caught if issubclass(item.category, ResourceWarning)]
        assert not [*tasks, *left], _listed([*tasks, *left])

    async def _cancel_and_ask_again(self) -> list[str]:
        with LoopbackEndpoint(hangs(), says(SAID)) as endpoint:
            model = self._model(endpoint.base_url)
            before = asyncio.all_tasks()
            async with self._in_time(), model.opened(), AsyncExitStack() as stack:
                call = asyncio.ensure_future(model.respond(_REQUEST, _context(0, stack)))
                await _until(lambda: bool(endpoint.requests) or call.done(), self.give_up_s)
                call.cancel()
                with contextlib.suppress(asyncio.CancelledError, ModelError, EndpointError):
                    await call
            async with self._in_time(), model.opened(), AsyncExitStack() as stack:
                reply = await model.respond(_REQUEST, _context(0, stack))
                assert Turn(output=tuple(reply.output)).text == SAID, "opened again, the model does not reply"
            await _until(lambda: asyncio.all_tasks() <= before, SETTLE_S)
            left = asyncio.all_tasks() - before
            return [f"the task {getattr(task.get_coro(), '__qualname__', task.get_name())} still runs" for task in left]

    @check(fix="Return a `Response`, or raise `ModelError`; refuse what it cannot play in `objection()`.")
    def test_plays_a_rollout(self) -> None:
        """
        It plays a rollout in a small world, or says in `objection()` why it cannot; the rollout survives JSON.

        Whatever a model replies is a rollout's attempt.
        """
        from gymcore.testing.playing import play

        model = self._model()
        objection = model.objection(World)
        if objection is not None:
            raise SkipTest(f"it does not play the world of this suite: {objection}")
        if self.has_endpoint():
            with LoopbackEndpoint(says("word-00000")) as endpoint:
                rollout = play(World, world_row(), self._model(endpoint.base_url), timeout_s=self.give_up_s)
        else:
            rollout = play(World, world_row(), model, timeout_s=self.give_up_s)
        failure = rollout.failure
        if failure is not None and failure.error not in ("ModelError", "EndpointError"):
            raise AssertionError(f"the rollout fails in {failure.stage} with {failure.error}: {failure.message}")
        why = unwritable(rollout)
        assert why is None, str(why)

    def _respond_alone(self, request: Request) -> None:
        async def ask() -> None:
            model = self._model(is_hurried=True)
            async with model.opened(), AsyncExitStack() as stack:
                with contextlib.suppress(ModelError, EndpointError):
                    await model.respond(request, _context(0, stack))

        asyncio.run(ask())


async def _until(holds: Callable[[], bool], limit_s: float) -> None:
    """Wait until something holds, or for so long."""
    clock = asyncio.get_running_loop().time
    until = clock() + limit_s
    while not holds() and clock() < until:  # noqa: ASYNC110, nobody would set an event
        await asyncio.sleep(0.01)


_REQUEST = Request(input=(message("How cold is it in Oslo?", role="user"),), params={"tools": World.tool_schemas()})


def _context(number: int, stack: AsyncExitStack) -> RolloutContext:
    row = world_row(number)
    environment: Environment[Any, Any] = World(World.task_model.model_validate(row), Config())  # type: ignore[arg-type]
    return RolloutContext(environment, ("world", row["task_id"], 0), 0, stack)


def _is_explained(error: BaseException) -> bool:
    return isinstance(error, ModelError | EndpointError) and bool(error.message.strip())


def _everything(error: BaseException | None) -> str:
    """Return all that printing, logging or writing down an error may show."""
    if error is None:
        return ""
    facts = [repr(vars(error)), repr(error), str(error), *map(str, error.args)]
    return "\n".join([*facts, *traceback.format_exception(error)])


def _listed(faults: Sequence[str]) -> str:
    return "\n".join([*faults[:5], *([f"... and {len(faults) - 5} more"] if len(faults) > 5 else [])])
