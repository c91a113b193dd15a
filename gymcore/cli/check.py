"""
`gym check`: what is wrong with a plugin, before others find it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import cast

import click

from gymcore.authoring.checking import (
    PHASES,
    Finding,
    Outcome,
    check_installed,
    check_project,
    find_installed,
    read_project,
)
from gymcore.cli.printable import printable
from gymcore.discovery import discover

__all__ = ["command"]

SCHEMA = 1
_COLOURS = {"passed": "green", "failed": "red", "warned": "yellow", "skipped": "bright_black"}


@click.command("check")
@click.argument("what", required=False, default=".", metavar="[NAME | PATH]")
@click.option("--no-install", is_flag=True, help="Make no virtual environment; try the wheel beside what is installed.")
@click.option("--offline", is_flag=True, help="Fetch nothing: build with what is installed, and install nothing.")
@click.option("--strict", is_flag=True, help="Take warnings for findings.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def command(what: str, no_install: bool, offline: bool, strict: bool, as_json: bool) -> int:
    """
    Find out what is wrong with a plugin, and what to change.

    PATH is the folder of its project, with a pyproject.toml; the current one, where nothing is said. Five phases look
    at the source, at the wheel that is built from it, at that wheel in a fresh virtual environment, at the import of
    each plugin in a process of its own, and run its conformance suite there, with the switches that its tests set.

    NAME is an installed plugin, as `name` or `distribution/name`, or a distribution: its manifest and data, its import
    and its suite are checked, here.

    The exit code is 1 when something was found. Nothing is left of what is made on the way.

    \b
    gym check
    gym check --offline plugins/word_count
    gym check word_count --json
    """
    began = time.monotonic()
    path = _as_path(what)
    if path is not None:
        project = read_project(path)
        distribution, version = project.name or "(no name)", project.version
        names = [f"{offer.kind} {offer.name}" for offer in project.offers]
        checks = check_project(project, install=not no_install, offline=offline)
    else:
        catalog = discover()
        plugins = find_installed(what, catalog)
        distribution, version = plugins[0].distribution, plugins[0].version
        names = [f"{plugin.kind} {plugin.name}" for plugin in plugins]
        checks = check_installed(plugins, catalog)
    if not as_json:
        click.echo(
            f"checking {printable(distribution)} {printable(version)}: {printable(', '.join(names)) or 'no plugin'}"
        )
    outcomes = _told(checks, as_json, len(names) > 1)
    findings = [finding for outcome in outcomes for finding in outcome.findings]
    wrong = [finding for finding in findings if strict or finding.level == "error"]
    seconds = time.monotonic() - began
    if as_json:
        value = {
            "schema": SCHEMA,
            "checked": str(path.resolve()) if path is not None else what,
            "distribution": distribution,
            "version": version,
            "plugins": names,
            "is_well": not wrong,
            "seconds": round(seconds, 3),
            "phases": list(_phases(outcomes)),
            "findings": [finding.to_dict() for finding in findings],
        }
        click.echo(json.dumps(value, indent=2, ensure_ascii=False))
    else:
        _print_findings(findings)
        _print_total(outcomes, findings, seconds)
    return 1 if wrong else 0


def _as_path(what: str) -> Path | None:
    """Return the folder that is meant; None where it is a name."""
    path = Path(what).expanduser()
    # `distribution/name` is a name, unless there is such a folder.
    is_written_as_path = what.startswith((".", os.sep, "~")) or what.endswith(os.sep) or what.count(os.sep) > 1
    is_there = (path / "pyproject.toml").is_file() or (os.sep in what and path.is_dir())
    return path if is_written_as_path or is_there else None


def _told(checks: Iterator[Outcome], as_json: bool, several: bool) -> list[Outcome]:
    """Gather what comes of the checks, and show each as soon as it is there; whoever makes them cleans up."""
    outcomes = []
    with closing(cast(Generator[Outcome, None, None], checks)):
        for outcome in checks:
            outcomes.append(outcome)
            if not as_json:
                name = f"{outcome.plugin}: {outcome.check}" if several and outcome.plugin else outcome.check
                result = _coloured(f"{outcome.status:8}", outcome.status)
                click.echo(f"{outcome.phase:8} {result} {name:44} {printable(outcome.told)}".rstrip())
    return outcomes


def _phases(outcomes: Sequence[Outcome]) -> Iterator[dict[str, object]]:
    for phase, what in PHASES.items():
        held = [outcome for outcome in outcomes if outcome.phase == phase]
        statuses = {outcome.status for outcome in held}
        status = next((item for item in ("failed", "warned", "passed") if item in statuses), "skipped")
        yield {
            "phase": phase,
            "what": what,
            "status": status,
            "seconds": round(sum(outcome.seconds for outcome in held), 3),
            "checks": [outcome.to_dict() for outcome in held],
        }


def _print_findings(findings: Sequence[Finding]) -> None:
    for number, finding in enumerate(findings, start=1):
        colour = "failed" if finding.level == "error" else "warned"
        about = f" of {finding.plugin}" if finding.plugin else ""
        click.echo()
        click.echo(f"{number}. {_coloured(finding.level, colour)}: {finding.check}{about} ({finding.phase})")
        for line in finding.message.splitlines():
            click.echo(f"   {printable(line)}")
        if finding.where and finding.where not in finding.message:
            click.echo(f"   at  {printable(finding.where)}")
        for word, text in (("why", finding.why), ("fix", finding.fix)):
            if text:
                click.echo(f"   {word} {printable(text)}")


def _print_total(outcomes: Sequence[Outcome], findings: Sequence[Finding], seconds: float) -> None:
    errors = sum(finding.level == "error" for finding in findings)
    warnings = len(findings) - errors
    counted = [f"{errors} finding{'' if errors == 1 else 's'}" if errors else "nothing found"]
    if warnings:
        counted.append(f"{warnings} warning{'' if warnings == 1 else 's'}")
    skipped = sum(outcome.status == "skipped" for outcome in outcomes)
    click.echo()
    click.echo(f"{', '.join(counted)}; {len(outcomes) - skipped} checks made, {skipped} skipped, in {seconds:.1f} s")


def _coloured(text: str, status: str) -> str:
    """Return a text in the colour of a status, where somebody sits at a terminal and wants colours."""
    is_wanted = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    return click.style(text, fg=_COLOURS[status]) if is_wanted else text
