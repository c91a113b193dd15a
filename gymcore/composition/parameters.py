"""
Create parameters that a plan sets for all rows of an environment (`params`), held against what the Responses API takes.

What is not known here travels to the model as it is, as in a row: endpoints have parameters of their own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pydantic import ValidationError

from gymcore.errors import Problem, nearest
from gymcore.responses import CreateParams

__all__ = ["mistakes_in_parameters"]


_ASKED = ("input", "messages")


def mistakes_in_parameters(params: Mapping[str, Any], where: str, tools: Collection[str] | None) -> list[Problem]:
    """
    Find what is wrong with the `params` of an environment.

    Args:
        params: What the plan says.
        where: Its key path, for messages.
        tools: The names of the environment's tools; None where nobody knows them.
    """
    problems = []
    for key in _ASKED:
        if key in params:
            hint = f"try: {where.rpartition('.')[0]}.prompt, with `system` and `user`"
            told = f"{key!r} is what rows ask, and no parameter for all of them"
            problems.append(Problem(told, f"{where}.{key}", (hint,)))
    if params.get("stream") is True:
        hint = "try: leave it out"
        problems.append(Problem("a reply is taken whole, and cannot be a stream", f"{where}.stream", (hint,)))
    mistakes = [_mistakes({key: value for key, value in params.items() if key != "tools"}, where)]
    mistakes.append(_mistakes({"tools": params["tools"]}, where) if "tools" in params else [])
    if params.get("tools") and tools is not None and not mistakes[1]:
        mistakes.append(_unknown_tools(params["tools"], f"{where}.tools", tools))
    return [*problems, *(problem for found in mistakes for problem in found)]


def _mistakes(params: Mapping[str, Any], where: str) -> list[Problem]:
    try:
        CreateParams.model_validate({**params, "input": ""})
    except ValidationError as error:
        return [
            Problem(item["msg"][:1].lower() + item["msg"][1:], ".".join(map(str, (where, *item["loc"]))))
            for item in error.errors(include_url=False, include_input=False)
        ]
    return []


def _unknown_tools(offered: list[dict[str, Any]], where: str, tools: Collection[str]) -> list[Problem]:
    problems = []
    for index, tool in enumerate(offered):
        name = tool.get("name")
        # Tools of other types are carried out by the endpoint itself.
        if tool.get("type", "function") == "function" and not (isinstance(name, str) and name in tools):
            close = nearest(str(name), tools)
            hint = f"try: {close[0]}" if close else f"its tools: {', '.join(tools) or 'none'}"
            problems.append(Problem(f"the environment has no tool {name!r:.60}", f"{where}.{index}", (hint,)))
    return problems
