"""
`gym compose`: environments in, one routed dataset out.
"""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import click

from gymcore.cli.locked import Locked, locked_option
from gymcore.cli.plan_options import PlanFlags, plan_options
from gymcore.composition import Composition, compose, write_composition
from gymcore.discovery import discover
from gymcore.plan import load_environ
from gymcore.workflow import DEFAULT_FOLDER, load_observers

__all__ = ["command", "describe_composition", "print_notes", "refuse_no_name"]


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
        composition = compose(plan, catalog, environ=load_environ())
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
    click.echo(f"wrote {folder}: plan.yaml, gym.lock, dataset.jsonl ({len(composition.dataset):,} rows)")
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
        "notes": list(composition.notes),
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
    """Print remarks that are no mistakes, to stderr."""
    for note in composition.notes:
        click.echo(f"note: {note}", err=True)


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
