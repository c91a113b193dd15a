"""
What a person at `gym play` sees, and where their lines come from.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout, suppress
from typing import IO, Any

__all__ = ["PROMPT", "Keyboard", "Screen"]

PROMPT = "> "


class Screen:
    """
    Shows texts under headings: coloured and wrapped on a terminal, plain elsewhere.

    Args:
        out: Where to.
    """

    def __init__(self, out: IO[str]) -> None:
        self._out = out
        self._console: Any = None  # rich is for terminals only
        if out.isatty():
            from rich.console import Console

            self._console = Console(file=out, highlight=False)

    def heading(self, text: str) -> None:
        """Name what comes next."""
        self._show(text, "bold cyan")

    def body(self, text: str) -> None:
        """Show a text that others may have written, indented; nothing in it can steer the terminal."""
        for line in text.splitlines() or [""]:
            self._show(line, "", indent=2)

    def note(self, text: str) -> None:
        """Say something about the game itself."""
        for line in text.splitlines() or [""]:
            self._show(line, "dim")

    def result(self, text: str) -> None:
        """Show what it all came to."""
        self._show(text, "bold green")

    def mistake(self, text: str) -> None:
        """Say what was wrong."""
        self._show(text, "yellow")

    def _show(self, text: str, style: str, indent: int = 0) -> None:
        shown = "".join(letter if letter.isprintable() or letter == "\t" else "\ufffd" for letter in text)
        if self._console is None:
            self._out.write(f"{' ' * indent if shown else ''}{shown}\n")
            self._out.flush()
            return
        from rich.padding import Padding
        from rich.text import Text

        self._console.print(Padding(Text(shown, style=style), (0, 0, 0, indent), expand=False))


class Keyboard:
    """
    The lines that a person types, or that a script holds.

    Args:
        screen: Where lines of a script are repeated, so that what is shown can be read afterwards.
        words: What the tabulator key completes.
    """

    def __init__(self, screen: Screen, words: Sequence[str]) -> None:
        self._screen = screen
        self._is_terminal = sys.stdin is not None and sys.stdin.isatty()
        if self._is_terminal:
            _complete(words)
        elif sys.stdin is not None:
            with suppress(AttributeError, OSError, ValueError):
                sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]

    def line(self, prompt: str = PROMPT) -> str | None:
        """Wait for the next line; None when there is none any more."""
        if sys.stdin is None:
            return None
        if self._is_terminal:
            # On the real stdout: only there does Python let a person edit what they type.
            with redirect_stdout(sys.__stdout__):
                try:
                    return input(prompt)
                except EOFError:
                    print()  # the cursor still stands behind the prompt
                    return None
                except KeyboardInterrupt:
                    print()
                    raise
        line = sys.stdin.readline()
        if not line:
            return None
        self._screen.note(f"{prompt}{line.rstrip()}")
        return line.rstrip("\r\n")


def _complete(words: Iterable[str]) -> None:
    """Let a terminal remember lines, and complete words."""
    try:
        import readline
    except ImportError:  # a Python that was built without it
        return
    known = sorted(words)

    def found(text: str, number: int) -> str | None:
        fitting = [word for word in known if word.startswith(text)]
        return f"{fitting[number]} " if number < len(fitting) else None

    readline.set_completer(found)
    readline.set_completer_delims(" ")
    readline.parse_and_bind("tab: complete")
