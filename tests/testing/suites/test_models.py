"""
Each check of the models' suite can fail: models with one fault each, asked over real sockets.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr

from gymcore import Config, EndpointError, Model, ModelError, Request, Response, RolloutContext, option
from gymcore.documents import DocumentError, decode_json, encode_json
from gymcore.responses import message
from gymcore.testing import ModelSuite, PluginFolder
from gymcore.testing.suites import checks_of, run_checks
from gymcore.testing.suites.imports import Imported


class PlainConfig(Config):
    """Where, and with what."""

    base_url: str = option(description="Where the endpoint is.")
    api_key: SecretStr | None = option(None, description="The key.")
    timeout_s: float = option(60.0, description="Seconds for one request.")


class Plain(Model[PlainConfig]):
    """
    A correct client of one endpoint, as small as may be; each part of it can be spoilt.
    """

    tries = 2

    async def respond(self, request: Request, rollout: RolloutContext) -> Response:
        """Ask, and once more."""
        problem, body = "", b""
        for _ in range(self.tries):
            try:
                async with asyncio.timeout(self.config.timeout_s):
                    status, body = await self.exchange(request)
            except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
                problem = f"{type(error).__name__}"
            else:
                if status in (401, 403):
                    raise EndpointError("the endpoint refuses the key")
                try:
                    if status == 200:
                        return Response.parse(decode_json(body))
                    problem = f"status {status}"
                except (DocumentError, ValueError) as error:
                    problem = f"no reply: {error}"
        raise ModelError(self.told(problem, body))

    def told(self, problem: str, body: bytes) -> str:
        """Say what went wrong."""
        return f"{problem}, at each of {self.tries} tries"

    async def exchange(self, request: Request) -> tuple[int, bytes]:
        """Make one request."""
        address = urlsplit(self.config.base_url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        try:
            body = encode_json({**request.params, "input": list(request.input)})
            head = f"POST {address.path}/responses HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(answer.partition("content-length: ")[2].partition("\r\n")[0])
            return int(answer.split(" ")[1]), await reader.readexactly(length)
        finally:
            writer.close()


class Inventing(Plain):
    """Says nothing where nothing could be had."""

    async def respond(self, request: Request, rollout: RolloutContext) -> Response:
        """Ask, and give up quietly."""
        try:
            return await super().respond(request, rollout)
        except ModelError:
            return Response(output=[])


class Raw(Plain):
    """Lets errors out as they come."""

    async def respond(self, request: Request, rollout: RolloutContext) -> Response:
        """Ask, and raise whatever it is."""
        try:
            return await super().respond(request, rollout)
        except ModelError as error:
            raise RuntimeError("something went wrong") from error


class Stubborn(Plain):
    """Asks forty times."""

    tries = 40


class Patient(Plain):
    """Waits for ever."""

    def __init__(self, config: PlainConfig | None = None) -> None:
        assert config is not None
        super().__init__(config.model_copy(update={"timeout_s": 3600.0}))


class Hasty(Plain):
    """Waits for a tenth of a second."""

    def __init__(self, config: PlainConfig | None = None) -> None:
        assert config is not None
        super().__init__(config.model_copy(update={"timeout_s": 0.1}))


class Telling(Plain):
    """Quotes the endpoint, which quotes the key."""

    def told(self, problem: str, body: bytes) -> str:
        """Say too much."""
        return f"{problem}: {body!r}"


class Sharing(Plain):
    """Keeps the request where all calls find it."""

    async def respond(self, request: Request, rollout: RolloutContext) -> Response:
        """Ask what was asked last."""
        self.last = request
        await asyncio.sleep(0)
        return await super().respond(self.last, rollout)


class Adding(Plain):
    """Adds to the request of the rollout."""

    async def respond(self, request: Request, rollout: RolloutContext) -> Response:
        """Ask in other words."""
        request.input[0]["content"] += " Please."
        return await super().respond(request, rollout)


class Leaving(Plain):
    """Leaves something running."""

    @asynccontextmanager
    async def opened(self) -> Any:
        """Start it."""
        self.started = asyncio.create_task(asyncio.sleep(3600))
        yield


class Delayed(Plain):
    """Correct, on a machine that does something else at first."""

    async def exchange(self, request: Request) -> tuple[int, bytes]:
        """Make one request, by and by."""
        await asyncio.sleep(0.2)
        return await super().exchange(request)


class Upper(Plain):
    """Says it louder."""

    async def respond(self, request: Request, rollout: RolloutContext) -> Response:
        """Ask, and shout."""
        reply = await super().respond(request, rollout)
        texts = [part.get("text") for item in reply.output for part in item.get("content", [])]
        return Response(output=[message(text.upper()) for text in texts if "word-" not in text] or reply.output)


class Strange(Plain):
    """Raises something of its own while playing."""

    async def respond(self, request: Request, rollout: RolloutContext) -> Response:
        """Take a rollout for what it is not."""
        if rollout.key[0] == "under_test":
            raise KeyError(rollout.key[0])
        return await super().respond(request, rollout)


def suite_for(model: type[Model[Any]], **switches: Any) -> type[ModelSuite]:
    def loaded(self: ModelSuite) -> type[Model[Any]]:
        return model

    def imported(self: ModelSuite) -> Imported:
        return Imported()

    body = {"plugin": "nop", "loaded": loaded, "imported": imported, "give_up_s": 4.0, "impatient": {"timeout_s": 0.2}}
    return type("TestIt", (ModelSuite,), {**body, **switches})


def failed(suite: type[ModelSuite]) -> dict[str, str]:
    return {outcome.check: outcome.message for outcome in run_checks(suite) if outcome.status == "failed"}


CAUGHT: dict[type[Model[Any]], set[str]] = {
    Plain: set(),
    Inventing: {"test_no_reply_is_invented"},
    Raw: {"test_errors_are_explained"},
    Stubborn: {"test_retries_are_bounded", "test_gives_up_in_time"},
    Patient: {"test_gives_up_in_time"},
    Telling: {"test_secrets_are_told_to_nobody"},
    Sharing: {"test_calls_share_no_state"},
    Adding: {"test_changes_no_request"},
    Leaving: {"test_nothing_is_left_open"},
    Upper: {"test_replies_as_the_endpoint_does", "test_waits_for_a_slow_reply", "test_nothing_is_left_open"},
    Strange: {"test_plays_a_rollout"},
}


@pytest.mark.parametrize(
    "model",
    [pytest.param(model, marks=[pytest.mark.rig] if number % 4 else []) for number, model in enumerate(CAUGHT)],
    ids=lambda model: model.__name__,
)  # all of them with the rigs
def test_each_fault_of_a_model_is_caught_by_the_check_for_it(model: type[Model[Any]]) -> None:
    """
    Every other check passes.
    """
    # Waited for only where it takes that long; a busy machine may keep any model from giving up for a while.
    hurried = {"give_up_s": 3.0} if "test_gives_up_in_time" in CAUGHT[model] else {}

    found = failed(suite_for(model, **hurried))

    assert set(found) == CAUGHT[model], found


def test_a_machine_that_is_busy_is_no_fault_of_a_model() -> None:
    """
    Where the endpoint replies, nothing depends on the options that make a model give up soon.
    """
    assert failed(suite_for(Delayed, give_up_s=20.0, impatient={"timeout_s": 0.1}, concurrency=4)) == {}


def test_a_model_that_waits_for_no_slow_reply_is_caught() -> None:
    """
    Its other checks may fail as well, on a machine that is busy.
    """
    assert "test_waits_for_a_slow_reply" in failed(suite_for(Hasty, concurrency=2))


def test_every_check_of_models_can_fail() -> None:
    """
    For each check that only models have there is a fault above that it finds.
    """
    own = {check.name for check in checks_of(ModelSuite)} - {check.name for check in checks_of(ModelSuite.__base__)}

    assert own == set().union(*CAUGHT.values())


def test_a_model_that_asks_nobody_is_checked_without_an_endpoint(plugins: PluginFolder) -> None:
    """
    The switch says so where an option only looks like an address.
    """

    class TestKeyed(ModelSuite):
        plugin = "keyed"
        endpoint_option = None
        config = {"base_url": "http://127.0.0.1:1"}  # noqa: RUF012, as authors write it

    assert set(failed(TestKeyed)) == {"test_options_have_a_schema"}
