"""
Conversations that outgrow the context of the model: rollouts that end there, and are scored.
"""

import asyncio
import logging
from contextlib import AsyncExitStack

import pytest
from gym_plugin_openai_model.model import OpenAIModel, OpenAIModelConfig

from gymcore import Environment, ModelError, Request, RolloutContext, Task, read_rollouts, run_sync
from gymcore.responses import message
from gymcore.testing.endpoint import LoopbackEndpoint, calls, says, status

HELLO = Request(input=(message("Hello.", role="user"),))
LENGTH = "This model's maximum context length is 32768 tokens."


def openai(text, **further):
    return {"error": {"message": text, "type": "invalid_request_error", "param": None, **further}}


def vllm(text):
    return {"object": "error", "message": text, "type": "BadRequestError", "param": None, "code": 400}


FULL = [
    openai("Your input exceeds the context window of this model.", param="input", code="context_length_exceeded"),
    openai("Zu lang.", code="context_length_exceeded"),
    openai(f"{LENGTH} However, you requested 32818 tokens (50 in the messages, 32700 in the completion)."),
    vllm(f"{LENGTH} However, you requested 32818 tokens in the messages, Please reduce the length of the messages."),
    vllm("The decoder prompt (length 40000) is longer than the maximum model length of 32768."),
    vllm("max_tokens must be at least 1, got -12."),
    {"error": vllm(f"'max_tokens' or 'max_completion_tokens' is too large: 512. {LENGTH} Your request has 32700.")},
    vllm("The input (40000 tokens) is longer than the model's context length (32768 tokens)."),
    vllm("Requested token count exceeds the model's maximum context length of 32768 tokens."),
    {"error": {"code": 400, "message": "the request exceeds the available context size", "type": "other"}},
    {"error": {"code": 400, "message": "no room", "type": "exceed_context_size_error", "n_ctx": 4096}},
]
OTHER = [
    vllm(f"'max_tokens' or 'max_completion_tokens' is too large: 40000. {LENGTH} Your request has 12 input tokens."),
    openai(f"{LENGTH} However, you requested 32790 tokens (22 in the messages, 32768 in the completion)."),
    openai("Invalid value for max_tokens: must be an integer."),
    openai("The context of this tool call is not known.", code="invalid_value"),
    "Bad Request",
]


def ask(base_url, times=1, **options):
    """Ask as many rollouts of one model; return the last reply."""

    async def asked():
        model = OpenAIModel(OpenAIModelConfig(base_url=base_url, **options))
        async with model.opened():
            for _ in range(times):
                task = Task(responses_create_params={"input": ""})
                context = RolloutContext(Environment(task), ("e", "t", 0), 1, AsyncExitStack())
                reply = await model.respond(HELLO, context)
        return reply

    return asyncio.run(asked())


@pytest.mark.parametrize("body", FULL)
@pytest.mark.parametrize("options", [{"api": "responses"}, {"api": "chat"}, {"api": "chat", "token_ids": True}])
def test_a_full_context_is_an_empty_incomplete_reply(options, body, caplog):
    """
    By whichever words it is said: the endpoint's own stand in the reply, and are told once.
    """
    with LoopbackEndpoint(status(400, body)) as endpoint, caplog.at_level(logging.WARNING, "gymcore"):
        reply = ask(endpoint.base_url, times=3, **options)

    assert reply.is_truncated
    assert reply.output == [message("")]
    assert reply.body["incomplete_details"]["reason"] == "max_output_tokens"
    assert reply.body["incomplete_details"]["message"].startswith("status 400: ")
    assert len(endpoint.requests) == 3
    [told] = caplog.messages
    assert endpoint.base_url in told
    assert "truncated" in told


@pytest.mark.parametrize("body", OTHER)
@pytest.mark.parametrize("api", ["responses", "chat"])
def test_another_refusal_stays_a_failure(api, body):
    """
    Also where only the tokens that a reply may have are too many: no conversation would fit then.
    """
    with LoopbackEndpoint(status(400, body)) as endpoint, pytest.raises(ModelError) as caught:
        ask(endpoint.base_url, api=api)

    assert not caught.value.retryable


def test_the_same_words_with_another_status_mean_something_else():
    """
    A server that is in trouble with a long conversation is asked again, as ever.
    """
    with LoopbackEndpoint(status(500, vllm(LENGTH)), says("Hi.")) as endpoint:
        reply = ask(endpoint.base_url)

    assert not reply.is_truncated


@pytest.mark.parametrize("api", ["responses", "chat"])
def test_a_rollout_ends_there_and_is_scored(api, tmp_path):
    """
    What was done before counts, and no failure is written.
    """
    script = [calls("get_weather", city="Oslo"), status(400, vllm(LENGTH))]
    with LoopbackEndpoint(*script) as endpoint:
        plan = {
            "environments": {"example_single_tool_call": {"limit": 1}},
            "models": {"policy": {"use": "openai_model", "config": {"base_url": endpoint.base_url, "api": api}}},
        }
        run_sync(plan, tmp_path / "run", environ={})

    [rollout] = read_rollouts(tmp_path / "run")
    assert rollout.failure is None
    assert rollout.trajectory.stop == "truncated"
    assert [len(turn.results) for turn in rollout.trajectory.turns] == [1, 0]
    assert rollout.reward.value == 0.0
