"""
Whether a package that is found is the one that was installed, or another of that name which hides it.

A folder of the same name in the current folder, or in one of PYTHONPATH, is found before what pip has installed. Only
what is certain counts: where nothing says where a distribution's package lies, nothing is said here either.
"""

from __future__ import annotations

import os
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from gymcore.discovery.editable import project_folder, project_name
from gymcore.discovery.metadata import MetadataError, read_text
from gymcore.discovery.plugin import normalised

__all__ = ["came_from", "hidden_by", "is_inside", "way_out"]


def hidden_by(distribution: Any, name: str, package: ModuleSpec) -> tuple[str, str] | None:
    """
    Compare where a package was found with where its distribution is installed.

    Of an editable installation, another working copy of the same project hides nothing: whoever has two and puts one on
    the path means it. What gymcore itself is, is not asked: it is running.

    Args:
        distribution: The distribution that offers the plugin.
        name: Its name.
        package: What was found: a package, or a module that is one file.

    Returns:
        Both places, where they differ for certain; else None.
    """
    places = package.submodule_search_locations
    if places is None:  # it is a file, where a folder may have been installed
        places = [package.origin] if package.has_location and package.origin else []
    found = [os.path.realpath(place) for place in places]
    part = package.name.replace(".", "/")
    beside = os.path.realpath(str(distribution.locate_file(part)))
    if not found or beside in found or normalised(name) == "gymcore":
        return None
    project = project_folder(distribution)
    if project is not None:
        if any(is_inside(place, project) or _is_working_copy(place, name) for place in found):
            return None
        installed = [place for place in (project / "src" / part, project / part) if (place / "__init__.py").is_file()]
        return (found[0], str(installed[0])) if installed else None
    try:
        record = read_text(distribution, "RECORD") or ""
    except MetadataError:
        return None
    is_there = Path(beside).is_dir() and any(line.startswith(f"{part}/") for line in record.splitlines())
    return (found[0], beside) if is_there else None


def _is_working_copy(place: str, name: str) -> bool:
    """Say whether a package lies in a project of some name."""
    for folder in list(Path(place).parents)[:4]:
        found = project_name(folder)
        if found is not None:
            return normalised(found) == normalised(name)
    return False


def is_inside(place: str, folder: Path | str) -> bool:
    """Say whether a path is a folder, or lies somewhere in it, as it is written or with links followed."""
    for plain in (os.path.abspath, os.path.realpath):
        inner, outer = plain(place), plain(folder)
        if inner == outer or inner.startswith(outer.rstrip(os.sep) + os.sep):
            return True
    return False


def came_from(module: ModuleType | None) -> str | None:
    """Return the file that a module was loaded from; None where it has none, as namespaces and frozen modules have."""
    origin = getattr(getattr(module, "__spec__", None), "origin", None) or getattr(module, "__file__", None)
    return origin if isinstance(origin, str) and os.sep in origin else None


def way_out(found: str, package: str) -> str:
    """Say what to do so that a package is not found in the wrong place."""
    top = Path(found).parents[package.count(".")]
    if top == Path.cwd().resolve():
        return "try: start in another folder, for Python looks into this one first"
    return f"try: take {top} off Python's path (PYTHONPATH), or rename what lies there"
