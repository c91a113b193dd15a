"""
What tests of several folders share: one built distribution of plugins, and the command `gym` as a process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from gymcore.discovery import Catalog, discover
from gymcore.testing.plugins import PluginFolder
from gymcore.testing.suites import PluginSuite

# A busy machine makes no law false. On a second Python a law is looked at, and not searched for its exceptions again.
settings.register_profile("thorough", deadline=None, max_examples=40)
settings.register_profile("brief", deadline=None, max_examples=10)
settings.load_profile(os.environ.get("GYMCORE_TEST_PROFILE", "thorough"))

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow; so are the suites of plugins, which play in processes of their own wherever they stand."""
    for item in items:
        place = ""
        if item.path.is_relative_to(Path(__file__).parent):
            place = item.path.relative_to(Path(__file__).parent).as_posix()
        is_suite = isinstance(item, pytest.Function) and issubclass(item.cls or object, PluginSuite)
        if is_suite or place.startswith(SLOW):
            item.add_marker(pytest.mark.slow)


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


Gym = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def gym(tmp_path: Path) -> Gym:
    """
    The command line as a user meets it: a process of its own, in an empty folder.
    """

    def run(*arguments: str, folder: PluginFolder | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
        inherited = folder.environ if folder is not None else dict(os.environ)
        clean = {
            name: value for name, value in inherited.items() if not name.startswith(("POLICY_", "ECHO_", "KEYED_"))
        }
        return subprocess.run(
            [sys.executable, "-m", "gymcore", *arguments],
            cwd=tmp_path,
            env={**clean, "NO_COLOR": "1", **environ},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run
