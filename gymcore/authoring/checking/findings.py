"""
What is claimed of a plugin, and what came of looking: claims, faults, and outcomes, which are plain values.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

__all__ = [
    "CLAIMS",
    "PHASES",
    "Claim",
    "Fault",
    "Finding",
    "Outcome",
    "Skip",
    "claim",
    "declare",
    "examine",
    "outcome_of",
]

Phase = Literal["source", "wheel", "install", "import", "suite"]
PHASES: dict[Phase, str] = {
    "source": "What the project says of itself, and the files it names; nothing is built or imported.",
    "wheel": "The wheel that is built from it, which is all that others will get.",
    "install": "That wheel in a fresh virtual environment, beside the gymcore that runs here.",
    "import": "Each plugin, imported there in a process of its own, which may crash, exit or hang.",
    "suite": "The conformance kit's checks of each plugin, run there from an empty folder.",
}
"""Each phase with what it looks at, in order."""
Status = Literal["passed", "failed", "warned", "skipped"]


@dataclass(frozen=True)
class Claim:
    """What one check claims."""

    name: str
    """It never changes."""
    phase: Phase
    what: str
    why: str
    fix: str
    """What an author changes where it does not hold."""
    warns: bool = False
    """Whether it is advice: a plugin works without it."""


@dataclass(frozen=True)
class Fault:
    """One place where a claim does not hold."""

    message: str
    where: str | None = None
    """`file:line`, below the project."""
    fix: str | None = None
    """What to change here, where more can be said than the claim says."""
    plugin: str | None = None
    """The name of the plugin it is about; None for the whole distribution."""


@dataclass(frozen=True)
class Finding:
    """A fault as it is reported, with all that a reader needs."""

    phase: Phase
    check: str
    level: Literal["error", "warning"]
    message: str
    where: str | None
    fix: str
    why: str
    plugin: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return what `--json` prints of it."""
        return dict(vars(self))


@dataclass(frozen=True)
class Outcome:
    """What came of one check."""

    phase: Phase
    check: str
    status: Status
    told: str = ""
    """One line: what was seen, or why it was skipped."""
    plugin: str | None = None
    """The plugin, where it is about one."""
    findings: tuple[Finding, ...] = ()
    seconds: float = field(default=0.0, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return what `--json` prints of it; the findings stand elsewhere."""
        known = {name: value for name, value in vars(self).items() if name not in ("findings", "phase")}
        return {**known, "seconds": round(self.seconds, 3)}


class Skip(Exception):
    """A check does not apply, or cannot be made; with the reason."""


CLAIMS: dict[str, Claim] = {}
"""Every claim of the phases before the suite, by its name, in the order of the phases."""

Function = TypeVar("Function", bound=Callable[..., Iterable[Fault]])


def declare(name: str, phase: Phase, what: str, why: str, fix: str, *, warns: bool = False) -> Claim:
    """Make a claim that no single function looks at."""
    CLAIMS[name] = Claim(name, phase, what, why, fix, warns)
    return CLAIMS[name]


def claim(phase: Phase, *, fix: str, warns: bool = False) -> Callable[[Function], Function]:
    """
    Make a function a check: it yields faults, and its docstring says what it claims and, in a second paragraph, why.

    Args:
        phase: Where it belongs.
        fix: What an author changes where it does not hold.
        warns: Whether it is advice only.
    """

    def mark(function: Function) -> Function:
        what, _, why = (inspect.getdoc(function) or "").partition("\n\n")
        declare(function.__name__, phase, " ".join(what.split()), " ".join(why.split()), fix, warns=warns)
        return function

    return mark


def examine(check: Callable[..., Iterable[Fault]], *subject: Any, told: str = "") -> Outcome:
    """Make a check of a subject; `told` is what its row says when all is well."""
    began = time.perf_counter()
    claimed = CLAIMS[check.__name__]
    try:
        faults = list(check(*subject))
    except Skip as skip:
        return Outcome(claimed.phase, claimed.name, "skipped", str(skip), seconds=time.perf_counter() - began)
    return outcome_of(claimed, faults, told=told, seconds=time.perf_counter() - began)


def outcome_of(
    claimed: Claim, faults: Iterable[Fault], *, told: str = "", plugin: str | None = None, seconds: float = 0.0
) -> Outcome:
    """Return what the faults of a check come to."""
    findings = tuple(_findings(claimed, faults, plugin))
    if not findings:
        return Outcome(claimed.phase, claimed.name, "passed", told, plugin, seconds=seconds)
    more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
    return Outcome(
        claimed.phase,
        claimed.name,
        "warned" if claimed.warns else "failed",
        findings[0].message.splitlines()[0] + more,
        plugin,
        findings,
        seconds,
    )


def _findings(claimed: Claim, faults: Iterable[Fault], plugin: str | None) -> Iterator[Finding]:
    for fault in faults:
        yield Finding(
            claimed.phase,
            claimed.name,
            "warning" if claimed.warns else "error",
            fault.message,
            fault.where,
            fault.fix or claimed.fix,
            claimed.why,
            fault.plugin or plugin,
        )
