"""
Filters: which rows are taken, by plain conditions; and what is said where none is.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gymcore.composition import Composition
from gymcore.composition.rows.filters import compile_filter
from gymcore.errors import DataError, PlanError
from gymcore.plan import Plan

Compose = Callable[..., Composition]
Write = Callable[..., str]

ROW = {
    "level": 3,
    "share": 0.5,
    "is_hard": True,
    "kind": "algebra",
    "date": "2024-05-01",
    "nothing": None,
    "tags": ["x", 2],
    "metadata": {"source": {"name": "web"}},
}


def _denied(times: int, condition: Any) -> Any:
    return condition if not times else {"not": _denied(times - 1, condition)}


def test_a_condition_may_be_denied_twenty_times() -> None:
    """
    Which is more than anybody writes.
    """
    assert _takes({"level": _denied(20, 3)})


def _takes(asked: dict[str, Any], row: dict[str, Any] = ROW) -> bool:
    compiled, problems = compile_filter(asked, "filter")
    assert problems == []
    return compiled is None or compiled.failing(row) == []


@pytest.mark.parametrize(
    ("asked", "is_taken"),
    [
        ({}, True),
        ({"level": 3}, True),
        ({"level": 3.0}, True),
        ({"level": 4}, False),
        ({"level": "3"}, False),
        ({"level": True}, False),
        ({"is_hard": True}, True),
        ({"is_hard": 1}, False),
        ({"kind": "algebra"}, True),
        ({"nothing": None}, True),
        ({"absent": None}, False),
        ({"level": [1, 3]}, True),
        ({"level": [1, "3", True]}, False),
        ({"level": {"min": 3}}, True),
        ({"level": {"min": 3.5}}, False),
        ({"level": {"min": 1, "max": 3}}, True),
        ({"level": {"max": 2}}, False),
        ({"is_hard": {"min": 0}}, False),
        ({"kind": {"min": 0}}, False),
        ({"level": {"min": "a"}}, False),
        ({"date": {"min": "2024-01-01", "max": "2024-12-31"}}, True),
        ({"date": {"min": "2025"}}, False),
        ({"tags": {"contains": "x"}}, True),
        ({"tags": {"contains": 2}}, True),
        ({"tags": {"contains": True}}, False),
        ({"kind": {"contains": "alg"}}, True),
        ({"kind": {"contains": "gla"}}, False),
        ({"kind": {"contains": 1}}, False),
        ({"level": {"contains": "3"}}, False),
        ({"nothing": {"exists": True}}, True),
        ({"absent": {"exists": True}}, False),
        ({"absent": {"exists": False}}, True),
        ({"level": {"not": 3}}, False),
        ({"level": {"not": [1, 2]}}, True),
        ({"absent": {"not": 3}}, True),
        ({"level": {"not": {"min": 4}}}, True),
        ({"level": {"min": 1, "not": [3]}}, False),
        ({"metadata.source.name": "web"}, True),
        ({"metadata.source": "web"}, False),
        ({"tags.1": 2}, True),
        ({"tags.2": {"exists": True}}, False),
        ({"tags.-1": {"exists": True}}, False),
        ({"kind.upper": {"exists": True}}, False),
        ({"__class__": {"exists": True}}, False),
        ({"level": 3, "kind": "geometry"}, False),
    ],
)
def test_a_condition_compares_by_type_and_content(asked: dict[str, Any], is_taken: bool) -> None:
    """
    Numbers are numbers, a truth is none, a text is a text, and what is not there equals nothing.
    """
    assert _takes(asked) is is_taken


PLAIN = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-3, 3) | st.text("ab", max_size=2)
VALUES = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("ab"), inner))


@given(PLAIN, VALUES)
def test_a_negation_takes_exactly_what_its_condition_leaves_out(wanted: Any, found: Any) -> None:
    """
    Whatever a row holds, one of the two takes it and the other does not.
    """
    assert _takes({"a": wanted}, {"a": found}) is not _takes({"a": {"not": wanted}}, {"a": found})


@given(PLAIN)
def test_every_plain_value_equals_itself(value: Any) -> None:
    """
    A condition that is copied out of a row takes that row.
    """
    assert _takes({"a": value}, {"a": value})
    assert _takes({"a": [value]}, {"a": value})


@pytest.mark.parametrize(
    ("asked", "where", "said"),
    [
        ({"level": {"mim": 3}}, "filter.level.mim", "unknown condition 'mim'"),
        ({"metadata": {"level": 3}}, "filter.metadata.level", "unknown condition 'level'"),
        ({"level": {"matches": "a+"}}, "filter.level.matches", "unknown condition 'matches'"),
        ({"level": {}}, "filter.level", "is empty"),
        ({"level": []}, "filter.level", "holds for no row"),
        ({"level": [[1]]}, "filter.level", "a list of values"),
        ({"level": {"min": True}}, "filter.level.min", "a number or a text, not True"),
        ({"level": {"min": None}}, "filter.level.min", "a number or a text, not None"),
        ({"level": {"min": 1, "max": "x"}}, "filter.level", "different types"),
        ({"level": {"min": 2, "max": 1}}, "filter.level", "no value is from 2 to 1"),
        ({"level": {"exists": "yes"}}, "filter.level.exists", "true or false, not 'yes'"),
        ({"level": {"contains": [1]}}, "filter.level.contains", "one value"),
        ({"level": {"not": {"mim": 3}}}, "filter.level.not.mim", "unknown condition 'mim'"),
        ({"level": _denied(21, 3)}, "filter.level" + 21 * ".not", "nested too deeply"),
        ({"level.": 3}, "filter.level.", "no key path"),
        ({"": 3}, "filter.", "no key path"),
    ],
)
def test_a_condition_that_means_nothing_is_refused(asked: dict[str, Any], where: str, said: str) -> None:
    """
    With the key path at which it stands.
    """
    compiled, problems = compile_filter(asked, "filter")

    assert compiled is None
    assert [problem.where for problem in problems] == [where]
    assert said in problems[0].message


def test_a_mistake_names_its_line_in_the_plan(composed: Compose, tmp_path: Any) -> None:
    """
    Like every other mistake of a plan.
    """
    with pytest.raises(PlanError) as caught:
        composed({"environments": {"echo": {"filter": {"answer": {"mim": 3}}}}})

    assert caught.value.where == "environments.echo.filter.answer.mim"
    assert caught.value.hints == ("try: min", "for a key inside, write answer.mim: ...")


def _row(answer: str, **changes: Any) -> dict[str, Any]:
    return {"answer": answer, "responses_create_params": {"input": "x"}, **changes}


def test_only_the_rows_that_fit_are_composed(composed: Compose, write_rows: Write) -> None:
    """
    The others are counted in a note, and need not be good rows.
    """
    path = write_rows(_row("a", level=1), {"level": 0}, _row("b", level=5), _row("c", level=7))

    composition = composed({"environments": {"echo": {"data": path, "filter": {"level": {"min": 5}}}}})

    assert [row.value["answer"] for row in composition.dataset] == ["b", "c"]
    assert composition.notes == ("echo: its filter leaves out 2 of 4 rows",)


def test_a_limit_counts_the_rows_that_fit(composed: Compose, write_rows: Write) -> None:
    """
    Two of those that fit, and not those among the first two.
    """
    path = write_rows(*(_row(str(number), level=number % 3) for number in range(12)))

    composition = composed({"environments": {"echo": {"data": path, "filter": {"level": 2}, "limit": 2}}})

    assert [row.value["answer"] for row in composition.dataset] == ["2", "5"]


def test_rows_that_carry_their_route_are_filtered_by_their_environment(composed: Compose, write_rows: Write) -> None:
    """
    The entry of one environment leaves the rows of others alone.
    """
    path = write_rows(*(_row(name, agent_ref={"name": "echo_simple_agent"}) for name in "ab"))

    composition = composed(
        {"environments": {"echo": {"filter": {"answer": "b"}}, "shout": {"split": "example"}}, "data": path}
    )

    assert composition.tasks() == {"echo": 1, "shout": 5}


@pytest.mark.parametrize(
    ("asked", "where", "hint"),
    [
        ({"level": {"min": 9}, "answer": ["a", "b"]}, "level", "the first row has 1"),
        ({"levle": 1}, "levle", "no row that it leaves out has 'levle'; try: level"),
        ({"metadata.levle": 1}, "metadata.levle", "try: metadata.level"),
        ({"answer.x": 1}, "answer.x", "`answer` holds str"),
    ],
)
def test_a_filter_that_keeps_nothing_is_answered_with_what_dropped_most(
    composed: Compose, write_rows: Write, asked: dict[str, Any], where: str, hint: str
) -> None:
    """
    It names the condition, how many rows that alone leaves out, and what rows have there.
    """
    path = write_rows(*(_row(name, level=1, metadata={"level": 2}) for name in "abc"))

    with pytest.raises(PlanError) as caught:
        composed({"environments": {"echo": {"data": path, "filter": asked}}})

    assert caught.value.where == f"environments.echo.filter.{where}"
    assert "keeps none of 3 rows; this condition alone leaves out 3" in caught.value.message
    assert hint in caught.value.hints[0]


@pytest.mark.parametrize("dropped", [0, 1])
def test_rows_that_a_filter_keeps_and_that_are_invalid_are_what_is_wrong(
    composed: Compose, write_rows: Write, dropped: int
) -> None:
    """
    A filter is answered for only where it has left out every row; else the mistakes of those it kept are shown.
    """
    path = write_rows({"level": 1}, {"level": 1}, *({"level": 2} for _ in range(dropped)))
    plan = {"environments": {"echo": {"data": path, "filter": {"level": 1}}}, "check": {"skip_invalid": True}}

    with pytest.raises(DataError, match=f"2 rows are wrong, of {2 + dropped} read"):
        composed(plan)


def test_a_filter_is_part_of_what_was_asked(composed: Compose, write_rows: Write) -> None:
    """
    The lock and the name of the composition tell two filters apart; without one, the lock says nothing of it.
    """
    path = write_rows(*(_row(name) for name in "abc"))
    plan = {"environments": {"echo": {"data": path}}}
    plain, one, two = (
        composed(plan, *settings)
        for settings in (
            (),
            ("environments.echo.filter={answer: a}",),
            ("environments.echo.filter={answer: {not: a}}",),
        )
    )

    asked = [item.lock["environments"]["echo"]["asked"].get("filter") for item in (plain, one, two)]
    assert asked == [None, {"answer": "a"}, {"answer": {"not": "a"}}]
    assert len({item.name() for item in (plain, one, two)}) == 3
    assert Plan.model_validate(one.plan.to_dict()) == one.plan


def test_what_a_filter_compares_never_raises(composed: Compose, write_rows: Write) -> None:
    """
    Whatever a row holds: nothing of it is called, and nothing of it is compared that cannot be.
    """
    hostile = [_row("a", x=value) for value in (None, [], {}, [[]], "x", 1, 1e308, {"min": 1}, {"__class__": 1})]

    for condition in (1, "x", {"min": 1}, {"max": "x"}, {"contains": "x"}, {"not": 1}, [1, "x"]):
        with suppress(PlanError):  # it keeps none
            composed({"environments": {"echo": {"data": write_rows(*hostile), "filter": {"x": condition}}}})
