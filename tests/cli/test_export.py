"""
`gym export`: a run folder in, one file for a trainer out.
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
def mix(gym: Gym, plugins: PluginFolder, tmp_path: Path) -> Path:
    """
    A run folder with the rows of two environments.
    """
    done = gym("compose", "--env", "echo", "--env", "shout", "--out", "mix", folder=plugins)
    assert done.returncode == 0, done.stderr
    return tmp_path / "mix"


def test_export_writes_a_file_into_the_folder_and_says_so(gym: Gym, plugins: PluginFolder, mix: Path) -> None:
    """
    Without a name it is called after its format, and the folder is still a run folder.
    """
    done = gym("export", "mix", "--to", "openai-messages", folder=plugins)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "wrote mix/openai-messages.jsonl: 10 rows for openai-messages\n"
    assert len((mix / "openai-messages.jsonl").read_bytes().splitlines()) == 10
    assert gym("compose", "--env", "echo", "--env", "shout", "--out", "mix", folder=plugins).returncode == 0


def test_export_prints_json_and_nothing_else(gym: Gym, plugins: PluginFolder, mix: Path) -> None:
    """
    The file, its format, its size and its digest.
    """
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    file = mix.parent / "deep" / "down" / "train.parquet"

    done = gym("export", "mix", "--to", "verl", "--out", str(file), "--json", folder=plugins)

    said = json.loads(done.stdout)
    assert (said["file"], said["format"], said["rows"]) == (str(file), "verl", 10)
    assert said["bytes"] == file.stat().st_size
    assert said["notes"] == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none", "--to", "trl"], "there is no composition in this folder"),
        (["mix", "--to", "torl"], "'torl' is not one of"),
        (["mix"], "Missing option '--to'"),
        (["mix", "--to", "trl", "--out", "mix.jsonl"], "a file that ends with .parquet (mix.jsonl)"),
        (["mix", "--to", "nemo-gym", "--out", "mix/dataset.jsonl"], "a run folder has a file of that name"),
        (["mix", "--to", "nemo-gym", "--out", ""], "--out is empty"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_wrong_request_is_one_message_and_no_file(
    gym: Gym, plugins: PluginFolder, mix: Path, arguments: list[str], said: str
) -> None:
    """
    Exit code 2, no traceback, and the folder is as it was.
    """
    before = sorted(mix.parent.rglob("*"))

    done = gym("export", *arguments, folder=plugins)

    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(mix.parent.rglob("*")) == before


def test_without_pyarrow_a_table_says_what_to_install(
    gym: Gym, plugins: PluginFolder, mix: Path, tmp_path: Path
) -> None:
    """
    A core without the extra still writes lines, and says what tables need.
    """
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "pyarrow.py").write_text("raise ImportError('not here')\n")
    path = f"{blocked}:{plugins.environ['PYTHONPATH']}"

    done = gym("export", "mix", "--to", "trl", folder=plugins, PYTHONPATH=path)
    lines = gym("export", "mix", "--to", "nemo-gym", folder=plugins, PYTHONPATH=path)

    assert (done.returncode, lines.returncode) == (2, 0)
    assert "try: pip install 'gymcore[parquet]'" in done.stderr
