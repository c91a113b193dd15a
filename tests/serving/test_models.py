"""
The models of a plan as endpoints: the Responses API, and Chat Completions over it, streamed or whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from gymcore import EndpointError, Environment, Model, ModelError, Response, Trajectory
from gymcore.builtin.oracle import Oracle
from gymcore.composition import Composition
from gymcore.responses import function_call, message

Composed = Callable[..., Composition]
Serving = Callable[..., Any]


class World(Environment):
    """One that is content."""

    def verify(self, trajectory: Trajectory) -> float:
        return 1.0


class Echo(Model):
    """A model that answers with what it was asked, in JSON."""

    async def respond(self, request: Any, rollout: Any) -> Response:
        asked = {"input": list(request.input), "params": dict(request.params)}
        usage = {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}
        return Response(output=[message(json.dumps(asked))], usage=usage, extra={"kept": True})


class Judge(Model):
    """Another model of the plan."""

    async def respond(self, request: Any, rollout: Any) -> Response:
        return Response(output=[message("guilty")], model="judge-7b")


async def test_a_response_is_the_models_own_with_what_clients_insist_on(composed: Composed, wire: Serving) -> None:
    """
    Unknown keys of the reply stay, and those of the API are there.
    """
    async with wire(composed({"a": (World, 1)}, Echo)) as served:
        reply = (await served.post("/v1/responses", {"input": "Hello", "temperature": 0.5, "model": "x"})).json()

    asked = json.loads(reply["output"][0]["content"][0]["text"])
    assert asked["params"] == {"temperature": 0.5}
    assert asked["input"][0]["content"] == "Hello"
    assert reply["extra"] == {"kept": True}
    assert {"id", "object", "created_at", "model", "status", "tools", "tool_choice", "parallel_tool_calls"} <= set(
        reply
    )


async def test_the_models_of_the_plan_are_chosen_by_their_names(composed: Composed, wire: Serving) -> None:
    """
    Any other name is the policy, because clients send the name that some endpoint gives it.
    """
    async with wire(composed({"a": (World, 1)}, Echo, judges={"judge": Judge})) as served:
        judged = (await served.post("/v1/responses", {"input": "?", "model": "judge"})).json()
        other = (await served.post("/v1/responses", {"input": "?", "model": "gpt-99"})).json()
        listed = (await served.client.get("/v1/models")).json()

    assert judged["output"][0]["content"][0]["text"] == "guilty"
    assert judged["model"] == "judge-7b"
    assert "?" in other["output"][0]["content"][0]["text"]
    assert {model["id"] for model in listed["data"]} == {"policy", "judge"}


CHAT = {
    "model": "policy",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Add."},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "4"},
    ],
    "tools": [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}],
    "tool_choice": {"type": "function", "function": {"name": "add"}},
    "max_tokens": 7,
    "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}},
}


async def test_a_chat_request_is_said_in_the_words_of_responses(composed: Composed, wire: Serving) -> None:
    """
    Messages, tools, choices and limits arrive at the model as the API calls them.
    """
    async with wire(composed({"a": (World, 1)}, Echo)) as served:
        reply = (await served.post("/v1/chat/completions", CHAT)).json()

    asked = json.loads(reply["choices"][0]["message"]["content"])
    assert [item.get("type", item.get("role")) for item in asked["input"]] == [
        "system",
        "user",
        "function_call",
        "function_call_output",
    ]
    assert asked["params"]["tools"] == [{"type": "function", "name": "add", "parameters": {"type": "object"}}]
    assert asked["params"]["tool_choice"] == {"type": "function", "name": "add"}
    assert asked["params"]["max_output_tokens"] == 7
    assert asked["params"]["text"]["format"]["type"] == "json_schema"
    assert reply["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    assert reply["choices"][0]["finish_reason"] == "stop"


async def test_a_completion_has_what_stands_on_the_last_item(composed: Composed, wire: Serving) -> None:
    """
    Token ids, log-probabilities and keys of next year are in the message and its choice, and ids go back to the model.
    """
    ids: dict[str, Any] = {"prompt_token_ids": [1], "generation_token_ids": [2], "generation_log_probs": [-0.5]}
    logprobs = {"content": [{"token": "a", "logprob": -0.5}]}
    asked = []

    class Trained(Model):
        async def respond(self, request: Any, rollout: Any) -> Response:
            asked.append(request.input)
            last = {**function_call("add", "{}", "c1"), **ids, "logprobs": logprobs, "next_year": [1]}
            return Response(output=[message("So:"), last])

    async with wire(composed({"a": (World, 1)}, Trained)) as served:
        [choice] = (await served.post("/v1/chat/completions", CHAT)).json()["choices"]
        result = {"role": "tool", "tool_call_id": "c1", "content": "3"}
        again = {**CHAT, "messages": [{"role": "user", "content": "Hi."}, choice["message"], result], "stream": True}
        stream = (await served.post("/v1/chat/completions", again)).text

    assert {key: choice["message"][key] for key in (*ids, "next_year")} == {**ids, "next_year": [1]}
    assert set(choice["message"]) == {"role", "content", "tool_calls", *ids, "next_year"}
    assert choice["logprobs"] == logprobs
    said, called = asked[1][1:3]
    assert {key: called[key] for key in ids} == ids
    assert not set(said) & set(ids)
    [streamed] = json.loads(stream.removeprefix("data: ").partition("\n")[0])["choices"]
    assert streamed["logprobs"] == logprobs
    assert streamed["delta"]["prompt_token_ids"] == [1]


async def test_log_probabilities_in_the_parts_of_a_message_are_those_of_the_choice(
    composed: Composed, wire: Serving
) -> None:
    """
    The Responses API has them there.
    """
    entry = {"token": "Hi", "logprob": -0.1, "bytes": [72, 105], "top_logprobs": []}

    class Sure(Model):
        async def respond(self, request: Any, rollout: Any) -> Response:
            part = {"type": "output_text", "text": "Hi", "annotations": [], "logprobs": [entry]}
            return Response(output=[{"type": "message", "role": "assistant", "content": [part]}])

    async with wire(composed({"a": (World, 1)}, Sure)) as served:
        [choice] = (await served.post("/v1/chat/completions", CHAT)).json()["choices"]

    assert choice["logprobs"] == {"content": [entry]}
    assert choice["message"] == {"role": "assistant", "content": "Hi"}


async def test_a_stream_says_the_same(composed: Composed, wire: Serving) -> None:
    """
    For clients that always ask for one: a chunk with everything, and the end.
    """

    class Calls(Model):
        async def respond(self, request: Any, rollout: Any) -> Response:
            return Response(output=[function_call("add", '{"n":1}', "c1"), function_call("add", '{"n":2}', "c2")])

    async with wire(composed({"a": (World, 1)}, Calls)) as served:
        whole = (await served.post("/v1/chat/completions", CHAT)).json()
        stream = await served.post("/v1/chat/completions", {**CHAT, "stream": True})

    chunk, end, *rest = [line.removeprefix("data: ") for line in stream.text.split("\n\n")]
    delta = json.loads(chunk)["choices"][0]["delta"]
    assert stream.headers["content-type"].startswith("text/event-stream")
    assert (end, rest) == ("[DONE]", [""])
    assert [call["index"] for call in delta["tool_calls"]] == [0, 1]
    assert whole["choices"][0]["finish_reason"] == json.loads(chunk)["choices"][0]["finish_reason"] == "tool_calls"


class Everything(Model):
    """A model that says, refuses, thinks, calls and does what nobody knows, and is cut off."""

    async def respond(self, request: Any, rollout: Any) -> Response:
        assert "stream" not in request.params
        assert "stream_options" not in request.params
        refusal = {"type": "refusal", "refusal": "I will not."}
        thought = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "sealed"}
        said = message("Hi.")
        said["content"] += [refusal, {"type": "unheard_of"}]
        call = {**function_call("add", '{"n": 1}', "c1"), "prompt_token_ids": [1, 2]}
        output = [thought, said, {"type": "unheard_of_call", "id": "x_1"}, call]
        return Response(output=output, status="incomplete", usage={"output_tokens": 2})


async def test_the_events_of_a_response_add_up_to_it(composed: Composed, wire: Serving) -> None:
    """
    Each item is added, filled and done, and the last event holds the whole response, as it comes without a stream.
    """
    asked = {"input": "x", "stream": True, "stream_options": {"include_obfuscation": False}}
    async with wire(composed({"a": (World, 1)}, Everything)) as served:
        whole = (await served.post("/v1/responses", {"input": "x"})).json()
        reply = await served.post("/v1/responses", asked)

    lines = [block.split("\n") for block in reply.text.removesuffix("\n\n").split("\n\n")]
    events = [json.loads(data.removeprefix("data: ")) for _, data in lines]
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert [name.removeprefix("event: ") for name, _ in lines] == [event["type"] for event in events]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"] for event in events][:2] == ["response.created", "response.in_progress"]
    assert events[-1]["type"] == "response.incomplete"
    assert _unnamed(events[-1]["response"]) == _unnamed(whole)
    found: dict[str, list[Any]] = {}
    for event in events[2:-1]:
        found.setdefault(event["type"].removeprefix("response."), []).append(event)
    output = events[-1]["response"]["output"]
    assert [event["item"] for event in found["output_item.done"]] == output
    assert [event["item"].get("content", "none") for event in found["output_item.added"]] == [
        "none",
        [],
        "none",
        "none",
    ]
    assert [event["part"] for event in found["content_part.done"]] == output[1]["content"]
    assert [event["delta"] for event in found["output_text.delta"]] == ["Hi."]
    assert [event["delta"] for event in found["refusal.delta"]] == ["I will not."]
    assert [event["delta"] for event in found["function_call_arguments.delta"]] == ['{"n": 1}']
    assert {event["item_id"] for event in found["content_part.added"]} == {output[1]["id"]}


def _unnamed(response: Any) -> str:
    """Return a response without what differs from one to the next."""
    return re.sub(r'"created_at": \d+|(resp|msg)_\w+', "", json.dumps(response))


async def test_a_whole_episode_can_be_asked_for_as_a_stream(composed: Composed, wire: Serving) -> None:
    """
    Of the agent of a session.
    """
    composition = composed({"a": (World, 1)}, Echo)
    row = next(iter(composition.dataset)).value
    async with wire(composition) as served:
        await served.post("/seed_session", row)
        body = {"input": "x", "model": row["agent_ref"]["name"], "stream": True}
        reply = await served.post("/v1/responses", body)

    assert reply.text.count("event: response.completed") == 1
    assert "stream" not in reply.text


@pytest.mark.parametrize(
    ("path", "body", "status", "told"),
    [
        ("/v1/responses", {"input": "x", "stream": "yes"}, 422, "stream"),
        ("/v1/responses", {"input": 3}, 422, "input"),
        ("/v1/responses", {}, 422, "input"),
        ("/v1/responses", {"input": "x", "top_p": 7}, 422, "top_p"),
        ("/v1/chat/completions", {}, 422, "messages"),
        ("/v1/chat/completions", {"messages": []}, 422, "messages"),
        ("/v1/chat/completions", {"messages": [{"role": "alien"}]}, 422, "role"),
        ("/v1/chat/completions", {**CHAT, "n": 2}, 422, "one choice"),
        ("/v1/chat/completions", {**CHAT, "stream": "false"}, 422, "stream"),
    ],
)
async def test_what_cannot_be_asked_is_told_so(
    composed: Composed, wire: Serving, path: str, body: dict[str, Any], status: int, told: str
) -> None:
    """
    Before any model is asked.
    """
    async with wire(composed({"a": (World, 1)}, Echo)) as served:
        reply = await served.post(path, body)

    assert reply.status_code == status
    assert told in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ModelError("no luck"), "no luck"),
        (EndpointError("wrong key"), "wrong key"),
        (RuntimeError("odd"), "RuntimeError: odd"),
    ],
)
async def test_a_model_that_fails_is_a_bad_gateway(
    composed: Composed, wire: Serving, error: Exception, told: str
) -> None:
    """
    With its reason, and the server goes on.
    """

    class Fails(Model):
        async def respond(self, request: Any, rollout: Any) -> Response:
            raise error

    async with wire(composed({"a": (World, 1)}, Fails)) as served:
        reply = await served.post("/v1/responses", {"input": "x"})
        fine = await served.client.get("/health")

    assert reply.status_code == 502
    assert told in reply.json()["error"]["message"]
    assert fine.status_code == 200


async def test_a_model_that_plays_solutions_answers_no_request_of_its_own(composed: Composed, wire: Serving) -> None:
    """
    The oracle has no environment to play then, and says so; the environments that are served are not blamed.
    """
    composition = composed({"a": (World, 1)}, Oracle)
    called = composition.models["policy"].plugin.name
    async with wire(composition) as served:
        reply = await served.post("/v1/responses", {"input": "x"})

    assert reply.status_code == 501
    told = f"the model {called!r} plays only whole rollouts, by /run; name another with --model"
    assert reply.json() == {"error": {"message": told}}
