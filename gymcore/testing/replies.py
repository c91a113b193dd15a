"""
What a scripted model answers: the vocabulary that `ScriptedModel` and `LoopbackEndpoint` share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gymcore.interfaces import call
from gymcore.records import ToolCall
from gymcore.responses import Item, Response, function_call, message

__all__ = ["Reply", "calls", "says", "truncated"]


@dataclass(frozen=True, slots=True)
class Reply:
    """
    One reply of a model; `+` joins two into one, so `calls("a") + calls("b")` asks for two tools side by side.

    A malformed call is written out: `Reply((ToolCall("get_weather", "{not json"),))`.
    """

    parts: tuple[str | ToolCall, ...] = ()
    """What it says and asks for, in order."""
    is_truncated: bool = False
    """Whether it was cut off by the limit on output tokens."""

    def __add__(self, other: Reply) -> Reply:
        return Reply(self.parts + other.parts, self.is_truncated or other.is_truncated)

    def to_output(self, number: int) -> list[Item]:
        """
        Return the reply as the output items of a response.

        Args:
            number: Which reply of its conversation this is; it keeps the ids of calls apart.
        """
        return [
            message(part)
            if isinstance(part, str)
            else function_call(part.name, part.arguments, f"call_{number}_{index}")
            for index, part in enumerate(self.parts)
        ]

    def to_response(self, number: int) -> Response:
        """Return the reply as a whole response."""
        return Response(
            id=f"resp_{number}",
            model="scripted",
            status="incomplete" if self.is_truncated else "completed",
            incomplete_details={"reason": "max_output_tokens"} if self.is_truncated else None,
            output=self.to_output(number),
        )


def says(text: str) -> Reply:
    """Answer with a message."""
    return Reply((text,))


def calls(name: str, /, **arguments: Any) -> Reply:  # arguments: any JSON value the tool takes
    """Answer with a tool call."""
    return Reply((call(name, **arguments),))


def truncated(text: str) -> Reply:
    """Answer with a message that the limit on output tokens cut off."""
    return Reply((text,), is_truncated=True)
