"""
`serve()`: opens the plugins of a composition, listens, and plays what is asked for until somebody says stop.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from gymcore.collection import Collection, Journal, collect, read_poisoned
from gymcore.composition import Composition
from gymcore.errors import RequestError
from gymcore.hookspecs import Observers
from gymcore.records import Rollout
from gymcore.reporting import Report
from gymcore.runtime.attempt import directed
from gymcore.runtime.brackets import Say, log
from gymcore.runtime.executor import open_local
from gymcore.serving.app import CALLS, InUse, Served, application
from gymcore.serving.guard import BODY_BYTES, Guard, is_loopback, name_of
from gymcore.serving.models import Endpoints
from gymcore.serving.on_demand import KEPT_BYTES, KEPT_S, OnDemand
from gymcore.serving.outages import Enduring, Unplayable
from gymcore.serving.port_file import port_written
from gymcore.serving.protocol import BoundedProtocol
from gymcore.serving.recorder import Recorder
from gymcore.serving.sessions import IDLE_S, MOST, Sessions
from gymcore.workflow import recording

__all__ = ["Address", "Server", "answering", "bind", "opened", "serve"]

BACKLOG = 4096
"""Connections that may wait to be accepted: a trainer opens thousands at once."""

KEEP_ALIVE_S = 75
"""For how long an idle connection stays open: longer than clients keep theirs, so that none is closed under them."""


@dataclass(frozen=True)
class Address:
    """
    Where a server listens, and who may call it.

    Raises:
        RequestError: others than this machine can reach it, and nothing keeps them out.
    """

    host: str = "127.0.0.1"
    port: int = 0
    """0 takes any that is free."""
    token: str | None = None
    """What clients must know; needed where others than this machine can reach the server."""
    names: Sequence[str] = ()
    """Further names by which clients may call it."""

    def __post_init__(self) -> None:
        token = self.token
        if token is not None and (len(token) < 16 or not token.isascii() or not token.isprintable() or " " in token):
            told = "a token has at least 16 letters, digits or signs of ASCII, no spaces and no line breaks"
            raise RequestError(told, hints=["try: export NAME=$(openssl rand -hex 32), and --token-from NAME"])
        for name in self.names:
            if name.lower() not in (name_of(name), name_of(f"[{name}]")):
                hints = ["try: the name alone, without a port, as NAME in http://NAME:11000/"]
                raise RequestError(f"clients cannot call it {name!r}: that is no name of a host", hints=hints)
        if self.token is None and not is_loopback(self.host):
            raise RequestError(
                f"{self.host} can be reached from other machines, and no token keeps them out",
                hints=[
                    "try: --host 127.0.0.1, with a tunnel where clients are elsewhere",
                    "or: --token-from NAME, an environment variable that holds what clients must know",
                ],
            )

    def hosts(self) -> set[str] | None:
        """Return the names by which clients may call the server; None for any, where a token is asked for."""
        if not is_loopback(self.host) and not self.names:
            return None
        own = {"127.0.0.1", "localhost", "::1"} if is_loopback(self.host) else set()
        return {name.lower() for name in (self.host, *own, *self.names)}


@contextmanager
def bind(address: Address) -> Iterator[socket.socket]:
    """
    Take a port, before anything slow is done.

    Raises:
        RequestError: it is taken, or cannot be.
    """
    is_ipv6 = ":" in address.host
    listening = socket.socket(socket.AF_INET6 if is_ipv6 else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((address.host, address.port))
        except (OSError, OverflowError) as error:
            raise _cannot_listen(address, error) from None
        yield listening
    finally:
        listening.close()


def _cannot_listen(address: Address, error: Exception) -> RequestError:
    number = getattr(error, "errno", None)
    where = f"{address.host}:{address.port}"
    if number == errno.EADDRINUSE:
        hints = ["try: --port 0, which takes any that is free, or end what listens there"]
        return RequestError("the port is taken: another process listens there", where=where, hints=hints)
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return RequestError(f"nothing can listen there: {reason}", where=where, hints=["try: --host 127.0.0.1 --port 0"])


class _Uvicorn(uvicorn.Server):
    """A server that leaves signals to the command."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take none."""
        yield


class Server:
    """
    A composition that is being served.

    Attributes:
        url: Where.
        notes: What whoever started it should know, one line each.
        on_demand: The rollouts that are being played.
        sessions: Those that clients play.
    """

    def __init__(self, url: str, notes: Sequence[str], on_demand: OnDemand, sessions: Sessions) -> None:
        self.url = url
        self.notes = tuple(notes)
        self.on_demand = on_demand
        self.sessions = sessions
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Begin nothing more; what is being played may finish."""
        self.on_demand.stop()
        self._stop.set()

    def cancel(self) -> None:
        """Stop, and end what is being played."""
        self.stop()
        self.on_demand.cancel()
        self.sessions.cancel()

    async def stopped(self) -> None:
        """Wait until somebody says stop."""
        await self._stop.wait()


async def serve(
    composition: Composition,
    folder: Path,
    listening: socket.socket,
    address: Address,
    *,
    on_start: Callable[[Server], None],
    observers: Observers | None = None,
    on_durable: Callable[[Sequence[Rollout]], None] | None = None,
    say: Say = log,
    port_file: Path | None = None,
    shown: Path | None = None,
    kept_s: float = KEPT_S,
    idle_s: float = IDLE_S,
    body_bytes: int = BODY_BYTES,
) -> Report:
    """
    Serve a composition until it is stopped.

    Every rollout that is asked for, and every session that is scored, is on the disk before it is answered.

    Args:
        composition: What to serve; `write_composition` has put it into the folder.
        folder: The run folder.
        listening: A bound socket; `bind` makes it.
        address: Who may call.
        on_start: Given the server once it answers.
        observers: Hook plugins.
        on_durable: Told, off the event loop, which rollouts have become safe.
        say: Told which plugin takes long to open or to close.
        port_file: Where the port is written once the server answers; removed in the end.
        shown: How the report names the folder.
        kept_s: How long the answer to a numbered request is kept for who asks again, in seconds.
        idle_s: After how long a session of which nothing is heard is closed, in seconds.
        body_bytes: The longest body of a request; no longer than there is room for beside short ones, 224 MB.

    Returns:
        The report on everything that the folder holds.

    Raises:
        PluginError: a plugin could not be opened.
        StorageError: the disk failed; what was answered is safe.
        RunFolderError: the folder holds another composition, or another process writes to it.
    """
    async with (
        recording(composition, folder, observers=observers, on_durable=on_durable, shown=shown) as kept,
        opened(composition, kept.journal, kept.tell, say=say, kept_s=kept_s, idle_s=idle_s) as (served, writing),
    ):
        for line in kept.journal.damaged:
            say(f"damaged, set aside in quarantine/: {line}")
        server = Server(_url(listening), _notes(composition), served.on_demand, served.sessions)
        app = Guard(application(served), hosts=address.hosts(), token=address.token, body_bytes=body_bytes)
        async with answering(InUse(app, served.sessions), listening):
            on_start(server)
            with port_written(port_file, listening.getsockname()[1]):  # whoever waits for it finds all else done
                await _first(server.stopped(), asyncio.wait([writing]))
            app.stop()
            drain_s = composition.plan.collect.drain_s
            await asyncio.gather(served.on_demand.close(drain_s), served.sessions.drain(drain_s))
            await served.sessions.aclose()
    return kept.report


@asynccontextmanager
async def opened(
    composition: Composition,
    journal: Journal,
    on_durable: Callable[[Sequence[Rollout]], None],
    *,
    say: Say = log,
    kept_s: float = KEPT_S,
    kept_bytes: int = KEPT_BYTES,
    idle_s: float = IDLE_S,
    most_sessions: int = MOST,
) -> AsyncIterator[tuple[Served, asyncio.Task[Collection]]]:
    """
    Open what serves a composition, without a port; arguments as for `serve`.

    Yields:
        What `application` serves, and the task that writes rollouts: it ends early only when the disk has failed.

    Raises:
        StorageError: on leaving: the disk has failed.
    """
    async with open_local(composition, say, makes_room=True) as executor:
        unplayable = Unplayable(read_poisoned(journal.folder), say)
        recorder = Recorder(journal)
        stage = executor.stage
        enduring = Enduring(executor, unplayable, stage.provenance_of)
        on_demand = OnDemand(composition, enduring, recorder, unplayable, kept_s=kept_s, kept_bytes=kept_bytes)
        by_clients = Enduring(directed(executor, composition.routes), unplayable, stage.provenance_of)
        sessions = Sessions(by_clients, stage, recorder, unplayable, idle_s=idle_s, most=most_sessions)
        called = {name: choice.plugin.name for name, choice in composition.models.items()}
        endpoints = Endpoints(stage.models, stage.agents, stage.seed, called)

        def written(rollouts: Sequence[Rollout]) -> None:
            on_durable(rollouts)
            recorder.written(rollouts)

        def ended(task: asyncio.Task[Collection]) -> None:
            if not task.cancelled() and (error := task.exception()) is not None:
                recorder.fail(error)

        writing = asyncio.create_task(collect(recorder.ended(), journal, on_durable=written))
        writing.add_done_callback(ended)
        try:
            yield (
                Served(composition, recorder, unplayable, on_demand, sessions, endpoints, stage.placements),
                writing,
            )
        finally:
            await on_demand.close(0.0)
            await sessions.aclose()
            recorder.finish()  # now that nobody has anything more to write
            await writing


async def _first(*waits: Any) -> None:
    """Wait for the first of several, and end the others."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


@asynccontextmanager
async def answering(
    app: Any, listening: socket.socket, *, http: type[BoundedProtocol] = BoundedProtocol
) -> AsyncIterator[None]:
    """
    Answer requests while inside; on leaving, what is being answered is answered first, for a while.

    Args:
        app: An ASGI application.
        listening: A bound socket.
        http: How its connections speak.
    """
    # Whoever sends rubbish must not fill a log with it.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    config = uvicorn.Config(
        app,
        http=http,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=2,
    )
    server = _Uvicorn(config)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        while not server.started:
            if serving.done():
                serving.result()
                raise RequestError("the server has ended before it began")
            await asyncio.sleep(0.002)
        yield
    finally:
        server.should_exit = True
        await asyncio.wait([serving])


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _notes(composition: Composition) -> list[str]:
    """Say what cannot be reached over the wire."""
    notes = []
    for route in composition.routes.values():
        for name in route.environment_class.tools:
            if name in CALLS["GET"] or name in CALLS["POST"] or "/" in name:
                notes.append(
                    f"the tool {name!r} of {route.environment} has the name of a call of the protocol: agents here can"
                    " call it, clients cannot"
                )
    return notes
