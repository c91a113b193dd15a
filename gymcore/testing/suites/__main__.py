"""
`python -m gymcore.testing.suites KIND NAME [--from TEST_FILE]... [--json]`: the checks of an installed plugin.

Prints one JSON object for each check as it ends, and a last line `{"done": true}`; exits with 0 when none has failed.
The checks run in an interpreter of their own: one that a plugin ends, or that never comes back, is a failed check.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from gymcore.errors import GymcoreError
from gymcore.testing.suites.running import SUITES, CheckOutcome, run_suite
from gymcore.testing.suites.suite import place_of
from gymcore.testing.suites.supervision import CHECK_LIMIT_S, LIMIT_S, Say, supervised


def main() -> int:
    """Run the suite that the command line names; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m gymcore.testing.suites", description="Check an installed plugin.")
    parser.add_argument("kind", choices=list(SUITES), metavar="KIND", help=", ".join(SUITES))
    parser.add_argument("name", metavar="NAME", help="the plugin's name")
    parser.add_argument(
        "--from", dest="files", type=Path, action="append", default=[], metavar="TEST_FILE", help="the author's tests"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    for flag, default, told in (("--check-timeout", CHECK_LIMIT_S, "one check"), ("--timeout", LIMIT_S, "the suite")):
        parser.add_argument(
            flag, type=_seconds, default=default, metavar="SECONDS", help=f"how long {told} may take ({default:g})"
        )
    asked = parser.parse_args()
    out = _claimed_stdout()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it at once; a KeyboardInterrupt is then a plugin's

    def work(done: list[str], say: Say) -> None:
        out.close()
        for outcome in _outcomes(asked.kind, asked.name, asked.files, done, say):
            say(outcome=asdict(outcome))
        say(done=True)

    has_failed = False
    for outcome in supervised(work, check_limit_s=asked.check_timeout, limit_s=asked.timeout):
        has_failed |= outcome.status == "failed"
        _say(out, json.dumps(outcome.to_dict()) if asked.json else _told(outcome))
    if asked.json:
        _say(out, json.dumps({"done": True}))
    return int(has_failed)


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError(text)
    return value


def _outcomes(kind: str, name: str, files: list[Path], done: list[str], say: Say) -> Iterator[CheckOutcome]:
    """Yield what came of each check; that the author's tests cannot be read is a failure like any other."""

    def starting(check: str, why: str, fix: str) -> None:
        say(start=check, why=why, fix=fix)

    try:
        yield from run_suite(kind, name, files, without=done, starting=starting)
    except GymcoreError as error:
        yield CheckOutcome("suite", "failed", error.render(), fix="Mend the test file that is named.")
    except BaseException as error:  # whatever a test file raises
        message = f"the test files cannot be imported: {type(error).__name__}: {error} ({place_of(error)})"
        yield CheckOutcome("suite", "failed", message, fix="Mend the test file that is named.")


def _claimed_stdout() -> TextIO:
    """Keep stdout for what is printed here; whatever a plugin prints, in whatever language, goes to stderr."""
    sys.stdout.flush()
    mine = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return mine


def _say(out: TextIO, line: str) -> None:
    out.write(line + "\n")
    out.flush()


def _told(outcome: CheckOutcome) -> str:
    lines: list[Any] = [f"{outcome.status:8} {outcome.check}  {outcome.seconds:.2f} s"]
    if outcome.message:
        lines += [f"    {line}" for line in outcome.message.splitlines()]
    if outcome.status in ("failed", "warned"):
        lines += [f"    {word}: {text}" for word, text in (("why", outcome.why), ("fix", outcome.fix)) if text]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
