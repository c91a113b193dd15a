"""
The command `gym` for a hundredth of a second: a process forked off a Python that has imported what commands import.

    python tests/forking.py FD

says on an inherited Unix socket which modules it has imported: gymcore's and those that gymcore needs, but no plugin.
Then it serves requests, one after the other, until the other end is closed: one message of JSON with the standard
streams of a command as file descriptors, answered by its exit code. What is forked runs the command as
`python -m gymcore` does.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import runpy
import signal
import socket
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

IMPORTED = (
    *(f"gymcore.cli.{name}" for name in ("compose", "data", "diff", "doctor", "explain", "export", "list", "new")),
    *(f"gymcore.cli.{name}" for name in ("report", "run", "show")),
    "gymcore.composition",
    "gymcore.collection",
    "gymcore.datasets",
    "gymcore.discovery",
    "gymcore.reporting",
    "gymcore.runtime",
    "gymcore.workflow",
    "httpx",
    "rich.live",
    "rich.table",
    "uvloop",
)
"""What nearly every command imports sooner or later; what is not installed is left out."""


def serve(server: socket.socket) -> dict[str, Any] | None:
    """Answer requests, each by a child; in the child, return what it is to do, and `None` where nothing is asked."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(server, 1 << 16, 3)
        if not message:
            return None
        while not message.endswith(b"\n"):
            message += server.recv(1 << 16)
        request: dict[str, Any] = json.loads(message)
        child = os.fork()
        if child == 0:
            server.close()
            for number, descriptor in enumerate(descriptors):
                os.dup2(descriptor, number)
                os.close(descriptor)
            return request
        for descriptor in descriptors:
            os.close(descriptor)
        server.sendall(json.dumps(_ending(child, request["timeout_s"])).encode() + b"\n")


def _ending(child: int, timeout_s: float) -> int | None:
    """Wait for a child and return its exit code, negative for a signal, or `None` where it took too long."""
    killed: list[int] = []

    def kill(number: int, frame: Any) -> None:
        killed.append(child)
        os.kill(child, signal.SIGKILL)

    signal.signal(signal.SIGALRM, kill)
    signal.setitimer(signal.ITIMER_REAL, timeout_s)
    _, status = os.waitpid(child, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)
    return None if killed else os.waitstatus_to_exitcode(status)


def become(request: dict[str, Any]) -> None:
    """Become the command: its folder, its environment, its path, its limits."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    os.chdir(request["folder"])
    own = os.environ.get("PYTHONPATH", "")
    behind = [path for path in sys.path[1:] if path not in own.split(os.pathsep)]
    os.environ.clear()
    os.environ.update(request["environ"])
    ahead = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [str(Path.cwd()), *ahead, *behind]
    importlib.invalidate_caches()
    sys.argv[1:] = request["arguments"]
    if request["limit"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["limit"], request["limit"]))


def main() -> None:
    for name in IMPORTED:
        if find_spec(name.partition(".")[0]):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()
    server = socket.socket(fileno=int(sys.argv[1]))
    server.sendall(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})).encode() + b"\n")
    request = serve(server)
    if request is not None:
        become(request)
        runpy.run_module("gymcore", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
