"""
`trl.load()`: environments as TRL takes them, played by our runtime.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gymcore.composition import compose, write_composition
from gymcore.discovery import discover
from gymcore.errors import GymcoreError, RequestError
from gymcore.integrations.trl import TrlEnvironments, load, trajectory_of
from gymcore.plan import Plan
from gymcore.records import ToolCall
from gymcore.testing.plugins import PluginFolder

pytest.importorskip("datasets", reason="datasets is not installed: pip install --group trainers")

pytestmark = pytest.mark.slow

LABOUR = Path(__file__).parents[1] / "data" / "gym_plugin_labour"
HOSTILE = Path(__file__).parents[1] / "data" / "hostile"

Load = Callable[..., TrlEnvironments]


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """
    Compose a plan into a run folder and load it; what was loaded is closed at the end.
    """
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    opened = []

    def run(environments: dict[str, Any], **rest: Any) -> TrlEnvironments:
        catalog = discover()
        plan = Plan.model_validate({"environments": environments, **rest})
        write_composition(compose(plan, catalog, environ={}), tmp_path / "mix")
        opened.append(load(tmp_path / "mix", catalog, cache_dir=str(tmp_path / "cache")))
        return opened[-1]

    yield run
    for spec in opened:
        spec.close()


@pytest.fixture
def labour(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PluginFolder]:
    """
    An environment that writes down what is done to it, and whose rows say how its verifier behaves.
    """
    with PluginFolder(tmp_path_factory.mktemp("labour")) as folder:
        folder.install_project(LABOUR)
        yield folder


def begun(spec: TrlEnvironments, row: dict[str, Any], environment: Any = None) -> Any:
    """Do what GRPOTrainer does before a rollout: take an instance, and reset it with every other column."""
    environment = environment or spec.environment_factory[row["environment"]]()
    environment.reset(**{key: value for key, value in row.items() if key != "environment"})
    return environment


def rewards(
    spec: TrlEnvironments, environments: list[Any], completions: list[Any], **given: Any
) -> dict[str, list[float | None]]:
    """Do what GRPOTrainer does after it: ask every reward function about all of them."""
    columns = {"task_id": [""] * len(environments), "trainer_state": None, **given}
    return {
        function.__name__: asyncio.run(
            function(prompts=[], completions=completions, environments=environments, **columns)
        )
        for function in spec.reward_funcs
    }


def labours(folder: Path, *what: str, **plan: Any) -> dict[str, Any]:
    """Write a row for each thing that the verifier is to do, and return the plan's environments."""
    file = folder / "rows.jsonl"
    rows = [{"responses_create_params": {"input": "Work."}, "what": one, "n": n} for n, one in enumerate(what)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"labour": {"data": [str(file)], **plan}}


def asked(name: str, output: str, **arguments: Any) -> list[dict[str, Any]]:
    call = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "name": name, "content": output},
    ]


def test_a_mix_is_played_and_each_rollout_has_the_reward_of_its_environment(loaded: Load) -> None:
    """
    Tools are called on the task's own world, the verifier sees the whole completion, and other environments' rollouts
    have no reward.
    """
    spec = loaded({"example_single_tool_call": {"limit": 1}, "example_multi_step": {"limit": 1}})
    rows = {row["environment"]: row for row in spec.train_dataset}
    weather, synonyms = (begun(spec, rows[name]) for name in ("example_single_tool_call", "example_multi_step"))

    async def play() -> list[Any]:
        said = asked("get_weather", await weather.get_weather(city="Oslo"), city="Oslo")
        done: list[dict[str, Any]] = []
        values = []
        for word in json.loads(rows["example_multi_step"]["row"])["expected_synonyms"]:
            output = await synonyms.get_synonym_value(synonym=word)
            done += asked("get_synonym_value", output, synonym=word)
            values.append(json.loads(output)["synonym_value"])
        output = await synonyms.extract_synonym_values(synonym_values=values)
        done += asked("extract_synonym_values", output, synonym_values=values)
        return [
            [*said, {"role": "assistant", "content": "It is cold."}],
            [*done, {"role": "assistant", "content": "Done."}],
        ]

    completions = asyncio.run(play())

    assert "Oslo is cold" in completions[0][1]["content"]
    assert rewards(spec, [weather, synonyms], completions) == {
        "example_single_tool_call": [1.0, None],
        "example_multi_step": [None, 1.0],
    }


def test_a_rollout_that_calls_nothing_is_scored_too(loaded: Load) -> None:
    """
    A wrong answer has a reward, the lowest.
    """
    spec = loaded({"example_single_tool_call": {"limit": 1}})
    weather = begun(spec, spec.train_dataset[0])

    assert rewards(spec, [weather], [[{"role": "assistant", "content": "No idea."}]]) == {
        "example_single_tool_call": [0.0]
    }


def test_public_methods_are_the_tools_with_their_signatures(loaded: Load, plugins: PluginFolder) -> None:
    """
    TRL takes every public function of the class but `reset` for a tool, and its schema from signature and docstring.
    """
    spec = loaded({"echo": {}, "shout": {}})
    echo, shout = spec.environment_factory["echo"], spec.environment_factory["shout"]
    public = {
        cls.__name__: [name for name, _ in inspect.getmembers(cls, inspect.isfunction) if not name.startswith("_")]
        for cls in (echo, shout)
    }

    assert public == {"echo": ["repeat", "reset"], "shout": ["reset"]}
    method = echo().repeat
    assert str(inspect.signature(method)) == "(*, text: str, times: int = 1) -> str"
    assert inspect.iscoroutinefunction(method)
    assert method.__name__ == "repeat"
    assert inspect.getdoc(method) == ("Repeat a text.\n\nArgs:\n    text: What to repeat.\n    times: How often.")


def test_what_trl_tells_a_model_otherwise_than_the_environment_is_said(
    loaded: Load, wordy: PluginFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """
    Fields of objects have no words in a type hint; all else does, and no text is mistaken for a section of a docstring.
    """
    own = {"type": "function", "name": "put", "description": "Own words.", "parameters": {"type": "object"}}
    rows = [{"input": "Hi."}, {"input": "Ho.", "tools": [own], "temperature": 0.1, "tool_choice": "auto"}]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"responses_create_params": row}) + "\n" for row in rows))

    spec = loaded({"wordy": {"data": [str(file)]}}, models={"policy": "nop"})

    assert spec.notes == (
        "wordy: TRL cannot say all that the schema of move says of to, path (2 rows)",
        "wordy: TRL offers all tools of an environment, also move, which rows leave out (1 row)",
        "wordy: TRL describes put in the words of the environment, and rows have words of their own (1 row)",
        "TRL asks without temperature, which stands only in the row; what GRPOConfig says is for all rows (1 row)",
    )
    assert [record.message for record in caplog.records] == list(spec.notes)
    put = spec.environment_factory["wordy"]().put
    assert str(inspect.signature(put)).startswith("(*, value: Any, pair: tuple[int, str], kind: Literal['a'], table:")
    assert "Returns:" not in put.__doc__


def test_arguments_that_do_not_fit_are_told_to_the_model(loaded: Load, plugins: PluginFolder) -> None:
    """
    The words are those of a run, and the rollout goes on.
    """
    spec = loaded({"echo": {}})
    echo = begun(spec, spec.train_dataset[0])

    async def play() -> tuple[str, str]:
        return await echo.repeat(texts="a"), await echo.repeat(text="a", times=2)

    refused, done = asyncio.run(play())

    assert "invalid arguments for repeat: text: Field required" in refused
    assert done == "aa"


def test_everything_is_opened_once_and_closed_whatever_becomes_of_it(
    loaded: Load, labour: PluginFolder, tmp_path: Path
) -> None:
    """
    A rollout is closed when it was scored, when the next one takes its place, and at the latest with everything else.
    """
    log, file = tmp_path / "log", tmp_path / "rows.jsonl"
    rows = [{"responses_create_params": {"input": "Work."}, "n": number} for number in range(3)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = loaded({"labour": {"data": [str(file)], "config": {"log": str(log)}}})
    scored, replaced, left = (begun(spec, row) for row in spec.train_dataset)

    first = rewards(spec, [scored], ["done"])
    begun(spec, spec.train_dataset[0], replaced)
    spec.close()

    assert first["labour"][0] is not None
    lines = [line.partition(" ")[2] for line in log.read_text().splitlines()]
    assert (lines[0], lines[-1]) == ("shared", "unshared")
    opened, closed = ([line[len(word) :] for line in lines if line.startswith(word)] for word in ("open", "close"))
    assert sorted(opened) == sorted(closed)
    assert len(opened) == 4
    with pytest.raises(RuntimeError, match="closed"):
        begun(spec, spec.train_dataset[0], left)


def test_a_failure_is_no_reward(loaded: Load, labour: PluginFolder, tmp_path: Path) -> None:
    """
    A verifier that does not come back within its bound has None, which TRL leaves out of its averages.
    """
    spec = loaded(labours(tmp_path, "wait", verify_timeout_s=0.1))

    assert rewards(spec, [begun(spec, spec.train_dataset[0])], ["done"]) == {"labour": [None]}


def test_what_fails_is_told_once_and_summed_up(
    loaded: Load, labour: PluginFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """
    Training goes on without a reward, but nobody has to guess why there is none, nor how often.
    """
    spec = loaded(labours(tmp_path, "raise", max_failures="5%"))
    row = spec.train_dataset[0]
    caplog.clear()

    assert rewards(spec, [begun(spec, row), begun(spec, row)], ["done"] * 2) == {"labour": [None, None]}
    why = "verify: ValueError: the verifier exploded"
    assert [record.message for record in caplog.records] == [f"labour: a rollout failed and has no reward: {why}"]
    spec.close()
    assert caplog.messages[1:] == [f"labour: 2 rollouts failed and have no reward: {why}"]
    assert "max_failures of 5% is not kept" in spec.notes[0]


def test_more_failures_than_the_plan_allows_end_the_training(
    loaded: Load, labour: PluginFolder, tmp_path: Path
) -> None:
    """
    A budget that is a count holds under TRL too.
    """
    spec = loaded(labours(tmp_path, "raise", max_failures=1))
    row = spec.train_dataset[0]

    assert rewards(spec, [begun(spec, row)], ["done"]) == {"labour": [None]}
    with pytest.raises(GymcoreError, match="labour: 2 rollouts failed, max_failures is 1; 2 x verify: ValueError"):
        rewards(spec, [begun(spec, row)], ["done"])


def test_more_rollouts_at_once_than_the_plan_allows_are_refused(
    loaded: Load, labour: PluginFolder, tmp_path: Path
) -> None:
    """
    They could not wait for each other, because TRL begins a whole batch before it scores any of it.
    """
    spec = loaded(labours(tmp_path, "count", concurrency=2), collect={"concurrency": 3})
    row = spec.train_dataset[0]
    first, second = begun(spec, row), begun(spec, row)

    with pytest.raises(RequestError, match="more than 2 rollouts of labour at once"):
        begun(spec, row)

    assert spec.notes[0].startswith("collect.concurrency is not kept")
    rewards(spec, [first], ["done"])
    begun(spec, row)  # in the place of what was scored
    begun(spec, row, second)  # in its own


class Trainer:
    """What a reward function sees of a trainer: a method to log with."""

    def __init__(self, *ends: int) -> None:
        self.eos_token_ids = list(ends)

    def log_metric(self, name: str, value: float) -> None:
        pass


def test_a_reply_that_was_cut_off_is_verified_as_truncated(loaded: Load, labour: PluginFolder, tmp_path: Path) -> None:
    """
    What ends with none of the trainer's end tokens met the limit, and is not paid as if it were whole.
    """
    spec = loaded(labours(tmp_path, "stop", "stop"))
    row = spec.train_dataset[0]
    ids = [[5, 6, 2], [5, 6, 7]]
    said = ["It is cold.", "It is co"]

    asked = rewards(
        spec, [begun(spec, row), begun(spec, row)], said, completion_ids=ids, log_metric=Trainer(2).log_metric
    )

    assert asked == {"labour": [1.0, 0.0]}
    with pytest.raises(RequestError, match=r"end_tokens=\[tokenizer.eos_token_id\]"):
        rewards(spec, [begun(spec, row)], said[:1], completion_ids=ids[:1])


FAR = """
from gymcore import Environment

class Far(Environment):
    async def other_tool(self, call):
        return f"{call.name} {call.arguments}"

    def verify(self, trajectory):
        return float(len(trajectory.calls()))
"""


def _function(name: str, told: str = "Do it.", **parameters: Any) -> dict[str, Any]:
    return {"type": "function", "name": name, "description": told, "parameters": {"type": "object", **parameters}}


def _rows_of_far(folder: Path, *offered: list[dict[str, Any]]) -> dict[str, Any]:
    file = folder / "rows.jsonl"
    rows = [{"responses_create_params": {"input": f"Fly {n}.", "tools": tools}} for n, tools in enumerate(offered)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"far": {"data": [str(file)]}}


@pytest.fixture
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PluginFolder]:
    """
    An environment whose tools stand in its rows.
    """
    with PluginFolder(tmp_path_factory.mktemp("far")) as folder:
        files = {"gym_plugin_far/__init__.py": FAR, "gym_plugin_far/gym.yaml": "gym_api: 1"}
        folder.install("gym-plugin-far", files, {"gymcore.environments": {"far": "gym_plugin_far:Far"}})
        yield folder


def test_tools_that_stand_in_rows_are_methods_too(loaded: Load, far: PluginFolder, tmp_path: Path) -> None:
    """
    All of them in all rows, because TRL has one class for an environment; that, and whose words are used, is said.
    """
    place = {"place": {"type": "string", "description": "Where to."}, "high": {"type": "integer", "default": 3}}
    fly = _function("fly", properties=place, required=["place"])
    rows = _rows_of_far(tmp_path, [fly], [fly, _function("land")], [_function("fly", "Otherwise."), _function("land")])

    spec = loaded(rows, models={"policy": "nop"})

    methods = {name: method for name, method in vars(spec.environment_factory["far"]).items() if name[0] != "_"}
    assert list(methods) == ["reset", "fly", "land"]
    signature = inspect.signature(methods["fly"])
    assert str(signature) == "(self, *, place: str, high: int = 3) -> str"
    assert "place: Where to." in methods["fly"].__doc__
    environment = begun(spec, spec.train_dataset[0])
    said = asked("fly", asyncio.run(environment.fly(place="Oslo")), place="Oslo")
    assert said[1]["content"] == 'fly {"place":"Oslo"}'
    assert rewards(spec, [environment], [[*said, {"role": "assistant", "content": "."}]])["far"] == [1.0]
    assert "far: TRL offers all tools of an environment, also those that only other rows offer" in spec.notes
    assert "far: TRL describes fly as its first row does, and others do it otherwise" in spec.notes


@pytest.mark.parametrize("argument", ["to-place", "class", "1st"])
def test_an_argument_that_python_cannot_name_is_refused(
    loaded: Load, far: PluginFolder, tmp_path: Path, argument: str
) -> None:
    """
    TRL reads tools from signatures.
    """
    rows = _rows_of_far(tmp_path, [_function("fly", properties={argument: {"type": "string"}})])

    with pytest.raises(RequestError, match="which TRL cannot name"):
        loaded(rows, models={"policy": "nop"})


def test_an_environment_that_answers_the_model_is_refused(loaded: Load) -> None:
    """
    TRL's loop asks no environment for a user message, so a game of several of them would end after the first.
    """
    with PluginFolder(HOSTILE), pytest.raises(RequestError, match="messages of its own"):
        loaded({"hostile": {}})


def test_a_completion_becomes_a_trajectory() -> None:
    """
    One turn for each message of the model, with the results of its calls in order, and a stop that says how it ended.
    """
    two = {"role": "assistant", "content": None, "reasoning_content": "Hmm.", "tool_calls": []}
    for name in ("f", "g"):
        two["tool_calls"].append({"type": "function", "function": {"name": name, "arguments": {"a": 1}}})  # type: ignore[union-attr]
    results = [{"role": "tool", "name": "f", "content": "1"}, {"role": "tool", "name": "g", "content": "2"}]

    played = trajectory_of([two, *results, {"role": "assistant", "content": "Done."}])

    assert played.stop == "finished"
    assert played.text == "Done."
    assert played.calls() == [ToolCall("f", '{"a":1}', "call_0_0"), ToolCall("g", '{"a":1}', "call_0_1")]
    assert [(item["call_id"], item["output"]) for item in played.turns[0].results] == [
        ("call_0_0", "1"),
        ("call_0_1", "2"),
    ]
    assert trajectory_of([two, results[0]]).stop == "max_turns"
    assert trajectory_of([two, *results]).stop == "truncated"
    assert trajectory_of("Hell", is_cut=True).stop == "truncated"
    assert trajectory_of("Hello.").text == "Hello."
    assert trajectory_of("").stop == trajectory_of([]).stop == "empty"


def test_a_result_belongs_to_the_call_of_its_name() -> None:
    """
    TRL hands over what it could not call before the results of what it did, whatever the order of the calls.
    """
    calls = [("f", {"a": 1}), ("nope", {}), ("f", "no object"), ("f", {"a": 2})]
    made = [{"type": "function", "function": {"name": name, "arguments": given}} for name, given in calls]
    results = [("nope", "no such tool"), ("f", "no arguments"), ("f", "1"), ("f", "2")]

    played = trajectory_of(
        [
            {"role": "assistant", "content": "", "tool_calls": made},
            *({"role": "tool", "name": name, "content": text} for name, text in results),
            {"role": "assistant", "content": "Done."},
        ]
    )

    (turn, _) = played.turns
    assert [(item["call_id"], item["output"]) for item in turn.results] == [
        ("call_0_0", "1"),
        ("call_0_1", "no such tool"),
        ("call_0_2", "no arguments"),
        ("call_0_3", "2"),
    ]
    assert trajectory_of([{"role": "tool", "content": "1"}]).stop == "empty"
