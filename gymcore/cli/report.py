"""
`gym report`: what a run folder means, in numbers.
"""

from __future__ import annotations

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


def print_report(result: Report) -> None:
    """Print a report as a table, to stdout."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200  # whoever reads a pipe or a file does not want it wrapped
    table = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False)
    entries = [*result.environments, result.total]
    ks = _some(max((list(entry.pass_at) for entry in entries), key=len, default=[]))
    table.add_column("environment", overflow="fold")  # the only one that may be wrapped: numbers are read as a whole
    numbers = ("rollouts", "failed", "reward", *(f"pass@{k}" for k in ks), "turns", "tokens", "p50", "p95", "retried")
    for title in numbers:
        table.add_column(title, justify="right", no_wrap=True)
    for entry in entries:
        cells = [
            entry.name,
            _rollouts(entry),
            f"{entry.failed:,}",
            _reward(entry),
            *(f"{entry.pass_at[k]:.3f}" if k in entry.pass_at else "-" for k in ks),
            f"{entry.turns['mean']:.1f}" if entry.turns else "-",
            f"{entry.tokens['mean']:,.0f}" if entry.tokens else "-",
            f"{_seconds(entry.duration_s['p50'])}" if entry.duration_s else "-",
            f"{_seconds(entry.duration_s['p95'])}" if entry.duration_s else "-",
            f"{entry.retried:,}",
        ]
        if entry is result.total:
            table.add_section()
        table.add_row(*(Text(cell) for cell in cells), style="bold" if entry is result.total else "")
    console.print(table)
    for entry in result.environments:
        if entry.metrics:
            shown = ", ".join(f"{name} {value:.3g}" for name, value in entry.metrics.items())
            console.print(Text(printable(f"{entry.name}: {shown}")), soft_wrap=True)
    for reason, count in result.failures.items():
        console.print(Text(printable(f"failed {count:,} x  {reason}")), soft_wrap=True)
    if result.damaged_lines:
        console.print(Text(f"{result.damaged_lines:,} damaged lines do not count; the same run does them again"))


def _some(ks: list[str]) -> list[str]:
    """Return the first, the last and the middle one: a table of eight is wider than a terminal."""
    return ks if len(ks) <= 3 else [ks[0], ks[len(ks) // 2], ks[-1]]


def _rollouts(entry: EnvironmentReport) -> str:
    if entry.planned is None:
        return f"{entry.finished:,}"
    if entry.finished > entry.planned:  # fewer repeats were asked for than there are
        return f"{entry.finished:,} ({entry.planned:,} planned)"
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
