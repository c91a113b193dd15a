"""
The synonyms environment: what earns reward, and what does not.
"""

import json
import subprocess
import sys
from collections import Counter
from importlib.resources import files
from pathlib import Path

import pytest
from gym_plugin_example_multi_step.environment import ExampleMultiStep, value_of

from gymcore.records import ToolCall
from gymcore.testing import EnvironmentSuite, ScriptedModel, calls, play, says
from gymcore.testing.replies import Reply

HOT = value_of("Hot")
WANTED = [value_of("Blazing"), value_of("Torrid")]
ROW = {
    "responses_create_params": {"input": [{"role": "user", "content": "Why is it so hot in here?"}]},
    "id": 0,
    "expected_synonyms": ["Blazing", "Torrid"],
    "expected_synonym_values": WANTED,
    "minefield_label": "Hot",
    "minefield_label_value": HOT,
}


@pytest.mark.xdist_group("example_multi_step")
class TestExampleMultiStep(EnvironmentSuite):
    """
    What every environment should hold.
    """

    plugin = "example_multi_step"


def submit(values: object) -> Reply:
    return calls("extract_synonym_values", synonym_values=values)


def test_the_value_of_a_synonym_is_the_sum_of_its_code_points() -> None:
    """
    The lookup answers with the sum of the code points, as the expected values were made.
    """
    rollout = play(ExampleMultiStep, ROW, ScriptedModel(calls("get_synonym_value", synonym="Blazing"), says("")))

    assert json.loads(rollout.trajectory.turns[0].results[0]["output"]) == {"synonym_value": 711}


@pytest.mark.parametrize(
    ("replies", "reward", "overlap", "hit", "disordered"),
    [
        ((submit(WANTED), says("Done.")), 1.0, 1.0, False, False),
        ((submit([1]), submit(WANTED), says("Done.")), 1.0, 1.0, False, False),
        ((submit(WANTED), submit([1]), says("Done.")), 0.0, 0.0, False, False),
        ((submit(WANTED[::-1]), says("Done.")), 0.0, 1.0, False, True),
        ((submit(WANTED[:1]), says("Done.")), 0.0, 0.5, False, False),
        ((submit([HOT, *WANTED]), says("Done.")), 0.0, 1.0, True, True),
        ((submit([]), says("Done.")), 0.0, 0.0, False, False),
        ((submit("711"), says("Done.")), 0.0, 0.0, False, False),
        ((submit([True, None, {}, "x"]), says("Done.")), 0.0, 0.0, False, False),
        ((calls("extract_synonym_values", values=WANTED), says("Done.")), 0.0, 0.0, False, False),
        ((Reply((ToolCall("extract_synonym_values", "not json"),)), says("Done.")), 0.0, 0.0, False, False),
        ((says("711, 628"),), 0.0, 0.0, False, False),
    ],
)
def test_pays_for_the_expected_values_in_order(
    replies: tuple, reward: float, overlap: float, hit: bool, disordered: bool
) -> None:
    """
    1.0 exactly when the last submission equals the expected values; the metrics tell near misses apart.
    """
    rollout = play(ExampleMultiStep, ROW, ScriptedModel(*replies))

    assert rollout.failure is None
    assert rollout.reward is not None
    assert rollout.reward.value == reward
    assert rollout.reward.metrics == {
        "accuracy": reward == 1.0,
        "set_overlap": overlap,
        "original_term_minefield_hit": hit,
        "order_instruction_following_failure": disordered,
    }


def rows(split: str) -> list[dict]:
    text = files("gym_plugin_example_multi_step").joinpath(f"data/{split}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_no_constant_submission_pays() -> None:
    """
    Always submitting the same list solves at most one task in a hundred.
    """
    train = rows("train")
    [(_, most)] = Counter(str(row["expected_synonym_values"]) for row in train).most_common(1)

    assert (len(rows("example")), len(rows("validation")) >= 200, len(train) >= 2000) == (5, True, True)
    assert most <= len(train) / 100


def test_expected_values_belong_to_the_expected_synonyms() -> None:
    """
    In every row the values are those of the synonyms, and the trap is none of them.
    """
    for row in [*rows("example"), *rows("validation"), *rows("train")]:
        assert [value_of(word) for word in row["expected_synonyms"]] == row["expected_synonym_values"]
        assert value_of(row["minefield_label"]) == row["minefield_label_value"]
        assert row["minefield_label_value"] not in row["expected_synonym_values"]


def test_the_data_is_what_the_generator_makes() -> None:
    """
    The committed rows, tool schemas included, are exactly those that the committed generator writes.
    """
    generator = Path(__file__).parents[1] / "generate_data.py"

    done = subprocess.run([sys.executable, generator, "--check"], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
