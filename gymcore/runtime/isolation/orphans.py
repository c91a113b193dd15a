"""
A worker never outlives its run: the kernel, a thread and a guardian see to it, each where the others cannot.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from typing import Any

__all__ = ["end_with"]

PR_SET_PDEATHSIG = 1  # from <linux/prctl.h>


def end_with(parent: int, descriptor: int) -> None:
    """
    End this process, which leads a process group, and everything in its group, when another process ends.

    On Linux the kernel kills it, whatever it is doing, and a guardian, a small process forked from it, kills its group
    when it is dead. Elsewhere a thread does both, unless something never lets go of the interpreter.

    Args:
        parent: The id of the process that started this one.
        descriptor: A connected socket whose other end only that process holds.
    """
    libc = _libc()
    if libc is not None:
        _guard(libc)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended while this process started
        _end_group()
    threading.Thread(target=_watch, args=(descriptor,), name="gymcore-watch", daemon=True).start()


def _libc() -> Any:
    """Return the C library of Linux; None elsewhere."""
    if sys.platform != "linux":
        return None
    import ctypes

    return ctypes.CDLL(None, use_errno=True)


def _guard(libc: Any) -> None:
    """Fork what waits for the death of this process and then kills what is left of its group."""
    worker = os.getpid()
    if os.fork():
        return
    try:
        os.setpgid(0, 0)
        os.closerange(0, 65_536)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() == worker:
            signal.sigwait({signal.SIGTERM})
        os.killpg(worker, signal.SIGKILL)
    finally:
        os._exit(0)


def _watch(descriptor: int) -> None:
    """Wait, without reading, until the other end of a socket is closed."""
    poll = select.poll()
    poll.register(descriptor, getattr(select, "POLLRDHUP", 0))
    while not poll.poll():
        pass
    _end_group()


def _end_group() -> None:
    try:
        os.killpg(os.getpid(), signal.SIGKILL)
    finally:
        os._exit(1)
