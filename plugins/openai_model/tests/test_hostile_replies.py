"""
Replies that nobody should send: each becomes a typed failure, or an ordinary rollout, and never a reward by accident.
"""

import asyncio
import copy
import json
import time
from contextlib import asynccontextmanager

import httpx
import pytest
from gym_plugin_openai_model.connections import Connections
from gym_plugin_openai_model.endpoints import Endpoints
from gym_plugin_openai_model.exchange import Exchange
from gym_plugin_openai_model.model import OpenAIModel, OpenAIModelConfig
from gym_plugin_openai_model.retries import Fault
from hypothesis import given, settings
from hypothesis import strategies as st

from gymcore import Environment, Model, Reward, Task, tool
from gymcore.documents import decode_json, encode_json
from gymcore.responses import function_call, message, text_of
from gymcore.testing import play

RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1750000000,
    "model": "small",
    "status": "completed",
    "incomplete_details": None,
    "output": [
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hmm."}]},
        {**message("swordfish"), "generation_token_ids": [1, 2], "generation_log_probs": [-0.5, -0.25]},
    ],
    "usage": {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15, "output_tokens_details": {"reasoning": 1}},
}
CALL = {**RESPONSE, "output": [function_call("look_up", '{"word": "sword"}', "call_1")]}
COMPLETION = {
    "id": "chat_1",
    "object": "chat.completion",
    "created": 1750000000,
    "model": "small",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "swordfish",
                "reasoning_content": "Hmm.",
                "tool_calls": [{"id": "c", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}],
            },
            "finish_reason": "tool_calls",
            "logprobs": None,
        }
    ],
    "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
}
BODIES = {"responses": RESPONSE, "chat": COMPLETION}


class Password(Environment[Task]):
    """Say the word."""

    @tool
    def look_up(self, word: str) -> str:
        """Look a word up."""
        return word

    def verify(self, trajectory):
        return Reward(value=float(trajectory.text == "swordfish"))


class Opened(Model):
    """A model that is opened for every call, as `play` opens none."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    async def respond(self, request, rollout):
        async with self.model.opened():
            return await self.model.respond(request, rollout)


def played(*bodies, api="responses"):
    """Play a rollout whose model calls are answered with these bodies, the last one again and again."""
    left = list(bodies)

    def answer(request):
        body = left.pop(0) if len(left) > 1 else left[0]
        return httpx.Response(200, content=body if isinstance(body, bytes) else json.dumps(body))

    config = OpenAIModelConfig(base_url="http://127.0.0.1/v1", api=api, max_retries=0)
    model = OpenAIModel(config, transport=httpx.MockTransport(answer))
    rollout = play(Password, {"responses_create_params": {"input": "Say it."}}, Opened(model))
    assert (rollout.reward is None) != (rollout.failure is None)
    if rollout.failure is not None:
        assert (rollout.failure.stage, rollout.failure.error) == ("model", "ModelError"), rollout.failure
    for turn in rollout.trajectory.turns:
        decode_json(encode_json([list(turn.items), turn.usage, turn.response_id, turn.status]))
    return rollout


# -- cut off ---------------------------------------------------------------------------------------------------------


def _sized(data):
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(data), data)


def _chunked(data):
    chunk = b"%x\r\n%s\r\n" % (len(data), data) if data else b""
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk + b"0\r\n\r\n"


@asynccontextmanager
async def exchanging(replies, api):
    """Give a function that asks a server which answers with the bytes of `replies`, one after the other."""
    script = iter(replies)

    async def serve(reader, writer):
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                await reader.readexactly(2)
                writer.write(next(script))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    endpoint = next(iter(Endpoints([url], "/v1", lambda: _NoGate(), time.monotonic)))
    bounds = {"timeout_s": 60.0, "connect_timeout_s": 60.0}
    exchange = Exchange({}, [], is_chat=api == "chat", clock=time.time, **bounds)
    async with Connections(httpx.URL(endpoint.url), **bounds) as endpoint.transport:
        yield lambda: exchange.ask(endpoint, b"{}", 1, {})
    server.close()
    await asyncio.sleep(0.01)


class _NoGate:
    gates = ()


@pytest.mark.parametrize("framed", [_sized, _chunked], ids=["sized", "chunked"])
@pytest.mark.parametrize("api", BODIES)
def test_a_reply_cut_at_any_byte_is_a_fault(api, framed):
    """
    Whatever part of a reply comes with a length that says it were all, it is tried again, and the whole reply is taken.
    """
    data = json.dumps(BODIES[api]).encode()

    async def work():
        async with exchanging([framed(data[:end]) for end in range(len(data) + 1)], api) as ask:
            kinds = []
            for _ in range(len(data)):
                with pytest.raises(Fault) as caught:
                    await ask()
                kinds.append(caught.value.kind)
            return kinds, await ask()

    kinds, response = asyncio.run(work())

    assert kinds == ["transient"] * len(data)
    assert [text_of(item) for item in response.output].count("swordfish") == 1


# -- altered ---------------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def places(value, path=()):
    """Return the path of every value inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, item in inner for found in places(item, (*path, key)))]


def changed(value, path, new):
    """Return a JSON value with another one in the place of a part."""
    if not path:
        return new
    value = copy.copy(value)
    value[path[0]] = changed(value[path[0]], path[1:], new)
    return value


@pytest.mark.parametrize(
    ("api", "body"), [("responses", RESPONSE), ("responses", CALL), ("chat", COMPLETION)], ids=["text", "call", "chat"]
)
def test_any_value_in_any_place_is_survived(api, body):
    """
    With any JSON in the place of any part of a reply, a rollout has a reward for what was said, or a typed failure.
    """

    @settings(max_examples=150, deadline=None)
    @given(st.sampled_from(places(body)), JSON)
    def holds(path, new):
        final = RESPONSE if api == "responses" else changed(COMPLETION, ("choices", 0, "message", "tool_calls"), None)
        rollout = played(changed(body, path, new), final, api=api)
        if rollout.reward is not None:
            assert rollout.reward.value == float(rollout.trajectory.text == "swordfish")

    holds()


HOSTILE = {
    "nothing": b"",
    "a word": b"swordfish",
    "bad UTF-8": b'{"output": [{"type": "message", "content": "\xff"}]}',
    "a lone surrogate": b'{"output": [{"type": "message", "role": "assistant", "content": "\\ud800"}]}',
    "NaN": b'{"output": [{"type": "message", "role": "assistant", "content": "swordfish", "logprob": NaN}]}',
    "infinity": b'{"output": [{"type": "message", "role": "assistant", "content": "swordfish", "logprob": -Infinity}]}',
    "endless nesting": b'{"output": ' + 100_000 * b"[" + 100_000 * b"]" + b"}",
    "items that are texts": {"output": ["swordfish"]},
    "output that is an object": {"output": {"type": "message", "content": "swordfish"}},
    "an id that is a number": {**RESPONSE, "id": 5},
    "a status that is a list": {**RESPONSE, "status": ["completed"]},
    "usage that is a text": {**RESPONSE, "usage": "much"},
    "an array": [RESPONSE],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_reply_fails_the_rollout(name):
    """
    A reply that is none has no reward, though it may hold the right word.
    """
    rollout = played(HOSTILE[name])

    assert rollout.reward is None
    assert rollout.failure.retryable


@pytest.mark.parametrize("choices", [None, [], {}, [None], [{}], [{"message": None}], [{"message": []}]])
def test_a_completion_without_a_choice_fails_the_rollout(choices):
    """
    Empty and malformed choices are no empty answers.
    """
    assert played({**COMPLETION, "choices": choices}, api="chat").reward is None


def test_numbers_beyond_sixty_four_bits_do_no_harm():
    """
    A number that no field has room for travels through, or is refused; the answer counts.
    """
    body = json.dumps(RESPONSE).replace('"created_at": 1750000000', '"created_at": 1' + 100 * "0").encode()
    rollout = played(body)

    assert rollout.reward.value == 1.0


def test_deep_nesting_does_no_harm():
    """
    A thousand brackets around nothing, beside a call, come back in the next request, which still is JSON.
    """
    item = {**CALL["output"][0], "extra": "DEEP"}
    deep = json.dumps({**CALL, "output": [item]}).replace('"DEEP"', 1000 * "[" + 1000 * "]").encode()
    rollout = played(deep, RESPONSE)

    assert rollout.reward.value == 1.0


@pytest.mark.parametrize("ids", [["c", "c"], [None, None], ["", ""], [5, 5]], ids=["twins", "none", "empty", "numbers"])
@pytest.mark.parametrize("api", BODIES)
def test_calls_without_names_of_their_own_are_carried_out(api, ids):
    """
    Missing, empty and repeated call ids cost nothing: every call has its result.
    """
    if api == "responses":
        asked = {**CALL, "output": [{**CALL["output"][0], "call_id": given} for given in ids]}
        final = RESPONSE
    else:
        function = {"name": "look_up", "arguments": '{"word": "x"}'}
        calls = [{"id": given, "type": "function", "function": function} for given in ids]
        asked = changed(COMPLETION, ("choices", 0, "message", "tool_calls"), calls)
        final = changed(COMPLETION, ("choices", 0, "message", "tool_calls"), None)
    rollout = played(asked, final, api=api)

    assert rollout.reward is not None
    assert len(rollout.trajectory.turns[0].results) == 2


def test_ten_thousand_calls_in_one_reply_are_bounded():
    """
    No more calls are carried out than the agent allows, and the rollout says so.
    """
    body = {**CALL, "output": [function_call("look_up", '{"word": "x"}', f"c{number}") for number in range(10_000)]}
    rollout = played(body)

    assert rollout.trajectory.stop == "max_tool_calls"
    assert len(rollout.trajectory.turns[0].results) == 256
    assert rollout.reward.value == 0.0


def test_arguments_of_a_hundred_megabytes_are_bounded():
    """
    Arguments that nobody can have meant end the rollout at the bound on its output, and reach no tool, though they are
    valid: checking them would take a multiple of their length.
    """
    body = encode_json(changed(CALL, ("output", 0, "arguments"), '{"word": "MANY"}'))
    rollout = played(body.replace(b"MANY", 100_000_000 * b"x"))

    [result] = rollout.trajectory.turns[0].results
    assert "100,000,012 characters; at most 1,000,000 are read" in result["output"]
    assert rollout.trajectory.stop == "max_output"
    assert rollout.reward.value == 0.0
