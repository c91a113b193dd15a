"""
Which rollouts are finished: enough to tell whether one is, and how each environment stands, in 16 bytes a rollout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from gymcore.compact_keys import KeySet
from gymcore.records import RolloutKey

__all__ = ["EnvironmentTally", "Finished"]


@dataclass(slots=True)
class EnvironmentTally:
    """How an environment stands."""

    finished: int = 0
    reward_sum: float = 0.0


class Finished:
    """
    The finished rollouts of a run folder: `key in finished` and `len(finished)`; it cannot list its keys.

    Args:
        repeats: How many rollouts of each task of an environment are asked for; all, where nothing is said.

    Attributes:
        environments: How many of the rollouts that are asked for each environment has, and the sum of their rewards.
    """

    def __init__(self, repeats: Mapping[str, int] | None = None) -> None:
        self.environments: dict[str, EnvironmentTally] = {}
        self._repeats = dict(repeats or {})
        self._keys = KeySet()

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, tuple) and len(key) == 3 and _as_bytes(key) in self._keys

    def add(self, key: RolloutKey, reward: float | None) -> bool:
        """Count a finished rollout, and return whether it was not counted before."""
        if not self._keys.add(_as_bytes(key)):
            return False
        asked = self._repeats.get(key[0])
        if asked is not None and key[2] >= asked:
            return True
        tally = self.environments.get(key[0])
        if tally is None:
            tally = self.environments[key[0]] = EnvironmentTally()
        tally.finished += 1
        tally.reward_sum += reward or 0.0
        return True

    def copy(self) -> Finished:
        """Return what is finished now; it does not grow with the original, and takes little memory beside it."""
        other = Finished(self._repeats)
        other.environments = {name: replace(tally) for name, tally in self.environments.items()}
        other._keys = self._keys.copy()
        return other


def _as_bytes(key: RolloutKey) -> bytes:
    environment, task_id, repeat = key
    # Neither an environment's name nor a number can hold the separator, so no two keys look alike.
    return f"{environment}\0{repeat}\0{task_id}".encode("utf-8", "surrogatepass")
