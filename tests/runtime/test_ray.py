"""
The Ray executor on a real Ray with two workers, which is started once for all of these tests, as a run starts it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gymcore import hookimpl
from gymcore.composition import Composition, compose, write_composition
from gymcore.discovery import discover
from gymcore.documents import encode_json
from gymcore.errors import EndpointError, PlanError, PluginError
from gymcore.hookspecs import Observers
from gymcore.plan import Plan, RayPlan
from gymcore.records import Rollout
from gymcore.runtime import RolloutStream, run
from gymcore.runtime.budget import FailureBudgets
from gymcore.runtime.on_ray.cluster import Cluster, open_cluster
from gymcore.runtime.on_ray.executor import RayExecutor, open_ray
from gymcore.runtime.poison import POISON
from gymcore.runtime.schedule import Schedule
from gymcore.testing.plugins import PluginFolder
from gymcore.workflow import collect_composition

LONGEST_S = 100.0
"""How long what starts processes may take, on a machine that does much else."""
LABOUR = Path(__file__).parents[1] / "data" / "gym_plugin_labour"

pytestmark = [
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is an extra: pip install 'gymcore[ray]'"),
    pytest.mark.filterwarnings("ignore"),  # Ray's own, of every kind
]

SECRET = "canary-7f3a-of-the-endpoint"


@pytest.fixture(scope="module")
def labour(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PluginFolder]:
    """
    The plugins that these tests play, installed where discovery sees them, here and in the workers.
    """
    folder = tmp_path_factory.mktemp("labour")
    with PluginFolder(folder) as plugins:
        plugins.install_project(LABOUR)
        yield plugins


class OneRay:
    """A Ray that a loop in a thread of its own started as a run does, and stops as a run does."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.stack = open_cluster(RayPlan(workers=2), 64)
        self.cluster: Cluster = self.loop.run_until_complete(self.stack.__aenter__())
        import ray

        self.address = str(ray.get_runtime_context().gcs_address)
        self.folder = Path(ray._private.worker._global_node.get_session_dir_path()).parent

    def processes(self) -> dict[int, str]:
        """Return the processes of this Ray that are alive, with their command lines."""
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                line = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                environ = (path / "environ").read_bytes().decode(errors="replace")
            except OSError:
                continue
            is_ours = str(self.folder) in line or ("ray::" in line and self.folder.name in environ)
            if is_ours and int(path.name) != os.getpid():
                found[int(path.name)] = line
        return found

    def stop(self) -> None:
        """Leave it."""
        self.loop.run_until_complete(self.stack.__aexit__(None, None, None))
        self.loop.close()


@pytest.fixture(scope="module")
def one_ray(labour: PluginFolder) -> Iterator[OneRay]:
    """
    A Ray with two CPUs.

    It leaves neither a process nor a file when it is stopped.
    """
    before = dict(os.environ)
    started = OneRay()
    assert dict(os.environ) == before
    assert started.processes()
    yield started
    started.stop()
    deadline = time.monotonic() + LONGEST_S
    while started.processes() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert started.processes() == {}
    assert not started.folder.exists()


@pytest.fixture
def composed(labour: PluginFolder, one_ray: OneRay, tmp_path: Path) -> Callable[..., Composition]:
    """
    Composes rows of the environment `labour`, each saying what happens, and slow ones of another one, `patient`.
    """

    def written(name: str, rows: Iterable[dict[str, Any]]) -> str:
        lines = ({"responses_create_params": {"input": "work"}, "n": n, **row} for n, row in enumerate(rows))
        (tmp_path / name).write_bytes(b"".join(encode_json(line) + b"\n" for line in lines))
        return str(tmp_path / name)

    def made(
        *rows: dict[str, Any], executor: str = "ray", model: Any = "oracle", patient: int = 0, **changes: Any
    ) -> Composition:
        config = {"log": str(tmp_path / "log"), **changes.pop("config", {})}
        environments = {"labour": {"data": written("rows.jsonl", rows), "config": config}}
        if patient:
            data = written("patient.jsonl", ({"what": "slow"} for _ in range(patient)))
            environments["patient"] = {"use": "labour", "data": data, "config": config}
        plan = {
            "environments": environments,
            "models": {"policy": model},
            "collect": {"executor": executor, "ray": {"workers": 2}, **changes},
        }
        return compose(Plan.model_validate(plan), discover(), environ={"KEY": SECRET})

    return made


def _played(composition: Composition) -> list[Rollout]:
    async def collect() -> list[Rollout]:
        async with asyncio.timeout(LONGEST_S), run(composition) as rollouts:
            return [rollout async for rollout in rollouts]

    return asyncio.run(collect())


@asynccontextmanager
async def _stream_of(executor: RayExecutor, composition: Composition) -> AsyncIterator[RolloutStream]:
    schedule, budgets = Schedule(composition, frozenset()), FailureBudgets(composition, composition.planned())
    stream = RolloutStream(executor, schedule, budgets, 64)
    try:
        yield stream
    finally:
        await stream.aclose()


def test_ray_gives_the_rewards_that_one_process_gives(one_ray: OneRay) -> None:
    """
    The same plan gives the same rollouts, seeds and rewards, wherever they are played.
    """
    names = {"example_single_tool_call": {"repeats": 3}, "example_multi_step": {"repeats": 2}}

    def played(executor: str) -> dict[Any, Any]:
        plan = {"environments": names, "mix": {"seed": 5}, "collect": {"executor": executor, "ray": {"workers": 2}}}
        rollouts = _played(compose(Plan.model_validate(plan), discover(), environ={}))
        found = {rollout.key: (rollout.reward, rollout.trajectory.items, rollout.provenance) for rollout in rollouts}
        assert len(found) == len(rollouts) == 25
        return found

    local, ray = played("local"), played("ray")

    assert ray == local
    assert all(reward is not None and reward.value == 1.0 for reward, _, _ in ray.values())


def test_hooks_hear_of_what_ray_played(composed: Callable[..., Composition], tmp_path: Path) -> None:
    """
    In this process and off its event loop, of finished rollouts that are on the disk, and not of failures.
    """
    heard: list[Rollout] = []
    composition = composed(*({} for _ in range(20)), {"what": "wait"}, verify_timeout_s=0.5)
    write_composition(composition, tmp_path / "run")

    @hookimpl
    def gym_rollouts(folder: Path, rollouts: Sequence[Rollout]) -> None:
        assert threading.current_thread() is not threading.main_thread()
        lines = (folder / "rollouts.jsonl").read_bytes()
        assert all(rollout.to_line()[:-1] in lines for rollout in rollouts)
        heard.extend(rollouts)

    observers = Observers({"dist/notes": SimpleNamespace(gym_rollouts=gym_rollouts)})
    result = asyncio.run(collect_composition(composition, tmp_path / "run", observers=observers))

    assert (result.total.finished, result.total.failed, len(heard)) == (20, 1, 20)
    assert observers.switched_off == ()


def test_the_work_is_spread_and_every_plugin_is_closed(composed: Callable[..., Composition], tmp_path: Path) -> None:
    """
    Both workers play, none of it here, and what was opened in them is closed in them; Ray itself goes on.
    """
    import ray

    rollouts = _played(composed(*({} for _ in range(40))))

    processes = Counter(rollout.reward.metrics["process"] for rollout in rollouts if rollout.reward is not None)
    assert len(processes) == 2
    assert os.getpid() not in processes
    assert min(processes.values()) >= 10
    log = [line.split(" ", 1)[1] for line in (tmp_path / "log").read_text().splitlines()]
    assert Counter(line.split(" ")[0] for line in log) == {"shared": 2, "open": 40, "close": 40, "unshared": 2}
    assert ray.is_initialized()


def test_a_killed_worker_costs_nothing_but_time(composed: Callable[..., Composition]) -> None:
    """
    What it played is played again, by its successor or its neighbour: nothing is lost, and nothing comes twice.
    """
    composition = composed(*({"what": "slow"} for _ in range(40)), concurrency=16)

    async def collect() -> tuple[list[Rollout], tuple[int, ...]]:
        async with (
            asyncio.timeout(LONGEST_S),
            open_ray(composition) as executor,
            _stream_of(executor, composition) as stream,
        ):
            killed = executor.workers
            rollouts = []
            async for rollout in stream:
                if not rollouts:
                    os.kill(killed[0], signal.SIGKILL)
                rollouts.append(rollout)
            return rollouts, killed

    rollouts, killed = asyncio.run(collect())

    assert [rollout.failure for rollout in rollouts] == [None] * 40
    assert len({rollout.key for rollout in rollouts}) == 40
    assert len(killed) == 2


@pytest.mark.rig
def test_a_rollout_that_kills_its_worker_twice_is_poison_and_the_others_finish(
    composed: Callable[..., Composition],
) -> None:
    """
    Who was beside it is played again and not blamed, of whichever environment it is.
    """
    composition = composed({"what": "kill"}, *({"what": "slow"} for _ in range(3)), patient=4, ray={"workers": 1})

    rollouts = _played(composition)

    assert Counter(rollout.environment for rollout in rollouts) == {"labour": 4, "patient": 4}
    assert len({rollout.key for rollout in rollouts}) == 8
    failures = {rollout.row.value["what"]: rollout.failure for rollout in rollouts if rollout.failure is not None}
    assert list(failures) == ["kill"]
    assert failures["kill"].stage == "worker"
    assert failures["kill"].error == POISON
    assert "the Ray worker that played it" in failures["kill"].message


@pytest.mark.rig
def test_a_worker_that_stops_answering_is_replaced(composed: Callable[..., Composition]) -> None:
    """
    Nothing bounds a process that is stopped or never lets go, so its silence is; what it played is played again.
    """
    composition = composed(*({"what": "slow"} for _ in range(8)), timeout_s=1.0)

    async def collect() -> tuple[list[Rollout], int]:
        async with (
            asyncio.timeout(LONGEST_S),
            open_ray(composition, slack_s=0.1) as executor,
            _stream_of(executor, composition) as stream,
        ):
            stopped = executor.workers[0]
            os.kill(stopped, signal.SIGSTOP)
            return await _all_of(stream), stopped

    rollouts, stopped = asyncio.run(collect())

    assert [rollout.failure for rollout in rollouts] == [None] * 8
    assert _ends(stopped)


@pytest.mark.rig
def test_a_worker_that_cannot_be_opened_again_is_tried_later(
    composed: Callable[..., Composition], tmp_path: Path
) -> None:
    """
    The others go on meanwhile: it was opened before, so what is wrong now may pass.
    """
    broken_by = tmp_path / "broken"
    composition = composed(*({"what": "slow"} for _ in range(20)), concurrency=4, config={"broken_by": str(broken_by)})

    async def collect() -> tuple[list[Rollout], list[str]]:
        async with (
            asyncio.timeout(LONGEST_S),
            open_ray(composition) as executor,
            _stream_of(executor, composition) as stream,
        ):
            broken_by.touch()
            os.kill(executor.workers[0], signal.SIGKILL)
            rollouts = [await anext(stream)]
            while not any("could not be started again" in note for note in executor.notes()):
                await asyncio.sleep(0.02)
            notes = list(executor.notes())
            broken_by.unlink()
            rollouts += [rollout async for rollout in stream]
            while len(executor.workers) < 2:
                await asyncio.sleep(0.02)
            return rollouts, notes

    rollouts, notes = asyncio.run(collect())

    assert [rollout.failure for rollout in rollouts] == [None] * 20
    assert any("there is no licence for it" in note for note in notes)


@pytest.mark.rig
def test_one_death_makes_nobody_wait_for_the_others(composed: Callable[..., Composition], tmp_path: Path) -> None:
    """
    Which rollouts are played alone is the schedule's business; all others are played again at once.
    """
    composition = composed(*({"what": "slow"} for _ in range(6)), ray={"workers": 1})
    log = tmp_path / "log"

    async def play() -> tuple[list[Rollout], list[Rollout]]:
        async with asyncio.timeout(LONGEST_S), open_ray(composition) as executor:
            schedule = Schedule(composition, frozenset())
            planned = [taken for _ in range(6) if (taken := schedule.take_now()) is not None]
            playing = asyncio.gather(*map(executor.play, planned))
            while not log.exists() or log.read_text().count(" open ") < 6:
                await asyncio.sleep(0.01)
            os.kill(executor.workers[0], signal.SIGKILL)
            died = await playing
            log.unlink()
            return died, await asyncio.gather(*map(executor.play, planned))

    died, again = asyncio.run(play())

    assert {rollout.failure.stage for rollout in died if rollout.failure is not None} == {"worker"}
    assert [rollout.failure for rollout in again] == [None] * 6
    lines = [line.split(" ")[1] for line in log.read_text().splitlines()]
    assert lines[lines.index("open") :][:6] == ["open"] * 6


def test_who_is_to_be_alone_has_a_worker_alone_and_the_others_go_on(
    composed: Callable[..., Composition], tmp_path: Path
) -> None:
    """
    Nothing of another environment is beside it either; and two that are to be alone leave the others a worker.
    """
    # The first to be alone waits for another one to begin, which no bound but that on this test ends.
    composition = composed({"what": "beside"}, *({"what": "slow"} for _ in range(3)), patient=4)

    async def play() -> tuple[list[Rollout], list[Rollout]]:
        async with asyncio.timeout(LONGEST_S), open_ray(composition) as executor:
            schedule = Schedule(composition, frozenset())
            planned = [taken for _ in range(8) if (taken := schedule.take_now()) is not None]
            assert {taken.route.environment for taken in planned[:2]} == {"labour", "patient"}
            given = [replace(taken, is_alone=True) for taken in planned[:2]] + planned[2:]
            rollouts = await asyncio.gather(*map(executor.play, given))
            return rollouts[:2], rollouts[2:]

    alone, others = asyncio.run(play())

    def process_of(rollout: Rollout) -> Any:
        assert rollout.reward is not None
        return rollout.reward.metrics["process"]

    def beside(rollout: Rollout) -> list[Rollout]:
        end = rollout.started_at + rollout.duration_s
        return [
            other
            for other in others
            if other.started_at < end and rollout.started_at < other.started_at + other.duration_s
        ]

    for rollout in alone:
        assert process_of(rollout) not in map(process_of, beside(rollout))
    assert beside(alone[0])


def test_an_endpoint_that_refuses_ends_the_run_as_it_does_here(
    composed: Callable[..., Composition], tmp_path: Path
) -> None:
    """
    The same error with the same words, and the environments are closed.
    """
    said = {}
    for executor in ("local", "ray"):
        model = {"use": "talker", "config": {"refused": True}}
        with pytest.raises(EndpointError) as caught:
            _played(composed({}, {}, {}, executor=executor, model=model, ray={"workers": 1}))
        said[executor] = (str(caught.value), vars(caught.value))

    assert said["ray"] == said["local"]
    log = Counter(line.split(" ")[1] for line in (tmp_path / "log").read_text().splitlines())
    assert log["open"] == log["close"]
    assert log["shared"] == log["unshared"] == 2


def test_a_plugin_that_cannot_be_opened_is_the_same_error_as_here(composed: Callable[..., Composition]) -> None:
    """
    Nothing is played, and the message names the plugin.
    """
    said = []
    for executor in ("local", "ray"):
        with pytest.raises(
            PluginError, match="could not be opened: RuntimeError: there is no licence for it"
        ) as caught:
            _played(composed({}, executor=executor, config={"broken": True}, ray={"workers": 1}))
        said.append((str(caught.value), caught.value.plugin))

    assert said[0] == said[1]


def test_a_cancelled_run_closes_its_environments(composed: Callable[..., Composition], tmp_path: Path) -> None:
    """
    As with the second Ctrl-C: what is in flight is closed where it plays, and the stream ends.
    """
    composition = composed(*({"what": "wait"} for _ in range(8)))
    log = tmp_path / "log"

    async def collect() -> list[Rollout]:
        async with asyncio.timeout(LONGEST_S), run(composition) as rollouts:
            taken = asyncio.create_task(_all_of(rollouts))
            while not log.exists() or log.read_text().count(" open ") < 8:
                await asyncio.sleep(0.02)
            rollouts.cancel()
            return await taken

    assert asyncio.run(collect()) == []
    assert log.read_text().count(" close wait ") == 8


async def _all_of(rollouts: RolloutStream) -> list[Rollout]:
    return [rollout async for rollout in rollouts]


@pytest.mark.rig
def test_a_verifier_that_never_returns_does_not_hold_up_a_cancelled_run(
    composed: Callable[..., Composition], tmp_path: Path
) -> None:
    """
    Its worker hears nothing any more, and is ended when its time is over.
    """
    composition = composed({"what": "block"}, {"what": "wait"})
    log = tmp_path / "log"

    async def collect() -> tuple[list[Rollout], tuple[int, ...]]:
        async with asyncio.timeout(LONGEST_S), open_ray(composition, close_s=1.0) as executor:
            workers = executor.workers
            async with _stream_of(executor, composition) as stream:
                taken = asyncio.create_task(_all_of(stream))
                while not log.exists() or log.read_text().count(" open ") < 2:
                    await asyncio.sleep(0.02)
                stream.cancel()
                return await taken, workers

    rollouts, workers = asyncio.run(collect())

    assert rollouts == []
    assert log.read_text().count(" close wait ") == 1
    assert all(map(_ends, workers))


def _ends(process: int) -> bool:
    deadline = time.monotonic() + LONGEST_S
    while _is_alive(process) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not _is_alive(process)


def _is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_what_models_tell_is_told_once(composed: Callable[..., Composition]) -> None:
    """
    Two workers see the same endpoint, and a person needs to read of it once.
    """
    composition = composed(*({"what": "slow"} for _ in range(8)), model="talker")

    async def collect() -> tuple[str, ...]:
        async with asyncio.timeout(LONGEST_S), run(composition) as rollouts:
            async for _ in rollouts:
                pass
            return rollouts.status().notes

    assert asyncio.run(collect()) == ("the endpoint is slow today",)


def test_secrets_reach_the_workers_and_nothing_else(composed: Callable[..., Composition], one_ray: OneRay) -> None:
    """
    A key goes from process to process; no file of Ray's and no command line holds it.
    """
    composition = composed({}, {}, model={"use": "talker", "config": {"key": "${KEY}"}}, ray={"workers": 1})
    lines: list[str] = []

    async def collect() -> list[Rollout]:
        async with asyncio.timeout(LONGEST_S), run(composition) as rollouts:
            played = [rollout async for rollout in rollouts]
            lines.extend(one_ray.processes().values())
            return played

    rollouts = asyncio.run(collect())

    assert [rollout.trajectory.text for rollout in rollouts] == [str(len(SECRET))] * 2
    assert lines
    assert not any(SECRET in line for line in lines)
    files = [path for path in one_ray.folder.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []


def test_ray_listens_on_the_loopback_interface_only(one_ray: OneRay) -> None:
    """
    A Ray that a run starts is for nobody else on the network.
    """
    inodes = set()
    for process in one_ray.processes():
        for link in Path(f"/proc/{process}/fd").glob("*"):
            try:
                target = str(link.readlink())
            except OSError:
                continue
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    listening = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                listening.append(fields[1].split(":")[0])

    assert listening
    # 127.0.0.1 as the kernel writes it, alone or inside an address of IPv6.
    assert {address[-8:] for address in listening} == {"0100007F"}


def test_more_workers_than_there_is_room_for_is_a_mistake_of_the_plan(composed: Callable[..., Composition]) -> None:
    """
    It ends after the time that the plan gives, with the arithmetic.
    """
    composition = composed({}, ray={"workers": 3, "start_timeout_s": 2.0})

    with pytest.raises(PlanError, match=r"only \d of 3 Ray workers could be started in 2 s(.|\n)*Ray has 2 CPUs"):
        _played(composition)


@pytest.mark.rig
def test_a_command_joins_a_ray_that_runs_and_leaves_it_running(one_ray: OneRay, tmp_path: Path) -> None:
    """
    Given an address, `gym run` plays there; exit code and report are those of any run.
    """
    import ray

    from gymcore.runtime.on_ray.cluster import _settings

    out = tmp_path / "run"
    options = ["--executor", "ray", "--workers", "2", "--set", f"collect.ray.address={one_ray.address}", "--json"]
    command = [sys.executable, "-m", "gymcore", "run", "--env", "example_multi_step", *options, "--out", str(out)]
    key = {name: value for name, value in _settings().items() if name.startswith(("RAY_AUTH", "RAY_ENABLE"))}

    done = subprocess.run(
        command, env={**os.environ, **key}, capture_output=True, text=True, timeout=LONGEST_S, check=False, cwd=tmp_path
    )

    assert done.returncode == 0, done.stderr
    assert "ray" not in done.stderr.replace(str(out), "").lower()
    assert len((out / "rollouts.jsonl").read_bytes().splitlines()) == 5
    assert ray.is_initialized()
    assert [node["Alive"] for node in ray.nodes()] == [True]


def test_an_address_where_no_ray_is_says_so(labour: PluginFolder, tmp_path: Path) -> None:
    """
    Exit code 2, one line, and nothing was played.
    """
    command = [sys.executable, "-m", "gymcore", "run", "--env", "example_multi_step", "--executor", "ray"]
    command += ["--set", "collect.ray.address=127.0.0.1:1", "--out", str(tmp_path / "run")]

    done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_S, check=False, cwd=tmp_path)

    assert done.returncode == 2, done.stderr
    assert "Ray cannot be joined at 127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr
