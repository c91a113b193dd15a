"""
The model against real sockets: what is sent, what is retried, and what ends a run.
"""

import asyncio
import inspect
import json
import random
from contextlib import AsyncExitStack
from email.utils import formatdate

import httpx
import pytest
from gym_plugin_openai_model.model import OpenAIModel, OpenAIModelConfig
from pydantic import ValidationError

from gymcore import EndpointError, Environment, ModelError, Request, RolloutContext, Task
from gymcore.composition.configuration import resolve_options
from gymcore.responses import function_call_output, message, text_of
from gymcore.testing.endpoint import (
    LoopbackEndpoint,
    calls,
    half_a_body,
    hangs,
    html,
    raw,
    reset,
    says,
    slow,
    status,
    truncated,
)

NOWHERE = "http://127.0.0.1:1/v1"
"""An address at which nobody listens."""
HELLO = Request(input=(message("Hello.", role="user"),))


class Clock:
    """A clock that moves only while somebody sleeps."""

    def __init__(self):
        self.now = 1_750_000_000.0
        self.waits = []

    def __call__(self):
        return self.now

    async def sleep(self, seconds):
        self.waits.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


def rollout(number=0):
    task = Task(responses_create_params={"input": "Hello."})
    return RolloutContext(Environment(task), ("hello", "hello/0", number), 0, AsyncExitStack())


class Caller:
    """One model, one rollout, one clock."""

    def __init__(self, base_url, **options):
        transport = options.pop("transport", None)
        chance = options.pop("random", lambda: 1.0)
        self.clock = Clock()
        self.rollout = rollout()
        self.model = OpenAIModel(
            OpenAIModelConfig(base_url=base_url, **options),
            transport=transport,
            sleep=self.clock.sleep,
            clock=self.clock,
            steady=self.clock,
            random=chance,
        )

    def run(self, work):
        async def opened():
            async with self.model.opened():
                result = work()
                return await result if inspect.isawaitable(result) else result

        return asyncio.run(opened())

    def ask(self, request=HELLO):
        return self.run(lambda: self.model.respond(request, self.rollout))

    def fail(self, kind=ModelError, request=HELLO):
        with pytest.raises(kind) as caught:
            self.ask(request)
        return caught.value


# -- what is sent ----------------------------------------------------------------------------------------------------


def test_asks_once_for_one_reply():
    """
    A model call that works is exactly one HTTP request.
    """
    with LoopbackEndpoint(says("Hi.")) as endpoint:
        caller = Caller(endpoint.base_url + "/", model="small", temperature=0.5)
        response = caller.ask(Request(HELLO.input, {"temperature": 1.0, "top_p": None, "stream": True}))

    [request] = endpoint.requests
    assert request.path == "/v1/responses"
    assert request.body == {"model": "small", "temperature": 1.0, "input": [message("Hello.", role="user")]}
    assert text_of(response.output[0]) == "Hi."
    assert caller.rollout.attempts == 1


def test_keeps_every_field_of_a_reply():
    """
    Token ids, log-probabilities and fields of next year arrive untouched, and go back untouched.
    """
    item = {**message("Hi."), "prompt_token_ids": [1, 2], "generation_token_ids": [3], "generation_log_probs": [-0.1]}
    body = {"id": "r", "output": [{"type": "of_next_year", "x": {"y": None}}, item], "next_year": [1.25], "usage": None}
    with LoopbackEndpoint(raw(body)) as endpoint:
        caller = Caller(endpoint.base_url)
        response = caller.ask()
        Caller(endpoint.base_url).ask(HELLO.continued(response.output))

    assert response.body == body
    assert endpoint.requests[1].body["input"][2] == item


def test_extra_body_wins_and_metadata_gives_some():
    """
    `extra_body` is merged last, and what a task's metadata holds as JSON text becomes part of the body, below it.
    """
    own = '{"top_k": 5, "max_tokens": 7, "chat_template_kwargs": {"a": 2, "b": 2}}'
    metadata = {"extra_body": own, "chat_template_kwargs": '{"enable_thinking": false}', "kept": "yes"}
    extra = {"top_k": 1, "min_p": 0.1, "temperature": 0.0, "chat_template_kwargs": {"a": 1}}
    with LoopbackEndpoint(says("Hi.")) as endpoint:
        request = Request(HELLO.input, {"metadata": metadata, "temperature": 1.0})
        Caller(endpoint.base_url, extra_body=extra).ask(request)
        Caller(endpoint.base_url).ask(Request(HELLO.input, {"metadata": {"extra_body": "{}"}}))

    assert endpoint.requests[0].body == {
        "input": [message("Hello.", role="user")],
        "temperature": 0.0,
        "top_k": 1,
        "max_tokens": 7,
        "min_p": 0.1,
        "chat_template_kwargs": {"a": 1, "enable_thinking": False},
        "metadata": {"kept": "yes"},
    }
    assert "metadata" not in endpoint.requests[1].body


@pytest.mark.parametrize("api", ["responses", "chat"])
def test_what_a_task_asks_for_wins_over_its_metadata(api):
    """
    A task's `metadata.extra_body` fills gaps: above the options, below the task's own parameters and conversation.
    """
    own = {"top_p": 0.5, "temperature": 0.1, "min_p": 0.1, "seed": 4, "input": [], "messages": [], "stream": True}
    del own["messages" if api == "responses" else "input"]
    params = {"metadata": {"extra_body": json.dumps(own)}, "top_p": 1.0}
    with LoopbackEndpoint(says("Hi.")) as endpoint:
        Caller(endpoint.base_url, api=api, temperature=0.7, send_seed=True).ask(Request(HELLO.input, params))

    body = endpoint.requests[0].body
    [said] = body.pop("input" if api == "responses" else "messages")
    assert said["content"] == "Hello."
    assert body == {"top_p": 1.0, "temperature": 0.1, "min_p": 0.1, "seed": 4}


@pytest.mark.parametrize(("key", "text"), [("extra_body", "{oops"), ("chat_template_kwargs", "[1]")])
def test_names_metadata_that_is_malformed(key, text):
    """
    Metadata that should be a JSON object and is none fails the rollout, for good and by name.
    """
    error = Caller(NOWHERE).fail(request=Request(HELLO.input, {"metadata": {key: text}}))

    assert f"metadata.{key}" in error.message
    assert not error.retryable


def test_may_drop_earlier_reasoning():
    """
    With `drop_input_reasoning_items` the model does not read its earlier thoughts, on either API.
    """
    thought = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hmm."}]}
    conversation = HELLO.continued([thought, message("Hi.")])
    with LoopbackEndpoint(says("Hi.")) as endpoint:
        for api in ("responses", "chat"):
            Caller(endpoint.base_url, api=api, drop_input_reasoning_items=True).ask(conversation)
            Caller(endpoint.base_url, api=api).ask(conversation)

    assert ["Hmm." in json.dumps(request.body) for request in endpoint.requests] == [False, True, False, True]


@pytest.mark.parametrize("api", ["responses", "chat"])
def test_plays_a_conversation_with_parallel_calls(api):
    """
    On both APIs calls, their results and the answer reach the other side in order.
    """
    replies = says("Looking.") + calls("get_weather", city="Oslo") + calls("get_weather", city="Rome"), says("Cold.")
    tool = {"type": "function", "name": "get_weather", "parameters": {"type": "object"}, "strict": True}
    with LoopbackEndpoint(*replies) as endpoint:
        caller = Caller(endpoint.base_url, api=api)

        async def work():
            first = Request(HELLO.input, {"tools": [tool], "parallel_tool_calls": True})
            reply = await caller.model.respond(first, caller.rollout)
            asked = [item for item in reply.output if item["type"] == "function_call"]
            results = [function_call_output(item["call_id"], item["arguments"]) for item in asked]
            return reply, await caller.model.respond(first.continued([*reply.output, *results]), caller.rollout)

        reply, answer = caller.run(work)

    assert [item["type"] for item in reply.output] == ["message", "function_call", "function_call"]
    assert [item.get("arguments") for item in reply.output] == [None, '{"city":"Oslo"}', '{"city":"Rome"}']
    assert text_of(answer.output[0]) == "Cold."
    assert answer.usage == {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
    if api == "chat":
        _, assistant, *results = endpoint.requests[1].body["messages"]
        assert assistant["content"] == "Looking."
        assert [call["id"] for call in assistant["tool_calls"]] == [result["tool_call_id"] for result in results]
        assert endpoint.requests[0].body["tools"] == [
            {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}, "strict": True}}
        ]
    else:
        assert endpoint.requests[1].body["input"][1:4] == reply.output


@pytest.mark.parametrize("api", ["responses", "chat"])
def test_tells_a_truncated_reply(api):
    """
    A reply that was cut off says so.
    """
    with LoopbackEndpoint(truncated("And then")) as endpoint:
        response = Caller(endpoint.base_url, api=api).ask()

    assert response.is_truncated
    assert response.envelope["incomplete_details"] == {"reason": "max_output_tokens"}
    assert text_of(response.output[0]) == "And then"


def test_sends_key_and_headers():
    """
    The key goes out as a bearer token, and headers of the user's own win over ours.
    """
    with LoopbackEndpoint(says("Hi.")) as endpoint:
        Caller(endpoint.base_url, api_key="sk-1\n", default_headers={"X-Team": "blue"}).ask()
        Caller(endpoint.base_url, api_key="sk-1", default_headers={"Authorization": "Basic x"}).ask()

    assert endpoint.requests[0].headers["authorization"] == "Bearer sk-1"
    assert endpoint.requests[0].headers["x-team"] == "blue"
    assert endpoint.requests[1].headers["authorization"] == "Basic x"


def test_keeps_a_query_of_the_base_url():
    """
    A base URL may carry a query, as Azure's does; messages do not show it.
    """
    with LoopbackEndpoint(status(400)) as endpoint:
        error = Caller(endpoint.base_url + "?api-version=2").fail()

    assert endpoint.requests[0].path == "/v1/responses"
    assert error.where == f"{endpoint.base_url}/responses"


def test_goes_by_the_proxy_that_the_environment_names(monkeypatch):
    """
    An address for which `http_proxy` names a proxy is asked through it.
    """
    with LoopbackEndpoint(says("By proxy.")) as endpoint:
        monkeypatch.setenv("http_proxy", endpoint.base_url.removesuffix("/v1"))
        monkeypatch.setenv("no_proxy", "")
        response = Caller("http://model.invalid/v1").ask()

    assert text_of(response.output[0]) == "By proxy."
    assert endpoint.requests[0].headers["host"] == "model.invalid"


# -- what is retried -------------------------------------------------------------------------------------------------

MISBEHAVIOURS = {
    "status 500": status(500),
    "status 408": status(408),
    "status 409": status(409),
    "status 425": status(425),
    "status 502": status(502, "<html>bad gateway</html>"),
    "status 503": status(503),
    "status 429": status(429),
    "half a body": half_a_body(),
    "half a JSON text": raw(b'{"output": [{"type": "mess'),
    "reset": reset(),
    "html": html(),
    "nothing": raw(b""),
    "a list": raw([]),
    "no output": raw({"id": "r"}),
    "output of texts": raw({"output": ["Hi."]}),
    "NaN": raw(b'{"output": [{"type": "message", "logprob": NaN}]}'),
    "failed": raw({"output": [], "status": "failed", "error": {"code": "server_error", "message": "out of memory"}}),
    "queued": raw({"output": [], "status": "queued"}),
    "in progress": raw({"output": [message("And")], "status": "in_progress"}),
    "cancelled": raw({"output": [], "status": "cancelled", "error": None}),
}


@pytest.mark.parametrize("name", MISBEHAVIOURS)
def test_tries_again_after_a_passing_fault(name):
    """
    What may pass is tried again, and every try is counted.
    """
    with LoopbackEndpoint(MISBEHAVIOURS[name], MISBEHAVIOURS[name], says("Hi.")) as endpoint:
        caller = Caller(endpoint.base_url)
        response = caller.ask()

    assert text_of(response.output[0]) == "Hi."
    assert caller.rollout.attempts == len(endpoint.requests) == 3
    assert caller.clock.waits == [0.5, 1.0]


CHAT_MISBEHAVIOURS = {
    "no choices": raw({"id": "c"}),
    "empty choices": raw({"choices": []}),
    "no message": raw({"choices": [{"index": 0, "finish_reason": "stop"}]}),
    "broken off": raw({"choices": [{"message": {"content": "And"}, "finish_reason": "abort"}]}),
    "content of numbers": raw({"choices": [{"message": {"content": 5}}]}),
    "calls of numbers": raw({"choices": [{"message": {"tool_calls": 5}}]}),
    "a call of nothing": raw({"choices": [{"message": {"tool_calls": [{"id": "x"}]}}]}),
    "a list": raw([]),
}


@pytest.mark.parametrize("name", CHAT_MISBEHAVIOURS)
def test_tries_again_after_a_malformed_completion(name):
    """
    A completion that is none is tried again, and then said to be malformed.
    """
    with LoopbackEndpoint(CHAT_MISBEHAVIOURS[name]) as endpoint:
        error = Caller(endpoint.base_url, api="chat", max_retries=1).fail()

    assert len(endpoint.requests) == 2
    assert error.retryable
    assert error.message.startswith("status 200, but ")


@pytest.mark.parametrize("name", [name for name in MISBEHAVIOURS if name != "status 429"])
def test_gives_up_after_max_retries(name):
    """
    A fault that does not pass costs the rollout, after exactly `max_retries` further tries.
    """
    with LoopbackEndpoint(MISBEHAVIOURS[name]) as endpoint:
        caller = Caller(endpoint.base_url, max_retries=2)
        error = caller.fail()

    assert caller.rollout.attempts == len(endpoint.requests) == 3
    assert error.retryable
    assert "at the last of 3 tries" in error.message
    assert error.where == f"{endpoint.base_url}/responses"


def test_being_throttled_costs_none_of_the_retries():
    """
    A call that is told to come later is asked again for a quarter of an hour, or 40 times, whatever `max_retries` is.
    """
    with LoopbackEndpoint(status(429)) as endpoint:
        caller = Caller(endpoint.base_url, max_retries=2)
        error = caller.fail()

    assert 30 <= len(endpoint.requests) <= 41
    assert 870 <= sum(caller.clock.waits) <= 960
    assert error.retryable
    assert "status 429" in error.message


def test_waits_longer_each_time_but_never_long():
    """
    Waits double up to 30 s, and chance shortens them.
    """
    with LoopbackEndpoint(status(500)) as endpoint:
        caller = Caller(endpoint.base_url, max_retries=8)
        caller.fail()
        halved = Caller(endpoint.base_url, max_retries=2, random=lambda: 0.5)
        halved.fail()

    assert caller.clock.waits == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert halved.clock.waits == [0.25, 0.5]


@pytest.mark.parametrize(
    ("headers", "waits"),
    [
        ({"Retry-After": "7"}, [7.0]),
        ({"Retry-After": "0"}, [0.5]),
        ({"Retry-After": "1.5"}, [1.5]),
        ({"Retry-After": "-3"}, [0.5]),
        ({"Retry-After": formatdate(1_750_000_012, usegmt=True)}, [12.0]),
        ({"Retry-After": formatdate(1_749_999_000, usegmt=True)}, [0.5]),
        ({"Retry-After": "300"}, [300.0]),
        ({"Retry-After": "soon"}, [0.5]),
        ({"Retry-After": "nan"}, [0.5]),
        ({"retry-after-ms": "2500", "Retry-After": "9"}, [2.5]),
        ({"retry-after-ms": "250", "Retry-After": "9"}, [0.5]),
        ({"retry-after-ms": "soon", "Retry-After": "9"}, [9.0]),
    ],
)
@pytest.mark.parametrize("code", [429, 503])
def test_waits_as_long_as_it_is_asked_to(code, headers, waits):
    """
    Retry-After is honoured in all its forms, and forgotten where it makes no sense or is shorter than the usual wait.
    """
    with LoopbackEndpoint(status(code, headers=headers), says("Hi.")) as endpoint:
        caller = Caller(endpoint.base_url)
        caller.ask()

    assert caller.clock.waits == waits


def test_does_not_wait_for_hours_at_once():
    """
    Whoever is asked to wait an hour asks again every five minutes, in case it was said too soon.
    """
    with LoopbackEndpoint(status(429, headers={"Retry-After": "3600"}), says("Hi.")) as endpoint:
        caller = Caller(endpoint.base_url)
        caller.ask()

    assert caller.clock.waits == [300.0]
    assert len(endpoint.requests) == 2


def test_tries_twice_more_after_a_timeout():
    """
    A request has `timeout_s`, and is made at most three times.
    """
    with LoopbackEndpoint(hangs()) as endpoint:
        caller = Caller(endpoint.base_url, timeout_s=0.02)
        error = caller.fail()

    assert caller.rollout.attempts == 3
    assert len(endpoint.requests) <= 3  # a busy machine gives one up before all of it is sent
    assert error.retryable
    assert "no reply within 0.02 s (timeout_s)" in error.message


def test_a_reply_after_a_timeout_is_its_own():
    """
    A connection on which a reply is still due is not used for another request.
    """
    with LoopbackEndpoint(slow(0.8, says("Late.")), says("In time.")) as endpoint:
        response = Caller(endpoint.base_url, timeout_s=0.5).ask()

    assert text_of(response.output[0]) == "In time."


@pytest.mark.parametrize("code", [400, 404, 405, 413, 422, 307])
def test_does_not_repeat_a_request_that_is_wrong(code):
    """
    What the request itself is to blame for is not tried again, and what the endpoint says about it is kept.
    """
    told = {"error": {"message": "the context is\n too long: " + 3000 * "x", "type": "invalid_request_error"}}
    with LoopbackEndpoint(says("Hi."), status(code, told)) as endpoint:
        caller = Caller(endpoint.base_url)

        async def work():
            await caller.model.respond(HELLO, caller.rollout)
            return await caller.model.respond(HELLO, caller.rollout)

        with pytest.raises(ModelError) as caught:
            caller.run(work)

    error = caught.value
    assert len(endpoint.requests) == 2
    assert not error.retryable
    assert error.message.startswith(f"status {code}: the context is too long: xxx")
    assert 2000 < len(error.message) < 2100


@pytest.mark.parametrize(
    "body", [{"detail": "no such thing"}, {"error": "no such thing"}, {"message": "no such thing"}, "no such thing"]
)
def test_finds_the_message_in_errors_of_every_kind(body):
    """
    Servers wrap their messages differently; people read the message alone.
    """
    with LoopbackEndpoint(status(400, body)) as endpoint:
        error = Caller(endpoint.base_url).fail()

    assert error.message == "status 400: no such thing"


# -- what ends a run -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [401, 403])
def test_a_refused_key_ends_the_run_at_once(code):
    """
    A refused key is told in one line with status, URL and reason, never with the key.
    """
    told = {"error": {"message": "wrong key: sk-secret"}}
    with LoopbackEndpoint(status(code, told)) as endpoint:
        error = Caller(endpoint.base_url, api_key="sk-secret").fail(EndpointError)

    assert len(endpoint.requests) == 1
    first, hint = str(error).splitlines()
    assert first == f"the endpoint refuses the key: status {code}: wrong key: *** ({endpoint.base_url}/responses)"
    assert "api_key" in hint
    assert "POLICY_API_KEY" in hint


def test_a_missing_path_ends_the_run_at_once():
    """
    A 404 from an endpoint that never answered means that the setup is wrong: URL and model are named.
    """
    with LoopbackEndpoint(status(404, {"error": {"message": "no model named small"}})) as endpoint:
        error = Caller(endpoint.base_url, model="small").fail(EndpointError)

    assert len(endpoint.requests) == 1
    assert "'small'" in error.message
    assert error.where.endswith("/v1/responses")


def test_a_refused_connection_ends_the_run_within_seconds():
    """
    Nobody listening is told within 3 s, after a few tries, with the address.
    """
    caller = Caller(NOWHERE)
    error = caller.fail(EndpointError)

    assert error.message == "the endpoint cannot be reached: connection refused"
    assert error.where == f"{NOWHERE}/responses"
    assert 2 <= caller.rollout.attempts <= 6
    assert sum(caller.clock.waits) <= 3


def test_an_unknown_host_is_named():
    """
    A host that does not exist is told in plain words.
    """
    error = Caller("http://nowhere.invalid/v1").fail(EndpointError)

    assert "unknown host" in error.message
    assert error.where == "http://nowhere.invalid/v1/responses"


def test_failing_tls_is_named():
    """
    An endpoint that speaks no TLS where TLS is expected is told in plain words.
    """

    async def refuse(reader, writer):
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async def work():
        server = await asyncio.start_server(refuse, "127.0.0.1", 0)
        caller = Caller(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1")
        async with caller.model.opened():
            try:
                await caller.model.respond(HELLO, caller.rollout)
            finally:
                server.close()

    with pytest.raises(EndpointError, match=r"TLS failed: the other side does not speak it"):
        asyncio.run(work())


def test_an_endpoint_that_answered_is_waited_for():
    """
    An endpoint that worked before may restart: it is waited for, and in the end the run can go on later.
    """
    with LoopbackEndpoint(says("Hi.")) as endpoint:
        caller = Caller(endpoint.base_url, patience_s=600)

        async def work():
            await caller.model.respond(HELLO, caller.rollout)
            with endpoint.outage():
                await caller.model.respond(HELLO, caller.rollout)

        with pytest.raises(EndpointError) as caught:
            caller.run(work)

    assert "for longer than 600 s (patience_s): connection refused" in caught.value.message
    assert sum(caller.clock.waits) == pytest.approx(600, abs=0.1)
    assert caller.rollout.attempts < 40


def test_what_ends_one_rollout_ends_all():
    """
    Once the endpoint is known to refuse everybody, nobody asks it again.
    """
    with LoopbackEndpoint(status(401)) as endpoint:
        caller = Caller(endpoint.base_url)

        async def work():
            return [
                (await asyncio.gather(caller.model.respond(HELLO, rollout()), return_exceptions=True))[0]
                for _ in range(3)
            ]

        errors = caller.run(work)

    assert [type(error) for error in errors] == [EndpointError] * 3
    assert len({str(error) for error in errors}) == 1
    assert len(endpoint.requests) == 1


def test_nothing_listening_is_found_out_once_per_rollout_in_flight():
    """
    While one rollout waits before its next try, another's verdict reaches it.
    """
    caller = Caller(NOWHERE, random=random.Random(3).random)

    async def work():
        asked = [caller.model.respond(HELLO, rollout(number)) for number in range(20)]
        return await asyncio.gather(*asked, return_exceptions=True)

    errors = caller.run(work)

    assert {type(error) for error in errors} == {EndpointError}


# -- several addresses -----------------------------------------------------------------------------------------------


def test_spreads_rollouts_and_keeps_each_with_its_address():
    """
    Rollouts take turns over the addresses, and each stays with its own.
    """
    with LoopbackEndpoint(says("one")) as one, LoopbackEndpoint(says("two")) as two:
        caller = Caller([one.base_url, two.base_url])

        async def work():
            players = [rollout(number) for number in range(4)]
            return [
                [text_of((await caller.model.respond(HELLO, player)).output[0]) for _ in range(3)] for player in players
            ]

        assert caller.run(work) == [["one"] * 3, ["two"] * 3, ["one"] * 3, ["two"] * 3]


def test_a_dead_address_costs_no_rollout():
    """
    When one of several addresses is dead, rollouts that began there go elsewhere, as all others do.
    """
    with LoopbackEndpoint(says("Hi.")) as alive:
        caller = Caller([NOWHERE, alive.base_url])

        async def work():
            players = [rollout(number) for number in range(6)]
            return [await caller.model.respond(HELLO, player) for player in [*players, players[0]]]

        responses = caller.run(work)

    assert [text_of(response.output[0]) for response in responses] == ["Hi."] * 7


def test_all_addresses_dead_ends_the_run():
    """
    When the last of several addresses is dead too, nobody can play.
    """
    caller = Caller([NOWHERE, "http://127.0.0.1:2/v1"])

    async def work():
        asked = [caller.model.respond(HELLO, rollout(number)) for number in range(2)]
        return await asyncio.gather(*asked, return_exceptions=True)

    errors = caller.run(work)

    assert {type(error) for error in errors} == {EndpointError}
    assert "connection refused" in errors[0].message


# -- bounds and options ----------------------------------------------------------------------------------------------


def test_never_has_more_requests_in_flight_than_asked_for():
    """
    `max_concurrent_requests` holds, and is used to the full.
    """
    with LoopbackEndpoint(slow(0.02, says("Hi."))) as endpoint:
        caller = Caller(endpoint.base_url, max_concurrent_requests=3)

        async def work():
            await asyncio.gather(*(caller.model.respond(HELLO, rollout(number)) for number in range(12)))

        caller.run(work)

    assert len(endpoint.requests) == 12
    assert endpoint.max_in_flight == 3


def test_takes_a_transport_of_somebody_else():
    """
    Any httpx transport may carry the requests, so tests need no sockets.
    """

    def answer(request):
        return httpx.Response(200, json={"output": [message("No socket.")]})

    response = Caller("https://example.invalid/v1", transport=httpx.MockTransport(answer)).ask()

    assert text_of(response.output[0]) == "No socket."


@pytest.mark.parametrize(
    ("base_url", "said"),
    [
        ("ftp://host/v1", "http:// or https://"),
        ("localhost:8000/v1", "http:// or https://"),
        ("http:///v1", "http:// or https://"),
        ("https://me:hunter2@host/v1", "user or password"),
        (["http://host/v1", "https://me:hunter2@host/v1"], "user or password"),
        ("http://host:notaport/v1", "[Pp]ort"),
        ("", "needed"),
        ([], "needed"),
    ],
)
def test_refuses_an_address_that_cannot_work(base_url, said):
    """
    A wrong address is refused while composing, and a password in it is not shown.
    """
    with pytest.raises(ValidationError, match=said) as caught:
        OpenAIModelConfig(base_url=base_url)
    _, problems = resolve_options(OpenAIModelConfig, {}, {"base_url": base_url}, {}, "models.policy.config")

    assert len(problems) == 1
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in str(problems)


def test_reads_the_usual_variables():
    """
    Address, key and model name come from the environment where the plan does not say.
    """
    environ = {"POLICY_BASE_URL": "http://host/v1/", "POLICY_API_KEY": "sk-secret", "POLICY_MODEL_NAME": "small"}
    options, problems = resolve_options(OpenAIModelConfig, {}, {}, environ, "models.policy.config")

    assert problems == []
    assert options.config.base_url == "http://host/v1"
    assert options.config.api_key.get_secret_value() == "sk-secret"
    assert options.meaning == {"model": "${POLICY_MODEL_NAME}"}
    assert options.marks.keys() == {"model"}
    assert "sk-secret" not in repr(options)


@pytest.mark.parametrize("secret", ["sk-\u00e9", "sk-1\r\nx: y"])
def test_refuses_a_key_that_no_header_may_hold(secret):
    """
    A key with line breaks or accents is refused without being shown.
    """
    with pytest.raises(ValidationError, match="ASCII") as caught:
        OpenAIModelConfig(base_url=NOWHERE, api_key=secret)

    assert "sk-" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "a header's name"),
        ("X-\u00e9", "a header's name"),
        ("X-Team ", "a header's name"),
        ("Authorization: Bearer sk-1", "a header's name"),
        ("x: y\r\nevil", "a header's name"),
        ("Content-Length", "'Content-Length' follows from the request"),
        ("transfer-encoding", "follows from the request"),
        ("Connection", "follows from the request"),
    ],
)
def test_refuses_a_header_that_cannot_be_sent(name, said):
    """
    A header whose name is none, or that frames a request, is refused while composing; what may be a key is not shown.
    """
    with pytest.raises(ValidationError, match=said) as caught:
        OpenAIModelConfig(base_url=NOWHERE, default_headers={name: "sk-2"})
    _, problems = resolve_options(
        OpenAIModelConfig, {}, {"base_url": NOWHERE, "default_headers": {name: "sk-2"}}, {}, "models.policy.config"
    )

    assert len(problems) == 1
    assert "sk-" not in f"{caught.value} {problems}"


@pytest.mark.parametrize("code", [400, 401, 500])
def test_secrets_stay_out_of_errors(code):
    """
    Neither the key nor the value of any header shows in an error, even where the endpoint repeats it.
    """
    with LoopbackEndpoint(status(code, "you sent sk-secret and Bearer hidden")) as endpoint:
        headers = {"X-Token": "Bearer hidden"}
        caller = Caller(endpoint.base_url, api_key="sk-secret", default_headers=headers, max_retries=0)
        error = caller.fail((EndpointError, ModelError))

    for text in (str(error), repr(error), repr(caller.model.config), str(error.__context__)):
        assert "sk-secret" not in text
        assert "hidden" not in text


SECRET = "sk-SECRET-0123456789"
ECHOES = {
    "a failed reply": raw({"output": [], "status": "failed", "error": {"message": f"wrong key: {SECRET}"}}),
    "an unknown status": raw({"output": [], "status": SECRET}),
    "the beginning of no reply": raw(
        f"<html>your key, cut where it begins to be shown, was {SECRET}".encode().rjust(85)
    ),
    "a long error": status(400, "x" * 4085 + SECRET),
    "an error in JSON": status(400, {"error": {"code": 1, "sent": f"Bearer {SECRET}"}}),
    "the URL": status(400, f"POST /v1/responses?key={SECRET}"),
    "a redirect": status(307, "", headers={"Location": f"https://host/v1/?key={SECRET}"}),
}


@pytest.mark.parametrize("name", ECHOES)
@pytest.mark.parametrize("place", ["api_key", "cookie", "query"])
def test_no_reply_brings_a_secret_into_an_error(place, name):
    """
    Wherever a secret is given and wherever it comes back, no part of it is in the error.
    """
    with LoopbackEndpoint(ECHOES[name]) as endpoint:
        url = endpoint.base_url + (f"?key={SECRET}" if place == "query" else "")
        options = {
            "api_key": {"api_key": SECRET},
            "cookie": {"default_headers": {"Cookie": f"session={SECRET}; theme=dark"}},
            "query": {},
        }
        error = Caller(url, max_retries=0, **options[place]).fail()

    assert "sk-" not in str(error)
    assert "6789" not in str(error)


def test_a_password_of_the_proxy_stays_out_of_errors(monkeypatch):
    """
    A proxy that sends back what it was sent does not bring its user's password into an error.
    """
    echo = "proxy-authorization: Basic bWU6cEBzcw== for me:p%40ss, p@ss"
    with LoopbackEndpoint(status(400, echo)) as endpoint:
        place = endpoint.base_url.removesuffix("/v1").removeprefix("http://")
        monkeypatch.setenv("http_proxy", f"http://me:p%40ss@{place}")
        monkeypatch.setenv("no_proxy", "")
        error = Caller("http://model.invalid/v1").fail()

    assert endpoint.requests[0].headers["proxy-authorization"] == "Basic bWU6cEBzcw=="
    assert error.message == "status 400: proxy-authorization: Basic *** for ***, ***"
