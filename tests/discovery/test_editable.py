"""
Editable installations: one that is older than its project is told so, wherever that shows.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from gymcore.discovery import discover
from gymcore.errors import PluginError, UnknownPluginError
from gymcore.testing.plugins import PluginFolder

PROJECT = """\
[project]
name = "gym-plugin-built"

[project.entry-points."gymcore.environments"]
renamed = "gym_plugin_built:Built"
"""


@pytest.fixture
def stale(tmp_path: Path) -> Path:
    """
    A site folder with an editable installation, whose project offers other things than when it was installed.
    """
    project = tmp_path / "the project"
    package = project / "src" / "gym_plugin_built"
    package.mkdir(parents=True)
    (project / "pyproject.toml").write_text(PROJECT)
    (package / "__init__.py").write_text("from gymcore import Environment\n\nclass Built(Environment):\n    '''B.'''\n")
    (package / "gym.yaml").write_text("gym_api: 1\n")
    site = tmp_path / "site"
    info = site / "gym_plugin_built-1.2.3.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gym-plugin-built\nVersion: 1.2.3\n")
    (info / "direct_url.json").write_text(json.dumps({"url": project.as_uri(), "dir_info": {"editable": True}}))
    offers = "built = gym_plugin_built:Gone\nmoved = gym_plugin_moved:Moved\n"
    (info / "entry_points.txt").write_text(f"[gymcore.environments]\n{offers}")
    return site


def test_an_editable_installation_that_is_older_than_its_project_is_told_so(stale: Path, tmp_path: Path) -> None:
    """
    A name that was added since, a class that is gone, and a module that is gone have the same remedy.
    """
    again = (
        f"{tmp_path / 'the project' / 'pyproject.toml'} offers other plugins than what is installed: run `pip install"
    )
    sys.path[:0] = paths = [str(stale), str(tmp_path / "the project" / "src")]
    try:
        catalog = discover()
        with pytest.raises(UnknownPluginError) as unknown:
            catalog.find("environment", "renamed")
        with pytest.raises(PluginError) as gone:
            catalog.load(catalog.find("environment", "built"))
        moved = catalog.find("environment", "moved")
    finally:
        for path in paths:
            sys.path.remove(path)
        sys.modules.pop("gym_plugin_built", None)

    assert f"{tmp_path / 'the project'} offers it, and was installed before it did" in str(unknown.value)
    assert "'gym_plugin_built' has no 'Gone'" in gone.value.message
    assert any(hint.startswith(again) for hint in gone.value.hints)
    assert (moved.hint or "").startswith(again)


@pytest.mark.parametrize(
    "direct_url",
    [
        "",
        "{",
        "[]",
        '{"url": 5, "dir_info": {"editable": true}}',
        '{"url": "https://x/y", "dir_info": {"editable": true}}',
        '{"url": "file:///no/such/folder", "dir_info": {"editable": true}}',
        '{"dir_info": {"editable": 1}}',
    ],
)
def test_a_damaged_note_of_an_origin_harms_nobody(stale: Path, direct_url: str) -> None:
    """
    Then nothing is known about a project, and the plugin is judged by what is there.
    """
    (next(stale.glob("*.dist-info")) / "direct_url.json").write_text(direct_url)
    with PluginFolder(stale):
        catalog = discover()
        with pytest.raises(UnknownPluginError) as unknown:
            catalog.find("environment", "renamed")

    assert "was installed before" not in str(unknown.value)
    assert [plugin.status for plugin in catalog.plugins if plugin.distribution == "gym-plugin-built"] == ["broken"] * 2


@pytest.mark.parametrize(
    ("name", "status"), [("gym-plugin-built", "ok"), ("gym_plugin.Built", "ok"), ("other", "broken")]
)
def test_another_working_copy_of_an_editable_project_may_stand_on_the_path(
    stale: Path, tmp_path: Path, name: str, status: str
) -> None:
    """
    Whoever puts a second copy of a project on the path means it; a project of another name hides the installed one.
    """
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "the project", copy)
    (copy / "pyproject.toml").write_text(PROJECT.replace("gym-plugin-built", name))
    with PluginFolder(stale), PluginFolder(copy / "src"):
        plugin = discover().find("environment", "built")

    assert plugin.status == status


def test_a_package_of_links_is_one_package_and_no_more(stale: Path, tmp_path: Path) -> None:
    """
    Strict editable installations link each file alone: their data are read, and a link to elsewhere is refused.
    """
    real, linked = tmp_path / "the project" / "src" / "gym_plugin_built", tmp_path / "links" / "gym_plugin_built"
    (real / "rows.jsonl").write_text("{}\n")
    (tmp_path / "secret.jsonl").write_text("{}\n")
    linked.mkdir(parents=True)
    for name in ("__init__.py", "gym.yaml", "rows.jsonl"):
        (linked / name).symlink_to(real / name)
    (linked / "secret.jsonl").symlink_to(tmp_path / "secret.jsonl")
    with PluginFolder(stale), PluginFolder(tmp_path / "links"):
        (next(stale.glob("*.dist-info")) / "direct_url.json").unlink()
        catalog = discover()
        plugin = catalog.find("environment", "built")
        with catalog.open_file(plugin, "rows.jsonl") as rows:
            assert rows.read() == b"{}\n"
        with pytest.raises(PluginError, match="leads out of the package"), catalog.open_file(plugin, "secret.jsonl"):
            pass
