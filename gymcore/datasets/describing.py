"""
What dataset files and run folders hold, in numbers: per environment and in total, in one pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gymcore.composition.route_names import RouteNames
from gymcore.composition.rows.messages import ASKING_KEYS
from gymcore.composition.rows.preparation import RowError, prepare_row
from gymcore.composition.rows.prompts import Prompt
from gymcore.composition.rows.reader import RowReader, RowSource, numbered_lines
from gymcore.composition.tokens import WORDS, token_counter
from gymcore.datasets.field_statistics import RowStatistics
from gymcore.datasets.opening import open_data
from gymcore.datasets.owners import FURTHER, NAME_LETTERS, OWNERS, RouteError, prompt_of, route_name, shown_route
from gymcore.discovery import Catalog
from gymcore.errors import GymcoreError
from gymcore.records import Task

__all__ = ["DatasetStatistics", "Described", "describe_data"]


class DatasetStatistics:
    """
    Statistics of a dataset whose rows are given one by one.

    Args:
        tokenizer: `words`, or the path of a `tokenizer.json`.
        where: How messages name the place where it is asked for.

    Raises:
        PlanError: the tokenizer cannot be loaded.
    """

    def __init__(self, tokenizer: str = WORDS, where: str = "--tokenizer") -> None:
        self.count_tokens = token_counter(tokenizer, where)
        self.unit = "words" if tokenizer == WORDS else "tokens"
        self.total = RowStatistics(self.count_tokens)
        self.environments: dict[str, RowStatistics] = {}

    def add(self, environment: str, row: Mapping[str, Any], size: int) -> None:
        """Count one row of an environment."""
        if environment not in self.environments and len(self.environments) >= OWNERS:
            environment = FURTHER
        own = self.environments.setdefault(environment, RowStatistics(self.count_tokens))
        self.total.add(row, size, own.add(row, size))


@dataclass(frozen=True)
class Described:
    """What dataset files hold."""

    statistics: DatasetStatistics
    reward_ranges: dict[str, tuple[float, float]]
    """What installed environments of those names declare."""
    bad: int
    """Lines that are no rows, and are not counted."""

    def to_dict(self) -> dict[str, Any]:
        """Return what `--json` prints of it."""
        unit = self.statistics.unit
        environments = {}
        for name, own in self.statistics.environments.items():
            scale = self.reward_ranges.get(name)
            environments[name] = {"reward_range": None if scale is None else list(scale), **own.to_dict(unit)}
        return {"bad": self.bad, "environments": environments, "total": self.statistics.total.to_dict(unit)}


def describe_data(paths: Sequence[Path], catalog: Catalog, *, tokenizer: str = WORDS) -> Described:
    """
    Read dataset files through once, and return what they hold.

    Args:
        paths: JSON-lines files, compressed ones, tables, and run folders with a dataset.
        catalog: What is installed; asked for what environments declare.
        tokenizer: `words`, or the path of a `tokenizer.json`.

    Raises:
        PlanError: the tokenizer cannot be loaded.
        RequestError: a file cannot be read.
    """
    statistics, reader, owners = DatasetStatistics(tokenizer), RowReader(), _Owners(catalog)
    for given in paths:
        with open_data(given) as (name, lines):
            for number, line in numbered_lines(lines, RowSource(name)):
                where = f"{name}:{number}"
                row = reader.parse(line, where)
                if row is None:
                    continue
                try:
                    owner = owners.of(row)
                    # Whether a row asks twice is for a check to say, which knows whose keys these are.
                    row = prepare_row(line, row, owners.prompt_of(owner), ASKING_KEYS).row
                    Task.model_validate({"responses_create_params": row.get("responses_create_params")})
                except (RouteError, RowError, ValueError) as error:
                    reader.reject(where, str(error))
                    continue
                statistics.add(owner, row, len(line))
    ranges = {}
    for name in statistics.environments:
        try:
            scale = catalog.find("environment", name).manifest.reward_range
        except GymcoreError:
            continue
        if scale is not None:
            ranges[name] = scale
    return Described(statistics, ranges, reader.bad)


class _Owners:
    """Whose rows are, and with what the manifests of these environments ask."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._routes = RouteNames(catalog)
        self._prompts: dict[str, Prompt | None] = {}

    def of(self, row: Mapping[str, Any]) -> str:
        """
        Return whose a row is: its environment's name, or else the one of that route, or else the route's name.

        Raises:
            RouteError: it has something else in the place of a route.
        """
        route = route_name(row)
        name = row.get("environment")
        if isinstance(name, str) and name:
            return name[:NAME_LETTERS]
        halves = self._routes.halves(route)
        return shown_route(route) if halves is None else halves[0]

    def prompt_of(self, environment: str) -> Prompt | None:
        """Return what the manifest of an environment asks with, if it is installed and does."""
        if environment not in self._prompts:
            if len(self._prompts) >= OWNERS:
                return None
            try:
                self._prompts[environment] = prompt_of(self._catalog.find("environment", environment))
            except GymcoreError:
                self._prompts[environment] = None
        return self._prompts[environment]
