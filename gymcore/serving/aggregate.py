"""
What the rollouts of one agent amount to: statistics of every number in them, by task and in total.

Source: the answer of `/aggregate_metrics` of nemo-gym 0.4.0, whose keys are `mean/reward`, `max/reward`, ...
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from gymcore.serving.refusals import Refusal

__all__ = ["aggregate", "with_own"]

NOT_MEASURED = ("epoch", "repeat", "task_id")
"""Numbers of a row that measure nothing."""


MOST_NAMES = 1_000
"""So many different numbers the rollouts may have: a benchmark measures dozens."""

LONGEST_NAME = 200
"""Names are written ten times into the answer."""


def aggregate(body: Mapping[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """
    Sum up what a client has collected.

    Args:
        body: `verify_responses` holds the rollouts, with or without their bulky parts.

    Returns:
        The rollouts that did not fail, and `group_level_metrics`, one entry for each task, and `agent_metrics` over
        all.

    Raises:
        Refusal: there are no such rollouts, or they have too many different numbers.
    """
    rollouts = body.get("verify_responses")
    if not isinstance(rollouts, list) or not all(isinstance(rollout, dict) for rollout in rollouts):
        raise Refusal(422, "`verify_responses` must be a list of objects")
    rollouts = [rollout for rollout in rollouts if "_ng_failure_class" not in rollout]  # what failed measures nothing
    groups: dict[Any, list[dict[str, float]]] = {}
    names: set[str] = set()
    for rollout in rollouts:
        index = rollout.get("_ng_task_index")
        numbers = dict(_numbers(rollout))
        names.update(numbers)
        if len(names) > MOST_NAMES:
            raise Refusal(413, f"the rollouts have more than {MOST_NAMES:,} different numbers")
        groups.setdefault(index if isinstance(index, int) else -1, []).append(numbers)
    if any(len(name) > LONGEST_NAME for name in names):
        raise Refusal(413, f"the name of a number is longer than {LONGEST_NAME} letters")
    agent = _statistics([numbers for group in groups.values() for numbers in group])
    return rollouts, {
        "group_level_metrics": [
            {"_ng_task_index": index, **_statistics(group), "num_rollouts": len(group)}
            for index, group in sorted(groups.items())
        ],
        "agent_metrics": agent,
    }


def with_own(found: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is answered: our statistics with what the environment says itself, and the metrics to be shown."""
    agent = {**found["agent_metrics"], **own.get("agent_metrics", {})}
    means = {name: value for name, value in agent.items() if name.startswith("mean/")}
    return {"key_metrics": means, **found, **own, "agent_metrics": agent}


def _numbers(rollout: Mapping[str, Any]) -> Iterable[tuple[str, float]]:
    """Yield what can be averaged: the top-level numbers, truths as 0 and 1, and the token counts of the response."""
    response = rollout.get("response")
    usage = response.get("usage") if isinstance(response, dict) else None
    for source in (rollout, usage):
        for name, value in source.items() if isinstance(source, dict) else ():
            if name.startswith("_ng_") or name in NOT_MEASURED or not isinstance(value, int | float):
                continue
            if abs(value) < 2**63 and math.isfinite(value):
                yield name, float(value)


def _statistics(rollouts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the statistics of every number that some of the rollouts have."""
    columns: dict[str, list[float]] = {}
    for numbers in rollouts:
        for name, value in numbers.items():
            columns.setdefault(name, []).append(value)
    found: dict[str, float] = {}
    for name, values in sorted(columns.items()):
        mean = math.fsum(values) / len(values)
        found[f"mean/{name}"] = mean
        found[f"max/{name}"] = max(values)
        found[f"min/{name}"] = min(values)
        found[f"median/{name}"] = median(values)
        found[f"std/{name}"] = _deviation(values, mean)
    return found


def _deviation(values: Sequence[float], mean: float) -> float:
    """Return the standard deviation of a sample, which `statistics.stdev` takes twenty times as long for."""
    if len(values) == 1:
        return 0.0
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
