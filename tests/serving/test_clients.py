"""
The real clients, unmodified and installed from the package index, against `gym serve`: NeMo Gym's collector, alone and
with a server of its own beside ours, the clients of OpenAI and Anthropic, and the evaluation command of verifiers.

Each needs a Python of its own: `make test-nemo-gym` and `make test-verifiers` install them.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gymcore.testing import LoopbackEndpoint, calls, says
from gymcore.testing.replies import Reply

pytestmark = pytest.mark.slow

Serve = Callable[..., Any]

NEMO_PYTHON = "GYMCORE_NEMO_GYM_PYTHON"
VERIFIERS_PYTHON = "GYMCORE_VERIFIERS_PYTHON"

BOTH = ("--env", "example_single_tool_call", "--env", "example_multi_step", "--out", "runs/mix")

OFFLINE = {
    "NO_PROXY": "127.0.0.1,localhost",
    "no_proxy": "127.0.0.1,localhost",
    "HF_HUB_OFFLINE": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "WANDB_MODE": "disabled",
}


def interpreter(variable: str, command: str) -> Path:
    """Return the Python that a variable names, or skip."""
    python = os.environ.get(variable)
    if not python:
        pytest.skip(f"{variable} names no Python; `make {command}` installs one")
    return Path(python)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a composed dataset."""
    return [json.loads(line) for line in (folder / "dataset.jsonl").read_text().splitlines()]


def by_query(folder: Path) -> Callable[[Mapping[str, Any]], Reply]:
    """Return a policy that plays the bundled environments rightly, found by what the user asks."""
    rows = {row["responses_create_params"]["input"][-1]["content"]: row for row in rows_of(folder)}

    def reply(body: Mapping[str, Any]) -> Reply:
        said = body["input"]
        asked = next(item["content"] for item in said if item.get("role") == "user")
        query = asked if isinstance(asked, str) else asked[0]["text"]
        row = rows[query]
        outputs = [json.loads(item["output"]) for item in said if item.get("type") == "function_call_output"]
        if "city" in row:
            return says("It is mild.") if outputs else calls("get_weather", city=row["city"])
        wanted = row["expected_synonyms"]
        if len(outputs) < len(wanted):
            return calls("get_synonym_value", synonym=wanted[len(outputs)])
        if len(outputs) == len(wanted):
            return calls("extract_synonym_values", synonym_values=[output["synonym_value"] for output in outputs])
        return says("That is all.")

    return reply


@contextmanager
def served_with_endpoint(gym_serve: Serve, tmp_path: Path) -> Iterator[Any]:
    """Serve both environments with a scripted endpoint as their policy."""
    composing = [sys.executable, "-m", "gymcore", "compose", *BOTH]
    subprocess.run(composing, cwd=tmp_path, check=True, capture_output=True)
    policy = by_query(tmp_path / "runs/mix")
    with LoopbackEndpoint(policy) as endpoint:
        address = f"models.policy.config.base_url={endpoint.base_url}"
        with gym_serve("runs/mix", "--model", "openai_model", "--set", address) as served:
            yield served


# -- NeMo Gym ----------------------------------------------------------------------------------------------------------


def collect(python: Path, port: int, rows: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """Run NeMo Gym's own collector against a head."""
    out.parent.mkdir(parents=True, exist_ok=True)
    command = [python.with_name("ng_collect_rollouts"), "+head_server.host=127.0.0.1", f"+head_server.port={port}"]
    files = [f"+input_jsonl_fpath={rows}", f"+output_jsonl_fpath={out}"]
    environ = {**os.environ, **OFFLINE}
    return subprocess.run(
        [*command, *files], cwd=out.parent, env=environ, capture_output=True, text=True, timeout=110, check=False
    )


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Return what a collector wrote."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_nemo_gyms_collector_gets_ten_rows_for_ten_and_its_aggregates(gym_serve: Serve, tmp_path: Path) -> None:
    """
    Unmodified: every row back verbatim with its reward, both agents in the file of aggregates, nothing failed.
    """
    python = interpreter(NEMO_PYTHON, "test-nemo-gym")
    with gym_serve(*BOTH) as served:
        port = int(served.url.rpartition(":")[2])
        folder = tmp_path / "runs/mix"
        done = collect(python, port, folder / "dataset.jsonl", tmp_path / "out/rollouts.jsonl")
        code, _, _ = served.stop()

    assert done.returncode == 0, done.stderr
    collected = {row["task_id"]: row for row in lines_of(tmp_path / "out/rollouts.jsonl")}
    rows = rows_of(folder)
    assert [collected[row["task_id"]]["reward"] for row in rows] == [1.0] * 10
    for row in rows:
        assert {key: collected[row["task_id"]][key] for key in row} == row
    aggregates = json.loads((tmp_path / "out/rollouts_aggregate_metrics.json").read_text())
    assert {entry["agent_ref"]["name"]: entry["key_metrics"]["mean/reward"] for entry in aggregates} == {
        "example_single_tool_call_simple_agent": 1.0,
        "example_multi_step_simple_agent": 1.0,
    }
    assert (tmp_path / "out/rollouts_failures.jsonl").read_text() == ""
    assert code == 0
    assert len(lines_of(folder / "rollouts.jsonl")) == 10
    assert {line["provenance"]["agent"] for line in lines_of(folder / "rollouts.jsonl")} == {"simple_agent"}


def test_nemo_gyms_collector_goes_on_after_a_failure(gym_serve: Serve, tmp_path: Path) -> None:
    """
    Where the endpoint is gone, its rollouts stand among the failures with the cause, and no reward is made up.
    """
    python = interpreter(NEMO_PYTHON, "test-nemo-gym")
    nobody = ("--model", "openai_model", "--set", "models.policy.config={base_url: 'http://127.0.0.1:9/v1'}")
    patience = ("--set", "models.policy.config.patience_s=0.1", "--set", "models.policy.config.max_retries=0")
    with gym_serve(*BOTH, *nobody, *patience) as served:
        port = int(served.url.rpartition(":")[2])
        rows = tmp_path / "runs/mix/dataset.jsonl"
        done = collect(python, port, rows, tmp_path / "out/rollouts.jsonl")
        served.stop()

    assert done.returncode == 0, done.stderr
    failed = lines_of(tmp_path / "out/rollouts_failures.jsonl")
    assert len(failed) == 10
    assert all("reward" not in row and row["_ng_failure_class"] for row in failed)
    assert (tmp_path / "out/rollouts.jsonl").read_text() == ""


def test_nemo_gyms_collector_goes_on_after_a_row_that_cannot_be_played(gym_serve: Serve, tmp_path: Path) -> None:
    """
    It stands among the failures with what is wrong about it, and the nine others are collected.
    """
    python = interpreter(NEMO_PYTHON, "test-nemo-gym")
    with gym_serve(*BOTH) as served:
        rows = rows_of(tmp_path / "runs/mix")
        bad = next(row for row in rows if row["environment"] == "example_multi_step")
        del bad["expected_synonyms"]
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        port = int(served.url.rpartition(":")[2])
        done = collect(python, port, tmp_path / "rows.jsonl", tmp_path / "out/rollouts.jsonl")
        served.stop()

    assert done.returncode == 0, done.stderr
    assert len(lines_of(tmp_path / "out/rollouts.jsonl")) == 9
    (failed,) = lines_of(tmp_path / "out/rollouts_failures.jsonl")
    assert (failed["task_id"], failed["_ng_failure_terminal"]) == (bad["task_id"], True)
    assert "expected_synonyms" in failed["failure"]["message"]


def test_an_agent_of_theirs_that_sends_its_cookies_to_the_model_gets_one_reply(
    gym_serve: Serve, tmp_path: Path
) -> None:
    """
    Its session is scored with what the model said, and our agent plays nothing in it.
    """
    python = interpreter(NEMO_PYTHON, "test-nemo-gym")
    with served_with_endpoint(gym_serve, tmp_path) as served, socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        free.close()
        row = rows_of(tmp_path / "runs/mix")[0]
        command = [python, Path(__file__).with_name("nemo_gym_agent.py"), str(port), served.url.rpartition(":")[2]]
        agent = subprocess.Popen(command, env={**os.environ, **OFFLINE}, stderr=subprocess.PIPE, text=True)
        try:
            answer = _answered(f"http://127.0.0.1:{port}/run", row, agent)
        finally:
            agent.kill()
            agent.communicate()
        served.stop()

    (line,) = lines_of(tmp_path / "runs/mix/rollouts.jsonl")
    assert [item["type"] for item in answer["response"]["output"]] == ["function_call"]
    assert (line["task_id"], len(line["turns"]), line["provenance"]["agent"]) == (row["task_id"], 1, "client")


def _answered(url: str, row: dict[str, Any], server: subprocess.Popen[str]) -> dict[str, Any]:
    """Send a row to a server as soon as it is there."""
    until = time.monotonic() + 100
    while True:
        try:
            answer = httpx.post(url, json=row, timeout=60)
        except httpx.ConnectError:
            assert server.poll() is None, server.communicate()
            assert time.monotonic() < until, "it does not serve"
            time.sleep(0.2)
            continue
        assert answer.status_code == 200, answer.text
        value: dict[str, Any] = answer.json()
        return value


@contextmanager
def ng_run(python: Path, folder: Path, foreign: int) -> Iterator[int]:
    """Run NeMo Gym with example_single_tool_call of its own, and the four lines that lead to our other agent."""
    own = "resources_servers/example_single_tool_call"
    for part in (own, "responses_api_agents/simple_agent", "responses_api_models/openai_model"):
        # The environments that it would build for each server: the one that it runs in has what they need.
        (folder / "venvs" / part).mkdir(parents=True)
        (folder / "venvs" / part / ".venv").symlink_to(python.parent.parent)
    place = f"{{host: 127.0.0.1, port: {foreign}}}"
    four_lines = f"example_multi_step_simple_agent:\n  responses_api_agents:\n    simple_agent:\n      {place}\n"
    (folder / "ours.yaml").write_text(four_lines)
    with socket.create_server(("127.0.0.1", 0)) as free:
        head = free.getsockname()[1]
    model = "responses_api_models/openai_model/configs/openai_model.yaml"
    configs = f"{own}/configs/example_single_tool_call.yaml,{model},{folder / 'ours.yaml'}"
    command = [
        python.with_name("ng_run"),
        f"+config_paths=[{configs}]",
        f"+policy_base_url=http://127.0.0.1:{foreign}/v1",
        "+policy_api_key=dummy",
        "+policy_model_name=policy",
        "+head_server.host=127.0.0.1",
        f"+head_server.port={head}",
        f"+uv_venv_dir={folder / 'venvs'}",
        "+skip_venv_if_present=true",
    ]
    environ = {**os.environ, **OFFLINE, "PATH": f"{python.parent}:{os.environ['PATH']}"}
    log = (folder / "ng_run.log").open("w")
    process = subprocess.Popen(
        command, cwd=folder, env=environ, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        until = time.monotonic() + 180
        while "servers ready" not in (said := (folder / "ng_run.log").read_text()).lower():
            assert process.poll() is None, said
            assert time.monotonic() < until, said
            time.sleep(0.5)
        yield head
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            log.close()


def test_an_environment_of_theirs_and_one_of_ours_are_one_mix_by_four_lines(gym_serve: Serve, tmp_path: Path) -> None:
    """
    NeMo Gym runs a server of its own and routes to our agent; its collector fills one file from both.
    """
    python = interpreter(NEMO_PYTHON, "test-nemo-gym")
    with served_with_endpoint(gym_serve, tmp_path) as served:
        port = int(served.url.rpartition(":")[2])
        place = tmp_path / "theirs"
        place.mkdir()
        with ng_run(python, place, port) as head:
            done = collect(python, head, tmp_path / "runs/mix/dataset.jsonl", tmp_path / "out/rollouts.jsonl")
        served.stop()

    assert done.returncode == 0, done.stderr
    collected = lines_of(tmp_path / "out/rollouts.jsonl")
    assert sorted((row["agent_ref"]["name"], row["reward"]) for row in collected) == [
        *[("example_multi_step_simple_agent", 1.0)] * 5,
        *[("example_single_tool_call_simple_agent", 1.0)] * 5,
    ]
    # Only ours went through us.
    kept = lines_of(tmp_path / "runs/mix/rollouts.jsonl")
    assert {row["environment"] for row in kept} == {"example_multi_step"}


AGENT = """
import os
import sys

import uvicorn
from nemo_gym.config_types import BaseServerConfig, ModelServerRef, ResourcesServerRef
from nemo_gym.global_config import NEMO_GYM_CONFIG_DICT_ENV_VAR_NAME
from nemo_gym.server_utils import ServerClient
from omegaconf import OmegaConf
from responses_api_agents.simple_agent.app import SimpleAgent, SimpleAgentConfig

own, ours = int(sys.argv[1]), int(sys.argv[2])
places = {
    "agent": {"responses_api_agents": {"simple_agent": {"host": "127.0.0.1", "port": own}}},
    "policy": {"responses_api_models": {"served": {"host": "127.0.0.1", "port": ours}}},
    "world": {"resources_servers": {"served": {"host": "127.0.0.1", "port": ours}}},
}
config = SimpleAgentConfig(
    host="127.0.0.1",
    port=own,
    entrypoint="app.py",
    name="agent",
    resources_server=ResourcesServerRef(type="resources_servers", name="world"),
    model_server=ModelServerRef(type="responses_api_models", name="policy"),
)
head = BaseServerConfig(host="127.0.0.1", port=ours)
client = ServerClient(head_server_config=head, global_config_dict=OmegaConf.create(places))
os.environ[NEMO_GYM_CONFIG_DICT_ENV_VAR_NAME] = OmegaConf.to_yaml(places)  # as whoever starts a server does
uvicorn.run(SimpleAgent(config=config, server_client=client).setup_webserver(), host="127.0.0.1", port=own)
"""


@contextmanager
def their_agent(python: Path, folder: Path, ours: int) -> Iterator[str]:
    """Run NeMo Gym's agent server alone, with our environments and our model."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        own = free.getsockname()[1]
    (folder / "agent.py").write_text(AGENT)
    command = [str(python), str(folder / "agent.py"), str(own), str(ours)]
    with (folder / "agent.log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env={**os.environ, **OFFLINE}, stdout=log, stderr=log)
        try:
            until = time.monotonic() + 90
            while "Uvicorn running" not in (said := (folder / "agent.log").read_text()):
                assert process.poll() is None, said
                assert time.monotonic() < until, said
                time.sleep(0.2)
            yield f"http://127.0.0.1:{own}"
        finally:
            process.kill()
            process.wait()


def test_nemo_gyms_agent_plays_in_our_sessions_and_we_keep_what_it_played(gym_serve: Serve, tmp_path: Path) -> None:
    """
    Its server opens a session for each row, calls our tools, and has us score it: one line each, numbered as asked.
    """
    python = interpreter(NEMO_PYTHON, "test-nemo-gym")
    with served_with_endpoint(gym_serve, tmp_path) as served:
        rows = rows_of(tmp_path / "runs/mix")
        asked = [{**row, "_ng_task_index": n, "_ng_rollout_index": r} for n, row in enumerate(rows) for r in (1, 0)]
        with their_agent(python, tmp_path, int(served.url.rpartition(":")[2])) as url:
            answers = [httpx.post(f"{url}/run", json=row, timeout=60).json() for row in asked]
        served.stop()

    kept = lines_of(tmp_path / "runs/mix/rollouts.jsonl")
    assert [answer["reward"] for answer in answers] == [1.0] * 20
    assert [(line["task_id"], line["repeat"]) for line in kept] == [
        (row["task_id"], row["_ng_rollout_index"]) for row in asked
    ]
    for line, answer in zip(kept, answers, strict=True):
        assert (line["reward"], line["provenance"]["agent"]) == (1.0, "client")
        assert line["response"]["output"] == answer["response"]["output"]
        assert len(line["turns"]) > 1


ANTHROPIC = """
import json
import sys

from anthropic import APIStatusError, Anthropic

client = Anthropic(max_retries=0)  # address and key stand in the variables that it reads
tools = [{"name": "get_weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}]
asked = {"model": "claude-opus-4-8", "max_tokens": 100, "tools": tools, "system": "Be brief."}
turns = [{"role": "user", "content": "How is Oslo?"}]

first = client.messages.create(messages=turns, **asked)
(call,) = [block for block in first.content if block.type == "tool_use"]
result = {"type": "tool_result", "tool_use_id": call.id, "content": "3 degrees"}
turns += [{"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
last = client.messages.create(messages=turns, **asked)
with client.beta.messages.stream(messages=turns[:1], **asked) as stream:
    streamed = stream.get_final_message()
with client.messages.stream(messages=turns, **asked) as stream:
    text = "".join(stream.text_stream)
try:
    client.messages.create(messages=turns[2:], **asked)
except APIStatusError as error:
    refused = [error.status_code, error.type, error.body["error"]["message"]]

told = {
    "calls": [[said.stop_reason, call.name, call.input] for said in (first, streamed) for call in said.content],
    "last": [last.stop_reason, last.content[0].text, text],
    "refused": refused,
}
json.dump(told, sys.stdout)
"""


OPENAI = """
import json
import sys

from openai import OpenAI

client = OpenAI(max_retries=0)  # address and key stand in the variables that it reads
tools = [{"type": "function", "name": "get_weather", "parameters": {"type": "object"}, "strict": False}]
asked = {"model": "gpt-5", "tools": tools}
turns = [{"role": "user", "content": "How is Oslo?"}]

with client.responses.stream(input=turns, **asked) as stream:
    first = stream.get_final_response()
(call,) = first.output
result = {"type": "function_call_output", "call_id": call.call_id, "output": "3 degrees"}
with client.responses.stream(input=[*turns, call.model_dump(exclude_none=True), result], **asked) as stream:
    text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
    last = stream.get_final_response()
chunks = client.chat.completions.create(
    model="gpt-5", messages=turns, tools=[{"type": "function", "function": {"name": "get_weather"}}], stream=True
)
(function,) = [call.function for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]

told = {
    "calls": [[said.name, json.loads(said.arguments)] for said in (call, function)],
    "last": [last.status, last.output_text, text],
}
json.dump(told, sys.stdout)
"""


def _told(gym_serve: Serve, script: str, folder: Path) -> Any:
    """Return what a client tells that asks our model, which calls a tool and then answers, with its key alone."""
    python = interpreter(NEMO_PYTHON, "test-nemo-gym")

    def reply(body: Mapping[str, Any]) -> Reply:
        has_result = body["input"][-1].get("type") == "function_call_output"
        return says("Cold.") if has_result else calls("get_weather", city="Oslo")

    with LoopbackEndpoint(reply) as endpoint:
        model = ("--model", "openai_model", "--set", f"models.policy.config.base_url={endpoint.base_url}")
        secret = {"OUR_TOKEN": "a-token-of-enough-letters"}
        with gym_serve(*BOTH, *model, "--token-from", "OUR_TOKEN", environ=secret) as served:
            environ = {**os.environ, **OFFLINE}
            environ |= {"ANTHROPIC_BASE_URL": served.url, "OPENAI_BASE_URL": f"{served.url}/v1"}
            environ |= dict.fromkeys(("ANTHROPIC_API_KEY", "OPENAI_API_KEY"), secret["OUR_TOKEN"])
            command = [str(python), "-c", script]
            done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=110)
            served.stop()
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_openais_client_asks_our_model_for_streams(gym_serve: Serve, tmp_path: Path) -> None:
    """
    Unmodified, of both its APIs: a call of a tool, and the answer to its result.
    """
    told = _told(gym_serve, OPENAI, tmp_path)

    assert told["calls"] == [["get_weather", {"city": "Oslo"}]] * 2
    assert told["last"] == ["completed", "Cold.", "Cold."]


def test_anthropics_client_asks_our_model_with_its_key_alone(gym_serve: Serve, tmp_path: Path) -> None:
    """
    Unmodified, whole and as a stream: a call of a tool, the answer to its result, and what cannot be asked.
    """
    told = _told(gym_serve, ANTHROPIC, tmp_path)

    assert told["calls"] == [["tool_use", "get_weather", {"city": "Oslo"}]] * 2
    assert told["last"] == ["end_turn", "Cold.", "Cold."]
    status, kind, what = told["refused"]
    assert (status, kind) == (422, "invalid_request_error")
    assert "messages.0.content.0.tool_use_id" in what


# -- verifiers ---------------------------------------------------------------------------------------------------------

PAGE = Path(__file__).parents[2] / "docs/how-to/evaluate-with-verifiers.md"


SHOWN = {
    "endpoint": "http://127.0.0.1:8000/v1",
    "url": "http://127.0.0.1:11000",
    "folder": "/absolute/path/to",
}
"""What the page shows of what differs wherever it is followed."""


def of_the_page(language: str, **said: str) -> list[str]:
    """Return the blocks of the page in a language, with what differs here in the place of what it says."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    for shown, here in said.items():
        blocks = [block.replace(SHOWN[shown], here) for block in blocks]
    return blocks


def test_the_evaluation_command_of_verifiers_gets_the_rewards_of_both_environments(
    gym_serve: Serve, tmp_path: Path
) -> None:
    """
    The page, as it is typed: its harness asks our model endpoint, calls our tools in our sessions, and has us score.
    """
    python = interpreter(VERIFIERS_PYTHON, "test-verifiers")
    compose, serve = of_the_page("sh")[0].replace("\\\n", " ").splitlines()
    composing = [sys.executable, "-m", "gymcore", *shlex.split(compose)[1:]]
    subprocess.run(composing, cwd=tmp_path, check=True, capture_output=True)
    with ExitStack() as stack:
        endpoint = stack.enter_context(LoopbackEndpoint(by_query(tmp_path / "runs/mix")))
        serving = shlex.split(serve.replace(SHOWN["endpoint"], endpoint.base_url))[2:]
        served = stack.enter_context(gym_serve(*serving))
        (evaluation,) = of_the_page("toml", url=served.url, folder=str(tmp_path))
        (tmp_path / "eval.toml").write_text(evaluation)
        environ = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
        # Its harness is a script, for which uv installs what it needs at the first rollout.
        environ |= {**OFFLINE, "HOME": str(tmp_path), "PATH": f"{python.parent}:{os.environ['PATH']}"}
        environ |= {"UV_PYTHON": str(python), "UV_PYTHON_DOWNLOADS": "never"}
        name, *evaluating = shlex.split(of_the_page("sh")[1])
        command = [python.with_name(name), *evaluating]
        done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=600)
        served.stop()

    assert done.returncode == 0, done.stderr
    episodes = lines_of(tmp_path / "results/run/traces.jsonl")
    scored = {
        trace["task"]["data"]["idx"]: trace["rewards"]["nemo_gym"]["score"]
        for episode in episodes
        for trace in episode["traces"]
    }
    assert scored == dict.fromkeys(range(10), 1.0), done.stdout + done.stderr
    # What it has played in our sessions is in our run folder, each task once, and nobody takes it for our own agent's.
    kept = {line["task_id"]: line for line in lines_of(tmp_path / "runs/mix/rollouts.jsonl")}
    assert {name: line["reward"] for name, line in kept.items()} == {
        row["task_id"]: 1.0 for row in rows_of(tmp_path / "runs/mix")
    }
    assert {(line["repeat"], line["provenance"]["agent"]) for line in kept.values()} == {(0, "client")}
    assert all(line["turns"] and line["response"]["output"] for line in kept.values())
    assert len(lines_of(tmp_path / "runs/mix/rollouts.jsonl")) == 10
    assert lines_of(tmp_path / "runs/mix/failures.jsonl") == []
