"""
`gym doctor`: whether this installation is well, and the disk that a run folder lies on keeps its promises.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing, redirect_stdout
from pathlib import Path

import click

from gymcore.cli.printable import printable
from gymcore.cli.seconds import Seconds
from gymcore.cli.signals import interrupted_once
from gymcore.discovery import discover
from gymcore.discovery.requirements import Installed
from gymcore.doctor import Check, examine
from gymcore.errors import GymcoreError, PluginError

__all__ = ["command"]


@click.command("doctor")
@click.argument("folder", required=False, default="runs", type=click.Path(path_type=Path))
@click.option("--endpoint", metavar="URL", help="Also ask the OpenAI-compatible endpoint at an address.")
@click.option("--model", metavar="NAME", help="Also ask a model.")
@click.option("--plan", metavar="FILE", help="Also ask every model of a plan.")
@click.option("--set", multiple=True, metavar="KEY=VALUE", help="Set anything in the plan of what is asked.")
@click.option(
    "--timeout",
    type=Seconds(min=0.1, max=3600),
    default=30.0,
    metavar="SECONDS",
    help="How long a model may take to answer; 30, where nothing is said.",
)
@click.option(
    "--crash", "times", type=click.IntRange(min=1, max=100_000), metavar="N", help="Also interrupt work N times a kind."
)
@click.option("--seed", type=int, default=0, metavar="N", help="Where to interrupt it; 0, where nothing is said.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@interrupted_once()
def command(
    folder: Path,
    endpoint: str | None,
    model: str | None,
    plan: str | None,
    set: tuple[str, ...],
    timeout: float,
    times: int | None,
    seed: int,
    as_json: bool,
) -> int:
    """
    Look whether this installation is well: its Python, whose command `gym` is, every plugin, what each of them needs,
    and the disk on which FOLDER (runs, where nothing is said) lies.

    Nothing is imported of a plugin, unless a model is to be asked: with --endpoint, --model or --plan it is sent one
    short question, by its own code.

    With --crash, also find out what a crash costs on that disk: N processes that collect are killed, N lines are torn,
    the power is cut after N operations (as recorded and damaged by rule), and the disk is full at N places. All of it
    happens in a scratch folder inside FOLDER, which is removed afterwards.

    The exit code is 1 when anything is not well; what to try is said below it. A wrong request (a plan that cannot be
    read, a folder that cannot be written) is 2 and a disk that fails 5, when everything else has been looked at.

    \b
    gym doctor
    gym doctor --endpoint http://127.0.0.1:8000/v1
    gym doctor --crash 50 /data/runs
    """
    _refuse_half_a_question({"--endpoint": endpoint, "--model": model, "--plan": plan}, set)
    errors: list[GymcoreError] = []
    is_new = not folder.exists()
    try:
        checks = _told(_installation(), as_json)
        if endpoint or model or plan:
            settings = _settings(endpoint, set)
            asked = "openai_model" if endpoint and not model else model
            checks += _told(_tried("model", lambda: _answers(plan, asked, settings, timeout), errors), as_json)
        disk = _told(_tried("folder", lambda: _looked(folder), errors), as_json)
        checks += disk
        if times is not None and all(check.is_well for check in disk):
            if sys.stderr.isatty():
                click.echo(f"interrupting work in four ways, {times:,} times each ...", err=True)
            checks += _told(_tried("crash", lambda: _crashed(folder, times, seed), errors), as_json)
    finally:
        if is_new and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    if as_json:
        value = {"folder": str(folder), "seed": seed, "checks": [check.to_dict() for check in checks]}
        click.echo(json.dumps(value, indent=2, ensure_ascii=False))
    return _verdict(checks, errors)


def _refuse_half_a_question(asked: Mapping[str, str | None], settings: Sequence[str]) -> None:
    """
    Look whether it is said who is to be asked.

    Raises:
        click.UsageError: it is not.
    """
    for option, said in asked.items():
        if said == "":
            raise click.UsageError(f"{option} is empty; say which, or leave it out")
    if settings and not any(asked.values()):
        raise click.UsageError("--set is for what is asked; add --endpoint, --model or --plan")


def _verdict(checks: Iterable[Check], errors: Iterable[GymcoreError]) -> int:
    """Say in one line what is not well, and return the exit code."""
    # That a plugin cannot be used is what the doctor is to find out; anything else it could not do its work for.
    errors = [error for error in errors if not isinstance(error, PluginError)]
    for error in errors:
        click.echo(f"{type(error).__name__}: {error}", err=True)
    bad = dict.fromkeys(check.name for check in checks if not check.is_well)
    if bad:
        click.echo(f"not well: {', '.join(bad)}", err=True)
    return errors[0].exit_code if errors else int(bool(bad))


def _settings(endpoint: str | None, settings: Iterable[str]) -> tuple[str, ...]:
    return (*([f"models.policy.config.base_url={endpoint}"] if endpoint else []), *settings)


def _installation() -> Generator[Check, None, None]:
    catalog, wrong = None, None
    with redirect_stdout(sys.stderr):
        try:
            catalog = discover()
        except Exception as error:
            wrong = _for_want_of_needs("plugins", error)
    yield from examine(catalog, os.environ)
    if wrong is not None:
        yield wrong


def _tried(
    name: str, checks: Callable[[], Generator[Check, None, None]], errors: list[GymcoreError]
) -> Generator[Check, None, None]:
    """Yield checks, and one that is not well where they end with an error: the rest is looked at all the same."""
    try:
        yield from checks()
    except GymcoreError as error:
        errors.append(error)
        message, *more = str(error).splitlines()
        yield Check(name, False, message, tuple(line.strip() for line in more))
    except Exception as error:
        yield _for_want_of_needs(name, error)


def _for_want_of_needs(name: str, error: Exception) -> Check:
    """Explain an error where gymcore itself does not have what it needs; else it is a bug of ours, and raised."""
    if not Installed().clashes("gymcore"):
        raise error
    remark = "try: first install what gymcore needs, as is said above or below"
    return Check(name, False, f"cannot be looked at: {type(error).__name__}: {error}", (remark,))


def _looked(folder: Path) -> Generator[Check, None, None]:
    from gymcore.doctor.disk import look

    yield from look(folder)


def _crashed(folder: Path, times: int, seed: int) -> Generator[Check, None, None]:
    from gymcore.doctor.crashes import crash

    yield from crash(folder, times, seed)


def _answers(
    plan: str | None, model: str | None, settings: tuple[str, ...], limit_s: float
) -> Generator[Check, None, None]:
    """Ask every model of a plan, one after the other."""
    from gymcore.cli.plan_options import PlanFlags
    from gymcore.composition.routes import Resolver
    from gymcore.doctor.endpoint import ask
    from gymcore.errors import PlanError
    from gymcore.plan import load_environ

    text = PlanFlags(plan=plan, model=model, set=settings).to_plan()
    if text.plan is None or text.problems:
        raise PlanError(text.problems, source=text.source)
    with redirect_stdout(sys.stderr):
        resolver = Resolver(text.plan, discover(), load_environ(), text.locate, text.source)
        resolver.resolve_models()
        resolver.raise_errors()
    for choice in resolver.models.values():
        with redirect_stdout(sys.stderr):
            check = ask(choice, limit_s)
        yield check


def _told(checks: Generator[Check, None, None], as_json: bool) -> list[Check]:
    """Gather checks, and show each as soon as it is there; whoever makes them has cleaned up afterwards."""
    found = []
    with closing(checks):
        for check in checks:
            found.append(check)
            if not as_json:
                took = f" ({check.seconds:.1f} s)" if check.seconds else ""
                click.echo(
                    f"{check.name:10} {'well' if check.is_well else 'NOT WELL':9} {printable(check.found)}{took}"
                )
                for remark in check.remarks:
                    click.echo(f"{'':21}{printable(remark)}")
    return found
