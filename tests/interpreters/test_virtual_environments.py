"""
Two plugins that need incompatible versions of one package, in one mix: each has what it needs.

The package has two wheels, made here; pip takes them from a folder and reaches no index.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gymcore import Composition, Plan, PluginError, compose, discover
from gymcore.errors import DataError, PlanError, StorageError
from gymcore.interpreters.building import build_interpreter
from gymcore.interpreters.stand_in import StandIn
from gymcore.testing import PluginFolder

GADGET = "VERSION = '{0}.0'\n\n\ndef since_{0}():\n    return VERSION\n"
MANIFEST = "gym_api: 1\nsplits: {example: rows.jsonl}\n"
ROWS = "".join(
    json.dumps({"responses_create_params": {"input": f"Number {number}?"}, "number": number}) + "\n"
    for number in (1, 2)
)
CODE = '''
import os
import sys

import gadget
from pydantic import SecretStr, model_validator

from gymcore import Config, Environment, Task, Trajectory, call, say, tool
from gymcore.interfaces import option

gadget.since_{version}()  # the other version has no such function
print("a plugin may print while it is imported")


class Options(Config):
    level: int = option(1, ge=1, le=5)
    key: SecretStr | None = option(None, environment_variable="GADGET_KEY")


class Number(Task):
    number: int

    @model_validator(mode="after")
    def _is_no_thirteen(self):
        if self.number == 13:
            raise ValueError("thirteen brings bad luck")
        if self.number == 14:
            os.abort()
        return self


class Guess(Environment[Number, Options]):
    """Guess a number."""

    @tool
    def look(self, closely: bool = True) -> dict:
        """Look around.

        Args:
            closely: Whether it matters.
        """
        key = self.config.key.get_secret_value() if self.config.key else None
        return {{
            "gadget": gadget.VERSION,
            "number": self.task.number,
            "level": self.config.level,
            "key": None if key is None else len(key),
            "environ": sorted(os.environ),
            "prefix": sys.prefix,
        }}

    def verify(self, trajectory: Trajectory) -> float:
        return float(gadget.VERSION == "{version}.0" and trajectory.last_call("look") is not None)

    async def solve(self):
        seen = yield call("look", closely=False)
        yield say(seen["gadget"])
'''


@dataclass(frozen=True)
class Shop:
    """What is installed here, and what a virtual environment may be filled from."""

    plugins: PluginFolder
    environ: Mapping[str, str]

    def compose(self, *environments: str, **entry: Any) -> Composition:
        """Compose environments, the old one in its own virtual environment."""
        asked = {name: {"isolation": "venv", **entry} if name == "old" else {} for name in environments}
        return compose(Plan.model_validate({"environments": asked}), discover(), environ=self.environ)


def write_gadget(folder: Path, version: int) -> None:
    """Write a wheel of the package that both plugins need."""
    info = f"gadget-{version}.0.dist-info"
    with zipfile.ZipFile(folder / f"gadget-{version}.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("gadget/__init__.py", GADGET.format(version))
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: gadget\nVersion: {version}.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in (*wheel.namelist(), f"{info}/RECORD")))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """
    `old`, which needs the first gadget; `new`, which needs the second and whose installation has replaced the first;
    and `picky`, which needs a pydantic that gymcore does not take.
    """
    folder = tmp_path_factory.mktemp("shop")
    for name in ("wheels", "plugins"):
        (folder / name).mkdir()
    for version in (1, 2):
        write_gadget(folder / "wheels", version)
    with PluginFolder(folder / "plugins") as plugins:
        for name, version, needs in (("old", 1, "gadget==1.0"), ("new", 2, "gadget>=2"), ("picky", 1, "pydantic<2")):
            package = f"gym_plugin_{name}"
            files = {f"{package}/__init__.py": CODE.format(version=version), f"{package}/gym.yaml": MANIFEST}
            groups = {"gymcore.environments": {name: f"{package}:Guess"}}
            files[f"{package}/rows.jsonl"] = ROWS
            plugins.install(f"gym-plugin-{name}", files, groups, dependencies=[needs, "gymcore"])
        with zipfile.ZipFile(folder / "wheels" / "gadget-2.0-py3-none-any.whl") as wheel:
            wheel.extractall(folder / "plugins")
        environ = {
            **os.environ,
            "GYMCORE_CACHE": str(folder / "cache"),
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(folder / "wheels"),
            "UV_NO_INDEX": "1",
            "UV_FIND_LINKS": str(folder / "wheels"),
            "POLICY_API_KEY": "sk-of-a-model",
        }
        yield Shop(plugins, environ)


@pytest.fixture
def gym_in(shop: Shop, gym: Callable[..., Any]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """
    The command `gym`, where the plugins are installed.
    """
    own = {name: value for name, value in shop.environ.items() if os.environ.get(name) != value}

    def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        done: subprocess.CompletedProcess[str] = gym(*arguments, folder=shop.plugins, **own, **environ)
        return done

    return run


def test_both_play_in_one_mix_although_one_cannot_be_imported_here(gym_in: Any, tmp_path: Path) -> None:
    """
    Composed, played by its own reference solution, verified: by code that the process of the run could not import.
    """
    done = gym_in("run", "--env", "old", "--env", "new", "--out", "mix")
    assert done.returncode == 4, done.stderr
    assert "'old' (gym-plugin-old 0.1.0) needs gadget==1.0, but gadget 2.0 is installed" in done.stderr
    assert not (tmp_path / "mix").exists()

    done = gym_in("run", "--env", "old", "--env", "new", "--isolate", "old", "--out", "mix", "--json")

    assert done.returncode == 0, done.stderr
    rollouts = [json.loads(line) for line in (tmp_path / "mix" / "rollouts.jsonl").read_text().splitlines()]
    said = {
        (row["environment"], row["response"]["output"][-1]["content"][0]["text"], row["reward"]) for row in rollouts
    }
    assert said == {("old", "1.0", 1.0), ("new", "2.0", 1.0)}
    assert "isolation: venv" in (tmp_path / "mix" / "plan.yaml").read_text()


def test_its_process_sees_its_own_packages_and_no_key(gym_in: Any, shop: Shop, tmp_path: Path) -> None:
    """
    Neither the path of this process nor its keys; its options it gets, a secret too, which is written nowhere.
    """
    done = gym_in(
        "run", "--env", "old", "--isolate", "old", "--out", "one", "--set", "environments.old.config.level=3",
        GADGET_KEY="of the environment",
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    line = (tmp_path / "one" / "rollouts.jsonl").read_text().splitlines()[0]
    output = next(item for item in json.loads(line)["response"]["output"] if item["type"] == "function_call_output")
    seen = json.loads(output["output"])
    cache = Path(shop.environ["GYMCORE_CACHE"])
    assert (seen["level"], seen["key"]) == (3, len("of the environment"))
    assert Path(seen["prefix"]).is_relative_to(cache)
    assert not {"POLICY_API_KEY", "GADGET_KEY", "PYTHONPATH", "PIP_FIND_LINKS"} & set(seen["environ"])
    for place in (tmp_path / "one", cache):
        for file in place.rglob("*"):
            if file.is_file() and not file.is_symlink():
                assert b"of the environment" not in file.read_bytes()
                assert b"sk-of-a-model" not in file.read_bytes()


def test_the_class_here_says_what_the_class_there_says(shop: Shop) -> None:
    """
    Names, documentation, tools and their schemas, and that there is a solution; nothing of the plugin is imported.
    """
    composition = shop.compose("old")

    (route,) = composition.routes.values()
    guess = route.environment_class
    assert issubclass(guess, StandIn)
    assert (guess.__name__, guess.__doc__, guess.is_solvable()) == ("Guess", "Guess a number.", True)
    assert (guess.keeps_route, guess.takes_other_tools()) == (False, False)
    (schema,) = guess.tool_schemas()
    assert schema["description"] == "Look around."
    assert schema["parameters"]["properties"]["closely"] == {
        "default": True,
        "description": "Whether it matters.",
        "type": "boolean",
    }
    assert "gym_plugin_old" not in sys.modules


def test_rows_are_checked_by_the_model_over_there(shop: Shop, write_rows: Callable[..., str]) -> None:
    """
    Its types, its validators, and a validator that ends the process: each row is told with its place.
    """
    ask = {"responses_create_params": {"input": "Which?"}}
    rows = [{**ask, "number": value} for value in ("many", 13, 14, 15)]

    with pytest.raises(DataError) as caught:
        shop.compose("old", data=[write_rows(*rows, ask)])

    told = [problem.message for problem in caught.value.problems]
    assert told[0].startswith("number: input should be a valid integer")
    assert told[1].endswith("value error, thirteen brings bad luck")
    assert "its process was killed by signal 6" in told[2]
    assert "it printed: Fatal Python error: Aborted" in str(caught.value)  # from where it began
    assert told[3] == "number: field required"
    assert caught.value.count == 4


def test_options_are_checked_over_there_and_a_secret_stays_hidden(shop: Shop) -> None:
    """
    Mistakes are told as those of a class that is here; what is written down holds no secret.
    """
    with pytest.raises(PlanError) as caught:
        shop.compose("old", config={"level": 9, "kee": "x"})
    assert [problem.message for problem in caught.value.problems] == [
        "input should be less than or equal to 5, not 9",
        "unknown option 'kee'",
    ]
    assert caught.value.problems[1].hints == ("try: key",)

    composition = shop.compose("old", config={"level": 2, "key": "very secret"})

    assert "very secret" not in composition.plan.to_yaml() + json.dumps(composition.lock)
    assert composition.lock["environments"]["old"]["asked"]["config"] == {"level": 2}


def test_it_is_built_once_for_everybody_who_wants_it_at_once(shop: Shop, tmp_path: Path) -> None:
    """
    Two processes build one; what a killed build has left is removed, and nothing else is taken for whole.
    """
    environ = {**shop.plugins.environ, **shop.environ, "PYTHONPATH": shop.plugins.environ["PYTHONPATH"]}
    environ["GYMCORE_CACHE"] = str(tmp_path)
    command = (
        "import os; from gymcore import discover; from gymcore.interpreters.building import build_interpreter\n"
        "print(build_interpreter(discover().find('environment', 'old'), os.environ))"
    )

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", command],
            env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    killed, end = start(), time.monotonic() + 60
    while not list(tmp_path.glob("venvs/*/core/gymcore")):
        assert time.monotonic() < end
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    (left,) = (path for path in tmp_path.glob("venvs/*") if path.is_dir())
    assert not (left / "whole.json").exists()
    (left / "venv" / "rubbish").write_text("of the build that was killed")

    said = [process.communicate(timeout=120) for process in [start(), start()]]

    assert {out for out, _ in said} == {f"{left}/venv/bin/python\n"}
    assert sorted("built in" in err for _, err in said) == [False, True]
    holds = json.loads((left / "whole.json").read_text())["holds"]
    assert {"core/gymcore", "core/pydantic"} < set(holds)
    assert {"gadget", "gym_plugin_old/gym.yaml"} < {path.partition("/site-packages/")[2] for path in holds}
    assert not (left / "venv" / "rubbish").exists()
    assert stat.S_IMODE((tmp_path / "venvs").stat().st_mode) == 0o700
    assert stat.S_IMODE(left.stat().st_mode) == 0o700


def test_what_cannot_be_had_is_an_error_with_the_last_words_of_the_installer(shop: Shop, tmp_path: Path) -> None:
    """
    Exit code 4, the end of the log, where all of it is, and nothing that looks whole; a cache that cannot be written
    is the disk's fault.
    """
    plugin = discover().find("environment", "old")
    environ = {**shop.environ, "GYMCORE_CACHE": str(tmp_path / "cache")}
    environ |= {"PIP_FIND_LINKS": str(tmp_path), "UV_FIND_LINKS": str(tmp_path)}

    with pytest.raises(PluginError, match="cannot be built") as caught:
        build_interpreter(plugin, environ)

    *lines, place = caught.value.hints
    log = Path(place.removeprefix("all of it: "))
    assert "gadget" in "\n".join(lines)
    assert lines[-1] in log.read_text()
    assert [path.suffix for path in sorted((tmp_path / "cache" / "venvs").iterdir())] == [".TAG", ".lock", ".log"]

    (tmp_path / "file").write_text("mine")
    with pytest.raises(StorageError, match="no virtual environment can be made"):
        build_interpreter(plugin, {**environ, "GYMCORE_CACHE": str(tmp_path / "file")})


def test_a_plugin_that_gymcore_itself_cannot_live_with_is_refused(shop: Shop) -> None:
    """
    gymcore plays in the same interpreter, so what gymcore needs is not for the plugin to change.
    """
    with pytest.raises(PluginError) as caught:
        build_interpreter(discover().find("environment", "picky"), shop.environ)

    assert "pydantic" in str(caught.value)


def test_on_ray_it_is_refused_before_anything_is_written(shop: Shop) -> None:
    """
    The workers of Ray would need it on every machine.
    """
    plan = {"environments": {"old": {"isolation": "venv"}}, "collect": {"executor": "ray"}}

    with pytest.raises(PlanError, match="does not play on Ray"):
        compose(Plan.model_validate(plan), discover(), environ=shop.environ)
