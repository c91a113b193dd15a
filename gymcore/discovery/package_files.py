"""
The files of an installed package, found without importing it: works for wheels, editable installs and zip archives.

`importlib.resources.files("a.b")` and `importlib.util.find_spec("a.b")` both run `a/__init__.py`; a listing must not.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

__all__ = ["find_module", "package_folder", "package_of"]


def find_module(name: str) -> ModuleSpec | None:
    """Find a module by asking the import system's finders for each part of its name; nothing is imported."""
    spec: ModuleSpec | None = None
    locations: Any = None
    parts = name.split(".")
    for depth in range(1, len(parts) + 1):
        if depth > 1 and locations is None:
            return None
        spec = _ask_finders(".".join(parts[:depth]), locations)
        if spec is None:
            return None
        locations = spec.submodule_search_locations
    return spec


def _ask_finders(name: str, locations: Any) -> ModuleSpec | None:
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        spec = find(name, locations) if find is not None else None
        if isinstance(spec, ModuleSpec):
            return spec
    return None


def package_of(module: str) -> ModuleSpec | None:
    """Return the package that holds a module, or the module itself where it is a package; None when not found."""
    spec = find_module(module)
    if spec is None or spec.submodule_search_locations is not None:
        return spec
    return find_module(module.rpartition(".")[0]) if "." in module else None


def package_folder(package: ModuleSpec) -> Traversable | None:
    """Return the folder of a package, from which its data files can be read."""
    locations = [Path(location) for location in package.submodule_search_locations or ()]
    for location in locations:
        if location.is_dir():
            return location
    # A zip archive, or a loader of somebody else's: only its resource reader knows.
    reader_of = getattr(package.loader, "get_resource_reader", None)
    reader = reader_of(package.name) if reader_of is not None else None
    files = getattr(reader, "files", None)
    folder: Traversable | None = files() if files is not None else None
    return folder
