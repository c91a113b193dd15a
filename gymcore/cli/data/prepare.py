"""
`gym data prepare`: the splits of environments, one file each.
"""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import click

from gymcore.cli.compose import print_warnings, refuse_no_name
from gymcore.cli.data.options import ignore_option, refuse_unknown_warnings, tokenizer_option
from gymcore.composition.tokens import WORDS
from gymcore.datasets.preparing import Prepared, prepare_data
from gymcore.discovery import discover
from gymcore.plan import load_environ

__all__ = ["command"]


@click.command("prepare")
@click.option(
    "--env", "-e", multiple=True, metavar="NAME[:ARGUMENT]", help="An environment; again for each; else all installed."
)
@click.option("--out", required=True, metavar="FOLDER", help="Where to.")
@click.option("--skip-invalid", is_flag=True, help="Leave invalid rows out, and write them to rejects.jsonl.")
@ignore_option
@click.option("--strict", is_flag=True, help="Take warnings for mistakes.")
@click.option(
    "--force", is_flag=True, help="Replace other files of the same names, and remove what was prepared there before."
)
@tokenizer_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def command(env: tuple[str, ...], out: str, tokenizer: str | None, as_json: bool, **options: Any) -> None:
    """
    Write the splits of environments, checked and routed: train.jsonl, validation.jsonl and example.jsonl.

    Each holds the rows of all environments that have the split, in an even mix, and has its statistics beside it:
    train_metrics.json, and so on. Files of these names that were not prepared there are never removed.

    \b
    gym data prepare --env example_single_tool_call --env example_multi_step --out data
    """
    refuse_no_name(out)
    ignore = options.pop("ignore_warning")
    refuse_unknown_warnings(ignore)
    with redirect_stdout(sys.stderr):
        prepared = prepare_data(
            env,
            discover(),
            Path(out),
            ignore=ignore,
            tokenizer=tokenizer or WORDS,
            environ=load_environ(),
            **options,
        )
    if as_json:
        click.echo(json.dumps(prepared.to_dict(), indent=2, ensure_ascii=False))
    else:
        _print(prepared)


def _print(prepared: Prepared) -> None:
    for name, reason in prepared.skipped.items():
        click.echo(f"left out: {name}: {reason}", err=True)
    if prepared.rejected:
        is_one = prepared.rejected == 1
        told = "1 row is invalid and was" if is_one else f"{prepared.rejected:,} rows are invalid and were"
        click.echo(f"{told} left out; rejects.jsonl says which, and why", err=True)
    print_warnings(prepared.warnings)
    for split in prepared.splits:
        tasks = ", ".join(f"{name} {count:,}" for name, count in split.tasks.items())
        click.echo(f"{split.name}.jsonl: {sum(split.tasks.values()):,} rows ({tasks})")
    if prepared.kept:
        click.echo(f"kept, because they were not prepared here: {', '.join(prepared.kept)}", err=True)
    verb = "wrote" if prepared.is_new else "all of it lay there already:"
    click.echo(f"{verb} {prepared.folder}: {', '.join(f'{split.name}.jsonl' for split in prepared.splits)}")
    for told, names in (("replaced", prepared.replaced), ("removed", prepared.removed)):
        if names:
            click.echo(f"{told}: {', '.join(names)}")
