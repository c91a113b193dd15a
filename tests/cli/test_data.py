"""
`gym data`: dataset files are checked, described and prepared without a plan.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from gymcore.testing.plugins import PluginFolder

Gym = Callable[..., subprocess.CompletedProcess[str]]

GOOD = '{"answer": "it", "responses_create_params": {"input": "Say it."}, "agent_ref": {"name": "echo_simple_agent"}}\n'


def test_a_file_is_good_or_bad(gym: Gym, plugins: PluginFolder, tmp_path: Path) -> None:
    """
    Exit code 0 or 2, the first ten mistakes with file and line, and all of them counted by reason.
    """
    (tmp_path / "good.jsonl").write_text(GOOD)
    (tmp_path / "bad.jsonl").write_text(GOOD + "{\n" * 11 + "[]\n")

    good = gym("data", "check", "good.jsonl", folder=plugins)
    bad = gym("data", "check", "good.jsonl", "bad.jsonl", folder=plugins)

    assert (good.returncode, good.stdout, good.stderr) == (0, "good.jsonl: 1 row good\n  echo: 1 row, checked\n", "")
    assert bad.returncode == 2
    lines = bad.stdout.splitlines()
    assert lines[:3] == ["good.jsonl: 1 row good", "bad.jsonl: 1 row good, 12 bad", "  echo: 2 rows, checked"]
    assert [line.split()[0] for line in lines[3:13]] == [f"bad.jsonl:{number}:" for number in range(2, 12)]
    assert lines[13] == "... and 2 more"
    assert lines[15].startswith("  11 x not JSON")
    assert "duplicate-row" in bad.stderr


def test_check_prints_json_and_nothing_else(gym: Gym, plugins: PluginFolder, tmp_path: Path) -> None:
    """
    With the same exit code.
    """
    (tmp_path / "rows.jsonl").write_text(GOOD + "{\n")

    done = gym("data", "check", "rows.jsonl", "--json", folder=plugins)

    assert (done.returncode, done.stderr) == (2, "")
    told = json.loads(done.stdout)
    assert (told["good"], told["bad"], told["problems"][0]["where"]) == (1, 1, "rows.jsonl:2")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["check"], "name a FILE, or --env NAME"),
        (["check", "none.jsonl"], "RequestError: the data file cannot be read"),
        (["check", "empty.jsonl"], "there are no rows"),
        (["check", "twice.jsonl", "--strict"], "[duplicate-row]"),
        (["check", "twice.jsonl", "--ignore-warning", "duplicate-rows"], "did you mean 'duplicate-row'?"),
        (
            ["stats", "."],
            "the folder holds no dataset.jsonl, and so is no run folder (.)\n  try: empty.jsonl, or another",
        ),
        (["check", "void"], "try: gym compose --env NAME --out void"),
        (["stats", "twice.jsonl", "--tokenizer", "none.json"], "there is no tokenizer 'none.json' (--tokenizer)"),
        (["prepare", "--env", "echo", "--out", ""], "--out is empty"),
        (["prepare", "--env", "ehco", "--out", "out"], "no environment is named 'ehco'"),
        (["chek"], "Did you mean 'check'?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_wrong_request_is_one_message(
    gym: Gym, plugins: PluginFolder, tmp_path: Path, arguments: list[str], said: str
) -> None:
    """
    Exit code 2, and no traceback.
    """
    (tmp_path / "void").mkdir()
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "twice.jsonl").write_text(GOOD * 2)

    done = gym("data", *arguments, folder=plugins)

    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_stats_of_a_run_folder(gym: Gym, plugins: PluginFolder, tmp_path: Path) -> None:
    """
    A table of environments and one of fields; with `--json` all that is known.
    """
    assert gym("compose", "--env", "echo", "--env", "shout", "--out", "mix", folder=plugins).returncode == 0

    text = gym("data", "stats", "mix", folder=plugins)
    told = json.loads(gym("data", "stats", "mix", "--json", folder=plugins).stdout)

    assert text.returncode == 0, text.stderr
    assert [line.split()[:2] for line in text.stdout.splitlines()[1:4]] == [
        ["echo", "5"],
        ["shout", "5"],
        ["total", "10"],
    ]
    assert (told["total"]["rows"], told["environments"]["echo"]["fields"]["answer"]["distinct"]) == (10, 5)


def test_rows_that_are_none_are_counted_by_stats(gym: Gym, plugins: PluginFolder, tmp_path: Path) -> None:
    """
    It says so, and that something was wrong.
    """
    large = "".join(GOOD.replace("}\n", f', "n": {number}}}\n') for number in ("1e308", "-1e308", "1e308"))
    (tmp_path / "rows.jsonl").write_text(large + "{\n")

    done = gym("data", "stats", "rows.jsonl", folder=plugins)

    assert done.returncode == 1
    assert ["n", "number", "100.0%", "2", "-1e+308", "3.33333e+307", "1e+308", "numbers"] in [
        line.split() for line in done.stdout.splitlines()
    ]
    assert "1 line is no row and is not counted" in done.stderr


def test_prepare_writes_the_splits(gym: Gym, plugins: PluginFolder, tmp_path: Path) -> None:
    """
    One file a split and its statistics; the same again changes nothing.
    """
    done = gym("data", "prepare", "--env", "echo", "--out", "out", folder=plugins)
    again = gym("data", "prepare", "--env", "echo", "--out", "out", "--json", folder=plugins)

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:2] == ["train.jsonl: 25 rows (echo 25)", "example.jsonl: 5 rows (echo 5)"]
    assert json.loads(again.stdout)["written"] is False


def test_prepare_says_what_it_replaces_and_removes(gym: Gym, plugins: PluginFolder, tmp_path: Path) -> None:
    """
    And what it keeps, because somebody else wrote it.
    """
    gym("data", "prepare", "--env", "echo", "--out", "out", folder=plugins)
    (tmp_path / "out" / "validation.jsonl").write_text("mine\n")

    done = gym("data", "prepare", "--env", "shout", "--out", "out", "--force", folder=plugins)

    assert done.stdout.splitlines()[1:] == [
        "wrote out: example.jsonl",
        "replaced: example.jsonl, example_metrics.json",
        "removed: train.jsonl, train_metrics.json",
    ]
    assert done.stderr == "kept, because they were not prepared here: validation.jsonl\n"
    assert (tmp_path / "out" / "validation.jsonl").read_text() == "mine\n"


def test_compose_leaves_invalid_rows_out_where_it_is_asked_to(gym: Gym, plugins: PluginFolder, tmp_path: Path) -> None:
    """
    They are in `rejects.jsonl` beside the dataset, and gone from there when they are mended.
    """
    (tmp_path / "rows.jsonl").write_text(GOOD + "{\n")
    refused = gym("compose", "--data", "rows.jsonl", "--out", "mix", folder=plugins)
    skipped = gym("compose", "--data", "rows.jsonl", "--skip-invalid", "--out", "mix", folder=plugins)

    assert (refused.returncode, skipped.returncode) == (2, 0), skipped.stderr
    assert "1 row is invalid and was left out; rejects.jsonl says which, and why" in skipped.stderr
    (reject,) = [json.loads(line) for line in (tmp_path / "mix" / "rejects.jsonl").read_text().splitlines()]
    assert (reject["file"], reject["line"], reject["row"]) == ("rows.jsonl", 2, "{")

    (tmp_path / "rows.jsonl").write_text(GOOD)
    mended = gym("compose", "--data", "rows.jsonl", "--out", "mix", folder=plugins)
    assert mended.returncode == 0, mended.stderr
    assert not list((tmp_path / "mix").glob("*rejects*"))


def test_strict_takes_warnings_for_mistakes(gym: Gym, plugins: PluginFolder, tmp_path: Path) -> None:
    """
    Nothing is written; a warning that is silenced is none.
    """
    (tmp_path / "rows.jsonl").write_text(GOOD * 2)
    asked = ("compose", "--data", "rows.jsonl", "--out", "mix", "--strict")

    assert gym(*asked, folder=plugins).returncode == 2
    assert not (tmp_path / "mix").exists()
    assert gym(*asked, "--ignore-warning", "duplicate-row", folder=plugins).returncode == 0
