"""
`gym run`: play every task of a plan or of a run folder, and collect the rollouts.
"""

from __future__ import annotations

import asyncio
import gc
import shlex
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from gymcore.cli.chosen import chosen_composition
from gymcore.cli.compose import print_notes
from gymcore.cli.locked import locked_option
from gymcore.cli.plan_options import PlanFlags, plan_options
from gymcore.cli.printable import printable
from gymcore.cli.progress import Progress
from gymcore.cli.report import print_report
from gymcore.cli.signals import Signals
from gymcore.cli.talk import talk_shown
from gymcore.cli.watch import Watch
from gymcore.collection import Journal, read_poisoned
from gymcore.composition import Composition, write_composition
from gymcore.discovery import discover
from gymcore.errors import GymcoreError, PluginError
from gymcore.hookspecs import Observers
from gymcore.reporting import Report, report
from gymcore.runtime import RolloutStream
from gymcore.workflow import SWITCHED_OFF, collect_composition, load_observers, run_async

__all__ = ["command"]


@click.command("run")
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@plan_options
@click.option("--out", metavar="FOLDER", help="Where to; runs/<environments>-<digest>, where nothing is said.")
@locked_option
@click.option("--retry-poison", is_flag=True, help="Also play rollouts that ended their worker twice.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON on stdout; talk goes to stderr.")
def command(
    folder: Path | None, flags: PlanFlags, out: str | None, locked: Path | None, retry_poison: bool, as_json: bool
) -> int:
    """
    Play every task and collect the rollouts; the same command again does only what is missing.

    With FOLDER, play what `gym compose` or an earlier run left there.

    \b
    gym run --env example_single_tool_call --env example_multi_step
    gym run runs/mix --model openai_model --set models.policy.config.base_url=http://127.0.0.1:8000/v1
    """
    # stdout is for the report: what plugins print while they are loaded and play is talk.
    signals = Signals()
    with signals.caught():
        with redirect_stdout(sys.stderr):
            run = _prepare(folder, flags, out, locked, signals)
            try:
                result = run.play(retry_poison)
            except GymcoreError as error:
                click.echo(f"{type(error).__name__}: {error}", err=True)
                click.echo(f"what is finished is safe; go on with: gym run {shlex.quote(str(run.folder))}", err=True)
                return error.exit_code
        if as_json:
            click.echo(result.to_json())
        else:
            print_report(result)
        return run.conclude(result)


def _prepare(folder: Path | None, flags: PlanFlags, out: str | None, locked: Path | None, signals: Signals) -> _Run:
    """Find out what to play, and put it into its folder."""
    here = Path().absolute()  # before any plugin is imported, which may go elsewhere
    catalog = discover()
    composition, folder = chosen_composition(folder, flags, out, locked, catalog)
    if composition.plan.collect.executor == "ray":
        from gymcore.runtime.on_ray.cluster import require_ray

        require_ray()  # before anything is written
    progress = Progress(composition.planned())
    observers = load_observers(composition.plan, catalog, progress.say)
    observers.plan(composition.plan.to_dict())
    write_composition(composition, folder if Path().absolute() == here else here / folder)
    _say_what_follows(composition, folder)
    return _Run(composition, folder, here / folder, observers, progress, signals)


def _say_what_follows(composition: Composition, folder: Path) -> None:
    planned = composition.planned()
    parts = ", ".join(f"{name} {count:,}" for name, count in planned.items())
    click.echo(f"{folder}: {sum(planned.values()):,} rollouts planned ({parts})", err=True)
    print_notes(composition)
    if composition.models["policy"].plugin.qualified == "gymcore/oracle" and _is_policy_used(composition):
        click.echo(
            "the model is 'oracle', which plays the reference solutions; for a real endpoint add:\n"
            "  --model openai_model --set models.policy.config.base_url=http://HOST:PORT/v1",
            err=True,
        )


def _is_policy_used(composition: Composition) -> bool:
    return any(route.model == "policy" for route in composition.routes.values())


class _Run:
    """One run in the foreground: progress on the terminal, and signals that stop it."""

    def __init__(
        self,
        composition: Composition,
        folder: Path,
        place: Path,
        observers: Observers,
        progress: Progress,
        signals: Signals,
    ) -> None:
        self._composition = composition
        self.folder = folder
        self._place = place
        """Where the folder is, whatever becomes of the working directory."""
        self._observers = observers
        self._progress = progress
        self._stream: RolloutStream | None = None
        self._journal: Journal | None = None
        self._signals = signals
        self._task: asyncio.Task[Any] | None = None
        self._is_played = False
        signals.leave = progress.restore_terminal

    def play(self, retry_poison: bool) -> Report:
        """Play what is missing, and what is poison where that is wanted."""
        _collect_garbage_rarely()
        with self._progress.shown(), talk_shown(sys.stderr):
            return run_async(self._collect(retry_poison))

    async def _collect(self, retry_poison: bool) -> Report:
        with self._signals.told(self._on_signal), Watch(self._progress.tick):
            self._task = task = asyncio.current_task()
            assert task is not None
            try:
                return await collect_composition(
                    self._composition,
                    self._place,
                    observers=self._observers,
                    on_start=self._on_start,
                    on_durable=self._progress.durable,
                    on_played=self._on_played,
                    complain=lambda line: self._progress.say(printable(line)),
                    retry_poison=retry_poison,
                    shown=self.folder,
                )
            except asyncio.CancelledError:
                if self._signals.count:  # while plugins were opened or closed
                    return replace(report(self._place), folder=self.folder)
                message = "a plugin has cancelled every task of the run, and not only its own"
                raise PluginError(message) from None

    def _on_start(self, stream: RolloutStream, journal: Journal) -> None:
        self._stream = stream
        self._journal = journal
        for line in journal.damaged:
            self._progress.say(f"damaged, set aside in quarantine/, and owed again: {line}")
        if journal.finished:
            self._progress.say(f"{len(journal.finished):,} rollouts are finished already and are not played again")
        self._progress.begin(stream, journal.finished.environments)
        if self._signals.count:
            stream.stop(0.0)

    def _on_played(self) -> None:
        self._is_played = True

    def _on_signal(self, count: int) -> None:
        """Stop first and talk then: the signal may say that there is nobody left to talk to."""
        if self._stream is None:
            self._leave("stopping: the plugins are not opened any further, and nothing is played")
        elif self._is_played and count == 1:
            self._progress.say("all is played and safe, and the plugins are being closed; Ctrl-C again to leave them")
        elif self._is_played:
            self._leave("stopping now; the plugins are left as they are")
        elif count == 1:
            drain_s = self._composition.plan.collect.drain_s
            in_flight = sum(self._stream.status().in_flight.values())
            self._stream.stop(drain_s)
            self._progress.say(
                f"stopping: no new rollouts; {in_flight:,} in flight may finish, up to {drain_s:g} s; "
                "Ctrl-C again to stop now"
            )
        else:
            self._stream.cancel()
            self._progress.say("stopping now; what is in flight is owed again")

    def _leave(self, why: str) -> None:
        assert self._task is not None
        self._task.cancel()
        self._progress.say(why)

    def conclude(self, result: Report) -> int:
        """Say how it ended, and return the exit code."""
        missing = result.total.owed or 0
        again = f"gym run {shlex.quote(str(self.folder))}"
        if self._journal is not None and self._journal.duplicates:
            click.echo(f"{self._journal.duplicates:,} late results of finished rollouts were dropped", err=True)
        if missing <= 0:
            click.echo(f"done: {result.total.finished:,} rollouts in {self.folder / 'rollouts.jsonl'}", err=True)
            if self._composition.plan.check.strict and self._observers.switched_off:
                click.echo(f"{SWITCHED_OFF}: {', '.join(self._observers.switched_off)}", err=True)
                return PluginError.exit_code
            return 0
        if self._signals.count:
            click.echo(f"stopped: {missing:,} rollouts are still owed; go on with: {again}", err=True)
            return 130
        if stopped := self._stream.status().stopped if self._stream is not None else ():
            names = ", ".join(over.environment for over in stopped)
            click.echo(f"stopped, because more of their rollouts failed than max_failures allows: {names}", err=True)
        poisoned = [key for key in read_poisoned(self._place) if self._journal and key not in self._journal.finished]
        if poisoned:
            verb = "rollout is poison: it" if len(poisoned) == 1 else "rollouts are poison: they"
            hint = f"played again only with: {again} --retry-poison"
            click.echo(f"{len(poisoned):,} {verb} ended the process that played it twice; {hint}", err=True)
        click.echo(
            f"not finished: {missing:,} of {result.total.planned:,}, see {self.folder / 'failures.jsonl'}; "
            f"what failed is tried again with: {again}",
            err=True,
        )
        return 1


def _collect_garbage_rarely() -> None:
    """
    Look for garbage less often than Python does by itself, and never in what is loaded by now.

    Rollouts in flight are thousands of live objects, and looking through them for every 700 new ones takes a fifth of
    the CPU time with 1,024 in flight. What makes no cycle is freed at once, as always.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(200_000, 20, 100)
