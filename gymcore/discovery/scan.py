"""
The scan behind `discover()`: one pass over the installed distributions, metadata and manifests only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from gymcore.discovery.catalog import GROUPS, KINDS, Catalog, Plugin, normalised
from gymcore.discovery.manifest import MANIFEST_NAME, Manifest, ManifestError, read_manifest
from gymcore.discovery.package_files import find_module, package_folder, package_of

__all__ = ["discover"]

INTERFACE_VERSIONS = (1,)  # the same tuple as in `interfaces`, which would load pydantic; a test compares them


def discover(path: Sequence[str] | None = None) -> Catalog:
    """
    Find every installed plugin, broken ones too; no plugin is imported, and nothing a plugin does can raise here.

    Args:
        path: Folders to look for distributions in, instead of `sys.path`.

    Returns:
        The catalog, in an order that does not depend on the file system.
    """
    found: list[Plugin] = []
    for distribution, name, version in _distributions(path):
        found.extend(_plugins_of(distribution, name, version))
    found.sort(key=lambda plugin: (KINDS.index(plugin.kind), normalised(plugin.name), normalised(plugin.distribution)))
    return Catalog(tuple(_with_conflicts(found)))


def _distributions(path: Sequence[str] | None) -> Iterator[tuple[Any, str, str]]:
    """
    Yield each distribution that may hold plugins once, with its name and version.

    Of several with one name the first counts, as it does for imports.
    """
    import importlib_metadata

    seen: set[str] = set()
    every = importlib_metadata.distributions() if path is None else importlib_metadata.distributions(path=list(path))
    for distribution in every:
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


def _plugins_of(distribution: Any, name: str, version: str) -> Iterator[Plugin]:
    try:
        entry_points = [(GROUPS[entry.group], entry) for entry in distribution.entry_points if entry.group in GROUPS]
    except Exception as error:
        yield Plugin("environment", name, name, version, "", "broken", f"its entry points cannot be read: {error}")
        return
    offers = [(kind, normalised(entry.name)) for kind, entry in entry_points]
    for kind, entry in entry_points:
        plugin = Plugin(kind, entry.name, name, version, entry.value.replace(" ", ""))
        if not entry.name or offers.count((kind, normalised(entry.name))) > 1:
            problem = f"{name} offers this name twice" if entry.name else f"{name} offers it without a name"
            yield replace(plugin, status="broken", problem=problem)
        else:
            yield _examine(plugin)


def _examine(plugin: Plugin) -> Plugin:
    """Read a plugin's manifest and say what is wrong with it, as far as that can be known without importing it."""
    try:
        manifest = _manifest_of(plugin)
    except ManifestError as error:
        return replace(plugin, status="broken", problem=str(error))
    except Exception as error:  # import finders of other people are asked on the way
        return replace(plugin, status="broken", problem=f"{type(error).__name__}: {error}")
    if manifest.gym_api not in INTERFACE_VERSIONS:
        offered = " and ".join(str(version) for version in INTERFACE_VERSIONS)
        other = "a newer gymcore" if manifest.gym_api > max(INTERFACE_VERSIONS) else "a newer version of the plugin"
        problem = f"written for interface version {manifest.gym_api}; this gymcore offers {offered}; install {other}"
        return replace(plugin, status="incompatible", problem=problem, manifest=manifest)
    return replace(plugin, manifest=manifest)


def _manifest_of(plugin: Plugin) -> Manifest:
    module, colon, attribute = plugin.target.partition(":")
    if not module or (not colon and plugin.kind != "hook") or (colon and not attribute):
        raise ValueError(f"the entry point {plugin.target!r} is not of the form package.module:Class")
    package = package_of(module)
    if package is None:
        if find_module(module) is not None:
            raise FileNotFoundError(f"{module!r} is not a package, so there is no {MANIFEST_NAME} beside its class")
        raise ModuleNotFoundError(f"there is no module {module!r} in what is installed")
    folder = package_folder(package)
    file = folder.joinpath(MANIFEST_NAME) if folder is not None else None
    if file is None or not file.is_file():
        raise FileNotFoundError(f"there is no {MANIFEST_NAME} in the package {package.name!r}")
    return read_manifest(file.read_bytes(), f"{package.name}/{MANIFEST_NAME}")


def _with_conflicts(plugins: Iterable[Plugin]) -> list[Plugin]:
    plugins = list(plugins)
    owners: dict[tuple[str, str], list[str]] = {}
    for plugin in plugins:
        owners.setdefault((plugin.kind, normalised(plugin.name)), []).append(plugin.qualified)
    marked = []
    for plugin in plugins:
        others = [name for name in owners[plugin.kind, normalised(plugin.name)] if name != plugin.qualified]
        if others and plugin.status == "ok":
            problem = f"{', '.join(others)} has the same name; choose one as {plugin.qualified}"
            plugin = replace(plugin, status="conflict", problem=problem)
        marked.append(plugin)
    return marked
