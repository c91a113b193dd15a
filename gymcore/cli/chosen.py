"""
What a command is to play: a composition of the flags, of a lock, or of a run folder that holds one.
"""

from __future__ import annotations

from pathlib import Path

import click

from gymcore.cli.compose import refuse_no_name
from gymcore.cli.locked import Locked
from gymcore.cli.plan_options import PlanFlags
from gymcore.composition import Composition, compose, open_composition
from gymcore.discovery import Catalog
from gymcore.errors import PlanError
from gymcore.plan import Plan, load_environ
from gymcore.run_folder import PLAN_NAME
from gymcore.workflow import DEFAULT_FOLDER

__all__ = ["chosen_composition"]


def chosen_composition(
    folder: Path | None, flags: PlanFlags, out: str | None, locked: Path | None, catalog: Catalog
) -> tuple[Composition, Path]:
    """
    Compose what was asked for, or open what lies in a folder.

    Args:
        folder: A run folder that holds it, where one was named.
        flags: What else was typed.
        out: The run folder that was asked for.
        locked: A lock that it is to come out as.
        catalog: What is installed.

    Returns:
        The composition, and the run folder it belongs to; nothing is written yet.

    Raises:
        UsageError: a folder was named and something that makes another plan.
        GymcoreError: as `compose` and `open_composition` say.
    """
    refuse_no_name(out)
    lock = None if locked is None else Locked(locked)
    environ = load_environ()
    if folder is not None:
        if flags.names_work() or out is not None:
            raise click.UsageError(
                "a FOLDER holds its plan; --plan, --env, --data, --split, --limit, --skip-invalid, --out"
                " and what mixes make one"
            )
        hooks = [f"hooks=[{', '.join(flags.hook)}]"] if flags.hook else []
        settings = (*flags.settings(), *hooks)
        if flags.isolate and (folder / PLAN_NAME).is_file():
            known = Plan.from_file(folder / PLAN_NAME).environments
            if problems := flags.unknown_isolated({"environments": known}):
                raise PlanError(list(problems.values()))
        composition = open_composition(folder, catalog, settings=settings, for_all=flags.for_all(), environ=environ)
    else:
        plan = flags.to_plan() if lock is None else lock.plan(flags)
        composition = compose(plan, catalog, environ=environ)
        folder = Path(out) if out is not None else DEFAULT_FOLDER / composition.name()
    if lock is not None:
        lock.check(composition)
    return composition, folder
