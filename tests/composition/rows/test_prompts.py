"""
Prompts: what an environment's rows are asked with, filled in from each row and never read out of one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gymcore.composition import Composition, compose, open_composition, write_composition
from gymcore.composition.explanation import explain
from gymcore.composition.rows.prompts import compile_prompt
from gymcore.discovery import Catalog, discover
from gymcore.errors import DataError, PlanError
from gymcore.plan import Plan, PromptPlan
from gymcore.testing.plugins import PluginFolder

Compose = Callable[..., Composition]
Write = Callable[..., str]


def _filled(text: str, row: dict[str, Any]) -> str:
    prompt, problems = compile_prompt(PromptPlan(user=text), "prompt")
    assert problems == []
    assert prompt is not None
    content = prompt.applied(row, None)[0]["content"]
    assert isinstance(content, str)
    return content


ROW = {"question": "2+2?", "n": 4, "x": None, "deep": {"list": [{"a b": "yes"}, True]}, "braces": "{n} {{n}} {0}"}


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("Plain.", "Plain."),
        ("{question}", "2+2?"),
        ("Q: {question}\nA:", "Q: 2+2?\nA:"),
        ("{n}{n}", "44"),
        ("{x}", "null"),
        ("{deep}", '{"list":[{"a b":"yes"},true]}'),
        ("{deep.list.0.a b}", "yes"),
        ("{deep.list.1}", "true"),
        ("{braces}", "{n} {{n}} {0}"),
        ('Answer as {{"answer": {n}}}', 'Answer as {"answer": 4}'),
        ("{{n}}", "{n}"),
        ("{{{n}}}", "{4}"),
    ],
)
def test_a_placeholder_is_replaced_by_what_the_row_says(text: str, filled: str) -> None:
    """
    Texts as they are, anything else as compact JSON, doubled braces as braces.
    """
    assert _filled(text, ROW) == filled


@given(st.text(), st.text())
def test_a_value_is_never_read_as_a_template(value: str, other: str) -> None:
    """
    Whatever stands in a row arrives as it is, in one pass, next to whatever else does.
    """
    assert _filled("{a}|{b}", {"a": value, "b": other}) == f"{value}|{other}"


@given(st.text())
def test_every_text_can_be_written_with_its_braces_doubled(text: str) -> None:
    """
    There is a way to say anything.
    """
    text = f"{text}."  # because nothing at all is no question
    assert _filled(text.replace("{", "{{").replace("}", "}}"), {}) == text


@pytest.mark.parametrize(
    "text",
    [
        "{}", "{", "}", "a { b", "{a}}", "{a!r}", "{a:>10}", "{a[0]}", "{ a}", "{a }", "{a.}", "{.a}", "{a..b}",
        '{"answer": 1}', "{% for x in y %}", "{a\nb}",
    ],
)  # fmt: skip
def test_what_is_no_placeholder_is_a_mistake_of_the_plan(text: str) -> None:
    """
    No formats, no conversions, no brackets, and no brace that somebody forgot to double.
    """
    compiled, problems = compile_prompt(PromptPlan(system="fine", user=text), "environments.a.prompt")

    assert compiled is None
    assert {problem.where for problem in problems} == {"environments.a.prompt.user"}
    assert problems[0].hints == ("for a brace in the text, write {{ or }}",)


def _row(answer: str = "it", given: Any = "x", **changes: Any) -> dict[str, Any]:
    return {"answer": answer, "responses_create_params": {"input": given, "temperature": 0.5}, **changes}


def _inputs(composition: Composition) -> list[Any]:
    return [row.value["responses_create_params"]["input"] for row in composition.dataset]


SYSTEM = {"role": "system", "content": "Be kind."}
SAID = [{"role": "developer", "content": "Old."}, {"role": "user", "content": "x"}]


@pytest.mark.parametrize(
    ("prompt", "given", "asked", "note"),
    [
        ({"user": "Say {answer}."}, "x", [{"role": "user", "content": "Say it."}], "what rows ask"),
        (
            {"system": "Be kind.", "user": "Say {answer}."},
            SAID,
            [SYSTEM, {"role": "user", "content": "Say it."}],
            "what rows ask",
        ),
        ({"user": "Say {answer}."}, SAID, [SAID[0], {"role": "user", "content": "Say it."}], "what rows ask"),
        ({"system": "Be kind."}, "x", [SYSTEM, {"role": "user", "content": "x"}], None),
        ({"system": "Be kind."}, SAID[1:], [SYSTEM, SAID[1]], None),
        ({"system": "Be kind."}, SAID, [SYSTEM, SAID[1]], "the system message of rows"),
        ({"system": "Be kind."}, [*SAID[::-1], SAID[1]], [SYSTEM, SAID[1], SAID[1]], "the system message of rows"),
        ({"user": "Say {answer}."}, SAID[::-1], [SAID[0], {"role": "user", "content": "Say it."}], "what rows ask"),
    ],
)
def test_each_part_of_a_prompt_takes_the_place_of_its_own(
    composed: Compose, write_rows: Write, prompt: dict[str, str], given: Any, asked: list[Any], note: str | None
) -> None:
    """
    `system` that of the system message wherever it stands, `user` that of the rest; what is replaced is said once.
    """
    plan = {"environments": {"echo": {"data": write_rows(_row(given=given), _row("b", given)), "prompt": prompt}}}

    composition = composed(plan, "environments.echo.limit=1")

    assert _inputs(composition) == [asked]
    (row,) = composition.dataset
    assert row.value["responses_create_params"]["temperature"] == 0.5
    assert composition.notes == ((f"echo: its prompt takes the place of {note} (1 rows)",) if note else ())


def test_a_system_message_takes_the_place_of_instructions(composed: Compose, write_rows: Write) -> None:
    """
    The other place where a request holds one.
    """
    row = _row()
    row["responses_create_params"]["instructions"] = "Old."

    composition = composed({"environments": {"echo": {"data": write_rows(row), "prompt": {"system": "Be kind."}}}})

    (composed_row,) = composition.dataset
    assert "instructions" not in composed_row.value["responses_create_params"]


def test_a_row_that_asks_nothing_needs_only_a_prompt(composed: Compose, write_rows: Write) -> None:
    """
    Its own bytes are kept, and what is asked follows them.
    """
    line = b'{"answer":  "it" , "share": 1.50}'

    composition = composed({"environments": {"echo": {"data": write_rows(line), "prompt": {"user": "{share}?"}}}})

    (row,) = composition.dataset
    assert row.data.startswith(line[:-1])
    assert _inputs(composition) == [[{"role": "user", "content": "1.5?"}]]


@pytest.mark.parametrize("key", ["messages", "prompt", "input"])
def test_a_question_of_the_plan_keeps_the_system_message_of_rows_in_other_words(
    composed: Compose, write_rows: Write, key: str
) -> None:
    """
    What a prompt does not say stays as the rows have it, in whichever words they say it.
    """
    path = write_rows({"answer": "it", key: [SYSTEM, {"role": "user", "content": "x"}]})

    composition = composed({"environments": {"echo": {"data": path, "prompt": {"user": "Say {answer}."}}}})

    assert _inputs(composition) == [[SYSTEM, {"role": "user", "content": "Say it."}]]
    assert composition.notes == ("echo: its prompt takes the place of what rows ask (1 rows)",)


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"messages": [SYSTEM], "prompt": "x"}, "asks in `messages` and in `prompt`"),
        ({"messages": [SYSTEM, 5]}, "messages.1 is no message"),
        ({"messages": [SYSTEM], "responses_create_params": {"input": "x"}}, "one system message in `messages`"),
    ],
)
def test_a_system_message_is_not_lost_where_nobody_knows_which_is_meant(
    composed: Compose, write_rows: Write, own: dict[str, Any], said: str
) -> None:
    """
    It is a mistake of the row, unless the prompt says the system message, too.
    """
    prompt = {"user": "Say {answer}."}
    plan = {"environments": {"echo": {"data": write_rows({"answer": "it", **own}), "prompt": prompt}}}

    with pytest.raises(DataError, match=said):
        composed(plan)
    assert _inputs(composed(plan, "environments.echo.prompt.system=S")) == [
        [{"role": "system", "content": "S"}, {"role": "user", "content": "Say it."}]
    ]


@pytest.mark.parametrize("own", [{"messages": 5}, {"prompt": {"x": 1}}, {"prompt": "x", "input": "y"}, {"input": []}])
def test_keys_that_mean_something_else_are_no_mistake_where_the_plan_asks(
    composed: Compose, write_rows: Write, own: dict[str, Any]
) -> None:
    """
    Where no system message is in them, there is nothing to lose.
    """
    plan = {"environments": {"echo": {"data": write_rows({"answer": "it", **own}), "prompt": {"user": "Say it."}}}}

    assert _inputs(composed(plan)) == [[{"role": "user", "content": "Say it."}]]


@pytest.mark.parametrize("prompt", [None, {"system": "S"}, {"user": "U"}])
@pytest.mark.parametrize("more", [{}, {"messages": [{"role": "user", "content": "x"}]}])
@pytest.mark.parametrize("given", [5, True, {"role": "user"}, 0])
def test_an_input_of_another_type_is_a_mistake_of_its_row(
    composed: Compose, write_rows: Write, given: Any, more: dict[str, Any], prompt: dict[str, str] | None
) -> None:
    """
    Also where something is put before it, or it is compared with messages.
    """
    plan = {"environments": {"echo": {"data": write_rows(_row(given=given, **more), _row())}}}
    plan["environments"]["echo"]["prompt"] = prompt or {}

    with pytest.raises(DataError, match="1 row is wrong, of 2 read") as caught:
        composed(plan)
    assert "responses_create_params.input" in caught.value.problems[0].message
    assert len(composed(plan, "check.skip_invalid=true").dataset) == 1


def test_a_row_that_lacks_a_field_is_a_mistake_with_its_line(composed: Compose, write_rows: Write) -> None:
    """
    It names the field, the part of the prompt, and the keys that were probably meant.
    """
    path = write_rows(_row(question="a"), _row(qestion="b"), _row(question="c", deep={"level": 1}))

    with pytest.raises(DataError) as caught:
        composed({"environments": {"echo": {"data": path, "prompt": {"user": "{question}"}}}})
    (problem,) = caught.value.problems

    assert problem.where == f"{path}:2"
    assert problem.message == "the row has no 'question', which its prompt asks for (prompt.user)"
    assert problem.hints == ("try: qestion",)


@pytest.mark.parametrize("text", ["", " \n"])
def test_a_prompt_that_asks_nothing_is_a_mistake(composed: Compose, write_rows: Write, text: str) -> None:
    """
    Of the plan where its text is empty, and of the row where only that makes it so; a system message may be empty.
    """
    plan = {"environments": {"echo": {"data": write_rows(_row(question=text)), "prompt": {"user": text}}}}

    with pytest.raises(PlanError, match="nothing would be asked"):
        composed(plan)
    with pytest.raises(DataError, match="its prompt asks nothing"):
        composed(plan, "environments.echo.prompt.user='{question}'")
    composition = composed(plan, "environments.echo.prompt={system: '{question}'}")
    assert _inputs(composition)[0][0] == {"role": "system", "content": text}


def test_a_prompt_with_a_mistake_is_answered_with_its_place(composed: Compose) -> None:
    """
    Before any row is read, together with the other mistakes of the plan.
    """
    with pytest.raises(PlanError) as caught:
        composed({"environments": {"echo": {"prompt": {"user": "{a!r}"}}, "shout": {"split": "none"}}})

    assert "environments.echo.prompt.user" in str(caught.value)
    assert "environments.shout.split" in str(caught.value)


def test_a_row_cannot_bring_a_template(composed: Compose, write_rows: Write) -> None:
    """
    What looks like one in a row is a text; a key `prompt` of a row that asks something is its environment's.
    """
    row = _row(given="{answer}", prompt={"user": "{answer}"})

    assert _inputs(composed({"environments": {"echo": {"data": write_rows(row)}}})) == ["{answer}"]


def test_a_prompt_is_part_of_what_was_asked(composed: Compose) -> None:
    """
    The lock holds it, other words are another composition, and the tasks get other identities with their content.
    """
    plain, one, two = (
        composed({"environments": {"echo": {"prompt": prompt}} if prompt else {"echo": {}}})
        for prompt in (None, {"user": "Tell {answer}."}, {"user": "Tell {answer}!"})
    )

    asked = [item.lock["environments"]["echo"]["asked"].get("prompt") for item in (plain, one, two)]
    assert asked == [None, {"user": "Tell {answer}."}, {"user": "Tell {answer}!"}]
    assert len({item.name() for item in (plain, one, two)}) == 3
    assert len({row.identity for item in (plain, one, two) for row in item.dataset}) == 15


def test_a_composition_with_a_prompt_reads_back(composed: Compose, catalog: Catalog, tmp_path: Path) -> None:
    """
    Its rows are asked what they were asked, and nothing is filled in a second time.
    """
    composition = composed({"environments": {"echo": {"prompt": {"user": "Say {{{answer}}}."}}}})
    write_composition(composition, tmp_path / "run")

    again = open_composition(tmp_path / "run", catalog)

    assert again.lock == composition.lock
    assert _inputs(again)[0] == [{"role": "user", "content": "Say {one}."}]


def test_composing_what_was_composed_changes_nothing(composed: Compose, write_rows: Write) -> None:
    """
    A dataset with a prompt is a data file like any other, with and without the prompt.
    """
    prompt = {"user": "Say {answer}."}
    row = {"answer": "a", "messages": [{"role": "user", "content": "x"}]}
    first = composed({"environments": {"echo": {"data": write_rows(row), "prompt": prompt}}})
    path = write_rows(*(row.data for row in first.dataset), name="composed.jsonl")

    for plan in ({"data": path}, {"environments": {"echo": {"prompt": prompt}}, "data": path}):
        assert [row.data for row in composed(plan).dataset] == [row.data for row in first.dataset]


CODE = """
from gymcore import Environment, Reward, Task, Trajectory


class Sums(Task):
    total: int


class Adder(Environment[Sums]):
    def verify(self, trajectory: Trajectory) -> Reward:
        return Reward(value=float(str(self.task.total) in trajectory.text))

    async def solve(self):
        from gymcore import say
        yield say(str(self.task.total))
"""


def _adder(folder: Path, manifest: str, *rows: Any, **files: str) -> PluginFolder:
    plugins = PluginFolder(folder)
    plugins.install(
        "gym-plugin-adder",
        {
            "adder/__init__.py": CODE,
            "adder/gym.yaml": f"gym_api: 1\n{manifest}",
            "adder/rows.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
            **files,
        },
        {"gymcore.environments": {"adder": "adder:Adder"}},
    )
    return plugins


def test_a_prompt_of_a_manifest_holds_until_a_plan_says_another(tmp_path: Path) -> None:
    """
    A plan's prompt takes the place of all of it; an empty one leaves the rows as they are.
    """
    manifest = "splits: {example: rows.jsonl}\nprompt: {system: Add., user: '{a} + {b}'}\n"
    row = {"a": 1, "b": 2, "total": 3, "responses_create_params": {"input": "x"}}
    with _adder(tmp_path, manifest, row):
        catalog = discover()
        texts, layers = {}, {}
        for asked in (None, {"user": "{b} and {a}"}, {}):
            entry = {} if asked is None else {"prompt": asked}
            composition = compose(Plan.model_validate({"environments": {"adder": entry}}), catalog)
            (given,) = _inputs(composition)
            texts[str(asked)] = given if isinstance(given, str) else [item["content"] for item in given]
            assert Plan.model_validate(composition.plan.to_dict()) == composition.plan
            write_composition(composition, tmp_path / "run")
            assert open_composition(tmp_path / "run", catalog).lock == composition.lock
            options = explain(tmp_path / "run", next(iter(composition.dataset)).identity[1], catalog, {}).options
            layers[str(asked)] = next(option.layer for option in options if option.name == "prompt")

    assert layers == {"None": "manifest", "{'user': '{b} and {a}'}": "plan", "{}": "plan"}
    assert texts == {"None": ["Add.", "1 + 2"], "{'user': '{b} and {a}'}": ["2 and 1"], "{}": "x"}


def test_a_mistake_in_the_prompt_of_a_manifest_names_the_plugin(tmp_path: Path) -> None:
    """
    It is nothing that stands in the plan.
    """
    with _adder(tmp_path, "splits: {example: rows.jsonl}\nprompt: {user: '{a'}\n", {"a": 1, "total": 3}):
        with pytest.raises(PlanError) as caught:
            compose(Plan.model_validate({"environments": {"adder": {}}}), discover())
        assert caught.value.where == "the manifest of gym-plugin-adder/adder: prompt.user"


def test_an_environment_is_checked_with_the_prompt_of_its_manifest(tmp_path: Path) -> None:
    """
    Its rows need ask nothing themselves, and a row that lacks a field is news for its author.
    """
    from gymcore.testing import EnvironmentSuite

    class First(EnvironmentSuite):
        plugin = "adder"

    class Second(EnvironmentSuite):
        plugin = "adder"

    manifest = "splits: {example: rows.jsonl}\nprompt: {user: '{a} + {b}'}\n"
    with _adder(tmp_path, manifest, {"a": 1, "b": 2, "total": 3}):
        First().test_data_are_valid()
        First().test_reference_solution_earns_the_top_reward()
    second = tmp_path / "second"
    second.mkdir()
    with _adder(second, manifest, {"a": 1, "total": 3}), pytest.raises(AssertionError, match="has no 'b'"):
        Second().test_data_are_valid()
