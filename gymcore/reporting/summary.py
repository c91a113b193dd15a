"""
`report()`: one pass over a run folder, then numbers per environment and in total.

`RunningReport` is the same for a folder that is being written: nothing that went through our hands is read again.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from math import isfinite
from pathlib import Path
from typing import Any

from gymcore.collection import Collection
from gymcore.collection.journal import Damage, read_lines
from gymcore.composition.folder import in_order_of, read_lock
from gymcore.documents import decode_json
from gymcore.errors import RunFolderError, StorageError
from gymcore.plan import Plan
from gymcore.records import Rollout
from gymcore.reporting.statistics import mean_interval, pass_at_k, quantiles
from gymcore.reporting.tallies import Reasons, Spread, TaskRewards
from gymcore.run_folder import FAILURES_NAME, LOCK_NAME, PLAN_NAME, REPORT_NAME, ROLLOUTS_NAME, write_whole

__all__ = ["EnvironmentReport", "Report", "RunningReport", "report", "write_report"]


MOST_TOKENS = 2**63
"""What an endpoint counts beyond this is no count, and would make every sum infinite."""


@dataclass
class _Tally:
    """What is remembered of the rollouts of one environment: sums, and two numbers each for what is no sum."""

    repeats: int | None = None
    """How many rollouts of each task are planned at most, all epochs together; None where nobody planned."""
    as_planned: int = 0
    """How many are among those that are planned: fewer repeats may be asked for than there are."""
    rewards: TaskRewards = field(default_factory=TaskRewards)
    durations: Spread = field(default_factory=Spread)
    turns: int = 0
    most_turns: int = 0
    tokens: float = 0
    with_tokens: int = 0
    """How many rollouts have a number of tokens."""
    retried: int = 0
    stops: Counter[str] = field(default_factory=Counter)
    sums: dict[str, float] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def add(
        self,
        task_id: str,
        repeat: int,
        reward: float,
        *,
        attempts: Sequence[int],
        duration_s: float,
        usage: Mapping[str, Any] | None,
        stop: str,
        metrics: Mapping[str, Any],
    ) -> None:
        """Count one finished rollout, unless it was counted already; `attempts` has a number for each turn."""
        if not self.rewards.add(task_id, repeat, reward):
            return
        self.as_planned += self.repeats is not None and repeat < self.repeats
        self.turns += len(attempts)
        self.most_turns = max(self.most_turns, len(attempts))
        self.durations.add(duration_s)
        tokens = (usage or {}).get("total_tokens")
        if isinstance(tokens, (int, float)) and abs(tokens) < MOST_TOKENS:
            self.tokens += tokens
            self.with_tokens += 1
        self.retried += max(attempts, default=0) > 1
        self.stops[stop] += 1
        for name, value in metrics.items():
            if isinstance(value, (int, float)):
                self.sums[name] = self.sums.get(name, 0.0) + value
                self.counts[name] += 1


@dataclass(frozen=True)
class EnvironmentReport:
    """The numbers of one environment, or of all together."""

    name: str
    planned: int | None
    """Rollouts that the plan asks for; None where the folder holds no plan."""
    finished: int
    owed: int | None
    """Rollouts that the plan asks for and that are not finished; None where the folder holds no plan."""
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

    @property
    def has_others(self) -> bool:
        """Whether some of the finished rollouts are not among those that the plan asks for, as further repeats are."""
        return self.planned is not None and self.finished != self.planned - (self.owed or 0)

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
    if entry.has_others:
        planned = f" ({entry.planned} planned, {entry.owed} owed)"
    reward = "no reward yet"
    if entry.reward is not None:
        reward = f"mean reward {entry.reward['mean']:.3f}"
        if entry.reward["low"] is not None:
            reward += f" [{entry.reward['low']:.3f}, {entry.reward['high']:.3f}]"
    return f"{entry.name}: {entry.finished}{planned} finished, {entry.failed} failed, {reward}"


def report(collection: Collection | Path | str) -> Report:
    """
    Read a run folder and sum it up; memory grows by some 60 bytes a rollout.

    Raises:
        RunFolderError: the folder holds no run.
        StorageError: its files cannot be read.
    """
    folder = collection.folder if isinstance(collection, Collection) else Path(collection)
    if not (folder / LOCK_NAME).exists() and not (folder / ROLLOUTS_NAME).exists():
        raise RunFolderError("there is no run in this folder", where=str(folder), hints=["try: gym run --out ..."])
    running = RunningReport(folder)
    for name in (ROLLOUTS_NAME, FAILURES_NAME):
        for found in read_lines(folder / name):
            running.take(name, None if isinstance(found, Damage) else decode_json(found[1]))
    return running.result()


class RunningReport:
    """
    Sums a run folder up while it is written; memory grows by some 60 bytes a rollout.

    Args:
        folder: The run folder; its lock and its plan say what was planned.

    Raises:
        RunFolderError: the lock is damaged, or of another version.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = read_lock(folder)
        self._repeats = _repeats(folder, self._lock)
        self._tallies = {}
        for name in self._repeats or (self._lock["environments"] if self._lock else ()):
            repeats = self._repeats.get(name)
            epochs = self._lock["environments"][name].get("epochs", 1) if self._lock else 1
            self._tallies[name] = _Tally(None if repeats is None else repeats * epochs)
        self._failed = Reasons()
        self._damaged = 0

    def take(self, name: str, line: Mapping[str, Any] | None) -> None:
        """
        Count a line of the folder's files.

        Args:
            name: The file's: `rollouts.jsonl` or `failures.jsonl`.
            line: What it says; None where it is not whole.
        """
        try:
            self._take(name, line)
        except (KeyError, TypeError, AttributeError, ValueError):  # whole, and not written by us
            self._damaged += 1

    def _take(self, name: str, line: Mapping[str, Any] | None) -> None:
        if line is None:
            self._damaged += 1
        elif name == FAILURES_NAME:
            key = line["environment"], str(line["task_id"]), line["repeat"]
            self._fail(*key, line["stage"], line["message"])
        else:
            self._finish(
                line["environment"],
                str(line["task_id"]),
                line["repeat"],
                float(line["reward"]),
                attempts=[turn["attempts"] for turn in line["turns"]],
                duration_s=line["timing"]["duration_s"],
                usage=line["response"].get("usage"),
                stop=line["stop"],
                metrics=line["metrics"],
            )

    def add(self, rollouts: Iterable[Rollout]) -> None:
        """Count rollouts that were written just now."""
        for rollout in rollouts:
            if rollout.failure is not None:
                self._fail(*rollout.key, rollout.failure.stage, rollout.failure.message)
            elif rollout.reward is not None:
                self._finish(
                    *rollout.key,
                    rollout.reward.value,
                    attempts=[turn.attempts for turn in rollout.trajectory.turns],
                    duration_s=rollout.duration_s,
                    usage=rollout.trajectory.usage,
                    stop=rollout.trajectory.stop,
                    metrics=rollout.reward.metrics,
                )

    def _finish(self, environment: str, task_id: str, repeat: int, reward: float, **seen: Any) -> None:
        tally = self._tallies.get(environment)
        if tally is None:
            tally = self._tallies[environment] = _Tally()
        tally.add(task_id, repeat, reward, **seen)
        self._failed.forget(environment, task_id, repeat)

    def _fail(self, environment: str, task_id: str, repeat: int, stage: str, message: str) -> None:
        tally = self._tallies.get(environment)
        if tally is None or (task_id, repeat) not in tally.rewards:
            self._failed.add(environment, task_id, repeat, f"{stage}: {next(iter(message.splitlines()), '')}")

    def result(self) -> Report:
        """Return the report on everything that was counted."""
        tallies, failed = self._tallies, self._failed
        planned = (
            {name: self._lock["environments"][name]["tasks"] * count for name, count in self._repeats.items()}
            if self._lock
            else {}
        )
        open_failures = failed.by_environment()
        names = list(dict.fromkeys([*tallies, *open_failures]))
        entries = tuple(
            _summarise(name, [tallies.get(name, _Tally())], planned.get(name), open_failures.get(name, 0))
            for name in names
        )
        every = sum(planned.values()) if planned else None
        total = _summarise("total", list(tallies.values()), every, len(failed))
        reasons = dict(islice(failed.by_reason().items(), 20))
        return Report(self._folder, entries, total, reasons, self._damaged)


def write_report(result: Report, folder: Path | None = None) -> None:
    """
    Write `report.json` into the run folder.

    Args:
        result: What it says.
        folder: Where the folder is, should the report name it in another way.

    Raises:
        StorageError: it cannot be written.
    """
    path = (folder or result.folder) / REPORT_NAME
    try:
        write_whole(path, result.to_json().encode("utf-8", "replace") + b"\n")
    except OSError as error:
        raise StorageError(f"the report cannot be written: {error.strerror}", where=str(path)) from None


def _repeats(folder: Path, lock: Mapping[str, Any] | None) -> dict[str, int]:
    """Return how many rollouts each task of an environment is to have, in the order of the plan beside the lock."""
    if lock is None or not (folder / PLAN_NAME).exists():
        return {}
    plan = Plan.from_file(folder / PLAN_NAME)
    repeats = {}
    for name in in_order_of(plan, lock):
        asked = plan.environments.get(name)
        repeats[name] = (asked.repeats if asked else None) or plan.collect.repeats
    return repeats


def _summarise(name: str, tallies: list[_Tally], planned: int | None, failed: int) -> EnvironmentReport:
    groups = _Groups(tallies)
    interval = mean_interval(groups)
    finished = sum(len(tally.rewards) for tally in tallies)
    turns = sum(tally.turns for tally in tallies)
    tokens, with_tokens = sum(tally.tokens for tally in tallies), sum(tally.with_tokens for tally in tallies)
    return EnvironmentReport(
        name=name,
        planned=planned,
        finished=finished,
        owed=None if planned is None else planned - sum(tally.as_planned for tally in tallies),
        failed=failed,
        reward=(
            None
            if interval is None
            else {"mean": interval.mean, "low": _if_finite(interval.low), "high": _if_finite(interval.high)}
        ),
        pass_at=_pass_at(groups),
        turns=({"mean": turns / finished, "max": max(tally.most_turns for tally in tallies)} if finished else None),
        tokens={"mean": tokens / with_tokens, "total": tokens} if with_tokens else None,
        duration_s=_durations([tally.durations for tally in tallies], finished),
        retried=sum(tally.retried for tally in tallies),
        stops=dict(sum((tally.stops for tally in tallies), Counter())),
        metrics=_mean_metrics(tallies[0]) if len(tallies) == 1 else {},
    )


@dataclass(frozen=True)
class _Groups:
    """The rewards of each task of several environments."""

    tallies: Sequence[_Tally]

    def __iter__(self) -> Iterator[Sequence[float]]:
        return (group for tally in self.tallies for group in tally.rewards)


def _durations(spreads: Sequence[Spread], count: int) -> dict[str, float] | None:
    if not count:
        return None
    p50, p95, longest = quantiles(Spread.merged(spreads), count, (0.5, 0.95, 1.0))
    return {"p50": p50, "p95": p95, "max": longest}


def _mean_metrics(tally: _Tally) -> dict[str, float]:
    means = {name: total / tally.counts[name] for name, total in tally.sums.items()}
    return {name: mean for name, mean in means.items() if isfinite(mean)}


def _if_finite(value: float) -> float | None:
    return value if isfinite(value) else None


def _pass_at(groups: _Groups) -> dict[str, float]:
    least = min(map(len, groups), default=0)
    if least < 2:
        return {}
    sums = dict.fromkeys([*(k for k in (1, 2, 4, 8, 16, 32, 64, 128) if k < least), least], 0.0)
    tasks = 0
    for group in groups:
        tasks += 1
        for k in sums:
            sums[k] += pass_at_k(group, k)
    return {str(k): total / tasks for k, total in sums.items()}
