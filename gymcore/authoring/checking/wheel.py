"""
Phase 2: the wheel that is built from a project, held against the project.
"""

from __future__ import annotations

import base64
import configparser
import csv
import fnmatch
import hashlib
import importlib.util
import os
import re
import shutil
import sys
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath

from gymcore.authoring.checking import backend_program
from gymcore.authoring.checking.children import Ended, run_child
from gymcore.authoring.checking.findings import Fault, Outcome, claim, declare, examine, outcome_of
from gymcore.authoring.checking.project import Offer, Project
from gymcore.authoring.checking.source import BIG_BYTES, is_file, read_manifest_of
from gymcore.discovery.catalog import GROUPS
from gymcore.discovery.manifest import MANIFEST_NAME
from gymcore.discovery.package_files import find_module
from gymcore.discovery.requirements import Installed
from gymcore.interpreters.clean_environ import environ_of_installers

__all__ = ["Wheel", "build_wheel", "check_wheel", "is_out_of_reach"]

BUILD_S = 600.0
_LEFT_BEHIND = ("build", "dist", ".eggs", "*.egg-info", "src/*.egg-info")
"""What build backends leave in a project."""
_OUT_OF_REACH = re.compile(
    r"NewConnectionError|NameResolutionError|Failed to establish a new connection|Temporary failure in name resolution"
    r"|Name or service not known|Network is unreachable|ConnectionError|ConnectTimeout|Read timed out|ProxyError"
    r"|Max retries exceeded|error sending request|dns error|failed to lookup address|Failed to fetch"
    r"|network was disabled|Could not connect",
    re.IGNORECASE,
)
_NO_INDEX = ("PIP_NO_INDEX", "UV_NO_INDEX", "UV_OFFLINE")


@dataclass(frozen=True)
class Wheel:
    """A built wheel."""

    path: Path
    how: str
    """What has built it."""

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The files in it."""
        with zipfile.ZipFile(self.path) as archive:
            return tuple(name for name in archive.namelist() if not name.endswith("/"))

    def read(self, name: str) -> bytes:
        """Return what a file in it holds."""
        with zipfile.ZipFile(self.path) as archive:
            return archive.read(name)

    @cached_property
    def installed_names(self) -> dict[str, str]:
        """Where each file lies that is installed beside packages, and its name here."""
        found = {}
        for name in self.names:
            parts = name.split("/")
            if parts[0].endswith(".data"):
                if len(parts) < 3 or parts[1] not in ("purelib", "platlib"):
                    continue
                parts = parts[2:]
            found["/".join(parts)] = name
        return found

    @property
    def info(self) -> str:
        """The folder of its metadata."""
        return next((name.split("/")[0] for name in self.names if name.split("/")[0].endswith(".dist-info")), "")

    @cached_property
    def offers(self) -> tuple[Offer, ...]:
        """The plugins that it offers."""
        name = f"{self.info}/entry_points.txt"
        parser = configparser.ConfigParser(delimiters=("=",), interpolation=None)
        parser.optionxform = str  # type: ignore[assignment, method-assign]  # names keep their letters
        if name in self.names:
            parser.read_string(self.read(name).decode("utf-8", "replace"))
        return tuple(
            Offer(kind, offered, re.sub(r"\s", "", target), "entry_points.txt of the wheel")
            for group, kind in GROUPS.items()
            if parser.has_section(group)
            for offered, target in parser.items(group)
        )

    def unpack(self, folder: Path) -> None:
        """Put into a folder what an installer would put beside other packages."""
        with zipfile.ZipFile(self.path) as archive:
            for target, name in self.installed_names.items():
                parts = PurePosixPath(target)
                if parts.is_absolute() or ".." in parts.parts:
                    continue
                place = folder / parts
                place.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(name) as source, place.open("wb") as file:
                    shutil.copyfileobj(source, file)


# -- building ---------------------------------------------------------------------------------------------------------


def is_out_of_reach(ended: Ended) -> bool:
    """Whether an installer has failed because it could not reach an index, and not because of what it was asked."""
    return any(os.environ.get(name) for name in _NO_INDEX) or bool(
        _OUT_OF_REACH.search("\n".join((*ended.lines, *ended.errors)))
    )


def build_wheel(project: Project, folder: Path, *, offline: bool) -> tuple[Wheel | None, Outcome]:
    """
    Build the wheel of a project.

    As its author would: with what the build requires fetched into an environment of its own. Where no index can be
    reached, or `offline` says so, with what is installed here.

    Args:
        project: What to build; what the backend leaves in it is removed.
        folder: An empty folder for the wheel.
        offline: Whether nothing may be fetched.
    """
    before = set(_left_behind(project.root))
    try:
        ended, how = _build(project, folder, offline)
    finally:
        for path in set(_left_behind(project.root)) - before:
            shutil.rmtree(path, ignore_errors=True)
    found = sorted(folder.glob("*.whl"))
    if ended.code == 0 and found:
        return Wheel(found[0], how), outcome_of(WHEEL_IS_BUILT, [], told=f"{found[0].name}, by {how}")
    said = "\n".join(f"  {line}" for line in ended.last(12))
    fault = Fault(f"the build {ended.told()} ({how})\n{said}".rstrip(), project.line("build-system"))
    return None, outcome_of(WHEEL_IS_BUILT, [fault])


WHEEL_IS_BUILT = declare(
    "wheel_is_built",
    "wheel",
    "A wheel can be built from the project.",
    "It is what others install; an editable installation works without it.",
    "Mend what the build backend says; `python -m build` shows all of it.",
)


def _left_behind(root: Path) -> Iterator[Path]:
    for pattern in _LEFT_BEHIND:
        yield from root.glob(pattern)


def _build(project: Project, folder: Path, offline: bool) -> tuple[Ended, str]:
    environ = environ_of_installers(os.environ)
    here = _missing_here(project)
    command, how = _builder(project, folder)
    ended = None
    if command is not None and not (offline and not here):
        environ_offline = {"PIP_NO_INDEX": "1", "UV_OFFLINE": "1"} if offline else {}
        ended = run_child(command, folder, {**_impatient(environ), **environ_offline}, BUILD_S)
        if ended.code == 0 or not (offline or is_out_of_reach(ended)):
            return ended, how
    if here:
        told = f"{', '.join(here)} would have to be fetched"
        if ended is None:
            return Ended(1, BUILD_S, (), ("there is neither uv, nor pip, nor build here", told)), "nothing"
        return replace(ended, errors=(*ended.errors, told)), how
    _, inside, _ = backend_program.backend_of(project.data)
    shutil.rmtree(folder)
    folder.mkdir()
    path = [sys.executable, "-P", backend_program.__file__, str(project.root), str(folder)]
    keep = {**environ, **({"PYTHONPATH": os.environ["PYTHONPATH"]} if "PYTHONPATH" in os.environ else {})}
    where = "of the project" if inside else "that is installed here"
    return run_child(path, folder, keep, BUILD_S), f"the backend {where}"


def _impatient(environ: dict[str, str]) -> dict[str, str]:
    """Let nobody wait for minutes until an index that is not there is given up."""
    return {"PIP_RETRIES": "1", "PIP_TIMEOUT": "15", "UV_HTTP_TIMEOUT": "15", **environ, "PIP_NO_INPUT": "1"}


def _builder(project: Project, folder: Path) -> tuple[Sequence[str] | None, str]:
    uv = shutil.which("uv")
    if uv is not None:
        return [uv, "build", "--wheel", "--python", sys.executable, "--out-dir", str(folder), str(project.root)], "uv"
    python = [sys.executable, "-P", "-m"]
    if importlib.util.find_spec("build") is not None and importlib.util.find_spec("build.__main__") is not None:
        return [*python, "build", "--wheel", "--outdir", str(folder), str(project.root)], "build"
    if importlib.util.find_spec("pip") is not None:
        options = ["--no-deps", "--no-input", "--disable-pip-version-check", "--wheel-dir", str(folder)]
        return [*python, "pip", "wheel", *options, str(project.root)], "pip"
    return None, "nothing"


def _missing_here(project: Project) -> list[str]:
    """Return what the build requires and is not installed here."""
    from packaging.requirements import InvalidRequirement, Requirement

    target, inside, requires = backend_program.backend_of(project.data)
    installed = Installed()
    missing = []
    for text in requires:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            return [text]
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        found = installed.find(requirement.name)
        if found is None or not (found.version and requirement.specifier.contains(found.version, prereleases=True)):
            missing.append(text)
    if not missing and not inside and find_module(target.partition(":")[0]) is None:
        missing.append(target)
    return missing


# -- looking into it --------------------------------------------------------------------------------------------------


def check_wheel(project: Project, wheel: Wheel) -> Iterator[Outcome]:
    """Make the checks of this phase one by one."""
    told = ", ".join(f"{offer.kind} {offer.name}" for offer in wheel.offers)
    yield examine(wheel_offers_the_same, project, wheel, told=told)
    for check in (
        wheel_holds_the_code,
        wheel_holds_the_manifests,
        wheel_holds_the_data,
        wheel_is_typed,
        wheel_is_in_order,
        wheel_holds_nothing_stray,
        wheel_holds_no_secrets,
    ):
        yield examine(check, project, wheel)
    size = wheel.path.stat().st_size
    yield examine(wheel_is_small, project, wheel, told=f"{size / 1000:,.0f} kB, {len(wheel.names)} files")


_INCLUDE = (
    "Tell the build backend to include it. setuptools: [tool.setuptools.package-data] with "
    '"*" = ["gym.yaml", "py.typed", "data/*"]; hatchling, uv_build and flit take all that git does not ignore.'
)


def _folder_in_wheel(offer: Offer, wheel: Wheel) -> str | None:
    """Return the folder of a plugin's package in the wheel; None where its code is not there."""
    place = offer.module.replace(".", "/")
    for name, folder in ((f"{place}/__init__.py", place), (f"{place}.py", place.rpartition("/")[0])):
        if name in wheel.installed_names:
            return folder
    # Compiled, or a namespace.
    return place if any(name.startswith(f"{place}/") for name in wheel.installed_names) else None


@claim("wheel", fix="Correct the entry points in pyproject.toml, or what makes them in the build.")
def wheel_offers_the_same(project: Project, wheel: Wheel) -> Iterator[Fault]:
    """
    The wheel has the entry points of the source.

    A build that drops or makes up an entry point is noticed by nobody but those who install it.
    """
    here = {(offer.kind, offer.name): offer.target for offer in project.offers}
    there = {(offer.kind, offer.name): offer.target for offer in wheel.offers}
    if not here and there:
        return  # made by the build
    if not there:
        yield Fault("the wheel offers no plugin", project.line("project"))
        return
    for kind, name in sorted(here.keys() | there.keys()):
        if here.get((kind, name)) != there.get((kind, name)):
            inside, outside = there.get((kind, name), "nothing"), here.get((kind, name), "nothing")
            told = f"the {kind} {name} leads to {inside} in the wheel, and to {outside} in the source"
            yield Fault(told, project.line(name), plugin=name)


@claim(
    "wheel",
    fix='Tell the build backend which package it is: hatchling: packages = ["src/NAME"]; setuptools finds src/.',
)
def wheel_holds_the_code(project: Project, wheel: Wheel) -> Iterator[Fault]:
    """
    The modules that the entry points name are in the wheel.

    A backend that does not find the package builds an empty wheel, and says that all is well.
    """
    for offer in wheel.offers or project.offers:
        if _folder_in_wheel(offer, wheel) is None and project.module_file(offer.module) is not None:
            told = f"the module {offer.module} is not in the wheel"
            yield Fault(told, project.shown(project.module_file(offer.module) or project.root), plugin=offer.name)


@claim("wheel", fix=_INCLUDE)
def wheel_holds_the_manifests(project: Project, wheel: Wheel) -> Iterator[Fault]:
    """
    The `gym.yaml` of each plugin is in the wheel, as it is in the source.

    A plugin without it is listed as broken, while the editable installation of its author works.
    """
    for offer in project.offers:
        file, folder = project.manifest(offer), _folder_in_wheel(offer, wheel)
        if file is None or folder is None or not file.is_file():
            continue  # other checks say so
        name = wheel.installed_names.get(f"{folder}/{MANIFEST_NAME}")
        if name is None:
            yield Fault(f"{folder}/{MANIFEST_NAME} is not in the wheel", project.shown(file), plugin=offer.name)
        elif wheel.read(name) != file.read_bytes():
            told = f"{folder}/{MANIFEST_NAME} differs in the wheel"
            hint = "Remove the folder build/, from which an earlier build is taken."
            yield Fault(told, project.shown(file), hint, offer.name)


@claim("wheel", fix=_INCLUDE)
def wheel_holds_the_data(project: Project, wheel: Wheel) -> Iterator[Fault]:
    """
    Every data file that a manifest names is in the wheel.

    Without it each run ends that names the split, on every machine but the author's.
    """
    for offer in project.offers:
        read, folder = read_manifest_of(project, offer), _folder_in_wheel(offer, wheel)
        for files in read[1].splits.values() if read and folder else ():
            for path in files:
                file = read[0].parent.joinpath(*path.split("/")) if read and isinstance(path, str) else None
                if file is not None and is_file(file) and f"{folder}/{path}" not in wheel.installed_names:
                    yield Fault(f"{folder}/{path} is not in the wheel", project.shown(file), plugin=offer.name)


@claim("wheel", fix=_INCLUDE, warns=True)
def wheel_is_typed(project: Project, wheel: Wheel) -> Iterator[Fault]:
    """
    A `py.typed` that lies in the source is in the wheel, too.

    Without it type checkers take everything in the package for `Any`.
    """
    for top in project.top_folders():
        if (top / "py.typed").is_file() and f"{top.name}/py.typed" not in wheel.installed_names:
            yield Fault(f"{top.name}/py.typed is not in the wheel", project.shown(top / "py.typed"))


@claim("wheel", fix="Build it anew with a current backend, and change nothing in it by hand.")
def wheel_is_in_order(project: Project, wheel: Wheel) -> Iterator[Fault]:
    """
    Its RECORD lists every file with its digest, and nothing else.

    Installers refuse, or leave behind what they do not know of, and gymcore tells by it which code has run.
    """
    listing = f"{wheel.info}/RECORD"
    if listing not in wheel.names:
        yield Fault("the wheel has no RECORD", wheel.path.name)
        return
    listed = {row[0]: row[1] for row in csv.reader(wheel.read(listing).decode().splitlines()) if len(row) > 1}
    for name in wheel.names:
        if name == listing or name.startswith(f"{wheel.info}/RECORD."):
            continue
        if name not in listed:
            yield Fault(f"{name} is not in its RECORD", wheel.path.name)
            continue
        algorithm, _, told = listed[name].partition("=")
        if algorithm in hashlib.algorithms_available:
            digest = hashlib.new(algorithm, wheel.read(name)).digest()
            if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != told:
                yield Fault(f"{name} is not what its RECORD says", wheel.path.name)
    for name in sorted(set(listed) - set(wheel.names)):
        yield Fault(f"its RECORD lists {name}, which is not there", wheel.path.name)


_RUBBISH = (
    *("__pycache__", "*.pyc", ".DS_Store", ".git", ".gitignore", ".pytest_cache", ".mypy_cache", ".ruff_cache"),
    *(".venv", "venv", "node_modules", "*.egg-info", "*.orig", "*.rej", "*~", "*.swp", ".ipynb_checkpoints"),
)


@claim(
    "wheel",
    fix='hatchling: packages = ["src/NAME"]; setuptools: [tool.setuptools.packages.find] where = ["src"].',
)
def wheel_holds_nothing_stray(project: Project, wheel: Wheel) -> Iterator[Fault]:
    """
    Beside the plugins' own packages, and what these import, nothing is installed.

    A top-level `tests` or `data` of one distribution overwrites that of another, and is imported in place of yours.
    """
    own = {offer.package for offer in (*wheel.offers, *project.offers)}
    tops: dict[str, list[str]] = {}
    for name in wheel.installed_names:
        top = name.split("/")[0]
        if not top.endswith((".dist-info", ".pth")) and top.removesuffix(".py") not in own:
            tops.setdefault(top, []).append(name)
    used = _imported_tops(project) if tops else set()
    for top, names in sorted(tops.items()):
        if re.split(r"\.", top)[0] not in used:
            what = f"a folder with {len(names)} files" if "/" in names[0] else "a file"
            yield Fault(f"{top} would be installed beside all other packages: {what}", _in_source(project, top))
    for name in sorted(name for name in wheel.names if name.endswith(".pth")):
        yield Fault(f"{name} would run at the start of every Python", _in_source(project, name))
    rubbish = [name for name in wheel.names if any(fnmatch.fnmatch(p, g) for p in name.split("/") for g in _RUBBISH)]
    if rubbish:
        more = f" and {len(rubbish) - 1} more" if len(rubbish) > 1 else ""
        yield Fault(f"{rubbish[0]}{more} is left of other work", _in_source(project, rubbish[0]))


def _imported_tops(project: Project) -> set[str]:
    from gymcore.authoring.checking.imported_names import imported_modules

    return {name for _, tree in project.code() for name, _ in imported_modules(tree)}


def _in_source(project: Project, name: str) -> str | None:
    return next((project.shown(base / name) for base in project.bases if (base / name).exists()), None)


_SECRET = (
    *(".env", ".env.*", "*.pem", "*.key", "*.p12", "*.pfx", "id_rsa*", "id_ed25519*", "id_ecdsa*", ".netrc", ".pypirc"),
    *(".npmrc", "credentials.json", "service_account*.json", ".htpasswd", "*.kdbx", "secrets.yaml", "secrets.json"),
)


@claim(
    "wheel", fix="Move it out of the package, name it in .gitignore, and change the secret if it was ever published."
)
def wheel_holds_no_secrets(project: Project, wheel: Wheel) -> Iterator[Fault]:
    """
    No file in the wheel is one of those in which people keep keys and passwords.

    What is published once is read by many within minutes, and cannot be taken back.
    """
    for name in wheel.names:
        if any(fnmatch.fnmatch(PurePosixPath(name).name, pattern) for pattern in _SECRET):
            yield Fault(f"{name} may hold a secret", _in_source(project, name))


@claim("wheel", fix="Publish large data elsewhere, and name them in the manifest by address and digest.", warns=True)
def wheel_is_small(project: Project, wheel: Wheel) -> Iterator[Fault]:
    """
    The wheel has at most 10 MB.

    Every installation, every image and every worker carries it, and indexes refuse what is too large.
    """
    size = wheel.path.stat().st_size
    if size > BIG_BYTES:
        with zipfile.ZipFile(wheel.path) as archive:
            biggest = max(archive.infolist(), key=lambda item: item.compress_size)
        told = f"the wheel has {size / 1e6:.1f} MB, and {biggest.filename} the most of it"
        yield Fault(told, _in_source(project, biggest.filename))
