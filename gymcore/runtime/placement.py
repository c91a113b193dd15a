"""
Where an environment plays: the surface behind which it may live in this process or in another.

A session knows only this surface; who implements it decides what a tool call costs and what a crash can reach.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from gymcore.interfaces import BoundModel, Environment
from gymcore.records import Failure, Reward, Task, ToolCall, Trajectory, Turn
from gymcore.responses import Request
from gymcore.runtime.schedule import Planned

__all__ = ["SET_ASIDE", "Instance", "Models", "OnWaiting", "Placement", "is_set_aside"]

SET_ASIDE = "SetAside"
"""The `error` of a failure of the stage `worker` after which no rollout of its environment can be played here."""

OnWaiting = Callable[[bool], None]
"""Told whether an environment waits for what is gone."""

Models = Callable[[Environment[Any, Any]], Mapping[str, BoundModel]]
"""Gives the models that an environment may ask, bound to its rollout."""


def is_set_aside(failure: Failure) -> bool:
    """Whether its environment was set aside; not whether a plugin has an exception that is called so."""
    return failure.stage == "worker" and failure.error == SET_ASIDE


class Instance(Protocol):
    """One environment in one rollout, from its open to its close."""

    @property
    def environment(self) -> Environment[Any, Any]:
        """What the model of the rollout is shown of it; a reference solution is played through this."""

    @property
    def task(self) -> Task:
        """The task, checked."""

    @property
    def request(self) -> Request:
        """What the task asks first, with the tools that are offered."""

    @property
    def max_turns(self) -> int | None:
        """How often the model may reply to it, where the environment says so."""

    async def open(self, on_waiting: OnWaiting) -> None:
        """
        Build it and prepare the rollout.

        Args:
            on_waiting: Told when it begins to wait for what is gone, and when it goes on.
        """

    async def call(self, call: ToolCall) -> str:
        """Carry out a tool call; what the model did wrong is told in the text."""

    async def reply(self, turn: Turn) -> str | None:
        """Return the next user message, or None at the end."""

    async def verify(self, trajectory: Trajectory) -> Reward:
        """Score what happened."""

    async def close(self) -> None:
        """Clean up, once, if `open` was begun."""

    def lost(self) -> Failure | None:
        """Say how the process that played it ended, where it has: every fault after that is a consequence."""


class Placement(Protocol):
    """Makes the instances of one environment of the plan."""

    def instance(self, planned: Planned, seed: int, models: Models) -> Instance:
        """
        Return what plays one rollout; nothing is opened yet.

        Args:
            planned: Which rollout.
            seed: The seed of its world.
            models: The models it may ask.
        """

    async def aggregate_metrics(self, rollouts: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
        """
        Return what the environment says of many rollouts.

        Raises:
            Late: it takes longer than it may.
            TypeError: it says nothing that could be told.
        """

    def status(self) -> str | None:
        """Say in one line what a person should know at this moment; None for nothing."""
