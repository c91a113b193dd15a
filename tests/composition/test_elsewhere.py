"""
Environments that are somewhere else: `use: NAME:ARGUMENT`, tools that stand in rows, and rows that are routed there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gymcore.composition import Composition, compose
from gymcore.discovery import Catalog, discover
from gymcore.documents import YamlDocument, parse_yaml
from gymcore.errors import DataError, GymcoreError
from gymcore.plan import Plan
from gymcore.testing.plugins import PluginFolder

PARAMS = {"input": "Say it."}
FLY = {"type": "function", "name": "fly", "parameters": {"type": "object", "properties": {}}}
FAR = """
from gymcore import Config, Environment, Task

class Options(Config):
    place: str
    size: int = 1

class Far(Environment[Task, Options]):
    keeps_route = True

    async def other_tool(self, call):
        return call.name

    def verify(self, trajectory):
        return 1.0
"""

Write = Callable[..., str]
Composed = Callable[..., Composition]


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalog]:
    """
    The environment `far`, which takes what follows a colon as its `place`, beside those that are installed.
    """
    with PluginFolder(tmp_path_factory.mktemp("far")) as folder:
        manifest = "gym_api: 1\nargument: place"
        files = {"gym_plugin_far/__init__.py": FAR, "gym_plugin_far/gym.yaml": manifest}
        folder.install("gym-plugin-far", files, {"gymcore.environments": {"far": "gym_plugin_far:Far"}})
        yield discover()


@pytest.fixture
def composed(far: Catalog) -> Composed:
    """
    What composes a plan of plain values.
    """

    def run(environments: dict[str, Any], *, data: list[str] | None = None, **environ: str) -> Composition:
        plan = {"environments": environments, "data": data or [], "models": {"policy": "nop"}}
        return compose(Plan.from_document(YamlDocument(plan)), far, environ=environ)

    return run


def _row(**more: Any) -> dict[str, Any]:
    return {"responses_create_params": PARAMS, **more}


def _values(composition: Composition) -> list[dict[str, Any]]:
    return [row.value for row in composition.dataset]


# -- the argument ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("use", ["far:http://127.0.0.1:9000/a?b=c", "gym-plugin-far/far:http://127.0.0.1:9000/a?b=c"])
def test_what_follows_the_colon_is_an_option(composed: Composed, write_rows: Write, use: str) -> None:
    """
    The manifest says which; plan and lock hold it as any other option, so both read back equal.
    """
    rows = write_rows(_row())

    composition = composed({"there": {"use": use, "data": rows, "config": {"size": 2}}})

    options = {"place": "http://127.0.0.1:9000/a?b=c", "size": 2}
    written = composition.plan.environments["there"]
    assert (written.use, written.config) == ("far", options)
    assert composition.lock["environments"]["there"]["asked"]["config"] == options
    again = compose(Plan.from_document(parse_yaml(composition.plan.to_yaml())), discover(), environ={})
    assert again.lock == composition.lock


def test_a_variable_may_follow_the_colon(composed: Composed, write_rows: Write) -> None:
    """
    As anywhere in a plan; what is written is its name.
    """
    composition = composed({"far": {"use": "far:${PLACE}", "data": write_rows(_row())}}, PLACE="over there")

    (route,) = composition.routes.values()
    assert route.environment_options.config.place == "over there"  # type: ignore[union-attr]
    assert composition.plan.environments["far"].config == {"place": "${PLACE}"}


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        (
            {"use": "example_multi_step:7"},
            "the environment 'example_multi_step' (gym-plugin-example-multi-step 0.1.0) takes nothing after a colon "
            "(environments.far.use)\n  try: use: example_multi_step",
        ),
        ({"use": "far:"}, "nothing stands after a colon (environments.far.use)"),
        ({"use": "far:a", "config": {"place": "b"}}, "the option 'place' is said twice, after the colon of `use`"),
        ({"use": "fra:a"}, "no environment is named 'fra' (environments.far)"),
    ],
)
def test_an_argument_that_means_nothing_is_refused(
    composed: Composed, write_rows: Write, entry: dict[str, Any], told: str
) -> None:
    """
    With its place, and what to try.
    """
    with pytest.raises(GymcoreError) as caught:
        composed({"far": {"data": write_rows(_row()), **entry}})

    assert told in str(caught.value)


# -- tools that stand in rows ------------------------------------------------------------------------------------------


def test_rows_may_offer_what_the_class_has_no_method_for(composed: Composed, write_rows: Write) -> None:
    """
    Where it carries out other tools; nothing is refused and nothing is odd, and neither is it in `params`.
    """
    offered = _row(responses_create_params={**PARAMS, "tools": [FLY]})

    composition = composed({"far": {"use": "far:a", "data": write_rows(offered), "params": {"tools": [FLY]}}})

    assert composition.warnings == ()
    assert composition.notes == ()
    assert composition.lock["dataset"]["rows"] == 1


def test_a_tool_without_a_name_is_refused_all_the_same(composed: Composed, write_rows: Write) -> None:
    """
    A function has a name, wherever it is called.
    """
    nameless = _row(responses_create_params={**PARAMS, "tools": [{"type": "function"}]})

    with pytest.raises(DataError, match="a function has a `name`"):
        composed({"far": {"use": "far:a", "data": write_rows(nameless)}})


# -- rows that are routed elsewhere ------------------------------------------------------------------------------------


def test_what_a_row_says_of_another_route_is_kept(composed: Composed, write_rows: Write) -> None:
    """
    It gets a route of ours, and whoever serves it is told what it said before.
    """
    theirs = {"agent_ref": {"name": "weather_agent", "more": 1}, "environment": "weather", "task_id": 7, "epoch": 2}
    rows = write_rows(_row(n=1, **theirs), _row(n=2, task_id="own"), _row(n=3))

    composition = composed({"there": {"use": "far:a", "data": rows}})

    first, second, third = _values(composition)
    ours = {"type": "responses_api_agents", "name": "there_simple_agent"}
    assert first == _row(n=1, **{**theirs, "environment": "there", "agent_ref": {**ours, "served_as": theirs}})
    assert second["agent_ref"] == {**ours, "served_as": {"task_id": "own"}}
    assert (third["agent_ref"], third["environment"]) == (ours, "there")


def test_a_row_that_is_routed_anew_keeps_every_digit(composed: Composed, write_rows: Write) -> None:
    """
    It is written anew, and reading it fast would make a float of an integer beyond 64 bits.
    """
    large = 123456789012345678901234567890
    row = {"responses_create_params": PARAMS, "agent_ref": {"name": "theirs"}, "meta": {"id": large}}

    composition = composed({"there": {"use": "far:a", "data": write_rows(row)}})

    assert str(large).encode() in composition.dataset.row(0).data


def test_what_others_call_their_tasks_need_not_tell_them_apart(composed: Composed, write_rows: Write) -> None:
    """
    A name that stands twice is no id of ours, and is kept for whoever gave it.
    """
    rows = write_rows(_row(n=1, task_id=7), _row(n=2, task_id=7), _row(n=3, task_id=""))

    values = _values(composed({"there": {"use": "far:a", "data": rows}}))

    assert values[0]["task_id"] == 7
    assert len({str(value["task_id"]) for value in values}) == 3
    assert [value["agent_ref"]["served_as"]["task_id"] for value in values] == [7, 7, ""]


@pytest.mark.parametrize("more", [{"task_id": 7}, {"environment": "weather"}, {"environment": "weather", "task_id": 7}])
def test_a_route_that_is_called_like_ours_is_theirs_all_the_same(
    composed: Composed, write_rows: Write, more: dict[str, Any]
) -> None:
    """
    What was composed here says more than its agent; a row that only names ours is for us.
    """
    reference = {"name": "there_simple_agent"}
    rows = write_rows(_row(n=1, agent_ref=reference, **more), _row(n=2, agent_ref=reference, **more))
    plain = write_rows(_row(agent_ref=reference), name="plain.jsonl")

    values = _values(composed({"there": {"use": "far:a", "data": [rows, plain]}}))

    assert [value["agent_ref"].get("served_as") for value in values] == [{"agent_ref": reference, **more}] * 2 + [None]


def test_what_was_composed_composes_to_itself(composed: Composed, write_rows: Write, tmp_path: Path) -> None:
    """
    A row of ours is not taken for one of theirs, with or without another route in it.
    """
    rows = write_rows(_row(n=1, agent_ref={"name": "weather_agent"}), _row(n=2))
    first = composed({"there": {"use": "far:a", "data": rows}})
    first.dataset.write(tmp_path / "again.jsonl")

    for plan in ({"there": {"use": "far:a", "data": str(tmp_path / "again.jsonl")}}, {"there": {"use": "far:a"}}):
        data = [] if "data" in plan["there"] else [str(tmp_path / "again.jsonl")]
        again = composed(plan, data=data)
        assert [row.data for row in again.dataset] == [row.data for row in first.dataset]


def test_rows_that_a_server_may_have_routed_itself_are_remarked_upon(
    composed: Composed, write_rows: Write, tmp_path: Path
) -> None:
    """
    What is called alike here and there cannot be told apart; under another name it is theirs, and they get all of it.
    """
    rows = write_rows(_row(n=1, agent_ref={"name": "weather_agent"}), _row(n=2))
    server = composed({"there": {"use": "far:a", "data": rows}})
    server.dataset.write(tmp_path / "theirs.jsonl")
    theirs = str(tmp_path / "theirs.jsonl")

    alike = composed({"there": {"use": "far:b", "data": theirs}})
    other = composed({"yonder": {"use": "far:b", "data": theirs}})

    (note,) = alike.notes
    assert note.startswith("there: its rows were composed for an environment of this name")
    assert note.endswith("give this one another name (1 rows)")
    assert other.notes == server.notes == ()
    assert [value["agent_ref"]["served_as"]["agent_ref"] for value in _values(other)] == [
        value["agent_ref"] for value in _values(server)
    ]


def test_an_environment_that_is_here_refuses_the_rows_of_another(composed: Composed, write_rows: Write) -> None:
    """
    For it, a row that says another environment is a mistake.
    """
    with pytest.raises(DataError, match="`environment` says 'weather'"):
        composed({"example_single_tool_call": {"data": write_rows(_row(city="Oslo", environment="weather"))}})


def test_data_of_the_plan_belong_to_whom_they_name(composed: Composed, write_rows: Write) -> None:
    """
    Only what is given to the environment itself may name others; whoever mixes both up is told how.
    """
    with pytest.raises(DataError, match=r"there\.data=FILE, for rows that are routed elsewhere"):
        composed({"there": {"use": "far:a"}}, data=[write_rows(_row(agent_ref={"name": "weather_agent"}))])
