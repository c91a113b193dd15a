"""
What of a plugin is installed, precise enough to tell whether its code is still the same: for the lock.

Nothing here says where on this machine something lies, and nothing depends on the tool that installed it, so two
machines with the same code say the same. What a plugin imports from other distributions is not looked at.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gymcore.discovery import Catalog, Plugin
from gymcore.discovery.manifest import MANIFEST_NAME
from gymcore.discovery.package_files import find_module, package_folder, package_of
from gymcore.documents import DocumentError, decode_json

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

__all__ = ["code_changes", "describe_distributions"]

LISTED_FILES = 100
"""A package of more files than this has only a digest of all of them in the lock."""


def describe_distributions(catalog: Catalog, plugins: Iterable[Plugin]) -> dict[str, Any]:
    """
    Describe the distributions of some plugins, each once and sorted by name.

    Args:
        catalog: What is installed; it knows which files of a distribution are manifests and data.
        plugins: Those that are used; no other plugin's files are read.

    Returns:
        For each distribution:

        - `installed`: `wheel`, `editable`, or null where nothing says how;
        - `origin`: where it came from (https://peps.python.org/pep-0610/), without credentials and without paths of
          this machine; null where it came from an index;
        - `record`: of a wheel, the digest of what its RECORD says of code: not of manifests and data, nor of what
          differs between installers and Pythons;
        - `manifests`: the digest of each manifest;
        - `packages`: for each package with a plugin, the digest of its files as they lie there (manifests and data
          apart, which have their own) and, where there are not too many, of each; of an author's working copy, the
          packages and modules beside it as well, of which nothing else tells.
    """
    used: dict[str, list[Plugin]] = {}
    for plugin in plugins:
        used.setdefault(plugin.distribution, []).append(plugin)
    return {name: _describe(name, used[name], catalog) for name in sorted(used)}


def _describe(name: str, plugins: list[Plugin], catalog: Catalog) -> dict[str, Any]:
    counted_elsewhere = set(_manifests_and_data(plugin for plugin in catalog.plugins if plugin.distribution == name))
    installed, origin, record = _installation(name, counted_elsewhere)
    manifests: dict[str, str] = {}
    packages: dict[str, Any] = {}
    for plugin in plugins:
        module = plugin.target.partition(":")[0]
        package = package_of(module)
        folder = package_folder(package) if package is not None else None
        if package is None or folder is None:
            continue
        manifests[f"{_path_of(package.name)}/{MANIFEST_NAME}"] = _sha256(folder.joinpath(MANIFEST_NAME))
        # Of gymcore's own plugins only what is beside them: the rest of gymcore has its version.
        outermost = package.name if name == "gymcore" else _outermost_package(package.name)
        if outermost not in packages:
            packages[outermost] = _describe_package(outermost, counted_elsewhere)
            if installed == "editable" and "." not in outermost:
                packages |= _described_beside(outermost, counted_elsewhere, packages)
    return {
        "installed": installed,
        "origin": origin,
        "record": record,
        "manifests": dict(sorted(manifests.items())),
        "packages": dict(sorted(packages.items())),
    }


def _path_of(module: str) -> str:
    return module.replace(".", "/")


def _manifests_and_data(plugins: Iterable[Plugin]) -> Iterator[str]:
    """Yield the paths of files that have digests of their own, as they stand in a RECORD."""
    for plugin in plugins:
        package = package_of(plugin.target.partition(":")[0])
        if package is not None:
            yield f"{_path_of(package.name)}/{MANIFEST_NAME}"
            for files in plugin.manifest.splits.values():
                yield from (f"{_path_of(package.name)}/{path}" for path in files if isinstance(path, str))


def _outermost_package(name: str) -> str:
    """Return the first package on the way to another that is no namespace: all below it belongs to one author."""
    parts = name.split(".")
    for depth in range(1, len(parts)):
        outer = ".".join(parts[:depth])
        spec = find_module(outer)
        if spec is not None and spec.origin is not None:
            return outer
    return name


def _describe_package(name: str, without: set[str]) -> dict[str, Any]:
    package = find_module(name)
    folder = package_folder(package) if package is not None else None
    return _summed_up({} if folder is None else _digests(folder, _path_of(name), without))


def _summed_up(files: dict[str, str]) -> dict[str, Any]:
    described: dict[str, Any] = {"sha256": _sha256_of(files)}
    if len(files) <= LISTED_FILES:
        described["files"] = files
    return described


def _described_beside(name: str, without: set[str], known: Container[str]) -> dict[str, Any]:
    """Describe the packages and modules that lie beside a package in its author's working copy."""
    package = find_module(name)
    folder = package_folder(package) if package is not None else None
    found: dict[str, Any] = {}
    for entry in folder.parent.iterdir() if isinstance(folder, Path) else ():
        if entry.name.startswith(".") or entry.stem in known or entry.stem in _NO_CODE or not entry.stem.isidentifier():
            continue
        if entry.is_dir() and entry.joinpath("__init__.py").is_file():
            found[entry.name] = _summed_up(_digests(entry, entry.name, without))
        elif entry.suffix == ".py" and entry.is_file():
            found[entry.stem] = _summed_up({entry.name: _sha256(entry)})
    return found


_NO_CODE = {"conftest", "docs", "examples", "noxfile", "setup", "tasks", "test", "tests"}
"""What lies beside the package in a project of one folder, and no plugin imports."""


def _digests(folder: Traversable, name: str, without: set[str]) -> dict[str, str]:
    return {path: _sha256(file) for path, file in sorted(_files(folder, name)) if path not in without}


def _sha256_of(files: Mapping[str, str]) -> str:
    text = "".join(f"{path}\0{digest}\n" for path, digest in files.items())
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _files(folder: Traversable, path: str) -> Iterator[tuple[str, Traversable]]:
    """
    Yield the files of a folder and of those below it, without what Python, editors and tools leave there.

    A link to a folder elsewhere is not followed, and no folder is entered twice: nobody knows how much lies there.
    """
    outermost = os.path.realpath(str(folder))
    entered = set()
    waiting = [(folder, path)]
    while waiting:
        folder, path = waiting.pop()
        place = os.path.realpath(str(folder))
        if place in entered or not (place == outermost or place.startswith(outermost + os.sep)):
            continue
        entered.add(place)
        for entry in folder.iterdir():
            if entry.name.startswith(".") or entry.name == "__pycache__" or entry.name.endswith((".pyc", ".pyo", "~")):
                continue
            name = f"{path}/{os.fsencode(entry.name).decode('utf-8', 'backslashreplace')}"
            if entry.is_dir():
                waiting.append((entry, name))
            elif entry.is_file():
                yield name, entry


def _sha256(file: Traversable) -> str:
    digest = hashlib.sha256()
    try:
        with file.open("rb") as opened:
            while piece := opened.read(1 << 20):
                digest.update(piece)
    except OSError:
        return "unreadable"  # whoever needs the file will say so
    return digest.hexdigest()


def _installation(name: str, without: set[str]) -> tuple[str | None, dict[str, str] | None, str | None]:
    """Return how a distribution is installed, where it came from, and the digest of its RECORD."""
    import importlib_metadata

    try:
        distribution = importlib_metadata.distribution(name)
        direct = _direct_url(distribution.read_text("direct_url.json"))
        record = distribution.read_text("RECORD")
    except Exception:  # a damaged distribution, or one that somebody's own finder found
        return None, None, None
    if isinstance(direct.get("dir_info"), dict) and direct["dir_info"].get("editable") is True:
        return "editable", _origin(direct), None  # its RECORD tells of a file that names a path
    return ("wheel", _origin(direct), _record_digest(record, without)) if record else (None, _origin(direct), None)


def _direct_url(text: str | None) -> dict[str, Any]:
    try:
        value = decode_json((text or "{}").encode())
    except DocumentError:
        return {}
    return value if isinstance(value, dict) else {}


def _origin(direct: Mapping[str, Any]) -> dict[str, str] | None:
    """Return what PEP 610 says of an origin, as far as it means something on another machine."""
    origin: dict[str, str] = {}
    url = _public_url(direct.get("url"))
    vcs, archive = direct.get("vcs_info"), direct.get("archive_info")
    if isinstance(vcs, dict):
        origin = {"vcs": str(vcs.get("vcs")), "commit": str(vcs.get("commit_id"))}
    elif isinstance(archive, dict):
        hashes = archive.get("hashes")
        if isinstance(hashes, dict) and isinstance(hashes.get("sha256"), str):
            origin["sha256"] = hashes["sha256"]
    if url is not None:
        origin["url"] = url
    return origin or None


# https://www.rfc-editor.org/rfc/rfc3986#appendix-B: scheme, user and password, host and port, path.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(?:[^/?#]*@)?([^/?#@]+)([^?#@]*)(?:[?#][^@]*)?\Z")


def _public_url(url: Any) -> str | None:
    """
    Return a URL without user, password, query and fragment, any of which may hold a secret.

    Returns None for a file's, and for one in which it is not plain where the password ends.
    """
    match = _URL.match(url) if isinstance(url, str) else None
    if match is None or match[1].rpartition("+")[2].lower() == "file":
        return None
    return f"{match[1]}://{match[2]}{match[3]}"


def _record_digest(record: str, without: set[str]) -> str:
    """
    Sum up what came in a wheel: the files of its packages with the digests that its RECORD gives.

    Left out is what differs although the wheel is the same: what the installer added, scripts (which name an
    interpreter), and bytecode (https://packaging.python.org/en/latest/specifications/recording-installed-packages/).
    """
    import csv

    entries = []
    for line in csv.reader(record.splitlines()):
        path, digest = (line[0], line[1]) if len(line) > 1 else ("", "")
        top = path.split("/")[0]
        is_added = top in ("", "..") or top.endswith((".dist-info", ".data")) or path.endswith(".pyc")
        if digest and not is_added and path not in without:
            entries.append(f"{path}\0{digest}\n")
    return hashlib.sha256("".join(sorted(entries)).encode("utf-8", "surrogateescape")).hexdigest()


def code_changes(there: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, list[str]]:
    """
    Say of which distributions the code has changed.

    What only one of two locks tells of is not compared: that another plugin is used is said elsewhere, and whether it
    lies there as a wheel or as its author's working copy means nothing where its files are the same.

    Args:
        there: What `describe_distributions` returned then.
        here: What it returns now.

    Returns:
        For each distribution that has changed, one line a file; where it is known only that, one line.
    """
    found: dict[str, list[str]] = {}
    for name in sorted(there.keys() & here.keys()):
        old, new = there[name], here[name]
        lines: list[str] = []
        for package in sorted(old["packages"].keys() & new["packages"].keys()):
            lines.extend(_package_changes(package, old["packages"][package], new["packages"][package]))
        records = (old.get("record"), new.get("record"))
        if not lines and None not in records and records[0] != records[1]:
            lines.append(f"its RECORD names other code{_shown(*records)}")
        if lines:
            found[name] = [f"{name}: {line}" for line in lines]
    return found


def _package_changes(package: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    if old["sha256"] == new["sha256"]:
        return
    if "files" not in old or "files" not in new:
        yield f"the code of {package} has changed{_shown(old['sha256'], new['sha256'])}"
        return
    for path in sorted(old["files"].keys() | new["files"].keys()):
        digests = (old["files"].get(path), new["files"].get(path))
        if digests[0] is None:
            yield f"{path} is new"
        elif digests[1] is None:
            yield f"{path} is gone"
        elif digests[0] != digests[1]:
            yield f"{path} has changed{_shown(*digests)}"


def _shown(old: str | None, new: str | None) -> str:
    return f" (sha256 {str(old)[:12]} -> {str(new)[:12]})"
