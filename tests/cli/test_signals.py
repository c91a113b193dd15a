"""
Signals before, during and after a run, in processes of their own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

NUMBERS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]

SCRIPT = """
import asyncio, os, signal, sys, time
from gymcore.cli.signals import Signals, interrupted_once

def send(number=signal.{number}):
    os.kill(os.getpid(), number)
    time.sleep(0)

signals = Signals()
signals.leave = lambda: os.write(1, b"left ")
with signals.caught():
{body}
print("end", signals.count)
"""


def outcome(number: signal.Signals, body: str) -> tuple[int, str, str]:
    """Run a script with signals in it."""
    indented = "\n".join("    " + line for line in body.strip().splitlines())
    code = SCRIPT.format(number=number.name, body=indented)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout.strip(), done.stderr.strip().rpartition("\n")[2]


@pytest.mark.parametrize("number", NUMBERS)
def test_interrupts_before_the_run(number: signal.Signals) -> None:
    """
    While a plan is looked at, each signal is a KeyboardInterrupt.
    """
    body = "try:\n    send()\nexcept KeyboardInterrupt:\n    print('interrupted')"

    assert outcome(number, body) == (0, "interrupted\nend 1", "")


@pytest.mark.parametrize("number", NUMBERS)
def test_tells_the_run_and_interrupts_nothing(number: signal.Signals) -> None:
    """
    While it plays and while it says how it ended; the third ends the process, with the terminal left as it was.
    """
    body = """
async def main():
    with signals.told(lambda count: print("told", count, flush=True)):
        send()
        print("played on", flush=True)
        await asyncio.sleep(0.01)
asyncio.run(main())
send()
print("said how it ended", flush=True)
send()
"""

    assert outcome(number, body) == (130, "played on\ntold 1\nsaid how it ended\nleft", "")


def test_a_signal_that_was_lost_is_found_before_the_run() -> None:
    """
    Python throws away what is raised while an object is deleted; the run does not begin all the same.
    """
    body = """
class Deleted:
    def __del__(self):
        send()
async def main():
    with signals.told(print):
        print("played")
Deleted()
asyncio.run(main())
"""
    code, out, err = outcome(signal.SIGINT, body)

    assert (out, err) == ("", "KeyboardInterrupt")
    assert code in (130, -signal.SIGINT)


def test_who_is_started_with_hup_switched_off_never_hears_it() -> None:
    """
    That is what `nohup` does.
    """
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert outcome(signal.SIGHUP, "send()") == (0, "end 0", "")
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", NUMBERS)
def test_only_the_first_interrupts_where_there_is_something_to_clean_up(number: signal.Signals) -> None:
    """
    The next ones are not heard, also when all is cleaned up; the fifth ends the process.
    """
    body = """
try:
    with interrupted_once():
        try:
            send()
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        send()
        print("cleaned up", flush=True)
finally:
    send()
    send()
    print("said so", flush=True)
    send()
"""

    assert outcome(number, body) == (130, "interrupted\ncleaned up\nsaid so", "")


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("times", [1, 4])
@pytest.mark.parametrize("command", ["list", "report"])
def test_every_command_ends_cleanly(tmp_path: Path, number: signal.Signals, command: str, times: int) -> None:
    """
    A signal while a command is being loaded ends it with 130 and one word, as do further ones while it says so.
    """
    (tmp_path / "loading.py").write_text(f"""
import os, sys, gymcore.cli as cli

class Interrupts(dict):
    def __contains__(self, name):
        exec("os.kill(os.getpid(), {int(number)}); str()")

class Telling:
    left = {times - 1}
    def write(self, text):
        if self.left and "interrupted" in text:
            self.left -= 1
            os.kill(os.getpid(), {int(number)})
        sys.__stderr__.write(text)
    def flush(self):
        sys.__stderr__.flush()

cli.command_line.lazy = Interrupts(cli.COMMANDS)
cli.be_courteous = lambda: setattr(sys, "stderr", Telling())
cli.main(['{command}', 'nowhere'])
""")
    done = subprocess.run(
        [sys.executable, "-m", "loading"], cwd=tmp_path, capture_output=True, text=True, check=False, env=os.environ
    )

    assert (done.returncode, done.stderr.strip()) == (130, "interrupted")
