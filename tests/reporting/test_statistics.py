"""
The formulas of a report, against brute force, known values and simulation.
"""

from __future__ import annotations

import math
import random
from itertools import combinations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gymcore.reporting import mean_interval, pass_at_k
from gymcore.reporting.statistics import quantiles

BINARY = st.sampled_from([0.0, 1.0])
REWARD = st.floats(-100, 100, allow_nan=False).map(lambda value: round(value, 6))
GROUPS = st.lists(st.lists(REWARD, min_size=1, max_size=6), min_size=1, max_size=8)
BINARY_GROUPS = st.lists(st.lists(BINARY, min_size=1, max_size=6), min_size=1, max_size=8)


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=1, max_size=8), st.data())
def test_pass_at_k_equals_drawing_every_subset(rewards: list[float], data: st.DataObject) -> None:
    """
    The estimate is the share of all subsets of k rollouts in which at least one succeeds.
    """
    k = data.draw(st.integers(1, len(rewards)))
    threshold = data.draw(st.sampled_from([0.5, 1.0]))
    drawn = list(combinations(rewards, k))

    expected = sum(any(reward >= threshold for reward in subset) for subset in drawn) / len(drawn)

    assert pass_at_k(rewards, k, threshold=threshold) == pytest.approx(expected)


@pytest.mark.parametrize("k", [0, -1, 4])
def test_pass_at_k_needs_as_many_rollouts_as_it_draws(k: int) -> None:
    """
    Nothing can be said about more rollouts than there are.
    """
    with pytest.raises(ValueError, match=f"from 1 to 3, not {k}"):
        pass_at_k([1.0, 0.0, 1.0], k)


@pytest.mark.parametrize(
    ("groups", "mean", "low", "high"),
    [
        # Wilson 1927: 5 of 10, and the extremes.
        ([[1.0]] * 5 + [[0.0]] * 5, 0.5, 0.2366, 0.7634),
        ([[1.0]] * 10, 1.0, 0.7225, 1.0),
        ([[0.0]] * 10, 0.0, 0.0, 0.2775),
        # The mean of 1, 2, 3, 4 has the standard error 0.6455.
        ([[1.0], [2.0], [3.0], [4.0]], 2.5, 2.5 - 1.96 * 0.6455, 2.5 + 1.96 * 0.6455),
        # The same four tasks, each played twice with the same outcome: no more is known than before.
        ([[1.0] * 2, [2.0] * 2, [3.0] * 2, [4.0] * 2], 2.5, 2.5 - 1.96 * 0.6455, 2.5 + 1.96 * 0.6455),
    ],
)
def test_intervals_have_their_known_values(groups: list[list[float]], mean: float, low: float, high: float) -> None:
    """
    The bounds agree with published tables and with the textbook's standard error.
    """
    interval = mean_interval(groups)

    assert interval is not None
    assert (interval.mean, interval.low, interval.high) == pytest.approx(
        (mean, low, high), abs=2e-2 if len(groups) == 10 else 1e-3
    )


def test_nothing_has_no_mean() -> None:
    """
    Without a reward there is no number.
    """
    assert mean_interval([]) is None
    assert mean_interval([[], []]) is None


@given(GROUPS)
def test_the_mean_lies_between_its_bounds(groups: list[list[float]]) -> None:
    """
    The mean is that of all rollouts, and the interval holds it.
    """
    interval = mean_interval(groups)

    assert interval is not None
    rewards = [reward for group in groups for reward in group]
    assert interval.mean == pytest.approx(math.fsum(rewards) / len(rewards))
    assert interval.low <= interval.mean <= interval.high


@given(BINARY_GROUPS)
def test_bounds_of_successes_stay_between_zero_and_one(groups: list[list[float]]) -> None:
    """
    A share is never below 0 or above 1, and is never known exactly.
    """
    interval = mean_interval(groups)

    assert interval is not None
    assert 0.0 <= interval.low <= interval.mean <= interval.high <= 1.0
    assert interval.low < interval.high


@given(st.lists(REWARD, min_size=2, max_size=8), st.integers(2, 5))
def test_repeats_that_agree_tell_nothing_new(rewards: list[float], repeats: int) -> None:
    """
    Playing every task again with the same outcome does not make the interval narrower.
    """
    once = mean_interval([[reward] for reward in rewards])
    often = mean_interval([[reward] * repeats for reward in rewards])

    assert once is not None
    assert often is not None
    assert often.high - often.low == pytest.approx(once.high - once.low, rel=1e-6, abs=1e-9)


@given(st.lists(BINARY, min_size=4, max_size=12))
def test_repeats_that_agree_are_worth_less_than_as_many_tasks(rewards: list[float]) -> None:
    """
    The error is clustered by task: four tasks played twice say less than eight tasks played once.
    """
    assume(0.0 in rewards and 1.0 in rewards)

    clustered = mean_interval([[reward, reward] for reward in rewards])
    independent = mean_interval([[reward] for reward in rewards for _ in range(2)])

    assert clustered is not None
    assert independent is not None
    assert clustered.high - clustered.low > independent.high - independent.low


def test_a_single_task_has_no_bounds_unless_its_rewards_are_successes() -> None:
    """
    One task says nothing about the spread between tasks.
    """
    interval = mean_interval([[0.2, 0.4]])
    assert interval is not None
    assert (interval.low, interval.high) == (-math.inf, math.inf)

    share = mean_interval([[1.0, 0.0]])
    assert share is not None
    assert 0.0 <= share.low < share.high <= 1.0


@pytest.mark.parametrize("groups", [[[1e308], [1e308]], [[1e200], [-1e200]], [[1e308, 1e308]]])
def test_enormous_rewards_have_a_mean(groups: list[list[float]]) -> None:
    """
    Numbers near the end of the range cost the bounds, not the report.
    """
    interval = mean_interval(groups)

    assert interval is not None
    assert math.isfinite(interval.mean)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_the_interval_holds_the_truth_about_as_often_as_it_says(share: float) -> None:
    """
    Over 400 experiments of 40 tasks with 4 repeats each, the true mean is inside in 90 to 99 of 100.
    """
    chance = random.Random(7)
    hits = 0
    for _ in range(400):
        # Each task is solved always, never, or by chance: its repeats resemble each other.
        groups = []
        for _ in range(40):
            own = chance.betavariate(share * 2, (1 - share) * 2)
            groups.append([float(chance.random() < own) for _ in range(4)])
        interval = mean_interval(groups)
        assert interval is not None
        hits += interval.low <= share <= interval.high

    assert 0.90 <= hits / 400 <= 0.99


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([5.0], 0.5, 5.0),
        ([1.0, 2.0], 0.5, 1.5),
        ([1.0, 2.0, 3.0], 0.5, 2.0),
        ([0.0, 10.0], 0.95, 9.5),
        ([3.0, 4.0], 1.0, 4.0),
    ],
)
def test_quantiles_are_interpolated(values: list[float], share: float, expected: float) -> None:
    """
    The value at a share lies on the line between its neighbours.
    """
    assert quantiles(iter(values), len(values), [share]) == pytest.approx([expected])


@given(st.lists(REWARD, min_size=1, max_size=20).map(sorted), st.floats(0, 1))
def test_a_quantile_lies_among_its_values(values: list[float], share: float) -> None:
    """
    From the smallest at 0 to the largest at 1.
    """
    smallest, between, largest = quantiles(iter(values), len(values), [0.0, share, 1.0])

    assert smallest <= between <= largest or math.isclose(smallest, largest)
    assert (smallest, largest) == (values[0], values[-1])
