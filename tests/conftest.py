"""
What tests of several folders share: one built distribution of plugins, and the command `gym` as a process.
"""

from __future__ import annotations

import json
import os
import resource
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from gymcore.discovery import Catalog, discover
from gymcore.testing.plugins import PluginFolder
from gymcore.testing.suites import PluginSuite

# A busy machine makes no law false. On a second Python a law is looked at, and not searched for its exceptions again.
settings.register_profile("thorough", deadline=None, max_examples=30)
settings.register_profile("brief", deadline=None, max_examples=10)
settings.load_profile(os.environ.get("GYMCORE_TEST_PROFILE", "thorough"))

# A shell without job control starts what is to run beside it deaf to Ctrl-C, and every process would inherit that.
for number, handler in {signal.SIGINT: signal.default_int_handler}.items() | dict.fromkeys(
    (signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP), signal.SIG_DFL
).items():
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)

LONGEST_S = 120.0
"""How long a test, its setup or its teardown may take; what waits longer waits for something that never comes."""
ECHO = Path(__file__).parent / "data" / "gym_plugin_echo"
SLOW = (
    "authoring/checking",
    "authoring/test_templates.py",
    "cli",
    "crash",
    "discovery/test_backends.py",
    "docs",
    "doctor",
    "end_to_end",
    "integrations",
    "interpreters/test_virtual_environments.py",
    "runtime/test_isolated.py",
    "runtime/test_ray",
    "testing/suites",
)
"""Tests that play in whole processes, whose Python hardly matters, and take most of the suite's time."""


SPREAD = ("authoring/checking", "composition/sources", "docs", "end_to_end", "runtime/test_isolated.py")
"""Tests that take long and share little; of all others, a file is run by one worker, which makes its fixtures once."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """
    Give each worker whole files, and single tests of those that take long.

    Not with xdist's groups: with pytest 9.2 its mark has no effect, and two workers build and install the same plugins.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return nodeid if file.removeprefix("tests/").startswith(SPREAD) else file

    return ByFile(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow; so are the suites of plugins, which play in processes of their own wherever they stand."""
    for item in items:
        place = ""
        if item.path.is_relative_to(Path(__file__).parent):
            place = item.path.relative_to(Path(__file__).parent).as_posix()
        is_suite = isinstance(item, pytest.Function) and issubclass(item.cls or object, PluginSuite)
        if is_suite or place.startswith(SLOW):
            item.add_marker(pytest.mark.slow)


@contextmanager
def _bounded(item: pytest.Item) -> Iterator[None]:
    """Raise where a test waits for ever; again every few seconds, lest something takes the exception for its own."""

    def give_up(number: int, frame: Any) -> None:
        raise TimeoutError(f"{item.nodeid} took more than {LONGEST_S:.0f} s")

    if item.get_closest_marker("rig"):
        yield
        return
    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, LONGEST_S, 5.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """Bound the setup of a test."""
    with _bounded(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Bound a test."""
    with _bounded(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """Bound what comes after a test."""
    with _bounded(item):
        return (yield)


@pytest.fixture(scope="session")
def echo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    A folder into which the distribution `gym-plugin-echo` was installed once; see `tests/data/gym_plugin_echo`.
    """
    folder = tmp_path_factory.mktemp("echo")
    PluginFolder(folder).install_project(ECHO)
    return folder


@pytest.fixture(scope="module")
def plugins(echo_folder: Path) -> Iterator[PluginFolder]:
    """
    The echo plugins, installed where discovery sees them.
    """
    with PluginFolder(echo_folder) as folder:
        yield folder


@pytest.fixture(scope="module")
def catalog(plugins: PluginFolder) -> Catalog:
    """
    What is installed, the echo plugins included.
    """
    return discover()


@pytest.fixture
def write_rows(tmp_path: Path) -> Callable[..., str]:
    """
    Write rows, given as values or as raw bytes, to a file, and return its path.
    """

    def write(*rows: Any, name: str = "rows.jsonl", end: bytes = b"\n") -> str:
        lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
        path = tmp_path / name
        path.write_bytes(b"".join(line + end for line in lines))
        return str(path)

    return write


class Commands:
    """
    Runs `gym` in processes of their own that are forked off one Python, which has imported what commands import.

    To start Python and to import half a second's worth of packages is claimed and measured by tests of its own;
    five hundred others would only pay for it. A command that a start would tell something, by a variable or by another
    package of a name that is imported already, is started.
    """

    def __init__(self) -> None:
        self._own = os.environ.copy()
        self._start()

    def _start(self) -> None:
        self._end, theirs = socket.socketpair()
        self._answers = self._end.makefile("rb")
        with theirs:
            script = str(Path(__file__).parent / "forking.py")
            command = [sys.executable, script, str(theirs.fileno())]
            self._server = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        self._imported = frozenset(json.loads(self._answers.readline()))

    def close(self) -> None:
        """End the Python that is forked; what it has started is over already."""
        self._answers.close()
        self._end.close()
        self._server.wait(60)

    def run(
        self,
        *arguments: str,
        folder: Path,
        environ: Mapping[str, str],
        typed: str = "",
        limit: int | None = None,
        timeout_s: float = 60.0,
    ) -> subprocess.CompletedProcess[str]:
        """
        Run a command to its end.

        Args:
            arguments: What follows `gym`.
            folder: Where it is run.
            environ: The whole environment of the process.
            typed: What it reads from stdin; a few lines.
            limit: The size in bytes at which files cannot grow further.
            timeout_s: How long it may take.

        Raises:
            subprocess.TimeoutExpired: it took longer, and was killed.
        """
        if self._must_start(environ):
            return self._started(arguments, folder, environ, typed, limit, timeout_s)
        request = {
            "arguments": arguments,
            "folder": str(folder),
            "environ": dict(environ),
            "limit": limit,
            "timeout_s": timeout_s,
        }
        their_in, typing = os.pipe()
        os.write(typing, typed.encode())  # less than a pipe holds
        os.close(typing)
        out, their_out = os.pipe()
        err, their_err = os.pipe()
        try:
            socket.send_fds(self._end, [json.dumps(request).encode() + b"\n"], [their_in, their_out, their_err])
            for descriptor in (their_in, their_out, their_err):
                os.close(descriptor)
            said = _read_to_the_end(out, err)
            self._answers.readline()  # its process id, of which nothing is left
            code = json.loads(self._answers.readline())
        except BaseException:  # an answer that nobody has read would be taken for that of the next command
            self._server.kill()
            self.close()
            self._start()
            raise
        if code is None:
            raise subprocess.TimeoutExpired(["gym", *arguments], timeout_s, *said)
        return subprocess.CompletedProcess(["gym", *arguments], code, *(part.decode() for part in said))

    def _must_start(self, environ: Mapping[str, str]) -> bool:
        heard = {name for name in {*environ, *self._own} if name.startswith(("PYTHON", "LC_", "LANG"))}
        if any(environ.get(name, "") != self._own.get(name, "") for name in heard - {"PYTHONPATH"}):
            return True
        own, wanted = (told.get("PYTHONPATH", "").split(os.pathsep) for told in (self._own, environ))
        added = [Path(path) for path in wanted if path not in own]
        return any(
            path.stem in self._imported for folder in added for path in folder.glob("*") if path.suffix in ("", ".py")
        )

    def _started(
        self,
        arguments: tuple[str, ...],
        folder: Path,
        environ: Mapping[str, str],
        typed: str,
        limit: int | None,
        timeout_s: float,
    ) -> subprocess.CompletedProcess[str]:
        def lower() -> None:
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        return subprocess.run(
            [sys.executable, "-m", "gymcore", *arguments],
            cwd=folder,
            env=dict(environ),
            input=typed,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            preexec_fn=lower,
        )


def _read_to_the_end(*descriptors: int) -> list[bytes]:
    """Read several pipes at once until nobody writes to them any more, and close them."""
    read: dict[int, list[bytes]] = {descriptor: [] for descriptor in descriptors}
    with selectors.DefaultSelector() as selector:
        for descriptor in descriptors:
            selector.register(descriptor, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                part = os.read(key.fd, 1 << 16)
                read[key.fd].append(part)
                if not part:
                    selector.unregister(key.fd)
                    os.close(key.fd)
    return [b"".join(parts) for parts in read.values()]


@pytest.fixture(scope="session")
def commands() -> Iterator[Commands]:
    """
    Runs `gym` for a hundredth of a second each time.
    """
    commands = Commands()
    yield commands
    commands.close()


Gym = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def gym(commands: Commands, tmp_path: Path) -> Gym:
    """
    The command line as a user meets it: a process of its own, in an empty folder.
    """

    def run(*arguments: str, folder: PluginFolder | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
        inherited = folder.environ if folder is not None else dict(os.environ)
        clean = {
            name: value for name, value in inherited.items() if not name.startswith(("POLICY_", "ECHO_", "KEYED_"))
        }
        return commands.run(*arguments, folder=tmp_path, environ={**clean, "NO_COLOR": "1", **environ})

    return run
