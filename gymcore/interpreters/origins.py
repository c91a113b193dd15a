"""
What is installed into a virtual environment for a plugin: the same code as here, and a digest that says which.

An installed wheel is packed again from its files, so nothing has to be had a second time from where it once came. Of an
editable installation there are no such files, so its source is built.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gymcore.documents import DocumentError, decode_json
from gymcore.errors import PluginError
from gymcore.run_folder import LOCK_NAME, WRITER_NAME

__all__ = ["Origin", "installed_distribution", "installed_files", "origin_of", "pack"]

_LEFT_OUT = frozenset({"__pycache__", "node_modules"})
_LEFT_OUT_AT_THE_TOP = frozenset({"build", "dist"})
"""What builds leave beside the code; deeper inside, a package may well have such a name."""
_OF_NO_SOURCE = ("pyvenv.cfg", "CACHEDIR.TAG", LOCK_NAME, WRITER_NAME)
"""A folder with one of these is a virtual environment, a cache (https://bford.info/cachedir/) or a run folder."""
_OF_THE_INSTALLER = frozenset({"RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "RECORD.jws", "RECORD.p7s"})


@dataclass(frozen=True)
class Origin:
    """Where a distribution can be had."""

    name: str
    version: str
    digest: str
    """SHA-256 of what it consists of."""
    source: Path | None = None
    """The folder of its project, where it must be built; else it is packed from what is installed."""


def installed_distribution(name: str, path: Sequence[str] | None = None) -> Any:
    """Return an installed distribution, with its files; None where there is none, on `sys.path` or another path."""
    import importlib_metadata

    finder = importlib_metadata.Distribution
    try:
        return next(iter(finder.discover(name=name) if path is None else finder.discover(name=name, path=list(path))))
    except Exception:  # there is none, or a finder of somebody else's
        return None


def origin_of(distribution: Any, plugin: str) -> Origin:
    """
    Find out where a distribution can be had.

    Args:
        distribution: As `installed_distribution` returns it.
        plugin: The plugin's qualified name, for messages.

    Raises:
        PluginError: it is a working copy that is not there any more, or it says not of which files it consists.
    """
    name, version = str(distribution.metadata["Name"]), str(distribution.version)
    source = _editable_source(distribution)
    if source is not None:
        if not source.is_dir():
            raise PluginError(
                f"{name} was installed from {source}, which is not there any more",
                plugin=plugin,
                hints=[f"try: pip install {name} again, from where it is now"],
            )
        return Origin(name, version, _digest_of_files(_source_files(source)), source)
    record = distribution.read_text("RECORD")
    if not record:
        raise PluginError(
            f"{name} {version} cannot be installed elsewhere: nothing says of which files it consists (no RECORD)",
            plugin=plugin,
            hints=[f"try: install it with pip or uv: pip install --force-reinstall {name}"],
        )
    return Origin(name, version, _digest_of_files(installed_files(distribution)))


def _editable_source(distribution: Any) -> Path | None:
    """Return the folder of an editable installation (https://peps.python.org/pep-0610/)."""
    try:
        direct = decode_json((distribution.read_text("direct_url.json") or "{}").encode())
    except DocumentError:
        return None
    if not isinstance(direct, dict) or not isinstance(direct.get("dir_info"), dict):
        return None
    if direct["dir_info"].get("editable") is not True:
        return None
    path = os.fsencode(re.sub(r"file://[^/]*", "", str(direct.get("url"))))
    return Path(os.fsdecode(re.sub(rb"%([0-9A-Fa-f]{2})", lambda found: bytes([int(found[1], 16)]), path)))


def _digest_of_files(named: Iterable[tuple[str, Path]]) -> str:
    """Return the digest of files as they are now: what RECORD says of them may be out of date."""
    digest = hashlib.sha256()
    for name, path in sorted(named):
        digest.update(f"{name}\0".encode("utf-8", "surrogateescape"))
        try:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError:  # whoever packs or builds it says so
            digest.update(b"cannot be read")
    return digest.hexdigest()


def _source_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """
    Yield the files of a project with their names in it.

    What tools leave there is left out: hidden files, bytecode, builds, caches, virtual environments and run folders.
    """
    for place, folders, files in os.walk(folder):
        here = Path(place)
        folders[:] = [name for name in folders if _is_source(here / name, here == folder)]
        for name in files:
            path = here / name
            if not name.startswith(".") and path.is_file():
                yield path.relative_to(folder).as_posix(), path


def _is_source(folder: Path, is_at_the_top: bool) -> bool:
    if folder.name.startswith(".") or folder.name.endswith(".egg-info") or folder.name in _LEFT_OUT:
        return False
    if (folder / "__init__.py").exists():
        return True
    if is_at_the_top and folder.name in _LEFT_OUT_AT_THE_TOP:
        return False
    return not any((folder / name).exists() for name in _OF_NO_SOURCE)


def installed_files(distribution: Any) -> Iterator[tuple[str, Path]]:
    """Yield the files of an installed wheel with their names there, without what the installer has added."""
    root = Path(str(distribution.locate_file("")))
    for line in csv.reader((distribution.read_text("RECORD") or "").splitlines()):
        path = line[0] if line else ""
        parts = path.split("/")
        if not path or path.startswith("/") or ".." in parts or path.endswith(".pyc"):
            continue
        if parts[0].endswith(".dist-info") and (parts[-1] in _OF_THE_INSTALLER or path.endswith("/WHEEL")):
            continue
        yield path, root / path


def pack(distribution: Any, folder: Path) -> Path:
    """
    Pack an installed distribution into a wheel, and return its path.

    Scripts are left out, which installers make anew, and so is what lies elsewhere than its packages.

    Raises:
        OSError: one of its files is not there any more.
    """
    name = str(distribution.metadata["Name"]).replace("-", "_").replace(".", "_")
    wheel = folder / f"{name}-{distribution.version}-py3-none-any.whl"
    info = f"{name}-{distribution.version}.dist-info"
    entries: list[tuple[str, str, int]] = []

    def add(path: str, data: bytes, mode: int = 0o644) -> None:
        hashed = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        entries.append((path, f"sha256={hashed}", len(data)))
        entry = zipfile.ZipInfo(path, (1980, 1, 1, 0, 0, 0))
        entry.external_attr = (0o100000 | mode) << 16
        packed.writestr(entry, data)

    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_STORED) as packed:
        for path, file in installed_files(distribution):
            first, *others = path.split("/")
            told = "/".join([info, *others]) if first.endswith(".dist-info") else path
            add(told, file.read_bytes(), file.stat().st_mode & 0o777)
        # What was compiled was compiled for the interpreter that it goes to.
        add(f"{info}/WHEEL", b"Wheel-Version: 1.0\nGenerator: gymcore\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([*entries, (f"{info}/RECORD", "", "")])
        packed.writestr(f"{info}/RECORD", text.getvalue())
    return wheel
