"""
A number of seconds as an option's value.
"""

from __future__ import annotations

import math
from typing import Any

import click

__all__ = ["Seconds"]


class Seconds(click.FloatRange):
    """
    Seconds that pass: `nan`, which is neither less nor more than any bound, and `inf` are none.

    Args:
        min: The fewest.
        max: The most; None for as many as wanted.
    """

    def __init__(self, min: float, max: float | None = None) -> None:
        super().__init__(min, max)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read a number; anything else is a wrong request."""
        seconds: float = super().convert(value, param, ctx)
        if not math.isfinite(seconds):
            self.fail(f"{value!r} is no number of seconds.", param, ctx)
        return seconds
