"""
Environments in processes of their own: they behave as here, and what they do to themselves they do to nobody else.

The environments stand in `tests/data/hostile`, because a worker must be able to import them.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gymcore import (
    Composition,
    EndpointError,
    Model,
    ModelError,
    Plan,
    PluginError,
    Rollout,
    RolloutStream,
    ToolCall,
    compose,
    discover,
    run,
    say,
)
from gymcore.alarms import Alarm, Alarms
from gymcore.builtin.oracle import Oracle
from gymcore.builtin.simple_agent import SimpleAgent
from gymcore.documents import decode_json, encode_json
from gymcore.errors import PlanError
from gymcore.interfaces import Config, Environment
from gymcore.interpreters.clean_environ import allowed_environ
from gymcore.records import Row, Trajectory, Turn
from gymcore.responses import Request, Response, message
from gymcore.runtime.brackets import Bounds
from gymcore.runtime.budget import FailureBudgets
from gymcore.runtime.executor import LocalExecutor
from gymcore.runtime.in_process import InProcess, TimeLimits
from gymcore.runtime.isolation import Launch, open_isolated
from gymcore.runtime.isolation.channel import FRAME_BYTES, Channel, FrameError, Message
from gymcore.runtime.isolation.output import Output
from gymcore.runtime.isolation.wire import trajectory_from_json, trajectory_to_json
from gymcore.runtime.schedule import Planned, Schedule
from gymcore.runtime.session import Session, Stage
from gymcore.testing import PluginFolder, ScriptedModel, calls, play, says
from gymcore.testing.replies import Reply

LONGEST_S = 100.0
"""How long what starts processes may take, on a machine that does much else."""
HOSTILE = Path(__file__).parents[1] / "data" / "hostile"
ACTS = ScriptedModel(calls("act"), says("done"))

linux = pytest.mark.skipif(sys.platform != "linux", reason="what the kernel does for orphans is Linux's")


@pytest.fixture(scope="module")
def worlds() -> Iterator[ModuleType]:
    """
    The module of hostile environments, where workers find it too.
    """
    with PluginFolder(HOSTILE):
        yield importlib.import_module("gym_plugin_hostile")


@dataclass
class Rig:
    """An opened environment, and what plays single rollouts in it."""

    place: Any
    stage: Stage
    composition: Composition

    async def play(self, how: str, model: Model, number: int = 0) -> Rollout:
        """Play one task with a model."""
        models = {**self.stage.models, "policy": model}
        return await Session(replace(self.stage, models=models), self.planned(how, number)).play()

    def planned(self, how: str, number: int = 0) -> Planned:
        """Return a rollout of one task."""
        (route,) = self.composition.routes.values()
        row = {"responses_create_params": {"input": "hi"}, "how": how, "environment": "w", "task_id": f"w/{number}"}
        return Planned(number, route, Row(encode_json(row)), 0)


@pytest.fixture
def rig(composed: Callable[..., Composition]) -> Callable[..., Any]:
    """
    What opens an environment, here or in a process of its own.
    """

    @asynccontextmanager
    async def opened(
        environment: type[Environment[Any, Any]],
        *,
        isolated: bool = True,
        config: Config | None = None,
        judge: Model | None = None,
        tool_s: float = 30.0,
        verify_s: float = 30.0,
        rollout_s: float = 30.0,
        bounds: dict[str, float] | None = None,
        **launch: Any,
    ) -> AsyncIterator[Rig]:
        composition = composed({"w": (environment, 0)}, Oracle)
        config = config or environment.config_model()
        limits = TimeLimits(rollout_s=rollout_s, tool_s=tool_s, verify_s=verify_s, **(bounds or {}))
        stage = Stage(
            agents={"w_agent": SimpleAgent()},
            models={} if judge is None else {"judge": judge},
            placements={},
            limits={"w": limits},
            seed=0,
            provenance={},
        )
        target = f"{environment.__module__}:{environment.__qualname__}"
        started = Launch("w", "testing:w", target, **{"grace_s": 0.5, "backoff_s": 0.05, **launch})
        if isolated:
            async with open_isolated(started, environment, config, limits) as place:
                yield Rig(place, replace(stage, placements={"w": place}), composition)
        else:
            async with environment.shared(config) as resources:
                here = InProcess(environment, config, resources, limits)
                yield Rig(here, replace(stage, placements={"w": here}), composition)

    return opened


async def _until(holds: Callable[[], Any]) -> None:
    while not holds():
        await asyncio.sleep(0.01)


def results_of(rollout: Rollout) -> list[str]:
    """Return what the tools of a rollout answered."""
    return [item["output"] for turn in rollout.trajectory.turns for item in turn.results]


def told_by(rollout: Rollout) -> dict[str, Any]:
    """Return what the tool `where` told."""
    told: dict[str, Any] = json.loads(results_of(rollout)[0])
    return told


# -- as here ---------------------------------------------------------------------------------------------------------


class Refuses(Model):
    """A judge that is of no use to anybody."""

    async def respond(self, request: Request, rollout: Any) -> Response:
        raise EndpointError("the key is refused", where="http://judge", hints=["try: another"])


PLAYED: list[tuple[str, Model]] = [
    ("well", ScriptedModel(calls("add", a=2), calls("later", text="soon") + calls("add", a=1, b=5), says("done"))),
    ("well", ScriptedModel(calls("in_thread"), calls("refuse"), calls("odd"), says("done"))),
    ("well", ScriptedModel(calls("no_such_tool"), calls("verify"), says("done"))),
    ("well", ScriptedModel(Reply((ToolCall("add", "{"),)), Reply((ToolCall("add", "[" * 100_000),)), says("done"))),
    ("well", ScriptedModel(calls("fail"))),
    ("well", ScriptedModel(calls("fail", exits=True))),
    ("well", ScriptedModel(says("one"), says("two"))),
    ("well", Oracle()),
    ("well", ScriptedModel(ModelError("overloaded"))),
    ("raises in open", ScriptedModel()),
    ("cancels itself in open", ScriptedModel()),
    ("cancels itself in verify", ScriptedModel(says("hm"))),
    ("well", ScriptedModel(calls("cancel"), says("hm"))),
    ("raises in reply", ScriptedModel(says("hm"))),
    ("raises in verify", ScriptedModel(says("hm"))),
    ("raises in solve", Oracle()),
    ("is judged", ScriptedModel(says("hm"))),
    ("takes two replies", ScriptedModel(*[calls("add", a=1)] * 5)),
    ("takes no number of replies", ScriptedModel(says("hm"))),
]
"""What is played in both places: a task and a policy."""
HANGING: list[tuple[str, Model]] = [
    ("well", ScriptedModel(calls("hang"))),
    ("hangs in verify", ScriptedModel(says("hm"))),
]
"""What is played where bounds are narrow: a busy machine meets them only where nothing else can happen."""


def test_that_a_rollout_waits_is_known_in_another_process(
    worlds: ModuleType, rig: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """
    When it begins to wait and when it goes on, and what is said for a person meanwhile.
    """

    async def played(isolated: bool) -> list[bool]:
        told: list[bool] = []
        async with rig(worlds.World, isolated=isolated) as opened:
            planned = opened.planned("waits in open")
            stage = replace(opened.stage, models={"policy": Oracle()})
            await Session(stage, planned, lambda session, is_waiting: told.append(is_waiting)).play()
        return told

    assert asyncio.run(played(False)) == [True, False]
    assert asyncio.run(played(True)) == [True, False]
    assert caplog.messages == ["nobody\n\x1bis there", "nobody is there"]


def test_a_rollout_is_the_same_in_another_process(worlds: ModuleType, rig: Any) -> None:
    """
    Results, rewards, answers and failures, with their lines, do not depend on where an environment plays.
    """

    async def outcomes(isolated: bool) -> list[Any]:
        place = partial(rig, worlds.World, isolated=isolated)
        async with place(judge=ScriptedModel(says("0.5"))) as opened, place(tool_s=0.1, verify_s=0.1) as narrow:
            rollouts = await asyncio.gather(
                *(opened.play(how, model) for how, model in PLAYED),
                *(narrow.play(how, model) for how, model in HANGING),
            )
        return [(rollout.reward, rollout.failure, rollout.trajectory.items) for rollout in rollouts]

    here, there = asyncio.run(outcomes(False)), asyncio.run(outcomes(True))

    # Each turn's ids count the replies of a model, so every place has a model of its own.
    for (how, _), one, other in zip([*PLAYED, *HANGING], here, there, strict=True):
        assert _plain(one) == _plain(other), how
    assert " ".join(failure.stage for _, failure, _ in here if failure) == (
        "tool tool model open open verify tool reply verify model open tool verify"
    )


def _plain(outcome: tuple[Any, ...]) -> str:
    """Return an outcome without the numbers that scripted models count, and without addresses."""
    return re.sub(r"call_\d+_|object at 0x\w+|resp_\d+", "", repr(outcome))


def test_play_plays_in_a_process_too(worlds: ModuleType) -> None:
    """
    An author tests an environment where it will play.
    """
    row = {"responses_create_params": {"input": "hi"}}
    model = ScriptedModel(calls("where"), says("done"))

    there = play(worlds.World, row, model, isolation="process")
    here = play(worlds.World, row, model)

    assert there.reward is not None
    assert told_by(there)["pid"] != os.getpid() == told_by(here)["pid"]
    assert told_by(there)["seed"] == told_by(here)["seed"]


def test_a_world_is_whole_in_its_process(worlds: ModuleType, rig: Any, tmp_path: Path) -> None:
    """
    Shared resources, secrets among the options, and the context and task in which it was opened: all as here.
    """
    log = tmp_path / "log"
    config = worlds.WorldConfig(log=str(log), password="geheim", weights=(3, 4))

    async def playing() -> Rollout:
        async with rig(worlds.World, config=config) as opened:
            rollout: Rollout = await opened.play("well", ScriptedModel(calls("where"), says("done")))
            return rollout

    told = told_by(asyncio.run(playing()))

    assert told["pid"] == told["shared_pid"]
    assert (told["password"], told["weights"], told["opened"]) == ("geheim", [3, 4], "well")
    assert log.read_text().splitlines() == ["closed well in the task of open", "shared closed"]


def test_a_judge_answers_from_here(worlds: ModuleType, rig: Any) -> None:
    """
    A verifier asks a judge that lives with the run, where the keys are; what it cannot say is a failure of the model.
    """

    async def playing(judge: Model) -> Rollout:
        async with rig(worlds.World, judge=judge) as opened:
            rollout: Rollout = await opened.play("is judged", ScriptedModel(says("so?")))
            return rollout

    judge = ScriptedModel(says("0.5"))
    judged = asyncio.run(playing(judge))
    failed = asyncio.run(playing(ScriptedModel(ModelError("overloaded", retryable=False)))).failure

    assert judged.reward is not None
    assert judged.reward.value == 0.5
    assert sorted(str(request.input[0]["content"]) for request in judge.requests) == ["0? so?", "1? so?"]
    assert failed is not None
    assert (failed.stage, failed.error, failed.message, failed.retryable) == (
        "model",
        "ModelError",
        "overloaded",
        False,
    )
    with pytest.raises(EndpointError, match="the key is refused") as caught:
        asyncio.run(playing(Refuses()))
    assert caught.value.stage == "model"


def test_no_key_reaches_a_worker(worlds: ModuleType, rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Neither Python nor the kernel shows a worker a key of the run, unless the plan lets it through by name.
    """
    for name in ("OPENAI_API_KEY", "POLICY_API_KEY", "AWS_SESSION_TOKEN", "MY_SETTING", "PYTHON_KEYRING_SECRET"):
        monkeypatch.setenv(name, "canary")
    monkeypatch.setenv("SEARCH_API_KEY", "let through")

    async def playing() -> Rollout:
        async with rig(worlds.World, environ=("SEARCH_API_KEY",)) as opened:
            rollout: Rollout = await opened.play("well", ScriptedModel(calls("where"), says("done")))
            return rollout

    told = told_by(asyncio.run(playing()))

    assert "canary" not in told["kernel"]
    assert not {"OPENAI_API_KEY", "POLICY_API_KEY", "AWS_SESSION_TOKEN", "MY_SETTING"} & set(told["environ"])
    assert {"PATH", "SEARCH_API_KEY"} <= set(told["environ"])


@given(st.dictionaries(st.from_regex(r"[A-Z_]{0,8}(KEY|TOKEN|SECRET|PASSWORD|PATH|HOME|LC_ALL)[A-Z_]{0,8}"), st.text()))
def test_what_is_called_a_secret_is_never_let_through_unnamed(environ: dict[str, str]) -> None:
    """
    The list of what is harmless holds no name that says it is not.
    """
    allowed = allowed_environ(environ)

    assert not [name for name in allowed if re.search("KEY|TOKEN|SECRET|PASSW", name)]
    assert allowed_environ(environ, tuple(environ)) == environ


# -- hanging, dying ----------------------------------------------------------------------------------------------------


def test_a_tool_that_hangs_is_cancelled_and_its_process_plays_on(worlds: ModuleType, rig: Any, tmp_path: Path) -> None:
    """
    Where the event loop goes on, nothing needs to be killed: the environment is closed, and the next one plays there.
    """
    config = worlds.WorldConfig(log=str(tmp_path / "log"))
    where = ScriptedModel(calls("where"), says("done"))

    async def playing() -> list[Rollout]:
        async with rig(worlds.World, config=config, tool_s=0.1) as opened:
            return [await opened.play("well", model) for model in (where, ScriptedModel(calls("hang")), where)]

    before, late, after = asyncio.run(playing())

    assert late.failure is not None
    assert (late.failure.stage, late.failure.error) == ("tool", "TimeoutError")
    assert "hang cancelled" in (tmp_path / "log").read_text()
    assert told_by(before)["pid"] == told_by(after)["pid"]


@pytest.mark.parametrize("how", ["loops", "matches"])
def test_a_tool_that_blocks_its_process_meets_its_bound(worlds: ModuleType, rig: Any, how: str) -> None:
    """
    A loop without end, in Python or in C, is a late tool; its neighbours fail for the worker, and the next one plays.
    """

    class Ponders(ScriptedModel):
        async def respond(self, request: Request, rollout: Any) -> Response:
            if len(request.input) > 1:
                pondering.set()
                await asyncio.sleep(1.5)
            return await super().respond(request, rollout)

    async def playing() -> list[Rollout]:
        async with rig(worlds.Hostile, tool_s=1.0) as opened:
            neighbour = asyncio.create_task(opened.play("well", Ponders(calls("add", a=1), calls("add", a=1))))
            await pondering.wait()
            late = await opened.play(how, ACTS)
            return [late, await neighbour, await opened.play("well", ACTS)]

    pondering = asyncio.Event()
    late, neighbour, after = asyncio.run(asyncio.wait_for(playing(), LONGEST_S))

    assert late.failure is not None
    assert (late.failure.stage, late.failure.error, late.failure.retryable) == ("tool", "TimeoutError", True)
    assert late.failure.message == "the tool act took longer than 1 s (collect.tool_timeout_s)"
    assert neighbour.failure is not None
    assert (neighbour.failure.stage, neighbour.failure.retryable) == ("worker", True)
    assert f"was stopped, because {late.failure.message}, and it did not answer for 0.5 s" in neighbour.failure.message
    assert after.reward is not None


def test_tools_that_block_in_turn_are_not_late(worlds: ModuleType, rig: Any) -> None:
    """
    Blocking calls of many rollouts are carried out one after the other; none is late for having waited for others.
    """

    async def playing() -> list[Rollout]:
        async with rig(worlds.Hostile, tool_s=1.0) as opened:
            return list(await asyncio.gather(*(opened.play("naps", ACTS) for _ in range(12))))

    assert [rollout.failure for rollout in asyncio.run(playing())] == [None] * 12


def test_a_process_that_blocks_where_nothing_else_bounds_it_is_found(worlds: ModuleType, rig: Any) -> None:
    """
    Also an `open` that never lets go costs no more than the longest that a call may take.
    """

    async def playing() -> list[Rollout]:
        async with rig(worlds.Hostile, tool_s=0.2, verify_s=0.2) as opened:
            return [await opened.play("blocks in open", ACTS), await opened.play("well", ACTS)]

    late, after = asyncio.run(asyncio.wait_for(playing(), LONGEST_S))

    assert late.failure is not None
    assert (late.failure.stage, late.failure.error) == ("open", "TimeoutError")
    assert late.failure.message == "open blocked its process for 1.2 s"
    assert after.reward is not None


@pytest.mark.rig
def test_what_takes_long_and_blocks_nothing_is_not_late(worlds: ModuleType, rig: Any) -> None:
    """
    Waiting quietly in `open` and `reply` is bounded by the rollout's bound alone, as it is here.
    """

    async def playing() -> Rollout:
        async with rig(worlds.World, tool_s=0.2, verify_s=0.2) as opened:
            rollout: Rollout = await opened.play("takes its time", ScriptedModel(says("done")))
            return rollout

    assert asyncio.run(playing()).failure is None


def test_opening_may_take_as_long_in_a_process_as_here() -> None:
    """
    What rollouts share may be a model's weights, wherever the environment plays.
    """
    assert Launch.start_s == Bounds().opening_s


DEATHS = [
    ("dies", "ended with exit code 7; it printed last: goodbye, cruel world"),
    ("is_killed", "was killed by signal 9 (SIGKILL)"),
    ("crashes", "was killed by signal 11 (SIGSEGV); it printed last: Fatal Python error: Segmentation fault"),
    ("closes", "the worker of w "),
]


@pytest.mark.parametrize(("how", "said"), DEATHS, ids=lambda value: value.split()[0])
def test_a_dead_worker_is_replaced_and_says_how_it_died(
    worlds: ModuleType, rig: Any, tmp_path: Path, how: str, said: str
) -> None:
    """
    The rollouts in it, and only those, fail with how it ended and what it printed last.
    """

    log = tmp_path / "log"

    async def playing() -> list[Rollout]:
        async with rig(worlds.Hostile, config=worlds.WorldConfig(log=str(log))) as opened:
            neighbour = asyncio.create_task(opened.play("well", ScriptedModel(calls("hang"))))
            await _until(log.exists)  # it hangs in the worker that is to die
            dead = await opened.play(how, ACTS)
            return [dead, await neighbour, await opened.play("well", ACTS)]

    dead, neighbour, after = asyncio.run(asyncio.wait_for(playing(), LONGEST_S))

    for rollout in (dead, neighbour):
        assert rollout.failure is not None
        assert (rollout.failure.stage, rollout.failure.error, rollout.failure.retryable) == (
            "worker",
            "WorkerDied",
            True,
        )
        assert said in rollout.failure.message
    assert after.reward is not None


def test_a_crash_names_the_line_that_crashed(worlds: ModuleType, rig: Any) -> None:
    """
    A segmentation fault in a library is found without a debugger.
    """

    async def playing() -> Rollout:
        async with rig(worlds.Hostile) as opened:
            rollout: Rollout = await opened.play("crashes", ACTS)
            return rollout

    failure = asyncio.run(playing()).failure

    assert failure is not None
    assert "in _crashes" in failure.message


def test_what_was_answered_before_a_death_counts(worlds: ModuleType, rig: Any) -> None:
    """
    A verdict that was on its way when its process died is a verdict.
    """

    async def playing() -> list[Rollout]:
        async with rig(worlds.World, backoff_s=0.01) as opened:
            return [await opened.play("dies after verify", ScriptedModel(says("done"))) for _ in range(5)]

    assert [rollout.failure for rollout in asyncio.run(playing())] == [None] * 5


def test_a_solution_whose_worker_dies_is_no_fault_of_the_model(worlds: ModuleType, rig: Any) -> None:
    """
    Whatever a dead worker made fail afterwards, the failure is that it died.
    """

    class Waits(Oracle):
        async def respond(self, request: Request, rollout: Any) -> Response:
            response = await super().respond(request, rollout)
            if len(request.input) == 1:
                os.kill(pid, signal.SIGKILL)
                await asyncio.sleep(0.3)
            return response

    async def playing() -> Rollout:
        nonlocal pid
        async with rig(worlds.World) as opened:
            pid = told_by(await opened.play("well", ScriptedModel(calls("where"), says("done"))))["pid"]
            rollout: Rollout = await opened.play("well", Waits())
            return rollout

    pid = 0
    failure = asyncio.run(playing()).failure

    assert failure is not None
    assert failure.stage == "worker"


def test_an_environment_whose_workers_keep_dying_is_set_aside(worlds: ModuleType, rig: Any) -> None:
    """
    After some deaths without a finished rollout nothing more is started, and that is said; a finished one forgives.
    """

    async def playing() -> tuple[list[Any], str | None]:
        async with rig(worlds.Hostile, deaths=3) as opened:
            hows = ["dies", "dies", "well", "dies", "dies", "dies", "well", "well"]
            return [(await opened.play(how, ACTS)).failure for how in hows], opened.place.status()

    failures, status = asyncio.run(playing())

    assert [failure and failure.error for failure in failures] == [
        *("WorkerDied", "WorkerDied", None, "WorkerDied", "WorkerDied", "WorkerDied", "SetAside", "SetAside")
    ]
    assert failures[-1].retryable
    assert failures[-1].stage == "worker"
    assert status is not None
    assert "w is set aside: its workers died 3 times without finishing a rollout" in status
    assert "exit code 7" in status


def test_many_deaths_at_once_set_nothing_aside(worlds: ModuleType, rig: Any) -> None:
    """
    Short of memory, a system kills what it finds: as long as one worker lives, the others are started again.
    """
    slow = ScriptedModel(calls("where"), calls("later", text="x"), says("done"))

    async def playing() -> tuple[str, list[Rollout]]:
        async with asyncio.timeout(LONGEST_S), rig(worlds.World, workers=3, deaths=2) as opened:
            first = await asyncio.gather(*(opened.play("well", slow) for _ in range(3)))
            for pid in sorted(told_by(rollout)["pid"] for rollout in first)[:2]:
                os.kill(pid, signal.SIGKILL)
            while (status := opened.place.status()) is None:
                await asyncio.sleep(0.01)
            await _until(lambda: opened.place.status() is None)
            return status, list(await asyncio.gather(*(opened.play("well", slow) for _ in range(3))))

    status, after = asyncio.run(playing())

    assert "w waits for a new worker" in status
    assert len({told_by(rollout)["pid"] for rollout in after}) == 3


def test_a_plugin_that_cancels_all_tasks_blinds_nobody_to_a_death(worlds: ModuleType, rig: Any) -> None:
    """
    A worker that dies afterwards is noticed and replaced, also when its replacement was just being started.
    """
    where = ScriptedModel(calls("where"), says("done"))

    def cancel_all() -> None:
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    async def playing() -> list[Rollout]:
        async with asyncio.timeout(LONGEST_S), rig(worlds.World) as opened:
            cancel_all()
            before = await opened.play("well", where)
            os.kill(told_by(before)["pid"], signal.SIGKILL)
            await _until(lambda: opened.place.status() is not None)
            await asyncio.sleep(0.1)  # twice the pause before the next is started
            cancel_all()
            return [before, await opened.play("well", where)]

    before, after = asyncio.run(playing())

    assert told_by(after)["pid"] != told_by(before)["pid"]


def test_a_worker_is_started_again_however_early_its_start_was_cancelled(worlds: ModuleType, rig: Any) -> None:
    """
    In each of the first turns of the event loop, with all tasks that the event loop itself may have for it.
    """
    where = ScriptedModel(calls("where"), says("done"))

    async def playing() -> list[Rollout]:
        async with asyncio.timeout(LONGEST_S), rig(worlds.World, backoff_s=0.0, rollout_s=20.0) as opened:
            found = [await opened.play("well", where)]
            for turns in range(5):
                os.kill(told_by(found[-1])["pid"], signal.SIGKILL)
                while opened.place.status() is None:
                    await asyncio.sleep(0)
                for _ in range(turns):
                    await asyncio.sleep(0)
                for task in asyncio.all_tasks() - {asyncio.current_task()}:
                    task.cancel()
                found.append(await opened.play("well", where))
            return found

    found = asyncio.run(playing())

    assert [rollout.failure for rollout in found] == [None] * 6
    assert len({told_by(rollout)["pid"] for rollout in found}) == 6


def test_workers_share_the_rollouts(worlds: ModuleType, rig: Any) -> None:
    """
    A rollout goes to the worker with the fewest, and the death of one leaves those in the other alone.
    """

    async def playing() -> tuple[list[Rollout], list[Rollout]]:
        slow = ScriptedModel(calls("where"), calls("later", text="x"), says("done"))
        async with rig(worlds.Hostile, workers=2) as opened:
            spread = await asyncio.gather(*(opened.play("well", slow) for _ in range(8)))
            mixed = await asyncio.gather(opened.play("dies", ACTS), opened.play("waits", ACTS))
            return spread, mixed

    spread, (dead, alive) = asyncio.run(playing())

    pids = [told_by(rollout)["pid"] for rollout in spread]
    assert sorted(pids.count(pid) for pid in set(pids)) == [4, 4]
    assert dead.failure is not None
    assert alive.reward is not None


class Noted(Alarms):
    """Alarms that a test can let ring."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[tuple[float, Alarm]] = []

    def after(self, seconds: float, ring: Callable[[], None]) -> Alarm:
        """Set one, and note it."""
        alarm = super().after(seconds, ring)
        self.noted.append((seconds, alarm))
        return alarm


def test_a_rollout_that_is_stopped_is_closed_in_its_process(worlds: ModuleType, rig: Any, tmp_path: Path) -> None:
    """
    A bound on the whole rollout, or a person, ends it there as here: cancelled, then closed, once.
    """
    log = tmp_path / "log"
    alarms = Noted()

    async def playing() -> Rollout:
        async with rig(worlds.World, config=worlds.WorldConfig(log=str(log)), rollout_s=77.0) as opened:
            stage = replace(opened.stage, models={"policy": ScriptedModel(calls("hang"))}, alarms=alarms)
            task = asyncio.create_task(Session(stage, opened.planned("well")).play())
            await _until(log.exists)  # it hangs
            (alarm,) = [alarm for seconds, alarm in alarms.noted if seconds == 77.0]
            assert alarm.ring is not None
            alarm.ring()
            return await task

    failure = asyncio.run(asyncio.wait_for(playing(), LONGEST_S)).failure

    assert failure is not None
    assert failure.stage == "timeout"
    lines = log.read_text().splitlines()
    assert lines == ["hang begun", "hang cancelled", "closed well in the task of open", "shared closed"]


@pytest.mark.parametrize(
    ("how", "model"),
    [
        ("stays in open", ScriptedModel()),
        ("stays in reply", ScriptedModel(says("hm"))),
        ("stays in close", ScriptedModel(says("hm"))),
        ("well", ScriptedModel(calls("stay"))),
    ],
    ids=["open", "reply", "close", "tool"],
)
def test_what_ignores_its_cancellation_is_left_behind_there_and_closed(
    worlds: ModuleType, rig: Any, tmp_path: Path, how: str, model: Model
) -> None:
    """
    As here: after a while nobody waits for it any more, the environment is closed, and nothing of it is kept.
    """
    config = worlds.WorldConfig(log=str(tmp_path / "log"))
    where = ScriptedModel(calls("where"), says("done"))
    bounds = {"grace_s": 0.1, "close_s": 0.3}

    async def playing() -> None:
        async with rig(worlds.World, config=config, rollout_s=0.3, bounds=bounds) as opened:
            patient = replace(opened, stage=replace(opened.stage, limits={"w": TimeLimits()}))
            before = told_by(await patient.play("before", where))["tasks"]
            await opened.play(how, model)
            await _until(lambda: f"closed {how} " in (tmp_path / "log").read_text())
            while told_by(await patient.play("after", where))["tasks"] != before:
                await asyncio.sleep(0.05)

    asyncio.run(asyncio.wait_for(playing(), LONGEST_S))

    assert [line.split(" ")[1] for line in (tmp_path / "log").read_text().splitlines()[:3]] == [
        *("before", how.split(" ")[0], "after")
    ]


def test_memory_is_bounded_where_the_plan_says_so(worlds: ModuleType, rig: Any) -> None:
    """
    Who takes more than allowed gets an error there; the machine keeps its memory.
    """

    async def playing() -> list[Rollout]:
        async with rig(worlds.Hostile, memory_mb=1500) as opened:
            return [await opened.play("hogs", ACTS), await opened.play("well", ACTS)]

    hog, after = asyncio.run(playing())

    assert hog.failure is not None
    assert (hog.failure.stage, hog.failure.error) == ("tool", "MemoryError")
    assert after.reward is not None


# -- opening and closing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("when", "said"),
    [
        ("open", "could not be opened: RuntimeError: no table"),
        ("close", "could not be closed: RuntimeError: the table"),
    ],
)
def test_what_rollouts_share_breaks_as_it_does_here(worlds: ModuleType, rig: Any, when: str, said: str) -> None:
    """
    An environment that cannot be opened, or closed, is a broken plugin.
    """

    async def playing() -> None:
        async with rig(worlds.World, config=worlds.WorldConfig(fail_shared=when)) as opened:
            assert (await opened.play("well", ScriptedModel(says("hi")))).failure is None

    with pytest.raises(PluginError, match=said):
        asyncio.run(playing())


def test_a_class_that_is_not_there_is_a_broken_plugin(worlds: ModuleType) -> None:
    """
    What can be imported here only is told with its reason.
    """

    async def opening() -> None:
        launch = Launch("w", "testing:w", "gym_plugin_hostile:Missing")
        async with open_isolated(launch, worlds.World, worlds.WorldConfig(), TimeLimits()):
            pass

    with pytest.raises(PluginError, match="has no attribute 'Missing'"):
        asyncio.run(opening())


def test_a_worker_that_is_never_ready_is_given_up(worlds: ModuleType) -> None:
    """
    Starting has a bound like everything else.
    """

    async def opening() -> None:
        launch = Launch("w", "testing:w", "gym_plugin_hostile:World", start_s=0.01)
        async with open_isolated(launch, worlds.World, worlds.WorldConfig(fail_shared="hang"), TimeLimits()):
            pass

    with pytest.raises(PluginError, match=r"could not be opened: .* was not ready within 0\.01 s"):
        asyncio.run(opening())


def test_a_worker_that_cannot_be_watched_is_not_started(worlds: ModuleType) -> None:
    """
    Where this process may have no further thread, the setup is refused, and no process is left behind.
    """

    async def opening() -> None:
        launch = Launch("w", "testing:w", "gym_plugin_hostile:World")
        async with open_isolated(launch, worlds.World, worlds.WorldConfig(), TimeLimits()):
            pass

    before = threading.stack_size(2**46)  # more than there is room for
    try:
        with pytest.raises(PluginError, match="no process could be started: can't start new thread"):
            asyncio.run(opening())
    finally:
        threading.stack_size(before)
    gc.collect()  # a process that nobody has waited for is complained of here


def _composed(log: Path, **entry: Any) -> Composition:
    rows = log.with_name("rows.jsonl")
    rows.write_text(json.dumps({"responses_create_params": {"input": "hi"}, "how": "tells"}) + "\n")
    entry = {"data": [str(rows)], "config": {"log": str(log)}, **entry}
    return compose(Plan.model_validate({"environments": {"hostile": entry}}), discover())


@pytest.mark.parametrize(("entry", "is_here"), [({}, False), ({"isolation": "none"}, True), ({"workers": 2}, False)])
def test_the_plan_decides_over_the_manifest(worlds: ModuleType, tmp_path: Path, entry: Any, is_here: bool) -> None:
    """
    The manifest of this environment asks for a process; where it plays changes nothing of what a rollout means.
    """
    composition = _composed(tmp_path / "log", **entry)

    async def playing() -> list[Rollout]:
        async with run(composition) as stream:
            return [rollout async for rollout in stream]

    (rollout,) = asyncio.run(playing())

    assert rollout.reward is not None
    pid = re.search(r"pids (\d+)", (tmp_path / "log").read_text())
    assert pid is not None
    assert (int(pid[1]) == os.getpid()) == is_here
    assert composition.lock == _composed(tmp_path / "log").lock


def test_what_is_said_of_processes_that_there_will_not_be_is_a_mistake(worlds: ModuleType, tmp_path: Path) -> None:
    """
    A bound that would bound nothing is refused, with what would make it hold.
    """
    with pytest.raises(PlanError) as caught:
        _composed(tmp_path / "log", isolation="none", workers=2, memory_mb=100, environ=["SEARCH_API_KEY"])

    assert [problem.where for problem in caught.value.problems] == [
        f"environments.hostile.{key}" for key in ("workers", "environ", "memory_mb")
    ]
    assert caught.value.problems[0].hints == ("try: --set environments.hostile.isolation=process",)


def test_what_a_worker_prints_is_read_away_and_only_its_end_kept() -> None:
    """
    Nothing that is printed blocks who prints it, and what is shown of it cannot harm a terminal.
    """

    async def printing() -> str:
        output = Output(asyncio.get_running_loop())
        written = 0
        with open(output.writing, "wb", buffering=0) as pipe:
            write = partial(pipe.write, b"x" * 1_000_000)
            for _ in range(5):
                written += await asyncio.to_thread(write)
            pipe.write("\x1b[31mlast\x07 words\n\n\u202eback \xff\n".encode("latin-1", "ignore"))
        output.close()
        assert written > 4_000_000
        return output.last()

    last = asyncio.run(asyncio.wait_for(printing(), LONGEST_S))

    assert last.endswith("x [31mlast words back \ufffd")
    assert len(last) == 600


# -- beside others -----------------------------------------------------------------------------------------------------

HOSTILE_WAYS = (
    *("raises", "exits", "dies", "crashes", "loops", "matches", "floods", "hogs", "answers_hugely", "spawns"),
    *("recurses", "returns_nonsense", "closes"),
)


async def _says_hello(self: Any) -> Any:
    yield say("hello")


@pytest.mark.rig
def test_hostile_environments_hurt_only_themselves(worlds: ModuleType, composed: Callable[..., Composition]) -> None:
    """
    Whatever they do, in thirteen ways, the good one beside them finishes completely, and each ends as it deserves.
    """
    good = type("Good", (worlds.World,), {"solve": _says_hello})
    lanes = {f"hostile_{number}": HOSTILE_WAYS[number::4] for number in range(4)}
    rows = [{"how": how} for ways in lanes.values() for how in ways]
    bounds = {"isolation": "process", "tool_timeout_s": 3.0, "memory_mb": 2000, "concurrency": 1}
    composition = composed(
        {"good": (good, 0), **dict.fromkeys(lanes, (worlds.Hostile, 0))},
        Oracle,
        rows=rows,
        environments={"good": {"repeats": 20}, **dict.fromkeys(lanes, bounds)},
    )

    async def playing() -> list[Rollout]:
        # Every environment has every row; each lane is owed its own share of them, with good ones between.
        finished = {
            (name, f"{name}/{number}", 0)
            for name in lanes
            for number, row in enumerate(rows)
            if row["how"] not in lanes[name]
        }
        async with run(composition, finished=finished) as stream:
            return [rollout async for rollout in stream]

    rollouts = asyncio.run(asyncio.wait_for(playing(), 120))

    assert [rollout.reward is not None for rollout in rollouts if rollout.environment == "good"] == [True] * 20 * len(
        rows
    )
    hostile = {rollout.row.value["how"]: rollout for rollout in rollouts if rollout.environment != "good"}
    assert set(hostile) == set(HOSTILE_WAYS)
    outcomes = {how: rollout.failure.error if rollout.failure else "" for how, rollout in hostile.items()}
    assert outcomes == {
        **{"raises": "ValueError", "exits": "SystemExit", "dies": "Poison", "crashes": "Poison", "closes": "Poison"},
        **{"loops": "TimeoutError", "matches": "TimeoutError", "hogs": "MemoryError", "answers_hugely": "FrameError"},
        **{"recurses": "RecursionError", "floods": "", "spawns": "", "returns_nonsense": ""},
    }


def test_only_the_environment_that_was_set_aside_stops(
    worlds: ModuleType, rig: Any, composed: Callable[..., Composition]
) -> None:
    """
    The others go on; of the one that was set aside no more than was in flight becomes a failure.
    """
    good = type("Good", (worlds.World,), {"solve": _says_hello})
    composition = composed(
        {"good": (good, 0), "w": (worlds.Hostile, 0)},
        Oracle,
        rows=[{"how": "dies"}] * 40,
        environments={"w": {"concurrency": 4}},
    )

    async def playing() -> tuple[list[Rollout], tuple[str, ...]]:
        async with rig(worlds.Hostile, backoff_s=0.01) as opened, rig(good, isolated=False) as here:
            stage = replace(
                opened.stage,
                agents=dict.fromkeys(composition.routes, SimpleAgent()),
                models={"policy": Oracle()},
                placements={"good": here.place, "w": opened.place},
                limits=dict.fromkeys(("good", "w"), TimeLimits()),
            )
            budgets = FailureBudgets(composition, composition.planned())
            stream = RolloutStream(LocalExecutor(stage), Schedule(composition, ()), budgets, 64, 30.0)
            return [rollout async for rollout in stream], stream.status().notes

    rollouts, notes = asyncio.run(asyncio.wait_for(playing(), LONGEST_S))

    finished = [rollout for rollout in rollouts if rollout.environment == "good" and rollout.reward is not None]
    failures = [rollout.failure for rollout in rollouts if rollout.environment == "w"]
    assert len(finished) == 40
    assert 1 <= len(failures) <= 12
    assert {failure.error for failure in failures if failure} <= {"Poison", "SetAside"}
    assert any("w is set aside" in note for note in notes)


# -- the run is gone -------------------------------------------------------------------------------------------------


def _is_alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def _wait(for_what: Callable[[], Any]) -> Any:
    until = time.monotonic() + LONGEST_S / 3
    while not (found := for_what()) and time.monotonic() < until:
        time.sleep(0.02)
    return found


def _start(tmp_path: Path, how: str, *flags: str) -> tuple[subprocess.Popen[str], list[int]]:
    """Start `gym run` with one rollout, and return it with the processes that the rollout reports."""
    log, rows = tmp_path / "log", tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"responses_create_params": {"input": "hi"}, "how": how}) + "\n")
    command = [sys.executable, "-m", "gymcore", "run", "--env", "hostile", f"--set=environments.hostile.data={rows}"]
    command += [f"--set=environments.hostile.config.log={log}", "--out", str(tmp_path / "run"), *flags]
    process = subprocess.Popen(
        command,
        env={**PluginFolder(HOSTILE).environ, "NO_COLOR": "1"},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )

    def reported() -> list[int]:
        return [int(pid) for pid in log.read_text().split()[1:]] if log.exists() else []

    pids = _wait(reported)
    if not pids:
        process.kill()
    assert pids, process.communicate(timeout=10)[0]
    return process, pids


@linux
def test_nothing_outlives_a_run_that_is_killed(tmp_path: Path) -> None:
    """
    After SIGKILL of `gym run` its worker, which is deep in a loop in C, and what that has started, end at once.
    """
    process, pids = _start(tmp_path, "lingers")
    assert len(pids) == 2
    assert all(map(_is_alive, pids))

    process.kill()
    process.communicate(timeout=LONGEST_S)

    assert _wait(lambda: not any(map(_is_alive, pids))), [pid for pid in pids if _is_alive(pid)]


@linux
def test_nothing_outlives_a_worker_that_is_killed(tmp_path: Path) -> None:
    """
    What a worker has started ends with it; the run goes on, and says what happened.
    """
    process, pids = _start(tmp_path, "lingers", "--set=environments.hostile.tool_timeout_s=60")

    os.kill(pids[0], signal.SIGKILL)

    assert _wait(lambda: not any(map(_is_alive, pids[:2])))
    # Played once more, alone; killed again it is poison, and the run is over.
    again = _wait(lambda: [int(word) for word in (tmp_path / "log").read_text().split()[4:] if word.isdigit()][:1])
    os.kill(again[0], signal.SIGKILL)
    output, _ = process.communicate(timeout=LONGEST_S)
    assert process.returncode == 1, output
    failure = json.loads((tmp_path / "run" / "failures.jsonl").read_text().splitlines()[-1])
    assert (failure["stage"], failure["error"]) == ("worker", "Poison")
    assert "was killed by signal 9 (SIGKILL)" in failure["message"]


@linux
def test_ctrl_c_lets_a_worker_finish(tmp_path: Path) -> None:
    """
    The keyboard's signal goes to the run alone, which lets the rollout in flight end and closes the worker itself.
    """
    process, pids = _start(tmp_path, "waits")

    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=LONGEST_S)

    assert process.returncode == 0, output
    assert "done: 1 rollouts" in output
    assert not any(map(_is_alive, pids))


# -- the wire --------------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
ITEMS = st.lists(st.dictionaries(st.text(max_size=5), JSON, max_size=3), max_size=3).map(tuple)


class Heard:
    """What comes out of a channel."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.ends: list[str | None] = []
        self.channel = Channel(self.messages.append, self.ends.append)


@given(st.lists(st.dictionaries(st.text(), JSON, max_size=3), max_size=5), st.data())
def test_frames_arrive_whole_however_they_are_cut(messages: list[Message], data: st.DataObject) -> None:
    """
    A connection may deliver bytes in any pieces.
    """
    sent = b"".join(len(frame).to_bytes(4, "big") + frame for frame in map(encode_json, messages))
    heard = Heard()

    while sent:
        size = data.draw(st.integers(1, len(sent)))
        heard.channel.data_received(sent[:size])
        sent = sent[size:]

    assert heard.messages == messages


class Cut(asyncio.Transport):
    """A transport that notes when it is cut off."""

    is_cut = False

    def abort(self) -> None:
        """Note it."""
        self.is_cut = True


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"\xff\xff\xff\xff", "a frame of 4,294,967,295 bytes"),
        (b"\0\0\0\1{", "a frame that is not JSON"),
        (b"\0\0\0\2[]", "a frame that is no JSON object"),
    ],
)
def test_nonsense_ends_a_connection(sent: bytes, said: str) -> None:
    """
    Who sends anything but frames is heard no further, and nothing is kept of it.
    """
    heard, transport = Heard(), Cut()
    heard.channel.connection_made(transport)

    heard.channel.data_received(sent + b"\0\0\0\2{}")
    heard.channel.data_received(b"\0\0\0\2{}")
    heard.channel.connection_lost(None)

    assert heard.messages == []
    assert transport.is_cut
    assert heard.ends[0] is not None
    assert said in heard.ends[0]


def test_what_is_too_large_is_not_sent() -> None:
    """
    The sender is told, before anything is on its way.
    """
    with pytest.raises(FrameError, match=r"are too much for another process; 67,108,864 can be sent"):
        Heard().channel.send({"text": "x" * FRAME_BYTES})


TURNS = st.builds(
    Turn,
    output=ITEMS,
    results=ITEMS,
    answer=st.none() | st.just(message("go on", role="user")),
    usage=st.none() | st.just({"input_tokens": 1, "details": {"cached": 2}}),
    response_id=st.none() | st.text(),
    status=st.none() | st.just("completed"),
    duration_s=st.floats(0, 1e6),
    attempts=st.integers(1, 9),
)


@given(st.builds(Trajectory, turns=st.lists(TURNS, max_size=3).map(tuple), stop=st.text(), envelope=st.just({"id": 1})))
def test_a_trajectory_reads_back_equal(trajectory: Trajectory) -> None:
    """
    What a verifier sees elsewhere is what happened here.
    """
    assert trajectory_from_json(decode_json(encode_json(trajectory_to_json(trajectory)))) == trajectory
