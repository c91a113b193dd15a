"""
Anthropic's Messages API over the models of a plan: what is asked arrives, what is answered comes back, and can be sent
again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from gymcore import Environment, Model, ModelError, Response, Trajectory
from gymcore.builtin.oracle import Oracle
from gymcore.composition import Composition
from gymcore.responses import Item, function_call, message
from gymcore.serving.messages import create_params_of, events_of, message_of
from gymcore.serving.refusals import Refusal

Composed = Callable[..., Composition]
Serving = Callable[..., Any]

IDS: dict[str, Any] = {"prompt_token_ids": [1], "generation_token_ids": [2], "generation_log_probs": [-0.5]}


class World(Environment):
    """One that is content."""

    def verify(self, trajectory: Trajectory) -> float:
        return 1.0


def answering(*output: Item, **keys: Any) -> tuple[type[Model], list[Any]]:
    """Return a model that always says the same, and the list of what it was asked."""
    asked: list[Any] = []

    class Answers(Model):
        async def respond(self, request: Any, rollout: Any) -> Response:
            asked.append(request)
            return Response(output=[dict(item) for item in output], **keys)

    return Answers, asked


def asking(*content: Any, role: str = "user", **keys: Any) -> dict[str, Any]:
    """Return a request with one message."""
    return {"model": "policy", "max_tokens": 7, "messages": [{"role": role, "content": list(content)}], **keys}


THOUGHT = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]}
TOOL = {"name": "add", "description": "Adds.", "input_schema": {"type": "object"}, "cache_control": {"type": "x"}}


async def test_a_conversation_is_said_in_the_words_of_responses(composed: Composed, wire: Serving) -> None:
    """
    System, messages, images, calls, results, tools and limits arrive as the Responses API calls them.
    """
    model, asked = answering(message("Fine."))
    image = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
    body = {
        "model": "claude",
        "system": [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Add.", "cache_control": {}}],
        "messages": [
            {"role": "user", "content": "Hello."},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Hm.", "signature": ""},
                    {"type": "text", "text": "So: "},
                    {"type": "text", "text": "two."},
                    {"type": "tool_use", "id": "c1", "name": "add", "input": {"n": 1}},
                    {"type": "tool_use", "id": "c2", "name": "look", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "c1", "content": "4", "is_error": False},
                    {"type": "tool_result", "tool_use_id": "c2", "content": [{"type": "image", "source": image}]},
                    {"type": "text", "text": "And this?"},
                    {"type": "image", "source": {"type": "url", "url": "http://x/y.png"}},
                ],
            },
        ],
        "tools": [TOOL],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        "max_tokens": 7,
        "stop_sequences": ["END"],
        "temperature": 0.5,
        "top_k": 3,
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "metadata": {"user_id": "x"},
        "output_config": {"effort": "max", "format": {"type": "json_schema", "schema": {"type": "object"}}},
        "context_management": {"edits": []},
    }
    async with wire(composed({"a": (World, 1)}, model)) as served:
        reply = await served.post("/v1/messages?beta=true", body)

    assert reply.json()["content"] == [{"type": "text", "text": "Fine."}]
    [request] = asked
    png = {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "auto"}
    other = {"type": "input_image", "image_url": "http://x/y.png", "detail": "auto"}
    system, hello, thought, *rest = request.input
    assert system == {"type": "message", "role": "system", "content": "Be brief.\nAdd."}
    assert hello == {"type": "message", "role": "user", "content": "Hello."}
    assert {**THOUGHT, "id": thought["id"]} == thought
    assert rest == [
        {"type": "message", "role": "assistant", "content": "So: two."},
        {"type": "function_call", "call_id": "c1", "name": "add", "arguments": '{"n":1}'},
        {"type": "function_call", "call_id": "c2", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "4"},
        {"type": "function_call_output", "call_id": "c2", "output": [png]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "And this?"}, other]},
    ]
    schema = {"type": "json_schema", "name": "output", "schema": {"type": "object"}, "strict": True}
    function = {"name": "add", "description": "Adds.", "parameters": {"type": "object"}, "strict": False}
    assert dict(request.params) == {
        "max_output_tokens": 7,
        "parallel_tool_calls": False,
        "stop": ["END"],
        "temperature": 0.5,
        "text": {"format": schema},
        "tool_choice": "required",
        "tools": [{"type": "function", **function}],
        "top_k": 3,
    }


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "add"}, {"type": "function", "name": "add"}),
    ],
)
def test_a_choice_of_tools_is_said(choice: Item, said: Any) -> None:
    """
    Each in its word.
    """
    params = create_params_of(asking({"type": "text", "text": "x"}, tools=[TOOL], tool_choice=choice))

    assert params["tool_choice"] == said
    assert "parallel_tool_calls" not in params


async def test_an_answer_is_a_message_with_what_stands_on_its_last_item(composed: Composed, wire: Serving) -> None:
    """
    Thoughts, texts and calls are blocks in their order; token ids are on the last, and go back to the model from there.
    """
    call = {**function_call("add", '{"n": 1}', "c1"), **IDS, "next_year": [1]}
    usage = {"input_tokens": 9, "output_tokens": 2, "total_tokens": 11, "input_tokens_details": {"cached_tokens": 4}}
    model, asked = answering(THOUGHT, message("So:"), call, usage=usage, model="mine-7b")
    async with wire(composed({"a": (World, 1)}, model)) as served:
        said = (await served.post("/v1/messages", asking({"type": "text", "text": "Add."}))).json()
        result = {"type": "tool_result", "tool_use_id": "c1", "content": "3"}
        turns = [{"role": "user", "content": "Add."}, {"role": "assistant", "content": said["content"]}]
        again = {"max_tokens": 7, "messages": [*turns, {"role": "user", "content": [result]}]}
        await served.post("/v1/messages", again)

    assert said.pop("id").startswith("msg_")
    assert said == {
        "type": "message",
        "role": "assistant",
        "model": "mine-7b",
        "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": ""},
            {"type": "text", "text": "So:"},
            {"type": "tool_use", "id": "c1", "name": "add", "input": {"n": 1}, **IDS, "next_year": [1]},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 5,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 4,
            "output_tokens": 2,
        },
    }
    _, thought, text, called, _ = asked[1].input
    assert (thought["content"], text["content"]) == (THOUGHT["content"], "So:")
    assert {key: called[key] for key in IDS} == IDS
    assert not (set(thought) | set(text)) & set(IDS)


async def test_a_stream_is_the_same_message_event_by_event(composed: Composed, wire: Serving) -> None:
    """
    For clients that always ask for one: put together again it is what is answered without.
    """
    output = [THOUGHT, message("So:"), {**function_call("add", '{"n":1}', "c1"), **IDS}]
    model, _ = answering(*output, usage={"input_tokens": 3, "output_tokens": 2, "total_tokens": 5})
    body = asking({"type": "text", "text": "Add."})
    async with wire(composed({"a": (World, 1)}, model)) as served:
        whole = (await served.post("/v1/messages", body)).json()
        stream = await served.post("/v1/messages", {**body, "stream": True})

    pairs = [entry.split("\n") for entry in stream.text.removesuffix("\n\n").split("\n\n")]
    events = [json.loads(data.removeprefix("data: ")) for _, data in pairs]
    assert stream.headers["content-type"].startswith("text/event-stream")
    assert [name.removeprefix("event: ") for name, _ in pairs] == [event["type"] for event in events]
    block = ["content_block_start", "content_block_delta", "content_block_stop"]
    thinking = [block[0], block[1], block[1], block[2]]
    assert [event["type"] for event in events] == [
        "message_start",
        *thinking,
        *block,
        *block,
        "message_delta",
        "message_stop",
    ]
    assert (events[0]["message"]["content"], events[0]["message"]["stop_reason"]) == ([], None)
    ended = events[-2]
    assert {**_put_together(events), "id": whole["id"], **ended["delta"], "usage": ended["usage"]} == whole


def _put_together(events: list[Item]) -> dict[str, Any]:
    """Read a stream as its clients do."""
    said: dict[str, Any] = {**events[0]["message"]}
    blocks = said["content"]
    for event in events:
        if event["type"] == "content_block_start":
            blocks.append(event["content_block"])
        elif event["type"] == "content_block_delta":
            delta = {key: value for key, value in event["delta"].items() if key != "type"}
            [(key, value)] = delta.items()
            block = blocks[event["index"]]
            if key == "partial_json":
                block["input"] = json.loads(value)
            else:
                block[key] += value
    return said


@pytest.mark.parametrize("arguments", ['{"n": 1', "[1]", "x", '"x"'])
def test_what_a_model_wrote_that_is_no_input_goes_to_the_client_and_back(arguments: str) -> None:
    """
    Whoever runs the tools tells the model, as of any other mistake, and the model sees what it wrote.
    """
    said = message_of({"output": [function_call("add", arguments, "c1")], "model": "m"}, {})
    params = create_params_of(asking(*said["content"], role="assistant"))

    assert said["content"][0]["input"] == {"INVALID_JSON": arguments}
    assert params["input"][0]["arguments"] == arguments


def test_reasoning_that_only_its_endpoint_reads_comes_back_to_it() -> None:
    """
    What is shown of it is a thought with a signature, or one that is redacted; its id would not be taken.
    """
    summed = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}], "encrypted_content": "abc"}
    hidden = {"type": "reasoning", "summary": [], "encrypted_content": "def"}
    nothing = {"id": "rs_3", "type": "reasoning", "summary": []}
    said = message_of({"output": [{"id": "rs_1", **summed}, {"id": "rs_2", **hidden}, nothing], "model": "m"}, {})

    assert said["content"] == [
        {"type": "thinking", "thinking": "Hm.", "signature": "abc"},
        {"type": "redacted_thinking", "data": "def"},
    ]
    assert create_params_of(asking(*said["content"], role="assistant"))["input"] == [summed, hidden]
    assert b'"content_block":{"type":"redacted_thinking","data":"def"}' in events_of(said)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({}, "end_turn"),
        ({"status": "incomplete"}, "max_tokens"),
        ({"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}, "max_tokens"),
        ({"status": "incomplete", "incomplete_details": {"reason": "content_filter"}}, "refusal"),
        (
            {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens", "message": "full"}},
            "model_context_window_exceeded",
        ),
    ],
)
def test_why_an_answer_ended_is_told(keys: Item, reason: str) -> None:
    """
    A text that was cut off is not taken for a whole one; where nothing was counted, nothing is.
    """
    said = message_of({"output": [message("Hi")], "model": "m", "usage": None, **keys}, {})

    assert said["stop_reason"] == reason
    assert set(said["usage"].values()) == {0}


def test_every_call_of_a_message_can_be_answered() -> None:
    """
    Where a model gives its calls no ids, or the same ones, they get some.
    """
    output = [
        {**function_call("add", "{}", ""), "call_id": call_id, "arguments": arguments}
        for call_id, arguments in ((None, "{}"), ("", None), ("same", "{}"), ("same", "{}"))
    ]

    said = message_of({"model": "m", "output": output}, {})

    ids = [block["id"] for block in said["content"]]
    assert ids[2] == "same"
    assert len(set(ids)) == 4
    assert all(ids)
    assert [block["input"] for block in said["content"]] == [{}] * 4
    results = [{"type": "tool_result", "tool_use_id": call_id, "content": "3"} for call_id in ids]
    again = [{"role": "assistant", "content": said["content"]}, {"role": "user", "content": results}]
    items = create_params_of({"messages": again})["input"]
    assert [item["call_id"] for item in items] == ids * 2


def test_an_empty_reply_has_no_blocks() -> None:
    """
    Anthropic refuses an empty text where it is sent back.
    """
    assert message_of({"model": "m", "output": [message("")]}, {"x": 1})["content"] == []


def test_an_item_without_words_is_named() -> None:
    """
    Instead of being lost.
    """
    with pytest.raises(Refusal, match="no words for an item of type 'web_search_call'"):
        message_of({"output": [{"type": "web_search_call"}], "model": "m"}, {})


TEXT = {"type": "text", "text": "x"}
CALL = {"type": "tool_use", "id": "c1", "name": "add", "input": {}}


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, "`messages` must be a list"),
        ({"messages": []}, "`messages` must be a list"),
        ({"messages": [{"role": "user", "content": []}]}, "nothing is asked"),
        ({"messages": [3]}, "messages.0: must be a message"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0: must be a message whose `role`"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages.0.content: must be a text or a list"),
        (asking("x"), "messages.0.content.0: is no block"),
        (asking({"type": "text", "text": 3}), "messages.0.content.0.text: must be a text"),
        (asking(TEXT, {"type": "document"}), "messages.0.content.1: is of type 'document'"),
        (asking(CALL), "messages.0.content.0: is of type 'tool_use'"),
        (asking({**CALL, "input": "{}"}, role="assistant"), "messages.0.content.0.input: must be an object"),
        (asking(CALL, CALL, role="assistant"), "messages.0.content.1.id: 'c1' stands twice"),
        (asking({"type": "tool_result", "tool_use_id": "c9"}), "messages.0.content.0.tool_use_id: 'c9' is no call"),
        (asking({"type": "image", "source": {"type": "file"}}), "messages.0.content.0.source: must be of type base64"),
        (asking(TEXT, system=[CALL]), "system.0: is of type 'tool_use'"),
        (asking(TEXT, max_tokens=0), "max_tokens: must be"),
        (asking(TEXT, temperature=7), "temperature: must be"),
        (asking(TEXT, stop_sequences="END"), "stop_sequences: must be"),
        (asking(TEXT, tools={}), "tools: must be a list"),
        (asking(TEXT, tools=[{"type": "web_search_20250305", "name": "web_search"}]), "'web_search_20250305' is Anth"),
        (asking(TEXT, tools=[TOOL, {"name": "x"}]), "tools.1.input_schema: must be an object"),
        (asking(TEXT, tool_choice="auto"), "tool_choice: must be an object"),
        (asking(TEXT, tool_choice={"type": "tool"}), "tool_choice.name: must be a text"),
        (asking(TEXT, mcp_servers=[{}]), "mcp_servers: only tools that the client runs"),
        (asking(TEXT, output_config={"format": {"type": "xml"}}), "output_config.format: must be of type json_schema"),
    ],
)
async def test_what_cannot_be_asked_is_told_so(composed: Composed, wire: Serving, body: Any, told: str) -> None:
    """
    With its place, in the shape that clients of the API show, before any model is asked.
    """
    model, asked = answering(message("never"))
    async with wire(composed({"a": (World, 1)}, model)) as served:
        reply = await served.post("/v1/messages", body)

    assert reply.status_code == 422
    error = reply.json()["error"]
    assert told in error["message"]
    assert (reply.json()["type"], error["type"], asked) == ("error", "invalid_request_error", [])


async def test_whoever_is_asked_is_chosen_as_in_other_calls(composed: Composed, wire: Serving) -> None:
    """
    A name of the plan is that model, any other the policy; one that plays only whole rollouts says so.
    """
    judge, _ = answering(message("guilty"), model="judge-7b")
    other, _ = answering(message("fine"))
    async with wire(composed({"a": (World, 1)}, other, judges={"judge": judge})) as served:
        judged = (await served.post("/v1/messages", {**asking(TEXT), "model": "judge"})).json()
        plain = (await served.post("/v1/messages", {**asking(TEXT), "model": "claude-99"})).json()
        uncounted = await served.post("/v1/messages/count_tokens", asking(TEXT))
    async with wire(composed({"a": (World, 1)}, Oracle)) as served:
        refused = await served.post("/v1/messages", asking(TEXT))

    assert (judged["model"], judged["content"][0]["text"]) == ("judge-7b", "guilty")
    assert (plain["model"], plain["content"][0]["text"]) == ("policy", "fine")
    assert uncounted.status_code == 404
    assert (refused.status_code, refused.json()["error"]["type"]) == (501, "api_error")


async def test_a_model_that_fails_is_told_with_all_that_other_calls_tell(composed: Composed, wire: Serving) -> None:
    """
    Also where a stream was asked for: it has not begun.
    """

    class Fails(Model):
        async def respond(self, request: Any, rollout: Any) -> Response:
            raise ModelError("no luck", retryable=False)

    async with wire(composed({"a": (World, 1)}, Fails)) as served:
        reply = await served.post("/v1/messages", asking(TEXT, stream=True))

    assert reply.status_code == 502
    assert reply.headers["x-should-retry"] == "false"
    assert reply.json() == {"type": "error", "error": {"type": "api_error", "message": "no luck", "retryable": False}}
