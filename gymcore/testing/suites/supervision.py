"""
A suite in an interpreter of its own, which is watched: what ends it, or never comes back, is the outcome of a check.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import select
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from gymcore.testing.suites.running import CheckOutcome

__all__ = ["CHECK_LIMIT_S", "LIMIT_S", "Say", "supervised"]

CHECK_LIMIT_S = 300.0
"""How long one check may take."""
LIMIT_S = 1800.0
"""How long a suite may take."""
MAX_STARTS = 4
_POLL_S = 0.1

Say = Callable[..., None]
"""Tells the supervisor something, by name."""


@dataclass(frozen=True)
class _End:
    """How an interpreter ended before it was done."""

    why: str
    is_late: bool = False


def supervised(
    work: Callable[[list[str], Say], None], *, check_limit_s: float = CHECK_LIMIT_S, limit_s: float = LIMIT_S
) -> Iterator[CheckOutcome]:
    """
    Yield what a suite tells that runs in a fork of this process; where that ends too early, the next one goes on.

    Args:
        work: Runs the checks but those that are done, and tells `start`, `outcome` and at last `done`.
        check_limit_s: How long one check may take.
        limit_s: How long all of them may take.
    """
    until = time.monotonic() + limit_s
    done: list[str] = []
    for _ in range(MAX_STARTS):
        current: dict[str, Any] | None = None
        end: _End | None = None
        for message in _messages(work, done, check_limit_s, until):
            if isinstance(message, _End):
                end = message
            elif "start" in message:
                current = message
                done.append(message["start"])
            elif "outcome" in message:
                current = None
                yield CheckOutcome(**message["outcome"])
            else:
                return
        assert end is not None
        if current is None:
            yield CheckOutcome("suite", "failed", f"{end.why}, between two checks", fix=_MEND)
        else:
            yield CheckOutcome(
                current["start"], "failed", end.why, current["why"], current["fix"] or _MEND, current["seconds"]
            )
        if end.is_late and time.monotonic() >= until:
            told = f"the suite was ended after {limit_s:g} s; the checks that are not named were not run"
            yield CheckOutcome("suite", "failed", told, fix="Mend what hangs, or raise --timeout.")
            return
    told = f"the suite has ended {MAX_STARTS} interpreters; the checks that are not named were not run"
    yield CheckOutcome("suite", "failed", told, fix=_MEND)


_MEND = "Mend what ends the interpreter: `os._exit()`, a crash in a library, or a loop that nothing bounds."


def _messages(
    work: Callable[[list[str], Say], None], done: list[str], check_limit_s: float, until: float
) -> Iterator[dict[str, Any] | _End]:
    """Yield what one interpreter says, and at last how it ended where it was not done."""
    with tempfile.TemporaryDirectory(prefix="gymcore-suite-") as folder:
        places = Path(folder, "places")
        places.touch()
        child, told, held = _forked(work, done, places)
        began = time.monotonic()
        current: dict[str, Any] | None = None
        code: int | None = None
        rest = b""
        try:
            while True:
                is_quiet = not select.select([told], [], [], _POLL_S)[0]
                now = time.monotonic()
                if current is not None:
                    current["seconds"] = now - began
                if is_quiet and (now >= until or now - began >= check_limit_s):
                    place = _place_of_hanging(child, places)
                    limit_s = min(check_limit_s, now - began)
                    yield _End(f"it did not come back within {limit_s:.0f} s{place}", is_late=True)
                    return
                if is_quiet and not _has_ended(child):
                    continue
                read = b"" if is_quiet else os.read(told, 65536)  # what it has started may hold the pipe open
                if not read:
                    code = _waited_for(child)
                    yield _End(f"it ended the interpreter with {_told_code(code)}{_place(places)}")
                    return
                *lines, rest = (rest + read).split(b"\n")
                for line in lines:
                    message = json.loads(line)
                    began = now
                    current = {**message, "seconds": 0.0} if "start" in message else None
                    yield current or message
                    if "done" in message:
                        return
        finally:
            if code is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
                _waited_for(child)
            os.close(told)
            os.close(held)


def _forked(work: Callable[[list[str], Say], None], done: list[str], places: Path) -> tuple[int, int, int]:
    """
    Run `work` in a fork of this process, which has no threads and has imported no plugin.

    Returns:
        The child's number, what it says, and a descriptor that keeps it alive.
    """
    told, saying = os.pipe()
    alive, held = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        os.close(saying)
        os.close(alive)
        return child, told, held
    code = 70
    try:
        os.close(told)
        os.close(held)
        with os.fdopen(saying, "w", encoding="utf-8") as out:
            _be_watched(alive, places)
            work(done, lambda **message: _say(out, message))
            code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)  # a thread that a plugin has started and never ends must not keep this process


def _say(out: TextIO, message: dict[str, Any]) -> None:
    out.write(json.dumps(message) + "\n")
    out.flush()


def _has_ended(child: int) -> bool:
    """Whether it has ended, and is still to be waited for."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _waited_for(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _told_code(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return f"signal {-code} ({signal.Signals(-code).name})"
    return f"signal {-code}"


def _place_of_hanging(child: int, places: Path) -> str:
    """Let an interpreter write down where it is, and read that."""
    places.write_bytes(b"")
    os.kill(child, signal.SIGUSR1)
    until = time.monotonic() + 10
    while time.monotonic() < until and not places.stat().st_size:
        time.sleep(0.02)
    time.sleep(0.05)
    return _place(places)


def _place(places: Path) -> str:
    """Return, as ` (FILE:LINE in NAME)`, the innermost place that was written down and is neither ours nor Python's."""
    ours = (str(Path(__file__).parents[2]), os.path.dirname(os.__file__))  # noqa: PTH120, compared as text
    for line in places.read_text("utf-8", "replace").splitlines():
        if line.startswith('  File "'):
            file, _, rest = line[len('  File "') :].partition('", line ')
            number, _, name = rest.partition(" in ")
            if "site-packages" in file or not file.startswith((*ours, "<")):
                return f" ({file}:{number} in {name})"
    return ""


# -- in the watched interpreter ---------------------------------------------------------------------------------------


def _be_watched(alive: int, places: Path) -> None:
    """End when the supervisor does, and write down where a crash or a hanging check is."""
    file = places.open("a")
    faulthandler.enable(file, all_threads=False)
    faulthandler.register(signal.SIGUSR1, file, all_threads=True)
    threading.Thread(target=_end_with_supervisor, args=(alive,), daemon=True, name="gymcore-supervised").start()


def _end_with_supervisor(alive: int) -> None:
    os.read(alive, 1)
    os._exit(1)
