"""
What plays in a process of Ray, without Ray: a worker is an ordinary object, and what goes between processes is bytes.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gymcore.cli.plan_options import PlanFlags
from gymcore.composition import Composition, compose
from gymcore.discovery import discover
from gymcore.documents import YamlDocument
from gymcore.errors import EndpointError, GymcoreError, PlanError, PluginError
from gymcore.plan import Plan
from gymcore.records import Failure, Reward, Rollout, Row, Trajectory, Turn
from gymcore.runtime.on_ray.worker import (
    Given,
    RayWorker,
    Setup,
    Taken,
    describe_setup,
    read_error,
    read_rollout,
    write_error,
)
from gymcore.runtime.schedule import Planned

NAME = "example_single_tool_call"


def _composition(**collect: Any) -> Composition:
    plan = Plan.model_validate({"environments": {NAME: {}}, "models": {"policy": "oracle"}, "collect": collect})
    return compose(plan, discover(), environ={})


def _given(composition: Composition) -> dict[int, tuple[Given, Planned]]:
    [route] = composition.routes.values()
    rows = enumerate(composition.dataset)
    return {number: ((number, route.name, row.data, 0, number), Planned(number, route, row, 0)) for number, row in rows}


@asynccontextmanager
async def _opened(setup: Setup) -> AsyncIterator[RayWorker]:
    worker = RayWorker()
    told = await worker.open(setup)
    if isinstance(told, bytes):
        raise read_error(told)
    yield worker
    closed = await worker.close()
    if closed is not None:
        raise read_error(closed)


async def _taken(worker: RayWorker, count: int) -> list[Taken]:
    results: list[Taken] = []
    async with asyncio.timeout(20):
        while len(results) < count:
            results.extend((await worker.take(5))[0])
    return results


def test_a_worker_plays_what_it_is_given_from_bytes_alone() -> None:
    """
    Rows arrive as bytes, and what comes back completes the rollout that was asked for.
    """
    composition = _composition()
    given = _given(composition)

    async def play() -> list[Taken]:
        async with _opened(describe_setup(composition, is_here=False)) as worker:
            await worker.give([given for given, _ in given.values()])
            return await _taken(worker, len(given))

    results = asyncio.run(play())

    assert sorted(ticket for ticket, _, _ in results) == sorted(given)
    assert {what for _, what, _ in results} == {"rollout"}
    for ticket, _, content in results:
        rollout = read_rollout(content, given[ticket][1])
        assert rollout.key == given[ticket][1].key
        assert rollout.reward is not None
        assert rollout.reward.value == 1.0
        assert rollout.trajectory.turns


def test_what_is_given_after_a_cancellation_is_not_played() -> None:
    """
    Calls may overtake each other on their way, and cancelled means that nothing more begins.
    """
    composition = _composition()
    given = _given(composition)

    async def play() -> list[Taken]:
        async with _opened(describe_setup(composition, is_here=False)) as worker:
            await worker.cancel()
            await worker.give([given[0][0]])
            return await _taken(worker, 1)

    assert asyncio.run(play()) == [(0, "cancelled", b"")]


def test_a_worker_that_has_nothing_answers_in_time() -> None:
    """
    Whoever asks hears something at least, so that notes are never old.
    """

    async def ask() -> tuple[list[Taken], tuple[str, ...]]:
        async with _opened(describe_setup(_composition(), is_here=False)) as worker:
            return await worker.take(0.01)

    assert asyncio.run(ask()) == ([], ())


@pytest.mark.parametrize("there", ["0.0.1", None])
def test_a_worker_with_another_version_refuses_and_names_both(there: str | None) -> None:
    """
    What a plugin of another version plays would not be what the lock says.
    """
    setup = describe_setup(_composition(), is_here=False)
    kind, name, here = next(plugin for plugin in setup.plugins if plugin[1].endswith(NAME))
    wanted = (kind, name, "9.9.9") if there else (kind, "gym-plugin-elsewhere/elsewhere", "9.9.9")
    others = tuple(plugin for plugin in setup.plugins if plugin[1] != name)

    async def open_worker() -> None:
        async with _opened(replace(setup, plugins=(*others, wanted))):
            pass

    with pytest.raises(PluginError, match=r"9\.9\.9") as caught:
        asyncio.run(open_worker())

    assert f"{wanted[1]}: composed with 9.9.9, {here if there else 'none'} on " in str(caught.value)
    assert caught.value.plugin == wanted[1]


def test_a_worker_with_another_gymcore_refuses() -> None:
    """
    Nothing else of what it was sent is looked at then.
    """
    setup = replace(describe_setup(_composition(), is_here=False), gymcore="9.9.9", content=b"cannot be read")

    async def open_worker() -> None:
        async with _opened(setup):
            pass

    with pytest.raises(PluginError, match=r"gymcore: composed with 9\.9\.9"):
        asyncio.run(open_worker())


def test_a_rollout_that_cannot_be_sent_is_a_failure() -> None:
    """
    An agent that puts a live object into its trajectory fails its rollout, and not the worker.
    """
    from gymcore.runtime.on_ray.worker import _write_rollout

    planned = _given(_composition())[0][1]
    turn = Turn(output=({"type": "message", "content": (number for number in range(3))},))
    rollout = Rollout(planned.row, 0, Trajectory((turn,)), reward=Reward(value=1.0), provenance={"seed": 3})

    read = read_rollout(_write_rollout(rollout), planned)

    assert read.reward is None
    assert read.failure is not None
    assert (read.failure.stage, read.failure.error, read.failure.retryable) == ("agent", "TypeError", False)
    assert "cannot be sent" in read.failure.message
    assert read.provenance == {"seed": 3}


def test_a_rollout_is_the_same_after_its_journey() -> None:
    """
    With a reward or with a failure, everything but the row goes and comes back equal; the row is known here.
    """
    from gymcore.runtime.on_ray.worker import _write_rollout

    planned = _given(_composition())[0][1]
    turn = Turn(output=({"type": "message", "x": [1, None, "\ud800"]},), usage={"total_tokens": 3}, attempts=2)
    reward = Reward(value=0.5, parts={"a": 0.5}, metrics={"n": 3, "s": "x", "l": [1, "b"]}, info={"x": [{}]})
    failure = Failure(stage="tool", error="KeyError", message="k", retryable=False, location="a.py:3")
    for rollout in (
        Rollout(planned.row, 0, Trajectory((turn,), "max_turns", {"id": "r"}), reward, None, 1.5, 0.25, {"seed": 1}),
        Rollout(planned.row, 0, Trajectory(), None, failure, 1.5, 0.25, {"seed": 1}),
    ):
        assert read_rollout(_write_rollout(replace(rollout, row=Row(planned.row.data))), planned) == rollout


class Refused(EndpointError):
    """An author's error that a stranger cannot make again."""

    def __reduce__(self) -> Any:
        return (Refused, ())


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (EndpointError("refused", where="http://127.0.0.1:1", hints=["try: another key"]), EndpointError),
        (Refused("refused", where="http://127.0.0.1:1", hints=["try: another key"]), EndpointError),
        (EndpointError("refused", has_worked=True), EndpointError),
        (Refused("refused", has_worked=True, is_lasting=True), EndpointError),
        (PluginError("broken", plugin="a:b", where="x"), PluginError),
    ],
)
def test_an_error_ends_the_run_as_it_would_here(error: GymcoreError, kind: type[GymcoreError]) -> None:
    """
    Its class, so its exit code, and its message arrive; where its own class cannot, the nearest of ours does.
    """
    if isinstance(error, EndpointError):
        error.stage = "open"

    arrived = read_error(write_error(error))

    assert type(arrived) is kind
    assert str(arrived) == str(error)
    assert isinstance(arrived, GymcoreError)
    assert arrived.exit_code == error.exit_code
    for fact in ("has_worked", "is_lasting", "stage"):
        assert getattr(arrived, fact, None) == getattr(error, fact, None)


def test_a_bug_arrives_with_the_place_where_it_was() -> None:
    """
    An error that is nobody's on purpose carries the traceback of the process that raised it.
    """
    try:
        {}["key"]  # type: ignore[index]
    except KeyError as error:
        arrived = read_error(write_error(error))

    assert isinstance(arrived, KeyError)
    assert any(f"{Path(__file__).name}" in note for note in arrived.__notes__)


def test_without_ray_the_message_says_how_to_install_it(tmp_path: Path) -> None:
    """
    The executor is an extra; whoever asks for it without having it reads one line, and exit code 2 says the rest.
    """
    (tmp_path / "ray.py").write_text("raise ImportError('there is no Ray here')\n")
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from gymcore.cli import main; main()"
    command = [sys.executable, "-c", code, str(tmp_path), "run", "--env", NAME, "--executor", "ray"]

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 2, done.stderr
    assert "pip install 'gymcore[ray]'" in done.stderr
    assert "there is no Ray here" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_misspelt_key_of_ray_is_found_with_the_right_one() -> None:
    """
    What a plan says of Ray is checked like the rest of it, also where rollouts are played here.
    """
    with pytest.raises(PlanError, match=r"unknown key 'worker' \(collect\.ray\.worker, .*\)\n  try: workers"):
        Plan.from_document(YamlDocument({"collect": {"ray": {"worker": 2}}}))


def test_the_flags_of_ray_are_keys_of_the_plan() -> None:
    """
    The executor is no part of what finished work means, so it may change between two runs of a folder.
    """
    flags = PlanFlags(env=[NAME], executor="ray", workers=3)

    plan = flags.to_plan().plan

    assert plan is not None
    assert plan.collect.executor == "ray"
    assert plan.collect.ray.workers == 3
    assert _composition(executor="ray").lock == _composition().lock
