"""
The side of the run: an environment whose rollouts play in other processes, behind the same surface as one of this.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import orjson

from gymcore.documents import decode_json
from gymcore.errors import EndpointError, PluginError
from gymcore.interfaces import BoundModel, Config, Environment, Solution
from gymcore.interpreters.options_json import config_to_json
from gymcore.interpreters.stand_in import StandIn
from gymcore.records import Failure, Reward, Task, ToolCall, Trajectory, Turn
from gymcore.responses import Request
from gymcore.runtime.faults import Fault, describe_fault, told
from gymcore.runtime.in_process import TimeLimits
from gymcore.runtime.isolation.channel import FrameError, Message
from gymcore.runtime.isolation.crew import Crew
from gymcore.runtime.isolation.launch import Launch
from gymcore.runtime.isolation.wire import (
    error_to_json,
    request_from_json,
    response_to_json,
    step_from_json,
    trajectory_to_json,
    turn_to_json,
)
from gymcore.runtime.isolation.worker import SLACK_S, Worker, WorkerDied
from gymcore.runtime.placement import Instance, Models, OnWaiting
from gymcore.runtime.schedule import Planned

__all__ = ["Isolated", "open_isolated"]


@asynccontextmanager
async def open_isolated(
    launch: Launch, environment_class: type[Environment[Any, Any]], config: Config, limits: TimeLimits
) -> AsyncIterator[Isolated]:
    """
    Start the workers of an environment, and end them after the block.

    Args:
        launch: How they are started.
        environment_class: What they play; here only its names and types are looked at.
        config: Its options.
        limits: How long the parts of a rollout may take.

    Raises:
        PluginError: the environment could not be opened, or what its rollouts share not be closed.
    """
    place = Isolated(launch, environment_class, config, limits)
    await place.crew.open()
    try:
        yield place
    except BaseException:
        with suppress(PluginError):  # what ended the run is the news
            await place.crew.close()
        raise
    await place.crew.close()


class Isolated:
    """Plays an environment in processes of its own; `open_isolated` makes it."""

    def __init__(
        self, launch: Launch, environment_class: type[Environment[Any, Any]], config: Config, limits: TimeLimits
    ) -> None:
        try:
            hello = {"config": config_to_json(config)}
        except (TypeError, ValueError) as error:
            raise PluginError(f"{launch.plugin} cannot be isolated: {error}", plugin=launch.plugin) from None
        # Rows were checked when they were composed; a class from elsewhere would have to be asked again.
        is_elsewhere = issubclass(environment_class, StandIn)
        self.task_model: type[Task] = Task if is_elsewhere else environment_class.task_model
        self.config = config
        self.limits = limits
        self.crew = Crew(launch, hello, limits, self._on_news)
        self.shown_class: type[_Shown] = type(environment_class.__name__, (_Shown,), {})
        """Called as the real one, because messages name it."""
        self.instances: dict[int, _Remote] = {}
        self.numbers = itertools.count(1)

    def instance(self, planned: Planned, seed: int, models: Models) -> Instance:
        """Return what plays one rollout."""
        return _Remote(self, planned.row.data, seed, models)

    async def aggregate_metrics(self, rollouts: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
        """Nobody is asked: what the rollouts share is in many processes, or in one that is being started."""
        return {}

    def status(self) -> str | None:
        """Say what a person should know at this moment."""
        return self.crew.status()

    def _on_news(self, worker: Worker, message: Message) -> None:
        instance = self.instances.get(message["rollout"])
        if instance is not None:
            instance.on_news(worker, message)


class _Shown(Environment[Any, Any]):
    """An environment as models see it: its task and options, and a reference solution that is played elsewhere."""

    def __init__(self, instance: _Remote, place: Isolated, seed: int) -> None:
        self.config = place.config
        self.seed = seed
        self.models = {}
        self.resources = None
        self._instance = instance

    def __getattr__(self, name: str) -> Any:
        if name == "task":  # checked only when somebody looks
            return self._instance.task
        raise AttributeError(f"{type(self).__name__} plays in another process; {name!r} is not here")

    async def solve(self) -> Solution:
        """Take the steps of the solution there."""
        value: Any = None
        while True:
            step = await self._instance.step(value)
            if step is None:
                return
            value = yield step_from_json(step)


class _Remote:
    """One rollout in a worker."""

    __slots__ = (
        "_asked",
        "_bound",
        "_data",
        "_models",
        "_number",
        "_on_waiting",
        "_place",
        "_task",
        "_worker",
        "environment",
        "max_turns",
        "request",
    )

    request: Request
    max_turns: int | None
    _on_waiting: OnWaiting

    def __init__(self, place: Isolated, data: bytes, seed: int, models: Models) -> None:
        self._place = place
        self._data = data
        self._models = models
        self._worker: Worker | None = None
        self._number = 0
        self._task: Task | None = None
        self._bound: Mapping[str, BoundModel] = {}
        self._asked: dict[int, asyncio.Task[None]] = {}
        self.environment: Environment[Any, Any] = place.shown_class(self, place, seed)

    @property
    def task(self) -> Task:
        """The task as its row says it; the environment's own copy stays with the environment."""
        if self._task is None:
            self._task = self._place.task_model.model_validate(decode_json(self._data))
        return self._task

    def lost(self) -> Failure | None:
        worker = self._worker
        if worker is None or worker.death is None:
            return None
        return Failure(stage="worker", error=WorkerDied.__name__, message=worker.death[:2000], retryable=True)

    async def open(self, on_waiting: OnWaiting) -> None:
        place = self._place
        self._on_waiting = on_waiting
        worker = await place.crew.worker()
        self._worker = worker
        worker.in_flight += 1
        self._number = next(place.numbers)
        place.instances[self._number] = self
        self._bound = self._models(self.environment)
        row, seed = orjson.Fragment(self._data), self.environment.seed
        opened = await self._ask("open", row=row, seed=seed, models=list(self._bound))
        self.request, self.max_turns = request_from_json(opened["request"]), opened["max_turns"]

    async def call(self, call: ToolCall) -> str:
        limits = self._place.limits
        text: str = await self._ask(
            "call",
            limits.late_tool(call.name),
            limits.tool_s,
            name=call.name,
            arguments=call.arguments,
            call_id=call.call_id,
        )
        return text

    async def reply(self, turn: Turn) -> str | None:
        answer: str | None = await self._ask("reply", turn=turn_to_json(turn))
        return answer

    async def step(self, value: Any) -> Any:
        """Take the next step of the reference solution; None after the last."""
        return await self._ask("step", value=value)

    async def verify(self, trajectory: Trajectory) -> Reward:
        limits = self._place.limits
        value = await self._ask(
            "verify", limits.late_verifier(), limits.verify_s, trajectory=trajectory_to_json(trajectory)
        )
        assert self._worker is not None
        self._place.crew.finished(self._worker)
        return Reward.model_validate(value)

    async def close(self) -> None:
        worker = self._worker
        if worker is None or self._number not in self._place.instances:
            return
        try:
            await self._ask("close")
        finally:
            del self._place.instances[self._number]
            worker.in_flight -= 1
            for asked in self._asked.values():
                asked.cancel()

    async def _ask(self, do: str, bound: str = "", limit_s: float | None = None, **fields: Any) -> Any:
        assert self._worker is not None
        if limit_s is None:  # what only the bound on the rollout bounds, as long as it does not block the others
            limit_s = max(self._place.limits.tool_s, self._place.limits.verify_s)
            bound = f"{do} blocked its process for {limit_s + SLACK_S:g} s"
        try:
            return await self._worker.ask(do, bound, limit_s, is_bounded_there=True, rollout=self._number, **fields)
        except WorkerDied as error:
            failure = Failure(stage="worker", error=WorkerDied.__name__, message=str(error)[:2000], retryable=True)
            raise told(failure) from None

    def on_news(self, worker: Worker, message: Message) -> None:
        """
        Pass on whether the environment waits, and put what it asks a model to that model.

        Keys and connections of models are here, and not there.
        """
        if message["is"] == "waits":
            self._on_waiting(message["value"])
            return
        number = message["ask"]
        if message["is"] == "unasks":
            if (asked := self._asked.get(number)) is not None:
                asked.cancel()
            return
        asking = asyncio.create_task(self._relay(worker, message))
        self._asked[number] = asking
        asking.add_done_callback(lambda _: self._asked.pop(number, None))

    async def _relay(self, worker: Worker, message: Message) -> None:
        model = self._bound[message["model"]]
        answer: Message
        try:
            response = await model.respond(request_from_json(message["request"]))
            answer = {"response": response_to_json(response), "attempts": model.attempts, "waited_s": model.waited_s}
        except Fault as fault:
            answer = {"error": error_to_json(describe_fault(fault.stage, fault.error))}
        except EndpointError as error:
            answer = {"error": error_to_json(error)}
        try:
            worker.tell("answer", ask=message["ask"], **answer)
        except FrameError as error:
            failure = Failure(stage="model", error=FrameError.__name__, message=str(error), retryable=False)
            worker.tell("answer", ask=message["ask"], error=error_to_json(failure))
