"""
Light requests and replies, as whoever knows only httpx sees them.
"""

import asyncio
from contextlib import AsyncExitStack

import httpx
import pytest
from gym_plugin_openai_model.model import OpenAIModel, OpenAIModelConfig
from gym_plugin_openai_model.prepared import Prepared, Reply

from gymcore import Environment, ModelError, Request, RolloutContext, Task
from gymcore.responses import message, text_of
from gymcore.testing.endpoint import LoopbackEndpoint, half_a_body, hangs, says

ADDRESS = httpx.URL("http://model.test:8000/v1/responses?a=b")
PREPARED = Prepared(ADDRESS, {"accept": "application/json", "authorization": "Bearer x"}, {"timeout": {"connect": 5.0}})


def test_a_prepared_request_is_a_whole_request():
    """
    A prepared request has what httpx itself would have put into one, whatever is looked at first.
    """
    ours = PREPARED.request(b'{"a":1}')
    plain = httpx.Request("POST", ADDRESS, headers=dict(PREPARED.headers), content=b'{"a":1}')

    assert ours.stream is ours.stream
    assert (ours.method, ours.url, ours.content, ours.read()) == (plain.method, plain.url, plain.content, plain.content)
    assert ours.headers == plain.headers
    assert ours.headers["host"] == "model.test:8000"
    assert ours.headers["content-length"] == "7"
    assert b"".join(ours.stream) == b'{"a":1}'
    assert repr(ours) == "<PreparedRequest('POST', 'http://model.test:8000/v1/responses?a=b')>"


def test_requests_do_not_share_what_differs():
    """
    Changing the headers of one request changes no other.
    """
    first, second = PREPARED.request(b"1"), PREPARED.request(b"22")
    first.headers["x-team"] = "blue"

    assert "x-team" not in second.headers
    assert [first.headers["content-length"], second.headers["content-length"]] == ["1", "2"]


async def streamed(reply):
    return b"".join([chunk async for chunk in reply.aiter_bytes()])


def test_a_reply_is_a_whole_response():
    """
    A reply answers as an ordinary response does.
    """
    headers = [("content-type", "application/json"), ("set-cookie", "a=1"), ("set-cookie", "b=2")]
    reply = Reply(404, headers, b'{"a": "\xc3\xa9"}', PREPARED.request(b""))

    assert (reply.is_success, reply.status_code, reply.reason_phrase) == (False, 404, "Not Found")
    assert reply.content == reply.read() == asyncio.run(reply.aread()) == b'{"a": "\xc3\xa9"}'
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.headers.get_list("set-cookie") == ["a=1", "b=2"]
    assert (reply.num_bytes_downloaded, reply.history, reply.extensions) == (len(reply.content), [], {})
    assert b"".join(reply.iter_bytes()) == reply.content
    assert asyncio.run(streamed(reply)) == reply.content
    assert reply.json() == {"a": "\u00e9"}
    assert reply.text == '{"a": "\u00e9"}'
    with pytest.raises(httpx.HTTPStatusError, match="404 Not Found"):
        reply.raise_for_status()


@pytest.mark.parametrize("api", ["responses", "chat"])
def test_httpx_carries_prepared_requests(api):
    """
    httpx's own connections, handed in, take our requests as they are, and their faults are ours.
    """

    def model(base_url, **options):
        config = OpenAIModelConfig(base_url=base_url, api=api, max_retries=0, **options)
        return OpenAIModel(config, transport=httpx.AsyncHTTPTransport())

    async def work(model):
        environment = Environment(Task(responses_create_params={"input": "Hello."}))
        rollout = RolloutContext(environment, ("hello", "hello/0", 0), 0, AsyncExitStack())
        async with model.opened():
            return await model.respond(Request(input=(message("Hello.", role="user"),)), rollout)

    with LoopbackEndpoint(says("Hi."), half_a_body(), hangs()) as endpoint:
        response = asyncio.run(work(model(endpoint.base_url)))
        with pytest.raises(ModelError, match="closed connection"):
            asyncio.run(work(model(endpoint.base_url)))
        with pytest.raises(ModelError, match=r"no reply within 0\.1 s \(timeout_s\)"):
            asyncio.run(work(model(endpoint.base_url, timeout_s=0.1)))

    assert text_of(response.output[0]) == "Hi."
    assert endpoint.requests[0].headers["content-type"] == "application/json"
