"""
Builds virtual environments, each once, and keeps them in the user's cache.

One is whole when it holds the file that is written last; what is left of a build that was killed has none, and is
removed by whoever builds next. A lock lets two processes build one once, and is held by the installer too, so that
nobody begins while one that outlived its gymcore still writes: on Linux none does, and nobody waits for ever.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from gymcore import __version__
from gymcore.cache_folder import cache_folder
from gymcore.discovery import Plugin
from gymcore.discovery.catalog import normalised
from gymcore.discovery.requirements import Installed
from gymcore.errors import PluginError, StorageError
from gymcore.interpreters.clean_environ import environ_of_installers
from gymcore.interpreters.core_view import CoreView, core_view
from gymcore.interpreters.leash import leashed
from gymcore.interpreters.origins import Origin, installed_distribution, installed_files, origin_of, pack
from gymcore.interpreters.wholeness import WHOLE_NAME, mark_whole, what_is_gone

__all__ = ["build_interpreter", "forget_unused", "only_builder"]

INSTALL_S = 3600.0
"""Wheels of several gigabytes take a while; what takes longer than this has most likely hung."""
UNUSED_S = 30 * 86_400.0
"""A virtual environment that was not used for so long is removed when another of its distribution is built."""
SHOWN_LINES = 15
CACHE_TAG = "Signature: 8a477f597d28d172789f06886806bc55\n# Of gymcore. See https://bford.info/cachedir/\n"
_FORMAT = 2
_LOOK_AGAIN_S = 0.1
_SAYS_WHAT_THERE_IS = (
    *("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX", "PIP_CONSTRAINT", "PIP_PRE"),
    *("UV_INDEX", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_NO_INDEX"),
    *("UV_CONSTRAINT", "UV_OVERRIDE", "UV_PRERELEASE", "UV_RESOLUTION", "UV_EXCLUDE_NEWER"),
)
"""Variables that decide which versions an installer finds."""


def build_interpreter(plugin: Plugin, environ: Mapping[str, str]) -> Path:
    """
    Return the Python of the virtual environment of a plugin, and build that where it is not there.

    In it is the plugin's distribution with all that it needs; gymcore, and what gymcore needs, is that of this process.

    Args:
        plugin: An installed plugin; it is not imported.
        environ: Where the folder of the cache and the settings of installers come from.

    Raises:
        PluginError: it cannot be built; with the last lines of the installer, all of which are in a file.
        StorageError: the cache cannot be written.
    """
    distribution = installed_distribution(plugin.distribution)
    if distribution is None:
        raise PluginError(
            f"{plugin.distribution} is not installed in a way that can be repeated elsewhere", plugin=plugin.qualified
        )
    origin, core = origin_of(distribution, plugin.qualified), core_view(plugin.qualified)
    digest = _digest(origin, core, environ)
    shelf = cache_folder(environ) / "venvs"
    build = _Build(plugin, distribution, origin, core, shelf / f"{normalised(origin.name)}-{digest}", environ)
    try:
        if build.gone() is not None:
            shelf.mkdir(mode=0o700, parents=True, exist_ok=True)
            shelf.chmod(0o700)
            (shelf / "CACHEDIR.TAG").write_text(CACHE_TAG)  # for backups, and for a project that it lies in
            with only_builder(shelf / f"{build.folder.name}.lock", plugin.qualified) as lock:
                if (gone := build.gone()) is not None:  # nobody has built it while we waited
                    if (build.folder / WHOLE_NAME).exists():
                        _say(f"the virtual environment of {plugin.qualified} is damaged, without {gone}")
                    build.make(lock)
                    forget_unused(shelf, normalised(origin.name), build.folder)
        with suppress(OSError):  # a cache that is only read
            os.utime(build.folder / WHOLE_NAME)  # it was used now
    except OSError as error:
        raise StorageError(
            f"no virtual environment can be made for {plugin.qualified}: {error.strerror or error}",
            where=error.filename if isinstance(error.filename, str) else str(shelf),
            hints=["try: another folder, with GYMCORE_CACHE=..."],
        ) from None
    return build.python


def forget_unused(shelf: Path, name: str, kept: Path) -> None:
    """
    Remove virtual environments of a distribution that nobody has used for long: each change of a plugin leaves one.

    Args:
        shelf: The folder that they lie in.
        name: The normalised name of the distribution.
        kept: The one that stays in any case.
    """
    for folder in shelf.iterdir():
        if folder == kept or not re.fullmatch(rf"{re.escape(name)}-[0-9a-f]{{16}}", folder.name):
            continue
        with suppress(OSError):
            if time.time() - (folder / WHOLE_NAME).stat().st_mtime < UNUSED_S:
                continue
            lock = os.open(shelf / f"{folder.name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                if _took(lock):
                    (folder / WHOLE_NAME).unlink()
                    shutil.rmtree(folder)
                    folder.with_suffix(".log").unlink()
            finally:
                os.close(lock)


def _digest(origin: Origin, core: CoreView, environ: Mapping[str, str]) -> str:
    said = [
        _FORMAT,
        [origin.name, origin.version, origin.digest],
        [__version__, core.digest],
        [sys.version, sys.platform, os.path.realpath(sys.executable)],
        {name: environ[name] for name in _SAYS_WHAT_THERE_IS if environ.get(name)},
    ]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode("utf-8", "surrogateescape")).hexdigest()[:16]


@contextmanager
def only_builder(path: Path, plugin: str, patience_s: float = INSTALL_S) -> Iterator[int]:
    """
    Wait until nobody else builds here, and yield the descriptor of the lock.

    Args:
        path: The file of the lock; it holds the process id of whoever has it.
        plugin: For whom, for messages.
        patience_s: How long to wait.

    Raises:
        PluginError: somebody else has it for longer.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        end, is_told = time.monotonic() + patience_s, False
        while not _took(file):
            who = os.pread(file, 20, 0).decode("ascii", "replace").strip() or "?"
            if not is_told:
                _say(f"another process ({who}) builds {path.with_suffix('').name}; waiting for it")
                is_told = True
            if time.monotonic() > end:
                raise PluginError(
                    f"another process builds the virtual environment of {plugin}, not done within {patience_s:g} s",
                    plugin=plugin,
                    where=str(path),
                    hints=[f"try: end it: process {who} has started it, and it holds this file (lsof tells which)"],
                )
            time.sleep(_LOOK_AGAIN_S)
        os.ftruncate(file, 0)
        os.pwrite(file, str(os.getpid()).encode(), 0)
        yield file
    finally:
        os.close(file)


def _took(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _say(line: str) -> None:
    logging.getLogger("gymcore").warning(line)


class _Build:
    """One virtual environment."""

    def __init__(
        self,
        plugin: Plugin,
        distribution: object,
        origin: Origin,
        core: CoreView,
        folder: Path,
        environ: Mapping[str, str],
    ) -> None:
        self.folder = folder
        self.python = folder / "venv" / "bin" / "python"
        self._plugin = plugin
        self._distribution = distribution
        self._origin = origin
        self._core = core
        self._environ = environ_of_installers(environ)
        self._log = folder.with_suffix(".log")

    def gone(self) -> Path | None:
        """Return something that must be there and is not; None where it is built and whole."""
        return what_is_gone(self.folder, self.python)

    def make(self, lock: int) -> None:
        """
        Build it.

        Raises:
            PluginError: it cannot be had.
            OSError: it cannot be written.
        """
        shutil.rmtree(self.folder, ignore_errors=True)  # what a build that was killed has left
        self.folder.mkdir(mode=0o700)
        _say(f"building a virtual environment for {self._plugin.qualified}, once: {self.folder}")
        started = time.monotonic()
        try:
            with self._log.open("wb") as log, tempfile.TemporaryDirectory(prefix="gymcore-build-") as scratch:
                os.fchmod(log.fileno(), 0o600)
                self._fill(log, Path(scratch), lock)
                self._check()
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        about = {"distribution": self._origin.name, "version": self._origin.version, "gymcore": __version__}
        mark_whole(self.folder, about, self._parts())
        _say(f"built in {time.monotonic() - started:.1f} s")

    def _fill(self, log: IO[bytes], scratch: Path, lock: int) -> None:
        venv.EnvBuilder(symlinks=True, with_pip=False).create(self.folder / "venv")
        self._core.make(self.folder / "core")
        (self._packages() / "gymcore-core.pth").write_text(f"{self.folder / 'core'}\n")
        uv = shutil.which("uv", path=self._environ.get("PATH"))
        wheel = self._wheel(uv, log, scratch, lock)
        if uv is None:
            command = [*self._pip(), "--python", str(self.python), "install", "--disable-pip-version-check"]
            self._run([*command, "--no-input", f"gymcore=={_core_version()}", str(wheel)], log, lock)
            return
        # uv does not look at what the core view shows: it is told to leave gymcore out, and what gymcore takes.
        override, constraint = scratch / "override.txt", scratch / "constraint.txt"
        override.write_text('gymcore ; python_version < "0"\n')
        constraint.write_text("".join(f"{need}\n" for need in self._core.needs if "extra ==" not in need))
        command = [uv, "pip", "install", "--python", str(self.python), "--override", str(override)]
        extras = Installed().for_extras(self._origin.name, "gymcore")
        self._run([*command, "--constraint", str(constraint), str(wheel), *extras], log, lock)

    def _wheel(self, uv: str | None, log: IO[bytes], scratch: Path, lock: int) -> Path:
        if self._origin.source is None:
            try:
                return pack(self._distribution, scratch)
            except OSError as error:
                raise PluginError(
                    f"{self._origin.name} is not whole: {error.strerror}",
                    plugin=self._plugin.qualified,
                    where=str(error.filename),
                    hints=[f"try: pip install --force-reinstall {self._origin.name}"],
                ) from None
        source = str(self._origin.source)
        if uv is not None:
            command = [uv, "build", "--wheel", "--python", sys.executable, "--out-dir", str(scratch), source]
        else:
            command = [*self._pip(), "wheel", "--no-deps", "--no-input", "--disable-pip-version-check"]
            command += ["--wheel-dir", str(scratch), source]
        self._run(command, log, lock)
        return next(scratch.glob("*.whl"))

    def _pip(self) -> Sequence[str]:
        """Return how pip is called, whichever there is: it works on another Python, too."""
        import importlib.util

        if importlib.util.find_spec("pip") is None:
            raise PluginError(
                f"{self._plugin.qualified} cannot have a virtual environment of its own: there is no installer",
                plugin=self._plugin.qualified,
                hints=["try: install uv, or: python -m ensurepip"],
            )
        return [sys.executable, "-P", "-m", "pip"]

    def _run(self, command: list[str], log: IO[bytes], lock: int) -> None:
        log.write(f"$ {' '.join(command)}\n".encode("utf-8", "surrogateescape"))
        log.flush()
        try:
            done = subprocess.run(
                leashed(command),
                cwd=self.folder,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(lock,),
                timeout=INSTALL_S,
                check=False,
            )
            ended = f"exit code {done.returncode}"
        except subprocess.TimeoutExpired:
            ended = f"not done within {INSTALL_S:g} s"
        if ended == "exit code 0":
            return
        lines = [line.rstrip() for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        raise PluginError(
            f"the virtual environment of {self._plugin.qualified} cannot be built: {Path(command[0]).name}: {ended}",
            plugin=self._plugin.qualified,
            hints=[*lines[-SHOWN_LINES:], f"all of it: {self._log}"],
        )

    def _packages(self) -> Path:
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        return self.folder / "venv" / "lib" / version / "site-packages"

    def _parts(self) -> Iterator[Path]:
        """Yield every file of the plugin, what was installed with it, and what is seen of gymcore's installation."""
        for folder in (self.folder / "core", self._packages()):
            yield from (path for path in folder.iterdir() if path.name != "__pycache__")
        there = installed_distribution(self._origin.name, [str(self._packages())])
        if there is not None:
            yield from (path for _, path in installed_files(there))

    def _check(self) -> None:
        """
        Look whether gymcore and the plugin are content with what is there now.

        Raises:
            PluginError: one of them is not.
        """
        there = Installed([str(self._packages()), str(self.folder / "core")])
        for name in (self._origin.name, "gymcore"):
            for clash in there.clashes(name):
                raise PluginError(
                    f"{self._plugin.qualified} cannot play with this gymcore: in one environment with it, {name} "
                    f"{clash.describe()}",
                    plugin=self._plugin.qualified,
                    hints=[f"all of the installation: {self._log}"],
                )


def _core_version() -> str:
    found = Installed().find("gymcore")
    return __version__ if found is None or found.version is None else found.version
