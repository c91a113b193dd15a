"""
All five stages in one call, for commands and notebooks: compose what a plan asks for, play it, keep it, sum it up.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Container, Coroutine, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from gymcore.collection import Journal, collect, read_poisoned
from gymcore.composition import Composition, compose, read_lock, write_composition
from gymcore.discovery import Catalog, discover
from gymcore.documents import YamlDocument
from gymcore.errors import RunFolderError, StorageError
from gymcore.hookspecs import Observers
from gymcore.plan import Plan, load_environ
from gymcore.records import Rollout, RolloutKey
from gymcore.reporting import Report, report
from gymcore.reporting.summary import write_report
from gymcore.runtime import RolloutStream, run

__all__ = ["DEFAULT_FOLDER", "collect_composition", "load_observers", "run_async", "run_sync"]

Result = TypeVar("Result")

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
    retry_poison: bool = False,
) -> Report:
    """
    Play what is missing in a run folder, and report on all of it.

    Args:
        composition: What to play; `write_composition` has put it into the folder.
        folder: The run folder.
        observers: Hook plugins.
        on_start: Given the stream and the journal before the first rollout, to watch and to stop them.
        on_durable: Told, off the event loop, which rollouts have become safe.
        retry_poison: Also play what ended its worker twice in an earlier run.

    Returns:
        The report, which is also written into the folder.

    Raises:
        RunFolderError: the folder holds another composition, or another process writes to it.
        GymcoreError: what the stages raise.
    """
    observers = observers or Observers({})

    def tell(rollouts: Sequence[Rollout]) -> None:
        if on_durable is not None:
            on_durable(rollouts)
        finished = [rollout for rollout in rollouts if rollout.failure is None]
        if finished:
            observers.rollouts(folder, finished)

    with Journal(folder) as journal:
        if read_lock(folder) != composition.lock:
            raise RunFolderError("another command has composed something else into this folder", where=str(folder))
        observers.run_start(folder, sum(composition.planned().values()))
        try:
            poisoned = frozenset() if retry_poison else read_poisoned(folder)
            settled = _Either(journal.finished, poisoned) if poisoned else journal.finished
            async with run(composition, finished=settled) as rollouts:
                if on_start is not None:
                    on_start(rollouts, journal)
                await collect(rollouts, journal, on_durable=tell)
        except BaseException:
            # What ended the run is the news; that the same disk takes no report either is not.
            with suppress(StorageError):
                _sum_up(folder, observers)
            raise
        return _sum_up(folder, observers)


class _Either(Container[RolloutKey]):
    """What is in one of two."""

    def __init__(self, first: Container[RolloutKey], second: frozenset[RolloutKey]) -> None:
        self._first = first
        self._second = second

    def __contains__(self, key: object) -> bool:
        return key in self._first or key in self._second


def _sum_up(folder: Path, observers: Observers) -> Report:
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
        environ: Where `${NAME}` gets its value; the process environment and the file `.env` where it is None.

    Returns:
        The report on everything the folder holds.

    Raises:
        GymcoreError: what the stages raise.
    """
    if isinstance(plan, str | Path):
        plan = Plan.from_file(plan)
    elif not isinstance(plan, Plan):
        plan = Plan.from_document(YamlDocument(dict(plan)))
    catalog = catalog or discover()
    composition = compose(plan, catalog, environ=load_environ() if environ is None else environ)
    folder = Path(out) if out is not None else DEFAULT_FOLDER / composition.name()
    observers = load_observers(plan, catalog)
    observers.plan(composition.plan.to_dict())
    write_composition(composition, folder)
    return _run_anywhere(lambda: collect_composition(composition, folder, observers=observers))


def run_async(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine to its end on an event loop of its own: uvloop's where that is installed, else Python's."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        return asyncio.run(_without_threads(work))
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(_without_threads(work))


async def _without_threads(work: Coroutine[Any, Any, Result]) -> Result:
    """Give the loop a pool of threads that it does not wait for in the end: a plugin's thread may hang for ever."""
    loop = asyncio.get_running_loop()
    threads = ThreadPoolExecutor(thread_name_prefix="gymcore")
    loop.set_default_executor(threads)
    try:
        return await work
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        loop.set_default_executor(ThreadPoolExecutor(1))


def _run_anywhere(work: Callable[[], Coroutine[Any, Any, Report]]) -> Report:
    """Run a coroutine, in a thread of its own where an event loop runs already; Ctrl-C here stops it there."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return run_async(work())
    running: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = []
    outcome: Future[Report] = Future()

    async def cancellable() -> Report:
        task = asyncio.current_task()
        assert task is not None
        running.append((asyncio.get_running_loop(), task))
        return await work()

    def call() -> None:
        try:
            outcome.set_result(run_async(cancellable()))
        except BaseException as error:
            outcome.set_exception(error)

    thread = threading.Thread(target=call, name="gymcore-run")
    thread.start()
    try:
        return outcome.result()
    except KeyboardInterrupt:
        for loop, task in running:
            loop.call_soon_threadsafe(task.cancel)
        outcome.exception()  # waits until everything is closed; what comes of it is not the news
        raise
    finally:
        thread.join()
