"""
Rows: kept as their authors wrote them, given a route and an identity, and refused with their line when they are wrong.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gymcore.composition import Composition
from gymcore.errors import DataError
from gymcore.records import ROLLOUT_KEYS

PARAMS = {"input": [{"role": "user", "content": "Say it."}]}
ROUTE = {"name": "echo_simple_agent"}
OFFERED = {"type": "function", "name": "repeat"}

Compose = Callable[..., Composition]
Write = Callable[..., str]


def _row(answer: str = "it", **changes: Any) -> dict[str, Any]:
    return {"answer": answer, "responses_create_params": PARAMS, "agent_ref": ROUTE, **changes}


def _values(composition: Composition) -> list[dict[str, Any]]:
    return [row.value for row in composition.dataset]


# -- verbatim ----------------------------------------------------------------------------------------------------------


def test_a_row_is_its_authors_row_verbatim_and_its_route(composed: Compose, write_rows: Write) -> None:
    """
    Spacing, order, number formats and escapes stay as they came; the route keys follow.
    """
    line = (
        '{ "answer":"\\u0069t" ,\t"own": [1.50, 1e2, {"Ä":null}], "responses_create_params": {"input": "x"} }'.encode()
    )

    composition = composed({"environments": {"echo": {"data": write_rows(line)}}})

    (row,) = composition.dataset
    assert row.data.startswith(line[:-2])
    assert list(row.value)[-3:] == ["agent_ref", "environment", "task_id"]
    assert row.value["agent_ref"] == {"type": "responses_api_agents", "name": "echo_simple_agent"}
    assert row.value["environment"] == "echo"


def test_an_agent_reference_of_somebody_else_is_kept_as_it_came(composed: Compose, write_rows: Write) -> None:
    """
    A row made with jq has a bare `{"name": ...}`, and keeps it with everything else in it.
    """
    reference = {"name": "echo_simple_agent", "more": [1]}

    composition = composed({"data": write_rows(_row(agent_ref=reference))})

    assert [row["agent_ref"] for row in _values(composition)] == [reference]


@pytest.mark.parametrize("is_routed", [False, True])
def test_route_keys_that_are_null_are_absent(composed: Compose, write_rows: Write, is_routed: bool) -> None:
    """
    A nullable column of a table gives the ids that it would give if it were not there, and none is written as null.
    """
    nulls = {"task_id": None, "environment": None, **({} if is_routed else {"agent_ref": None})}
    plain_row = {key: value for key, value in _row().items() if is_routed or key != "agent_ref"}
    plans = []
    for name, row in (("with", {**plain_row, **nulls}), ("without", plain_row)):
        path = write_rows(row, row, name=f"{name}.jsonl")
        plans.append({"data": path} if is_routed else {"environments": {"echo": {"data": path}}})

    nullable, plain = (composed(plan) for plan in plans)

    assert _values(nullable) == _values(plain)
    assert all(row["task_id"].startswith("echo/") for row in _values(nullable))


def test_a_composed_row_composes_to_itself(composed: Compose, write_rows: Write) -> None:
    """
    What `dataset.jsonl` holds is a data file like any other: byte for byte the same again.
    """
    first = composed({"environments": {"echo": {}, "shout": {}}})

    again = composed({"data": write_rows(*(row.data for row in first.dataset))})

    assert [row.data for row in again.dataset] == [row.data for row in first.dataset]


@pytest.mark.parametrize(
    ("head", "end"),
    [
        (b"", b"\r\n"),
        (b"\xef\xbb\xbf", b"\n"),
        (b"\n\n \t\n", b"\n\n"),
        (b"", b"\n   \n"),
        (b"\xef\xbb\xbf\n", b"\r\n"),
    ],
    ids=["CRLF", "BOM", "blank lines before", "blank lines between", "BOM line"],
)
def test_how_a_file_is_broken_into_lines_does_not_matter(
    composed: Compose, write_rows: Write, tmp_path: Path, head: bytes, end: bytes
) -> None:
    """
    Line endings, a byte order mark and blank lines are no part of any row.
    """
    plain = composed({"data": write_rows(_row("a"), _row("b"))})
    odd = tmp_path / "odd.jsonl"
    odd.write_bytes(head + json.dumps(_row("a")).encode() + end + json.dumps(_row("b")).encode())

    assert [row.data for row in composed({"data": str(odd)}).dataset] == [row.data for row in plain.dataset]


# -- identity ----------------------------------------------------------------------------------------------------------


def _ids(composition: Composition) -> dict[str, Any]:
    return {row["answer"]: row["task_id"] for row in _values(composition) if "answer" in row}


def test_a_task_is_the_same_task_wherever_its_row_stands(composed: Compose, write_rows: Write) -> None:
    """
    Order, spacing, order of keys and other environments change no identity.
    """
    alone = composed({"data": write_rows(_row("a"), _row("b"), _row("c"))})
    spaced = json.dumps(dict(reversed(_row("b").items())), indent=1).replace("\n", " ").encode()
    among = composed(
        {"environments": {"shout": {"split": "example"}}, "data": write_rows(_row("c"), spaced, _row("a"))}
    )

    assert _ids(alone) == _ids(among)
    assert len(set(_ids(alone).values())) == 3
    assert all(str(task_id).startswith("echo/") for task_id in _ids(alone).values())


def test_the_same_content_in_two_environments_is_two_tasks(composed: Compose) -> None:
    """
    An identity says whose task it is.
    """
    composition = composed({"environments": {"echo": {}, "twin": {"use": "echo"}}})
    ids = {row["task_id"] for row in _values(composition)}

    assert len(ids) == len(composition.dataset) == 10


def test_twins_are_numbered(composed: Compose, write_rows: Write) -> None:
    """
    Rows with the same content are tasks of their own.
    """
    composition = composed({"data": write_rows(_row("a"), _row("a"), _row("b"), _row("a"))})
    ids = sorted(row["task_id"] for row in _values(composition) if row["answer"] == "a")

    assert ids == [ids[0], f"{ids[0]}-2", f"{ids[0]}-3"]


@pytest.mark.parametrize("own", ["mine", 7, 0, "echo/1"])
def test_an_authors_own_identity_is_kept(composed: Compose, write_rows: Write, own: str | int) -> None:
    """
    A text or an integer identifies the task; nothing else is made up.
    """
    assert [row["task_id"] for row in _values(composed({"data": write_rows(_row(task_id=own))}))] == [own]


# -- bad rows ----------------------------------------------------------------------------------------------------------

DEEP = b'{"answer": "it", "agent_ref": {"name": "echo_simple_agent"}, "own": ' + b"[" * 600 + b"]" * 600
DEEP += b', "responses_create_params": {"input": "x"}}'


def _tools(*tools: Any) -> dict[str, Any]:
    return _row(responses_create_params={**PARAMS, "tools": list(tools)})


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (b"{", "not JSON"),
        (b"nonsense", "not JSON"),
        (b'{"a": NaN}', "not JSON"),
        (b'{"a": "\xff"}', "not JSON"),
        (b'{"a": "\\ud800"}', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[1]", "a row is a JSON object, not [1]"),
        (b"null", "a row is a JSON object, not None"),
        (b"{}", "the row has no `agent_ref`"),
        ({"agent_ref": ROUTE, "answer": "x"}, "no `responses_create_params`"),
        (_row(responses_create_params=None), "responses_create_params: input should be"),
        (_row(responses_create_params={}), "responses_create_params.input: field required"),
        (_row(responses_create_params={"input": 5}), "responses_create_params.input"),
        (_row(responses_create_params={"input": [], "tools": 5}), "responses_create_params.tools"),
        (_row(answer=5), "answer: input should be a valid string"),
        ({"responses_create_params": PARAMS, "agent_ref": ROUTE}, "answer: field required"),
        (_row("no such word"), "KeyError: 'no such word'"),
        (_row(agent_ref=None), "the row has no `agent_ref`"),
        ({"responses_create_params": PARAMS, "answer": "x"}, "the row has no `agent_ref`"),
        (_row(agent_ref="echo_simple_agent"), "`agent_ref` must look like"),
        (_row(agent_ref={"nmae": "x"}), "`agent_ref` must look like"),
        (_row(agent_ref={"name": 5}), "`agent_ref` must look like"),
        (_row(agent_ref=[]), "`agent_ref` must look like"),
        (_row(agent_ref={"name": "ecoh_simple_agent"}), "no route is named 'ecoh_simple_agent'"),
        (_row(agent_ref={"name": "echo"}), "no route is named 'echo'"),
        (_row(agent_ref={"name": "echo_chess"}), "no route is named 'echo_chess'"),
        (_row(environment="shout"), "`environment` says 'shout', but its route leads to 'echo'"),
        (_row(environment="shout"), "try: jq -c 'del(.environment)' FILE, where they are rows of 'echo' all the same"),
        (_row(task_id=1.5), "`task_id` must be a text or an integer, not 1.5"),
        (_row(task_id=[], answer=5), "`task_id` must be a text or an integer, not []; answer: input should be"),
        (_row(environment=5), "environment: input should be a valid string"),
        (_tools({"type": "function", "name": "fly"}), "'echo' has no tool 'fly' (its tools: repeat)"),
        (_tools({"name": "fly"}), "responses_create_params.tools.0: a tool has a `type`"),
        (_tools({"type": "function", "name": ["x"]}), "tools.0: a function has a `name`"),
        (_tools({"type": "function"}), "tools.0: a function has a `name`"),
        (_row(epoch=0), "`epoch` counts from 1, to 2147483647 at most, and says 0"),
        (_row(epoch=2**31), "`epoch` counts from 1, to 2147483647 at most, and says 2147483648"),
        (_row(epoch=2**64 - 1), "`epoch` counts from 1, to 2147483647 at most, and says 18446744073709551615"),
        (_row(task_id=""), "`task_id` must be a text or an integer"),
        (_row(task_id=True), "`task_id` must be a text or an integer"),
        (_row(task_id=[1]), "task_id"),
        (_row(task_id=1.5), "task_id"),
        (DEEP, "nested too deeply"),
        (DEEP.replace(b'"own"', b'"task_id": "x", "own"'), "nested too deeply"),
        *((_row(**{key: 1}), f"the key {key!r}, which a rollout adds") for key in ROLLOUT_KEYS),
    ],
    ids=lambda value: None if isinstance(value, str) else str(value)[:40],
)
def test_a_bad_row_is_refused_with_file_and_line(composed: Compose, write_rows: Write, row: Any, said: str) -> None:
    """
    The message names the file, the line and what is wrong, and never raises anything else.
    """
    path = write_rows(_row("good"), b"", row)

    with pytest.raises(DataError) as caught:
        composed({"data": path})

    assert [problem.where for problem in caught.value.problems] == [f"{path}:3"]
    problem = caught.value.problems[0]
    assert said in " ".join([problem.message, *problem.hints])
    assert caught.value.message == "1 row is wrong, of 2 read; nothing was written"


@pytest.mark.parametrize(
    "tool",
    [
        {"type": "web_search", "name": ["x"]},
        {"type": "mcp", "server_label": "x"},
        {**OFFERED, "parameters": None},
        {**OFFERED, "parameters": {"required": [1, "a", None]}},
        {**OFFERED, "parameters": {"required": None}},
        {**OFFERED, "parameters": {"required": 5, "properties": []}},
        {**OFFERED, "parameters": [[{"required": {}}]]},
    ],
)
def test_odd_tools_in_a_row_are_no_crash(composed: Compose, write_rows: Write, tool: Any) -> None:
    """
    A tool that is not ours to run, and a schema that makes no sense, are at most worth a note.
    """
    assert len(composed({"data": write_rows(_tools(tool))}).dataset) == 1


def test_the_nearest_routes_are_named_for_an_unknown_one(composed: Compose, write_rows: Write) -> None:
    """
    The hint is the route that was probably meant.
    """
    with pytest.raises(DataError) as caught:
        composed({"data": write_rows(_row(agent_ref={"name": "ecoh_simple_agent"}))})

    assert "echo_simple_agent" in caught.value.problems[0].hints[0]


def test_the_first_ten_bad_rows_are_shown_and_the_others_counted(composed: Compose, write_rows: Write) -> None:
    """
    All mistakes of all files are found in one go; ten are enough to read.
    """
    first = write_rows(*([b"{"] * 7), _row(), name="first.jsonl")
    second = write_rows(*([_row(answer=5)] * 7), name="second.jsonl")

    with pytest.raises(DataError) as caught:
        composed({"data": [first, second]})

    assert (caught.value.count, len(caught.value.problems)) == (14, 10)
    assert caught.value.message == "14 rows are wrong, of 15 read; nothing was written"
    assert caught.value.hints[-1] == "... and 4 more"
    assert f"{second}:3: answer" in str(caught.value)


@pytest.mark.parametrize("is_asked_anew", [False, True])
def test_large_integers_keep_their_digits(composed: Compose, write_rows: Write, is_asked_anew: bool) -> None:
    """
    Wherever they stand below the row itself, also where its prompt is written anew.
    """
    large = 123456789012345678901234567890
    row = _row(meta={"id": [large]})
    plan: dict[str, Any] = {"data": write_rows(row)}
    if is_asked_anew:
        plan["environments"] = {"echo": {"prompt": {"system": "Be brief."}}}

    (written,) = [row.data for row in composed(plan).dataset]

    assert str(large).encode() in written


def test_rows_that_were_composed_and_their_originals_have_different_identities(
    composed: Compose, write_rows: Write
) -> None:
    """
    Joined into one file, an original gets the next free number of its content; two of one identity could not be told
    apart when they are played.
    """
    twice = [_row(), _row(), _row(answer="other")]
    known = _values(composed({"data": write_rows(*twice)}))
    name = known[0]["task_id"]

    rows = _values(composed({"data": write_rows(*known, *twice, name="both.jsonl")}))

    identities = [row["task_id"] for row in rows]
    assert identities[:3] == [name, f"{name}-2", known[2]["task_id"]]
    assert identities[3:] == [f"{name}-3", f"{name}-4", f"{known[2]['task_id']}-2"]
    with pytest.raises(DataError, match="an earlier row without a `task_id` has the same content as"):
        composed({"data": write_rows(*twice, *known, name="reverse.jsonl")})


def test_an_identity_that_stands_twice_is_refused(composed: Compose, write_rows: Write) -> None:
    """
    1 and "1" are one identity, because a rollout is found by its text.
    """
    with pytest.raises(DataError, match="stands twice in 'echo'"):
        composed({"data": write_rows(_row(task_id=1), _row(task_id="1"))})


def test_a_message_about_a_row_does_not_repeat_its_prompt(composed: Compose, write_rows: Write) -> None:
    """
    Rows may be long; messages are not.
    """
    row = _row(answer=["x" * 5000], environment="y" * 5000, agent_ref=ROUTE)

    with pytest.raises(DataError) as caught:
        composed({"data": write_rows(row, [row] * 3)})

    assert len(str(caught.value)) < 1000


# -- tools -------------------------------------------------------------------------------------------------------------


def _schema(**changes: Any) -> dict[str, Any]:
    text = {"type": "string", "description": "Other words.", "title": "Text"}
    times = {"type": "integer", "default": 1}
    schema = {"type": "object", "properties": {"text": text, "times": times}, "required": ["text"]}
    return {**OFFERED, "parameters": {**schema, "additionalProperties": False, **changes}}


def test_a_row_that_describes_a_tool_as_the_code_does_needs_no_warning(composed: Compose, write_rows: Write) -> None:
    """
    Titles, descriptions and order are no difference.
    """
    assert composed({"data": write_rows(_tools(_schema()))}).warnings == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"required": ["text", "times"]},
        {"properties": {"text": {"type": "string"}}},
        {"properties": {"text": {"type": "string"}, "times": {"type": "integer", "default": 1}, "title": {}}},
        {"additionalProperties": True},
    ],
)
def test_a_row_that_describes_a_tool_otherwise_is_kept_and_warned_of(
    composed: Compose, write_rows: Write, changes: dict[str, Any]
) -> None:
    """
    The model is offered what the row says; the warning counts how many rows do so.
    """
    row = _tools(_schema(**changes))

    composition = composed({"data": write_rows(row, row, _row())})

    (warning,) = [warning for warning in composition.warnings if warning.name == "tool-drift"]
    assert warning.message == "rows of echo describe the parameters of repeat otherwise than its code does (2 rows)"
    assert (warning.name, warning.count) == ("tool-drift", 2)
    assert [example.rpartition(":")[2] for example in warning.examples] == ["1", "2"]
    assert _values(composition)[0]["responses_create_params"]["tools"] == row["responses_create_params"]["tools"]


def test_every_row_is_noted_however_many_different_tools_there_are(composed: Compose, write_rows: Write) -> None:
    """
    What was found out about a list of tools is used again for the same list only.
    """
    same = [_tools(_schema(description=f"number {number}")) for number in range(100)]
    other = [_tools(_schema(properties={f"text_{number}": {}})) for number in range(100)]
    rows = [row for pair in zip(same, other, strict=True) for row in pair] * 2

    composition = composed({"data": write_rows(*rows)})

    drifts = [warning.message for warning in composition.warnings if warning.name == "tool-drift"]
    assert drifts == ["rows of echo describe the parameters of repeat otherwise than its code does (200 rows)"]


def test_the_same_tools_are_judged_for_each_environment(composed: Compose, write_rows: Write) -> None:
    """
    A tool that one environment has is refused in the rows of another.
    """
    mine = _tools(_schema())
    theirs = {**mine, "agent_ref": {"name": "shout_simple_agent"}}

    with pytest.raises(DataError, match="'shout' has no tool 'repeat'"):
        composed({"data": write_rows(mine, theirs)})
