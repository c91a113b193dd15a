"""
One rollout from its open to its close: every fault of a plugin ends here, as a failure that names its stage.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from gymcore.documents import encode_json
from gymcore.errors import ModelError
from gymcore.interfaces import Agent, BoundModel, Environment, Model, RolloutContext
from gymcore.records import Failure, Reward, Rollout, Task, ToolCall, Trajectory, Turn, seed_of
from gymcore.responses import Item, Request, Response, function_call_output, message
from gymcore.runtime import in_process
from gymcore.runtime.faults import Fault, describe_fault, during, is_cancelled
from gymcore.runtime.in_process import TimeLimits
from gymcore.runtime.placement import Instance, Placement
from gymcore.runtime.schedule import Planned

__all__ = ["Session", "Stage"]


@dataclass(frozen=True)
class Stage:
    """What all rollouts of a run share: the opened plugins."""

    agents: Mapping[str, Agent[Any]]
    """By route name."""
    models: Mapping[str, Model[Any]]
    """By their name in the plan."""
    placements: Mapping[str, Placement]
    """Where each environment plays, by the environment's name."""
    limits: Mapping[str, TimeLimits]
    """How long the parts of a rollout may take, by the environment's name."""
    seed: int
    provenance: Mapping[str, Any]
    now: Callable[[], float] = time.time


class _Clock:
    """The time that a rollout may take; it stands while an endpoint is down."""

    __slots__ = ("_limit", "_since", "_stops", "waited_s")

    def __init__(self, limit: asyncio.Timeout) -> None:
        self._limit = limit
        self._stops = 0
        self._since = 0.0
        self.waited_s = 0.0

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Do not count the time spent inside; several may stop it at once."""
        loop = asyncio.get_running_loop()
        when = self._limit.when()
        if not self._stops and not self._limit.expired():
            self._since = loop.time()
            self._limit.reschedule(None)
        self._stops += 1
        try:
            yield
        finally:
            self._stops -= 1
            if not self._stops:
                passed_s = loop.time() - self._since
                self.waited_s += passed_s
                if when is not None and not self._limit.expired():
                    self._limit.reschedule(when + passed_s)


class _BoundModel:
    """A model as the agent and the verifier of one rollout see it."""

    __slots__ = ("_context", "_model", "attempts")

    def __init__(self, model: Model[Any], context: RolloutContext) -> None:
        self._model = model
        self._context = context
        self.attempts = 0

    @property
    def waited_s(self) -> float:
        return self._context.clock.waited_s

    async def respond(self, request: Request) -> Response:
        before = self._context.attempts
        with during("model"):
            response: Any = await self._model.respond(request, self._context)
            if not isinstance(response, Response):
                raise TypeError(f"respond() returned a {type(response).__name__}, not a Response")
            if response.status == "failed":
                detail = response.body.get("error")
                raise ModelError(f"the model reports that the response failed: {encode_json(detail).decode()[:500]}")
        self.attempts = max(1, self._context.attempts - before)
        return response

    async def ask(self, text: str) -> str:
        response = await self.respond(Request(input=(message(text, role="user"),)))
        return Turn(output=tuple(response.output)).text


class _Models(Mapping[str, BoundModel]):
    """The models that an environment may ask, each bound when it is first looked at."""

    __slots__ = ("_bind", "_bound", "_models")

    def __init__(self, models: Mapping[str, Model[Any]], bind: Callable[[Model[Any]], BoundModel]) -> None:
        self._models = models
        self._bind = bind
        self._bound: dict[str, BoundModel] = {}

    def __getitem__(self, name: str) -> BoundModel:
        if name not in self._bound:
            self._bound[name] = self._bind(self._models[name])
        return self._bound[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)


class _OpenEnvironment:
    """An environment as the agent of one rollout sees it."""

    __slots__ = ("_instance", "request")

    def __init__(self, instance: Instance, request: Request) -> None:
        self._instance = instance
        self.request = request

    @property
    def task(self) -> Task:
        return self._instance.task

    async def call(self, call: ToolCall) -> Item:
        with during("tool"):
            return function_call_output(call.call_id, await self._instance.call(call))

    async def reply(self, turn: Turn) -> str | None:
        with during("reply"):
            return await self._instance.reply(turn)


class Session:
    """
    Plays one planned rollout.

    Args:
        stage: What all rollouts share.
        planned: Which one to play.
    """

    __slots__ = ("_limits", "_planned", "_playing", "_route", "_stage")

    def __init__(self, stage: Stage, planned: Planned) -> None:
        self._stage = stage
        self._planned = planned
        self._route = planned.route
        self._limits = stage.limits[planned.route.environment]
        self._playing: asyncio.Task[Any] | None = None

    def cancel(self) -> None:
        """Stop playing, once: what is being closed or cleaned up already is let to its end."""
        playing, self._playing = self._playing, None
        if playing is not None:
            playing.cancel()

    async def play(self) -> Rollout:
        """
        Play, score and close.

        Returns:
            The rollout, with a reward or with a failure.

        Raises:
            EndpointError: no rollout of this run can be played any more.
        """
        started_at, started = self._stage.now(), time.perf_counter()
        seed = seed_of(self._stage.seed, self._planned.key[1])
        trajectory, reward, failure = Trajectory(), None, None
        stack = AsyncExitStack()
        instance = self._stage.placements[self._route.environment].instance(
            self._planned, seed, lambda environment: self._models(environment, seed, stack, clock)
        )
        self._playing = asyncio.current_task()
        try:
            async with asyncio.timeout(self._limits.rollout_s) as limit:
                clock = _Clock(limit)
                trajectory, reward = await self._play_open(instance, seed, stack, clock)
        except Fault as fault:
            failure = instance.lost() or describe_fault(fault.stage, fault.error, (__file__, in_process.__file__))
        except TimeoutError as error:
            if not limit.expired():
                raise
            bound = f"the rollout took longer than {self._limits.rollout_s:g} s (collect.timeout_s)"
            failure = Failure(stage="timeout", error=type(error).__name__, message=bound, retryable=True)
        finally:
            # Outside the bound on the rollout and safe from `cancel`: whatever ended it, it is closed once, and whole.
            self._playing = None
            await self._close(stack, instance)
        return Rollout(
            row=self._planned.row,
            repeat=self._planned.repeat,
            trajectory=trajectory,
            reward=reward,
            failure=failure,
            started_at=started_at,
            duration_s=time.perf_counter() - started,
            provenance={
                **self._stage.provenance,
                "agent": self._route.agent_plugin.name,
                "model": self._route.model,
                "seed": seed,
            },
        )

    def _models(
        self, environment: Environment[Any, Any], seed: int, stack: AsyncExitStack, clock: _Clock
    ) -> Mapping[str, BoundModel]:
        # Judges get a context of their own, or their retries would be counted as the policy's.
        return _Models(
            self._stage.models,
            lambda model: _BoundModel(model, RolloutContext(environment, self._planned.key, seed, stack, clock=clock)),
        )

    async def _close(self, stack: AsyncExitStack, instance: Instance) -> None:
        """Close what models opened for this rollout, then the environment."""
        try:
            await self._closed(stack.aclose())
        finally:
            await self._closed(instance.close())

    async def _closed(self, closing: Awaitable[None]) -> None:
        """Wait for a clean-up within its bound; a failed one does not change the outcome, which is known by now."""
        try:
            async with asyncio.timeout(self._limits.close_s):
                await closing
        except asyncio.CancelledError:
            if is_cancelled():
                raise
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException:  # whatever class a plugin made
            return

    async def _play_open(
        self, instance: Instance, seed: int, stack: AsyncExitStack, clock: _Clock
    ) -> tuple[Trajectory, Reward]:
        with during("open"):
            await instance.open()
        context = RolloutContext(instance.environment, self._planned.key, seed, stack, clock=clock)
        policy = _BoundModel(self._stage.models[self._route.model], context)
        request = instance.request
        if self._route.plan.params:
            offered = request.params["tools"]
            request = replace(request, params={**request.params, **self._route.plan.params})
            if request.params["tools"] is None:
                request = replace(request, params={**request.params, "tools": offered})
        with during("agent"):
            agent = self._stage.agents[self._route.name]
            trajectory: Any = await agent.play(_OpenEnvironment(instance, request), policy)
            _check_trajectory(trajectory)
        with during("verify"):
            return trajectory, await instance.verify(trajectory)


def _check_trajectory(trajectory: Any) -> None:
    if not isinstance(trajectory, Trajectory):
        raise TypeError(f"play() returned a {type(trajectory).__name__}, not a Trajectory")
    for turn in trajectory.turns:
        if not isinstance(turn, Turn):
            raise TypeError(f"play() returned a Trajectory with a {type(turn).__name__} among its turns")
