"""
What keeps builds apart, and when one counts as whole, without building any.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from gymcore.errors import PluginError
from gymcore.interpreters.building import only_builder


def test_who_waits_for_a_build_that_never_ends_is_told_who_builds(tmp_path: Path) -> None:
    """
    An installer that hangs may hold the lock after its gymcore is gone: the wait has an end, and says whose it is.
    """
    lock = tmp_path / "mine.lock"

    with (
        only_builder(lock, "mine/mine"),
        pytest.raises(PluginError, match=r"mine/mine, not done within 0\.1 s") as caught,
        only_builder(lock, "mine/mine", patience_s=0.1),
    ):
        pass

    assert caught.value.where == str(lock)
    assert f"process {os.getpid()}" in caught.value.hints[0]
    with only_builder(lock, "mine/mine", patience_s=0.0), lock.open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
