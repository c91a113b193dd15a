"""
Serves one resources server of NeMo Gym on a Unix socket; run by the interpreter that has nemo-gym, and by a path.

It imports nothing of gymcore, because that interpreter does not have it. What to serve is the first line of stdin,
which is then held open by whoever started this: its end is the end of everything here. The first line of stdout says
what became of it: `{"ready": {...}}` or `{"error": "...", "hint": "..."}`. Whatever anybody prints goes to stderr.

Two processes: the one that was started only watches, and imports nothing, so that nothing can keep it from watching;
its child serves, in a process group of its own that is killed as a whole.

Source: what `BaseServer.run_webserver` of nemo-gym 0.4.0 does, without its Ray.
"""

from __future__ import annotations

import ast
import ctypes
import importlib
import json
import os
import re
import select
import shutil
import signal
import socket
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

PR_SET_PDEATHSIG = 1  # from <linux/prctl.h>
GRACE_S = 3.0
"""How long the server may take to close what it has opened; then its process group is killed."""
NOWHERE: dict[str, Any] = {"host": "127.0.0.1", "port": 9}
"""An address at which nobody listens, where one is asked for and none is used."""
MOST_OF_A_MESSAGE = 2000
_VARIABLE = re.compile(r"\$\{(\w[\w.]*)\}")
"""What a YAML takes from elsewhere; with a colon in it, it would be a function."""


class Unusable(Exception):
    """A server that cannot be served, for a reason that can be told; `hint` says what to try."""

    def __init__(self, message: str, hint: str = "") -> None:
        self.hint = hint
        super().__init__(message)


# -- the process that watches ------------------------------------------------------------------------------------------


def main() -> NoReturn:
    """Fork the server, and end with it, or with whoever started this."""
    order = json.loads(_first_line(0))
    answers = os.dup(1)
    os.dup2(2, 1)
    waking, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.set_wakeup_fd(wakes)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    watcher = os.getpid()
    worker = os.fork()
    if not worker:
        _become_worker(watcher)
        serve(order, answers)
    os.close(answers)
    with suppress(OSError):
        os.setpgid(worker, worker)  # also here, because the child may not have come to it yet
    status = _watch(worker, waking)
    with suppress(ProcessLookupError):
        os.killpg(worker, signal.SIGKILL)  # what the server has started, and left behind
    # Whoever made the folder removes it, too, unless he was killed.
    shutil.rmtree(Path(order["socket"]).parent, ignore_errors=True)
    os._exit(status)


def _first_line(descriptor: int) -> bytes:
    """Read a line, and nothing after it."""
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(descriptor, 1)):
        line += byte
    return line


def _watch(worker: int, waking: int) -> int:
    """Wait for the end of the server, or of whoever started this; return the exit status, as a shell tells it."""
    waits = select.poll()
    waits.register(0, select.POLLIN | select.POLLHUP)
    waits.register(waking, select.POLLIN)
    until = None
    while True:
        found, status = os.waitpid(worker, os.WNOHANG)
        if found:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        left_s = None if until is None else until - time.monotonic()
        if left_s is not None and left_s <= 0:
            os.kill(worker, signal.SIGKILL)
            left_s, until = None, None
        for descriptor, _ in waits.poll(None if left_s is None else 1000 * left_s):
            if not os.read(descriptor, 4096) and descriptor == 0:
                waits.unregister(0)
                with suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGTERM)
                until = time.monotonic() + GRACE_S


def _become_worker(watcher: int) -> None:
    """Have a process group of one's own, nothing on stdin, and no life after the watcher's."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setpgid(0, 0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != watcher:
        os._exit(1)


# -- the process that serves -------------------------------------------------------------------------------------------


def serve(order: dict[str, Any], answers: int) -> NoReturn:
    """
    Load the server and serve it until the process is ended.

    Args:
        order: `folder` of the server, its `config_file`, the `instance` there, `config` to be merged over it, `servers`
            that it may ask (name to host and port), and the `socket` to listen on.
        answers: Where the one line goes that says what became of it.
    """
    told = False

    def tell(value: dict[str, Any]) -> None:
        nonlocal told
        if not told:
            told = True
            os.write(answers, json.dumps(value).encode() + b"\n")
            os.close(answers)

    try:
        _serve(order, tell)
    except Unusable as error:
        tell({"error": str(error)[:MOST_OF_A_MESSAGE], "hint": error.hint})
    except BaseException as error:
        traceback.print_exc()
        tell({"error": _described(error), "hint": ""})
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def _serve(order: dict[str, Any], tell: Any) -> None:
    """
    Load the server, and serve it.

    Raises:
        Unusable: it cannot be loaded.
    """
    globals_ = {"head_server": NOWHERE, **_as_instances(order["servers"])}
    # First of all: else whatever looks for a configuration has Hydra read the command line of this process.
    os.environ["NEMO_GYM_CONFIG_DICT"] = json.dumps(globals_)
    # Else nemo-gym has models and data sets kept in the folder of the server.
    os.environ.setdefault("HF_HOME", str(Path("~/.cache/huggingface").expanduser()))
    os.environ.setdefault("WANDB_MODE", "disabled")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        app = _load(order, globals_)
    except ImportError as error:
        needs = Path(order["folder"]) / "requirements.txt"
        hint = f"what it requires besides nemo-gym stands in {needs}" if needs.is_file() else ""
        raise Unusable(f"a package that it needs is not there: {error}", hint) from error
    try:
        import uvicorn
    except ImportError:
        raise Unusable("there is no uvicorn beside nemo-gym") from None
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(order["socket"])

    class Announced(uvicorn.Server):
        """One that says when it serves."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                tell({"ready": {"python": sys.version.split()[0]}})

    # `lifespan` is on, because some servers open in it what their tools need. Idle connections are closed by us, the
    # client, and long before this.
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        lifespan="on",
        backlog=2048,
        timeout_keep_alive=60,
        timeout_graceful_shutdown=1,
    )
    server = Announced(config)
    with suppress(SystemExit):  # how uvicorn tells that the lifespan could not begin
        server.run(sockets=[listening])
    if not server.started:
        raise Unusable("what it opens before it serves could not be opened")
    os._exit(0)


def _load(order: dict[str, Any], globals_: dict[str, Any]) -> Any:  # Any: an ASGI application
    """
    Make the server, as `app.py` of its folder does when it is run.

    Raises:
        Unusable: there is no NeMo Gym, or its configuration is not complete.
        ImportError: a package that it needs is missing.
    """
    folder = Path(order["folder"])
    os.chdir(folder)  # some open files relative to it
    try:
        config_types = importlib.import_module("nemo_gym.config_types")
        server_utils = importlib.import_module("nemo_gym.server_utils")
        omegaconf = importlib.import_module("omegaconf").OmegaConf
    except ModuleNotFoundError as error:
        raise Unusable(f"this interpreter has no usable nemo-gym: {error}") from error
    entry = _entry(order, globals_, omegaconf)
    server_class = _server_class(folder)
    config_class = server_class.model_fields["config"].annotation
    _refuse_unknown(order, config_class, omegaconf)
    try:
        config = config_class.model_validate({**entry, **NOWHERE, "name": order["instance"]})
    except ValueError as error:
        raise Unusable(f"its configuration is not complete: {_described(error)}", "the option `config`") from error
    client = server_utils.ServerClient(
        head_server_config=config_types.BaseServerConfig(**NOWHERE), global_config_dict=omegaconf.create(globals_)
    )
    server = server_class(config=config, server_client=client)
    app = server.setup_webserver()
    server.setup_exception_middleware(app)  # what makes a reply of what a verifier raises
    return app


def _refuse_unknown(order: dict[str, Any], config_class: Any, omegaconf: Any) -> None:
    """
    Refuse what neither the class nor the file of a configuration knows: NeMo Gym takes no notice of it.

    Raises:
        Unusable: there is such a key; it may be one that is misspelt.
    """
    if config_class.model_config.get("extra") == "allow":
        return
    text = omegaconf.load(order["config_file"])[order["instance"]]["resources_servers"][Path(order["folder"]).name]
    known = sorted({*config_class.model_fields, *map(str, text)} - {*NOWHERE, "name"})
    for name in order["config"]:
        if name not in known:
            raise Unusable(f"its configuration has no field {name!r}", f"its fields: {', '.join(known)}")


def _server_class(folder: Path) -> Any:  # Any: a class of nemo-gym
    """
    Import the module of a server, and return the class that it would start.

    Raises:
        Unusable: nothing is started there.
        ImportError: a package is missing.
    """
    calls = [node.func for node in ast.walk(ast.parse((folder / "app.py").read_bytes())) if isinstance(node, ast.Call)]
    names = [
        call.value.id
        for call in calls
        if isinstance(call, ast.Attribute) and call.attr == "run_webserver" and isinstance(call.value, ast.Name)
    ]
    if not names:
        raise Unusable("its app.py starts no server")
    # A few import what lies beside them by its bare name, because `python app.py` finds it there. Last, so that nothing
    # of theirs hides a package.
    sys.path.append(str(folder))
    if str(folder.parents[1]) not in sys.path:
        sys.path.append(str(folder.parents[1]))
    module = importlib.import_module(f"resources_servers.{folder.name}.app")
    return getattr(module, names[0])


def _entry(order: dict[str, Any], globals_: dict[str, Any], omegaconf: Any) -> dict[str, Any]:
    """
    Return the configuration of the server, with what was asked for merged over it.

    Raises:
        Unusable: it names a variable, or another server, that nobody has given.
    """
    text = omegaconf.load(order["config_file"])
    given = omegaconf.create({order["instance"]: {"resources_servers": {Path(order["folder"]).name: order["config"]}}})
    merged = omegaconf.merge(text, omegaconf.create(globals_), given)
    own = merged[order["instance"]]["resources_servers"][Path(order["folder"]).name]
    if unset := unset_fields(omegaconf.to_container(own, resolve=False), merged):
        told = ", ".join(f"{field} from ${{{variable}}}" for field, variable in unset.items())
        hint = f"the option `config`, as in config: {{{next(iter(unset))}: ...}}"
        raise Unusable(f"its YAML takes {told}, and nobody has given that", hint)
    try:
        entry = omegaconf.to_container(own, resolve=True)
    except Exception as error:  # of OmegaConf, of many classes
        told = f"its configuration cannot be read: {_described(error)}"
        raise Unusable(told, "the option `config`, which is merged over it") from error
    for name in asked_servers(entry):
        if name not in globals_:
            hint = (
                f"the option `servers`, as in servers: {{{name}: 'http://HOST:PORT'}}, an address of the Responses API"
            )
            raise Unusable(f"it asks a server that is called {name!r}, and nobody has said where that is", hint)
    return dict(entry)


def unset_fields(entry: Any, known: Any, path: str = "") -> dict[str, str]:
    """
    Return the fields of a configuration that are taken from variables that nobody gives, with the variables.

    Args:
        entry: The configuration, or a part of it.
        known: What is there at the top of all configurations, by name.
        path: Where in the configuration that part is.
    """
    if isinstance(entry, str):
        names = [name for name in _VARIABLE.findall(entry) if name.partition(".")[0] not in known]
        return {path: names[0]} if names else {}
    parts: list[tuple[str, Any]] = []
    if isinstance(entry, dict):
        parts = [(f"{path}.{key}" if path else str(key), value) for key, value in entry.items()]
    elif isinstance(entry, list):
        parts = [(path, value) for value in entry]
    return {field: name for at, value in parts for field, name in unset_fields(value, known, at).items()}


def asked_servers(value: Any) -> list[str]:
    """Return the names of other servers to which a configuration refers."""
    if isinstance(value, list):
        return [name for item in value for name in asked_servers(item)]
    if not isinstance(value, dict):
        return []
    kind, name = value.get("type"), value.get("name")
    if kind in ("responses_api_models", "responses_api_agents", "resources_servers") and isinstance(name, str):
        return [name]
    return [name for item in value.values() for name in asked_servers(item)]


def _as_instances(servers: dict[str, Any]) -> dict[str, Any]:
    """Return addresses as a configuration of NeMo Gym names them, in which a client of it looks them up."""
    return {name: {"responses_api_models": {"given": address}} for name, address in servers.items()}


def _described(error: BaseException) -> str:
    text = " ".join(str(error).split())[:MOST_OF_A_MESSAGE]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


if __name__ == "__main__":
    main()
