"""
What a person types becomes the call that they mean.
"""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from gymcore import Environment, Task, tool
from gymcore.cli.play.typed import TypingError, read_call


class Colour(StrEnum):
    """Two of them."""

    RED = "red"
    BLUE = "blue"


class Place(BaseModel):
    """A point."""

    x: int


class Toolbox(Environment[Task]):
    """Tools with arguments of every sort."""

    @tool
    def search(self, text: str) -> str:
        """Take a text."""
        return text

    @tool
    def move(self, x: int, y: float, note: str = "", fast: bool = False) -> str:
        """Take plain values."""
        return note

    @tool
    def paint(self, colour: Colour, where: list[int], size: Literal["s", "m"] | None = None) -> str:
        """Take others."""
        return ""

    @tool
    def put(self, place: Place, anything: Any = None) -> str:
        """Take an object."""
        return ""

    @tool
    def look(self) -> str:
        """Take nothing."""
        return ""


TOOLS = {tool["name"]: tool for tool in Toolbox.tool_schemas()}


@pytest.mark.parametrize(
    ("typed", "arguments"),
    [
        ("look", {}),
        ("search the quick fox", {"text": "the quick fox"}),
        ("search don't [panic", {"text": "don't [panic"}),
        ('search "the quick fox"', {"text": "the quick fox"}),
        ("search text='a b'", {"text": "a b"}),
        ("search a=b c", {"text": "a=b c"}),
        ("search 7", {"text": "7"}),
        ("search", {}),
        ("move 1 2.5", {"x": 1, "y": 2.5}),
        ("move y=2 x=1 note=true fast=True", {"x": 1, "y": 2, "note": "true", "fast": True}),
        ("move 1 y=2 'two words'", {"x": 1, "y": 2, "note": "two words"}),
        (r'move 1 2 "say \"hi\""', {"x": 1, "y": 2, "note": 'say "hi"'}),
        ("move 1 2 it's", {"x": 1, "y": 2, "note": "it's"}),
        ("paint red [1, 2]", {"colour": "red", "where": [1, 2]}),
        ("paint blue where=[] size=null", {"colour": "blue", "where": [], "size": None}),
        ('put place={"x": 1} anything=[{"a": "]"}]', {"place": {"x": 1}, "anything": [{"a": "]"}]}),
        ("put place={'x': 1}", {"place": "{'x': 1}"}),
        ('move {"x": 3, "y": 4}', {"x": 3, "y": 4}),
    ],
)
def test_reads_arguments_by_the_tool_they_are_for(typed: str, arguments: dict[str, Any]) -> None:
    """
    By name, by place or as JSON; each value is what the schema wants it to be, where it can be that.
    """
    call = read_call(typed, TOOLS)

    assert call.name == typed.split()[0]
    assert json.loads(call.arguments) == arguments


@pytest.mark.parametrize(
    ("typed", "arguments"),
    [
        ("move one two", '{"x":"one","y":"two"}'),
        ("move z=1", '{"z":1}'),
        ("look x=1", '{"x":1}'),
        ('move {"x": ', '{"x":'),
        ("no_such_tool x=1 y=a", '{"x":1,"y":"a"}'),
    ],
)
def test_leaves_a_model_its_mistakes(typed: str, arguments: str) -> None:
    """
    What is wrong for the tool goes to the tool, so that its own message can be seen.
    """
    assert read_call(typed, TOOLS).arguments == arguments


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("look 1", "not clear which argument '1' is; try: look NAME=VALUE"),
        ("move 1 2 a true b", "try: move x=... y=... note=... fast=..."),
        ("move x=1 x=2", "x is given twice"),
        ("move 'one", "the quotation mark ' is not closed"),
        ("paint red [1", r"the bracket \[ is not closed"),
        ("no_such_tool 1", "try: no_such_tool NAME=VALUE"),
    ],
)
def test_says_what_it_cannot_read(typed: str, told: str) -> None:
    """
    A slip of the fingers is told to the person, and costs the model no turn.
    """
    with pytest.raises(TypingError, match=told):
        read_call(typed, TOOLS)


@given(st.text())
def test_reads_or_refuses_whatever_is_typed(text: str) -> None:
    """
    Nothing that a keyboard can produce raises anything else.
    """
    for name in TOOLS:
        try:
            read_call(f"{name} {text}", TOOLS)
        except TypingError:
            continue
