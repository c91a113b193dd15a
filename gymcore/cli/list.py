"""
`gym list`: what is installed, without importing any of it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import click

from gymcore.cli.choices import choice_to_dict, choices_of
from gymcore.cli.printable import printable
from gymcore.discovery import Catalog, Plugin, discover
from gymcore.discovery.catalog import KINDS, Kind
from gymcore.discovery.plugin import Status
from gymcore.errors import GymcoreError

if TYPE_CHECKING:
    from gymcore.interfaces import Choice

__all__ = ["command"]

CHECK_TIMEOUT_S = 60
IMPORTED = "gymcore: imported"
"""What the process of a check says at its end; an import may also end it, with 0 at that."""


@click.command("list")
@click.argument("kind", required=False, type=click.Choice([*KINDS, *(f"{kind}s" for kind in KINDS)]), metavar="[KIND]")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of a table.")
@click.option("--check", is_flag=True, help="Also import each plugin, in a process of its own, and say which fail.")
@click.option(
    "--choices", is_flag=True, help="Also ask environments that take an argument which ones there are: a row for each."
)
def command(kind: str | None, as_json: bool, check: bool, choices: bool) -> None:
    """
    Show every installed plugin: environments, models, agents and hooks.

    Nothing is imported for it, unless --check or --choices is given.
    A plugin that cannot be used is a row with the reason. KIND shows one kind only: environment, model, agent or hook.
    GYM_PLUGINS_ALLOW and GYM_PLUGINS_BLOCK name distributions that may, and may not, offer plugins.
    """
    catalog = discover()
    wanted: Kind | None = kind.removesuffix("s") if kind else None  # type: ignore[assignment]
    plugins = catalog.plugins if wanted is None else catalog.of_kind(wanted)
    if check:
        plugins = tuple(_imported(plugin) for plugin in plugins)
    if choices:
        with redirect_stdout(sys.stderr):  # what a plugin prints while it is imported is talk
            plugins = tuple(row for plugin in plugins for row in (plugin, *_choices(catalog, plugin)))
    if as_json:
        click.echo(json.dumps([_described(plugin) for plugin in plugins], indent=2, ensure_ascii=False))
        return
    _print_table(Catalog(tuple(plugins)))


def _imported(plugin: Plugin) -> Plugin:
    """Import a plugin in a child process, which may crash or exit, and return it with what came of that."""
    import subprocess

    if plugin.status in ("blocked", "broken", "incompatible"):
        return plugin
    code = (
        "import sys; from gymcore import discover; from gymcore.errors import GymcoreError; c = discover()\n"
        "try: c.load(c.find(sys.argv[1], sys.argv[2]))\n"
        "except GymcoreError as error: sys.exit('gymcore: ' + error.message)\n"
        f"print({IMPORTED!r})"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, plugin.kind, plugin.qualified],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=CHECK_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return replace(plugin, status="broken", problem=f"its import did not end within {CHECK_TIMEOUT_S} s")
    if done.returncode == 0 and done.stdout.endswith(f"{IMPORTED}\n"):
        return plugin
    said = [line.removeprefix("gymcore: ") for line in done.stderr.splitlines() if line.startswith("gymcore: ")]
    if done.returncode < 0:
        reason = f"its import crashed the process with {_signal(-done.returncode)}"
    else:
        reason = said[-1] if said else f"its import ended the process with exit code {done.returncode}"
    return replace(plugin, status="broken", problem=reason, hint="report it to its author")


@dataclass(frozen=True)
class _Chosen(Plugin):
    """A plugin with one of the arguments that it may have."""

    choice: Choice | None = None


def _described(plugin: Plugin) -> dict[str, Any]:
    described = plugin.to_dict()
    if isinstance(plugin, _Chosen) and plugin.choice is not None:
        # What its manifest says of splits holds for whichever is chosen; this one knows its own.
        described |= {"splits": dict(plugin.choice.splits), "choice": choice_to_dict(plugin.choice)}
    return described


def _choices(catalog: Catalog, plugin: Plugin) -> Iterator[Plugin]:
    """Yield a row for each argument that an environment may have, or one with the reason why nobody can tell."""
    if plugin.kind != "environment" or plugin.manifest.argument is None or plugin.status not in ("ok", "conflict"):
        return
    try:
        choices = choices_of(catalog, plugin)
    except GymcoreError as error:
        name = f"{plugin.name}:{plugin.manifest.argument.upper()}"
        yield replace(plugin, name=name, status="broken", problem=error.message, hint="; ".join(error.hints) or None)
        return
    for choice in choices:
        manifest = replace(plugin.manifest, description=choice.description)
        status: Status = plugin.status if choice.problem is None else "incompatible"
        problem = choice.problem or plugin.problem
        facts = {item.name: getattr(plugin, item.name) for item in fields(plugin)}
        facts |= {"name": f"{plugin.name}:{choice.argument}", "manifest": manifest}
        yield _Chosen(**(facts | {"status": status, "problem": problem, "choice": choice}))


def _signal(number: int) -> str:
    import signal

    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"


def _print_table(catalog: Catalog) -> None:
    if not catalog.plugins:
        click.echo("no plugin is installed; environments are installed with pip")
        return
    rows: list[tuple[str, ...]] = [("KIND", "NAME", "DISTRIBUTION", "STATUS", "WHAT IT IS")]
    for plugin in catalog.plugins:
        why = "; ".join(part for part in (plugin.problem, plugin.hint) if part)
        what = plugin.manifest.description if plugin.status == "ok" else why
        cells = (plugin.kind, plugin.name, f"{plugin.distribution} {plugin.version}", plugin.status, what)
        rows.append(tuple(printable(" ".join(cell.split())) for cell in cells))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        click.echo("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]).rstrip())
