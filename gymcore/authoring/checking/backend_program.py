"""
The program that builds a wheel with a build backend of this interpreter, without an index and without isolation.

    python backend_program.py PROJECT FOLDER

It is what `--no-build-isolation` of installers is, without needing one (https://peps.python.org/pep-0517/).
"""

from __future__ import annotations

import importlib
import os
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["backend_of"]

LEGACY = "setuptools.build_meta:__legacy__"


def backend_of(pyproject: dict[str, Any]) -> tuple[str, list[str], list[str]]:
    """Return the build backend of a project, where it lies in the project, and what it requires."""
    system = pyproject.get("build-system") or {}
    requires = system.get("requires", ["setuptools>=40.8.0"])
    return system.get("build-backend", LEGACY), list(system.get("backend-path", [])), list(requires)


def _main(project: str, folder: str) -> None:
    pyproject = tomllib.loads(Path(project, "pyproject.toml").read_text(encoding="utf-8"))
    target, inside, _ = backend_of(pyproject)
    os.chdir(project)
    sys.path[:0] = [str(Path(project, path)) for path in inside]
    sys.argv = ["build"]
    module, _, attribute = target.partition(":")
    backend: Any = importlib.import_module(module)
    for part in attribute.split(".") if attribute else ():
        backend = getattr(backend, part)
    asks = getattr(backend, "get_requires_for_build_wheel", None)
    missing = [text for text in (asks({}) if asks is not None else ()) if not _is_installed(text)]
    if missing:
        sys.exit(f"the backend also needs {', '.join(missing)}, which would have to be fetched")
    backend.build_wheel(folder, {})


def _is_installed(requirement: str) -> bool:
    name = re.match(r"[\w.-]+", requirement.strip())
    try:
        metadata.distribution(name[0] if name else requirement)
    except metadata.PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2])
