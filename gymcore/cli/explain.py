"""
`gym explain`: where a row of a dataset came from.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import click

from gymcore.cli.printable import printable
from gymcore.collection.journal import Damage, read_lines
from gymcore.composition.explanation import Explanation, OptionLayer, explain, has_word_of
from gymcore.discovery import discover
from gymcore.documents import decode_json
from gymcore.plan import load_environ
from gymcore.run_folder import ROLLOUTS_NAME

__all__ = ["command"]

SHOWN = 10
"""How many positions and rollouts are printed; `--json` has all."""


@click.command("explain")
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("task_id")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of words.")
def command(folder: Path, task_id: str, as_json: bool) -> None:
    """
    Say where a row came from: plugin, file and line, places in the mix, and which layer set each option.

    TASK_ID may be the beginning of one, where no other begins so.

    \b
    gym explain runs/mix example_multi_step/6f1c
    """
    # stdout is for the answer: what plugins print while they are loaded is talk.
    with redirect_stdout(sys.stderr):
        explained = explain(folder, task_id, discover(), load_environ())
    rollouts = _rollouts_of(folder / ROLLOUTS_NAME, explained)
    if as_json:
        click.echo(json.dumps({**explained.to_dict(), "rollouts": rollouts}, indent=2, ensure_ascii=False))
        return
    _print(explained, rollouts)


def _rollouts_of(path: Path, explained: Explanation) -> list[dict[str, Any]]:
    """Return the finished rollouts of a task, each once."""
    found: dict[int, dict[str, Any]] = {}
    may_be = has_word_of(explained.task_id)
    for entry in read_lines(path):
        if isinstance(entry, Damage) or not may_be(entry[1]):
            continue
        value = decode_json(entry[1])
        if (value["environment"], str(value["task_id"])) == (explained.environment, explained.task_id):
            found.setdefault(
                value["repeat"],
                {
                    "repeat": value["repeat"],
                    "epoch": value.get("epoch", 1),
                    "reward": value["reward"],
                    "stop": value["stop"],
                    "lock": value["provenance"].get("lock"),
                },
            )
    return [found[repeat] for repeat in sorted(found)]


def _print(explained: Explanation, rollouts: Sequence[dict[str, Any]]) -> None:
    facts = {
        "environment": f"{explained.environment}, of {explained.environment_plugin}",
        "source": explained.source or "not found",
        "split": explained.split or "none: it comes from data files",
        "in the mix": f"{_numbers('row', explained.positions)} of {explained.rows:,}",
        "route": explained.route,
        "agent": explained.agent_plugin,
        "model": f"{explained.model}, of {explained.model_plugin}",
    }
    if max(explained.epochs) > 1:
        facts["in the mix"] += f"; {_numbers('epoch', explained.epochs)}"
    click.echo(printable(explained.task_id))
    for name, told in facts.items():
        click.echo(printable(f"  {name:<12} {told}"))
    for warning in explained.warnings:
        click.echo(printable(f"  {'warning':<12} {warning}"))
    _print_options(explained.options)
    if not rollouts:
        click.echo("\nnot finished: there is no rollout of it")
        return
    click.echo("\nfinished rollouts")
    for rollout in rollouts[:SHOWN]:
        epoch = f", epoch {rollout['epoch']}" if rollout["epoch"] > 1 else ""
        click.echo(printable(f"  repeat {rollout['repeat']}{epoch}: reward {rollout['reward']:g}, {rollout['stop']}"))
    if len(rollouts) > SHOWN:
        click.echo(f"  and {len(rollouts) - SHOWN:,} more")


def _numbers(what: str, numbers: Sequence[int]) -> str:
    shown = ", ".join(f"{number:,}" for number in numbers[:SHOWN])
    more = f" and {len(numbers) - SHOWN:,} more" if len(numbers) > SHOWN else ""
    return f"{what}{'' if len(numbers) == 1 else 's'} {shown}{more}"


def _print_options(options: Sequence[OptionLayer]) -> None:
    rows = [(option.of, option.name, _value(option), _layer(option)) for option in options]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(4)]
    click.echo("\noptions, and which layer set them")
    for row in rows:
        cells = (cell.ljust(min(width, 40)) for cell, width in zip(row, widths, strict=True))
        click.echo(printable(f"  {'  '.join(cells)}".rstrip()))


def _value(option: OptionLayer) -> str:
    if option.layer == "not set":
        return "-"
    if option.is_hidden:
        return "(not shown)"
    text = json.dumps(option.value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:37] + "..."


def _layer(option: OptionLayer) -> str:
    return option.layer if option.variable is None else f"{option.layer} {option.variable}"
