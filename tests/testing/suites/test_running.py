"""
Suites run without pytest and with it: what an author writes counts in both, and no plugin ends the runner.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import gymcore.testing
from gymcore.testing import AgentSuite, EnvironmentSuite, ModelSuite, PluginFolder
from gymcore.testing.suites import NewCheckWarning, PluginSuite, check, run_checks, run_suite
from gymcore.testing.suites.imports import Imported
from gymcore.testing.suites.suite import floor_of

from .conftest import row

AUTHOR = """\
import unittest

import pytest

from gymcore.testing import EnvironmentSuite


class Brief(EnvironmentSuite):
    tasks = 1
    concurrency = 10

    def _jobs(self, canary):
        return iter(())


class TestMine(Brief):
    plugin = "{plugin}"
    test_verifier_finishes_in_time = None

    def test_import_is_quick(self):
        raise unittest.SkipTest("it is known to be slow")

    @pytest.mark.skip(reason="not today")
    def test_import_writes_no_file(self):
        raise AssertionError

    def test_of_the_author(self):
        print("this goes to stderr")
        assert 1 + 1 == 2

    def test_with_a_fixture(self, tmp_path):
        assert tmp_path.is_dir()

    def test_that_exits(self):
        raise {exits}


class TestOther(EnvironmentSuite):
    plugin = "some_other"
"""


def run(folder: PluginFolder, *command: str) -> subprocess.CompletedProcess[str]:
    environ = {**folder.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *command], env=environ, capture_output=True, text=True, timeout=120, check=False
    )


def lines_of(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines.pop() == {"done": True}, done.stderr
    return {line["check"]: line for line in lines}


def test_the_authors_class_counts_without_pytest(faulty: PluginFolder, tmp_path: Path) -> None:
    """
    Its switches, overrides, skips and further tests count; stdout is JSON whatever is printed.
    """
    path = tmp_path / "test_mine.py"
    path.write_text(AUTHOR.format(plugin="correct", exits="SystemExit(0)"))
    case = {"row": row(3), "replies": [{"call": "add", "arguments": {"number": 104}}, "104"], "reward": 1.0}
    wrong = {"row": row(3), "replies": ["104"], "reward": 1.0}
    path.with_name("cases.jsonl").write_text(f"{json.dumps(case)}\n{json.dumps(wrong)}\n")

    exits = path.read_text().splitlines().index("        raise SystemExit(0)") + 1

    done = run(faulty, "-m", "gymcore.testing.suites", "environment", "correct", "--from", str(path), "--json")
    found = lines_of(done)

    assert done.returncode == 1
    assert set(found["test_silence_earns_less"]) == {"check", "status", "message", "why", "fix", "seconds"}
    assert {name: line["message"] for name, line in found.items() if line["status"] == "failed"} == {
        "test_cases_earn_what_they_say": "cases.jsonl:2 earns 0, and not 1",
        "test_that_exits": f"SystemExit: 0 ({path}:{exits})",
    }
    assert found["test_of_the_author"]["status"] == "passed"
    assert found["test_import_is_quick"]["message"] == "it is known to be slow"
    assert found["test_import_writes_no_file"]["message"] == "not today"
    assert found["test_verifier_finishes_in_time"]["message"] == "TestMine has switched it off"
    assert found["test_with_a_fixture"]["message"] == "it needs pytest: it takes tmp_path"
    assert "this goes to stderr" in done.stderr


def test_the_authors_class_runs_under_plain_pytest(faulty: PluginFolder, tmp_path: Path) -> None:
    """
    The same file: the base classes that it imports are not collected, and a plugin that is not there is no error of it.
    """
    path = tmp_path / "test_mine.py"
    path.write_text(AUTHOR.format(plugin="correct", exits="unittest.SkipTest('no')"))

    done = run(faulty, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "-rA", str(path))
    seen = [line.split("::", 1)[1] for line in done.stdout.splitlines() if "::" in line]

    assert "error" not in done.stdout.lower().replace("errors", "")
    assert "TestMine::test_with_a_fixture" in seen
    assert "TestMine::test_silence_earns_less" in seen
    assert not [name for name in seen if name.startswith(("EnvironmentSuite", "Brief"))]
    assert len([name for name in seen if name.startswith("TestOther::test_target_is_of_its_kind")]) == 1


ENDING = """\
import os

from gymcore.testing import AgentSuite

SILENT = [name for name in dir(AgentSuite) if name.startswith("test_")]


class TestMine(AgentSuite):
    plugin = "simple_agent"
    locals().update(dict.fromkeys(SILENT))

    def test_1_ends_it(self):
        os._exit(0)

    def test_2_is_fine(self):
        pass

    def test_3_hangs(self):
        while True: pass

    def test_4_crashes(self):
        os.abort()

    def test_5_is_fine(self):
        pass
"""


def test_what_ends_the_interpreter_is_a_failed_check(faulty: PluginFolder, tmp_path: Path) -> None:
    """
    With its signal, exit code or time, and its line; the checks after it are run, and the end is told.
    """
    path = tmp_path / "test_mine.py"
    path.write_text(ENDING)
    words = ("agent", "simple_agent", "--from", str(path), "--json", "--check-timeout", "1")

    done = run(faulty, "-m", "gymcore.testing.suites", *words)
    found = {name: (line["status"], line["message"]) for name, line in lines_of(done).items() if name[5].isdigit()}

    assert done.returncode == 1
    assert found == {
        "test_1_ends_it": ("failed", "it ended the interpreter with exit code 0"),
        "test_2_is_fine": ("passed", ""),
        "test_3_hangs": ("failed", f"it did not come back within 1 s ({path}:19 in test_3_hangs)"),
        "test_4_crashes": (
            "failed",
            f"it ended the interpreter with signal 6 (SIGABRT) ({path}:22 in test_4_crashes)",
        ),
        "test_5_is_fine": ("passed", ""),
    }


def test_a_test_file_that_cannot_be_imported_is_a_failure(faulty: PluginFolder, tmp_path: Path) -> None:
    """
    It names the error and its line, and the end of the run is still told.
    """
    path = tmp_path / "test_mine.py"
    path.write_text("import no_such_library\n")

    done = run(faulty, "-m", "gymcore.testing.suites", "environment", "correct", "--from", str(path), "--json")

    assert done.returncode == 1
    message = lines_of(done)["suite"]["message"]
    assert message.startswith(
        "the test files cannot be imported: ModuleNotFoundError: No module named 'no_such_library'"
    )
    assert f"{path}:1" in message


def test_the_plain_suite_is_for_whoever_has_written_none(faulty: PluginFolder) -> None:
    """
    An unknown plugin is one failure with the nearest names, and everything else is skipped.
    """
    outcomes = list(run_suite("environment", "corect"))

    assert [outcome.check for outcome in outcomes if outcome.status == "failed"] == ["test_target_is_of_its_kind"]
    assert "try: 'correct'" in outcomes[0].message
    assert {outcome.status for outcome in outcomes[1:]} == {"skipped"}


class Newer(PluginSuite):
    """
    A suite with a check from the newest release, and one from the next.
    """

    __test__ = False
    kind = "environment"
    plugin = "correct"
    floor: tuple[int, int] | None = None

    def imported(self) -> Imported:
        """
        Nothing is imported.
        """
        return Imported()

    def _floor(self) -> tuple[int, int] | None:
        return self.floor

    @check(fix="Do it.")
    def test_new(self) -> None:
        """
        It is new.

        To be warned of.
        """
        raise AssertionError("it is not done")


@pytest.mark.parametrize(("floor", "status"), [((0, 0), "warned"), ((0, 1), "failed"), (None, "failed")])
def test_a_check_that_is_newer_than_what_a_plugin_asks_for_warns_first(
    faulty: PluginFolder, floor: tuple[int, int] | None, status: str
) -> None:
    """
    Upgrading gymcore turns nobody's tests red overnight; under pytest it is a warning.
    """
    suite = type("Asked", (Newer,), {"floor": floor})

    (outcome,) = [outcome for outcome in run_checks(suite) if outcome.check == "test_new"]

    assert (outcome.status, outcome.message) == (status, "it is not done")
    if status == "warned":
        with pytest.warns(NewCheckWarning, match="it is not done"):
            suite().test_new()


@pytest.mark.parametrize(
    ("requirements", "floor"),
    [
        (["gymcore>=0.3"], (0, 3)),
        (["httpx>=1", "gymcore[ray] (>=1.4.2,<2)"], (1, 4)),
        (["GymCore ~= 1.2 ; python_version > '3'"], (1, 2)),
        (["gymcore"], None),
        (["gymcore-extras>=9"], None),
        ([], None),
    ],
)
def test_the_oldest_gymcore_is_read_from_the_requirements(
    requirements: list[str], floor: tuple[int, int] | None
) -> None:
    """
    Whatever else a distribution requires.
    """
    assert floor_of(requirements) == floor


def test_the_suites_need_no_pytest() -> None:
    """
    Whoever has only gymcore and a plugin can check it.
    """
    files = Path(gymcore.testing.__file__).parent.rglob("*.py")

    assert [file for file in files if re.search(r"^\s*(import|from) _?pytest\b", file.read_text(), re.M)] == []


def test_base_classes_are_not_collected() -> None:
    """
    Whoever imports a suite in a test file gets no tests of it.
    """
    assert [suite.__test__ for suite in (EnvironmentSuite, AgentSuite, ModelSuite)] == [False] * 3


CODE = '''\
from gymcore import Environment, say


class {name}(Environment):
    """Say please."""

    async def reply(self, turn):
        """Ask once more."""
        return "How do you say?" if "please" not in turn.text.lower() and len(self.heard(turn)) < 2 else None

    def heard(self, turn):
        self.__dict__.setdefault("all", []).append(turn.text)
        return self.all

    async def verify(self, trajectory):
        """Ask a judge."""
        verdict = await self.models["judge"].ask(f"Is it polite? {{trajectory.text}}")
        return 1.0 if verdict == "yes" else 0.0
'''
ODD = """\
from gymcore.testing import EnvironmentSuite


class TestPolite(EnvironmentSuite):
    plugin = "polite"
    tasks = 1
    concurrency = 20
    rows = [{"responses_create_params": {"input": "Ask for salt."}}]
    judges = {"judge": lambda question: "yes" if "please" in question.lower() else "no"}
"""
CASES = [
    {
        "row": {"responses_create_params": {"input": "Ask for salt."}},
        "replies": ["Salt!", "Salt, please."],
        "reward": 1,
    },
    {"row": {"responses_create_params": {"input": "Ask for salt."}}, "replies": ["Salt!", "Now!"], "reward": 0},
]


def test_an_environment_with_hardly_anything_can_be_checked(tmp_path: Path) -> None:
    """
    No splits, tools or reference solution, several turns, a judge, a process of its own: the rest is skipped.
    """
    path = tmp_path / "test_polite.py"
    path.write_text(ODD)
    path.with_name("cases.jsonl").write_text("".join(json.dumps(case) + "\n" for case in CASES))
    folder = tmp_path / "installed"
    folder.mkdir()
    with PluginFolder(folder) as plugins:
        plugins.install(
            "gym-plugin-polite",
            {"polite/__init__.py": CODE.format(name="Polite"), "polite/gym.yaml": "gym_api: 1\nisolation: process\n"},
            {"gymcore.environments": {"polite": "polite:Polite"}},
        )
        outcomes = {outcome.check: outcome for outcome in run_suite("environment", "polite", [path])}

    statuses = {name: outcome.status for name, outcome in outcomes.items()}
    assert "failed" not in statuses.values(), {n: o.message for n, o in outcomes.items() if o.status == "failed"}
    assert {name for name, status in statuses.items() if status == "skipped"} == {
        *("test_data_are_valid", "test_tools_are_typed_and_described", "test_tools_take_valid_arguments"),
        *("test_tools_survive_hostile_arguments", "test_reference_solution_earns_the_top_reward"),
        *("test_close_is_called_once", "test_nothing_is_left_open"),
    }
