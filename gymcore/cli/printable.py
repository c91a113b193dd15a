"""
Text that others wrote, made fit for a terminal.
"""

from __future__ import annotations

__all__ = ["printable"]


def printable(text: str) -> str:
    """Return text on one line that cannot steer a terminal: every other character becomes a replacement sign."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
