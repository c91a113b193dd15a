"""
One worker, seen from the run: a process, the requests it has not answered yet, and how it ended.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from gymcore import __version__
from gymcore.runtime.brackets import log
from gymcore.runtime.faults import Late
from gymcore.runtime.in_process import TimeLimits
from gymcore.runtime.isolation.channel import Channel, Message, connect, connected_pair
from gymcore.runtime.isolation.launch import Launch
from gymcore.runtime.isolation.output import Output, one_line
from gymcore.runtime.isolation.wire import error_from_json

__all__ = ["PRINTED", "SLACK_S", "Worker", "WorkerDied"]

PRINTED = "; it printed last: "
"""What stands in a message before the end of what a worker printed."""

BEAT_S = 0.25
EXIT_S = 5.0
"""For an interpreter to end by itself."""
LAST_WORDS_S = 0.5
"""For reading what a dead process has sent."""
SLACK_S = 1.0
"""A worker keeps the bounds of its tools itself; one that is asked then and silent for so long is unable to."""


class WorkerDied(Exception):
    """The process that should have answered is dead; the message says how it died."""


@dataclass(slots=True)
class _Waiting:
    """A request that is not answered yet."""

    answer: asyncio.Future[Any]
    since: float
    """When it was sent, as the loop counts time."""
    limit_s: float
    bound: str
    is_bounded_there: bool

    def fail(self, error: Exception) -> None:
        """Let whoever waits for the answer have an error, unless there is an answer."""
        if not self.answer.done():
            self.answer.set_exception(error)


class _Process:
    """
    A process whose exit calls something on the running event loop.

    Not asyncio's, which is connected by a task: where a plugin cancels that, nobody is ever told that it has ended.

    Args:
        command: The program and its arguments.
        on_exit: What is called.
        options: How it is started, in a session of its own, as for `subprocess.Popen`.

    Attributes:
        code: Its exit code, or the negative number of a signal; None until the event loop knows of its end.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, command: Sequence[str], on_exit: Callable[[], None], **options: Any) -> None:
        self.code: int | None = None
        self._on_exit = on_exit
        self._loop = asyncio.get_running_loop()
        self._process = subprocess.Popen(command, start_new_session=True, **options)
        try:
            threading.Thread(target=self._wait, name="gymcore-worker", daemon=True).start()
        except RuntimeError as error:  # there are too many
            self.kill()
            self._process.wait()
            raise OSError(errno.EAGAIN, str(error)) from None

    def kill(self) -> None:
        """Kill it and everything in its group, unless it has ended: its id may be another's then."""
        if self._process.returncode is None:
            _kill_group(self._process.pid)

    def _wait(self) -> None:
        code = self._process.wait()
        _kill_group(self._process.pid)  # what it has started and left behind
        with suppress(RuntimeError):  # the event loop has ended, and nobody waits any more
            self._loop.call_soon_threadsafe(self._exited, code)

    def _exited(self, code: int) -> None:
        self.code = code
        self._on_exit()


class Worker:
    """
    A process in which an environment plays; `start` makes it.

    It is watched by callbacks and not by a task: a plugin elsewhere in the run may cancel every task there is.

    Args:
        launch: How it is started.
        on_news: Given what it asks of a model, and what it says of a rollout.
        on_death: Called when it has ended.

    Attributes:
        in_flight: Rollouts that were given to it and not taken back.
        death: How it ended, once it has.
    """

    def __init__(
        self, launch: Launch, on_news: Callable[[Worker, Message], None], on_death: Callable[[Worker], None]
    ) -> None:
        self.in_flight = 0
        self.death: str | None = None
        self._launch = launch
        self._on_news = on_news
        self._on_death = on_death
        self._loop = asyncio.get_running_loop()
        self._channel = Channel(self._on_message, self._on_hang_up)
        self._has_hung_up = False
        self._dead = asyncio.Event()
        self._waiting: dict[int, _Waiting] = {}
        self._numbers = itertools.count(1)
        self._reason: str | None = None
        self._heard_at = self._beat_at = self._loop.time()
        self._probed_at = 0.0
        self._suspect: _Waiting | None = None
        """The request over which it was asked whether it still answers."""
        self._process: _Process
        self._output: Output
        self._timer: asyncio.TimerHandle

    async def start(self, hello: Message, limits: TimeLimits) -> None:
        """
        Start the process, and wait until it can play.

        Raises:
            PluginError: the environment could not be opened there.
            WorkerDied: the process ended, or was not ready in time.
        """
        launch = self._launch
        ours, theirs = connected_pair()
        self._output = Output(self._loop)
        try:
            self._process = _Process(
                launch.command(theirs.fileno()),
                self._on_exit,
                stdin=subprocess.DEVNULL,
                stdout=self._output.writing,
                stderr=self._output.writing,
                pass_fds=(theirs.fileno(),),
                env=launch.visible(os.environ),
            )
        except BaseException as error:
            ours.close()
            self._output.close()
            self.death = "no process could be started"
            if isinstance(error, OSError):
                raise WorkerDied(f"{self.death}: {error.strerror}") from None
            raise
        finally:
            theirs.close()
            os.close(self._output.writing)
        self._timer = self._loop.call_later(BEAT_S, self._beat)
        bound = f"was not ready within {launch.start_s:g} s"
        about: dict[str, Any] = {
            "version": __version__,
            "path": launch.path(),
            "target": launch.target,
            "limits": asdict(limits),
        }
        try:
            await connect(ours, self._channel)
            await self.ask("hello", bound, launch.start_s, memory_mb=launch.memory_mb, **about, **hello)
        except Late:
            await self.kill(f"it {bound}")
            raise WorkerDied(self.death) from None
        except BaseException:
            await self.kill("it is not needed any more")
            raise

    async def ask(
        self, do: str, bound: str, limit_s: float, /, *, is_bounded_there: bool = False, **fields: Any
    ) -> Any:
        """
        Have something done.

        Args:
            do: What.
            bound: What the error says when it takes too long.
            limit_s: How long it may take.
            is_bounded_there: Whether the process bounds it itself, as long as nothing blocks it. What does is done one
                after the other there, so the request is late only when the process was silent for as long, and then
                does not answer when it is asked whether it still can.
            fields: What it needs.

        Returns:
            What came of it: a plain value.

        Raises:
            Late: it took too long.
            WorkerDied: the process ended first.
            Told: the environment raised.
            FrameError: something is too large to be sent.
        """
        if self.death is not None:
            raise WorkerDied(self.death)
        number = next(self._numbers)
        waiting = _Waiting(self._loop.create_future(), self._loop.time(), limit_s, bound, is_bounded_there)
        self._waiting[number] = waiting
        try:
            self._channel.send({"do": do, "number": number, **fields})
            await self._channel.drained()
            return await waiting.answer
        except (Late, asyncio.CancelledError):
            self._channel.send({"do": "cancel", "number": number, "rollout": fields.get("rollout")})
            raise
        finally:
            del self._waiting[number]

    def tell(self, do: str, **fields: Any) -> None:
        """Send what is not answered."""
        self._channel.send({"do": do, **fields})

    async def close(self) -> str | None:
        """
        Let the environment close what its rollouts share, and end the process.

        Returns:
            What went wrong in the environment; None where nothing did.
        """
        said: str | None = None
        try:
            await self.ask("ping", "", self._launch.grace_s)  # one that is blocked is not worth waiting for
            said = await self.ask("end", "", self._launch.stop_s)
            async with asyncio.timeout(EXIT_S):
                await self._dead.wait()
        except (TimeoutError, WorkerDied):
            pass
        finally:
            await self.kill("the run is over")
        return said

    async def kill(self, reason: str) -> None:
        """End the process and everything in its group, and wait until it has ended."""
        self._strike(reason)
        await self._dead.wait()

    def _strike(self, reason: str) -> None:
        if self._reason is None:
            self._reason = reason
        self._process.kill()

    def _on_exit(self) -> None:
        if self._has_hung_up:
            self._bury()
        else:  # what it said before it died still counts
            self._loop.call_later(LAST_WORDS_S, self._bury)

    def _bury(self) -> None:
        """Tell everybody who waits for it that it is dead, if it is."""
        code = self._process.code
        if code is None or self.death is not None:
            return
        self._timer.cancel()
        self._output.close()
        self.death = self._describe_end(code)
        self._channel.abort()
        for waiting in self._waiting.values():
            waiting.fail(WorkerDied(self.death))
        self._dead.set()
        self._on_death(self)

    def _beat(self) -> None:
        """Keep time."""
        now = self._loop.time()
        # After a pause of our own the answers are there already, and are to be looked at first.
        if now - self._beat_at < 2 * BEAT_S:
            self._keep_time(now)
        self._beat_at = now
        self._timer = self._loop.call_later(BEAT_S, self._beat)

    def _keep_time(self, now: float) -> None:
        """Give up what is late, and the process when it answers no more."""
        for waiting in self._waiting.values():
            if not waiting.is_bounded_there and now - waiting.since > waiting.limit_s:
                waiting.fail(Late(waiting.bound))
        suspect, silent_s = self._suspect, now - self._probed_at
        if suspect is None:
            self._probe(now)
        elif silent_s > SLACK_S:
            # The others are not late: they are held up by that one, or by a process that is about to be killed.
            suspect.fail(Late(suspect.bound))
            if silent_s > SLACK_S + self._launch.grace_s:
                self._strike(f"{suspect.bound}, and it did not answer for {self._launch.grace_s:g} s")

    def _probe(self, now: float) -> None:
        """Ask a process that was silent over a request for as long as that may take whether it still answers."""
        for waiting in self._waiting.values():
            if waiting.is_bounded_there and now - max(waiting.since, self._heard_at) > waiting.limit_s:
                self._probed_at, self._suspect = now, waiting
                self._channel.send({"do": "ping", "number": 0})
                return

    def _on_message(self, message: Message) -> None:
        self._heard_at = self._loop.time()
        self._suspect = None
        told = message.get("is")
        if told in ("asks", "unasks", "waits"):
            self._on_news(self, message)
        elif told == "says":
            log(one_line(message["line"]))
        else:
            waiting = self._waiting.get(message.get("number", 0))
            if waiting is None or waiting.answer.done():
                return  # nobody waits for it any more
            if told == "done":
                waiting.answer.set_result(message.get("value"))
            else:
                waiting.answer.set_exception(error_from_json(message["error"]))

    def _on_hang_up(self, nonsense: str | None) -> None:
        self._has_hung_up = True
        if nonsense is not None:
            self._strike(f"it sent {nonsense}")
        elif self._process.code is None:
            # It is ending, or something in it has closed every descriptor.
            self._loop.call_later(1.0, self._strike, "it closed its connection")
        self._bury()

    def _describe_end(self, code: int) -> str:
        if self._reason is not None:
            how = f"was stopped, because {self._reason}"
        elif code < 0:
            how = f"was killed by {_signal(-code)}"
        else:
            how = f"ended with exit code {code}"
        last = self._output.last()
        return f"the worker of {self._launch.name} {how}" + (f"{PRINTED}{last}" if last else "")


def _signal(number: int) -> str:
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:  # a real-time signal has no name
        return f"signal {number}"


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
