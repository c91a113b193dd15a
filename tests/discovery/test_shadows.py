"""
Shadowing: a package that is found instead of the installed one is refused with both places, and nothing else is.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gymcore.discovery import discover
from gymcore.errors import PluginError
from gymcore.testing.plugins import PluginFolder

Gym = Callable[..., subprocess.CompletedProcess[str]]


@contextmanager
def _on_the_path(*entries: Path) -> Iterator[None]:
    texts = [str(entry) for entry in entries]
    sys.path[:0] = texts
    importlib.invalidate_caches()
    try:
        yield
    finally:
        for text in texts:
            sys.path.remove(text)
        importlib.invalidate_caches()


def test_a_folder_of_the_same_name_in_the_current_one_is_refused_with_both_places(
    gym: Gym, tmp_path: Path, echo_folder: Path
) -> None:
    """
    `python -m` looks into the current folder first, and what it would find is not what was installed.
    """
    (tmp_path / "gym_plugin_echo").mkdir()
    (tmp_path / "gym_plugin_echo" / "__init__.py").write_text("print('I am not it')\n")
    plugins = PluginFolder(echo_folder)

    listed = gym("list", "environments", "--json", folder=plugins)
    chosen = gym("show", "echo", folder=plugins)

    rows = {row["name"]: row for row in json.loads(listed.stdout)}
    assert listed.returncode == 0
    assert (rows["echo"]["status"], rows["shout"]["status"]) == ("broken", "ok")
    for text in (rows["echo"]["problem"], chosen.stderr):
        assert str(tmp_path / "gym_plugin_echo") in text
        assert str(echo_folder / "gym_plugin_echo") in text
    assert rows["echo"]["hint"] == "try: start in another folder, for Python looks into this one first"
    assert chosen.returncode == 4
    assert "I am not it" not in listed.stdout + chosen.stdout + chosen.stderr


@pytest.mark.parametrize("target", ["gym_plugin_echo:Echo", "gym_plugin_echo.environment:Echo"])
def test_a_file_of_the_packages_name_is_refused_with_both_places(
    tmp_path: Path, echo_folder: Path, target: str
) -> None:
    """
    The author has made a package, and is not to blame for a module that hides it.
    """
    site, above = tmp_path / "site", tmp_path / "above"
    shutil.copytree(echo_folder, site)
    info = next(site.glob("gym_plugin_echo-*.dist-info"))
    (info / "entry_points.txt").write_text(f"[gymcore.environments]\necho = {target}\n")
    above.mkdir()
    (above / "gym_plugin_echo.py").write_text("raise RuntimeError('I am not it')\n")

    with _on_the_path(above, site):
        plugin = discover().find("environment", "echo")

    told = f"is installed in {site / 'gym_plugin_echo'}, but what is found is {above / 'gym_plugin_echo.py'}"
    assert told in (plugin.problem or "")
    assert plugin.hint == f"try: take {above} off Python's path (PYTHONPATH), or rename what lies there"


def test_a_module_that_was_imported_from_elsewhere_before_is_refused(tmp_path: Path, echo_folder: Path) -> None:
    """
    The path was another one when it was imported, and Python imports no module twice.
    """
    shutil.copytree(echo_folder / "gym_plugin_mute", tmp_path / "gym_plugin_mute")
    with PluginFolder(echo_folder):
        with _on_the_path(tmp_path):
            importlib.import_module("gym_plugin_mute")
        try:
            catalog = discover()
            plugin = catalog.find("environment", "mute")
            with pytest.raises(PluginError) as caught:
                catalog.load(plugin)
        finally:
            del sys.modules["gym_plugin_mute"]

    assert plugin.status == "ok"
    assert f"is installed in {echo_folder / 'gym_plugin_mute'}" in caught.value.message
    assert f"but was imported from {tmp_path / 'gym_plugin_mute' / '__init__.py'}" in caught.value.message
    assert caught.value.hints == (f"try: take {tmp_path} off Python's path (PYTHONPATH), or rename what lies there",)


def test_a_namespace_of_several_folders_hides_nothing(tmp_path: Path) -> None:
    """
    Two distributions share a package without `__init__.py`, and a folder of its name lies in the current one too.
    """
    code = "from gymcore import Environment\n\nclass Mine(Environment):\n    '''Mine.'''\n"
    for name in ("one", "two"):
        package, info = tmp_path / name / "acme_space" / name, tmp_path / name / f"acme_{name}-1.0.dist-info"
        for folder in (package, info):
            folder.mkdir(parents=True)
        (package / "__init__.py").write_text(code)
        (package / "gym.yaml").write_text("gym_api: 1\n")
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: acme-{name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[gymcore.environments]\nspace_{name} = acme_space.{name}:Mine\n")
        (info / "RECORD").write_text(f"acme_space/{name}/__init__.py,,\nacme_space/{name}/gym.yaml,,\n")
    (tmp_path / "here" / "acme_space" / "other").mkdir(parents=True)

    with _on_the_path(tmp_path / "here"), PluginFolder(tmp_path / "one"), PluginFolder(tmp_path / "two"):
        catalog = discover()
        for name in ("space_one", "space_two"):
            assert catalog.load(catalog.find("environment", name)).__name__ == "Mine"


class _Finder(importlib.abc.MetaPathFinder):
    """Finds one package in a folder that is not on the path, as the finders of editable installations do."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder

    def find_spec(self, name: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        if name != self.name:
            return None
        places = [str(self.folder)]
        return importlib.util.spec_from_file_location(
            name, self.folder / "__init__.py", submodule_search_locations=places
        )


@pytest.mark.parametrize("is_installed_there", [False, True])
def test_a_finder_that_knows_another_place_is_believed_where_nothing_is_known_against_it(
    tmp_path: Path, echo_folder: Path, is_installed_there: bool
) -> None:
    """
    Where a distribution's own files do not lie beside its metadata, whoever finds them is right.
    """
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    shutil.copytree(echo_folder, site)
    shutil.copytree(echo_folder / "gym_plugin_echo", elsewhere)
    if not is_installed_there:
        shutil.rmtree(site / "gym_plugin_echo")
    finder = _Finder("gym_plugin_echo", elsewhere)
    sys.meta_path.insert(0, finder)
    try:
        with PluginFolder(site):
            plugin = discover().find("environment", "echo")
    finally:
        sys.meta_path.remove(finder)

    assert plugin.status == ("broken" if is_installed_there else "ok")
