"""
Each check of the environments' suite can fail: faults planted in a correct environment, each caught by its own check.
"""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar
from unittest import SkipTest

import pytest
from pydantic import SecretStr

from gymcore import Config, option
from gymcore.testing import EnvironmentSuite, PluginFolder
from gymcore.testing.replies import calls, says
from gymcore.testing.suites import CheckOutcome, PluginSuite, checks_of, run_checks
from gymcore.testing.suites.attempts import Attempt
from gymcore.testing.suites.environments import _Case
from gymcore.testing.suites.imports import Imported
from gymcore.testing.suites.leftovers import Leftovers
from gymcore.testing.suites.probe import Job, Outcome

from .conftest import FAULTS, row


class Brief(EnvironmentSuite):
    """
    The suite with few rollouts, and of those in other interpreters only some, for faults that others do not find.
    """

    tasks = 2
    concurrency = 40
    verify_timeout_s = 1.0
    groups: ClassVar[tuple[str, ...]] = ()

    def imported(self) -> Imported:
        """
        What an import does is another test's business.
        """
        return Imported()

    def _first_tries(self, attempts: Sequence[Attempt]) -> Sequence[Outcome | None]:
        """
        Only for faults that are seen there; the others are played here at once.
        """
        if {"again", "all"} & set(self.groups):
            return super()._first_tries(attempts)
        return [Outcome() for _ in attempts]

    def test_verifier_does_not_depend_on_the_process(self) -> None:
        """
        Where there has been no other process, there is nothing to see.
        """
        if {"again", "all"} & set(self.groups):
            super().test_verifier_does_not_depend_on_the_process()

    def _find_leftovers(self) -> Leftovers:
        """
        Only for faults that leave something behind, and for what is correct.
        """
        return super()._find_leftovers() if {"leftovers", "all"} & set(self.groups) else Leftovers()  # type: ignore[no-any-return]

    def _jobs(self, canary: str) -> Iterator[Job]:
        return (job for job in super()._jobs(canary) if job.group in self.groups or "all" in self.groups)


class Importing(PluginSuite):
    """
    What is looked at before a plugin is imported here.
    """

    kind = "environment"

    def loaded(self) -> Any:
        """
        Not in this process.
        """
        raise SkipTest("it is not imported here")


def suite_for(name: str, base: type[PluginSuite] = Brief, **switches: Any) -> type[PluginSuite]:
    return type("TestIt", (base,), {"plugin": name, **switches})


def failed(suite: type[PluginSuite]) -> dict[str, CheckOutcome]:
    found = {outcome.check: outcome for outcome in run_checks(suite) if outcome.status == "failed"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()  # what a faulty environment has left open is no other test's fault
    return found


# Each costs seconds: one in six is planted whenever the tests run, and all of them with the rigs.
PLANTED = [
    pytest.param(name, marks=[pytest.mark.rig] if number % 6 else [])
    for number, name in enumerate(FAULTS)
    if name != "carries_out"
]


@pytest.mark.parametrize("name", PLANTED)
def test_each_fault_is_caught_by_the_check_for_it(faulty: PluginFolder, name: str) -> None:
    """
    Every other check passes or says which one to look at, and the message names what is wrong.
    """
    fault = FAULTS[name]

    groups = fault.probed
    if {"test_nothing_is_left_open", "test_close_is_called_once"} & set(fault.checks):
        groups = (*groups, "leftovers")

    found = failed(suite_for(name, groups=groups, timeout_s=fault.timeout_s))

    assert set(found) == set(fault.checks), {check: outcome.message for check, outcome in found.items()}
    assert fault.told in "\n".join(outcome.message for outcome in found.values())


def test_every_way_to_carry_out_a_text_is_seen(faulty: PluginFolder) -> None:
    """
    A module's name, a format, a path that leads up, a piece of SQL and a command, each where it was carried out.
    """
    suite = suite_for("carries_out", groups=("canary",))

    seen = {(job.told.rpartition(" is ")[2], what.split(" (/")[0]) for job, what in found_in(suite, "canary")}

    assert seen >= {
        ("the name of a module", "a module is imported whose name the model gave"),
        ("the name of an attribute", "a module is imported whose name the model gave"),
        ("a format string", "a text that the model wrote is used as a format"),
        ("a way up", "the file is given to os.remove() whose path the model gave"),
        ("a piece of SQL", "SQL that the model wrote is part of a statement"),
        ("a command substitution", "a command that the model wrote is run"),
    }


def found_in(suite: type[PluginSuite], group: str) -> list[tuple[Job, str]]:
    instance = suite()
    assert isinstance(instance, EnvironmentSuite)
    return [(job, what) for job, outcome in instance._outcomes(group) for what in outcome.found]


def test_every_check_can_fail() -> None:
    """
    For each check of the suite there is a fault that it alone, or with another, finds; or a test of its own below.
    """
    caught = {check for fault in FAULTS.values() for check in fault.checks}
    elsewhere = {
        *("test_manifest_is_read_without_importing", "test_import_prints_nothing", "test_import_is_quick"),
        *("test_import_loads_nothing_heavy", "test_import_opens_no_socket", "test_import_starts_nothing"),
        *("test_import_writes_no_file", "test_cases_earn_what_they_say"),
    }

    assert {check.name for check in checks_of(EnvironmentSuite)} == caught | elsewhere


def test_an_import_that_makes_noise_is_told_of_all_of_it(faulty: PluginFolder) -> None:
    """
    Printing, a socket, a thread, a file, a heavy library and lost time are each found by a check, with the line.
    """
    found = failed(suite_for("noisy", Importing, import_cpu_s=0.15, test_target_is_of_its_kind=None))

    assert set(found) == {
        *("test_import_prints_nothing", "test_import_is_quick", "test_import_loads_nothing_heavy"),
        *("test_import_opens_no_socket", "test_import_starts_nothing", "test_import_writes_no_file"),
    }
    assert "Thank you" in found["test_import_prints_nothing"].message
    assert "faulty_noisy/__init__.py:9" in found["test_import_opens_no_socket"].message
    assert "faulty_noisy/__init__.py:11" in found["test_import_writes_no_file"].message
    assert "the thread 'noisy'" in found["test_import_starts_nothing"].message
    assert "wandb" in found["test_import_loads_nothing_heavy"].message


def test_an_import_whose_noise_is_over_is_told_of_it(faulty: PluginFolder) -> None:
    """
    A database and a link in the home, which is an empty one here, a thread that has ended, and a name that was asked.
    """
    suite = suite_for("over", Importing, import_cpu_s=5.0, test_target_is_of_its_kind=None)

    found = failed(suite)
    seen = suite().imported()

    assert set(found) == {
        *("test_import_opens_no_socket", "test_import_starts_nothing", "test_import_writes_no_file"),
    }
    assert "faulty_over/__init__.py:12" in found["test_import_opens_no_socket"].message
    assert "a thread at" in found["test_import_starts_nothing"].message
    assert [path.split(" at ")[0].rpartition("/home/")[2] for path in seen.written] == ["cache.db", "link"]
    assert not Path.home().joinpath("cache.db").exists()


def test_a_plugin_that_is_imported_by_listing_is_told(
    faulty: PluginFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Here by a file that runs when any Python starts, which sees to it that the plugin is always loaded.
    """
    start = f"import sys\nsys.path.insert(0, {str(faulty.folder)!r})\nimport faulty_correct\n"
    (tmp_path / "sitecustomize.py").write_text(start)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{faulty.environ['PYTHONPATH']}")

    found = failed(suite_for("correct", Importing, test_target_is_of_its_kind=None))

    assert {name: outcome.message for name, outcome in found.items()} == {
        "test_manifest_is_read_without_importing": "listing has imported faulty_correct"
    }


def test_an_import_that_exits_is_one_finding(faulty: PluginFolder) -> None:
    """
    It ends the interpreter in which it is tried, and neither this one nor the other checks, which are skipped.
    """
    outcomes = list(run_checks(suite_for("exits", EnvironmentSuite)))

    assert [outcome.check for outcome in outcomes if outcome.status == "failed"] == ["test_target_is_of_its_kind"]
    assert "SystemExit: no GPU" in outcomes[0].message
    assert {outcome.status for outcome in outcomes if outcome.check.startswith("test_tools")} == {"skipped"}


class Keyed(Config):
    """
    Options with a secret that must be given.
    """

    key: SecretStr = option(min_length=12, description="A key.")
    spare_key: SecretStr | None = option(None, description="Another.")
    size: int = option(1, description="A number.")


def test_a_required_secret_is_no_fault_of_the_options() -> None:
    """
    Secrets are written as asterisks; what must survive JSON is everything else.
    """

    class Suite(PluginSuite):
        kind = "environment"

        def options(self) -> Config:
            return Keyed(key=SecretStr("correct-horse"), size=3)

    Suite().test_options_survive_json()


POINTS = [{**row(number), "points": (0.25, 0.5, 1.0)[number % 3]} for number in range(6)]


def test_the_top_reward_may_stand_in_the_row(faulty: PluginFolder) -> None:
    """
    Then each task is held against its own; silence that earns what a cheap task pays is found.
    """
    switches = {"rows": POINTS, "top_reward": "points", "tasks": 0}

    assert failed(suite_for("paid_by_the_row", **switches)) == {}
    assert set(failed(suite_for("paid_by_the_row_for_silence", **switches))) == {"test_silence_earns_less"}


def test_cases_are_played_with_the_others(faulty: PluginFolder) -> None:
    """
    Without a reference solution, two solved cases show that rollouts share what their tools remember.
    """

    class TestIt(Brief):
        plugin = "unsolvable_and_shared"

        def _read_cases(self) -> Iterator[_Case]:
            for number in (3, 4):
                numbers = row(number)["numbers"]
                assert isinstance(numbers, list)
                script = (*(calls("add", number=item) for item in numbers), says(str(row(number)["total"])))
                yield _Case(f"cases.jsonl:{number}", Attempt("case", f"cases.jsonl:{number}", row(number), script), 1.0)

    assert set(failed(TestIt)) == {"test_rollouts_share_no_state"}


@pytest.mark.parametrize(
    ("name", "near"), [("plugn", "plugin"), ("top_rewrd", "top_reward"), ("answer_in_prompts", "")]
)
def test_a_misspelt_switch_is_refused(name: str, near: str) -> None:
    """
    It would be ignored; the nearest one is named.
    """
    with pytest.raises(TypeError, match=f"TestIt.{name}: there is no such switch; try: {near}"):
        type("TestIt", (EnvironmentSuite,), {name: "x"})


def test_no_judges_may_be_none(faulty: PluginFolder) -> None:
    """
    As somebody writes it who has none.
    """
    assert failed(suite_for("correct", judges=None)) == {}
