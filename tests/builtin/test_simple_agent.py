"""
The tool-calling loop: why it ends, what it carries out, and what it adds up.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gymcore import Environment, Model, Request, Response, Rollout, RolloutContext, Trajectory, Turn, tool
from gymcore.builtin.simple_agent import SimpleAgent, SimpleAgentConfig
from gymcore.testing import ScriptedModel, calls, play, says, truncated
from gymcore.testing.replies import Reply

ROW = {"responses_create_params": {"input": "hello"}}


class World(Environment):
    """Counts what is called."""

    called: int
    most_at_once: int
    at_once: int

    async def open(self) -> None:
        type(self).called = type(self).most_at_once = type(self).at_once = 0

    @tool
    async def echo(self, text: str, turns: int = 0) -> str:
        """Say it back, after others had their turn."""
        type(self).called += 1
        type(self).at_once += 1
        type(self).most_at_once = max(self.most_at_once, self.at_once)
        for _ in range(turns + 1):
            await asyncio.sleep(0)
        type(self).at_once -= 1
        return text

    @tool
    async def nap(self) -> str:
        """Answer late."""
        await asyncio.sleep(0.05)
        return ""

    async def reply(self, turn: Turn) -> str | None:
        return "and now?" if turn.text == "ask me" else None

    def verify(self, trajectory: Trajectory) -> float:
        return 1.0


def rollout_of(*replies: Reply, model: Model[Any] | None = None, **bounds: Any) -> Rollout:
    """Play a script within bounds."""
    agent = SimpleAgent(SimpleAgentConfig(**bounds))
    rollout = play(World, ROW, model or ScriptedModel(*replies), agent=agent)
    assert rollout.failure is None, rollout.failure
    return rollout


@pytest.mark.parametrize(
    ("replies", "bounds", "stop", "turns"),
    [
        ([says("done"), says("never asked")], {}, "finished", 1),
        ([calls("echo", text="a"), says("done"), says("never asked")], {}, "finished", 2),
        ([says("ask me"), says("done")], {}, "finished", 2),
        ([says("ask me"), says("ask me"), says("never asked")], {"max_turns": 2}, "max_turns", 2),
        ([says("")], {}, "empty", 1),
        ([says("ask me"), says(" \n ")], {}, "empty", 2),
        ([Reply()], {}, "empty", 1),
        ([truncated("half an"), says("never asked")], {}, "truncated", 1),
        ([truncated("") + calls("echo", text="half"), says("never asked")], {}, "truncated", 1),
        ([calls("echo", text="a")] * 5, {"max_turns": 3}, "max_turns", 3),
        ([calls("echo", text="a"), says("done")], {"max_turns": 1}, "max_turns", 1),
        ([says("done")], {"max_turns": 1}, "finished", 1),
        ([calls("echo", text="a")] * 5, {"max_tool_calls": 2}, "max_tool_calls", 3),
        ([calls("echo", text="a"), says("done")], {"max_tool_calls": 0}, "max_tool_calls", 1),
        ([calls("echo", text="a"), says("done")], {"max_tool_calls": 1}, "finished", 2),
        ([calls("nap"), says("done")], {"max_time_s": 0.02}, "max_time", 1),
        ([calls("echo", text="a" * 60), says("done")], {"max_output_chars": 100}, "max_output", 1),
        ([calls("echo", text="a" * 20), says("done")], {"max_output_chars": 100}, "finished", 2),
        ([says("b" * 200)], {"max_output_chars": 100}, "finished", 1),
    ],
)
def test_each_way_to_stop(replies: list[Reply], bounds: dict[str, Any], stop: str, turns: int) -> None:
    """
    It ends on an answer, on silence, when the endpoint cut it off, and at each of its bounds; and is scored each time.
    """
    rollout = rollout_of(*replies, **bounds)

    assert rollout.trajectory.stop == stop
    assert len(rollout.trajectory.turns) == turns
    assert rollout.trajectory.is_truncated == (stop not in ("finished", "empty"))
    assert rollout.reward is not None


class Thinking(Model):
    """Thinks 60 characters before each of its calls, and never answers."""

    thought: dict[str, Any]

    async def respond(self, request: Request, rollout: RolloutContext) -> Response:
        return Response([self.thought, *calls("echo", text="").to_output(len(request.input))])


@pytest.mark.parametrize(
    "thought",
    [
        {"content": [{"type": "reasoning_text", "text": "a" * 60}], "summary": []},
        {"summary": [{"type": "summary_text", "text": "a" * 30}, {"type": "summary_text", "text": "a" * 30}]},
        {"content": [{"type": "reasoning_text", "text": "a" * 30}], "summary": [{"text": "a" * 30}]},
    ],
    ids=["thought", "summary", "both"],
)
def test_thoughts_count_as_output(thought: dict[str, Any]) -> None:
    """
    What a model thinks is output like what it says, and meets the same bound.
    """
    model = Thinking()
    model.thought = {"type": "reasoning", **thought}

    trajectory = rollout_of(model=model, max_output_chars=200, max_turns=9).trajectory

    assert trajectory.stop == "max_output"
    assert len(trajectory.turns) == 3


@pytest.mark.parametrize("parts", [None, "text", 5, [5, None, {"text": 5}, {}]])
def test_thoughts_of_any_shape_are_counted_or_not(parts: Any) -> None:
    """
    Whatever an endpoint puts into a reasoning item, counting it ends no rollout.
    """
    model = Thinking()
    model.thought = {"type": "reasoning", "content": parts, "summary": parts}

    assert rollout_of(model=model, max_turns=2).trajectory.stop == "max_turns"


def test_a_truncated_reply_is_not_carried_out() -> None:
    """
    A tool call that was cut off may say half of what was meant.
    """
    rollout = rollout_of(truncated("") + calls("echo", text="half"))

    assert World.called == 0
    assert rollout.trajectory.turns[0].results == ()


def test_ten_thousand_calls_in_one_reply_are_bounded() -> None:
    """
    As many as the bound allows are carried out, in order, and all that were asked for are written down.
    """
    flood = sum([calls("echo", text=str(number)) for number in range(10_000)], start=Reply())

    trajectory = rollout_of(flood).trajectory

    assert trajectory.stop == "max_tool_calls"
    assert World.called == 256
    assert [item["output"] for item in trajectory.turns[0].results] == [str(number) for number in range(256)]
    assert len(trajectory.calls()) == 10_000


def test_calls_of_one_reply_run_side_by_side_and_keep_their_order() -> None:
    """
    The slowest first call delays nobody, and its result still stands first.
    """
    reply = calls("echo", text="slow", turns=9) + calls("echo", text="b", turns=3) + calls("echo", text="quick")

    turn = rollout_of(reply, says("done")).trajectory.turns[0]

    assert World.most_at_once == 3
    assert [item["output"] for item in turn.results] == ["slow", "b", "quick"]
    assert [item["call_id"] for item in turn.results] == [call.call_id for call in turn.calls]


def test_the_model_sees_everything_that_was_said_and_done() -> None:
    """
    Each request holds the prompt and all items so far, in order, under the same parameters.
    """
    model = ScriptedModel(calls("echo", text="a"), says("ask me"), says("done"))

    trajectory = rollout_of(model=model).trajectory

    seen = [(item.get("role"), item["type"]) for item in model.requests[-1].input]
    assert seen == [
        ("user", "message"),
        (None, "function_call"),
        (None, "function_call_output"),
        ("assistant", "message"),
        ("user", "message"),
    ]
    assert list(model.requests[-1].input[1:]) == trajectory.items[:-1]
    assert len({id(request.params) for request in model.requests}) == 1


class Metered(Model):
    """Reports what it used, twice; the second time with a key of its own."""

    async def respond(self, request: Any, rollout: Any) -> Response:
        first = len(request.input) == 1
        usage = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15, "details": {"cached": 4}}
        return Response(
            id="first" if first else "second",
            status="completed",
            output=(calls("echo", text="a") if first else says("done")).to_output(1),
            usage=usage if first else {**usage, "details": {"cached": 1, "new": 2}},
            system_fingerprint="fp",
        )


def test_usage_is_summed_and_the_last_response_kept() -> None:
    """
    The trajectory reports the tokens of all turns, and the envelope of its last response with every unknown key.
    """
    trajectory = rollout_of(model=Metered()).trajectory

    assert trajectory.usage == {
        "input_tokens": 20,
        "output_tokens": 10,
        "total_tokens": 30,
        "details": {"cached": 5, "new": 2},
    }
    assert trajectory.envelope == {"id": "second", "status": "completed", "system_fingerprint": "fp"}
    assert [turn.response_id for turn in trajectory.turns] == ["first", "second"]


class Short(World):
    """Says how often the model may reply, as its row does."""

    async def open(self) -> None:
        await super().open()
        self.max_turns = (self.task.model_extra or {}).get("most")


@pytest.mark.parametrize(
    ("says_plan", "says_environment", "turns"), [(None, 2, 2), (3, 2, 3), (1, 2, 1), (None, None, 64), (None, 99, 99)]
)
def test_the_plan_wins_over_the_environment(says_plan: int | None, says_environment: int | None, turns: int) -> None:
    """
    Where neither says how often the model may reply, it is sixty-four times.
    """
    agent = SimpleAgent(SimpleAgentConfig(max_turns=says_plan))

    rollout = play(
        Short, {**ROW, "most": says_environment}, ScriptedModel(*[calls("echo", text="a")] * 100), agent=agent
    )

    assert (len(rollout.trajectory.turns), rollout.trajectory.stop) == (turns, "max_turns")
    assert rollout.reward is not None


@pytest.mark.parametrize("wrong", [0, -1, "6", 2.0, True])
def test_a_limit_that_is_none_is_a_failure(wrong: Any) -> None:
    """
    Of what an environment says, before the model is asked.
    """
    model = ScriptedModel(says("hi"))

    rollout = play(Short, {**ROW, "most": wrong}, model)

    assert rollout.failure is not None
    assert rollout.failure.stage == "open"
    assert f"`max_turns` of the environment is {wrong!r}, and must be a number from 1 on" in rollout.failure.message
    assert not model.requests


def test_the_bounds_are_options_with_descriptions() -> None:
    """
    Nobody can ask for no turns at all, or for less than no time.
    """
    for wrong in ({"max_turns": 0}, {"max_tool_calls": -1}, {"max_time_s": 0}, {"max_output_chars": 0}, {"turns": 1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            SimpleAgentConfig(**wrong)
    assert all(field.description for field in SimpleAgentConfig.model_fields.values())
