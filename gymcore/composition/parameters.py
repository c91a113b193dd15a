"""
Create parameters that a plan sets for all rows of an environment (`params`), held against what the Responses API takes.

What is not known here travels to the model as it is, as in a row: endpoints have parameters of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from gymcore.errors import Problem, nearest

__all__ = ["mistakes_in_parameters"]


def _is_integer(value: Any) -> bool:
    return type(value) is int


def _is_number(value: Any) -> bool:
    return type(value) is int or type(value) is float


def _is(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kinds)


_TEXT = (_is(str), "a text")
_MAPPING = (_is(dict), "a mapping")
_BOOLEAN = (_is(bool), "true or false")

_KINDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("instructions", "model", "previous_response_id", "service_tier", "truncation", "user"), _TEXT),
    **dict.fromkeys(("metadata", "prompt", "reasoning", "text"), _MAPPING),
    **dict.fromkeys(("background", "parallel_tool_calls", "store", "stream"), _BOOLEAN),
    **dict.fromkeys(("temperature", "top_p"), (_is_number, "a number")),
    **dict.fromkeys(
        ("max_output_tokens", "max_tool_calls"), (lambda value: _is_integer(value) and value > 0, "1 or more")
    ),
    "top_logprobs": (lambda value: _is_integer(value) and value >= 0, "0 or more"),
    "include": (_is(list), "a list"),
    "tool_choice": (_is(str, dict), "a text or a mapping"),
    "tools": (lambda value: type(value) is list and all(map(_is(dict), value)), "a list of tools, each a mapping"),
}
"""What each parameter may be; null, which unsets it, always is.

Source: https://platform.openai.com/docs/api-reference/responses/create
"""

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
    for key, value in params.items():
        place = f"{where}.{key}"
        if key in _ASKED:
            hint = f"try: {where.rpartition('.')[0]}.prompt, with `system` and `user`"
            problems.append(Problem(f"{key!r} is what rows ask, and no parameter for all of them", place, (hint,)))
            continue
        is_fit, told = _KINDS.get(key, (None, ""))
        if is_fit is not None and value is not None and not is_fit(value):
            problems.append(Problem(f"{key!r} is {told}, not {value!r:.60}", place))
        elif key == "stream" and value:
            problems.append(Problem("a reply is taken whole, and cannot be a stream", place, ("try: leave it out",)))
        elif key == "tools" and value and tools is not None:
            problems.extend(_unknown_tools(value, place, tools))
    return problems


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
