"""
`play` brackets what a run brackets.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gymcore import Environment, Model, Request, Response, RolloutContext
from gymcore.records import Trajectory
from gymcore.responses import message
from gymcore.testing import play


class Bracketed(Model):
    """Answers only while it is open."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Note when."""
        self.seen.append("open")
        yield
        self.seen.append("close")

    async def respond(self, request: Request, rollout: RolloutContext) -> Response:
        """Note when."""
        self.seen.append("respond")
        return Response(output=[message("hi")])


class World(Environment):
    """Takes anything."""

    def verify(self, trajectory: Trajectory) -> float:
        """Score it."""
        return 1.0


def test_models_are_open_while_they_play_and_each_is_opened_once() -> None:
    """
    A model that connects to something can be played with, also where it is the judge as well.
    """
    model = Bracketed()

    rollout = play(World, {"responses_create_params": {"input": "Hello."}}, model, judges={"judge": model})

    assert rollout.failure is None
    assert model.seen == ["open", "respond", "close"]
