"""
What cannot be played any more, and rollouts of which a model or an environment says that: here that ends no others.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, cast

from gymcore.errors import EndpointError
from gymcore.records import POISON, Failure, FailureStage, Rollout, RolloutKey, Trajectory
from gymcore.runtime.brackets import Say
from gymcore.runtime.executor import Executor
from gymcore.runtime.placement import is_set_aside
from gymcore.runtime.schedule import Planned
from gymcore.serving.refusals import FailedRollout

__all__ = ["DEATHS", "Begun", "Enduring", "Unplayable", "failure_of"]

DEATHS = 3
"""
After how many deaths of its worker in a row a task is not played again.

A worker that dies takes innocent rollouts with it, so one death proves nothing.
"""

MOST_SAID = 100
"""So many different reasons why an endpoint cannot be used are said."""

TaskKey = tuple[str, str]
"""Environment and task id."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A rollout that has begun; where it is ended from here, nothing is told of it but how it failed."""

    planned: Planned
    started_at: float = field(default_factory=time.time)
    started: float = field(default_factory=time.perf_counter)

    def failed(self, failure: Failure) -> Rollout:
        """Return what it was, up to now."""
        planned, duration_s = self.planned, time.perf_counter() - self.started
        return Rollout(
            planned.row,
            planned.repeat,
            Trajectory(),
            failure=failure,
            started_at=self.started_at,
            duration_s=duration_s,
        )


class Unplayable:
    """
    What is not played any more as long as this process lives: whole environments, and tasks that end their workers.

    Args:
        poison: Rollouts that ended their workers in an earlier process; nothing of their tasks is played.
        say: Told why nothing more of an environment can be played.

    Attributes:
        environments: Those of which nothing can be played, and why.
    """

    def __init__(self, poison: Iterable[RolloutKey], say: Say) -> None:
        self.environments: dict[str, str] = {}
        self._poison = {key[:2] for key in poison}
        self._deaths: Counter[TaskKey] = Counter()
        self._said: set[str] = set()
        self._say = say

    def refuse(self, task: TaskKey) -> None:
        """
        Refuse a task that ends its workers.

        Raises:
            FailedRollout: it does.
        """
        if task in self._poison:
            told = f"its worker died {DEATHS} times while this task was played, which is not played again"
            raise FailedRollout(Failure(stage="worker", error=POISON, message=told, retryable=False))

    def told(self, task: TaskKey, failure: Failure) -> Failure:
        """Return what a client is told of a failure: another process may try again what this one does not."""
        if task in self._poison or task[0] in self.environments:
            return failure.model_copy(update={"retryable": False})
        return failure

    def deaths(self, task: TaskKey) -> int:
        """Return how often a worker has died of a task since one last lived."""
        return self._deaths[task]

    def judge(self, rollout: Rollout, deaths: int) -> None:
        """
        Take note of how a rollout has ended.

        Args:
            rollout: Which.
            deaths: What `deaths` was when it began: those that one worker takes with it have died once, not each.
        """
        task, failure = rollout.row.identity, rollout.failure
        if failure is None or failure.stage != "worker":
            del self._deaths[task]
        elif is_set_aside(failure):
            self.set_aside(task[0], failure.message)
        elif self._deaths[task] == deaths:
            self._deaths[task] += 1
            if self._deaths[task] == DEATHS:
                self._poison.add(task)

    def tell(self, error: EndpointError) -> None:
        """Say once why nobody can use an endpoint, and what to try: who started the server can, and its clients not."""
        told = str(error)
        if told not in self._said and len(self._said) < MOST_SAID:
            self._said.add(told)
            self._say(told)

    def set_aside(self, environment: str, why: str) -> None:
        """Take note that nothing of an environment can be played any more."""
        if environment not in self.environments:
            self.environments[environment] = why[:2000]
            self._say(f"{environment}: nothing more of it can be played: {why}")


def failure_of(error: EndpointError) -> Failure:
    """Return what an endpoint that nobody can use is for one rollout."""
    stage = cast(FailureStage, error.stage or "model")
    told = f"{error.message} ({error.where})" if error.where else error.message
    return Failure(stage=stage, error=type(error).__name__, message=told[:2000], retryable=True)


class Enduring:
    """
    Plays as another executor does; an endpoint that nobody can use ends a run, but here a rollout.

    Args:
        executor: What plays.
        unplayable: Told what cannot be played any more.
        provenance_of: Says where a rollout comes from.
    """

    def __init__(
        self,
        executor: Executor,
        unplayable: Unplayable,
        provenance_of: Callable[[Planned], dict[str, Any]],
    ) -> None:
        self._executor = executor
        self._unplayable = unplayable
        self._provenance_of = provenance_of

    async def play(self, planned: Planned) -> Rollout:
        """Play one rollout to its end; an endpoint that cannot be used is its failure."""
        begun, deaths = Begun(planned), self._unplayable.deaths(planned.key[:2])
        try:
            rollout = await self._executor.play(planned)
        except EndpointError as error:
            if error.stage in (None, "model"):
                self._unplayable.tell(error)
            elif error.is_lasting:
                self._unplayable.set_aside(planned.route.environment, error.message)
            return replace(begun.failed(failure_of(error)), provenance=self._provenance_of(planned))
        self._unplayable.judge(rollout, deaths)
        return rollout

    def withdraw(self) -> None:
        """Stop, now and later, every rollout that has not begun because its environment waits for what is gone."""
        self._executor.withdraw()

    def cancel(self) -> None:
        """Stop every rollout that is being played."""
        self._executor.cancel()

    def notes(self) -> tuple[str, ...]:
        """Return what a person should know now, one line each."""
        return self._executor.notes()
