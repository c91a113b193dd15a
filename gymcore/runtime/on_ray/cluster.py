"""
Ray itself: joined where it runs, started where it does not, and stopped only by who started it.
"""

from __future__ import annotations

import asyncio
import fcntl
import functools
import logging
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import IO, TypeVar

from gymcore.errors import PlanError, Problem
from gymcore.plan import RayPlan

__all__ = ["Cluster", "open_cluster", "require_ray"]

FOLDER_PREFIX = "gymcore-ray-"
LOCK_NAME = "in-use"
LONGEST_FOLDER = 24
"""Bytes of the folder for temporary files: Ray puts sockets below it, whose paths may have 107 bytes in all."""

CONNECT_S = 10.0
"""How long a Ray that is to be joined may take to accept a connection."""

STORE_BYTES = 200 * 2**20
"""Shared memory for rollouts on their way here; Ray puts what does not fit on disk."""

LOG_BYTES = 8 * 2**20
"""How long a log file of a Ray that was started here may become before it is started anew, once."""


@dataclass(frozen=True)
class Cluster:
    """A Ray that can be used."""

    ray: ModuleType
    workers: int
    """How many workers to start."""
    cpus: float
    """How many CPUs it has, those in use included."""
    is_here: bool
    """Whether it runs on this machine alone."""


@asynccontextmanager
async def open_cluster(plan: RayPlan, most: int) -> AsyncIterator[Cluster]:
    """
    Join the Ray that a plan names or this process uses already, or start one here, and leave it at the end.

    Args:
        plan: What the plan says of Ray.
        most: More workers than this would have nothing to do.

    Raises:
        PlanError: Ray is not installed, cannot be joined or cannot be started.
    """
    # Ray's processes end with the thread that started them, so that they cannot survive us: it must live as long.
    with ThreadPoolExecutor(1, thread_name_prefix="gymcore-ray") as thread:
        ray = await _in_thread(thread, _import, plan)
        is_ours = not ray.is_initialized()
        folder = await _in_thread(thread, _own_folder) if is_ours and _address(plan) is None else None
        try:
            if folder is not None:
                await _in_thread(thread, _start, ray, plan, folder.path)
            elif is_ours:
                await _check_address(_address(plan) or "")
                await _in_thread(thread, _join, ray, plan)
            yield await _in_thread(thread, _describe, ray, plan, most)
        finally:
            if is_ours:
                await _in_thread(thread, _leave, ray)
            if folder is not None:
                await _in_thread(thread, folder.remove)


Result = TypeVar("Result")


async def _in_thread(thread: ThreadPoolExecutor, function: Callable[..., Result], *arguments: object) -> Result:
    """Call a function in a thread and wait until it has ended, also when we are cancelled meanwhile."""
    working = asyncio.get_running_loop().run_in_executor(thread, function, *arguments)
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        await asyncio.wait([working])
        raise


def _address(plan: RayPlan) -> str | None:
    """Return where Ray runs; None where one is to be started here."""
    return plan.address or os.environ.get("RAY_ADDRESS") or None


def require_ray() -> None:
    """
    Look whether Ray is installed, without importing it.

    Raises:
        PlanError: it is not.
    """
    if find_spec("ray") is None:
        raise _absent("it is not installed")


def _absent(reason: object) -> PlanError:
    hint = "try: pip install 'gymcore[ray]', or --executor local"
    message = f"the executor 'ray' needs Ray, which cannot be imported: {reason}"
    return PlanError([Problem(message, where="collect.executor", hints=(hint,))])


def _import(plan: RayPlan) -> ModuleType:
    # Some of this Ray reads when it is imported, and never again.
    with _environment(_settings() if _address(plan) is None else {}):
        try:
            import ray
        except ImportError as error:
            raise _absent(error) from None
    module: ModuleType = ray
    return module


async def _check_address(address: str) -> None:
    """
    Find out whether anybody listens at an address: Ray itself tries for minutes, and then ends the process.

    Raises:
        PlanError: nobody does.
    """
    host, colon, port = address.rpartition(":")
    if "://" in address:
        hint = "try: HOST:PORT, from a machine of the cluster; Ray's client (ray://) is not supported"
        raise PlanError([Problem(f"{address!r} is no address of a Ray to join", "collect.ray.address", (hint,))])
    if not colon or not port.isdigit():
        return  # `auto`, say, which Ray looks up itself
    try:
        async with asyncio.timeout(CONNECT_S):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except (OSError, TimeoutError, OverflowError) as error:
        reason = str(error) or f"no answer within {CONNECT_S:g} s"
        hint = "try: `ray status` on this machine, which must be one of the cluster"
        problem = Problem(f"Ray cannot be joined at {address}: {reason}", "collect.ray.address", (hint,))
        raise PlanError([problem]) from None
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


def _join(ray: ModuleType, plan: RayPlan) -> None:
    address = _address(plan)
    try:
        with _environment({}), _quiet():
            ray.init(address=address, configure_logging=False, log_to_driver=False)
    except Exception as error:  # whatever Ray raises: of the network, of versions that differ, of keys
        hint = "try: `ray status` on this machine; its version and that of Python must be those of the cluster"
        problem = Problem(f"Ray cannot be joined at {address}: {_first_line(error)}", "collect.ray.address", (hint,))
        raise PlanError([problem]) from error


def _start(ray: ModuleType, plan: RayPlan, folder: Path) -> None:
    try:
        with _environment(_settings()), _quiet():
            ray.init(
                address="local",
                num_cpus=plan.workers or len(os.sched_getaffinity(0)),
                object_store_memory=STORE_BYTES,
                include_dashboard=False,
                configure_logging=False,
                log_to_driver=False,
                _temp_dir=str(folder),
            )
    except Exception as error:  # whatever Ray raises
        message = f"Ray cannot be started: {_first_line(error)}"
        raise PlanError([Problem(message, "collect.executor", ("try: --executor local",))]) from error


def _describe(ray: ModuleType, plan: RayPlan, most: int) -> Cluster:
    cpus = ray.cluster_resources().get("CPU", 0.0)
    machines = {node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
    workers = plan.workers or max(1, min(most, int(cpus)))
    return Cluster(ray, workers, cpus, is_here=machines == {os.uname().nodename})


def _leave(ray: ModuleType) -> None:
    with _quiet():
        ray.shutdown()


@functools.cache
def _settings() -> Mapping[str, str]:
    """
    Return the environment variables for a Ray that is started here; the same whenever it is started.

    Where somebody else has imported Ray before, it has made up its mind on keys and addresses, and is left to it.
    """
    settings = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ROTATION_MAX_BYTES": str(LOG_BYTES),
        "RAY_ROTATION_BACKUP_COUNT": "1",
    }
    if "ray" not in sys.modules:
        # For a machine that is no part of a cluster: every process listens on the loopback interface only.
        settings["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        if "RAY_AUTH_MODE" not in os.environ:
            # A key that lives as long as we do; Ray's own would be kept in the user's home.
            settings.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    return settings


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the processes that are started inside; at the end all is as it was before."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Ray's remarks on starting and stopping to itself; errors are raised."""
    logger = logging.getLogger("ray")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


class _Folder:
    """
    A folder for the files of one Ray, locked as long as it is used.

    Args:
        path: Where it is.
        lock: The open file in it that is locked.
    """

    def __init__(self, path: Path, lock: IO[str]) -> None:
        self.path = path
        self._lock = lock

    def remove(self) -> None:
        """Remove it; processes that are just ending may still write to it, so more than once."""
        self._lock.close()
        for _ in range(20):
            shutil.rmtree(self.path, ignore_errors=True)
            if not self.path.exists():
                return
            time.sleep(0.1)


def _own_folder() -> _Folder:
    parent = tempfile.gettempdir()
    if len(os.fsencode(parent)) > LONGEST_FOLDER:
        parent = "/tmp"
    with suppress(OSError):
        _remove_abandoned(Path(parent))
    path = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=parent))
    lock = (path / LOCK_NAME).open("w")
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return _Folder(path, lock)


def _remove_abandoned(parent: Path) -> None:
    """Remove the folders of processes that were killed; those that are a minute old may not be locked yet."""
    for path in parent.glob(f"{FOLDER_PREFIX}*"):
        with suppress(OSError):
            if path.stat().st_uid != os.getuid() or time.time() - path.stat().st_mtime < 60:
                continue
            with (path / LOCK_NAME).open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
