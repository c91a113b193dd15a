"""
Rollouts as the wire tells them, and responses of the wire as trajectories.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from gymcore.records import ROUTE_KEYS, Reward, Trajectory, Turn
from gymcore.responses import Item, Response
from gymcore.serving.refusals import Refusal

__all__ = ["response_of", "scored", "trajectory_of"]


def scored(
    sent: Mapping[str, Any], task: tuple[str, str], response: Mapping[str, Any], stop: str, reward: Reward
) -> dict[str, Any]:
    """
    Return the answer to `/run` and `/verify`: the row verbatim, the response, the reward, and what explains it.

    Metrics, and what else the verifier says, stand under their own names, where the row has not taken them, and clients
    know nothing else by them. What is told of a rollout wins over the row.

    Args:
        sent: The row.
        task: Its environment and its task id.
        response: What was scored.
        stop: How that has ended.
        reward: What it came to.
    """
    answer = {
        "environment": task[0],
        "task_id": task[1],
        **sent,
        "response": response,
        "reward": reward.value,
        "reward_parts": reward.parts,
        "metrics": reward.metrics,
        "stop": stop,
    }
    for name, value in (*reward.metrics.items(), *reward.info.items()):
        if name not in ROUTE_KEYS and not name.startswith("_ng_"):  # by which clients know where it belongs
            answer.setdefault(name, value)
    return answer


_OF_OTHERS = ("user", "system", "developer")


def response_of(response: Any) -> Response:
    """
    Take a response that somebody sent.

    Raises:
        Refusal: it is none.
    """
    if response is None:
        raise Refusal(422, "there is no `response`, which is what is to be scored")
    try:
        return Response.parse(response)
    except ValueError as error:
        raise Refusal(422, f"`response`: {error}") from None


def trajectory_of(response: Any) -> Trajectory:
    """
    Read a whole episode back from its response: a turn ends where something follows that the model did not say.

    Raises:
        Refusal: it is no response.
    """
    whole = response_of(response)
    turns = list(_turns(whole.output))
    if turns:  # a whole episode is called, and has ended, as the last response of its model
        last = turns[-1]
        turns[-1] = replace(last, usage=whole.usage, response_id=whole.id, status=whole.status)
    return Trajectory(tuple(turns), _stop(whole, turns), whole.envelope)


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
