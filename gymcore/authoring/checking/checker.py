"""
The phases one after the other: of a project, or of what is installed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gymcore.authoring.checking.conformance import SUITED, check_conformance
from gymcore.authoring.checking.findings import PHASES, Outcome, Phase
from gymcore.authoring.checking.installed import check_installed_files
from gymcore.authoring.checking.loading import check_import
from gymcore.authoring.checking.place import (
    WHEEL_IS_INSTALLED,
    Place,
    add_for_tests,
    check_listing,
    fresh_place,
    here,
    unpacked_place,
)
from gymcore.authoring.checking.project import Project
from gymcore.authoring.checking.source import broken_plugins, check_source
from gymcore.authoring.checking.wheel import Wheel, build_wheel, check_wheel
from gymcore.discovery import Catalog, Plugin

__all__ = ["check_installed", "check_project"]


@dataclass(frozen=True)
class _Named:
    """A plugin that is tried."""

    kind: str
    name: str
    distribution: str


def check_project(project: Project, *, install: bool = True, offline: bool = False) -> Iterator[Outcome]:
    """
    Check a project: its source, its wheel, that wheel installed, each plugin's import and its suite.

    Whatever is made on the way is removed when the iteration ends, however it ends.

    Args:
        project: A project with a pyproject.toml.
        install: Whether the wheel is installed into a fresh virtual environment; else it is unpacked beside what is
            installed here, as it is where no index can be reached.
        offline: Whether nothing may be fetched.
    """
    seen: list[Outcome] = []

    def told(outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
        for outcome in outcomes:
            seen.append(outcome)
            yield outcome

    yield from told(check_source(project))
    with tempfile.TemporaryDirectory(prefix="gymcore-check-") as folder:
        scratch = Path(folder).resolve()
        for name in ("wheel", "empty"):
            (scratch / name).mkdir()
        wheel, outcome = build_wheel(project, scratch / "wheel", offline=offline)
        yield outcome
        if wheel is None:
            yield from _skipped(("install", "import", "suite"), "there is no wheel")
            return
        yield from told(check_wheel(project, wheel))
        if not wheel.offers:
            yield from _skipped(("install", "import", "suite"), "the wheel offers no plugin")
            return
        place: Place | None = None
        outcome = Outcome("install", WHEEL_IS_INSTALLED.name, "skipped", "as was asked for")
        if install and not offline:
            place, outcome = fresh_place(project, wheel, scratch)
        if outcome.status == "skipped":
            outcome = replace(outcome, told=f"{outcome.told}; it is unpacked, and tried beside what is installed here")
        yield outcome
        if outcome.status == "failed":
            yield from _skipped(("import", "suite"), "the wheel cannot be installed")
            return
        if place is None:
            place = unpacked_place(project, wheel, scratch)
        yield from told(check_listing(wheel, place, broken_plugins(seen), scratch / "empty"))
        yield from _tried(project, wheel, place, broken_plugins(seen), scratch)


def _tried(project: Project, wheel: Wheel, place: Place, broken: set[str], scratch: Path) -> Iterator[Outcome]:
    """Import the plugins of a project, and run their suites."""
    named = [_Named(offer.kind, offer.name, wheel.info.partition("-")[0]) for offer in wheel.offers]
    tests: Sequence[Path] = project.tests()
    if place.is_fresh and tests and any(plugin.kind in SUITED for plugin in named):
        outcome = add_for_tests(project, place, scratch, tests)
        if outcome is not None:
            yield outcome
            tests = tests if outcome.status == "passed" else ()
    yield from _import_and_suite(named, place, broken, tests, scratch / "empty")


def check_installed(plugins: Sequence[Plugin], catalog: Catalog) -> Iterator[Outcome]:
    """Check plugins that are installed here: manifest, data, import and suite."""
    seen = []
    for outcome in check_installed_files(plugins, catalog):
        seen.append(outcome)
        yield outcome
    named = [_Named(plugin.kind, plugin.name, plugin.distribution) for plugin in plugins]
    with tempfile.TemporaryDirectory(prefix="gymcore-check-") as folder:
        empty = Path(folder).resolve() / "empty"
        empty.mkdir()
        yield from _import_and_suite(named, here(), broken_plugins(seen), (), empty)


def _import_and_suite(
    plugins: Sequence[_Named], place: Place, broken: set[str], tests: Sequence[Path], empty: Path
) -> Iterator[Outcome]:
    loaded = []
    for plugin in plugins:
        if plugin.name in broken:
            told = "it cannot be loaded, as was said already"
            yield Outcome("import", "plugin_can_be_loaded", "skipped", told, plugin.name)
            continue
        outcomes = list(check_import(plugin.kind, plugin.name, plugin.distribution, place, empty))
        yield from outcomes
        if outcomes[0].status == "passed":
            loaded.append(plugin)
    for plugin in plugins:
        if plugin not in loaded:
            yield Outcome("suite", "suite_ends", "skipped", "it cannot be loaded", plugin.name)
        elif plugin.kind not in SUITED:
            yield Outcome("suite", "suite_ends", "skipped", f"there is no suite for a {plugin.kind}", plugin.name)
        else:
            yield from check_conformance(plugin.kind, plugin.name, plugin.distribution, place, tests, empty)


def _skipped(phases: Sequence[Phase], why: str) -> Iterator[Outcome]:
    for phase in PHASES:
        if phase in phases:
            yield Outcome(phase, _FIRST[phase], "skipped", why)


_FIRST: dict[Phase, str] = {
    "install": "wheel_is_installed",
    "import": "plugin_can_be_loaded",
    "suite": "suite_ends",
}
