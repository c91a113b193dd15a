"""
`gym diff`: 0 where two compositions are the same, 1 where they differ, and what has moved in words.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from gymcore.testing.plugins import PluginFolder

Gym = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def mixes(gym: Gym, plugins: PluginFolder) -> None:
    """
    Two run folders: one of all rows of echo, one of three of them and of shout.
    """
    assert gym("compose", "--env", "echo", "--out", "one", folder=plugins).returncode == 0
    two = ("--env", "echo", "--env", "shout", "--limit", "3", "--seed", "4", "--out", "two")
    assert gym("compose", *two, folder=plugins).returncode == 0


@pytest.mark.usefixtures("mixes")
def test_the_same_is_exit_code_0(gym: Gym) -> None:
    """
    A folder is the same as itself and as its lock.
    """
    for other in ("one", "one/gym.lock"):
        done = gym("diff", "one", other)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("the same: 5 rows, sha256 ")


@pytest.mark.usefixtures("mixes")
def test_what_differs_is_told_in_words_with_exit_code_1(gym: Gym, tmp_path: Path) -> None:
    """
    Settings, shares, environments and rows, each on a line of stdout.
    """
    rows = [json.loads(line)["task_id"] for line in (tmp_path / "one" / "dataset.jsonl").read_text().splitlines()]

    done = gym("diff", "one", "two")

    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert "seed: 0 -> 4" in lines
    assert "echo: limit none -> 3" in lines
    assert "echo: realised share 100.00% -> 50.00%" in lines
    assert "shout: new, with 3 rows, 50.00% of all" in lines
    assert f"echo: 2 rows removed: {', '.join(rows[3:])}" in lines
    assert any(line.startswith("shout: 3 rows added: shout/") for line in lines)


@pytest.mark.usefixtures("mixes")
def test_json_holds_the_same_as_data(gym: Gym) -> None:
    """
    Nothing but one JSON value on stdout, same or not.
    """
    differ, same = gym("diff", "one", "two", "--json"), gym("diff", "two", "two", "--json")

    described = json.loads(differ.stdout)
    assert described["is_same"] is False
    assert {"about": "seed", "words": "0 -> 4", "is_decisive": True} in described["moves"]
    assert described["rows"]["echo"]["removed"] == 2
    assert json.loads(same.stdout)["is_same"] is True
    assert (differ.returncode, same.returncode) == (1, 0)


@pytest.mark.usefixtures("mixes")
def test_a_dataset_that_was_edited_is_not_the_same(gym: Gym, tmp_path: Path) -> None:
    """
    The locks are equal, and the files are not.
    """
    (tmp_path / "edited").mkdir()
    (tmp_path / "edited" / "gym.lock").write_bytes((tmp_path / "one" / "gym.lock").read_bytes())
    edited = (tmp_path / "one" / "dataset.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "edited" / "dataset.jsonl").write_bytes(b"".join([edited[1], edited[0], *edited[2:]]))

    done = gym("diff", "one", "edited")

    assert done.returncode == 1
    assert done.stdout.startswith("echo: 1 row moved: ")
    assert "edited/dataset.jsonl has changed since: it is not the one that its lock tells of" in done.stderr


@pytest.mark.usefixtures("mixes")
def test_locks_without_rows_are_compared_as_far_as_they_go(gym: Gym, tmp_path: Path) -> None:
    """
    What could not be compared is said.
    """
    (tmp_path / "kept.lock").write_bytes((tmp_path / "one" / "gym.lock").read_bytes())
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "gym.lock").write_bytes((tmp_path / "two" / "gym.lock").read_bytes())

    done = gym("diff", "kept.lock", "sub")

    assert done.returncode == 1
    assert "dataset: 5 rows -> 6 rows (sha256 " in done.stdout
    assert "note: the rows are not compared: there is no sub/dataset.jsonl" in done.stderr
    assert gym("diff", "kept.lock", "one").returncode == 0


@pytest.mark.usefixtures("mixes")
def test_a_folder_without_its_dataset_is_compared_by_its_lock(gym: Gym, tmp_path: Path) -> None:
    """
    The plan and the lock are what one keeps of a dataset; that no rows were compared is said.
    """
    (tmp_path / "kept").mkdir()
    for name in ("plan.yaml", "gym.lock"):
        (tmp_path / "kept" / name).write_bytes((tmp_path / "one" / name).read_bytes())

    same, other = gym("diff", "one", "kept"), gym("diff", "two", "kept")

    assert (same.returncode, other.returncode) == (0, 1)
    assert same.stdout.startswith("the same: 5 rows, sha256 ")
    assert same.stderr == "note: the rows are not compared: there is no kept/dataset.jsonl\n"


def test_an_id_does_not_steer_the_terminal(gym: Gym, plugins: PluginFolder, tmp_path: Path) -> None:
    """
    Ids and file names are on one line without control characters; as data they are what they are.
    """
    row = {"answer": "it", "responses_create_params": {"input": "Say it."}}
    for name, task in (("old", "plain"), ("new", "\x1b[31mred\nnext")):
        (tmp_path / f"{name}\x1b[1m.jsonl").write_text(json.dumps({**row, "task_id": task}) + "\n")
        command = ("compose", "--env", "echo", "--set", f"environments.echo.data={name}\x1b[1m.jsonl", "--out", name)
        assert gym(*command, folder=plugins).returncode == 0

    words, data = gym("diff", "old", "new"), gym("diff", "old", "new", "--json")

    assert "echo: 1 row added: \ufffd[31mred\ufffdnext" in words.stdout.splitlines()
    assert "\x1b" not in words.stdout
    assert json.loads(data.stdout)["rows"]["echo"]["examples"]["added"] == ["\x1b[31mred\nnext"]


def test_a_wrong_request_is_exit_code_2(gym: Gym, tmp_path: Path) -> None:
    """
    Neither a folder without a composition nor nothing at all can be compared.
    """
    (tmp_path / "empty").mkdir()

    for arguments in (("empty", "empty"), ("nowhere", "empty"), ("empty",)):
        assert gym("diff", *arguments).returncode == 2
