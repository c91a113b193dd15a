"""
One rollout from its open to its close: every fault of a plugin ends here, as a failure that names its stage.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from gymcore.documents import decode_json, encode_json
from gymcore.errors import EndpointError, ModelError, ToolError
from gymcore.interfaces import Agent, BoundModel, Environment, Model, RolloutContext
from gymcore.records import Failure, FailureStage, Reward, Rollout, Task, ToolCall, Trajectory, Turn, seed_of
from gymcore.responses import Item, Request, Response, function_call_output, message
from gymcore.runtime.schedule import Planned

__all__ = ["Session", "Stage"]

CLOSE_TIMEOUT_S = 10.0
MESSAGE_LENGTH = 2000
THREADS = 64
"""How many blocking tools run at once, in all rollouts together."""


class _Fault(Exception):
    """A fault of a plugin, with the stage in which it happened; the fault itself is the cause."""

    def __init__(self, stage: FailureStage, error: BaseException) -> None:
        self.stage: FailureStage = stage
        self.error = error
        super().__init__(stage)


@contextmanager
def _stage(stage: FailureStage) -> Iterator[None]:
    """Wrap what plugin code raises, `SystemExit` included; what stops the whole run passes."""
    try:
        yield
    except (_Fault, EndpointError):
        raise
    except asyncio.CancelledError as error:
        if _is_cancelled():
            raise
        raise _Fault(stage, error) from error
    except (Exception, SystemExit) as error:
        # An agent may call tools side by side in a task group, which wraps what was wrapped here already.
        cause = _first_leaf(error)
        if isinstance(cause, _Fault | EndpointError):
            raise cause from None
        raise _Fault(stage, cause) from error


def _is_cancelled() -> bool:
    """Whether somebody asked this task to stop; else a CancelledError is an accident of the plugin."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _first_leaf(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class _BoundModel:
    """A model as the agent and the verifier of one rollout see it."""

    def __init__(self, model: Model[Any], context: RolloutContext) -> None:
        self._model = model
        self._context = context
        self.attempts = 0

    async def respond(self, request: Request) -> Response:
        before = self._context.attempts
        with _stage("model"):
            response: Any = await self._model.respond(request, self._context)
            if not isinstance(response, Response):
                raise TypeError(f"respond() returned a {type(response).__name__}, not a Response")
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

    def __init__(self, environment: Environment[Any, Any], request: Request, threads: asyncio.Semaphore) -> None:
        self._environment = environment
        self._threads = threads
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
            if tool.in_thread:
                async with self._threads:
                    result = await _in_thread(method, arguments)
            else:
                result = method(**arguments)
            if inspect.isawaitable(result):
                result = await result
        except ToolError as error:
            return _complaint(str(error))
        return result if isinstance(result, str) else encode_json(result).decode()

    async def reply(self, turn: Turn) -> str | None:
        with _stage("reply"):
            answer: Any = await self._environment.reply(turn)
            if answer is not None and not isinstance(answer, str):
                raise TypeError(f"reply() returned a {type(answer).__name__}, not a text or None")
            return answer


def _complaint(text: str) -> str:
    """Tell the model what was wrong with its tool call."""
    return encode_json({"error": text[:MESSAGE_LENGTH]}).decode()


async def _in_thread(method: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """
    Call a blocking method in a thread of its own.

    Not in the event loop's pool: there a few tools that hang would keep everybody waiting, and the process from ending.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[Callable[[], Any]] = loop.create_future()

    def settle(outcome: Callable[[], Any]) -> None:
        if not ended.done():  # it is when the rollout did not wait
            ended.set_result(outcome)

    def work() -> None:
        outcome = _outcome_of(method, arguments)
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, outcome)

    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(work,), name="gymcore-tool", daemon=True).start()
    return (await ended)()


def _outcome_of(method: Callable[..., Any], arguments: dict[str, Any]) -> Callable[[], Any]:
    """Call a method, and return what gives its result or raises its error; a future would refuse StopIteration."""
    try:
        result = method(**arguments)
    except BaseException as error:
        raised = error

        def fail() -> Any:
            raise raised

        return fail
    return lambda: result


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
    close_timeout_s: float = CLOSE_TIMEOUT_S
    """How long an environment may take to close; then it is left as it is."""
    threads: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(THREADS))


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
        self._environment: Environment[Any, Any] | None = None
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
        stack = AsyncExitStack()
        self._playing = asyncio.current_task()
        try:
            async with asyncio.timeout(self._stage.timeout_s) as limit:
                trajectory, reward = await self._play_open(seed, stack)
            scored = replace(blank, trajectory=trajectory, reward=reward)
        except _Fault as fault:
            scored = replace(blank, failure=_describe(fault.stage, fault.error))
        except TimeoutError as error:
            if not limit.expired():
                raise
            bound = f"the rollout took longer than {self._stage.timeout_s:g} s (collect.timeout_s)"
            failure = Failure(stage="timeout", error=type(error).__name__, message=bound, retryable=True)
            scored = replace(blank, failure=failure)
        finally:
            # Outside the bound on the rollout and safe from `cancel`: whatever ended it, it is closed once, and whole.
            self._playing = None
            await self._close(stack)
        return replace(scored, duration_s=time.perf_counter() - started)

    async def _close(self, stack: AsyncExitStack) -> None:
        """Close what models opened for this rollout, then the environment."""
        try:
            await self._closed(stack.aclose)
        finally:
            if self._environment is not None:
                await self._closed(self._environment.close)

    async def _closed(self, close: Callable[[], Any]) -> None:
        """Wait for a clean-up within its bound; a failed one does not change the outcome, which is known by now."""
        try:
            async with asyncio.timeout(self._stage.close_timeout_s):
                closing = close()
                if inspect.isawaitable(closing):
                    await closing
        except asyncio.CancelledError:
            if _is_cancelled():
                raise
        except (Exception, SystemExit):
            return

    async def _play_open(self, seed: int, stack: AsyncExitStack) -> tuple[Trajectory, Reward]:
        with _stage("open"):
            environment, context = self._build(seed, stack)
            self._environment = environment
            await environment.open()
        policy = _BoundModel(self._stage.models[self._route.model], context)
        opened = _OpenEnvironment(environment, self._first_request(environment), self._stage.threads)
        with _stage("agent"):
            trajectory: Any = await self._stage.agents[self._route.name].play(opened, policy)
            _check_trajectory(trajectory)
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
        route = self._route
        # Parsed anew: the repeats of a task share their row, and a plugin may change what it is given.
        task = route.environment_class.task_model.model_validate(decode_json(self._planned.row.data))
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


def _check_trajectory(trajectory: Any) -> None:
    if not isinstance(trajectory, Trajectory):
        raise TypeError(f"play() returned a {type(trajectory).__name__}, not a Trajectory")
    odd = [turn for turn in trajectory.turns if not isinstance(turn, Turn)]
    if odd:
        raise TypeError(f"play() returned a Trajectory with a {type(odd[0]).__name__} among its turns")


def _describe(stage: FailureStage, error: BaseException) -> Failure:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename != __file__]
    is_model_error = isinstance(error, ModelError)
    return Failure(
        stage=stage,
        error=type(error).__name__,
        message=_message_of(error),
        # An endpoint may recover; the same code on the same task will fail again.
        retryable=error.retryable if isinstance(error, ModelError) else isinstance(error, OSError | TimeoutError),
        location=None if is_model_error or not own else f"{own[-1].filename}:{own[-1].lineno}",
    )


def _message_of(error: BaseException) -> str:
    try:
        text = str(error) or repr(error)
    except Exception:  # an exception class is plugin code too
        text = type(error).__name__
    # What cannot be encoded cannot be written down: a lone surrogate becomes a question mark.
    return text[:MESSAGE_LENGTH].encode("utf-8", "replace").decode()
