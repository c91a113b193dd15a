"""
`gym check` as a whole: a correct plugin passes untouched, and faults that only show when it is played are found.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gymcore.authoring import Project as NewProject
from gymcore.authoring import write_project
from gymcore.authoring.checking import check_installed, check_project, find_installed, read_project
from gymcore.discovery import Catalog, Plugin
from gymcore.errors import RequestError
from gymcore.testing import PluginFolder

Gym = Callable[..., subprocess.CompletedProcess[str]]

CODE = '''\
"""
Add numbers up.
"""

import re

from gymcore import Environment, Reward, Solution, Task, Trajectory, call, say, tool


class Sum(Task):
    """Numbers, and what they come to."""

    numbers: list[int]
    total: int


class Adder(Environment[Sum]):
    """Add numbers up with a calculator that remembers."""

    async def open(self) -> None:
        """Nothing is added yet."""
        self.memory = 0

    @tool
    def add(self, number: int) -> str:
        """
        Add a number to the memory.

        Args:
            number: What to add.
        """
        self.memory += number
        return "added"

    def verify(self, trajectory: Trajectory) -> Reward:
        """Pay for the total, said last, after it was worked out."""
        text = trajectory.text.strip()
        is_right = text == str(self.task.total) and self.memory == self.task.total
        return Reward(value=float(is_right))

    async def solve(self) -> Solution:
        """Add the numbers one by one."""
        for number in self.task.numbers:
            yield call("add", number=number)
        yield say(str(self.task.total))
'''
MANIFEST = "gym_api: 1\nsplits: {train: data/train.jsonl, validation: data/validation.jsonl}\nreward_range: [0, 1]\n"
PAYS = "        return Reward(value=float(is_right))\n"
TEXT = "        text = trajectory.text.strip()\n"

PLANTED: dict[str, tuple[dict[str, str], tuple[tuple[str, str], ...]]] = {
    # name: what is replaced in the code, and (check, what its message or its fix says)
    "noisy": (
        {
            "import re\n": "import re\nimport socket\nimport threading\nimport time\nfrom typing import Any\n\n"
            "print('hello')\nsocket.socket().close()\n"
            "threading.Thread(target=time.sleep, args=(9,), daemon=True).start()\n"
            "end = time.process_time() + 0.25\nwhile time.process_time() < end:\n    pass\n",
            "number: int": "number: Any",
            "+= number": "+= 1",
            "\n\n        Args:\n            number: What to add.": "",
            PAYS: "        return Reward(value=1.0)\n",
        },
        (
            ("test_import_prints_nothing", "'hello"),
            ("test_import_opens_no_socket", "src/gym_plugin_planted/noisy/__init__.py:12"),
            ("test_import_starts_nothing", "the thread"),
            ("test_import_is_quick", "at most 0.2"),  # as the author's test says
            ("test_tools_are_typed_and_described", "'number' is not described"),
            ("test_reward_discriminates", ""),
        ),
    ),
    "leaky": (
        {
            TEXT: TEXT + "        try:\n            text = str(eval(text, {'__builtins__': {}}))\n"
            "        except Exception:\n            pass\n        for item in trajectory.items:\n"
            "            item.pop('status', None)\n",
            "        self.memory = 0\n": "        self.memory = 0\n        self.file = open(__file__)\n",
            "yield say(str(self.task.total))": "yield say(str(self.task.total // (self.task.total % 2)))",
        },
        (
            ("test_model_output_is_not_executed", "eval"),
            ("test_verifier_changes_nothing", "the trajectory's"),
            ("test_nothing_is_left_open", ""),
            ("test_reference_solution_earns_the_top_reward", "ZeroDivisionError"),
            ("test_data_are_valid", "data/train.jsonl:7"),
            ("test_splits_do_not_overlap", ""),
        ),
    ),
    "flaky": (
        {
            "import re\n": "import random\nimport re\n",
            "is_right = text ==": "is_right = not re.fullmatch('(a+)+', text) and text ==",
            PAYS: "        return Reward(value=1.5 if is_right else 0.0, metrics={'luck': random.random()})\n",
        },
        (
            ("test_verifier_is_deterministic", "'luck'"),
            ("test_verifier_finishes_in_time", "did not come back"),
            ("test_rewards_are_finite_and_in_range", "1.5"),
        ),
    ),
    "sharing": (
        {
            "    async def open": "    memory = 0\n    seen = []\n\n    async def open",
            "        self.memory = 0\n": "        Adder.memory = 0\n        self.seen.clear()\n",
            "        self.memory += number\n": "        Adder.memory += number\n        self.seen.append(number)\n",
            PAYS: "        return float(is_right) if text else float('nan')\n",
        },
        (
            ("test_rollouts_share_no_state", ""),
            ("test_rewards_are_finite_and_in_range", "finite"),
        ),
    ),
    "ending": (
        {TEXT: "        import os\n        os._exit(7)\n" + TEXT},
        (("test_attempts_are_scored", "exit code 7"),),
    ),
    "exiting": (
        {"import re\n": "import re\nimport sys\nsys.exit('no GPU')\n"},
        (("plugin_can_be_loaded", "SystemExit: no GPU"),),
    ),
    "crashing": (
        {"import re\n": "import os\nimport re\nos.kill(os.getpid(), 11)\n"},
        (("plugin_can_be_loaded", "SIGSEGV"),),
    ),
    "needy": (
        {"import re\n": "import re\nimport hypothesis\n"},
        (("imports_are_declared", "Add 'hypothesis'"), ("plugin_can_be_loaded", "nothing that is required brings it")),
    ),
    "untyped": (
        {"number: int": "number"},
        (("plugin_can_be_loaded", "number"),),
    ),
    "mistaken": (
        {"class Adder(Environment[Sum]):": "class Adder(Task):"},
        (("plugin_can_be_loaded", "not a subclass of gymcore.Environment"),),
    ),
}
SUITES = """\
from gymcore.testing import EnvironmentSuite


class Quick(EnvironmentSuite):
    import_cpu_s = 0.2
    tasks = 2
    concurrency = 20
    verify_timeout_s = 0.5

"""


def row(number: int) -> dict[str, object]:
    numbers = [number + 1, 2 * number + 7, 90 - number]
    prompt = f"Add up {', '.join(map(str, numbers))}, and say only the sum."
    return {"responses_create_params": {"input": prompt}, "numbers": numbers, "total": sum(numbers)}


def plant(root: Path, names: tuple[str, ...]) -> None:
    """
    Write one distribution of several environments, each correct but for the faults that were planted in it.
    """
    write_project(NewProject("environment", "planted"), root)
    package = root / "src/gym_plugin_planted"
    for path in ("environment.py", "gym.yaml", "data/example.jsonl"):
        (package / path).unlink()
    text, tests = (root / "pyproject.toml").read_text(), SUITES
    target = 'planted = "gym_plugin_planted.environment:Planted"'
    assert target in text
    text = text.replace(target, "\n".join(f'{name} = "gym_plugin_planted.{name}:Adder"' for name in names))
    (root / "pyproject.toml").write_text(text)
    for name in names:
        changes, _ = PLANTED[name]
        code = CODE
        for old, new in changes.items():
            assert old in code, (name, old)
            code = code.replace(old, new)
        train, validation = [row(number) for number in range(6)], [row(number) for number in range(20, 23)]
        if name == "leaky":
            train, validation = [*train, {**row(7), "total": "many"}], [*validation, row(0)]
        held = {
            "__init__.py": code,
            "gym.yaml": MANIFEST,
            "data/train.jsonl": train,
            "data/validation.jsonl": validation,
        }
        for path, content in held.items():
            file = package / name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(
                content if isinstance(content, str) else "".join(json.dumps(item) + "\n" for item in content)
            )
        tests += f"\nclass Test{name.capitalize()}(Quick):\n    plugin = {name!r}\n\n"
    for file in (root / "tests").iterdir():
        file.unlink()
    (root / "tests/test_planted.py").write_text(tests)


@pytest.fixture
def check(commands: Any, tmp_path: Path) -> Gym:
    """
    Run `gym check` where no index can be reached.
    """

    def run(*arguments: str, cwd: Path = tmp_path, **environ: str) -> subprocess.CompletedProcess[str]:
        # An author's Python writes bytecode, whatever that of whoever runs the tests does.
        told = {"PYTHONDONTWRITEBYTECODE": "", "PIP_NO_INDEX": "1", "UV_OFFLINE": "1", "NO_COLOR": "1"}
        environ = {**os.environ, **told, **environ}
        done: subprocess.CompletedProcess[str]
        done = commands.run("check", *arguments, folder=cwd, environ=environ, timeout_s=400)
        return done

    return run


# Each plugin costs seconds. Its faults are found one by one in tests/testing/suites and in the other tests here.
@pytest.mark.parametrize(
    "names",
    [("ending", "exiting", "mistaken"), pytest.param(tuple(PLANTED), marks=pytest.mark.rig)],
    ids=["three", "all"],
)
def test_planted_faults_are_found_in_every_plugin_of_a_distribution(
    check: Gym, tmp_path: Path, names: tuple[str, ...]
) -> None:
    """
    Each fault is found by its check, with words that say what to change, in a fresh environment and without an index.

    Every plugin is imported, the suite runs for those that can be loaded, and paths are those of the source.
    """
    root = tmp_path / "gym-plugin-planted"
    plant(root, names)

    done = check(str(root), "--json")

    assert done.returncode == 1, done.stderr
    checked = json.loads(done.stdout)
    phases = {phase["phase"]: phase for phase in checked["phases"]}

    missed = []
    for name in names:
        for check_name, words in PLANTED[name][1]:
            told = [
                finding
                for finding in checked["findings"]
                if finding["check"] == check_name and (finding["plugin"] == name or name in (finding["where"] or ""))
            ]
            said = " ".join(f"{finding['message']} {finding['fix']} {finding['where']}" for finding in told)
            if not told or words not in said or not all(finding["fix"] and finding["why"] for finding in told):
                missed.append((name, check_name, said))
    assert missed == []
    assert list(phases) == ["source", "wheel", "install", "import", "suite"]
    assert phases["wheel"]["status"] == phases["install"]["status"] == "passed"
    assert [item["plugin"] for item in phases["import"]["checks"]] == sorted(names)
    played = {item["plugin"] for item in phases["suite"]["checks"] if item["status"] != "skipped"}
    assert played == {"noisy", "leaky", "flaky", "sharing", "ending"} & set(names)
    assert "gymcore-check-" not in json.dumps(checked["findings"])


def test_a_correct_environment_passes_untouched(check: Gym, tmp_path: Path) -> None:
    """
    What `gym new` writes is without a finding in all five phases, and nothing is left of the checking.
    """
    write_project(NewProject("environment", "word_count"), tmp_path / "project")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    before = sorted(tmp_path.rglob("*"))

    done = check("--strict", cwd=tmp_path / "project", TMPDIR=str(scratch))

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("checking gym-plugin-word-count 0.1.0: environment word_count\n")
    assert "install  passed   wheel_is_installed" in done.stdout
    assert "in a fresh virtual environment" in done.stdout
    assert "\nnothing found; " in done.stdout
    assert {line.split()[1] for line in done.stdout.splitlines()[1:-2]} == {"passed", "skipped"}
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("kind", ["agent", "model", "hooks"])
def test_every_other_kind_passes_untouched(tmp_path: Path, kind: str) -> None:
    """
    What `gym new` writes of any kind is without a finding; hooks have no suite.
    """
    write_project(NewProject(kind, "fresh"), tmp_path)

    outcomes = list(check_project(read_project(tmp_path), offline=True))

    assert [outcome for outcome in outcomes if outcome.findings] == []
    skipped = {(outcome.check, outcome.told) for outcome in outcomes if outcome.status == "skipped"}
    unpacked = "as was asked for; it is unpacked, and tried beside what is installed here"
    assert ("wheel_is_installed", unpacked) in skipped
    assert (("suite_ends", "there is no suite for a hook") in skipped) is (kind == "hooks")


def test_what_importing_a_hook_does_is_found(check: Gym, tmp_path: Path) -> None:
    """
    Hooks have no suite that looks, so what they print and start when they are imported is looked at here.

    What they require cannot be had without an index, so they are tried beside what is installed, which is said.
    """
    write_project(NewProject("hooks", "table"), tmp_path)
    project = tmp_path / "pyproject.toml"
    project.write_text(project.read_text().replace("dependencies = [", 'dependencies = ["mdurl>=99", '))
    module = tmp_path / "src/gym_plugin_table/hooks.py"
    module.write_text(module.read_text() + "print('here')\nimport subprocess\nsubprocess.run(['true'])\n")

    done = check("--json", str(tmp_path))

    value = json.loads(done.stdout)
    (installed, *_) = value["phases"][2]["checks"]
    assert installed["status"] == "skipped"
    assert installed["told"] == (
        "no index can be reached from here; it is unpacked, and tried beside what is installed here"
    )
    assert (done.returncode, value["is_well"]) == (1, False)
    assert {finding["check"] for finding in value["findings"]} == {"hooks_import_quietly"}
    told = " ".join(finding["message"] for finding in value["findings"])
    assert "prints 'here" in told
    assert "a process at src/gym_plugin_table/hooks.py" in told


def test_an_installed_plugin_is_checked_by_its_name(echo_folder: Path, gym: Gym) -> None:
    """
    Manifest, data, import and suite, of a plugin of any kind; the distribution's name means all of it.
    """
    with PluginFolder(echo_folder) as folder:
        done = gym("check", "nop", "--json")
        unknown = gym("check", "echoo", folder=folder)

    value = json.loads(done.stdout)
    assert (done.returncode, value["plugins"], value["is_well"]) == (0, ["model nop"], True)
    assert {phase["phase"]: phase["status"] for phase in value["phases"]} == {
        "source": "passed",
        "wheel": "skipped",
        "install": "skipped",
        "import": "passed",
        "suite": "passed",
    }
    assert unknown.returncode == 2
    assert "no plugin is named 'echoo'" in unknown.stderr
    assert "try: 'echo'" in unknown.stderr


def test_an_installed_plugin_that_is_broken_is_a_finding() -> None:
    """
    What discovery knows of a plugin is reported with its hint, and nothing of it is imported.
    """
    plugin = Plugin("environment", "mine", "gym-mine", "1.0", "mine:Mine", "broken", "no manifest", "build it anew")
    catalog = Catalog((plugin,))

    outcomes = list(check_installed(find_installed("gym-mine/mine", catalog), catalog))

    assert [(finding.check, finding.fix) for outcome in outcomes for finding in outcome.findings] == [
        ("manifests_are_valid", "build it anew")
    ]
    assert [(outcome.phase, outcome.status) for outcome in outcomes][2:] == [
        ("import", "skipped"),
        ("suite", "skipped"),
    ]
    with pytest.raises(RequestError, match="no plugin is named 'gym-yours/mine'"):
        find_installed("gym-yours/mine", catalog)


def test_wrong_requests_say_so(gym: Gym, tmp_path: Path) -> None:
    """
    A folder without a project is a wrong request; a project that cannot be read is broken.
    """
    nothing = gym("check", "./nowhere")
    (tmp_path / "pyproject.toml").write_text("[project")
    unreadable = gym("check")

    assert (nothing.returncode, unreadable.returncode) == (2, 4)
    assert "there is no pyproject.toml" in nothing.stderr
    assert "cannot be read" in unreadable.stderr


def test_nothing_is_left_after_ctrl_c(tmp_path: Path) -> None:
    """
    Ctrl-C while a plugin is imported that hangs ends both, with 130, and removes what was made.
    """
    write_project(NewProject("hooks", "hanging"), tmp_path / "project")
    mark = tmp_path / "mark"
    module = tmp_path / "project/src/gym_plugin_hanging/hooks.py"
    wait = f"import os, pathlib, time\npathlib.Path({str(mark)!r}).write_text(str(os.getpid()))\ntime.sleep(600)\n"
    module.write_text(module.read_text() + wait)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "gymcore", "check", "--offline", str(tmp_path / "project")],
        env={**os.environ, "TMPDIR": str(scratch)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (mark.exists() and mark.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)

    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)

    assert process.returncode == 130, out + errors
    assert "interrupted" in errors
    assert list(scratch.iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), 0)
