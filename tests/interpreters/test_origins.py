"""
What is put into a virtual environment: the code that is installed here, or a build of a working copy.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import importlib_metadata
import pytest

from gymcore import PluginError
from gymcore.interpreters.origins import Origin, origin_of, pack


def distribution_in(folder: Path, name: str) -> Any:
    """Return a distribution that is installed in a folder."""
    (found,) = importlib_metadata.distributions(path=[str(folder)], name=name)
    return found


def test_an_installed_wheel_is_packed_again_without_what_the_installer_added(echo_folder: Path, tmp_path: Path) -> None:
    """
    Every file of its packages is there, with its digest in RECORD; where it came from, and bytecode, are not.
    """
    distribution = distribution_in(echo_folder, "gym-plugin-echo")

    with zipfile.ZipFile(pack(distribution, tmp_path)) as wheel:
        names = wheel.namelist()
        record = wheel.read(next(name for name in names if name.endswith("/RECORD"))).decode()

    assert "gym_plugin_echo/gym.yaml" in names
    assert "gym_plugin_echo/data/example.jsonl" in names
    assert not [name for name in names if name.endswith((".pyc", "INSTALLER", "direct_url.json", "REQUESTED"))]
    assert sorted(line.split(",")[0] for line in record.splitlines()) == sorted(names)
    assert all("sha256=" in line for line in record.splitlines() if not line.startswith(names[-1]))


def test_an_installed_wheel_is_known_by_its_files_and_not_by_what_is_recorded_of_them(tmp_path: Path) -> None:
    """
    A file that was edited in place is another origin, and the file as it was is the first one again; one that is gone
    is told by whoever packs it.
    """
    info = tmp_path / "mine-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 0.1\n")
    (info / "RECORD").write_text("mine.py,sha256=ofwhatwas,8\nmine-0.1.dist-info/METADATA,,\nmine.pyc,,\n")
    (tmp_path / "mine.py").write_text("ONE = 1\n")
    first = origin_of(distribution_in(tmp_path, "mine"), "mine/mine")

    (tmp_path / "mine.py").write_text("ONE = 2\n")
    assert origin_of(distribution_in(tmp_path, "mine"), "mine/mine").digest != first.digest
    (tmp_path / "mine.py").write_text("ONE = 1\n")
    assert origin_of(distribution_in(tmp_path, "mine"), "mine/mine") == first

    (tmp_path / "mine.py").unlink()
    assert origin_of(distribution_in(tmp_path, "mine"), "mine/mine").digest != first.digest
    with pytest.raises(FileNotFoundError):
        pack(distribution_in(tmp_path, "mine"), tmp_path)


@pytest.fixture
def working_copy(tmp_path: Path) -> tuple[Path, Callable[[], Origin]]:
    """
    A project that is installed editable, and what finds out where it can be had.
    """
    project, site = tmp_path / "my project", tmp_path / "site"
    info = site / "mine-0.1.dist-info"
    for folder in (project, info):
        folder.mkdir(parents=True)
    (project / "mine.py").write_text("ONE = 1\n")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 0.1\n")
    (info / "direct_url.json").write_text(json.dumps({"url": project.as_uri(), "dir_info": {"editable": True}}))
    return project, lambda: origin_of(distribution_in(site, "mine"), "mine/mine")


def test_a_working_copy_is_known_by_its_files(working_copy: tuple[Path, Callable[[], Origin]], tmp_path: Path) -> None:
    """
    A changed file is another origin, and a folder that is gone is told.
    """
    project, origin = working_copy
    first = origin()
    assert first.source == project

    (project / "mine.py").write_text("ONE = 2\n")
    assert origin().digest != first.digest

    project.rename(tmp_path / "elsewhere")
    with pytest.raises(PluginError, match=r"was installed from .*my project, which is not there any more"):
        origin()


@pytest.mark.parametrize(
    "left",
    [
        "__pycache__/mine.pyc",
        "deep/__pycache__/mine.pyc",
        ".git/HEAD",
        "own/pyvenv.cfg",
        "build/lib/mine.py",
        "dist/mine-0.1.tar.gz",
        "src/mine.egg-info/PKG-INFO",
        "runs/first/gym.lock",
        "runs/begun/.writer",
        "cache/venvs/CACHEDIR.TAG",
    ],
)
def test_what_tools_and_runs_leave_in_a_working_copy_is_none_of_its_files(
    working_copy: tuple[Path, Callable[[], Origin]], left: str
) -> None:
    """
    Else every run whose folder lies in the project would build anew.
    """
    project, origin = working_copy
    first = origin()

    (project / left).parent.mkdir(parents=True)
    (project / left).write_text("left")
    (project / left).with_name("rollouts.jsonl").write_text("{}")

    assert origin() == first


@pytest.mark.parametrize(
    "path", ["src/dist/__init__.py", "mine/build/steps.py", "build/__init__.py", "recorded/__init__.py"]
)
def test_a_package_of_any_name_is_part_of_a_working_copy(
    working_copy: tuple[Path, Callable[[], Origin]], path: str
) -> None:
    """
    Below the top `build` and `dist` are packages like others, and one that brings a lock as its data is no run folder.
    """
    project, origin = working_copy
    (project / path).parent.mkdir(parents=True)
    (project / path).write_text("ONE = 1\n")
    (project / "recorded").mkdir(exist_ok=True)
    (project / "recorded" / "gym.lock").write_text("{}")
    first = origin()

    (project / path).write_text("ONE = 2\n")

    assert origin().digest != first.digest


def test_files_that_nobody_lists_cannot_be_packed(tmp_path: Path) -> None:
    """
    Without RECORD nobody knows what belongs to it.
    """
    info = tmp_path / "mine-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 0.1\n")

    with pytest.raises(PluginError, match="no RECORD"):
        origin_of(distribution_in(tmp_path, "mine"), "mine/mine")
