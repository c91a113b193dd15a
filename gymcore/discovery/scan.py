"""
The scan behind `discover()`: one pass over the installed distributions, metadata and manifests only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import gymcore
from gymcore.discovery.catalog import Catalog
from gymcore.discovery.editable import installed_distributions, stale_hint
from gymcore.discovery.lists import Lists
from gymcore.discovery.manifest import (
    INTERFACE_VERSIONS,
    MANIFEST_BYTES,
    MANIFEST_NAME,
    Manifest,
    ManifestError,
    read_manifest,
)
from gymcore.discovery.metadata import (
    MetadataError,
    decoded,
    entry_points_in,
    folder_name,
    name_and_version,
    place_of,
    read_bytes,
)
from gymcore.discovery.package_files import find_module, package_folder, package_of
from gymcore.discovery.plugin import GROUPS, KINDS, Plugin, normalised
from gymcore.discovery.shadows import hidden_by, way_out

__all__ = ["discover"]

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

    Raises:
        RequestError: one of the two variables holds what is no pattern of a distribution's name.
    """
    lists = Lists.from_environ(os.environ if environ is None else environ)
    found: list[Plugin] = []
    for offer in _offers(path):
        found.extend(_plugins_of(offer, lists.objection(offer.name)))
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


@dataclass(frozen=True)
class _Offer:
    """A distribution that offers plugins."""

    distribution: Any
    name: str
    version: str
    entry_points: str
    damage: str | None = None
    """Why nothing of it can be used, where that is so."""
    hint: str | None = None
    """What to do about that."""


def _offers(path: Sequence[str] | None) -> Iterator[_Offer]:
    """
    Yield each distribution that offers plugins once.

    Of several with one name the first counts, as it does for imports, also where it offers nothing; a damaged one
    counts only where none is whole.
    """
    whole: dict[str, _Offer] = {}
    own: list[_Offer] = []
    damaged: dict[str, _Offer] = {}
    silent: dict[str, Any] = {}
    for distribution in installed_distributions(path):
        try:
            # The bytes are looked at first: parsing the metadata of every distribution costs ten times as much.
            data = read_bytes(distribution, "entry_points.txt")
            if not data or b"gymcore." not in data:
                silent.setdefault(normalised(folder_name(distribution)), distribution)
                continue
            offer = _read_offer(distribution, data)
            if offer.damage is None:
                offer = _behind(silent.get(normalised(offer.name)), offer)
        except (Exception, SystemExit):  # a damaged distribution of somebody else must not hide the others
            continue
        if offer.damage is not None:
            damaged.setdefault(place_of(distribution), offer)
        elif normalised(offer.name) == "gymcore":
            own.append(offer)
        else:
            whole.setdefault(normalised(offer.name), offer)
    ours = _choose_own(own)
    yield from () if ours is None else (ours,)
    yield from whole.values()
    impostors = [_impostor(offer) for offer in own if offer is not ours and not _is_gymcore(offer)]
    damaged.update({place_of(offer.distribution): offer for offer in impostors})
    yield from (offer for offer in damaged.values() if normalised(offer.name) not in whole)


def _read_offer(distribution: Any, data: bytes) -> _Offer:
    name, version = folder_name(distribution), "unknown"
    try:
        name, version = name_and_version(distribution)
        return _Offer(distribution, name, version, decoded(data, "entry_points.txt"))
    except MetadataError as error:
        damage = str(error)
    hint = f"try: pip install --force-reinstall {name}, or remove what is left of it: {place_of(distribution)}"
    return _Offer(distribution, name, version, data.decode("utf-8-sig", "replace"), damage, hint)


def _behind(first: Any, offer: _Offer) -> _Offer:
    """Return an offer; one that cannot be used where a distribution of its name comes first, and offers nothing."""
    if first is None or normalised(offer.name) == "gymcore":
        return offer
    try:
        name, version = name_and_version(first)
    except Exception:  # what an upgrade has left behind
        return offer
    if normalised(name) != normalised(offer.name):
        return offer
    damage = f"{name} {version}, which comes first on Python's path, offers no plugins: {place_of(first)}"
    hint = f"try: pip install --force-reinstall {name}, or remove whichever of the two is older"
    return replace(offer, damage=damage, hint=hint)


def _choose_own(offers: Sequence[_Offer]) -> _Offer | None:
    """
    Choose what gymcore itself offers, among all that call themselves so: the installation that is running.

    Where none is, as in a working copy on the path, it is the first that offers nothing but what lies in gymcore.
    """
    running = Path(gymcore.__file__).resolve().parent
    fitting = [offer for offer in offers if _is_gymcore(offer)]
    for offer in fitting:
        if Path(str(offer.distribution.locate_file("gymcore"))).resolve() == running:
            return offer
    return fitting[0] if fitting else None


def _is_gymcore(offer: _Offer) -> bool:
    """Say whether all that a distribution offers lies in gymcore, so that whoever chooses it gets what is running."""
    try:
        return all(
            re.split(r"[.:]", entry.value.strip())[0] == "gymcore"
            for entry in entry_points_in(offer.entry_points)
            if entry.group in GROUPS
        )
    except Exception:  # entry points that nobody can read
        return False


def _impostor(offer: _Offer) -> _Offer:
    place = place_of(offer.distribution)
    damage = f"it calls itself {offer.name}, and offers what is not in gymcore"
    name = folder_name(offer.distribution)
    return replace(offer, name=name, damage=damage, hint=f"do not trust it, and remove it: {place}")


def _plugins_of(offer: _Offer, objection: str | None) -> Iterator[Plugin]:
    distribution, name, version = offer.distribution, offer.name, offer.version
    try:
        entry_points = [
            (GROUPS[entry.group], entry) for entry in entry_points_in(offer.entry_points) if entry.group in GROUPS
        ]
    except Exception as error:
        problem = offer.damage or f"its entry points cannot be read: {error}"
        yield Plugin("environment", name, name, version, "", "broken", problem, offer.hint)
        return
    offers = [(kind, normalised(entry.name)) for kind, entry in entry_points]
    manifests: dict[str, Manifest | Exception] = {}
    for kind, entry in entry_points:
        plugin = Plugin(kind, entry.name, name, version, entry.value.replace(" ", ""))
        if objection is not None:
            # Blocking one of two is a way to choose the other.
            hint = "change that variable, if you trust it"
            yield replace(plugin, status="blocked", problem=objection, hint=hint, claims_name=False)
        elif offer.damage is not None:
            yield replace(plugin, status="broken", problem=offer.damage, hint=offer.hint, claims_name=False)
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
    except (Exception, SystemExit) as error:  # import finders of other people are asked on the way
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
    found = package or find_module(module.partition(".")[0])  # a module that is one file may hide the package
    hidden = None if found is None else hidden_by(distribution, plugin.distribution, found)
    if found is not None and hidden is not None:
        place, installed = hidden
        problem = f"{found.name!r} is installed in {installed}, but what is found is {place}"
        raise _Broken(problem, way_out(place, found.name))
    if package is None and find_module(module) is not None:
        problem = f"{module!r} is not a package, so there is no {MANIFEST_NAME} beside its class"
        raise _Broken(problem, "its author must make it one")
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
        if plugin.claims_name:
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
