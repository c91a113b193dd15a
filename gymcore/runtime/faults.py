"""
Where the faults of plugins end: each is wrapped with the stage of the rollout in which it happened.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Iterable
from contextlib import AbstractContextManager
from types import TracebackType

from gymcore.errors import EndpointError, ModelError
from gymcore.records import Failure, FailureStage

__all__ = ["Fault", "Late", "Told", "describe_fault", "during", "is_cancelled", "told"]

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
        if error is None or isinstance(error, Fault | EndpointError):
            return
        if isinstance(error, asyncio.CancelledError):
            if not is_cancelled():
                raise Fault(self._stage, error) from error
        elif not isinstance(error, KeyboardInterrupt | GeneratorExit):
            # An agent may call tools side by side in a task group, which wraps what was wrapped here already.
            cause = _first_leaf(error)
            if isinstance(cause, Fault | EndpointError):
                raise cause from None
            raise Fault(self._stage, cause) from error


def is_cancelled() -> bool:
    """Whether somebody asked this task to stop; else a CancelledError is an accident of the plugin."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


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
        message=_message_of(error),
        # An endpoint may recover; the same code on the same task will fail again.
        retryable=error.retryable if isinstance(error, ModelError) else isinstance(error, OSError | TimeoutError),
        location=None if is_told or not own else f"{own[-1].filename}:{own[-1].lineno}",
    )


def _message_of(error: BaseException) -> str:
    try:
        text = str(error) or repr(error)
    except Exception:  # an exception class is plugin code too
        text = type(error).__name__
    # What cannot be encoded cannot be written down: a lone surrogate becomes a question mark.
    return text[:MESSAGE_LENGTH].encode("utf-8", "replace").decode()
