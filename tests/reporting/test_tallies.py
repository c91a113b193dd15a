"""
What a report remembers of many rollouts: the same numbers as lists and dictionaries would give.
"""

from __future__ import annotations

import tracemalloc
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from gymcore.reporting.statistics import quantiles
from gymcore.reporting.tallies import Reasons, Spread, TaskRewards

TASKS = st.sampled_from(["a", "b", "c", "\ud800", ""])
REPEATS = st.sampled_from([0, 1, 2, 63, 64, 65, 1000])
ROLLOUTS = st.lists(st.tuples(TASKS, REPEATS, st.floats(-1, 1)), max_size=60)


@given(ROLLOUTS)
def test_rewards_come_back_by_task_and_once_each(rollouts: list[tuple[str, int, float]]) -> None:
    """
    Every rollout counts once, with its first reward, beside the others of its task and in the order of the tasks.
    """
    rewards = TaskRewards()
    expected: dict[tuple[str, int], float] = {}
    for task, repeat, reward in rollouts:
        assert ((task, repeat) in rewards) == ((task, repeat) in expected)
        assert rewards.add(task, repeat, reward) == ((task, repeat) not in expected)
        expected.setdefault((task, repeat), reward)

    groups: dict[str, list[float]] = {}
    for (task, _), reward in expected.items():
        groups.setdefault(task, []).append(reward)
    assert len(rewards) == len(expected)
    assert [list(group) for group in rewards] == list(groups.values())
    assert [list(group) for group in rewards] == list(groups.values()), "they can be gone through again"


@given(st.lists(st.lists(st.floats(-1e6, 1e6), max_size=30), min_size=1, max_size=4), st.integers(1, 7))
def test_numbers_of_several_spreads_come_back_in_order(parts: list[list[float]], run: int) -> None:
    """
    However many runs they were sorted in, the quantiles are those of all numbers.
    """

    class Short(Spread):
        RUN = run

    spreads = []
    for part in parts:
        spread = Short()
        for value in part:
            spread.add(value)
        assert len(spread) == len(part)
        spreads.append(spread)
    every = sorted(value for part in parts for value in part)

    assert list(Spread.merged(spreads)) == every
    if every:
        found = quantiles(Spread.merged(spreads), len(every), (0.0, 1.0))
        assert found == [every[0], every[-1]]


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), TASKS, st.integers(0, 2), st.sampled_from(["x", "y", "z", None])), max_size=60
    )
)
def test_the_last_reason_of_each_rollout_counts(failures: list[tuple[str, str, int, str | None]]) -> None:
    """
    A rollout that failed three times is one failure, of its environment and of its last reason; finished, it is none.
    """
    reasons = Reasons()
    expected: dict[tuple[str, str, int], str] = {}
    for environment, task, repeat, reason in failures:
        if reason is None:
            reasons.forget(environment, task, repeat)
            expected.pop((environment, task, repeat), None)
        else:
            reasons.add(environment, task, repeat, reason)
            expected[environment, task, repeat] = reason

    assert len(reasons) == len(expected)
    assert reasons.by_reason() == Counter(expected.values())
    assert reasons.by_environment() == Counter(environment for environment, _, _ in expected)


def test_reasons_without_end_are_one_reason_after_the_first_thousands() -> None:
    """
    An endpoint that writes the time into its errors makes a million different ones; all are counted, not all kept.
    """
    reasons = Reasons()
    for number in range(10_000):
        reasons.add("world", str(number), 0, f"model: refused at {number} s")
    reasons.add("world", "0", 0, f"model: refused at {1} s")

    counts = reasons.by_reason()
    assert len(counts) == Reasons.DISTINCT  # one reason has become another, and one stands for the rest
    assert counts[Reasons.OTHER] == 10_000 - Reasons.DISTINCT
    assert counts["model: refused at 1 s"] == 2
    assert sum(counts.values()) == len(reasons) == 10_000


def test_a_rollout_takes_some_bytes_and_no_object() -> None:
    """
    A hundred thousand tasks in less than 80 bytes each; a dictionary of lists takes 300.
    """
    count = 100_000
    tracemalloc.start()
    try:
        rewards, spread = TaskRewards(), Spread()
        for number in range(count):
            rewards.add(f"environment/{number:020x}", 0, number % 2)
            spread.add(number / 7)
        size = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()

    assert size < 80 * count


def test_a_reason_that_nobody_has_any_more_makes_room_for_another() -> None:
    """
    However many different ones come and go, those that are left are told by their names.
    """
    reasons = Reasons()
    for number in range(3 * Reasons.DISTINCT):
        reasons.add("world", str(number), 0, f"reason {number}")
        if number >= 10:
            reasons.forget("world", str(number - 10), 0)

    assert set(reasons.by_reason()) == {f"reason {3 * Reasons.DISTINCT - number}" for number in range(1, 11)}
