"""
The process in which a resources server is hosted: started, watched, and ended with everything that it has started.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from gym_plugin_nemo_gym.hosted.installation import ResourcesServer
from gym_plugin_nemo_gym.wire import Line, Patience, Reply, ServerUnavailable, Wire, over_unix_socket
from gymcore.errors import PluginError
from gymcore.interpreters.clean_environ import environ_of_interpreter
from gymcore.runtime.brackets import log
from gymcore.runtime.isolation.output import Output

__all__ = ["HostedWire", "hosted"]

CLOSING_S = 10.0
"""How long the processes may take to end; the host has bounds of its own, which are shorter."""
NOTICE_S = 10.0
"""How long it may take until it is known that a process has ended whose connections are broken: what it has started
is ended and its folder removed before that."""
REACHED_S = 2.0
"""So long it is looked whether a server that another may ask can be reached."""
LONGEST_SOCKET = 100
"""Characters of the path of a Unix socket, at most; the kernel takes 107, and others less."""

_HOST = Path(__file__).with_name("host.py")


class HostedWire(Wire):
    """
    Sends requests to a server that is hosted here, and says of one that has ended how it did.

    Args:
        path: Its Unix socket.
        patience: How long it is waited for.
        process: The process that watches it.
        output: What it prints.
        server: Which one it is.

    Attributes:
        has_scored: Whether a rollout was scored by it.
    """

    def __init__(
        self,
        path: str,
        patience: Patience,
        process: asyncio.subprocess.Process,
        output: Output,
        server: ResourcesServer,
    ) -> None:
        super().__init__("http://nemo-gym", over_unix_socket(path), patience)
        self.server = server
        self.has_scored = False
        self._fault: str | None = None
        self._process = process
        self._output = output
        self._ending = asyncio.ensure_future(process.wait())

    @property
    def fault(self) -> str | None:
        """How the server has ended; None while it is there."""
        if self._fault is None and self._ending.done():
            self._fault = _epitaph(self.server.name, self._process, self._output)
        return self._fault

    def line(self) -> Line:
        """Return a line of its own for one rollout, to be closed in the end."""
        line = _HostedLine(self, self._transport(), self._lines.discard)
        self._lines.add(line)
        return line

    async def ended(self, limit_s: float) -> str | None:
        """Wait a moment for the end of the server, and say how it came; None where it is there."""
        await asyncio.wait({self._ending}, timeout=limit_s)
        return self.fault

    async def aclose(self) -> None:
        """Close every connection."""
        self._ending.cancel()
        await super().aclose()


class _HostedLine(Line):
    """A line to a server whose process is ours: that it has ended is told, and how."""

    def __init__(self, wire: HostedWire, transport: httpx.AsyncBaseTransport, on_close: Callable[[Line], None]) -> None:
        super().__init__(wire, transport, on_close)
        self._hosted = wire

    async def send(self, path: str, *arguments: Any, **how: Any) -> Reply:
        """
        Send a request, and read its reply to the end; as a `Line` does.

        Raises:
            ServerUnavailable: the server has ended, or gave no whole reply.
            ServerFault: the reply is none that can be used.
        """
        if self._hosted.fault is not None:
            raise ServerUnavailable(self._hosted.fault)
        try:
            return await super().send(path, *arguments, **how)
        except ServerUnavailable as error:
            fault = await self._hosted.ended(NOTICE_S if not _is_late(error) else 0.0)
            if fault is not None:
                raise ServerUnavailable(fault) from error
            raise


def _is_late(error: BaseException) -> bool:
    return isinstance(error.__cause__, TimeoutError)


@asynccontextmanager
async def hosted(
    python: Path,
    server: ResourcesServer,
    *,
    config: Mapping[str, Any],
    servers: Mapping[str, tuple[str, int]],
    start_s: float,
    patience: Patience,
    environ: Mapping[str, str],
) -> AsyncIterator[HostedWire]:
    """
    Start a server and yield the connection to it; in the end nothing of it is left.

    Args:
        python: The interpreter that has NeMo Gym.
        server: Which one.
        config: What is merged over its YAML.
        servers: Host and port of the other servers that it may ask, by name.
        start_s: How long it may take until it serves.
        patience: How long requests are waited for.
        environ: The environment of this process, of which it sees what is harmless.

    Raises:
        PluginError: it does not start.
    """
    folder = _private_folder()
    try:
        path = str(folder / "socket")
        order = {
            "folder": str(server.folder),
            "config_file": str(server.config_file),
            "instance": server.instance,
            "config": dict(config),
            "servers": {name: {"host": host, "port": port} for name, (host, port) in servers.items()},
            "socket": path,
        }
        output = Output(asyncio.get_running_loop())
        try:
            process = await _started(python, folder, output, environ)
            try:
                await _until_ready(process, order, server.name, output, start_s)
                await asyncio.gather(*(_look_for(server.name, name, *place) for name, place in servers.items()))
                wire = HostedWire(path, patience, process, output, server)
                try:
                    yield wire
                finally:
                    await wire.aclose()
            finally:
                await _end(process)
        finally:
            output.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _private_folder() -> Path:
    """Make a folder that nobody else can look into, with a path that is short enough for a socket."""
    folder = tempfile.mkdtemp(prefix="gymcore-")
    if len(folder) + len("/socket") > LONGEST_SOCKET:
        os.rmdir(folder)  # noqa: PTH106, as it was made
        folder = tempfile.mkdtemp(prefix="gymcore-", dir="/tmp")
    return Path(folder)


async def _started(
    python: Path, folder: Path, output: Output, environ: Mapping[str, str]
) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            str(python),
            "-P",
            str(_HOST),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=output.writing,
            cwd=folder,
            # What it leaves behind is removed with its folder: it has no chance to, where it is killed.
            env={**environ_of_interpreter(python, environ), "TMPDIR": str(folder)},
            start_new_session=True,  # Ctrl-C in a terminal is for us; we end it when it is time
        )
    except OSError as error:
        raise PluginError(f"{python} cannot be run: {error.strerror or error}") from None
    finally:
        os.close(output.writing)


async def _until_ready(
    process: asyncio.subprocess.Process, order: Mapping[str, Any], name: str, output: Output, limit_s: float
) -> None:
    """
    Tell the process what to serve, and wait until it does.

    Raises:
        PluginError: it says that it cannot, or ends, or takes too long.
    """
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(limit_s):
            with suppress(ConnectionError):  # it has ended already
                process.stdin.write(json.dumps(order).encode() + b"\n")
                await process.stdin.drain()
            line = await process.stdout.readline()
            if not line:
                await process.wait()
    except TimeoutError:
        hint = "try: a larger start_timeout_s; the first start after an installation takes longest"
        told = f"the resources server {name!r} does not serve within {limit_s:g} s"
        raise PluginError(_with_output(told, output), hints=[hint]) from None
    except ValueError:
        line = b""
    answer = _answer(line)
    if "ready" in answer:
        return
    if "error" not in answer:
        raise PluginError(_epitaph(name, process, output))
    hints = [f"try: {answer['hint']}"] if answer.get("hint") else []
    told = f"the resources server {name!r} cannot be hosted: {answer['error']}"
    raise PluginError(told if hints else _with_output(told, output), hints=hints)


async def _look_for(server: str, name: str, host: str, port: int) -> None:
    """Say where a server that another may ask cannot be reached now; it may be started later."""
    try:
        async with asyncio.timeout(REACHED_S):
            _, writer = await asyncio.open_connection(host, port)
        writer.close()
    except OSError as error:  # a timeout is one, too
        why = error.strerror or str(error) or f"no answer within {REACHED_S:g} s"
        log(f"{server} may ask {name} at {host}:{port}, which cannot be reached now: {why} (the option `servers`)")


def _answer(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _epitaph(name: str, process: asyncio.subprocess.Process, output: Output) -> str:
    """Say how a server has ended."""
    code = process.returncode or 0
    how = f"signal {code - 128 if code > 128 else -code}" if code > 128 or code < 0 else f"exit status {code}"
    return _with_output(f"the resources server {name!r} has ended ({how})", output)


def _with_output(told: str, output: Output) -> str:
    output.take()
    last = output.last()
    return f"{told}; it printed last: {last}" if last else told


async def _end(process: asyncio.subprocess.Process) -> None:
    """End the process that watches, which ends the others."""
    assert process.stdin is not None
    try:
        process.stdin.close()
        async with asyncio.timeout(CLOSING_S):
            await process.wait()
    except TimeoutError:
        pass
    finally:
        if process.returncode is None:
            process.kill()  # and the kernel kills the server then
            await process.wait()
