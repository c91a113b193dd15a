"""
Servers on loopback: one that misbehaves as it is told, and `gym serve` as a process.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest


@dataclass(frozen=True)
class Heard:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    body: Any

    @property
    def is_tool(self) -> bool:
        """Whether it is a tool call."""
        return self.path not in ("/", "/seed_session", "/verify", "/close_session")


@dataclass(frozen=True)
class Answer:
    """How a request is answered, or not."""

    body: bytes = b"{}"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    sends: Literal["everything", "half", "nothing", "end", "reset", "endless", "garbage"] = "everything"
    """`end` closes the connection instead of answering, and `nothing` leaves it open."""
    delay_s: float = 0.0


Behaviour = Callable[[Heard], Answer]


class Server:
    """
    An HTTP server in a thread of its own.

    Args:
        behave: Says how each request is answered.

    Attributes:
        heard: Every request that arrived whole.
        open: How many connections are open.
        opened: How many there have been.
        hangs_up: How many of the next connections are closed unread.
    """

    def __init__(self, behave: Behaviour, path: str | None = None) -> None:
        self.behave = behave
        self.heard: list[Heard] = []
        self.open = self.opened = 0
        self.hangs_up = 0
        self._path = path
        self._port = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def tools(self) -> list[Heard]:
        """The tool calls that arrived."""
        return [heard for heard in self.heard if heard.is_tool]

    def paths(self) -> list[str]:
        """Return what was asked for, in order, but for the first look."""
        return [heard.path for heard in self.heard if heard.path != "/"]

    def __enter__(self) -> Server:
        started: Future[None] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)))
        self._thread.start()
        started.result(60)
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def go(self) -> None:
        """Break every connection and refuse new ones."""
        asyncio.run_coroutine_threadsafe(self._go(), self._loop).result(60)

    def come_back(self, after_s: float) -> None:
        """Listen again: at once, or after a while."""
        if not after_s:
            asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(60)
            return
        self._loop.call_soon_threadsafe(lambda: self._keep(self._come_back(after_s)))

    def wait_until_asked(self) -> None:
        """Wait until a request has arrived."""
        until = time.monotonic() + 30
        while not self.heard:
            assert time.monotonic() < until, "nobody asks"
            time.sleep(0.01)

    def wait_until_closed(self) -> None:
        """Wait until every connection is closed by the other side."""
        until = time.monotonic() + 30
        while self.open:
            assert time.monotonic() < until, f"{self.open} connections are open"
            time.sleep(0.01)

    async def _go(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _come_back(self, after_s: float) -> None:
        await asyncio.sleep(after_s)
        await self._listen()

    def _keep(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _listen(self) -> None:
        if self._path is not None:
            self._server = await asyncio.start_unix_server(self._converse, self._path)
            return
        self._server = await asyncio.start_server(self._converse, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, started: Future[None]) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        await self._listen()
        started.set_result(None)
        await self._stop.wait()
        self._server.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.opened += 1
        self._writers.add(writer)
        try:
            if self.hangs_up:
                self.hangs_up -= 1
                return
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while await self._exchange(reader, writer):
                    pass
        finally:
            self._writers.discard(writer)
            self.open -= 1
            writer.transport.abort() if writer.transport.is_closing() else writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.rstrip("\r\n").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        data = await reader.readexactly(int(headers.get("content-length", 0)))
        heard = Heard(first.split(" ")[1], headers, json.loads(data) if data else None)
        self.heard.append(heard)
        answer = self.behave(heard)
        await asyncio.sleep(answer.delay_s)
        if answer.sends == "nothing":
            await reader.read()  # until the other side has enough
            return False
        if answer.sends in ("end", "reset"):
            if answer.sends == "reset":
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                writer.transport.abort()
            return False
        if answer.sends == "garbage":
            writer.write(b"\x00\x01 this is no HTTP\r\n\r\n")
            await writer.drain()
            return False
        length = "transfer-encoding: chunked" if answer.sends == "endless" else f"content-length: {len(answer.body)}"
        told = [f"HTTP/1.1 {answer.status} X", length, *(f"{name}: {value}" for name, value in answer.headers.items())]
        writer.write("\r\n".join([*told, "", ""]).encode("latin-1"))
        while answer.sends == "endless":
            writer.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
            await writer.drain()
        writer.write(answer.body[: len(answer.body) // 2] if answer.sends == "half" else answer.body)
        await writer.drain()
        return answer.sends == "everything"


@pytest.fixture
def serving() -> Iterator[Callable[..., Server]]:
    """What starts servers that behave as they are told, and stops them."""
    with ExitStack() as stack:
        yield lambda behave, *more: stack.enter_context(Server(behave, *more))


@dataclass(frozen=True)
class GymServe:
    """`gym serve`, running."""

    process: subprocess.Popen[str]
    url: str
    dataset: Path


@pytest.fixture
def gym_serve(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """What starts `gym serve` on a free port, and kills it."""
    started: list[subprocess.Popen[str]] = []

    @contextmanager
    def start(*arguments: str, port: str = "0", **environ: str) -> Iterator[GymServe]:
        number = len(started)
        folder, port_file = tmp_path / f"served-{number}", tmp_path / f"port-{number}"
        command = [sys.executable, "-m", "gymcore", "serve", *arguments, "--out", str(folder)]
        process = subprocess.Popen(
            [*command, "--port", port, "--port-file", str(port_file)],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **environ},
        )
        started.append(process)
        until = time.monotonic() + 60
        while not port_file.exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until, "it does not serve"
            time.sleep(0.02)
        yield GymServe(process, f"http://127.0.0.1:{port_file.read_text().strip()}", folder / "dataset.jsonl")

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
