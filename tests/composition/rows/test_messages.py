"""
Rows in the words of chat completions: turned into what the Responses API asks, and nothing guessed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gymcore.composition import Composition
from gymcore.composition.rows.messages import MessageError, input_of_messages
from gymcore.composition.rows.preparation import RowError, prepare_row
from gymcore.errors import DataError

Compose = Callable[..., Composition]
Write = Callable[..., str]

USER = {"role": "user", "content": "Hi."}


def _call(name: str = "look", arguments: Any = "{}", **changes: Any) -> dict[str, Any]:
    return {"type": "function", "id": "c1", "function": {"name": name, "arguments": arguments}, **changes}


def _called(call_id: str = "c1", arguments: str = "{}") -> dict[str, Any]:
    return {"type": "function_call", "call_id": call_id, "name": "look", "arguments": arguments}


def _answered(call_id: str = "c1", output: str = "4") -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def _assistant(*calls: Any, content: Any = None) -> dict[str, Any]:
    return {"role": "assistant", "content": content, "tool_calls": list(calls)}


@pytest.mark.parametrize(
    ("messages", "items"),
    [
        ([USER], [USER]),
        ([{"role": "system", "content": "S"}, USER], [{"role": "system", "content": "S"}, USER]),
        ([{**USER, "name": "Ann", "tool_calls": None}], [{**USER, "name": "Ann"}]),
        ([_assistant(_call())], [_called()]),
        ([_assistant(_call(), content="")], [_called()]),
        ([_assistant(_call(), content="So:")], [{"role": "assistant", "content": "So:"}, _called()]),
        (
            [{**_assistant(_call(), content="So:"), "prompt_token_ids": [1], "generation_token_ids": None}],
            [{"role": "assistant", "content": "So:"}, {**_called(), "prompt_token_ids": [1]}],
        ),
        (
            [{**_assistant(content="So."), "prompt_token_ids": [1]}],
            [{"role": "assistant", "content": "So.", "prompt_token_ids": [1]}],
        ),
        ([_assistant(_call(arguments={"a": [1]}))], [_called(arguments='{"a":[1]}')]),
        ([_assistant(_call(arguments=None))], [_called()]),
        (
            [_assistant(_call()), {"role": "tool", "tool_call_id": "c1", "content": "4"}, USER],
            [_called(), _answered(), USER],
        ),
        (
            [_assistant(_call(id=None), _call(id=None)), *({"role": "tool", "content": text} for text in "45")],
            [_called("call_0"), _called("call_1"), _answered("call_0"), _answered("call_1", "5")],
        ),
        (
            [_assistant(_call(id="call_0"), _call(id=None), _call(id="call_2"), _call(id=None))],
            [_called("call_0"), _called("call_1"), _called("call_2"), _called("call_3")],
        ),
        (
            [
                _assistant(_call(id=None)),
                {"role": "tool", "content": "4"},
                _assistant(_call(id="call_0")),
                {"role": "tool", "tool_call_id": "call_0", "content": "5"},
            ],
            [_called("call_1"), _answered("call_1"), _called("call_0"), _answered("call_0", "5")],
        ),
        (
            [_assistant(_call()), {"role": "tool", "content": [{"type": "text", "text": "4"}]}],
            [_called(), _answered()],
        ),
        ([_assistant(_call()), {"role": "tool", "content": None}], [_called(), _answered(output="")]),
        (
            [{"role": "user", "content": [{"type": "text", "text": "See"}]}],
            [{"role": "user", "content": [{"type": "input_text", "text": "See"}]}],
        ),
        (
            [{"role": "assistant", "content": [{"type": "text", "text": "See"}]}],
            [{"role": "assistant", "content": [{"type": "output_text", "text": "See"}]}],
        ),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/y", "detail": "low"}}]}],
            [{"role": "user", "content": [{"type": "input_image", "image_url": "http://x/y", "detail": "low"}]}],
        ),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": "data:x"}]}],
            [{"role": "user", "content": [{"type": "input_image", "image_url": "data:x", "detail": "auto"}]}],
        ),
        (
            [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}],
            [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}],
        ),
        (
            [{"role": "user", "content": [{"type": "input_text", "text": "x", "more": 1}]}],
            [{"role": "user", "content": [{"type": "input_text", "text": "x", "more": 1}]}],
        ),
    ],
)  # fmt: skip
def test_messages_become_items(messages: list[Any], items: list[Any]) -> None:
    """
    Texts and parts, tool calls and their results, each in the words of the Responses API.
    """
    assert input_of_messages(messages) == items


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        (["Hi."], "messages.0 is no message"),
        ([{"content": "Hi."}], "messages.0.role is None"),
        ([USER, {"role": "human", "content": "x"}], "messages.1.role is 'human', and none of system"),
        ([{"role": "user"}], "messages.0 has no content"),
        ([{"role": "user", "content": 5}], "messages.0.content must be a text or a list of parts"),
        ([{"role": "user", "content": [5]}], "messages.0.content.0 is no part"),
        ([{"role": "user", "content": [{"type": "image"}]}], "messages.0.content.0 is no part"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages.0.content.0 is no part"),
        ([_assistant({"name": "look"})], "messages.0.tool_calls.0 must look like"),
        ([{"role": "assistant", "tool_calls": 5}], "messages.0.tool_calls is no list"),
        ([{**USER, "tool_calls": [_call()]}], "only an assistant calls tools"),
        ([_assistant(_call(id=5))], "messages.0.tool_calls.0.id must be a text"),
        ([_assistant(_call(), _call())], "stands twice"),
        ([{"role": "tool", "content": "4"}], "messages.0 answers None, which no message before it has called"),
        ([_assistant(_call()), {"role": "tool", "tool_call_id": "c2", "content": ""}], "messages.1 answers 'c2'"),
        ([_assistant(_call()), *[{"role": "tool", "content": ""}] * 2], "messages.2 answers None"),
        ([_assistant(_call()), {"role": "tool", "content": {"a": 1}}], "messages.1.content of a tool"),
    ],
)  # fmt: skip
def test_what_is_no_conversation_is_answered_with_its_place(messages: list[Any], said: str) -> None:
    """
    Nothing is left out or guessed.
    """
    with pytest.raises(MessageError) as caught:
        input_of_messages(messages)

    assert said in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "tool_calls", "id", "function", "tool_call_id"]), inner
        )
    ),
    max_leaves=8,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy
@given(st.fixed_dictionaries({}, optional=dict.fromkeys(("messages", "prompt", "input"), JSON)))
def test_whatever_a_row_holds_is_read_or_refused(row: dict[str, Any]) -> None:
    """
    Rows are anything: they never raise anything else.
    """
    with suppress(RowError):
        prepared = prepare_row(json.dumps(row).encode(), row)
        assert json.loads(prepared.line) == prepared.row
        assert prepared.row["responses_create_params"]["input"]


# -- rows --------------------------------------------------------------------------------------------------------------


def _inputs(composition: Composition) -> list[Any]:
    return [row.value["responses_create_params"]["input"] for row in composition.dataset]


@pytest.mark.parametrize(
    ("asking", "asked", "key"),
    [
        ({"messages": [USER]}, [USER], "messages"),
        ({"prompt": "Hi."}, "Hi.", "prompt"),
        ({"prompt": [USER]}, [USER], "prompt"),
        ({"input": "Hi."}, "Hi.", "input"),
        ({"input": [_called(), _answered()]}, [_called(), _answered()], "input"),
        ({"messages": [USER], "prompt": None}, [USER], "messages"),
    ],
)
def test_a_row_may_ask_in_other_words(
    composed: Compose, write_rows: Write, asking: dict[str, Any], asked: Any, key: str
) -> None:
    """
    Its own bytes are kept, `responses_create_params` follows them, and a note says how many rows it is about.
    """
    line = json.dumps({"answer": "it", **asking, "own": [1]}, indent=1).replace("\n", " ").encode()

    composition = composed({"environments": {"echo": {"data": write_rows(line, line)}}})

    assert _inputs(composition) == [asked, asked]
    assert all(row.data.startswith(line[:-2]) for row in composition.dataset)
    assert composition.notes == (f"echo: what is asked is taken from `{key}` (2 rows)",)


def test_a_note_is_about_the_rows_that_are_taken(composed: Compose, write_rows: Write) -> None:
    """
    One that is left out for another reason is none of them.
    """
    rows = write_rows({"answer": "it", "prompt": "Hi."}, {"answer": 5, "prompt": "Hi."})

    composition = composed({"environments": {"echo": {"data": rows}}, "check": {"skip_invalid": True}})

    assert composition.notes[0] == "echo: what is asked is taken from `prompt` (1 rows)"


def test_other_parameters_of_a_row_are_kept(composed: Compose, write_rows: Write) -> None:
    """
    A row may say how it is to be answered, and what is asked elsewhere.
    """
    row = {"answer": "it", "responses_create_params": {"temperature": 0.5}, "messages": [USER]}

    (composed_row,) = composed({"environments": {"echo": {"data": write_rows(row)}}}).dataset

    assert composed_row.value["responses_create_params"] == {"temperature": 0.5, "input": [USER]}


@pytest.mark.parametrize("key", ["messages", "prompt"])
def test_an_input_that_is_null_is_none(composed: Compose, write_rows: Write, key: str) -> None:
    """
    Tables write null where a row has nothing; what is asked elsewhere holds.
    """
    row = {"answer": "it", "responses_create_params": {"input": None}, key: [USER]}

    assert _inputs(composed({"environments": {"echo": {"data": write_rows(row)}}})) == [[USER]]


def test_an_answer_at_the_end_of_messages_is_pointed_out(composed: Compose, write_rows: Write) -> None:
    """
    Rows that were made to be imitated hold the answer, which the model would read.
    """
    row = {"answer": "it", "messages": [USER, {"role": "assistant", "content": "it"}]}

    composition = composed({"environments": {"echo": {"data": write_rows(row)}}})

    note = "echo: `messages` ends with a message of the assistant, which the model will see (1 rows)"
    assert note in composition.notes


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"messages": [USER], "prompt": "Hi."}, "asks in `messages` and in `prompt`"),
        ({"messages": [USER], "responses_create_params": {"input": "Bye."}}, "one thing in `messages` and another"),
        ({"messages": []}, "`messages` is empty"),
        ({"messages": [{"role": "user", "content": []}]}, "messages.0 has no content"),
        ({"messages": "Hi."}, "`messages` must be a list of messages"),
        ({"prompt": " "}, "`prompt` is empty"),
        ({"prompt": 5}, "`prompt` must be a text or a list of messages"),
        ({"messages": [5]}, "messages.0 is no message"),
        ({"conversations": []}, "the row has no `responses_create_params`"),
        ({"responses_create_params": None}, "responses_create_params: input should be"),
    ],
)
def test_a_row_that_asks_nothing_or_two_things_is_a_mistake(
    composed: Compose, write_rows: Write, row: dict[str, Any], said: str
) -> None:
    """
    With its file and line.
    """
    path = write_rows({"answer": "a", "prompt": "x"}, {"answer": "it", **row})

    with pytest.raises(DataError) as caught:
        composed({"environments": {"echo": {"data": path}}})

    assert [problem.where for problem in caught.value.problems] == [f"{path}:2"]
    assert said in caught.value.problems[0].message


@pytest.mark.parametrize(
    "more",
    [
        {"messages": [USER]},
        {"messages": [{"role": "user", "content": "Hi.", "name": None}]},
        {"messages": "a text of the author's"},
        {"messages": [{"from": "human"}]},
        {"prompt": "another"},
        {"input": "another"},
    ],
)
def test_a_row_that_says_its_input_keeps_its_bytes(composed: Compose, write_rows: Write, more: dict[str, Any]) -> None:
    """
    The same in other words is no second question, and keys that mean something else are its environment's.
    """
    row = {"answer": "it", "responses_create_params": {"input": "Hi."}, **more}

    composition = composed({"environments": {"echo": {"data": write_rows(row)}}})

    (composed_row,) = composition.dataset
    assert composed_row.data.startswith(json.dumps(row).encode()[:-1])
    assert composition.notes == ()


def test_what_was_turned_composes_to_itself(composed: Compose, write_rows: Write) -> None:
    """
    A composed row is settled: its messages are what it was made from.
    """
    first = composed({"environments": {"echo": {"data": write_rows({"answer": "it", "messages": [USER]})}}})

    again = composed({"data": write_rows(*(row.data for row in first.dataset), name="again.jsonl")})

    assert [row.data for row in again.dataset] == [row.data for row in first.dataset]
    assert again.notes == ()
