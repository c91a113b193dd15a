"""
What dataset files and run folders hold, in numbers: per environment and in total, in one pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gymcore.composition.rows.reader import RowReader, RowSource, numbered_lines
from gymcore.composition.tokens import WORDS, token_counter
from gymcore.datasets.field_statistics import RowStatistics
from gymcore.discovery import Catalog
from gymcore.errors import GymcoreError, RequestError
from gymcore.records import Task
from gymcore.run_folder import DATASET_NAME

__all__ = ["DatasetStatistics", "Described", "describe_data"]

ENVIRONMENTS = 1000
FURTHER = "(further environments)"


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
        if environment not in self.environments and len(self.environments) >= ENVIRONMENTS:
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
        paths: JSON-lines files, and run folders with a dataset.
        catalog: What is installed; asked for what environments declare.
        tokenizer: `words`, or the path of a `tokenizer.json`.

    Raises:
        PlanError: the tokenizer cannot be loaded.
        RequestError: a file cannot be read.
    """
    statistics, reader = DatasetStatistics(tokenizer), RowReader()
    for given in paths:
        path = given / DATASET_NAME if given.is_dir() else given
        try:
            with path.open("rb") as file:
                for number, line in numbered_lines(file, RowSource(str(path))):
                    where = f"{path}:{number}"
                    row = reader.parse(line, where)
                    if row is not None and _is_row(row, reader, where):
                        statistics.add(_owner(row), row, len(line))
        except OSError as error:
            hints = ("try: gym compose --env NAME --out " + str(given),) if given.is_dir() else ()
            message = f"the data file cannot be read: {error.strerror}"
            raise RequestError(message, where=str(path), hints=hints) from None
    ranges = {}
    for name in statistics.environments:
        try:
            scale = catalog.find("environment", name).manifest.reward_range
        except GymcoreError:
            continue
        if scale is not None:
            ranges[name] = scale
    return Described(statistics, ranges, reader.bad)


def _is_row(row: dict[str, Any], reader: RowReader, where: str) -> bool:
    try:
        Task.model_validate({"responses_create_params": row["responses_create_params"]})
    except ValueError:
        reader.reject(where, "its create parameters are wrong")
        return False
    return True


def _owner(row: Mapping[str, Any]) -> str:
    """Return whose a row is: its environment's name, or else that of its route."""
    name = row.get("environment")
    if not isinstance(name, str) or not name:
        reference = row.get("agent_ref")
        name = reference.get("name") if isinstance(reference, dict) else None
    return name if isinstance(name, str) else ""
