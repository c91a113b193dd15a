"""
Rollouts as the wire tells them, and responses of the wire as trajectories.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from gymcore.records import Reward, Trajectory, Turn
from gymcore.responses import Item, Response
from gymcore.serving.refusals import Refusal
from gymcore.serving.rows import SentRow

__all__ = ["response_of", "scored", "trajectory_of", "whole_response"]


def scored(sent: SentRow, response: Mapping[str, Any], trajectory: Trajectory, reward: Reward) -> dict[str, Any]:
    """
    Return the answer to `/run` and `/verify`: the row verbatim, the response, the reward, and metrics as own keys.

    A metric whose name the row has taken stands only in `metrics`.
    """
    answer = {
        **sent.sent,
        "environment": sent.route.environment,
        "task_id": sent.row.identity[1],
        "response": response,
        "reward": reward.value,
        "reward_parts": reward.parts,
        "metrics": reward.metrics,
        "stop": trajectory.stop,
    }
    for name, value in reward.metrics.items():
        answer.setdefault(name, value)
    return answer


def response_of(trajectory: Trajectory, model: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return a whole episode as one response: its output in order, its usage summed."""
    body = {**trajectory.envelope, "output": trajectory.items, "usage": trajectory.usage}
    return whole_response(body, model, params)


def whole_response(body: Mapping[str, Any], model: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return a response with the keys that clients of the API insist on.

    Args:
        body: What is known of it.
        model: Which model answered, where it does not say.
        params: What it was asked with.
    """
    choice, is_parallel = params.get("tool_choice"), params.get("parallel_tool_calls")
    name = uuid.uuid4().hex
    return {
        "id": f"resp_{name}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "completed",
        "model": model,
        "parallel_tool_calls": True if is_parallel is None else is_parallel,
        "tool_choice": "auto" if choice is None else choice,
        "tools": params.get("tools") or [],
        **{key: value for key, value in body.items() if value is not None},
        "output": [_whole_item(item, f"{name}_{index}") for index, item in enumerate(body["output"])],
        "usage": _whole_usage(body.get("usage")),
    }


def _whole_item(item: Item, name: str) -> Item:
    """Return an output item with the keys that clients of the API insist on, those that it has untouched."""
    kind = item.get("type", "message")
    if kind == "message" and item.get("role") == "assistant":
        return {"id": f"msg_{name}", "type": kind, "status": "completed", **item}
    return {"id": f"rs_{name}", "summary": [], **item} if kind == "reasoning" else item


_USAGE = {
    "input_tokens": 0,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens": 0,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 0,
}


def _whole_usage(usage: Any) -> dict[str, Any] | None:
    """Return token counts with the keys that clients of the API insist on; None where nothing was counted."""
    return {**_USAGE, **usage} if isinstance(usage, dict) else None


_OF_OTHERS = ("user", "system", "developer")


def trajectory_of(response: Any) -> Trajectory:
    """
    Read a whole episode back from its response: a turn ends where something follows that the model did not say.

    Raises:
        Refusal: it is no response.
    """
    try:
        parsed = Response.parse(response)
    except ValueError as error:
        raise Refusal(422, f"`response`: {error}") from None
    turns = list(_turns(parsed.output))
    if turns and parsed.usage is not None:
        last = turns[-1]
        turns[-1] = Turn(last.output, last.results, last.answer, usage=parsed.usage)
    return Trajectory(tuple(turns), _stop(parsed, turns), parsed.envelope)


def _turns(items: Iterable[Item]) -> Iterable[Turn]:
    output: list[Item] = []
    results: list[Item] = []
    for item in items:
        if item.get("type") == "function_call_output":
            results.append(item)
        elif item.get("type", "message") == "message" and item.get("role") in _OF_OTHERS:
            yield Turn(tuple(output), tuple(results), item)
            output, results = [], []
        else:
            if results:
                yield Turn(tuple(output), tuple(results))
                output, results = [], []
            output.append(item)
    if output or results:
        yield Turn(tuple(output), tuple(results))


def _stop(response: Response, turns: list[Turn]) -> str:
    if response.is_truncated:
        return "truncated"
    last = turns[-1] if turns else None
    if last is None or last.is_empty:
        return "empty"
    return "max_turns" if last.calls else "finished"
