"""
Attempts: how a model that is not there behaves in one rollout, and playing many of them at one table.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from gymcore.builtin.oracle import Oracle
from gymcore.builtin.simple_agent import SimpleAgent, SimpleAgentConfig
from gymcore.interfaces import Agent, Config, Environment, Model, RolloutContext
from gymcore.records import Rollout, ToolCall, Trajectory
from gymcore.responses import Request, Response, message, text_of
from gymcore.runtime.in_process import TimeLimits
from gymcore.testing.playing import opened_table
from gymcore.testing.replies import Reply, calls, says, truncated

__all__ = [
    "PATIENT_AGENT",
    "Attempt",
    "Cast",
    "Judge",
    "Judges",
    "judge_models",
    "play_attempts",
    "prompt_text",
    "replies_of",
    "reply_from_json",
    "reply_to_json",
    "unsolved_attempts",
]

Judges: TypeAlias = Mapping[str, "Model[Any] | Callable[[str], str]"]
"""Models that an environment may ask, by name: a model, or a function from what is asked to what is answered."""

GARBAGE = "\x00 \ufffd {]} <tool_call> {0.__class__} %(x)s%n ${x} \\boxed{ \u202e \U0001f9ea </s>"
"""What no parser expects: control characters, half of every bracket, and what formatting would take for its own."""


@dataclass(frozen=True)
class Attempt:
    """One rollout that is to be played."""

    name: str
    """What the model does: `solve`, `nop`, `echo`, ..."""
    where: str
    """Where its row stands."""
    row: Mapping[str, Any]
    replies: tuple[Reply | Exception, ...] | None = None
    """What the model replies, in order; None for the reference solution."""

    def told(self) -> str:
        """Name the attempt in a message."""
        return f"{self.where}: {self.name}"


class Cast(Model):
    """
    Plays each rollout by its own script; which one, its repeat tells.

    Args:
        attempts: One for each rollout.
        is_restless: Whether it lets others go first before it replies, so that rollouts at once are interleaved.
    """

    def __init__(self, attempts: Sequence[Attempt], *, is_restless: bool = False) -> None:
        super().__init__(Config())
        self._attempts = attempts
        self._is_restless = is_restless
        self._oracle = Oracle()
        self.said: dict[int, list[str]] = {}
        """The items that each rollout was given, as JSON, before anybody could change them."""

    async def respond(self, request: Request, rollout: RolloutContext) -> Response:
        """Give the next reply of this rollout's script."""
        response = await self._reply(request, rollout)
        self.said.setdefault(rollout.key[2], []).extend(map(json.dumps, response.output))
        return response

    async def _reply(self, request: Request, rollout: RolloutContext) -> Response:
        number = rollout.key[2]
        count: int = rollout.state.get(self, 0) + 1
        rollout.state[self] = count
        if self._is_restless:
            for _ in range((number * 7 + count * 3) % 5 + 1):
                await asyncio.sleep(0)
        replies = self._attempts[number].replies
        if replies is None:
            return await self._oracle.respond(request, rollout)
        if count > len(replies):
            return Response(output=[], status="completed", model="scripted")
        reply = replies[count - 1]
        if isinstance(reply, Exception):
            raise reply
        return reply.to_response(count)


class Judge(Model):
    """Answers a question by a function."""

    def __init__(self, answer: Callable[[str], str]) -> None:
        super().__init__(Config())
        self._answer = answer

    async def respond(self, request: Request, rollout: RolloutContext) -> Response:
        """Answer the last thing that was asked."""
        asked = text_of(request.input[-1]) if request.input else ""
        return Response(output=[message(self._answer(asked))], status="completed", model="judge")


def judge_models(judges: Judges) -> dict[str, Model[Any]]:
    """Return judges as models."""
    return {name: judge if isinstance(judge, Model) else Judge(judge) for name, judge in judges.items()}


class _Patient(SimpleAgent):
    """Plays on for long, but no longer than the environment says."""

    most_turns = 1000


PATIENT_AGENT = _Patient(SimpleAgentConfig(max_tool_calls=10_000, max_output_chars=1_000_000_000))


async def play_attempts(
    environment: type[Environment[Any, Any]],
    attempts: Sequence[Attempt],
    config: Config,
    *,
    judges: Judges | None = None,
    agent: Agent[Any] = PATIENT_AGENT,
    at_once: int = 1,
    limits: TimeLimits | None = None,
    isolation: str = "none",
) -> list[Rollout]:
    """
    Play attempts at one table.

    Args:
        environment: Its class.
        attempts: What is played, in this order.
        config: Its options.
        judges: Models that it may ask.
        agent: Who plays.
        at_once: How many are played at the same time; with more than one they are interleaved.
        limits: How long the parts of a rollout may take.
        isolation: Where it plays.

    Returns:
        One rollout for each attempt, in their order.
    """
    played: dict[int, Rollout] = {}
    pending = iter(enumerate(attempts))
    cast = Cast(attempts, is_restless=at_once > 1)
    async with opened_table(
        environment,
        cast,
        agent=agent,
        config=config,
        judges=judge_models(judges or {}),
        limits=limits,
        isolation=isolation,
    ) as table:

        async def worker() -> None:
            for number, attempt in pending:
                played[number] = await table.play(attempt.row, number)

        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(worker())
    return [played[number] for number in range(len(attempts))]


def prompt_text(row: Mapping[str, Any]) -> str:
    """Return everything that a row asks, as one text."""
    params = row["responses_create_params"]
    given = params["input"]
    texts = [given] if isinstance(given, str) else [text_of(item) for item in given if isinstance(item, dict)]
    instructions = params.get("instructions")
    return "\n".join([*([instructions] if isinstance(instructions, str) else []), *texts])


def unsolved_attempts(where: str, row: Mapping[str, Any]) -> list[Attempt]:
    """Return the attempts that solve nothing, whatever the environment."""
    asked = prompt_text(row)
    scripts: dict[str, tuple[Reply, ...]] = {
        "nop": (),
        "empty": (says(" \n\t"),),
        "echo": (says(asked),),
        "echo of the last line": (says(next((line for line in reversed(asked.splitlines()) if line.strip()), "")),),
        "garbled": (says(GARBAGE),),
        "garbled calls": (Reply((ToolCall("", "{"), ToolCall(GARBAGE, GARBAGE))), calls("__class__"), says(GARBAGE)),
        "truncated": (truncated("The answer is"),),
        "truncated echo": (truncated(asked[: len(asked) // 2]),),
    }
    return [Attempt(name, where, row, replies) for name, replies in scripts.items()]


def replies_of(trajectory: Trajectory) -> tuple[Reply, ...]:
    """Return the script by which a model does again what it did in a trajectory."""
    replies = []
    for turn in trajectory.turns:
        parts: list[str | ToolCall] = []
        wanted = iter(turn.calls)
        for item in turn.output:
            if item.get("type") == "function_call":
                parts.append(replace(next(wanted), call_id=""))
            elif text := text_of(item):
                parts.append(text)
        replies.append(Reply(tuple(parts), turn.status == "incomplete"))
    return tuple(replies)


def reply_to_json(reply: Reply) -> dict[str, Any]:
    """Write a reply for another process."""
    parts = [
        part if isinstance(part, str) else {"call": part.name, "arguments": part.arguments} for part in reply.parts
    ]
    return {"parts": parts, "truncated": reply.is_truncated}


def reply_from_json(value: Any) -> Reply:
    """
    Read a reply: what `reply_to_json` wrote, a text, a call, or a list of these.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(value, dict) and "parts" in value:
        return replace(reply_from_json(value["parts"]), is_truncated=bool(value.get("truncated")))
    if isinstance(value, str):
        return says(value)
    if isinstance(value, dict) and isinstance(value.get("call"), str):
        arguments = value.get("arguments", {})
        if isinstance(arguments, dict):
            return calls(value["call"], **arguments)
        if isinstance(arguments, str):
            return Reply((ToolCall(value["call"], arguments),))
    if isinstance(value, list):
        return Reply(tuple(part for item in value for part in reply_from_json(item).parts))
    raise ValueError(
        f'a reply is a text, {{"call": NAME, "arguments": {{...}}}}, or a list of these, not {value!r:.100}'
    )
