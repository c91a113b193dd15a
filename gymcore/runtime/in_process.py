"""
Environments in this process: method calls on the event loop, and threads for tools that block.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any, TypeVar

from gymcore.documents import decode_json, encode_json
from gymcore.errors import ToolError
from gymcore.interfaces import Environment
from gymcore.records import Failure, Reward, Task, ToolCall, Trajectory, Turn
from gymcore.responses import Request
from gymcore.runtime.abandon import GRACE_S
from gymcore.runtime.faults import Late
from gymcore.runtime.placement import Instance, Models, OnWaiting
from gymcore.runtime.schedule import Planned

__all__ = ["InProcess", "TimeLimits"]

MESSAGE_LENGTH = 2000
THREADS = 64
"""How many blocking tools run at once, in all rollouts of an environment together."""


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """How long the parts of a rollout may take, in seconds."""

    rollout_s: float = 600.0
    """Everything together, apart from waiting for an endpoint that is down."""
    tool_s: float = 120.0
    """One tool call; a tool that blocks the event loop cannot be stopped and is not bounded by this."""
    verify_s: float = 300.0
    """The verifier; as for tools."""
    close_s: float = 10.0
    """Closing; then the environment is left as it is."""
    grace_s: float = GRACE_S
    """Cleaning up after a cancellation; then what was cancelled is left behind, and the environment is closed."""
    stop_s: float = 5.0
    """Everything that a rollout does after the run was stopped at once: somebody wants to leave."""
    rollout_option: str = "collect.timeout_s"
    tool_option: str = "collect.tool_timeout_s"
    verify_option: str = "collect.verify_timeout_s"
    """What of the plan says the first three, for messages."""

    def late_rollout(self) -> str:
        """Say that a rollout took longer than it may."""
        return f"the rollout took longer than {self.rollout_s:g} s ({self.rollout_option})"

    def late_tool(self, name: str) -> str:
        """Say that a tool took longer than it may."""
        return f"the tool {name} took longer than {self.tool_s:g} s ({self.tool_option})"

    def no_thread(self, name: str) -> str:
        """Say that all threads are taken by tools that do not come back."""
        return (
            f"no thread became free for the tool {name} within {self.tool_s:g} s ({self.tool_option}): "
            f"{THREADS} blocking tools are running, and what takes too long keeps its thread until it ends"
        )

    def late_verifier(self) -> str:
        """Say that the verifier took longer than it may."""
        return f"the verifier took longer than {self.verify_s:g} s ({self.verify_option})"

    def late_metrics(self) -> str:
        """Say that summing rollouts up took longer than it may."""
        return f"aggregate_metrics() took longer than {self.verify_s:g} s ({self.verify_option})"


@dataclass(frozen=True, slots=True)
class InProcess:
    """
    Plays an environment as an object of this process.

    Attributes:
        environment_class: What is instantiated for each rollout.
        config: Its options.
        resources: What its `shared()` yielded.
        limits: How long its tools and its verifier may take.
    """

    environment_class: type[Environment[Any, Any]]
    config: Any  # an instance of the class's own config model
    resources: Any = None
    limits: TimeLimits = TimeLimits()
    threads: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(THREADS))

    def instance(self, planned: Planned, seed: int, models: Models) -> Instance:
        """Return what plays one rollout."""
        return self.instance_of(planned.row.data, seed, models)

    def instance_of(self, row: bytes, seed: int, models: Models) -> Instance:
        """Return what plays one rollout of the task that a row holds."""
        return _Local(self, row, seed, models)

    async def aggregate_metrics(self, rollouts: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
        """Return what the environment says of many rollouts."""
        asked = self.environment_class.aggregate_metrics(self.config, self.resources, rollouts)
        told: Any = await _bounded(asked, self.limits.verify_s, self.limits.late_metrics())
        kinds = {"group_level_metrics": list, "agent_metrics": dict, "key_metrics": dict}
        if not isinstance(told, dict) or any(
            not isinstance(told.get(key, kind()), kind) for key, kind in kinds.items()
        ):
            raise TypeError("aggregate_metrics() returned no dictionary of a list of groups and of named metrics")
        return told

    def status(self) -> str | None:
        """There is nothing to say: what happens here is a failure of a rollout, or of the run."""
        return None


class _Local:
    """One environment object."""

    __slots__ = ("_models", "_place", "_row", "_seed", "environment")

    environment: Environment[Any, Any]

    def __init__(self, place: InProcess, row: bytes, seed: int, models: Models) -> None:
        self._place = place
        self._row = row
        self._seed = seed
        self._models = models

    @property
    def task(self) -> Task:
        task: Task = self.environment.task
        return task

    @property
    def request(self) -> Request:
        request: Request = self.environment.task.responses_create_params.request()
        if request.params.get("tools") is not None:
            return request
        return replace(request, params={**request.params, "tools": self.environment.tool_schemas()})

    @property
    def max_turns(self) -> int | None:
        value: Any = self.environment.max_turns
        if value is not None and (type(value) is not int or not 0 < value < 2**63):
            raise TypeError(f"`max_turns` of the environment is {value!r:.60}, and must be a number from 1 on, or None")
        most: int | None = value
        return most

    async def open(self, on_waiting: OnWaiting) -> None:
        place = self._place
        # Parsed anew: the repeats of a task share their row, and a plugin may change what it is given.
        task = place.environment_class.task_model.model_validate(decode_json(self._row))
        self.environment = place.environment_class(task, place.config, seed=self._seed, resources=place.resources)
        self.environment.models = self._models(self.environment)
        self.environment._on_waiting = on_waiting
        await self.environment.open()

    async def call(self, call: ToolCall) -> str:
        tool = self.environment.tools.get(call.name)
        try:
            if tool is None:
                result = self.environment.other_tool(call)
            else:
                arguments = tool.check(call.arguments)
                method = getattr(self.environment, tool.method)
                if tool.in_thread:
                    result = await self._in_thread(method, arguments, call)
                else:
                    result = method(**arguments)
            if hasattr(result, "__await__"):
                result = await self._within(result, call)
        except ToolError as error:
            return _complaint(str(error))
        return result if isinstance(result, str) else encode_json(result).decode()

    async def _within(self, result: Awaitable[Any], call: ToolCall) -> Any:  # whatever the tool returns
        limits = self._place.limits
        return await _bounded(result, limits.tool_s, limits.late_tool(call.name))

    async def _in_thread(self, method: Callable[..., Any], arguments: dict[str, Any], call: ToolCall) -> Any:
        threads, limits = self._place.threads, self._place.limits
        if threads.locked():
            await _bounded(threads.acquire(), limits.tool_s, limits.no_thread(call.name))
        else:
            await threads.acquire()
        # Given back when the thread ends, and not when nobody waits for it any more: threads that hang are bounded too.
        return await self._within(_in_thread(method, arguments, threads.release), call)

    async def reply(self, turn: Turn) -> str | None:
        answer: Any = await self.environment.reply(turn)
        if answer is not None and not isinstance(answer, str):
            raise TypeError(f"reply() returned a {type(answer).__name__}, not a text or None")
        return answer

    async def verify(self, trajectory: Trajectory) -> Reward:
        reward: Any = self.environment.verify(trajectory)
        if hasattr(reward, "__await__"):
            limits = self._place.limits
            reward = await _bounded(reward, limits.verify_s, limits.late_verifier())
        if isinstance(reward, Reward):
            return reward
        # Real besides: what NumPy computes, and fractions. A Decimal is none, and neither is NumPy's bool.
        if isinstance(reward, bool) or not isinstance(reward, int | float | Real):
            raise TypeError(f"verify() returned a {type(reward).__name__}, not a Reward or a number")
        return Reward(value=float(reward))

    async def close(self) -> None:
        environment = getattr(self, "environment", None)
        if environment is None:
            return
        try:
            if type(environment).close is not Environment.close:
                closing: Any = environment.close()
                if hasattr(closing, "__await__"):
                    await closing
        finally:
            environment.models = {}  # they lead back to it: cut, both are freed at once, and not by the collector

    def lost(self) -> Failure | None:
        return None


Result = TypeVar("Result")


async def _bounded(work: Awaitable[Result], limit_s: float, bound: str) -> Result:
    """
    Wait for what a plugin does.

    Raises:
        Late: it took longer than its limit.
    """
    try:
        async with asyncio.timeout(limit_s) as limit:
            return await work
    except TimeoutError as error:
        if limit.expired():
            raise Late(bound) from error
        raise


def _complaint(text: str) -> str:
    """Tell the model what was wrong with its tool call."""
    return encode_json({"error": text[:MESSAGE_LENGTH]}).decode()


async def _in_thread(method: Callable[..., Any], arguments: dict[str, Any], release: Callable[[], None]) -> Any:
    """
    Call a blocking method in a thread of its own.

    Not in the event loop's pool: there a few tools that hang would keep everybody waiting, and the process from ending.

    Args:
        method: What to call.
        arguments: With what.
        release: Called on the event loop when the thread has ended, or could not be started.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[Callable[[], Any]] = loop.create_future()

    def settle(outcome: Callable[[], Any]) -> None:
        release()
        if not ended.done():  # it is when the rollout did not wait
            ended.set_result(outcome)

    def work() -> None:
        outcome = _outcome_of(method, arguments)
        try:
            loop.call_soon_threadsafe(settle, outcome)
        except RuntimeError:  # the loop is closed: the run ended without this tool
            return

    context = contextvars.copy_context()
    try:
        threading.Thread(target=context.run, args=(work,), name="gymcore-tool", daemon=True).start()
    except BaseException:
        release()
        raise
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
