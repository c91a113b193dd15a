"""
`gym play`: a person in the place of the model, at a terminal or in a script.
"""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click import UsageError

from gymcore import Rollout
from gymcore.cli.play import command
from gymcore.errors import GymcoreError
from gymcore.testing import PluginFolder

PATIENCE_S = 60.0
"""How long anything may take that is at once where the machine does nothing else."""

ENVIRONMENTS = '''
import os

from gymcore import Config, Environment, Task, option, tool


class Duel(Environment[Task]):
    """Guess a number; every guess is answered."""

    async def reply(self, turn):
        guess = int(turn.text)
        return None if guess == 7 else "higher" if guess < 7 else "lower\\x1b[31m"

    def verify(self, trajectory):
        return 1.0 / len(trajectory.turns)


class Broken(Environment[Task]):
    """Cannot judge."""

    def verify(self, trajectory):
        return 1 / 0


class Mortal(Environment[Task]):
    """Ends its process where that is asked for."""

    @tool
    def die(self) -> str:
        """Die."""
        os._exit(3)

    def verify(self, trajectory):
        return 1.0


class Options(Config):
    greeting: str = option("hello", description="What is said.")


class Choosy(Environment[Task, Options]):
    """Has options."""

    @tool
    def greet(self) -> str:
        """Greet somebody."""
        print("talk of a plugin")
        return self.config.greeting

    def verify(self, trajectory):
        return 1.0
'''
AGENTS = '''
from gymcore import Agent, Trajectory, Turn
from gymcore.responses import Request, message


class Twice(Agent):
    """Asks, and then asks something else."""

    async def play(self, environment, model):
        first = await model.respond(environment.request)
        second = await model.respond(Request(input=(message("Are you sure?", role="user"),)))
        turns = [Turn(output=tuple(response.output)) for response in (first, second)]
        return Trajectory(turns=tuple(turns))
'''
ROWS = "".join(
    json.dumps({"responses_create_params": {"input": [{"role": "user", "content": text}]}, "task_id": name}) + "\n"
    for name, text in (("start", "Guess."), ("starter", "Guess again."))
)
MANIFEST = "gym_api: 1\ndescription: Made for a test.\nsplits: {example: rows.jsonl}\n"
MANIFEST += "prompt: {system: You are brief.}\n"

Play = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> PluginFolder:
    """
    Environments that answer, fail and have options, and an agent that asks anew.
    """
    folder = PluginFolder(tmp_path_factory.mktemp("worlds"))
    files = {"worlds/__init__.py": ENVIRONMENTS, "worlds/gym.yaml": MANIFEST, "worlds/rows.jsonl": ROWS}
    files |= {"twice/__init__.py": AGENTS, "twice/gym.yaml": "gym_api: 1\n"}
    environments = {
        "duel": "worlds:Duel",
        "broken": "worlds:Broken",
        "choosy": "worlds:Choosy",
        "mortal": "worlds:Mortal",
    }
    folder.install(
        "gym-plugin-worlds", files, {"gymcore.environments": environments, "gymcore.agents": {"twice": "twice:Twice"}}
    )
    return folder


@pytest.fixture
def play(worlds: PluginFolder, commands: Any, tmp_path: Path) -> Play:
    """
    Play with the lines of a script, in an empty folder.
    """

    def run(*arguments: str, lines: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        typed = "".join(f"{line}\n" for line in lines)
        return commands.run("play", *arguments, folder=tmp_path, environ=worlds.environ, typed=typed)

    return run


def after(text: str, line: str) -> list[str]:
    """Return what is shown after a typed line, up to the next one."""
    return text.split(f"> {line}\n", 1)[1].split("\n> ", 1)[0].splitlines()


SYNONYMS = (
    "/get_synonym_value Blazing",
    '/get_synonym_value synonym="Torrid"',
    "/also get_synonym_value Hot",
    '/get_synonym_value {"synonym": 7}',
    "/call no_such_tool",
    "/get_synonim_value Hot",
    "/solution",
    "/row",
    "",
    "/extract_synonym_values [711, 628]",
    '"""',
    "I submitted them.",
    "Both of them.",
    '"""',
)


def test_a_script_plays_a_whole_rollout(play: Play, tmp_path: Path) -> None:
    """
    The task, its tools, every result and the reward are shown; the rollout is added to the file, and reads back.
    """
    done = play("example_multi_step", "--task", "1", "--out", "rollouts.jsonl", lines=SYNONYMS)
    shown = done.stdout

    assert (done.returncode, done.stderr) == (0, "")
    assert re.match(r"example_multi_step, task 1 of 5 \(example_multi_step/\w+\)\n", shown)
    assert "\nuser\n  " in shown
    assert "  /extract_synonym_values synonym_values\n" in shown
    assert "synonym_values: list of integer; One value per synonym" in shown
    assert after(shown, SYNONYMS[0]) == ["get_synonym_value returns", '  {"synonym_value":711}']
    assert after(shown, SYNONYMS[2]) == ['(waits for the next call or answer: get_synonym_value {"synonym":"Hot"})']
    both = after(shown, SYNONYMS[3])
    assert both[:3] == ["get_synonym_value returns", '  {"synonym_value":299}', "get_synonym_value returns"]
    assert "Input should be a valid string" in both[3]
    assert "there is no tool 'no_such_tool'; the tools are:" in after(shown, SYNONYMS[4])[1]
    assert "did you mean /get_synonym_value?" in after(shown, SYNONYMS[5])[0]
    assert "reward 1" in after(shown, "/solution")
    assert after(shown, "/solution")[-1] == "(that was another rollout; yours goes on)"
    assert '  "minefield_label":' in "\n".join(after(shown, "/row"))
    assert "/quit leaves" in after(shown, "")[0]
    assert "metrics: accuracy " in shown.rsplit("\nreward ", 1)[1]
    assert shown.endswith("6 turns, ended: finished\nadded to rollouts.jsonl\n")
    (line,) = (tmp_path / "rollouts.jsonl").read_bytes().splitlines()
    rollout = Rollout.from_line(line)
    assert rollout.trajectory.text == "I submitted them.\nBoth of them."
    assert rollout.trajectory.envelope["model"] == "person"
    assert [call.name for call in rollout.trajectory.turns[2].calls] == ["get_synonym_value"] * 2
    assert rollout.reward is not None
    assert f"reward {rollout.reward.value:g}\n" in shown


def test_a_game_of_several_turns_goes_on_until_the_environment_ends_it(play: Play) -> None:
    """
    What the environment answers is shown as a user's message, and cannot steer the terminal.
    """
    done = play("duel", lines=("5", "/say 9", "//", "7"))

    assert done.stdout.splitlines()[:2] == ["duel, task 1 of 2 (start)", "Made for a test."]
    assert "system\n  You are brief.\nuser\n  Guess.\n(no tools)\n" in done.stdout
    assert after(done.stdout, "5") == ["user", "  higher"]
    assert after(done.stdout, "/say 9") == ["user", "  lower\ufffd[31m"]
    assert after(done.stdout, "7")[0] == "reward 0.333333"
    assert done.returncode == 0


def test_the_end_of_the_input_cuts_the_reply_off(play: Play) -> None:
    """
    Nothing hangs and nothing is lost: the rollout is scored as it is, and the exit code says that there is a reward.
    """
    done = play("duel", "--out", "cut.jsonl", lines=("5",))

    assert done.returncode == 0
    assert "(the input has ended: the rollout is scored as it is, like a reply that was cut off)" in done.stdout
    assert "reward 0.5\n  2 turns, ended: truncated\n" in done.stdout


def test_what_was_shown_before_the_input_ended_is_not_shown_again(play: Play) -> None:
    """
    The last results came with the question that nobody has answered.
    """
    done = play("choosy", lines=("/greet",))

    assert done.stdout.count("greet returns") == 1
    assert "ended: truncated" in done.stdout


def test_an_answer_of_several_lines_that_is_not_ended_is_cut_off(play: Play) -> None:
    """
    Whatever it would have become, it is not an answer.
    """
    done = play("choosy", lines=('"""', "I was about to"))

    assert "(the input has ended" in done.stdout
    assert "1 turn, ended: truncated" in done.stdout


def test_the_death_of_what_plays_the_environment_is_told(play: Play) -> None:
    """
    The rollout begins again, as in a run, and who plays is told why; what dies again is a failure.
    """
    isolated = ("mortal", "--set", "environments.mortal.isolation=process")
    done = play(*isolated, lines=("/die", "/die"))

    told = "the process in which the environment plays has died, and with it this attempt"
    assert after(done.stdout, "/die")[:1] == [told]
    assert "the agent asks anew" not in done.stdout
    assert done.stdout.count("You are brief.") == 2
    assert (done.returncode, "no reward: the rollout failed in worker" in done.stdout) == (1, True)


def test_a_line_that_was_not_ended_stays_apart_from_what_is_added(play: Play, tmp_path: Path) -> None:
    """
    Half a line of somebody else spoils no rollout.
    """
    (tmp_path / "lines.jsonl").write_text('{"half":')

    done = play("duel", "--out", "lines.jsonl", lines=("7",))

    first, second, rest = (tmp_path / "lines.jsonl").read_text().split("\n")
    assert (done.returncode, first, rest) == (0, '{"half":', "")
    assert json.loads(second)["reward"] == 1.0


def test_a_disk_that_is_full_is_told_so(play: Play) -> None:
    """
    The rollout was shown, and the exit code says that it was not kept.
    """
    done = play("duel", "--out", "/dev/full", lines=("7",))

    assert done.returncode == 5
    assert "reward 1" in done.stdout
    assert "the rollout cannot be written: No space left on device (/dev/full)" in done.stderr
    assert "bug" not in done.stderr


def test_an_agent_that_asks_anew_is_followed(play: Play) -> None:
    """
    Where an agent asks something else than the conversation so far, all of it is shown; one that asks on after the end
    of the input makes a failure.
    """
    done = play("choosy", "--agent", "twice", lines=("Yes.", "Quite."))
    ended = play("choosy", "--agent", "twice")

    assert "played by the agent twice\n" in done.stdout
    assert after(done.stdout, "Yes.")[:3] == ["(the agent asks anew)", "user", "  Are you sure?"]
    assert done.returncode == 0
    assert (ended.returncode, "the agent asks on" in ended.stdout) == (1, True)


def test_options_reach_the_environment_and_who_leaves_writes_nothing(play: Play, tmp_path: Path) -> None:
    """
    A task is named by the beginning of its id, `--set` changes the plan as in a run, what a plugin
    prints goes to stderr, and no file is made for nothing.
    """
    setting = "environments.choosy.config.greeting=ahoy"
    done = play("choosy", "--task", "starte", "--set", setting, "--out", "left.jsonl", lines=("/greet", "/quit"))

    assert done.stdout.startswith("choosy, task 2 of 2 (starter)\n")
    assert after(done.stdout, "/greet") == ["greet returns", "  ahoy"]
    assert done.stdout.endswith("> /quit\nleft: nothing was scored\n")
    assert (done.returncode, done.stderr) == (0, "talk of a plugin\n")
    assert list(tmp_path.iterdir()) == []


def test_a_broken_verifier_is_a_failure_with_its_place(play: Play, tmp_path: Path) -> None:
    """
    There is no reward, the exit code is 1, and the line that is added says why.
    """
    done = play("broken", "--out", "failed.jsonl", lines=("Yes.",))

    assert done.returncode == 1
    assert "no reward: the rollout failed in verify: ZeroDivisionError: division by zero (" in done.stdout
    failure = json.loads((tmp_path / "failed.jsonl").read_text())
    assert "reward" not in failure


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("dual",), 2, "try: 'duel'"),
        (("duel", "--task", "3"), 2, "there are 2, from 1"),
        (("duel", "--task", "0"), 2, "there is no task 0"),
        (("duel", "--task", "five"), 2, "a number from 1 to 2, or an id such as start"),
        (("duel", "--task", "star"), 2, "2 tasks begin with 'star'"),
        (("duel", "--task", "sta"), 2, "no task has the id 'sta'"),
        (("duel", "--split", "train"), 2, "has no split 'train'"),
        (("duel", "--out", "no/such/folder.jsonl"), 5, "No such file or directory"),
        (("duel", "--out", ""), 2, "--out is empty; it names a file"),
    ],
)
def test_a_wrong_request_plays_nothing(
    worlds: PluginFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    told: str,
) -> None:
    """
    It is said what was wrong and what would be right, and nothing is left behind.
    """
    monkeypatch.chdir(tmp_path)

    with worlds, pytest.raises((GymcoreError, UsageError), match=told) as caught:
        command.main(list(arguments), standalone_mode=False)

    assert caught.value.exit_code == code
    assert list(tmp_path.iterdir()) == []


# -- at a terminal ---------------------------------------------------------------------------------------------------


class Terminal:
    """A process at a pseudo-terminal, and the person who sits there."""

    def __init__(self, worlds: PluginFolder, *arguments: str) -> None:
        self._ours, self._theirs = pty.openpty()
        # The first terminal that a new session opens is the one whose Ctrl-C it hears.
        opening = 'exec "$@" <"$TERMINAL" >"$TERMINAL" 2>&1'
        self.process = subprocess.Popen(
            ["sh", "-c", opening, "sh", sys.executable, "-m", "gymcore", "play", *arguments],
            env={
                **worlds.environ,
                "TERM": "xterm",
                "NO_COLOR": "1",
                "COLUMNS": "100",
                "TERMINAL": os.ttyname(self._theirs),
            },
            start_new_session=True,
        )
        self.shown = ""

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def wait_for(self, text: str) -> None:
        """Read until something is shown."""
        assert self.shows(text, PATIENCE_S), self.shown
        self.shown = self.shown.split(text, 1)[1]

    def shows(self, text: str, seconds: float) -> bool:
        """Read until something is shown, or for so long."""
        deadline = time.monotonic() + seconds
        while text not in self.shown and time.monotonic() < deadline:
            if select.select([self._ours], [], [], 0.1)[0]:
                self.shown += os.read(self._ours, 65536).decode()
        return text in self.shown

    def echoes(self) -> bool:
        """Whether what is typed is shown by the terminal itself, as a shell leaves it."""
        return bool(termios.tcgetattr(self._ours)[3] & termios.ECHO)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)


@pytest.fixture
def at_terminal(worlds: PluginFolder) -> Iterator[Callable[..., Terminal]]:
    """
    Sit down at a terminal.
    """
    opened: list[Terminal] = []

    def sit(*arguments: str) -> Terminal:
        opened.append(Terminal(worlds, *arguments))
        return opened[-1]

    yield sit
    for terminal in opened:
        terminal.close()


def test_a_person_has_all_the_time_in_the_world(at_terminal: Callable[..., Terminal]) -> None:
    """
    Thinking for longer than a rollout may take costs nothing; a tool's name is completed, and Ctrl-D ends politely.
    """
    terminal = at_terminal("choosy", "--set", "collect.timeout_s=1", "--set", "agent.use=simple_agent")
    terminal.wait_for("/help tells more.")
    time.sleep(0.6)
    terminal.type("/gr\t\n")
    terminal.wait_for("hello")
    time.sleep(0.6)
    terminal.type("\x04")
    terminal.wait_for("ended: truncated")

    assert terminal.process.wait(timeout=PATIENCE_S) == 0
    assert terminal.echoes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stops_at_once_and_leaves_the_terminal_as_it_was(
    at_terminal: Callable[..., Terminal], number: signal.Signals
) -> None:
    """
    The exit code is 130, nothing is scored, and the shell gets a terminal that shows what is typed.
    """
    terminal = at_terminal("duel")
    terminal.wait_for("> ")
    time.sleep(0.3)  # a person's moment: Python overlooks a signal that comes just before it waits for a key
    if number == signal.SIGINT:
        terminal.type("4\x03")
    else:
        terminal.process.send_signal(number)
        if not terminal.shows("stopped", 15):  # the moment was too short, and so the next one is the first
            terminal.process.send_signal(number)
    terminal.wait_for("stopped: nothing was scored")

    assert terminal.process.wait(timeout=PATIENCE_S) == 130
    assert terminal.echoes()
    assert "Traceback" not in terminal.shown
