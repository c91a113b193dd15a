"""
Dataset files on their own: are their rows all right, and whose are they? Nothing is composed and no plan is needed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from gymcore.composition.asked_names import key_of
from gymcore.composition.configuration import Options, resolve_options
from gymcore.composition.linting.linter import Linter, LintWarning
from gymcore.composition.route_names import RouteNames
from gymcore.composition.routes import with_argument
from gymcore.composition.rows.preparation import RowError, prepare_row
from gymcore.composition.rows.prompts import Prompt
from gymcore.composition.rows.reader import RowReader, RowSource, numbered_lines
from gymcore.composition.sources.opening import open_source
from gymcore.composition.sources.plugin_rows import plugin_rows, splits_without_rows
from gymcore.datasets.hints import hints_without_a_plan
from gymcore.datasets.opening import open_data, plan_beside
from gymcore.datasets.owners import FURTHER, OWNERS, RouteError, prompt_of, route_name, shown_route
from gymcore.discovery import Catalog, Plugin
from gymcore.discovery.manifest import PluginRows
from gymcore.errors import GymcoreError, PlanError, Problem, RequestError
from gymcore.interfaces import Environment
from gymcore.plan import EnvironmentPlan, HubData, Plan, UrlData, source_name
from gymcore.responses import CREATE_PARAMS

__all__ = ["Checked", "CheckedFile", "check_data"]

REMEMBERED_KEYS = 50


@dataclass(frozen=True)
class CheckedFile:
    """What one file holds."""

    name: str
    rows: int
    """Lines that are not blank."""
    bad: int

    def to_dict(self) -> dict[str, Any]:
        """Return what `--json` prints of it."""
        return {"file": self.name, "rows": self.rows, "good": self.rows - self.bad, "bad": self.bad}


@dataclass(frozen=True)
class Checked:
    """What came of checking dataset files."""

    files: tuple[CheckedFile, ...]
    environments: dict[str, int]
    """How many good rows each environment has; rows without one are under an empty name."""
    unchecked: dict[str, str]
    """Environments whose own rules were not looked at, and why."""
    problems: tuple[Problem, ...]
    """The first ten mistakes."""
    reasons: dict[str, int]
    """How many rows each kind of mistake has spoilt."""
    notes: tuple[str, ...] = ()
    warnings: tuple[LintWarning, ...] = ()

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return sum(file.rows for file in self.files)

    @property
    def bad(self) -> int:
        """How many of them are bad."""
        return sum(file.bad for file in self.files)

    def to_dict(self) -> dict[str, Any]:
        """Return what `--json` prints of it."""
        return {
            "rows": self.rows,
            "good": self.rows - self.bad,
            "bad": self.bad,
            "files": [file.to_dict() for file in self.files],
            "environments": self.environments,
            "unchecked": self.unchecked,
            "problems": [
                {"where": problem.where, "message": problem.message, "hints": list(problem.hints)}
                for problem in self.problems
            ],
            "reasons": self.reasons,
            "notes": list(self.notes),
            "warnings": [warning.to_dict() for warning in self.warnings],
        }


def check_data(
    files: Sequence[Path],
    catalog: Catalog,
    *,
    environment: str | None = None,
    ignore: Collection[str] = (),
    environ: Mapping[str, str] | None = None,
) -> Checked:
    """
    Check every row of dataset files.

    A row is checked against the environment that its `agent_ref` names, where that is installed, or is one of the plan
    of its run folder, and else by what holds for every row. Files whose rows bring no routes are checked for one
    environment.

    Args:
        files: JSON-lines files, compressed ones, tables, and run folders with a dataset; the splits of the environment
            where there are none.
        catalog: What is installed.
        environment: The environment of every row, `name` or `distribution/name`, and `:ARGUMENT` where it takes one.
        ignore: Warnings that are not looked for.
        environ: As for `compose`; it matters to environments that make their rows themselves.

    Raises:
        RequestError: a file cannot be read, or the plan of a run folder.
        UnknownPluginError, AmbiguousPluginError, PluginError: the environment is not there, or broken.
    """
    return _Check(catalog, environment, ignore, os.environ if environ is None else environ).check(files)


_SPLITS = {"train": "train", "val": "validation", "dev": "validation", "eval": "validation", "test": "test"}


def _split_of(path: Path) -> str | None:
    """Return the split that a file is named after, as in `train-00001.jsonl`."""
    if "example" in path.stem.lower():
        return "example"
    words = re.split(r"[^a-z]+", path.stem.lower())
    return next((split for start, split in _SPLITS.items() for word in words if word.startswith(start)), None)


@dataclass(frozen=True)
class _Served:
    """An environment by which rows are checked."""

    name: str
    environment: str
    environment_class: type[Environment[Any, Any]]
    plugin: Plugin
    plan: EnvironmentPlan
    """Its entry in a plan, where there is one; without a colon in its `use`."""

    @cached_property
    def prompt(self) -> Prompt | None:
        """What its plan or its manifest asks with."""
        return prompt_of(self.plugin, self.plan)


class _Routes:
    """Where the routes of rows lead: to what is installed, and to the environments of a plan."""

    def __init__(self, catalog: Catalog, plan: Plan | None = None) -> None:
        self._catalog = catalog
        self._plan = Plan() if plan is None else plan
        self.names = RouteNames(catalog, self._plan.environments)
        self.served: dict[str, _Served | None] = {}
        """By the names of routes that were met; None where the environment cannot be loaded."""

    def load(self, name: str, environment: str) -> _Served:
        """
        Load the environment behind a route.

        Raises:
            GymcoreError: it is not there, or broken.
        """
        asked = self._plan.environments.get(environment, EnvironmentPlan())
        entry = with_argument(asked, self._catalog, f"environments.{environment}")[0]
        plugin = self._catalog.find("environment", entry.use or environment)
        return _Served(name, environment, self._catalog.load(plugin), plugin, entry)


class _Check:
    def __init__(
        self, catalog: Catalog, environment: str | None, ignore: Collection[str], environ: Mapping[str, str]
    ) -> None:
        self.catalog = catalog
        self.environ = environ
        self.linter = Linter(ignore, is_thorough=True)
        self.reader = RowReader(on_tools=self.linter.offered)
        self.installed = _Routes(catalog)
        self.unchecked: dict[str, str] = {}
        self.good: dict[str, int] = {}
        self.unknown_params: dict[str, int] = {}
        self.notes: list[str] = []
        self.only = None if environment is None else self._asked(environment)

    def _asked(self, environment: str) -> _Served:
        """
        Load the environment that was asked for.

        Raises:
            GymcoreError: it is not there, or broken, or takes no argument.
        """
        entry, problem = with_argument(EnvironmentPlan(use=environment), self.catalog, "--env", form="--env ")
        if problem is not None:
            raise PlanError([replace(problem, where="--env")])
        plugin = self.catalog.find("environment", entry.use or "", where="--env")
        # As it would be called in a plan, which is what its rows say where they were composed before.
        name = plugin.name if ":" not in environment else key_of(environment, {})
        return _Served(f"{name}_", name, self.catalog.load(plugin), plugin, entry)

    def check(self, files: Sequence[Path]) -> Checked:
        checked = [self._check_file(path) for path in files]
        if self.only is not None and not files:
            with hints_without_a_plan(self.only.plugin):
                checked = self._check_splits(self.only)
        notes = [
            f"{key!r} is no create parameter of the Responses API ({count:,} {'row' if count == 1 else 'rows'}); "
            "NeMo Gym refuses it"
            for key, count in self.unknown_params.items()
        ]
        return Checked(
            files=tuple(checked),
            environments=self.good,
            unchecked=self.unchecked,
            problems=tuple(self.reader.problems),
            reasons=dict(sorted(self.reader.reasons.items(), key=lambda entry: -entry[1])),
            notes=(*self.notes, *notes),
            warnings=self.linter.warnings(self.reader.drifts),
        )

    def _check_file(self, path: Path) -> CheckedFile:
        plan = plan_beside(path) if self.only is None else None
        routes = self.installed if plan is None else _Routes(self.catalog, plan)
        with open_data(path) as (name, lines):
            return self._check_lines(lines, name, _split_of(Path(name)), routes)

    def _check_splits(self, own: _Served) -> list[CheckedFile]:
        """Check the splits that an environment brings."""
        checked: list[CheckedFile] = []
        splits = own.plugin.manifest.splits
        makes_rows = any(isinstance(source, PluginRows) for sources in splits.values() for source in sources)
        options = self._options_of(own) if makes_rows else None
        missing = {} if options is None else splits_without_rows(own.plugin, own.environment_class, options)
        if missing and len(missing) == len(splits):
            raise next(iter(missing.values()))
        self.notes += [error.message for error in missing.values()]
        for split, sources in splits.items():
            if split not in missing:
                self._declare(own, split)
                checked.extend(self._check_source(own, split, source, options) for source in sources)
        return checked

    def _check_source(
        self, own: _Served, split: str, source: str | HubData | UrlData | PluginRows, options: Options | None
    ) -> CheckedFile:
        plugin = own.plugin
        if isinstance(source, str):
            with self.catalog.open_file(plugin, source) as file:
                return self._check_lines(file, f"{plugin.qualified}:{source}", split, self.installed)
        if isinstance(source, PluginRows):
            assert options is not None
            with closing(plugin_rows(plugin, own.environment_class, options, split)) as rows:
                return self._check_lines(rows, f"{plugin.qualified}:{split}", split, self.installed)
        place = f"the manifest of {plugin.qualified}"
        with open_source(source, place, self.environ, has_variables=False) as lines:
            return self._check_lines(lines, source_name(source), split, self.installed)

    def _options_of(self, own: _Served) -> Options:
        """
        Return the options of an environment that makes its rows itself, as they say.

        Raises:
            RequestError: they are wrong, or some are missing.
        """
        plugin, given = own.plugin, own.plan.config
        options, problems = resolve_options(
            own.environment_class.config_model,
            plugin.manifest.config,
            given,
            self.environ,
            f"environments.{own.environment}.config",
        )
        if problems:
            told = f"{plugin.title} makes its rows itself, as its options say: {problems[0].message}"
            raise RequestError(told, where="--env", hints=problems[0].hints)
        return options

    def _check_lines(self, file: Iterable[bytes], name: str, split: str | None, routes: _Routes) -> CheckedFile:
        source, before = RowSource(name), self.reader.bad
        for number, line in numbered_lines(file, source):
            self._check_row(line, f"{name}:{number}", split, routes)
        return CheckedFile(name, source.rows, self.reader.bad - before)

    def _check_row(self, line: bytes, where: str, split: str | None, routes: _Routes) -> None:
        row = self.reader.parse(line, where)
        if row is None:
            return
        try:
            served, owner = self._whose(row, routes)
            own_keys = () if served is None else served.environment_class.task_model.model_fields
            line, row, _ = prepare_row(line, row, None if served is None else served.prompt, own_keys)
        except RowError as error:
            self.reader.reject(where, str(error), *([error.hint] if error.hint else []))
            return
        except RouteError as error:
            self.reader.reject(where, str(error), *error.hints)
            return
        if served is None:
            if not self.reader.unrouted(row, owner, where, split):
                return
        elif self.reader.routed(line, row, served, where, split) is None:
            return
        if owner not in self.good and len(self.good) >= OWNERS:
            owner = FURTHER
        self.good[owner] = self.good.get(owner, 0) + 1
        for key in row["responses_create_params"].keys() - CREATE_PARAMS:
            if key in self.unknown_params or len(self.unknown_params) < REMEMBERED_KEYS:
                self.unknown_params[key] = self.unknown_params.get(key, 0) + 1
        is_news = self.linter.add(owner, split, row, where)
        if is_news and served is not None:
            self.linter.offered(owner, served.environment_class.tool_schemas(), "its code")

    def _whose(self, row: dict[str, Any], routes: _Routes) -> tuple[_Served | None, str]:
        """
        Return by which environment a row is checked, and whose it is.

        Raises:
            RouteError: its route is none, or leads from an environment that is here to no agent.
        """
        if self.only is not None:
            return self.only, self.only.environment
        name = route_name(row)
        if not name:
            self.unchecked.setdefault("", "rows without `agent_ref` name no environment; try: --env NAME")
            return None, ""
        halves = routes.names.halves(name)
        if halves is None:
            if routes.names.names_environment(name):
                raise RouteError(f"no route is named {name!r:.100}", routes.names.hints(name))
            self._leave_unchecked(name, routes.names)
            return None, shown_route(name)
        if name not in routes.served:
            routes.served[name] = self._load(name, halves[0], routes)
        served = routes.served[name]
        return served, name if served is None else served.environment

    def _load(self, name: str, environment: str, routes: _Routes) -> _Served | None:
        """Load the environment behind a route, or remember why its rows are not checked by it."""
        try:
            served = routes.load(name, environment)
        except GymcoreError as error:
            self.unchecked[name] = error.message
            return None
        self._declare(served, None)
        return served

    def _leave_unchecked(self, name: str, names: RouteNames) -> None:
        """Remember that nobody of that name is there, and whose it may have been meant to be."""
        shown = shown_route(name)
        if shown not in self.unchecked and len(self.unchecked) < REMEMBERED_KEYS:
            close = names.near(shown)
            told = f"it is not installed; did you mean {close[0]!r}?" if close else names.explain(shown)
            self.unchecked[shown] = told

    def _declare(self, served: _Served, split: str | None) -> None:
        manifest = served.plugin.manifest
        self.linter.declare(served.environment, split=split, splits=manifest.splits, reward_range=manifest.reward_range)
