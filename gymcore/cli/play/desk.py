"""
Where a run waits for a person: a model that asks one, and the desk at which it is answered.

The run plays on an event loop in a thread of its own, and the person sits in the main thread: there a terminal can be
read with all its comforts, and Ctrl-C is heard whatever the run does.
"""

from __future__ import annotations

import asyncio
import queue
from dataclasses import dataclass

from gymcore.discovery import Manifest, Plugin
from gymcore.errors import ModelError
from gymcore.interfaces import Model, RolloutContext
from gymcore.responses import Item, Request, Response

__all__ = ["PERSON", "Desk", "Person", "Question", "seated_at"]


@dataclass(frozen=True)
class Question:
    """A reply that is wanted, and whoever waits for it."""

    request: Request
    attempt: object
    """The same for all questions of one attempt at the rollout."""
    _loop: asyncio.AbstractEventLoop
    _answer: asyncio.Future[Response]

    def answer(self, output: list[Item], *, is_end: bool = False) -> None:
        """
        Give the reply; may be called from any thread.

        Args:
            output: What the person says and asks for, in order.
            is_end: Nobody is there any more: the reply is cut off here.
        """
        keys = {"status": "incomplete", "incomplete_details": {"reason": "end_of_input"}} if is_end else {}
        self._settle(Response(output=output, **{"model": "person", "status": "completed", **keys}))

    def refuse(self, error: Exception) -> None:
        """Let the asking fail."""
        self._settle(error)

    def _settle(self, outcome: Response | Exception) -> None:
        def settle() -> None:
            if self._answer.done():  # the run was stopped
                return
            if isinstance(outcome, Response):
                self._answer.set_result(outcome)
            else:
                self._answer.set_exception(outcome)

        self._loop.call_soon_threadsafe(settle)


class Desk:
    """Questions on their way from the run to the person."""

    def __init__(self) -> None:
        self._questions: queue.SimpleQueue[Question | None] = queue.SimpleQueue()

    async def ask(self, request: Request, attempt: object) -> Response:
        """Put a question there, and wait for its answer."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Response] = loop.create_future()
        self._questions.put(Question(request, attempt, loop, answer))
        return await answer

    def close(self) -> None:
        """Say that nobody will ask any more."""
        self._questions.put(None)

    def next(self) -> Question | None:
        """Wait for the next question; None when there will be none."""
        return self._questions.get()


class Person(Model):
    """The model that `gym play` plays with: whoever sits at the terminal."""

    async def respond(self, request: Request, rollout: RolloutContext) -> Response:
        """Refuse: nobody sits there unless `seated_at` says so."""
        raise ModelError("a person answers in `gym play` only", retryable=False)


PERSON = Plugin("model", "person", "gymcore", "", f"{__name__}:Person", manifest=Manifest(gym_api=1))
"""Not installed, because no run of its own could be played with it; `gym play` adds it to what is."""


def seated_at(desk: Desk) -> type[Person]:
    """Return the model whose person sits at a desk; the rollout's time stands while it is asked."""

    class Seated(Person):
        async def respond(self, request: Request, rollout: RolloutContext) -> Response:
            with rollout.clock.stopped():
                return await desk.ask(request, rollout.stack)  # which every attempt has of its own

    return Seated
