"""
The project of a plugin as it lies in a folder: what its pyproject.toml says, and where its modules are.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gymcore.discovery.catalog import GROUPS, Kind
from gymcore.discovery.manifest import MANIFEST_NAME
from gymcore.errors import PluginError, RequestError

__all__ = ["Offer", "Project", "read_project"]

PYPROJECT = "pyproject.toml"


@dataclass(frozen=True)
class Offer:
    """One entry point of a project: a plugin, if all is well."""

    kind: Kind
    name: str
    target: str
    """`package.module:Class`, without spaces."""
    where: str
    """`file:line` of what says so."""

    @property
    def module(self) -> str:
        """The module that the target names."""
        return self.target.partition(":")[0]

    @property
    def package(self) -> str:
        """The package at the top, which is what a wheel holds."""
        return self.module.partition(".")[0]


@dataclass(frozen=True)
class Project:
    """A folder with a pyproject.toml."""

    root: Path
    text: str
    data: dict[str, Any]

    @property
    def table(self) -> dict[str, Any]:
        """The table `[project]`; empty where there is none."""
        return _mapping(self.data.get("project"))

    @property
    def name(self) -> str:
        """What the distribution is called; empty where nothing says so."""
        return str(self.table.get("name") or self._poetry.get("name") or "")

    @property
    def version(self) -> str:
        """Its version, or that the build makes it up."""
        return str(self.table.get("version") or self._poetry.get("version") or "(version made by the build)")

    @property
    def dynamic(self) -> tuple[str, ...]:
        """What only the build knows."""
        found = self.table.get("dynamic")
        return tuple(map(str, found)) if isinstance(found, list) else ()

    @property
    def requirements(self) -> tuple[str, ...]:
        """What it needs, without its extras."""
        found = self.table.get("dependencies")
        return tuple(map(str, found)) if isinstance(found, list) else ()

    @property
    def extras(self) -> tuple[str, ...]:
        """What its extras need."""
        groups = _mapping(self.table.get("optional-dependencies"))
        return tuple(str(item) for group in groups.values() if isinstance(group, list) for item in group)

    @property
    def _poetry(self) -> dict[str, Any]:
        return _mapping(_mapping(self.data.get("tool")).get("poetry"))

    def groups(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Yield each group of entry points: how its table begins, its name, and what it holds."""
        for head, groups in (
            ("project.entry-points", self.table.get("entry-points")),
            ("tool.poetry.plugins", self._poetry.get("plugins")),
        ):
            for group, offered in _mapping(groups).items():
                yield head, group, _mapping(offered)

    @cached_property
    def offers(self) -> tuple[Offer, ...]:
        """The entry points in the groups of gymcore, in their order."""
        return tuple(
            Offer(GROUPS[group], name, re.sub(r"\s", "", str(target)), self.line(name, below=group))
            for _, group, offered in self.groups()
            if group in GROUPS
            for name, target in offered.items()
        )

    def line(self, key: str, *, below: str = "") -> str:
        """
        Return `pyproject.toml:line` of a key, or of a text that stands there.

        Args:
            key: The key, or a part of a value.
            below: The end of the name of the table that holds it.
        """
        lines = self.text.splitlines()
        start = 0
        if below:
            quoted = re.escape(below)
            start = next((n for n, line in enumerate(lines) if re.match(rf"\s*\[.*{quoted}[\"']?\s*\]", line)), 0)
        named = re.compile(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[.=]")
        for fits in (named.match, lambda line: key in line):
            for number in range(start, len(lines)):
                if fits(lines[number]):
                    return f"{PYPROJECT}:{number + 1}"
        return f"{PYPROJECT}:{start + 1}"

    # -- modules ------------------------------------------------------------------------------------------------------

    @cached_property
    def bases(self) -> tuple[Path, ...]:
        """The folders in which its packages lie, as far as they are there; `src` first."""
        tool = _mapping(self.data.get("tool"))
        setuptools, uv = _mapping(tool.get("setuptools")), _mapping(_mapping(tool.get("uv")).get("build-backend"))
        named: list[Any] = list(_mapping(setuptools.get("package-dir")).values())
        named += _as_list(_mapping(_mapping(setuptools.get("packages")).get("find")).get("where"))
        named += [uv.get("module-root"), _mapping(_mapping(tool.get("pdm")).get("build")).get("package-dir")]
        hatch = _mapping(_mapping(_mapping(_mapping(tool.get("hatch")).get("build")).get("targets")).get("wheel"))
        named += [str(Path(str(path)).parent) for path in _as_list(hatch.get("packages"))]
        named += [item.get("from") for item in _as_list(self._poetry.get("packages")) if isinstance(item, dict)]
        found = [self.root / "src", *(self.root / str(item) for item in named if item), self.root]
        return tuple(dict.fromkeys(path.resolve() for path in found if path.is_dir()))

    def module_file(self, module: str) -> Path | None:
        """Return the file of a module; None where the source has none."""
        for base in self.bases:
            place = base.joinpath(*module.split("."))
            for file in (place / "__init__.py", place.with_suffix(".py")):
                if file.is_file():
                    return file
        return None

    def package_folder(self, module: str) -> Path | None:
        """Return the folder beside whose code the manifest of a plugin lies; None where the module is in none."""
        file = self.module_file(module)
        if file is None or (file.name != "__init__.py" and "." not in module):
            return None
        return file.parent

    def manifest(self, offer: Offer) -> Path | None:
        """Return where the manifest of a plugin is to be, whether it is there or not."""
        folder = self.package_folder(offer.module)
        return None if folder is None else folder / MANIFEST_NAME

    def top_folders(self) -> tuple[Path, ...]:
        """Return the folders, or single files, of the packages that its plugins are in."""
        found = []
        for offer in self.offers:
            for base in self.bases:
                file = self.module_file(offer.module)
                if file is not None and file.is_relative_to(base):
                    top = base / offer.package
                    found.append(top if top.is_dir() else file)
                    break
        return tuple(dict.fromkeys(found))

    def code(self) -> Iterator[tuple[Path, ast.Module]]:
        """Yield the files of its packages that Python can read, with what they say."""
        for top in self.top_folders():
            for file in sorted(top.rglob("*.py")) if top.is_dir() else [top]:
                try:
                    yield file, ast.parse(file.read_bytes())
                except (SyntaxError, ValueError, OSError):
                    continue

    def tests(self) -> tuple[Path, ...]:
        """Return the author's test files that name a suite."""
        folder = self.root / "tests"
        found = {*folder.rglob("test_*.py"), *folder.rglob("*_test.py")}
        return tuple(sorted(file for file in found if file.is_file() and b"Suite" in file.read_bytes()))

    def shown(self, path: Path, line: int | None = None) -> str:
        """Return how messages name a file: below the project, with its line."""
        path = path.resolve()
        name = path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)
        return name if line is None else f"{name}:{line}"


def read_project(root: Path) -> Project:
    """
    Read the pyproject.toml of a folder.

    Raises:
        RequestError: there is none.
        PluginError: it cannot be read, so nothing of the project can be checked.
    """
    root = root.resolve()
    file = root / PYPROJECT
    if not file.is_file():
        raise RequestError(
            f"there is no {PYPROJECT} in this folder",
            where=str(root),
            hints=["try: the folder of a plugin's project, or the name of an installed plugin"],
        )
    try:
        text = file.read_text(encoding="utf-8")
        return Project(root, text, tomllib.loads(text))
    except (OSError, ValueError) as error:
        told = error.strerror if isinstance(error, OSError) else str(error)
        raise PluginError(
            f"nothing of this project can be checked, because its {PYPROJECT} cannot be read: {told}",
            where=str(file),
            hints=["try: mend it first; `pip install .` reads it too"],
        ) from None


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
