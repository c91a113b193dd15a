"""
`gym report`: what a run folder means, in numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from gymcore.cli.printable import printable
from gymcore.reporting import EnvironmentReport, Report, report

__all__ = ["command", "print_report"]


@click.command("report")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def command(folder: Path, as_json: bool) -> None:
    """
    Sum up what the run FOLDER holds: per environment and in total.

    Rewards are means with their 95 % interval; pass@k is shown where tasks were played more than once, for three k at
    most. JSON has every k.
    """
    result = report(folder)
    if as_json:
        click.echo(result.to_json())
    else:
        print_report(result)


NAME = "environment"
NAME_WIDTH = 26
"""What a name gets of a narrow terminal, at least."""


def print_report(result: Report) -> None:
    """Print a report as a table, to stdout."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200  # whoever reads a pipe or a file does not want it wrapped
    entries = [*result.environments, result.total]
    columns = _fitting(_columns(entries), console.width)
    table = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for title in columns:
        if title == NAME:  # the only one that may be wrapped: numbers are read as a whole
            table.add_column(title, overflow="fold", min_width=min(NAME_WIDTH, max(map(len, columns[title]))))
        else:
            table.add_column(title, justify="right", no_wrap=True)
    for index, entry in enumerate(entries):
        if entry is result.total:
            table.add_section()
        cells = (Text(column[index]) for column in columns.values())
        table.add_row(*cells, style="bold" if entry is result.total else "")
    console.print(table)
    for entry in result.environments:
        if entry.metrics:
            shown = ", ".join(f"{name} {value:.3g}" for name, value in entry.metrics.items())
            console.print(Text(printable(f"{entry.name}: {shown}")), soft_wrap=True)
    for reason, count in result.failures.items():
        console.print(Text(printable(f"failed {count:,} x  {reason}")), soft_wrap=True)
    if result.damaged_lines:
        console.print(Text(f"{result.damaged_lines:,} damaged lines do not count; the same run does them again"))


def _columns(entries: Sequence[EnvironmentReport]) -> dict[str, list[str]]:
    """Return the cells of each column, by its title."""
    ks = _some(max((list(entry.pass_at) for entry in entries), key=len, default=[]))
    return {
        NAME: [entry.name for entry in entries],
        "rollouts": [_rollouts(entry) for entry in entries],
        "failed": [f"{entry.failed:,}" for entry in entries],
        "reward": [_reward(entry) for entry in entries],
        **{f"pass@{k}": [f"{entry.pass_at[k]:.3f}" if k in entry.pass_at else "-" for entry in entries] for k in ks},
        "turns": [f"{entry.turns['mean']:.1f}" if entry.turns else "-" for entry in entries],
        "tokens": [f"{entry.tokens['mean']:,.0f}" if entry.tokens else "-" for entry in entries],
        "p50": [_seconds(entry.duration_s["p50"]) if entry.duration_s else "-" for entry in entries],
        "p95": [_seconds(entry.duration_s["p95"]) if entry.duration_s else "-" for entry in entries],
        "retried": [f"{entry.retried:,}" for entry in entries],
    }


def _fitting(columns: dict[str, list[str]], width: int) -> dict[str, list[str]]:
    """Leave out columns until the rest fits: those that say nothing first, and never a name, a count or a reward."""
    silent = [title for title, cells in columns.items() if set(cells) <= {"-", "0"}]
    middle = [title for title in columns if title.startswith("pass@")][1:-1]
    for title in (*silent, *middle, "turns", "tokens", "p95", "p50", "retried", *columns):
        if _width(columns) <= width or title in (NAME, "rollouts", "failed", "reward"):
            continue
        columns = {other: cells for other, cells in columns.items() if other != title}
    return columns


def _width(columns: dict[str, list[str]]) -> int:
    """Return how many characters a table of these columns needs, when a long name is wrapped."""
    widths = {title: max(map(len, [title, *cells])) for title, cells in columns.items()}
    widths[NAME] = min(widths[NAME], max(NAME_WIDTH, len(NAME)))
    return sum(width + 3 for width in widths.values())


def _some(ks: list[str]) -> list[str]:
    """Return the first, the last and the middle one: a table of eight is wider than a terminal."""
    return ks if len(ks) <= 3 else [ks[0], ks[len(ks) // 2], ks[-1]]


def _rollouts(entry: EnvironmentReport) -> str:
    if entry.planned is None:
        return f"{entry.finished:,}"
    if entry.has_others:
        owed = f", {entry.owed:,} owed" if entry.owed else ""
        return f"{entry.finished:,} ({entry.planned:,} planned{owed})"
    return f"{entry.finished:,} / {entry.planned:,}"


def _reward(entry: EnvironmentReport) -> str:
    if entry.reward is None:
        return "-"
    mean = f"{entry.reward['mean']:.3f}"
    if entry.reward["low"] is None:
        return mean
    return f"{mean} [{entry.reward['low']:.3f}, {entry.reward['high']:.3f}]"


def _seconds(value: float) -> str:
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"
