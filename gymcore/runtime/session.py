"""
One rollout from its open to its close: every fault of a plugin ends here, as a failure that names its stage.
"""

from __future__ import annotations

import asyncio
import inspect
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from gymcore.documents import encode_json
from gymcore.errors import EndpointError, ModelError, ToolError
from gymcore.interfaces import Agent, BoundModel, Environment, Model, RolloutContext
from gymcore.records import Failure, FailureStage, Reward, Rollout, Task, ToolCall, Trajectory, Turn, seed_of
from gymcore.responses import Item, Request, Response, function_call_output, message
from gymcore.runtime.schedule import Planned

__all__ = ["Session", "Stage"]

CLOSE_TIMEOUT_S = 10.0
MESSAGE_LENGTH = 2000


class _Fault(Exception):
    """A fault of a plugin, with the stage in which it happened; the fault itself is the cause."""

    def __init__(self, stage: FailureStage, error: BaseException) -> None:
        self.stage: FailureStage = stage
        self.error = error
        super().__init__(f"{stage}: {error}")


@contextmanager
def _stage(stage: FailureStage) -> Iterator[None]:
    """Wrap what plugin code raises, `SystemExit` included; what stops the whole run passes."""
    try:
        yield
    except (_Fault, EndpointError):
        raise
    except (Exception, SystemExit) as error:
        raise _Fault(stage, error) from error


class _BoundModel:
    """A model as the agent and the verifier of one rollout see it."""

    def __init__(self, model: Model[Any], context: RolloutContext) -> None:
        self._model = model
        self._context = context
        self.attempts = 0

    async def respond(self, request: Request) -> Response:
        before = self._context.attempts
        with _stage("model"):
            response = await self._model.respond(request, self._context)
            if response.status == "failed":
                detail = (response.model_extra or {}).get("error")
                raise ModelError(f"the model reports that the response failed: {encode_json(detail).decode()[:500]}")
        self.attempts = max(1, self._context.attempts - before)
        return response

    async def ask(self, text: str) -> str:
        response = await self.respond(Request(input=(message(text, role="user"),)))
        return Turn(output=tuple(response.output)).text


class _OpenEnvironment:
    """An environment as the agent of one rollout sees it."""

    def __init__(self, environment: Environment[Any, Any], request: Request) -> None:
        self._environment = environment
        self.request = request

    @property
    def task(self) -> Task:
        task: Task = self._environment.task
        return task

    async def call(self, call: ToolCall) -> Item:
        with _stage("tool"):
            return function_call_output(call.call_id, await self._carry_out(call))

    async def _carry_out(self, call: ToolCall) -> str:
        tool = self._environment.tools.get(call.name)
        if tool is None:
            offered = ", ".join(self._environment.tools) or "none"
            return _complaint(f"there is no tool {call.name[:100]!r}; the tools are: {offered}")
        try:
            arguments = tool.check(call.arguments)
            method = getattr(self._environment, tool.method)
            result = await asyncio.to_thread(method, **arguments) if tool.in_thread else method(**arguments)
            if inspect.isawaitable(result):
                result = await result
        except ToolError as error:
            return _complaint(str(error))
        return result if isinstance(result, str) else encode_json(result).decode()

    async def reply(self, turn: Turn) -> str | None:
        with _stage("reply"):
            return await self._environment.reply(turn)


def _complaint(text: str) -> str:
    """Tell the model what was wrong with its tool call."""
    return encode_json({"error": text[:MESSAGE_LENGTH]}).decode()


@dataclass(frozen=True)
class Stage:
    """What all rollouts of a run share: the opened plugins."""

    agents: Mapping[str, Agent[Any]]
    """By route name."""
    models: Mapping[str, Model[Any]]
    """By their name in the plan."""
    resources: Mapping[str, Any]
    """What each environment's `shared()` yielded, by the environment's name."""
    seed: int
    timeout_s: float
    provenance: Mapping[str, Any]
    now: Callable[[], float] = time.time


class Session:
    """
    Plays one planned rollout.

    Args:
        stage: What all rollouts share.
        planned: Which one to play.
    """

    def __init__(self, stage: Stage, planned: Planned) -> None:
        self._stage = stage
        self._planned = planned
        self._route = planned.route

    async def play(self) -> Rollout:
        """
        Play, score and close.

        Returns:
            The rollout, with a reward or with a failure.

        Raises:
            EndpointError: no rollout of this run can be played any more.
        """
        seed = seed_of(self._stage.seed, self._planned.key[1])
        blank = Rollout(
            row=self._planned.row,
            repeat=self._planned.repeat,
            trajectory=Trajectory(),
            started_at=self._stage.now(),
            provenance={
                **self._stage.provenance,
                "agent": self._route.agent_plugin.name,
                "model": self._route.model,
                "seed": seed,
            },
        )
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self._stage.timeout_s) as limit, AsyncExitStack() as stack:
                trajectory, reward = await self._play_open(seed, stack)
            return replace(blank, trajectory=trajectory, reward=reward, duration_s=time.perf_counter() - started)
        except _Fault as fault:
            failure = _describe(fault.stage, fault.error)
        except TimeoutError as error:
            if not limit.expired():
                raise
            bound = f"the rollout took longer than {self._stage.timeout_s:g} s (collect.timeout_s)"
            failure = Failure(stage="timeout", error=type(error).__name__, message=bound, retryable=True)
        return replace(blank, failure=failure, duration_s=time.perf_counter() - started)

    async def _play_open(self, seed: int, stack: AsyncExitStack) -> tuple[Trajectory, Reward]:
        environment, context = self._build(seed, stack)
        stack.push_async_callback(_close, environment)
        with _stage("open"):
            await environment.open()
        policy = _BoundModel(self._stage.models[self._route.model], context)
        opened = _OpenEnvironment(environment, self._first_request(environment))
        with _stage("agent"):
            trajectory = await self._stage.agents[self._route.name].play(opened, policy)
            if not isinstance(trajectory, Trajectory):
                raise TypeError(f"play() returned a {type(trajectory).__name__}, not a Trajectory")
        with _stage("verify"):
            reward: Any = environment.verify(trajectory)
            if inspect.isawaitable(reward):
                reward = await reward
            if isinstance(reward, Reward):
                return trajectory, reward
            if isinstance(reward, bool) or not isinstance(reward, int | float):
                raise TypeError(f"verify() returned a {type(reward).__name__}, not a Reward or a number")
            return trajectory, Reward(value=float(reward))

    def _build(self, seed: int, stack: AsyncExitStack) -> tuple[Environment[Any, Any], RolloutContext]:
        with _stage("open"):
            route = self._route
            task = route.environment_class.task_model.model_validate(self._planned.row.value)
            models: dict[str, BoundModel] = {}
            environment = route.environment_class(
                task,
                route.environment_options.config,
                seed=seed,
                models=models,
                resources=self._stage.resources[route.environment],
            )
            context = RolloutContext(environment, self._planned.key, seed, stack)
            # Judges get a context of their own, or their retries would be counted as the policy's.
            for name, model in self._stage.models.items():
                models[name] = _BoundModel(model, RolloutContext(environment, self._planned.key, seed, stack))
            return environment, context

    def _first_request(self, environment: Environment[Any, Any]) -> Request:
        request: Request = environment.task.responses_create_params.request()
        params = {**request.params, **self._route.plan.params}
        if params.get("tools") is None:
            params["tools"] = environment.tool_schemas()
        return replace(request, params=params)


async def _close(environment: Environment[Any, Any]) -> None:
    """Close an environment; shielded and bounded, so that neither Ctrl-C nor a hanging close gets past it."""
    closing: Awaitable[None] = asyncio.ensure_future(environment.close())
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await asyncio.shield(closing)
    except (Exception, SystemExit):  # the reward is known by now, and a failed clean-up does not change it
        return


def _describe(stage: FailureStage, error: BaseException) -> Failure:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename != __file__]
    is_model_error = isinstance(error, ModelError)
    return Failure(
        stage=stage,
        error=type(error).__name__,
        message=(str(error) or repr(error))[:MESSAGE_LENGTH],
        # An endpoint may recover; the same code on the same task will fail again.
        retryable=error.retryable if isinstance(error, ModelError) else isinstance(error, OSError | TimeoutError),
        location=None if is_model_error or not own else f"{own[-1].filename}:{own[-1].lineno}",
    )
