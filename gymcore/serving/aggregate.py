"""
What the rollouts of one agent amount to: statistics of every number in them, by task and in total.

Source: the answer of `/aggregate_metrics` of nemo-gym 0.4.0, whose keys are `mean/reward`, `max/reward`, ...
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import merge
from itertools import islice
from statistics import median
from typing import Any

from gymcore.documents import encode_json
from gymcore.serving.refusals import Refusal

__all__ = ["Summary", "summed_up"]

NOT_MEASURED = ("epoch", "repeat", "task_id")
"""Numbers of a row that measure nothing."""

MOST_NAMES = 1_000
"""So many different numbers the rollouts may have: a benchmark measures dozens."""

LONGEST_NAME = 200
"""Names are written ten times into the answer."""

MOST_ROLLOUTS = 500_000
"""So many rollouts are summed up at once."""

MOST_NUMBERS = 10_000_000
"""So many numbers they may have together: each takes sixteen bytes."""

SORTED_AT_ONCE = 2**14
"""So many numbers are sorted in a few milliseconds."""

Name = tuple[str, bool]
"""What a number is called, and whether it is a whole one."""


@dataclass(slots=True)
class _Group:
    """The rollouts of one task."""

    agent: str
    rollouts: list[tuple[int, tuple[Name, ...], array[float]]] = field(default_factory=list)
    failed: int = 0


@dataclass(slots=True)
class Summary:
    """The numbers of many rollouts."""

    groups: dict[int, _Group] = field(default_factory=dict)
    columns: dict[str, array[float]] = field(default_factory=dict)
    environments: set[str | None] = field(default_factory=set)
    """Whose rollouts they are; None stands for nobody here."""
    count: int = 0

    @property
    def environment(self) -> str | None:
        """Whose rollouts all of them are; None where they are of several, or of nobody here."""
        return next(iter(self.environments)) if len(self.environments) == 1 else None

    def written(self, own: Mapping[str, Any]) -> Iterator[bytes]:
        """
        Yield the answer in pieces.

        Args:
            own: What the environment says of them itself.
        """
        agent = {**_statistics(self.columns, self.count), **own.get("agent_metrics", {})}
        shown = own.get("key_metrics", {name: value for name, value in agent.items() if name.startswith("mean/")})
        yield b'{"agent_metrics":%b,"key_metrics":%b,"group_level_metrics":[' % (encode_json(agent), encode_json(shown))
        for number, group in enumerate(self._groups(own.get("group_level_metrics", ()))):
            yield (b"," if number else b"") + encode_json(group)
        yield b"]}"

    def _groups(self, own: Iterable[Any]) -> Iterator[Any]:
        """
        Yield what is answered of each task, and then what the environment says of anything else.

        Its metrics win; which rollouts there are, and which are missing, it does not know.
        """
        told: dict[int, dict[str, Any]] = {}
        further: list[Any] = []
        for entry in own:
            index = entry.get("_ng_task_index") if isinstance(entry, dict) else None
            if isinstance(index, int) and index in self.groups:
                told.setdefault(index, {}).update(entry)
            else:
                further.append(entry)
        for index, group in sorted(self.groups.items()):
            columns: dict[str, array[float]] = {}
            for _, names, values in group.rollouts:
                for (name, _), value in zip(names, values, strict=True):
                    columns.setdefault(name, array("d")).append(value)
            count, expected = len(group.rollouts), len(group.rollouts) + group.failed
            yield {
                "_ng_task_index": index,
                **_statistics(columns, count),
                **told.get(index, {}),
                "sample": {"agent_ref": {"name": group.agent}},
                "num_rollouts": count,
                "expected_num_rollouts": expected,
                "missing_num_rollouts": group.failed,
                "reward_profile_completion_pct": 100.0 * count / expected,
                "rollout_infos": [
                    _info(index, *rollout) for rollout in sorted(group.rollouts, key=lambda known: known[0])
                ],
            }
        yield from further


def summed_up(
    rollouts: Iterable[Mapping[str, Any]], environment_of: Callable[[Mapping[str, Any]], str | None]
) -> Summary:
    """
    Sum up what a client has collected.

    Args:
        rollouts: With or without their bulky parts.
        environment_of: Says whose rollout one is.

    Raises:
        Refusal: they are too many, or have too many different numbers.
    """
    found = Summary()
    kinds: dict[tuple[Name, ...], tuple[Name, ...]] = {}
    numbers = 0
    for rollout in rollouts:
        found.count += 1
        if found.count > MOST_ROLLOUTS:
            raise Refusal(413, f"there are more than {MOST_ROLLOUTS:,} rollouts")
        index = rollout.get("_ng_task_index")
        index = index if isinstance(index, int) else -1
        group = found.groups.get(index)
        if group is None:
            group = found.groups[index] = _Group(_agent_of(rollout))
        if "_ng_failure_class" in rollout:  # what failed measures nothing
            group.failed += 1
            continue
        found.environments.add(environment_of(rollout))
        own = dict(_numbers(rollout))
        numbers += len(own)
        if numbers > MOST_NUMBERS:
            raise Refusal(413, f"the rollouts have more than {MOST_NUMBERS:,} numbers")
        names = tuple((name, isinstance(value, int)) for name, value in own.items())
        if (known := kinds.get(names)) is None:
            known = kinds[names] = names
        values = array("d", own.values())
        for (name, _), value in zip(known, values, strict=True):
            column = found.columns.get(name)
            if column is None:
                column = _new_column(found.columns, name)
            column.append(value)
        number = rollout.get("_ng_rollout_index")
        group.rollouts.append((number if isinstance(number, int) else len(group.rollouts), known, values))
    found.count -= sum(group.failed for group in found.groups.values())
    return found


def _new_column(columns: dict[str, array[float]], name: str) -> array[float]:
    if len(name) > LONGEST_NAME:
        raise Refusal(413, f"the name of a number is longer than {LONGEST_NAME} letters")
    if len(columns) == MOST_NAMES:
        raise Refusal(413, f"the rollouts have more than {MOST_NAMES:,} different numbers")
    column = columns[name] = array("d")
    return column


def _agent_of(rollout: Mapping[str, Any]) -> str:
    reference = rollout.get("agent_ref")
    name = reference.get("name") if isinstance(reference, dict) else reference
    return name[:LONGEST_NAME] if isinstance(name, str) else "agent"


def _numbers(rollout: Mapping[str, Any]) -> Iterable[tuple[str, int | float]]:
    """Yield what can be averaged: the top-level numbers, truths as 0 and 1, and the token counts of the response."""
    response = rollout.get("response")
    usage = response.get("usage") if isinstance(response, dict) else None
    for source in (rollout, usage):
        for name, value in source.items() if isinstance(source, dict) else ():
            if not isinstance(value, int | float) or name.startswith("_ng_") or name in NOT_MEASURED:
                continue
            if abs(value) < 2**63 and math.isfinite(value):
                yield name, value


def _info(task: int, rollout: int, names: tuple[Name, ...], values: array[float]) -> dict[str, Any]:
    """Return what is answered of one rollout: its numbers, and which one it is."""
    told = {name: int(value) if is_whole else value for (name, is_whole), value in zip(names, values, strict=True)}
    which = {"rollout_id": f"{task}:{rollout}", "_ng_task_index": task, "_ng_rollout_index": rollout}
    return {**told, **which}


def _statistics(columns: Mapping[str, array[float]], count: int) -> dict[str, float]:
    """Return the statistics of every number that some of the rollouts have; what one of several has has no spread."""
    found: dict[str, float] = {}
    for name, values in sorted(columns.items()):
        mean = math.fsum(values) / len(values)
        found[f"mean/{name}"] = mean
        found[f"max/{name}"] = max(values)
        found[f"min/{name}"] = min(values)
        found[f"median/{name}"] = _median(values)
        if len(values) > 1 or count == 1:
            found[f"std/{name}"] = _deviation(values, mean)
    return found


def _median(values: array[float]) -> float:
    """Return the median, without sorting very many in one go, during which nobody else would be answered."""
    if len(values) <= SORTED_AT_ONCE:
        return median(values)
    parts = [sorted(values[at : at + SORTED_AT_ONCE]) for at in range(0, len(values), SORTED_AT_ONCE)]
    return median(islice(merge(*parts), (len(values) - 1) // 2, len(values) // 2 + 1))


def _deviation(values: Sequence[float], mean: float) -> float:
    """Return the standard deviation of a sample, which `statistics.stdev` takes twenty times as long for."""
    if len(values) == 1:
        return 0.0
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
