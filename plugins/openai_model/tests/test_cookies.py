"""
Cookies of an endpoint, which go back with what follows in the same rollout, and nowhere else.
"""

import asyncio
from contextlib import AsyncExitStack

import httpx
import pytest
from gym_plugin_openai_model.model import OpenAIModel, OpenAIModelConfig

from gymcore import Environment, Request, RolloutContext, Task, run_sync
from gymcore.responses import message
from gymcore.testing.endpoint import Answer, LoopbackEndpoint, calls, says, status

HELLO = Request(input=(message("Hello.", role="user"),))


def asking(cookie, reply=None):
    return Answer(reply or says("Hi."), headers={"Set-Cookie": cookie})


def sent(endpoint):
    return [request.headers.get("cookie") for request in endpoint.requests]


def converse(model, rollouts, times):
    """Ask for as many rollouts, in turn, as many times."""

    async def asked():
        task = Task(responses_create_params={"input": ""})
        contexts = [RolloutContext(Environment(task), ("e", "t", 0), 1, AsyncExitStack()) for _ in range(rollouts)]
        async with model.opened():
            for _ in range(times):
                for context in contexts:
                    await model.respond(HELLO, context)

    asyncio.run(asked())


@pytest.mark.parametrize("transport", [None, httpx.AsyncHTTPTransport])
@pytest.mark.parametrize("api", ["responses", "chat"])
def test_a_rollout_sends_back_what_its_own_replies_asked_for(api, transport):
    """
    Each rollout its own; a later reply changes one, and takes one back.
    """
    script = [
        asking("worker=1; Path=/; HttpOnly; SameSite=lax"),
        asking("worker=2; Max-Age=1209600"),
        asking("more=x"),
        says("Hi."),
        asking("worker=; Max-Age=0"),
        asking("worker=3"),
        says("Hi."),
    ]
    with LoopbackEndpoint(*script) as endpoint:
        config = OpenAIModelConfig(base_url=endpoint.base_url, api=api)
        model = OpenAIModel(config, transport=transport() if transport else None)
        converse(model, rollouts=2, times=4)

    assert sent(endpoint) == [None, None, "worker=1", "worker=2", "worker=1; more=x", "worker=2", "more=x", "worker=3"]


def test_another_address_does_not_get_them():
    """
    A rollout that goes on elsewhere begins anew there.
    """
    with LoopbackEndpoint(asking("a=1"), status(401)) as one, LoopbackEndpoint(asking("b=2")) as two:
        model = OpenAIModel(OpenAIModelConfig(base_url=[one.base_url, two.base_url]))
        converse(model, rollouts=2, times=3)

    assert sent(one) == [None, "a=1"]
    assert sent(two) == [None, None, "b=2", "b=2", "b=2"]


def test_a_cookie_of_the_users_own_stays_alone():
    """
    Headers of the options win over ours.
    """
    with LoopbackEndpoint(asking("a=1")) as endpoint:
        model = OpenAIModel(OpenAIModelConfig(base_url=endpoint.base_url, default_headers={"Cookie": "mine=1"}))
        converse(model, rollouts=1, times=2)

    assert sent(endpoint) == ["mine=1", "mine=1"]


def test_a_run_keeps_a_rollout_at_its_worker(tmp_path):
    """
    Faults, tool calls and turns are all of one conversation.
    """
    retry_now = {"Retry-After": "0", "Set-Cookie": "worker=9"}
    script = [status(500, headers=retry_now), calls("get_weather", city="Oslo"), says("Cold.")]
    with LoopbackEndpoint(*script) as endpoint:
        plan = {
            "environments": {"example_single_tool_call": {"limit": 1}},
            "models": {"policy": {"use": "openai_model", "config": {"base_url": endpoint.base_url}}},
        }
        run_sync(plan, tmp_path / "run", environ={})

    assert sent(endpoint) == [None, "worker=9", "worker=9"]
