"""
`gym data stats`: what dataset files hold, in numbers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from gymcore.cli.data.options import tokenizer_option
from gymcore.cli.printable import printable
from gymcore.composition.tokens import WORDS
from gymcore.datasets.describing import Described, describe_data
from gymcore.discovery import discover

__all__ = ["command"]

FIELDS_SHOWN = 30


@click.command("stats")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FOLDER|FILE...")
@tokenizer_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with all that is known, instead of tables.")
def command(paths: tuple[Path, ...], tokenizer: str | None, as_json: bool) -> int:
    """
    Describe dataset files and run folders in numbers: rows, words, tools, turns and fields, per environment.

    \b
    gym data stats runs/mix
    gym data stats train.jsonl validation.jsonl --tokenizer tokenizer.json --json
    """
    described = describe_data(paths, discover(), tokenizer=tokenizer or WORDS)
    if as_json:
        click.echo(json.dumps(described.to_dict(), indent=2, ensure_ascii=False))
    else:
        _print(described)
    if described.bad:
        count = "1 line is no row and is" if described.bad == 1 else f"{described.bad:,} lines are no rows and are"
        click.echo(f"{count} not counted; what is wrong says: gym data check", err=True)
        return 1
    return 0


def _print(described: Described) -> None:
    unit = described.statistics.unit
    told = described.to_dict()
    rows: list[tuple[str, ...]] = [
        ("ENVIRONMENT", "ROWS", f"{unit.upper()} MIN", "MEAN", "MAX", "TOOLS", "TURNS", "BYTES", "REWARDS")
    ]
    for name, own in [*told["environments"].items(), ("total", told["total"])]:
        scale = own.get("reward_range")
        rewards = f"{scale[0]:g} to {scale[1]:g}" if scale else "-"
        rows.append((printable(name) or "(no route)", f"{own['rows']:,}", *_numbers(own, unit), rewards))
    _print_table(rows, left=1)
    for name, own in told["environments"].items():
        click.echo("")
        click.echo(f"{printable(name) or '(no route)'}:")
        _print_fields(own["fields"])


def _numbers(own: dict[str, Any], unit: str) -> tuple[str, ...]:
    prompt, tools, turns, size = own[unit], own["tools"], own["turns"], own["bytes"]
    if prompt is None:
        return ("-",) * 6
    means = (f"{tools['mean']:g}", f"{turns['mean']:g}", f"{size['mean']:,.0f}")
    return (f"{prompt['min']:,}", f"{prompt['mean']:,.1f}", f"{prompt['max']:,}", *means)


def _print_fields(fields: dict[str, Any]) -> None:
    if not fields:
        click.echo("  (no fields)")
        return
    rows: list[tuple[str, ...]] = [("  FIELD", "TYPE", "PRESENT", "DISTINCT", "MIN", "MEAN", "MAX", "OF")]
    for key, item in list(fields.items())[:FIELDS_SHOWN]:
        numbers = item.get("numbers") or item.get("lengths")
        distinct = f"{item['distinct']:,}" if "distinct" in item else f"over {item['distinct_more_than']:,}"
        shown = ("-", "-", "-", "-")
        if numbers is not None:
            what = "numbers" if "numbers" in item else "lengths"
            shown = (f"{numbers['min']:g}", f"{numbers['mean']:g}", f"{numbers['max']:g}", what)
        rows.append((f"  {printable(key)}", "/".join(item["types"]), f"{item['present']:.1%}", distinct, *shown))
    _print_table(rows, left=2)
    if len(fields) > FIELDS_SHOWN:
        click.echo(f"  ... and {len(fields) - FIELDS_SHOWN} more fields; --json has all")


def _print_table(rows: list[tuple[str, ...]], left: int) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        click.echo("  ".join(cells).rstrip())
