"""
A command that ends with whoever has started it: real processes, one of which is killed.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from gymcore.interpreters.leash import leashed

STARTER = """
import subprocess, sys
from gymcore.interpreters.leash import leashed
code = "import time; print('up', flush=True); time.sleep(100); print('lived on')"
subprocess.run(leashed([sys.executable, "-c", code]))
"""


def test_what_it_runs_is_the_command_itself() -> None:
    """
    Its process id, its output and its exit code are the command's.
    """
    command = leashed([sys.executable, "-c", "import os; print(os.getpid()); raise SystemExit(7)"])

    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        out, _ = process.communicate(timeout=60)

    assert (out, process.returncode) == (f"{process.pid}\n", 7)


@pytest.mark.skipif(sys.platform != "linux", reason="only the kernel of Linux kills it")
def test_it_ends_with_whoever_has_started_it() -> None:
    """
    SIGKILL leaves nobody time to end anything; what was started is gone all the same, and its output closed.
    """
    reading, writing = os.pipe()
    with os.fdopen(reading) as out, subprocess.Popen([sys.executable, "-c", STARTER], stdout=writing) as starter:
        os.close(writing)
        assert out.readline() == "up\n"
        starter.kill()
        assert out.read() == ""
        assert starter.wait(60) == -9
