"""
All five stages in one call, for commands and notebooks: compose what a plan asks for, play it, keep it, sum it up.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Container, Coroutine, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from gymcore.collection import Journal, collect, read_poisoned
from gymcore.composition import Composition, compose, read_lock, write_composition
from gymcore.composition.secrets import load_hooks
from gymcore.discovery import Catalog, discover
from gymcore.documents import YamlDocument
from gymcore.errors import GymcoreError, PluginError, RunFolderError, StorageError
from gymcore.hookspecs import Observers
from gymcore.plan import Plan, load_environ
from gymcore.records import Rollout, RolloutKey
from gymcore.reporting import Report
from gymcore.reporting.summary import RunningReport, write_report
from gymcore.runtime import RolloutStream, run

__all__ = [
    "DEFAULT_FOLDER",
    "SWITCHED_OFF",
    "Recording",
    "collect_composition",
    "load_observers",
    "recording",
    "run_async",
    "run_sync",
]

Result = TypeVar("Result")

DEFAULT_FOLDER = Path("runs")

SWITCHED_OFF = "hook plugins were switched off, which a strict plan takes for a mistake; the rollouts are safe"
"""What is said at the end of a run that has nothing else to be ashamed of."""

LOOK_S = 1.0
"""How often whoever waits looks whether somebody has pressed Ctrl-C: Python overlooks it just before it waits."""
STARTING_MAY_TAKE_S = 5.0
"""How long a thread may take to begin."""
TASKS_MAY_TAKE_S = 2.0
"""How long what plugins have left on the event loop may take to end once it is cancelled; then it is left behind."""


def load_observers(plan: Plan, catalog: Catalog, complain: Callable[[str], None] = lambda line: None) -> Observers:
    """
    Import the hook plugins that a plan names.

    Raises:
        UnknownPluginError: there is no such hook plugin.
        PluginError: it is broken, or implements a hook that does not exist.
    """
    return Observers(load_hooks(plan, catalog), complain)


async def collect_composition(
    composition: Composition,
    folder: Path,
    *,
    observers: Observers | None = None,
    on_start: Callable[[RolloutStream, Journal], None] | None = None,
    on_durable: Callable[[Sequence[Rollout]], None] | None = None,
    on_played: Callable[[], None] | None = None,
    complain: Callable[[str], None] = lambda line: None,
    retry_poison: bool = False,
    shown: Path | None = None,
) -> Report:
    """
    Play what is missing in a run folder, and report on all of it.

    Args:
        composition: What to play; `write_composition` has put it into the folder.
        folder: The run folder; it is found again though a plugin changes the working directory.
        observers: Hook plugins.
        on_start: Given the stream and the journal before the first rollout, to watch and to stop them.
        on_durable: Told, off the event loop, which rollouts have become safe.
        on_played: Told when nothing more is played, and the plugins are about to be closed.
        complain: Told, in one line, that a plugin takes long to open or to close, or that one could not be closed; by
            then all rollouts are safe.
        retry_poison: Also play what ended its worker twice in an earlier run.
        shown: How the report names the folder; as `folder` does where it is None.

    Returns:
        The report, which is also written into the folder.

    Raises:
        RunFolderError: the folder holds another composition, or another process writes to it.
        GymcoreError: what the stages raise.
    """
    async with recording(composition, folder, observers=observers, on_durable=on_durable, shown=shown) as kept:
        journal = kept.journal
        poisoned = frozenset() if retry_poison else read_poisoned(journal.folder)
        settled = _Either(journal.finished, poisoned) if poisoned else journal.finished
        await _play(composition, journal, settled, kept.tell, on_start, on_played, complain)
    return kept.report


class Recording:
    """
    A run folder that is being written to.

    Attributes:
        journal: Its one writer.
        report: What the folder means; there once everything is written.
    """

    report: Report

    def __init__(self, journal: Journal, tell: Callable[[Sequence[Rollout]], None]) -> None:
        self.journal = journal
        self.tell = tell
        """To be told which rollouts have become safe."""


@asynccontextmanager
async def recording(
    composition: Composition,
    folder: Path,
    *,
    observers: Observers | None = None,
    on_durable: Callable[[Sequence[Rollout]], None] | None = None,
    shown: Path | None = None,
) -> AsyncIterator[Recording]:
    """
    Bracket whatever fills a run folder: one writer, hook plugins that are told, and a report in the end.

    Args:
        composition: What is played; `write_composition` has put it into the folder.
        folder: The run folder; it is found again though a plugin changes the working directory.
        observers: Hook plugins.
        on_durable: Told, off the event loop, which rollouts have become safe.
        shown: How the report names the folder; as `folder` does where it is None.

    Yields:
        The recording, whose `tell` must be told of what has become safe.

    Raises:
        RunFolderError: the folder holds another composition, or another process writes to it.
        StorageError: the report cannot be written.
    """
    observers = observers or Observers({})
    shown, folder = shown or folder, _absolute(folder)
    running = RunningReport(folder)

    def tell(rollouts: Sequence[Rollout]) -> None:
        running.add(rollouts)
        if on_durable is not None:
            on_durable(rollouts)
        finished = [rollout for rollout in rollouts if rollout.failure is None]
        if finished:
            observers.rollouts(folder, finished)

    with Journal(folder, repeats=composition.attempts(), show=running.take) as journal:
        if read_lock(folder) != composition.lock:
            raise RunFolderError("another command has composed something else into this folder", where=str(folder))
        await observers.run_start(folder, sum(composition.planned().values()))
        kept = Recording(journal, tell)
        try:
            yield kept
        except BaseException:
            # What ended the run is the news; that the same disk takes no report either is not.
            with suppress(StorageError):
                await _sum_up(running, folder, observers, shown)
            raise
        kept.report = await _sum_up(running, folder, observers, shown)


async def _play(
    composition: Composition,
    journal: Journal,
    settled: Container[RolloutKey],
    on_durable: Callable[[Sequence[Rollout]], None],
    on_start: Callable[[RolloutStream, Journal], None] | None,
    on_played: Callable[[], None] | None,
    complain: Callable[[str], None],
) -> None:
    """Play what is not settled, and keep it; once everything is safe, what fails to close is only told."""
    is_played = False
    try:
        async with run(composition, finished=settled, say=complain) as rollouts:
            if on_start is not None:
                on_start(rollouts, journal)
            await collect(rollouts, journal, on_durable=on_durable)
            is_played = True
            if on_played is not None:
                on_played()
    except (Exception, SystemExit) as error:
        if not is_played:
            raise
        name = "" if isinstance(error, GymcoreError) else f"{type(error).__name__}: "
        complain(f"the rollouts are complete, but closing failed: {name}{error}")


def _absolute(folder: Path) -> Path:
    return folder.absolute()


class _Either(Container[RolloutKey]):
    """What is in one of two."""

    def __init__(self, first: Container[RolloutKey], second: frozenset[RolloutKey]) -> None:
        self._first = first
        self._second = second

    def __contains__(self, key: object) -> bool:
        return key in self._first or key in self._second


async def _sum_up(running: RunningReport, folder: Path, observers: Observers, shown: Path) -> Report:
    result = replace(running.result(), folder=shown)
    write_report(result, folder)
    await observers.run_finish(folder, result.to_dict())
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

    What was found not to be whole in the folder is logged as warnings of the logger `gymcore`, before anything is
    played.

    Args:
        plan: A Plan, the same as plain values, or the path of a plan file.
        out: The run folder; a name made of the environments and the plan's digest inside `runs/` where it is None.
        catalog: What is installed; found out where it is None.
        environ: Where `${NAME}` gets its value; the process environment and the file `.env` where it is None.

    Returns:
        The report on everything the folder holds.

    Raises:
        PluginError: a hook plugin failed in the middle of the run, and the plan is strict; everything is safe.
        GymcoreError: what the stages raise.
    """
    here = Path().absolute()  # before any plugin is imported, which may go elsewhere
    if isinstance(plan, str | Path):
        plan = Plan.from_file(plan)
    elif not isinstance(plan, Plan):
        plan = Plan.from_document(YamlDocument(dict(plan)))
    catalog = catalog or discover()
    composition = compose(plan, catalog, environ=load_environ() if environ is None else environ)
    shown = Path(out) if out is not None else DEFAULT_FOLDER / composition.name()
    folder = here / shown
    observers = load_observers(plan, catalog, _warn)
    observers.plan(composition.plan.to_dict())
    write_composition(composition, folder)
    result = _run_anywhere(
        lambda: collect_composition(
            composition, folder, observers=observers, on_start=_warn_of_damage, complain=_warn, shown=shown
        )
    )
    if composition.plan.check.strict and observers.switched_off:
        raise PluginError(f"{SWITCHED_OFF}: {', '.join(observers.switched_off)}", where=str(shown))
    return result


def _warn_of_damage(stream: RolloutStream, journal: Journal) -> None:
    for line in journal.damaged:
        _warn(f"damaged, set aside in quarantine/, and owed again: {line}")


def _warn(line: str) -> None:
    # No warning of Python's: no change of the caller's code would make it go away.
    logging.getLogger("gymcore").warning("%s", line)


def run_async(work: Coroutine[Any, Any, Result]) -> Result:
    """
    Run a coroutine to its end on an event loop of its own: uvloop's where that is installed, else Python's.

    A plugin that stops the loop does not stop the coroutine, and what plugins leave running is not waited for.
    """
    begun: list[asyncio.Task[Any]] = []
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        while True:
            try:
                return runner.run(_to_its_end(work, begun))
            except RuntimeError:
                if not begun or begun[0].done():
                    raise
                # Somebody has stopped the loop; the coroutine goes on when it runs again.


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def _to_its_end(work: Coroutine[Any, Any, Result], begun: list[asyncio.Task[Any]]) -> Result:
    """
    Wait for a coroutine, and begin it where nobody has; then leave behind what others have begun.

    Args:
        work: The coroutine.
        begun: The task that it became, and then each that waits for it: one, and one more whenever the loop stopped.
    """
    if not begun:
        begun.append(asyncio.create_task(_without_threads(work)))
    task: asyncio.Task[Result] = begun[0]
    own = asyncio.current_task()
    assert own is not None
    begun.append(own)
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            task.cancel()
    if begun[-1] is own:
        await _end_all(asyncio.all_tasks() - set(begun))
    return task.result()


async def _end_all(others: set[asyncio.Task[Any]]) -> None:
    """Cancel tasks, and leave behind those that do not end; asyncio would wait for them for ever."""
    for other in others:
        other.cancel()
    # What generators do when they are closed is bounded too; asyncio would close them later, without a bound.
    closing = asyncio.create_task(asyncio.get_running_loop().shutdown_asyncgens())
    _, hanging = await asyncio.wait({closing, *others}, timeout=TASKS_MAY_TAKE_S)
    for other in hanging:
        # Documented in https://docs.python.org/3/library/asyncio-extending.html: who is unregistered is not waited for.
        asyncio._unregister_task(other)
    if hanging:
        # Whoever ignores that it is cancelled may as well ignore that it is deleted, and then that never ends either.
        # A thread that never ends keeps them until the process does.
        threading.Thread(target=_keep, args=(hanging,), name="gymcore-left-behind", daemon=True).start()


def _keep(what: object) -> None:
    threading.Event().wait()


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
    begun, interrupted = threading.Event(), threading.Event()

    async def cancellable() -> Report:
        task = asyncio.current_task()
        assert task is not None
        running.append((asyncio.get_running_loop(), task))
        if interrupted.is_set():  # before there was a task to cancel
            raise asyncio.CancelledError
        return await work()

    def call() -> None:
        begun.set()
        try:
            outcome.set_result(run_async(cancellable()))
        except BaseException as error:
            outcome.set_exception(error)

    thread = threading.Thread(target=call, name="gymcore-run")
    try:
        thread.start()
        while outcome not in wait_for([outcome], LOOK_S).done:
            pass
        return outcome.result()
    except KeyboardInterrupt:
        interrupted.set()
        for loop, task in running:
            with suppress(RuntimeError):  # it has just ended
                loop.call_soon_threadsafe(task.cancel)
        # Where it does not begin, the start itself was interrupted; should it begin yet, it plays nothing.
        if begun.wait(STARTING_MAY_TAKE_S):
            outcome.exception()  # waits until everything is closed; what comes of it is not the news
        raise
    finally:
        if begun.is_set():
            thread.join()
