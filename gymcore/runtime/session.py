"""
One rollout from its open to its close: every fault of a plugin ends here, as a failure that names its stage.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from gymcore.alarms import Alarm, Alarms
from gymcore.documents import encode_json
from gymcore.errors import ModelError
from gymcore.interfaces import Agent, BoundModel, Environment, Model, RolloutContext
from gymcore.records import Failure, Reward, Rollout, Task, ToolCall, Trajectory, Turn, seed_of
from gymcore.responses import Item, Request, Response, function_call_output, message
from gymcore.runtime import in_process
from gymcore.runtime.abandon import abandon, whereabouts
from gymcore.runtime.faults import (
    MESSAGE_LENGTH,
    Fault,
    cancelled_by_plugin,
    describe_fault,
    during,
    is_from_outside,
    message_of,
)
from gymcore.runtime.in_process import TimeLimits
from gymcore.runtime.placement import Instance, Placement
from gymcore.runtime.schedule import Planned

__all__ = ["BoundToRollout", "OpenForAgent", "Session", "Stage", "check_trajectory", "first_request", "models_for"]

_OURS = (__file__, in_process.__file__)


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
    alarms: Alarms = field(default_factory=Alarms)

    def provenance_of(self, planned: Planned) -> dict[str, Any]:
        """Return what a rollout says of where it comes from."""
        route = planned.route
        played_by = {"agent": route.agent_plugin.name, "model": route.model}
        return {**self.provenance, **played_by, "seed": seed_of(self.seed, planned.key[1])}


class _Clock:
    """
    The time that a rollout may take; it stands while an endpoint is down.

    Args:
        limit_s: How much there is.
        strike: Called when it is used up.
        alarms: Who keeps the time.
    """

    __slots__ = ("_alarm", "_due", "_since", "_stops", "_strike", "waited_s")

    def __init__(self, limit_s: float, strike: Callable[[], None], alarms: Alarms) -> None:
        self._strike: Callable[[], None] | None = strike
        self._alarm: Alarm | asyncio.TimerHandle = alarms.after(limit_s, self._struck)
        self._due = self._alarm.due
        self._stops = 0
        self._since = 0.0
        self.waited_s = 0.0

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Do not count the time spent inside; several may stop it at once."""
        loop = asyncio.get_running_loop()
        if not self._stops:
            self._since = loop.time()
            self._alarm.cancel()
        self._stops += 1
        try:
            yield
        finally:
            self._stops -= 1
            if not self._stops:
                passed_s = loop.time() - self._since
                self.waited_s += passed_s
                self._due += passed_s
                if self._strike is not None:
                    self._alarm = loop.call_at(self._due, self._struck)  # what is left is of no common length

    def end(self) -> None:
        """Strike no more."""
        self._strike = None
        self._alarm.cancel()

    def _struck(self) -> None:
        strike, self._strike = self._strike, None
        if strike is not None:
            strike()


class BoundToRollout:
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


def models_for(models: Mapping[str, Model[Any]], context: Callable[[], RolloutContext]) -> Mapping[str, BoundModel]:
    """Return models as the verifier of one rollout sees them; each gets a context of its own."""
    return _Models(models, lambda model: BoundToRollout(model, context()))


class OpenForAgent:
    """An environment as the agent of one rollout sees it."""

    __slots__ = ("_instance", "max_turns", "request")

    def __init__(self, instance: Instance, request: Request, max_turns: int | None) -> None:
        self._instance = instance
        self.request = request
        self.max_turns = max_turns

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
    Plays one planned rollout, once.

    It plays in a task of its own: what a plugin does to its task reaches no other rollout, and a plugin that ignores
    its cancellation is left behind with it.

    Args:
        stage: What all rollouts share.
        planned: Which one to play.
        on_waiting: Told when its environment begins to wait for what is gone, before it has begun, and when that is
            over.
    """

    __slots__ = (
        "_clock",
        "_ended",
        "_error",
        "_failure",
        "_grace",
        "_instance",
        "_is_closing",
        "_is_late",
        "_is_over",
        "_is_stopped",
        "_is_waiting",
        "_limits",
        "_on_waiting",
        "_planned",
        "_reward",
        "_route",
        "_seed",
        "_stack",
        "_stage",
        "_stop",
        "_task",
        "_to_close",
        "_trajectory",
    )

    _clock: _Clock
    _ended: asyncio.Future[None]
    _instance: Instance
    _stack: AsyncExitStack
    _task: asyncio.Task[None]
    _to_close: list[Callable[[], Awaitable[None]]]

    def __init__(
        self, stage: Stage, planned: Planned, on_waiting: Callable[[Session, bool], None] | None = None
    ) -> None:
        self._stage = stage
        self._planned = planned
        self._route = planned.route
        self._limits = stage.limits[planned.route.environment]
        self._seed = seed_of(stage.seed, planned.key[1])
        self._trajectory = Trajectory()
        self._reward: Reward | None = None
        self._failure: Failure | None = None
        self._error: BaseException | None = None
        self._is_late = self._is_stopped = self._is_closing = self._is_over = self._is_waiting = False
        self._on_waiting = on_waiting
        self._grace: asyncio.TimerHandle | None = None
        self._stop: asyncio.TimerHandle | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether it has not begun, because its environment waits for what is gone."""
        return self._is_waiting and not self._is_closing and not self._is_over

    def _wait(self, is_waiting: bool) -> None:
        """Take note that the environment waits for what is gone, or goes on."""
        if is_waiting is not self._is_waiting and not self._is_closing and not self._is_over:
            self._is_waiting = is_waiting
            if self._on_waiting is not None:
                self._on_waiting(self, is_waiting)

    def cancel(self) -> None:
        """Stop playing; what is being closed or cleaned up already goes on, and after a while it is left behind."""
        if self._is_stopped or self._is_over:
            return
        self._is_stopped = True
        self._stop = asyncio.get_running_loop().call_later(self._limits.stop_s, self._give_up)
        if not self._is_closing:
            self._strike()

    async def play(self) -> Rollout:
        """
        Play, score and close.

        Returns:
            The rollout, with a reward or with a failure.

        Raises:
            EndpointError: no rollout of this run can be played any more.
            CancelledError: it was cancelled before its outcome was known, or whoever waited here was.
        """
        started_at, started = self._stage.now(), time.perf_counter()
        loop = asyncio.get_running_loop()
        place = self._stage.placements[self._route.environment]
        self._instance = instance = place.instance(self._planned, self._seed, self._models)
        self._stack = stack = AsyncExitStack()
        self._to_close = [instance.close, stack.aclose]
        self._clock = _Clock(self._limits.rollout_s, self._strike_late, self._stage.alarms)
        self._ended = loop.create_future()
        self._task = loop.create_task(self._run())
        self._task.add_done_callback(self._on_done)
        is_waiter_cancelled = False
        while not self._is_over:
            try:
                await self._ended
            except asyncio.CancelledError:
                is_waiter_cancelled = True
                if not self._is_over:
                    self._ended = loop.create_future()
                    self.cancel()
        if is_waiter_cancelled:
            raise asyncio.CancelledError
        if self._error is not None:
            error, self._error = self._error, None  # its traceback leads back to here
            raise error
        return Rollout(
            row=self._planned.row,
            repeat=self._planned.repeat,
            trajectory=self._trajectory,
            reward=self._reward,
            failure=self._failure,
            started_at=started_at,
            duration_s=time.perf_counter() - started,
            provenance=self._stage.provenance_of(self._planned),
        )

    async def _run(self) -> None:
        try:
            outcome = await self._play_open()
        except BaseException as error:
            if self._is_left:
                raise
            self._take_error(error)
        else:
            if self._is_left:
                return
            self._trajectory, self._reward = outcome
        await self._close()

    @property
    def _is_left(self) -> bool:
        """Whether this code was left behind: it is being closed, and nothing that it says counts any more."""
        try:
            return asyncio.current_task() is not self._task
        except RuntimeError:  # the event loop has ended
            return True

    def _take_error(self, error: BaseException) -> None:
        if isinstance(error, Fault) and self._is_late:
            self._failure = self._instance.lost() or self._describe_late(error)
        elif isinstance(error, Fault) and not self._is_stopped:
            self._failure = self._instance.lost() or describe_fault(error.stage, error.error, _OURS)
        elif isinstance(error, Fault):
            self._error = asyncio.CancelledError()  # it came of being stopped
        elif not isinstance(error, asyncio.CancelledError):
            self._error = error
        elif self._is_late:
            self._failure = self._describe_late()
        elif self._is_stopped:
            self._error = error
        else:
            self._failure = cancelled_by_plugin(getattr(error, "stage", "agent"))

    async def _close(self) -> None:
        """
        Close what models opened for this rollout, then the environment.

        Outside the bound on the rollout and safe from `cancel`: whatever ended it, it is closed once, and whole.
        """
        self._clock.end()
        self._is_closing = True
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None
        if self._task.cancelling():
            await self._absorb()
        while self._to_close:
            try:
                await self._closed(self._to_close.pop())
            except BaseException as error:
                if self._is_left:
                    raise
                self._error = error
            if self._is_left:
                return
        self._settle()

    async def _closed(self, close: Callable[[], Awaitable[None]]) -> None:
        """Wait for a clean-up within its bound; a failed one does not change the outcome, which is known by now."""
        limit = self._stage.alarms.after(self._limits.close_s, self._strike)
        try:
            await close()
        except BaseException as error:  # whatever class a plugin made
            if is_from_outside(error):
                raise
        finally:
            limit.cancel()
            if self._grace is not None:
                self._grace.cancel()
                self._grace = None

    async def _absorb(self) -> None:
        """Take what is left of a cancellation, which would hit the clean-up."""
        while self._task.cancelling():
            self._task.uncancel()
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            return

    def _settle(self) -> None:
        """Let `play` return, and drop what refers back to here, so that nothing waits for the garbage collector."""
        if self._is_over:
            return
        self._is_over = True
        self._clock.end()
        if self._grace is not None:
            self._grace.cancel()
        if self._stop is not None:
            self._stop.cancel()
        del self._stack, self._instance
        if not self._ended.done():
            self._ended.set_result(None)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        """See to it that nobody waits for a task that never began, or that ended where it should not."""
        if task is not self._task or self._is_over:
            return
        if not task.cancelled() and (error := task.exception()) is not None:
            self._error = error
        elif self._is_stopped:
            self._error = asyncio.CancelledError()
        elif not self._is_closing:
            self._failure = cancelled_by_plugin("open")
        self._settle()

    def _strike_late(self) -> None:
        if not self._is_stopped:  # then it is being ended already, and owed again
            self._is_late = True
            self._strike()

    def _strike(self) -> None:
        """Cancel what the plugins do, and give them a while to clean up."""
        self._task.cancel()
        if self._grace is None:
            self._grace = asyncio.get_running_loop().call_later(self._limits.grace_s, self._abandon)

    def _abandon(self) -> None:
        """Go on without a task that ignored its cancellation: what is still to be closed is closed in another."""
        self._grace = None
        task = self._task
        if not self._is_closing:
            self._blame(whereabouts(task))
        self._task = asyncio.get_running_loop().create_task(self._close())
        self._task.add_done_callback(self._on_done)
        abandon(task)

    def _give_up(self) -> None:
        """Wait for nothing any more: a person wants to leave."""
        if not self._is_over:
            if not self._is_closing:
                self._blame(None)
            abandon(self._task)
            self._settle()

    def _blame(self, where: str | None) -> None:
        """Write down that the outcome is not waited for any more."""
        if self._is_late:
            late = self._describe_late()
            ignored = f"{late.message}, ignored its cancellation for {self._limits.grace_s:g} s, and was left behind"
            self._failure = late.model_copy(update={"message": ignored, "location": where})
        else:
            self._error = asyncio.CancelledError()

    def _describe_late(self, fault: Fault | None = None) -> Failure:
        """Say that the bound was met; `fault` is what a plugin made of being cancelled for it."""
        bound = self._limits.late_rollout()
        if fault is not None:
            bound += f", and ended in {fault.stage} with {type(fault.error).__name__}: {message_of(fault.error)}"
        return Failure(stage="timeout", error=TimeoutError.__name__, message=bound[:MESSAGE_LENGTH], retryable=True)

    def _models(self, environment: Environment[Any, Any]) -> Mapping[str, BoundModel]:
        # Judges get a context of their own, or their retries would be counted as the policy's.
        stack, clock, key, seed = self._stack, self._clock, self._planned.key, self._seed
        return models_for(self._stage.models, lambda: RolloutContext(environment, key, seed, stack, clock=clock))

    async def _play_open(self) -> tuple[Trajectory, Reward]:
        instance = self._instance
        with during("open"):
            await instance.open(self._wait)
            self._wait(False)
            request = instance.request
            max_turns = instance.max_turns
        context = RolloutContext(instance.environment, self._planned.key, self._seed, self._stack, clock=self._clock)
        policy = BoundToRollout(self._stage.models[self._route.model], context)
        request = first_request(request, self._route.plan.params)
        with during("agent"):
            agent = self._stage.agents[self._route.name]
            trajectory: Any = await agent.play(OpenForAgent(instance, request, max_turns), policy)
            check_trajectory(trajectory)
        with during("verify"):
            return trajectory, await instance.verify(trajectory)


def first_request(request: Request, params: Mapping[str, Any]) -> Request:
    """Return what a task asks first, with the create parameters that the plan adds; no tools means those it offers."""
    if not params:
        return request
    offered = request.params["tools"]
    request = replace(request, params={**request.params, **params})
    if request.params["tools"] is None:
        request = replace(request, params={**request.params, "tools": offered})
    return request


def check_trajectory(trajectory: Any) -> None:
    """
    Refuse what could not be written down, or would read back as something else.

    Raises:
        TypeError: it is no trajectory of JSON objects; with the place.
    """
    if not isinstance(trajectory, Trajectory):
        raise TypeError(f"play() returned a {type(trajectory).__name__}, not a Trajectory")
    _check_type("stop", trajectory.stop, str)
    _check_type("envelope", trajectory.envelope, dict)
    for number, turn in enumerate(trajectory.turns):
        if not isinstance(turn, Turn):
            raise TypeError(f"play() returned a Trajectory with a {type(turn).__name__} among its turns")
        if not _is_plain(turn):
            for name, kinds in _OF_A_TURN.items():
                _check_type(f"turns[{number}].{name}", getattr(turn, name), *kinds)
            raise TypeError(f"play() returned a Trajectory whose turns[{number}] holds items that are no JSON objects")


def _is_plain(turn: Turn) -> bool:
    """Whether a turn holds what it says; spelled out, because every turn passes here."""
    usage, response_id, status = turn.usage, turn.response_id, turn.status
    if not (
        isinstance(turn.output, tuple)
        and isinstance(turn.results, tuple)
        and (usage is None or isinstance(usage, dict))
        and (response_id is None or isinstance(response_id, str))
        and (status is None or isinstance(status, str))
        and isinstance(turn.duration_s, (float, int))
        and isinstance(turn.attempts, int)
    ):
        return False
    for item in turn.items:  # noqa: SIM110, a generator would cost more than it looks at
        if not isinstance(item, dict):
            return False
    return True


_OF_A_TURN: dict[str, tuple[type, ...]] = {
    "output": (tuple,),
    "results": (tuple,),
    "usage": (dict, type(None)),
    "response_id": (str, type(None)),
    "status": (str, type(None)),
    "duration_s": (float, int),
    "attempts": (int,),
}


def _check_type(name: str, value: Any, *kinds: type) -> None:
    if not isinstance(value, kinds):
        wanted = " or ".join("None" if kind is type(None) else kind.__name__ for kind in kinds)
        raise TypeError(f"play() returned a Trajectory whose {name} is a {type(value).__name__}, not {wanted}")
