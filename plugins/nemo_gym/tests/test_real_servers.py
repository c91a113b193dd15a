"""
Resources servers of NeMo Gym, unmodified and installed from the package index, played as environments of ours.

They need a Python of their own: `make test-nemo-gym` installs it.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gymcore import read_rollouts, run_sync
from gymcore.testing import LoopbackEndpoint, calls, says

pytestmark = pytest.mark.slow

PYTHON = "GYMCORE_NEMO_GYM_PYTHON"
HOST = """
import importlib, json, os, sys
os.environ["NEMO_GYM_CONFIG_DICT"] = "{}"  # before anything looks for a configuration on the command line
import uvicorn
from nemo_gym.config_types import BaseServerConfig
from nemo_gym.server_utils import ServerClient
from omegaconf import OmegaConf

name, kind, place = sys.argv[1:]
module = importlib.import_module(f"resources_servers.{name}.app")
server_class = getattr(module, kind)
entry = {"name": name, "host": "127.0.0.1", "port": 1, "entrypoint": "app.py", "domain": "agent"}
config = server_class.model_fields["config"].annotation.model_validate(entry)
head = BaseServerConfig(host="127.0.0.1", port=1)
server = server_class(
    config=config, server_client=ServerClient(head_server_config=head, global_config_dict=OmegaConf.create({}))
)
app = server.setup_webserver()
server.setup_exception_middleware(app)
print(json.dumps(os.path.dirname(module.__file__)), flush=True)
listening = uvicorn.Config(app, port=0, log_level="warning").bind_socket()
with open(place, "w") as file:
    file.write(str(listening.getsockname()[1]))
uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])
"""


@contextmanager
def _served(name: str, kind: str, folder: Path) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Start one, and yield its address with its example rows; it is killed in the end."""
    python = os.environ.get(PYTHON)
    if not python:
        pytest.skip(f"{PYTHON} names no Python that has NeMo Gym; try: make test-nemo-gym")
    place = folder / f"{name}.port"
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    process = subprocess.Popen(
        [python, "-c", HOST, name, kind, str(place)], cwd=folder, env=environ, stdout=subprocess.PIPE, text=True
    )
    try:
        until = time.monotonic() + 120
        while not place.exists() or not place.read_text():
            assert process.poll() is None, "it does not start"
            assert time.monotonic() < until, "it does not serve"
            time.sleep(0.1)
        assert process.stdout is not None
        data = Path(json.loads(process.stdout.readline())) / "data" / "example.jsonl"
        yield f"http://127.0.0.1:{place.read_text()}", [json.loads(line) for line in data.read_text().splitlines()]
    finally:
        process.kill()
        process.communicate()


def _run(url: str, rows: list[dict[str, Any]], endpoint: LoopbackEndpoint, folder: Path) -> list[Any]:
    """Play rows of a server, and return the rollouts."""
    file = folder / "rows.jsonl"
    routed = [{**row, "agent_ref": {"name": "an_agent_of_theirs"}} for row in rows]
    file.write_text("".join(json.dumps(row) + "\n" for row in routed))
    far = {"use": f"remote:{url}", "data": str(file)}
    model = {"use": "openai_model", "config": {"base_url": endpoint.base_url}}
    run_sync({"environments": {"far": far}, "models": {"policy": model}}, folder / "run", environ={})
    return list(read_rollouts(folder / "run"))


def _results(body: dict[str, Any]) -> list[str]:
    return [item["output"] for item in body["input"] if item.get("type") == "function_call_output"]


def test_a_server_of_nemo_gym_keeps_the_state_of_a_session(tmp_path: Path) -> None:
    """
    Every rollout has a counter of its own, and the reward says that it was found again.
    """
    with _served("example_session_state_mgmt", "StatefulCounterResourcesServer", tmp_path) as (url, rows):
        by_prompt = {json.dumps(row["responses_create_params"]["input"][-1]["content"]): row for row in rows}

        def policy(body: dict[str, Any]) -> Any:
            said = [item["content"] for item in body["input"] if item.get("role") == "user"]
            row, results = by_prompt[json.dumps(said[-1])], _results(body)
            if not results:
                return calls("increment_counter", count=row["expected_count"] - row["initial_count"])
            return calls("get_counter_value") if len(results) == 1 else says("Done.")

        with LoopbackEndpoint(policy) as endpoint:
            rollouts = _run(url, rows, endpoint, tmp_path)

    assert [rollout.reward.value for rollout in rollouts] == [1.0] * len(rows)


def test_what_a_server_of_nemo_gym_says_of_a_mistake_is_for_the_model(tmp_path: Path) -> None:
    """
    Arguments that do not fit are its words; a verifier that fails is a failure.
    """
    with _served("example_multi_step", "ExampleMultiStepResourcesServer", tmp_path) as (url, rows):

        def policy(body: dict[str, Any]) -> Any:
            results = _results(body)
            if not results:
                return calls("get_synonym_value", word="unknown")
            return calls("extract_synonym_values", values=[1]) if len(results) == 1 else says("Done.")

        with LoopbackEndpoint(policy) as endpoint:
            rollouts = _run(url, rows[:2], endpoint, tmp_path)

    failures = [json.loads(line) for line in (tmp_path / "run" / "failures.jsonl").read_text().splitlines()]
    assert rollouts == []
    assert {(failure["stage"], failure["retryable"]) for failure in failures} == {("verify", False)}
    assert all(failure["message"].startswith("/verify was answered with status 500") for failure in failures)
    assert len(failures) == len(endpoint.requests) / 3 == 2
    assert "Field required" in json.dumps(endpoint.requests[-1].body)
