"""
Environments that a worker process imports: a good one, and one that is hostile in every way its tasks ask for.
"""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from gymcore import Config, Environment, Reward, Solution, Task, ToolError, Trajectory, Turn, call, say, tool

OPENED: contextvars.ContextVar[str] = contextvars.ContextVar("OPENED", default="never")


class WorldTask(Task):
    """What a task of these worlds asks for."""

    how: str = "well"


class WorldConfig(Config):
    """Options with everything that is awkward to send."""

    log: str = ""
    """A file to which what happens is appended."""
    password: SecretStr = SecretStr("")
    weights: tuple[int, ...] = (1, 2)
    fail_shared: str = ""


class World(Environment[WorldTask, WorldConfig]):
    """Well-behaved: tools of every kind, answers, a verifier that asks a judge when there is one."""

    @classmethod
    @asynccontextmanager
    async def shared(cls, config: WorldConfig) -> AsyncIterator[Any]:
        if config.fail_shared == "open":
            raise RuntimeError("no table")
        if config.fail_shared == "hang":
            await asyncio.Event().wait()
        yield {"pid": os.getpid()}
        if config.fail_shared == "close":
            raise RuntimeError("the table is stuck")
        cls.note(config, "shared closed")

    @classmethod
    def note(cls, config: WorldConfig, what: str) -> None:
        if config.log:
            with Path(config.log).open("a") as file:
                file.write(f"{what}\n")

    async def open(self) -> None:
        OPENED.set(self.task.how)
        self.task_of_open = asyncio.current_task()
        self.count = 0
        if self.task.how == "takes two replies":
            self.max_turns = 2
        if self.task.how == "takes no number of replies":
            self.max_turns = float("nan")  # type: ignore[assignment]
        if self.task.how == "raises in open":
            raise ValueError("broken")
        while self.task.how == "blocks in open":
            pass
        if self.task.how == "takes its time":
            await asyncio.sleep(2.0)
        if self.task.how == "waits in open":
            logging.getLogger("gymcore").warning("nobody\n\x1bis there")
            self.is_waiting = True
            await asyncio.sleep(0.1)
            self.is_waiting = False
        if self.task.how == "stays in open":
            await _stay()
        if self.task.how == "cancels itself in open":
            await self.cancel()

    async def close(self) -> None:
        same = asyncio.current_task() is self.task_of_open
        self.note(self.config, f"closed {self.task.how} {'in' if same else 'outside'} the task of open")
        if self.task.how == "stays in close":
            await _stay()

    @tool
    def add(self, a: int, b: int = 1) -> int:
        """Add."""
        self.count += 1
        return a + b

    @tool
    async def later(self, text: str) -> str:
        """Answer later."""
        await asyncio.sleep(0)
        return text

    @tool(thread=True)
    def in_thread(self) -> dict[str, bool]:
        """Answer from a thread."""
        return {"main": threading.current_thread() is threading.main_thread()}

    @tool
    def refuse(self) -> str:
        """Refuse."""
        raise ToolError("not today")

    @tool
    def odd(self) -> Any:
        """Return what JSON does not know."""
        return [1.5, None, float("nan"), 2**80, "half a \ud83d letter", {1: {2}}, object]

    @tool
    def fail(self, exits: bool = False) -> str:
        """Fail."""
        if exits:
            sys.exit(3)
        raise LookupError("lost it")

    @tool
    async def hang(self) -> str:
        """Never answer."""
        self.note(self.config, "hang begun")
        try:
            await asyncio.Event().wait()
        finally:
            self.note(self.config, "hang cancelled")
        return ""

    @tool
    async def stay(self) -> str:
        """Never answer, and ignore every cancellation."""
        return await _stay()

    @tool
    async def cancel(self) -> str:
        """Cancel the task that this runs in."""
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)
        return "never"

    @tool
    def where(self) -> dict[str, Any]:
        """Tell where this is."""
        return {
            "pid": os.getpid(),
            "tasks": len(asyncio.all_tasks()),
            "shared_pid": self.resources["pid"],
            "opened": OPENED.get(),
            "seed": self.seed,
            "password": self.config.password.get_secret_value(),
            "weights": list(self.config.weights),
            "environ": sorted(os.environ),
            "kernel": _environ_of_kernel(),
        }

    async def reply(self, turn: Turn) -> str | None:
        if self.task.how == "raises in reply":
            raise ValueError("broken")
        if self.task.how == "takes its time":
            await asyncio.sleep(2.0)
        if self.task.how == "stays in reply":
            await _stay()
        return "go on" if turn.text == "one" else None

    async def verify(self, trajectory: Trajectory) -> Reward:  # type: ignore[override]
        if self.task.how == "raises in verify":
            raise ValueError("broken")
        if self.task.how == "cancels itself in verify":
            await self.cancel()
        if self.task.how == "hangs in verify":
            await asyncio.Event().wait()
        if self.task.how == "dies after verify":
            asyncio.get_running_loop().call_soon(os._exit, 9)
        if self.task.how == "is judged":
            verdicts = await asyncio.gather(*(self.models["judge"].ask(f"{n}? {trajectory.text}") for n in range(2)))
            return Reward(value=float(verdicts[0]), metrics={"asked": self.models["judge"].attempts})
        calls = {"calls": len(trajectory.calls()), "count": self.count}
        return Reward(value=1.0, parts={"said": float(len(trajectory.text))}, metrics=calls)

    async def solve(self) -> Solution:
        if self.task.how == "raises in solve":
            raise ValueError("broken")
        result = yield call("add", a=1)
        results = yield [call("add", a=result), call("later", text="both")]
        answer = yield say("one")
        yield say(f"{results} {answer}")


class Hostile(World):
    """Does what its task names, in the one tool that a policy is to call."""

    @tool
    def act(self) -> Any:
        """Act as the task says."""
        return getattr(self, f"_{self.task.how}")()

    async def solve(self) -> Solution:
        yield call("act")
        yield say("Done.")

    def _well(self) -> str:
        return "well"

    def _raises(self) -> None:
        raise ValueError("broken")

    def _exits(self) -> None:
        sys.exit(3)

    def _dies(self) -> None:
        print("goodbye, cruel world")
        os._exit(7)

    def _crashes(self) -> None:
        ctypes.string_at(0)

    def _is_killed(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def _loops(self) -> None:
        while True:
            pass

    def _matches(self) -> None:
        re.match(r"(a+)+$", "a" * 64 + "b")

    def _floods(self) -> str:
        line = "x" * 9_999 + "\n"
        for _ in range(10_000):
            sys.stdout.write(line)
        return "flooded"

    def _answers_hugely(self) -> str:
        return "x" * (80 * 2**20)

    def _hogs(self) -> int:
        return len(bytearray(8 * 2**30))

    def _spawns(self) -> str:
        stop = time.monotonic() + 0.5
        threads = [threading.Thread(target=_spin, args=(stop,)) for _ in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return "joined"

    def _recurses(self) -> None:
        self._recurses()

    def _closes(self) -> str:
        os.closerange(3, 1000)
        time.sleep(0.1)
        return "closed"

    def _lingers(self) -> None:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        self.note(self.config, f"pids {os.getpid()} {child.pid}")
        self._matches()

    def _naps(self) -> str:
        time.sleep(0.2)
        return "slept"

    def _tells(self) -> str:
        self.note(self.config, f"pids {os.getpid()}")
        return "told"

    def _waits(self) -> str:
        self.note(self.config, f"pids {os.getpid()}")
        time.sleep(1.0)
        return "waited"

    def _returns_nonsense(self) -> Any:
        nested: list[Any] = []
        for _ in range(5000):
            nested = [nested]
        return {object(): nested}


async def _stay() -> str:
    while True:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()


def _spin(stop: float) -> None:
    while time.monotonic() < stop:
        pass


def _environ_of_kernel() -> str:
    try:
        return Path("/proc/self/environ").read_text()
    except OSError:
        return ""
