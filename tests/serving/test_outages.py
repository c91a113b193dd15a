"""
An environment of `gym serve` that waits for what is gone: who is answered meanwhile, and what the others are told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from gymcore import EndpointError, Environment, Model, Response, Trajectory
from gymcore.composition import Composition
from gymcore.interfaces import RolloutContext
from gymcore.responses import Request, message

from .conftest import until

Composed = Callable[..., Composition]
Serving = Callable[..., Any]


class Says(Model):
    """A policy that answers at once."""

    async def respond(self, request: Request, rollout: RolloutContext) -> Response:
        return Response(output=[message("hi")])


class Near(Environment):
    """One that needs nothing."""

    def verify(self, trajectory: Trajectory) -> float:
        return 1.0


class Far:
    """Something that is there, or gone, or gone for too long."""

    def __init__(self) -> None:
        self.is_back = self.is_given_up = False
        self.waiting = 0
        self.tried: list[str] = []

    def needy(self) -> type[Environment]:
        """Return an environment that needs it."""
        far = self

        class Needy(Near):
            async def open(self) -> None:
                far.waiting += 1
                try:
                    while not far.is_back:
                        if not self.is_waiting:
                            far.tried.append(str(self.task.task_id))
                        self.is_waiting = True
                        await asyncio.sleep(0.001)
                        if far.is_given_up:
                            raise EndpointError("it is gone for too long", has_worked=True)
                    self.is_waiting = False
                finally:
                    far.waiting -= 1

        return Needy


def _ask(served: Any, environment: str) -> list[asyncio.Task[httpx.Response]]:
    rows = [row for row in served.rows() if row["environment"] == environment]
    return [asyncio.create_task(served.post("/run", row)) for row in rows]


async def test_others_are_answered_while_something_is_gone(composed: Composed, wire: Serving) -> None:
    """
    Each is played once, with the numbers that it asked for, whether it has left its place meanwhile or not.
    """
    far = Far()
    composition = composed({"a": (Near, 5), "b": (far.needy(), 12)}, Says, collect={"concurrency": 3})
    async with wire(composition) as served:
        waiting = _ask(served, "b")
        await until(lambda: far.waiting == 1)
        near = await asyncio.gather(*_ask(served, "a"))
        late = _ask(served, "b")
        await asyncio.gather(*_ask(served, "a"))
        await until(lambda: served.served.on_demand.in_flight["b"] == 1)
        far.is_back = True
        replies = await asyncio.gather(*waiting, *late)

    assert [reply.status_code for reply in near] == [200] * 5
    assert [reply.status_code for reply in replies] == [200] * 24
    assert len(far.tried) <= 3
    keys = sorted((line["task_id"], line["repeat"]) for line in served.lines() if line["environment"] == "b")
    assert keys == sorted((f"b/{number}", repeat) for number in range(12) for repeat in range(2))


async def test_what_is_gone_for_too_long_fails_all_who_wait_for_it(composed: Composed, wire: Serving) -> None:
    """
    At once, and not one after the other; whoever comes later waits anew.
    """
    far = Far()
    composition = composed({"a": (Near, 1), "b": (far.needy(), 10)}, Says, collect={"concurrency": 3})
    async with wire(composition) as served:
        waiting = _ask(served, "b")
        await until(lambda: far.waiting == 1 and len(served.served.on_demand._queued) == 9)
        await asyncio.gather(*_ask(served, "a"))  # whose turn comes after theirs
        tried = len(far.tried)
        far.is_given_up = True
        replies = await asyncio.gather(*waiting)
        far.is_given_up, far.is_back = False, True
        again = await asyncio.gather(*_ask(served, "b"))

    assert len(far.tried) == tried
    assert {reply.status_code for reply in replies} == {500}
    errors = [reply.json()["error"] for reply in replies]
    assert all(error == errors[0] for error in errors)
    assert (errors[0]["stage"], errors[0]["retryable"]) == ("open", True)
    assert "gone for too long" in errors[0]["message"]
    assert [reply.status_code for reply in again] == [200] * 10


@pytest.mark.parametrize("how", ["stop", "cancel"])
async def test_who_has_left_its_place_is_told_at_once_that_the_server_stops(
    composed: Composed, wire: Serving, how: str
) -> None:
    """
    As who has kept it.
    """
    far = Far()
    async with wire(composed({"b": (far.needy(), 6)}, Says, collect={"concurrency": 2})) as served:
        waiting = _ask(served, "b")
        await until(lambda: len(served.served.on_demand._queued) == 5)
        if how == "stop":
            await asyncio.wait_for(served.served.on_demand.close(3600), 60)
        else:
            served.served.on_demand.cancel()
        replies = await asyncio.gather(*waiting)

    assert [reply.status_code for reply in replies] == [503] * 6
    assert all("stopping" in reply.json()["error"]["message"] for reply in replies)
    assert served.lines() == []
