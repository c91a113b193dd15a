"""
`gym data`: dataset files on their own, without a plan.
"""

from __future__ import annotations

import click

from gymcore.cli.lazy_group import LazyGroup

__all__ = ["COMMANDS", "command"]

COMMANDS = {
    "check": "Check every row of dataset files.",
    "stats": "Describe dataset files in numbers.",
    "prepare": "Write the splits of environments, checked and routed.",
}
"""Each command with its one-line help; the command itself is `command` in the module of that name."""


@click.group("data", cls=LazyGroup, package="gymcore.cli.data", lazy=COMMANDS)
def command() -> None:
    """
    Check, describe and prepare dataset files.

    \b
    gym data check rows.jsonl
    gym data prepare --env example_multi_step --out data
    """
