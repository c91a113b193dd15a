"""
The objects of the Responses API: what we know is read, and what we do not know travels through.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gymcore.responses import (
    CreateParams,
    Request,
    Response,
    Usage,
    function_call,
    function_call_output,
    message,
    sum_usage,
    text_of,
)


def test_unknown_fields_of_a_reply_travel_through() -> None:
    """
    Token ids, log-probabilities and fields of next year are in what is written back.
    """
    reply = {
        "id": "resp_1",
        "output": [{"type": "message", "content": [{"type": "output_text", "text": "hi", "logprobs": [-0.5]}]}],
        "usage": {"input_tokens": 3, "cached": {"tokens": 1}},
        "prompt_token_ids": [1, 2, 3],
        "field_of_next_year": {"a": [None]},
    }

    assert Response.parse(reply).body is reply


def test_a_reply_is_truncated_when_the_endpoint_says_incomplete() -> None:
    """
    Only the status `incomplete` counts; a missing status is a complete reply.
    """
    assert Response(status="incomplete").is_truncated
    assert not Response(status="completed").is_truncated
    assert not Response().is_truncated


def test_a_text_prompt_becomes_one_user_message() -> None:
    """
    `input` may be a text; the request holds it as the message it stands for.
    """
    request = CreateParams(input="Hello").request()

    assert request.input == ({"type": "message", "role": "user", "content": "Hello"},)
    assert request.params == {}


def test_every_other_create_parameter_is_kept_as_it_came() -> None:
    """
    Known and unknown parameters are in the request, and those that were not given are not.
    """
    given = {"input": [{"role": "user", "content": "x"}], "tools": None, "temperature": 0, "x": {"y": [1]}}

    request = CreateParams.model_validate(given).request()

    assert request.input == ({"role": "user", "content": "x"},)
    assert request.params == {"tools": None, "temperature": 0, "x": {"y": [1]}}


def test_create_parameters_without_a_prompt_are_refused() -> None:
    """
    Nothing stands for a prompt that is not there.
    """
    with pytest.raises(ValidationError, match="Field required"):
        CreateParams.model_validate({})


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("temperature", "hot"),
        ("temperature", 2.1),
        ("temperature", True),
        ("max_output_tokens", -5),
        ("max_output_tokens", 1.5),
        ("tool_choice", 5),
        ("tool_choice", "any"),
        ("parallel_tool_calls", "yes"),
        ("metadata", [1]),
        ("metadata", {"a": 1}),
        ("top_p", 99),
        ("top_logprobs", 21),
        ("stream", "x"),
        ("include", "x"),
        ("reasoning", "high"),
        ("truncation", "never"),
        ("instructions", ["x"]),
        ("input", []),
        ("input", 5),
        ("input", None),
        ("input.1", [{"role": "user", "content": "x"}, "x"]),
        ("tools", "x"),
        ("tools.0", ["x"]),
        ("input.0", [{"foo": 1}]),
        ("input.0.role", [{"role": "wizard", "content": "x"}]),
        ("input.0.role", [{"type": "message", "content": "x"}]),
        ("input.1.content", [{"role": "user", "content": "x"}, {"role": "user", "content": 5}]),
        ("input.0.content", [{"role": "user", "content": ["x"]}]),
        ("input.0.content", [{"role": "user", "content": [{"text": "x"}]}]),
        ("input.0.type", [{"type": 5}]),
        ("tools.0", [{"name": "f"}]),
        ("tools.1", [{"type": "web_search"}, {"type": "function"}]),
    ],
)
def test_what_an_endpoint_would_refuse_is_refused_with_its_place(place: str, value: Any) -> None:
    """
    A parameter of another kind or beyond its range, a message that is none, a tool that nobody can tell.
    """
    with pytest.raises(ValidationError) as caught:
        CreateParams.model_validate({"input": "x", place.partition(".")[0]: value})

    (mistake,) = caught.value.errors(include_url=False)
    assert ".".join(map(str, mistake["loc"])) == place
    assert "must" in mistake["msg"] or "has a" in mistake["msg"]


def test_what_an_endpoint_takes_is_taken() -> None:
    """
    Numbers at the ends of their ranges, null, items of any type, tools that the endpoint carries out itself.
    """
    items = [
        {"role": "developer", "content": "x"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "x"}]},
        {"type": "function_call_output", "call_id": "c", "output": "x"},
        {"type": "of next year"},
    ]
    given = {
        "input": items,
        "tools": [{"type": "web_search"}, {"type": "function", "name": "f"}],
        **{"temperature": 2, "top_p": 0.0, "max_output_tokens": 1, "top_logprobs": None, "metadata": {}},
        **{"tool_choice": {"type": "function", "name": "f"}, "stream": False, "reasoning": {"effort": "low"}},
    }

    params = CreateParams.model_validate(given)

    assert params.model_dump(exclude_unset=True) == given


def test_all_mistakes_of_a_prompt_are_told_at_once() -> None:
    """
    Whoever mends a row mends it once.
    """
    with pytest.raises(ValidationError) as caught:
        CreateParams.model_validate({"input": [{"role": "x"}, {"foo": 1}], "temperature": "hot", "top_p": 5})

    assert caught.value.error_count() == 4


def test_a_continued_request_leaves_the_first_one_as_it_was() -> None:
    """
    Conversations grow by making new requests; the parameters stay the same.
    """
    first = Request(input=(message("q", role="user"),), params={"temperature": 1})

    second = first.continued([message("a")])

    assert len(first.input) == 1
    assert [text_of(item) for item in second.input] == ["q", "a"]
    assert second.params == {"temperature": 1}


def test_items_are_built_as_the_api_describes_them() -> None:
    """
    A message, a call and its result have the types, names and call ids that the API uses.
    """
    assert message("hi")["content"] == [{"type": "output_text", "text": "hi", "annotations": []}]
    assert function_call("f", "{}", "c1") == {
        "type": "function_call",
        "call_id": "c1",
        "name": "f",
        "arguments": "{}",
        "status": "completed",
    }
    assert function_call_output("c1", "x") == {"type": "function_call_output", "call_id": "c1", "output": "x"}


@pytest.mark.parametrize(
    ("item", "text"),
    [
        ({"role": "user", "content": "plain"}, "plain"),
        (message("built"), "built"),
        ({"type": "message", "content": [{"text": "a"}, {"refusal": "b"}, {"type": "image"}]}, "ab"),
        ({"type": "message", "content": ["x", 5, None, {"text": 7}]}, ""),
        ({"type": "message", "content": None}, ""),
        ({"type": "message"}, ""),
        ({"type": "message", "content": 5}, ""),
        ({"type": "reasoning", "content": "hidden"}, ""),
        ({}, ""),
    ],
)
def test_the_text_of_an_item_is_what_its_parts_say(item: dict[str, Any], text: str) -> None:
    """
    Texts and refusals are joined; whatever else a model put there is silently no text.
    """
    assert text_of(item) == text


def test_usage_is_summed_key_by_key_and_inside_objects() -> None:
    """
    Numbers add up at every depth, other values are kept from the first reply that has them, and None is skipped.
    """
    first = {"input_tokens": 3, "details": {"cached": 1}, "tier": "a", "cost": 0.5}
    second = {"input_tokens": 4, "details": {"cached": 2, "new": 5}, "tier": "b", "cost": 0.25, "more": 1}

    total = sum_usage([None, first, second])

    assert total == {"input_tokens": 7, "details": {"cached": 3, "new": 5}, "tier": "a", "cost": 0.75, "more": 1}
    assert first == {"input_tokens": 3, "details": {"cached": 1}, "tier": "a", "cost": 0.5}


@pytest.mark.parametrize("number", [1e308, -1e308, float("inf"), float("nan"), 10**400, 2**63])
def test_a_number_that_no_count_can_be_spoils_no_sum(number: float) -> None:
    """
    Sums over any number of replies, and of sums over any number of rollouts, stay numbers that JSON has.
    """
    usages = [{"total_tokens": 3, "cost": 0.5}, {"total_tokens": number, "details": {"cached": number}, "cost": 0.5}]

    assert sum_usage(usages) == {"total_tokens": 3, "cost": 1.0, "details": {}}
    assert sum_usage([{"total_tokens": number}]) == {}


def test_usage_of_any_depth_is_summed() -> None:
    """
    A thousand objects in one another end no run; the counts above them are kept.
    """
    deep: dict[str, Any] = {}
    for _ in range(5_000):
        deep = {"a": deep}
    usage = {"total_tokens": 3, "details": {"cached": 1, "a": deep}}

    total = sum_usage([usage, usage])

    assert total is not None
    assert (total["total_tokens"], total["details"]["cached"]) == (6, 2)
    while deep:  # taken apart by hand: an interpreter of a small stack would not survive freeing it
        deep = deep["a"]


def test_no_usage_is_none_and_not_zero() -> None:
    """
    Where no reply reported tokens, nothing is invented.
    """
    assert sum_usage([]) is None
    assert sum_usage([None, None]) is None


USAGE = st.dictionaries(
    st.text(max_size=3),
    st.integers() | st.none() | st.booleans() | st.text() | st.dictionaries(st.text(max_size=3), st.integers()),
)


@given(st.lists(st.none() | USAGE))
def test_summing_any_usage_raises_nothing(usages: list[dict[str, Any] | None]) -> None:
    """
    Endpoints that report a count as a text, a number or an object by turns end no rollout.
    """
    total = sum_usage(usages)

    assert (total is None) == all(usage is None for usage in usages)


@given(st.lists(st.dictionaries(st.sampled_from(["a", "b"]), st.integers(), min_size=1), min_size=1), st.randoms())
def test_the_order_of_replies_does_not_change_the_sum(usages: list[dict[str, int]], random: Any) -> None:
    """
    Adding up is adding up.
    """
    shuffled = list(usages)
    random.shuffle(shuffled)

    assert sum_usage(usages) == sum_usage(shuffled)


def test_usage_reads_the_usual_counts_and_keeps_the_others() -> None:
    """
    `Usage` is a typed view that loses nothing.
    """
    usage = Usage.model_validate({"input_tokens": 2, "reasoning_tokens": 1})

    assert (usage.input_tokens, usage.output_tokens) == (2, 0)
    assert usage.model_dump()["reasoning_tokens"] == 1


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ([], "no JSON object"),
        (None, "no JSON object"),
        ({}, "no output"),
        ({"output": None}, "no output"),
        ({"output": [{}, "text"]}, "output.1 is no object"),
        ({"output": [], "id": 7}, "id is no text"),
        ({"output": [], "model": []}, "model is no text"),
        ({"output": [], "status": True}, "status is no text"),
        ({"output": [], "usage": [1]}, "usage is no object"),
        ({"output": [], "incomplete_details": "x"}, "incomplete_details is no object"),
    ],
)
def test_a_reply_that_is_none_is_refused_with_the_place(body: Any, told: str) -> None:
    """
    What is read of a reply has the type that the API says, so that nothing behind it has to look again.
    """
    with pytest.raises(ValueError, match=told):
        Response.parse(body)


def test_a_reply_without_the_keys_that_may_be_missing_is_one() -> None:
    """
    Endpoints leave out, or set to null, what they have nothing to say about.
    """
    for body in ({"output": []}, {"output": [], "id": None, "model": None, "status": None, "usage": None}):
        response = Response.parse(body)
        assert (response.id, response.model, response.status, response.usage) == (None, None, None, None)
        assert not response.is_truncated
    assert Response.parse({"output": []}) == Response()
    assert Response.parse({"output": [], "id": "a", "usage": {}, "x": 1}).envelope == {"id": "a", "x": 1}
