"""
What the end-to-end tests share: the command as a real process, and the rows of an existing system where they are.
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

ROOT = Path(__file__).parents[2]
ENVIRONMENTS = ("example_single_tool_call", "example_multi_step")

Gym = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def gym(commands: Any, tmp_path: Path) -> Gym:
    """
    Run `gym` with these arguments in an empty folder, and return the ended process.
    """

    def run(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = commands.run(*arguments, folder=tmp_path, environ=os.environ)
        assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run


@pytest.fixture(scope="session")
def shared() -> Path:
    """
    The folder of facts beside this project: GYMCORE_SHARED, or ../shared; tests that need it skip without it.
    """
    folder = Path(os.environ.get("GYMCORE_SHARED", ROOT.parent / "shared"))
    if not (folder / "data" / "nemo_gym_examples").is_dir():
        pytest.skip(f"no rows of the existing system in {folder}; GYMCORE_SHARED names another folder")
    return folder


@pytest.fixture(scope="session")
def real_rows(shared: Path) -> dict[str, Path]:
    """
    The file of each environment's real rows, as they come.
    """
    return {name: shared / "data" / "nemo_gym_examples" / f"{name}.jsonl" for name in ENVIRONMENTS}


@pytest.fixture
def routed_rows(real_rows: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    """
    The real rows with only the routing key added, as jq adds it.
    """
    files = {}
    for name, source in real_rows.items():
        files[name] = tmp_path / f"{name}.jsonl"
        lines = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines() if line.strip()]
        routed = [{**row, "agent_ref": {"name": f"{name}_simple_agent"}} for row in lines]
        files[name].write_text("".join(json.dumps(row) + "\n" for row in routed), encoding="utf-8")
    return files


@pytest.fixture
def mock_endpoint(shared: Path, real_rows: dict[str, Path]) -> Iterator[Callable[..., str]]:
    """
    Start the neutral endpoint with these options and return its URL; it solves the real rows.
    """
    pytest.importorskip("httptools", reason="the neutral endpoint needs httptools")
    started: list[subprocess.Popen[str]] = []

    def start(*options: str) -> str:
        script = shared / "bench" / "mock_endpoint.py"
        answers = ["--answers", *map(str, real_rows.values())]
        process = subprocess.Popen([sys.executable, str(script), *answers, *options], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        return process.stdout.readline().split()[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()
