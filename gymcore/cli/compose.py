"""
`gym compose`: environments in, one routed dataset out.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import click

from gymcore.cli.locked import Locked, locked_option
from gymcore.cli.plan_options import PlanFlags, plan_options
from gymcore.cli.printable import printable
from gymcore.composition import Composition, LintWarning, compose, write_composition
from gymcore.discovery import discover
from gymcore.plan import load_environ
from gymcore.workflow import DEFAULT_FOLDER, load_observers

__all__ = ["command", "describe_composition", "print_notes", "print_warnings", "refuse_no_name"]

WARNINGS_SHOWN = 20


@click.command("compose")
@plan_options
@click.option("--out", metavar="FOLDER", help="Where to; runs/<environments>-<digest>, where nothing is said.")
@locked_option
@click.option("--dry-run", is_flag=True, help="Print the table and the notes, and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def command(flags: PlanFlags, out: str | None, locked: Path | None, dry_run: bool, as_json: bool) -> None:
    """
    Turn environments into one routed dataset: plan.yaml, gym.lock and dataset.jsonl.

    \b
    gym compose --env example_single_tool_call --env example_multi_step --out runs/mix
    gym compose --locked runs/mix --out runs/again
    """
    # stdout is for the answer: what plugins print while they are loaded is talk.
    refuse_no_name(out)
    with redirect_stdout(sys.stderr):
        catalog = discover()
        lock = None if locked is None else Locked(locked)
        plan = flags.to_plan() if lock is None else lock.plan(flags)
        composition = compose(plan, catalog, environ=load_environ(), is_played=False)
        if lock is not None:
            lock.check(composition)
        load_observers(composition.plan, catalog).plan(composition.plan.to_dict())
    folder = Path(out) if out is not None else DEFAULT_FOLDER / composition.name()
    if not dry_run:
        write_composition(composition, folder)
    described = describe_composition(composition, folder)
    if as_json:
        click.echo(json.dumps(described, indent=2, ensure_ascii=False))
        return
    print_notes(composition)
    _print_table(described)
    if dry_run:
        click.echo(f"nothing is written; without --dry-run: {folder} ({len(composition.dataset):,} rows)")
        return
    files = "plan.yaml, gym.lock, dataset.jsonl" + (", rejects.jsonl" if composition.rejects is not None else "")
    click.echo(f"wrote {folder}: {files} ({len(composition.dataset):,} rows)")
    click.echo(f"next: gym run {folder}")


def describe_composition(composition: Composition, folder: Path) -> dict[str, Any]:
    """Return what `--json` prints of a composition."""
    tasks = composition.tasks()
    planned = composition.planned()
    environments = [
        {
            "environment": name,
            "plugin": route.environment_plugin.qualified,
            "route": route.name,
            "split": route.plan.split,
            "tasks": tasks[name],
            "requested": composition.shares.get(name),
            "share": tasks[name] / len(composition.dataset),
            "epochs": composition.attempts()[name] // route.repeats,
            "rollouts": planned[name],
        }
        for name, route in {route.environment: route for route in composition.routes.values()}.items()
    ]
    return {
        "folder": str(folder),
        "environments": environments,
        "rows": len(composition.dataset),
        "rollouts": sum(planned.values()),
        "rejected": 0 if composition.rejects is None else composition.rejects.count,
        "notes": list(composition.notes),
        "warnings": [warning.to_dict() for warning in composition.warnings],
    }


def refuse_no_name(out: str | None) -> None:
    """
    Look at what was typed for a folder: nothing at all would be the working directory.

    Raises:
        UsageError: it is empty.
    """
    if out == "":
        raise click.UsageError("--out is empty; it names a folder, such as runs/mix")


def print_notes(composition: Composition) -> None:
    """Print what was left out, and remarks that are no mistakes, to stderr."""
    if composition.rejects is not None:
        count = composition.rejects.count
        told = "1 row is invalid and was left out" if count == 1 else f"{count:,} rows are invalid and were left out"
        click.echo(f"{told}; rejects.jsonl says which, and why", err=True)
    for note in composition.notes:
        click.echo(f"note: {note}", err=True)
    print_warnings(composition.warnings)


def print_warnings(warnings: Iterable[LintWarning]) -> None:
    """Print what is odd about rows, with examples and how to silence it, to stderr."""
    every = list(warnings)
    for warning in every[:WARNINGS_SHOWN]:
        click.echo(f"warning: {printable(warning.message)} [{warning.name}]", err=True)
        for example in warning.examples:
            click.echo(f"  {printable(example)}", err=True)
    if len(every) > WARNINGS_SHOWN:
        click.echo(f"... and {len(every) - WARNINGS_SHOWN} more warnings", err=True)
    if every:
        names = " ".join(f"--ignore-warning {name}" for name in dict.fromkeys(item.name for item in every))
        click.echo(f"to silence: {names}", err=True)


def _print_table(described: dict[str, Any]) -> None:
    head = ("ENVIRONMENT", "SPLIT", "ROUTE", "ROWS", "REQUESTED", "REALISED", "EPOCHS")
    rows: list[tuple[str, ...]] = [head]
    for entry in described["environments"]:
        requested = "-" if entry["requested"] is None else f"{entry['requested']:.2%}"
        numbers = (f"{entry['tasks']:,}", requested, f"{entry['share']:.2%}", f"{entry['epochs']}")
        rows.append((entry["environment"], entry["split"] or "(data)", entry["route"], *numbers))
    if all(entry["epochs"] == 1 for entry in described["environments"]):
        rows = [row[:-1] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        left = [cell.ljust(width) for cell, width in zip(row[:3], widths[:3], strict=True)]
        right = [cell.rjust(width) for cell, width in zip(row[3:], widths[3:], strict=True)]
        click.echo("  ".join([*left, *right]))
