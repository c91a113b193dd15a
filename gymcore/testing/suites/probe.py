"""
Attempts that may hang, crash or do harm, played in an interpreter of their own, which is watched and may be killed.

This file is also the program of that interpreter. There an audit hook sees what carries out what a model wrote.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType
from typing import Any

__all__ = ["Job", "Outcome", "Probe", "probe", "watched"]

START_S = 60.0
MAX_STARTS = 12
_LATE = "it did not come back"


@dataclass(frozen=True)
class Job:
    """One attempt that is to be played."""

    group: str
    """What it is for; when one hangs or crashes, those with the same `sort` are not tried any more."""
    sort: str
    told: str
    """How a message names it."""
    row: Mapping[str, Any]
    replies: Sequence[dict[str, Any]] | None
    """As `reply_to_json` writes them; None for the reference solution."""
    is_rubbish: bool = False
    """Whether nothing in it solves the task."""


@dataclass(frozen=True)
class Outcome:
    """What came of a job."""

    reward: float | None = None
    parts: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    failure: dict[str, Any] | None = None
    found: tuple[str, ...] = ()
    """What carried out what the model wrote."""
    changed: tuple[str, ...] = ()
    """What the verifier changed that is not its own."""
    line: str | None = None
    """Why the rollout does not survive being written and read, where it does not."""
    ended: str | None = None
    """How the interpreter ended, or why it was ended, in the middle of the job."""


@dataclass(frozen=True)
class Probe:
    """What another interpreter needs to know in order to play."""

    name: str
    """The environment's qualified name."""
    config: Mapping[str, Any]
    judges: tuple[str, str] | None
    """File and name of the suite's class that has judges."""
    limit_s: float
    """How long one attempt may take."""
    canary: str
    """A folder that nobody has a reason to open anything in."""


def probe(
    what: Probe, jobs: Sequence[Job], hash_seed: int, *, max_starts: int = MAX_STARTS, max_late: int = MAX_STARTS
) -> list[Outcome | None]:
    """
    Play jobs in an interpreter of their own; one that hangs or crashes ends it, and the next one goes on.

    Args:
        what: What is played.
        jobs: How.
        hash_seed: How hashes are salted.
        max_starts: How many interpreters may be ended.
        max_late: How many of them because a job did not come back.

    Returns:
        The outcome of each job; None where it was not tried, because another of its sort has ended the interpreter.
    """
    outcomes: list[Outcome | None] = [None] * len(jobs)
    left = list(range(len(jobs)))
    late = 0
    for _ in range(max_starts):
        if not left or late == max_late:
            break
        number, ended = _play(what, jobs, left, outcomes, hash_seed)
        if ended is None:
            break
        if number is None:
            raise AssertionError(f"{what.name} cannot be played in another interpreter: {ended}")
        late += ended.startswith(_LATE)
        outcomes[number] = Outcome(ended=ended)
        left = [other for other in left if outcomes[other] is None and jobs[other].sort != jobs[number].sort]
    return outcomes


def _play(
    what: Probe, jobs: Sequence[Job], left: Sequence[int], outcomes: list[Outcome | None], hash_seed: int
) -> tuple[int | None, str | None]:
    """Play until all is done, or return which job ended the interpreter, and how."""
    from gymcore.testing.suites.imports import import_path

    with tempfile.TemporaryDirectory(prefix="gymcore-probe-") as folder:
        asked = Path(folder, "jobs.json")
        told = {**vars(what), "path": import_path(), "jobs": [{**vars(jobs[number]), "id": number} for number in left]}
        asked.write_text(json.dumps(told, default=str))
        environ = {**os.environ, "PYTHONHASHSEED": str(hash_seed)}
        command = [sys.executable, "-P", "-X", "faulthandler", __file__, str(asked)]
        with subprocess.Popen(
            command,
            cwd=folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            try:
                return _follow(process, outcomes, what.limit_s)
            finally:
                process.kill()


def _follow(
    process: subprocess.Popen[bytes], outcomes: list[Outcome | None], limit_s: float
) -> tuple[int | None, str | None]:
    lines: queue.Queue[bytes] = queue.Queue()
    errors: list[bytes] = []
    assert process.stdout is not None
    assert process.stderr is not None
    readers = [
        threading.Thread(target=_read, args=(process.stdout, lines.put), daemon=True),
        threading.Thread(target=_read, args=(process.stderr, errors.append), daemon=True),
    ]
    for reader in readers:
        reader.start()
    current: int | None = None
    try:
        while True:
            try:
                line = lines.get(timeout=START_S if current is None else limit_s + 1)
            except queue.Empty:
                return current, f"{_LATE} within {limit_s:g} s"
            if not line:
                code = process.wait(10)
                end = f"signal {-code}" if code < 0 else f"exit code {code}"
                last = b"".join(errors).decode("utf-8", "replace").strip().splitlines()
                return current, f"it ended the interpreter with {end}" + (f": {last[-1][:300]}" if last else "")
            message = json.loads(line)
            if "done" in message:
                return None, None
            if "start" in message:
                current = message["start"]
            else:
                number = message.pop("end")
                for name in ("found", "changed"):
                    message[name] = tuple(message.get(name, ()))
                outcomes[number] = Outcome(**message)
    finally:
        process.kill()
        for reader in readers:
            reader.join()


def _read(stream: Any, take: Any) -> None:
    for line in stream:
        take(line)
    take(b"")


# -- in the other interpreter -----------------------------------------------------------------------------------------


class _Witness:
    """Sees who carries out what a model wrote, which the token in it shows."""

    def __init__(self, folder: str) -> None:
        from gymcore.testing.suites.arguments import FORMAT, MAGIC_NUMBERS, SQL, TOKEN

        self.found: list[str] = []
        self.is_looking = False
        self._folder = folder
        self._token = TOKEN
        self._numbers = MAGIC_NUMBERS
        self._sql = SQL
        self._format = FORMAT

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.is_looking:
            return
        if event == "exec" and isinstance(arguments[0], CodeType):
            if self._is_in(arguments[0]):
                self._find("Python code that the model wrote is run (eval, exec, or a template engine)")
        elif event in _ON_PATHS:
            if any(isinstance(path, str | bytes) and self._is_canary(path) for path in arguments[:2]):
                done = "opened" if event == "open" else f"given to {event}()"
                self._find(f"the file is {done} whose path the model gave")
        elif event in ("os.system", "subprocess.Popen"):
            code = arguments[0] if event == "os.system" else _code_of(arguments[1])
            if self._token in str(code):
                self._find("a command that the model wrote is run")

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Look for a module, as part of `sys.meta_path`: nothing but the model's words would ask for one like this."""
        if self.is_looking and self._token in name:
            self._find("a module is imported whose name the model gave")

    def see_call(self, frame: Any, event: str, called: Any) -> None:
        """Look at a call, as a profiler."""
        if event == "c_call" and called.__name__ in ("format", "format_map"):
            template = getattr(called, "__self__", None)
            if self.is_looking and isinstance(template, str) and self._format in template:
                self._find("a text that the model wrote is used as a format")

    def look_at_databases(self) -> None:
        """Look at the statements of every connection to a database that is made from now on."""
        try:
            import sqlite3
        except ImportError:  # a Python without it
            return
        connect = sqlite3.connect

        @functools.wraps(connect)
        def connected(*arguments: Any, **keywords: Any) -> Any:
            connection = connect(*arguments, **keywords)
            connection.set_trace_callback(self._see_statement)
            return connection

        sqlite3.connect = sqlite3.dbapi2.connect = connected

    def _see_statement(self, statement: str) -> None:
        if self.is_looking and self._sql in statement:
            self._find("SQL that the model wrote is part of a statement")

    def _is_canary(self, path: str | bytes) -> bool:
        return os.path.abspath(os.fsdecode(path)).startswith(self._folder)  # noqa: PTH100, as text

    def _is_in(self, code: CodeType) -> bool:
        if any(self._token in name for name in code.co_names):
            return True
        return any(self._is_in(item) if isinstance(item, CodeType) else self._tells(item) for item in code.co_consts)

    def _tells(self, constant: Any) -> bool:
        if isinstance(constant, str):
            return self._token in constant
        if isinstance(constant, tuple | frozenset):
            return any(map(self._tells, constant))
        return type(constant) is int and constant in self._numbers

    def _find(self, what: str) -> None:
        self.is_looking = False  # looking for the place opens files
        frame: Any = sys._getframe(2)
        place = ""
        library = os.path.dirname(os.__file__)  # noqa: PTH120, compared as text
        core = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))  # noqa: PTH120
        while frame is not None:
            name = frame.f_code.co_filename
            is_library = name.startswith((library, core)) and "site-packages" not in name
            if not is_library and not name.startswith("<"):
                place = f" ({name}:{frame.f_lineno})"
                break
            frame = frame.f_back
        self.found.append(what + place)
        self.is_looking = True


_ON_PATHS = frozenset(
    (
        *("open", "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.listdir", "os.scandir", "os.truncate"),
        *("os.symlink", "os.link", "os.chmod", "os.chown", "os.utime", "shutil.rmtree", "shutil.move"),
        *("shutil.copyfile", "shutil.copytree"),
    )
)
_INTERPRETER = re.compile(
    r"(?:(?P<c>(?:ba|da|z|k|a|tc|c|fi)?sh|python[\d.]*|pypy[\d.]*)|(?P<e>perl|ruby|node|nodejs|lua|Rscript|php|bun|deno)"
    r"|(?P<w>cmd|powershell|pwsh))(?:\.exe)?",
    re.I,
)
_TAKES_CODE = {
    "c": re.compile(r"-[A-Za-z]*c"),
    "e": re.compile(r"-[A-Za-z]*[eEpr]|--eval|--print|eval"),
    "w": re.compile(r"/[ckCK]|-[Cc]\w*|-EncodedCommand"),
}


def _code_of(arguments: Any) -> str:
    """Return what of a command is run as code: its program, and what a shell or an interpreter is told to run."""
    if isinstance(arguments, str | bytes):
        return os.fsdecode(arguments)
    words = [os.fsdecode(word) if isinstance(word, str | bytes | os.PathLike) else str(word) for word in arguments]
    code = words[:1]
    kind: str | None = None
    for number, word in enumerate(words):
        if kind is None:
            known = _INTERPRETER.fullmatch(os.path.basename(word))  # noqa: PTH119, as text
            kind = known.lastgroup if known else None
        elif _TAKES_CODE[kind].fullmatch(word):
            return "\n".join([*code, *words[number + 1 : number + 2]])
        elif not word.startswith("-"):
            break  # a file, and what is data for it
    return "\n".join(code)


def watched(environment: Any, changed: list[str]) -> Any:
    """Return a class that is an environment, and writes down what its verifier changes that is not its own."""

    def verify(self: Any, trajectory: Any) -> Any:
        before = _state(self, trajectory)
        reward = environment.verify(self, trajectory)
        if hasattr(reward, "__await__"):

            async def wait() -> Any:
                try:
                    return await reward
                finally:
                    changed.extend(_differences(before, _state(self, trajectory)))

            return wait()
        changed.extend(_differences(before, _state(self, trajectory)))
        return reward

    body = {"verify": verify, "__module__": environment.__module__, "__qualname__": environment.__qualname__}
    return type(environment.__name__, (environment,), body)


def _state(environment: Any, trajectory: Any) -> dict[str, str]:
    turns = {
        f"the trajectory's turns[{number}].{part}": json.dumps(getattr(turn, part), default=repr)
        for number, turn in enumerate(trajectory.turns)
        for part in ("output", "results", "answer", "usage")
    }
    task = {f"the task's {name}": repr(value) for name, value in environment.task.model_dump().items()}
    return {**turns, **task, "the trajectory's envelope": repr(trajectory.envelope)}


def _differences(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[str]:
    for name in {**before, **after}:
        if before.get(name) != after.get(name):
            yield name


def _main(asked: Mapping[str, Any]) -> None:
    sys.path[:] = asked["path"]
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a plugin prints

    def say(**message: Any) -> None:
        out.write(json.dumps(message, default=str) + "\n")
        out.flush()

    asyncio.run(_play_all(asked, say))
    say(done=True)
    os._exit(0)


async def _play_all(asked: Mapping[str, Any], say: Any) -> None:
    from gymcore.composition.configuration import resolve_options
    from gymcore.discovery import discover
    from gymcore.runtime.in_process import TimeLimits
    from gymcore.testing.playing import opened_table
    from gymcore.testing.suites.arguments import CANARY_FILE, FORMAT, TOKEN
    from gymcore.testing.suites.attempts import PATIENT_AGENT, Attempt, Cast, judge_models, reply_from_json

    catalog = discover()
    plugin = catalog.find("environment", asked["name"])
    witness = _Witness(asked["canary"])
    witness.look_at_databases()
    environment = catalog.load(plugin)
    options, _ = resolve_options(environment.config_model, plugin.manifest.config, asked["config"], {}, "config")
    jobs = asked["jobs"]
    attempts = []
    for job in jobs:
        replies = None if job["replies"] is None else tuple(map(reply_from_json, job["replies"]))
        attempts.append(Attempt(job["group"], "", job["row"], replies))
    changed: list[str] = []
    sys.addaudithook(witness)
    sys.meta_path.insert(0, witness)
    _lay_out(asked["canary"])
    cast = Cast(attempts)
    limit_s = asked["limit_s"]
    async with opened_table(
        watched(environment, changed),
        cast,
        agent=PATIENT_AGENT,
        config=options.config,
        judges=judge_models(_judges(asked["judges"])),
        limits=TimeLimits(rollout_s=limit_s, tool_s=limit_s, verify_s=limit_s),
    ) as table:
        for number, (job, attempt) in enumerate(zip(jobs, attempts, strict=True)):
            say(start=job["id"])
            witness.found.clear()
            changed.clear()
            is_format = FORMAT in json.dumps(job["replies"])
            witness.is_looking = True
            began = time.perf_counter()
            try:
                sys.setprofile(witness.see_call if is_format else None)
                rollout = await table.play(attempt.row, number)
                sys.setprofile(None)
            except BaseException as error:  # a plugin's SystemExit, say
                witness.is_looking = False
                failure = {"stage": "agent", "error": type(error).__name__, "message": str(error), "location": None}
                say(end=job["id"], failure=failure)
                continue
            witness.is_looking = False
            if os.environ.pop(TOKEN, None) is not None or os.listdir(asked["canary"]) != [CANARY_FILE]:  # noqa: PTH208
                _lay_out(asked["canary"])
                witness.found.append("code that the model wrote has been run")
            took_s = time.perf_counter() - began
            late = f"it took {took_s:.1f} s, and not at most {limit_s:g}" if took_s > limit_s else None
            reward = rollout.reward
            kept = [json.dumps(item, default=repr) for turn in rollout.trajectory.turns for item in turn.output]
            if reward is not None and not changed and kept != cast.said.get(number, []):
                changed.append("what the model said")
            say(
                end=job["id"],
                reward=None if reward is None else reward.value,
                parts={} if reward is None else reward.parts,
                metrics={} if reward is None else reward.metrics,
                failure=None if rollout.failure is None else rollout.failure.model_dump(),
                found=list(dict.fromkeys(witness.found)),
                changed=list(dict.fromkeys(changed)),
                line=unwritable(rollout),
                ended=late,
            )


def unwritable(rollout: Any) -> str | None:
    """Say why a rollout does not survive being written and read; None where it does."""
    try:
        if rollout.reward is None:
            json.loads(rollout.to_failure_line())
            return None
        again = type(rollout).from_line(rollout.to_line())
    except Exception as error:
        return f"it cannot be written: {type(error).__name__}: {error}"
    for name in ("row", "repeat", "trajectory", "reward"):
        if getattr(again, name) != getattr(rollout, name):
            return f"its {name} reads back as something else"
    return None


def _judges(place: Iterable[str] | None) -> Any:
    if place is None:
        return {}
    from gymcore.testing.suites.author_file import import_author_file

    file, name = place
    found: Any = import_author_file(Path(file))
    for part in name.split("."):
        found = getattr(found, part)
    return found.judges


def _lay_out(folder: str) -> None:
    """Let a folder hold the canary's file, and nothing else."""
    from gymcore.testing.suites.arguments import CANARY_FILE

    for entry in Path(folder).iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    Path(folder, CANARY_FILE).write_text("Nobody has a reason to read this.\n")


if __name__ == "__main__":
    _main(json.loads(Path(sys.argv[1]).read_text()))
