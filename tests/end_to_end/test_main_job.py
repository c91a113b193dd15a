"""
The main job, as a user types it: two environments, one runtime, one routed dataset, scored rollouts on disk.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gymcore.testing import LoopbackEndpoint, calls, half_a_body, hangs, html, reset, says, status

BOTH = ("--env", "example_single_tool_call", "--env", "example_multi_step")


def rollouts_in(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rollouts.jsonl").read_text(encoding="utf-8").splitlines()]


def keys_of(rollouts: list[dict[str, Any]]) -> Counter[tuple[str, str, int]]:
    return Counter((line["environment"], line["task_id"], line["repeat"]) for line in rollouts)


def test_two_environments_leave_ten_scored_rollouts(gym: Callable[..., Any], tmp_path: Path) -> None:
    """
    With no key and no network, five rollouts of each environment end with reward 1.0.
    """
    done = gym("run", *BOTH, "--out", "runs/demo")

    rollouts = rollouts_in(tmp_path / "runs/demo")
    assert Counter(line["environment"] for line in rollouts) == {"example_single_tool_call": 5, "example_multi_step": 5}
    assert {line["reward"] for line in rollouts} == {1.0}
    assert done.stderr.startswith("runs/demo: 10 rollouts planned")
    assert "--model openai_model" in done.stderr


def test_the_rows_of_two_equal_environments_alternate(gym: Callable[..., Any], tmp_path: Path) -> None:
    """
    Five rows of each environment follow each other one by one.
    """
    gym("compose", *BOTH, "--out", "mix")

    rows = [json.loads(line) for line in (tmp_path / "mix/dataset.jsonl").read_text(encoding="utf-8").splitlines()]
    first, second = rows[0]["environment"], rows[1]["environment"]
    assert first != second
    assert [row["environment"] for row in rows] == [first, second] * 5


def test_the_same_command_again_does_nothing(gym: Callable[..., Any], tmp_path: Path) -> None:
    """
    Without `--out` the folder is named in the first line, and the same command finds it complete.
    """
    first = gym("run", *BOTH)
    folder = tmp_path / first.stderr.split(":")[0]
    before = (folder / "rollouts.jsonl").read_bytes()

    again = gym("run", *BOTH)

    assert "10 rollouts are finished already" in again.stderr
    assert (folder / "rollouts.jsonl").read_bytes() == before


def test_ten_real_rows_give_ten_rollouts(gym: Callable[..., Any], tmp_path: Path, routed_rows: dict[str, Path]) -> None:
    """
    A dataset made elsewhere, with nothing but a routing key added, runs unchanged, and its rows stay verbatim.
    """
    gym("run", *(f"--data={path}" for path in routed_rows.values()), "--out", "out")

    rollouts = rollouts_in(tmp_path / "out")
    assert Counter(line["environment"] for line in rollouts) == {"example_single_tool_call": 5, "example_multi_step": 5}
    assert {line["reward"] for line in rollouts} == {1.0}
    given = [line for path in routed_rows.values() for line in path.read_text(encoding="utf-8").splitlines()]
    written = (tmp_path / "out/rollouts.jsonl").read_text(encoding="utf-8")
    assert all(row[:-1] in written for row in given)


@pytest.mark.parametrize("api", ["responses", "chat"])
@pytest.mark.parametrize("chosen", [("example_single_tool_call",), ("example_multi_step",), ()])
def test_real_rows_score_against_an_endpoint(
    gym: Callable[..., Any],
    tmp_path: Path,
    routed_rows: dict[str, Path],
    mock_endpoint: Callable[..., str],
    chosen: tuple[str, ...],
    api: str,
) -> None:
    """
    Each environment alone and both together earn 1.0 on every real row from a policy behind HTTP, by both APIs.
    """
    names = chosen or tuple(routed_rows)
    model = ("--model=openai_model", f"--set=models.policy.config.base_url={mock_endpoint()}")

    gym(
        "run",
        *(f"--data={routed_rows[name]}" for name in names),
        *model,
        f"--set=models.policy.config.api={api}",
        "--out=out",
    )

    rollouts = rollouts_in(tmp_path / "out")
    assert Counter(line["environment"] for line in rollouts) == dict.fromkeys(names, 5)
    assert {line["reward"] for line in rollouts} == {1.0}
    assert all(line["response"]["usage"]["total_tokens"] > 0 for line in rollouts)


def test_no_rollout_is_lost_to_a_faulty_endpoint(
    gym: Callable[..., Any], tmp_path: Path, routed_rows: dict[str, Path], mock_endpoint: Callable[..., str]
) -> None:
    """
    With 10 % faults, 1,000 planned rollouts end as 1,000 finished ones, none twice.
    """
    url = mock_endpoint("--fault-rate", "0.1")
    model = ("--model=openai_model", f"--set=models.policy.config.base_url={url}")

    gym("run", *(f"--data={path}" for path in routed_rows.values()), *model, "--repeats=100", "--out=out")

    keys = keys_of(rollouts_in(tmp_path / "out"))
    assert len(keys) == 1000
    assert set(keys.values()) == {1}


def weather_policy(faults: float, seed: int) -> Callable[[dict[str, Any]], Any]:
    """A policy that solves the weather environment, and misbehaves for a share of the requests."""
    chance = random.Random(seed)
    misbehaviours = [status(500), status(429, headers={"Retry-After": "0"}), half_a_body(), reset(), html()]

    def answer(request: dict[str, Any]) -> Any:
        if chance.random() < faults:
            return chance.choice(misbehaviours)
        asked = any(item.get("type") == "function_call_output" for item in request["input"])
        return says("It is cold.") if asked else calls("get_weather", city="Oslo")

    return answer


def test_killed_halfway_the_same_command_completes_exactly(gym: Callable[..., Any], tmp_path: Path) -> None:
    """
    SIGKILL in the middle, then the same command: every rollout once, and those that were finished stay as they were.
    """
    solve, is_killed = weather_policy(0.05, seed=1), threading.Event()
    asked: list[Any] = []

    def answer(request: dict[str, Any]) -> Any:
        """Have it wait, so that it cannot end before it is killed; 60 rollouts take 130 requests."""
        asked.append(request)
        return solve(request) if is_killed.is_set() or len(asked) < 400 else hangs()

    with LoopbackEndpoint(answer) as endpoint:
        command = ["run", "--env=example_single_tool_call", "--repeats=60", "--out=out", "--model=openai_model"]
        command.append(f"--set=models.policy.config.base_url={endpoint.base_url}")
        process = subprocess.Popen(
            [sys.executable, "-m", "gymcore", *command],
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        file = tmp_path / "out/rollouts.jsonl"
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and (not file.exists() or file.read_bytes().count(b"\n") < 60):
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        is_killed.set()
        before = file.read_bytes()
        whole = before[: before.rfind(b"\n") + 1]
        assert 60 <= whole.count(b"\n") < 300

        gym(*command)

    keys = keys_of(rollouts_in(tmp_path / "out"))
    assert len(keys) == 300
    assert set(keys.values()) == {1}
    assert file.read_bytes().startswith(whole)


def test_a_wrong_host_is_one_line_within_seconds(gym: Callable[..., Any], tmp_path: Path) -> None:
    """
    Nothing listens there: exit code 3, the refused connection named in one line, and how to go on.
    """
    with LoopbackEndpoint(says("")) as endpoint:
        gone = endpoint.base_url
    started = time.monotonic()

    done = gym("run", *BOTH, "--model=openai_model", f"--set=models.policy.config.base_url={gone}", "--out=out", code=3)

    assert time.monotonic() - started < 30
    [line] = [line for line in done.stderr.splitlines() if "EndpointError" in line]
    assert "refused" in line
    assert "go on with: gym run out" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_key_is_one_line(gym: Callable[..., Any]) -> None:
    """
    The endpoint says 401: exit code 3, and the line names it.
    """
    with LoopbackEndpoint(status(401, body={"error": {"message": "no such key"}})) as endpoint:
        url = f"--set=models.policy.config.base_url={endpoint.base_url}"
        done = gym("run", *BOTH, "--model=openai_model", url, "--out=out", code=3)

    [line] = [line for line in done.stderr.splitlines() if "EndpointError" in line]
    assert "401" in line
    assert "no such key" in line
