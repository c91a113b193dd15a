"""
Compose: what a plan means, exactly, and every mistake of it at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest

from gymcore.composition import Composition, compose, open_composition, write_composition
from gymcore.discovery import Catalog
from gymcore.documents import parse_yaml
from gymcore.errors import DataError, GymcoreError, PlanError, PluginError, RequestError, UnknownPluginError
from gymcore.plan import Plan, read_plan

Compose = Callable[..., Composition]
Write = Callable[..., str]

ROUTE = {"name": "echo_simple_agent"}


def _row(answer: str = "it", **changes: Any) -> dict[str, Any]:
    return {"answer": answer, "responses_create_params": {"input": "x"}, "agent_ref": ROUTE, **changes}


def _order(composition: Composition) -> list[str]:
    return [row.value["environment"] for row in composition.dataset]


def _refused(composed: Compose, plan: dict[str, Any], *settings: str) -> GymcoreError:
    with pytest.raises(GymcoreError) as caught:
        composed(plan, *settings)
    return caught.value


# -- what is composed --------------------------------------------------------------------------------------------------


def test_two_environments_of_five_rows_alternate(composed: Compose) -> None:
    """
    The plain case takes every row of the example split once, evenly interleaved.
    """
    composition = composed({"environments": {"echo": {}, "shout": {}}})

    assert _order(composition) == ["echo", "shout"] * 5
    assert composition.tasks() == {"echo": 5, "shout": 5}
    assert list(composition.routes) == ["echo_simple_agent", "shout_voice"]


def test_the_order_of_a_plan_does_not_change_the_mix(composed: Compose) -> None:
    """
    The same environments in another order are the same dataset.
    """
    first = composed({"environments": {"echo": {"split": "train"}, "shout": {}, "twin": {"use": "echo"}}})
    second = composed({"environments": {"twin": {"use": "echo"}, "shout": {}, "echo": {"split": "train"}}})

    assert [row.data for row in first.dataset] == [row.data for row in second.dataset]


def test_dropping_an_environment_moves_no_task_of_another(composed: Compose) -> None:
    """
    Without it, the others keep their tasks, their identities and their order.
    """
    both = composed({"environments": {"echo": {"split": "train"}, "shout": {}}})
    alone = composed({"environments": {"echo": {"split": "train"}}})

    kept = [row.data for row in both.dataset if row.value["environment"] == "echo"]
    assert kept == [row.data for row in alone.dataset]


WEIGHTS = list(product([None, 2], [None, 3], [None, 1]))


@pytest.mark.parametrize(
    "mix", [{}, {"batch": 4, "allow_starved": True}, {"size": 40}, {"shuffle": False}, {"exhausted": "stop"}], ids=str
)
@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_no_other_environment_decides_the_order_within_one(
    composed: Compose, weights: tuple[int | None, ...], mix: dict[str, Any]
) -> None:
    """
    Whichever are there, with weights or without: the rows of an environment follow each other as they do alone.
    """
    entries: dict[str, Any] = {
        "echo": {"split": "train"},
        "shout": {},
        "twin": {"use": "echo", "split": "train", "limit": 7},
    }
    for entry, weight in zip(entries.values(), weights, strict=True):
        entry |= {} if weight is None else {"weight": weight}
    orders = [
        _rows_of(composed({"environments": {name: entries[name] for name in chosen}, "mix": mix}))
        for count in (1, 2, 3)
        for chosen in combinations(entries, count)
    ]
    for name in entries:
        first, *others = (order[name] for order in orders if name in order)
        for other in others:
            assert all(one == another for one, another in zip(first, other, strict=False))


def _rows_of(composition: Composition) -> dict[str, list[bytes]]:
    """Return the rows of each environment, in order."""
    rows: dict[str, list[bytes]] = {}
    for row in composition.dataset:
        rows.setdefault(row.value["environment"], []).append(row.data)
    return rows


def test_a_split_may_be_several_files_in_order(composed: Compose) -> None:
    """
    They follow each other as the manifest lists them.
    """
    answers = [row.value["answer"] for row in composed({"environments": {"echo": {"split": "train"}}}).dataset]

    assert answers == [f"word{index}" for index in range(20)] + ["one", "two", "three", "four", "five"]


@pytest.mark.parametrize("limit", [1, 3, 5, 99])
def test_a_limit_takes_the_first_tasks(composed: Compose, limit: int) -> None:
    """
    Rows beyond it are neither taken nor looked at.
    """
    composition = composed({"environments": {"echo": {"limit": limit}}})

    assert [row.value["answer"] for row in composition.dataset] == ["one", "two", "three", "four", "five"][:limit]


def test_a_limit_holds_over_several_files_and_skips_bad_rows_behind_it(composed: Compose, write_rows: Write) -> None:
    """
    A limit is per environment, whatever its rows come from.
    """
    first, second = write_rows(_row("a"), name="1"), write_rows(_row("b"), b"nonsense", name="2")

    composition = composed({"environments": {"echo": {"data": [first, second], "limit": 2}}})

    assert [row.value["answer"] for row in composition.dataset] == ["a", "b"]


def test_a_limit_holds_for_rows_that_carry_their_route(composed: Compose, write_rows: Write) -> None:
    """
    The plan's entry for an environment counts for rows of the plan's data too.
    """
    path = write_rows(*(_row(str(number)) for number in range(9)))

    assert len(composed({"environments": {"echo": {"limit": 2}}, "data": path}).dataset) == 2


def test_repeats_are_planned_per_environment(composed: Compose) -> None:
    """
    An environment's own number wins over that of the plan; neither changes the dataset.
    """
    composition = composed({"environments": {"echo": {"repeats": 4}, "shout": {}}, "collect": {"repeats": 2}})

    assert composition.planned() == {"echo": 20, "shout": 10}
    assert len(composition.dataset) == 10


def test_an_environment_may_stand_twice_under_names_of_its_own(composed: Compose) -> None:
    """
    Each has its own options, routes and tasks.
    """
    plan = {"environments": {"easy": {"use": "echo"}, "hard": {"use": "gym-plugin-echo/echo", "config": {"level": 9}}}}

    composition = composed(plan)

    levels = {route.environment: route.environment_options.config.level for route in composition.routes.values()}
    assert levels == {"easy": 2, "hard": 9}
    assert _order(composition) == ["easy", "hard"] * 5


def test_the_agent_comes_from_plan_then_manifest_then_default(composed: Compose) -> None:
    """
    An environment's own choice wins, then the plan's, then its author's, then `simple_agent`.
    """
    plan: dict[str, Any] = {"environments": {"echo": {}, "shout": {}, "own": {"use": "echo", "agent": "loud_voice"}}}

    assert set(composed(plan).routes) == {"echo_simple_agent", "shout_voice", "own_loud_voice"}
    assert set(composed({**plan, "agent": "voice"}).routes) == {"echo_voice", "shout_voice", "own_loud_voice"}


# -- rows that carry their route ---------------------------------------------------------------------------------------


def test_rows_made_elsewhere_need_only_their_agent_reference(composed: Compose, write_rows: Write) -> None:
    """
    Several files are mixed, and the plan need not name any environment.
    """
    shout = {"responses_create_params": {"input": "x"}, "agent_ref": {"name": "shout_voice"}}
    first, second = write_rows(_row("a"), _row("b"), name="1"), write_rows(shout, {**shout, "n": 2}, name="2")

    composition = composed({"data": [first, second]})

    assert _order(composition) == ["echo", "shout"] * 2
    assert list(composition.plan.environments) == ["echo", "shout"]


def test_routed_rows_are_mixed_with_a_split_that_is_asked_for(composed: Compose, write_rows: Write) -> None:
    """
    Beside data, an environment brings rows of its own only where the plan names a split.
    """
    path = write_rows(_row("a"))

    assert len(composed({"environments": {"echo": {"split": "example"}}, "data": path}).dataset) == 6
    assert len(composed({"environments": {"echo": {}}, "data": path}).dataset) == 1


@pytest.mark.parametrize("agent", ["simple_agent", "gymcore/simple_agent", "Simple-Agent"])
def test_rows_that_name_the_plans_agent_get_its_options(composed: Compose, write_rows: Write, agent: str) -> None:
    """
    However the plan spells it, it is the same agent.
    """
    plan = {"agent": {"use": agent, "config": {"max_turns": 3}}, "data": write_rows(_row())}

    (route,) = composed(plan).routes.values()

    assert route.agent_options.config.max_turns == 3


def test_rows_that_name_another_agent_are_played_by_it(composed: Compose, write_rows: Write) -> None:
    """
    The row's word counts, and the options of the plan's agent are not put on another.
    """
    plan = {
        "environments": {"echo": {"agent": {"use": "simple_agent", "config": {"max_turns": 3}}}},
        "data": write_rows(_row("a", agent_ref={"name": "echo_voice"}), _row("b")),
    }

    composition = composed(plan)

    assert {name: route.agent_class.__name__ for name, route in composition.routes.items()} == {
        "echo_voice": "Voice",
        "echo_simple_agent": "SimpleAgent",
    }
    assert composition.routes["echo_simple_agent"].agent_options.config.max_turns == 3


def test_the_longest_environment_name_reads_a_route(composed: Compose, write_rows: Write) -> None:
    """
    `hard_echo_voice` is the voice in `hard_echo`, where the plan has such an environment.
    """
    plan = {
        "environments": {"hard_echo": {"use": "echo"}},
        "data": write_rows(
            _row(agent_ref={"name": "hard_echo_voice"}), _row(agent_ref={"name": "hard_echo_loud_voice"})
        ),
    }

    assert set(_order(composed(plan))) == {"hard_echo"}


def test_two_environments_cannot_have_one_route(composed: Compose) -> None:
    """
    `echo_loud` played by `voice` and `echo` played by `loud_voice` would share their rows.
    """
    plan = {"environments": {"echo": {"agent": "loud_voice"}, "echo_loud": {"use": "echo", "agent": "voice"}}}

    error = _refused(composed, plan)

    assert isinstance(error, PlanError)
    assert "the route 'echo_loud_voice' already leads to 'echo'" in str(error)


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "kind", "said"),
    [
        ({}, PlanError, "the plan names no environment"),
        ({"environments": {}}, PlanError, "try: --env NAME, or --data FILE"),
        ({"environments": {"ehco": {}}}, UnknownPluginError, "no environment is named 'ehco' (environments.ehco)"),
        ({"environments": {"ehco": {}}}, UnknownPluginError, "try: 'echo'"),
        (
            {"environments": {"x": {"use": "ehco"}}},
            UnknownPluginError,
            "no environment is named 'ehco' (environments.x)",
        ),
        (
            {"environments": {"echo": {"agent": "voise"}}},
            UnknownPluginError,
            "no agent is named 'voise' (environments.echo.agent)",
        ),
        (
            {"environments": {"echo": {}}, "models": {"policy": "keyd"}},
            UnknownPluginError,
            "no model is named 'keyd' (models.policy)",
        ),
        ({"environments": {"echo": {}}, "models": {"judge": "keyd"}}, UnknownPluginError, "(models.judge)"),
        (
            {"environments": {"echo": {"model": "polcy"}}},
            PlanError,
            "the plan has no model 'polcy' (environments.echo.model)",
        ),
        (
            {"environments": {"echo": {"config": {"levle": 3}}}},
            PlanError,
            "unknown option 'levle' (environments.echo.config.levle)",
        ),
        ({"environments": {"echo": {"config": {"levle": 3}}}}, PlanError, "try: level"),
        ({"environments": {"echo": {"config": {"level": "x"}}}}, PlanError, "(environments.echo.config.level)"),
        ({"environments": {"echo": {"config": {"level": 10}}}}, PlanError, "less than or equal to 9, not 10"),
        (
            {"environments": {"echo": {"agent": {"config": {"max_turn": 1}}}}},
            PlanError,
            "unknown option 'max_turn' (environments.echo.agent.config.max_turn)",
        ),
        (
            {"environments": {"echo": {}}, "models": {"policy": "keyed"}},
            PlanError,
            "the option 'base_url' is required (models.policy.config.base_url)",
        ),
        (
            {"environments": {"echo": {}}, "models": {"policy": "keyed"}},
            PlanError,
            "--set models.policy.config.base_url=..., or export KEYED_URL=...",
        ),
        (
            {"environments": {"echo": {"config": {"name": "${NO_NAME}"}}}},
            PlanError,
            "${NO_NAME} is not set (environments.echo.config.name)",
        ),
        (
            {"environments": {"echo": {"split": "exmaple"}}},
            PlanError,
            "'echo' has no split 'exmaple' (environments.echo.split)\n  try: example",
        ),
        ({"environments": {"echo": {"split": "zzz"}}}, PlanError, "its splits: example, train, empty, missing"),
        (
            {"environments": {"mute": {}}, "models": {"policy": "nop"}},
            PlanError,
            "'mute' has no split 'example' (environments.mute.split)\n"
            "  it brings no rows; try: --set environments.mute.data=FILE, and no split",
        ),
        ({"environments": {"mute": {}}}, PlanError, "Mute has no reference solution"),
        (
            {"environments": {"echo": {"split": "empty"}}},
            PlanError,
            "its split 'empty' holds no rows (environments.echo.split)\n"
            "  try: leave it out, or --set environments.echo.split=example",
        ),
        ({"environments": {"echo": {"split": "missing"}}}, PluginError, "names the data file 'data/missing.jsonl'"),
        (
            {"environments": {"echo": {"data": "/no/such.jsonl"}}},
            PlanError,
            "the data file cannot be read: No such file or directory (environments.echo.data: /no/such.jsonl)",
        ),
        ({"data": "/"}, PlanError, "the data file cannot be read: Is a directory (data: /)"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_refused(
    composed: Compose, plan: dict[str, Any], kind: type[GymcoreError], said: str
) -> None:
    """
    The message names the key and the remedy.
    """
    error = _refused(composed, plan)

    assert type(error) is kind
    assert said in str(error)


def test_several_mistakes_are_reported_at_once(composed: Compose) -> None:
    """
    Names, options, variables and models are one list, each with its key path.
    """
    plan = {
        "environments": {"ehco": {}, "echo": {"config": {"levle": 1, "style": "loudly"}}, "shout": {"agent": "voise"}},
        "models": {"policy": {"use": "keyed", "config": {"model": "${NO_MODEL}"}}, "judge": "jugde"},
    }

    error = _refused(composed, plan)

    assert isinstance(error, PlanError)
    assert len(error.problems) == 6
    for part in ("'jugde'", "NO_MODEL", "'ehco'", "'levle'", "echo.config.style", "'voise'"):
        assert part in str(error)


def test_unreadable_files_are_reported_together(composed: Compose) -> None:
    """
    What is found while reading is one list as well.
    """
    error = _refused(composed, {"data": ["/no/1", "/no/2"]})

    assert isinstance(error, PlanError)
    assert len(error.problems) == 2


def test_mistakes_of_form_and_of_names_are_one_list(catalog: Catalog) -> None:
    """
    A wrong type hides no unknown name, option, split or variable, and each mistake has its line.
    """
    text = """\
environments:
  ecko: {limt: 3}
  echo: {split: trian, config: {no_such_option: 1}}
models:
  policy: {use: orakle, config: {key: "${NOT_SET}"}}
collect: {concurrency: many}
hooks: [nothing]
"""
    asked = read_plan(parse_yaml(text), source="asked.yaml")

    with pytest.raises(PlanError) as caught:
        compose(asked, catalog, environ={})

    places = [problem.where.rpartition(", ")[2] for problem in caught.value.problems if problem.where]
    assert sorted(places) == [f"asked.yaml:{line}" for line in (2, 2, 3, 3, 5, 5, 6, 7)]


def test_a_limit_of_the_plan_holds_for_every_environment(composed: Compose, write_rows: Write) -> None:
    """
    Also for one that only the rows name; an environment's own limit wins.
    """
    asked = {"environments": {"echo": {}, "shout": {"limit": 1}}, "mix": {"limit": 2}}

    assert composed(asked).tasks() == {"echo": 2, "shout": 1}


def test_the_order_of_naming_means_nothing(composed: Compose) -> None:
    """
    The same environments in another order are the same plan: the same lock, rows and folder.
    """
    one, other = (
        composed({"environments": {key: {} for key in names}}) for names in (("echo", "shout"), ("shout", "echo"))
    )

    assert (one.lock, one.name()) == (other.lock, other.name())
    assert [row.data for row in one.dataset] == [row.data for row in other.dataset]


def test_an_environment_that_rows_do_not_name_is_refused(composed: Compose, write_rows: Write) -> None:
    """
    Whoever names an environment beside data wants it played.
    """
    error = _refused(composed, {"environments": {"shout": {}}, "data": write_rows(_row())})

    assert "no row is routed to this environment (environments.shout)" in str(error)
    assert "--set environments.shout.split=example" in str(error)


def test_one_without_rows_of_its_own_that_rows_do_not_name_may_have_a_whole_file(
    composed: Compose, write_rows: Write
) -> None:
    """
    No hint leads to another that leads back.
    """
    plan = {"environments": {"mute": {}}, "models": {"policy": "nop"}}
    rows = write_rows(_row())

    error = _refused(composed, {**plan, "data": rows})

    assert "or --set environments.mute.data=FILE for all rows of a file, whatever they say" in str(error)
    assert len(composed({**plan, "environments": {"mute": {"data": str(rows)}}}).dataset) == 1


def test_an_environment_whose_own_data_are_empty_is_told_of_them(composed: Compose, write_rows: Write) -> None:
    """
    Another split would change nothing, because data take the place of one.
    """
    path = write_rows(b"")
    error = _refused(composed, {"environments": {"echo": {}, "shout": {"data": path}}})

    assert f"its data hold no rows: {path} (environments.shout.data)" in str(error)
    assert "split" not in str(error)


def test_an_environment_without_rows_is_not_explained_by_the_invalid_rows_of_others(
    composed: Compose, write_rows: Write
) -> None:
    """
    Whether those stand in files of their own or in the plan's data.
    """
    good, empty = write_rows(_row(), b"{"), write_rows(b"", name="empty.jsonl")
    routed = write_rows(_row(), _row(epoch=0), name="routed.jsonl")
    check = {"skip_invalid": True}

    own = {"environments": {"echo": {"data": good}, "shout": {"data": empty}}, "check": check}
    shared = {"environments": {"shout": {}}, "data": routed, "check": check}

    assert f"its data hold no rows: {empty} (environments.shout.data)" in str(_refused(composed, own))
    assert "no row is routed to this environment (environments.shout)" in str(_refused(composed, shared))


def test_an_environment_that_lost_its_rows_is_told_of_these_alone(composed: Compose, write_rows: Write) -> None:
    """
    The invalid rows of others, which have good ones as well, are not what is to be mended.
    """
    some, none = write_rows(_row(), *[b"{"] * 20), write_rows(b"[", b"[", name="none.jsonl")
    plan = {"environments": {"echo": {"data": some}, "shout": {"data": none}}, "check": {"skip_invalid": True}}

    error = _refused(composed, plan)

    assert "2 rows are wrong, of 2 read" in str(error)
    assert f"{none}:1: " in str(error)
    assert some not in str(error)


def test_data_without_rows_is_refused(composed: Compose, write_rows: Write) -> None:
    """
    A mix of nothing is a mistake.
    """
    assert "the data files hold no rows" in str(_refused(composed, {"data": write_rows(b"", b"")}))


def test_a_model_may_object_to_an_environment(composed: Compose) -> None:
    """
    What cannot be played is refused before anything runs, in the model's own words.
    """
    plan = {
        "environments": {"mute": {"data": "x"}},
        "models": {"policy": {"use": "keyed", "config": {"base_url": "u"}}},
    }

    assert "nobody talks to the mute (environments.mute)" in str(_refused(composed, plan))


def test_a_row_may_lead_to_an_environment_with_mistakes(composed: Compose, write_rows: Write) -> None:
    """
    The mistake is that of the environment, and is said once for a thousand rows.
    """
    row = {"responses_create_params": {"input": "x"}, "agent_ref": {"name": "mute_simple_agent"}}

    error = _refused(composed, {"data": write_rows(*[row] * 1000)})

    assert str(error).count("Mute has no reference solution") == 1


def test_bad_rows_are_found_before_anything_is_kept(composed: Compose, write_rows: Write) -> None:
    """
    A composition is whole or there is none.
    """
    assert isinstance(_refused(composed, {"data": write_rows(*([_row()] * 1000), b"{")}), DataError)


def test_every_mistake_of_a_request_exits_with_2(composed: Compose) -> None:
    """
    Several mistakes of different kinds are one wrong request.
    """
    assert isinstance(_refused(composed, {"environments": {"echo": {"model": "x"}, "nobody": {}}}), RequestError)


# -- names and locks ---------------------------------------------------------------------------------------------------


def test_a_composition_is_named_by_its_environments_and_its_plan(composed: Compose) -> None:
    """
    The same plan has the same name, so that the same command continues in the same folder.
    """
    name = composed({"environments": {"echo": {}, "shout": {}}}).name()

    assert name.startswith("echo+shout-")
    assert name == composed({"environments": {"echo": None, "shout": {"repeats": 1}}, "mix": {"seed": 0}}).name()


@pytest.mark.parametrize(
    "setting",
    [
        "mix.seed=1",
        "environments.echo.limit=2",
        "environments.echo.split=train",
        "environments.echo.config.level=3",
        "environments.echo.params.temperature=0.5",
        "environments.echo.agent=voice",
        "environments.echo.agent.config.max_turns=3",
        "models.policy=nop",
        "models.judge=nop",
    ],
)
def test_another_plan_has_another_name(composed: Compose, setting: str) -> None:
    """
    What changes the meaning of finished work changes the folder.
    """
    plan = {"environments": {"echo": {}}}

    assert composed(plan, setting).name() != composed(plan).name()
    assert composed(plan, setting).lock != composed(plan).lock


@pytest.mark.parametrize(
    "setting",
    [
        "collect.concurrency=3",
        "collect.timeout_s=3",
        "collect.repeats=3",
        "environments.echo.concurrency=3",
        "environments.echo.repeats=3",
        "environments.echo.config.url=http://there",
        "environments.echo.config.key=hush",
    ],
)
def test_what_only_changes_how_work_is_done_changes_neither_name_nor_lock(composed: Compose, setting: str) -> None:
    """
    Speed, addresses, keys and the number of repeats may differ when a stopped run goes on.
    """
    plan = {"environments": {"echo": {}}}

    assert composed(plan, setting).name() == composed(plan).name()
    assert composed(plan, setting).lock == composed(plan).lock


def test_a_long_list_of_environments_makes_no_name_that_a_disk_refuses(composed: Compose) -> None:
    """
    The name is cut; the digest still tells mixes apart.
    """
    names = {f"a-very-long-name-for-an-environment-{number}": {"use": "echo"} for number in range(12)}

    assert len(composed({"environments": names}).name()) <= 110


def test_a_lock_says_what_a_plan_became(composed: Compose) -> None:
    """
    Plugins with versions, what was asked, counts, and digests of data and order.
    """
    lock = composed({"environments": {"echo": {"limit": 2}}, "mix": {"seed": 7}}).lock

    assert lock["seed"] == 7
    assert lock["environments"]["echo"]["plugin"] == "gym-plugin-echo/echo 0.1.0"
    assert lock["environments"]["echo"]["tasks"] == 2
    assert lock["environments"]["echo"]["asked"]["config"] == {"level": 2}
    assert lock["data"][0]["rows"] == 5
    assert len(lock["data"][0]["sha256"]) == len(lock["dataset"]["sha256"]) == 64
    assert json.loads(json.dumps(lock)) == lock


def test_compose_takes_variables_from_the_process_where_nothing_else_is_given(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    In a notebook, what is exported counts.
    """
    monkeypatch.setenv("GYM_TEST_NAME", "somebody")
    plan = Plan.model_validate({"environments": {"echo": {"config": {"name": "${GYM_TEST_NAME}"}}}})

    (route,) = compose(plan, catalog).routes.values()

    assert route.environment_options.config is not None
    assert route.environment_options.config.model_dump()["name"] == "somebody"


def test_the_bundled_environments_alternate(catalog: Catalog, tmp_path: Path) -> None:
    """
    The main job of the README: five rows each, in turns.
    """
    pytest.importorskip("gym_plugin_example_multi_step", reason="the bundled environments are not installed")
    pytest.importorskip("gym_plugin_example_single_tool_call", reason="the bundled environments are not installed")
    names = ["example_single_tool_call", "example_multi_step"]

    order = _order(compose(Plan.model_validate({"environments": dict.fromkeys(names)}), catalog, environ={}))

    assert len(order) == 10
    assert all(set(order[at : at + 2]) == set(names) for at in range(0, 10, 2))


def test_a_folder_reopens_though_rows_name_an_environment_without_a_weight(
    composed: Compose, catalog: Catalog, tmp_path: Path
) -> None:
    """
    What the lock says of the mix is what the plan that lies beside it says.
    """
    first = composed({"environments": {"shout": {}}})
    write_composition(first, tmp_path / "one")
    data = [str(tmp_path / "one" / "dataset.jsonl")]
    mixed = composed({"environments": {"echo": {"weight": 2, "split": "example"}}, "data": data, "mix": {"batch": 3}})
    write_composition(mixed, tmp_path / "two")

    assert open_composition(tmp_path / "two", catalog, environ={}).lock == mixed.lock


def test_a_limit_does_not_change_how_long_rows_are(composed: Compose) -> None:
    """
    Shares of tokens are taken at the mean length of a row, whether all of them may be used or some.
    """
    plan = {"environments": {"echo": {"weight": 1, "split": "train"}, "shout": {"weight": 1}}, "mix": {"size": 100}}
    tokens = "mix.weight_by=tokens"

    whole = composed(plan, tokens).tasks()

    assert composed(plan, tokens, "environments.echo.limit=4").tasks() == whole


def test_rows_that_say_an_epoch_count_where_they_are_taken(composed: Compose, catalog: Catalog, tmp_path: Path) -> None:
    """
    A dataset of epochs may be cut to its first; then there is only one, here and when the folder is opened again.
    """
    repeated = composed({"environments": {"shout": {}}, "mix": {"size": 10}})
    write_composition(repeated, tmp_path / "one")
    data = [str(tmp_path / "one" / "dataset.jsonl")]
    assert repeated.attempts() == {"shout": 2}

    cut = composed({"data": data, "mix": {"size": 5, "shuffle": False, "exhausted": "stop"}})
    write_composition(cut, tmp_path / "two")
    whole = composed({"data": data})
    write_composition(whole, tmp_path / "three")

    assert cut.attempts() == {"shout": 1}
    assert open_composition(tmp_path / "two", catalog, environ={}).lock == cut.lock
    assert whole.attempts() == {"shout": 2}
    assert open_composition(tmp_path / "three", catalog, environ={}).attempts() == {"shout": 2}
    assert [row.data for row in whole.dataset] == [row.data for row in repeated.dataset]
