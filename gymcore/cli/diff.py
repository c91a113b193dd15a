"""
`gym diff`: what has moved between two compositions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from gymcore.cli.printable import printable
from gymcore.composition.folder import named_lock
from gymcore.composition.locking.lock import differences
from gymcore.composition.locking.moves import moves
from gymcore.composition.locking.row_moves import DatasetMoves, RowMoves, compare_rows
from gymcore.run_folder import DATASET_NAME

__all__ = ["command"]

SHOWN = 20


@click.command("diff")
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of words.")
def command(first: Path, second: Path, as_json: bool) -> int:
    """
    Say what has moved from one composition to another: plugins, options, shares, sources and rows.

    FIRST and SECOND are run folders, or locks; a folder without its dataset.jsonl is compared by its lock.
    The exit code is 0 where they are the same and 1 where they differ.

    \b
    gym diff runs/mix runs/mix2
    """
    (there, there_file), (here, here_file) = named_lock(first), named_lock(second)
    found = moves(there, here)
    files = [file.with_name(DATASET_NAME) for file in (there_file, here_file)]
    missing = [str(file) for file in files if not file.is_file()]
    rows = DatasetMoves() if missing else _compared(*files)
    notes = [f"the rows are not compared: there is no {name}" for name in missing]
    is_as_composed = True
    if not missing:
        digests = (rows.sha256_there, rows.sha256_here)
        for file, digest, lock in zip(files, digests, (there, here), strict=True):
            if digest != lock["dataset"]["sha256"]:
                is_as_composed = False
                notes.append(f"{file} has changed since: it is not the one that its lock tells of")
    differing = {name: moved for name, moved in sorted(rows.environments.items()) if not moved.is_same}
    is_same_mix = not found and not differing and not rows.is_mixed_otherwise
    is_same = is_same_mix and is_as_composed and rows.sha256_there == rows.sha256_here and there == here
    if as_json:
        described: dict[str, Any] = {
            "first": str(first),
            "second": str(second),
            "is_same": is_same,
            "moves": [{"about": move.about, "words": move.words, "is_decisive": move.is_decisive} for move in found],
            "rows": {name: moved.to_dict() for name, moved in differing.items()},
            "is_mixed_otherwise": rows.is_mixed_otherwise,
            "notes": notes,
        }
        click.echo(json.dumps(described, indent=2, ensure_ascii=False))
        return 0 if is_same else 1
    for note in notes:
        click.echo(printable(f"note: {note}"), err=True)
    for move in found:
        click.echo(printable(move.line))
    for name, moved in differing.items():
        for line in _words(moved):
            click.echo(printable(f"{name}: {line}"))
    if rows.is_mixed_otherwise:
        click.echo("mix: the environments take turns otherwise; each has its rows in the same order")
    if is_same:
        click.echo(f"the same: {here['dataset']['rows']:,} rows, sha256 {here['dataset']['sha256']}")
    elif is_same_mix and rows.sha256_there != rows.sha256_here:
        click.echo("dataset: the same rows in the same order, but not the same bytes")
    elif there == here:
        click.echo("the locks are the same, and the rows are not what they tell of")
    elif is_same_mix:
        for line in differences(there, here)[:SHOWN]:
            click.echo(printable(f"lock: {line}"))
    return 0 if is_same else 1


def _compared(there: Path, here: Path) -> DatasetMoves:
    """Compare two datasets, row by row only where their bytes differ."""
    digests = [_sha256(there), _sha256(here)]
    if digests[0] == digests[1]:
        return DatasetMoves(sha256_there=digests[0], sha256_here=digests[1])
    return compare_rows(there, here)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _words(moved: RowMoves) -> Iterator[str]:
    counts = {"added": moved.added, "removed": moved.removed, "changed": moved.changed, "moved": moved.moved}
    for kind, count in counts.items():
        if count:
            named = moved.examples.get(kind, [])
            more = ", ..." if count > len(named) else ""
            yield f"{count:,} {'row' if count == 1 else 'rows'} {kind}: {', '.join(named)}{more}"
