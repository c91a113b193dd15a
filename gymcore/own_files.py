"""
Files that belong to one process: a child that it forks does not keep them open, and with them what is locked on them.

A lock of `flock` belongs to the open file, which a fork shares: a forked child that outlives a killed process would
keep its lock. So every fork by way of Python gives the child an empty file in place of each; a child that writes there
is told so by an error. A program that is started anew gets none of them at all. What forks in C, past Python, keeps
them.
"""

from __future__ import annotations

import os
import threading
from functools import cache

__all__ = ["close_own", "open_own"]

_opened: set[int] = set()
_changing = threading.RLock()
"""Held while a fork is made too: another thread may be between opening a file and noting it."""


def open_own(path: str | os.PathLike[str], flags: int, mode: int = 0o666) -> int:
    """
    Open a file for this process alone, and return its descriptor; close it with `close_own`.

    Raises:
        OSError: as `os.open` does.
    """
    _watch_forks()
    with _changing:
        file = os.open(path, flags | os.O_CLOEXEC, mode)
        _opened.add(file)
        return file


def close_own(file: int) -> None:
    """Close what `open_own` opened; in a forked child, what stands in its place."""
    with _changing:
        _opened.discard(file)
        os.close(file)


@cache
def _watch_forks() -> None:
    os.register_at_fork(before=_changing.acquire, after_in_parent=_changing.release, after_in_child=_let_go)


def _let_go() -> None:
    """Let go of the files in a forked child; their numbers stay taken, for somebody may still close them."""
    try:
        if _opened:
            empty = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            for file in _opened:
                os.dup2(empty, file, inheritable=False)
            os.close(empty)
    except OSError:  # no descriptor is free for the empty file
        for file in _opened:
            os.close(file)
    finally:
        _opened.clear()
        _changing.release()
