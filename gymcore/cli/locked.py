"""
`--locked`: compose again what a lock tells of, or be told what has moved.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from gymcore.cli.plan_options import PlanFlags
from gymcore.composition import Composition
from gymcore.composition.folder import named_lock
from gymcore.composition.locking.locked import plan_of, refuse_what_moved
from gymcore.documents import YamlDocument
from gymcore.plan import PlanText, read_document
from gymcore.run_folder import LOCK_NAME, PLAN_NAME

__all__ = ["Locked", "locked_option"]


def locked_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the option `--locked`."""
    return click.option(
        "--locked",
        metavar="FOLDER|LOCK",
        type=click.Path(path_type=Path),
        help="Compose again what a lock tells of, byte for byte; refuse where something has moved.",
    )(function)


class Locked:
    """
    The lock that a composition is to come out as.

    Args:
        path: The run folder, or its lock.

    Raises:
        RunFolderError: there is no lock, or it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._lock, self._file = named_lock(path)
        self._beside: Path | None = None
        """The plan that lies beside the lock, where that is what is composed."""

    def plan(self, flags: PlanFlags) -> PlanText:
        """
        Return the plan to compose: what the flags name, else the plan beside a `gym.lock`, else the lock's own.

        Raises:
            PlanError: a plan cannot be read.
        """
        if flags.plan or flags.env or flags.data:
            return flags.to_plan()
        beside = self._file.with_name(PLAN_NAME)
        if self._file.name == LOCK_NAME and beside.is_file():  # another plan may lie beside a copy of another name
            self._beside = beside
            return flags.to_plan((read_document(beside), str(beside)))
        return flags.to_plan((YamlDocument(plan_of(self._lock)), str(self._file)))

    def check(self, composition: Composition) -> None:
        """
        Compare what was composed with the lock; what has moved without consequence is said.

        Raises:
            RunFolderError: something else has come of it, with everything that has moved.
        """
        hints = () if self._beside is None else (f"what was composed is {self._beside}, which lies beside it",)
        for line in refuse_what_moved(composition, self._lock, self._file, hints):
            click.echo(f"note: {line}, which changes nothing", err=True)
