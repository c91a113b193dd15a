"""
`run()`: opens the plugins of a composition, plays its rollouts with bounded concurrency, and closes everything.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Container
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from gymcore.composition import Composition
from gymcore.composition.lock import lock_digest
from gymcore.errors import GymcoreError, PluginError
from gymcore.interfaces import Agent, Model
from gymcore.records import Rollout, RolloutKey
from gymcore.runtime.schedule import Schedule
from gymcore.runtime.session import Session, Stage

__all__ = ["RolloutStream", "Status", "run"]


@dataclass(frozen=True, slots=True)
class Status:
    """Where a run stands at this moment."""

    in_flight: dict[str, int]
    """Rollouts being played, by environment."""
    is_stopping: bool
    """Whether no new rollout will start."""


class RolloutStream:
    """
    The rollouts of a run, in the order in which they end; nothing is played before the first is asked for.

    Args:
        stage: The opened plugins.
        schedule: What is to be played.
        concurrency: At most this many rollouts at once, those waiting to be taken included.
    """

    def __init__(self, stage: Stage, schedule: Schedule, concurrency: int) -> None:
        self._stage = stage
        self._schedule = schedule
        self._concurrency = concurrency
        self._ended: asyncio.Queue[Rollout | None] = asyncio.Queue(maxsize=concurrency)
        self._sessions: set[Session] = set()
        self._supervisor: asyncio.Task[None] | None = None
        self._error: BaseException | None = None
        self._stopping = False
        self._is_over = False
        self._drain: asyncio.TimerHandle | None = None

    def status(self) -> Status:
        """Return where the run stands."""
        return Status(self._schedule.in_flight(), self._stopping)

    def stop(self, drain_s: float) -> None:
        """
        Start nothing more; what is in flight may finish.

        Args:
            drain_s: For how long; what is still in flight then is cancelled and owed again.
        """
        self._stopping = True
        self._schedule.close()
        if self._drain is not None:
            self._drain.cancel()
        self._drain = asyncio.get_running_loop().call_later(drain_s, self.cancel)

    def cancel(self) -> None:
        """Cancel what is in flight; its environments are closed, and it is owed again."""
        self._stopping = True
        self._schedule.close()
        for session in self._sessions:
            session.cancel()

    def __aiter__(self) -> RolloutStream:
        return self

    async def __anext__(self) -> Rollout:
        if self._supervisor is None:
            self._supervisor = asyncio.create_task(self._supervise())
        rollout = None if self._is_over else await self._ended.get()
        if rollout is not None:
            return rollout
        self._is_over = True
        error, self._error = self._error, None
        raise StopAsyncIteration if error is None else error

    async def _supervise(self) -> None:
        await asyncio.wait([asyncio.create_task(self._work()) for _ in range(self._concurrency)])
        if self._drain is not None:
            self._drain.cancel()
        await self._ended.put(None)

    async def _work(self) -> None:
        try:
            while (planned := await self._schedule.take()) is not None:
                session = Session(self._stage, planned)
                self._sessions.add(session)
                try:
                    rollout = await session.play()
                finally:
                    self._sessions.discard(session)
                    self._schedule.give_back(planned)
                await self._ended.put(rollout)
        except Exception as error:
            # The first error is the cause; what fails while everything is being cancelled is not.
            if self._error is None:
                self._error = error
            self.cancel()

    async def aclose(self) -> None:
        """Cancel whatever still runs and wait until it is closed."""
        if self._drain is not None:
            self._drain.cancel()
        self.cancel()
        while self._supervisor is not None and not self._supervisor.done():
            while not self._ended.empty():
                self._ended.get_nowait()
            await asyncio.wait([self._supervisor], timeout=0.05)


@asynccontextmanager
async def run(
    composition: Composition, *, finished: Container[RolloutKey] = frozenset()
) -> AsyncIterator[RolloutStream]:
    """
    Play every task of a composition.

    Args:
        composition: What to play.
        finished: Rollouts that exist already and are not played again.

    Yields:
        The stream of rollouts. Leaving the block cancels what is still in flight and closes every plugin.

    Raises:
        PluginError: a plugin could not be opened.
        EndpointError: while iterating: a model's endpoint cannot be used by anybody.
    """
    settings = composition.plan.collect
    async with AsyncExitStack() as stack:
        stage = Stage(
            agents=_build_agents(composition),
            models=await _open_models(composition, stack),
            resources=await _open_resources(composition, stack),
            seed=composition.plan.mix.seed,
            timeout_s=settings.timeout_s,
            provenance={"lock": lock_digest(composition.lock)},
        )
        schedule = Schedule(composition, finished)
        stream = RolloutStream(stage, schedule, min(settings.concurrency, sum(composition.planned().values()) or 1))
        stack.push_async_callback(stream.aclose)
        yield stream


def _build_agents(composition: Composition) -> dict[str, Agent[Any]]:
    agents: dict[str, Agent[Any]] = {}
    for name, route in composition.routes.items():
        try:
            agents[name] = route.agent_class(route.agent_options.config)
        except (Exception, SystemExit) as error:
            raise _broken(route.agent_plugin.qualified, "opened", error) from error
    return agents


async def _open_models(composition: Composition, stack: AsyncExitStack) -> dict[str, Model[Any]]:
    models: dict[str, Model[Any]] = {}
    for name, choice in composition.models.items():
        try:
            models[name] = choice.model_class(choice.options.config)
            opening = models[name].opened()
        except GymcoreError:
            raise
        except (Exception, SystemExit) as error:
            raise _broken(choice.plugin.qualified, "opened", error) from error
        await stack.enter_async_context(_bracket(opening, choice.plugin.qualified))
    return models


async def _open_resources(composition: Composition, stack: AsyncExitStack) -> dict[str, Any]:
    resources: dict[str, Any] = {}
    for route in composition.routes.values():
        if route.environment in resources:
            continue
        plugin = route.environment_plugin.qualified
        try:
            shared = route.environment_class.shared(route.environment_options.config)
        except GymcoreError:
            raise
        except (Exception, SystemExit) as error:
            raise _broken(plugin, "opened", error) from error
        resources[route.environment] = await stack.enter_async_context(_bracket(shared, plugin))
    return resources


@asynccontextmanager
async def _bracket(context: AbstractAsyncContextManager[Any], plugin: str) -> AsyncIterator[Any]:
    """Enter and leave what a plugin brackets the run with; what it raises there names the plugin."""
    async with AsyncExitStack() as stack:
        try:
            value = await stack.enter_async_context(context)
        except GymcoreError:
            raise
        except (Exception, SystemExit) as error:
            raise _broken(plugin, "opened", error) from error
        yield value
        try:
            await stack.aclose()
        except (Exception, SystemExit) as error:
            raise _broken(plugin, "closed", error) from error


def _broken(plugin: str, what: str, error: BaseException) -> PluginError:
    return PluginError(f"{plugin} could not be {what}: {type(error).__name__}: {error}", plugin=plugin)
