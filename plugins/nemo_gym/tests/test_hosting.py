"""
Hosting a resources server: started, watched and ended, whatever it does; against a package that stands for nemo-gym.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from gym_plugin_nemo_gym.hosted.environment import NemoGym, NemoGymConfig
from gym_plugin_nemo_gym.hosted.process import HostedWire
from gym_plugin_nemo_gym.served import ServedTask
from gym_plugin_nemo_gym.wire import ServerUnavailable

from gymcore import EndpointError, PluginError, Rollout, read_rollouts, run_sync
from gymcore.builtin.simple_agent import SimpleAgent, SimpleAgentConfig
from gymcore.errors import GymcoreError, PlanError
from gymcore.testing import LoopbackEndpoint, ScriptedModel, calls, play, says, slow, truncated

from .fake_nemo_gym import COUNTER, GUESSING, FakeNemoGym

pytestmark = pytest.mark.slow

TOOLS = ("add", "about", "die", "flood", "nothing")
ROW = {
    "responses_create_params": {
        "input": "Count.",
        "tools": [{"type": "function", "name": name, "parameters": {"type": "object"}} for name in TOOLS],
    },
    "goal": 2,
}


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> FakeNemoGym:
    """
    The interpreter that has it.
    """
    made = FakeNemoGym(tmp_path_factory.mktemp("fake"))
    made.add("guessing", GUESSING, agent="gymnasium_agent")
    made.add("needy", "import of_nobody\n" + COUNTER)
    made.write("resources_servers/needy/requirements.txt", "-e nemo-gym[dev] @ ../../\nof-nobody>=3  # for it\n")
    made.add("crashing", "import os\nprint('going down', flush=True)\nos._exit(3)\nX.run_webserver()\n")
    made.add("failing", "raise ValueError('not today')\n" + COUNTER)
    made.add("hanging", "import time\nprint('zzz', flush=True)\ntime.sleep(600)\n" + COUNTER)
    check = "import pathlib\nif pathlib.Path(__file__).with_name('broken').exists(): raise ValueError('it is broken')\n"
    made.add("brittle", check + COUNTER)
    note = "import os, time\nwith open('pids', 'a') as file: print(os.getpid(), file=file)\ntime.sleep(1)\n"
    made.add("noting", note + COUNTER)
    made.add("idle", "class Counter: ...\n")
    made.add("judged", COUNTER, more={"judge": {"type": "responses_api_models", "name": "judge_model"}})
    made.add("unset", COUNTER, more={"key": "${somewhere}"})
    made.add("odd", COUNTER, more={"key": "${oc.decode:somewhere}"})
    made.add("late", COUNTER, more={"lifespan": "fails"})
    made.add("other_loop", COUNTER, agent="claude_code_agent")
    made.add("beside", "import neighbour\n" + COUNTER)
    made.write("resources_servers/beside/neighbour.py", "")
    return made


def _config(fake: FakeNemoGym, server: str = "counter", **options: Any) -> NemoGymConfig:
    return NemoGymConfig(**{"server": server, "python": str(fake.python), "start_timeout_s": 60.0, **options})


def _play(fake: FakeNemoGym, *replies: Any, row: Any = None, **options: Any) -> Rollout:
    return play(NemoGym, row or ROW, ScriptedModel(*replies, says("Done.")), config=_config(fake, **options))


def _results(rollout: Rollout) -> list[str]:
    return [item["output"] for turn in rollout.trajectory.turns for item in turn.results]


async def _open(config: NemoGymConfig) -> None:
    async with NemoGym.shared(config):
        pass


def _refusal(fake: FakeNemoGym, server: str, kind: type[GymcoreError] = PluginError, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        asyncio.run(_open(_config(fake, server, **options)))
    return str(caught.value)


def _is_there(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def _wait_until(claim: Callable[[], bool], told: str = "it is not so", limit_s: float = 60.0) -> None:
    until = time.monotonic() + limit_s
    while not claim():
        assert time.monotonic() < until, told
        time.sleep(0.05)


def _wait_until_gone(*pids: int) -> None:
    _wait_until(lambda: not any(map(_is_there, pids)), f"some of {pids} are still there")


def _plan(fake: FakeNemoGym, endpoint: LoopbackEndpoint, **entry: Any) -> dict[str, Any]:
    hosted = {"use": "nemo_gym:counter", "config": {"python": str(fake.python)}, **entry}
    model = {"use": "openai_model", "config": {"base_url": endpoint.base_url}}
    return {"environments": {"counter": hosted}, "models": {"policy": model}}


# -- a rollout ---------------------------------------------------------------------------------------------------------


def test_a_server_is_hosted_and_played(fake: FakeNemoGym) -> None:
    """
    Its tools are called and its verifier is asked, in one session.
    """
    right = _play(fake, calls("add", n=1), calls("add", n=1))
    wrong = _play(fake, calls("add", n=5), calls("nothing"))

    assert right.reward is not None
    assert wrong.reward is not None
    assert (right.reward.value, right.reward.metrics) == (1.0, {"total": 2})
    assert (wrong.reward.value, wrong.reward.metrics) == (0.0, {"total": 5})
    assert _results(wrong) == ["added", '{"detail":"Not Found"}']


def test_a_verifier_that_raises_is_a_failure(fake: FakeNemoGym) -> None:
    """
    And never a reward of 0.
    """
    rollout = _play(fake, row={**ROW, "crash": True})

    assert rollout.reward is None
    assert rollout.failure is not None
    assert (rollout.failure.stage, rollout.failure.retryable) == ("verify", False)
    assert "KeyError('synonym_values')" in rollout.failure.message


def test_its_process_sees_what_it_needs_and_no_more(fake: FakeNemoGym, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    It works in its folder, with the configuration that was asked for, without keys, and without our path.
    """
    monkeypatch.setenv("POLICY_API_KEY", "a secret of ours")
    monkeypatch.setenv("PYTHONPATH", "/ours")
    monkeypatch.delenv("HF_HOME", raising=False)

    options = {"config": {"size": 3}, "servers": {"judge_model": "http://127.0.0.1:8001"}}
    about = json.loads(_results(_play(fake, calls("about"), **options))[0])

    assert about["cwd"] == str(fake.site / "resources_servers" / "counter")
    assert not {"POLICY_API_KEY", "PYTHONPATH"} & about["environ"].keys()
    assert about["environ"]["HF_HOME"] == str(Path("~/.cache/huggingface").expanduser())
    assert about["config"]["name"] == "counter_instance"
    assert about["config"]["size"] == 3
    assert about["global"]["judge_model"]["responses_api_models"]["given"] == {"host": "127.0.0.1", "port": 8001}
    assert "a secret" not in json.dumps(about)
    assert len(about["argv"]) == 1


def test_what_lies_beside_a_server_can_be_imported_there(fake: FakeNemoGym) -> None:
    """
    As when `python app.py` runs in its folder.
    """
    assert _play(fake, calls("add", n=2), server="beside").reward.value == 1.0  # type: ignore[union-attr]


def test_nothing_is_left_of_a_server(fake: FakeNemoGym, tmp_path: Path) -> None:
    """
    Neither it, nor what it has started, nor its folder and what it keeps for a while; what it has opened, it could
    close.
    """
    note = tmp_path / "note"

    about = json.loads(_results(_play(fake, calls("about"), config={"note": str(note)}))[0])

    _wait_until_gone(*about["pids"])
    assert note.read_text() == "closed"
    assert Path(about["kept"]).name.startswith("tmp")
    assert not Path(about["kept"]).exists()


def test_who_may_be_asked_and_cannot_be_reached_is_told_at_the_start(
    fake: FakeNemoGym, caplog: pytest.LogCaptureFixture
) -> None:
    """
    Where a judge is not there, its rollouts would only take too long.
    """
    _play(fake, calls("add", n=1), servers={"judge_model": "http://127.0.0.1:9"})

    (told,) = [record.getMessage() for record in caplog.records if "judge_model" in record.getMessage()]
    assert told.startswith("counter may ask judge_model at 127.0.0.1:9, which cannot be reached now: ")


def test_however_much_it_prints_it_goes_on(fake: FakeNemoGym) -> None:
    """
    Also on stdout; only the end of it is kept.
    """
    rollout = _play(fake, calls("flood"), calls("add", n=2))

    assert _results(rollout) == ["flooded", "added"]
    assert rollout.reward is not None
    assert rollout.reward.value == 1.0


# -- a server that does not start --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("server", "told"),
    [
        ("needy", "a package that it needs is not there: No module named 'of_nobody'"),
        (
            "crashing",
            "has ended (exit status 3); it printed last: nemo_gym is imported, and says so on stdout going down",
        ),
        ("failing", "cannot be hosted: ValueError: not today; it printed last:"),
        ("idle", "its app.py starts no server"),
        ("judged", "it asks a server that is called 'judge_model', and nobody has said where that is"),
        ("unset", "its YAML takes key from ${somewhere}, and nobody has given that"),
        ("odd", "its configuration cannot be read: LookupError: Interpolation key 'somewhere' not found"),
        ("late", "RuntimeError: the lifespan cannot begin"),
    ],
)
def test_a_server_that_does_not_start_says_why(fake: FakeNemoGym, server: str, told: str) -> None:
    """
    In an error that ends the run before anything is played.
    """
    assert told in _refusal(fake, server)


def test_what_a_server_requires_is_where_to_look(fake: FakeNemoGym) -> None:
    """
    The hint names the file.
    """
    assert "resources_servers/needy/requirements.txt" in _refusal(fake, "needy")


def test_a_server_that_hangs_is_ended(fake: FakeNemoGym) -> None:
    """
    After as long as it may take to start.
    """
    began = time.monotonic()
    asyncio.run(_open(_config(fake)))
    limit_s = round(1 + 4 * (time.monotonic() - began), 1)  # time enough on this machine to print something

    told = _refusal(fake, "hanging", start_timeout_s=limit_s)

    assert f"'hanging' does not serve within {limit_s:g} s; it printed last:" in told
    assert "zzz" in told
    assert "start_timeout_s" in told


def test_options_that_cannot_be_are_refused(fake: FakeNemoGym) -> None:
    """
    Each with what to try.
    """
    for options, told in (
        ({"server": "../counter"}, "a server is named by its folder"),
        ({"config_file": "../../x.yaml"}, "a configuration is named by its file"),
        ({"python": ""}, "no Python is named that has nemo-gym; try: python3.12 -m venv"),
        ({"servers": {"judge": "https://127.0.0.1:1"}}, "must look like http://HOST:PORT"),
        ({"servers": {"judge": "http://127.0.0.1:1/v1"}}, "must look like http://HOST:PORT"),
    ):
        with pytest.raises(ValueError, match=told):
            _config(fake, **options)


def test_who_is_not_there_is_named(fake: FakeNemoGym, tmp_path: Path) -> None:
    """
    A server, its configuration, its loop, NeMo Gym itself, and the interpreter.
    """
    assert "has no resources server 'cuonter'\n  try: counter" in _refusal(fake, "cuonter", PlanError)
    assert "has no configuration 'b.yaml'\n  try: counter.yaml" in _refusal(
        fake, "counter", PlanError, config_file="b.yaml"
    )
    assert "it is played by claude_code_agent, whose loop is not played here" in _refusal(fake, "other_loop", PlanError)
    for python, told in (
        (tmp_path / "none", "cannot be run: no such file or directory"),
        (sys.executable, "has no nemo-gym\n  try: python3.12 -m venv"),
        ("/bin/true", "is no Python that can be asked"),
    ):
        assert told in _refusal(fake, "counter", PlanError, python=str(python))


# -- a server that dies ------------------------------------------------------------------------------------------------


def test_a_server_that_dies_makes_its_rollouts_failures(fake: FakeNemoGym) -> None:
    """
    They may be played again, and it is said how it ended and what it printed last.
    """
    began = time.monotonic()

    rollout = _play(fake, calls("die"))

    assert rollout.reward is None
    assert rollout.failure is not None
    assert (rollout.failure.stage, rollout.failure.retryable) == ("tool", True)
    assert "'counter' has ended (exit status 7); it printed last:" in rollout.failure.message
    assert "these are the last words" in rollout.failure.message
    assert time.monotonic() - began < 60


def test_a_server_that_takes_long_to_end_is_told_to_have_ended(fake: FakeNemoGym) -> None:
    """
    On a busy machine, or with a large folder to clear away: its connections break long before its end is known.
    """

    async def told() -> str:
        async with NemoGym.shared(_config(fake)) as keeper:
            wire = await keeper.wire()
            watcher = wire._process.pid
            os.kill(watcher, signal.SIGSTOP)
            asyncio.get_running_loop().call_later(1.5, os.kill, watcher, signal.SIGCONT)
            with pytest.raises(ServerUnavailable) as caught:
                await wire.line().send("die", b"{}", most_bytes=2**20)
            return str(caught.value)

    assert "'counter' has ended (exit status 7); it printed last:" in asyncio.run(told())


def _numbered(folder: Path, count: int = 6) -> str:
    """Write tasks that are told apart by what they ask, and return the file."""
    tools = ROW["responses_create_params"]["tools"]  # type: ignore[index]
    rows = [{"responses_create_params": {"input": f"{n}", "tools": tools}, "goal": 2} for n in range(count)]
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(data)


class Deadly:
    """A policy that kills the server in the tasks that it is told."""

    def __init__(self, *deadly: str) -> None:
        self.deadly = deadly

    def __call__(self, body: dict[str, Any]) -> Any:
        if any(item.get("type") == "function_call_output" for item in body["input"]):
            return says("Done.")
        return calls("die") if body["input"][0]["content"] in self.deadly else calls("add", n=2)


def test_a_run_goes_on_with_a_server_that_is_started_again(fake: FakeNemoGym, tmp_path: Path) -> None:
    """
    What was in flight when it ended is a failure, which the same command plays again; nothing else is lost.
    """
    policy = Deadly("2", "4")
    with LoopbackEndpoint(policy) as endpoint:
        plan = {**_plan(fake, endpoint, data=_numbered(tmp_path)), "collect": {"concurrency": 1}}
        first = run_sync(plan, tmp_path / "run", environ={})
        failures = [json.loads(line) for line in (tmp_path / "run" / "failures.jsonl").read_text().splitlines()]
        policy.deadly = ()
        second = run_sync(plan, tmp_path / "run", environ={})

    assert (first.total.finished, first.total.failed) == (4, 2)
    assert [(failure["stage"], failure["retryable"]) for failure in failures] == [("tool", True)] * 2
    assert all("has ended (exit status 7)" in failure["message"] for failure in failures)
    assert (second.total.finished, second.total.failed) == (6, 0)
    assert [rollout.reward.value for rollout in read_rollouts(tmp_path / "run") if rollout.reward] == [1.0] * 6


def test_a_run_stops_when_its_server_ends_again_and_again_and_goes_on_another_time(
    fake: FakeNemoGym, tmp_path: Path
) -> None:
    """
    Three times in a row, each before it has scored a rollout: it is said how it ended, and what it printed.
    """
    policy = Deadly("2", "3", "4", "5", "6")
    with LoopbackEndpoint(policy) as endpoint:
        plan = {**_plan(fake, endpoint, data=_numbered(tmp_path, 7)), "collect": {"concurrency": 1}}
        with pytest.raises(
            EndpointError, match=r"has ended \(exit status 7\); it printed last: .*last words"
        ) as caught:
            run_sync(plan, tmp_path / "run", environ={})
        before = [rollout.row.value["task_id"] for rollout in read_rollouts(tmp_path / "run")]
        policy.deadly = ()
        report = run_sync(plan, tmp_path / "run", environ={})

    assert "it is not started again: 3 times in a row it ended before it scored a rollout" in str(caught.value)
    assert (caught.value.stage, len(before)) == ("open", 2)
    assert (report.total.finished, report.total.failed) == (7, 0)


def test_a_server_that_does_not_start_again_is_told_so(fake: FakeNemoGym) -> None:
    """
    All rollouts that need it wait for the same start, and are told the same.
    """
    broken = fake.site / "resources_servers" / "brittle" / "broken"

    async def opened() -> list[BaseException | HostedWire]:
        async with NemoGym.shared(_config(fake, "brittle")) as keeper:
            wire = await keeper.wire()
            reply = await wire.line().send("about", b"{}", most_bytes=2**20)
            broken.touch()
            os.kill(reply.value()["pids"][0], signal.SIGKILL)
            assert await wire.ended(60) is not None
            found = await asyncio.gather(*(keeper.wire() for _ in range(5)), return_exceptions=True)
            return [*found, *await asyncio.gather(keeper.wire(), return_exceptions=True)]

    found = asyncio.run(opened())

    assert [type(error) for error in found] == [EndpointError] * 6
    assert {str(error) for error in found} == {str(found[0])}
    assert "'brittle' cannot be hosted: ValueError: it is broken" in str(found[0])


def test_a_rollout_waits_for_a_server_that_is_started_again(fake: FakeNemoGym) -> None:
    """
    It says so: it has not begun, and whoever stops need not wait for it.
    """

    async def opened() -> list[bool]:
        async with NemoGym.shared(_config(fake, "noting")) as keeper:
            wire = await keeper.wire()
            reply = await wire.line().send("about", b"{}", most_bytes=2**20)
            environment = NemoGym(ServedTask.model_validate(ROW), _config(fake, "noting"), resources=keeper)
            seen = [environment.is_waiting]
            os.kill(reply.value()["pids"][0], signal.SIGKILL)
            assert await wire.ended(60) is not None
            opening = asyncio.create_task(environment.open())
            await asyncio.sleep(0)
            seen.append(environment.is_waiting)
            await opening
            seen.append(environment.is_waiting)
            await environment.close()
            return seen

    assert asyncio.run(opened()) == [False, True, False]


@pytest.mark.parametrize("starts", [1, 2])
def test_a_run_that_ends_does_not_wait_for_a_server_that_is_started_again(fake: FakeNemoGym, starts: int) -> None:
    """
    Whether it is still to be started, or is starting: nothing of it is left.
    """
    pids = fake.site / "resources_servers" / "noting" / "pids"
    pids.unlink(missing_ok=True)

    async def left() -> None:
        async with NemoGym.shared(_config(fake, "noting")) as keeper:
            wire = await keeper.wire()
            os.kill(int(pids.read_text()), signal.SIGKILL)
            assert await wire.ended(60) is not None
            asked = asyncio.create_task(keeper.wire())
            await asyncio.sleep(0)
            async with asyncio.timeout(60):
                while len(pids.read_text().split()) < starts:  # noqa: ASYNC110, another process writes it
                    await asyncio.sleep(0.02)
        await asyncio.wait([asked])
        assert asked.cancelled()

    asyncio.run(left())

    noted = pids.read_text().split()
    assert len(noted) == starts
    _wait_until_gone(*map(int, noted))


def test_a_server_that_is_killed_is_served_again(fake: FakeNemoGym, gym_serve: Callable[..., Any]) -> None:
    """
    Whoever asks next gets its rollout; where it ends again and again, the failure is the environment's, and told.
    """
    environ = {"GYMCORE_NEMO_GYM_PYTHON": str(fake.python)}
    with (
        gym_serve("--env", "nemo_gym:counter", "--model", "nop", **environ) as served,
        httpx.Client(timeout=60) as client,
    ):

        def seeded() -> httpx.Response:
            client.cookies.clear()
            return client.post(f"{served.url}/seed_session", json=row)

        def kill() -> httpx.Response:
            """Kill the process that serves, and return what its session says then."""
            assert seeded().status_code == 200
            (pid, _) = client.post(f"{served.url}/about", json={}).json()["pids"]
            os.kill(pid, signal.SIGKILL)
            return client.post(f"{served.url}/about", json={})

        row = json.loads(served.dataset.read_text().splitlines()[0])
        row["responses_create_params"]["tools"] = ROW["responses_create_params"]["tools"]  # type: ignore[index]
        told = kill().json()["error"]
        again = client.post(f"{served.url}/run", json=row)
        ready = [client.get(f"{served.url}/ready").status_code]
        for _ in range(4):  # the first of them has scored
            kill()
        dead = client.post(f"{served.url}/run", json=row)
        unready = client.get(f"{served.url}/ready")
        ready.append(unready.status_code)

    assert (told["stage"], told["retryable"]) == ("tool", True)
    assert "has ended (signal 9)" in told["message"]
    assert (again.status_code, ready) == (200, [200, 503])
    assert (dead.json()["error"]["stage"], dead.json()["error"]["retryable"]) == ("open", False)
    assert "3 times in a row it ended before it scored a rollout" in dead.text
    assert unready.json()["error"]["environments"] == ["counter"]


class Asking:
    """A policy that has the tool `about` called, and then takes its time."""

    def __init__(self) -> None:
        self.pids: list[int] = []

    def __call__(self, body: dict[str, Any]) -> Any:
        results = [item["output"] for item in body["input"] if item.get("type") == "function_call_output"]
        if not results:
            return calls("about")
        self.pids = json.loads(results[0])["pids"]
        return slow(60, says("Done."))

    def wait(self) -> list[int]:
        """Wait until it is known which processes there are, and return their ids."""
        _wait_until(lambda: bool(self.pids), "no tool was called")
        assert all(map(_is_there, self.pids))
        return self.pids


@pytest.mark.parametrize("isolation", ["none", "process"])
def test_a_server_does_not_outlive_a_run_that_is_killed(fake: FakeNemoGym, tmp_path: Path, isolation: str) -> None:
    """
    Nor does what it has started, or the folder of its socket.
    """
    policy = Asking()
    with LoopbackEndpoint(policy) as endpoint, tempfile.TemporaryDirectory(dir="/tmp") as folder:
        process = _running(_plan(fake, endpoint, isolation=isolation), tmp_path, TMPDIR=folder)
        pids = policy.wait()
        (socket,) = Path(folder).glob("*/socket")
        assert (socket.parent.stat().st_mode & 0o777) == 0o700
        process.send_signal(signal.SIGKILL)
        process.wait()
        _wait_until_gone(*pids)
        _wait_until(lambda: not socket.parent.exists())


def test_ctrl_c_ends_a_server(fake: FakeNemoGym, tmp_path: Path) -> None:
    """
    With the run, and not before: what is in flight is ended by us.
    """
    policy = Asking()
    with LoopbackEndpoint(policy) as endpoint:
        process = _running(_plan(fake, endpoint), tmp_path)
        pids = policy.wait()
        process.send_signal(signal.SIGINT)
        _wait_until(lambda: "stopping" in (tmp_path / "said").read_text(), "it does not stop")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        _wait_until_gone(*pids)


def _running(plan: dict[str, Any], folder: Path, **environ: str) -> subprocess.Popen[bytes]:
    entry = plan["environments"]["counter"]
    entry["data"] = str(folder / "rows.jsonl")
    (folder / "rows.jsonl").write_text(json.dumps(ROW) + "\n")
    (folder / "plan.yaml").write_text(json.dumps(plan))
    command = [sys.executable, "-m", "gymcore", "run", "--plan", "plan.yaml", "--out", "run"]
    with (folder / "said").open("wb") as said:
        return subprocess.Popen(
            command, cwd=folder, env={**os.environ, **environ}, stdout=subprocess.DEVNULL, stderr=said
        )


def test_a_server_ends_with_the_process_that_watches_it(fake: FakeNemoGym) -> None:
    """
    Also where somebody kills that one.
    """

    async def killed() -> list[int]:
        async with NemoGym.shared(_config(fake)) as keeper:
            wire = await keeper.wire()
            reply = await wire.line().send("about", b"{}", most_bytes=2**20)
            pids: list[int] = reply.value()["pids"]
            os.kill(wire._process.pid, signal.SIGKILL)
            _wait_until_gone(pids[0])
        os.kill(pids[1], signal.SIGKILL)  # what it had started was nobody's child any more
        return pids

    assert len(asyncio.run(killed())) == 2


# -- rows --------------------------------------------------------------------------------------------------------------


def test_the_rows_of_a_server_come_with_it(fake: FakeNemoGym, tmp_path: Path) -> None:
    """
    `use: nemo_gym:SERVER` alone is enough, in a run with isolation, too; the rows are verbatim.
    """

    def policy(body: dict[str, Any]) -> Any:
        goal = int(body["input"][0]["content"].split()[-1].rstrip("."))
        said = any(item.get("type") == "function_call_output" for item in body["input"])
        return says("Done.") if said else calls("add", n=goal)

    rewards: Callable[[Path], list[Any]] = lambda run: [rollout.reward.value for rollout in read_rollouts(run)]  # noqa: E731
    with LoopbackEndpoint(policy) as endpoint:
        for isolation in ("none", "process"):
            run_sync(_plan(fake, endpoint, isolation=isolation), tmp_path / isolation, environ={})

    assert rewards(tmp_path / "none") == rewards(tmp_path / "process") == [1.0, 1.0]
    rows = [json.loads(line) for line in (tmp_path / "none" / "dataset.jsonl").read_text().splitlines()]
    assert [row["unread"] for row in rows] == [{"kept": True}] * 2


def test_a_split_without_rows_is_told(fake: FakeNemoGym, tmp_path: Path) -> None:
    """
    With the file that its YAML names.
    """
    with LoopbackEndpoint(lambda body: says("")) as endpoint, pytest.raises(PlanError) as caught:
        run_sync(_plan(fake, endpoint, split="train"), tmp_path / "run", environ={})

    told = str(caught.value)
    assert "'counter' comes without rows for the split 'train'" in told
    assert "resources_servers/counter/data/train.jsonl is not there" in told


def test_the_interpreter_is_asked_for_with_what_to_do(tmp_path: Path) -> None:
    """
    Where nobody has named one.
    """
    with pytest.raises(PlanError) as caught:
        run_sync(
            {"environments": {"x": {"use": "nemo_gym:counter"}}, "models": {"policy": "nop"}}, tmp_path, environ={}
        )

    assert "pip install nemo-gym==0.4.0" in str(caught.value)
    assert "export GYMCORE_NEMO_GYM_PYTHON=" in str(caught.value)


def test_a_model_replies_as_often_as_the_yaml_says(fake: FakeNemoGym) -> None:
    """
    After `max_steps` the attempt is scored as it is; the plan may say otherwise.
    """
    asked = [calls("add", n=0)] * 9

    rollout = play(NemoGym, ROW, ScriptedModel(*asked), config=_config(fake))
    longer = play(
        NemoGym, ROW, ScriptedModel(*asked), config=_config(fake), agent=SimpleAgent(SimpleAgentConfig(max_turns=5))
    )

    assert [len(each.trajectory.turns) for each in (rollout, longer)] == [3, 5]
    assert rollout.trajectory.stop == longer.trajectory.stop == "max_turns"
    assert rollout.reward is not None


# -- step by step ------------------------------------------------------------------------------------------------------

GUESS = {"responses_create_params": {"input": "Guess."}, "goal": "b", "first": "It is a letter."}


def test_what_is_played_step_by_step_earns_the_sum(fake: FakeNemoGym) -> None:
    """
    What is seen is the next message, from the first one on; each reply is a step.
    """
    model = ScriptedModel(says("a"), says("b"), says("never asked"))

    rollout = play(NemoGym, GUESS, model, config=_config(fake, "guessing"))

    assert rollout.reward is not None
    assert rollout.reward.value == 0.75
    metrics = {
        "guess": "b",
        "steps": 2,
        "terminated": True,
        "truncated": False,
        "first_observation": "It is a letter.",
    }
    assert rollout.reward.metrics == metrics
    assert rollout.reward.info == {"info": {"guess": "b", "seen": ["b"]}}
    said = [item["content"] for item in model.requests[1].input if item.get("role") == "user"]
    assert said == ["Guess.", "It is a letter.", "not a"]


def test_steps_end_where_those_of_nemo_gym_do(fake: FakeNemoGym) -> None:
    """
    After `max_steps` of the YAML, and with a last reply that said nothing or was cut off, whatever is seen then.
    """
    many = play(NemoGym, GUESS, ScriptedModel(*[says("a")] * 9), config=_config(fake, "guessing"))
    empty = play(NemoGym, GUESS, ScriptedModel(says("a"), says("")), config=_config(fake, "guessing"))
    cut = play(NemoGym, GUESS, ScriptedModel(says("a"), truncated("mute")), config=_config(fake, "guessing"))

    assert many.reward is not None
    assert empty.reward is not None
    assert (many.reward.value, many.reward.metrics["steps"]) == (-0.75, 3)
    assert (empty.reward.value, empty.reward.metrics["steps"]) == (-0.5, 2)
    assert not many.reward.metrics["terminated"]
    assert many.reward.metrics["truncated"]
    assert cut.reward is not None
    assert (cut.reward.value, cut.reward.metrics["steps"], cut.trajectory.stop) == (-0.5, 2, "truncated")


def test_a_step_after_which_nothing_is_seen_is_a_failure(fake: FakeNemoGym) -> None:
    """
    There is nothing to go on with.
    """
    rollout = play(NemoGym, GUESS, ScriptedModel(says("mute")), config=_config(fake, "guessing"))

    assert rollout.failure is not None
    assert rollout.failure.stage == "reply"
    assert "neither an end nor anything to be seen" in rollout.failure.message


def test_a_misspelt_field_of_its_configuration_is_told(tmp_path: Path) -> None:
    """
    NeMo Gym itself takes no notice of it, and plays with the default; a class that takes whatever comes is believed.
    """
    fake = FakeNemoGym(tmp_path / "fake")
    deaf = "class Deaf(Config):\n    model_config = {'extra': 'ignore'}\n    note: str = ''\n\n\nclass Counter"
    fake.add("deaf", COUNTER.replace("class Counter", deaf, 1).replace("config: Config", "config: Deaf"))
    told = ("run", "--env", "nemo_gym:deaf", "--model", "nop", "--out", str(tmp_path / "run"), "--set")

    done = _gym(*told, 'environments.deaf.config.config={"nte": "x"}', GYMCORE_NEMO_GYM_PYTHON=str(fake.python))
    assert done.returncode == 4, done.stderr
    assert "its configuration has no field 'nte'" in done.stderr
    assert "its fields: description, domain, entrypoint, note" in done.stderr

    done = _gym(*told, 'environments.deaf.config.config={"note": "x"}', GYMCORE_NEMO_GYM_PYTHON=str(fake.python))
    assert done.returncode == 0, done.stderr


# -- the listing -------------------------------------------------------------------------------------------------------


def _gym(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gymcore", *arguments],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
    )


def test_servers_are_shown_with_what_they_need(fake: FakeNemoGym) -> None:
    """
    None of them is imported for it.
    """
    done = _gym("show", "nemo_gym", "--json", GYMCORE_NEMO_GYM_PYTHON=str(fake.python))

    shown = {choice["argument"]: choice for choice in json.loads(done.stdout)["choices"]}
    assert shown["counter"] == {
        "argument": "counter",
        "description": "agent: Counts.",
        "splits": {"example": 2},
        "details": {"agents": ["simple_agent"], "max_steps": 3, "asks": [], "unset": [], "requires": []},
        "problem": None,
    }
    assert shown["judged"]["details"]["asks"] == ["judge_model"]
    assert shown["unset"]["details"]["unset"] == ["key"]
    assert shown["odd"]["details"]["unset"] == []
    assert shown["needy"]["details"]["requires"] == ["of-nobody>=3"]
    assert shown["other_loop"]["problem"] == "it is played by claude_code_agent, whose loop is not played here"
    words = _gym("show", "nemo_gym:needy", GYMCORE_NEMO_GYM_PYTHON=str(fake.python))
    assert "requires: of-nobody>=3" in words.stdout
    assert "counter" not in words.stdout


def test_servers_are_listed_as_environments(fake: FakeNemoGym) -> None:
    """
    Each is a row, by the name under which a plan plays it.
    """
    done = _gym("list", "environments", "--choices", "--json", GYMCORE_NEMO_GYM_PYTHON=str(fake.python))

    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert rows["nemo_gym:counter"]["status"] == "ok"
    assert rows["nemo_gym:counter"]["description"] == "agent: Counts."
    assert rows["nemo_gym:other_loop"]["status"] == "incompatible"
    assert len([name for name in rows if name.startswith("nemo_gym:")]) == 15


def test_without_nemo_gym_a_listing_says_how_to_get_it() -> None:
    """
    In a row; whoever asks for a server gets the exit code of a wrong request.
    """
    listed = _gym("list", "--choices", GYMCORE_NEMO_GYM_PYTHON="")
    assert listed.returncode == 0
    assert "nemo_gym:SERVER" in listed.stdout
    assert "pip install nemo-gym==0.4.0" in listed.stdout
    for python in ("", sys.executable):
        done = _gym("show", "nemo_gym:counter", GYMCORE_NEMO_GYM_PYTHON=python)
        assert done.returncode == 2
        assert "pip install nemo-gym==0.4.0" in done.stderr
        assert done.stdout == ""
