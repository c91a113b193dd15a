"""
Options that the commands of `gym data` share.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import get_args

import click

from gymcore.errors import nearest
from gymcore.plan import WarningName

__all__ = ["ignore_option", "refuse_unknown_warnings", "tokenizer_option"]

ignore_option = click.option(
    "--ignore-warning", multiple=True, metavar="NAME", help="A warning to silence; again for each."
)
tokenizer_option = click.option(
    "--tokenizer", metavar="PATH", help="A tokenizer.json that counts tokens; words, where nothing is said."
)


def refuse_unknown_warnings(names: Iterable[str]) -> None:
    """
    Look at the names of warnings that were typed.

    Raises:
        UsageError: there is no such warning.
    """
    known = get_args(WarningName)
    for name in names:
        if name not in known:
            close = nearest(name, known)
            hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(known)}"
            raise click.UsageError(f"there is no warning {name!r}; {hint}")
