"""
The command line itself: help that costs nothing, mistakes in words, and the exit codes nobody else gives.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import gymcore
from gymcore.cli import COMMANDS

Gym = Callable[..., subprocess.CompletedProcess[str]]


def started(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a Python that starts for it."""
    return subprocess.run([sys.executable, "-m", "gymcore", *arguments], capture_output=True, text=True, check=False)


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Run some Python."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_names_every_command(flag: str) -> None:
    """
    One line for each, and two examples to type.
    """
    done = started(flag)

    assert (done.returncode, done.stderr) == (0, "")
    for name, text in COMMANDS.items():
        assert f"  {name} " in done.stdout
        assert text in " ".join(done.stdout.split())


def test_every_command_has_help(gym: Gym) -> None:
    """
    The help of a command opens nothing and runs nothing.
    """
    for name in COMMANDS:
        done = gym(name, "--help")
        assert done.returncode == 0
        assert done.stdout.startswith(f"Usage: gym {name} ")


def test_the_version_is_shown(gym: Gym) -> None:
    """
    It is the package's own.
    """
    assert gym("--version").stdout == f"gymcore {gymcore.__version__}\n"


def test_help_and_version_import_no_stage() -> None:
    """
    What only prints does not pay for pydantic, YAML or plugins.
    """
    heavy = "{'pydantic', 'yaml', 'orjson', 'rich', 'pluggy', 'asyncio', 'gymcore.interfaces'}"
    code = "import sys; from gymcore.cli import Interrupts, _exit_code; _exit_code(['--help'], Interrupts())"

    done = python(f"{code}; print(sorted({heavy} & set(sys.modules)))")

    assert done.stdout.splitlines()[-1] == "[]"


def test_a_misspelt_command_is_answered_with_the_nearest(gym: Gym) -> None:
    """
    A wrong word is a wrong request: exit code 2, on stderr.
    """
    done = gym("raport")

    assert (done.returncode, done.stdout) == (2, "")
    assert "No such command 'raport'" in done.stderr
    assert "'report'" in done.stderr


def test_no_command_at_all_shows_the_help(gym: Gym) -> None:
    """
    Who types `gym` wants to know what it does.
    """
    done = gym()

    assert "Usage: gym" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_both_scripts_are_the_module() -> None:
    """
    `gym` may be another package's: `gymcore` and `python -m gymcore` say the same.
    """
    for script in ("gym", "gymcore"):
        path = Path(sys.executable).parent / script
        if path.exists():
            done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
            assert done.stdout == started("--version").stdout


def test_a_bug_of_ours_ends_with_70_and_its_traceback() -> None:
    """
    What is no GymcoreError is shown whole and called a bug, so that it is reported.
    """
    code = """
import sys, types, click
from gymcore import cli
def command(): raise KeyError("oops")
cli.COMMANDS["broken"] = "Break."
sys.modules["gymcore.cli.broken"] = types.SimpleNamespace(command=click.command()(command))
cli.main(["broken"])
"""
    done = python(code)

    assert done.returncode == 70
    assert "Traceback" in done.stderr
    assert done.stderr.endswith("this is a bug of gymcore, please report it: KeyError: 'oops'\n")


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    """
    `gym list | head -1` ends quietly.
    """
    command = f"{sys.executable} -m gymcore --help | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)

    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr
