"""
`export()`: every row in its trainer's words, one file, whole or not at all.
"""

from __future__ import annotations

import fcntl
import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gymcore.chat import InexpressibleError
from gymcore.composition import Composition, open_composition, write_composition
from gymcore.composition.tokens import prompt_text
from gymcore.discovery import Catalog
from gymcore.errors import DataError, RequestError, RunFolderError, StorageError
from gymcore.integrations import FORMATS, export
from gymcore.integrations.composed_row import ComposedRow
from gymcore.integrations.exporting import load_format
from gymcore.integrations.formats import LineFormat, TableFormat
from gymcore.integrations.tables import write_table
from gymcore.responses import function_call, function_call_output, message

Composed = Callable[..., Composition]

REPEAT = {
    "type": "function",
    "function": {
        "name": "repeat",
        "description": "Repeat a text.",
        "parameters": {
            "type": "object",
            "properties": {
                "text": {"type": "string", "description": "What to repeat."},
                "times": {"type": "integer", "description": "How often.", "default": 1},
            },
            "required": ["text"],
            "additionalProperties": False,
        },
        "strict": False,
    },
}
IMAGE = {"type": "input_image", "image_url": "data:image/png;base64,AA"}


def table(path: Path) -> Any:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    return parquet.read_table(path)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def said(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]


def needs(form: str) -> None:
    if load_format(form).suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")


def file_of(form: str, folder: Path) -> Path:
    needs(form)
    return folder / load_format(form).file_name


# -- the rows of each format -------------------------------------------------------------------------------------------


def test_nemo_gym_is_the_rows_as_they_are(composed: Composed, tmp_path: Path) -> None:
    """
    Rows that leave nothing to the environment pass byte for byte.
    """
    composition = composed({"shout": {"agent": "simple_agent"}})

    export(composition, "nemo-gym", tmp_path / "mix.jsonl")

    assert (tmp_path / "mix.jsonl").read_bytes() == b"".join(row.data + b"\n" for row in composition.dataset)


def test_nemo_gym_writes_out_what_only_our_plan_knows(echoing: Composed, tmp_path: Path) -> None:
    """
    Tools that a row leaves to its environment, and the plan's parameters, stand in the exported row; the rest is kept.
    """
    composition = echoing({"input": "Hi.", "temperature": 0.5, "metadata": {"a": "b"}}, params={"temperature": 1.0})

    export(composition, "nemo-gym", tmp_path / "mix.jsonl")

    (row,) = lines(tmp_path / "mix.jsonl")
    assert row["responses_create_params"] == {
        "input": "Hi.",
        "temperature": 1.0,
        "metadata": {"a": "b"},
        "tools": [{"type": "function", **REPEAT["function"]}],
    }
    assert row["agent_ref"] == {"type": "responses_api_agents", "name": "echo_simple_agent"}
    assert (row["answer"], row["environment"]) == ("word 0", "echo")


def test_openai_messages_are_messages_tools_and_the_route(echoing: Composed, tmp_path: Path) -> None:
    """
    A conversation with everything the API has words for, in the API's words.
    """
    items = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "input_text", "text": "Look:"}, IMAGE]},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hmm."}]},
        function_call("repeat", '{"text":"a"}', "c1"),
        function_call_output("c1", "a"),
        message("Done."),
        message("Again.", role="user"),
    ]
    options = {
        "parallel_tool_calls": False,
        "temperature": 0.3,
        "max_output_tokens": 77,
        "reasoning": {"effort": "low"},
    }
    composition = echoing({"input": items, "instructions": "Echo.", **options}, params={"tool_choice": "required"})

    export(composition, "openai-messages", tmp_path / "mix.jsonl")

    (row,) = lines(tmp_path / "mix.jsonl")
    assert row == {
        "messages": [
            {"role": "system", "content": said("Echo.")},
            {"role": "system", "content": said("Be brief.")},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Look:"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}},
                ],
            },
            {
                "role": "assistant",
                "content": None,
                "reasoning_content": "Hmm.",
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "repeat", "arguments": '{"text":"a"}'}}
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": said("a")},
            {"role": "assistant", "content": said("Done.")},
            {"role": "user", "content": said("Again.")},
        ],
        "tools": [REPEAT],
        "parallel_tool_calls": False,
        "temperature": 0.3,
        "max_tokens": 77,
        "reasoning_effort": "low",
        "tool_choice": "required",
        "environment": "echo",
        "task_id": row["task_id"],
        "agent_ref": {"type": "responses_api_agents", "name": "echo_simple_agent"},
    }


def test_one_image_makes_every_content_a_list(echoing: Composed, tmp_path: Path) -> None:
    """
    Readers take a key for what it is in the first rows, so it is the same in all of them; without an image, a text.
    """
    texts = [{"input": "Hi."}, {"input": "Ho."}]
    looking = {"input": [{"role": "user", "content": [{"type": "input_text", "text": "Look:"}, IMAGE]}]}

    plain = export(echoing(*texts), "openai-messages", tmp_path / "plain.jsonl")
    mixed = export(echoing(*texts, looking), "openai-messages", tmp_path / "mixed.jsonl")

    assert [row["messages"][0]["content"] for row in lines(plain.path)] == ["Hi.", "Ho."]
    contents = [row["messages"][0]["content"] for row in lines(mixed.path)]
    assert sorted(map(len, contents)) == [1, 1, 2]
    assert said("Hi.") in contents
    assert plain.notes == ()
    assert "the content of every message is a list of parts" in mixed.notes[0]


def test_lines_are_alike_for_a_reader_that_settles_on_types_early(echoing: Composed, tmp_path: Path) -> None:
    """
    Where something new comes late: numbers have one type, and messages differ from the first one on; what cannot be
    alike is told. A file that is all looked at is written as it is.
    """
    said_first = {"input": [{"role": "user", "content": "Hi. " * 20}], "temperature": 1}
    calling = [*said_first["input"], function_call("repeat", "{}", "c1"), function_call_output("c1", "a")]
    late = {"input": calling, "temperature": 0.5, "top_p": 0.9}
    composition = echoing(*[said_first] * 9, late)

    short = export(composition, "openai-messages", tmp_path / "short.jsonl")
    long = export(composition, "openai-messages", tmp_path / "long.jsonl", reader_chunk=1000)

    assert short.notes == ()
    assert [row["messages"][0].keys() for row in lines(short.path)] == [{"role", "content"}] * 10
    first, *others = lines(long.path)
    assert first["messages"] == [{**said_first["input"][0], "name": None}]
    assert others == lines(short.path)[1:]
    assert [type(row["temperature"]) for row in lines(short.path)] == [int] * 9 + [float]
    assert [type(row["temperature"]) for row in (first, *others)] == [float] * 10
    assert "the very first has a key that is null" in long.notes[0]
    assert f"load_dataset needs chunksize={long.path.stat().st_size}: " in long.notes[1]
    assert "in top_p of a kind" in long.notes[1]


@pytest.mark.parametrize(
    ("form", "route", "place"),
    [
        ("trl", {"environment": "echo"}, None),
        ("skyrl", {"env_class": "echo", "data_source": "echo"}, "extra_info"),
        ("verl", {"agent_name": "gymcore", "data_source": "echo"}, "extra_info"),
    ],
)
def test_a_trainer_finds_its_own_routing_column(
    echoing: Composed, tmp_path: Path, form: str, route: dict[str, str], place: str | None
) -> None:
    """
    The prompt is chat messages, the trainer's columns say who serves the row, and the whole row travels as JSON text.
    """
    composition = echoing({"input": "Hi."}, {"input": [{"role": "user", "content": "Ho."}]})
    file = file_of(form, tmp_path)

    export(composition, form, file)

    first, second = table(file).to_pylist()
    assert {key: first[key] for key in route} == route
    assert first["prompt"] == [{"role": "user", "content": "Hi."}]
    assert second["prompt"] == [{"role": "user", "content": "Ho."}]
    back = first if place is None else first[place]
    original = composition.dataset.row(0)
    assert (back["environment"], back["task_id"]) == original.identity
    assert back["row"].encode() == original.data
    if place is not None:
        assert json.loads(back["tools"]) == [REPEAT]
    if form == "verl":
        assert [row["extra_info"]["index"] for row in (first, second)] == [0, 1]


@pytest.mark.parametrize(("form", "key"), [("skyrl", "reward_spec"), ("verl", "reward_model")])
def test_the_ground_truth_is_the_task(echoing: Composed, tmp_path: Path, form: str, key: str) -> None:
    """
    A reward function of those that want a truth is told which task it judges.
    """
    composition = echoing({"input": "Hi."})
    file = file_of(form, tmp_path)

    export(composition, form, file)

    (row,) = table(file).to_pylist()
    assert row[key]["ground_truth"] == composition.dataset.row(0).identity[1]


def test_parquet_keeps_every_row_in_full(composed: Composed, tmp_path: Path) -> None:
    """
    The generic table has what one filters by, and each row byte for byte.
    """
    composition = composed({"echo": {"weight": 2}, "shout": {"weight": 1}}, mix={"size": 12, "exhausted": "repeat"})
    file = file_of("parquet", tmp_path)

    export(composition, "parquet", file)

    rows = table(file).to_pylist()
    assert [row["row"].encode() for row in rows] == [row.data for row in composition.dataset]
    assert [(row["environment"], row["task_id"]) for row in rows] == [row.identity for row in composition.dataset]
    assert [row["epoch"] for row in rows] == [row.epoch for row in composition.dataset]
    assert max(row["epoch"] for row in rows) == 2
    assert {row["route"] for row in rows} == {"echo_simple_agent", "shout_voice"}
    assert [row["prompt"] for row in rows] == [
        prompt_text(row.value["responses_create_params"]) for row in composition.dataset
    ]


@pytest.mark.parametrize(
    ("form", "place"), [("trl", None), ("verl", "extra_info"), ("skyrl", "extra_info"), ("parquet", None)]
)
def test_a_row_that_comes_back_asks_as_the_plan_does(
    composed: Composed, echoing: Composed, tmp_path: Path, form: str, place: str | None
) -> None:
    """
    What the plan's `params` replace stands in the row that travels, so a composition that lacks them asks the same.
    """
    params = {"instructions": "Answer in French.", "temperature": 0.25}
    file = file_of(form, tmp_path / "out")
    composition = echoing({"input": "Hi.", "temperature": 1.0}, params=params)

    export(composition, form, file)

    (row,) = table(file).to_pylist()
    (tmp_path / "back.jsonl").write_text((row if place is None else row[place])["row"] + "\n")
    back = composed({"echo": {"data": [str(tmp_path / "back.jsonl")]}})
    (one,), (other,) = back.dataset, composition.dataset
    assert one.value["responses_create_params"] == {"input": "Hi.", **params}
    assert one.identity == other.identity
    assert {**one.value, "responses_create_params": {}} == {**other.value, "responses_create_params": {}}
    if form == "parquet":
        assert row["prompt"] == "Answer in French.\nHi."


# -- one schema --------------------------------------------------------------------------------------------------------


def test_messages_have_no_keys_that_no_prompt_needs(composed: Composed, tmp_path: Path) -> None:
    """
    Some chat templates ask whether a message has `tool_calls`, and a null there is one.
    """
    file = file_of("trl", tmp_path)

    written = export(composed({"echo": {}, "shout": {}}), "trl", file)

    assert all(set(said) == {"role", "content"} for row in table(file).to_pylist() for said in row["prompt"])
    assert written.notes == ()


def test_a_tool_call_in_one_prompt_is_in_the_schema_of_all(echoing: Composed, tmp_path: Path) -> None:
    """
    The columns are those of the whole dataset, whichever row needs them, and a note says what the others hold.
    """
    calling = [
        {"role": "user", "content": [{"type": "input_text", "text": "Say "}, {"type": "input_text", "text": "a."}]},
        function_call("repeat", '{"text":"a"}', "c1"),
        function_call_output("c1", "a"),
    ]
    file = file_of("verl", tmp_path)

    written = export(echoing({"input": "Hi."}, {"input": calling}), "verl", file)

    prompts = {row["prompt"][0]["content"]: row["prompt"] for row in table(file).to_pylist()}
    assert prompts["Hi."] == [{"role": "user", "content": "Hi.", "tool_calls": None, "tool_call_id": None}]
    called = {"id": "c1", "type": "function", "function": {"name": "repeat", "arguments": '{"text":"a"}'}}
    assert prompts["Say a."][1:] == [
        {"role": "assistant", "content": None, "tool_calls": [called], "tool_call_id": None},
        {"role": "tool", "content": "a", "tool_calls": None, "tool_call_id": "c1"},
    ]
    assert len(written.notes) == 1
    assert "tool_call_id, tool_calls, null where" in written.notes[0]


@pytest.mark.parametrize("form", [name for name in FORMATS if load_format(name).suffix == ".parquet"])
def test_all_row_groups_have_one_schema(composed: Composed, tmp_path: Path, form: str) -> None:
    """
    However many row groups and environments there are, every group can be read as the first.
    """
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    composition = composed({"echo": {}, "shout": {}})
    table_format = load_format(form)
    assert isinstance(table_format, TableFormat)
    routes = list(composition.routes.values())
    records = [
        (table_format.record(ComposedRow(row, next(r for r in routes if r.environment == row.identity[0]), n)), 1)
        for n, row in enumerate(composition.dataset)
    ]

    with (tmp_path / "mix.parquet").open("wb") as out:
        write_table(out, table_format.columns, records, facts={}, group_rows=3)

    read = parquet.ParquetFile(tmp_path / "mix.parquet")
    groups = [read.read_row_group(number) for number in range(read.metadata.num_row_groups)]
    assert [len(group) for group in groups] == [3, 3, 3, 1]
    assert len({str(group.schema) for group in groups}) == 1


def test_trl_says_which_tools_it_offers_although_rows_leave_them_out(echoing: Composed, tmp_path: Path) -> None:
    """
    TRL offers every method of an environment; a row that wants fewer is not silently given more.
    """
    file = file_of("trl", tmp_path)

    written = export(echoing({"input": "Hi.", "tools": []}, {"input": "Ho."}), "trl", file)

    assert written.notes == ("echo: TRL offers all tools of an environment, also repeat, which rows leave out (1 row)",)


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ("openai-messages", ["a chat request has no truncation (1 row)"]),
        ("trl", [f"TRL asks without {key}, which" for key in ("temperature", "top_p", "truncation")]),
        ("verl", [f"verl has no column for {key}, which" for key in ("temperature", "top_p", "truncation")]),
        ("skyrl", [f"SkyRL has no column for {key}, which" for key in ("temperature", "top_p", "truncation")]),
        ("parquet", []),
        ("nemo-gym", []),
    ],
)
def test_what_a_format_does_not_carry_is_noted_and_counted(
    echoing: Composed, tmp_path: Path, form: str, said: list[str]
) -> None:
    """
    How a row asks to be answered is not lost in silence where a trainer takes no word for it, nor an empty prompt.
    """
    rows = [
        {"input": "Hi.", "truncation": "auto", "tool_choice": "auto"},
        {"input": ""},
        {"input": "Ho.", "top_p": None},
    ]
    composition = echoing(*rows, params={"temperature": 0.5, "top_p": 0.9})

    written = export(composition, form, file_of(form, tmp_path))

    notes = sorted(note for note in written.notes if note != "the prompt is empty (1 row)")
    assert len(notes) == len(written.notes) - 1 == len(said)
    for note, begin in zip(notes, said, strict=True):
        assert note.startswith(begin)
        assert note.endswith("(1 row)" if "truncation" in note else "(3 rows)")


def test_an_export_that_writes_rows_anew_keeps_every_digit(echoing: Composed, tmp_path: Path) -> None:
    """
    A row that gets the tools of its environment is written again, with integers beyond 64 bits as they were.
    """
    large = 123456789012345678901234567890
    composition = echoing({"input": "Hi.", "seen": {"id": large}})

    written = export(composition, "nemo-gym", file_of("nemo-gym", tmp_path))

    assert b'"tools":' in written.path.read_bytes()
    assert str(large).encode() in written.path.read_bytes()


# -- whole or not at all -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "params", "said"),
    [
        ("trl", {"input": [{"role": "user", "content": [IMAGE]}]}, "parts other than text (image_url)"),
        ("verl", {"input": [{"type": "item_reference", "id": "x"}]}, "an item of type 'item_reference'"),
        ("skyrl", {"input": "Hi.", "tools": [{"type": "web_search"}]}, "a tool of type 'web_search'"),
        ("trl", {"input": "Hi.", "tools": [{"type": "web_search"}]}, "a tool of type 'web_search'"),
        ("openai-messages", {"input": "Hi.", "previous_response_id": "r"}, "the parameter 'previous_response_id'"),
        ("trl", {"input": [{"type": "reasoning", "summary": [], "encrypted_content": "A"}]}, "encrypted reasoning"),
        ("verl", {"input": [{"type": "function_call", "call_id": 3, "name": "repeat"}]}, "id or name is no text"),
    ],
)
def test_what_a_format_cannot_say_is_named_with_its_task(
    echoing: Composed, tmp_path: Path, form: str, params: dict[str, Any], said: str
) -> None:
    """
    Nothing is lost in silence, all such rows are counted, and no file is written.
    """
    file = file_of(form, tmp_path / "out")
    composition = echoing({"input": "good"}, *[{**params, "user": str(n)} for n in range(11)])

    with pytest.raises(DataError) as caught:
        export(composition, form, file)

    first = caught.value.problems[0]
    assert (caught.value.count, len(caught.value.problems)) == (11, 10)
    assert first.message.startswith(f"{form} has no words for ")
    assert said in first.message
    task_ids = [row.identity[1] for row in composition.dataset]
    assert first.where is not None
    number, _, task_id = first.where.removeprefix("dataset.jsonl:").partition(", ")
    assert task_ids[int(number) - 1] == task_id
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("form", FORMATS)
def test_a_row_of_any_shape_is_an_error_or_a_row_and_never_a_crash(
    echoing: Composed, tmp_path: Path, form: str
) -> None:
    """
    Rows are written by anybody: whatever JSON stands in an item, there is a word for it or a message about it.
    """
    file = file_of(form, tmp_path)
    odd: list[Any] = [None, 5, "text", [], ["a"], [5], [{}], {}, {"a": 1}, [{"type": None, "text": 5}]]
    shapes = [
        {"type": kind, "role": role, "content": value, "summary": value, "output": value, "call_id": value}
        for kind in ("message", "function_call", "function_call_output", "reasoning", None, 7)
        for role in ("assistant", "user", 5)
        for value in odd
    ]
    loaded = load_format(form)
    turn = loaded.line if isinstance(loaded, LineFormat) else loaded.record
    everything = echoing(
        *[{"input": [shape], "user": str(number)} for number, shape in enumerate(shapes)], skip_invalid=True
    )
    said = []
    for position, row in enumerate(everything.dataset):
        try:
            turn(ComposedRow(row, everything.routes["echo_simple_agent"], position))
            said.append(row.value["responses_create_params"])
        except InexpressibleError:
            continue

    assert len(said) > 30
    assert export(echoing(*said), form, file).rows == len(said)


@pytest.mark.parametrize("form", FORMATS)
def test_the_same_composition_gives_the_same_bytes(composed: Composed, tmp_path: Path, form: str) -> None:
    """
    An export can be compared by its digest.
    """
    first, second = file_of(form, tmp_path / "a"), file_of(form, tmp_path / "b")

    one = export(composed({"echo": {}, "shout": {}}), form, first)
    two = export(composed({"shout": {}, "echo": {}}), form, second)

    assert one.sha256 == two.sha256
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("form", ["nemo-gym", "trl", "parquet"])
def test_an_export_that_breaks_off_leaves_what_was_there(
    composed: Composed, catalog: Catalog, tmp_path: Path, form: str
) -> None:
    """
    The old file stays as it was and no part of the new one is found, whatever ends the writing.
    """
    file = file_of(form, tmp_path / "out")
    file.parent.mkdir()
    file.write_bytes(b"old")
    write_composition(composed({"echo": {}}), tmp_path / "mix")
    composition = open_composition(tmp_path / "mix", catalog, environ={})
    os.truncate(tmp_path / "mix" / "dataset.jsonl", 400)

    with pytest.raises(StorageError, match="shorter"):
        export(composition, form, file)

    assert [path.name for path in file.parent.iterdir()] == [file.name]
    assert file.read_bytes() == b"old"


def test_an_export_replaces_neither_its_rows_nor_another_export(echoing: Composed, tmp_path: Path) -> None:
    """
    What cannot be made again is not overwritten, by whatever name it is called.
    """
    composition = echoing({"input": "Hi."})
    source = tmp_path / "rows.jsonl"
    (tmp_path / "link.jsonl").symlink_to(source)
    export(composition, "nemo-gym", tmp_path / "nemo-gym.jsonl")
    before = source.read_bytes()

    for name, said in [
        ("rows", "come from this file"),
        ("link", "come from this file"),
        ("nemo-gym", "nemo-gym is wri"),
    ]:
        with pytest.raises(RequestError, match=said):
            export(composition, "openai-messages", tmp_path / f"{name}.jsonl")

    assert source.read_bytes() == before
    export(composition, "nemo-gym", tmp_path / "nemo-gym.jsonl")


@pytest.mark.parametrize("form", ["openai-messages", "skyrl", "trl", "verl"])
def test_replies_that_become_one_message_are_told(echoing: Composed, tmp_path: Path, form: str) -> None:
    """
    Chat templates want roles to alternate; whoever counts messages hears that there are fewer.
    """
    asked, said = {"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Ho."}
    composition = echoing({"input": [asked, said, said, asked]}, {"input": [asked, said, asked]})

    written = export(composition, form, file_of(form, tmp_path))

    told = "assistant messages that follow each other become one, with a line break between them (1 row)"
    assert told in written.notes


def test_names_of_a_run_folder_are_free_elsewhere(echoing: Composed, tmp_path: Path) -> None:
    """
    A trainer may want its rows in a file of that name.
    """
    composition = echoing({"input": "Hi."})

    for _ in range(2):  # again, too
        assert export(composition, "nemo-gym", tmp_path / "rows" / "dataset.jsonl").rows == 1


def test_what_a_killed_export_left_is_swept(echoing: Composed, tmp_path: Path) -> None:
    """
    A part that nobody holds goes with the next export of the file; what is being written, and any other file, stays.
    """
    names = (".mix.jsonl.4194303.part", ".mix.jsonl.4194302.part", ".mix.jsonl.mine.part", ".other.jsonl.4194303.part")
    for name in names:
        (tmp_path / name).write_text("half a")
        os.utime(tmp_path / name, (1, 1))

    with (tmp_path / names[1]).open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        export(echoing({"input": "Hi."}), "nemo-gym", tmp_path / "mix.jsonl")

    assert [name for name in names if (tmp_path / name).exists()] == list(names[1:])


@pytest.mark.parametrize(
    ("form", "name", "kind", "said"),
    [
        ("torl", "mix.parquet", RequestError, "try: trl"),
        ("nemo-gym", "mix.parquet", RequestError, "try: .+/mix.jsonl"),
        *(
            ("nemo-gym", f"run/{name}.jsonl", RequestError, "a run folder has a file of that name")
            for name in ("dataset", "rollouts", "failures", "rejects")
        ),
        ("nemo-gym", "folder.jsonl", RunFolderError, "Is a directory"),
        ("nemo-gym", "file/mix.jsonl", RunFolderError, "File exists"),
    ],
)
def test_a_wrong_request_is_one_message(
    composed: Composed, tmp_path: Path, form: str, name: str, kind: type[RequestError], said: str
) -> None:
    """
    It says what is wrong and what to try, and nothing is written.
    """
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "gym.lock").write_text("{}")
    before = sorted(tmp_path.rglob("*"))

    with pytest.raises(kind, match=said):
        export(composed({"echo": {}}), form, tmp_path / name)

    assert sorted(tmp_path.rglob("*")) == before


def test_lines_are_written_one_after_the_other(composed: Composed, tmp_path: Path) -> None:
    """
    What is held in memory does not grow with the rows.
    """

    def peak(size: int) -> int:
        composition = composed({"echo": {"weight": 1}}, mix={"size": size, "exhausted": "repeat"})
        tracemalloc.start()
        try:
            export(composition, "openai-messages", tmp_path / "mix.jsonl")
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(4000) < peak(400) + 200_000
