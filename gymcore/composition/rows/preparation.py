"""
What is done to a row before it is checked: what it asks is found, in whatever words, and its prompt is put in.

A row that needs neither keeps its bytes, and costs three look-ups.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from gymcore.composition.rows.messages import ASKING_KEYS, MessageError, input_of, input_of_messages
from gymcore.composition.rows.prompts import MissingFieldError, Prompt, is_system
from gymcore.documents import decode_exactly, encode_json
from gymcore.records import extend_object

__all__ = ["PreparedRow", "RowError", "is_prepared", "prepare_row"]


class RowError(Exception):
    """A row that cannot be prepared; `hint` says what to try."""

    def __init__(self, message: str, hint: str = "") -> None:
        self.hint = hint
        super().__init__(message)


class PreparedRow(NamedTuple):
    """A row that says in `responses_create_params.input` what is asked, or as it came where nothing could be done."""

    line: bytes
    row: dict[str, Any]
    notes: tuple[str, ...] = ()
    """What was done, in words that are the same for all rows with which the same was done."""


def is_prepared(row: Mapping[str, Any]) -> bool:
    """Whether a row says already in `responses_create_params.input`, and nowhere else, what it asks; nearly all do."""
    params = row.get("responses_create_params")
    return type(params) is dict and params.get("input") is not None and "messages" not in row


def prepare_row(
    line: bytes, row: dict[str, Any], prompt: Prompt | None = None, own_keys: Collection[str] = ()
) -> PreparedRow:
    """
    Find what a row asks, and put the prompt of its environment in.

    Args:
        line: The row's bytes.
        row: The row.
        prompt: What the plan or the manifest asks with, if they do.
        own_keys: Keys that belong to the environment, whatever they are called.

    Raises:
        RowError: the row asks nothing, or two things, or lacks a field of the prompt.
    """
    if prompt is None and is_prepared(row):
        return PreparedRow(line, row)
    params = row.get("responses_create_params")
    given = params.get("input") if type(params) is dict else None
    if not isinstance(params, dict | None) or not isinstance(given, str | list | None):
        return PreparedRow(line, row)  # whoever checks the row says what is wrong with it
    try:
        return _prepared(line, row, params or {}, prompt, own_keys)
    except MessageError as error:
        raise RowError(str(error)) from None
    except MissingFieldError as error:
        raise RowError(str(error), error.hint) from None


def _prepared(
    line: bytes, row: dict[str, Any], params: dict[str, Any], prompt: Prompt | None, own_keys: Collection[str]
) -> PreparedRow:
    notes = []
    given = params.get("input")
    asks_anew = prompt is not None and prompt.user is not None
    if prompt is not None and asks_anew:
        given = _given_beside(prompt, row, given, own_keys)
    elif given is None:
        found = input_of(row)
        if found is None:
            if "responses_create_params" in row and prompt is None:
                return PreparedRow(line, row)
            hint = 'a row needs them: {"responses_create_params": {"input": [...]}, ...}, or `messages`, or a `prompt`'
            raise RowError("the row has no `responses_create_params`", hint)
        key, given = found
        notes.append(f"what is asked is taken from `{key}`")
        if isinstance(given, list) and isinstance(given[-1], dict) and given[-1].get("role") == "assistant":
            notes.append(f"`{key}` ends with a message of the assistant, which the model will see")
    elif _asks_twice(row, given, own_keys):
        hint = "try: drop one of them, or say with `prompt` in the plan what is to be asked"
        raise RowError("the row asks one thing in `messages` and another in `responses_create_params.input`", hint)
    changed = {**params, "input": given}
    if prompt is not None:
        if asks_anew and given is not None:
            notes.append("its prompt takes the place of what rows ask")
        elif prompt.system is not None and (any(map(is_system, _items(given))) or "instructions" in params):
            notes.append("its prompt takes the place of the system message of rows")
        changed["input"] = prompt.applied(row, given)
        if prompt.system is not None:
            changed.pop("instructions", None)  # the other place where a request holds a system message
    if changed == params:
        return PreparedRow(line, row)
    added = {"responses_create_params": changed}
    result = {**row, **added}
    is_new = "responses_create_params" not in row
    changed_line = extend_object(line, encode_json(added)) if is_new else encode_json({**decode_exactly(line), **added})
    return PreparedRow(changed_line, result, tuple(notes))


def _given_beside(prompt: Prompt, row: Mapping[str, Any], given: Any, own_keys: Collection[str]) -> Any:
    """
    Return what a row asks whose question a prompt replaces: its system message may have to stay.

    Raises:
        RowError: two conversations of the row have different ones.
        MessageError: what the row asks cannot be understood, and a system message is in it.
    """
    if given is None:
        try:
            found = input_of(row)
        except MessageError:
            # Keys of these names may be anything where the question comes from the prompt; a message is not lost.
            if prompt.system is None and any(
                isinstance(row.get(key), list) and any(map(is_system, row[key])) for key in ASKING_KEYS
            ):
                raise
            return None
        return None if found is None else found[1]
    if prompt.system is None:
        other = _other_conversation(row, own_keys)
        if other and [*map(_bare, filter(is_system, other))] not in (
            [],
            [*map(_bare, filter(is_system, _items(given)))],
        ):
            hint = "try: drop one of them, or say with `prompt.system` in the plan which is meant"
            told = (
                "the row has one system message in `messages` and another, or none, in `responses_create_params.input`"
            )
            raise RowError(told, hint)
    return given


def _asks_twice(row: Mapping[str, Any], given: Any, own_keys: Collection[str]) -> bool:
    """Whether a row's messages are another conversation than its input."""
    asked = _other_conversation(row, own_keys)
    return bool(asked) and [_bare(item) for item in asked or ()] != [_bare(item) for item in _items(given)]


def _other_conversation(row: Mapping[str, Any], own_keys: Collection[str]) -> list[Any] | None:
    """Return what a row with an input says in messages as well."""
    # A row that compose has written is settled: its messages are what it was made from.
    if "messages" not in row or "messages" in own_keys or "environment" in row:
        return None
    try:
        return input_of_messages(row["messages"]) if isinstance(row["messages"], list) else None
    except MessageError:
        return None  # something else of the author's, which has that name


def _items(given: Any) -> list[Any]:
    return [{"role": "user", "content": given}] if isinstance(given, str) else list(given or ())


def _bare(item: Any) -> Any:
    """Return a message without what may be said or left out."""
    if not isinstance(item, dict) or item.get("type", "message") != "message":
        return item
    return {key: value for key, value in item.items() if key not in ("type", "status")}
