"""
`--locked`: the same bytes again, or everything that has moved; and the lock that every rollout names.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gymcore.composition import read_lock
from gymcore.composition.locking.lock import lock_digest
from gymcore.testing.plugins import PluginFolder

Gym = Callable[..., subprocess.CompletedProcess[str]]

MIX = ("--env", "echo=1", "--env", "shout=3", "--size", "40", "--batch", "8", "--seed", "7")


@pytest.fixture
def own(echo_folder: Path, tmp_path: Path) -> Iterator[PluginFolder]:
    """
    The echo plugins, in a folder that a test may change.
    """
    folder = tmp_path / "installed"
    shutil.copytree(echo_folder, folder)
    with PluginFolder(folder) as plugins:
        yield plugins


@pytest.mark.parametrize("way", ["folder", "lock", "lock alone", "plan and lock", "flags and lock"])
def test_a_dataset_is_composed_again_byte_for_byte(gym: Gym, plugins: PluginFolder, tmp_path: Path, way: str) -> None:
    """
    From the folder, from its lock with the plan beside it, from nothing but the lock, and against a plan or flags.
    """
    assert gym("compose", *MIX, "--out", "mix", folder=plugins).returncode == 0
    shutil.copy(tmp_path / "mix" / "gym.lock", tmp_path / "alone.lock")
    arguments = {
        "folder": ["--locked", "mix"],
        "lock": ["--locked", "mix/gym.lock"],
        "lock alone": ["--locked", "alone.lock"],
        "plan and lock": ["--plan", "mix/plan.yaml", "--locked", "alone.lock"],
        "flags and lock": [*MIX, "--locked", "alone.lock"],
    }

    done = gym("compose", *arguments[way], "--out", "again", folder=plugins)

    assert done.returncode == 0, done.stderr
    for name in ("dataset.jsonl", "gym.lock"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "mix" / name).read_bytes()


def test_a_plan_that_lies_beside_is_that_of_a_run_folder(gym: Gym, plugins: PluginFolder, tmp_path: Path) -> None:
    """
    Beside a copy of another name it may be any; where it was composed and something else came of it, it is named.
    """
    assert gym("compose", *MIX, "--out", "mix", folder=plugins).returncode == 0
    shutil.copy(tmp_path / "mix" / "gym.lock", tmp_path / "kept.lock")
    (tmp_path / "plan.yaml").write_text("environments: {echo: {}}\n")
    shutil.copy(tmp_path / "plan.yaml", tmp_path / "mix" / "plan.yaml")

    kept = gym("compose", "--locked", "kept.lock", "--out", "again", folder=plugins)
    folder = gym("compose", "--locked", "mix", "--out", "other", folder=plugins)

    assert kept.returncode == 0, kept.stderr
    assert (tmp_path / "again" / "dataset.jsonl").read_bytes() == (tmp_path / "mix" / "dataset.jsonl").read_bytes()
    assert folder.returncode == 2
    assert "what was composed is mix/plan.yaml, which lies beside it" in folder.stderr


def test_a_lock_alone_names_everything_that_rows_came_from(gym: Gym, plugins: PluginFolder, tmp_path: Path) -> None:
    """
    Files of the plan with a bad row left out, a pinned address, and an environment of the plan that is called `data`.
    """
    row = {"responses_create_params": {"input": "Say a."}, "answer": "a"}
    routed = {**row, "agent_ref": {"name": "shout_simple_agent"}}
    (tmp_path / "more.jsonl").write_text(json.dumps(routed) + "\n" + json.dumps({**routed, "task_id": []}) + "\n")
    (tmp_path / "pinned.jsonl").write_text(json.dumps(row) + "\n")
    digest = hashlib.sha256((tmp_path / "pinned.jsonl").read_bytes()).hexdigest()
    plan = {
        "environments": {
            "echo": {"data": {"url": f"file://{tmp_path}/pinned.jsonl", "sha256": digest}},
            "data": {"use": "echo", "split": "example"},
            "shout": {"split": "example"},
        },
        "data": "more.jsonl",
        "check": {"skip_invalid": True},
    }
    (tmp_path / "plan.yaml").write_text(json.dumps(plan))
    first = gym("compose", "--plan", "plan.yaml", "--out", "mix", folder=plugins)
    assert first.returncode == 0, first.stderr
    shutil.copy(tmp_path / "mix" / "gym.lock", tmp_path / "alone.lock")

    done = gym("compose", "--locked", "alone.lock", "--out", "again", folder=plugins)

    assert done.returncode == 0, done.stderr
    for name in ("dataset.jsonl", "gym.lock", "rejects.jsonl"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "mix" / name).read_bytes()


@pytest.mark.parametrize("command", ["compose", "run"])
def test_what_has_moved_is_said_and_nothing_is_written(
    gym: Gym, own: PluginFolder, tmp_path: Path, command: str
) -> None:
    """
    A verifier that was edited and a row that was added are both named; the exit code is that of a wrong request.
    """
    assert gym("compose", *MIX, "--out", "mix", folder=own).returncode == 0
    code = own.folder / "gym_plugin_echo" / "__init__.py"
    code.write_text(code.read_text() + "# changed\n")
    data = own.folder / "gym_plugin_shout" / "data" / "example.jsonl"
    data.write_text(data.read_text() + data.read_text().splitlines()[0] + "\n")

    done = gym(command, "--locked", "mix", "--out", "again", folder=own)

    assert done.returncode == 2
    lines = [line.strip().partition(" (")[0] for line in done.stderr.splitlines()]
    assert lines[0] == "RunFolderError: this is not what the lock tells of, so nothing is written"
    assert "gym-plugin-echo: gym_plugin_echo/__init__.py has changed" in lines
    assert "data: gym-plugin-echo/shout:data/example.jsonl has changed" in lines
    assert any(line.startswith("dataset: 40 rows as before, but") for line in lines)
    assert not (tmp_path / "again").exists()


def test_a_run_is_held_to_a_lock_too(gym: Gym, plugins: PluginFolder, tmp_path: Path) -> None:
    """
    `gym run --locked` composes and plays; `gym run FOLDER --locked` compares the folder with another lock.
    """
    gym("compose", "--env", "echo", "--out", "one", folder=plugins)
    gym("compose", "--env", "echo", "--limit", "2", "--out", "two", folder=plugins)

    played = gym("run", "--locked", "one/gym.lock", "--out", "again", folder=plugins)
    other = gym("run", "two", "--locked", "one", folder=plugins)

    assert played.returncode == 0, played.stderr
    assert (tmp_path / "again" / "dataset.jsonl").read_bytes() == (tmp_path / "one" / "dataset.jsonl").read_bytes()
    assert other.returncode == 2
    assert "echo: limit none -> 2" in other.stderr
    assert not (tmp_path / "two" / "rollouts.jsonl").exists()


def test_what_moved_without_consequence_is_a_note(gym: Gym, own: PluginFolder) -> None:
    """
    A plugin that was installed otherwise gives the same dataset.
    """
    assert gym("compose", "--env", "echo", "--out", "mix", folder=own).returncode == 0
    info = next(own.folder.glob("gym_plugin_echo-*.dist-info"))
    (info / "direct_url.json").write_text('{"url": "file:///here", "dir_info": {"editable": true}}')

    done = gym("compose", "--locked", "mix", "--out", "again", folder=own)

    assert done.returncode == 0, done.stderr
    assert "note: gym-plugin-echo: installed wheel -> editable, which changes nothing" in done.stderr


def test_every_rollout_names_the_digest_of_its_lock(gym: Gym, plugins: PluginFolder, tmp_path: Path) -> None:
    """
    Whoever has a line of rollouts.jsonl can tell which gym.lock it belongs to.
    """
    assert gym("run", *MIX, "--out", "mix", folder=plugins).returncode == 0

    lock = read_lock(tmp_path / "mix")

    assert lock is not None
    lines = (tmp_path / "mix" / "rollouts.jsonl").read_text().splitlines()
    assert len(lines) == 40
    assert {json.loads(line)["provenance"]["lock"] for line in lines} == {lock_digest(lock)}
