"""
What has moved between two locks, in words; and composing again from a lock, which refuses in the same words.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gymcore.composition import Composition, compose
from gymcore.composition.folder import named_lock
from gymcore.composition.locking.locked import plan_of, refuse_what_moved
from gymcore.composition.locking.moves import moves
from gymcore.discovery import Catalog
from gymcore.documents import YamlDocument
from gymcore.errors import RunFolderError
from gymcore.plan import Plan

Compose = Callable[..., Composition]
Write = Callable[..., str]

ECHO: dict[str, Any] = {"environments": {"echo": {}}}
MIX: dict[str, Any] = {
    "environments": {"echo": {"weight": 1}, "shout": {"weight": 3}},
    "mix": {"size": 40, "batch": 8, "seed": 3},
}


def lines(there: Any, here: Any) -> list[str]:
    """Return what has moved, as sentences."""
    return [move.line for move in moves(there, here)]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["mix.seed=4"], ["seed: 3 -> 4"]),
        (["mix.batch=4"], ["mix: batch 8 -> 4"]),
        (
            ["environments.echo.weight=5"],
            [
                "mix: the weight of echo 1 -> 5",
                "echo: 10 rows -> 25 rows",
                "echo: requested share 25.00% -> 62.50%",
                "echo: realised share 25.00% -> 62.50%",
            ],
        ),
        (["environments.echo.config.level=3"], ["echo: config.level 2 -> 3"]),
        (["environments.echo.params.temperature=0.5"], ["echo: params.temperature not set -> 0.5"]),
        (["environments.echo.limit=2"], ["echo: limit none -> 2"]),
        (["environments.echo.agent=voice"], ["echo: agent voice not set -> gym-plugin-echo/voice 0.1.0"]),
        (["environments.echo.split=train"], ["echo: split example -> train"]),
        (["models.policy=nop"], ["model policy: plugin gymcore/oracle 0.1.0 -> gymcore/nop 0.1.0"]),
        (["models.judge=nop"], ["model judge: new: gymcore/nop 0.1.0"]),
        (["hooks=[watch]"], ['hooks: [] -> ["gym-plugin-echo/watch 0.1.0"]']),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_has_moved_is_told_in_words(composed: Compose, settings: list[str], told: list[str]) -> None:
    """
    Every change of a plan is told with what was before and what is now.
    """
    found = lines(composed(MIX).lock, composed(MIX, *settings).lock)

    assert [line for line in told if line not in found] == []


def test_the_same_has_not_moved(composed: Compose) -> None:
    """
    Two compositions of one plan have nothing to tell.
    """
    assert lines(composed(MIX).lock, composed(MIX).lock) == []


def test_environments_that_come_and_go_are_told_with_their_rows(composed: Compose) -> None:
    """
    What else the lock says of them needs no further words.
    """
    both, one = composed({"environments": {"echo": {}, "shout": {}}}).lock, composed(ECHO).lock

    assert "shout: gone, with 5 rows" in lines(both, one)
    assert "shout: new, with 5 rows, 50.00% of all" in lines(one, both)
    assert "echo: realised share 50.00% -> 100.00%" in lines(both, one)
    assert "dataset: 10 rows -> 5 rows" in str(lines(both, one))


def test_files_that_have_changed_are_told_apart_from_those_that_were_put_elsewhere(
    composed: Compose, write_rows: Write
) -> None:
    """
    The same content under another name decides nothing.
    """
    rows = [{"answer": word, "responses_create_params": {"input": "x"}} for word in "abc"]

    def over(name: str, count: int) -> Any:
        return composed({"environments": {"echo": {"data": write_rows(*rows[:count], name=name)}}}).lock

    first, again, more = over("a.jsonl", 2), over("b.jsonl", 2), over("a.jsonl", 3)

    [changed] = [line for line in lines(first, more) if line.startswith("data: ")]
    assert "a.jsonl has changed (2 rows -> 3 rows, sha256 " in changed
    assert not any(move.is_decisive for move in moves(first, again))
    assert any("is now" in line and "with the same content" in line for line in lines(first, again))
    assert any(move.is_decisive for move in moves(again, more))


def test_epochs_are_told_as_such(composed: Compose) -> None:
    """
    What a lock says beside them, for the number of a rollout, is no word about what was asked.
    """
    once = composed({"environments": {"echo": {}}, "mix": {"size": 5}}).lock
    thrice = composed({"environments": {"echo": {}}, "mix": {"size": 15}}).lock
    repeated = composed({"environments": {"echo": {"repeats": 4}}, "mix": {"size": 15}}).lock

    assert [line for line in lines(once, thrice) if line.startswith("echo")] == [
        "echo: epochs 1 -> 3",
        "echo: 5 rows -> 15 rows",
    ]
    assert [line for line in lines(thrice, repeated) if line.startswith("echo")] == ["echo: repeats 1 -> 4"]


def test_how_a_plugin_was_installed_is_told_and_decides_nothing(composed: Compose) -> None:
    """
    Origin, installation and manifest are good to know.
    """
    there = composed(ECHO).lock
    there["distributions"]["gym-plugin-echo"]["origin"] = None
    here = copy.deepcopy(there)
    echo = here["distributions"]["gym-plugin-echo"]
    echo |= {"installed": "editable", "record": None, "origin": {"vcs": "git", "commit": "1"}}
    echo["manifests"] = {"gym_plugin_echo/gym.yaml": "0" * 64}

    found = moves(there, here)

    assert [move.line for move in found] == [
        "gym-plugin-echo: gym_plugin_echo/gym.yaml has changed",
        "gym-plugin-echo: installed wheel -> editable",
        'gym-plugin-echo: origin none -> {"vcs":"git","commit":"1"}',
    ]
    assert not any(move.is_decisive for move in found)


def test_code_that_has_changed_is_told_by_its_file(composed: Compose) -> None:
    """
    The distribution and the file are named.
    """
    there = composed(ECHO).lock
    here = copy.deepcopy(there)
    package = here["distributions"]["gym-plugin-echo"]["packages"]["gym_plugin_echo"]
    package["sha256"] = "1" * 64
    package["files"] = {"gym_plugin_echo/__init__.py": "2" * 64}

    [move] = moves(there, here)

    assert move.line.startswith("gym-plugin-echo: gym_plugin_echo/__init__.py has changed (sha256 ")
    assert move.line.endswith("-> 222222222222)")
    assert move.is_decisive


# -- composing again ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "plan",
    [
        ECHO,
        MIX,
        {"environments": {"echo": {"split": "train", "limit": 7, "params": {"temperature": 1}}, "shout": {}}},
        {"environments": {"echo": {"split": "train"}, "shout": {"weight": 2}}},
        {"environments": {"twin": {"use": "echo", "config": {"level": 4}}, "echo": {}}, "hooks": ["watch"]},
        {"environments": {"echo": {"agent": {"use": "voice", "config": {"pitch": 3}}}}, "models": {"judge": "nop"}},
        {
            "environments": {"echo": {}, "shout": {}},
            "mix": {"schedule": [{"until": 10, "weights": {"echo": 1}}, {"until": 30, "weights": {"shout": 1}}]},
        },
    ],
    ids=str,
)
def test_a_lock_alone_is_enough_to_compose_again(composed: Compose, catalog: Catalog, plan: dict[str, Any]) -> None:
    """
    The plan that a lock tells of becomes the same bytes, and the same lock.
    """
    first = composed(plan)
    told = plan_of(json.loads(json.dumps(first.lock)))

    again = compose(Plan.from_document(YamlDocument(told)), catalog, environ={})

    assert again.lock == first.lock
    assert again.dataset.sha256() == first.lock["dataset"]["sha256"]
    assert refuse_what_moved(again, first.lock, Path("gym.lock")) == []


def test_rows_that_name_several_agents_are_composed_again_from_a_lock(
    composed: Compose, catalog: Catalog, write_rows: Write
) -> None:
    """
    Files whose rows carry their route, and agents of which one has options.
    """
    rows = [
        {"answer": "a", "responses_create_params": {"input": "x"}, "agent_ref": {"name": f"echo_{agent}"}}
        for agent in ("simple_agent", "voice")
    ]
    plan = {"environments": {"echo": {"agent": {"use": "voice", "config": {"pitch": 3}}}}, "data": write_rows(*rows)}
    first = composed(plan)

    again = compose(Plan.from_document(YamlDocument(plan_of(first.lock))), catalog, environ={})

    assert again.lock == first.lock


def test_what_comes_out_otherwise_is_refused_with_everything_that_moved(composed: Compose) -> None:
    """
    The refusal is a wrong request, and says what moved in the words of `gym diff`.
    """
    first = composed(MIX)

    with pytest.raises(RunFolderError) as caught:
        refuse_what_moved(composed(MIX, "environments.echo.weight=2", "mix.seed=9"), first.lock, Path("x/gym.lock"))

    assert caught.value.exit_code == 2
    assert caught.value.where == "x/gym.lock"
    assert "seed: 3 -> 9" in caught.value.differences
    assert "mix: the weight of echo 1 -> 2" in caught.value.differences
    assert any(line.startswith("dataset: 40 rows as before, but") for line in caught.value.differences)


def test_what_moved_without_consequence_is_told_and_not_refused(composed: Compose) -> None:
    """
    A hook more, and the dataset is the same.
    """
    assert refuse_what_moved(composed(MIX, "hooks=[watch]"), composed(MIX).lock, Path("gym.lock")) == [
        'hooks: [] -> ["gym-plugin-echo/watch 0.1.0"]'
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no such run folder or lock"),
        ("{", "the lock is damaged: line 1: not JSON"),
        ("[]", "the lock was written by another version of gymcore"),
        ('{"format": 4}', "the lock is damaged: its last line is not the digest"),
    ],
)
def test_a_lock_that_is_none_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    """
    The message names the file.
    """
    path = tmp_path / "some.lock"
    if text is not None:
        path.write_text(text)

    with pytest.raises(RunFolderError) as caught:
        named_lock(path)

    assert caught.value.message.startswith(message)
    assert caught.value.where == str(path)


def test_a_folder_without_a_lock_is_refused(tmp_path: Path) -> None:
    """
    The message names the folder.
    """
    with pytest.raises(RunFolderError, match="there is no composition in this folder"):
        named_lock(tmp_path)
