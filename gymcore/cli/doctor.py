"""
`gym doctor`: whether the disk that a run folder lies on keeps its promises.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

import click

from gymcore.doctor import Check, crash, look

__all__ = ["command"]


@click.command("doctor")
@click.argument("folder", required=False, default="runs", type=click.Path(path_type=Path))
@click.option(
    "--crash", "times", type=click.IntRange(min=1, max=100_000), metavar="N", help="Also interrupt work N times a kind."
)
@click.option("--seed", type=int, default=0, metavar="N", help="Where to interrupt it; 0, where nothing is said.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def command(folder: Path, times: int | None, seed: int, as_json: bool) -> int:
    """
    Look at the disk on which FOLDER lies: can it be written, do locks hold, how long does it take to store a rollout?

    With --crash, also find out what a crash costs there: N processes that collect are killed, N lines are torn, the
    power is cut after N operations (as recorded and damaged by rule), and the disk is full at N places.

    All of it happens in a scratch folder inside FOLDER (runs, where nothing is said), which is removed afterwards.
    No plugin is needed. The exit code is 1 when anything was lost, doubled, damaged or done again.

    \b
    gym doctor
    gym doctor --crash 50 /data/runs
    """
    is_new = not folder.exists()
    try:
        checks = _told(look(folder), as_json)
        if times is not None:
            if sys.stderr.isatty():
                click.echo(f"interrupting work in four ways, {times:,} times each ...", err=True)
            checks += _told(crash(folder, times, seed), as_json)
    finally:
        if is_new and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    if as_json:
        value = {"folder": str(folder), "seed": seed, "checks": [check.to_dict() for check in checks]}
        click.echo(json.dumps(value, indent=2, ensure_ascii=False))
    bad = [check.name for check in checks if not check.is_well]
    if bad:
        click.echo(f"not well: {', '.join(bad)}; a run in this folder may lose work", err=True)
    return 1 if bad else 0


def _told(checks: Generator[Check, None, None], as_json: bool) -> list[Check]:
    """Gather checks, and show each as soon as it is there; whoever makes them has cleaned up afterwards."""
    found = []
    with closing(checks):
        for check in checks:
            found.append(check)
            if not as_json:
                took = f" ({check.seconds:.1f} s)" if check.seconds else ""
                click.echo(f"{check.name:10} {'well' if check.is_well else 'NOT WELL':9} {check.found}{took}")
                for remark in check.remarks:
                    click.echo(f"{'':21}{remark}")
    return found
