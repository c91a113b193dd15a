"""
Who plays rollouts: an executor. This one plays them here, on the event loop that asks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from gymcore.composition import Composition, Route
from gymcore.composition.locking.lock import lock_digest
from gymcore.discovery import Plugin
from gymcore.errors import EndpointError, GymcoreError
from gymcore.interfaces import Agent, Model
from gymcore.interpreters.stand_in import StandIn
from gymcore.records import Rollout
from gymcore.runtime.brackets import Bounds, Say, bracket, broken, log
from gymcore.runtime.faults import is_cancelled, is_from_outside
from gymcore.runtime.in_process import InProcess, TimeLimits
from gymcore.runtime.placement import Placement
from gymcore.runtime.schedule import Planned
from gymcore.runtime.session import Session, Stage

__all__ = ["Executor", "LocalExecutor", "Withdrawn", "open_local"]


class Withdrawn(Exception):
    """
    A rollout that has not begun leaves its place to others, because one of its environment waits already for what is
    gone; it is still to be played.

    Args:
        outage: Done when that one goes on or has ended; holds its error where it has waited long enough.
    """

    def __init__(self, outage: asyncio.Future[None]) -> None:
        self.outage = outage
        super().__init__("another rollout waits for what is gone")

    async def over(self) -> None:
        """
        Wait until the rollout may be tried again.

        Raises:
            EndpointError: it may not: what is gone was waited for long enough.
            CancelledError: `cancel` was called, or `withdraw`.
        """
        await asyncio.shield(self.outage)


class Executor(Protocol):
    """Plays planned rollouts, many at once; which, and how many, is the schedule's business."""

    async def play(self, planned: Planned) -> Rollout:
        """
        Play one rollout to its end.

        Raises:
            Withdrawn: it was not begun, and may be tried again later.
            GymcoreError: no rollout of this run can be played any more.
            CancelledError: `cancel` was called, or `withdraw`.
        """

    def withdraw(self) -> None:
        """Stop, now and later, every rollout that has not begun because its environment waits for what is gone."""

    def cancel(self) -> None:
        """Stop every rollout that is being played; each is closed before its `play` ends."""

    def notes(self) -> tuple[str, ...]:
        """Return what a person should know now, one line each."""


@dataclass(frozen=True, slots=True)
class _Outage:
    """What an environment waits for is gone."""

    trying: Session
    """The rollout that waits for it; no other is begun."""
    over: asyncio.Future[None]


class LocalExecutor:
    """
    Plays rollouts on the running event loop.

    Args:
        stage: The opened plugins.
        makes_room: Whether of the rollouts of an environment that wait for what is gone one is played, and the others
            are withdrawn, so that they take no places of others.
    """

    def __init__(self, stage: Stage, *, makes_room: bool = False) -> None:
        self.stage = stage
        self._makes_room = makes_room
        self._sessions: set[Session] = set()
        self._outages: dict[str, _Outage] = {}
        """By environment; empty where no room is made."""
        self._withdrawn: dict[Session, asyncio.Future[None]] = {}
        """What was stopped so that it makes room, until it is closed."""
        self._is_withdrawing = False

    async def play(self, planned: Planned) -> Rollout:
        """Play one rollout to its end."""
        environment = planned.route.environment
        if environment in self._outages:
            raise Withdrawn(self._outages[environment].over)
        session = Session(self.stage, planned, partial(self._on_waiting, environment))
        self._sessions.add(session)
        error: EndpointError | None = None
        try:
            return await session.play()
        except EndpointError as raised:
            error = raised
            raise
        except asyncio.CancelledError:
            if session not in self._withdrawn or is_cancelled():
                raise
            raise Withdrawn(self._withdrawn[session]) from None
        finally:
            self._sessions.discard(session)
            self._withdrawn.pop(session, None)
            self._end_outage(environment, session, error)

    def _on_waiting(self, environment: str, session: Session, is_waiting: bool) -> None:
        if not is_waiting:
            self._end_outage(environment, session)
        elif self._is_withdrawing:
            session.cancel()
        elif self._makes_room and environment in self._outages:
            self._withdrawn[session] = self._outages[environment].over
            session.cancel()
        elif self._makes_room:
            self._outages[environment] = _Outage(session, asyncio.get_running_loop().create_future())

    def _end_outage(self, environment: str, session: Session, error: EndpointError | None = None) -> None:
        """Let others be tried, or tell them that there is no use, where it was this rollout that did so for them."""
        outage = self._outages.get(environment)
        if outage is None or outage.trying is not session:
            return
        del self._outages[environment]
        if outage.over.done():
            return
        if error is None:
            outage.over.set_result(None)
        else:
            outage.over.set_exception(error)
            outage.over.exception()  # perhaps nobody else was to be tried

    def _cancel_outages(self) -> None:
        for outage in self._outages.values():
            outage.over.cancel()

    def withdraw(self) -> None:
        """Stop, now and later, every rollout that has not begun because its environment waits for what is gone."""
        self._is_withdrawing = True
        self._cancel_outages()
        for session in self._sessions:
            if session.is_waiting:
                session.cancel()

    def cancel(self) -> None:
        """Stop every rollout that is being played."""
        self._cancel_outages()
        for session in self._sessions:
            session.cancel()

    def notes(self) -> tuple[str, ...]:
        """Return what the models say of their endpoints, and the environments of their processes."""
        stage = self.stage
        told = [model.status() for model in stage.models.values()]
        told += [place.status() for place in stage.placements.values()]
        return tuple(line for line in told if line is not None)


@asynccontextmanager
async def open_local(
    composition: Composition, say: Say = log, *, makes_room: bool = False
) -> AsyncIterator[LocalExecutor]:
    """
    Open the plugins of a composition here, and close them at the end.

    Args:
        composition: What is to be played.
        say: Told which plugin takes long to open or to close, and what went wrong while one was closed.
        makes_room: Whether rollouts are withdrawn that only wait for what is gone; see `LocalExecutor`.

    Raises:
        PluginError: a plugin could not be opened.
    """
    async with AsyncExitStack() as stack:
        stage = Stage(
            agents=_build_agents(composition),
            models=await _open_models(composition, stack, say),
            placements=await _open_environments(composition, stack, say),
            limits={route.environment: _limits(composition, route) for route in composition.routes.values()},
            seed=composition.plan.mix.seed,
            provenance={"lock": lock_digest(composition.lock)},
        )
        yield LocalExecutor(stage, makes_room=makes_room)


def _limits(composition: Composition, route: Route) -> TimeLimits:
    def limit(option: str) -> tuple[float, str]:
        own: float | None = getattr(route.plan, option)
        if own is not None:
            return own, f"environments.{route.environment}.{option}"
        return getattr(composition.plan.collect, option), f"collect.{option}"

    rollout, tool, verify = limit("timeout_s"), limit("tool_timeout_s"), limit("verify_timeout_s")
    return TimeLimits(
        rollout_s=rollout[0],
        tool_s=tool[0],
        verify_s=verify[0],
        rollout_option=rollout[1],
        tool_option=tool[1],
        verify_option=verify[1],
    )


def _build_agents(composition: Composition) -> dict[str, Agent[Any]]:
    agents: dict[str, Agent[Any]] = {}
    for name, route in composition.routes.items():
        with _naming(route.agent_plugin):
            agents[name] = route.agent_class(route.agent_options.config)
    return agents


async def _open_models(composition: Composition, stack: AsyncExitStack, say: Say) -> dict[str, Model[Any]]:
    models: dict[str, Model[Any]] = {}
    for name, choice in composition.models.items():
        with _naming(choice.plugin):
            models[name] = choice.model_class(choice.options.config)
            opening = models[name].opened()
        await stack.enter_async_context(bracket(opening, choice.plugin.qualified, say))
    return models


async def _open_environments(composition: Composition, stack: AsyncExitStack, say: Say) -> Mapping[str, Placement]:
    """Open where each environment plays."""
    placements: dict[str, Placement] = {}
    for route in composition.routes.values():
        if route.environment not in placements:
            isolation = route.plan.isolation or route.environment_plugin.manifest.isolation
            opened = _open_isolated if isolation in ("process", "venv") else _open_in_process
            placements[route.environment] = await opened(route, _limits(composition, route), stack, say)
    return placements


async def _open_isolated(route: Route, limits: TimeLimits, stack: AsyncExitStack, say: Say) -> Placement:
    from gymcore.runtime.isolation import Launch, open_isolated  # here: most runs start no process

    plugin, plan = route.environment_plugin, route.plan
    launch = Launch(
        name=route.environment,
        plugin=plugin.qualified,
        target=plugin.target,
        python=described.python if issubclass(described := route.environment_class, StandIn) else None,
        workers=plan.workers or 1,
        environ=tuple(plan.environ),
        memory_mb=plan.memory_mb,
        grace_s=min(Launch.grace_s, limits.tool_s),
    )
    config = route.environment_options.config
    assert config is not None
    workers = open_isolated(launch, route.environment_class, config, limits)
    # They are killed when their own bounds are reached; these here only have to be larger.
    bounds = Bounds(closing_s=2 * (launch.grace_s + launch.stop_s))
    place: Placement = await stack.enter_async_context(bracket(workers, plugin.qualified, say, bounds, is_ours=True))
    return place


async def _open_in_process(route: Route, limits: TimeLimits, stack: AsyncExitStack, say: Say) -> Placement:
    plugin = route.environment_plugin
    with _naming(plugin):
        shared = route.environment_class.shared(route.environment_options.config)
    resources = await stack.enter_async_context(bracket(shared, plugin.qualified, say))
    return InProcess(route.environment_class, route.environment_options.config, resources, limits)


@contextmanager
def _naming(plugin: Plugin) -> Iterator[None]:
    """Name the plugin in whatever it raises while it is opened."""
    try:
        yield
    except GymcoreError:
        raise
    except BaseException as error:
        if is_from_outside(error):
            raise
        raise broken(plugin.qualified, "opened", error) from error
