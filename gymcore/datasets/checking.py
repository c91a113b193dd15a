"""
Dataset files on their own: are their rows all right, and whose are they? Nothing is composed and no plan is needed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gymcore.composition.configuration import resolve_options
from gymcore.composition.linting.linter import Linter, LintWarning
from gymcore.composition.rows.preparation import RowError, prepare_row
from gymcore.composition.rows.prompts import Prompt
from gymcore.composition.rows.reader import RowReader, RowSource, numbered_lines
from gymcore.composition.sources.opening import open_source
from gymcore.composition.sources.plugin_rows import plugin_rows
from gymcore.datasets.opening import open_data
from gymcore.datasets.owners import FURTHER, OWNERS, RouteError, manifest_prompt, route_name, routes_of
from gymcore.discovery import Catalog, Plugin
from gymcore.discovery.manifest import PluginRows
from gymcore.errors import GymcoreError, Problem, RequestError, nearest
from gymcore.interfaces import Environment
from gymcore.plan import HubData, UrlData, source_name
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
    files: Sequence[Path], catalog: Catalog, *, environment: str | None = None, ignore: Collection[str] = ()
) -> Checked:
    """
    Check every row of dataset files.

    A row is checked against the environment that its `agent_ref` names, where that and the agent are installed, and
    else by what holds for every row. Files whose rows bring no routes are checked for one environment.

    Args:
        files: JSON-lines files, compressed ones, tables, and run folders with a dataset; the splits of the environment
            where there are none.
        catalog: What is installed.
        environment: The environment of every row, `name` or `distribution/name`.
        ignore: Warnings that are not looked for.

    Raises:
        RequestError: a file cannot be read.
        UnknownPluginError, AmbiguousPluginError, PluginError: the environment is not there, or broken.
    """
    return _Check(catalog, environment, ignore).check(files)


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

    @cached_property
    def prompt(self) -> Prompt | None:
        """What its manifest asks with."""
        return manifest_prompt(self.plugin)


class _Check:
    def __init__(self, catalog: Catalog, environment: str | None, ignore: Collection[str]) -> None:
        self.catalog = catalog
        self.linter = Linter(ignore, is_thorough=True)
        self.reader = RowReader(on_tools=self.linter.offered)
        self.routes = routes_of(catalog)
        self.served: dict[str, _Served | None] = {}
        self.unchecked: dict[str, str] = {}
        self.good: dict[str, int] = {}
        self.unknown_params: dict[str, int] = {}
        self.only: _Served | None = None
        if environment is not None:
            plugin = catalog.find("environment", environment, where="--env")
            self.only = _Served(f"{plugin.name}_", plugin.name, catalog.load(plugin), plugin)

    def check(self, files: Sequence[Path]) -> Checked:
        checked = [self._check_file(path) for path in files]
        if self.only is not None and not files:
            for split, paths in self.only.plugin.manifest.splits.items():
                self._declare(self.only, split)
                checked.extend(self._check_source(self.only.plugin, split, path) for path in paths)
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
            notes=tuple(notes),
            warnings=self.linter.warnings(self.reader.drifts),
        )

    def _check_file(self, path: Path) -> CheckedFile:
        with open_data(path) as (name, lines):
            return self._check_lines(lines, name, _split_of(Path(name)))

    def _check_source(self, plugin: Plugin, split: str, source: str | HubData | UrlData | PluginRows) -> CheckedFile:
        if isinstance(source, str):
            with self.catalog.open_file(plugin, source) as file:
                return self._check_lines(file, f"{plugin.qualified}:{source}", split)
        if isinstance(source, PluginRows):
            return self._check_plugin_rows(plugin, split)
        with open_source(source, f"the manifest of {plugin.qualified}", has_variables=False) as lines:
            return self._check_lines(lines, source_name(source), split)

    def _check_plugin_rows(self, plugin: Plugin, split: str) -> CheckedFile:
        environment_class = self.catalog.load(plugin)
        options, problems = resolve_options(
            environment_class.config_model, plugin.manifest.config, {}, os.environ, "config"
        )
        if problems:
            told = f"{plugin.title} makes the rows of its split {split!r} as its options say: {problems[0].message}"
            raise RequestError(told, hints=["try: gym compose --env NAME, which takes options"])
        with closing(plugin_rows(plugin, environment_class, options, split)) as rows:
            return self._check_lines(rows, f"{plugin.qualified}:{split}", split)

    def _check_lines(self, file: Iterable[bytes], name: str, split: str | None) -> CheckedFile:
        source, before = RowSource(name), self.reader.bad
        for number, line in numbered_lines(file, source):
            self._check_row(line, f"{name}:{number}", split)
        return CheckedFile(name, source.rows, self.reader.bad - before)

    def _check_row(self, line: bytes, where: str, split: str | None) -> None:
        row = self.reader.parse(line, where)
        if row is None:
            return
        try:
            served, owner = self._whose(row)
            own_keys = () if served is None else served.environment_class.task_model.model_fields
            line, row, _ = prepare_row(line, row, None if served is None else served.prompt, own_keys)
        except RowError as error:
            self.reader.reject(where, str(error), *([error.hint] if error.hint else []))
            return
        except RouteError as error:
            self.reader.reject(where, str(error))
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

    def _whose(self, row: dict[str, Any]) -> tuple[_Served | None, str]:
        """
        Return by which environment a row is checked, and whose it is.

        Raises:
            RouteError: its route is none.
        """
        if self.only is not None:
            return self.only, self.only.environment
        name = route_name(row)
        if not name:
            self.unchecked.setdefault("", "rows without `agent_ref` name no environment; try: --env NAME")
            return None, ""
        if name not in self.routes:
            self._leave_unchecked(name)
            return None, name
        if name not in self.served:
            self.served[name] = self._load(name)
        served = self.served[name]
        return served, name if served is None else served.environment

    def _load(self, name: str) -> _Served | None:
        """Load the environment behind a route, or remember why its rows are not checked by it."""
        try:
            plugin = self.catalog.find("environment", self.routes[name])
            served = _Served(name, plugin.name, self.catalog.load(plugin), plugin)
        except GymcoreError as error:
            self.unchecked[name] = error.message
            return None
        self._declare(served, None)
        return served

    def _leave_unchecked(self, name: str) -> None:
        """Remember that nobody of that name is there, and whose it may have been meant to be."""
        if name not in self.unchecked and len(self.unchecked) < REMEMBERED_KEYS:
            close = nearest(name, self.routes)
            self.unchecked[name] = "it is not installed" + (f"; did you mean {close[0]!r}?" if close else "")

    def _declare(self, served: _Served, split: str | None) -> None:
        manifest = served.plugin.manifest
        self.linter.declare(served.environment, split=split, splits=manifest.splits, reward_range=manifest.reward_range)
