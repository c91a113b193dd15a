"""
What an error says, and what it carries for those who do not read prose.
"""

from __future__ import annotations

import copy
import pickle

import pytest

import gymcore.errors
from gymcore.errors import (
    AmbiguousPluginError,
    DataError,
    EndpointError,
    GymcoreError,
    ModelError,
    PlanError,
    PluginError,
    Problem,
    RequestError,
    RunFolderError,
    StorageError,
    ToolError,
    UnknownPluginError,
    nearest,
)


def test_a_message_says_what_happened_then_where_then_what_to_try() -> None:
    """
    The message is one line with its place in brackets, and one indented line per hint.
    """
    error = GymcoreError("the disk is full", where="/data", hints=["try: another disk", "try: less"])

    assert str(error) == "the disk is full (/data)\n  try: another disk\n  try: less"
    assert (error.message, error.where, error.hints) == (
        "the disk is full",
        "/data",
        ("try: another disk", "try: less"),
    )


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RequestError("x"), 2),
        (PlanError([Problem("x")]), 2),
        (UnknownPluginError("model", "x", []), 2),
        (AmbiguousPluginError("model", "x", ["a:x", "b:x"]), 2),
        (DataError([Problem("x")], count=1, rows=1), 2),
        (RunFolderError("x"), 2),
        (EndpointError("x"), 3),
        (PluginError("x"), 4),
        (StorageError("x"), 5),
        (ModelError("x"), 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_each_error_has_the_exit_code_of_the_table(error: GymcoreError, code: int) -> None:
    """
    An error's class decides the exit code of the command it ends.
    """
    assert error.exit_code == code


def test_a_tool_error_is_no_error_of_ours() -> None:
    """
    `ToolError` speaks to the model, so nobody who catches `GymcoreError` catches it.
    """
    assert not issubclass(ToolError, GymcoreError)


def test_a_plan_with_one_mistake_reads_like_that_mistake() -> None:
    """
    A single problem is the message itself, without a count or a list.
    """
    error = PlanError([Problem("unknown key 'x'", "plan.yaml:3", ("try: y",))], source="plan.yaml")

    assert str(error) == "unknown key 'x' (plan.yaml:3)\n  try: y"


def test_a_plan_with_several_mistakes_lists_all_of_them() -> None:
    """
    Every problem is in the message with its place and hints, and in `problems` in the same order.
    """
    problems = [Problem("first", "a:1"), Problem("second", None, ("try: this",))]

    error = PlanError(problems, source="plan.yaml")

    assert str(error) == "2 mistakes in plan.yaml\n  - first (a:1)\n  - second\n      try: this"
    assert error.problems == tuple(problems)


def test_an_unknown_plugin_is_answered_with_the_nearest_names() -> None:
    """
    The message lists what is installed and the likely meaning; the facts are attributes.
    """
    error = UnknownPluginError("model", "openai_modle", ["oracle", "openai_model", "nop"], where="models.policy")

    assert str(error) == (
        "no model is named 'openai_modle' (models.policy)\n"
        "  installed: nop, openai_model, oracle\n"
        "  try: 'openai_model', or `gym list` to see every one"
    )
    assert (error.kind, error.wanted) == ("model", "openai_modle")
    assert error.installed == ("nop", "openai_model", "oracle")


def test_an_unknown_plugin_with_no_near_name_is_answered_with_where_plugins_come_from() -> None:
    """
    Where nothing resembles the name, the hint is how plugins get installed.
    """
    assert "try: pip install gym-plugin-chess, if there is such" in str(UnknownPluginError("model", "chess", []))


def test_an_ambiguous_plugin_is_answered_with_the_names_that_work() -> None:
    """
    The qualified names stand in the message and in `choices`.
    """
    error = AmbiguousPluginError("environment", "weather", ["acme:weather", "other:weather"])

    assert "try one of: acme:weather, other:weather" in str(error)
    assert error.choices == ("acme:weather", "other:weather")


def test_bad_rows_are_shown_with_how_many_more_there_are() -> None:
    """
    The first problems stand with their `file:line`, and the rest is counted.
    """
    problems = [Problem("not JSON", "a.jsonl:3"), Problem("no tool", "a.jsonl:9", ("try: x",))]

    error = DataError(problems, count=14, rows=20)

    assert str(error) == (
        "14 rows are wrong, of 20 read; nothing was written\n"
        "  a.jsonl:3: not JSON\n"
        "  a.jsonl:9: no tool\n"
        "      try: x\n"
        "  ... and 12 more"
    )


def test_a_run_folder_error_carries_its_differences() -> None:
    """
    The differences stand before the hints, and in an attribute.
    """
    error = RunFolderError("another plan", where="runs/a", differences=["seed: 1 -> 2"], hints=["try: --out"])

    assert str(error) == "another plan (runs/a)\n  seed: 1 -> 2\n  try: --out"
    assert error.differences == ("seed: 1 -> 2",)


@pytest.mark.parametrize(
    ("wanted", "names", "found"),
    [
        ("exmaple", ["train", "example"], ["example"]),
        ("Example-Multi-Step", ["example_multi_step", "other"], ["example_multi_step"]),
        ("zzz", ["example"], []),
        ("", ["example"], []),
        ("example", [], []),
    ],
)
def test_nearest_ignores_case_and_dashes(wanted: str, names: list[str], found: list[str]) -> None:
    """
    A name is near when it differs in little but case, dashes and a few letters.
    """
    assert nearest(wanted, names) == found


def test_the_tree_in_the_docstring_is_the_tree_of_classes() -> None:
    """
    Every exception of the module is drawn in its docstring.
    """
    drawn = gymcore.errors.__doc__ or ""
    classes = [name for name in gymcore.errors.__all__ if name.endswith("Error")]

    assert [name for name in classes if name not in drawn] == []


@pytest.mark.parametrize(
    "error",
    [
        PlanError([Problem("one", "here", ("try: this",)), Problem("two")], source="plan.yaml"),
        UnknownPluginError("model", "oracel", ["oracle", "nop"], where="models.policy"),
        AmbiguousPluginError("model", "echo", ["a:echo", "b:echo"]),
        DataError([Problem("no JSON", where="rows.jsonl:3")], count=12, rows=40),
        RunFolderError("another plan", where="runs/a", differences=["seed: 1 -> 2"]),
        EndpointError("refused", where="http://127.0.0.1:1", hints=["try: another key"]),
        PluginError("broken", plugin="a:echo"),
        ModelError("late", retryable=False),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_is_the_same_after_a_journey_to_another_process(error: GymcoreError) -> None:
    """
    Its class, its message and every fact it carries arrive.
    """
    error.add_note("seen on the way")

    arrived = pickle.loads(pickle.dumps(error))

    assert type(arrived) is type(error)
    assert str(arrived) == str(error)
    assert vars(arrived) == vars(error)
    assert vars(copy.copy(error)) == vars(error)
