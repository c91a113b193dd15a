"""
A group of commands that are imported when they are called, so that its `--help` costs what click costs.
"""

from __future__ import annotations

import gc
import importlib
from collections.abc import Mapping
from typing import Any

import click

__all__ = ["LazyGroup"]


class LazyGroup(click.Group):
    """
    A group whose commands are imported when they are called, and listed without being imported.

    Args:
        package: Where the commands are: each is `command` in the module of its name.
        lazy: Each command with its one-line help.
    """

    def __init__(self, *arguments: Any, package: str, lazy: Mapping[str, str], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.package = package
        self.lazy = lazy

    def list_commands(self, context: click.Context) -> list[str]:
        """List the names, in the order in which they were given."""
        return list(self.lazy)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Import a command."""
        if name not in self.lazy:
            return None
        command: click.Command = importlib.import_module(f"{self.package}.{name}").command
        gc.freeze()  # `__main__` has switched it off for loading
        gc.enable()
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what `--help` says of the commands."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self.lazy.items()))

    def resolve_command(self, context: click.Context, args: list[str]) -> Any:
        """Find a command, or name the nearest."""
        try:
            return super().resolve_command(context, args)
        except click.UsageError as error:
            from gymcore.errors import nearest

            close = nearest(args[0], self.lazy)
            if close and not error.message.endswith("?"):
                raise click.UsageError(f"{error.message} Did you mean {close[0]!r}?", context) from None
            raise
