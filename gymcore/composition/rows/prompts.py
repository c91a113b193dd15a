"""
What the rows of an environment are asked with: the `prompt` of a plan or a manifest, filled in from each row.

A prompt is a text of the plan's or the plugin's author. What comes out of a row is data: it is put in where a
placeholder stands, in one pass, and never read as a template itself. A placeholder is a key path and nothing more: no
attributes, no formats, no calls.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gymcore.composition.rows.values import MISSING, key_path, keys_near, value_at
from gymcore.documents import encode_json
from gymcore.errors import Problem
from gymcore.plan import PromptPlan

__all__ = ["MissingFieldError", "Prompt", "compile_prompt", "is_system"]

_PART = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_NAME = r"""[^\s.!:\[\]"'%|$#](?:[^.!:\[\]"'%|$#\n]*[^\s.!:\[\]"'%|$#])?"""
_PATH = re.compile(rf"{_NAME}(?:\.{_NAME})*")
"""Names with dots between. A name may have spaces inside, but nothing that means something to other templates."""

_SYSTEM_ROLES = ("system", "developer")


class MissingFieldError(Exception):
    """A row lacks what a prompt asks for; `hint` says what it has, where that helps."""

    def __init__(self, message: str, hint: str) -> None:
        self.hint = hint
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class _Template:
    key: str
    """Which key of the prompt it is, for messages."""
    parts: tuple[str | tuple[str, ...], ...]
    """Texts, and the paths of what stands between them."""

    def filled(self, row: Mapping[str, Any]) -> str:
        return "".join([part if isinstance(part, str) else self._shown(row, part) for part in self.parts])

    def _shown(self, row: Mapping[str, Any], path: tuple[str, ...]) -> str:
        value = value_at(row, path)
        if value is MISSING:
            name = ".".join(path)
            raise MissingFieldError(
                f"the row has no {name!r}, which its prompt asks for (prompt.{self.key})", keys_near(row, path)
            )
        return value if isinstance(value, str) else encode_json(value).decode()


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt whose texts are understood."""

    system: _Template | None
    user: _Template | None

    def applied(self, row: Mapping[str, Any], given: Any) -> list[dict[str, Any]]:
        """
        Return what a row is asked with.

        Args:
            row: The row, from which the placeholders are filled.
            given: The row's own `input`; None where it has none.

        Returns:
            The items of `input`: of the row's own those for which the prompt says nothing.

        Raises:
            MissingFieldError: the row lacks a field, or all that is asked is empty.
        """
        items = [{"role": "user", "content": given}] if isinstance(given, str) else list(given or ())
        if self.user is not None:
            asked = self.user.filled(row)
            if not asked or asked.isspace():
                raise MissingFieldError("its prompt asks nothing: what the row says is empty (prompt.user)", "")
            items = [*filter(is_system, items), {"role": "user", "content": asked}]
        if self.system is not None:
            system = {"role": "system", "content": self.system.filled(row)}
            items = [system, *(item for item in items if not is_system(item))]
        return items


def is_system(item: Any) -> bool:
    """Whether an item is a message of the system or the developer."""
    return isinstance(item, dict) and item.get("type", "message") == "message" and item.get("role") in _SYSTEM_ROLES


def compile_prompt(asked: PromptPlan | None, where: str) -> tuple[Prompt | None, list[Problem]]:
    """
    Understand the texts of a prompt.

    Args:
        asked: The prompt, if there is one.
        where: Its key path, for messages.

    Returns:
        The prompt, None where it says nothing or something is wrong, and every mistake in it.
    """
    problems: list[Problem] = []
    templates = (
        {
            key: _compile(text, key, f"{where}.{key}", problems)
            for key, text in (("system", asked.system), ("user", asked.user))
            if text is not None
        }
        if asked is not None
        else {}
    )
    if problems or not templates:
        return None, problems
    return Prompt(templates.get("system"), templates.get("user")), []


def _compile(text: str, key: str, where: str, problems: list[Problem]) -> _Template:
    if key == "user" and not text.strip():
        problems.append(Problem("the text is empty, so nothing would be asked", where, ("try: leave it out",)))
    parts: list[str | tuple[str, ...]] = []
    end = 0
    for match in _PART.finditer(text):
        parts.append(text[end : match.start()])
        end = match.end()
        found = match[0]
        if found in ("{{", "}}"):
            parts.append(found[0])
        elif match[1] is not None and _PATH.fullmatch(match[1]):
            parts.append(key_path(match[1]))
        else:
            what = "a brace alone" if len(found) == 1 else f"{found[:60]!r} is no placeholder such as {{field}}"
            line = text.count("\n", 0, match.start()) + 1
            told = f"{what}{f', in line {line} of the text' if line > 1 else ''}"
            problems.append(Problem(told, where, ("for a brace in the text, write {{ or }}",)))
    parts.append(text[end:])
    return _Template(key, tuple(part for part in parts if part != ""))
