"""
The scan behind `discover()`: one pass over the installed distributions, metadata and manifests only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.machinery import ModuleSpec
from typing import Any

from gymcore.discovery.catalog import Catalog
from gymcore.discovery.editable import installed_distributions, stale_hint
from gymcore.discovery.lists import Lists
from gymcore.discovery.manifest import MANIFEST_BYTES, MANIFEST_NAME, Manifest, ManifestError, read_manifest
from gymcore.discovery.package_files import find_module, package_folder, package_of
from gymcore.discovery.plugin import GROUPS, KINDS, Plugin, normalised
from gymcore.discovery.shadows import hidden_by, way_out

__all__ = ["discover"]

INTERFACE_VERSIONS = (1,)  # the same tuple as in `interfaces`, which would load pydantic; a test compares them

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
"""What a plan can name."""


def discover(path: Sequence[str] | None = None, *, environ: Mapping[str, str] | None = None) -> Catalog:
    """
    Find every installed plugin, broken ones too; no plugin is imported, and nothing a plugin does can raise here.

    Args:
        path: Folders to look for distributions in, instead of `sys.path`.
        environ: Where `GYM_PLUGINS_ALLOW` and `GYM_PLUGINS_BLOCK` are read, instead of the process environment.

    Returns:
        The catalog, in an order that does not depend on the file system.
    """
    lists = Lists.from_environ(os.environ if environ is None else environ)
    found: list[Plugin] = []
    for distribution, name, version in _distributions(path):
        found.extend(_plugins_of(distribution, name, version, lists.objection(name)))
    found.sort(
        key=lambda plugin: (
            KINDS.index(plugin.kind),
            normalised(plugin.name),
            normalised(plugin.distribution),
            plugin.name,
            plugin.target,
        )
    )
    return Catalog(tuple(_with_conflicts(found)), None if path is None else tuple(path))


def _distributions(path: Sequence[str] | None) -> Iterator[tuple[Any, str, str]]:
    """
    Yield each distribution that may hold plugins once, with its name and version.

    Of several with one name the first counts, as it does for imports.
    """
    seen: set[str] = set()
    for distribution in installed_distributions(path):
        try:
            # The text is looked at first: parsing the metadata of every distribution costs ten times as much.
            text = distribution.read_text("entry_points.txt")
            if not text or "gymcore." not in text:
                continue
            name, version = _name_and_version(distribution)
        except Exception:  # a damaged distribution of somebody else must not hide the others
            continue
        if name and normalised(name) not in seen:
            seen.add(normalised(name))
            yield distribution, name, version


def _name_and_version(distribution: Any) -> tuple[str, str]:
    """Read two fields of the metadata's head; parsing all of it would load the email package, a tenth of `gym list`."""
    text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
    fields = dict(line.split(": ", 1) for line in text.partition("\n\n")[0].splitlines() if ": " in line)
    return fields.get("Name", "").strip(), fields.get("Version", "unknown").strip()


def _plugins_of(distribution: Any, name: str, version: str, objection: str | None) -> Iterator[Plugin]:
    try:
        entry_points = [(GROUPS[entry.group], entry) for entry in distribution.entry_points if entry.group in GROUPS]
    except Exception as error:
        yield Plugin("environment", name, name, version, "", "broken", f"its entry points cannot be read: {error}")
        return
    offers = [(kind, normalised(entry.name)) for kind, entry in entry_points]
    manifests: dict[str, Manifest | Exception] = {}
    for kind, entry in entry_points:
        plugin = Plugin(kind, entry.name, name, version, entry.value.replace(" ", ""))
        if objection is not None:
            hint = "change that variable, if you trust it"
            yield replace(plugin, status="blocked", problem=objection, hint=hint)
        elif not _NAME.fullmatch(entry.name):
            problem = (
                f"{name} offers it without a name" if not entry.name else f"{entry.name!r} is no name for a plugin"
            )
            hint = "its author must choose another: letters, digits, '_', '-' and '.', 64 at most"
            yield replace(plugin, status="broken", problem=problem, hint=hint)
        elif offers.count((kind, normalised(entry.name))) > 1:
            hint = "its author must rename one of the two"
            yield replace(plugin, status="broken", problem=f"{name} offers this name twice", hint=hint)
        else:
            yield _examine(plugin, distribution, manifests)


class _Broken(Exception):
    """What is wrong with a plugin, in words, and what to do about it."""

    def __init__(self, problem: str, hint: str | None = None) -> None:
        self.hint = hint
        super().__init__(problem)


def _examine(plugin: Plugin, distribution: Any, manifests: dict[str, Manifest | Exception]) -> Plugin:
    """Read a plugin's manifest and say what is wrong with it, as far as that can be known without importing it."""
    try:
        package = _package_of(plugin, distribution)
        plugin = replace(plugin, location=next(iter(package.submodule_search_locations or ()), None))
        manifest = _manifest_of(package, manifests)
    except ManifestError as error:
        hint = "its author must correct the manifest"
        return replace(plugin, status="broken", problem=str(error), hint=hint)
    except _Broken as error:
        return replace(plugin, status="broken", problem=str(error), hint=error.hint)
    except Exception as error:  # import finders of other people are asked on the way
        return replace(plugin, status="broken", problem=f"{type(error).__name__}: {error}")
    if manifest.gym_api not in INTERFACE_VERSIONS:
        offered = " and ".join(str(version) for version in INTERFACE_VERSIONS)
        package_to_upgrade = "gymcore" if manifest.gym_api > max(INTERFACE_VERSIONS) else plugin.distribution
        problem = f"written for interface version {manifest.gym_api}; this gymcore offers {offered}"
        hint = f"try: pip install --upgrade {package_to_upgrade}"
        return replace(plugin, status="incompatible", problem=problem, hint=hint, manifest=manifest)
    return replace(plugin, manifest=manifest)


def _package_of(plugin: Plugin, distribution: Any) -> ModuleSpec:
    """Find the package that holds a plugin's class, as it was installed."""
    module, colon, attribute = plugin.target.partition(":")
    if not module or (not colon and plugin.kind != "hook") or (colon and not attribute):
        problem = f"the entry point {plugin.target!r} is not of the form package.module:Class"
        raise _Broken(problem, "its author must correct it")
    package = package_of(module)
    if package is None and find_module(module) is not None:
        problem = f"{module!r} is not a package, so there is no {MANIFEST_NAME} beside its class"
        raise _Broken(problem, "its author must make it one")
    hidden = None if package is None else hidden_by(distribution, plugin.distribution, package)
    if package is not None and hidden is not None:
        found, installed = hidden
        problem = f"{package.name!r} is installed in {installed}, but what is found is {found}"
        raise _Broken(problem, way_out(found, package.name))
    if package is None or find_module(module) is None:
        hint = f"try: pip install --force-reinstall {plugin.distribution}"
        raise _Broken(f"there is no module {module!r} in what is installed", stale_hint(distribution) or hint)
    return package


def _manifest_of(package: ModuleSpec, known: dict[str, Manifest | Exception]) -> Manifest:
    """Return the manifest of a package, which is read once for several plugins in it."""
    if package.name not in known:
        known[package.name] = _read(package)
    manifest = known[package.name]
    if isinstance(manifest, Exception):
        raise manifest
    return manifest


def _read(package: ModuleSpec) -> Manifest | Exception:
    """Read the manifest of a package; what is wrong with it is returned."""
    try:
        folder = package_folder(package)
        file = folder.joinpath(MANIFEST_NAME) if folder is not None else None
        if file is None or not file.is_file():
            problem = f"there is no {MANIFEST_NAME} in the installed package {package.name!r}"
            return _Broken(problem, "the wheel was built without it; authors: run `gym check`")
        with file.open("rb") as opened:
            return read_manifest(opened.read(MANIFEST_BYTES + 1), f"{package.name}/{MANIFEST_NAME}")
    except Exception as error:
        return error


def _with_conflicts(plugins: Iterable[Plugin]) -> list[Plugin]:
    plugins = list(plugins)
    owners: dict[tuple[str, str], list[str]] = {}
    for plugin in plugins:
        if plugin.status != "blocked":
            owners.setdefault((plugin.kind, normalised(plugin.name)), []).append(plugin.qualified)
    marked = []
    for plugin in plugins:
        names = owners.get((plugin.kind, normalised(plugin.name)), [])
        others = [name for name in names if name != plugin.qualified]
        if others and plugin.status == "ok":
            problem = f"{', '.join(others)} has the same name"
            plugin = replace(plugin, status="conflict", problem=problem, hint=f"choose it as {plugin.qualified}")
        marked.append(plugin)
    return marked
