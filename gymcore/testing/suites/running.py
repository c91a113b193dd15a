"""
A suite run without pytest: every check of one plugin, each with its outcome, whatever the plugin does.
"""

from __future__ import annotations

import contextlib
import inspect
import re
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal
from unittest import SkipTest

from gymcore.discovery.catalog import normalised
from gymcore.errors import RequestError
from gymcore.testing.suites.agents import AgentSuite
from gymcore.testing.suites.author_file import import_author_file
from gymcore.testing.suites.environments import EnvironmentSuite
from gymcore.testing.suites.models import ModelSuite
from gymcore.testing.suites.suite import CheckFailed, NewCheckWarning, PluginSuite, checks_of, place_of

__all__ = ["SUITES", "CheckOutcome", "run_checks", "run_suite", "suites_for"]

SUITES: dict[str, type[PluginSuite]] = {"environment": EnvironmentSuite, "agent": AgentSuite, "model": ModelSuite}
"""The suite of each kind of plugin."""


@dataclass(frozen=True)
class CheckOutcome:
    """What came of one check."""

    check: str
    """Its name; where an author has several classes for one plugin, with the name of the class before it."""
    status: Literal["passed", "failed", "skipped", "warned"]
    message: str = ""
    """Why it failed, was skipped or warns."""
    why: str = ""
    fix: str = ""
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return what `--json` prints of it."""
        return {**asdict(self), "seconds": round(self.seconds, 3)}


def suites_for(kind: str, name: str, files: Sequence[Path] = ()) -> list[type[PluginSuite]]:
    """
    Return the suites of a plugin: its author's, as far as they stand in `files`, else the plain one.

    Args:
        kind: `environment`, `agent` or `model`.
        name: The plugin's name, `name` or `distribution:name`.
        files: Test files.

    Raises:
        RequestError: there is no suite for that kind, or a file cannot be read.
        Exception: whatever a test file raises when it is imported.
    """
    if kind not in SUITES:
        raise RequestError(f"there is no suite for the kind {kind!r}", hints=[f"try one of: {', '.join(SUITES)}"])
    found: list[type[PluginSuite]] = []
    for file in files:
        if not file.is_file():
            raise RequestError("the test file cannot be read", where=str(file))
        module = import_author_file(file)
        for value in vars(module).values():
            if _is_for(value, SUITES[kind], name) and value.__module__ == module.__name__:
                found.append(value)
    if not found:
        # Made here, so that its `_kept` is its own.
        found.append(type(SUITES[kind].__name__, (SUITES[kind],), {"plugin": name, "__module__": __name__}))
    return found


def _is_for(value: Any, suite: type[PluginSuite], name: str) -> bool:
    """Whether something in a test file is a suite for a plugin."""
    if not (isinstance(value, type) and issubclass(value, suite) and value.plugin):
        return False
    return normalised(re.split("[:/]", value.plugin)[-1]) == normalised(re.split("[:/]", name)[-1])


def run_suite(
    kind: str,
    name: str,
    files: Sequence[Path] = (),
    *,
    without: Collection[str] = (),
    starting: Callable[[str, str, str], None] | None = None,
) -> Iterator[CheckOutcome]:
    """
    Run the checks of a plugin one by one, and yield what came of each; the first arguments are those of `suites_for`.

    Nothing that a plugin raises ends it, `SystemExit` included.

    Args:
        kind: `environment`, `agent` or `model`.
        name: The plugin's name.
        files: Test files.
        without: Checks that are left out.
        starting: Is called before each check with its name, its why and its fix.
    """
    suites = suites_for(kind, name, files)
    for suite in suites:
        prefix = f"{suite.__name__}." if len(suites) > 1 else ""
        yield from run_checks(suite, prefix=prefix, without=without, starting=starting)


def run_checks(
    suite: type[PluginSuite],
    *,
    prefix: str = "",
    without: Collection[str] = (),
    starting: Callable[[str, str, str], None] | None = None,
) -> Iterator[CheckOutcome]:
    """Run the checks of one suite; `prefix` is written before their names, the rest is as for `run_suite`."""
    for method in _methods(suite):
        if prefix + method in without:
            continue
        if starting is not None:
            starting(prefix + method, *_why_and_fix(suite, method))
        yield _run(suite, method, prefix)


def _why_and_fix(suite: type[PluginSuite], name: str) -> tuple[str, str]:
    facts = {check.name: check for check in checks_of(suite)}.get(name)
    return ("", "") if facts is None else (facts.why, facts.fix)


def _methods(suite: type[PluginSuite]) -> list[str]:
    """Return the names of a suite's checks, its author's own last."""
    brought = [check.name for check in checks_of(suite)]
    own = [name for owner in reversed(suite.__mro__) for name in vars(owner) if name.startswith("test_")]
    return list(dict.fromkeys([*brought, *own]))


def _run(suite: type[PluginSuite], name: str, prefix: str) -> CheckOutcome:
    began = time.perf_counter()
    why, fix = _why_and_fix(suite, name)

    def outcome(status: Literal["passed", "failed", "skipped", "warned"], message: str = "") -> CheckOutcome:
        return CheckOutcome(prefix + name, status, message, why, fix, time.perf_counter() - began)

    method = getattr(suite, name)
    reason = _why_not(suite, method)
    if reason is not None:
        return outcome("skipped", reason)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", NewCheckWarning)
        try:
            _call(suite(), name, method)
        except SkipTest as skip:
            return outcome("skipped", str(skip))
        except CheckFailed as failed:
            return outcome("failed", failed.message)
        except AssertionError as error:
            return outcome("failed", str(error) or f"it does not hold ({place_of(error)})")
        except BaseException as error:  # a plugin may raise SystemExit, or KeyboardInterrupt
            if type(error).__module__.startswith("_pytest.") and type(error).__name__ == "Skipped":
                return outcome("skipped", str(error))
            return outcome("failed", f"{type(error).__name__}: {error} ({place_of(error)})")
    told = [str(item.message) for item in caught if issubclass(item.category, NewCheckWarning)]
    return outcome("warned", told[0].partition("\n  why: ")[0]) if told else outcome("passed")


def _why_not(suite: type[PluginSuite], method: Any) -> str | None:
    """Say why a check is not run: switched off, marked to be skipped, or in need of pytest."""
    if not callable(method):
        return f"{suite.__name__} has switched it off"
    for mark in getattr(method, "pytestmark", ()):
        conditions = [condition for condition in mark.args if not isinstance(condition, str)]
        if mark.name == "skip" or (mark.name == "skipif" and any(conditions)):
            return str(mark.kwargs.get("reason") or (mark.args[:1] or ("it is marked to be skipped",))[0])
    if inspect.iscoroutinefunction(method):
        return "it needs pytest: it is a coroutine"
    wanted = [parameter.name for parameter in list(inspect.signature(method).parameters.values())[1:]]
    return f"it needs pytest: it takes {', '.join(wanted)}" if wanted else None


def _call(instance: PluginSuite, name: str, method: Any) -> None:
    """Call a check between what its class does before and after each."""
    before: Callable[..., Any] | None = getattr(instance, "setup_method", None)
    after: Callable[..., Any] | None = getattr(instance, "teardown_method", None)
    with contextlib.ExitStack() as stack:
        if after is not None:
            stack.callback(after, *([method] if inspect.signature(after).parameters else []))
        if before is not None:
            before(*([method] if inspect.signature(before).parameters else []))
        getattr(instance, name)()
