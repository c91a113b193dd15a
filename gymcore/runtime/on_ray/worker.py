"""
What plays in a process of Ray: the executor of this machine, and what goes between it and the process that asks.

Imports no Ray: it is an ordinary class, which the executor makes an actor of.
"""

from __future__ import annotations

import asyncio
import io
import os
import pickle
import sys
import traceback
from array import array
from collections import deque
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gymcore.composition import Composition, Dataset, ModelChoice, Route
from gymcore.discovery import Catalog, Plugin, discover
from gymcore.errors import EndpointError, GymcoreError, PluginError, StorageError
from gymcore.records import Failure, Reward, Rollout, Row, Trajectory
from gymcore.runtime.executor import LocalExecutor, open_local
from gymcore.runtime.schedule import Planned

__all__ = ["Given", "RayWorker", "Setup", "Taken", "describe_setup", "read_error", "read_rollout", "write_error"]

BATCH_BYTES = 4 * 2**20
"""What is finished goes in batches of this size; a single rollout may be larger."""

LONG_STEP_S = 0.005
LARGEST_BURST = 32
"""So many rollouts are begun before anybody else gets a turn, unless that took longer than a long step."""

Given = tuple[int, str, bytes, int, int]
"""A rollout to play: its ticket, the name of its route, the bytes of its row, its repeat and its position."""

Taken = tuple[int, str, bytes]
"""What became of a ticket: `rollout`, `error` or `cancelled`, with its content."""


@dataclass(frozen=True)
class Setup:
    """Everything a worker opens a composition from; it holds secrets."""

    gymcore: str
    """The version that composed."""
    plugins: tuple[tuple[str, str, str], ...]
    """Kind, qualified name and version of every plugin that plays."""
    path: tuple[str, ...]
    """Folders that modules are imported from, where the worker runs on the same machine."""
    content: bytes
    """The composition without its classes and rows; read when the versions are found to be the same."""


def describe_setup(composition: Composition, *, is_here: bool) -> Setup:
    """
    Write down what a worker needs to open a composition.

    Args:
        composition: What is to be played.
        is_here: Whether the workers run on this machine.

    Raises:
        PluginError: the options of a plugin cannot be sent to another process.
    """
    plugins: dict[tuple[str, str], Plugin] = {}
    for route in composition.routes.values():
        plugins[route.environment_plugin.kind, route.environment_plugin.qualified] = route.environment_plugin
        plugins[route.agent_plugin.kind, route.agent_plugin.qualified] = route.agent_plugin
    plugins.update(
        {(choice.plugin.kind, choice.plugin.qualified): choice.plugin for choice in composition.models.values()}
    )
    # Classes are looked up by their plugin's name over there.
    nobody: Any = None
    routes = {
        name: (
            replace(
                route,
                environment_class=nobody,
                agent_class=nobody,
                environment_options=replace(route.environment_options, config=None),
                agent_options=replace(route.agent_options, config=None),
            ),
            _write_options(route.environment_plugin, route.environment_options.config),
            _write_options(route.agent_plugin, route.agent_options.config),
        )
        for name, route in composition.routes.items()
    }
    models = {
        name: (
            replace(choice, model_class=nobody, options=replace(choice.options, config=None)),
            _write_options(choice.plugin, choice.options.config),
        )
        for name, choice in composition.models.items()
    }
    return Setup(
        gymcore=version("gymcore"),
        plugins=tuple((kind, name, plugin.version) for (kind, name), plugin in plugins.items()),
        path=tuple(sys.path) if is_here else (),
        content=pickle.dumps((composition.plan, composition.lock, routes, models)),
    )


def _write_options(plugin: Plugin, config: Any) -> bytes:
    try:
        return pickle.dumps(config)
    except Exception as error:  # whatever an author's type raises
        message = (
            f"the options of {plugin.qualified} cannot be sent to another process: {type(error).__name__}: {error}"
        )
        raise PluginError(message, plugin=plugin.qualified, hints=["try: --executor local"]) from error


def _read_setup(setup: Setup) -> Composition:
    """
    Make a composition of what is installed here.

    Raises:
        PluginError: gymcore or a plugin is missing here, or is of another version than where it was composed.
    """
    sys.path.extend(folder for folder in setup.path if folder not in sys.path and Path(folder or ".").exists())
    catalog = discover()
    _compare_versions(setup, catalog)
    plan, lock, written_routes, written_models = pickle.loads(setup.content)
    routes: dict[str, Route] = {
        name: replace(
            route,
            environment_class=catalog.load(route.environment_plugin),
            agent_class=catalog.load(route.agent_plugin),
            environment_options=replace(route.environment_options, config=pickle.loads(environment)),
            agent_options=replace(route.agent_options, config=pickle.loads(agent)),
        )
        for name, (route, environment, agent) in written_routes.items()
    }
    models: dict[str, ModelChoice] = {
        name: replace(
            choice,
            model_class=catalog.load(choice.plugin),
            options=replace(choice.options, config=pickle.loads(config)),
        )
        for name, (choice, config) in written_models.items()
    }
    # Rows come with the rollouts: no file has to be shared.
    nothing = Dataset(io.BytesIO(), array("Q"), array("I"), array("H"), [])
    return Composition(plan, routes, models, nothing, lock)


def _compare_versions(setup: Setup, catalog: Catalog) -> None:
    here = os.uname().nodename
    found: Mapping[tuple[str, str], Plugin] = {(plugin.kind, plugin.qualified): plugin for plugin in catalog.plugins}
    other = [] if version("gymcore") == setup.gymcore else [("gymcore", setup.gymcore, version("gymcore"), "")]
    for kind, name, wanted in setup.plugins:
        plugin = found.get((kind, name))
        if plugin is None or plugin.version != wanted:
            other.append((name, wanted, "none" if plugin is None else plugin.version, name))
    if other:
        lines = [f"{name}: composed with {wanted}, {there} on {here}" for name, wanted, there, _ in other]
        hints = [*lines, "try: the same `pip install` on every machine of the cluster"]
        raise PluginError("a Ray worker has other versions than the run", plugin=other[0][3], hints=hints)


class RayWorker:
    """
    Plays what it is given; one process.

    Results wait here until they are taken, many at once: what a call between processes costs is shared by them.
    """

    def __init__(self) -> None:
        self._executor: LocalExecutor | None = None
        self._routes: Mapping[str, Route] = {}
        self._given: deque[Given] = deque()
        """What was not begun yet."""
        self._is_beginning = False
        self._results: deque[Taken] = deque()
        self._news = asyncio.Event()
        self._closing = asyncio.Event()
        self._living: asyncio.Task[None] | None = None
        self._playing: set[asyncio.Task[None]] = set()
        self._is_cancelled = False

    async def open(self, setup: Setup) -> bytes | int:
        """Open the plugins; return the number of this process, or what was raised."""
        opened = asyncio.get_running_loop().create_future()
        self._living = asyncio.create_task(self._live(setup, opened))
        await asyncio.wait({self._living, opened}, return_when=asyncio.FIRST_COMPLETED)
        error = self._living.exception() if self._living.done() else None
        return os.getpid() if error is None else write_error(error)

    async def _live(self, setup: Setup, opened: asyncio.Future[None]) -> None:
        """Hold the plugins open: entered and left in one task, as some contexts ask for."""
        composition = _read_setup(setup)
        async with open_local(composition) as executor:
            self._executor, self._routes = executor, composition.routes
            opened.set_result(None)
            await self._closing.wait()

    async def give(self, batch: Sequence[Given]) -> None:
        """Start playing."""
        self._given.extend(batch)
        if not self._is_beginning:
            self._is_beginning = True
            self._begin(self._begin_all())

    async def _begin_all(self) -> None:
        """
        Begin what was given, many at once; one by one where each computes and lets nobody else run.

        So what is finished leaves, and more arrives, before everything that is here was played.
        """
        clock = asyncio.get_running_loop().time
        burst = 1
        while self._given:
            for _ in range(min(burst, len(self._given))):
                ticket, route, row, repeat, position = self._given.popleft()
                self._begin(self._play(ticket, Planned(position, self._routes[route], Row(row), repeat)))
            started = clock()
            await asyncio.sleep(0)
            burst = 1 if clock() - started > LONG_STEP_S else min(2 * burst, LARGEST_BURST)
        self._is_beginning = False

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._playing.add(task)
        task.add_done_callback(self._playing.discard)

    async def _play(self, ticket: int, planned: Planned) -> None:
        result: Taken = (ticket, "cancelled", b"")
        try:
            if self._executor is not None and not self._is_cancelled:
                result = (ticket, "rollout", _write_rollout(await self._executor.play(planned)))
        except asyncio.CancelledError:
            pass
        except BaseException as error:
            result = (ticket, "error", write_error(error))
        self._results.append(result)
        self._news.set()

    async def take(self, wait_s: float) -> tuple[list[Taken], tuple[str, ...]]:
        """
        Return what is finished, and what a person should know now.

        Args:
            wait_s: How long to wait where nothing is.
        """
        if not self._results:
            self._news.clear()
            try:
                async with asyncio.timeout(wait_s):
                    await self._news.wait()
            except TimeoutError:
                pass
        batch: list[Taken] = []
        size = 0
        while self._results and size < BATCH_BYTES:
            batch.append(self._results.popleft())
            size += len(batch[-1][2])
        return batch, self._notes()

    def _notes(self) -> tuple[str, ...]:
        try:
            return () if self._executor is None else self._executor.notes()
        except Exception as error:  # what a plugin says of itself never costs a rollout
            return (f"status() of a model raised {type(error).__name__}: {error}",)

    async def withdraw(self) -> None:
        """Stop, now and later, every rollout that has not begun because its environment waits for what is gone."""
        if self._executor is not None:
            self._executor.withdraw()

    async def cancel(self) -> None:
        """Stop every rollout that is being played, and start none."""
        self._is_cancelled = True
        if self._executor is not None:
            self._executor.cancel()

    async def close(self) -> bytes | None:
        """Close the plugins; return what was raised."""
        await self.cancel()
        while self._playing:
            await asyncio.wait(self._playing)
        self._closing.set()
        if self._living is None:
            return None
        await asyncio.wait({self._living})
        error = self._living.exception()
        return None if error is None else write_error(error)


def _write_rollout(rollout: Rollout) -> bytes:
    """Write what the process that asked does not know of a rollout."""
    try:
        return pickle.dumps(_outcome_of(rollout), pickle.HIGHEST_PROTOCOL)
    except Exception as error:  # a value of a plugin's that is no plain one
        message = f"the rollout cannot be sent from its worker: {type(error).__name__}: {error}"[:2000]
        failure = Failure(stage="agent", error=type(error).__name__, message=message, retryable=False)
        failed = Rollout(
            rollout.row,
            rollout.repeat,
            Trajectory(),
            failure=failure,
            started_at=rollout.started_at,
            duration_s=rollout.duration_s,
            provenance=rollout.provenance,
        )
        return pickle.dumps(_outcome_of(failed), pickle.HIGHEST_PROTOCOL)


def _outcome_of(rollout: Rollout) -> tuple[Any, ...]:
    reward = rollout.reward
    return (
        rollout.trajectory,
        None if reward is None else reward.model_dump(),
        rollout.failure,
        rollout.started_at,
        rollout.duration_s,
        rollout.provenance,
    )


def read_rollout(data: bytes, planned: Planned) -> Rollout:
    """Read what a worker wrote of a rollout, and complete it by what is known here."""
    trajectory, reward, failure, started_at, duration_s, provenance = pickle.loads(data)
    return Rollout(
        row=planned.row,
        repeat=planned.repeat,
        trajectory=trajectory,
        reward=None if reward is None else Reward.model_validate(reward),
        failure=failure,
        started_at=started_at,
        duration_s=duration_s,
        provenance=provenance,
    )


def write_error(error: BaseException) -> bytes:
    """Write an error down, so that it is the same one where it is read; of a bug, with the place where it was."""
    if not isinstance(error, GymcoreError):
        error.add_note("in a Ray worker:\n" + "".join(traceback.format_exception(error)))
    try:
        data = pickle.dumps(error)
        pickle.loads(data)
    except Exception:  # a class of a plugin's
        return pickle.dumps(_plain(error))
    return data


def _plain(error: BaseException) -> BaseException:
    """Return an error of the nearest class of ours, which ends the run with the same exit code."""
    if not isinstance(error, GymcoreError):
        return RuntimeError(f"{type(error).__name__}: {error}")
    if isinstance(error, EndpointError):
        plain = EndpointError(error.message, where=error.where, hints=error.hints)
        plain.has_worked, plain.is_lasting, plain.stage = error.has_worked, error.is_lasting, error.stage
        return plain
    for kind in (StorageError, PluginError):
        if isinstance(error, kind):
            return kind(error.message, where=error.where, hints=error.hints)
    return GymcoreError(error.message, where=error.where, hints=error.hints)


def read_error(data: bytes) -> BaseException:
    """Read an error back."""
    error: BaseException = pickle.loads(data)
    return error
