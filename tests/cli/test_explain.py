"""
`gym explain`: where a row came from, in words and as data.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from gymcore.testing.plugins import PluginFolder

Gym = Callable[..., subprocess.CompletedProcess[str]]


def test_a_row_is_explained_in_words(gym: Gym, plugins: PluginFolder, tmp_path: Path) -> None:
    """
    Plugin, file and line, places, route, agent, model, options with their layers, and finished rollouts.
    """
    command = ("run", "--env", "echo=1", "--size", "10", "--set", "environments.echo.config.level=3", "--out", "mix")
    assert gym(*command, folder=plugins).returncode == 0
    rows = [json.loads(line) for line in (tmp_path / "mix" / "dataset.jsonl").read_text().splitlines()]
    task = next(row["task_id"] for row in rows if row["answer"] == "three")
    places = [number for number, row in enumerate(rows, start=1) if row["task_id"] == task]

    done = gym("explain", "mix", task, folder=plugins)

    assert (done.returncode, done.stderr) == (0, "")
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert lines[0] == task
    assert "environment echo, of gym-plugin-echo/echo 0.1.0" in lines
    assert "source gym-plugin-echo/echo:data/example.jsonl:3" in lines
    assert f"in the mix rows {places[0]}, {places[1]} of 10; epochs 1, 2" in lines
    assert "agent gymcore/simple_agent 0.1.0" in lines
    assert "model policy, of gymcore/oracle 0.1.0" in lines
    assert "environment level 3 plan" in lines
    assert 'environment style "plain" default' in lines
    assert lines[-2:] == ["repeat 0: reward 1, finished", "repeat 1, epoch 2: reward 1, finished"]


def test_json_holds_the_same_as_data(gym: Gym, plugins: PluginFolder, tmp_path: Path) -> None:
    """
    A row without a rollout has an empty list of them.
    """
    assert gym("compose", "--env", "echo", "--out", "mix", folder=plugins).returncode == 0
    task = json.loads((tmp_path / "mix" / "dataset.jsonl").read_text().splitlines()[0])["task_id"]

    done = gym("explain", "mix", task[:12], "--json", folder=plugins, ECHO_NAME="somebody")

    explained = json.loads(done.stdout)
    assert explained["task_id"] == task
    assert explained["source"] == "gym-plugin-echo/echo:data/example.jsonl:1"
    assert explained["rollouts"] == []
    [name] = [option for option in explained["options"] if (option["of"], option["name"]) == ("environment", "name")]
    assert (name["layer"], name["variable"], name["value"]) == ("environment variable", "ECHO_NAME", None)
    assert "not finished" in gym("explain", "mix", task, folder=plugins).stdout


def test_an_unknown_id_is_exit_code_2_with_the_nearest(gym: Gym, plugins: PluginFolder, tmp_path: Path) -> None:
    """
    So is a folder without a composition.
    """
    assert gym("compose", "--env", "echo", "--out", "mix", folder=plugins).returncode == 0
    task = json.loads((tmp_path / "mix" / "dataset.jsonl").read_text().splitlines()[0])["task_id"]

    done = gym("explain", "mix", task + "0", folder=plugins)

    assert done.returncode == 2
    assert done.stderr.startswith(f"RequestError: no row has the task id '{task}0' (mix/dataset.jsonl)")
    assert f"try: {task}" in done.stderr
    assert gym("explain", "nowhere", task, folder=plugins).returncode == 2


def test_an_id_does_not_steer_the_terminal(gym: Gym, plugins: PluginFolder, tmp_path: Path) -> None:
    """
    Neither where its row is explained nor where it is offered as what may have been meant; as data it is what it is.
    """
    task = "\x1b]0;title\x07\x1b[31mred\nnext"
    row = {"answer": "it", "responses_create_params": {"input": "Say it."}, "task_id": task}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    command = ("compose", "--env", "echo", "--set", "environments.echo.data=rows.jsonl", "--out", "mix")
    assert gym(*command, folder=plugins).returncode == 0

    words, data = gym("explain", "mix", task, folder=plugins), gym("explain", "mix", task, "--json", folder=plugins)
    close = gym("explain", "mix", task[1:], folder=plugins)

    assert words.stdout.splitlines()[0] == "\ufffd]0;title\ufffd\ufffd[31mred\ufffdnext"
    assert json.loads(data.stdout)["task_id"] == task
    assert close.stderr.splitlines()[1] == f"  try: {task!r}"
    assert not any(sign in words.stdout + close.stderr for sign in "\x1b\x07")
