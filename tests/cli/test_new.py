"""
`gym new`: a package, and what to type next.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from gymcore.authoring import KINDS
from gymcore.cli.new import command
from gymcore.errors import RequestError

Gym = Callable[..., subprocess.CompletedProcess[str]]


def test_writes_a_package_once(gym: Gym, tmp_path: Path) -> None:
    """
    The next commands are printed, with the folder as it is; again, it refuses and changes nothing.
    """
    first = gym("new", "environment", "word_count")
    again = gym("new", "environment", "word_count", "--license", "mit")

    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines() == [
        "gym-plugin-word-count: 10 files of gym-plugin-word-count, with the licence apache-2.0; next:",
        "  cd gym-plugin-word-count && pip install -e .",
        "  gym play word_count",
        "  gym run --env word_count",
        "  gym check",
    ]
    assert again.returncode == 2
    assert (
        "the folder is not empty: it holds .gitignore, LICENSE, README.md, ... (gym-plugin-word-count)" in again.stderr
    )
    assert "Apache License" in (tmp_path / "gym-plugin-word-count/LICENSE").read_text()


@pytest.mark.parametrize("kind", KINDS)
def test_says_how_each_kind_is_tried(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    What plays with an environment is tried with one that is installed; a folder with a space is quoted.
    """
    monkeypatch.chdir(tmp_path)

    command.main([kind, "mine", "--path", "my folder", "--license", "none"], standalone_mode=False)

    told, *following = capsys.readouterr().out.splitlines()
    assert told.endswith("without a licence; next:")
    assert following[0] == "  cd 'my folder' && pip install -e ."
    tried = {"agent": "--agent mine", "model": "--model mine", "hooks": "--hook mine"}.get(kind)
    other = "example_multi_step"
    assert following[2] == ("  gym run --env mine" if tried is None else f"  gym run --env {other} {tried}")


def test_a_bad_name_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The name is looked at before the disk is.
    """
    monkeypatch.chdir(tmp_path)

    with pytest.raises(RequestError, match="try: gym new model word_count"):
        command.main(["model", "Word Count"], standalone_mode=False)

    assert list(tmp_path.iterdir()) == []
