"""
Tools that are no methods: an environment may carry them out itself.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from gymcore import Environment, ToolCall, ToolError, run
from gymcore.composition import Composition
from gymcore.interfaces import tool
from gymcore.records import Rollout
from gymcore.testing import ScriptedModel, calls, says

Composed = Callable[..., Composition]


class Switchboard(Environment):
    """One that answers whatever is called."""

    @tool
    def own(self) -> str:
        """Answer as a method."""
        return "own"

    async def other_tool(self, call: ToolCall) -> Any:
        if call.name == "unknown":
            raise ToolError("there is none")
        if call.name == "broken":
            raise ConnectionError("the line is dead")
        if call.name == "slow":
            await asyncio.sleep(60)
        return [call.name, call.arguments]

    def verify(self, trajectory: Any) -> float:
        return 1.0


class AtOnce(Switchboard):
    """The same without waiting."""

    def other_tool(self, call: ToolCall) -> Any:
        return f"{call.name} {call.call_id}"


async def _play(composition: Composition) -> Rollout:
    async with run(composition) as rollouts:
        (rollout,) = [rollout async for rollout in rollouts]
    return rollout


def _played(composed: Composed, world: type[Environment], name: str, **plan: Any) -> Rollout:
    model = ScriptedModel(calls(name, a=1) if name != "own" else calls(name), says("done"))
    return asyncio.run(_play(composed({"w": (world, 1)}, model, **plan)))


@pytest.mark.parametrize(
    ("world", "name", "result"),
    [
        (Switchboard, "own", "own"),
        (Switchboard, "any", '["any","{\\"a\\":1}"]'),
        (AtOnce, "any", "any call_1_0"),
        (Switchboard, "unknown", '{"error":"there is none"}'),
    ],
)
def test_what_is_no_method_is_carried_out_by_the_environment(
    composed: Composed, world: type[Environment], name: str, result: str
) -> None:
    """
    Methods come first; a result is shown as any tool's, and a `ToolError` is for the model.
    """
    rollout = _played(composed, world, name)

    assert rollout.trajectory.turns[0].results[0]["output"] == result
    assert rollout.reward is not None


def test_what_it_raises_is_a_failure_of_the_tool(composed: Composed) -> None:
    """
    Never an output; a connection may work another time.
    """
    failure = _played(composed, Switchboard, "broken").failure

    assert failure is not None
    assert (failure.stage, failure.error, failure.retryable) == ("tool", "ConnectionError", True)


def test_it_is_bounded_as_any_tool(composed: Composed) -> None:
    """
    By `tool_timeout_s`.
    """
    failure = _played(composed, Switchboard, "slow", collect={"tool_timeout_s": 0.05}).failure

    assert failure is not None
    assert failure.message == "the tool slow took longer than 0.05 s (collect.tool_timeout_s)"


def test_without_a_word_of_the_environment_there_is_no_such_tool(composed: Composed) -> None:
    """
    The model reads which there are.
    """

    class Plain(Environment):
        @tool
        def own(self) -> str:
            """Answer."""
            return ""

        def verify(self, trajectory: Any) -> float:
            return 0.0

    rollout = _played(composed, Plain, "any")

    told = json.loads(rollout.trajectory.turns[0].results[0]["output"])
    assert told == {"error": "there is no tool 'any'; the tools are: own"}
    assert not Plain.takes_other_tools()
    assert Switchboard.takes_other_tools()
