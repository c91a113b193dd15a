"""
The tool-calling loop: ask the model, carry out what it asks for, give it the results, until it answers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from gymcore.interfaces import Agent, BoundModel, Config, OpenEnvironment, option
from gymcore.records import ToolCall, Trajectory, Turn, calls_in
from gymcore.responses import Item, Response, message, text_of

__all__ = ["SimpleAgent", "SimpleAgentConfig"]

MOST_TURNS = 64


class SimpleAgentConfig(Config):
    """The bounds of the loop; a trajectory that meets one is truncated and scored as it is."""

    max_turns: int | None = option(
        None, ge=1, description=f"Replies of the model, at most; unset: what the environment says, or {MOST_TURNS}."
    )
    max_tool_calls: int = option(256, ge=0, description="Tool calls carried out, at most, in all turns together.")
    max_time_s: float = option(
        540.0, gt=0, description="Seconds after which the model is asked nothing more; what was asked is waited for."
    )
    max_output_chars: int = option(
        1_000_000,
        ge=1,
        description="Characters of the model's output, thoughts included, and the tools' results together, at most.",
    )


class SimpleAgent(Agent[SimpleAgentConfig]):
    """
    Ask, call, repeat.

    It ends on a reply without tool calls that the environment does not answer, on an empty reply, on a reply that the
    endpoint truncated, and at each of its bounds. The calls of one reply run side by side; their results keep their
    order.
    """

    most_turns: ClassVar[int] = MOST_TURNS
    """How often the model may reply where neither the plan nor the environment says."""

    async def play(self, environment: OpenEnvironment, model: BoundModel) -> Trajectory:
        """Play one rollout to its end."""
        turns: list[Turn] = []
        request = environment.request
        most_turns = self.config.max_turns or environment.max_turns or self.most_turns
        calls_left = self.config.max_tool_calls
        size = 0
        began = time.perf_counter()
        while True:
            started = time.perf_counter()
            response = await model.respond(request)
            output = tuple(response.output)
            asked = calls_in(output)
            calls = asked[:calls_left] if not response.is_truncated else ()
            turn = Turn(
                output=output,
                results=await _carry_out(environment, calls),
                usage=response.usage,
                response_id=response.id,
                status=response.status,
                duration_s=time.perf_counter() - started,
                attempts=model.attempts,
            ).knowing(asked)
            calls_left -= len(calls)
            stop = self._stop_after(response, turn, asked, calls)
            if stop is None and not calls:
                answer = await environment.reply(turn)
                if answer is None:
                    stop = "finished"
                else:
                    turn = replace(turn, answer=message(answer, role="user"))
            turns.append(turn)
            added = turn.items
            size += sum(map(_size, added))
            if stop is None and size > self.config.max_output_chars:
                stop = "max_output"
            if stop is None and len(turns) == most_turns:
                stop = "max_turns"
            if stop is None and time.perf_counter() - began - model.waited_s > self.config.max_time_s:
                stop = "max_time"
            if stop is not None:
                return Trajectory(turns=tuple(turns), stop=stop, envelope=response.envelope)
            request = request.continued(added)

    def _stop_after(
        self, response: Response, turn: Turn, asked: Sequence[ToolCall], calls: Sequence[ToolCall]
    ) -> str | None:
        """Say why a turn was the last one, before the environment has its say."""
        if response.is_truncated:
            return "truncated"
        if len(calls) < len(asked):
            return "max_tool_calls"
        return None if asked or turn.text.strip() else "empty"


async def _carry_out(environment: OpenEnvironment, calls: Sequence[ToolCall]) -> tuple[Item, ...]:
    """Carry out the calls of one reply, side by side where there are several."""
    if len(calls) < 2:
        return tuple([await environment.call(call) for call in calls])
    async with asyncio.TaskGroup() as group:  # when one fails, the others do not outlive the rollout
        results = [group.create_task(environment.call(call)) for call in calls]
    return tuple(result.result() for result in results)


def _size(item: Item) -> int:
    """Return the characters of an item that a bound counts: what it says, thinks, asks with, or answers."""
    if item.get("type") == "reasoning":  # its parts are like those of a message
        return sum(len(text_of({"content": item.get(key)})) for key in ("summary", "content"))
    text = item.get("arguments", item.get("output"))
    return len(text) if isinstance(text, str) else len(text_of(item))
