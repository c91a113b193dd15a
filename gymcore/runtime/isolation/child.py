"""
The side of the worker process: plays an environment as a run would in its own process, and answers over a socket.

    python -m gymcore.runtime.isolation.child DESCRIPTOR PARENT
"""

from __future__ import annotations

import asyncio
import faulthandler
import importlib
import itertools
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Any

from gymcore import __version__
from gymcore.documents import encode_json
from gymcore.errors import EndpointError, GymcoreError, PluginError
from gymcore.interfaces import BoundModel, Environment, Solution
from gymcore.interpreters.options_json import config_from_json
from gymcore.records import Failure, FailureStage, ToolCall, Turn
from gymcore.responses import Request, Response, message
from gymcore.runtime import in_process
from gymcore.runtime.abandon import abandon
from gymcore.runtime.faults import MESSAGE_LENGTH, Fault, cancelled_by_plugin, describe_fault, during, is_from_outside
from gymcore.runtime.in_process import InProcess, TimeLimits
from gymcore.runtime.isolation.channel import Channel, FrameError, Message, connect, socket_of
from gymcore.runtime.isolation.orphans import end_with
from gymcore.runtime.isolation.wire import (
    error_from_json,
    error_to_json,
    request_to_json,
    response_from_json,
    step_to_json,
    trajectory_from_json,
    turn_from_json,
)
from gymcore.runtime.placement import Instance

__all__ = ["main"]

_STAGES: Mapping[str, FailureStage] = {
    "open": "open",
    "call": "tool",
    "reply": "reply",
    "step": "model",
    "verify": "verify",
}
"""What a fault is blamed on."""


class _RelayedModel:
    """A model of the run, asked through the run."""

    __slots__ = ("_name", "_player", "attempts", "waited_s")

    def __init__(self, player: _Player, name: str) -> None:
        self._player = player
        self._name = name
        self.attempts = 0
        self.waited_s = 0.0

    async def respond(self, request: Request) -> Response:
        answer = await self._player.ask_model(self._name, request)
        self.attempts, self.waited_s = answer["attempts"], answer["waited_s"]
        return response_from_json(answer["response"])

    async def ask(self, text: str) -> str:
        response = await self.respond(Request(input=(message(text, role="user"),)))
        return Turn(output=tuple(response.output)).text


class _RelayedModels(Mapping[str, BoundModel]):
    """The models that an environment may ask."""

    __slots__ = ("_made", "_names", "_player")

    def __init__(self, player: _Player, names: list[str]) -> None:
        self._player = player
        self._names = names
        self._made: dict[str, BoundModel] = {}

    def __getitem__(self, name: str) -> BoundModel:
        if name not in self._names:
            raise KeyError(name)
        return self._made.setdefault(name, _RelayedModel(self._player, name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class _Player:
    """
    Plays one rollout in one task: what `open` entered there, `close` may leave there. Tools run side by side.

    What ignores its cancellation is left behind after a while, and the rest is done in another task.
    """

    def __init__(self, worker: _Worker, number: int) -> None:
        self._worker = worker
        self._number = number
        self._loop = asyncio.get_running_loop()
        self._asked: asyncio.Queue[Message] = asyncio.Queue()
        self._doing = 0
        """The number of what is done in the task itself."""
        self._unwanted: set[int] = set()
        """Numbers of what the run has cancelled: it waits for no answer."""
        self._calls: dict[int, asyncio.Task[None]] = {}
        self._instance: Instance | None = None
        self._solution: Solution | None = None
        self._closing: Message | None = None
        self._to_close = [self._close_instance, self._close_solution, self._end_calls]
        self._grace: asyncio.TimerHandle | None = None
        self._begin()

    def take(self, asked: Message) -> None:
        """Do something, after what is being done; before closing, that is stopped."""
        if asked["do"] == "close" and self._doing:
            self.cancel(self._doing)
        self._asked.put_nowait(asked)

    def cancel(self, number: int) -> None:
        """Stop doing something, or do not begin with it; closing goes on with what is to be closed next."""
        self._unwanted.add(number)
        if number in self._calls:
            self._stop(self._calls[number])
        elif number == self._doing:
            self._strike()

    async def ask_model(self, name: str, request: Request) -> Message:
        """Have the run ask a model."""
        return await self._worker.ask_model(self._number, name, request)

    @property
    def _limits(self) -> TimeLimits:
        return self._worker.place.limits

    @property
    def _is_left(self) -> bool:
        """Whether this code was left behind: it is being closed, and must take nothing more."""
        return asyncio.current_task() is not self._task

    def _begin(self) -> None:
        self._task = asyncio.create_task(self._play())
        self._task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        if task is self._task:
            self._worker.leave(self._number, task)

    async def _play(self) -> None:
        while self._closing is None:
            asked = await self._next()
            if asked["do"] == "close":
                self._closing = asked
            elif asked["number"] in self._unwanted:
                continue
            elif asked["do"] == "call":
                # Made here, so that a tool sees the context that `open` left.
                call = asyncio.create_task(self._answer(asked))
                self._calls[asked["number"]] = call
                call.add_done_callback(partial(self._leave, asked["number"]))
            else:
                self._doing = asked["number"]
                await self._answer(asked)
                if self._is_left:
                    return
                await self._settle()
        await self._close(self._closing["number"])

    async def _next(self) -> Message:
        while True:
            try:
                return await self._asked.get()
            except asyncio.CancelledError:  # by a plugin, or too late for what it was meant for
                self._forget_cancellation()

    def _leave(self, number: int, done: asyncio.Task[None]) -> None:
        del self._calls[number]

    def _strike(self) -> None:
        """Cancel what is done in the task itself, and give it a while to clean up."""
        self._task.cancel()
        if self._grace is None:
            self._grace = self._loop.call_later(self._limits.grace_s, self._abandon)

    def _abandon(self) -> None:
        """Go on without what ignored its cancellation."""
        left, self._grace, self._doing = self._task, None, 0
        self._begin()
        abandon(left)

    def _stop(self, call: asyncio.Task[None]) -> None:
        call.cancel()
        self._loop.call_later(self._limits.grace_s, abandon, call)

    async def _settle(self) -> None:
        """Take note that something is done, and take what is left of a cancellation, which would hit the next."""
        self._doing = 0
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None
        if self._task.cancelling():
            self._forget_cancellation()
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0)

    def _forget_cancellation(self) -> None:
        while self._task.cancelling():
            self._task.uncancel()

    async def _answer(self, asked: Message) -> None:
        """Do what is asked, and say what came of it; nothing where the run no longer wants to know."""
        number = asked["number"]
        try:
            with during(_STAGES[asked["do"]]):
                value = await self._do(asked)
            self._worker.send({"is": "done", "number": number, "value": value})
        except Fault as fault:
            failure = describe_fault(fault.stage, fault.error, (__file__, in_process.__file__))
            self._worker.send({"is": "error", "number": number, "error": error_to_json(failure)})
        except EndpointError as error:
            self._worker.send({"is": "error", "number": number, "error": error_to_json(error)})
        except FrameError as error:
            stage = _STAGES[asked["do"]]
            failure = Failure(stage=stage, error=type(error).__name__, message=str(error), retryable=False)
            self._worker.send({"is": "error", "number": number, "error": error_to_json(failure)})
        except asyncio.CancelledError:
            if number not in self._unwanted:
                failure = cancelled_by_plugin(_STAGES[asked["do"]])
                self._worker.send({"is": "error", "number": number, "error": error_to_json(failure)})
        finally:
            self._unwanted.discard(number)

    async def _do(self, asked: Message) -> Any:
        match asked["do"]:
            case "open":
                models = _RelayedModels(self, asked["models"])
                self._instance = self._worker.place.instance_of(
                    encode_json(asked["row"]), asked["seed"], lambda _: models
                )
                await self._instance.open(self._tell_waiting)
                return {
                    "request": request_to_json(self._instance.request),
                    "max_turns": self._instance.max_turns,
                }
        instance = self._instance
        assert instance is not None
        match asked["do"]:
            case "call":
                return await instance.call(ToolCall(asked["name"], asked["arguments"], asked["call_id"]))
            case "reply":
                return await instance.reply(turn_from_json(asked["turn"]))
            case "step":
                return await self._step(instance, asked["value"])
            case "verify":
                reward = await instance.verify(trajectory_from_json(asked["trajectory"]))
                return reward.model_dump()
        return None

    def _tell_waiting(self, is_waiting: bool) -> None:
        self._worker.send({"is": "waits", "rollout": self._number, "value": is_waiting})

    async def _step(self, instance: Instance, value: Any) -> Any:
        if self._solution is None:
            self._solution = instance.environment.solve()
        try:
            step = await self._solution.asend(value)
        except StopAsyncIteration:
            return None
        return step_to_json(step)

    async def _close(self, number: int) -> None:
        """Close as a session does: each part within its bound, and how it goes does not change what is known by now."""
        while self._to_close:
            self._doing = number
            limit = self._loop.call_later(self._limits.close_s, self._strike)
            try:
                await self._to_close.pop()()
            except BaseException as error:  # whatever class a plugin made
                if is_from_outside(error):
                    raise
            finally:
                limit.cancel()
            if self._is_left:
                return
            await self._settle()
        self._worker.send({"is": "done", "number": number})

    async def _end_calls(self) -> None:
        calls = list(self._calls.values())
        for call in calls:
            self._stop(call)
        if calls:
            await asyncio.wait(calls)

    async def _close_solution(self) -> None:
        if self._solution is not None:
            await self._solution.aclose()

    async def _close_instance(self) -> None:
        if self._instance is not None:
            await self._instance.close()


class _Worker:
    """What this process is: one environment and the rollouts in it."""

    place: InProcess

    def __init__(self) -> None:
        self._channel = Channel(self._on_message, self._on_end)
        self._players: dict[int, _Player] = {}
        self._stack = AsyncExitStack()
        self._over = asyncio.Event()
        self._numbers = itertools.count(1)
        self._asking: dict[int, asyncio.Future[Message]] = {}
        self._hello: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._end = 0

    async def serve(self, descriptor: int) -> None:
        """Open the environment, play until the run is over, and close it."""
        await connect(socket_of(descriptor), self._channel)
        logging.getLogger("gymcore").addHandler(_Sayings(lambda line: self.send({"is": "says", "line": line})))
        hello = await self._hello
        number = hello["number"]
        try:
            self.place = await self._open(hello)
        except GymcoreError as error:
            self.send({"is": "error", "number": number, "error": error_to_json(error)})
        except (Exception, SystemExit) as error:
            plugin = PluginError(f"{hello['target']} could not be opened: {type(error).__name__}: {error}")
            self.send({"is": "error", "number": number, "error": error_to_json(plugin)})
        else:
            self.send({"is": "done", "number": number})
        await self._over.wait()
        said = None
        try:
            await self._stack.aclose()
        except (Exception, SystemExit) as error:
            said = f"{type(error).__name__}: {error}"
        self.send({"is": "done", "number": self._end, "value": said})

    async def _open(self, hello: Message) -> InProcess:
        if hello["path"] is not None:
            sys.path[:] = hello["path"]
        importlib.invalidate_caches()
        if hello["version"] != __version__:
            raise PluginError(f"the worker has gymcore {__version__}, and the run {hello['version']}")
        if hello["memory_mb"] is not None:
            _bound_memory(hello["memory_mb"] * 2**20)
        module, _, name = hello["target"].partition(":")
        environment_class: Any = importlib.import_module(module)
        for part in name.split("."):
            environment_class = getattr(environment_class, part)
        assert issubclass(environment_class, Environment)
        config = config_from_json(environment_class.config_model, hello["config"])
        resources = await self._stack.enter_async_context(environment_class.shared(config))
        return InProcess(environment_class, config, resources, TimeLimits(**hello["limits"]))

    def send(self, message: Message) -> None:
        """Say something to the run."""
        self._channel.send(message)

    async def ask_model(self, rollout: int, name: str, request: Request) -> Message:
        """
        Have the run ask a model.

        Raises:
            Fault: it could not answer.
            EndpointError: none can, for anybody.
        """
        number = next(self._numbers)
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._asking[number] = answer
        where = {"ask": number, "rollout": rollout}
        try:
            self.send({"is": "asks", **where, "model": name, "request": request_to_json(request)})
            said = await answer
        except asyncio.CancelledError:
            self.send({"is": "unasks", **where})
            raise
        finally:
            del self._asking[number]
        if "error" not in said:
            return said
        error = error_from_json(said["error"])
        if isinstance(error, GymcoreError):
            raise error
        raise Fault("model", error)

    def _on_message(self, asked: Message) -> None:
        match asked["do"]:
            case "hello":
                self._hello.set_result(asked)
            case "ping":
                self.send({"is": "done", "number": asked["number"]})
            case "answer":
                if (answer := self._asking.get(asked["ask"])) is not None and not answer.done():
                    answer.set_result(asked)
            case "cancel":
                if (player := self._players.get(asked["rollout"])) is not None:
                    player.cancel(asked["number"])
            case "end":
                self._end = asked["number"]
                self._over.set()
            case "open":
                player = self._players[asked["rollout"]] = _Player(self, asked["rollout"])
                player.take(asked)
            case _:
                if (player := self._players.get(asked["rollout"])) is not None:
                    player.take(asked)
                else:
                    self.send({"is": "done", "number": asked["number"]})  # closed already

    def leave(self, rollout: int, done: asyncio.Task[None]) -> None:
        """Take note that a rollout is over."""
        del self._players[rollout]
        if not done.cancelled() and (error := done.exception()) is not None:
            traceback.print_exception(error)  # a bug of ours
            os._exit(70)

    def _on_end(self, nonsense: str | None) -> None:
        if not self._over.is_set():
            sys.stderr.write(f"the connection ended{'' if nonsense is None else f': the run sent {nonsense}'}\n")
            os._exit(1)


class _Sayings(logging.Handler):
    """Has the run say what is said here for a person: what a worker prints nobody sees."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._loop = asyncio.get_running_loop()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        """Say it there, from whatever thread."""
        with suppress(RuntimeError):  # the loop is closed: nobody is left who could
            self._loop.call_soon_threadsafe(self._say, record.getMessage()[:MESSAGE_LENGTH])


def _bound_memory(size: int) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (size, size))


async def _serve(descriptor: int) -> None:
    await _Worker().serve(descriptor)


def main(arguments: list[str]) -> None:
    """Play until the run that started this process is over, or gone."""
    descriptor, parent = map(int, arguments)
    end_with(parent, descriptor)
    faulthandler.enable(all_threads=False)
    os.set_inheritable(descriptor, False)
    try:
        from uvloop import new_event_loop
    except ImportError:
        asyncio.run(_serve(descriptor))
    else:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(_serve(descriptor))


if __name__ == "__main__":
    main(sys.argv[1:])
