"""
What every environment should hold.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import json
import math
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar
from unittest import SkipTest

from gymcore.composition.rows.preparation import prepare_row
from gymcore.composition.rows.prompts import compile_prompt
from gymcore.composition.rows.reader import RowSource, numbered_lines
from gymcore.datasets.checking import Checked, check_data
from gymcore.discovery import Catalog
from gymcore.documents import DocumentError, decode_json, encode_json
from gymcore.errors import DataError, GymcoreError, ModelError
from gymcore.interfaces import Environment, Tool
from gymcore.plan import PromptPlan
from gymcore.records import ROLLOUT_KEYS, ROUTE_KEYS, Failure, Rollout, Row, Task, ToolCall, Trajectory
from gymcore.runtime.in_process import TimeLimits
from gymcore.testing.replies import Reply, says
from gymcore.testing.suites.arguments import (
    BAIT,
    answer_slots,
    hostile_arguments,
    payloads,
    placed_in_arguments,
    valid_arguments,
    wrapped,
)
from gymcore.testing.suites.attempts import (
    Attempt,
    Judges,
    play_attempts,
    replies_of,
    reply_from_json,
    reply_to_json,
    unsolved_attempts,
)
from gymcore.testing.suites.leftovers import find_leftovers
from gymcore.testing.suites.probe import Job, Outcome, Probe, probe, unwritable
from gymcore.testing.suites.suite import PluginSuite, check

__all__ = ["EnvironmentSuite"]

_NAMES = ("id", "uuid", "index", "idx")
"""Keys that tell rows apart and say nothing, unless the task model names them."""
_SHOWN = 3
_NOT_TRIED = Outcome(ended="it was not tried, as another one ended the interpreter")


@dataclass(frozen=True)
class _Row:
    split: str
    where: str
    line: bytes
    """As it is played."""
    content: bytes
    """A digest of what it says."""
    task: bytes
    """A digest of what it asks and of what the task model names."""
    prompt: bytes


@dataclass(frozen=True)
class _Case:
    where: str
    attempt: Attempt
    reward: float


class EnvironmentSuite(PluginSuite):
    """
    What every environment should hold: `class TestMine(EnvironmentSuite): plugin = "mine"`.
    """

    kind: ClassVar[Any] = "environment"

    tasks: ClassVar[int] = 8
    """How many tasks of each split are played, evenly spread over it; those of `rows` besides."""
    rows: ClassVar[Sequence[Mapping[str, Any]]] = ()
    """Further rows to play, for an environment whose data are not in its package."""
    max_rows: ClassVar[int] = 50_000
    """How many rows of each split are held against each other; all are validated."""
    judges: ClassVar[Judges] = {}
    """Models that the verifier asks, by name: a model, or a function from the question to the answer."""
    top_reward: ClassVar[float | str | None] = None
    """What a solved task earns, or the row's key that says so; None for the upper end of the `reward_range`, or 1.0."""
    deterministic: ClassVar[bool] = True
    """Whether the same replies earn the same reward each time."""
    executes_code: ClassVar[bool] = False
    """Whether it carries out what a model writes on purpose, somewhere where it can do no harm."""
    answers_in_prompts: ClassVar[bool] = False
    """Whether prompts may hold the answer, as those of a reading comprehension do."""
    splits_overlap: ClassVar[bool] = False
    """Whether a row may stand in two splits."""
    timeout_s: ClassVar[float] = 20.0
    """How long one ordinary rollout may take."""
    verify_timeout_s: ClassVar[float] = 5.0
    """How long an attempt that consists of bait, or of hostile arguments, may take with its tool and its verifier."""
    concurrency: ClassVar[int] = 200
    """How many rollouts are played at once."""
    cases: ClassVar[str] = "cases.jsonl"
    """A file beside the test, of attempts and what they earn; it need not be there."""

    # -- what the checks look at --------------------------------------------------------------------------------------

    def environment(self) -> type[Environment[Any, Any]]:
        """Return the environment's class."""
        return self.loaded()  # type: ignore[no-any-return]

    def reward_range(self) -> tuple[float, float]:
        """Return the lowest and the highest reward: what the manifest says, else 0 to 1."""
        return self.installed().manifest.reward_range or (0.0, 1.0)

    def top(self, row: Mapping[str, Any]) -> float:
        """Return what a task earns when it is solved; override it where a number or a key does not say it."""
        if self.top_reward is None:
            return self.reward_range()[1]
        if not isinstance(self.top_reward, str):
            return self.top_reward
        assert self.top_reward in row, f"a row has no {self.top_reward!r}, which top_reward names"
        return float(row[self.top_reward])

    def _is_top(self, reward: float, row: Mapping[str, Any]) -> bool:
        """Whether a reward is what a solved task earns, but for the rounding of a sum."""
        top = self.top(row)
        return reward > top or math.isclose(reward, top, rel_tol=1e-9, abs_tol=1e-9)

    def _isolation(self) -> str:
        return self.installed().manifest.isolation or "none"

    def _data(self) -> Checked:
        return self.once("data", self._check_data)

    def _check_data(self) -> Checked:
        plugin = self.installed()
        splits = plugin.manifest.splits
        if not self.needs_network:
            splits = {name: tuple(file for file in files if isinstance(file, str)) for name, files in splits.items()}
        self.loaded()
        local = replace(plugin, status="ok", manifest=replace(plugin.manifest, splits=splits))
        return check_data((), Catalog((local,)), environment=plugin.qualified)

    def _all_rows(self) -> list[_Row]:
        return self.once("rows", lambda: list(self._read_rows()))

    def _read_rows(self) -> Iterator[_Row]:
        """Yield the rows of the package that are all right, of each split the first ones."""
        plugin, catalog = self.installed(), self.catalog()
        asked = PromptPlan(**plugin.manifest.prompt) if plugin.manifest.prompt else None
        prompt, problems = compile_prompt(asked, "prompt")
        if problems:
            return
        model = self.environment().task_model
        for split, files in plugin.manifest.splits.items():
            count = 0
            for path in files:
                if not isinstance(path, str):
                    continue
                try:
                    with catalog.open_file(plugin, path) as file:
                        for number, line in numbered_lines(file, RowSource(path)):
                            if count == self.max_rows:
                                break
                            count += 1
                            try:
                                line, row, _ = prepare_row(line, decode_json(line), prompt, model.model_fields)
                                model.model_validate(row)
                            except Exception:  # what is wrong with it, another check says
                                continue
                            yield _Row(split, f"{path}:{number}", line, *_digests(row, model.model_fields))
                except GymcoreError:
                    continue

    def _rows(self) -> list[tuple[str, Mapping[str, Any]]]:
        """
        Return the rows that are played, each with its place.

        Raises:
            SkipTest: there is none.
        """
        chosen: list[tuple[str, Mapping[str, Any]]] = [
            (f"rows[{number}] of the suite", row) for number, row in enumerate(self.rows)
        ]
        by_split: dict[str, list[_Row]] = {}
        for row in self._all_rows():
            by_split.setdefault(row.split, []).append(row)
        for rows in by_split.values():
            for number in range(min(self.tasks, len(rows))):
                row = rows[number * len(rows) // min(self.tasks, len(rows))]
                chosen.append((row.where, decode_json(row.line)))
        if not chosen:
            raise SkipTest("there is no valid row to play; give the suite some in `rows`")
        return [(where, {**row, "task_id": f"under_test/{number}"}) for number, (where, row) in enumerate(chosen)]

    def _play(self, attempts: Sequence[Attempt], at_once: int = 1, limit_s: float | None = None) -> list[Rollout]:
        limit_s = limit_s or self.timeout_s
        limits = TimeLimits(rollout_s=limit_s, tool_s=limit_s, verify_s=limit_s)
        return asyncio.run(
            play_attempts(
                self.environment(),
                attempts,
                self.options(),
                judges=self.judges or {},
                at_once=at_once,
                limits=limits,
                isolation=self._isolation(),
            )
        )

    def _played(self) -> list[tuple[Attempt, Rollout]]:
        """Return every plain attempt, each played alone: those that solve nothing first, then the solutions."""
        return self.once("played", self._play_all)

    def _play_all(self) -> list[tuple[Attempt, Rollout]]:
        """Play here what the watched interpreter has survived; what it has not is a failure, and is not tried here."""
        tried = [(attempt, outcome) for attempt, outcome in self._tried() if outcome is not None]
        calm = iter(self._play([attempt for attempt, outcome in tried if not outcome.ended]))
        return [(attempt, _ended(attempt, outcome) if outcome.ended else next(calm)) for attempt, outcome in tried]

    def _tried(self) -> list[tuple[Attempt, Outcome | None]]:
        """Return every plain attempt with what came of its first try, which was in an interpreter of its own."""
        return self.once("tried", self._try_all)

    def _try_all(self) -> list[tuple[Attempt, Outcome | None]]:
        attempts = self._plain_attempts()
        return list(zip(attempts, self._first_tries(attempts), strict=True))

    def _plain_attempts(self) -> list[Attempt]:
        rows = self._rows()
        attempts = [attempt for where, row in rows for attempt in unsolved_attempts(where, row)]
        if self.environment().is_solvable():
            attempts += [Attempt("solve", where, row) for where, row in rows]
        return attempts

    def _first_tries(self, attempts: Sequence[Attempt]) -> Sequence[Outcome | None]:
        """Play attempts where they can do no harm; None for one that was not tried, as one like it did harm."""
        jobs = [_job_of("again", attempt.name, attempt) for attempt in attempts]
        with tempfile.TemporaryDirectory(prefix="gymcore-canary-") as folder:
            return probe(self._probe_with(folder, self.timeout_s), jobs, _other_seed(), max_starts=5, max_late=2)

    def _replayed(self) -> list[tuple[Attempt, Rollout]]:
        """Return the attempts that were scored, each with the script by which it is played again."""
        return [
            (attempt if attempt.replies else replace(attempt, replies=replies_of(rollout.trajectory)), rollout)
            for attempt, rollout in self._played()
            if rollout.reward is not None
        ] + [(case.attempt, rollout) for case, rollout in self._played_cases() if rollout.reward is not None]

    def _solutions(self) -> list[tuple[Attempt, Rollout]]:
        """Return the solutions that earned the top reward, as scripts; the reference solution's first."""
        return [
            (attempt, rollout)
            for attempt, rollout in self._replayed()
            if attempt.name in ("solve", "case")
            and rollout.reward is not None
            and self._is_top(rollout.reward.value, attempt.row)
        ]

    def _rewards_of(self, *names: str) -> list[tuple[Attempt, float]]:
        """
        Return what attempts earned.

        Raises:
            SkipTest: none was scored, or all earn the same whatever they are; other checks say so.
        """
        scored = [(attempt, rollout.reward.value) for attempt, rollout in self._played() if rollout.reward is not None]
        found = [(attempt, value) for attempt, value in scored if attempt.name in names]
        if not found:
            raise SkipTest("no such attempt was scored: see test_attempts_are_scored")
        if self._is_constant():
            raise SkipTest("every attempt earns the same: see test_reward_discriminates")
        return found

    def _is_constant(self) -> bool:
        """Whether solved or not makes no difference."""
        rewards = {attempt.name: set[float]() for attempt, _ in self._played()}
        for attempt, rollout in self._played():
            if rollout.reward is not None:
                rewards[attempt.name].add(rollout.reward.value)
        unsolved = set().union(*(values for name, values in rewards.items() if name != "solve"))
        return len(unsolved) == 1 and rewards.get("solve") == unsolved

    def _earn_less(self, *names: str) -> None:
        paid = [(attempt, value) for attempt, value in self._rewards_of(*names) if self._is_top(value, attempt.row)]
        assert not paid, _listed(f"{attempt.told()} earns {value:g}, the top reward" for attempt, value in paid)

    def _is_steady(self) -> bool:
        """Whether the same replies have earned the same twice more."""
        return not self._unsteady()

    def _unsteady(self) -> list[str]:
        return self.once("unsteady", self._find_unsteady)

    def _find_unsteady(self) -> list[str]:
        replayed = self._replayed()
        attempts = [attempt for attempt, _ in replayed]
        twice = self._play([*attempts, *attempts])
        return _differing(replayed, twice[: len(attempts)], twice[len(attempts) :])

    def _require_steady(self) -> None:
        if not self.deterministic:
            raise SkipTest("the environment says that it is not deterministic")
        if not self._is_steady():
            raise SkipTest("rewards differ each time: see test_verifier_is_deterministic")

    # -- what is played in an interpreter of its own ------------------------------------------------------------------

    def _outcomes(self, group: str) -> list[tuple[Job, Outcome]]:
        """Return the outcomes of one group of jobs; all groups but `again` are played together."""
        if group == "again":
            tried = [(attempt, outcome) for attempt, outcome in self._tried() if outcome is not None]
            return [(_job_of(group, attempt.name, attempt), outcome) for attempt, outcome in tried]
        done = self.once("outcomes", self._probe)
        return [(job, outcome) for job, outcome in done if job.group == group and outcome is not None]

    def _probe(self) -> list[tuple[Job, Outcome | None]]:
        tries = [outcome for _, outcome in self._tried() if outcome is not None]
        if all(outcome.ended for outcome in tries):
            raise SkipTest("no attempt comes back: see test_attempts_are_scored")
        with tempfile.TemporaryDirectory(prefix="gymcore-canary-") as folder:
            jobs = list(self._jobs(folder))
            what = self._probe_with(folder, self.verify_timeout_s)
            return list(zip(jobs, probe(what, jobs, _other_seed()), strict=True))

    def _probe_with(self, canary: str, limit_s: float) -> Probe:
        return Probe(
            name=self.installed().qualified,
            config=self.asked(),
            judges=self._place_of_judges(),
            limit_s=limit_s,
            canary=canary,
        )

    def _place_of_judges(self) -> tuple[str, str] | None:
        if not self.judges:
            return None
        owner = next(base for base in type(self).__mro__ if "judges" in vars(base))
        name = owner.__qualname__
        if "<" in name:
            raise SkipTest(f"{name} must be defined at the top of its file, so that another process finds its judges")
        return inspect.getfile(owner), name

    def _jobs(self, canary: str) -> Iterator[Job]:
        rows = self._rows()
        where, row = rows[0]
        tools = self.environment().tools

        def job(
            group: str,
            sort: str,
            told: str,
            replies: Iterable[Reply],
            on: Mapping[str, Any] = row,
            is_rubbish: bool = False,
        ) -> Job:
            return Job(group, f"{group}/{sort}", told, on, [reply_to_json(reply) for reply in replies], is_rubbish)

        for name, tool in tools.items():
            for arguments in valid_arguments(tool):
                text = json.dumps(arguments)
                yield job("valid", name, f"{name}({_short(text)})", [_calling(name, text), says("Done.")])
            for told, text in hostile_arguments(tool):
                yield job("hostile", name, f"{name}: {told}", [_calling(name, text), says("Done.")])
        solved = self._solutions()
        solutions = solved[:1]
        slots = answer_slots([words for attempt, _ in solved if (words := _last_words(attempt.replies or ()))])
        for told, text in payloads(canary).items():
            for number, answer in enumerate(wrapped(text)):
                yield job("canary", "answer", f"{where}: the answer is {told}", [says(answer)], is_rubbish=True)
                for attempt, _ in solutions if number < 3 else ():
                    script = _with_answer(_replies(attempt), answer)
                    yield job("canary", "answer", f"{attempt.where}: the answer is {told}", script, attempt.row)
            yield from self._slotted("canary", told, text, slots, solutions, job)
            yield from self._placed("canary", told, text, tools, solutions, job)
        for text in BAIT:
            told = f"{text[:12]!r}{'...' if len(text) > 12 else ''} ({len(text)} characters)"
            what = f"{where}: the answer is {told}"
            yield job("bait", "answer", what, [says(text)], is_rubbish=True)
            yield job("bait", "answer", what, [says(f"The answer is \\boxed{{{text}}}.")], is_rubbish=True)
            for attempt, _ in solutions:
                script = _with_answer(_replies(attempt), text)
                yield job("bait", "answer", f"{attempt.where}: the answer is {told}", script, attempt.row)
            yield from self._slotted("bait", told, text, slots, solutions, job)
            yield from self._placed("bait", told, text, tools, solutions, job)

    def _slotted(
        self,
        group: str,
        told: str,
        text: str,
        slots: Sequence[tuple[str, str, bool]],
        solutions: Sequence[tuple[Attempt, Rollout]],
        job: Callable[..., Job],
    ) -> Iterator[Job]:
        """Yield jobs in which a text stands where the reference solution has its answer."""
        for attempt, _ in solutions:
            for before, after, is_bare in slots:
                script = _with_answer(_replies(attempt), f"{before}{text}{after}")
                is_rubbish = is_bare and len(script) == 1
                what = f"{attempt.where}: the answer is {told}, written as in the solution ({before[-20:]}...)"
                yield job(group, "answer", what, script, attempt.row, is_rubbish=is_rubbish)

    def _placed(
        self,
        group: str,
        told: str,
        text: str,
        tools: Mapping[str, Tool],
        solutions: Sequence[tuple[Attempt, Rollout]],
        job: Callable[..., Job],
    ) -> Iterator[Job]:
        """Yield jobs in which a text stands in arguments: of a first call, and in the place of those of a solution."""
        for name, tool in tools.items():
            for argument, arguments in placed_in_arguments(tool, text):
                what = f"{name}: the argument {argument!r} is {told}"
                yield job(group, name, what, [_calling(name, arguments), says("Done.")])
                for attempt, _ in solutions:
                    script = _with_call(_replies(attempt), name, arguments)
                    if script is not None:
                        yield job(group, name, what, script, attempt.row)

    def _calm(self, group: str) -> list[str]:
        """Return what ended otherwise than with a reward."""
        return [
            f"{job.told}: {outcome.ended or _told_failure(outcome.failure)}"
            for job, outcome in self._outcomes(group)
            if outcome.ended or (outcome.failure is not None and outcome.failure["stage"] != "verify")
        ]

    # -- data ---------------------------------------------------------------------------------------------------------

    @check(
        fix="Mend the row that is named, or the task model that refuses it; `gym data check --env NAME` shows all of "
        "them. A file that is missing must be package data."
    )
    def test_data_are_valid(self) -> None:
        """
        Every row of every split is in the package, parses, and fits the task model.

        One bad row stops a composition for everybody who mixes this environment in.
        """
        if not self.installed().manifest.splits:
            raise SkipTest("the manifest names no splits")
        checked = self._data()
        problems = [f"{problem.where}: {problem.message}" for problem in checked.problems]
        assert not problems, _listed(problems, checked.bad)
        if not checked.files:
            raise SkipTest("no split lies in the package, and nothing is fetched (needs_network)")
        empty = [file.name for file in checked.files if not file.rows]
        assert not empty, f"{', '.join(empty)}: the file holds no rows"

    @check(fix="Remove the second one; if it is meant to weigh more, use `weight` in the plan.")
    def test_no_row_stands_twice(self) -> None:
        """
        No split holds the same row twice, whatever its id.

        Twins weigh double in every mix and every mean, which nobody sees.
        """
        seen: dict[tuple[str, bytes], str] = {}
        twins = [
            f"{row.where} says the same as {first}"
            for row in self._all_rows()
            if (first := seen.setdefault((row.split, row.content), row.where)) != row.where
        ]
        assert not twins, _listed(twins)

    @check(fix="Remove the row from one of the splits, or set `splits_overlap` where that is meant.")
    def test_splits_do_not_overlap(self) -> None:
        """
        No row stands in two splits, whatever its id, nor its prompt, unless many rows share that; `example` may show
        rows of the others.

        What was trained on measures nothing.
        """
        if self.splits_overlap:
            raise SkipTest("rows may stand in two splits (splits_overlap)")
        seen: dict[bytes, _Row] = {}
        asked: dict[bytes, _Row] = {}
        shared = []
        rows = [row for row in self._all_rows() if row.split != "example"]
        often = Counter((row.split, row.prompt) for row in rows)
        for row in rows:
            first, says = seen.setdefault(row.task, row), "says"
            if first.split == row.split and often[row.split, row.prompt] == 1:
                first, says = asked.setdefault(row.prompt, row), "asks"
            if first.split != row.split:
                shared.append(f"{row.where} ({row.split}) {says} the same as {first.where} ({first.split})")
        assert not shared, _listed(shared)

    @check(
        fix="Take the answer out of `responses_create_params`; what only the verifier needs is a key of its own. Set "
        "`answers_in_prompts` where it belongs there, as in a reading comprehension."
    )
    def test_prompts_do_not_hold_the_answer(self) -> None:
        """
        The prompt does not give its own answer away: repeating it earns less than the top reward.

        A model learns to copy within a few steps, and nothing else.
        """
        if self.answers_in_prompts:
            raise SkipTest("prompts may hold the answer (answers_in_prompts)")
        told = []
        if self.installed().manifest.splits:
            told = [_told_warning(item) for item in self._data().warnings if item.name == "answer-in-prompt"]
        assert not told, _listed(told)
        self._earn_less("echo", "echo of the last line", "truncated echo")

    # -- tools --------------------------------------------------------------------------------------------------------

    @check(
        fix="Give the tool a docstring with an `Args:` section, and each parameter a type that says more than `Any` or "
        "`dict`: a `Literal`, an `Annotated[int, Field(ge=0)]`, or a model of your own."
    )
    def test_tools_are_typed_and_described(self) -> None:
        """
        Every tool says what it does, and of every argument what it is.

        Signature and docstring are all that the model is told.
        """
        faults = []
        for name, tool in self._tools().items():
            if not tool.description.strip():
                faults.append(f"the tool {name} has no description")
            for argument, schema in tool.parameters.get("properties", {}).items():
                if not _says_something(schema):
                    faults.append(f"the tool {name}: the argument {argument!r} may be anything")
                if not _has_description(schema, tool.parameters.get("$defs", {})):
                    faults.append(f"the tool {name}: the argument {argument!r} is not described")
        assert not faults, _listed(faults)

    @check(
        fix="Mend the tool; where it cannot do what was asked, raise `gymcore.ToolError` with a message for the model, "
        "or narrow the argument's type so that its schema says what fits."
    )
    def test_tools_take_valid_arguments(self) -> None:
        """
        A tool gives a result, or a message for the model, for arguments that fit its schema.

        An exception is a failure of the rollout: it earns nothing, and is played again for nothing.
        """
        self._tools()
        faults = self._calm("valid")
        assert not faults, _listed(faults)

    @check(
        fix="Check what was asked before using it, and raise `gymcore.ToolError`; give numbers and texts bounds in the "
        "signature, such as `Annotated[int, Field(ge=0, le=1000)]`; wrap blocking work in `@tool(thread=True)`."
    )
    def test_tools_survive_hostile_arguments(self) -> None:
        """
        A tool stays calm whatever a model writes: wrong types, huge and deep values, paths, SQL, half a JSON.

        Over a million rollouts a model writes all of it, and one that crashes or hangs takes others with it.
        """
        self._tools()
        faults = self._calm("hostile")
        assert not faults, _listed(faults)

    def _tools(self) -> Mapping[str, Tool]:
        tools = self.environment().tools
        if not tools:
            raise SkipTest("the environment has no tools")
        return tools

    # -- rewards ------------------------------------------------------------------------------------------------------

    @check(
        fix="Mend the method that is named: a verifier, `open()` and `reply()` must take any trajectory, also an empty "
        "one, one without tool calls, and arguments that are no JSON (`call.parsed()` is empty then)."
    )
    def test_attempts_are_scored(self) -> None:
        """
        Every attempt ends with a reward, also one that says nothing, rubbish, half an answer, or calls no such tool.

        A failure has no reward: the attempts that need one most would be missing from the training data.
        """
        faults = [
            f"{attempt.told()}: {_told_failure(rollout.failure.model_dump())}"
            for attempt, rollout in self._played()
            if rollout.failure is not None and attempt.name != "solve" and not _is_not_finite(rollout)
        ]
        if not faults:
            for group in ("canary", "bait"):
                faults += [
                    f"{job.told}: {_told_failure(outcome.failure)}"
                    for job, outcome in self._outcomes(group)
                    if outcome.failure is not None
                    and outcome.failure["stage"] not in ("tool", "timeout")
                    and not outcome.found
                    and not _is_about_finite(outcome.failure)
                ]
        assert not faults, _listed(faults)

    @check(
        fix="Mend `solve()`, the verifier or the row that is named; where tasks earn less even when they are solved, "
        "set `top_reward` to a number, or to the key of the row that says how much."
    )
    def test_reference_solution_earns_the_top_reward(self) -> None:
        """
        The reference solution earns the top reward on every task.

        It proves that the reward can be reached: a task that nobody can solve teaches nothing.
        """
        if not self.environment().is_solvable():
            raise SkipTest("the environment has no reference solution (solve)")
        solved = [(attempt, rollout) for attempt, rollout in self._played() if attempt.name == "solve"]
        if not solved:
            raise SkipTest("no reference solution was tried: see test_attempts_are_scored")
        failed = [
            f"{attempt.where}: the reference solution fails: {_told_failure(rollout.failure.model_dump())}"
            for attempt, rollout in solved
            if rollout.failure is not None and not _is_not_finite(rollout)
        ]
        assert not failed, _listed(failed)
        low, high = self.reward_range()
        poor = [
            f"{attempt.where}: the reference solution earns {rollout.reward.value:g}, and not {self.top(attempt.row):g}"
            for attempt, rollout in solved
            if rollout.reward is not None
            and not self._is_top(rollout.reward.value, attempt.row)
            and _is_within(rollout.reward.value, low, high)  # else another check says so
        ]
        if poor and self._is_constant():
            raise SkipTest("every attempt earns the same: see test_reward_discriminates")
        assert not poor, _listed(poor)

    @check(fix="Let the verifier ask for the answer before it pays; an empty text contains and equals nothing.")
    def test_silence_earns_less(self) -> None:
        """
        An attempt that says nothing, or only blanks, earns less than the top reward.

        Silence is the first thing that a model finds out when it is paid for it.
        """
        self._earn_less("nop", "empty")

    @check(fix="Let the verifier compare what was parsed, and pay nothing where nothing could be parsed.")
    def test_garbled_answers_earn_less(self) -> None:
        """
        Rubbish earns less than the top reward: long, odd and hostile answers, and calls of tools that do not exist.

        What cannot be read must not be taken for right.
        """
        self._earn_less("garbled", "garbled calls")
        paid = [
            f"{job.told} earns {outcome.reward:g}, the top reward"
            for group in ("bait", *(() if self.executes_code else ("canary",)))
            for job, outcome in self._outcomes(group)
            if job.is_rubbish
            and outcome.reward is not None
            and not outcome.found
            and self._is_top(outcome.reward, job.row)
        ]
        assert not paid, _listed(paid)

    @check(fix="Let the verifier look at the whole answer; `trajectory.is_truncated` says that it was cut off.")
    def test_truncated_answers_earn_less(self) -> None:
        """
        The beginning of an answer, cut off by a limit on tokens, earns less than the top reward.

        Else a model learns to ramble until it is cut off.
        """
        self._earn_less("truncated")

    @check(
        fix="Bring the reward into its range, or say in `gym.yaml` what that is: `reward_range: [LOW, HIGH]`; without "
        "it, it is 0 to 1."
    )
    def test_rewards_are_finite_and_in_range(self) -> None:
        """
        Every reward is a finite number within the declared range.

        One NaN spoils the gradient of a whole batch, and environments on different scales cannot be mixed.
        """
        low, high = self.reward_range()
        faults = [
            f"{attempt.told()} earns no finite number ({rollout.failure.location or 'verify'})"
            for attempt, rollout in self._played()
            if rollout.failure is not None and _is_not_finite(rollout)
        ]
        faults += [
            f"{attempt.told()} earns {rollout.reward.value:g}, which is not from {low:g} to {high:g}"
            for attempt, rollout in self._played()
            if rollout.reward is not None and not _is_within(rollout.reward.value, low, high)
        ]
        for group in ("bait", "canary", "hostile"):
            if faults:
                break
            for job, outcome in self._outcomes(group):
                if outcome.reward is not None and not _is_within(outcome.reward, low, high):
                    faults.append(f"{job.told} earns {outcome.reward:g}, which is not from {low:g} to {high:g}")
                elif outcome.failure is not None and _is_about_finite(outcome.failure):
                    faults.append(f"{job.told} earns no finite number")
        assert not faults, _listed(faults)

    @check(
        fix="Let the verifier tell good attempts from bad ones; where that needs more than a reference solution, write "
        "attempts and what they earn into `cases.jsonl` beside the test."
    )
    def test_reward_discriminates(self) -> None:
        """
        Solved and unsolved attempts earn different rewards.

        A reward that is always the same has no gradient: the environment costs its share of the training for nothing.
        """
        rewards = {rollout.reward.value for _, rollout in self._played() if rollout.reward is not None}
        rewards |= {
            rollout.reward.value for _, rollout in self._played_cases() if rollout is not None and rollout.reward
        }
        if not rewards:
            raise SkipTest("nothing was scored: see test_attempts_are_scored")
        if len(rewards) == 1 and not self.environment().is_solvable() and not self._cases():
            raise SkipTest(f"there is neither a reference solution (solve) nor a {self.cases} beside the test")
        assert len(rewards) > 1, f"every attempt earns {rewards.pop():g}, solved or not"

    @check(fix="Mend the verifier, or what the case expects.")
    def test_cases_earn_what_they_say(self) -> None:
        """
        Each attempt in `cases.jsonl` earns the reward that stands there.

        The near misses of a verifier are known best to its author, and forgotten first.
        """
        cases = self._cases()
        if not cases:
            raise SkipTest(f"there is no {self.cases} beside the test")
        faults = []
        for case, rollout in self._played_cases():
            if rollout.failure is not None:
                faults.append(f"{case.where}: {_told_failure(rollout.failure.model_dump())}")
            elif rollout.reward is not None and not math.isclose(rollout.reward.value, case.reward, abs_tol=1e-9):
                faults.append(f"{case.where} earns {rollout.reward.value:g}, and not {case.reward:g}")
        assert not faults, _listed(faults)

    def _cases(self) -> list[_Case]:
        return self.once("cases", lambda: list(self._read_cases()))

    def _read_cases(self) -> Iterator[_Case]:
        try:
            path = Path(inspect.getfile(type(self))).parent / self.cases
        except (OSError, TypeError):  # a class that stands in no file
            return
        if type(self).__module__.startswith("gymcore.") or not path.is_file():
            return
        for number, line in enumerate(path.read_bytes().splitlines(), start=1):
            if line.strip():
                yield _read_case(line, f"{self.cases}:{number}")

    def _played_cases(self) -> list[tuple[_Case, Rollout]]:
        def play() -> list[tuple[_Case, Rollout]]:
            cases = self._cases()
            attempts = [case.attempt for case in cases]
            tries = [outcome or _NOT_TRIED for outcome in self._first_tries(attempts)] if cases else []
            calm = iter(self._play([one for one, outcome in zip(attempts, tries, strict=True) if not outcome.ended]))
            return [
                (case, _ended(case.attempt, outcome) if outcome.ended else next(calm))
                for case, outcome in zip(cases, tries, strict=True)
            ]

        return self.once("played cases", play)

    # -- the verifier -------------------------------------------------------------------------------------------------

    @check(
        fix="Take all chance from `self.seed` (`random.Random(self.seed)`), and the time from nowhere; set "
        "`deterministic = False` where a judge or a physical system decides."
    )
    def test_verifier_is_deterministic(self) -> None:
        """
        The same replies earn the same reward, with the same parts and metrics, every time.

        A reward that is partly chance is noise in every gradient, and no result can be reproduced.
        """
        if not self.deterministic:
            raise SkipTest("the environment says that it is not deterministic")
        unsteady = self._unsteady()
        assert not unsteady, _listed(unsteady)

    @check(
        fix="Sort what comes out of a set before it matters, and use `hashlib` instead of `hash()`, which differs in "
        "each process; keep no state in files or environment variables."
    )
    def test_verifier_does_not_depend_on_the_process(self) -> None:
        """
        The same replies earn the same reward in another process, in which hashes are salted differently.

        A run is played by many workers, and resumed by others.
        """
        self._require_steady()
        outcomes = [outcome for _, outcome in self._outcomes("again")]
        faults = []
        for (attempt, rollout), outcome in zip(self._played(), outcomes, strict=True):
            if rollout.reward is None:
                continue
            seen = (outcome.reward, outcome.parts, outcome.metrics)
            here = (rollout.reward.value, rollout.reward.parts, rollout.reward.metrics)
            if outcome.failure is not None:
                faults.append(f"{attempt.told()} fails elsewhere: {_told_failure(outcome.failure)}")
            elif seen != here:
                faults.append(f"{attempt.told()} earns {_shown(here)} here, and {_shown(seen)} elsewhere")
        assert not faults, _listed(faults)

    @check(fix="Keep state in plain attributes of the instance; nothing that a rollout changes belongs to the class.")
    def test_verifier_does_not_depend_on_order(self) -> None:
        """
        Attempts earn the same when they are played in the opposite order.

        Rollouts end in any order, and a reward must not depend on what else was verified before.
        """
        self._require_steady()
        replayed = self._replayed()[::-1]
        again = self._play([attempt for attempt, _ in replayed])
        faults = _differing(replayed, again)
        assert not faults, _listed(faults)

    @check(fix="Copy what you change: `items = [dict(item) for item in trajectory.items]`.")
    def test_verifier_changes_nothing(self) -> None:
        """
        The verifier leaves the trajectory and the task as they are.

        The trajectory is what a trainer learns from, and it is written down after the verifier has seen it.
        """
        faults = [
            f"{job.told}: the verifier changes {', '.join(outcome.changed[:3])}"
            for group in ("again", "hostile")
            for job, outcome in self._outcomes(group)
            if outcome.changed
        ]
        assert not faults, _listed(faults)

    @check(
        fix="Parse what the model wrote instead of running it: `ast.literal_eval`, `json`, `yaml.safe_load`, a small "
        "calculator over `ast`. What must run belongs into a sandbox; then set `executes_code`."
    )
    def test_model_output_is_not_executed(self) -> None:
        """
        Nothing that a model writes is run, imported, opened or formatted as code, by tools or verifier.

        Model output is hostile: training finds every way to the reward, and some lead through your machine.
        """
        if self.executes_code:
            raise SkipTest("it runs what a model writes on purpose (executes_code)")
        faults = [
            f"{job.told}: {what}"
            for group in ("canary", "bait")
            for job, outcome in self._outcomes(group)
            for what in outcome.found
        ]
        assert not faults, _listed(faults)

    @check(
        fix="Bound what is computed: no nested quantifiers in patterns (`(a+)+`), a limit on the length of what is "
        "matched, and no powers or factorials of numbers that the model chose."
    )
    def test_verifier_finishes_in_time(self) -> None:
        """
        Tools and verifier are done within `verify_timeout_s`, also with texts made to keep a pattern or a sum busy.

        The event loop is shared: one verifier that hangs stops every rollout of the run.
        """
        faults = [
            f"{job.told}: {outcome.ended or _told_failure(outcome.failure)}"
            for group in ("bait", "canary", "again")
            for job, outcome in self._outcomes(group)
            if outcome.ended or (outcome.failure is not None and _is_late(outcome.failure))
        ]
        assert not faults, _listed(faults)

    # -- whole rollouts -----------------------------------------------------------------------------------------------

    @check(
        fix="Keep the state of a rollout in attributes that `open()` sets; a list or dictionary in the class's body, a "
        "global, or a default argument is shared by all."
    )
    def test_rollouts_share_no_state(self) -> None:
        """
        Two hundred rollouts at once, solved and unsolved ones of different tasks, earn what each earns alone.

        That is how they are played, and what leaks from one into another is a wrong reward that nobody notices.
        """
        self._require_steady()
        replayed = self._replayed()
        if not replayed:
            raise SkipTest("nothing was scored: see test_attempts_are_scored")
        # Where a verifier computes for long, and many must wait for it, that is no time-out of theirs.
        alone_s = sum(rollout.duration_s for _, rollout in replayed) / len(replayed)
        count = max(2, min(self.concurrency, int(3 * self.timeout_s / alone_s) if alone_s > 0 else self.concurrency))
        limit_s = self.timeout_s + 2 * count * alone_s
        # In strides, so that neighbours are of different tasks and different kinds.
        stride = next(
            step for step in range(len(replayed) // 2 + 1, len(replayed) * 2 + 2) if _is_coprime(step, len(replayed))
        )
        mixed = [replayed[number * stride % len(replayed)] for number in range(count)]
        together = self._play([attempt for attempt, _ in mixed], at_once=count, limit_s=limit_s)
        faults = _differing(mixed, together, how=f", among {count} at once,")
        assert not faults, _listed(faults)

    @check(fix="Leave calling `close()` to gymcore, which calls it once however a rollout ends; let it raise nothing.")
    def test_close_is_called_once(self) -> None:
        """
        A rollout is closed exactly once, and quietly, after success, a model's error, a time-out and a cancellation.

        Closing twice gives away what another rollout has taken in the meantime; an error while closing leaks the rest.
        """
        faults = self._leftovers().closing
        assert not faults, _listed(faults)

    @check(
        fix="Close in `close()` what `open()` and the tools have opened: files, sockets, processes, tasks, threads; "
        "use `with` inside a tool, and `shared()` for what all rollouts use."
    )
    def test_nothing_is_left_open(self) -> None:
        """
        After success, a model's error, a time-out and a cancellation nothing is left: files, sockets, tasks, threads.

        A run plays a million rollouts in one process, which may have a thousand files open.
        """
        faults = self._leftovers().left
        assert not faults, _listed(faults)

    def _leftovers(self) -> Any:
        if self._isolation() == "process":
            raise SkipTest("it plays in a process of its own, which takes with it what it leaves")
        return self.once("leftovers", self._find_leftovers)

    def _find_leftovers(self) -> Any:
        ended = [job.told for group in ("again", "valid") for job, outcome in self._outcomes(group) if outcome.ended]
        if ended:
            raise SkipTest(f"it would end this interpreter, or never come back ({ended[0]})")
        where, row = self._rows()[0]
        solutions = self._solutions()
        script = [reply for reply in (solutions[0][0].replies if solutions else ()) or () if isinstance(reply, Reply)]
        if solutions:
            where, row = solutions[0][0].where, solutions[0][0].row
        if not script:
            for name, tool in self.environment().tools.items():
                script += [_calling(name, json.dumps(arguments)) for arguments in valid_arguments(tool, 1)]
            script.append(says("Done."))
        attempts = {
            "success": Attempt("success", where, row, tuple(script)),
            "a model's error": Attempt("a model's error", where, row, (*script[:1], ModelError("the model gives up"))),
            "a model's bug": Attempt("a model's bug", where, row, (*script[:1], ZeroDivisionError("a bug"))),
        }
        return find_leftovers(self.environment(), attempts, self.options(), self.judges or {})

    @check(fix="Use only what JSON has: texts without lone surrogates, finite numbers, keys that are texts.")
    def test_rollout_survives_json(self) -> None:
        """
        A rollout that is written to `rollouts.jsonl` and read back is the same.

        What cannot be written stops a run, and what reads back as something else is trained on.
        """
        faults = [
            f"{attempt.told()}: {why}"
            for attempt, rollout in self._played()
            if (why := unwritable(rollout)) is not None
        ]
        if not faults:
            faults = [
                f"{job.told}: {outcome.line}"
                for group in ("valid", "hostile", "bait")
                for job, outcome in self._outcomes(group)
                if outcome.line
            ]
        assert not faults, _listed(faults)


# -- wording and small questions --------------------------------------------------------------------------------------


def _listed(faults: Iterable[str], count: int | None = None) -> str:
    """Name the first faults and count the others; one that stands there twice, once."""
    found = list(dict.fromkeys(faults))
    more = max(len(found), count or 0) - _SHOWN
    shown = found[:_SHOWN] if more > 0 else found
    return "\n".join([*shown, *([f"... and {more} more"] if more > 0 else [])])


def _told_failure(failure: Mapping[str, Any] | None) -> str:
    if failure is None:
        return "it fails"
    if failure["error"] == "Ended":
        return str(failure["message"])
    place = f" ({failure['location']})" if failure.get("location") else ""
    return f"fails in {failure['stage']} with {failure['error']}: {failure['message'][:300]}{place}"


def _told_warning(warning: Any) -> str:
    return f"{warning.message}: {', '.join(warning.examples)}"


def _job_of(group: str, sort: str, attempt: Attempt) -> Job:
    replies = None
    if attempt.replies is not None:
        replies = [reply_to_json(reply) for reply in attempt.replies if isinstance(reply, Reply)]
    return Job(group, f"{group}/{sort}", attempt.told(), attempt.row, replies)


def _ended(attempt: Attempt, outcome: Outcome) -> Rollout:
    """Return the failure of an attempt that has ended its interpreter."""
    failure = Failure(stage="verify", error="Ended", message=str(outcome.ended), retryable=False)
    row = {**attempt.row, "environment": "under_test"}
    return Rollout(Row(encode_json(row), row), 0, Trajectory(), failure=failure)


def _other_seed() -> int:
    """Return another seed of hashes than this interpreter has: what goes through a set is the first to differ."""
    return 1 if os.environ.get("PYTHONHASHSEED") != "1" else 2


def _is_about_finite(failure: Mapping[str, Any]) -> bool:
    """Whether a verifier failed because its reward is NaN or infinite."""
    return bool(failure["error"] == "ValidationError" and "finite" in failure["message"])


def _is_late(failure: Mapping[str, Any]) -> bool:
    """Whether a rollout failed because a tool or the verifier took too long."""
    return failure["stage"] == "timeout" or "took longer than" in failure["message"]


def _is_not_finite(rollout: Rollout) -> bool:
    return rollout.failure is not None and _is_about_finite(rollout.failure.model_dump())


def _differing(played: Sequence[tuple[Attempt, Rollout]], *again: Sequence[Rollout], how: str = "") -> list[str]:
    """Say which attempts came out otherwise when all were played again, in the same order, once or more often."""
    return [
        f"{attempt.told()}{how} {difference}"
        for (attempt, first), *others in zip(played, *again, strict=True)
        if (difference := _first_difference(first, others))
    ]


def _first_difference(first: Rollout, others: Iterable[Rollout]) -> str | None:
    """Say how rollouts with the same replies differ from the first; None where they do not."""
    for other in others:
        if other.failure is not None:
            return f"fails when it is played again: {_told_failure(other.failure.model_dump())}"
        if first.reward != other.reward and first.reward is not None and other.reward is not None:
            before = (first.reward.value, first.reward.parts, first.reward.metrics)
            after = (other.reward.value, other.reward.parts, other.reward.metrics)
            return f"earns {_shown(after)}, and alone, before, {_shown(before)}"
    return None


def _shown(reward: tuple[Any, Any, Any]) -> str:
    value, parts, metrics = reward
    return " ".join(
        [f"{value:g}" if value is not None else "nothing", *(str(item) for item in (parts, metrics) if item)]
    )


def _is_within(reward: float, low: float, high: float) -> bool:
    """Whether a reward is in its range, but for the rounding of a sum."""
    margin = 1e-9 * max(1.0, abs(low), abs(high))
    return low - margin <= reward <= high + margin


def _is_coprime(left: int, right: int) -> bool:
    return math.gcd(left, right) == 1


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _digests(row: Mapping[str, Any], named: Collection[str]) -> tuple[bytes, bytes, bytes]:
    """Return digests of what a row says, of what of it the task model names, and of its prompt."""
    prompt = {"responses_create_params": row.get("responses_create_params")}
    own = {key: row[key] for key in row if key in named and key not in Task.model_fields}
    said = {
        key: value
        for key, value in row.items()
        if key not in ROUTE_KEYS and (key in named or key.lower() not in _NAMES)
    }
    task = {**prompt, **own} if any(name not in Task.model_fields for name in named) else said
    content, tasked, asked = (
        hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).digest()
        for value in (said, task, prompt)
    )
    return content, tasked, asked


def _calling(name: str, arguments: str) -> Reply:
    return Reply((ToolCall(name, arguments),))


def _replies(attempt: Attempt) -> list[Reply]:
    return [reply for reply in attempt.replies or () if isinstance(reply, Reply)]


def _last_words(replies: Sequence[Reply | Exception]) -> str:
    parts = [part for reply in replies if isinstance(reply, Reply) for part in reply.parts]
    return parts[-1] if parts and isinstance(parts[-1], str) else ""


def _with_answer(replies: Sequence[Reply], answer: str) -> list[Reply]:
    """Return a script whose last words are others."""
    return [*(reply for reply in replies if any(isinstance(part, ToolCall) for part in reply.parts)), says(answer)]


def _with_call(replies: Sequence[Reply], name: str, arguments: str) -> list[Reply] | None:
    """Return a script whose last call of a tool has other arguments; None where it does not call that tool."""
    for number in range(len(replies) - 1, -1, -1):
        parts = replies[number].parts
        if any(isinstance(part, ToolCall) and part.name == name for part in parts):
            changed = tuple(
                ToolCall(name, arguments) if isinstance(part, ToolCall) and part.name == name else part
                for part in parts
            )
            return [*replies[:number], Reply(changed), *replies[number + 1 :]]
    return None


def _says_something(schema: Any) -> bool:
    """Whether a schema says what fits."""
    if not isinstance(schema, dict):
        return False
    if schema.get("type") == "array":
        return _says_something(schema.get("items", {}))
    if schema.get("type") == "object":
        inner = schema.get("additionalProperties", schema.get("properties"))
        return inner is not True and inner is not None
    return any(key in schema for key in ("type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref"))


def _has_description(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> bool:
    if str(schema.get("description", "")).strip():
        return True
    target = definitions.get(str(schema.get("$ref", "")).rpartition("/")[2])
    return isinstance(target, dict) and bool(str(target.get("description", "")).strip())


def _read_case(line: bytes, where: str) -> _Case:
    """
    Read a case: a row, replies and a reward; or a line of `rollouts.jsonl`.

    Raises:
        DataError: it is neither.
    """
    from gymcore.errors import Problem

    try:
        value = decode_json(line)
        if "response" in value:
            rollout = Rollout.from_line(line)
            row = {key: item for key, item in value.items() if key not in (*ROLLOUT_KEYS, *ROUTE_KEYS)}
            assert rollout.reward is not None
            return _Case(where, Attempt("case", where, row, replies_of(rollout.trajectory)), rollout.reward.value)
        replies = tuple(reply_from_json(reply) for reply in value["replies"])
        return _Case(where, Attempt("case", where, value["row"], replies), float(value["reward"]))
    except (DocumentError, KeyError, TypeError, ValueError) as error:
        hint = 'a case is {"row": {...}, "replies": [...], "reward": NUMBER}, or a line of rollouts.jsonl'
        told = f"not a case: {type(error).__name__}: {error}"
        raise DataError([Problem(told, where=where, hints=(hint,))], count=1, rows=1) from None
