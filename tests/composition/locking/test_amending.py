"""
More of the same in a folder that holds rollouts: what only goes further is taken, what means something else is not.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gymcore.composition import Composition, open_composition, read_lock, write_composition
from gymcore.composition.locking.lock import conflicts
from gymcore.discovery import Catalog
from gymcore.errors import RunFolderError

Compose = Callable[..., Composition]
Write = Callable[..., str]

FILES = ("dataset.jsonl", "gym.lock", "plan.yaml")


def row(answer: str, **more: Any) -> dict[str, Any]:
    """Return a row of the echo environment."""
    return {"answer": answer, "responses_create_params": {"input": answer}, **more}


def routed(answer: str, agent: str = "simple_agent") -> dict[str, Any]:
    """Return a row that names its route."""
    return row(answer, agent_ref={"name": f"echo_{agent}"})


def files(folder: Path) -> dict[str, bytes]:
    """Return what a composition wrote."""
    return {name: (folder / name).read_bytes() for name in FILES}


def rows_of(folder: Path) -> list[bytes]:
    """Return the rows of a folder's dataset."""
    return (folder / "dataset.jsonl").read_bytes().splitlines()


def with_rollouts(composition: Composition, folder: Path) -> Path:
    """Return a folder with a composition and something collected in it."""
    write_composition(composition, folder)
    (folder / "rollouts.jsonl").write_text("{}\n")
    return folder


OWN = {"environments": {"echo": {"limit": 2, "repeats": 3}}, "models": {"policy": "nop"}}


@pytest.mark.parametrize(
    "settings",
    [
        ["environments.echo.limit=4"],
        ["environments.echo.limit=null"],
        ["environments.shout.split=example"],
        ["environments.twin.use=echo", "environments.echo.limit=3"],
        ["environments.shout.model=second", "models.second.use=nop"],
        ["environments.echo.repeats=9"],
        ["environments.echo.repeats=1", "collect.concurrency=3"],
    ],
    ids=str,
)
def test_more_of_the_same_is_taken_in(composed: Compose, catalog: Catalog, tmp_path: Path, settings: list[str]) -> None:
    """
    A larger limit, another environment, other repeats: every row of old is there as it was, and all files are new.
    """
    folder = with_rollouts(composed(OWN), tmp_path / "run")
    before, lock = rows_of(folder), (folder / "gym.lock").read_bytes()
    named = json.loads(lock)["digest"]
    composition = composed(OWN, *settings)

    write_composition(composition, folder)

    assert read_lock(folder) == composition.lock
    kept = {path.name: path.read_bytes() for path in folder.glob("earlier/*")}
    assert kept == ({f"{named}.lock": lock} if (folder / "gym.lock").read_bytes() != lock else {})
    assert set(before) <= set(rows_of(folder))
    opened = open_composition(folder, catalog, environ={})
    assert opened.planned() == composition.planned()
    assert opened.lock == composition.lock
    assert (folder / "rollouts.jsonl").read_text() == "{}\n"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (["environments.echo.limit=1"], "echo: limit 2 -> 1"),
        (["mix.seed=1", "environments.echo.limit=4"], "seed: 0 -> 1"),
        (["environments.echo.config.level=3", "environments.echo.limit=4"], "echo: config.level 2 -> 3"),
        (["environments.echo.split=train", "environments.echo.limit=4"], "echo: split example -> train"),
        (["environments.echo.params.temperature=0.5"], "echo: params.temperature not set -> 0.5"),
        (["models.policy.use=oracle", "environments.shout.split=example"], "model policy: plugin "),
        (["models.judge.use=nop"], "model judge: new: gymcore/nop"),
        (["environments.echo.prompt={user: x}"], "echo: prompt not set -> "),
        (["environments.echo.filter={answer: {not: x}}"], "echo: filter not set -> "),
        (["environments.echo.agent=voice"], "echo: agent simple_agent "),
    ],
    ids=str,
)
def test_what_means_something_else_is_refused(
    composed: Compose, tmp_path: Path, settings: list[str], named: str
) -> None:
    """
    What keeps the rollouts from belonging to the new plan is named, what only grows is not, and nothing is touched.
    """
    folder = with_rollouts(composed(OWN), tmp_path / "run")
    before = files(folder)

    with pytest.raises(RunFolderError, match="the folder holds rollouts of another plan") as caught:
        write_composition(composed(OWN, *settings), folder)

    assert any(line.startswith(named) for line in caught.value.differences)
    assert not [line for line in caught.value.differences if "-> 4" in line or "shout" in line]
    assert files(folder) == before


def test_an_environment_that_is_left_out_is_refused(composed: Compose, tmp_path: Path) -> None:
    """
    A plan with another environment in place of one is not more of the same.
    """
    folder = with_rollouts(composed({"environments": {"echo": {}, "shout": {}}}), tmp_path / "run")

    with pytest.raises(RunFolderError) as caught:
        write_composition(composed({"environments": {"echo": {}, "twin": {"use": "echo"}}}), folder)

    assert "shout: gone, with 5 rows" in caught.value.differences


OLD = [row("a"), row("b"), row("a")]


@pytest.mark.parametrize(
    "new",
    [
        [*OLD, row("c")],
        [*OLD, row("a"), row("b")],
        [row("new"), *OLD],
        [row("a"), row("x"), row("b"), row("y"), row("a")],
    ],
    ids=["appended", "appended twins", "put before", "put between"],
)
@pytest.mark.parametrize("is_routed", [False, True])
def test_further_rows_are_taken_in(
    composed: Compose, tmp_path: Path, write_rows: Write, new: list[dict[str, Any]], is_routed: bool
) -> None:
    """
    A file that grew keeps the ids of its rows, so what is finished stays finished.
    """
    route = {"agent_ref": {"name": "echo_simple_agent"}} if is_routed else {}
    path = write_rows(*({**each, **route} for each in OLD))
    plan = {"data": path} if is_routed else {"environments": {"echo": {"data": path}}}
    folder = with_rollouts(composed(plan), tmp_path / "run")
    before = {json.loads(line)["task_id"] for line in rows_of(folder)}
    write_rows(*({**each, **route} for each in new))

    write_composition(composed(plan), folder)

    after = {json.loads(line)["task_id"] for line in rows_of(folder)}
    assert before < after
    assert len(after) == len(new)


def test_rows_may_name_a_further_agent(composed: Compose, tmp_path: Path, write_rows: Write) -> None:
    """
    The tasks of the one that was there are as they were.
    """
    plan = {"data": write_rows(routed("a"), routed("b"))}
    folder = with_rollouts(composed(plan), tmp_path / "run")
    write_rows(routed("a"), routed("b"), routed("c", "voice"))

    write_composition(composed(plan), folder)

    assert len(rows_of(folder)) == 3


def test_another_file_of_rows_is_taken_in(composed: Compose, tmp_path: Path, write_rows: Write) -> None:
    """
    Adding a file to an environment's data adds its rows.
    """
    first, second = write_rows(row("a"), name="one.jsonl"), write_rows(row("b"), name="two.jsonl")
    folder = with_rollouts(composed({"environments": {"echo": {"data": [first]}}}), tmp_path / "run")

    write_composition(composed({"environments": {"echo": {"data": [first, second]}}}), folder)

    assert len(rows_of(folder)) == 2


@pytest.mark.parametrize(
    ("new", "named"),
    [
        ([row("a"), row("b")], "echo: 3 rows -> 2 rows"),
        ([row("a"), row("b"), row("c")], "dataset.jsonl:3: this row -> absent, changed, or in another order"),
        ([row("b"), row("a"), row("c"), row("d")], "dataset.jsonl:2: this row -> absent"),
        ([row("a"), row("b", level=2), row("a"), row("c")], "dataset.jsonl:2: this row -> absent"),
    ],
    ids=["fewer", "another", "another order", "changed"],
)
def test_rows_that_are_gone_are_refused(
    composed: Compose, tmp_path: Path, write_rows: Write, new: list[dict[str, Any]], named: str
) -> None:
    """
    A finished rollout whose task is no more means nothing; the first row that is missing is named.
    """
    plan = {"environments": {"echo": {"data": write_rows(*OLD)}}}
    folder = with_rollouts(composed(plan), tmp_path / "run")
    before = files(folder)
    write_rows(*new)

    with pytest.raises(RunFolderError) as caught:
        write_composition(composed(plan), folder)

    assert any(line.startswith(named) for line in caught.value.differences)
    assert files(folder) == before


@pytest.mark.parametrize("damage", ["edited", "gone"])
def test_a_dataset_that_cannot_be_compared_is_refused(composed: Compose, tmp_path: Path, damage: str) -> None:
    """
    Nobody can tell whether the rows of old are still the same, so nobody goes on as if they were.
    """
    folder = with_rollouts(composed(OWN), tmp_path / "run")
    if damage == "edited":
        (folder / "dataset.jsonl").write_bytes(rows_of(folder)[0] + b"\n")
    else:
        (folder / "dataset.jsonl").unlink()

    with pytest.raises(RunFolderError) as caught:
        write_composition(composed(OWN, "environments.echo.limit=4"), folder)

    assert caught.value.differences[0].startswith("dataset.jsonl: ")


STAGES = [
    (".dataset.jsonl.part",),
    (".dataset.jsonl.part", ".plan.yaml.part"),
    (".dataset.jsonl.part", ".plan.yaml.part", ".gym.lock.part"),
    ("dataset.jsonl", ".plan.yaml.part", ".gym.lock.part"),
    ("dataset.jsonl", "plan.yaml", ".gym.lock.part"),
    ("dataset.jsonl", "plan.yaml", "gym.lock"),
]


@pytest.mark.parametrize("stage", STAGES, ids=str)
@pytest.mark.parametrize("is_torn", [False, True])
@pytest.mark.parametrize("command", ["run", "run again with more"])
def test_an_amendment_that_was_killed_is_whole_or_never_was(
    composed: Compose, catalog: Catalog, tmp_path: Path, stage: tuple[str, ...], is_torn: bool, command: str
) -> None:
    """
    Whatever SIGKILL leaves of it, the folder goes on as the old composition or as the new one.
    """
    if is_torn and not stage[-1].endswith(".part"):
        return
    old, new = composed(OWN), composed(OWN, "environments.echo.limit=4", "environments.shout.split=example")
    write_composition(new, tmp_path / "new")
    folder = with_rollouts(old, tmp_path / "run")
    for name in stage:
        data = (tmp_path / "new" / name.removeprefix(".").removesuffix(".part")).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2] if is_torn and name == stage[-1] else data)
    if is_torn and stage[0] == "dataset.jsonl":
        return  # a part gets its name only when all of them are whole

    if command == "run":
        opened = open_composition(folder, catalog, environ={})
        is_whole = len(stage) == 3 and not is_torn
        assert opened.lock == (new.lock if is_whole else old.lock)
        assert [each.data for each in opened.dataset] == [each.data for each in (new if is_whole else old).dataset]
    else:
        write_composition(new, folder)
        assert files(folder) == files(tmp_path / "new")
        assert not list(folder.glob(".*.part"))


def test_what_is_said_for_all_environments_holds_for_each(composed: Compose, catalog: Catalog, tmp_path: Path) -> None:
    """
    `gym run FOLDER --repeats 5` means five of every task, also where the plan had something to say of one environment.
    """
    folder = with_rollouts(composed(OWN, "environments.shout.split=example"), tmp_path / "run")

    opened = open_composition(folder, catalog, for_all={"repeats": 5, "concurrency": None}, environ={})

    assert opened.planned() == {"echo": 10, "shout": opened.tasks()["shout"] * 5}
    assert "repeats" not in opened.plan.to_dict()["environments"]["echo"]


# -- laws --------------------------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "c"])
LIMITS = st.none() | st.integers(1, 3)
ENVIRONMENTS = st.dictionaries(
    NAMES,
    st.fixed_dictionaries(
        {
            "plugin": st.sampled_from(["p 1", "p 2"]),
            "asked": st.fixed_dictionaries(
                {
                    "limit": LIMITS,
                    "data": st.lists(NAMES, unique=True, max_size=2),
                    "agents": st.dictionaries(NAMES, st.integers(0, 1), max_size=2),
                }
            ),
            "agents": st.dictionaries(NAMES, st.integers(0, 1), max_size=2),
            "tasks": st.integers(1, 3),
        }
    ),
    min_size=1,
)
LOCKS = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 1),
        "mix": st.dictionaries(NAMES, st.integers(0, 1), max_size=1),
        "asked": st.fixed_dictionaries({"data": st.lists(NAMES, max_size=1), "skip_invalid": st.booleans()}),
        "environments": ENVIRONMENTS,
        "models": st.dictionaries(NAMES, st.integers(0, 1), max_size=2),
        "data": st.lists(
            st.fixed_dictionaries({"for": NAMES, "file": NAMES, "rows": st.integers(1, 2)}),
            max_size=2,
            unique_by=lambda entry: (entry["for"], entry["file"]),
        ),
        "dataset": st.fixed_dictionaries({"rows": st.integers(1, 2), "sha256": st.text("01", max_size=2)}),
    }
)


@given(LOCKS)
def test_a_lock_has_no_conflict_with_itself(lock: dict[str, Any]) -> None:
    """
    The same plan always goes on.
    """
    assert conflicts(lock, copy.deepcopy(lock)) == []


@given(LOCKS, LOCKS)
def test_nobody_who_grew_can_shrink_back(there: dict[str, Any], here: dict[str, Any]) -> None:
    """
    Where both ways are free of conflicts, no environment, option or count of tasks differs.
    """
    if not conflicts(there, here) and not conflicts(here, there):
        for part in ("seed", "models"):
            assert there[part] == here[part]
        assert there["environments"].keys() == here["environments"].keys()
        for name, entry in there["environments"].items():
            other = here["environments"][name]
            assert (entry["plugin"], entry["tasks"], entry["agents"]) == (
                other["plugin"],
                other["tasks"],
                other["agents"],
            )
            assert entry["asked"]["limit"] == other["asked"]["limit"]


@given(LOCKS, LOCKS, LOCKS)
def test_what_grew_twice_grew(first: dict[str, Any], second: dict[str, Any], third: dict[str, Any]) -> None:
    """
    Two amendments one after the other may as well be one.
    """
    if not conflicts(first, second) and not conflicts(second, third):
        assert conflicts(first, third) == []
