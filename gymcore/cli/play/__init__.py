"""
`gym play`: one task of an environment, with a person in the place of the model.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Container, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import replace
from io import RawIOBase
from pathlib import Path

import click

from gymcore.builtin.oracle import Oracle
from gymcore.cli.plan_options import PlanFlags
from gymcore.cli.play.conversation import Conversation, QuitError, show_items, show_outcome
from gymcore.cli.play.desk import PERSON, Desk, seated_at
from gymcore.cli.play.screen import Screen
from gymcore.cli.talk import talk_shown
from gymcore.composition import Composition, ModelChoice, Route, compose
from gymcore.composition.configuration import Options
from gymcore.discovery import Catalog, discover
from gymcore.errors import PluginError, RequestError, StorageError
from gymcore.interfaces import Config
from gymcore.plan import load_environ
from gymcore.records import Rollout, RolloutKey, Row
from gymcore.runtime import run
from gymcore.workflow import run_async

__all__ = ["command"]

CLOSING_S = 15.0
"""How long a rollout that is stopped may take to close what it has opened; then it is left behind."""
SOON_S = 0.5
"""After so long a person is told what is waited for."""
DIGEST_LENGTH = 4
"""So many characters of a task's digest are enough to name it, where no other begins with them."""


@click.command("play")
@click.argument("name")
@click.option("--task", default="1", metavar="N|ID", help="Which: its number, from 1, or its id; the first, else.")
@click.option("--split", metavar="NAME", help="The split that it is in; example, where nothing is said.")
@click.option("--agent", metavar="NAME", help="The agent that plays between you and the environment.")
@click.option("--seed", type=int, metavar="N", help="The source of all chance.")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Set anything in the plan, by its key path."
)
@click.option("--out", metavar="FILE", help="Add the rollout to a file, as a line of JSON; else nothing is written.")
def command(
    name: str,
    task: str,
    split: str | None,
    agent: str | None,
    seed: int | None,
    settings: tuple[str, ...],
    out: str | None,
) -> int:
    """
    Play one task of the environment NAME, and be the model: read, call tools, answer, and see the reward.

    What you type is the model's answer; /TOOL calls a tool, and /help lists what else there is. The rollout is played
    as in a run, with its agent, its options and its prompt; only your thinking takes no time.

    Lines may come from a file or a pipe. Where they end before the rollout does, it is scored as it is, like a reply
    that was cut off. The exit code is 0 when there is a reward, or you left with /quit, and 1 when the rollout failed.

    \b
    gym play example_single_tool_call
    gym play example_multi_step --task 3 --set environments.example_multi_step.prompt.system='Be brief.'
    """
    if out == "":
        raise click.UsageError("--out is empty; it names a file, such as rollouts.jsonl")
    screen = Screen(sys.stdout)
    file = None if out is None else Path(out).absolute()  # before any plugin is imported, which may go elsewhere
    with redirect_stdout(sys.stderr):
        catalog = discover()
        flags = PlanFlags(env=[name], split=split, agent=agent, seed=seed, set=settings, model=PERSON.qualified)
        catalog = replace(catalog, plugins=(*catalog.plugins, replace(PERSON, version=_version())))
        composition = compose(flags.to_plan(), catalog, environ=load_environ())
        row, number = _choose(composition, task)
    with _opened(file) as lines, talk_shown(sys.stderr):
        try:
            rollout = _Game(composition, catalog, row, screen).play(number)
        except KeyboardInterrupt:
            screen.note("stopped: nothing was scored")
            return 130
        if rollout is None:
            screen.note("left: nothing was scored")
            return 0
        if file is not None and lines is not None:
            line = rollout.to_failure_line() if rollout.reward is None else rollout.to_line()
            _add(line, lines, file)
            screen.note(f"added to {out}")
    return 0 if rollout.failure is None else 1


def _version() -> str:
    from gymcore import __version__

    return __version__


def _choose(composition: Composition, wanted: str) -> tuple[Row, int]:
    """
    Find the task that is meant: by its number, or by its id, of which the beginning of the digest is enough.

    Raises:
        RequestError: there is none, or there are several.
    """
    rows = composition.dataset
    if wanted.isdecimal():
        number = int(wanted)
        if not 1 <= number <= len(rows):
            raise RequestError(f"there is no task {wanted}", where="--task", hints=[f"there are {len(rows):,}, from 1"])
        return next(_rows(rows, number - 1)), number
    found = []
    for number, row in enumerate(rows, start=1):
        task_id = row.identity[1]
        if task_id == wanted:
            return row, number
        digest = task_id.rpartition("/")[2]
        if len(wanted.rpartition("/")[2]) >= DIGEST_LENGTH and (
            task_id.startswith(wanted) or digest.startswith(wanted)
        ):
            found.append((row, number))
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(row.identity[1] for row, _ in found[:3])
        raise RequestError(f"{len(found):,} tasks begin with {wanted!r}", where="--task", hints=[f"such as {ids}"])
    first = next(_rows(rows, 0)).identity[1]
    hints = [f"try: a number from 1 to {len(rows):,}, or an id such as {first}"]
    raise RequestError(f"no task has the id {wanted!r}", where="--task", hints=hints)


def _rows(rows: Iterable[Row], start: int) -> Iterator[Row]:
    from itertools import islice

    return islice(rows, start, None)


@contextmanager
def _opened(file: Path | None) -> Iterator[RawIOBase | None]:
    """
    Open a file to add a line to, before anybody plays for it; one that is new and stays empty is removed.

    Raises:
        StorageError: it cannot be opened.
    """
    if file is None:
        yield None
        return
    is_new = not file.exists()
    with _naming(file):
        # Without a buffer: what was not written must not be tried again when it is closed.
        lines = file.open("a+b" if file.is_file() else "ab", buffering=0)
    try:
        with lines:
            yield lines
    finally:
        with suppress(OSError):  # somebody has removed it
            if is_new and not file.stat().st_size:
                file.unlink()


def _add(line: bytes, lines: RawIOBase, file: Path) -> None:
    """
    Add a line to a file, all of it or nothing; the last one that is there is ended first, where it is not.

    Raises:
        StorageError: it cannot be written.
    """
    with _naming(file):
        size = lines.seek(0, os.SEEK_END) if lines.seekable() else 0
        if size:
            lines.seek(size - 1)
            line = line if lines.read(1) == b"\n" else b"\n" + line
        left = memoryview(line + b"\n")
        try:
            while left:
                left = left[lines.write(left) :]
        except OSError:
            with suppress(OSError):
                lines.truncate(size)
            raise


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    """Say which file could not be written, and why."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"the rollout cannot be written: {error.strerror}", where=str(file)) from None


class _AllBut(Container[RolloutKey]):
    """Everything counts as finished, apart from one rollout."""

    def __init__(self, row: Row) -> None:
        self._owed = (*row.identity, 0)

    def __contains__(self, key: object) -> bool:
        return key != self._owed


class _Game:
    """
    One rollout in a thread of its own, and the person in this one.

    Args:
        composition: What is played; its policy is the person.
        catalog: What is installed.
        row: The task.
        screen: Where it is shown.
    """

    def __init__(self, composition: Composition, catalog: Catalog, row: Row, screen: Screen) -> None:
        self._composition = composition
        self._catalog = catalog
        self._row = row
        self._screen = screen
        self._desk = Desk()
        self._task: asyncio.Task[Rollout] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._outcome: Future[Rollout] = Future()

    @property
    def _route(self) -> Route:
        return self._composition.routes[self._row.value["agent_ref"]["name"]]

    def play(self, number: int) -> Rollout | None:
        """Play, and return the rollout; None where the person left before its end."""
        route = self._route
        self._show_title(number)
        solution = self._play_solution if route.environment_class.is_solvable() else None
        conversation = Conversation(self._screen, self._row.value, solution)
        thread = threading.Thread(target=self._work, name="gymcore-play", daemon=True)
        thread.start()
        try:
            while (question := self._desk.next()) is not None:
                conversation.answer(question)
        except BaseException as error:
            self._stop(thread)
            if isinstance(error, QuitError):
                return None
            raise
        rollout = self._outcome.result()
        thread.join(CLOSING_S)
        show_items(self._screen, conversation.unseen(rollout.trajectory.items), rollout.trajectory.items)
        show_outcome(self._screen, rollout)
        return rollout

    def _show_title(self, number: int) -> None:
        route, environment = self._route, self._row.identity[0]
        total = len(self._composition.dataset)
        self._screen.heading(f"{environment}, task {number:,} of {total:,} ({self._row.identity[1]})")
        if route.environment_plugin.manifest.description:
            self._screen.note(route.environment_plugin.manifest.description)
        if route.agent_plugin.name != "simple_agent":
            self._screen.note(f"played by the agent {route.agent_plugin.name}")

    def _work(self) -> None:
        """Play the rollout; the thread of the game."""
        choice = replace(self._composition.models[self._route.model], model_class=seated_at(self._desk))
        try:
            self._outcome.set_result(run_async(self._playing(choice)))
        except BaseException as error:
            self._outcome.set_exception(error)
        finally:
            self._desk.close()

    async def _playing(self, choice: ModelChoice) -> Rollout:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        return await self._rollout_of(choice)

    async def _rollout_of(self, choice: ModelChoice) -> Rollout:
        """Play the task once, with a model in the place of its own."""
        models = {**self._composition.models, self._route.model: choice}
        composition = replace(self._composition, models=models)
        async with run(composition, finished=_AllBut(self._row), say=self._screen.note) as rollouts:
            async for rollout in rollouts:
                return rollout
        raise PluginError("the rollout has not ended: a plugin has cancelled every task, and not only its own")

    def _play_solution(self) -> Rollout:
        """Play the same task with the reference solution, beside the rollout that waits."""
        plugin = self._catalog.find("model", "gymcore/oracle")
        choice = ModelChoice(self._route.model, plugin, Oracle, Options(Config(), {}, {}))
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(self._rollout_of(choice), self._loop).result()

    def _stop(self, thread: threading.Thread) -> None:
        """Cancel the rollout, and give it time to close what it has opened; Ctrl-C again does not wait."""
        if self._loop is not None and self._task is not None:
            with suppress(RuntimeError):  # it has just ended
                self._loop.call_soon_threadsafe(self._task.cancel)
        with suppress(KeyboardInterrupt):
            thread.join(SOON_S)
            if thread.is_alive():
                self._screen.note("stopping: what the rollout has opened is being closed; Ctrl-C again to leave it")
                thread.join(CLOSING_S)
