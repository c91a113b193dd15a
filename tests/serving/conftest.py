"""
Compositions made by hand and served without a port, and the command `gym serve` as a process.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from gymcore.collection import Journal
from gymcore.composition import Composition
from gymcore.serving.app import InUse, Served, application
from gymcore.serving.guard import Guard
from gymcore.serving.refusals import Refusal
from gymcore.serving.server import opened

from ..runtime.conftest import compose_by_hand


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run tests that are coroutines, each on an event loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


async def until(holds: Callable[[], bool]) -> None:
    """Wait for something that a test has brought about."""
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.001)


@contextmanager
def no_garbage_collected() -> Iterator[None]:
    """Have what is read inside take no longer at one time than at another."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def refusing_s(read: Callable[[], Any]) -> float:
    """Return how long it takes at least to read a body that is refused, in seconds of CPU time."""
    taken = []
    for _ in range(3):
        begun = time.thread_time()
        with pytest.raises(Refusal):
            read()
        taken.append(time.thread_time() - begun)
    return min(taken)


@pytest.fixture
def composed() -> Callable[..., Composition]:
    """What composes classes."""
    return compose_by_hand


@dataclass(frozen=True)
class Wire:
    """A client of something that is served, and what serves it."""

    client: httpx.AsyncClient
    served: Served
    folder: Path

    async def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        """Send JSON."""
        return await self.client.post(path, json=body, **options)

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows that are served."""
        return [row.value for row in self.served.composition.dataset]

    def lines(self, name: str = "rollouts.jsonl") -> list[dict[str, Any]]:
        """Return what lies in the run folder."""
        return [json.loads(line) for line in (self.folder / name).read_text().splitlines()]


@pytest.fixture
def wire(tmp_path: Path) -> Callable[..., Any]:
    """What serves a composition without a port."""

    @asynccontextmanager
    async def serving(composition: Composition, **options: Any) -> AsyncIterator[Wire]:
        guard = {key: options.pop(key) for key in ("hosts", "token", "body_bytes") if key in options}
        disk = options.pop("disk", None)
        with Journal(tmp_path, disk, repeats=composition.attempts()) as journal:
            async with opened(composition, journal, lambda rollouts: None, **options) as (served, _):
                app = Guard(application(served), **{"hosts": {"127.0.0.1"}, "token": None, **guard})
                transport = httpx.ASGITransport(app=InUse(app, served.sessions), raise_app_exceptions=False)
                async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:1") as client:
                    yield Wire(client, served, tmp_path)

    return serving


@dataclass(frozen=True)
class Command:
    """`gym serve`, running."""

    process: subprocess.Popen[str]
    url: str
    folder: Path

    def stop(self, number: int = signal.SIGINT) -> tuple[int, str, str]:
        """Ask it to stop; return its exit code and what it said."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


@pytest.fixture
def gym_serve(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """What starts `gym serve` on a free port, and ends it."""
    started: list[subprocess.Popen[str]] = []

    @contextmanager
    def start(*arguments: str, environ: dict[str, str] | None = None) -> Iterator[Command]:
        port_file = tmp_path / f"port-{len(started)}"
        command = [sys.executable, "-m", "gymcore", "serve", *arguments, "--port", "0", "--port-file", str(port_file)]
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environ or {})},
        )
        started.append(process)
        until = time.monotonic() + 60
        while not port_file.exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until, "it does not serve"
            time.sleep(0.02)
        yield Command(process, f"http://127.0.0.1:{port_file.read_text().strip()}", tmp_path)

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
