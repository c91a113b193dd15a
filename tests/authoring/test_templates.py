"""
What `gym new` writes works as it is: built, installed, listed, composed and played, each kind of it.
"""

from __future__ import annotations

import csv
import ensurepip
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

import gymcore
from gymcore import discover, run_sync
from gymcore.authoring import KINDS, Project, write_project
from gymcore.cli.compose import command as compose_command
from gymcore.testing import PluginFolder

ROOT = Path(gymcore.__file__).parents[1]
NAMES = {"environment": "new-game", "agent": "new_agent", "model": "new_model", "hooks": "new_hooks"}
ALL_RULES = "E,F,W,I,N,UP,B,A,C4,SIM,RUF,ASYNC,PTH,PT,RET,TRY002"


@pytest.fixture(scope="session")
def projects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """
    A package of each kind, untouched.
    """
    above = tmp_path_factory.mktemp("projects")
    for kind in KINDS:
        project = Project(kind, NAMES[kind])
        write_project(project, above / project.distribution)
    return {kind: above / Project(kind, NAMES[kind]).distribution for kind in KINDS}


@pytest.fixture(scope="session")
def installed(projects: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    The folder into which the wheel of each was installed.
    """
    folder = PluginFolder(tmp_path_factory.mktemp("installed"))
    folder.install_project(*projects.values())
    return folder.folder


@pytest.fixture
def plugins(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PluginFolder]:
    """
    The new plugins, where discovery sees them.
    """
    monkeypatch.chdir(tmp_path)
    with PluginFolder(installed) as folder:
        yield folder


@pytest.mark.parametrize("kind", KINDS)
def test_is_listed_and_can_be_loaded(plugins: PluginFolder, kind: str) -> None:
    """
    Its wheel holds all that discovery looks for, and what it offers is what its group wants.
    """
    catalog = discover()
    plugin = catalog.find("hook" if kind == "hooks" else kind, NAMES[kind])  # type: ignore[arg-type]

    catalog.load(plugin)

    assert (plugin.status, plugin.distribution) == ("ok", f"gym-plugin-{NAMES[kind].replace('_', '-')}")
    assert plugin.manifest.description
    assert (plugins.folder / plugin.distribution.replace("-", "_") / "py.typed").is_file()


def test_all_of_them_play_together(plugins: PluginFolder, tmp_path: Path) -> None:
    """
    The reference solution earns 1.0 on every task, played by the new agent, and the new hook writes each down.
    """
    result = run_sync(
        {
            "environments": {NAMES["environment"]: {}},
            "agent": NAMES["agent"],
            "hooks": [NAMES["hooks"]],
        },
        out=tmp_path / "run",
    )
    with (tmp_path / "run" / "gym_plugin_new_hooks.csv").open(newline="") as table:
        lines = list(csv.DictReader(table))

    assert (result.total.finished, result.total.failed) == (5, 0)
    assert result.total.reward is not None
    assert result.total.reward["mean"] == 1.0
    assert [(line["reward"], line["stop"]) for line in lines] == [("1.0", "finished")] * 5


def test_what_the_readmes_say_to_set_can_be_set(plugins: PluginFolder, projects: dict[str, Path]) -> None:
    """
    Each setting is taken as it is typed there, by a plan that has one of each kind.
    """
    settings = [
        argument
        for project in projects.values()
        for setting in re.findall(r"`--set ([^`]+)`", (project / "README.md").read_text())
        for argument in ("--set", *shlex.split(setting))
    ]
    chosen = ["--env", NAMES["environment"], "--agent", NAMES["agent"], "--model", NAMES["model"]]

    done = CliRunner().invoke(compose_command, [*chosen, *settings, "--out", "mix"])

    assert len(settings) == 4
    assert (done.exit_code, done.exception) == (0, None), done.output


def test_the_readmes_say_how_their_tests_are_installed(projects: dict[str, Path]) -> None:
    """
    The command works as it is typed, also with the pip that this Python brings along, which may be an old one.
    """
    readmes = [(project / "README.md").read_text() for project in projects.values()]
    lines = [re.findall(r"^pip install .*-e .*$", readme, re.MULTILINE) for readme in readmes]
    line = lines[0][0]
    old = Path(ensurepip.__file__).parent / "_bundled"
    pip = "import sys; from pip._internal.cli.main import main; sys.exit(main())"
    offline = "--dry-run --no-index --no-deps --no-build-isolation --quiet --disable-pip-version-check"
    shell = f'pip() {{ "{sys.executable}" -c "{pip}" "$@" {offline}; }}; {line}'
    path = os.pathsep.join([*map(str, sorted(old.glob("pip-*.whl"))), *filter(None, sys.path)])

    done = subprocess.run(
        ["sh", "-c", shell],
        cwd=projects["hooks"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert lines == [[line]] * len(KINDS)
    assert "--group" not in line


@pytest.mark.parametrize("model", ["nop", NAMES["model"]])
def test_whoever_does_not_read_earns_nothing(plugins: PluginFolder, tmp_path: Path, model: str) -> None:
    """
    Neither silence nor the new model, which answers from a table, solves a task of the new environment.
    """
    plan = {"environments": {NAMES["environment"]: {}}, "models": {"policy": {"use": model}}}

    run_sync(plan, out=tmp_path / "run")

    rollouts = [json.loads(line) for line in (tmp_path / "run" / "rollouts.jsonl").read_text().splitlines()]
    assert [rollout["reward"] for rollout in rollouts] == [0.0] * 5
    assert {rollout["metrics"]["answered"] for rollout in rollouts} == {model != "nop"}


def test_the_environment_fits_on_a_page(projects: dict[str, Path]) -> None:
    """
    Code and manifest are at most 25 lines of substance: without blank lines, comments and docstrings.
    """
    package = projects["environment"] / "src" / "gym_plugin_new_game"
    code = substance_of(package / "environment.py")
    manifest = [line for line in (package / "gym.yaml").read_text().splitlines() if line.strip()]

    assert len(code) + len(manifest) <= 25, "\n".join([*code, *manifest])


def substance_of(path: Path) -> list[str]:
    """Return the lines of a module without blank ones, comments and docstrings."""
    import ast

    text = path.read_text()
    documented = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and ast.get_docstring(node) is not None
        for line in range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)
    }
    lines = enumerate(text.splitlines(), start=1)
    return [line for number, line in lines if line.strip() and number not in documented and line.lstrip()[0] != "#"]


def test_the_linter_has_nothing_to_say(projects: dict[str, Path]) -> None:
    """
    Every file is formatted, and free of what a strict set of rules would find, in the settings of its own package.
    """
    for project in projects.values():
        for command in (["format", "--check"], ["check", "--extend-select", ALL_RULES]):
            ruff = [sys.executable, "-m", "ruff", *command, "--no-cache", "."]
            done = subprocess.run(ruff, cwd=project, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr


REVEALING = """
from gym_plugin_new_game.environment import NewGame
from gym_plugin_new_agent.agent import NewAgent
from gym_plugin_new_model.model import NewModel


def show(game: NewGame, agent: NewAgent, model: NewModel) -> None:
    reveal_type(game.task)
    reveal_type(game.task.lines)
    reveal_type(agent.config.reminders)
    reveal_type(model.config.answers)
"""


def test_the_type_checker_sees_everything(projects: dict[str, Path], tmp_path: Path) -> None:
    """
    `mypy --strict` accepts each package, and knows what `self.task` and `self.config` hold.
    """
    (tmp_path / "revealing.py").write_text(REVEALING)
    sources = [str(project / "src") for project in projects.values()]
    # From here and in our own strict settings, so that what `make check` has found out of gymcore is known already.
    environ = {**os.environ, "MYPYPATH": "."}

    done = subprocess.run(
        [sys.executable, "-m", "mypy", *sources, str(tmp_path / "revealing.py")],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )

    revealed = [line.partition("Revealed type is ")[2] for line in done.stdout.splitlines() if "Revealed" in line]
    assert done.returncode == 0, done.stdout + done.stderr
    assert [text.strip('"').replace("builtins.", "") for text in revealed] == [
        "gym_plugin_new_game.environment.NewGameTask",
        "list[str]",
        "int",
        "dict[str, str]",
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_its_tests_name_the_suite_of_their_kind(projects: dict[str, Path], kind: str) -> None:
    """
    The contract suite is three lines, beside at least two tests of the plugin's own; all of it is Python.
    """
    (path,) = (projects[kind] / "tests").glob("test_*.py")
    text = path.read_text()

    compile(text, path.name, "exec")

    assert text.count("\ndef test_") >= 2
    if kind != "hooks":
        assert 'Suite):\n    """' in text
        assert f'    plugin = "{NAMES[kind]}"\n' in text
