"""
`report()`: one pass over a run folder, then numbers per environment and in total.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from gymcore.collection import Collection
from gymcore.collection.journal import Damage, read_lines
from gymcore.composition.folder import read_lock
from gymcore.documents import decode_json
from gymcore.errors import RunFolderError, StorageError
from gymcore.plan import Plan
from gymcore.reporting.statistics import mean_interval, pass_at_k, quantile
from gymcore.run_folder import FAILURES_NAME, PLAN_NAME, REPORT_NAME, ROLLOUTS_NAME, write_whole

__all__ = ["EnvironmentReport", "Report", "report", "write_report"]


@dataclass
class _Tally:
    """What is remembered of the rollouts of one environment: a few numbers each, never the rollouts."""

    rewards: dict[str, list[float]] = field(default_factory=dict)
    turns: list[float] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)
    durations: list[float] = field(default_factory=list)
    retried: int = 0
    stops: Counter[str] = field(default_factory=Counter)
    sums: dict[str, float] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, line: Mapping[str, Any]) -> None:
        """Count one finished rollout."""
        self.rewards.setdefault(str(line["task_id"]), []).append(float(line["reward"]))
        self.turns.append(len(line["turns"]))
        self.durations.append(line["timing"]["duration_s"])
        usage = line["response"].get("usage") or {}
        if isinstance(usage.get("total_tokens"), int | float):
            self.tokens.append(usage["total_tokens"])
        self.retried += any(turn["attempts"] > 1 for turn in line["turns"])
        self.stops[line["stop"]] += 1
        for name, value in line["metrics"].items():
            if isinstance(value, int | float):
                self.sums[name] = self.sums.get(name, 0.0) + value
                self.counts[name] += 1


@dataclass(frozen=True)
class EnvironmentReport:
    """The numbers of one environment, or of all together."""

    name: str
    planned: int | None
    """Rollouts that the plan asks for; None where the folder holds no plan."""
    finished: int
    failed: int
    """Rollouts that have no reward although they were tried; those of them that were finished later do not count."""
    reward: dict[str, float | None] | None
    """`mean` with the bounds `low` and `high` of its 95 % interval, None where unknown; None without any rollout."""
    pass_at: dict[str, float]
    """pass@k by k, a power of two or the largest number of repeats that every task has; empty without repeats."""
    turns: dict[str, float] | None
    """`mean` and `max` turns."""
    tokens: dict[str, float] | None
    """`mean` and `total` tokens; None where the endpoint reports none."""
    duration_s: dict[str, float] | None
    """`p50`, `p95` and `max` seconds of a rollout."""
    retried: int
    """Finished rollouts in which the endpoint had to be asked again."""
    stops: dict[str, int]
    """How trajectories ended, and how many did."""
    metrics: dict[str, float]
    """The mean of every numeric metric of the verifier."""

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as plain values."""
        return dict(vars(self))


@dataclass(frozen=True)
class Report:
    """What a run folder means."""

    folder: Path
    environments: tuple[EnvironmentReport, ...]
    total: EnvironmentReport
    failures: dict[str, int]
    """Open failures by `stage: message`, the most frequent first."""
    damaged_lines: int
    """Lines that were not whole and do not count."""

    def to_json(self) -> str:
        """Return the report as `gym report --json` prints it and `report.json` holds it."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, all of which JSON knows."""
        return {
            "folder": str(self.folder),
            "environments": [entry.to_dict() for entry in self.environments],
            "total": self.total.to_dict(),
            "failures": self.failures,
            "damaged_lines": self.damaged_lines,
        }

    def __str__(self) -> str:
        return "\n".join(_words(entry) for entry in (*self.environments, self.total))


def _words(entry: EnvironmentReport) -> str:
    planned = f" of {entry.planned}" if entry.planned is not None else ""
    reward = "no reward yet"
    if entry.reward is not None:
        reward = f"mean reward {entry.reward['mean']:.3f}"
        if entry.reward["low"] is not None:
            reward += f" [{entry.reward['low']:.3f}, {entry.reward['high']:.3f}]"
    return f"{entry.name}: {entry.finished}{planned} finished, {entry.failed} failed, {reward}"


def report(collection: Collection | Path | str) -> Report:
    """
    Read a run folder and sum it up; memory grows by a few numbers a rollout.

    Raises:
        RunFolderError: the folder holds no run.
        StorageError: its files cannot be read.
    """
    folder = collection.folder if isinstance(collection, Collection) else Path(collection)
    lock = read_lock(folder)
    if lock is None and not (folder / ROLLOUTS_NAME).exists():
        raise RunFolderError("there is no run in this folder", where=str(folder), hints=["try: gym run --out ..."])
    tallies: dict[str, _Tally] = {name: _Tally() for name in (lock["environments"] if lock else ())}
    finished: set[tuple[str, str, int]] = set()
    damaged = 0
    for line in _lines(folder / ROLLOUTS_NAME):
        if line is None:
            damaged += 1
            continue
        key = (line["environment"], str(line["task_id"]), line["repeat"])
        if key not in finished:
            finished.add(key)
            tallies.setdefault(line["environment"], _Tally()).add(line)
    failed: dict[tuple[str, str, int], str] = {}
    for line in _lines(folder / FAILURES_NAME):
        if line is None:
            damaged += 1
            continue
        key = (line["environment"], str(line["task_id"]), line["repeat"])
        if key not in finished:
            failed[key] = f"{line['stage']}: {line['message'].splitlines()[0]}"
    planned = _planned(folder, lock)
    open_failures = Counter(name for name, _, _ in failed)
    names = list(dict.fromkeys([*tallies, *open_failures]))
    entries = tuple(
        _summarise(name, [tallies.get(name, _Tally())], planned.get(name), open_failures[name]) for name in names
    )
    every = sum(planned.values()) if planned else None
    total = _summarise("total", list(tallies.values()), every, len(failed))
    return Report(folder, entries, total, dict(Counter(failed.values()).most_common(20)), damaged)


def write_report(result: Report) -> None:
    """
    Write `report.json` into the run folder.

    Raises:
        StorageError: it cannot be written.
    """
    path = result.folder / REPORT_NAME
    try:
        write_whole(path, result.to_json().encode("utf-8", "replace") + b"\n")
    except OSError as error:
        raise StorageError(f"the report cannot be written: {error.strerror}", where=str(path)) from None


def _lines(path: Path) -> Iterator[dict[str, Any] | None]:
    """Yield what each line says, and None for one that is not whole."""
    for found in read_lines(path):
        yield None if isinstance(found, Damage) else decode_json(found[1])


def _planned(folder: Path, lock: Mapping[str, Any] | None) -> dict[str, int]:
    """Return how many rollouts each environment is to have, from the lock and the plan beside it."""
    if lock is None or not (folder / PLAN_NAME).exists():
        return {}
    plan = Plan.from_file(folder / PLAN_NAME)
    planned = {}
    for name, entry in lock["environments"].items():
        asked = plan.environments.get(name)
        repeats = (asked.repeats if asked else None) or plan.collect.repeats
        planned[name] = entry["tasks"] * repeats
    return planned


def _summarise(name: str, tallies: list[_Tally], planned: int | None, failed: int) -> EnvironmentReport:
    groups = [rewards for tally in tallies for rewards in tally.rewards.values()]
    interval = mean_interval(groups)
    turns = [value for tally in tallies for value in tally.turns]
    tokens = [value for tally in tallies for value in tally.tokens]
    durations = sorted(value for tally in tallies for value in tally.durations)
    return EnvironmentReport(
        name=name,
        planned=planned,
        finished=len(turns),
        failed=failed,
        reward=(
            None
            if interval is None
            else {"mean": interval.mean, "low": _if_finite(interval.low), "high": _if_finite(interval.high)}
        ),
        pass_at=_pass_at(groups),
        turns={"mean": sum(turns) / len(turns), "max": max(turns)} if turns else None,
        tokens={"mean": sum(tokens) / len(tokens), "total": sum(tokens)} if tokens else None,
        duration_s=(
            {"p50": quantile(durations, 0.5), "p95": quantile(durations, 0.95), "max": durations[-1]}
            if durations
            else None
        ),
        retried=sum(tally.retried for tally in tallies),
        stops=dict(sum((tally.stops for tally in tallies), Counter())),
        metrics=_mean_metrics(tallies[0]) if len(tallies) == 1 else {},
    )


def _mean_metrics(tally: _Tally) -> dict[str, float]:
    means = {name: total / tally.counts[name] for name, total in tally.sums.items()}
    return {name: mean for name, mean in means.items() if isfinite(mean)}


def _if_finite(value: float) -> float | None:
    return value if isfinite(value) else None


def _pass_at(groups: list[list[float]]) -> dict[str, float]:
    least = min(map(len, groups), default=0)
    if least < 2:
        return {}
    ks = [k for k in (1, 2, 4, 8, 16, 32, 64, 128) if k < least] + [least]
    return {str(k): sum(pass_at_k(group, k) for group in groups) / len(groups) for k in ks}
