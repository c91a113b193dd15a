"""
Writes docs/reference/commands.md from the commands' own `--help`.

`python docs/generate_commands.py` writes the page.
`python docs/generate_commands.py --check` writes nothing, and exits 1 when the page is not what would be written.
"""

import sys

import click
from generated_page import write_or_compare

from gymcore.cli import COMMANDS, command_line

WIDTH = 100
"""Columns of a help page; the terminal of whoever runs this must not decide it."""

HEAD = """\
# Commands

<!-- Written by docs/generate_commands.py; change the commands in gymcore/cli, and run it again. -->

The command is installed under two names, `gym` and `gymcore`, and `python -m gymcore` is the same.
Use one of the latter two where another package owns the name `gym`.
Data goes to stdout and talk goes to stderr; with `--json`, stdout holds one JSON value and nothing else.
`NO_COLOR` is honoured.
[Exit codes](errors.md#exit-codes) are the same for every command.
What the flags of `compose` and `run` stand for in a plan is told in [the plan](plan.md#flags).
"""


def help_of(command: click.Command, name: str) -> str:
    """
    Return what `--help` prints, at a width of our own.
    """
    context = click.Context(command, info_name=name, terminal_width=WIDTH, max_content_width=WIDTH)
    context.help_option_names = ["-h", "--help"]
    return command.get_help(context).rstrip()


def page() -> str:
    """
    Return the whole page.
    """
    parts = [HEAD, "## gym\n", f"```text\n{help_of(command_line, 'gym')}\n```\n"]
    for name in COMMANDS:
        command = command_line.get_command(click.Context(command_line), name)
        assert command is not None
        parts += [f"## gym {name}\n", f"```text\n{help_of(command, f'gym {name}')}\n```\n"]
        for inner in command.list_commands(click.Context(command)) if isinstance(command, click.Group) else ():
            below = command.get_command(click.Context(command), inner)
            assert below is not None
            title = f"gym {name} {inner}"
            parts += [f"### {title}\n", f"```text\n{help_of(below, title)}\n```\n"]
    return "\n".join(parts)


if __name__ == "__main__":
    sys.exit(write_or_compare("commands.md", page()))
