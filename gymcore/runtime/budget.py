"""
Failure budgets: how many rollouts of an environment may fail in a run until that environment alone is stopped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from gymcore.composition import Composition
from gymcore.records import Failure

__all__ = ["FailureBudgets", "OverBudget", "allowed_failures"]

REASONS = 100
REASON_LENGTH = 200
"""At most so many different reasons of so many characters are told apart in an environment."""


@dataclass(frozen=True, slots=True)
class OverBudget:
    """An environment that was stopped, as it was at that moment."""

    environment: str
    failed: int
    """Rollouts that failed in this run."""
    planned: int
    """Rollouts that the plan asks for."""
    budget: int | str
    """What the plan allows: a count, or a share such as `5%`."""
    reason: str
    """The most frequent `stage: message`."""
    reason_count: int

    def __str__(self) -> str:
        return (
            f"{self.environment} is stopped, the others go on: {self.failed:,} of its {self.planned:,} rollouts failed,"
            f" max_failures is {self.budget}; {self.reason_count:,} x {self.reason}"
        )


def allowed_failures(budget: int | str, planned: int) -> int:
    """
    Return how many rollouts may fail.

    Args:
        budget: A count, or a share of the planned rollouts such as `5%`; what is no whole rollout is not allowed.
        planned: How many rollouts the plan asks for.
    """
    if isinstance(budget, int):
        return budget
    # Exactly: 7 % of 100 must be 7.
    return int(Fraction(budget.removesuffix("%")) * planned / 100)


class FailureBudgets:
    """
    Counts failures against what the plan allows.

    Args:
        composition: What is played.
        planned: How many rollouts of each environment the plan asks for.
    """

    def __init__(self, composition: Composition, planned: Mapping[str, int]) -> None:
        self._planned = planned
        self._budgets: dict[str, int | str] = {}
        self._failed: Counter[str] = Counter()
        self._reasons: dict[str, Counter[str]] = {}
        self._over: dict[str, OverBudget] = {}
        for route in composition.routes.values():
            own, general = route.plan.max_failures, composition.plan.collect.max_failures
            budget = general if own is None else own
            if budget is not None:
                self._budgets[route.environment] = budget
                self._reasons[route.environment] = Counter()

    @property
    def over(self) -> tuple[OverBudget, ...]:
        """The environments over their budget, in the order in which they got there."""
        return tuple(self._over.values())

    def add(self, environment: str, failure: Failure) -> OverBudget | None:
        """Count a failure; return what is to be said when it is the one that is too many."""
        budget = self._budgets.get(environment)
        if budget is None or environment in self._over:
            return None
        self._failed[environment] += 1
        reasons = self._reasons[environment]
        reason = f"{failure.stage}: {failure.message[:REASON_LENGTH]}"
        if reason in reasons or len(reasons) < REASONS:
            reasons[reason] += 1
        planned, failed = self._planned[environment], self._failed[environment]
        if failed <= allowed_failures(budget, planned):
            return None
        over = OverBudget(environment, failed, planned, budget, *reasons.most_common(1)[0])
        self._over[environment] = over
        return over
