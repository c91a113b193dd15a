"""
Where a row came from: found again in its source, with its places in the mix and the layers of every option.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gymcore.composition import Composition, write_composition
from gymcore.composition.explanation import Explanation, OptionLayer, explain
from gymcore.discovery import Catalog
from gymcore.errors import GymcoreError, RequestError, RunFolderError
from gymcore.plan import EnvironmentPlan

Compose = Callable[..., Composition]
Write = Callable[..., str]

SECRET = "hush-hush-1234567890"


def row(answer: str, **more: Any) -> dict[str, Any]:
    """Return a row of the echo environment."""
    return {"answer": answer, "responses_create_params": {"input": answer}, **more}


def written(composition: Composition, folder: Path) -> Path:
    """Write a composition, and return its folder."""
    write_composition(composition, folder)
    return folder


def ids(folder: Path, environment: str) -> list[str]:
    """Return the task ids of an environment in the order of the mix."""
    rows = [json.loads(line) for line in (folder / "dataset.jsonl").read_text().splitlines()]
    return [found["task_id"] for found in rows if found["environment"] == environment]


def layers(explained: Explanation) -> dict[str, OptionLayer]:
    """Return the options by `of.name`."""
    return {f"{option.of}.{option.name}": option for option in explained.options}


def refusal(act: Callable[[], Any], kind: type[GymcoreError] = RequestError) -> Any:
    """Return the refusal."""
    with pytest.raises(kind) as caught:
        act()
    assert caught.value.exit_code == 2
    return caught.value


ENTRY: dict[str, Any] = {
    "split": "train",
    "weight": 2.5,
    "limit": 4,
    "repeats": 3,
    "concurrency": 7,
    "timeout_s": 60.0,
    "tool_timeout_s": 5.0,
    "verify_timeout_s": 6.0,
    "max_failures": 9,
    "isolation": "process",
    "workers": 2,
    "environ": ["HOME"],
    "memory_mb": 512,
    "prompt": {"system": "Be brief."},
    "filter": {"answer": {"not": "one"}},
}
"""A value for every key of an environment's entry that says how its rows are taken and played."""


def test_every_key_of_an_entry_is_told_as_the_plan_has_it(composed: Compose, catalog: Catalog, tmp_path: Path) -> None:
    """
    With its value, as what JSON can hold.
    """
    told_elsewhere = {"use", "data", "agent", "model", "config", "params"}
    assert ENTRY.keys() == EnvironmentPlan.model_fields.keys() - told_elsewhere
    folder = written(composed({"environments": {"echo": {**ENTRY, "params": {"top_p": 0.5}}}}), tmp_path / "mix")

    explained = explain(folder, ids(folder, "echo")[0], catalog, {})

    found = {option.name: option for option in explained.options if option.of == "plan"}
    assert {name: (option.value, option.layer) for name, option in found.items()} == {
        **{name: (value, "plan") for name, value in ENTRY.items()},
        "params.top_p": (0.5, "plan"),
    }
    assert json.dumps(explained.to_dict())


# -- the source --------------------------------------------------------------------------------------------------------


def test_every_row_is_found_where_it_stands(composed: Compose, catalog: Catalog, tmp_path: Path) -> None:
    """
    Of a shuffled and repeated mix, each row leads to the line of the package's file that holds its answer.
    """
    plan = {"environments": {"echo": {"split": "train", "weight": 2}, "shout": {"weight": 1}}, "mix": {"size": 60}}
    folder = written(composed(plan), tmp_path / "run")
    lines = (folder / "dataset.jsonl").read_text().splitlines()
    echo = catalog.find("environment", "echo")

    for position in (1, 30, 60):
        found = json.loads(lines[position - 1])
        explained = explain(folder, found["task_id"], catalog, {})
        assert position in explained.positions
        assert explained.rows == 60
        assert explained.epochs[explained.positions.index(position)] == found.get("epoch", 1)
        assert explained.warnings == ()
        name, _, number = (explained.source or "").rpartition(":")
        if found["environment"] == "echo":
            with catalog.open_file(echo, name.removeprefix("gym-plugin-echo/echo:")) as source:
                assert json.loads(list(source)[int(number) - 1])["answer"] == found["answer"]
        else:
            assert name == "gym-plugin-echo/shout:data/example.jsonl"


def test_a_row_of_a_file_with_routes_is_found_there(
    composed: Compose, catalog: Catalog, tmp_path: Path, write_rows: Write
) -> None:
    """
    Twins are told apart by their number, and an environment that only rows name needs no entry.
    """
    rows = [row("a", agent_ref={"name": "echo_voice"}), row("b", agent_ref={"name": "shout_voice"})]
    path = write_rows(*rows, rows[0])
    folder = written(composed({"data": path}), tmp_path / "run")

    places = {task: explain(folder, task, catalog, {}).source for task in ids(folder, "echo")}

    assert list(places.values()) == [f"{path}:1", f"{path}:3"]
    explained = explain(folder, ids(folder, "shout")[0], catalog, {})
    assert (explained.source, explained.split) == (f"{path}:2", None)
    assert (explained.route, explained.agent_plugin) == ("shout_voice", "gym-plugin-echo/voice 0.1.0")


def test_a_source_that_has_changed_is_said_to_have(
    composed: Compose, catalog: Catalog, tmp_path: Path, write_rows: Write
) -> None:
    """
    A line that has moved is found where it is now, and one that is gone is not found.
    """
    path = write_rows(row("a"), row("b"))
    folder = written(composed({"environments": {"echo": {"data": path}}}), tmp_path / "run")
    first, second = ids(folder, "echo")
    write_rows(row("new"), row("b"))

    moved, gone = explain(folder, second, catalog, {}), explain(folder, first, catalog, {})

    changed = f"{path} has changed since the row was composed: its digest is not that of the lock"
    assert (moved.source, moved.warnings) == (f"{path}:2", (changed,))
    assert (gone.source, gone.warnings) == (None, (changed, "no source holds this row any more"))


def test_a_source_that_is_gone_hides_nothing_else(
    composed: Compose, catalog: Catalog, tmp_path: Path, write_rows: Write
) -> None:
    """
    What the lock and the dataset say is told, with the reason why the rest is not.
    """
    path = write_rows(row("a"))
    folder = written(composed({"environments": {"echo": {"data": path}}}), tmp_path / "run")
    Path(path).unlink()

    explained = explain(folder, ids(folder, "echo")[0], catalog, {})

    assert explained.source is None
    assert explained.warnings == (
        "its source cannot be read again: the data file cannot be read: No such file or directory",
    )
    assert explained.positions == (1,)


def test_what_no_longer_fits_the_lock_is_said(composed: Compose, catalog: Catalog, tmp_path: Path) -> None:
    """
    A plan that was edited, and a variable that was set then, would be told as if the rollouts had come of them.
    """
    config = {"level": "${LEVEL}", "style": "loud"}
    folder = written(composed({"environments": {"echo": {"config": config}}}, LEVEL="3"), tmp_path / "run")
    task = ids(folder, "echo")[0]
    assert explain(folder, task, catalog, {"LEVEL": "3"}).warnings == ()

    other_value = explain(folder, task, catalog, {"LEVEL": "4"}).warnings
    (folder / "plan.yaml").write_text((folder / "plan.yaml").read_text().replace("loud", "plain"))
    other_plan = explain(folder, task, catalog, {"LEVEL": "3"}).warnings

    assert other_value[1:] == ("echo: config.level comes out of a variable that has another value now",)
    assert other_plan[1:] == ("echo: config.style loud -> not set",)


def test_a_plugin_that_is_gone_hides_nothing_else(composed: Compose, catalog: Catalog, tmp_path: Path) -> None:
    """
    The lock still says which it was.
    """
    folder = written(composed({"environments": {"echo": {}}}), tmp_path / "run")
    bare = Catalog(tuple(plugin for plugin in catalog.plugins if plugin.distribution == "gymcore"))

    explained = explain(folder, ids(folder, "echo")[0], bare, {})

    assert explained.environment_plugin == "gym-plugin-echo/echo 0.1.0"
    assert "its source cannot be read again: no environment is named 'echo'" in explained.warnings


# -- which row ---------------------------------------------------------------------------------------------------------


def test_the_beginning_of_an_id_is_enough_where_no_other_begins_so(
    composed: Compose, catalog: Catalog, tmp_path: Path
) -> None:
    """
    With the environment or without; several are refused with their names, and an unknown one with the nearest.
    """
    folder = written(composed({"environments": {"echo": {}}}), tmp_path / "run")
    task = ids(folder, "echo")[0]

    assert explain(folder, task[:15], catalog, {}).task_id == task
    assert explain(folder, task.removeprefix("echo/")[:10], catalog, {}).task_id == task

    several = refusal(lambda: explain(folder, "echo/", catalog, {}))
    assert several.message == "several task ids begin with 'echo/'"
    assert sorted(several.hints) == sorted(ids(folder, "echo"))

    unknown = refusal(lambda: explain(folder, task[:-1] + "z", catalog, {}))
    assert unknown.message == f"no row has the task id {task[:-1] + 'z'!r}"
    assert task in unknown.hints[0]

    assert refusal(lambda: explain(folder, "", catalog, {})).message == "no row has the task id ''"


def test_ids_of_authors_may_stand_in_two_environments(
    composed: Compose, catalog: Catalog, tmp_path: Path, write_rows: Write
) -> None:
    """
    Then the environment's name before it tells which is meant; an id that is a number is found by its digits.
    """
    plan = {
        "environments": {
            "echo": {"data": write_rows(row("a", task_id=7), row("c", task_id=71), name="one.jsonl")},
            "twin": {"use": "echo", "data": write_rows(row("b", task_id=7), name="two.jsonl")},
        }
    }
    folder = written(composed(plan), tmp_path / "run")

    both = refusal(lambda: explain(folder, "7", catalog, {}))

    assert both.message == "two environments have the task id '7'"
    assert sorted(both.hints) == ["echo/7", "twin/7"]
    assert (explain(folder, "twin/7", catalog, {}).source or "").endswith("two.jsonl:1")
    assert (explain(folder, "71", catalog, {}).source or "").endswith("one.jsonl:2")


def test_a_folder_without_a_composition_is_refused(tmp_path: Path, catalog: Catalog) -> None:
    """
    So is a lock without its folder, and a folder whose dataset is gone.
    """
    assert "no composition" in refusal(lambda: explain(tmp_path, "x", catalog, {}), RunFolderError).message
    assert "no such run folder" in refusal(lambda: explain(tmp_path / "x", "x", catalog, {}), RunFolderError).message


# -- options -----------------------------------------------------------------------------------------------------------


def test_each_option_is_told_with_the_layer_that_set_it(composed: Compose, catalog: Catalog, tmp_path: Path) -> None:
    """
    The class's default, the manifest, an environment variable, the plan; a secret is never shown.
    """
    environ = {"ECHO_NAME": "somebody", "ECHO_KEY": SECRET, "KEYED_KEY": SECRET, "STYLE": "loud"}
    plan = {
        "environments": {
            "echo": {"limit": 3, "config": {"style": "${STYLE}", "auth": {"token": SECRET}}, "agent": "voice"}
        },
        "models": {"policy": {"use": "keyed", "config": {"base_url": "http://x", "temperature": 0.5}}},
        "collect": {"repeats": 2},
    }
    folder = written(composed(plan, **environ), tmp_path / "run")

    explained = explain(folder, ids(folder, "echo")[0], catalog, environ)

    told = {name: (option.layer, option.value) for name, option in layers(explained).items()}
    assert told["environment.level"] == ("manifest", 2)
    assert told["environment.style"] == ("plan", "${STYLE}")
    assert told["environment.name"] == ("environment variable", None)
    assert layers(explained)["environment.name"].variable == "ECHO_NAME"
    assert told["environment.url"] == ("default", "http://here")
    assert layers(explained)["environment.key"].variable == "ECHO_KEY"
    assert told["agent.pitch"] == ("default", 1)
    assert told["model.base_url"] == ("plan", "http://x")
    assert told["model.temperature"] == ("plan", 0.5)
    assert told["model.api_key"] == ("environment variable", None)
    assert told["plan.limit"] == ("plan", 3)
    assert told["plan.repeats"] == ("plan", 2)
    assert told["plan.split"] == ("default", "example")
    assert told["plan.timeout_s"] == ("default", 600.0)
    assert SECRET not in json.dumps(explained.to_dict())
    assert "somebody" not in json.dumps(explained.to_dict())


def test_the_layers_agree_with_what_the_options_become(composed: Compose, catalog: Catalog, tmp_path: Path) -> None:
    """
    Where a layer shows a value, the option that plays has it.
    """
    composition = composed({"environments": {"echo": {"config": {"level": 5}}}})
    folder = written(composition, tmp_path / "run")

    explained = explain(folder, ids(folder, "echo")[0], catalog, {})

    config = composition.routes["echo_simple_agent"].environment_options.config
    shown = [option for option in explained.options if option.of == "environment" and not option.is_hidden]
    assert len(shown) > 3
    assert {option.name: option.value for option in shown} == {
        option.name: getattr(config, option.name) for option in shown
    }
