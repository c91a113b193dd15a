"""
What a person types to call a tool: `get_weather city=Oslo`, `get_weather Oslo`, or `get_weather {"city": "Oslo"}`.

What is not understood here is a mistake of typing. What is understood and wrong all the same (a tool that does not
exist, an argument of the wrong type) goes to the environment, as a model's mistake would.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gymcore.documents import DocumentError, decode_json, encode_json
from gymcore.records import ToolCall

__all__ = ["TypingError", "read_call"]

Schema = Mapping[str, Any]
"""A JSON schema, or a tool as a request offers it."""

_KEYED = re.compile(r"([^\W\d]\w*)=(.*)\Z", re.S)
_WORDS = {"True": True, "False": False, "None": None}


class TypingError(Exception):
    """What was typed is no call; the message says what would be."""


@dataclass(frozen=True)
class _Token:
    """One value, or one `NAME=VALUE`."""

    text: str
    is_quoted: bool
    """Whether quotation marks stood around the value, which then is a text."""


def read_call(typed: str, tools: Mapping[str, Schema]) -> ToolCall:
    """
    Read the name of a tool and its arguments.

    Args:
        typed: `NAME ARGUMENTS`; what begins with `{` is passed on as it is, well-formed or not.
        tools: The tools that are offered, by name.

    Raises:
        TypingError: it cannot be told which value belongs to which argument.
    """
    name, _, rest = typed.strip().partition(" ")
    rest = rest.strip()
    if rest.startswith("{"):
        return ToolCall(name, rest)
    parameters = tools.get(name, {}).get("parameters") or {}
    properties: dict[str, Any] = parameters.get("properties") or {}
    return ToolCall(name, encode_json(_read_arguments(name, rest, properties)).decode())


def _read_arguments(name: str, rest: str, properties: Mapping[str, Any]) -> dict[str, Any]:
    only = next(iter(properties)) if len(properties) == 1 else None
    if only is not None and _kinds(properties[only]) == {"string"} and not _is_keyed(rest, properties):
        # All that was typed is the text, apostrophes and all, unless it stands in quotation marks as a whole.
        return {only: _unquoted(rest)} if rest else {}
    arguments: dict[str, Any] = {}
    free = list(properties)
    for token in _tokens(rest):
        keyed = _KEYED.match(token.text)
        if keyed:
            key, text = keyed[1], keyed[2]
        elif free:
            key, text = free[0], token.text
        else:
            shown = " ".join(f"{key}=..." for key in properties) or "NAME=VALUE"
            raise TypingError(f"it is not clear which argument {token.text!r} is; try: {name} {shown}")
        if key in free:
            free.remove(key)
        if key in arguments:
            raise TypingError(f"{key} is given twice")
        arguments[key] = text if token.is_quoted else _value(text, properties.get(key, {}))
    return arguments


def _is_keyed(rest: str, properties: Mapping[str, Any]) -> bool:
    keyed = _KEYED.match(rest)
    return keyed is not None and (keyed[1] in properties or " " not in rest)


def _unquoted(text: str) -> str:
    try:
        tokens = _tokens(text)
    except TypingError:
        return text
    return tokens[0].text if len(tokens) == 1 and tokens[0].is_quoted else text


def _value(text: str, schema: Schema) -> Any:
    """Return what a text means where a schema wants something; the text itself where it means nothing there."""
    kinds = _kinds(schema)
    if kinds <= {"string", "null"} and kinds and not (text == "null" and "null" in kinds):
        return text
    if text in _WORDS:
        return _WORDS[text]
    try:
        return decode_json(text.encode("utf-8", "replace"))
    except DocumentError:
        return text


def _kinds(schema: Schema) -> set[str]:
    """Return the JSON types that a schema names; empty where it names none."""
    if "anyOf" in schema:
        return {kind for inner in schema["anyOf"] for kind in _kinds(inner)}
    kind = schema.get("type")
    if kind is None and all(isinstance(value, str) for value in schema.get("enum", (0,))):
        return {"string"}
    return {kind} if isinstance(kind, str) else set(kind or ())


_CLOSING = {"[": "]", "{": "}", "(": ")"}


def _tokens(text: str) -> Sequence[_Token]:
    """
    Take a line apart at its spaces, but not inside quotation marks or brackets.

    Raises:
        TypingError: a quotation mark or a bracket is not closed.
    """
    tokens: list[_Token] = []
    place = 0
    while place < len(text):
        if text[place].isspace():
            place += 1
            continue
        place, token = _token(text, place)
        tokens.append(token)
    return tokens


def _token(text: str, place: int) -> tuple[int, _Token]:
    found: list[str] = []
    is_quoted = False
    while place < len(text) and not text[place].isspace():
        letter = text[place]
        if letter in "\"'" and (not found or found[-1] == "="):
            place, inside = _quoted(text, place)
            found.append(inside)
            is_quoted = True
        elif letter in _CLOSING and (not found or found[-1] == "="):
            end = _end_of_bracket(text, place)
            found.append(text[place:end])
            place = end
        else:
            found.append(letter)
            place += 1
    return place, _Token("".join(found), is_quoted)


def _quoted(text: str, place: int) -> tuple[int, str]:
    """Return where a quoted text ends, and what it holds; a backslash takes the next letter as it is."""
    mark, at = text[place], place + 1
    inside: list[str] = []
    while at < len(text):
        if text[at] == mark:
            return at + 1, "".join(inside)
        if text[at] == "\\" and at + 1 < len(text):
            at += 1
        inside.append(text[at])
        at += 1
    raise TypingError(f"the quotation mark {mark} is not closed")


def _end_of_bracket(text: str, place: int) -> int:
    """Return where a bracket ends; quoted texts inside are passed over."""
    waiting: list[str] = []
    at = place
    while at < len(text):
        letter = text[at]
        if letter == '"':
            at, _ = _quoted(text, at)
            continue
        if letter in _CLOSING:
            waiting.append(_CLOSING[letter])
        elif waiting and letter == waiting[-1]:
            waiting.pop()
            if not waiting:
                return at + 1
        at += 1
    raise TypingError(f"the bracket {text[place]} is not closed")
