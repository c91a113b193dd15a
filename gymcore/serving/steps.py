"""
The Gymnasium flavour of a session: one turn of the model in, what the world says to it out, a reward at the end.

Source: https://gymnasium.farama.org/api/env/ for the words, nemo-gym 0.4.0 for the objects on the wire
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gymcore.interfaces import BoundModel, OpenEnvironment
from gymcore.records import Row, Trajectory, Turn
from gymcore.responses import CreateParams, Item, Response, function_call_output, message, text_of
from gymcore.serving.replies import response_of
from gymcore.serving.rows import read_object
from gymcore.serving.sessions import ClientSession, Score

__all__ = ["read_turn", "shown_first", "stepped"]


async def shown_first(session: ClientSession, row: Row) -> str | None:
    """
    Return what the environment shows before the model is first asked, which the row does not say; None for nothing.

    Args:
        session: Whose.
        row: What is played in it.

    Raises:
        Refusal: the environment failed, or the session is over.
    """

    async def prompt(environment: OpenEnvironment, model: BoundModel) -> tuple[Item, ...]:
        return environment.request.input

    asked: tuple[Item, ...] = await session.do(prompt)
    known = CreateParams.model_validate(row.value["responses_create_params"]).request().input
    if asked[: len(known)] != known:
        return None
    return "\n".join(text_of(item) for item in asked[len(known) :] if item.get("role") == "user") or None


def read_turn(body: bytes) -> Response:
    """
    Read the response of one turn.

    Raises:
        Refusal: it is none.
    """
    return response_of(read_object(body).get("response"))


async def stepped(session: ClientSession, response: Response) -> dict[str, Any]:
    """
    Play one turn: carry out its calls, or have the environment answer it; where nothing follows, score all of them.

    Args:
        session: Whose.
        response: What the model replied in this turn.

    Returns:
        `observation`, the next user message, where there is one; `reward`, 0.0 until the end; `terminated`,
        `truncated`; and `info`, with the `tool_outputs` of a turn with calls, and at the end the metrics and whatever
        else the verifier tells.

    Raises:
        Refusal: the environment failed, or the session was scored with another response.
    """
    if session.is_scored:  # whoever asks again with the last response gets the same
        return _last(response, await session.verify(Trajectory(), response.body))
    turn = Turn(tuple(response.output), usage=response.usage, response_id=response.id, status=response.status)
    if turn.calls and not response.is_truncated:
        results = [function_call_output(call.call_id, await session.call(call)) for call in turn.calls]
        session.turns.append(replace(turn, results=tuple(results)))
        outputs = [{"call_id": result["call_id"], "output": result["output"]} for result in results]
        return _going_on(None, {"tool_outputs": outputs})

    async def answered(environment: OpenEnvironment, model: BoundModel) -> str | None:
        return None if response.is_truncated or turn.is_empty else await environment.reply(turn)

    answer: str | None = await session.do(answered)
    if answer is not None:
        session.turns.append(replace(turn, answer=message(answer, role="user")))
        return _going_on(answer, {})
    stop = "truncated" if response.is_truncated else "empty" if turn.is_empty else "finished"
    trajectory = Trajectory((*session.turns, turn), stop, response.envelope)
    return _last(response, await session.verify(trajectory, response.body))


def _last(response: Response, score: Score) -> dict[str, Any]:
    return {
        "observation": None,
        "reward": score.reward.value,
        "terminated": not response.is_truncated,
        "truncated": response.is_truncated,
        "info": {**score.reward.info, **score.reward.metrics},
    }


def _going_on(observation: str | None, info: dict[str, Any]) -> dict[str, Any]:
    return {"observation": observation, "reward": 0.0, "terminated": False, "truncated": False, "info": info}
