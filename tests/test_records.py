"""
What is passed around and written down: records are frozen, lines read back equal, and a failure is never a reward.
"""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gymcore.documents import DocumentError, decode_json
from gymcore.records import (
    ROLLOUT_KEYS,
    ROUTE_KEYS,
    Failure,
    Reward,
    Rollout,
    Row,
    Task,
    ToolCall,
    Trajectory,
    Turn,
    extend_object,
    seed_of,
)
from gymcore.responses import function_call, function_call_output, message

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NUMBER = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
OBJECT = st.dictionaries(TEXT, JSON, max_size=4)
SECONDS = st.floats(0, 1e12)
TURNS = st.builds(
    Turn,
    output=st.lists(OBJECT, max_size=3).map(tuple),
    results=st.lists(OBJECT, max_size=2).map(tuple),
    answer=st.none() | OBJECT,
    usage=st.none() | OBJECT,
    response_id=st.none() | TEXT,
    status=st.none() | TEXT,
    duration_s=SECONDS,
    attempts=st.integers(0, 9),
)
ROWS = st.builds(
    lambda own, task_id: Row(json.dumps({**own, "environment": "e", "task_id": task_id}).encode()),
    OBJECT.map(lambda own: {key: value for key, value in own.items() if key not in ROLLOUT_KEYS}),
    TEXT | st.integers(0, 2**60),
)
ENVELOPES = OBJECT.map(lambda own: {key: value for key, value in own.items() if key not in ("output", "usage")})
METRIC = st.none() | st.booleans() | NUMBER | TEXT | st.lists(NUMBER | TEXT, max_size=2)
ROLLOUTS = st.builds(
    Rollout,
    row=ROWS,
    repeat=st.integers(0, 100),
    trajectory=st.builds(Trajectory, turns=st.lists(TURNS, max_size=3).map(tuple), stop=TEXT, envelope=ENVELOPES),
    reward=st.builds(
        Reward,
        value=st.floats(allow_nan=False, allow_infinity=False),
        parts=st.dictionaries(TEXT, st.floats(allow_nan=False, allow_infinity=False), max_size=2),
        metrics=st.dictionaries(TEXT, METRIC, max_size=3),
        info=OBJECT,
    ),
    started_at=SECONDS,
    duration_s=SECONDS,
    provenance=OBJECT,
)


def _rollout(**changes: Any) -> Rollout:
    row = Row(b'{"environment":"e","task_id":"e/1","agent_ref":{"name":"e_simple_agent"}}')
    return Rollout(**{"row": row, "repeat": 0, "trajectory": Trajectory(), **changes})


# -- rollouts ----------------------------------------------------------------------------------------------------------


@given(ROLLOUTS)
def test_a_rollout_reads_back_equal(rollout: Rollout) -> None:
    """
    What was written is what is read: every item, turn, number and text.
    """
    assert Rollout.from_line(rollout.to_line()) == rollout


@given(ROLLOUTS)
def test_a_rollout_is_one_line_that_begins_with_its_row(rollout: Rollout) -> None:
    """
    The row's own bytes stand first, unchanged, and nothing in the line breaks it.
    """
    line = rollout.to_line()

    assert line.startswith(rollout.row.data.rstrip()[:-1].rstrip())
    assert b"\n" not in line
    assert set(decode_json(line)) >= {
        "repeat",
        "response",
        "reward",
        "metrics",
        "stop",
        "turns",
        "timing",
        "provenance",
    }


def test_the_response_of_a_rollout_is_the_whole_episode_with_usage_summed() -> None:
    """
    Readers of the wire format find every item in `response.output` and the tokens of all turns in `response.usage`.
    """
    turns = (
        Turn(output=(function_call("f", "{}", "c"),), results=(function_call_output("c", "1"),), usage={"n": 1}),
        Turn(output=(message("done"),), usage={"n": 2}),
    )
    trajectory = Trajectory(turns=turns, envelope={"id": "resp_2", "model": "m"})

    written = decode_json(_rollout(trajectory=trajectory, reward=Reward(value=1)).to_line())

    assert [item["type"] for item in written["response"]["output"]] == [
        "function_call",
        "function_call_output",
        "message",
    ]
    assert written["response"]["usage"] == {"n": 3}
    assert written["response"]["id"] == "resp_2"
    assert written["reward"] == 1.0


def test_a_failure_has_no_reward_key_at_all() -> None:
    """
    A line of `failures.jsonl` names the rollout and the reason, and cannot be taken for a zero.
    """
    failure = Failure(stage="model", error="ModelError", message="HTTP 500", retryable=True)

    written = decode_json(_rollout(failure=failure).to_failure_line())

    assert "reward" not in written
    assert (written["environment"], written["task_id"], written["repeat"]) == ("e", "e/1", 0)
    assert (written["stage"], written["retryable"]) == ("model", True)


def test_a_failure_is_no_result_and_a_result_no_failure() -> None:
    """
    Each kind of line is written only for its kind of rollout.
    """
    failure = Failure(stage="open", error="X", message="y", retryable=False)

    with pytest.raises(ValueError, match="failure"):
        _rollout(failure=failure).to_line()
    with pytest.raises(ValueError, match="did not fail"):
        _rollout(reward=Reward(value=0)).to_failure_line()


@pytest.mark.parametrize("line", [b"{", b"", b"\xff", b"nonsense"])
def test_a_torn_line_is_no_rollout(line: bytes) -> None:
    """
    Half a line raises what readers of lines expect.
    """
    with pytest.raises(DocumentError):
        Rollout.from_line(line)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_no_number_is_refused(value: float) -> None:
    """
    A verifier that divides by nothing has failed; its NaN is no reward, and no part of one.
    """
    with pytest.raises(ValidationError):
        Reward(value=value)
    with pytest.raises(ValidationError):
        Reward(value=1, parts={"a": value})


def test_records_are_frozen() -> None:
    """
    What is passed around does not change on the way.
    """
    with pytest.raises(ValidationError):
        Reward(value=1).value = 2
    with pytest.raises(FrozenInstanceError):
        Trajectory().stop = "x"  # type: ignore[misc]
    with pytest.raises(ValidationError):
        Reward(value=1, reason="unknown key")


# -- rows --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "extra", "joined"),
    [
        (b'{"a":1}', b'{"b":2}', b'{"a":1,"b":2}'),
        (b"{}", b'{"b":2}', b'{"b":2}'),
        (b"{ \t }", b'{"b":2}', b'{"b":2}'),
        (b'{"a": 1 }  ', b'{"b":2}', b'{"a": 1,"b":2}'),
        (b'  { "a" : "{" }', b'{"b":2}', b'  { "a" : "{","b":2}'),
        (b'{"a":{}}', b"{}", b'{"a":{}}'),
        (b"{}", b"{}", b"{}"),
    ],
)
def test_objects_are_joined_whatever_their_spacing(row: bytes, extra: bytes, joined: bytes) -> None:
    """
    The first object's bytes are kept, and the second's members follow.
    """
    assert extend_object(row, extra) == joined


@given(OBJECT, OBJECT, st.sampled_from([None, 2]))
def test_joined_objects_hold_the_members_of_both(first: dict[str, Any], second: dict[str, Any], indent: int) -> None:
    """
    Parsing the result gives the union of the two, later members winning.
    """
    data = json.dumps(first, indent=indent).encode()

    joined = Row(data).extended(second)

    assert json.loads(joined) == {**first, **second}


def test_rows_are_equal_when_their_values_are() -> None:
    """
    Spacing and the order of keys are no difference between rows.
    """
    assert Row(b'{"a":1,"task_id":"x"}') == Row(b'{ "task_id": "x", "a": 1 }')
    assert hash(Row(b'{"a":1,"task_id":"x"}')) == hash(Row(b'{ "task_id": "x", "a": 1 }'))
    assert Row(b'{"a":1}') != Row(b'{"a":2}')
    assert Row(b'{"a":1}') != {"a": 1}


@pytest.mark.parametrize(
    "row",
    [
        {"environment": "world", "task_id": "world/1"},
        {"task_id": "world/1", "environment": "world"},
        {"environment": "world", "task_id": 7},
        {"environment": "world", "task_id": 'a "quoted" one \\'},
        {"environment": "world", "task_id": "é 世界"},
        {"environment": "world", "task_id": "x" * 500},
        {"environment": "world", "task_id": "own", "more": {"environment": "other", "task_id": "inner"}},
        {"environment": "world", "task_id": "own", "more": ',"environment":"other","task_id":"inner"}'},
    ],
)
@pytest.mark.parametrize("spacing", [(",", ":"), (", ", ": ")])
@pytest.mark.parametrize("end", ["", " ", "\n"])
def test_a_row_knows_whose_it_is_wherever_that_stands(row: dict[str, Any], spacing: tuple[str, str], end: str) -> None:
    """
    Looking at the last bytes says the same as parsing all of them.
    """
    data = json.dumps({"prompt": "hi", **row}, separators=spacing, ensure_ascii=False).encode() + end.encode()

    assert Row(data).identity == ("world", str(row["task_id"]))
    assert Row(data, json.loads(data)).identity == Row(data).identity


def test_a_task_keeps_the_keys_that_no_field_names() -> None:
    """
    A row is its author's; what we do not know of it is not lost.
    """
    task = Task.model_validate({"responses_create_params": {"input": "q"}, "own": {"x": 1}})

    assert task.model_dump()["own"] == {"x": 1}


def test_the_keys_of_routes_and_rollouts_do_not_overlap() -> None:
    """
    A routed row is never mistaken for a result.
    """
    assert set(ROUTE_KEYS).isdisjoint(ROLLOUT_KEYS)


# -- seeds -------------------------------------------------------------------------------------------------------------


def test_seeds_do_not_change_from_one_version_to_the_next() -> None:
    """
    A seed is part of what a finished rollout means, so its value is pinned.
    """
    assert seed_of(0, "example/1") == 2202709419937389108
    assert seed_of(0, 1) == seed_of(0, "1")


@given(st.integers(-(2**63), 2**63 - 1), st.text(st.characters()) | st.integers())
def test_a_seed_is_a_number_that_every_generator_takes(plan_seed: int, task_id: str | int) -> None:
    """
    It lies from 0 to 2**63 - 1, whatever the task is called.
    """
    assert 0 <= seed_of(plan_seed, task_id) < 2**63


@given(st.lists(st.text(max_size=5), unique=True, min_size=2), st.integers(0, 99))
def test_tasks_have_seeds_of_their_own(tasks: list[str], plan_seed: int) -> None:
    """
    Different tasks, and different plans, start from different states.
    """
    assert len({seed_of(plan_seed, task) for task in tasks}) == len(tasks)
    assert seed_of(plan_seed, tasks[0]) != seed_of(plan_seed + 1, tasks[0])


# -- turns and calls ---------------------------------------------------------------------------------------------------


@given(st.text(st.characters()))
def test_reading_the_arguments_of_a_call_never_raises(text: str) -> None:
    """
    A model may write anything; a verifier gets a dictionary.
    """
    assert isinstance(ToolCall("f", text).parsed(), dict)


@pytest.mark.parametrize(
    ("text", "value"),
    [('{"a": 1}', {"a": 1}), ("[1]", {}), ("null", {}), ("", {}), ("{", {}), ("[" * 100_000, {}), ('{"a": NaN}', {})],
)
def test_arguments_that_are_no_object_read_as_empty(text: str, value: dict[str, Any]) -> None:
    """
    Only a JSON object is arguments.
    """
    assert ToolCall("f", text).parsed() == value


@pytest.mark.parametrize(
    ("item", "call"),
    [
        (function_call("f", '{"a":1}', "c"), ToolCall("f", '{"a":1}', "c")),
        ({"type": "function_call", "name": "f", "arguments": {"a": 1}}, ToolCall("f", '{"a":1}', "")),
        ({"type": "function_call"}, ToolCall("", "", "")),
        ({"type": "function_call", "name": None, "call_id": 7, "arguments": ""}, ToolCall("null", "", "7")),
    ],
)
def test_calls_are_read_from_items_well_formed_or_not(item: dict[str, Any], call: ToolCall) -> None:
    """
    A call with missing or mistyped fields is still a call, which the environment can answer.
    """
    assert Turn(output=(item,)).calls == (call,)


def test_a_trajectory_finds_its_calls_and_its_last_word() -> None:
    """
    Calls are found by name over all turns; the text is that of the last turn only.
    """
    turns = (
        Turn(output=(message("first"), function_call("f", "1", "a"), function_call("g", "2", "b"))),
        Turn(output=(function_call("f", "3", "c"), message("la"), message("st")), answer=message("more?", role="user")),
    )
    trajectory = Trajectory(turns=turns)

    assert [call.call_id for call in trajectory.calls("f")] == ["a", "c"]
    assert [call.call_id for call in trajectory.calls()] == ["a", "b", "c"]
    assert trajectory.last_call("f") == ToolCall("f", "3", "c")
    assert trajectory.last_call("h") is None
    assert trajectory.text == "last"
    assert len(trajectory.items) == 7
    assert Trajectory().text == ""


def test_a_trajectory_is_truncated_when_a_limit_cut_it_off() -> None:
    """
    Every word but `finished` and `empty` is a limit.
    """
    assert not Trajectory(stop="finished").is_truncated
    assert not Trajectory(stop="empty").is_truncated
    assert all(Trajectory(stop=stop).is_truncated for stop in ("truncated", "max_turns", "max_time", "their_own"))


def test_a_turn_is_empty_when_it_neither_says_nor_asks() -> None:
    """
    Blank text is no text; a call is something.
    """
    assert Turn(output=()).is_empty
    assert Turn(output=(message(" \n"), {"type": "reasoning"})).is_empty
    assert not Turn(output=(function_call("f", "", ""),)).is_empty
    assert not Turn(output=(message("x"),)).is_empty


@pytest.mark.parametrize(
    ("data", "epoch"),
    [
        (b'{"environment":"e","task_id":"t"}', 1),
        (b'{"agent_ref":{},"environment":"e","task_id":"t","epoch":3}', 3),
        (b'{"epoch":2,"agent_ref":{},"environment":"e","task_id":"t"}', 2),
        (b'{"text":"an \\"epoch\\" ago","agent_ref":{},"environment":"e","task_id":"t"}', 1),
    ],
)
def test_a_row_says_its_epoch_wherever_it_stands(data: bytes, epoch: int) -> None:
    """
    As compose writes it, and as somebody has put it in another place.
    """
    assert Row(data).epoch == epoch
    assert Row(data).identity == ("e", "t")


def test_a_changed_turn_has_the_calls_of_its_own_output() -> None:
    """
    What was found in the output of one is not taken for that of another.
    """
    turn = Turn(output=({"type": "function_call", "name": "look", "arguments": "{}", "call_id": "1"},))
    assert [call.name for call in turn.calls] == ["look"]

    assert replace(turn, output=()).calls == ()
