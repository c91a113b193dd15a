"""
Every exception gymcore raises, drawn as a tree.

    GymcoreError                   shown to a person as its message, never as a traceback
    ├── RequestError               exit 2: what was asked for is wrong, and nothing ran
    │   ├── PlanError              a plan, a flag or an option
    │   ├── UnknownPluginError     no plugin has that name
    │   ├── AmbiguousPluginError   two distributions offer that name
    │   ├── DataError              rows, or the file that holds them
    │   └── RunFolderError         a run folder that holds something else
    ├── EndpointError              exit 3: the endpoint cannot be used; the run can be resumed
    ├── PluginError                exit 4: a chosen plugin is broken, blocked or too new
    ├── StorageError               exit 5: the disk failed; what was acknowledged is safe
    └── ModelError                 one model call failed for good; recorded as a failure of its rollout
    ToolError                      raised by a tool on purpose; the model reads its message

Each message says what happened, where, and what to try, and carries the same facts as attributes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "AmbiguousPluginError",
    "DataError",
    "EndpointError",
    "GymcoreError",
    "ModelError",
    "PlanError",
    "PluginError",
    "Problem",
    "RequestError",
    "RunFolderError",
    "StorageError",
    "ToolError",
    "UnknownPluginError",
    "nearest",
]


# https://packaging.python.org/en/latest/specifications/name-normalization/
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,99}[A-Za-z0-9])?")


class GymcoreError(Exception):
    """
    Anything that went wrong and can be explained to the person who asked.

    Args:
        message: What happened, in one line.
        where: The place: a key path, `file:line`, or a URL.
        hints: What to try, one line each.
    """

    exit_code = 1

    def __init__(self, message: str, *, where: str | None = None, hints: Iterable[str] = ()) -> None:
        self.message = message
        self.where = where
        self.hints = tuple(hints)
        super().__init__(self.render())

    def __reduce__(self) -> tuple[Any, ...]:
        # Made anew from its facts: the class takes other arguments than the message, which is all that `args` holds.
        return _made_anew, (type(self), self.args, self.__dict__)

    def render(self) -> str:
        """Write the message as a person reads it: one line, then an indented line per hint."""
        first = f"{self.message} ({self.where})" if self.where else self.message
        return "\n".join([first, *(f"  {hint}" for hint in self.hints)])


def _made_anew(kind: type[GymcoreError], arguments: tuple[Any, ...], facts: dict[str, Any]) -> GymcoreError:
    """Return an error that comes from another process."""
    error = kind.__new__(kind, *arguments)
    error.__dict__.update(facts)
    return error


class RequestError(GymcoreError):
    """What was asked for is wrong, and nothing has run."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake among several that are reported together."""

    message: str
    where: str | None = None
    hints: tuple[str, ...] = ()


class PlanError(RequestError):
    """
    A plan, a flag or an option is wrong; carries every mistake found, not only the first.

    Attributes:
        problems: The mistakes, in the order of the plan.
    """

    def __init__(self, problems: Sequence[Problem], *, source: str = "the plan") -> None:
        self.problems = tuple(problems)
        if len(self.problems) == 1:
            only = self.problems[0]
            super().__init__(only.message, where=only.where, hints=only.hints)
            return
        lines = []
        for problem in self.problems:
            lines.append(f"- {problem.message} ({problem.where})" if problem.where else f"- {problem.message}")
            lines.extend(f"    {hint}" for hint in problem.hints)
        super().__init__(f"{len(self.problems)} mistakes in {source}", hints=lines)


class UnknownPluginError(RequestError):
    """
    No installed plugin of this kind has this name.

    Attributes:
        kind: "environment", "model", "agent" or "hook".
        wanted: The name as it was typed.
        installed: Every name of that kind, sorted.
    """

    shown = 20

    def __init__(
        self, kind: str, wanted: str, installed: Iterable[str], *, where: str | None = None, hints: Iterable[str] = ()
    ) -> None:
        self.kind = kind
        self.wanted = wanted
        self.installed = tuple(sorted(installed))
        close = nearest(wanted.rpartition("/")[2], self.installed)
        more = len(self.installed) - self.shown
        names = [*self.installed[: self.shown], *([f"and {more} more"] if more > 0 else [])]
        told = [f"installed: {', '.join(names) or 'none'}", *hints]
        if close:
            told.append(f"try: {' or '.join(repr(name) for name in close)}, or `gym list` to see every one")
        elif not told[1:]:
            # Only what was typed: a name that is merely near to it may be somebody's trap.
            distribution, slash, bare = wanted.rpartition("/")
            package = distribution if slash else f"gym-plugin-{bare}"
            is_name = _NAME.fullmatch(package) is not None and (_NAME.fullmatch(bare) is not None)
            install = f"pip install {package}, if there is such a distribution, or " if is_name else ""
            told.append(f"try: {install}`gym list` to see every one")
        super().__init__(f"no {kind} is named {wanted!r}", where=where, hints=told)


class AmbiguousPluginError(RequestError):
    """
    Two distributions offer the same name.

    Attributes:
        choices: The qualified names, `distribution/name`, of which one must be chosen.
    """

    def __init__(self, kind: str, wanted: str, choices: Sequence[str], *, where: str | None = None) -> None:
        self.kind = kind
        self.wanted = wanted
        self.choices = tuple(choices)
        super().__init__(
            f"{len(choices)} distributions offer the {kind} {wanted!r}",
            where=where,
            hints=[f"try one of: {', '.join(choices)}"],
        )


class DataError(RequestError):
    """
    Rows that cannot become tasks.

    Attributes:
        problems: The first mistakes found, each with its `file:line`.
        count: How many there are in all.
    """

    shown = 10

    def __init__(self, problems: Sequence[Problem], *, count: int, rows: int) -> None:
        self.problems = tuple(problems)
        self.count = count
        lines = []
        for problem in self.problems:
            lines.append(f"{problem.where}: {problem.message}")
            lines.extend(f"    {hint}" for hint in problem.hints)
        if count > len(self.problems):
            lines.append(f"... and {count - len(self.problems)} more")
        bad = "1 row is wrong" if count == 1 else f"{count} rows are wrong"
        super().__init__(f"{bad}, of {rows} read; nothing was written", hints=lines)


class RunFolderError(RequestError):
    """
    A run folder holds something other than what was asked for.

    Attributes:
        differences: What differs, one line each.
    """

    def __init__(
        self, message: str, *, where: str | None = None, differences: Sequence[str] = (), hints: Iterable[str] = ()
    ) -> None:
        self.differences = tuple(differences)
        super().__init__(message, where=where, hints=[*differences, *hints])


class EndpointError(GymcoreError):
    """
    The endpoint refuses to work for anybody: wrong key, wrong host, or gone; the run stops and can be resumed.

    Attributes:
        has_worked: Whether the endpoint answered before. Then what is in flight may finish, as after Ctrl-C: most of
            it has cost a lot by then, and may be in its verifier. Else nothing is lost by stopping at once.
        is_lasting: Whether it stays so as long as this process lives, because what has ended is not started again.
        stage: Where in a rollout it was raised, which tells the endpoint of a model from a server that an environment
            needs; None outside of one.
    """

    exit_code = 3
    stage: str | None = None

    def __init__(
        self,
        message: str,
        *,
        where: str | None = None,
        hints: Iterable[str] = (),
        has_worked: bool = False,
        is_lasting: bool = False,
    ) -> None:
        self.has_worked = has_worked
        self.is_lasting = is_lasting
        super().__init__(message, where=where, hints=hints)


class PluginError(GymcoreError):
    """
    A chosen plugin is broken, incompatible or incomplete.

    Attributes:
        plugin: Its qualified name, `distribution/name`.
    """

    exit_code = 4

    def __init__(self, message: str, *, plugin: str = "", where: str | None = None, hints: Iterable[str] = ()) -> None:
        self.plugin = plugin
        super().__init__(message, where=where, hints=hints)


class StorageError(GymcoreError):
    """The disk failed; everything acknowledged before is safe, and the run can be resumed."""

    exit_code = 5


class ModelError(GymcoreError):
    """
    One model call failed for good; its rollout becomes a failure and the run goes on.

    Attributes:
        retryable: Whether the same rollout may succeed later.
    """

    def __init__(
        self, message: str, *, where: str | None = None, hints: Iterable[str] = (), retryable: bool = True
    ) -> None:
        self.retryable = retryable
        super().__init__(message, where=where, hints=hints)


class ToolError(Exception):
    """Raised inside a tool to tell the model what was wrong with its request; never a failure of the rollout."""


def nearest(wanted: str, names: Iterable[str], limit: int = 3) -> list[str]:
    """
    Return the names that `wanted` was probably meant to be, the best first; empty when none is near.
    """
    import difflib  # here, because `gym --help` should not pay for it

    plain = {name.lower().replace("-", "_"): name for name in names}
    found = difflib.get_close_matches(wanted.lower().replace("-", "_"), plain, n=limit, cutoff=0.6)
    return [plain[name] for name in found]
