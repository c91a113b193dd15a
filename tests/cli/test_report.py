"""
`gym report`: the same numbers for people and for machines.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gymcore import run_sync
from gymcore.cli.report import _fitting, command


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of both examples, every task twice."""
    folder = tmp_path_factory.mktemp("run")
    plan = {
        "environments": {"example_multi_step": {}, "example_single_tool_call": {}},
        "models": {"policy": "oracle"},
        "collect": {"repeats": 2},
    }
    run_sync(plan, folder)
    return folder


def shown(*arguments: object) -> str:
    """Run the command, and return what it prints."""
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_table_names_every_environment_and_the_total(folder: Path) -> None:
    """
    Rollouts of those planned, failures, the reward with its interval, pass@k where tasks were repeated.
    """
    lines = [" ".join(line.split()) for line in shown(folder).splitlines()]

    heads = next(line for line in lines if line.startswith("environment"))
    assert heads == "environment rollouts failed reward pass@1 pass@2 turns tokens p50 p95 retried"
    assert any(
        re.match(r"example_multi_step 10 / 10 0 1\.000 \[0\.\d+, 1\.000\] 1\.000 1\.000", line) for line in lines
    )
    assert any(line.startswith("total 20 / 20 0 1.000 [") for line in lines)
    assert any(line.startswith("example_single_tool_call: called 1, calls 1") for line in lines)


def test_a_table_of_many_repeats_shows_three_k(tmp_path: Path) -> None:
    """
    The first, one in the middle and the last; JSON has them all.
    """
    plan = {"environments": {"example_single_tool_call": {"limit": 2}}, "collect": {"repeats": 100}}
    run_sync(plan, tmp_path / "run")

    heads = next(line for line in shown(tmp_path / "run").splitlines() if "environment" in line)
    assert re.findall(r"pass@\d+", heads) == ["pass@1", "pass@16", "pass@100"]
    assert len(json.loads(shown(tmp_path / "run", "--json"))["total"]["pass_at"]) == 8


def test_more_repeats_of_one_task_are_told_apart_from_what_is_planned(tmp_path: Path) -> None:
    """
    A table does not look complete where tasks are still owed.
    """
    folder = tmp_path / "run"
    plan = {"environments": {"example_single_tool_call": {"limit": 2, "repeats": 2}}}
    run_sync(plan, folder)
    written = (folder / "plan.yaml").read_text()
    (folder / "plan.yaml").write_text(written.replace("repeats: 2", "repeats: 1"))

    fewer = shown(folder)
    lines = (folder / "rollouts.jsonl").read_bytes().splitlines(keepends=True)
    one_task = json.loads(lines[0])["task_id"]
    (folder / "rollouts.jsonl").write_bytes(b"".join(line for line in lines if json.loads(line)["task_id"] == one_task))
    owed = shown(folder)

    assert "  4 (2 planned)  " in fewer
    assert "  2 (2 planned, 1 owed)  " in owed


def test_json_is_what_the_run_left_beside_its_rollouts(folder: Path) -> None:
    """
    `gym report --json` prints report.json.
    """
    assert json.loads(shown(folder, "--json")) == json.loads((folder / "report.json").read_text())


def test_a_folder_without_a_run_ends_with_2(gym: Callable[..., Any], tmp_path: Path) -> None:
    """
    The message says where and what to try.
    """
    done = gym("report", str(tmp_path))

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"RunFolderError: there is no run in this folder ({tmp_path})\n  try: gym run --out ...\n"


def test_damage_and_failures_are_said(tmp_path: Path, folder: Path) -> None:
    """
    Below the table stands what went wrong, most frequent first, and how many lines do not count.
    """
    from gymcore.collection.line_checksum import with_checksum

    whole = (folder / "rollouts.jsonl").read_bytes()
    (tmp_path / "rollouts.jsonl").write_bytes(whole + whole[:99])
    failure = {"environment": "e", "repeat": 0, "stage": "tool", "message": "the \x1b[2Jtool broke\nbadly"}
    lines = [with_checksum(json.dumps({**failure, "task_id": str(task)}).encode()) + b"\n" for task in range(3)]
    (tmp_path / "failures.jsonl").write_bytes(b"".join(lines))

    text = shown(tmp_path)

    assert "failed 3 x  tool: the \ufffd[2Jtool broke\n" in text
    assert "1 damaged lines do not count; the same run does them again" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_a_narrow_terminal_shows_whose_numbers_they_are(width: int) -> None:
    """
    Columns are left out before a name is, and counts and rewards always stand; a wide terminal shows all.
    """
    columns = {
        "environment": ["example_single_tool_call", "total"],
        "rollouts": ["6,000 / 6,000"] * 2,
        "failed": ["0"] * 2,
        "reward": ["1.000 [0.998, 1.000]"] * 2,
        "pass@1": ["1.000"] * 2,
        "pass@2": ["1.000"] * 2,
        "pass@3": ["1.000"] * 2,
        "turns": ["2.0"] * 2,
        "tokens": ["-"] * 2,
        "p50": ["17 ms"] * 2,
        "p95": ["25 ms"] * 2,
        "retried": ["0"] * 2,
    }

    shown = list(_fitting(columns, width))

    assert shown[:4] == ["environment", "rollouts", "failed", "reward"]
    assert ("tokens" in shown) == ("pass@2" in shown) == (width == 200)
    assert width > 80 or shown == ["environment", "rollouts", "failed", "reward"]
