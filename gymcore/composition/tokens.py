"""
How many tokens a prompt has: counted by a tokenizer where one is named, and by words where none is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gymcore.errors import PlanError, Problem
from gymcore.responses import text_of

__all__ = ["WORDS", "TokenCounter", "prompt_text", "token_counter"]

WORDS = "words"


@dataclass(frozen=True)
class TokenCounter:
    """Counts the tokens of a text."""

    count: Callable[[str], int]
    sha256: str | None = None
    """The digest of the tokenizer's file; None where words are counted."""

    def __call__(self, text: str) -> int:
        """Return how many there are."""
        return self.count(text)


def token_counter(name: str, where: str) -> TokenCounter:
    """
    Return what counts the tokens of a text.

    Args:
        name: `words` for what white space separates, or the path of a `tokenizer.json`.
        where: How messages name the place where it is asked for.

    Raises:
        PlanError: the tokenizer cannot be loaded.
    """
    if name == WORDS:
        return TokenCounter(lambda text: len(text.split()))
    if not Path(name).is_file():
        hint = "try: words, or the path of a tokenizer.json"
        raise PlanError([Problem(f"there is no tokenizer {name!r}", where, (hint,))])
    try:
        from tokenizers import Tokenizer
    except ImportError:
        hint = "try: pip install 'gymcore[tokenizers]'"
        raise PlanError([Problem("a tokenizer needs the package `tokenizers`", where, (hint,))]) from None
    try:
        content = Path(name).read_bytes()
        tokenizer = Tokenizer.from_buffer(content)
    except Exception as error:  # the library raises no class of its own
        raise PlanError([Problem(f"the tokenizer cannot be loaded: {error}", f"{where}: {name}")]) from None
    return TokenCounter(lambda text: len(tokenizer.encode(text).ids), hashlib.sha256(content).hexdigest())


def prompt_text(params: Mapping[str, Any]) -> str:
    """Return all that a model is told at first, joined by line breaks: instructions, messages, calls and results."""
    instructions, given = params.get("instructions"), params.get("input")
    told = [instructions] if isinstance(instructions, str) else []
    if isinstance(given, str):
        told.append(given)
    else:
        told += [_told(item) for item in given or () if isinstance(item, dict)]
    return "\n".join(filter(None, told))


def _told(item: Mapping[str, Any]) -> str:
    """Return the text of an item; `output` of a result may be a list of parts, as the content of a message."""
    if item.get("type", "message") == "message":
        return text_of(dict(item))
    output = item.get("output")
    parts = [output] if isinstance(output, str) else [text_of({"content": output})]
    return "\n".join(text for text in (item.get("arguments"), *parts) if isinstance(text, str) and text)
