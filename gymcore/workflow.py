"""
All five stages in one call, for commands and notebooks: compose what a plan asks for, play it, keep it, sum it up.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gymcore.collection import Journal, collect
from gymcore.composition import Composition, compose, write_composition
from gymcore.discovery import Catalog, discover
from gymcore.hookspecs import Observers
from gymcore.plan import Plan
from gymcore.records import Rollout
from gymcore.reporting import Report, report
from gymcore.reporting.summary import write_report
from gymcore.runtime import RolloutStream, run

__all__ = ["DEFAULT_FOLDER", "collect_composition", "load_observers", "run_sync"]

DEFAULT_FOLDER = Path("runs")


def load_observers(plan: Plan, catalog: Catalog, complain: Callable[[str], None] = lambda line: None) -> Observers:
    """
    Import the hook plugins that a plan names.

    Raises:
        UnknownPluginError: there is no such hook plugin.
        PluginError: it is broken, or implements a hook that does not exist.
    """
    found = [catalog.find("hook", name, where="hooks") for name in plan.hooks]
    return Observers({plugin.qualified: catalog.load(plugin) for plugin in found}, complain)


async def collect_composition(
    composition: Composition,
    folder: Path,
    *,
    observers: Observers | None = None,
    on_start: Callable[[RolloutStream, Journal], None] | None = None,
    on_durable: Callable[[Sequence[Rollout]], None] | None = None,
) -> Report:
    """
    Play what is missing in a run folder, and report on all of it.

    Args:
        composition: What to play; `write_composition` has put it into the folder.
        folder: The run folder.
        observers: Hook plugins.
        on_start: Given the stream and the journal before the first rollout, to watch and to stop them.
        on_durable: Told, off the event loop, which rollouts have become safe.

    Returns:
        The report, which is also written into the folder.
    """
    observers = observers or Observers({})

    def tell(rollouts: Sequence[Rollout]) -> None:
        if on_durable is not None:
            on_durable(rollouts)
        finished = [rollout for rollout in rollouts if rollout.failure is None]
        if finished:
            observers.rollouts(folder, finished)

    with Journal(folder) as journal:
        observers.run_start(folder, sum(composition.planned().values()))
        try:
            async with run(composition, finished=journal.finished) as rollouts:
                if on_start is not None:
                    on_start(rollouts, journal)
                await collect(rollouts, journal, on_durable=tell)
        finally:
            result = report(folder)
            write_report(result)
            observers.run_finish(folder, result.to_dict())
    return result


def run_sync(
    plan: Plan | Mapping[str, Any] | str | Path,
    out: Path | str | None = None,
    *,
    catalog: Catalog | None = None,
    environ: Mapping[str, str] | None = None,
) -> Report:
    """
    Compose, run, collect and report, in one plain call that also works in a notebook.

    Args:
        plan: A Plan, the same as plain values, or the path of a plan file.
        out: The run folder; a name made of the environments and the plan's digest inside `runs/` where it is None.
        catalog: What is installed; found out where it is None.
        environ: Where `${NAME}` gets its value; the process environment where it is None.

    Returns:
        The report on everything the folder holds.

    Raises:
        GymcoreError: what the stages raise.
    """
    if isinstance(plan, str | Path):
        plan = Plan.from_file(plan)
    elif not isinstance(plan, Plan):
        plan = Plan.model_validate(plan)
    catalog = catalog or discover()
    composition = compose(plan, catalog, environ=environ)
    folder = Path(out) if out is not None else DEFAULT_FOLDER / composition.name()
    observers = load_observers(plan, catalog)
    observers.plan(composition.plan.to_dict())
    write_composition(composition, folder)
    return _run_anywhere(lambda: asyncio.run(collect_composition(composition, folder, observers=observers)))


def _run_anywhere(work: Callable[[], Report]) -> Report:
    """Call something that starts an event loop, in a thread of its own where one is running already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return work()
    outcome: list[Report] = []
    errors: list[BaseException] = []

    def call() -> None:
        try:
            outcome.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=call, name="gymcore-run")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return outcome[0]
