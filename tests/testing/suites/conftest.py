"""
A correct environment, and faults that are planted in it one by one, all installed as one distribution.
"""

from __future__ import annotations

import gc
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gymcore.testing import PluginFolder

CODE = '''\
"""
Add numbers up.
"""

import asyncio
import os
import random
import re
import tempfile
from typing import Annotated, Any

import yaml
from pydantic import ConfigDict, Field, field_serializer

from gymcore import Config, Environment, Reward, Solution, Task, ToolError, Trajectory, call, option, say, tool


class Sum(Task):
    """Numbers, and what they come to."""

    numbers: list[int]
    total: int


class SumConfig(Config):
    """What is paid."""

    top: float = option(1.0, description="What a solved task earns.")


class Adder(Environment[Sum, SumConfig]):
    """Add numbers up with a calculator that remembers, and say what they come to."""

    async def open(self) -> None:
        """Nothing is added yet."""
        self.memory = 0

    @tool
    def add(self, number: Annotated[int, Field(ge=-1000, le=1000)]) -> int:
        """
        Add a number to the memory.

        Args:
            number: What to add.
        """
        self.memory += number
        return self.memory

    @tool
    def note(self, text: str) -> str:
        """
        Write something down.

        Args:
            text: What to write down.
        """
        return f"noted {len(text)} characters"

    def verify(self, trajectory: Trajectory) -> Reward:
        """Pay for the total, said last, after it was worked out."""
        text = trajectory.text.strip()
        is_right = text == str(self.task.total) and self.memory == self.task.total
        return Reward(value=self.config.top if is_right else 0.0)

    async def solve(self) -> Solution:
        """Add the numbers one by one."""
        for number in self.task.numbers:
            yield call("add", number=number)
        yield say(str(self.task.total))
'''
MANIFEST = """\
gym_api: 1
description: Add numbers up.
splits: {train: data/train.jsonl, validation: data/validation.jsonl}
reward_range: [0, 1]
"""


def row(number: int) -> dict[str, object]:
    """
    One task; each has numbers of its own.
    """
    numbers = [number + 1, 2 * number + 7, 90 - number]
    prompt = f"Add up {', '.join(map(str, numbers))}, and say only the sum."
    return {"responses_create_params": {"input": prompt}, "numbers": numbers, "total": sum(numbers)}


def asking(number: int, prompt: str, answer: str = "") -> dict[str, object]:
    """
    A task that is asked in other words, and may have its answer in a field.
    """
    return {**row(number), "responses_create_params": {"input": prompt}, **({"answer": answer} if answer else {})}


@dataclass(frozen=True)
class Fault:
    """
    What is changed in the correct environment, and the checks that must say so, and no others.
    """

    caught_by: tuple[str, ...] | str
    code: tuple[tuple[str, str], ...] = ()
    manifest: tuple[tuple[str, str], ...] = ()
    train: tuple[object, ...] = ()
    """Further rows of the training split."""
    validation: tuple[object, ...] = ()
    told: str = ""
    """What stands in the message."""
    probed: tuple[str, ...] = ()
    """The groups of attempts in an interpreter of their own that find it; `all` for every one."""
    rows: tuple[object, ...] = field(default_factory=lambda: tuple(row(number) for number in range(12)))

    timeout_s: float = 20.0
    """How long a rollout may take; less where one never ends."""
    leaves_out_validation: bool = False
    """Whether the validation split holds only the further rows."""

    @property
    def checks(self) -> tuple[str, ...]:
        """
        The checks that must say so.
        """
        return (self.caught_by,) if isinstance(self.caught_by, str) else self.caught_by

    def files(self, package: str) -> dict[str, str]:
        """
        The package with the fault in it.
        """
        code, manifest = CODE, MANIFEST
        for old, new in self.code:
            assert old in code, old
            code = code.replace(old, new)
        for old, new in self.manifest:
            assert old in manifest, old
            manifest = manifest.replace(old, new)
        return {
            f"{package}/__init__.py": code,
            f"{package}/gym.yaml": manifest,
            f"{package}/data/train.jsonl": "".join(json.dumps(item) + "\n" for item in (*self.rows, *self.train)),
            f"{package}/data/validation.jsonl": "".join(
                json.dumps(item) + "\n"
                for item in (
                    *(row(number) for number in range(20, 20 if self.leaves_out_validation else 26)),
                    *self.validation,
                )
            ),
        }


CARRIED_OUT = "".join(
    f"        try:\n            {act}\n        except Exception:\n            pass\n"
    for act in (
        "importlib.import_module(text)",
        "text.format(self=self)",
        "os.remove(os.path.dirname(__file__) + '/' + text)",
        "DATA.execute(f\"select 1 where 'x' = '{text}'\")",
        "subprocess.run(['env', 'bash', '-ec', f'true {text}'], check=False)",
    )
)
"""Everything that may be done to a text and should not."""
PAYS = "        return Reward(value=self.config.top if is_right else 0.0)\n"
NOTES = '        return f"noted {len(text)} characters"\n'
OPENS = "        self.memory = 0\n"
METRICS = "        return Reward(value=self.config.top if is_right else 0.0, metrics={%s})\n"

FAULTS: dict[str, Fault] = {
    "correct": Fault(caught_by=(), probed=("all",)),
    # -- rewards
    "too_few_turns": Fault(
        "test_reward_discriminates",
        (('say what they come to."""\n\n    async', 'say what they come to."""\n\n    max_turns = 1\n\n    async'),),
    ),
    "constant_reward": Fault("test_reward_discriminates", ((PAYS, "        return Reward(value=1.0)\n"),)),
    "no_reward": Fault("test_reward_discriminates", ((PAYS, "        return Reward(value=0.0)\n"),)),
    "answer_leaked": Fault(
        "test_prompts_do_not_hold_the_answer",
        (("text == str(self.task.total) and self.memory == self.task.total", "str(self.task.total) in text"),),
        rows=tuple(asking(n, f"Add up. (It is {row(n)['total']}.)") for n in range(9)),
        told="echo earns 1, the top reward",
    ),
    "answer_in_a_field": Fault(
        "test_prompts_do_not_hold_the_answer",
        rows=tuple(asking(n, f"Say the secret word number {n}.", f"the secret word number {n}") for n in range(9)),
        told="the row's own 'answer'",
    ),
    "silence_pays": Fault("test_silence_earns_less", (("is_right = text ==", "is_right = not text or text =="),)),
    "rubbish_pays": Fault(
        "test_garbled_answers_earn_less", (("is_right = text ==", "is_right = ']}' in text or text =="),)
    ),
    "length_pays": Fault(
        "test_garbled_answers_earn_less",
        (("is_right = text ==", "is_right = len(text) > 2000 or text =="), ("and self.memory == self.task.total", "")),
        told="(5000 characters) earns 1, the top reward",
        probed=("bait",),
    ),
    "beginnings_pay": Fault(
        "test_truncated_answers_earn_less",
        (("is_right = text ==", "is_right = text.startswith('The answer') or text =="),),
    ),
    "reward_out_of_range": Fault(
        "test_rewards_are_finite_and_in_range",
        (("option(1.0,", "option(1.5,"),),
        told="earns 1.5, which is not from 0 to 1",
    ),
    "undeclared_range": Fault(
        "test_rewards_are_finite_and_in_range",
        (("option(1.0,", "option(100.0,"),),
        (("reward_range: [0, 1]\n", ""),),
    ),
    "nan": Fault(
        "test_rewards_are_finite_and_in_range",
        ((PAYS, "        return self.config.top if is_right else 0.0 if text else float('nan')\n"),),
        told="no finite number",
    ),
    "sums_of_floats": Fault(
        (),
        (
            (
                PAYS,
                "        n = 9 + self.task.total % 2\n        return sum([1 / n] * n) if is_right else 0.0\n",
            ),
        ),
    ),
    "paid_by_the_row": Fault((), ((PAYS, "        return getattr(self.task, 'points', 1.0) if is_right else 0.0\n"),)),
    "paid_by_the_row_for_silence": Fault(
        (), ((PAYS, "        return getattr(self.task, 'points', 1.0) if is_right else 0.0 if text else 0.25\n"),)
    ),
    "solve_fails": Fault(
        "test_reference_solution_earns_the_top_reward",
        (("yield say(str(self.task.total))", "yield say(str(self.task.total // (self.task.total // 2 % 2)))"),),
        told="ZeroDivisionError",
    ),
    "solve_is_wrong": Fault(
        "test_reference_solution_earns_the_top_reward",
        (("yield say(str(self.task.total))", "yield say(str(self.task.total + self.task.total // 2 % 2))"),),
        told="earns 0, and not 1",
    ),
    "verifier_raises": Fault(
        "test_attempts_are_scored",
        (("        text = trajectory", "        trajectory.turns[-1].output[0]\n        text = trajectory"),),
        told="nop: fails in verify with IndexError",
    ),
    "verifier_exits": Fault(
        ("test_attempts_are_scored", "test_verifier_finishes_in_time"),
        (("        text = trajectory", "        trajectory.text or os._exit(0)\n        text = trajectory"),),
        told="nop: it ended the interpreter with exit code 0",
        probed=("again",),
    ),
    "open_hangs": Fault(
        "test_attempts_are_scored",
        ((OPENS, OPENS + "        while True:\n            pass\n"),),
        told="nop: it did not come back within 1 s",
        timeout_s=1.0,
        probed=("again",),
    ),
    # -- the verifier
    "flaky": Fault("test_verifier_is_deterministic", ((PAYS, METRICS % "'luck': random.random()"),)),
    "hash_order": Fault(
        "test_verifier_does_not_depend_on_the_process",
        ((PAYS, METRICS % "'first': next(iter({*'abcdefghijklmnopqrst'}))"),),
        probed=("again",),
    ),
    "mutated_trajectory": Fault(
        "test_verifier_changes_nothing",
        (
            (
                "        text = trajectory",
                "        [item.pop('status', None) for item in trajectory.items]\n        text = trajectory",
            ),
        ),
        told="the trajectory's turns[0].output",
        probed=("again",),
    ),
    "tidied_trajectory": Fault(
        "test_verifier_changes_nothing",
        (
            (
                "        text = trajectory",
                "        for item in trajectory.items:\n            for part in item.get('content', ()):\n"
                "                part['text'] = part['text'].strip()\n        text = trajectory",
            ),
        ),
        told="the trajectory's turns[0].output",
        probed=("again",),
    ),
    "reply_rewrites": Fault(
        "test_verifier_changes_nothing",
        (
            (
                "    def verify",
                "    async def reply(self, turn: Any) -> None:\n"
                "        [item.pop('status', None) for item in turn.output]\n\n    def verify",
            ),
        ),
        told="changes what the model said",
        probed=("again",),
    ),
    "mutated_task": Fault(
        "test_verifier_changes_nothing",
        (("        text = trajectory", "        self.task.numbers.sort(reverse=True)\n        text = trajectory"),),
        told="the task's numbers",
        probed=("again",),
    ),
    "remembers_the_last": Fault(
        ("test_verifier_does_not_depend_on_order", "test_rollouts_share_no_state"),
        (
            ("    async def open", "    last = ''\n\n    async def open"),
            (
                "        text = trajectory",
                "        last, Adder.last = Adder.last, trajectory.text\n        text = trajectory",
            ),
            (PAYS, METRICS % "'after_much': len(last) > 20"),
        ),
    ),
    "evaluates_answers": Fault(
        ("test_model_output_is_not_executed", "test_verifier_finishes_in_time"),
        (
            (
                "        text = trajectory.text.strip()\n",
                "        text = trajectory.text.strip()\n"
                "        try:\n            text = str(eval(text, {'__builtins__': {}}))\n"
                "        except Exception:\n            pass\n",
            ),
        ),
        told="Python code that the model wrote is run (eval, exec, or a template engine)",
        probed=("canary", "bait"),
    ),
    "loads_yaml": Fault(
        "test_model_output_is_not_executed",
        (
            (
                NOTES,
                "        try:\n            yaml.unsafe_load(text)\n"
                "        except Exception as error:\n            raise ToolError('no YAML') from error\n" + NOTES,
            ),
        ),
        told="note: the argument 'text' is a YAML tag: a command that the model wrote is run",
        probed=("canary",),
    ),
    "opens_paths": Fault(
        "test_model_output_is_not_executed",
        (
            (
                NOTES,
                "        try:\n            return str(len(open(text).read()))\n"
                "        except (OSError, ValueError):\n            raise ToolError('no such file') from None\n",
            ),
        ),
        told="note: the argument 'text' is a path: the file is opened whose path the model gave",
        probed=("canary",),
    ),
    "evaluates_after_a_mark": Fault(
        "test_model_output_is_not_executed",
        (
            ("yield say(str(self.task.total))", "yield say(f'#### {self.task.total}')"),
            (
                "        text = trajectory.text.strip()\n",
                "        found = re.search('#### (.+)', trajectory.text)\n        text = found[1] if found else ''\n"
                "        try:\n            text = str(eval(text, {'__builtins__': {}}))\n"
                "        except Exception:\n            pass\n",
            ),
        ),
        told="written as in the solution (#### ...): Python code that the model wrote is run",
        probed=("canary",),
    ),
    "carries_out": Fault(
        "test_model_output_is_not_executed",
        (
            (NOTES, CARRIED_OUT + NOTES),
            ("class Sum(", "DATA = sqlite3.connect(':memory:', check_same_thread=False)\n\n\nclass Sum("),
            ("import re\n", "import importlib\nimport re\nimport sqlite3\nimport subprocess\n"),
            ("text: str", "text: Annotated[str, Field(max_length=500)]"),
        ),
        probed=("canary",),
    ),
    "asks_properly": Fault(
        (),
        (
            (
                NOTES,
                "        self.data.execute('select 1 where ? = 1', (text,)).close()\n"
                "        plain = text.replace('\\0', '')\n"
                "        subprocess.run(['grep', '-q', '-e', plain], input=b'', check=False)\n"
                "        subprocess.run(['sh', '-c', ': \"$1\"', 'it', plain], check=False)\n" + NOTES,
            ),
            (OPENS, OPENS + "        self.data = sqlite3.connect(':memory:')\n"),
            (
                "    @tool\n    def add",
                "    async def close(self) -> None:\n        self.data.close()\n\n    @tool\n    def add",
            ),
            ("import re\n", "import re\nimport sqlite3\nimport subprocess\n"),
            ("text: str", "text: Annotated[str, Field(max_length=500)]"),
        ),
        probed=("canary",),
    ),
    "backtracks": Fault(
        "test_verifier_finishes_in_time",
        (("is_right = text ==", "is_right = not re.fullmatch('(a+)+', text) and text =="),),
        told="'aaaaaaaaaaaa'... (31 characters): it did not come back within",
        probed=("bait",),
    ),
    # -- tools
    "undescribed": Fault(
        "test_tools_are_typed_and_described",
        (
            ("text: str", "text: Any"),
            ("\n\n        Args:\n            text: What to write down.", ""),
            ("len(text)", "len(str(text))"),
        ),
        told="the tool note: the argument 'text' may be anything\nthe tool note: the argument 'text' is not described",
    ),
    "tool_raises": Fault(
        "test_tools_survive_hostile_arguments",
        ((NOTES, "        assert '\\x00' not in text\n" + NOTES),),
        told="AssertionError",
        probed=("valid", "hostile"),
    ),
    "tool_refuses": Fault(
        ("test_tools_take_valid_arguments", "test_tools_survive_hostile_arguments"),
        ((NOTES, "        text[0]\n" + NOTES),),
        told='note({"text": ""}): fails in tool with IndexError: string index out of range',
        probed=("valid", "hostile"),
    ),
    "tool_hangs": Fault(
        "test_tools_survive_hostile_arguments",
        (
            ("number: Annotated[int, Field(ge=-1000, le=1000)]", "number: int"),
            ("+= number", "+= len(range(number)) and sum(1 for _ in range(number))"),
        ),
        told="add: number = 10000000",
        probed=("valid", "hostile"),
    ),
    "tool_exits": Fault(
        "test_tools_survive_hostile_arguments",
        ((NOTES, "        if '../' in text:\n            os._exit(3)\n" + NOTES),),
        told="it ended the interpreter with exit code 3",
        probed=("valid", "hostile"),
    ),
    # -- rollouts
    "shared_state": Fault(
        "test_rollouts_share_no_state",
        (("self.memory", "Adder.memory"),),
        told="among 40 at once",
    ),
    "unsolvable_and_shared": Fault(
        (),
        (
            ("self.memory", "Adder.memory"),
            ("    async def solve", "    async def resolve"),
        ),
    ),
    "unclosed_file": Fault(
        "test_nothing_is_left_open",
        ((OPENS, OPENS + "        self.file = tempfile.TemporaryFile()\n"),),
        told="unclosed file",
    ),
    "kept_file": Fault(
        "test_nothing_is_left_open",
        (
            (OPENS, OPENS + "        FILES.append(tempfile.TemporaryFile())\n"),
            ("class Sum(", "FILES = []\n\n\nclass Sum("),
        ),
        told="is still open",
    ),
    "kept_process": Fault(
        "test_nothing_is_left_open",
        (
            (
                OPENS,
                OPENS
                + "        if self.task.total == 98:\n            KEPT.append(os.spawnlp(1, 'sleep', 'sleep', '5'))\n",
            ),
            ("class Sum(", "KEPT = []\n\n\nclass Sum("),
        ),
        told="(sleep) is still there",
    ),
    "kept_folder": Fault(
        "test_nothing_is_left_open",
        ((OPENS, OPENS + "        self.folder = tempfile.mkdtemp(prefix='kept-')\n"),),
        told="kept-",
    ),
    "late_and_forgotten": Fault(
        "test_nothing_is_left_open",
        (
            (
                OPENS,
                OPENS + "        await asyncio.sleep(0.06 * (self.task.total == 98))\n"
                "        self.is_done = False\n        self.file = open(os.devnull)\n",
            ),
            (
                "    def verify(self, trajectory: Trajectory) -> Reward:\n",
                "    async def close(self) -> None:\n        if self.is_done:\n            self.file.close()\n\n"
                "    def verify(self, trajectory: Trajectory) -> Reward:\n        self.is_done = True\n",
            ),
        ),
        told="after a cancellation",
    ),
    "tool_leaks_when_cancelled": Fault(
        "test_nothing_is_left_open",
        (
            ("    def add", "    async def add"),
            (
                "        self.memory += number\n",
                "        FILES.append(tempfile.TemporaryFile())\n        await asyncio.sleep(0.01)\n"
                "        FILES.pop().close()\n        self.memory += number\n",
            ),
            ("class Sum(", "FILES = []\n\n\nclass Sum("),
        ),
        told="after a cancellation inside its own tool",
    ),
    "leaks_when_verify_breaks": Fault(
        "test_nothing_is_left_open",
        (
            (OPENS, OPENS + "        FILES[id(self)] = tempfile.TemporaryFile()\n"),
            (
                "    def verify(self, trajectory: Trajectory) -> Reward:\n",
                "    async def close(self) -> None:\n        if getattr(self, 'is_done', True):\n"
                "            FILES.pop(id(self)).close()\n\n"
                "    def verify(self, trajectory: Trajectory) -> Reward:\n",
            ),
            ("        self.memory += number\n", "        self.is_done = False\n        self.memory += number\n"),
            ("        text = trajectory", "        self.is_done = True\n        text = trajectory"),
            ("class Sum(", "FILES = {}\n\n\nclass Sum("),
        ),
        told="after a verifier that breaks",
    ),
    "forgotten_task": Fault(
        "test_nothing_is_left_open",
        ((OPENS, OPENS + "        self.task_ = asyncio.create_task(asyncio.sleep(3600))\n"),),
        told="the task sleep",
    ),
    "closed_twice": Fault(
        "test_close_is_called_once",
        (
            ("    def verify", "    async def verify"),
            ("        text = trajectory", "        await self.close()\n        text = trajectory"),
        ),
        told="after success: close() was called 2 times, and not once",
    ),
    "close_raises": Fault(
        "test_close_is_called_once",
        (
            (
                "    @tool\n    def add",
                "    async def close(self) -> None:\n        del self.nothing\n\n    @tool\n    def add",
            ),
        ),
        told="close() raises AttributeError",
    ),
    "odd_result": Fault(
        "test_rollout_survives_json",
        ((NOTES, "        return '\\ud800'\n"),),
        probed=("valid",),
    ),
    # -- data
    "bad_row": Fault("test_data_are_valid", train=({**row(15), "total": "many"},), told="data/train.jsonl:13: total:"),
    "twins": Fault(
        "test_no_row_stands_twice",
        train=({**row(3), "id": 99},),
        told="data/train.jsonl:13 says the same as data/train.jsonl:4",
    ),
    "overlap": Fault(
        "test_splits_do_not_overlap", validation=(row(3),), told="data/validation.jsonl:7 (validation) says the same"
    ),
    "overlap_under_other_keys": Fault(
        "test_splits_do_not_overlap",
        validation=({**row(3), "split": "validation", "question_id": 31},),
        told="data/validation.jsonl:7 (validation) says the same as data/train.jsonl:4 (train)",
    ),
    "overlap_of_prompts": Fault(
        "test_splits_do_not_overlap",
        (("    numbers: list[int]", "    question_id: int = 0\n    numbers: list[int]"),),
        validation=({**row(3), "question_id": 31},),
        told="data/validation.jsonl:7 (validation) asks the same as data/train.jsonl:4 (train)",
    ),
    "levels": Fault(
        (),
        (
            ("    numbers: list[int]\n    total: int\n", "    index: int\n"),
            ("self.task.numbers", "(self.task.index, 7)"),
            ("self.task.total", "(self.task.index + 7)"),
        ),
        rows=tuple({"responses_create_params": {"input": "Play the level."}, "index": n} for n in range(6)),
        validation=tuple({"responses_create_params": {"input": "Play the level."}, "index": n} for n in range(6, 9)),
        leaves_out_validation=True,
    ),
    # -- options and the target
    "loose_options": Fault(
        ("test_unknown_options_are_refused", "test_options_have_a_schema"),
        (
            (
                '    top: float = option(1.0, description="What a solved task earns.")',
                "    model_config = ConfigDict(extra='ignore')\n    top: float = 1.0",
            ),
        ),
    ),
    "unreadable_options": Fault(
        "test_options_survive_json",
        (
            (
                '    top: float = option(1.0, description="What a solved task earns.")',
                '    top: float = option(1.0, description="What a solved task earns.")\n\n'
                '    @field_serializer("top")\n'
                '    def _told(self, value: float) -> str:\n        return f"{value} points"',
            ),
        ),
        told='SumConfig does not read what it wrote, {"top":"1.0 points"}',
    ),
    "bad_default": Fault("test_default_options_are_valid", (("option(1.0,", "option(1.0, le=0.5,"),)),
    "no_environment": Fault(
        "test_target_is_of_its_kind", (("class Adder(Environment[Sum, SumConfig])", "class Adder"),)
    ),
}

NOISY = '''\
import os
import socket
import threading
import time

import wandb

print("Thank you for installing noisy!")
SOCKET = socket.socket()
threading.Thread(target=time.sleep, args=(5,), name="noisy", daemon=True).start()
with open("cache.bin", "w") as file:
    file.write("x")
began = time.process_time()
while time.process_time() - began < 0.2:
    pass

from gymcore import Environment


class Noisy(Environment):
    """Make noise."""
'''
"""Everything that an import may do wrong."""

QUIETLY_NOISY = '''\
import os
import socket
import sqlite3
import threading
from pathlib import Path

sqlite3.connect(Path.home() / "cache.db").close()
os.symlink("nowhere", Path.home() / "link")
thread = threading.Thread(target=int)
thread.start()
thread.join()
socket.gethostbyname("localhost")

from gymcore import Environment


class Noisy(Environment):
    """Make noise that is over when the import is."""
'''
"""What an import may do and leaves no trace of in the interpreter."""

EXITS = 'raise SystemExit("no GPU")\n'
"""An import that wants to end the interpreter."""


@pytest.fixture(scope="session")
def faulty_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    A folder into which every faulty environment was installed, once.
    """
    folder = tmp_path_factory.mktemp("faulty")
    files = {path: text for name, fault in FAULTS.items() for path, text in fault.files(f"faulty_{name}").items()}
    files |= {"faulty_noisy/__init__.py": NOISY, "faulty_noisy/gym.yaml": "gym_api: 1\n"}
    files |= {"faulty_over/__init__.py": QUIETLY_NOISY, "faulty_over/gym.yaml": "gym_api: 1\n"}
    files |= {"faulty_exits/__init__.py": EXITS, "faulty_exits/gym.yaml": "gym_api: 1\n"}
    files |= {"wandb/__init__.py": ""}
    offered = {name: f"faulty_{name}:Adder" for name in FAULTS}
    offered |= {"noisy": "faulty_noisy:Noisy", "over": "faulty_over:Noisy", "exits": "faulty_exits:Exits"}
    PluginFolder(folder).install("gym-plugin-faulty", files, {"gymcore.environments": offered})
    return folder


@pytest.fixture(scope="module")
def faulty(faulty_folder: Path) -> Iterator[PluginFolder]:
    """
    The faulty environments, installed where discovery sees them.
    """
    with PluginFolder(faulty_folder) as folder:
        yield folder
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()  # what faulty modules kept open is no fault of the test in which they are collected
