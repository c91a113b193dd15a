"""
Phase 3: where plugins are tried: in a fresh virtual environment, or unpacked beside what is installed here.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import shutil
import sys
import venv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import gymcore
from gymcore.authoring.checking.children import Ended, run_child
from gymcore.authoring.checking.findings import Fault, Outcome, declare, outcome_of
from gymcore.authoring.checking.imported_names import imported_modules
from gymcore.authoring.checking.project import Project
from gymcore.authoring.checking.wheel import Wheel, is_out_of_reach
from gymcore.discovery.catalog import normalised
from gymcore.discovery.requirements import Installed
from gymcore.errors import PluginError
from gymcore.interpreters.clean_environ import allowed_environ, environ_of_installers, environ_of_interpreter
from gymcore.interpreters.core_view import core_view

__all__ = ["Place", "add_for_tests", "check_listing", "fresh_place", "here", "unpacked_place"]

INSTALL_S = 1800.0
LIST_S = 60.0

WHEEL_IS_INSTALLED = declare(
    "wheel_is_installed",
    "install",
    "The wheel can be installed into an empty environment, beside this gymcore.",
    "What is on the author's machine by chance is not on others.",
    "Correct the requirement that the installer names; each must be found on an index.",
)
TESTS_HAVE_WHAT_THEY_NEED = declare(
    "tests_have_what_they_need",
    "install",
    "What the author's tests import can be had, from the group or extra `dev`, `test`, `tests` or `testing`.",
    "The suite takes its switches from the test files, and without them checks what the author has switched off.",
    'Name what the tests import in [dependency-groups], as in: dev = ["pytest>=8"]',
    warns=True,
)
PLUGINS_ARE_LISTED = declare(
    "plugins_are_listed",
    "install",
    "`gym list` shows each plugin there, and none as broken.",
    "Whoever installs it looks there first.",
    "Correct the manifest or the entry point that the reason names.",
)
LISTING_IMPORTS_NOTHING = declare(
    "listing_imports_nothing",
    "install",
    "Listing the plugins imports none of them.",
    "People list plugins to find out what is broken, on machines without a key; code that nobody chose must not run.",
    "Remove what imports the package at the start of Python: a .pth file, or a sitecustomize.",
)


@dataclass(frozen=True)
class Place:
    """An interpreter with the plugins installed for it."""

    python: Path
    environ: Mapping[str, str]
    told: str
    """What it is, in words."""
    packages: Path | None = None
    """Where the plugins lie, where that is a folder of ours."""
    is_fresh: bool = False
    """Whether it has only what the plugins require."""
    shown: Mapping[str, str] = field(default_factory=dict)
    """What stands in messages for paths that are gone afterwards."""

    def words(self, text: str) -> str:
        """Return what somebody there has said, with the paths of the source in it."""
        for path, name in self.shown.items():
            text = text.replace(path, name)
        return text


def here() -> Place:
    """Return this interpreter, with what is installed."""
    return Place(Path(sys.executable), _environ_here(), "this environment")


def _environ_here(*before: Path) -> dict[str, str]:
    """Return the environment variables of a process that imports what this one does, and first from some folders."""
    root = Path(gymcore.__file__).parents[1]
    path = [*map(str, before), *([str(root)] if (root / "pyproject.toml").is_file() else [])]
    path += [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    clean = {name: value for name, value in allowed_environ(os.environ).items() if name != "PYTHONPATH"}
    return {**clean, **({"PYTHONPATH": os.pathsep.join(dict.fromkeys(path))} if path else {})}


def unpacked_place(project: Project, wheel: Wheel, folder: Path) -> Place:
    """Unpack a wheel, as an installer would, where this interpreter finds it first."""
    packages = folder / "unpacked"
    wheel.unpack(packages)
    told = "the wheel unpacked, with what is installed here"
    return Place(Path(sys.executable), _environ_here(packages), told, packages, shown=_shown(project, packages))


def fresh_place(project: Project, wheel: Wheel, folder: Path) -> tuple[Place | None, Outcome]:
    """
    Install a wheel into a virtual environment that has nothing else but gymcore and what that needs.

    Returns:
        The place, and what came of it; a `skipped` outcome and no place, where no index could be reached.
    """
    try:
        core = core_view(project.name)
    except PluginError as error:
        return None, Outcome("install", WHEEL_IS_INSTALLED.name, "skipped", error.message)
    builder = venv.EnvBuilder(symlinks=True, with_pip=False)
    builder.create(folder / "venv")
    core.make(folder / "core")
    python = folder / "venv" / "bin" / "python"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = folder / "venv" / "lib" / version / "site-packages"
    (packages / "gymcore-core.pth").write_text(f"{folder / 'core'}\n")
    command = _installer(python, folder, core.needs, (f"{wheel.path}",))
    if command is None:
        return None, Outcome("install", WHEEL_IS_INSTALLED.name, "skipped", "there is neither uv nor pip here")
    ended = _install(command, folder)
    if ended.code == 0:
        told = f"with gymcore {gymcore.__version__}, by {_installer_name(command)}"
        shown = _shown(project, packages.resolve(), packages, folder / "core")
        environ = environ_of_interpreter(python, os.environ)
        return (
            Place(python, environ, "a fresh virtual environment", packages, True, shown),
            outcome_of(WHEEL_IS_INSTALLED, [], told=told),
        )
    if is_out_of_reach(ended):
        return None, Outcome("install", WHEEL_IS_INSTALLED.name, "skipped", "no index can be reached from here")
    said = "\n".join(f"  {line}" for line in ended.last(12))
    fault = Fault(
        f"the installer {ended.told()} ({_installer_name(command)})\n{said}".rstrip(),
        project.line("dependencies", below="project"),
    )
    return None, outcome_of(WHEEL_IS_INSTALLED, [fault])


def _installer(python: Path, folder: Path, needs: Sequence[str], what: Sequence[str]) -> list[str] | None:
    """Return the command that installs something; gymcore is there already and is left as it is."""
    uv = shutil.which("uv")
    if uv is not None:
        # uv does not look at what the core view shows: it is told to leave gymcore out, and what gymcore takes.
        override, constraint = folder / "override.txt", folder / "constraint.txt"
        override.write_text('gymcore ; python_version < "0"\n')
        constraint.write_text("".join(f"{need}\n" for need in needs if "extra ==" not in need))
        options = ["--python", str(python), "--override", str(override), "--constraint", str(constraint)]
        return [uv, "pip", "install", *options, *what]
    if importlib.util.find_spec("pip") is None:
        return None
    pip = [sys.executable, "-P", "-m", "pip", "--python", str(python), "install", "--disable-pip-version-check"]
    core = Installed().find("gymcore")
    version = gymcore.__version__ if core is None or core.version is None else core.version
    return [*pip, "--no-input", f"gymcore=={version}", *what]


def _install(command: list[str], folder: Path) -> Ended:
    environ = environ_of_installers(os.environ)
    patience = {"PIP_RETRIES": "1", "PIP_TIMEOUT": "15", "UV_HTTP_TIMEOUT": "15"}
    return run_child(command, folder, {**patience, **environ}, INSTALL_S)


def _installer_name(command: Sequence[str]) -> str:
    return "uv" if Path(command[0]).name == "uv" else "pip"


def _shown(project: Project, *folders: Path) -> dict[str, str]:
    """Return how paths are written: those of our packages as in the source, others without the folder."""
    ours = {f"{folder / top.name}": project.shown(top) for folder in folders for top in project.top_folders()}
    return {**ours, **{f"{folder}/": "" for folder in folders}}


def add_for_tests(project: Project, place: Place, folder: Path, tests: Sequence[Path]) -> Outcome | None:
    """
    Install what the author's tests import besides the plugin, into a fresh environment.

    Args:
        project: The project, whose group or extra for tests is taken.
        place: Where to.
        folder: For what the installer is told.
        tests: The test files.

    Returns:
        What came of it; None where nothing was missing.
    """
    modules = modules_of(tests)
    own = {path.name.removesuffix(".py") for file in tests for path in file.parent.iterdir()}
    own |= {"gymcore", *sys.stdlib_module_names, *(top.name for top in project.top_folders())}
    there = {path.name.removesuffix(".py") for at in (place.packages, folder / "core") if at for path in at.iterdir()}
    missing = sorted(modules - own - there)
    if not missing:
        return None
    wanted = _test_requirements(project, modules)
    told = f"the tests import {', '.join(missing)}"
    command = _installer(place.python, folder, (), wanted) if wanted else None
    if command is not None:
        ended = _install(command, folder)
        if ended.code == 0:
            return outcome_of(TESTS_HAVE_WHAT_THEY_NEED, [], told=", ".join(wanted))
        told += f", and the installer {ended.told()}: {place.words(' '.join(ended.last()))}"
    fault = Fault(f"{told}; so their switches do not count", project.line("dependency-groups"))
    return outcome_of(TESTS_HAVE_WHAT_THEY_NEED, [fault])


def modules_of(files: Sequence[Path]) -> set[str]:
    """Return the top of each module that files import."""
    found = set()
    for file in files:
        try:
            found |= {name for name, _ in imported_modules(ast.parse(file.read_bytes()))}
        except (SyntaxError, ValueError, OSError):
            continue
    return found


def _test_requirements(project: Project, modules: set[str]) -> list[str]:
    from packaging.requirements import InvalidRequirement, Requirement

    found: list[str] = ["pytest"] if "pytest" in modules else []
    for name in ("dev", "test", "tests", "testing"):
        groups = project.data.get("dependency-groups")
        extras = project.table.get("optional-dependencies")
        for held in (groups, extras):
            items = held.get(name) if isinstance(held, dict) else None
            for item in items if isinstance(items, list) else ():
                try:
                    requirement = Requirement(item) if isinstance(item, str) else None
                except InvalidRequirement:
                    continue
                if requirement is None or normalised(requirement.name) in ("gymcore", normalised(project.name)):
                    continue
                found.append(str(requirement))
    return list(dict.fromkeys(found))


# -- the listing ------------------------------------------------------------------------------------------------------


def check_listing(wheel: Wheel, place: Place, known: set[str], empty: Path) -> Iterator[Outcome]:
    """
    List the plugins in a place, as a person would.

    Args:
        wheel: What was installed.
        place: Where to.
        known: Plugins that are known to be broken, which no second finding is about.
        empty: An empty folder.
    """
    command = [str(place.python), "-P", "-X", "importtime", "-m", "gymcore", "list", "--json"]
    ended = run_child(command, empty, place.environ, LIST_S, kept=1_000_000)
    listed = {}
    try:
        listed = {(item["kind"], normalised(item["name"])): item for item in json.loads("\n".join(ended.lines))}
    except ValueError:
        if not ended.lines or ended.code != 0:
            fault = Fault(f"`gym list` {ended.told()}: {place.words(' '.join(ended.last()))}")
            yield outcome_of(PLUGINS_ARE_LISTED, [fault])
            return
    faults, names = [], []
    own = normalised(wheel.info.partition("-")[0])
    for offer in wheel.offers:
        item = listed.get((offer.kind, normalised(offer.name)))
        names.append(f"{offer.name} {'missing' if item is None else item['status']}")
        if offer.name in known:
            continue
        if item is None:
            faults.append(Fault(f"the {offer.kind} {offer.name} is not listed", plugin=offer.name))
        elif item["status"] in ("broken", "incompatible", "blocked"):
            told = f"the {offer.kind} {offer.name} is {item['status']}: {place.words(item['problem'])}"
            faults.append(Fault(told, plugin=offer.name))
        elif normalised(item["distribution"]) != own:
            told = f"{item['distribution']}, which is installed here, offers the {offer.kind} {offer.name}, too"
            faults.append(Fault(told, fix="Uninstall it, or check without --offline.", plugin=offer.name))
    yield outcome_of(PLUGINS_ARE_LISTED, faults, told=", ".join(names))
    tops = {offer.package for offer in wheel.offers}
    imported = {line.rpartition("|")[2].strip() for line in ended.errors if line.startswith("import time:")}
    run = sorted(name for name in imported if name.partition(".")[0] in tops)
    yield outcome_of(LISTING_IMPORTS_NOTHING, [Fault(f"`gym list` has imported {', '.join(run)}")] if run else [])
