"""
Whose turn it is: weights, batches, phases and ends of a mix, and what is said of those that cannot be.
"""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import islice
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gymcore.composition.order import Order, mistakes_in
from gymcore.plan import MOST_WEIGHT, MixPlan

NAMES = st.sampled_from(["alpha", "beta", "gamma", "delta"])
SIZES = st.dictionaries(NAMES, st.integers(1, 40), min_size=1)


def order_of(sizes: dict[str, int], weights: dict[str, Any] | None = None, **mix: Any) -> Order:
    """Return the order of a mix."""
    exact = {name: Fraction(str(weight)) for name, weight in (weights or {}).items()}
    return Order.of(MixPlan.model_validate(mix), sizes, exact)


def names_of(order: Order) -> list[str]:
    """Return the environment of each row."""
    return [order.names[index] for index in order]


def said(names: set[str], weighted: set[str] = frozenset(), **mix: Any) -> list[str]:  # type: ignore[assignment]
    """Return the mistakes of a mix."""
    return [f"{item.where}: {item.message}" for item in mistakes_in(MixPlan.model_validate(mix), names, weighted)]


@given(SIZES, st.none() | st.integers(1, 20))
def test_without_weights_every_row_comes_once(sizes: dict[str, int], batch: int | None) -> None:
    """
    With batches and without, also where the last one is smaller.
    """
    assert Counter(names_of(order_of(sizes, batch=batch))) == sizes


@given(SIZES, st.data())
def test_the_order_in_which_environments_are_named_means_nothing(sizes: dict[str, int], data: st.DataObject) -> None:
    """
    The same plan in other words is the same mix.
    """
    weights = {name: data.draw(st.sampled_from([1, 2, 0.3])) for name in sizes}
    other = dict(data.draw(st.permutations(list(sizes.items()))))

    assert names_of(order_of(sizes, weights, size=50)) == names_of(order_of(other, weights, size=50))


@given(SIZES, st.data(), st.none() | st.integers(2, 20))
def test_a_mix_that_stops_ends_with_the_first_that_runs_out(
    sizes: dict[str, int], data: st.DataObject, batch: int | None
) -> None:
    """
    Nobody has more rows than there are; the next row, or batch, is the first that could not be had.
    """
    weights = {name: data.draw(st.integers(1, 5)) for name in sizes}

    found = names_of(order_of(sizes, weights, batch=batch))

    assert all(count <= sizes[name] for name, count in Counter(found).items())
    endless = order_of(sizes, weights, batch=batch, size=10_000)
    longer = [endless.names[index] for index in islice(iter(endless), len(found) + (batch or 1))]
    assert longer[: len(found)] == found
    assert any(count > sizes[name] for name, count in Counter(longer).items())
    assert batch is None or len(found) % batch == 0


@given(SIZES, st.data())
def test_a_smaller_mix_is_the_beginning_of_a_larger_one(sizes: dict[str, int], data: st.DataObject) -> None:
    """
    So a run can be given more of the same.
    """
    weights = {name: data.draw(st.integers(1, 9)) for name in sizes}

    assert names_of(order_of(sizes, weights, size=90))[:40] == names_of(order_of(sizes, weights, size=40))


@given(st.data())
def test_each_phase_of_a_schedule_holds_its_own_weights(data: st.DataObject) -> None:
    """
    Within one of its share in every prefix of every phase.
    """
    weights = st.dictionaries(st.sampled_from(["alpha", "beta"]), st.integers(0, 5), min_size=1).filter(
        lambda each: any(each.values())
    )
    phases = [{"until": end, "weights": data.draw(weights)} for end in (20, 35, 60)]

    found = names_of(order_of({"alpha": 5, "beta": 5}, schedule=phases))

    assert len(found) == 60
    start = 0
    for phase in phases:
        total = sum(phase["weights"].values())
        for length in range(1, phase["until"] - start + 1):
            counts = Counter(found[start : start + length])
            for name in ("alpha", "beta"):
                assert abs(counts[name] * total - length * phase["weights"].get(name, 0)) < total
        start = phase["until"]


def test_weights_may_be_shares_of_tokens() -> None:
    """
    An environment whose rows are four times as long gets a fifth of the rows for half of the tokens.
    """
    sizes, tokens = {"long": 10, "short": 10}, {"long": 400, "short": 100}
    order = Order.of(MixPlan(size=50, weight_by="tokens"), sizes, {"long": Fraction(1), "short": Fraction(1)}, tokens)

    assert Counter(names_of(order)) == {"long": 10, "short": 40}


@given(st.integers(1, 200), st.integers(1, 200), st.integers(2, 64))
def test_a_share_below_one_row_of_a_batch_is_told_with_what_would_do(small: int, large: int, batch: int) -> None:
    """
    The batch and the weight that are named are the least that are enough.
    """
    weights = {"alpha": small, "beta": large}
    problems = list(order_of({"alpha": 1, "beta": 1}, weights, batch=batch, size=batch).starved())

    assert bool(problems) == (min(small, large) * batch < small + large)
    for problem in problems:
        least = int(problem.hints[0].split("--batch ")[1].split(" ")[0])
        enough = order_of({"alpha": 1, "beta": 1}, weights, batch=least, size=least)
        assert not list(enough.starved())
        less = order_of({"alpha": 1, "beta": 1}, weights, batch=least - 1, size=least)
        assert list(less.starved())


WEIGHTS = st.fractions(Fraction(1, 1000), 100, max_denominator=1000) | st.integers(10**6, int(MOST_WEIGHT)).map(
    Fraction
)


@given(SIZES, st.dictionaries(NAMES, WEIGHTS), st.integers(1, 64), st.none() | st.integers(1, 1000))
@example({"alpha": 9, "beta": 9}, {"alpha": Fraction(1), "beta": Fraction(99)}, 64, 640)
def test_what_is_said_of_starved_shares_is_accepted(
    sizes: dict[str, int], weights: dict[str, Fraction], batch: int, size: int | None
) -> None:
    """
    Another batch, and other weights: those of all that are starved, or some where nobody has one.
    """
    weights = {name: weight for name, weight in weights.items() if name in sizes}
    order = Order.of(MixPlan(batch=batch, size=size), sizes, weights)
    hints = {problem.message.split()[0]: problem.hints[0] for problem in order.starved()}

    if any("--batch" in hint for hint in hints.values()):
        (least,) = {int(hint.split("--batch ")[1].split()[0]) for hint in hints.values()}
        larger = Order.of(MixPlan(batch=least, size=size), sizes, weights)
        assert not [*larger.starved(), *larger.impossible()]
    if any("its weight" in hint for hint in hints.values()):
        assert weights
        factors = {name: Fraction(hint.split(" times")[0].split()[-1]) for name, hint in hints.items()}
        raised = {name: weights.get(name, 1) * factors.get(name, 1) for name in sizes}
        assert max(raised.values()) <= MOST_WEIGHT
        assert not list(Order.of(MixPlan(batch=batch, size=size), sizes, raised).starved())
    if any("a weight for each" in hint for hint in hints.values()):
        assert not weights
        even = Order.of(MixPlan(batch=batch, size=size), sizes, dict.fromkeys(sizes, Fraction(1)))
        assert not list(even.starved())


def test_what_a_plan_does_not_take_is_not_recommended() -> None:
    """
    Neither a weight nor a batch beyond the largest, nor weights where every row is to come exactly once.
    """
    tiny = order_of({"alpha": 9, "beta": 9}, {"alpha": 1, "beta": "1e9"}, batch=2, size=10**9)
    least = order_of({"alpha": 9, "beta": 9}, {"alpha": "1e-6", "beta": "1e9"}, batch=2, size=2)
    large = order_of({"a": 9, "b": 1, "c": 9}, {"a": "1e9", "b": 1, "c": "1e9"}, batch=2, size=2)
    once = order_of({"alpha": 1, "beta": 99}, batch=2, exhausted="once")

    assert [problem.hints for problem in tiny.starved()] == [
        ("try: --batch 1000000001 or more, 1000000000 times its weight, or --allow-starved to have it so",)
    ]
    assert "1000000000000000 times its weight" in next(least.starved()).hints[0]
    assert next(large.starved()).hints == ("try: --batch 2000000001 or more, or --allow-starved to have it so",)
    assert next(once.starved()).hints == ("try: --batch 100 or more, or --allow-starved to have it so",)


@pytest.mark.parametrize(
    ("until", "batch", "hint"), [(10, 20, "try: 20"), (30, 20, "try: 20 or 40"), (1999, 1000, "try: 1,000 or 2,000")]
)
def test_the_ends_of_batches_near_that_of_a_phase_are_named(until: int, batch: int, hint: str) -> None:
    """
    Each once, and never before the first batch.
    """
    schedule = [{"until": until, "weights": {"a": 1}}, {"until": 9000, "weights": {"a": 1}}]

    assert [item.hints for item in mistakes_in(MixPlan(batch=batch, schedule=schedule), {"a"}, ())] == [(hint,)]


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        ({"exhausted": "once", "size": 9}, "mix.exhausted: every row exactly once leaves no choice of weights or size"),
        ({"exhausted": "repeat"}, "mix.exhausted: a mix that repeats its rows has no end"),
        ({"weight_by": "tokens"}, "mix.weight_by: there are no weights that could be shares of tokens"),
        (
            {"tokenizer": "gpt2"},
            "mix.tokenizer: a tokenizer counts the tokens that weights are shares of, and here they are shares of rows",
        ),
        (
            {"schedule": [{"until": 9, "weights": {"a": 1}}, {"until": 9, "weights": {"b": 1}}]},
            "mix.schedule.1.until: it ends with row 9, where the phase before it ends already",
        ),
        (
            {"batch": 8, "schedule": [{"until": 12, "weights": {"a": 1}}, {"until": 24, "weights": {"b": 1}}]},
            "mix.schedule.0.until: it ends within a batch of 8",
        ),
        (
            {"schedule": [{"weights": {"a": 1}}, {"until": 9, "weights": {"b": 1}}]},
            "mix.schedule.0.until: only the last phase may have no end",
        ),
        (
            {"schedule": [{"weights": {"a": 1, "b": 1, "c": 1}}]},
            "mix.schedule.0.weights.c: the plan has no environment 'c'",
        ),
        ({"schedule": [{"weights": {"a": 1}}]}, "environments.b: it has no weight in any phase"),
        (
            {"schedule": [{"weights": {"a": 0, "b": 0}}]},
            "mix.schedule.0.weights: no environment has a weight in this phase",
        ),
        (
            {"schedule": [{"until": 9, "weights": {}}, {"weights": {"a": 1, "b": 1}}]},
            "mix.schedule.0.weights: no environment has a weight in this phase",
        ),
        (
            {"size": 9, "schedule": [{"until": 8, "weights": {"a": 1, "b": 1}}]},
            "mix.size: the last phase ends with row 8, and the size is 9",
        ),
        (
            {"size": 4, "schedule": [{"until": 8, "weights": {"a": 1, "b": 1}}, {"weights": {"a": 1}}]},
            "mix.size: the last phase begins after row 8, and the size is 4",
        ),
    ],
)
def test_what_contradicts_itself_is_a_mistake_with_its_place(mix: dict[str, Any], message: str) -> None:
    """
    Found before any row is read.
    """
    assert message in said({"a", "b"}, **mix)


def test_a_schedule_and_weights_do_not_go_together() -> None:
    """
    One place says what holds.
    """
    schedule = [{"weights": {"a": 1, "b": 1}}]

    assert said({"a", "b"}, {"a"}, schedule=schedule) == ["environments.a.weight: a schedule has weights of its own"]


def test_a_mix_that_ends_early_says_so() -> None:
    """
    Whoever asked for a hundred rows hears that there are nine.
    """
    order = order_of({"a": 3, "b": 100}, {"a": 1, "b": 2}, size=100, exhausted="stop")
    rows = len(names_of(order))

    assert rows == 10
    assert list(order.remarks(rows)) == [
        "the mix ends with 10 of 100 rows, because an environment has no more (mix.exhausted: stop)"
    ]


def test_a_mix_without_a_row_is_a_mistake_with_its_arithmetic() -> None:
    """
    Where no batch can be filled, nothing would be played.
    """
    (problem,) = order_of({"few": 5, "many": 100}, {"few": 1, "many": 1}, batch=64).impossible()

    assert problem.message == "not even one batch of 64 can be filled: it needs 32 rows of few, which has 5"
    assert not list(order_of({"few": 5, "many": 100}, {"few": 1, "many": 1}, batch=64, size=64).impossible())


def test_a_phase_that_is_never_reached_is_remarked() -> None:
    """
    A curriculum that ends before its last phase is not silent.
    """
    order = order_of({"a": 3, "b": 3}, schedule=[{"until": 100, "weights": {"a": 1}}, {"weights": {"b": 1}}])

    assert list(order.remarks(len(names_of(order)))) == [
        "the mix ends with 3 rows in phase 1 of 2, because an environment has no more"
    ]
