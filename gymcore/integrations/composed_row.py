"""
A row of a composition as an export sees it: the author's bytes, its route, and what is asked of a model in the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from gymcore.chat import HELD_ELSEWHERE, InexpressibleError, joins_replies, to_chat_tool, to_messages
from gymcore.composition import Route
from gymcore.composition.tokens import prompt_text
from gymcore.documents import decode_exactly, encode_json
from gymcore.records import Row
from gymcore.responses import Item, message

__all__ = ["ComposedRow"]


_NO_OPTIONS = {"input", "instructions", "tools", "metadata", "model", "store", "stream", "user", *HELD_ELSEWHERE}
"""Parameters that change nothing about an answer, and those that are the prompt."""


_UNSAID = {
    "background": False,
    "include": [],
    "parallel_tool_calls": True,
    "reasoning": {},
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "truncation": "disabled",
}
"""What the API takes these for where they are absent."""


@dataclass(frozen=True)
class ComposedRow:
    """One row, with who plays it."""

    row: Row
    route: Route
    position: int
    """Where it stands in the mix, from 0."""

    @property
    def environment(self) -> str:
        """The environment's name in the plan."""
        return self.row.identity[0]

    @cached_property
    def value(self) -> dict[str, Any]:
        """The row, with every digit of its integers, because it is written again."""
        value: dict[str, Any] = decode_exactly(self.row.data)
        return value

    @property
    def task_id(self) -> str:
        """What identifies the task, as text."""
        return self.row.identity[1]

    @property
    def text(self) -> str:
        """The whole row as JSON, byte for byte as in the dataset, but for what the plan's `params` replace."""
        own: dict[str, Any] = self.value["responses_create_params"]
        asked = {**own, **self.route.plan.params, "input": own["input"]}
        if asked == own:
            return self.row.data.decode()
        return encode_json({**self.value, "responses_create_params": asked}).decode()

    @property
    def prompt(self) -> str:
        """All that a model is told at first, as one text."""
        return prompt_text(self.params)

    @cached_property
    def params(self) -> dict[str, Any]:
        """
        The create parameters as a run asks with them.

        The tools are the environment's where the row brings none, and the plan's `params` replace single ones.
        """
        own: dict[str, Any] = self.value["responses_create_params"]
        offered = own.get("tools")
        if offered is None:
            offered = self.route.environment_class.tool_schemas() or None
        params = {**own, **self.route.plan.params, "input": own["input"]}
        if params.get("tools") is None and offered is not None:
            params["tools"] = offered
        return params

    @property
    def options(self) -> list[str]:
        """The create parameters that say how to answer, by name, where they say more than the API does without them."""
        said = {key: value for key, value in self.params.items() if key not in _NO_OPTIONS}
        return sorted(key for key, value in said.items() if value is not None and value != _UNSAID.get(key))

    @property
    def is_empty(self) -> bool:
        """Whether nothing is asked."""
        return not self.params["input"] and not self.params.get("instructions")

    @cached_property
    def messages(self) -> list[Item]:
        """
        The prompt in chat's words.

        Raises:
            InexpressibleError: chat has none for it.
        """
        for key in HELD_ELSEWHERE:
            if self.params.get(key) is not None:
                raise InexpressibleError(f"the parameter {key!r}")
        given = self.params["input"]
        items = [message(given, role="user")] if isinstance(given, str) else given
        messages = list(to_messages(items))
        if self.params.get("instructions") is not None:
            messages.insert(0, {"role": "system", "content": self.params["instructions"]})
        return messages

    def remarks(self) -> Iterator[str]:
        """Say what becomes of the prompt in chat's words, though nothing of it is lost."""
        given = self.params["input"]
        if not isinstance(given, str) and joins_replies(given):
            yield "assistant messages that follow each other become one, with a line break between them"

    @property
    def text_messages(self) -> list[Item]:
        """
        The prompt in chat's words, as a table takes it: every content a text, every other value of one type.

        Raises:
            InexpressibleError: it is not only text, or chat has no words for it.
        """
        return [_as_text_message(item) for item in self.messages]

    @property
    def tools(self) -> list[Item]:
        """
        The tools in chat's words.

        Raises:
            InexpressibleError: one of them is no function.
        """
        return [to_chat_tool(tool) for tool in self.params.get("tools") or ()]

    @property
    def tools_text(self) -> str:
        """
        The tools in chat's words, as JSON: their schemas differ too much for a column of one type.

        Raises:
            InexpressibleError: one of them is no function.
        """
        return encode_json(self.tools).decode()


def _as_text_message(item: Item) -> Item:
    content = item.get("content")
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        others = sorted({str(part.get("type")) for part in content} - {"text"})
        if others:
            raise InexpressibleError(f"a message with parts other than text ({', '.join(others)})")
        content = "".join(str(part.get("text", "")) for part in content)
    flat = {**item, "content": content}
    for key in ("role", "content", "name", "tool_call_id"):
        if not isinstance(flat.get(key), str | None):
            raise InexpressibleError(f"a message whose {key} is no text")
    for call in flat.get("tool_calls", ()):
        if not (isinstance(call["id"], str) and isinstance(call["function"]["name"], str)):
            raise InexpressibleError("a tool call whose id or name is no text")
    return flat
