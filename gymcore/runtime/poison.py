"""
Poison: a rollout that ends the process that plays it, alone, is recorded as a failure and not played again.
"""

from __future__ import annotations

from gymcore.records import POISON, Failure, RolloutKey
from gymcore.runtime.schedule import Planned, Schedule

__all__ = ["WorkerDeaths"]


class WorkerDeaths:
    """
    Counts, for each rollout, how often its worker died while it was played.

    Args:
        schedule: Where a rollout is put that is owed another attempt.
    """

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._deaths: dict[RolloutKey, int] = {}

    def judge(self, planned: Planned, failure: Failure) -> Failure | None:
        """
        Say what to record of an attempt that failed.

        A worker that dies takes innocent rollouts with it, so one death proves nothing: the rollout is played again
        with few others, or none, and what then dies alone has died of itself.

        Args:
            planned: Which rollout it was an attempt at.
            failure: How it failed.

        Returns:
            The failure, perhaps made a definite one; None where the rollout is owed another attempt, and will get it.
        """
        if failure.stage != "worker":
            self.acquit(planned)
            return failure
        deaths = self._deaths.get(planned.key, 0) + 1
        if not planned.is_alone:
            self._deaths[planned.key] = deaths
            self._schedule.suspect(planned, deaths)
            return None
        self.acquit(planned)
        message = f"its worker died {deaths} times while it was played, the last time alone: {failure.message}"
        return failure.model_copy(update={"error": POISON, "message": message[:2000], "retryable": False})

    def acquit(self, planned: Planned) -> None:
        """Forget what a rollout was suspected of: an attempt at it has ended, and its worker lives."""
        if self._deaths:
            self._deaths.pop(planned.key, None)
