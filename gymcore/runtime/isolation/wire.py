"""
The values that go between a run and its workers, as plain JSON values and back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from gymcore.errors import EndpointError, GymcoreError, PluginError
from gymcore.interfaces import Say
from gymcore.records import Failure, ToolCall, Trajectory, Turn
from gymcore.responses import Request, Response
from gymcore.runtime.faults import Told, told

__all__ = [
    "error_from_json",
    "error_to_json",
    "request_from_json",
    "request_to_json",
    "response_from_json",
    "response_to_json",
    "step_from_json",
    "step_to_json",
    "trajectory_from_json",
    "trajectory_to_json",
    "turn_from_json",
    "turn_to_json",
]

_TURN_FIELDS = tuple(field.name for field in fields(Turn) if not field.name.startswith("_"))


def turn_to_json(turn: Turn) -> dict[str, Any]:
    """Write a turn."""
    return {name: getattr(turn, name) for name in _TURN_FIELDS}


def turn_from_json(value: Mapping[str, Any]) -> Turn:
    """Read a turn back."""
    return Turn(**{**value, "output": tuple(value["output"]), "results": tuple(value["results"])})


def trajectory_to_json(trajectory: Trajectory) -> dict[str, Any]:
    """Write a trajectory."""
    turns = [turn_to_json(turn) for turn in trajectory.turns]
    return {"turns": turns, "stop": trajectory.stop, "envelope": trajectory.envelope}


def trajectory_from_json(value: Mapping[str, Any]) -> Trajectory:
    """Read a trajectory back."""
    turns = tuple(turn_from_json(turn) for turn in value["turns"])
    return Trajectory(turns=turns, stop=value["stop"], envelope=value["envelope"])


def request_to_json(request: Request) -> dict[str, Any]:
    """Write a request."""
    return {"input": list(request.input), "params": dict(request.params)}


def request_from_json(value: Mapping[str, Any]) -> Request:
    """Read a request back."""
    return Request(input=tuple(value["input"]), params=value["params"])


def response_to_json(response: Response) -> dict[str, Any]:
    """Write a response."""
    return response.body


def response_from_json(value: Mapping[str, Any]) -> Response:
    """Read a response back."""
    return Response.parse(value)


def step_to_json(step: Any) -> Any:
    """
    Write one step of a reference solution.

    Raises:
        TypeError: it is no step.
    """
    if isinstance(step, Say):
        return {"say": step.text}
    if isinstance(step, ToolCall):
        return {"call": [step.name, step.arguments, step.call_id]}
    if isinstance(step, list | tuple) and all(isinstance(call, ToolCall) for call in step):
        return {"calls": [[call.name, call.arguments, call.call_id] for call in step]}
    raise TypeError(f"a solution yields call(...), a list of them, or say(...), not a {type(step).__name__}")


def step_from_json(value: Mapping[str, Any]) -> ToolCall | Say | list[ToolCall]:
    """Read a step back."""
    if "say" in value:
        return Say(value["say"])
    if "call" in value:
        return ToolCall(*value["call"])
    return [ToolCall(*call) for call in value["calls"]]


def error_to_json(error: GymcoreError | Failure) -> dict[str, Any]:
    """Write what went wrong: a failure of one rollout, or what stops the whole run."""
    if isinstance(error, Failure):
        return {"failure": error.model_dump()}
    told: dict[str, Any] = {"message": error.message, "where": error.where, "hints": list(error.hints)}
    if isinstance(error, EndpointError):
        told |= {"has_worked": error.has_worked, "is_lasting": error.is_lasting, "stage": error.stage}
        return {"kind": "EndpointError", **told}
    return {"kind": "PluginError", **told}


def error_from_json(value: Mapping[str, Any]) -> EndpointError | PluginError | Told:
    """Return what to raise for an error of the other process."""
    if "failure" in value:
        return told(Failure.model_validate(value["failure"]))
    facts = {"where": value["where"], "hints": value["hints"]}
    if value["kind"] == "EndpointError":
        facts |= {"has_worked": value["has_worked"], "is_lasting": value["is_lasting"]}
        error = EndpointError(value["message"], **facts)
        error.stage = value["stage"]
        return error
    return PluginError(value["message"], **facts)
