"""
What a report remembers of millions of rollouts: arrays of numbers, and no object for each.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from gymcore.compact_keys import KeyNumbers, KeySet

__all__ = ["Reasons", "Spread", "TaskRewards"]


class TaskRewards:
    """
    The rewards of each task, every repeat once: 12 bytes a rollout and 28 a task, and as much again while it is read.

    Iterating gives the rewards of one task after the other, each time anew.
    """

    def __init__(self) -> None:
        self._numbers = KeyNumbers()
        self._repeats = array("Q")
        """For each task, which of its first 64 repeats are there, as bits; the others stand in `_late`."""
        self._late: KeySet | None = None
        """Made for the first of them: most runs have none, and a trainer that plays its tasks anew has millions."""
        self._tasks = array("I")
        self._rewards = array("d")

    def __len__(self) -> int:
        """Return the number of rollouts."""
        return len(self._rewards)

    def add(self, task_id: str, repeat: int, reward: float) -> bool:
        """Remember a rollout, and return whether it is new."""
        task = self._numbers.number(task_id.encode("utf-8", "surrogatepass"))
        if task == len(self._repeats):
            self._repeats.append(0)
        if self._has(task, repeat):
            return False
        if 0 <= repeat < 64:
            self._repeats[task] |= 1 << repeat
        else:
            if self._late is None:
                self._late = KeySet()
            self._late.add(_late_key(task, repeat))
        self._tasks.append(task)
        self._rewards.append(reward)
        return True

    def _has(self, task: int, repeat: int) -> bool:
        if 0 <= repeat < 64:
            return bool(self._repeats[task] >> repeat & 1)
        return self._late is not None and _late_key(task, repeat) in self._late

    def __contains__(self, rollout: tuple[str, int]) -> bool:
        task_id, repeat = rollout
        task = self._numbers.find(task_id.encode("utf-8", "surrogatepass"))
        return task is not None and self._has(task, repeat)

    def __iter__(self) -> Iterator[Sequence[float]]:
        if len(self._numbers) == len(self._rewards):  # every task was played once
            yield from zip(self._rewards)
            return
        sizes = array("I", bytes(4 * len(self._numbers)))
        for task in self._tasks:
            sizes[task] += 1
        places = array("I", accumulate(sizes, initial=0))
        rewards = array("d", bytes(8 * len(self._rewards)))
        for task, reward in zip(self._tasks, self._rewards, strict=True):
            rewards[places[task]] = reward
            places[task] += 1
        # By now the place of a task is where the next one starts.
        for end, size in zip(places, sizes, strict=False):
            yield rewards[end - size : end]


def _late_key(task: int, repeat: int) -> bytes:
    return f"{task}/{repeat}".encode()


class Spread:
    """Numbers of which quantiles are wanted, sorted in runs as they come: 8 bytes each."""

    RUN = 1 << 16

    def __init__(self) -> None:
        self._runs: list[array[float]] = []
        self._last = array("d")

    def __len__(self) -> int:
        return len(self._runs) * self.RUN + len(self._last)

    def add(self, value: float) -> None:
        """Remember a number."""
        self._last.append(value)
        if len(self._last) == self.RUN:
            self._runs.append(array("d", sorted(self._last)))
            self._last = array("d")

    def runs(self) -> list[Sequence[float]]:
        """Return all numbers, as sorted sequences."""
        return [*self._runs, sorted(self._last)]

    @staticmethod
    def merged(spreads: Iterable[Spread]) -> Iterator[float]:
        """Return the numbers of several spreads from the smallest to the largest."""
        return heapq.merge(*(run for spread in spreads for run in spread.runs()))


class Reasons:
    """
    Why rollouts failed: the last reason of each, 24 bytes a rollout.

    Reasons may be as many as failures, as when each names an address; after the first thousands all others are one.
    """

    DISTINCT = 4096
    OTHER = "(other reasons)"
    _NONE = 0xFFFF
    """Instead of the number of a reason: the rollout was finished after all."""

    def __init__(self) -> None:
        self._rollouts = KeyNumbers()
        self._reasons = array("H")
        self._texts: list[str] = []
        self._counts: list[int] = []
        """How many rollouts have each reason, by its number."""
        self._free: list[int] = []
        """Numbers of reasons that nobody has any more."""
        self._forgotten = 0
        self._environments = array("I")
        self._reason_numbers: dict[str, int] = {}
        self._environment_numbers: dict[str, int] = {}

    def add(self, environment: str, task_id: str, repeat: int, reason: str) -> None:
        """Remember why a rollout failed, instead of why it failed before."""
        rollout = self._rollouts.number(_key(environment, task_id, repeat))
        if rollout < len(self._reasons):
            self._release(rollout)
        if len(self._reason_numbers) >= self.DISTINCT and reason not in self._reason_numbers:
            reason = self.OTHER
        number = self._number(reason)
        self._counts[number] += 1
        if rollout < len(self._reasons):
            self._reasons[rollout] = number
            return
        self._reasons.append(number)
        environments = self._environment_numbers
        self._environments.append(environments.setdefault(environment, len(environments)))

    def forget(self, environment: str, task_id: str, repeat: int) -> None:
        """Take a rollout out: it was finished after all."""
        if not self._reasons:
            return
        rollout = self._rollouts.find(_key(environment, task_id, repeat))
        if rollout is not None and self._reasons[rollout] != self._NONE:
            self._release(rollout)
            self._reasons[rollout] = self._NONE
            self._forgotten += 1

    def _number(self, reason: str) -> int:
        number = self._reason_numbers.get(reason)
        if number is None:
            number = self._free.pop() if self._free else len(self._texts)
            self._reason_numbers[reason] = number
            if number == len(self._texts):
                self._texts.append(reason)
                self._counts.append(0)
            self._texts[number] = reason
        return number

    def _release(self, rollout: int) -> None:
        """Take a rollout's reason away, and with its last rollout the reason itself."""
        number = self._reasons[rollout]
        if number == self._NONE:
            self._forgotten -= 1
            return
        self._counts[number] -= 1
        if not self._counts[number]:
            del self._reason_numbers[self._texts[number]]
            self._free.append(number)

    def __len__(self) -> int:
        """Return the number of rollouts."""
        return len(self._reasons) - self._forgotten

    def by_environment(self) -> dict[str, int]:
        """Return how many rollouts of each environment failed."""
        counts = [0] * len(self._environment_numbers)
        for environment, reason in zip(self._environments, self._reasons, strict=True):
            if reason != self._NONE:
                counts[environment] += 1
        return {name: counts[number] for name, number in self._environment_numbers.items() if counts[number]}

    def by_reason(self) -> dict[str, int]:
        """Return how many rollouts failed for each reason, the most frequent first, then by the alphabet."""
        found = {reason: self._counts[number] for reason, number in self._reason_numbers.items()}
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _key(environment: str, task_id: str, repeat: int) -> bytes:
    return f"{environment}\0{repeat}\0{task_id}".encode("utf-8", "surrogatepass")
