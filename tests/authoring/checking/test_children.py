"""
A process that hangs, floods or leaves others behind costs its time and nothing more.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from gymcore.authoring.checking.children import LINGERING_S, Child, run_child


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("pass", "ended with exit code 0"),
        ("raise SystemExit(3)", "ended with exit code 3"),
        ("import os; os.kill(os.getpid(), 11)", "was ended by SIGSEGV"),
        ("import time; time.sleep(60)", "did not end within 1 s"),
        ("while True: print('x' * 1000)", "did not end within 1 s"),
    ],
)
def test_says_how_a_process_ended(tmp_path: Path, code: str, told: str) -> None:
    """
    An exit code, a signal by its name, or that it took too long.
    """
    began = time.monotonic()

    ended = run_child(python(code), tmp_path, os.environ, 1.0 if "within" in told else 30.0, kept=3)

    assert ended.told() == told
    assert len(ended.lines) <= 3
    assert time.monotonic() - began < 20


def test_what_a_process_has_started_ends_with_it(tmp_path: Path) -> None:
    """
    A process in the background is ended, and what it holds open keeps nobody waiting.
    """
    code = "import subprocess; print(subprocess.Popen(['sleep', '600']).pid)"
    began = time.monotonic()

    ended = run_child(python(code), tmp_path, os.environ, 60.0)

    assert time.monotonic() - began < 20
    for _ in range(100):
        try:
            os.kill(int(ended.lines[0]), 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{ended.lines[0]}/stat").read_text().split()[2] == "Z":  # ended, and nobody has asked yet
            return
        time.sleep(0.05)
    pytest.fail("it is still there")


def test_lines_come_as_they_are_printed(tmp_path: Path) -> None:
    """
    A line is there before the process has ended, and leaving the block ends the process.
    """
    with Child(python("import time; print('first', flush=True); time.sleep(600)"), tmp_path, os.environ, 60.0) as child:
        assert next(child.lines()) == "first"


def test_whoever_reads_slowly_misses_no_line(tmp_path: Path) -> None:
    """
    What was printed before the end is read after it, however long that takes.
    """
    read = []
    with Child(python("for n in range(5): print(n)"), tmp_path, os.environ, 60.0) as child:
        for line in child.lines():
            read.append(line)
            time.sleep({1: 0.5, 2: LINGERING_S + 0.2}.get(len(read), 0.0))

    assert read == ["0", "1", "2", "3", "4"]


def test_the_last_lines_are_those_of_stderr(tmp_path: Path) -> None:
    """
    What a program says at its end is on stderr, where it says anything there.
    """
    code = "import sys; print('out'); print('one\\ntwo\\n\\n', file=sys.stderr)"

    ended = run_child(python(code), tmp_path, os.environ, 30.0)

    assert ended.last(2) == ("one", "two")
    assert run_child(python("print('out')"), tmp_path, os.environ, 30.0).last() == ("out",)
