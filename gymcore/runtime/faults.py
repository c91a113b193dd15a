"""
Where the faults of plugins end: each is wrapped with the stage of the rollout in which it happened.
"""

from __future__ import annotations

import asyncio
import functools
import signal
import threading
import traceback
from collections.abc import Iterable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from gymcore.errors import EndpointError, ModelError
from gymcore.records import Failure, FailureStage

__all__ = [
    "Fault",
    "Late",
    "Told",
    "cancelled_by_plugin",
    "describe_fault",
    "during",
    "is_cancelled",
    "is_from_outside",
    "is_interrupt",
    "message_of",
    "told",
]

MESSAGE_LENGTH = 2000


class Fault(Exception):
    """A fault of a plugin, with the stage in which it happened; the fault itself is the cause."""

    def __init__(self, stage: FailureStage, error: BaseException) -> None:
        self.stage: FailureStage = stage
        self.error = error
        super().__init__(stage)


class Late(TimeoutError):
    """Something took longer than its bound, which the message names."""


class Told(Exception):
    """A fault that was described where it happened, in another process; `told` makes it."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        super().__init__(failure.message)


def told(failure: Failure) -> Told:
    """Return an exception for a failure; its class is called as the original's, because messages name it."""
    named: type[Told] = type(failure.error, (Told,), {})
    return named(failure)


class during(AbstractContextManager[None]):
    """Wrap what plugin code raises while inside, whatever its class; what stops the whole run passes."""

    __slots__ = ("_stage",)

    def __init__(self, stage: FailureStage) -> None:
        self._stage: FailureStage = stage

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, Fault):
            return
        if isinstance(error, EndpointError):
            error.stage = error.stage or self._stage
            return
        if isinstance(error, asyncio.CancelledError):
            if not is_cancelled():
                raise Fault(self._stage, error) from error
            vars(error).setdefault("stage", self._stage)
        elif not is_from_outside(error):
            # An agent may call tools side by side in a task group, which wraps what was wrapped here already.
            cause = _first_leaf(error)
            if isinstance(cause, EndpointError):
                cause.stage = cause.stage or self._stage
            if isinstance(cause, Fault | EndpointError):
                raise cause from None
            raise Fault(self._stage, cause) from error


def is_cancelled() -> bool:
    """
    Whether somebody asked this task to stop; else a CancelledError is an accident of the plugin.

    Who it was, the run, a bound that an agent has set, or the plugin itself, is for whoever started the task to know.
    """
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def is_from_outside(error: BaseException) -> bool:
    """Whether an exception is none of the plugin's: somebody pressed Ctrl-C, or the coroutine is being closed."""
    if isinstance(error, GeneratorExit):
        try:
            return asyncio.current_task() is None
        except RuntimeError:  # the event loop has ended
            return True
    return is_interrupt(error)


def is_interrupt(error: BaseException) -> bool:
    """
    Whether an exception is a KeyboardInterrupt that a signal has raised, and not a plugin.

    Told by where it comes from: a handler in Python is the innermost frame of its traceback. Python's own handler
    leaves no frame, so as long as that one is installed every KeyboardInterrupt is taken for a real one.
    """
    if not isinstance(error, KeyboardInterrupt) or threading.current_thread() is not threading.main_thread():
        return False
    handler: Any = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:
        return True
    if isinstance(handler, functools.partial):  # asyncio's runner
        handler = handler.func
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_code is getattr(handler, "__code__", None)


def _first_leaf(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def describe_fault(stage: FailureStage, error: BaseException, ours: Iterable[str] = ()) -> Failure:
    """
    Write a fault down.

    Args:
        stage: Where in the rollout it happened.
        error: What was raised.
        ours: Files of the runtime; a fault is located in the last line that stands in none of them.
    """
    if isinstance(error, Told):
        return error.failure
    hidden = {__file__, *ours}
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename not in hidden]
    is_told = isinstance(error, ModelError | Late)
    return Failure(
        stage=stage,
        error=TimeoutError.__name__ if isinstance(error, Late) else type(error).__name__,
        message=message_of(error),
        retryable=_is_retryable(error),
        location=None if is_told or not own else f"{own[-1].filename}:{own[-1].lineno}",
    )


def _is_retryable(error: BaseException) -> bool:
    """An endpoint may recover; the same code on the same task will fail again."""
    if isinstance(error, ModelError):
        return bool(getattr(error, "retryable", True))  # a subclass may not have called our constructor
    return isinstance(error, OSError | TimeoutError)


def cancelled_by_plugin(stage: FailureStage) -> Failure:
    """Write down that a rollout was cancelled by somebody who had no business to."""
    text = "the task of the rollout was cancelled, and not by the run: a plugin has called its cancel()"
    return Failure(stage=stage, error=asyncio.CancelledError.__name__, message=text, retryable=False)


def message_of(error: BaseException) -> str:
    """Return what an exception says, as text that can be written down."""
    try:
        text = str(error) or repr(error)
    except BaseException as worse:  # an exception class is plugin code too
        if is_from_outside(worse):
            raise
        text = type(error).__name__
    # What cannot be encoded cannot be written down: a lone surrogate becomes a question mark.
    return text[:MESSAGE_LENGTH].encode("utf-8", "replace").decode()
