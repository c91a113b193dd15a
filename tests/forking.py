"""
The command `gym` for a hundredth of a second: a process forked off a Python that has imported what commands import.

    python tests/forking.py FD
    python tests/forking.py PATH

The first serves requests on an inherited Unix socket, one after the other, until its other end is closed; it begins by
saying which modules are imported: gymcore's and those that gymcore needs, but no plugin. The second listens at a path,
serves whoever comes, all at once, until its stdin is closed, and says when it is ready.

A request is one line of JSON with the standard streams of a command as file descriptors. It is answered by the process
id and, on a second line, by the exit code. What is forked runs the command as `python -m gymcore` does; where the
request names a virtual environment, as the `gym` of that environment does.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import runpy
import select
import signal
import site
import socket
import sys
import sysconfig
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
        server.sendall(b"%d\n" % child)
        server.sendall(json.dumps(_ending(child, request["timeout_s"])).encode() + b"\n")


def listen(path: str) -> dict[str, Any] | None:
    """Serve whoever connects, each by a child of its own, until stdin is closed."""
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(path)
        door.listen(64)
        print("ready", flush=True)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how a child ended
        while sys.stdin not in (ready := select.select([door, sys.stdin], [], [])[0]):
            assert door in ready
            client, _ = door.accept()
            with client:
                if os.fork() == 0:
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    door.close()
                    return serve(client)
    return None


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
    if request.get("prefix"):
        _enter(Path(request["prefix"]))
    importlib.invalidate_caches()
    sys.argv[1:] = request["arguments"]
    if request["limit"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["limit"], request["limit"]))


def _enter(prefix: Path) -> None:
    """Be the Python of a virtual environment that sees all packages of this one behind its own."""
    sys.prefix = sys.exec_prefix = str(prefix)
    sys.executable = str(prefix / "bin" / "python")
    before = list(sys.path)
    before[0] = str(prefix / "bin")
    place = before.index(sysconfig.get_path("purelib"))
    site.addsitedir(str(prefix / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"))
    added = [path for path in sys.path if path not in before and path != str(Path.cwd())]
    sys.path[:] = [*before[:place], *added, *before[place:]]


def main() -> None:
    for name in IMPORTED:
        if find_spec(name.partition(".")[0]):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()
    if not sys.argv[1].isdecimal():
        request = listen(sys.argv[1])
    else:
        server = socket.socket(fileno=int(sys.argv[1]))
        server.sendall(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})).encode() + b"\n")
        request = serve(server)
    if request is not None:
        become(request)
        runpy.run_module("gymcore", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
