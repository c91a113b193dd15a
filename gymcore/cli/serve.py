"""
`gym serve`: a composition over the wire, for trainers and clients that speak NeMo Gym's protocol.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gymcore.cli.chosen import chosen_composition
from gymcore.cli.compose import print_notes
from gymcore.cli.locked import locked_option
from gymcore.cli.plan_options import PlanFlags, plan_options
from gymcore.cli.printable import printable
from gymcore.cli.report import print_report
from gymcore.cli.seconds import Seconds
from gymcore.cli.signals import Signals
from gymcore.cli.talk import talk_shown
from gymcore.composition import Composition, write_composition
from gymcore.discovery import discover
from gymcore.errors import PluginError, RequestError
from gymcore.hookspecs import Observers
from gymcore.plan import load_environ
from gymcore.reporting import Report
from gymcore.run_folder import DATASET_NAME
from gymcore.workflow import SWITCHED_OFF, load_observers, run_async

if TYPE_CHECKING:
    import socket

    from gymcore.serving import Address, Server

__all__ = ["command"]


@click.command("serve")
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@plan_options
@click.option("--out", metavar="FOLDER", help="The run folder; runs/<environments>-<digest>, where nothing is said.")
@locked_option
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Where to listen.")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=11_000,
    show_default=True,
    metavar="N",
    help="On which port; 0 takes any that is free.",
)
@click.option(
    "--port-file", type=click.Path(path_type=Path), metavar="FILE", help="Write the port here once it serves."
)
@click.option("--token-from", metavar="NAME", help="The environment variable that holds what clients must know.")
@click.option("--allow-host", multiple=True, metavar="NAME", help="A further name by which clients may call it.")
@click.option(
    "--keep-answers",
    type=Seconds(min=0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long an answer is kept for a client that lost its connection and asks again.",
)
@click.option(
    "--idle",
    type=Seconds(min=1),
    default=900.0,
    show_default=True,
    metavar="SECONDS",
    help="After how long a session of which nothing is heard is closed.",
)
@click.option(
    "--max-body",
    type=click.IntRange(1, 224),
    default=16,
    show_default=True,
    metavar="MB",
    help="The longest request that is read.",
)
def command(
    folder: Path | None,
    flags: PlanFlags,
    out: str | None,
    locked: Path | None,
    host: str,
    port: int,
    port_file: Path | None,
    token_from: str | None,
    allow_host: Sequence[str],
    keep_answers: float,
    idle: float,
    max_body: int,
) -> int:
    """
    Serve a composition over NeMo Gym's protocol: agents, environments and models on one port.

    With FOLDER, serve what `gym compose` or an earlier run left there. What is played for clients is kept in it.

    \b
    gym serve --env example_single_tool_call --env example_multi_step
    gym serve runs/mix --port 0 --port-file port.txt
    """
    # stdout is for the report: what plugins print while they are loaded and play is talk.
    signals = Signals()
    with signals.caught():
        with redirect_stdout(sys.stderr):
            _require()
            from gymcore.serving import Address, bind
            from gymcore.serving.port_file import check_port_file

            here = Path().absolute()  # before any plugin is imported, which may go elsewhere
            place = None if port_file is None else here / port_file
            if place is not None:
                check_port_file(place)
            address = Address(host, port, _token(token_from, load_environ()), tuple(allow_host))
            with bind(address) as listening:  # a port that is taken is told before anything slow is done
                if place is not None:
                    with suppress(OSError):
                        place.unlink()  # it holds the port of a server that was killed
                catalog = discover()
                composition, folder = chosen_composition(folder, flags, out, locked, catalog)
                if composition.plan.collect.executor != "local":
                    raise RequestError("a composition is served from this process", hints=["try: --executor local"])
                observers = load_observers(composition.plan, catalog, _say)
                observers.plan(composition.plan.to_dict())
                write_composition(composition, here / folder)
                print_notes(composition)
                serving = _Serving(composition, folder, here, listening, address, observers, signals)
                _allow_many_connections()
                result = serving.run(
                    kept_s=keep_answers,
                    idle_s=idle,
                    body_bytes=max_body << 20,
                    port_file=place,
                )
        print_report(result)
        if composition.plan.check.strict and observers.switched_off:
            _say(f"{SWITCHED_OFF}: {', '.join(observers.switched_off)}")
            return PluginError.exit_code
        return 0


def _allow_many_connections() -> None:
    """Take as many descriptors as this process may have: a trainer opens thousands of connections."""
    import anyio._backends._asyncio  # noqa: F401, which Starlette would load when there may be no descriptor left

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _require() -> None:
    """
    Look whether what serves is installed.

    Raises:
        RequestError: it is not.
    """
    missing = [name for name in ("starlette", "uvicorn", "httptools", "itsdangerous") if find_spec(name) is None]
    if missing:
        hints = ["try: pip install 'gymcore[serve]'"]
        raise RequestError(f"serving needs packages that are not installed: {', '.join(missing)}", hints=hints)


def _token(name: str | None, environ: Mapping[str, str]) -> str | None:
    """
    Return the token that an environment variable holds.

    Raises:
        RequestError: it holds none.
    """
    if name is None:
        return None
    if not environ.get(name):
        hint = f"try: export {name}=$(openssl rand -hex 32)"
        raise RequestError(f"the environment variable {name} holds no token", where="--token-from", hints=[hint])
    return environ[name]


class _Serving:
    """One server in the foreground, and signals that stop it."""

    def __init__(
        self,
        composition: Composition,
        folder: Path,
        here: Path,
        listening: socket.socket,
        address: Address,
        observers: Observers,
        signals: Signals,
    ) -> None:
        self._composition = composition
        self._folder = folder
        self._place = here / folder
        """Where the folder is, whatever becomes of the working directory."""
        self._listening = listening
        self._address = address
        self._observers = observers
        self._signals = signals
        self._server: Server | None = None
        self._task: asyncio.Task[Any] | None = None

    def run(self, **options: Any) -> Report:
        """Serve until somebody says stop."""
        with talk_shown(sys.stderr):
            return run_async(self._serve(**options))

    async def _serve(self, **options: Any) -> Report:
        from gymcore.serving import serve

        with self._signals.told(self._on_signal):
            self._task = asyncio.current_task()
            return await serve(
                self._composition,
                self._place,
                self._listening,
                self._address,
                on_start=self._on_start,
                observers=self._observers,
                say=_say,
                shown=self._folder,
                **options,
            )

    def _on_start(self, server: Server) -> None:
        self._server = server
        _greet(server, self._composition, self._folder, self._address)
        if self._address.token is not None:
            _say("clients must send: Authorization: Bearer ..., with the token")
        # What is loaded by now is no garbage, and looking through it for every 700 new objects takes its time.
        gc.collect()
        gc.freeze()
        gc.set_threshold(200_000, 20, 100)
        if self._signals.count:
            server.stop()

    def _on_signal(self, count: int) -> None:
        """Stop first and talk then: the signal may say that there is nobody left to talk to."""
        if self._server is None:
            assert self._task is not None
            self._task.cancel()
            _say("stopping: the plugins are not opened any further")
        elif count == 1:
            drain_s = self._composition.plan.collect.drain_s
            playing = f"{sum(self._server.on_demand.in_flight.values()):,} rollouts in flight"
            if sessions := self._server.sessions.unfinished(drain_s):
                playing += f" and {sessions:,} open session{'s' if sessions > 1 else ''}"
            self._server.stop()
            _say(f"stopping: {playing} may finish, up to {drain_s:g} s; Ctrl-C again to stop now")
        else:
            self._server.cancel()
            _say("stopping now; what is in flight is not answered")


def _say(line: str) -> None:
    click.echo(printable(line), err=True)


_ANY = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}
"""All addresses of this machine, and the one by which it can reach itself."""


def _greet(server: Server, composition: Composition, folder: Path, address: Address) -> None:
    """Say where it is, who is there, and what to write where."""
    from gymcore.serving.head import for_nemo_gym, for_verifiers

    host, _, port = server.url.removeprefix("http://").rpartition(":")
    elsewhere = ""
    if host in _ANY:  # where it listens, and nobody can connect to
        host = address.names[0] if address.names else _ANY[host]
        elsewhere = "" if address.names else f"; from other machines, the address of this one in the place of {host}"
    _say(f"serving {shlex.quote(str(folder))} at {server.url}, in this process; Ctrl-C stops it")
    for name, route in composition.routes.items():
        models = "" if route.model == "policy" else f", model {route.model}"
        _say(f"  {name}: environment {route.environment}, agent {route.agent_plugin.name}{models}")
    for note in server.notes:
        _say(f"note: {note}")
    _say(f"for NeMo Gym and NeMo RL, four lines of YAML for each agent{elsewhere}:")
    lines = for_nemo_gym(composition.routes.values(), host, int(port)).splitlines()
    lines += ["for verifiers, in the TOML of an evaluation:"]
    lines += for_verifiers(str(folder / DATASET_NAME), f"http://{host}:{port}").splitlines()
    for line in lines:
        _say(line)
