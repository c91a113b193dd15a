"""
Rollouts of which a model or an environment says that none can be played: here that ends one, and not all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, cast

from gymcore.errors import EndpointError
from gymcore.records import Failure, FailureStage, Rollout, Trajectory
from gymcore.runtime.brackets import Say
from gymcore.runtime.executor import Executor
from gymcore.runtime.placement import is_set_aside
from gymcore.runtime.schedule import Planned

__all__ = ["Enduring", "failure_of"]


def failure_of(error: EndpointError) -> Failure:
    """Return what an endpoint that nobody can use is for one rollout."""
    stage = cast(FailureStage, error.stage or "model")
    return Failure(stage=stage, error=type(error).__name__, message=error.message[:2000], retryable=True)


class Enduring:
    """
    Plays as another executor does; an endpoint that nobody can use ends a run, but here a rollout.

    Args:
        executor: What plays.
        down: Where it is written which environments cannot be played as long as this process lives, and why.
        say: Told so.
        provenance_of: Says where a rollout comes from.
    """

    def __init__(
        self,
        executor: Executor,
        down: dict[str, str],
        say: Say,
        provenance_of: Callable[[Planned], dict[str, Any]],
    ) -> None:
        self._executor = executor
        self._down = down
        self._say = say
        self._provenance_of = provenance_of

    async def play(self, planned: Planned) -> Rollout:
        """Play one rollout to its end; an endpoint that cannot be used is its failure."""
        environment = planned.route.environment
        started_at, started = time.time(), time.perf_counter()
        try:
            rollout = await self._executor.play(planned)
        except EndpointError as error:
            if error.is_lasting and error.stage not in (None, "model"):
                self._note(environment, error.message)
            return Rollout(
                planned.row,
                planned.repeat,
                Trajectory(),
                failure=failure_of(error),
                started_at=started_at,
                duration_s=time.perf_counter() - started,
                provenance=self._provenance_of(planned),
            )
        if rollout.failure is not None and is_set_aside(rollout.failure):
            self._note(environment, rollout.failure.message)
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

    def _note(self, environment: str, why: str) -> None:
        if environment not in self._down:
            self._down[environment] = why[:2000]
            self._say(f"{environment}: nothing more of it can be played: {why}")
