"""
The tool-calling loop: ask the model, carry out what it asks for, give it the results, until it answers.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from gymcore.interfaces import Agent, BoundModel, Config, OpenEnvironment, option
from gymcore.records import Trajectory, Turn
from gymcore.responses import Item, Response, message, text_of

__all__ = ["SimpleAgent", "SimpleAgentConfig"]


class SimpleAgentConfig(Config):
    """The bounds of the loop; a trajectory that meets one is truncated and scored as it is."""

    max_turns: int = option(64, ge=1, description="Replies of the model, at most.")
    max_tool_calls: int = option(256, ge=0, description="Tool calls carried out, at most, in all turns together.")
    max_time_s: float = option(540.0, gt=0, description="Seconds from the first question to the last result, at most.")
    max_output_chars: int = option(
        1_000_000, ge=1, description="Characters of the model's output and the tools' results together, at most."
    )


class SimpleAgent(Agent[SimpleAgentConfig]):
    """
    Ask, call, repeat.

    It ends on a reply without tool calls that the environment does not answer, on an empty reply, on a reply that the
    endpoint truncated, and at each of its bounds. The calls of one reply run side by side; their results keep their
    order.
    """

    async def play(self, environment: OpenEnvironment, model: BoundModel) -> Trajectory:
        """Play one rollout to its end."""
        turns: list[Turn] = []
        envelope: list[Response] = []
        try:
            async with asyncio.timeout(self.config.max_time_s) as limit:
                stop = await self._loop(environment, model, turns, envelope)
        except TimeoutError:
            if not limit.expired():
                raise
            stop = "max_time"
        last = envelope[-1].model_dump(exclude={"output", "usage"}, exclude_unset=True) if envelope else {}
        return Trajectory(turns=tuple(turns), stop=stop, envelope=last)

    async def _loop(
        self, environment: OpenEnvironment, model: BoundModel, turns: list[Turn], envelope: list[Response]
    ) -> str:
        request = environment.request
        calls_left = self.config.max_tool_calls
        size = 0
        while True:
            started = time.perf_counter()
            response = await model.respond(request)
            asked = Turn(output=tuple(response.output))
            calls = asked.calls[:calls_left] if not response.is_truncated else ()
            async with asyncio.TaskGroup() as group:  # when one fails, the others do not outlive the rollout
                answers = [group.create_task(environment.call(call)) for call in calls]
            results = tuple(answer.result() for answer in answers)
            calls_left -= len(calls)
            turn = Turn(
                output=asked.output,
                results=results,
                usage=response.usage,
                response_id=response.id,
                status=response.status,
                duration_s=time.perf_counter() - started,
                attempts=model.attempts,
            )
            envelope[:] = [response]
            turns.append(turn)
            size += sum(map(_size, turn.items))
            if response.is_truncated:
                return "truncated"
            if len(calls) < len(asked.calls):
                return "max_tool_calls"
            if turn.is_empty:
                return "empty"
            if not calls:
                answer = await environment.reply(turn)
                if answer is None:
                    return "finished"
                turn = turns[-1] = replace(turn, answer=message(answer, role="user"))
                size += len(answer)
            if size > self.config.max_output_chars:
                return "max_output"
            if len(turns) == self.config.max_turns:
                return "max_turns"
            request = request.continued(turn.items)


def _size(item: Item) -> int:
    """Return the characters of an item that a bound counts: what it says, asks with, or answers."""
    return len(text_of(item)) + sum(len(item[key]) for key in ("arguments", "output") if isinstance(item.get(key), str))
