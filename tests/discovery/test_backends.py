"""
Ways of being built: whatever tool has made a plugin's wheel, ordinary or editable, it is the same row.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

CODE = "from gymcore import Environment\n\nclass Built(Environment):\n    '''Built by a tool.'''\n"
PROJECT = """\
[project]
name = "gym-plugin-built"
version = "1.2.3"
description = "What a tool has built."
requires-python = ">=3.11"

[project.entry-points."gymcore.environments"]
built = "gym_plugin_built:Built"

[build-system]
requires = []
build-backend = "{backend}"

"""
SETUPTOOLS = """\
[tool.setuptools.packages.find]
where = ["src"]

[tool.setuptools.package-data]
gym_plugin_built = ["gym.yaml", "data/*"]
"""
FINDER = '[tool.setuptools]\npackages = ["gym_plugin_built"]\n\n[tool.setuptools.package-dir]\n' + (
    'gym_plugin_built = "src/gym_plugin_built"\n\n[tool.setuptools.package-data]\n'
    'gym_plugin_built = ["gym.yaml", "data/*"]\n'
)
BACKENDS: dict[str, tuple[str, str, dict[str, str]]] = {
    "hatchling": ("hatchling.build", "", {}),
    "flit": ("flit_core.buildapi", "", {}),
    "uv_build": ("uv_build", "", {}),
    "pdm": ("pdm.backend", "", {}),
    "poetry": (
        "poetry.core.masonry.api",
        '[tool.poetry]\npackages = [{include = "gym_plugin_built", from = "src"}]\n',
        {},
    ),
    "setuptools by a path": ("setuptools.build_meta", SETUPTOOLS, {}),
    "setuptools by a finder": ("setuptools.build_meta", FINDER, {}),
    "setuptools strict": ("setuptools.build_meta", SETUPTOOLS, {"editable_mode": "strict"}),
}
BUILD = (
    "import importlib, json, sys; name, folder, settings = sys.argv[1:]\n"
    "backend = importlib.import_module(name)\n"
    "for kind in ('wheel', 'editable'):\n"
    "    getattr(backend, 'build_' + kind)(folder + '/' + kind, json.loads(settings))\n"
)
# Everything a listing and a choice need, as a process sees it that has these installations.
LOOK = (
    "import json, site, sys; from gymcore import discover\n"
    "site.addsitedir(sys.argv[1]); catalog = discover(); plugin = catalog.find('environment', 'built')\n"
    "with catalog.open_file(plugin, 'data/example.jsonl') as rows: count = len(rows.readlines())\n"
    "imported = 'gym_plugin_built' in sys.modules\n"
    "print(json.dumps([plugin.to_dict(), count, imported, catalog.load(plugin).__doc__]))\n"
)


def _has(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of `poetry.core`, there is no `poetry`
        return False


def _project(folder: Path, text: str) -> Path:
    package = folder / "src" / "gym_plugin_built"
    (package / "data").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(text)
    (package / "__init__.py").write_text('"""Built by a tool."""\n\n__version__ = "1.2.3"\n' + CODE)
    (package / "gym.yaml").write_text("gym_api: 1\ndescription: It works.\nsplits: {example: data/example.jsonl}\n")
    (package / "data" / "example.jsonl").write_text('{"a": 1}\n{"a": 2}\n')
    return folder


def _install(wheel: Path, site: Path, direct_url: Mapping[str, Any] | None) -> None:
    """Unpack a wheel as an installer does, and note where it came from."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    if direct_url is not None:
        (next(site.glob("*.dist-info")) / "direct_url.json").write_text(json.dumps(direct_url))


def _editable(folder: Path) -> dict[str, Any]:
    return {"url": folder.as_uri(), "dir_info": {"editable": True}}


@pytest.mark.parametrize("tool", BACKENDS)
def test_a_plugin_is_the_same_whatever_tool_has_built_it(tmp_path: Path, tool: str) -> None:
    """
    As a wheel and as an editable installation: one record, manifest and data readable, nothing imported until chosen.
    """
    backend, further, settings = BACKENDS[tool]
    if not _has(backend.rpartition(".")[0] or backend):
        pytest.skip(f"{backend} is not installed; the dependency group `backends` brings it")
    # Looked up and not imported: setuptools warns of what else has been imported before it.
    if tool.startswith("setuptools") and int(version("setuptools").partition(".")[0]) < 71:
        pytest.skip("this setuptools is too old to build wheels alone")
    project = _project(tmp_path / "the project", PROJECT.format(backend=backend) + further)
    for kind in ("wheel", "editable"):
        (tmp_path / kind).mkdir()
    # uv_build calls a program that lies beside the interpreter.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    built = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BUILD, backend, str(tmp_path), json.dumps(settings)],
        cwd=project,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr

    seen = {}
    for kind, direct_url in (("wheel", None), ("editable", _editable(project))):
        _install(next((tmp_path / kind).glob("*.whl")), tmp_path / f"site {kind}", direct_url)
        looked = subprocess.run(
            [sys.executable, "-c", LOOK, str(tmp_path / f"site {kind}")], capture_output=True, text=True, check=False
        )
        assert looked.returncode == 0, looked.stderr
        seen[kind] = json.loads(looked.stdout)

    record, count, imported, documentation = seen["wheel"]
    assert seen["editable"] == seen["wheel"]
    assert {key: record[key] for key in ("qualified", "version", "target", "status", "problem", "description")} == {
        "qualified": "gym-plugin-built/built",
        "version": "1.2.3",
        "target": "gym_plugin_built:Built",
        "status": "ok",
        "problem": None,
        "description": "It works.",
    }
    assert (count, imported, documentation) == (2, False, "Built by a tool.")
