"""
The linter: what is odd about rows is said with examples, what is ordinary is not, and every warning can be silenced.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gymcore.composition import Composition, compose
from gymcore.composition.linting import linter as linter_module
from gymcore.composition.linting.linter import Linter
from gymcore.composition.linting.near_prompts import ALIKE, NearPrompts, sketch_of, words_of
from gymcore.discovery import discover
from gymcore.errors import PlanError, RequestError
from gymcore.plan import Plan, WarningName
from gymcore.testing.plugins import PluginFolder

Compose = Callable[..., Composition]
Write = Callable[..., str]

WORDS = [f"{a}{b}{c}" for a in "bdfgkl" for b in "aeiou" for c in ("n", "st", "rm", "lk", "p")]
QUESTION = "A farmer has seventeen sheep and all but nine of them run away during the night. How many are left?"


def _text(seed: int, words: int = 40) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def _row(asked: str, around: str = "", **own: Any) -> dict[str, Any]:
    items = [{"role": "system", "content": around}] if around else []
    return {"responses_create_params": {"input": [*items, {"role": "user", "content": asked}]}, **own}


def _seen(*rows: tuple[str, str | None, dict[str, Any]], **options: Any) -> dict[str, Any]:
    """Show rows to a linter, and return its warnings by name."""
    linter = Linter(**options)
    for number, (environment, split, row) in enumerate(rows, start=1):
        linter.add(environment, split, row, f"{environment}.jsonl:{number}")
    return {warning.name: warning for warning in linter.warnings()}


# -- prompts that stand in two places ----------------------------------------------------------------------------------


@pytest.mark.parametrize("other", [QUESTION, QUESTION.upper(), f"  {QUESTION}\n", QUESTION.replace(" ", "\n")])
def test_the_same_question_in_two_environments_is_found(other: str) -> None:
    """
    Instructions around it, letters of another case, and spacing hide nothing.
    """
    found = _seen(("a", None, _row(QUESTION, "Be brief.")), ("b", None, _row(other, "Think long.", id=7)))

    assert found["shared-prompt"].message == "prompts stand in both a and b (1 row)"
    assert found["shared-prompt"].examples == ("b.jsonl:2 and a.jsonl:1",)


def test_nearly_the_same_question_in_two_environments_is_found() -> None:
    """
    A word added and a word changed, in a question of forty.
    """
    words = _text(1).split()
    other = " ".join(["Please", *words[:30], "other", *words[31:]])

    found = _seen(("a", None, _row(" ".join(words))), ("b", None, _row(other)))

    assert found["shared-prompt"].message == "prompts stand nearly the same in both a and b (1 row)"


@pytest.mark.parametrize("is_reversed", [False, True])
@pytest.mark.parametrize("other", ["{}", "{}\n\nLet us think about it step by step, and end with: the answer is"])
def test_the_same_questions_under_other_instructions_are_found(other: str, is_reversed: bool) -> None:
    """
    What more than four prompts share is a template, whose words count for nothing; in whatever order files are read,
    and from the first row to the last.
    """
    task = "Solve the following math problem. Think step by step, and put the final answer in \\boxed{{}}.\n\n{}"
    rows = [("a", None, _row(task.format(_text(number)))) for number in range(100)]
    rows += [("b", None, _row(other.format(_text(number)) + " please")) for number in range(100)]

    found = _seen(*(reversed(rows) if is_reversed else rows))

    assert found["shared-prompt"].count >= 95  # it is an estimate


@pytest.mark.parametrize("validated", [3, 30])
def test_a_leak_is_found_whatever_the_template(validated: int) -> None:
    """
    Also where one split has too few rows to tell what their template is.
    """
    task = f"{_text(99, 60)}: {{}}"
    rows = [("a", "validation", _row(task.format(f"{_text(number)} now"))) for number in range(validated)]
    rows += [("a", "train", _row(task.format(_text(number)))) for number in range(50)]

    assert _seen(*rows)["leaked-prompt"].count == validated
    assert _seen(*reversed(rows))["leaked-prompt"].count == validated


def test_rows_of_one_template_with_other_values_are_not_taken_for_each_other() -> None:
    """
    However many words they share, and some of the values.
    """
    chance = random.Random(4)

    def story() -> str:
        one, other = chance.sample(WORDS, 2)
        numbers = [chance.randint(2, 60) for _ in range(3)]
        return (
            f"{one} has {numbers[0]} apples in a big basket and buys {numbers[1]} more of them at the market before "
            f"giving {numbers[2]} of all these to {other} who lives next door. How many are left in the basket now?"
        )

    for splits in (("a", "train"), ("a", "validation")), (("a", None), ("b", None)):
        for size in (6, 30, 300):
            rows = [(*splits[number % 5 == 0], _row(story())) for number in range(size)]

            assert _seen(*rows) == {}


def test_different_questions_are_not_taken_for_each_other() -> None:
    """
    A common form, common instructions and short texts are ordinary.
    """
    cities = ("Oslo", "Doha", "Lima", "Rome")
    rows = [
        (env, None, _row(f"What should I wear in {city} today?", "Use the tool."))
        for env, city in zip("abab", cities, strict=True)
    ]
    rows += [("a", None, _row("Begin.", "One game.")), ("b", None, _row("Begin.", "Another game."))]
    rows += [("ab"[number % 2], None, _row(_text(number), "Use the tool.")) for number in range(200)]

    assert _seen(*rows) == {}


def test_what_is_trained_on_and_validated_with_is_found() -> None:
    """
    The same row, whatever its id, or nearly the same question under the same instructions.
    """
    near = _text(5) + " end"
    found = _seen(
        ("a", "train", _row(QUESTION, "Be brief.", id=1, answer="9")),
        ("a", "train", _row(_text(5), "Be brief.", id=2)),
        ("a", "validation", _row(QUESTION, "Be brief.", id=3, answer="9")),
        ("a", "validation", _row(near, "Be brief.", id=4)),
    )
    other_instructions = _seen(
        ("a", "train", _row(_text(5), "Be brief.")), ("a", "validation", _row(near, "Add five to every number."))
    )

    assert set(found) == {"leaked-prompt"}
    assert found["leaked-prompt"].examples == ("a.jsonl:4 and a.jsonl:2",)
    assert other_instructions == {}


@pytest.mark.parametrize("around", ["", "Be brief."])
def test_a_leaked_question_is_found_whatever_else_its_rows_say(around: str) -> None:
    """
    The same question under the same instructions, with another value beside it; another split or environment that has
    it as well hides nothing.
    """
    rows = [
        ("b", "train", _row(QUESTION, around, split="b")),
        ("a", "example", _row(QUESTION, around, split="example")),
        ("a", "train", _row(QUESTION, around, split="train")),
        ("a", "validation", _row(QUESTION, around, split="validation")),
    ]

    found = _seen(*rows, ignore=["shared-prompt"])
    other = _seen(*rows[:3], ("a", "validation", _row(QUESTION, "Add five.", split="train")), ignore=["shared-prompt"])

    assert found["leaked-prompt"].examples == ("a.jsonl:4 and a.jsonl:3",)
    assert other == {}


@pytest.mark.parametrize("is_reversed", [False, True])
def test_one_template_in_two_splits_is_no_leak(is_reversed: bool) -> None:
    """
    Whichever is read first: a question that differs in a name, and one that differs in no word at all.
    """
    names = ("Ada", "Max", "Eva", "Tom", "Zoe", "Ben", "Ida", "Jim", "Lea", "Sam", "Mia", "Ron")
    story = _text(3, 60)
    for asked in ("{name}: " + story, story):
        rows = [
            ("a", "validation" if number < 3 else "train", _row(asked.format(name=name), seed=name))
            for number, name in enumerate(names)
        ]

        assert _seen(*(reversed(rows) if is_reversed else rows)) == {}


def test_examples_may_be_a_part_of_the_training_rows() -> None:
    """
    They are there to be looked at.
    """
    assert _seen(("a", "example", _row(QUESTION)), ("a", "train", _row(QUESTION))) == {}


@pytest.mark.parametrize("splits", [("example", "train", "validation"), ("train", "example", "validation")])
def test_a_question_that_is_also_an_example_is_held_against_the_other_splits(splits: tuple[str, ...]) -> None:
    """
    In whatever order they are read: examples hide nothing of what is trained on.
    """
    asked = {"example": _text(1), "train": _text(1), "validation": f"{_text(1)} now"}

    seen = _seen(*(("one", split, _row(asked[split], answer=split)) for split in splits))

    assert seen["leaked-prompt"].count == 1


def test_what_a_mix_repeats_is_no_duplicate(composed: Compose, write_rows: Write) -> None:
    """
    Its rows say so themselves, by their epoch, and count once.
    """
    rows = [row.value for row in composed({"environments": {"echo": {}}, "mix": {"size": 30}}).dataset]
    assert {row.get("epoch", 1) for row in rows} >= {1, 2, 3}

    composition = composed({"data": write_rows(*rows)})

    assert not [warning for warning in composition.warnings if warning.name in ("duplicate-row", "constant-field")]


def test_rows_that_say_the_same_are_found_whatever_their_id() -> None:
    """
    Another seed or another picture makes another row, another id does not.
    """
    picture = [{"type": "input_text", "text": QUESTION}, {"type": "input_image", "image_url": "one.png"}]
    shown = {"input": [{"role": "user", "content": picture}]}
    other = {"input": [{"role": "user", "content": [picture[0], {**picture[1], "image_url": "two.png"}]}]}

    found = _seen(
        ("a", None, _row("Play.", seed=1, id=1)),
        ("a", None, _row("Play.", seed=2, id=2)),
        ("a", None, _row("Play.", seed=1, id=3)),
        ("a", None, {"responses_create_params": shown}),
        ("a", None, {"responses_create_params": other}),
    )

    assert found["duplicate-row"].examples == ("a.jsonl:3 and a.jsonl:1",)
    assert found["duplicate-row"].count == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": "x", "c": "y"}, {"a": "x", "d": "y"}),
        (
            {"responses_create_params": {"input": QUESTION}},
            {"responses_create_params": {"input": QUESTION, "top_p": 1}},
        ),
        (
            {"responses_create_params": {"input": QUESTION, "tools": [{"name": "f"}]}},
            {"responses_create_params": {"input": QUESTION, "tools": [{"name": "g"}]}},
        ),
        (
            {"responses_create_params": {"input": QUESTION, "instructions": "Be brief."}},
            {"responses_create_params": {"input": QUESTION, "instructions": "Think long."}},
        ),
    ],
)
def test_rows_that_say_something_else_are_no_duplicates(one: dict[str, Any], other: dict[str, Any]) -> None:
    """
    Another key, parameter, tool or instruction makes another row; another order of keys, and an id, do not.
    """
    first, second = {**_row(QUESTION), **one}, {**_row(QUESTION), **other}
    again = dict(reversed({**first, "row_id": 7}.items()))

    found = _seen(("a", None, first), ("a", None, second), ("a", None, again))

    assert found["duplicate-row"].examples == ("a.jsonl:3 and a.jsonl:1",)


def test_very_many_environments_cost_no_more_than_many() -> None:
    """
    Whatever somebody has put in the place of their names: beyond a bound they are not looked at.
    """
    linter = Linter()
    bound = linter_module.REMEMBERED_OWNERS

    news = [linter.add(f"{number}", None, _row(f"{number} {QUESTION}"), f"{number}") for number in range(bound + 800)]

    assert news == [True] * bound + [False] * 800
    assert len(linter._by_number) == bound


def test_what_is_remembered_is_bounded() -> None:
    """
    Beyond the bound rows are held against the first ones, and nothing else changes.
    """
    rows = [("a", None, _row(_text(number), id=number)) for number in range(50)]

    found = _seen(*rows, ("b", None, _row(_text(3))), ("b", None, _row(_text(30))), remembered=10)

    assert found["shared-prompt"].count == 1


def test_of_very_many_rows_a_part_is_looked_at_and_twins_stay_together() -> None:
    """
    An eighth or so of the rows beyond the bound; what is looked at in one environment is in the other as well.
    """
    linter, thorough = Linter(), Linter(is_thorough=True)
    for looking in (linter, thorough):
        for environment in ("a", "b"):
            for number in range(linter_module.ALL_ROWS):
                looking.add(environment, None, _row(f"{environment} {number}"), f"{environment}:{number + 1}")
            for number in range(2000):
                looking.add(environment, None, _row(_text(number, 12)), f"{environment}:{number + 1}")

    (warning,) = [found for found in linter.warnings() if found.name == "shared-prompt"]
    (every,) = [found for found in thorough.warnings() if found.name == "shared-prompt"]
    assert 100 <= warning.count <= 500
    assert every.count == 2000


@given(st.lists(st.sampled_from(WORDS), min_size=8, max_size=150))
def test_a_sketch_is_the_same_in_every_case_and_spacing(words: list[str]) -> None:
    """
    And a text is nearly itself.
    """
    codes = NearPrompts().codes
    one, other = words_of(" ".join(words), codes), words_of("\n ".join(words).title(), codes)

    assert one is not None
    assert one == other
    assert sketch_of(one, set()) == sketch_of(list(other or ()), set())


@pytest.mark.parametrize("changed", [0, 1, 2, 20, 40])
def test_sketches_tell_how_much_is_common(changed: int) -> None:
    """
    Of texts of 80 words: found where a word or two differ, and not where a quarter does.
    """
    found = 0
    for seed in range(100):
        words = _text(seed, 80).split()
        near = NearPrompts()
        near.add(0, 0, 1, " ".join(words), ())
        for place in random.Random(seed).sample(range(80), changed):
            words[place] = f"new{place}"
        near.add(1, 0, 2, " ".join(words), [(0, True)])
        found += len(near.rest())

    assert found >= 80 if changed <= 2 else found <= 5, (changed, ALIKE)


# -- answers, tools, splits, scales, fields ----------------------------------------------------------------------------


def test_an_answer_that_stands_in_the_prompt_is_found() -> None:
    """
    At the top of the row, or one level below, and in instructions as well.
    """
    answer = "the butler did it in the library"
    found = _seen(
        ("a", None, _row(f"Who was it? (Hint: {answer}.)", expected_answer=answer)),
        ("a", None, _row("Who was it?", f"Never say that {answer}!", verifier_metadata={"solution": answer})),
    )

    assert found["answer-in-prompt"].examples in (("a.jsonl:1",), ("a.jsonl:2",))
    assert "hold the row's own" in found["answer-in-prompt"].message


def test_an_answer_is_found_where_it_stands_a_second_time() -> None:
    """
    After one that is only an option, or a part of a word.
    """
    asked = "A) the butler in the hall B) nobody\n(the butler in the halls? No: the butler in the hall.)"

    assert set(_seen(("a", None, _row(asked, answer="the butler in the hall")))) == {"answer-in-prompt"}


@pytest.mark.parametrize(
    ("asked", "own"),
    [
        ("What is the weather in Edinburgh?", {"expected": "Edinburgh"}),
        ("What is the weather in New York City now?", {"city": "New York City now"}),
        ("Is it 1234567890123?", {"answer": "12345678901234"}),
        ("Who? A) the butler in the hall B) nobody", {"answer": "the butler in the hall"}),
        ("Which?\n- the butler in the hall\n- nobody", {"answer": "the butler in the hall"}),
        ("the butler in the halls", {"answer": "the butler in the hall"}),
        ("repeat after me, please", {"answer": "repeat after me, please"}),
        ("Say: one two three four.", {"answer_id": "one two three four"}),
        ("Say: one two three four.", {"expected_words": ["one two three four"]}),
        ("Say: One Two Three Four.", {"answer": "one two three four"}),
        ("Is it 123456789012345678?", {"answer": 123456789012345678}),
    ],
)
def test_what_only_looks_like_an_answer_is_not_reported(asked: str, own: dict[str, Any]) -> None:
    """
    Short values, inputs, one option of several, a part of a word, the whole prompt, ids, lists, numbers, another case.
    """
    assert _seen(("a", None, _row(asked, **own))) == {}


@pytest.mark.parametrize(
    ("unit", "times"), [("word ", 100_000), ("word", 100_000), ("01", 20_000), ("to be or not to be, ", 10_000)]
)
def test_a_value_that_repeats_itself_costs_no_more_than_others(unit: str, times: int) -> None:
    """
    It is found again at nearly every place of a prompt that repeats it, and each time all of it would be read.
    """
    prompt = f"x{unit * times * 5}y"

    _, left = linter_module._tells(prompt, unit * times, 8 * len(prompt))

    assert left > -len(prompt)
    assert _seen(("a", None, _row(prompt, answer=unit * times))) == {}


def test_very_many_places_of_a_short_value_are_not_all_looked_at() -> None:
    """
    Each costs more than reading it.
    """
    found, left = linter_module._tells("x" + " -" * 50_000, " -" * 10, 3_000_000)

    assert (found, left <= 0) == (False, True)


def test_very_many_answers_in_one_row_cost_no_more_than_some() -> None:
    """
    A prompt is read a few times, and of what may be answers the first ones are looked for.
    """
    prompt, answer = "A long story. " * 100_000, "the butler did it in the library"
    others = {f"answer_{number}": f"{answer}, says {number}" for number in range(5000)}

    assert set(_seen(("a", None, _row(prompt + answer, answer=answer, **others)))) == {"answer-in-prompt"}
    assert _seen(("a", None, _row(prompt + answer, **others, answer=answer))) == {}


def test_an_answer_is_found_after_very_many_options() -> None:
    """
    As many as somebody may write: places that do not overlap are all looked at.
    """
    answer = "the butler in the hall"
    asked = f"- {answer}\n" * 5000

    assert set(_seen(("a", None, _row(f"{asked}It was {answer}.", answer=answer)))) == {"answer-in-prompt"}
    assert _seen(("a", None, _row(asked, answer=answer))) == {}


CLASSES = ("natural language processing", "computer vision research", "reinforcement learning theory")


@pytest.mark.parametrize("is_sorted", [False, True])
@pytest.mark.parametrize("around", ["", f"The classes are {' and '.join(CLASSES)}."])
def test_what_prompts_list_as_choices_is_no_leak(around: str, is_sorted: bool) -> None:
    """
    A value that stands in most prompts of rows with another answer is one of those that may be given; whether the rows
    of one answer follow each other or not.
    """
    order = sorted(range(60), key=lambda number: number % 3) if is_sorted else range(60)
    listed = "Which of them is it?" if around else f"Is it one of {', '.join(CLASSES)}?"
    rows = [("a", None, _row(f"{_text(number)} {listed}", around, label=CLASSES[number % 3])) for number in order]

    assert _seen(*rows) == {}


def test_an_answer_that_other_prompts_do_not_hold_is_found_among_choices() -> None:
    """
    A class that only its own rows name, beside others that all do.
    """
    listed = f"Is it one of {CLASSES[0]}, {CLASSES[1]}?"
    rows = [("a", None, _row(f"{_text(number)} {listed}", label=CLASSES[number % 2])) for number in range(30)]
    rows += [
        ("a", None, _row(f"{_text(number)} {listed} It is {CLASSES[2]}.", label=CLASSES[2])) for number in (98, 99)
    ]

    found = _seen(*rows)

    assert (found["answer-in-prompt"].count, found["answer-in-prompt"].examples) == (2, ("a.jsonl:31", "a.jsonl:32"))


def test_very_many_different_answers_are_all_counted() -> None:
    """
    Also those beyond what is remembered until the end.
    """
    answers = [f"the number {number} of them" for number in range(linter_module.TOLD + 50)]
    rows = [("a", None, _row(f"{_text(number)} It is {text}.", answer=text)) for number, text in enumerate(answers)]

    linter = Linter(is_thorough=True)
    for number, (environment, split, row) in enumerate(rows):
        linter.add(environment, split, row, f"a:{number}")

    assert [found.count for found in linter.warnings()] == [len(answers)]
    assert [found.count for found in linter.warnings()] == [len(answers)]


def test_one_tool_with_two_schemas_is_found(composed: Compose, write_rows: Write) -> None:
    """
    Across environments; within one, the code is what rows are held against.
    """
    linter = Linter()
    search = {"type": "function", "name": "search", "parameters": {"type": "object", "properties": {"q": {}}}}
    same = {**search, "description": "Other words."}
    other = {**search, "parameters": {"type": "object", "properties": {"query": {}}}}

    linter.offered("a", [search, {"type": "web_search"}, "nonsense"], "a.jsonl:1")
    linter.offered("b", [same], "b.jsonl:1")
    assert linter.warnings() == ()
    linter.offered("c", [other], "its code")

    (warning,) = linter.warnings()
    assert (warning.name, warning.message) == ("tool-conflict", "the tool 'search' has 2 schemas in a, b, c")
    assert warning.examples == ("a: a.jsonl:1", "b: b.jsonl:1", "c: its code")


def test_what_environments_declare_is_compared() -> None:
    """
    Rewards on different scales, and training without anything to hold it against.
    """
    linter = Linter()
    linter.declare("a", split="train", splits=["train", "example"], reward_range=(0.0, 1.0))
    linter.declare("b", split="train", splits=["train", "validation"], reward_range=(-1.0, 1.0))
    linter.declare("c", split=None, splits=[], reward_range=None)

    assert [(warning.name, warning.message) for warning in linter.warnings()] == [
        ("no-validation", "a has no validation split to hold its training against"),
        ("reward-ranges", "rewards are on different scales: a 0 to 1, b -1 to 1"),
    ]


def test_a_field_that_never_changes_is_found() -> None:
    """
    Where there are rows enough to tell.
    """
    rows = [
        ("a", None, _row(_text(number), level=1, id=number, tag="x" * 100, odd=number == 7)) for number in range(30)
    ]

    assert _seen(*rows[:19]) == {}
    linter = Linter()
    for number, (environment, split, row) in enumerate(rows):
        linter.add(environment, split, row, f"a:{number + 1}")
    assert [warning.message.partition(":")[0] for warning in linter.warnings()] == [
        "every row of a has the same 'level'",
        "every row of a has the same 'tag'",
    ]


def test_a_field_is_constant_only_if_every_row_says_so() -> None:
    """
    Rows that nothing else is asked of are looked at as well; a missing value and true for 1 are other values.
    """
    rows = [_row(_text(number, 5), level=1, flag=1, kind="x", same="y") for number in range(1000)]
    rows[-1]["level"] = 2
    rows[-2]["flag"] = True
    del rows[-3]["kind"]

    linter = Linter()
    for row in rows:
        linter.add("a", None, row, "a:1")

    (warning,) = linter.warnings()
    assert (warning.message, warning.count) == ("every row of a has the same 'same': \"y\"", 1000)


def test_what_costs_much_is_asked_of_fewer_rows() -> None:
    """
    Of every second one after the first ones, of every fourth then, and so on.
    """
    answer = "the butler did it in the library"
    rows = [("a", None, _row(f"Case {number}, {answer}?", answer=answer)) for number in range(8 * linter_module.QUICK)]

    found = _seen(*rows, ignore=["constant-field"])

    assert found["answer-in-prompt"].count == linter_module.QUICK * 3 + linter_module.QUICK // 8


# -- in a composition --------------------------------------------------------------------------------------------------


def test_compose_warns_and_goes_on(composed: Compose, write_rows: Write) -> None:
    """
    A warning keeps nobody from composing; its name silences it, and `strict` makes it a mistake.
    """
    row = {**_row(QUESTION), "answer": "nine"}
    plan = {"environments": {"echo": {"data": write_rows(row, row)}}}

    assert [warning.name for warning in composed(plan).warnings] == ["duplicate-row"]
    assert len(composed(plan).dataset) == 2
    assert composed({**plan, "check": {"ignore": ["duplicate-row"]}}).warnings == ()
    with pytest.raises(RequestError, match="1 warning is taken for mistakes") as caught:
        composed({**plan, "check": {"strict": True}})
    assert "--ignore-warning duplicate-row" in str(caught.value)


def test_two_environments_of_a_plan_are_compared(composed: Compose, write_rows: Write) -> None:
    """
    One line of one file is no finding: whoever plays an environment under two names has asked for it.
    """
    one, copy = (write_rows({**_row(QUESTION), "answer": "nine"}, name=name) for name in ("one", "copy"))

    def warned(other: str) -> list[str]:
        plan = {"environments": {"one": {"use": "echo", "data": one}, "two": {"use": "echo", "data": other}}}
        return [warning.name for warning in composed(plan).warnings]

    assert warned(copy) == ["shared-prompt"]
    assert warned(one) == []


def test_training_rows_are_held_against_the_validation_split(tmp_path: Path) -> None:
    """
    Although only the training split is composed; and what validation rows are like is not the question.
    """
    rows = {
        "train": [_row(QUESTION, id=1), _row(_text(2), id=2), {"responses_create_params": {"input": [5]}}],
        "validation": [_row(QUESTION, id=3), *[_row(_text(9), id=number) for number in range(4, 40)], 5],
    }
    data = {f"leaky/{split}.jsonl": "\n".join(map(json.dumps, found)) for split, found in rows.items()}
    code = (
        "from gymcore import Environment, Task\n\n\nclass Open(Task):\n    responses_create_params: dict\n\n\n"
        "class Leaky(Environment[Open]):\n    pass\n"
    )
    manifest = "gym_api: 1\nsplits: {train: train.jsonl, validation: validation.jsonl}\n"
    files = {"leaky/__init__.py": code, "leaky/gym.yaml": manifest, **data}
    PluginFolder(tmp_path).install("gym-plugin-leaky", files, {"gymcore.environments": {"leaky": "leaky:Leaky"}})
    with PluginFolder(tmp_path):
        plan = Plan.model_validate({"environments": {"leaky": {"split": "train"}}, "models": {"policy": "nop"}})
        composition = compose(plan, discover(), environ={})

    assert len(composition.dataset) == 3
    (warning,) = composition.warnings
    assert (warning.name, warning.count) == ("leaked-prompt", 1)
    assert [place.rpartition("/")[2].partition(":")[2] for place in warning.examples[0].split(" and ")] == [
        "validation.jsonl:1",
        "train.jsonl:1",
    ]


def test_warnings_change_no_byte_of_a_dataset(composed: Compose, write_rows: Write) -> None:
    """
    The linter looks, and touches nothing.
    """
    plan = {"environments": {"echo": {"data": write_rows(*[{**_row(QUESTION), "answer": "x"}] * 3)}}}

    silent = composed({**plan, "check": {"ignore": list(get_args(WarningName))}})

    assert silent.warnings == ()
    assert silent.lock == composed(plan).lock


def test_an_unknown_warning_cannot_be_ignored(composed: Compose) -> None:
    """
    A misspelt name would silence nothing.
    """
    with pytest.raises(PlanError, match="duplicate-row"):
        composed({"environments": {"echo": {}}, "check": {"ignore": ["duplicate-rows"]}})
