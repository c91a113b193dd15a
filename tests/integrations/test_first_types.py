"""
What readers take columns for by the first rows, and which later rows they would not expect.
"""

from __future__ import annotations

from typing import Any

import pytest

from gymcore.integrations.first_types import FirstTypes


@pytest.mark.parametrize(
    ("first", "later", "is_expected"),
    [
        (["a"], "b", True),
        (["a"], None, True),
        (["a"], 5, False),
        ([None], "b", False),
        ([None], None, True),
        ([1], 0.5, False),
        ([1, 0.5], 2, True),
        ([True], 1, False),
        (["a", 5], [{}], True),
        ([["a"], 5], "b", True),
        ([[]], [], True),
        ([[]], ["a"], False),
        ([["a"]], [], True),
        ([["a"]], "a", False),
        ([["a"], "a"], {"b": 1}, True),
        ([{"a": "x"}], {"a": None}, True),
        ([{"a": "x"}], {"b": "x"}, False),
        ([{"a": "x"}], {}, False),
        ([{}], {"b": [1]}, True),
        ([{"a": "x"}, {"b": "x"}], {"c": [1]}, True),
        ([{"a": {"b": 1}}], {"a": {"b": "x"}}, False),
        ([[{"a": "x"}, {"b": "x"}]], [{"c": [1]}], True),
        ([[{"a": "x"}]], [{"a": "y"}, {"a": "z", "b": 1}], False),
    ],
)
def test_a_later_value_is_expected_where_the_first_ones_allow_it(
    first: list[Any], later: Any, is_expected: bool
) -> None:
    """
    Objects with different keys, and values of different kinds, settle on anything; a null settles nothing.
    """
    types = FirstTypes(chunk=100)
    for value in first:
        types.see({"key": value}, 10)
    types.see({"other": "fills the chunk"}, 100)

    types.see({"key": later}, 20)

    assert (types.late, types.sufficient) == ((set(), 0) if is_expected else ({"key"}, 10 * len(first) + 120))


def test_the_rest_of_a_line_belongs_to_the_first_chunk() -> None:
    """
    A reader finishes the line in which its chunk ends, and reads one more where a line ends with it.
    """
    for lengths, is_expected in (((100, 10), True), ((99, 10), True), ((101, 10), False)):
        types = FirstTypes(chunk=100)
        types.see({}, lengths[0])
        types.see({"key": "a"}, lengths[1])
        types.see({"key": "b"}, 10)

        assert (types.late == set()) is is_expected


def test_what_lies_very_deep_is_taken_for_anything() -> None:
    """
    However many levels somebody has put into a row.
    """
    deep: Any = "x"
    for _ in range(5000):
        deep = [deep]
    types = FirstTypes(chunk=10)
    types.see({"key": deep}, 100)
    types.see({"key": deep}, 100)

    assert types.late == set()
