"""
A folder of really installed plugins: each is built into a wheel and installed, where discovery sees it.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

__all__ = ["PluginFolder"]

_PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = {name}
version = {version}
description = "A plugin that a test made."
requires-python = ">=3.11"
dependencies = {dependencies}

[tool.hatch.build.targets.wheel]
packages = {packages}
"""


class PluginFolder:
    """
    A folder on `sys.path` for plugins that live as long as a `with` block.

    Needs hatchling and pip in the running interpreter: `pip install "gymcore[testing]"`.

    Args:
        folder: An existing, empty folder.

    Example:
        with PluginFolder(tmp_path) as plugins:
            plugins.install("gym-plugin-mine", {"mine/__init__.py": CODE, "mine/gym.yaml": "gym_api: 1"},
                            {"gymcore.environments": {"mine": "mine:Mine"}})
            assert discover().find("environment", "mine")
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._modules: frozenset[str] = frozenset()

    def __enter__(self) -> PluginFolder:
        self._modules = frozenset(sys.modules)
        sys.path.insert(0, str(self.folder))
        importlib.invalidate_caches()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sys.path.remove(str(self.folder))
        for name in set(sys.modules) - self._modules:
            file = getattr(sys.modules[name], "__file__", None)
            if file is not None and Path(file).is_relative_to(self.folder):
                del sys.modules[name]
        importlib.invalidate_caches()

    @property
    def environ(self) -> dict[str, str]:
        """The process environment in which another Python process sees these plugins too."""
        inherited = os.environ.get("PYTHONPATH")
        path = str(self.folder) if not inherited else f"{self.folder}{os.pathsep}{inherited}"
        return {**os.environ, "PYTHONPATH": path}

    def install(
        self,
        name: str,
        files: Mapping[str, str | bytes],
        entry_points: Mapping[str, Mapping[str, str]],
        *,
        version: str = "0.1.0",
        dependencies: Sequence[str] = (),
    ) -> None:
        """
        Build a distribution and install it into the folder.

        Args:
            name: The distribution's name.
            files: What its packages hold: path below the project, such as `mine/__init__.py`, and content.
            entry_points: For each group, the names offered and what they lead to.
            version: Its version.
            dependencies: What it says it requires; nothing is installed for it.

        Raises:
            RuntimeError: the distribution could not be built or installed; with what the tools said.
        """
        packages = sorted({path.split("/")[0] for path in files})
        text = _PYPROJECT.format(
            name=json.dumps(name),
            version=json.dumps(version),
            dependencies=json.dumps(list(dependencies)),
            packages=json.dumps(packages),
        )
        for group, offered in entry_points.items():
            text += f"\n[project.entry-points.{json.dumps(group)}]\n"
            text += "".join(f"{json.dumps(key)} = {json.dumps(target)}\n" for key, target in offered.items())
        with tempfile.TemporaryDirectory(prefix="gymcore-plugin-") as scratch:
            project = Path(scratch) / "project"
            for path, content in {**files, "pyproject.toml": text}.items():
                target = project / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content.encode() if isinstance(content, str) else content)
            self.install_project(project)

    def install_project(self, *projects: Path) -> None:
        """
        Build the project in a folder, which must use hatchling, and install it; several are installed together.

        Raises:
            RuntimeError: it could not be built or installed; with what the tools said.
        """
        with tempfile.TemporaryDirectory(prefix="gymcore-wheel-") as wheels:
            for project in projects:
                _call("hatchling", "build", "--target", "wheel", "--directory", wheels, folder=project)
            built = map(str, sorted(Path(wheels).glob("*.whl")))
            quiet = ("--quiet", "--disable-pip-version-check", "--no-warn-conflicts", "--no-compile")
            options = ("--no-deps", "--no-index", "--upgrade", "--target", str(self.folder))
            _call("pip", "install", *quiet, *options, *built, folder=Path(wheels))
        importlib.invalidate_caches()


def _call(module: str, *arguments: str, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{module} {arguments[0]} failed:\n{done.stdout}{done.stderr}")
