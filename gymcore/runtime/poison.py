"""
Poison: a rollout that ends the process that plays it, twice, is recorded as a failure and not played again.
"""

from __future__ import annotations

from gymcore.records import POISON, Failure, RolloutKey

__all__ = ["WorkerDeaths"]

DEATHS = 2
"""With how many dead workers a rollout counts as poison."""


class WorkerDeaths:
    """Counts, for each rollout, how often its worker died while it was played."""

    def __init__(self) -> None:
        self._deaths: dict[RolloutKey, int] = {}

    def judge(self, key: RolloutKey, failure: Failure) -> Failure | None:
        """
        Say what to record of an attempt that failed.

        A worker that dies takes innocent rollouts with it, so one death proves nothing: the rollout is played again
        with nothing else of its environment beside it, and a second death is its own.

        Returns:
            The failure, perhaps made a definite one; None where the rollout is owed another attempt.
        """
        if failure.stage != "worker":
            self._deaths.pop(key, None)
            return failure
        deaths = self._deaths.get(key, 0) + 1
        if deaths < DEATHS:
            self._deaths[key] = deaths
            return None
        self._deaths.pop(key, None)
        message = f"its worker died {deaths} times while it was played, the last time alone: {failure.message}"
        return failure.model_copy(update={"error": POISON, "message": message[:2000], "retryable": False})
