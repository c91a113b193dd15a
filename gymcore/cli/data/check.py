"""
`gym data check`: are the rows of dataset files all right?
"""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path

import click

from gymcore.cli.compose import print_warnings
from gymcore.cli.data.options import ignore_option, refuse_unknown_warnings
from gymcore.cli.printable import printable
from gymcore.datasets.checking import Checked, check_data
from gymcore.discovery import discover
from gymcore.plan import load_environ

__all__ = ["command"]


@click.command("check")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="FOLDER|FILE...")
@click.option(
    "--env", "-e", metavar="NAME[:ARGUMENT]", help="Whose rows they all are; without a FILE, check its own splits."
)
@ignore_option
@click.option("--strict", is_flag=True, help="Take warnings for mistakes.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def command(
    files: tuple[Path, ...], env: str | None, ignore_warning: tuple[str, ...], strict: bool, as_json: bool
) -> int:
    """
    Check every row of dataset files, and say what is odd about them.

    A row is checked against the environment that its `agent_ref` names, where that is installed, and else by what
    holds for every row. Of a run folder it is the dataset, and its plan says what its environments are; `.gz` and
    `.parquet` are read as well. The exit code is 2 where a row is wrong.

    \b
    gym data check rows.jsonl more.jsonl
    gym data check --env example_multi_step mine.jsonl
    """
    if not files and env is None:
        raise click.UsageError("name a FILE, or --env NAME for an environment's own splits")
    refuse_unknown_warnings(ignore_warning)
    with redirect_stdout(sys.stderr):
        checked = check_data(files, discover(), environment=env, ignore=ignore_warning, environ=load_environ())
    if as_json:
        click.echo(json.dumps(checked.to_dict(), indent=2, ensure_ascii=False))
    else:
        _print(checked)
    is_good = checked.bad == 0 and checked.rows > 0 and not (strict and checked.warnings)
    if checked.rows == 0:
        click.echo("there are no rows", err=True)
    return 0 if is_good else 2


def _print(checked: Checked) -> None:
    for file in checked.files:
        bad = f", {file.bad:,} bad" if file.bad else ""
        good = file.rows - file.bad
        click.echo(f"{printable(file.name)}: {good:,} {'row' if good == 1 else 'rows'} good{bad}")
    for name, count in checked.environments.items():
        how = f"not checked by its own rules: {checked.unchecked[name]}" if name in checked.unchecked else "checked"
        click.echo(
            f"  {printable(name) or '(no route)'}: {count:,} {'row' if count == 1 else 'rows'}, {printable(how)}"
        )
    for problem in checked.problems:
        click.echo(f"{printable(problem.where or '')}: {printable(problem.message)}")
        for hint in problem.hints:
            click.echo(f"    {printable(hint)}")
    if checked.bad > len(checked.problems):
        click.echo(f"... and {checked.bad - len(checked.problems):,} more")
    if len(checked.reasons) > 1:
        click.echo("by reason:")
        for reason, count in checked.reasons.items():
            click.echo(f"  {count:,} x {printable(reason)}")
    for note in checked.notes:
        click.echo(f"note: {printable(note)}", err=True)
    print_warnings(checked.warnings)
