"""An environment whose rows say how its verifier behaves."""

import asyncio
import os
import signal
import time
from contextlib import asynccontextmanager
from pathlib import Path

from gymcore import Config, Environment, Reward, Task, option, say


class Work(Task):
    what: str = "count"
    n: int = 0


class LabourConfig(Config):
    log: str = option("", operational=True)
    milliseconds: float = option(0.0)
    broken: bool = option(False)
    broken_by: str = option("", operational=True)


class Labour(Environment[Work, LabourConfig]):
    @classmethod
    @asynccontextmanager
    async def shared(cls, config):
        if config.broken or (config.broken_by and Path(config.broken_by).exists()):
            raise RuntimeError("there is no licence for it")
        note(config, "shared")
        try:
            yield None
        finally:
            note(config, "unshared")

    async def open(self):
        note(self.config, f"open {self.task.what} {self.task.n}")

    async def close(self):
        note(self.config, f"close {self.task.what} {self.task.n}")

    async def solve(self):
        yield say("done")

    async def verify(self, trajectory):
        what = self.task.what
        if what == "wait":
            await asyncio.sleep(1000)
        if what == "block":
            while True:
                time.sleep(0.1)
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "raise":
            raise ValueError("the verifier exploded")
        if what == "stop":
            return Reward(value=0.0 if trajectory.is_truncated else 1.0)
        if what == "slow":
            await asyncio.sleep(0.3)
        while what == "beside" and Path(self.config.log).read_text().count(" open ") < 2:
            await asyncio.sleep(0.01)
        until = time.process_time() + self.config.milliseconds / 1000
        while time.process_time() < until:
            sum(range(100))
        return Reward(value=(self.seed % 1000) / 1000, metrics={"process": os.getpid(), "n": self.task.n})


def note(config, line):
    if config.log:
        with open(config.log, "a") as file:
            file.write(f"{os.getpid()} {line}\n")
