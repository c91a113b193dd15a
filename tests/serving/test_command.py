"""
`gym serve` as a user starts it: what it says, what it keeps, and how it ends.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from gymcore.composition import compose, write_composition
from gymcore.discovery import discover
from gymcore.plan import Plan
from gymcore.serving import Address, Server, bind, serve
from gymcore.serving.port_file import port_written

pytestmark = pytest.mark.slow

Serve = Callable[..., Any]
BOTH = ("--env", "example_single_tool_call", "--env", "example_multi_step", "--out", "runs/mix")


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a composed dataset."""
    return [json.loads(line) for line in (folder / "dataset.jsonl").read_text().splitlines()]


def _wait_until_stopping(url: str) -> None:
    """Wait until a server that was told to stop says so."""
    until = time.monotonic() + 60
    while httpx.get(f"{url}/ready", timeout=30).status_code != 503:
        assert time.monotonic() < until, "it does not stop"
        time.sleep(0.05)


def test_ten_rows_in_are_ten_rows_out(gym_serve: Serve) -> None:
    """
    Both environments on one port, every row by its route; the run folder holds what was played, and a report.
    """
    with gym_serve(*BOTH) as served, httpx.Client(base_url=served.url, timeout=30) as client:
        rows = rows_of(served.folder / "runs/mix")
        answers = [
            client.post("/run", json={**row, "_ng_task_index": index, "_ng_rollout_index": 0}).json()
            for index, row in enumerate(rows)
        ]
        code, out, err = served.stop()

    assert [answer["reward"] for answer in answers] == [1.0] * 10
    assert code == 0, err
    assert "10 / 10" in out
    report = json.loads((served.folder / "runs/mix/report.json").read_text())
    assert report["total"]["owed"] == 0
    assert not (served.folder / "port-0").exists()


def test_what_it_prints_fits_into_the_configuration_of_a_trainer(gym_serve: Serve) -> None:
    """
    The lines for NeMo Gym are YAML that leads here, and name what the head names.
    """
    with gym_serve(*BOTH) as served:
        configuration = yaml.safe_load(httpx.get(f"{served.url}/global_config_dict_yaml", timeout=30).json())
        _, _, err = served.stop()

    start = err.index("example_single_tool_call_simple_agent:\n")
    printed = yaml.safe_load(err[start : err.index("for verifiers")])
    port = int(served.url.rpartition(":")[2])
    assert set(printed) == {"example_single_tool_call_simple_agent", "example_multi_step_simple_agent"}
    for name, entry in printed.items():
        assert entry == {"responses_api_agents": {"simple_agent": {"host": "127.0.0.1", "port": port}}}
        assert configuration[name] == entry


def test_a_status_command_is_told_which_process_serves_where_and_since_when(gym_serve: Serve) -> None:
    """
    As the head of NeMo Gym tells it, for each agent.
    """
    begun = time.time()
    with gym_serve(*BOTH) as served:
        instances = httpx.get(f"{served.url}/server_instances", timeout=30).json()
        asked = time.time()
        served.stop()

    port = int(served.url.rpartition(":")[2])
    where = {"url": served.url, "host": "127.0.0.1", "port": port, "pid": served.process.pid}
    names = {"example_single_tool_call_simple_agent", "example_multi_step_simple_agent"}
    assert {instance["process_name"] for instance in instances} == names
    for instance in instances:
        assert {key: instance[key] for key in where} == where
        assert begun <= instance["start_time"] <= asked


async def test_who_waits_for_the_port_finds_all_else_done(tmp_path: Path) -> None:
    """
    A script waits for its file, and then reads what the server has said.
    """
    composition = compose(Plan.model_validate({"environments": {"example_multi_step": {}}}), discover(), environ={})
    write_composition(composition, tmp_path / "run")
    port_file = tmp_path / "port"
    seen: list[bool] = []

    def told(server: Server) -> None:
        seen.append(port_file.exists())
        asyncio.get_running_loop().call_soon(look_and_stop, server)

    def look_and_stop(server: Server) -> None:
        seen.append(port_file.exists())
        server.stop()

    with bind(Address()) as listening:
        await serve(composition, tmp_path / "run", listening, Address(), on_start=told, say=print, port_file=port_file)

    assert seen == [False, True]
    assert not port_file.exists()


@pytest.mark.parametrize(
    ("arguments", "host"),
    [(("--host", "0.0.0.0"), "127.0.0.1"), (("--host", "0.0.0.0", "--allow-host", "gym.example"), "gym.example")],
)
def test_clients_are_told_an_address_to_which_they_can_connect(
    gym_serve: Serve, arguments: tuple[str, ...], host: str
) -> None:
    """
    And not that of all addresses, where the server listens.
    """
    with gym_serve(*BOTH, *arguments, "--token-from", "TOKEN", environ={"TOKEN": "x" * 20}) as served:
        port = int(served.url.rpartition(":")[2])
        _, _, err = served.stop()

    lines = err[err.index("for NeMo Gym") :]
    printed = yaml.safe_load(lines[lines.index("\n") : lines.index("for verifiers")])
    places = [entry["responses_api_agents"]["simple_agent"] for entry in printed.values()]
    assert places == [{"host": host, "port": port}] * 2
    assert f'resources_url = "http://{host}:{port}"' in lines
    assert ("in the place of 127.0.0.1" in lines) is (host == "127.0.0.1")


def test_a_folder_that_was_composed_is_served_as_it_lies_there(gym_serve: Serve, tmp_path: Path) -> None:
    """
    `gym serve FOLDER`, as `gym run FOLDER`; what was served counts for a run afterwards.
    """
    subprocess.run([sys.executable, "-m", "gymcore", "compose", *BOTH], cwd=tmp_path, check=True, capture_output=True)
    with gym_serve("runs/mix") as served:
        httpx.post(f"{served.url}/run", json=rows_of(tmp_path / "runs/mix")[0], timeout=30).raise_for_status()
        served.stop()
    run = subprocess.run(
        [sys.executable, "-m", "gymcore", "run", "runs/mix"], cwd=tmp_path, capture_output=True, text=True
    )

    assert run.returncode == 0
    assert "1 rollouts are finished already" in run.stderr


def test_what_was_answered_survives_the_end_of_the_process(gym_serve: Serve) -> None:
    """
    SIGKILL at any time: every answer that a client has is on the disk.
    """
    with gym_serve(*BOTH) as served, httpx.Client(base_url=served.url, timeout=30) as client:
        rows = rows_of(served.folder / "runs/mix")
        answered = [client.post("/run", json=row).json()["task_id"] for row in rows[:4]]
        served.process.kill()
        served.process.wait()

    kept = [
        json.loads(line)["task_id"] for line in (served.folder / "runs/mix/rollouts.jsonl").read_text().splitlines()
    ]
    assert kept == answered


def test_what_is_being_played_when_it_is_stopped_is_answered_first(gym_serve: Serve, tmp_path: Path) -> None:
    """
    One signal lets the rollouts in flight finish; who comes then is told that the server is stopping.
    """
    (tmp_path / "slow.py").write_text(SLOW)
    with gym_serve("--env", "slow", "--out", "runs/slow", environ={"PYTHONPATH": str(_installed(tmp_path))}) as served:
        row = rows_of(served.folder / "runs/slow")[0]
        with concurrent.futures.ThreadPoolExecutor() as pool:
            asked = pool.submit(httpx.post, f"{served.url}/run", json=row, timeout=30)
            while not httpx.get(f"{served.url}/ready", timeout=30).json()["in_flight"] and not asked.done():
                time.sleep(0.05)
            served.process.send_signal(signal.SIGTERM)
            answer = asked.result()
        code = served.process.wait(30)

    assert answer.status_code == 200
    assert answer.json()["reward"] == 1.0
    assert code == 0


def test_a_session_that_is_open_when_it_is_stopped_may_be_scored(gym_serve: Serve) -> None:
    """
    Between two of its calls, too; no other is opened, and the server leaves when it is scored and kept.
    """
    with gym_serve(*BOTH) as served, httpx.Client(base_url=served.url, timeout=30) as client:
        row = next(row for row in rows_of(served.folder / "runs/mix") if "city" in row)
        assert client.post("/seed_session", json=row).status_code == 200
        served.process.send_signal(signal.SIGTERM)
        _wait_until_stopping(served.url)
        time.sleep(0.5)
        late = httpx.post(f"{served.url}/seed_session", json=row, timeout=30).status_code
        called = client.post("/get_weather", json={"city": row["city"]})
        scored = client.post("/verify", json={**row, "response": {"output": []}})
        _, err = served.process.communicate(timeout=60)

    assert (late, called.status_code, scored.status_code) == (503, 200, 200)
    assert "reward" in scored.json()
    kept = json.loads((served.folder / "runs/mix/rollouts.jsonl").read_text())
    assert (kept["task_id"], kept["reward"]) == (row["task_id"], scored.json()["reward"])
    assert json.loads((served.folder / "runs/mix/report.json").read_text())["total"]["finished"] == 1
    assert "stopping: 0 rollouts in flight and 1 open session may finish" in err
    assert served.process.returncode == 0


def test_a_session_that_nobody_goes_on_with_is_not_waited_for_after_a_second_signal(gym_serve: Serve) -> None:
    """
    Two signals end the server, whatever is open.
    """
    with gym_serve(*BOTH, "--set", "collect.drain_s=600") as served:
        row = rows_of(served.folder / "runs/mix")[0]
        httpx.post(f"{served.url}/seed_session", json=row, timeout=30).raise_for_status()
        served.process.send_signal(signal.SIGINT)
        _wait_until_stopping(served.url)
        time.sleep(0.2)
        assert served.process.poll() is None
        served.stop()


SLOW = '''
import asyncio
from gymcore import Environment
from gymcore.interfaces import say

class Slow(Environment):
    """Takes its time."""

    async def open(self):
        await asyncio.sleep(1.5)

    def verify(self, trajectory):
        return 1.0

    async def solve(self):
        yield say("done")
'''


def _installed(folder: Path) -> Path:
    """Install the slow environment beside its module."""
    place = folder / "site"
    package = place / "slow_plugin"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(SLOW)
    (package / "gym.yaml").write_text("gym_api: 1\ndescription: Takes its time.\nsplits: {example: example.jsonl}\n")
    (package / "example.jsonl").write_text('{"responses_create_params": {"input": "Wait."}}\n')
    info = place / "gym_plugin_slow-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gym-plugin-slow\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[gymcore.environments]\nslow = slow_plugin:Slow\n")
    return place


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--env", "example_multi_step", "--host", "0.0.0.0"], 2, "no token keeps them out"),
        (["--env", "example_multi_step", "--token-from", "NOBODY_SET_THIS"], 2, "holds no token"),
        (["--env", "example_multi_stap"], 2, "example_multi_step"),
        (["--env", "example_multi_step", "--executor", "ray"], 2, "--executor local"),
        (["nowhere"], 2, "no composition"),
        (["--env", "example_multi_step", "--port", "70000"], 2, "70000"),
        (["--env", "example_multi_step", "--idle", "nan"], 2, "'nan' is no number of seconds"),
        (["--env", "example_multi_step", "--keep-answers", "inf"], 2, "'inf' is no number of seconds"),
        (
            ["--env", "example_multi_step", "--host", "203.0.113.7", "--token-from", "TOKEN"],
            2,
            "nothing can listen there",
        ),
    ],
)
def test_what_cannot_be_served_is_told_so(tmp_path: Path, arguments: list[str], code: int, told: str) -> None:
    """
    With what to try, and without a traceback.
    """
    command = [sys.executable, "-m", "gymcore", "serve", *arguments]
    environ = {"TOKEN": "x" * 20, "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, env=environ)

    assert done.returncode == code, done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("kept", ["my notes\n", "8000", "8000\nand more\n", "123456\n", "folder"])
def test_a_file_that_is_no_port_file_is_kept(tmp_path: Path, kept: str) -> None:
    """
    It is told before anything is written.
    """
    file = tmp_path / "notes.txt"
    file.mkdir() if kept == "folder" else file.write_text(kept)
    command = [sys.executable, "-m", "gymcore", "serve", "--env", "example_multi_step", "--port", "0", "--out", "x"]

    done = subprocess.run(
        [*command, "--port-file", "notes.txt"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 2
    assert f"there is something else than the port of an earlier server ({file})" in done.stderr
    assert file.is_dir() if kept == "folder" else file.read_text() == kept
    assert not (tmp_path / "x").exists()


def test_a_port_file_without_a_folder_is_told_before_anything_is_written(tmp_path: Path) -> None:
    """
    With what makes the folder.
    """
    command = [sys.executable, "-m", "gymcore", "serve", "--env", "example_multi_step", "--port", "0", "--out", "x"]

    done = subprocess.run(
        [*command, "--port-file", "no where/port.txt"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 2
    assert f"there is no folder for the port file ({tmp_path}/no where/port.txt)" in done.stderr
    assert f"try: mkdir -p '{tmp_path}/no where'" in done.stderr
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("left", ["1\n", ""])
def test_the_port_file_of_an_earlier_server_is_replaced(tmp_path: Path, left: str) -> None:
    """
    And removed in the end, but not where another server has taken it.
    """
    file, taken = tmp_path / "port", tmp_path / "taken"
    file.write_text(left)
    with port_written(file, 11_000), port_written(taken, 11_000):
        assert file.read_text() == "11000\n"
        taken.write_text("11001\n")

    assert not file.exists()
    assert taken.read_text() == "11001\n"


def test_the_port_of_a_server_that_was_killed_is_gone_before_the_next_one_answers(tmp_path: Path) -> None:
    """
    Whoever waits for the file does not read the old port.
    """
    (tmp_path / "port").write_text("1\n")
    command = [sys.executable, "-m", "gymcore", "serve", "--env", "nobody_has_this", "--port", "0"]

    done = subprocess.run([*command, "--port-file", "port"], cwd=tmp_path, capture_output=True, text=True, timeout=60)

    assert done.returncode == 2
    assert not (tmp_path / "port").exists()


def test_a_port_that_is_taken_is_told_before_anything_is_written(gym_serve: Serve, tmp_path: Path) -> None:
    """
    With the address, and nothing composed.
    """
    with gym_serve(*BOTH) as served:
        port = served.url.rpartition(":")[2]
        command = [
            sys.executable,
            "-m",
            "gymcore",
            "serve",
            "--env",
            "example_multi_step",
            "--port",
            port,
            "--out",
            "x",
        ]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)

    assert done.returncode == 2
    assert f"127.0.0.1:{port}" in done.stderr
    assert not (tmp_path / "x").exists()
