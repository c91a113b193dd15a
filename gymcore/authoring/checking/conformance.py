"""
Phase 5: the conformance kit's suite of each plugin, in a process that the plugin may end.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gymcore.authoring.checking.children import Child
from gymcore.authoring.checking.findings import Fault, Finding, Outcome, declare, outcome_of
from gymcore.authoring.checking.place import Place

__all__ = ["SUITED", "check_conformance"]

SUITE_S = 1800.0
SUITED = ("environment", "agent", "model")
"""The kinds for which there is a suite."""
_PLACE = re.compile(r"(?:\(|^|\s)([^\s()':]+\.(?:py|yaml|jsonl|json|toml):\d+)")


SUITE_ENDS = declare(
    "suite_ends",
    "suite",
    "The suite comes to its end.",
    "A plugin that ends the process of its suite ends a run in the same way, with every rollout in flight.",
    "Let nothing in the plugin exit, crash or hang; the check that was at work is the one to look at.",
)


def check_conformance(
    kind: str, name: str, distribution: str, place: Place, tests: Sequence[Path], empty: Path
) -> Iterator[Outcome]:
    """
    Run the suite of one plugin, and yield what comes of each check as soon as it is there.

    Args:
        kind: One of `SUITED`.
        name: The plugin's name.
        distribution: Whose it is.
        place: Where it is installed.
        tests: The author's test files, whose switches count.
        empty: An empty folder, in which it runs.
    """
    given = [part for file in tests for part in ("--from", str(file))]
    command = [str(place.python), "-P", "-m", "gymcore.testing.suites", kind, f"{distribution}/{name}", "--json"]
    is_done, last = False, ""
    began = time.perf_counter()
    with Child([*command, *given], empty, place.environ, SUITE_S) as child:
        for line in child.lines():
            try:
                told = json.loads(line)
            except ValueError:
                continue
            if told.get("done"):
                is_done = True
            elif "check" in told:
                last = told["check"]
                yield _outcome(told, name, place)
        ended = child.end()
    faults = []
    if not is_done:
        during = f" after {last}" if last else " before its first check"
        more = "".join(f"\n  {place.words(line)}" for line in ended.last(5))
        faults = [Fault(f"the suite of the {kind} {name} {ended.told()},{during}{more}")]
    yield outcome_of(SUITE_ENDS, faults, told=f"in {place.told}", plugin=name, seconds=time.perf_counter() - began)


def _outcome(told: dict[str, Any], plugin: str, place: Place) -> Outcome:
    """Return what the runner of suites says of one check."""
    message, status = place.words(told["message"]), told["status"]
    findings: tuple[Finding, ...] = ()
    if status in ("failed", "warned"):
        level = "error" if status == "failed" else "warning"
        found = _PLACE.search(message)
        where = found[1] if found else None
        findings = (Finding("suite", told["check"], level, message, where, told["fix"], told["why"], plugin),)  # type: ignore[arg-type]
    line = message.splitlines()[0] if message else ""
    return Outcome("suite", told["check"], status, line, plugin, findings, told["seconds"])
