"""
Whose command `gym` is, found out by what stands in it: real scripts, as installers write them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gymcore.discovery import discover
from gymcore.doctor import Check, examine
from gymcore.testing import PluginFolder

PIP = (
    "#!/usr/bin/python3\nimport sys\nfrom {module} import {name}\nif __name__ == '__main__':\n    sys.exit({name}())\n"
)
OLD = """\
#!/usr/bin/python3
import re, sys
from pkg_resources import load_entry_point
sys.exit(load_entry_point('Nemo.Gym==0.4', 'console_scripts', 'gym')())
"""
RIVAL = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "gym-plugin-rival"
version = "0.1"

[project.scripts]
gym = "rival.cli:main"

[project.entry-points."gymcore.environments"]
example_multi_step = "rival:Mine"

[tool.hatch.build.targets.wheel]
packages = ["rival"]
"""


@pytest.fixture(scope="module")
def rival(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PluginFolder]:
    """
    A distribution that installs a command `gym` too, and an environment whose name one of ours has.
    """
    project = tmp_path_factory.mktemp("project")
    (project / "rival").mkdir()
    (project / "rival" / "__init__.py").write_text("raise SystemExit('imported')\n")
    (project / "rival" / "gym.yaml").write_text("gym_api: 1\n")
    (project / "pyproject.toml").write_text(RIVAL)
    with PluginFolder(tmp_path_factory.mktemp("rival")) as folder:
        folder.install_project(project)
        yield folder


def look(name: str, path: Path) -> list[Check]:
    """Return what is found of one thing, with a folder on PATH."""
    return [check for check in examine(discover(), {"PATH": str(path)}) if check.name == name]


@pytest.mark.parametrize(
    ("text", "is_well", "starts"),
    [
        (PIP.format(module="gymcore.__main__", name="main"), True, "gymcore's"),
        (PIP.format(module="nemo_gym.cli.main", name="gym"), False, "starts nemo_gym and not gymcore"),
        (OLD, False, "starts nemo-gym and not gymcore"),
        ("#!/bin/sh\nexec something-else\n", True, "gym"),
    ],
    ids=["ours", "another's", "another's, of long ago", "nobody's"],
)
def test_a_command_is_told_by_what_it_starts(tmp_path: Path, text: str, is_well: bool, starts: str) -> None:
    """
    Another's is not well, and `gymcore` is the way out; what cannot be told is no accusation.
    """
    script = tmp_path / "gym"
    script.write_text(text.replace("/usr/bin/python3", sys.executable))
    script.chmod(0o755)

    (check,) = look("script", tmp_path)

    assert check.is_well is is_well
    assert check.found.startswith(f"PATH finds {script}")
    assert check.found.endswith(starts)
    assert is_well or "pip install --force-reinstall --no-deps gymcore" in check.remarks[-1]


def test_a_command_whose_python_is_gone_is_not_well(tmp_path: Path) -> None:
    """
    As a virtual environment that was moved leaves it; a shell says no more than that there is no such file.
    """
    script = tmp_path / "gym"
    gone = tmp_path / "venv" / "bin" / "python"
    script.write_text(PIP.format(module="gymcore.__main__", name="main").replace("/usr/bin/python3", str(gone)))
    script.chmod(0o755)

    (check,) = look("script", tmp_path)

    assert not check.is_well
    assert check.found == f"PATH finds {script}, whose Python is gone: {gone}"


def test_a_pipe_in_the_place_of_the_command_is_not_waited_for(tmp_path: Path) -> None:
    """
    Nobody writes into it, so reading it would take for ever.
    """
    os.mkfifo(tmp_path / "gym", 0o755)

    (check,) = look("script", tmp_path)

    assert check.remarks[0].startswith("nobody can say what it starts")


def test_who_else_installs_the_command_is_named(rival: PluginFolder, tmp_path: Path) -> None:
    """
    Also while PATH finds none: whoever is installed next may take it.
    """
    (check,) = look("script", tmp_path)

    assert check.is_well
    assert check.found == "PATH finds no `gym`"
    assert check.remarks[0].startswith("gym-plugin-rival installs a `gym` too")


def test_two_plugins_with_one_name_are_both_told(rival: PluginFolder, tmp_path: Path) -> None:
    """
    Each with the name that is never ambiguous.
    """
    checks = look("plugin", tmp_path)

    assert len(checks) == 2
    for check in checks:
        assert not check.is_well
        assert "example_multi_step" in check.remarks[-1]
        assert "pip uninstall" in check.remarks[-1]
