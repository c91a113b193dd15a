"""
`gym export`: the rows of a run folder as a trainer reads them.
"""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path

import click

from gymcore.composition import open_composition
from gymcore.discovery import discover
from gymcore.integrations import FORMATS, export
from gymcore.integrations.exporting import load_format
from gymcore.plan import load_environ

__all__ = ["command"]


@click.command("export")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--to", required=True, type=click.Choice(list(FORMATS)), help="Whose rows to write.")
@click.option("--out", metavar="FILE", help="Where to; FORMAT.jsonl or FORMAT.parquet in FOLDER, by default.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of words.")
def command(folder: Path, to: str, out: str | None, as_json: bool) -> None:
    """
    Write the rows of the run FOLDER as a trainer reads them, each with its route.

    nemo-gym and openai-messages are JSON lines; trl, verl, skyrl and parquet are Parquet files and need
    gymcore[parquet]. A row that a format has no words for is a mistake, and nothing is written.

    \b
    gym export runs/mix --to trl
    gym export runs/mix --to verl --out /data/train.parquet
    """
    if out == "":
        raise click.UsageError("--out is empty; it names a file, such as mix.parquet")
    file = Path(out) if out is not None else folder / load_format(to).file_name
    # stdout is for the answer: what plugins print while they are loaded is talk.
    with redirect_stdout(sys.stderr):
        written = export(open_composition(folder, discover(), environ=load_environ(), is_played=False), to, file)
    if as_json:
        click.echo(json.dumps(written.to_dict(), indent=2, ensure_ascii=False))
        return
    for note in written.notes:
        click.echo(f"note: {note}", err=True)
    click.echo(f"wrote {written.path}: {written.rows:,} rows for {written.to}")
