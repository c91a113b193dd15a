"""
Failure budgets: too many failures stop one environment, and that one alone.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gymcore import Environment, Response, Rollout, Trajectory, run
from gymcore.composition import Composition
from gymcore.interfaces import Model
from gymcore.records import Failure
from gymcore.responses import message
from gymcore.runtime import Status
from gymcore.runtime.budget import REASONS, FailureBudgets, allowed_failures

Composed = Callable[..., Composition]


class Says(Model):
    """A policy that answers at once."""

    async def respond(self, request: Any, rollout: Any) -> Response:
        await asyncio.sleep(0)
        return Response(output=[message("hi")])


class Good(Environment):
    """Always gives 1."""

    def verify(self, trajectory: Trajectory) -> float:
        return 1.0


class Bad(Environment):
    """Fails at every second task."""

    def verify(self, trajectory: Trajectory) -> float:
        if int(str(self.task.task_id).partition("/")[2]) % 2:
            raise ValueError("an odd task")
        return 1.0


@pytest.mark.parametrize(
    ("budget", "planned", "allowed"),
    [
        (0, 100, 0),
        (7, 3, 7),
        ("0%", 10**9, 0),
        ("5%", 200, 10),
        ("5%", 19, 0),
        ("7%", 100, 7),
        ("29%", 100, 29),
        ("0.1%", 1000, 1),
        ("0.1%", 999, 0),
        ("100%", 8, 8),
    ],
)
def test_a_share_is_whole_rollouts(budget: int | str, planned: int, allowed: int) -> None:
    """
    A share is exact, and what is no whole rollout is not allowed.
    """
    assert allowed_failures(budget, planned) == allowed


@given(st.decimals(0, 100, places=3), st.integers(0, 10**7))
def test_a_share_is_never_exceeded(share: Any, planned: int) -> None:
    """
    The failures allowed are the most that are still within the share.
    """
    allowed = allowed_failures(f"{share}%", planned)

    assert Fraction(allowed) <= Fraction(share) * planned / 100 < allowed + 1


async def _play(composition: Composition) -> tuple[list[Rollout], Status]:
    async with run(composition) as rollouts:
        return [rollout async for rollout in rollouts], rollouts.status()


def test_an_environment_over_its_budget_is_stopped_and_the_others_go_on(composed: Composed) -> None:
    """
    What is in flight ends, nothing more of it starts, and the status says why.
    """
    composition = composed(
        {"good": (Good, 200), "bad": (Bad, 200)}, Says, collect={"concurrency": 8, "max_failures": "5%"}
    )

    found, status = asyncio.run(asyncio.wait_for(_play(composition), 20))

    ended = Counter((rollout.environment, rollout.failure is None) for rollout in found)
    assert ended["good", True] == 200
    assert 11 <= ended["bad", False] <= 11 + 8
    assert ended["bad", True] <= ended["bad", False] + 8
    (over,) = status.stopped
    assert str(over) == (
        "bad is stopped, the others go on: 11 of its 200 rollouts failed, max_failures is 5%; 11 x verify: an odd task"
    )
    assert not status.is_stopping


def test_an_environment_may_have_a_budget_of_its_own(composed: Composed) -> None:
    """
    It wins over the general one, in both directions; without any, everything is played.
    """
    worlds = {"a": (Bad, 20), "b": (Bad, 20), "c": (Bad, 20)}
    own = {"a": {"max_failures": 10}, "b": {"max_failures": 0}}

    _, own_wins = asyncio.run(_play(composed(worlds, Says, environments=own, collect={"max_failures": "50%"})))
    found, without = asyncio.run(_play(composed(worlds, Says)))

    assert [over.environment for over in own_wins.stopped] == ["b"]
    assert without.stopped == ()
    assert len(found) == 60


def test_all_environments_over_their_budget_end_the_run(composed: Composed) -> None:
    """
    When nobody is left to play, the stream ends.
    """
    worlds = {"a": (Bad, 500), "b": (Bad, 500)}

    found, status = asyncio.run(
        asyncio.wait_for(_play(composed(worlds, Says, collect={"concurrency": 4, "max_failures": 0})), 20)
    )

    assert {over.environment for over in status.stopped} == {"a", "b"}
    assert len(found) < 20


def test_the_most_frequent_reason_is_told_and_few_are_remembered(composed: Composed) -> None:
    """
    Messages may all differ, and memory stays bounded.
    """
    composition = composed({"a": (Bad, 1)}, Says, collect={"max_failures": 5000})
    budgets = FailureBudgets(composition, {"a": 10**6})
    over = None
    for number in range(5001):
        text = "the disk is full" if number % 50 == 0 else f"no file {number}" + "!" * 5000
        over = budgets.add("a", Failure(stage="tool", error="OSError", message=text[:2000], retryable=True))
        assert (over is None) == (number < 5000)

    assert over is not None
    assert (over.failed, over.reason, over.reason_count) == (5001, "tool: the disk is full", 101)
    assert len(budgets._reasons["a"]) <= REASONS
    assert budgets.over == (over,)
    assert budgets.add("a", Failure(stage="tool", error="E", message="m", retryable=True)) is None
