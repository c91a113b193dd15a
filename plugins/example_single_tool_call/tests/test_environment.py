"""
The weather environment: what earns reward, and what does not.
"""

import json
import subprocess
import sys
from collections import Counter
from importlib.resources import files
from pathlib import Path

import pytest
from gym_plugin_example_single_tool_call.environment import ExampleSingleToolCall, WeatherConfig

from gymcore.testing import EnvironmentSuite, ScriptedModel, calls, play, says

ROW = {"responses_create_params": {"input": [{"role": "user", "content": "How cold is it in Oslo?"}]}, "city": "Oslo"}
OSLO = calls("get_weather", city="Oslo")


@pytest.mark.xdist_group("example_single_tool_call")
class TestExampleSingleToolCall(EnvironmentSuite):
    """
    What every environment should hold.
    """

    plugin = "example_single_tool_call"


def test_the_tool_answers_as_documented() -> None:
    """
    The model reads the city and the sentence about it.
    """
    rollout = play(ExampleSingleToolCall, ROW, ScriptedModel(OSLO, says("Cold.")))

    result = json.loads(rollout.trajectory.turns[0].results[0]["output"])

    assert result == {"city": "Oslo", "weather_description": "The weather in Oslo is cold."}


@pytest.mark.parametrize(
    ("replies", "reward", "metrics"),
    [
        ((OSLO, says("Cold.")), 1.0, {"called": True, "calls": 1}),
        ((calls("get_weather", city="Lima"), says("Cold.")), 1.0, {"called": True, "calls": 1}),
        ((OSLO + OSLO, OSLO, says("Cold.")), 1.0, {"called": True, "calls": 3}),
        ((says("Cold."),), 0.0, {"called": False, "calls": 0}),
        ((OSLO, says("")), 0.0, {"called": True, "calls": 1}),
        ((calls("get_weather"), says("Cold.")), 0.0, {"called": False, "calls": 1}),
        ((calls("get_weather", city=" "), says("Cold.")), 0.0, {"called": False, "calls": 1}),
        ((calls("get_weather", city=7), says("Cold.")), 0.0, {"called": False, "calls": 1}),
    ],
)
def test_pays_for_asking_before_answering(replies: tuple, reward: float, metrics: dict) -> None:
    """
    1.0 when the weather of a city was asked before the final answer, else 0.0.
    """
    rollout = play(ExampleSingleToolCall, ROW, ScriptedModel(*replies))

    assert rollout.reward is not None
    assert (rollout.reward.value, rollout.reward.metrics) == (reward, metrics)


def test_pays_always_when_no_call_is_required() -> None:
    """
    `require_call: false` pays every attempt, as the system that this environment mirrors does.
    """
    rollout = play(ExampleSingleToolCall, ROW, ScriptedModel(says("Hm.")), config=WeatherConfig(require_call=False))

    assert rollout.reward is not None
    assert rollout.reward.value == 1.0


@pytest.mark.parametrize(("city", "reward"), [("oslo ", 1.0), ("Lima", 0.0)])
def test_can_ask_for_the_city_in_question(city: str, reward: float) -> None:
    """
    `match_city: true` pays only for the city that the task is about.
    """
    model = ScriptedModel(calls("get_weather", city=city), says("Cold."))

    rollout = play(ExampleSingleToolCall, ROW, model, config=WeatherConfig(match_city=True))

    assert rollout.reward is not None
    assert rollout.reward.value == reward


def rows(split: str) -> list[dict]:
    text = files("gym_plugin_example_single_tool_call").joinpath(f"data/{split}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_no_city_is_asked_about_often() -> None:
    """
    With `match_city`, always asking for the same city solves at most one task in a hundred.
    """
    train = rows("train")
    [(_, most)] = Counter(row["city"] for row in train).most_common(1)

    assert (len(rows("example")), len(rows("validation")) >= 200, len(train) >= 2000) == (5, True, True)
    assert most <= len(train) / 100


def test_the_data_is_what_the_generator_makes() -> None:
    """
    The committed rows, tool schemas included, are exactly those that the committed generator writes.
    """
    generator = Path(__file__).parents[1] / "generate_data.py"

    done = subprocess.run([sys.executable, generator, "--check"], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
