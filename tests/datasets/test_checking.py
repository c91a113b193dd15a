"""
Dataset files on their own: checked by whoever serves them, described in numbers, and prepared split by split.
"""

from __future__ import annotations

import gzip
import json
import os
import statistics
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gymcore.composition import Composition, compose, write_composition
from gymcore.composition.route_names import RouteNames
from gymcore.datasets.checking import Checked, check_data
from gymcore.datasets.describing import describe_data
from gymcore.datasets.field_statistics import DISTINCT, FIELDS, Numbers
from gymcore.datasets.hints import hints_without_a_plan
from gymcore.datasets.preparing import prepare_data
from gymcore.discovery import Catalog
from gymcore.errors import DataError, PlanError, PluginError, Problem, RequestError, RunFolderError, UnknownPluginError
from gymcore.plan import Plan
from gymcore.run_folder import part_of
from gymcore.testing.plugins import PluginFolder

Write = Callable[..., str]

PARAMS = {"input": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say it."}]}


def _row(**changes: Any) -> dict[str, Any]:
    return {"answer": "it", "responses_create_params": PARAMS, "agent_ref": {"name": "echo_simple_agent"}, **changes}


def _checked(catalog: Catalog, *files: str, **options: Any) -> Checked:
    return check_data([Path(file) for file in files], catalog, **options)


def _composed(catalog: Catalog, environments: dict[str, Any]) -> Composition:
    return compose(Plan.model_validate({"environments": environments}), catalog, environ={})


# -- check -------------------------------------------------------------------------------------------------------------


def test_rows_are_checked_by_the_environment_that_they_name(catalog: Catalog, write_rows: Write) -> None:
    """
    Its task model and its tools decide, without a plan and without options that it may need.
    """
    fly = {**PARAMS, "tools": [{"type": "function", "name": "fly"}]}
    path = write_rows(_row(), _row(answer=5), _row(responses_create_params=fly), _row(task_id=1), _row(task_id=1))

    checked = _checked(catalog, path)

    assert (checked.rows, checked.bad, checked.environments) == (5, 3, {"echo": 2})
    assert [problem.where for problem in checked.problems] == [f"{path}:2", f"{path}:3", f"{path}:5"]
    assert "'echo' has no tool 'fly'" in checked.problems[1].message
    assert checked.unchecked == {}


def test_rows_of_nobody_who_is_installed_are_checked_by_what_holds_for_all(catalog: Catalog, write_rows: Write) -> None:
    """
    They are good or bad as rows, and it is said that nothing more was looked at.
    """
    other = _row(agent_ref={"name": "chess_simple_agent"}, answer=5)
    broken = {"responses_create_params": {"input": 5}, "agent_ref": {"name": "chess_simple_agent"}}
    loose = {"responses_create_params": {"input": "x"}}

    checked = _checked(catalog, write_rows(other, broken, loose))

    assert (checked.bad, checked.environments) == (1, {"chess_simple_agent": 1, "": 1})
    assert set(checked.unchecked) == {"chess_simple_agent", ""}
    assert "--env NAME" in checked.unchecked[""]


def test_one_row_with_another_environment_hides_no_other(catalog: Catalog, write_rows: Write) -> None:
    """
    What its route leads to decides, as it does for compose, and the row that says otherwise is wrong itself.
    """
    checked = _checked(catalog, write_rows(_row(environment="zzz"), _row(answer=5), _row()))

    assert (checked.bad, checked.environments, checked.unchecked) == (2, {"echo": 1}, {})
    assert checked.problems[0].message == "`environment` says 'zzz', but its route leads to 'echo'"


def test_a_route_is_one_that_compose_would_take(catalog: Catalog, write_rows: Write) -> None:
    """
    Of an environment that is here an agent must be, and what is no object is no route.
    """
    bogus, none = _row(agent_ref={"name": "echo_bogus"}), _row(agent_ref={"name": "echo"})
    broken = [_row(agent_ref="x"), _row(agent_ref={"name": 5})]
    long, near = _row(agent_ref={"name": "x" * 200_000}), _row(agent_ref={"name": "ecoh_simple_agent"})
    path = write_rows(bogus, none, *broken, long, near, _row(answer="good"))

    checked = _checked(catalog, path)

    assert [problem.message for problem in checked.problems] == [
        "no route is named 'echo_bogus'",
        "no route is named 'echo'",
        *['`agent_ref` must look like {"name": "ENVIRONMENT_AGENT"}'] * 2,
    ]
    assert checked.problems[1].hints[0].startswith("try: echo_")
    with pytest.raises(DataError) as refused:
        compose(Plan(data=[path]), catalog, environ={})
    assert refused.value.problems[:4] == checked.problems
    assert checked.environments == {f"{'x' * 97}...": 1, "ecoh_simple_agent": 1, "echo": 1}
    assert checked.unchecked == {
        f"{'x' * 97}...": "no installed environment and agent make this name",
        "ecoh_simple_agent": "it is not installed; did you mean 'echo_simple_agent'?",
    }


def test_the_plan_of_a_run_folder_says_whose_its_rows_are(catalog: Catalog, tmp_path: Path) -> None:
    """
    Environments with names of their own, and what they ask with; two folders may call different ones alike.
    """
    first, second = tmp_path / "first", tmp_path / "second"
    mine = {"use": "echo", "prompt": {"system": "Be {answer}.", "user": "Say {answer}."}}
    write_composition(_composed(catalog, {"mine": mine, "shout": {}}), first)
    write_composition(_composed(catalog, {"mine": {"use": "shout"}}), second)

    checked = _checked(catalog, str(first), str(second), ignore=["shared-prompt", "duplicate-row"])

    assert (checked.bad, checked.unchecked) == (0, {})
    assert checked.environments == {"mine": 10, "shout": 5}
    # The file alone is what `gym compose --data` would read, which knows of no such environment.
    alone = _checked(catalog, str(first / "dataset.jsonl"))
    assert alone.unchecked == {"mine_simple_agent": "no installed environment is called 'mine'"}

    params = {**PARAMS, "tools": [{"type": "function", "name": "repeat"}]}
    row = _row(agent_ref={"name": "mine_simple_agent"}, responses_create_params=params)
    for folder in (first, second):
        (folder / "dataset.jsonl").write_text(json.dumps(row) + "\n")
    (problem,) = _checked(catalog, str(first), str(second), ignore=["shared-prompt", "duplicate-row"]).problems
    assert (problem.where, problem.message) == (
        f"{second}/dataset.jsonl:1",
        "'mine' has no tool 'repeat' (its tools: none)",
    )

    (first / "plan.yaml").write_text("environments: 5\n")
    with pytest.raises(PlanError, match=r"first/dataset\.jsonl, for the rows without the plan"):
        _checked(catalog, str(first))


def test_the_longest_environment_of_a_route_is_meant(plugins: PluginFolder, tmp_path: Path) -> None:
    """
    Where a name can be split in two ways, compose and check take the same.
    """
    from gymcore.discovery import discover

    code = "from gymcore import Environment\n\n\nclass Odd(Environment):\n    pass\n"
    files = {"odd/__init__.py": code, "odd/gym.yaml": "gym_api: 1\n", "odd/more.py": code}
    agent = "from gymcore import Agent\n\n\nclass Late(Agent):\n    pass\n"
    files["odd/late.py"] = agent
    environments = {"gymcore.environments": {"odd": "odd:Odd", "odd_more": "odd.more:Odd"}}
    entries = {**environments, "gymcore.agents": {"simple": "odd.late:Late", "more_simple": "odd.late:Late"}}
    PluginFolder(tmp_path).install("gym-plugin-odd", files, entries)
    with PluginFolder(tmp_path):
        names = RouteNames(discover())

    assert names.halves("odd_more_simple") == ("odd_more", "simple")
    assert names.halves("odd_simple") == ("odd", "simple")


def test_each_split_may_number_its_tasks_from_one(catalog: Catalog, write_rows: Write) -> None:
    """
    Twice in one split is once too often, in files of one split as well.
    """
    names = ("train-1.jsonl", "validation.jsonl", "train-2.jsonl")
    files = [write_rows(_row(task_id=1, answer=name), name=name) for name in names]

    assert _checked(catalog, *files[:2]).bad == 0
    (problem,) = _checked(catalog, *files).problems
    assert (problem.where, problem.message) == (f"{files[2]}:1", "the `task_id` 1 stands twice in 'echo'")


def test_what_compose_reads_is_checked_and_described(catalog: Catalog, write_rows: Write, tmp_path: Path) -> None:
    """
    A compressed file, a run folder; what is damaged is a wrong request.
    """
    folder = tmp_path / "run"
    folder.mkdir()
    plain = Path(write_rows(_row(), b"{"))
    (folder / "dataset.jsonl").write_bytes(plain.read_bytes())
    packed = tmp_path / "rows.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))

    for path in (folder, packed):
        assert (_checked(catalog, str(path)).rows, _checked(catalog, str(path)).bad) == (2, 1)
        assert describe_data([path], catalog).statistics.total.rows == 1
    packed.write_bytes(packed.read_bytes()[:-12])
    for read in (check_data, describe_data):
        with pytest.raises(RequestError, match=r"the data file is damaged.*rows\.jsonl\.gz"):
            read([packed], catalog)


def test_rows_without_routes_are_checked_for_one_environment(catalog: Catalog, write_rows: Write) -> None:
    """
    `environment` says whose they are; without files, its own splits are checked.
    """
    path = write_rows({"responses_create_params": PARAMS}, {"answer": "x", "responses_create_params": PARAMS})

    assert _checked(catalog, path, environment="echo").bad == 1
    assert _checked(catalog, path, environment="gym-plugin-echo/echo").environments == {"echo": 1}
    with pytest.raises(UnknownPluginError, match="no environment is named 'ehco'"):
        _checked(catalog, path, environment="ehco")
    with pytest.raises(PluginError, match=r"names the data file 'data/missing\.jsonl'"):
        _checked(catalog, environment="echo")


TOLD = """from gymcore import Config, Environment
from gymcore.errors import PlanError, Problem


class ToldConfig(Config):
    word: str
    other: str = ""


class Told(Environment):
    config_model = ToldConfig

    @classmethod
    def own_rows(cls, config, split):
        if split != "example":
            raise PlanError([Problem(f"{config.word} has no {split}", hints=("try: another split, or --data FILE",))])
        for number in range(3):
            yield b'{"responses_create_params": {"input": "%s %d"}}' % (config.word.encode(), number)
"""


@pytest.fixture
def told(plugins: PluginFolder, tmp_path: Path) -> Iterator[Catalog]:
    """
    With an environment that takes an argument, and makes rows of it; not for each split that its manifest names.
    """
    from gymcore.discovery import discover

    (tmp_path / "site").mkdir()
    manifest = "gym_api: 1\nargument: word\nsplits: {example: {from: plugin}, train: {from: plugin}}\n"
    files = {"told/__init__.py": TOLD, "told/gym.yaml": manifest}
    PluginFolder(tmp_path / "site").install("gym-plugin-told", files, {"gymcore.environments": {"told": "told:Told"}})
    with PluginFolder(tmp_path / "site"):
        yield discover()


def test_what_stands_after_a_colon_is_an_option(told: Catalog, write_rows: Write) -> None:
    """
    The environment is called as it would be in a plan, and a split that it has not after all is noted.
    """
    checked = _checked(told, environment="told:hello")

    assert (checked.rows, checked.bad, checked.environments) == (3, 0, {"hello": 3})
    assert checked.notes == ("hello has no train",)
    composed = write_rows(_row(environment="hello", agent_ref={"name": "hello_simple_agent"}))
    assert _checked(told, composed, environment="told:hello").bad == 0
    assert _checked(told, composed, environment="told").bad == 1


@pytest.mark.parametrize(
    ("asked", "said", "hint"),
    [
        ("told", "the option 'word' is required", "try: --env told:WORD"),
        ("told:", "nothing stands after a colon", "try: --env told:WORD"),
        ("echo:x", "takes nothing after a colon", "try: --env echo"),
        ("tolb:x", "no environment is named 'tolb'", "try: 'told'"),
    ],
)
def test_what_is_to_be_tried_can_be_typed(told: Catalog, tmp_path: Path, asked: str, said: str, hint: str) -> None:
    """
    In check and in prepare, which know neither `use` nor `--set`.
    """
    for ask in (
        lambda: check_data([], told, environment=asked, environ={}),
        lambda: prepare_data([asked], told, tmp_path / "out", environ={}),
    ):
        with pytest.raises(RequestError, match=said) as caught:
            ask()
        assert caught.value.hints[-1].startswith(hint)
        assert "--set" not in str(caught.value)
        assert "use:" not in str(caught.value)


def test_parameters_that_others_refuse_are_noted(catalog: Catalog, write_rows: Write) -> None:
    """
    They travel here, and would not elsewhere.
    """
    odd = _row(responses_create_params={**PARAMS, "temprature": 1, "top_p": 0.5})

    checked = _checked(catalog, write_rows(odd, odd))

    assert checked.bad == 0
    assert [note.partition(";")[0] for note in checked.notes] == [
        "'temprature' is no create parameter of the Responses API (2 rows)"
    ]


def test_the_tools_of_the_code_are_held_against_those_of_rows(catalog: Catalog, write_rows: Write) -> None:
    """
    A row without tools offers those of its environment, which may be somebody else's by name only.
    """
    other = {**PARAMS, "tools": [{"type": "function", "name": "repeat", "parameters": {"type": "object"}}]}
    path = write_rows(_row(), _row(agent_ref={"name": "chess_simple_agent"}, responses_create_params=other))

    (warning,) = [found for found in _checked(catalog, path).warnings if found.name == "tool-conflict"]

    assert warning.examples == ("echo: its code", f"chess_simple_agent: {path}:2")


def test_files_named_after_splits_are_held_against_each_other(catalog: Catalog, write_rows: Write) -> None:
    """
    A row of train-00001.jsonl that stands in validation.jsonl is a leak, one in train-00002.jsonl a duplicate.
    """
    names = ("train-00001.jsonl", "train-00002.jsonl", "my_validation.jsonl")
    files = [write_rows(_row(), name=name) for name in names]

    warnings = {warning.name: warning.examples for warning in _checked(catalog, *files).warnings}

    assert warnings["duplicate-row"] == (f"{files[1]}:1 and {files[0]}:1",)
    assert warnings["leaked-prompt"] == (f"{files[2]}:1 and {files[0]}:1",)


def test_a_file_that_is_not_there_is_a_wrong_request(catalog: Catalog, tmp_path: Path) -> None:
    """
    With its name.
    """
    for read in (check_data, describe_data):
        with pytest.raises(RequestError, match=r"cannot be read: No such file or directory .*none\.jsonl"):
            read([tmp_path / "none.jsonl"], catalog)


# -- stats -------------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-1e6, 1e6) | st.integers(-1000, 1000), min_size=2))
def test_numbers_are_summed_up_as_statistics_does(numbers: list[float]) -> None:
    """
    One number at a time gives what all of them give together.
    """
    summed = Numbers()
    for number in numbers:
        summed.add(number)

    told = summed.to_dict()

    assert told is not None
    assert (told["count"], told["min"], told["max"]) == (len(numbers), min(numbers), max(numbers))
    assert told["mean"] == pytest.approx(statistics.fmean(numbers), rel=1e-6, abs=1e-5)
    assert told["std"] == pytest.approx(statistics.stdev(numbers), rel=1e-6, abs=1e-5)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
@example([1.7e308, -1.7e308])
@example([1.7e308, -1.7e308, 1.7e308, 0.0])
@example([1e200, -1e200, 1e200])
def test_numbers_of_any_size_are_summed_up(numbers: list[float]) -> None:
    """
    What cannot be told of numbers whose differences or squares overflow is None; all else is finite and in bounds.
    """
    summed = Numbers()
    for number in numbers:
        summed.add(number)

    told = summed.to_dict()

    assert told is not None
    encoded = json.loads(json.dumps(told, allow_nan=False))
    assert (encoded["min"], encoded["max"]) == (min(numbers), max(numbers))
    assert encoded["mean"] == pytest.approx(float(sum(map(Fraction, numbers)) / len(numbers)), rel=1e-6, abs=1e300)
    assert encoded["std"] is None or encoded["std"] >= 0


def test_a_dataset_is_described_by_environment_and_in_total(catalog: Catalog, write_rows: Write) -> None:
    """
    Rows, words of the prompt, tools, turns, parameters, and what each field holds.
    """
    tools = [{"type": "function", "name": "repeat"}]
    first = _row(level=1, meta={"kind": "a"}, values=[1, 3])
    second = _row(answer="other", level=3, responses_create_params={**PARAMS, "tools": tools, "temperature": 0.5})
    third = {"responses_create_params": {"input": "one two three four five"}, "environment": "chess"}

    described = describe_data([Path(write_rows(first, second, third, b"{", {"responses_create_params": {}}))], catalog)

    told = described.to_dict()
    echo = told["environments"]["echo"]
    assert (described.bad, told["total"]["rows"], echo["rows"]) == (2, 3, 2)
    assert told["total"]["words"] == {
        "count": 3,
        "mean": pytest.approx(13 / 3, abs=1e-6),
        "std": 0.57735,
        "min": 4,
        "max": 5,
    }
    assert (echo["tools"]["max"], echo["turns"]["mean"], told["environments"]["chess"]["turns"]["mean"]) == (1, 1, 1)
    assert echo["params"]["temperature"]["numbers"]["mean"] == 0.5
    assert echo["fields"]["answer"]["types"] == {"text": 2}
    assert (echo["fields"]["answer"]["distinct"], echo["fields"]["answer"]["lengths"]["max"]) == (2, 5)
    assert (echo["fields"]["level"]["present"], echo["fields"]["level"]["numbers"]["mean"]) == (1.0, 2.0)
    assert (echo["fields"]["meta.kind"]["present"], echo["fields"]["values"]["numbers"]["max"]) == (0.5, 3)


def test_rows_that_ask_in_other_words_are_described(catalog: Catalog, write_rows: Write) -> None:
    """
    As they would be composed; a row that asks nothing is none, and one whose environment is installed is its own.
    """
    asking = [{"messages": [{"role": "user", "content": "Say it."}]}, {"prompt": "Say it now."}, {"answer": "it"}]
    rows = [{**row, "agent_ref": {"name": "echo_simple_agent"}} for row in asking]

    described = describe_data([Path(write_rows(*rows, _row(agent_ref=5)))], catalog)

    assert (described.bad, set(described.statistics.environments)) == (2, {"echo"})
    assert described.to_dict()["environments"]["echo"]["words"]["max"] == 3


def test_a_key_with_a_dot_is_no_key_inside_another(catalog: Catalog, write_rows: Write) -> None:
    """
    It stands in quotation marks.
    """
    described = describe_data([Path(write_rows(_row(**{"a.b": 1}), _row(a={"b": "x"})))], catalog)

    fields = described.to_dict()["total"]["fields"]
    assert (fields['"a.b"']["types"], fields["a.b"]["types"]) == ({"integer": 1}, {"text": 1})


def test_what_is_told_apart_is_bounded(catalog: Catalog, write_rows: Write) -> None:
    """
    Of a million different values or keys, a bound is named and kept.
    """
    rows = [_row(**{"id": number, f"own{number}": 1}) for number in range(DISTINCT + 100)]

    told = describe_data([Path(write_rows(*rows))], catalog).to_dict()["total"]

    assert told["fields"]["id"]["distinct_more_than"] == DISTINCT
    assert len(told["fields"]) == FIELDS
    assert told["further_fields"] == DISTINCT + 100 - (FIELDS - 2)


# -- prepare -----------------------------------------------------------------------------------------------------------


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".writer"}


def test_every_split_of_all_environments_is_one_routed_file(catalog: Catalog, tmp_path: Path) -> None:
    """
    Environments without a split are not in it, and statistics name environment and split.
    """
    prepared = prepare_data(["echo", "shout"], catalog, tmp_path / "out", environ={})

    assert {split.name: split.tasks for split in prepared.splits} == {
        "train": {"echo": 25},
        "example": {"echo": 5, "shout": 5},
    }
    assert set(_files(prepared.folder)) == {
        "train.jsonl",
        "train_metrics.json",
        "example.jsonl",
        "example_metrics.json",
    }
    rows = [json.loads(line) for line in (prepared.folder / "example.jsonl").read_bytes().splitlines()]
    assert [row["environment"] for row in rows].count("shout") == 5
    assert all(row["agent_ref"]["name"].startswith(row["environment"]) for row in rows)
    metrics = json.loads((prepared.folder / "example_metrics.json").read_bytes())
    assert {(own["environment"], own["split"], own["rows"]) for own in metrics["environments"].values()} == {
        ("echo", "example", 5),
        ("shout", "example", 5),
    }
    assert metrics["total"]["rows"] == 10


def test_the_same_again_writes_nothing_and_other_data_need_force(catalog: Catalog, tmp_path: Path) -> None:
    """
    Nothing is overwritten by accident, and with force nothing old is left.
    """
    out = tmp_path / "out"
    assert prepare_data(["echo"], catalog, out, environ={}).is_new
    before = _files(out)
    assert not prepare_data(["echo"], catalog, out, environ={}).is_new

    with pytest.raises(RunFolderError, match="holds other data of the same names") as caught:
        prepare_data(["shout"], catalog, out, environ={})
    assert "train.jsonl: was prepared before, and is not now" in caught.value.differences
    assert _files(out) == before

    forced = prepare_data(["shout"], catalog, out, environ={}, force=True)
    assert set(_files(out)) == {"example.jsonl", "example_metrics.json"}
    assert forced.replaced == ("example.jsonl", "example_metrics.json")
    assert forced.removed == ("train.jsonl", "train_metrics.json")


def test_files_that_were_not_prepared_are_never_removed(catalog: Catalog, tmp_path: Path) -> None:
    """
    They are kept and named, also where one was prepared once and was changed by somebody since.
    """
    out = tmp_path / "out"
    prepare_data(["echo"], catalog, out, environ={})
    theirs = {
        "train.jsonl": b'{"mine": 1}\n',
        "validation.jsonl": b"mine",
        "validation_metrics.json": b'{"split": "validation", "file": "mine.jsonl", "sha256": ""}',
        "rejects.jsonl": b"mine",
    }
    for name, data in theirs.items():
        (out / name).write_bytes(data)
    (out / "example.jsonl").write_bytes(b"replaced\n")

    prepared = prepare_data(["shout"], catalog, out, environ={}, force=True)

    assert (prepared.replaced, prepared.removed) == (("example.jsonl", "example_metrics.json"), ())
    assert set(prepared.kept) == {*theirs, "train_metrics.json"}
    after = _files(out)
    assert {name: after[name] for name in theirs} == theirs


def test_what_is_read_is_never_written_to(tmp_path: Path) -> None:
    """
    Neither in the package of a plugin, nor by another name of a file in it.
    """
    from gymcore.discovery import discover

    site, out, link = tmp_path / "site", tmp_path / "out", tmp_path / "link"
    for folder in (site, out):
        folder.mkdir()
    rows = '{"responses_create_params": {"input": "x"}}\n{\n'
    code = "from gymcore import Environment\n\n\nclass Odd(Environment):\n    pass\n"
    manifest = "gym_api: 1\nsplits: {example: data/example.jsonl}\n"
    files = {"odd/__init__.py": code, "odd/gym.yaml": manifest, "odd/data/example.jsonl": rows}
    PluginFolder(site).install("gym-plugin-odd", files, {"gymcore.environments": {"odd": "odd:Odd"}})
    link.symlink_to(site / "odd" / "data")
    (out / "train.jsonl").hardlink_to(site / "odd" / "data" / "example.jsonl")
    with PluginFolder(site):
        catalog = discover()
        for folder in (site / "odd" / "data", link):
            with pytest.raises(RunFolderError, match="lies in the package of the environment 'odd'"):
                prepare_data(["odd"], catalog, folder, environ={}, force=True, skip_invalid=True)
        with pytest.raises(RunFolderError, match=r"holds rows of the environment 'odd' .*out/train\.jsonl"):
            prepare_data(["odd"], catalog, out, environ={}, force=True, skip_invalid=True)

    assert (site / "odd" / "data" / "example.jsonl").read_text() == rows


def test_what_is_no_file_is_not_replaced(catalog: Catalog, tmp_path: Path) -> None:
    """
    A folder or a pipe of such a name is refused where it is in the way, and kept where it is not.
    """
    os.mkfifo(tmp_path / "validation.jsonl")
    assert prepare_data(["echo"], catalog, tmp_path, environ={}).kept == ("validation.jsonl",)
    (tmp_path / "train.jsonl").unlink()
    os.mkfifo(tmp_path / "train.jsonl")

    with pytest.raises(RunFolderError, match=r"this is no file .*train\.jsonl"):
        prepare_data(["echo"], catalog, tmp_path, environ={}, force=True)


def test_environments_with_arguments_are_prepared(told: Catalog, tmp_path: Path) -> None:
    """
    Under the names that a plan would give them, several of one plugin; a split that one has not is told.
    """
    prepared = prepare_data(["told:hello", "told:http://x", "echo"], told, tmp_path / "out", environ={})

    assert {split.name: split.tasks for split in prepared.splits} == {
        "train": {"echo": 25},
        "example": {"hello": 3, "told": 3, "echo": 5},
    }
    assert prepared.skipped == {"hello (train)": "hello has no train", "told (train)": "http://x has no train"}
    with pytest.raises(PlanError, match="the environment 'told:hello' is named twice"):
        prepare_data(["told:hello", "told:hello"], told, tmp_path / "out", environ={})


def test_what_only_a_plan_can_say_is_hinted_at_with_its_command(told: Catalog) -> None:
    """
    Whoever raises an error need not know who asked.
    """
    plugin = told.find("environment", "told")
    for hint, said in [
        ("try: --set environments.x.config.word=..., or export W=...", "try: --env told:WORD, or export W=..."),
        ("try: --set environments.x.config.other=...", "try: gym compose --set environments.x.config.other=..."),
        ("try: another split, or --data FILE", "try: another split, or gym compose --data FILE"),
        ("try: --force", "try: --force"),
    ]:
        for error in (PlanError([Problem("x", hints=(hint,))]), PluginError("x", hints=[hint])):
            with pytest.raises(type(error)) as caught, hints_without_a_plan(plugin):
                raise error
            assert (caught.value.hints, str(caught.value)) == ((said,), f"x\n  {said}")


def test_an_invalid_row_is_never_prepared(plugins: PluginFolder, tmp_path: Path) -> None:
    """
    It is refused with everything, or left out, counted and told of.
    """
    from gymcore.discovery import discover

    folder = tmp_path / "site"
    folder.mkdir()
    files = {
        "odd/__init__.py": "from gymcore import Environment\n\n\nclass Odd(Environment):\n    '''Odd.'''\n",
        "odd/gym.yaml": "gym_api: 1\nsplits: {example: rows.jsonl}\nreward_range: [-1, 1]\n",
        "odd/rows.jsonl": '{"responses_create_params": {"input": "x"}}\n'
        '{"responses_create_params": {"input": "x"}}\n{"responses_create_params": 5}\n{\n',
    }
    PluginFolder(folder).install("gym-plugin-odd", files, {"gymcore.environments": {"odd": "odd:Odd"}})
    out = tmp_path / "out"
    with PluginFolder(folder):
        catalog = discover()
        with pytest.raises(RequestError, match="2 rows are wrong, of 4 read"):
            prepare_data(["odd"], catalog, out, environ={})
        assert not out.exists()
        with pytest.raises(RequestError, match="taken for mistakes"):
            prepare_data(["odd", "echo"], catalog, out, environ={}, skip_invalid=True, strict=True, tokenizer="words")
        prepared = prepare_data(["odd"], catalog, out, environ={}, skip_invalid=True)
        other = prepare_data(["odd"], catalog, tmp_path / "other", environ={}, skip_invalid=True).folder
        assert "rejects.jsonl" in prepare_data(["echo"], catalog, other, environ={}, force=True).removed

    assert prepared.rejected == 2
    assert [json.loads(line)["line"] for line in (out / "rejects.jsonl").read_bytes().splitlines()] == [3, 4]
    metrics = json.loads((out / "example_metrics.json").read_bytes())
    assert (metrics["rejected"], metrics["environments"]["odd"]["reward_range"]) == (2, [-1.0, 1.0])


def test_what_cannot_be_prepared_is_said_before_anything_is_written(catalog: Catalog, tmp_path: Path) -> None:
    """
    A name that is not there, one that stands twice, and an environment without data.
    """
    for names, kind, said in [
        (["ehco"], UnknownPluginError, "no environment is named 'ehco'"),
        (["echo", "echo"], PlanError, "is named twice"),
        (["mute"], RequestError, "the environment 'mute' has no split of train, validation, example"),
        (["echo", "mute"], RequestError, "the environment 'mute' has no split of train, validation, example"),
    ]:
        with pytest.raises(kind, match=said):
            prepare_data(names, catalog, tmp_path / "out", environ={})
    with pytest.raises(PlanError, match="there is no tokenizer"):
        prepare_data(["echo"], catalog, tmp_path / "out", environ={}, tokenizer="none.json")
    assert not (tmp_path / "out").exists()


def test_without_names_every_environment_that_can_be_is_prepared(catalog: Catalog, tmp_path: Path) -> None:
    """
    The others are left out with the reason.
    """
    prepared = prepare_data([], catalog, tmp_path / "out", environ={})

    tasks = {name for split in prepared.splits for name in split.tasks}
    assert {"echo", "shout"} <= tasks
    assert all(reason for reason in prepared.skipped.values())
    (own,) = [reason for name, reason in prepared.skipped.items() if name.endswith("mute")]
    assert own == "the environment 'mute' has no split of train, validation, example"


def test_what_a_killed_process_left_is_never_taken_for_data(catalog: Catalog, tmp_path: Path) -> None:
    """
    The part of a split that nobody prepares now is removed, and put in no place.
    """
    out = tmp_path / "out"
    out.mkdir()
    part_of(out / "validation.jsonl").write_bytes(b"half a")

    prepare_data(["echo"], catalog, out, environ={})

    assert set(_files(out)) == {"train.jsonl", "train_metrics.json", "example.jsonl", "example_metrics.json"}
