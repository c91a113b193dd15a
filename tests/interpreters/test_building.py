"""
What keeps builds apart, and when one counts as whole, without building any.
"""

from __future__ import annotations

import fcntl
import os
import time
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from gymcore.errors import PluginError
from gymcore.interpreters.building import forget_unused, only_builder
from gymcore.interpreters.wholeness import mark_whole, what_is_gone


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


def test_what_nobody_has_used_for_a_month_is_removed(tmp_path: Path) -> None:
    """
    Of the same distribution, built to its end, and not while somebody holds its lock.
    """
    old, young = time.time() - 31 * 86_400, time.time() - 29 * 86_400
    shelf = {f"mine-{number:016x}": young if number == 3 else old for number in (1, 2, 3, 4)}
    for name, used in {**shelf, f"mine-too-{1:016x}": old}.items():
        (tmp_path / name / "venv").mkdir(parents=True)
        (tmp_path / f"{name}.log").touch()
        mark_whole(tmp_path / name, {}, [])
        os.utime(tmp_path / name / "whole.json", (used, used))

    with only_builder(tmp_path / f"mine-{2:016x}.lock", "mine/mine"):
        forget_unused(tmp_path, "mine", tmp_path / f"mine-{4:016x}")

    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == [
        *(f"mine-{number:016x}" for number in (2, 3, 4)),
        f"mine-too-{1:016x}",
    ]
    assert not (tmp_path / f"mine-{1:016x}.log").exists()


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda folder: (folder / "whole.json").unlink(), "whole.json"),
        (lambda folder: (folder / "whole.json").write_text("{"), "whole.json"),
        (lambda folder: (folder / "whole.json").write_text("{}"), "whole.json"),
        (lambda folder: (folder / "venv/bin/python").unlink(), "venv/bin/python"),
        (lambda folder: not_executable(folder / "venv/bin/python"), "venv/bin/python"),
        (lambda folder: (folder / "mine/deep.py").unlink(), "mine/deep.py"),
        (lambda folder: (folder / "target").rename(folder / "elsewhere"), "core"),
        (lambda folder: None, None),
    ],
    ids=["unmarked", "torn", "empty", "no python", "no program", "a file", "where a link leads", "nothing"],
)
def test_what_is_gone_of_a_virtual_environment_is_seen(
    tmp_path: Path, harm: Callable[[Path], object], told: str | None
) -> None:
    """
    Of its mark, its Python, the files of its plugin and the links to gymcore; then it is built again.
    """
    venv.EnvBuilder(symlinks=True, with_pip=False).create(tmp_path / "venv")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "deep.py").write_text("ONE = 1\n")
    (tmp_path / "target").write_text("gymcore")
    (tmp_path / "core").symlink_to(tmp_path / "target")
    mark_whole(tmp_path, {"distribution": "mine"}, [tmp_path / "mine" / "deep.py", tmp_path / "core"])

    harm(tmp_path)

    gone = what_is_gone(tmp_path, tmp_path / "venv" / "bin" / "python")
    assert gone == (None if told is None else tmp_path / told)


def not_executable(path: Path) -> None:
    """Put a file in the place of a program."""
    path.unlink()
    path.write_text("no program")
