"""
The command `gym`: one file per command, loaded when it is asked for, so that `gym --help` costs what click costs.

Exit codes: 0 done; 1 it ran, and something failed; 2 the request is wrong and nothing ran; 3 the endpoint could not be
used; 4 a chosen plugin is broken; 5 the disk failed, or stdout did; 70 a bug of ours; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from contextlib import suppress

import click

from gymcore.cli.lazy_group import LazyGroup
from gymcore.cli.output import be_courteous, lost_output
from gymcore.cli.printable import printable
from gymcore.cli.signals import NUMBERS, Interrupts
from gymcore.errors import GymcoreError, PluginError

__all__ = ["COMMANDS", "command_line", "main"]

THREADS_MAY_TAKE_S = 2.0

COMMANDS = {
    "list": "Show every installed plugin, broken ones too.",
    "show": "Show one plugin: options, tools, splits, and a task.",
    "new": "Write a plugin of your own: a complete package.",
    "check": "Find out what is wrong with a plugin.",
    "play": "Be the model yourself: one task, at the terminal.",
    "compose": "Turn environments into one routed dataset.",
    "export": "Write its rows as a trainer reads them.",
    "run": "Play every task and collect the rollouts.",
    "serve": "Let trainers and clients play over the wire.",
    "data": "Check, describe and prepare dataset files.",
    "report": "Sum up what a run folder holds.",
    "diff": "Say what has moved between two compositions.",
    "explain": "Say where a row of a dataset came from.",
    "doctor": "Look whether this installation is well.",
}
"""Each command with its one-line help; the command itself is `command` in the module of that name."""


def _print_version(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        from gymcore import __version__

        click.echo(f"gymcore {__version__}")
        context.exit()


@click.group(
    cls=LazyGroup, package="gymcore.cli", lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Show it.")
def command_line() -> None:
    """
    Compose installed training environments into one runtime and one routed dataset.

    \b
    gym list
    gym run --env example_single_tool_call --env example_multi_step
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and end the process with its exit code."""
    be_courteous()
    atexit.register(_hear_nothing)  # the first to be registered is the last to be called
    interrupts = Interrupts()
    for number in NUMBERS:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):  # else it was switched off
            signal.signal(number, interrupts)
    code = _exit_code(arguments, interrupts)
    for number in NUMBERS:
        signal.signal(number, lambda number, frame: os._exit(code))  # all is said
    _leave_hanging_threads(code)
    # Python takes an interrupt of a text that it executed, as dataclasses has it do, for one that nobody caught, and
    # would end `python -m gymcore` by a signal; only the next text that it executes makes it forget that.
    exec("")
    sys.exit(code)


def _hear_nothing() -> None:
    """Let no signal give the process another exit code in the moment that Python takes to end: it drops handlers."""
    for number in NUMBERS:
        signal.signal(number, signal.SIG_IGN)


def _leave_hanging_threads(code: int) -> None:
    """End the process here where a plugin left a thread that does not end; Python would wait for it for ever."""
    end = time.monotonic() + THREADS_MAY_TAKE_S
    own = (threading.current_thread(), threading.main_thread())
    for thread in [thread for thread in threading.enumerate() if thread not in own and not thread.daemon]:
        thread.join(max(0.0, end - time.monotonic()))
        if thread.is_alive():
            with suppress(OSError, ValueError, AttributeError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)


def _exit_code(arguments: list[str] | None, interrupts: Interrupts) -> int:
    """Run the command line; whatever comes of it is one line and a documented code."""
    try:
        try:
            code = command_line.main(arguments, prog_name="gym", standalone_mode=False)
        finally:
            interrupts.is_over = True
        return _with_output(code if isinstance(code, int) else 0)
    except click.ClickException as error:
        error.show()
        return 2
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return 130
    except GymcoreError as error:
        for line in f"{type(error).__name__}: {error}".split("\n"):  # which may quote rows and plugins
            click.echo(printable(line.expandtabs()), err=True)
        return error.exit_code
    except BaseException as error:
        return _unexpected(error)


def _with_output(code: int) -> int:
    """Return the exit code of a command that has printed what it had to, or another where that was in vain."""
    error = lost_output()
    if error is None or isinstance(error, BrokenPipeError):  # whoever read a pipe has seen enough
        return code
    click.echo(f"stdout cannot be written: {error.strerror}", err=True)
    return code or 5


def _unexpected(error: BaseException) -> int:
    """Say what nobody expected, with its traceback where it is an error of ours."""
    if isinstance(error, SystemExit | GeneratorExit) or type(error).__name__ == "CancelledError":
        # No code of ours raises these; it is a plugin that ended what is not its own.
        click.echo(f"PluginError: a plugin ended the whole command: {type(error).__name__}: {error}", err=True)
        return 4
    if isinstance(error, ImportError):
        with suppress(Exception):
            from gymcore.discovery.requirements import Installed, remedies_of

            clashes = Installed().clashes("gymcore")
            if clashes:
                wrong = PluginError(
                    f"gymcore {clashes[0].describe()}", hints=[*remedies_of(clashes), "see: gym doctor"]
                )
                click.echo(f"PluginError: {wrong}", err=True)
                return wrong.exit_code
    import traceback

    traceback.print_exception(error)
    click.echo(f"this is a bug of gymcore, please report it: {type(error).__name__}: {error}", err=True)
    return 70
