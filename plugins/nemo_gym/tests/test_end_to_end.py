"""
Both example environments, served by one process and played by another, as if they were installed there.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.resources import files
from pathlib import Path
from typing import IO, Any

import pytest

from gymcore import EndpointError, read_rollouts, run_sync
from gymcore.cli.plan_options import PlanFlags
from gymcore.testing import LoopbackEndpoint, calls, says, slow

pytestmark = pytest.mark.slow

BOTH = ("--env", "example_single_tool_call", "--env", "example_multi_step")

GymServe = Callable[..., Any]


def _synonyms() -> dict[str, list[str]]:
    """Map each query of the synonyms environment to what a perfect agent looks up."""
    rows = files("gym_plugin_example_multi_step").joinpath("data/example.jsonl").read_text().splitlines()
    parsed = [json.loads(row) for row in rows]
    return {row["responses_create_params"]["input"][-1]["content"]: row["expected_synonyms"] for row in parsed}


def solver() -> Callable[[dict[str, Any]], Any]:
    """Return a policy that solves both environments from the conversation alone."""
    answers = _synonyms()

    def answer(body: dict[str, Any]) -> Any:
        results = [item["output"] for item in body["input"] if item.get("type") == "function_call_output"]
        said = next(item["content"] for item in reversed(body["input"]) if item.get("role") == "user")
        if said not in answers:
            return says("Cold.") if results else calls("get_weather", city="Oslo")
        wanted = answers[said]
        if len(results) < len(wanted):
            return calls("get_synonym_value", synonym=wanted[len(results)])
        if len(results) == len(wanted):
            values = [json.loads(result)["synonym_value"] for result in results]
            return calls("extract_synonym_values", synonym_values=values)
        return says("Done.")

    return answer


def _plan(environments: dict[str, Any], endpoint: LoopbackEndpoint, **collect: Any) -> dict[str, Any]:
    model = {"use": "openai_model", "config": {"base_url": endpoint.base_url}}
    return {"environments": environments, "models": {"policy": model}, "collect": {"concurrency": 8, **collect}}


def _ready(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}/ready", timeout=60) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def _outcome(rollout: Any) -> tuple[Any, ...]:
    said = [{key: item[key] for key in item if key not in ("id", "call_id")} for item in rollout.trajectory.items]
    return said, rollout.reward.value, rollout.reward.metrics, rollout.trajectory.stop


@pytest.mark.parametrize("isolation", ["none", "process"])
def test_what_is_served_is_played_as_what_is_installed(gym_serve: GymServe, tmp_path: Path, isolation: str) -> None:
    """
    The same rows, tool results, rewards and metrics, in a mix with an environment that is here; nothing stays open.
    """
    with gym_serve(*BOTH) as served, LoopbackEndpoint(solver()) as endpoint:
        far = {"use": f"remote:{served.url}", "data": str(served.dataset), "isolation": isolation}
        near = {"example_single_tool_call": {}, "example_multi_step": {}}
        report = run_sync(_plan({"far": far, **near}, endpoint), tmp_path / "run", environ={})
        ready = _ready(served.url)

    played: dict[str, dict[str, Any]] = {}
    for rollout in read_rollouts(tmp_path / "run"):
        key = json.dumps(rollout.row.value["responses_create_params"], sort_keys=True)
        played.setdefault("far" if rollout.environment == "far" else "near", {})[key] = _outcome(rollout)
    assert len(played["far"]) == 10
    assert played["far"] == played["near"]
    assert {outcome[1] for outcome in played["far"].values()} == {1.0}
    assert (report.total.finished, report.total.failed) == (20, 0)
    assert ready["sessions"] == 0


def test_the_command_line_says_it_in_one_line(gym_serve: GymServe, tmp_path: Path) -> None:
    """
    `--env remote:URL --data ROWS`, though the rows name agents that nobody here is called.
    """
    with gym_serve(*BOTH) as served, LoopbackEndpoint(solver()) as endpoint:
        text = PlanFlags(env=[f"remote:{served.url}"], data=[str(served.dataset)]).to_plan()
        assert text.plan is not None
        plan = _plan(text.plan.to_dict()["environments"], endpoint)
        run_sync(plan, tmp_path / "run", environ={})

    rollouts = list(read_rollouts(tmp_path / "run"))
    assert [rollout.reward.value for rollout in rollouts if rollout.reward is not None] == [1.0] * 10
    assert {rollout.environment for rollout in rollouts} == {"remote"}


def test_what_is_played_elsewhere_can_be_served_again(gym_serve: GymServe, tmp_path: Path) -> None:
    """
    A server in front of a server: rows find their way through both.
    """
    with gym_serve(*BOTH) as first:
        given = ("--env", f"remote:{first.url}", "--data", str(first.dataset), "--model", "nop")
        with gym_serve(*given) as second, LoopbackEndpoint(solver()) as endpoint:
            far = {"use": f"remote:{second.url}", "data": str(second.dataset)}
            run_sync(_plan({"far": far}, endpoint), tmp_path / "run", environ={})

    rewards = [rollout.reward.value for rollout in read_rollouts(tmp_path / "run") if rollout.reward is not None]
    assert rewards == [1.0] * 10


def test_a_token_stays_where_it_belongs(gym_serve: GymServe, tmp_path: Path) -> None:
    """
    From a variable to the server, and into no file.
    """
    with (
        gym_serve(*BOTH, "--token-from", "SERVE_TOKEN", SERVE_TOKEN="sesame-of-sixteen-letters") as served,
        LoopbackEndpoint(solver()) as endpoint,
    ):
        plan = _plan({"far": {"use": f"remote:{served.url}", "data": str(served.dataset)}}, endpoint)
        with pytest.raises(EndpointError, match="asks for a token"):
            run_sync(plan, tmp_path / "none", environ={})
        report = run_sync(plan, tmp_path / "run", environ={"GYM_REMOTE_TOKEN": "sesame-of-sixteen-letters"})

    assert report.total.failed == 0
    written = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert not any(b"sesame-of-sixteen-letters" in path.read_bytes() for path in written)


MOST_FAILED = 4
"""
Of two rollouts at once: those in flight when their server is killed, and those that begin next, over connections that
its listener has taken and nobody serves any more.
"""


def test_a_server_that_is_gone_for_good_ends_the_run(gym_serve: GymServe, tmp_path: Path) -> None:
    """
    What was in flight may be failures; what was not begun is none, and the same command plays all of it.
    """
    with LoopbackEndpoint(lambda body: slow(0.05, solver()(body))) as endpoint:
        with gym_serve(*BOTH) as served:
            config = {"retries": 0, "patience_s": 0.5}
            far = {"use": f"remote:{served.url}", "config": config, "data": str(served.dataset), "repeats": 20}
            killer = threading.Thread(target=_kill_when_written, args=(served.process, tmp_path / "run"))
            killer.start()
            with pytest.raises(EndpointError, match=r"nobody could be asked at .* and patience_s is 0\.5") as caught:
                run_sync(_plan({"far": far}, endpoint, concurrency=2), tmp_path / "run", environ={})
            killer.join()
        failures = [json.loads(line) for line in (tmp_path / "run" / "failures.jsonl").read_text().splitlines()]
        finished = len(list(read_rollouts(tmp_path / "run")))
        with gym_serve(*BOTH, port=served.url.rpartition(":")[2]):
            report = run_sync(_plan({"far": far}, endpoint), tmp_path / "run", environ={})

    assert (caught.value.stage, caught.value.has_worked) == ("open", True)
    assert 0 < finished < 200
    assert len(failures) <= MOST_FAILED
    assert [failure for failure in failures if not failure["retryable"]] == []
    assert {failure["stage"] for failure in failures} <= {"open", "tool", "verify"}
    assert (report.total.finished, report.total.failed) == (200, 0)


def test_a_server_that_comes_back_is_waited_for(gym_serve: GymServe, tmp_path: Path) -> None:
    """
    Rollouts that are not begun cost nothing, and wait.
    """
    with LoopbackEndpoint(lambda body: slow(0.05, solver()(body))) as endpoint, gym_serve(*BOTH) as served:
        config = {"retries": 0, "patience_s": 60}
        far = {"use": f"remote:{served.url}", "config": config, "data": str(served.dataset), "repeats": 6}

        def restart() -> None:
            _kill_when_written(served.process, tmp_path / "run")
            served.process.wait()
            stack.enter_context(gym_serve(*BOTH, port=served.url.rpartition(":")[2]))

        with ExitStack() as stack:
            restarting = threading.Thread(target=restart)
            restarting.start()
            report = run_sync(_plan({"far": far}, endpoint, concurrency=2), tmp_path / "run", environ={})
            restarting.join()

    assert report.total.finished + report.total.failed == 60
    assert report.total.failed <= MOST_FAILED


@pytest.mark.parametrize("isolation", ["none", "process"])
def test_the_first_signal_ends_a_run_whose_rollouts_only_wait_for_a_server(
    gym_serve: GymServe, tmp_path: Path, isolation: str
) -> None:
    """
    What is not begun is owed again at once, and not after the time that what is in flight may take.
    """
    with LoopbackEndpoint(lambda body: slow(0.05, solver()(body))) as endpoint, gym_serve(*BOTH) as served:
        arguments = ["--env", f"remote:{served.url}", "--data", str(served.dataset), "--out", str(tmp_path / "run")]
        arguments += ["--model", "openai_model", "--set", f"models.policy.config.base_url={endpoint.base_url}"]
        arguments += ["--repeats", "30", "--concurrency", "8", "--drain", "60"]
        arguments += ["--set", "environments.remote.config.retries=0"]
        arguments += ["--set", f"environments.remote.isolation={isolation}"]
        command = [sys.executable, "-u", "-m", "gymcore", "run", *arguments]
        with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as running:
            assert running.stderr is not None
            killing = threading.Thread(target=_kill_when_written, args=(served.process, tmp_path / "run"))
            killing.start()
            said = [*_until("; waiting for it, up to 300 s", running.stderr)]
            killing.join()
            began = time.monotonic()
            running.send_signal(signal.SIGINT)
            said += running.stderr.readlines()
            took_s = time.monotonic() - began

    told = "".join(said)
    assert running.returncode == 130, told
    assert took_s < 20, told
    assert told.count("waiting for it") == 1, told
    assert "rollouts are still owed; go on with: gym run" in told


def _kill_when_written(process: subprocess.Popen[str], folder: Path) -> None:
    """Kill a server as soon as a run has a rollout from it."""
    until = time.monotonic() + 60
    while not any(path.stat().st_size for path in folder.glob("rollouts.jsonl")) and time.monotonic() < until:
        time.sleep(0.02)
    process.kill()


def _until(text: str, lines: IO[str]) -> Iterator[str]:
    for line in lines:
        yield line
        if text in line:
            return
