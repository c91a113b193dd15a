"""
The Gymnasium flavour of a session: one turn of the model in, what the world says to it out, a reward at the end.

Source: https://gymnasium.farama.org/api/env/ for the words, nemo-gym 0.4.0 for the objects on the wire
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gymcore.interfaces import BoundModel, OpenEnvironment
from gymcore.records import Trajectory, Turn
from gymcore.responses import Response, function_call_output, message
from gymcore.serving.refusals import Refusal
from gymcore.serving.sessions import ClientSession, Score

__all__ = ["stepped"]


async def stepped(session: ClientSession, response: Any) -> dict[str, Any]:
    """
    Play one turn: carry out its calls, or have the environment answer it; where nothing follows, score all of them.

    Args:
        session: Whose.
        response: What the model replied in this turn.

    Returns:
        `observation`, the next user message, where there is one; `reward`, 0.0 until the end; `terminated`,
        `truncated`; and `info`, with the `tool_outputs` of a turn with calls, and the metrics at the end.

    Raises:
        Refusal: it is no response, the environment failed, or the session was scored with another response.
    """
    try:
        parsed = Response.parse(response)
    except ValueError as error:
        raise Refusal(422, f"`response`: {error}") from None
    if session.is_scored:  # whoever asks again with the last response gets the same
        return _last(parsed, await session.verify(Trajectory(), response))
    turn = Turn(tuple(parsed.output), usage=parsed.usage, response_id=parsed.id, status=parsed.status)
    if turn.calls and not parsed.is_truncated:
        results = [function_call_output(call.call_id, await session.call(call)) for call in turn.calls]
        session.turns.append(replace(turn, results=tuple(results)))
        outputs = [{"call_id": result["call_id"], "output": result["output"]} for result in results]
        return _going_on(None, {"tool_outputs": outputs})

    async def answered(environment: OpenEnvironment, model: BoundModel) -> str | None:
        return None if parsed.is_truncated or turn.is_empty else await environment.reply(turn)

    answer: str | None = await session.do(answered)
    if answer is not None:
        session.turns.append(replace(turn, answer=message(answer, role="user")))
        return _going_on(answer, {})
    stop = "truncated" if parsed.is_truncated else "empty" if turn.is_empty else "finished"
    return _last(parsed, await session.verify(Trajectory((*session.turns, turn), stop, parsed.envelope), response))


def _last(parsed: Response, score: Score) -> dict[str, Any]:
    return {
        "observation": None,
        "reward": score.reward.value,
        "terminated": not parsed.is_truncated,
        "truncated": parsed.is_truncated,
        "info": score.reward.metrics,
    }


def _going_on(observation: str | None, info: dict[str, Any]) -> dict[str, Any]:
    return {"observation": observation, "reward": 0.0, "terminated": False, "truncated": False, "info": info}
