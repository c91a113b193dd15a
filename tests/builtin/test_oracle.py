"""
The model that plays `solve()`: every kind of step, what it hands back, and what it refuses.
"""

from __future__ import annotations

from typing import Any

import pytest

from gymcore import Environment, Reward, Solution, Trajectory, Turn, call, say, tool
from gymcore.builtin.nop import Nop
from gymcore.builtin.oracle import Oracle
from gymcore.builtin.simple_agent import SimpleAgent, SimpleAgentConfig
from gymcore.testing import ScriptedModel, play, says

ROW = {"responses_create_params": {"input": "hello"}}
SEEN: list[Any] = []
"""What the last solution was handed, and whether it was closed."""


class World(Environment):
    """Has tools that answer with JSON and with text, and one question of its own."""

    @tool
    def double(self, number: int) -> dict[str, int]:
        """Double it."""
        return {"doubled": 2 * number}

    @tool
    def shout(self, text: str) -> str:
        """Shout."""
        return f"{text.upper()}!"

    async def reply(self, turn: Turn) -> str | None:
        return "why?" if turn.text == "because" else None

    def verify(self, trajectory: Trajectory) -> Reward:
        return Reward(value=1.0 if trajectory.text == "done" else 0.0)


class Thorough(World):
    """Uses everything a solution can do."""

    async def solve(self) -> Solution:
        SEEN.clear()
        try:
            SEEN.append((yield call("double", number=2)))
            SEEN.append((yield call("shout", text="hey")))
            SEEN.append((yield [call("double", number=3), call("shout", text="ho")]))
            SEEN.append((yield say("because")))
            SEEN.append((yield call("double", number="no number")))
            SEEN.append((yield say("done")))
        finally:
            SEEN.append("solution closed")

    async def close(self) -> None:
        SEEN.append("environment closed")


def test_every_step_is_handed_what_came_of_it() -> None:
    """
    A call gives its result, parsed where it is JSON; a list gives a list; saying something gives the answer.
    """
    rollout = play(Thorough, ROW, Oracle())

    assert SEEN[:4] == [{"doubled": 4}, "HEY!", [{"doubled": 6}, "HO!"], "why?"]
    assert "invalid arguments" in SEEN[4]["error"]
    assert rollout.reward == Reward(value=1.0)
    assert rollout.trajectory.stop == "finished"
    assert len(rollout.trajectory.turns[2].calls) == 2
    ids = [found.call_id for found in rollout.trajectory.calls()]
    assert len(ids) == len(set(ids)) == 5


def test_the_solution_is_closed_when_the_rollout_is_over() -> None:
    """
    A solution that is not played to its end is closed with the rollout, before its environment.
    """
    play(Thorough, ROW, Oracle(), agent=SimpleAgent(SimpleAgentConfig(max_turns=2)))

    assert SEEN[-2:] == ["solution closed", "environment closed"]


def test_a_solution_that_cannot_be_closed_changes_nothing() -> None:
    """
    The reward is known by then.
    """

    class Stubborn(World):
        async def solve(self) -> Solution:
            try:
                yield say("done")
            finally:
                raise RuntimeError("will not go")

    assert play(Stubborn, ROW, Oracle()).reward == Reward(value=1.0)


def test_a_solution_that_ends_without_a_word_is_an_empty_reply() -> None:
    """
    Nothing more to do is nothing more to say.
    """

    class Short(World):
        async def solve(self) -> Solution:
            yield call("double", number=1)

    rollout = play(Short, ROW, Oracle())

    assert rollout.trajectory.stop == "empty"
    assert rollout.reward == Reward(value=0.0)


class Raises(World):
    """A solution with a bug."""

    async def solve(self) -> Solution:
        yield call("double", number=1)
        raise KeyError("oops")


class YieldsText(World):
    """A solution that yields what is no step."""

    async def solve(self) -> Any:
        yield "done"


class IsPlain(World):
    """A solution that is no async generator."""

    def solve(self) -> Any:
        yield say("done")


@pytest.mark.parametrize(("environment", "what"), [(Raises, "oops"), (YieldsText, "str"), (IsPlain, "generator")])
def test_a_broken_solution_is_a_failure_that_is_not_tried_again(environment: type[World], what: str) -> None:
    """
    A bug in `solve()` is the plugin's; the failure names the class and says what happened.
    """
    failure = play(environment, ROW, Oracle()).failure

    assert failure is not None
    assert (failure.stage, failure.error, failure.retryable) == ("model", "ModelError", False)
    assert environment.__name__ in failure.message
    assert what in failure.message


def test_an_environment_without_a_solution_is_refused() -> None:
    """
    The objection names the environment and the way out.
    """
    objection = Oracle().objection(World)

    assert objection is not None
    assert "World has no reference solution" in objection
    assert "--model" in objection
    assert Oracle().objection(Thorough) is None


def test_one_model_plays_many_rollouts_without_mixing_them_up() -> None:
    """
    What the oracle remembers belongs to one rollout.
    """
    oracle = Oracle()

    rewards = [play(Thorough, ROW, oracle).reward for _ in range(3)]

    assert rewards == [Reward(value=1.0)] * 3


def test_nop_answers_nothing_and_earns_nothing() -> None:
    """
    The floor: one empty reply, and a reward all the same.
    """
    rollout = play(World, ROW, Nop())

    assert rollout.trajectory.stop == "empty"
    assert len(rollout.trajectory.turns) == 1
    assert rollout.reward == Reward(value=0.0)


def test_the_script_of_a_scripted_model_starts_anew_for_each_rollout() -> None:
    """
    One ScriptedModel serves any number of rollouts, and says nothing more after its last reply.
    """
    model = ScriptedModel(says("because"), says("done"))

    first, second = play(World, ROW, model), play(World, ROW, model)

    assert [turn.text for turn in first.trajectory.turns] == ["because", "done"]
    assert first.reward == second.reward == Reward(value=1.0)
