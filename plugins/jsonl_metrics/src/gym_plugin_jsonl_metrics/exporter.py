"""
The hooks: every event becomes whole lines at the end of `metrics.jsonl` in the run folder.

There is no state between two events, so runs in one process may share the module.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from gymcore import Rollout, hookimpl

__all__ = ["METRICS_NAME", "gym_rollouts", "gym_run_finish", "gym_run_start"]

METRICS_NAME = "metrics.jsonl"

TAIL_BYTES = 2**16
"""How much is read at a time to find where the last whole line ends."""


@hookimpl
def gym_run_start(folder: Path, planned: int) -> None:
    """Remove what a killed run left of its last line, and begin."""
    _cut_torn_line(folder / METRICS_NAME)
    _append(folder, [{"event": "start", "planned": planned}])


@hookimpl
def gym_rollouts(folder: Path, rollouts: Sequence[Rollout]) -> None:
    """Sum a batch up, one line for each of its environments."""
    by_environment: dict[str, list[Rollout]] = {}
    for rollout in rollouts:
        by_environment.setdefault(rollout.environment, []).append(rollout)
    _append(folder, (_summed_up(name, found) for name, found in by_environment.items()))


@hookimpl
def gym_run_finish(folder: Path, report: dict[str, Any]) -> None:
    """Write the report."""
    _append(folder, [{"event": "finish", "report": report}])


def _summed_up(environment: str, rollouts: Sequence[Rollout]) -> dict[str, Any]:
    rewards = [rollout.reward.value for rollout in rollouts if rollout.reward is not None]
    durations = [rollout.duration_s for rollout in rollouts]
    usages = [usage for rollout in rollouts if (usage := rollout.trajectory.usage) is not None]
    tokens = [usage["total_tokens"] for usage in usages if isinstance(usage.get("total_tokens"), int)]
    return {
        "event": "rollouts",
        "environment": environment,
        "rollouts": len(rollouts),
        "reward": {"mean": fmean(rewards), "min": min(rewards), "max": max(rewards)} if rewards else None,
        "turns": sum(len(rollout.trajectory.turns) for rollout in rollouts),
        "tokens": sum(tokens) if tokens else None,
        "truncated": sum(rollout.trajectory.is_truncated for rollout in rollouts),
        "duration_s": {"mean": fmean(durations), "max": max(durations)},
    }


def _append(folder: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Write lines with one call, so that a process that is killed tears one of them at most."""
    at = round(time.time(), 3)
    text = "".join(json.dumps({"at": at, **line}, allow_nan=False) + "\n" for line in lines)
    with open(folder / METRICS_NAME, "ab", buffering=0, opener=_open_here) as file:
        left = memoryview(text.encode("ascii"))
        while left:
            left = left[file.write(left) :]


def _cut_torn_line(path: Path) -> None:
    """Remove what stands after the last end of a line."""
    if not path.exists():
        return
    with open(path, "r+b", opener=_open_here) as file:
        end = size = file.seek(0, os.SEEK_END)
        while end > 0:
            begin = max(0, end - TAIL_BYTES)
            file.seek(begin)
            found = file.read(end - begin).rfind(b"\n")
            if found >= 0:
                end = begin + found + 1
                break
            end = begin
        if end < size:
            file.truncate(end)


def _open_here(path: str, flags: int) -> int:
    """Open a file of the folder, and not what a link of that name leads to."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
