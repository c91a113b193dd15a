"""
`gym run` as a real process: signals, kills, full disks, exit codes, and what it prints where.
"""

from __future__ import annotations

import json
import os
import pty
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gymcore.collection import Journal
from gymcore.records import Failure, Rollout, Row, Trajectory
from gymcore.testing import PluginFolder

TASKS = 320
PATIENCE_S = 60.0
"""How long anything may take that is at once where the machine does nothing else."""

WORLD = '''
import asyncio, os, pathlib, time
from gymcore import EndpointError, Environment, Model, RequestError, Response, call, hookimpl, say, tool

PLAYED = []

def note(text):
    log = os.environ.get("KIT_LOG")
    if log:
        with open(log, "a") as file:
            file.write(text + "\\n")

class World(Environment):
    """Takes as long as KIT_DELAY_S says; with KIT_HANG it never comes back, with KIT_UNTIL when that exists."""

    async def open(self):
        note(f"played {self.task.task_id}")
        PLAYED.append(self.task.task_id)
        if len(PLAYED) > int(os.environ.get("KIT_FIRST", "0")):
            while not os.path.exists(os.environ.get("KIT_UNTIL", "/")):
                await asyncio.sleep(0.01)
        if os.environ.get("KIT_HANG"):
            await asyncio.Event().wait()
        if os.environ.get("KIT_THREAD"):
            await asyncio.to_thread(time.sleep, 3600)
        while os.environ.get("KIT_BLOCK"):
            time.sleep(0.05)
        if os.environ.get("KIT_FLOOD"):
            for _ in range(int(os.environ["KIT_FLOOD"])):
                print("x" * 999)
        await asyncio.sleep(float(os.environ.get("KIT_DELAY_S", "0")))

    async def close(self):
        if os.environ.get("KIT_HANG") == "close":
            await asyncio.Event().wait()
        note(f"closed {self.task.task_id}")

    def verify(self, trajectory):
        print("a plugin talks")
        if os.environ.get("KIT_BROKEN") and self.task.number % 10 == 3:
            raise ValueError("the \\x1b[31mverifier\\x1b[0m is \\x07broken")
        return 1.0

    async def solve(self):
        yield say("done")

class Failing(World):
    def verify(self, trajectory):
        raise ValueError("there is no such file")

class Deadly(World):
    async def open(self):
        await asyncio.sleep(0.2)
        if self.task.number == 3:
            os.abort()

class Unsolvable(World):
    solve = Environment.solve

class Refusing(Model):
    async def respond(self, request, rollout):
        raise EndpointError("401: the key is wrong", where="http://127.0.0.1:9/v1", hints=["try: another key"])

class Raising(Model):
    async def respond(self, request, rollout):
        raise type("Odd", (BaseException,), {})("nobody catches this")

class Counting(Model):
    async def respond(self, request, rollout):
        note("asked")
        return Response(output=[])

class Hooks:
    @hookimpl
    def gym_plan(self, plan):
        if os.environ.get("KIT_REFUSE"):
            raise RequestError("not on a Friday")
        if os.environ.get("KIT_INTERRUPT"):
            os.kill(os.getpid(), int(os.environ["KIT_INTERRUPT"]))

    @hookimpl
    def gym_rollouts(self, folder, rollouts):
        raise RuntimeError("an observer fell over")

hooks = Hooks()
'''


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PluginFolder]:
    """A folder with one real distribution: an environment that does as it is told, and models that refuse."""
    rows = "".join(
        json.dumps({"responses_create_params": {"input": f"task {number}"}, "number": number, "task_id": f"t{number}"})
        + "\n"
        for number in range(TASKS)
    )
    manifest = "gym_api: 1\ndescription: Made by a test.\n"
    splits = f"{manifest}splits:\n  example: rows.jsonl\n"
    folder = tmp_path_factory.mktemp("kit")
    with PluginFolder(folder) as plugins:
        plugins.install(
            "gym-plugin-kit",
            {
                "kit_world/__init__.py": WORLD,
                "kit_world/gym.yaml": splits,
                "kit_world/rows.jsonl": rows,
                "kit_broken/__init__.py": "import there_is_no_such_module",
                "kit_broken/gym.yaml": splits,
                "kit_broken/rows.jsonl": rows,
            },
            {
                "gymcore.environments": {
                    "kit": "kit_world:World",
                    "kit_failing": "kit_world:Failing",
                    "kit_deadly": "kit_world:Deadly",
                    "kit_unsolvable": "kit_world:Unsolvable",
                    "kit_broken": "kit_broken:World",
                },
                "gymcore.models": {
                    "kit_refusing": "kit_world:Refusing",
                    "kit_raising": "kit_world:Raising",
                    "kit_counting": "kit_world:Counting",
                },
                "gymcore.hooks": {"kit_hooks": "kit_world:hooks"},
            },
        )
        yield plugins


@dataclass
class Gym:
    """Starts `gym` in a folder of its own, as a person would."""

    folder: Path
    environ: dict[str, str]
    commands: Any
    """What runs a command to its end; see `tests/conftest.py`."""

    def start(self, *arguments: str, **settings: str) -> subprocess.Popen[str]:
        """Start a command."""
        return subprocess.Popen(
            [sys.executable, "-m", "gymcore", *arguments],
            cwd=self.folder,
            env={**self.environ, "KIT_LOG": str(self.log), **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments: str, limit: int | None = None, **settings: str) -> Ended:
        """Run a command to its end."""
        environ = {**self.environ, "KIT_LOG": str(self.log), **settings}
        done = self.commands.run(*arguments, folder=self.folder, environ=environ, limit=limit, timeout_s=PATIENCE_S)
        return Ended(done.returncode, done.stdout, done.stderr)

    @property
    def log(self) -> Path:
        """Where the kit notes what it does."""
        return self.folder / "kit.log"

    def noted(self, word: str) -> Counter[str]:
        """Return what the kit noted under a word, counted."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return Counter(line for line in lines if line.startswith(word))

    def rollouts(self, out: str) -> list[dict[str, Any]]:
        """Return the lines of a run folder."""
        path = self.folder / out / "rollouts.jsonl"
        # Of a run that goes on, the last line may be half written.
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith(b"\n")]


@dataclass
class Ended:
    """A command that is over."""

    code: int
    out: str
    err: str

    @classmethod
    def of(cls, process: subprocess.Popen[str]) -> Ended:
        """Wait for a process, and kill one that does not end."""
        try:
            out, err = process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"it did not end by itself: {out}{err}") from None
        return cls(process.returncode, out, err)


@pytest.fixture
def gym(kit: PluginFolder, commands: Any, tmp_path: Path) -> Gym:
    """The command, in an empty folder, with the kit installed."""
    environ = {name: value for name, value in kit.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    return Gym(tmp_path, environ, commands)


def wait_until(holds: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait until something holds while a process runs; the process ending first is as good."""
    end = time.monotonic() + PATIENCE_S
    while not holds() and process.poll() is None:
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.002)


def hear(process: subprocess.Popen[str], text: str) -> str:
    """Read what a process says until a line holds a text, and return that line; one that never says it is killed."""
    assert process.stderr is not None
    killing = threading.Timer(PATIENCE_S, process.kill)
    killing.start()
    try:
        while text not in (line := process.stderr.readline()):
            assert line, f"it ended and has not said {text!r}"
    finally:
        killing.cancel()
    return line


# -- the plain case ----------------------------------------------------------------------------------------------------


def test_two_environments_are_played_and_summed_up(gym: Gym) -> None:
    """
    The main job: ten scored rollouts, the folder named first, the table on stdout, talk on stderr.
    """
    done = gym("run", "--env", "example_single_tool_call", "--env", "example_multi_step")

    assert done.code == 0
    folder, _, rest = done.err.partition(": ")
    assert re.fullmatch(r"runs/example_\w+\+example_\w+-[0-9a-f]{8}", folder)
    assert rest.startswith("10 rollouts planned (example_")
    assert "the model is 'oracle'" in done.err
    assert "--model openai_model --set models.policy.config.base_url=" in done.err
    assert re.search(r"^ *total +10 / 10 +0 +1\.000", done.out, re.MULTILINE)
    lines = gym.rollouts(folder)
    assert Counter(line["environment"] for line in lines) == {"example_multi_step": 5, "example_single_tool_call": 5}
    assert {line["reward"] for line in lines} == {1.0}


def test_the_same_command_again_finds_nothing_left_to_do(gym: Gym) -> None:
    """
    It says what is finished, asks no model, plays nothing, and ends well.
    """
    command = ("run", "--env", "kit", "--limit", "5", "--model", "kit_counting")
    first = gym(*command)
    asked = gym.noted("asked").total()

    again = gym(*command)

    assert (first.code, again.code) == (0, 0)
    assert asked == gym.noted("asked").total() == 5
    assert "5 rollouts are finished already and are not played again" in again.err
    assert "done: 5 rollouts" in again.err
    assert re.search(r"^ *total +5 / 5", again.out, re.MULTILINE)


def test_a_run_folder_is_enough_to_go_on(gym: Gym) -> None:
    """
    `gym run FOLDER` plays what compose left there.
    """
    assert gym("compose", "--env", "kit", "--limit", "3", "--out", "mix").code == 0

    done = gym("run", "mix")

    assert done.code == 0
    assert len(gym.rollouts("mix")) == 3
    assert gym("run", "mix", "--env", "kit").code == 2


# -- what goes where ---------------------------------------------------------------------------------------------------

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@pytest.mark.parametrize("broken", ["", "1"])
def test_json_is_one_document_on_stdout_whatever_plugins_print(gym: Gym, broken: str) -> None:
    """
    A machine reads stdout; what plugins print, progress and advice go to stderr.
    """
    done = gym("run", "--env", "kit", "--limit", "20", "--json", "--out", "run", KIT_BROKEN=broken)

    value = json.loads(done.out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert value["total"]["planned"] == 20
    assert value["total"]["failed"] == (2 if broken else 0)
    assert value == json.loads((gym.folder / "run" / "report.json").read_text())
    assert "a plugin talks" in done.err
    assert done.code == (1 if broken else 0)


def test_no_control_characters_without_a_terminal(gym: Gym) -> None:
    """
    In a log file there is text and nothing else, also where a plugin's message tries to steer the terminal.
    """
    done = gym("run", "--env", "kit", "--limit", "20", "--out", "run", KIT_BROKEN="1", TERM="xterm-256color")
    shown = gym("report", "run")

    assert "failed 2 x  verify: the \ufffd[31mverifier" in shown.out
    assert not CONTROL.search(done.out + done.err + shown.out + shown.err)
    assert re.search(r"^20 / 20|^18 / 20 done, mean reward 1.000, 2 failed", done.err, re.MULTILINE)


# -- exit codes --------------------------------------------------------------------------------------------------------


def test_failed_rollouts_end_with_1_and_are_tried_again(gym: Gym) -> None:
    """
    Failures are recorded and explained; the same command plays only them, and then all is well.
    """
    command = ("run", "--env", "kit", "--limit", "20", "--out", "run")
    done = gym(*command, KIT_BROKEN="1")

    assert done.code == 1
    assert "see run/failures.jsonl; what failed is tried again with: gym run run" in done.err
    assert len(gym.rollouts("run")) == 18
    failures = [json.loads(line) for line in (gym.folder / "run" / "failures.jsonl").read_text().splitlines()]
    assert [(line["stage"], line["error"], "reward" in line) for line in failures] == [
        ("verify", "ValueError", False)
    ] * 2

    again = gym(*command)

    assert again.code == 0
    assert len(gym.rollouts("run")) == 20
    assert Counter(gym.noted("played").values()) == {1: 18, 2: 2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "--env", "kitt"), "no environment is named 'kitt'"),
        (("run", "--env", "kit", "--env", "kit"), "named 2 times"),
        (("run",), "the plan names no environment"),
        (("run", "--env", "kit", "--limit", "0"), "Invalid value"),
        (("run", "--env", "kit_unsolvable"), "has no reference solution (solve)"),
        (("run", "nowhere"), "there is no composition in this folder"),
        (("run", "--env", "kit", "--hook", "kit_hook"), "no hook is named 'kit_hook'"),
    ],
)
def test_a_wrong_request_ends_with_2_before_anything_runs(gym: Gym, arguments: tuple[str, ...], message: str) -> None:
    """
    One message, no traceback, nothing played and nothing written.
    """
    done = gym(*arguments)

    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err
    assert done.out == ""
    assert list(gym.folder.iterdir()) == []


def test_what_no_model_of_the_plan_can_play_is_composed_and_exported(gym: Gym) -> None:
    """
    Who only wants the rows needs no model; whoever plays them is asked for one.
    """
    noted = "note: Unsolvable has no reference solution (solve), which the model 'oracle' plays; choose another"
    composed = gym("compose", "--env", "kit_unsolvable", "--out", "run")
    exported = gym("export", "run", "--to", "nemo-gym")
    refused = gym("run", "run")
    played = gym("run", "run", "--model", "nop")

    assert (composed.code, exported.code, refused.code, played.code) == (0, 0, 2, 0)
    assert noted in composed.err
    assert (gym.folder / "run" / "nemo-gym.jsonl").is_file()
    assert noted.removeprefix("note: ") in refused.err
    assert len(gym.rollouts("run")) == 320


def test_another_plan_in_the_same_folder_ends_with_2_and_shows_the_difference(gym: Gym) -> None:
    """
    Finished rollouts are never mixed with those of another plan.
    """
    assert gym("run", "--env", "kit", "--limit", "3", "--out", "run").code == 0
    before = (gym.folder / "run" / "rollouts.jsonl").read_bytes()

    done = gym("run", "--env", "kit", "--limit", "2", "--out", "run")

    assert done.code == 2
    assert "the folder holds rollouts of another plan" in done.err
    assert "3 rows -> 2 rows" in done.err
    assert (gym.folder / "run" / "rollouts.jsonl").read_bytes() == before


def test_more_of_the_same_in_the_same_folder_plays_only_what_is_new(gym: Gym) -> None:
    """
    More rows, one more environment, more repeats: what was finished is not played again, and the report counts all.
    """
    command = ("run", "--env", "kit", "--out", "run", "--limit")
    first = gym(*command, "3")
    more = gym(*command, "5", "--env", "example_multi_step")
    again = gym("run", "run", "--repeats", "2")

    assert [done.code for done in (first, more, again)] == [0, 0, 0], more.err + again.err
    assert gym.noted("played") == {f"played t{number}": 2 for number in range(5)}
    assert "3 rollouts are finished already and are not played again" in more.err
    assert re.search(r"^ *total +10 / 10 ", more.out, re.MULTILINE)
    assert re.search(r"^ *total +20 / 20 ", again.out, re.MULTILINE)
    keys = [(line["environment"], line["task_id"], line["repeat"]) for line in gym.rollouts("run")]
    assert len(set(keys)) == len(keys) == 20


def test_repeats_on_the_command_line_hold_for_every_environment_of_a_folder(gym: Gym) -> None:
    """
    Also where its plan had something to say of one of them.
    """
    assert (
        gym("compose", "--env", "kit", "--limit", "3", "--set", "environments.kit.repeats=4", "--out", "run").code == 0
    )

    done = gym("run", "run", "--repeats", "2")

    assert done.code == 0
    assert len(gym.rollouts("run")) == 6


def test_fewer_repeats_than_there_are_do_not_make_good_what_is_missing(gym: Gym) -> None:
    """
    Nine rollouts of three tasks are there and four of four are asked for: one is owed, and the run says so.
    """
    command = ("run", "--env", "kit", "--limit", "4", "--out", "run")
    assert gym(*command, "--repeats", "3", KIT_BROKEN="1").code == 1

    fewer = gym(*command, "--repeats", "1", KIT_BROKEN="1")
    shown = gym("report", "run")
    mended = gym(*command, "--repeats", "1")

    assert fewer.code == 1
    assert "not finished: 1 of 4, see run/failures.jsonl" in fewer.err
    assert re.search(r"^ *total +9 \(4 planned, 1 owed\) ", shown.out, re.MULTILINE)
    assert mended.code == 0
    assert gym.noted("played") == {"played t0": 3, "played t1": 3, "played t2": 3, "played t3": 5}


def test_an_endpoint_that_refuses_ends_with_3(gym: Gym) -> None:
    """
    Said once, in words, with how to go on; nothing is recorded as a failure of a task.
    """
    done = gym("run", "--env", "kit", "--limit", "50", "--model", "kit_refusing", "--out", "run")

    assert done.code == 3
    assert done.err.count("401: the key is wrong (http://127.0.0.1:9/v1)") == 1
    assert "go on with: gym run run" in done.err
    assert "Traceback" not in done.err
    assert (gym.folder / "run" / "failures.jsonl").read_bytes() == b""
    assert gym.noted("played").total() == gym.noted("closed").total()


def test_a_broken_plugin_ends_with_4(gym: Gym) -> None:
    """
    The plugin and the reason are named.
    """
    done = gym("run", "--env", "kit_broken")

    assert done.code == 4
    assert "kit_broken" in done.err
    assert "there_is_no_such_module" in done.err


def test_a_full_disk_ends_with_5_and_the_run_goes_on_later(gym: Gym) -> None:
    """
    What was acknowledged is whole; with room again, the same command does the rest and finds nothing to mend.
    """
    command = ("run", "--env", "kit", "--repeats", "3", "--out", "run")
    assert gym("compose", "--env", "kit", "--repeats", "3", "--out", "run").code == 0
    room = (gym.folder / "run" / "dataset.jsonl").stat().st_size + 40_000

    done = gym(*command, limit=room)

    assert done.code == 5
    assert "the rollouts cannot be written: File too large" in done.err
    assert "Traceback" not in done.err
    kept = len(gym.rollouts("run"))
    assert 0 < kept < TASKS * 3
    again = gym(*command)
    assert again.code == 0, again.err
    assert f"{kept} rollouts are finished already" in again.err
    assert len({(line["task_id"], line["repeat"]) for line in gym.rollouts("run")}) == TASKS * 3
    assert not (gym.folder / "run" / "quarantine").exists()


def test_two_runs_in_one_folder_at_once_are_one_too_many(gym: Gym) -> None:
    """
    The second is refused with a clear message, and the first does not notice.
    """
    command = ("run", "--env", "kit", "--limit", "4", "--concurrency", "4", "--out", "run")
    first = gym.start(*command, KIT_UNTIL=str(gym.folder / "go on"))
    wait_until(lambda: gym.noted("played").total() == 4, first)

    second = gym(*command)
    (gym.folder / "go on").touch()

    assert second.code == 2
    assert "another process is writing to this folder: process " in second.err
    assert Ended.of(first).code == 0
    assert len(gym.rollouts("run")) == 4


# -- hooks -------------------------------------------------------------------------------------------------------------


def test_a_hook_may_refuse_the_plan(gym: Gym) -> None:
    """
    A refusal is a wrong request: exit code 2, and no folder.
    """
    done = gym("run", "--env", "kit", "--hook", "kit_hooks", "--out", "run", KIT_REFUSE="1")

    assert (done.code, done.err) == (2, "RequestError: not on a Friday\n")
    assert not (gym.folder / "run").exists()


@pytest.mark.parametrize(("strict", "code"), [((), 0), (("--strict",), 4)])
def test_a_hook_that_fails_costs_no_rollout(gym: Gym, strict: tuple[str, ...], code: int) -> None:
    """
    One line says that it is switched off; the run does not care, and its end tells whoever wants to be strict.
    """
    done = gym("run", "--env", "kit", "--limit", "30", "--hook", "kit_hooks", "--out", "run", *strict)

    told = "hook plugins were switched off, which a strict plan takes for a mistake; the rollouts are safe"
    assert done.code == code
    assert done.err.endswith(f"{told}: gym-plugin-kit/kit_hooks\n") == bool(strict)
    assert done.err.count("is switched off for this run: gym_rollouts raised RuntimeError: an observer fell over") == 1
    assert len(gym.rollouts("run")) == 30


# -- signals and kills -------------------------------------------------------------------------------------------------


def test_kills_at_any_moment_lose_nothing_and_repeat_nothing(gym: Gym) -> None:
    """
    After five SIGKILLs, the same command ends with exactly all rollouts, none twice; what was finished stays so.
    """
    command = ("run", "--env", "kit", "--concurrency", "8", "--out", "run")
    path = gym.folder / "run" / "rollouts.jsonl"
    chance = random.Random(11)
    finished: set[str] = set()
    for _ in range(5):
        gym.log.unlink(missing_ok=True)
        # None plays all that is left, however late it is killed.
        process = gym.start(*command, KIT_DELAY_S="0.01", KIT_FIRST="60", KIT_UNTIL="never")
        size = chance.randrange(30_000) + (path.stat().st_size if path.exists() else 0)
        wait_until(lambda size=size: path.exists() and path.stat().st_size > size, process)  # type: ignore[misc]
        time.sleep(chance.random() * 0.01)
        process.kill()
        assert Ended.of(process).code == -signal.SIGKILL
        lines = path.read_bytes().splitlines(keepends=True)
        now = {json.loads(line)["task_id"] for line in lines if line.endswith(b"\n")}
        assert finished < now, "every attempt adds, and none takes away"
        assert not {f"played {task}" for task in finished} & gym.noted("played").keys()
        finished = now
    assert len(finished) < TASKS

    gym.log.unlink()
    done = gym(*command)

    assert done.code == 0
    assert Counter(line["task_id"] for line in gym.rollouts("run")) == {f"t{number}": 1 for number in range(TASKS)}
    assert gym.noted("played") == {f"played t{number}": 1 for number in range(TASKS) if f"t{number}" not in finished}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_one_signal_drains_and_the_run_goes_on_later(gym: Gym, number: signal.Signals) -> None:
    """
    What is in flight finishes, nothing new starts, and the same command does the rest.
    """
    command = ("run", "--env", "kit", "--limit", "60", "--concurrency", "6", "--out", "run")
    process = gym.start(*command, KIT_FIRST="6", KIT_UNTIL=str(gym.folder / "go on"))
    wait_until(lambda: len(gym.rollouts("run")) > 0, process)
    process.send_signal(number)
    told = hear(process, "stopping")
    (gym.folder / "go on").touch()
    done = Ended.of(process)

    assert told == "stopping: no new rollouts; 6 in flight may finish, up to 30 s; Ctrl-C again to stop now\n"
    assert done.code == 130
    finished = len(gym.rollouts("run"))
    assert 6 < finished < 60
    assert finished == gym.noted("played").total() == gym.noted("closed").total()
    assert f"stopped: {60 - finished} rollouts are still owed; go on with: gym run run" in done.err
    assert re.search(rf"^ *total +{finished} / 60 ", done.out, re.MULTILINE)

    again = gym("run", "run")

    assert again.code == 0
    assert len(gym.rollouts("run")) == 60
    assert set(gym.noted("played").values()) == {1}


def test_a_drain_is_bounded(gym: Gym) -> None:
    """
    What does not finish in time is cancelled, closed and owed again.
    """
    command = ("run", "--env", "kit", "--limit", "9", "--out", "run", "--drain", "0.1")
    process = gym.start(*command, KIT_HANG="open")
    wait_until(lambda: gym.noted("played").total() == 9, process)
    process.send_signal(signal.SIGINT)
    done = Ended.of(process)

    assert done.code == 130
    assert gym.noted("closed").total() == 9
    assert "stopped: 9 rollouts are still owed" in done.err


def test_a_second_signal_stops_at_once(gym: Gym) -> None:
    """
    Everything is closed and the process gone, however long the drain was to be.
    """
    command = ("run", "--env", "kit", "--limit", "9", "--out", "run", "--drain", "3600")
    process = gym.start(*command, KIT_HANG="open")
    wait_until(lambda: gym.noted("played").total() == 9, process)
    process.send_signal(signal.SIGINT)
    hear(process, "stopping: no new rollouts")
    process.send_signal(signal.SIGINT)
    done = Ended.of(process)

    assert done.code == 130
    assert "stopping now; what is in flight is owed again" in done.err
    assert gym.noted("closed").total() == 9


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_before_the_run_begins_is_no_traceback(gym: Gym, number: signal.Signals) -> None:
    """
    Ctrl-C while the plan is still being looked at ends with 130 and writes nothing.
    """
    done = gym("run", "--env", "kit", "--hook", "kit_hooks", "--out", "run", KIT_INTERRUPT=str(int(number)))

    assert done.code == 130
    assert done.err.strip() == "interrupted"
    assert not (gym.folder / "run").exists()


def test_a_lost_terminal_is_nothing_to_who_was_started_with_nohup(gym: Gym) -> None:
    """
    HUP stays switched off where whoever started the command has switched it off.
    """
    command = ("run", "--env", "kit", "--limit", "20", "--concurrency", "4", "--out", "run")
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = gym.start(*command, KIT_DELAY_S="0.1")
    finally:
        signal.signal(signal.SIGHUP, before)
    wait_until(lambda: len(gym.rollouts("run")) > 0, process)
    process.send_signal(signal.SIGHUP)

    assert Ended.of(process).code == 0
    assert len(gym.rollouts("run")) == 20


def test_a_thread_that_hangs_keeps_nobody_waiting(gym: Gym) -> None:
    """
    Its rollouts fail when their time is up, and the process ends although the thread does not.
    """
    done = gym("run", "--env", "kit", "--limit", "3", "--out", "run", "--set", "collect.timeout_s=0.5", KIT_THREAD="1")

    assert done.code == 1
    assert "0 / 3 done, 3 failed" in done.err
    assert (gym.folder / "run" / "report.json").exists()


# -- failure budgets ---------------------------------------------------------------------------------------------------


def test_an_environment_over_its_failure_budget_is_stopped_alone(gym: Gym) -> None:
    """
    It is said once with the count and the reason, the others are played to their end, and the summary names it.
    """
    command = ("run", "--env", "kit", "--env", "kit_failing", "--limit", "100", "--concurrency", "8", "--out", "run")
    done = gym(*command, "--max-failures", "5%", KIT_DELAY_S="0.005")

    assert done.code == 1
    assert done.err.count("kit_failing is stopped, the others go on: 6 of its 100 rollouts failed") == 1
    assert "max_failures is 5%; 6 x verify: there is no such file" in done.err
    assert "stopped, because more of their rollouts failed than max_failures allows: kit_failing" in done.err
    assert Counter(line["environment"] for line in gym.rollouts("run")) == {"kit": 100}
    failures = (gym.folder / "run" / "failures.jsonl").read_text().splitlines()
    assert 6 <= len(failures) <= 6 + 8

    again = gym("run", "run", "--max-failures", "0")

    assert again.code == 1
    assert "kit_failing is stopped, the others go on: 1 of its 100 rollouts failed" in again.err


def test_an_environment_within_its_failure_budget_goes_on(gym: Gym) -> None:
    """
    Exactly as many failures as are allowed are none too many, and an environment may have a budget of its own.
    """
    command = ("run", "--env", "kit", "--env", "kit_failing", "--limit", "10", "--out", "run")
    budgets = ("--set", "collect.max_failures=0", "--set", "environments.kit_failing.max_failures=10")
    done = gym(*command, *budgets)

    assert done.code == 1
    assert "stopped" not in done.err
    assert len((gym.folder / "run" / "failures.jsonl").read_text().splitlines()) == 10


# -- poison ------------------------------------------------------------------------------------------------------------


def test_a_rollout_that_kills_its_worker_is_found_among_the_innocent(gym: Gym) -> None:
    """
    All that die with it the first time are played again alone and finish; it alone is recorded as poison.
    """
    command = ("run", "--env", "kit", "--env", "kit_deadly", "--limit", "12", "--concurrency", "8", "--out", "run")
    done = gym(*command, "--set", "environments.kit_deadly.isolation=process")

    failures = [json.loads(line) for line in (gym.folder / "run" / "failures.jsonl").read_text().splitlines()]
    assert [(line["task_id"], line["stage"], line["error"]) for line in failures] == [("t3", "worker", "Poison")]
    assert failures[0]["retryable"] is False
    assert done.code == 1
    assert len(gym.rollouts("run")) == 23
    assert "1 rollout is poison" in done.err


def test_poison_is_not_played_again_unless_asked_for(gym: Gym) -> None:
    """
    What ended its worker twice in an earlier run is left alone and named; `--retry-poison` gives it another chance.
    """
    assert gym("compose", "--env", "kit", "--limit", "5", "--out", "run").code == 0
    row = Row((gym.folder / "run" / "dataset.jsonl").read_bytes().splitlines()[2])
    poison = Failure(stage="worker", error="Poison", message="signal 11", retryable=False)
    other = Failure(stage="verify", error="Poisonous", message="Poison", retryable=False)
    with Journal(gym.folder / "run") as journal:
        journal.append([Rollout(row, 0, Trajectory(), failure=poison), Rollout(row, 1, Trajectory(), failure=other)])

    left = gym("run", "run")
    played = gym.noted("played")
    retried = gym("run", "run", "--retry-poison")
    again = gym("run", "run")

    assert left.code == 1
    assert played == {f"played t{number}": 1 for number in (0, 1, 3, 4)}
    assert "1 rollout is poison: it ended the process that played it twice" in left.err
    assert "played again only with: gym run run --retry-poison" in left.err
    assert (retried.code, again.code) == (0, 0)
    assert len(gym.rollouts("run")) == 5
    assert "poison" not in again.err


# -- plugins that print ------------------------------------------------------------------------------------------------


def test_a_plugin_that_floods_stdout_is_shown_up_to_a_bound(gym: Gym) -> None:
    """
    Twenty megabytes become a fifth of one and a line that says so; the run does not care.
    """
    done = gym("run", "--env", "kit", "--limit", "20", "--json", "--out", "run", KIT_FLOOD="1000")

    assert done.code == 0
    assert json.loads(done.out)["total"]["finished"] == 20
    assert len(done.err) < 250_000
    assert done.err.count("(plugins have printed 200,000 characters; what they print from here on is not shown)") == 1
    assert "20 / 20 done" in done.err
    assert "done: 20 rollouts" in done.err


# -- a terminal --------------------------------------------------------------------------------------------------------

HIDDEN, SHOWN = b"\x1b[?25l", b"\x1b[?25h"
COLOUR = re.compile(rb"\x1b\[(?:\d+;)*(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])(?:;\d+)*m")


class Terminal:
    """A pseudo-terminal with a command in it."""

    def __init__(self, gym: Gym, *arguments: str, **settings: str) -> None:
        self._master, slave = pty.openpty()
        self.process: subprocess.Popen[Any] = subprocess.Popen(
            [sys.executable, "-m", "gymcore", *arguments],
            cwd=gym.folder,
            env={**gym.environ, "KIT_LOG": str(gym.log), "TERM": "xterm-256color", "COLUMNS": "120", **settings},
            stdin=slave,
            stdout=slave,
            stderr=slave,
        )
        os.close(slave)
        self.seen = b""

    def read_until(self, text: bytes | None) -> bytes:
        """Read until some bytes were shown, or until the end."""
        while text is None or text not in self.seen:
            try:
                data = os.read(self._master, 65536)
            except OSError:  # Linux says EIO when nobody has the other end open any more
                break
            if not data:
                break
            self.seen += data
        return self.seen

    def end(self) -> int:
        """Read everything and return the exit code."""
        self.read_until(None)
        os.close(self._master)
        return self.process.wait(PATIENCE_S)


def test_a_terminal_shows_a_block_and_is_left_as_it_was(gym: Gym) -> None:
    """
    One line per environment and a total are drawn and redrawn; the cursor is hidden meanwhile and shown again.
    """
    command = (
        "run",
        "--env",
        "kit",
        "--env",
        "example_multi_step",
        "--limit",
        "30",
        "--concurrency",
        "8",
        "--out",
        "run",
    )
    terminal = Terminal(gym, *command, KIT_DELAY_S="0.15")

    assert terminal.end() == 0
    assert terminal.seen.count(HIDDEN) == terminal.seen.count(SHOWN) == 1
    assert terminal.seen.rindex(SHOWN) > terminal.seen.rindex(HIDDEN)
    assert terminal.seen.count(b"in flight") > 2
    assert b"35 / 35 done, mean reward 1.000" in terminal.seen
    assert COLOUR.search(terminal.seen)


def test_no_color_is_honoured(gym: Gym) -> None:
    """
    With NO_COLOR the block is drawn in the terminal's own colours.
    """
    terminal = Terminal(gym, "run", "--env", "kit", "--limit", "20", "--out", "run", NO_COLOR="1", KIT_BROKEN="1")

    assert terminal.end() == 1
    assert b"2 failed" in terminal.seen
    assert not COLOUR.search(terminal.seen)


def test_a_dumb_terminal_gets_plain_lines(gym: Gym) -> None:
    """
    Where nothing can be redrawn, progress is a line now and then.
    """
    terminal = Terminal(gym, "run", "--env", "kit", "--limit", "20", "--out", "run", TERM="dumb")

    assert terminal.end() == 0
    assert b"20 / 20 done" in terminal.seen
    assert b"\x1b" not in terminal.seen


@pytest.mark.parametrize("signals", [1, 2, 3])
def test_the_cursor_is_shown_again_however_a_run_is_stopped(gym: Gym, signals: int) -> None:
    """
    Ctrl-C once, twice, and a third time when even closing hangs.
    """
    hang = "close" if signals == 3 else "open"
    drain = "0.1" if signals == 1 else "30"
    command = ("run", "--env", "kit", "--limit", "4", "--out", "run", "--set", f"collect.drain_s={drain}")
    terminal = Terminal(gym, *command, KIT_HANG=hang)
    for text in (b"4 in flight", b"Ctrl-C again", b"stopping now")[:signals]:
        terminal.read_until(text)
        terminal.process.send_signal(signal.SIGINT)

    assert terminal.end() == 130
    assert terminal.seen.rindex(SHOWN) > terminal.seen.rindex(HIDDEN)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_cursor_is_shown_again_after_other_signals(gym: Gym, number: signal.Signals) -> None:
    """
    TERM and HUP are what Ctrl-C is.
    """
    terminal = Terminal(gym, "run", "--env", "kit", "--limit", "4", "--out", "run", "--drain", "0.1", KIT_HANG="open")
    terminal.read_until(b"4 in flight")
    terminal.process.send_signal(number)

    assert terminal.end() == 130
    assert terminal.seen.rindex(SHOWN) > terminal.seen.rindex(HIDDEN)


@pytest.mark.parametrize(("model", "code"), [("kit_refusing", 3), ("kit_raising", 1)])
def test_the_cursor_is_shown_again_after_an_error(gym: Gym, model: str, code: int) -> None:
    """
    Whether it is one we know or one that nobody catches.
    """
    terminal = Terminal(gym, "run", "--env", "kit", "--limit", "4", "--out", "run", "--model", model)

    assert terminal.end() == code
    assert terminal.seen.rindex(SHOWN) > terminal.seen.rindex(HIDDEN)


def test_the_third_signal_ends_a_run_whose_event_loop_is_held_up(gym: Gym) -> None:
    """
    A plugin that blocks the only thread cannot be drained or cancelled, but it can be left, with the cursor shown.

    Three different signals, for one that is sent thrice may arrive once; and in Python code, because of signals that
    come all at once only the first may interrupt a system call.
    """
    terminal = Terminal(gym, "run", "--env", "kit", "--limit", "4", "--out", "run", KIT_BLOCK="1")
    terminal.read_until(HIDDEN)
    wait_until(lambda: gym.noted("played").total() == 1, terminal.process)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        terminal.process.send_signal(number)

    assert terminal.end() == 130
    assert terminal.seen.rindex(SHOWN) > terminal.seen.rindex(HIDDEN)


def test_a_flood_of_prints_does_not_drown_a_terminal(gym: Gym) -> None:
    """
    The block is drawn on, and the bound holds there too.
    """
    terminal = Terminal(gym, "run", "--env", "kit", "--limit", "20", "--out", "run", KIT_FLOOD="1000")

    assert terminal.end() == 0
    assert terminal.seen.count(b"x") < 201_000
    assert b"20 / 20 done" in terminal.seen
