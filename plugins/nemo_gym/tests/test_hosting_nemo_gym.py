"""
Resources servers of NeMo Gym, unmodified and installed from the package index, hosted here and played by us.

What NeMo Gym itself gives for the same replies is measured beside it: its servers, its agents and its collector, all in
one process, because its own command starts Ray and some twenty processes.

They need a Python of their own: `make test-nemo-gym` installs it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from gym_plugin_nemo_gym.hosted.environment import NemoGym, NemoGymConfig
from gym_plugin_nemo_gym.hosted.installation import PYTHON, find_installation

from gymcore import read_rollouts, run_sync
from gymcore.responses import whole_response
from gymcore.testing import LoopbackEndpoint, calls, says
from gymcore.testing.endpoint import Answer, raw
from gymcore.testing.replies import Reply

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("nemo_gym")]

SERVERS = (
    "example_single_tool_call",
    "example_multi_step",
    "example_session_state_mgmt",
    "example_tool_call_multireward",
    "example_multi_turn_gymnasium",
    "mcqa",
    "workplace_assistant",
)
OFFLINE = {"no_proxy": "127.0.0.1,localhost", "NO_PROXY": "127.0.0.1,localhost", "WANDB_MODE": "disabled"}
THEIRS = """
import ast, asyncio, importlib, json, os, socket, sys
from pathlib import Path
from omegaconf import OmegaConf

names, model, place = sys.argv[1].split(","), sys.argv[2], sys.argv[3]
sys.argv = sys.argv[:1]


def listening():
    made = socket.socket()
    made.bind(("127.0.0.1", 0))
    return made


def address(of):
    return {"host": "127.0.0.1", "port": of.getsockname()[1]}


site = next(Path(folder) for folder in sys.path if (Path(folder) / "nemo_gym" / "__init__.py").exists())
head = listening()
host, _, port = model.rpartition(":")
config = {"head_server": address(head), "dry_run": False}
config["policy_model"] = {"responses_api_models": {"policy": {"host": host, "port": int(port)}}}
sockets = {}
for name in names:
    text = OmegaConf.load(site / "resources_servers" / name / "configs" / f"{name}.yaml")
    for instance, entry in OmegaConf.to_container(text, resolve=False).items():
        ((kind, kinds),) = entry.items()
        ((folder, own),) = kinds.items()
        own.pop("datasets", None)
        sockets[instance] = kind, folder, listening()
        config[instance] = {kind: {folder: {**own, **address(sockets[instance][2])}}}
os.environ["NEMO_GYM_CONFIG_DICT"] = json.dumps(config)

import uvicorn
from nemo_gym.global_config import get_global_config_dict
from nemo_gym.server_utils import HeadServer, ServerClient


def app_of(instance, kind, folder):
    path = site / kind / folder / "app.py"
    calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    (started,) = [call.value.id for call in calls if getattr(call, "attr", "") == "run_webserver"]
    server_class = getattr(importlib.import_module(f"{kind}.{folder}.app"), started)
    os.environ["NEMO_GYM_CONFIG_PATH"] = instance
    client = ServerClient(
        head_server_config=ServerClient.load_head_server_config(), global_config_dict=get_global_config_dict()
    )
    server = server_class(config=server_class.load_config_from_global_config(), server_client=client)
    app = server.setup_webserver()
    server.setup_exception_middleware(app)
    return app


async def serve():
    apps = [(HeadServer(config=ServerClient.load_head_server_config()).setup_webserver(), head)]
    apps += [(app_of(name, kind, folder), made) for name, (kind, folder, made) in sockets.items()]
    configs = [(uvicorn.Config(app, log_level="warning", timeout_keep_alive=60), made) for app, made in apps]
    servers = [(uvicorn.Server(config), made) for config, made in configs]
    tasks = [asyncio.create_task(server.serve(sockets=[made])) for server, made in servers]
    while not all(server.started for server, _ in servers):
        await asyncio.sleep(0.02)
    Path(place).write_text(str(address(head)["port"]))
    await asyncio.gather(*tasks)


asyncio.run(serve())
"""


@pytest.fixture(scope="module")
def python() -> str:
    """
    The interpreter that has NeMo Gym.
    """
    named = os.environ.get(PYTHON)
    if not named:
        pytest.skip(f"{PYTHON} names no Python that has NeMo Gym; try: make test-nemo-gym")
    return named


def _rows(python: str, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in find_installation(python).server(name).rows("example")]


def _said(items: Any) -> tuple[tuple[str, str], ...]:
    """Return who said what in a prompt, however it is written."""
    items = [{"role": "user", "content": items}] if isinstance(items, str) else items
    return tuple((item["role"], json.dumps(item["content"])) for item in items if "role" in item)


# -- what is replied: by half of the rows what is right, by the others what is not -------------------------------------


class Policy:
    """
    Knows every row, and replies by script: to the first of each server what is right, to the second what is not, ...

    Rows that it does not know ask for the weather.
    """

    def __init__(self, python: str, names: tuple[str, ...]) -> None:
        self._rows: list[tuple[tuple[tuple[str, str], ...], str, dict[str, Any], bool]] = []
        for name in names:
            for index, row in enumerate(_rows(python, name)):
                said = _said(row["responses_create_params"]["input"])
                self._rows.append((said, name, row, index % 2 == 0))

    def __call__(self, body: dict[str, Any]) -> Reply:
        said, items = _said(body["input"]), body["input"]
        results = [item["output"] for item in items if item.get("type") == "function_call_output"]
        found = (entry for entry in self._rows if said[: len(entry[0])] == entry[0])
        _, name, row, is_right = next(found, ((), "example_single_tool_call", {}, True))
        return _SCRIPTS[name](row, results, is_right)


def _weather(row: Mapping[str, Any], results: list[str], is_right: bool) -> Reply:
    return says("Cold.") if results else calls("get_weather", city="Oslo")


def _synonyms(row: Mapping[str, Any], results: list[str], is_right: bool) -> Reply:
    wanted = row["expected_synonyms"]
    if len(results) < len(wanted):
        return calls("get_synonym_value", synonym=wanted[len(results)])
    if len(results) > len(wanted):
        return says("Done.")
    values = [json.loads(result)["synonym_value"] for result in results]
    return calls("extract_synonym_values", synonym_values=values if is_right else values[::-1])


def _counter(row: Mapping[str, Any], results: list[str], is_right: bool) -> Reply:
    missing = row["expected_count"] - row["initial_count"] - (0 if is_right else 1)
    if not results:
        return calls("increment_counter", count=missing)
    return calls("get_counter_value") if len(results) == 1 else says("Done.")


def _one_call(row: Mapping[str, Any], results: list[str], is_right: bool) -> Reply:
    wanted = row["expected_call"]
    arguments = wanted["arguments"]
    arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
    return says("Done.") if results else calls(wanted["name"], **(arguments if is_right else {"town": "Oslo"}))


def _questions(row: Mapping[str, Any], results: list[str], is_right: bool) -> Reply:
    return says(row["expected_answer"] if is_right else "I do not know.")


def _choice(row: Mapping[str, Any], results: list[str], is_right: bool) -> Reply:
    return says(f"\\boxed{{{row['expected_answer'] if is_right else '?'}}}")


def _workplace(row: Mapping[str, Any], results: list[str], is_right: bool) -> Reply:
    wanted = row["ground_truth"][: None if is_right else -1]
    if len(results) == len(wanted):
        return says("Done.")
    call = wanted[len(results)]
    return calls(call["name"], **json.loads(call["arguments"]))


_SCRIPTS: dict[str, Callable[[Mapping[str, Any], list[str], bool], Reply]] = {
    "example_single_tool_call": _weather,
    "example_multi_step": _synonyms,
    "example_session_state_mgmt": _counter,
    "example_tool_call_multireward": _one_call,
    "example_multi_turn_gymnasium": _questions,
    "mcqa": _choice,
    "workplace_assistant": _workplace,
}


# -- their own stack ---------------------------------------------------------------------------------------------------

Scores = dict[str, list[tuple[str, float]]]
"""By server: of each rollout what was asked, and its reward, sorted."""


@contextmanager
def _their_servers(python: str, model: str, folder: Path) -> Iterator[str]:
    place, log = folder / "head.port", (folder / "theirs.log").open("w")
    command = [python, "-c", THEIRS, ",".join(SERVERS), model, str(place)]
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | OFFLINE
    process = subprocess.Popen(command, cwd=folder, env=environ, stdout=log, stderr=subprocess.STDOUT)
    try:
        until = time.monotonic() + 180
        while not place.exists() or not place.read_text():
            assert process.poll() is None, (folder / "theirs.log").read_text()[-3000:]
            assert time.monotonic() < until, "they do not serve"
            time.sleep(0.1)
        yield place.read_text()
    finally:
        process.kill()
        process.wait()
        log.close()


@pytest.fixture(scope="module")
def collected(python: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """
    The folder in which NeMo Gym's own collector has written of its own agents and servers, and the servers by agent.
    """
    folder = tmp_path_factory.mktemp("theirs")
    agents = {}
    with (folder / "rows.jsonl").open("w") as file:
        for name in SERVERS:
            server = find_installation(python).server(name)
            agents[_agent_of(server.instance, server.agents[0], server.config_file)] = name
            reference = {"type": "responses_api_agents", "name": list(agents)[-1]}
            for row in _rows(python, name):
                file.write(json.dumps({**row, "agent_ref": reference}) + "\n")
    policy, numbers = Policy(python, SERVERS), itertools.count()

    def whole(body: dict[str, Any]) -> Answer:
        # Their agents insist on every key that the API has.
        return raw(whole_response(policy(body).to_response(next(numbers)).body, "policy", body))

    with LoopbackEndpoint(whole) as endpoint:
        model = endpoint.base_url.removeprefix("http://").partition("/")[0]
        with _their_servers(python, model, folder) as head:
            command = [Path(python).with_name("ng_collect_rollouts"), "+head_server.host=127.0.0.1"]
            files = [f"+input_jsonl_fpath={folder}/rows.jsonl", f"+output_jsonl_fpath={folder}/out.jsonl"]
            environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | OFFLINE
            done = subprocess.run(
                [*command, f"+head_server.port={head}", *files],
                cwd=folder,
                env=environ,
                capture_output=True,
                text=True,
                timeout=180,
                check=False,
            )
            assert done.returncode == 0, done.stderr[-3000:] + (folder / "theirs.log").read_text()[-3000:]
    return folder, agents


@pytest.fixture(scope="module")
def theirs(collected: tuple[Path, dict[str, str]]) -> Scores:
    """
    What it writes of every rollout.
    """
    folder, agents = collected
    scores: Scores = {}
    for line in (folder / "out.jsonl").read_text().splitlines():
        row = json.loads(line)
        name = agents[row["agent_ref"]["name"]]
        asked = _said(row["responses_create_params"]["input"])
        scores.setdefault(name, []).append((json.dumps(asked), row["reward"]))
    return {name: sorted(found) for name, found in scores.items()}


def _agent_of(instance: str, agent: str, config_file: Path | None) -> str:
    """Return what the YAML calls the agent of a server."""
    assert config_file is not None
    return next(line[:-1] for line in config_file.read_text().splitlines() if line.endswith(f"{agent}:"))


# -- the claims --------------------------------------------------------------------------------------------------------


def _ours(python: str, names: tuple[str, ...], folder: Path, **more: Any) -> tuple[Scores, list[Any]]:
    hosted = {name: {"use": f"nemo_gym:{name}", "config": {"python": python}} for name in names}
    with LoopbackEndpoint(Policy(python, names)) as endpoint:
        model = {"use": "openai_model", "config": {"base_url": endpoint.base_url}}
        plan = {"environments": {**hosted, **more}, "models": {"policy": model}}
        report = run_sync(plan, folder / "run", environ={})
    assert report.total.failed == 0
    scores: Scores = {}
    rollouts = list(read_rollouts(folder / "run"))
    for rollout in rollouts:
        asked = _said(rollout.row.value["responses_create_params"]["input"])
        scores.setdefault(rollout.environment, []).append((json.dumps(asked), rollout.reward.value))
    return {name: sorted(found) for name, found in scores.items()}, rollouts


@pytest.mark.parametrize("name", SERVERS)
def test_the_rewards_are_those_of_nemo_gym(python: str, theirs: Scores, tmp_path: Path, name: str) -> None:
    """
    For the same replies to the same rows, right ones and wrong ones.
    """
    ours, _ = _ours(python, (name,), tmp_path)

    assert len(theirs[name]) >= 5
    assert ours[name] == theirs[name]
    if name != "example_single_tool_call":  # it rewards everything
        assert len({reward for _, reward in ours[name]}) > 1


def test_what_a_verifier_of_nemo_gym_says_besides_the_reward_is_kept(python: str, tmp_path: Path) -> None:
    """
    Its numbers as metrics and parts, and all else as it is.
    """
    _, rollouts = _ours(python, ("example_tool_call_multireward",), tmp_path)

    parts = {"correctness", "schema_valid", "format"}
    for rollout in rollouts:
        assert parts <= rollout.reward.metrics.keys()
        assert rollout.reward.info["reward_components"].keys() == rollout.reward.parts.keys() == parts
        assert isinstance(rollout.reward.info["predicted_calls"], list)


@pytest.mark.parametrize("name", ["mcqa", "workplace_assistant"])
def test_rollouts_are_summed_up_as_by_nemo_gym(python: str, collected: tuple[Path, dict[str, str]], name: str) -> None:
    """
    The server is asked itself, whose metrics are its own: majorities, pass@k.
    """
    folder, agents = collected
    (agent,) = (agent for agent, server in agents.items() if server == name)
    rollouts = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    own = [rollout for rollout in rollouts if rollout["agent_ref"]["name"] == agent]
    summed = json.loads((folder / "out_aggregate_metrics.json").read_text())
    (wanted,) = (entry for entry in summed if entry["agent_ref"]["name"] == agent)
    config = NemoGymConfig(server=name, python=python)

    async def ask() -> Any:
        async with NemoGym.shared(config) as keeper:
            return await NemoGym.aggregate_metrics(config, keeper, own)

    found = asyncio.run(ask())

    assert found["key_metrics"] == wanted["key_metrics"]
    assert found["agent_metrics"].keys() == wanted["agent_metrics"].keys()
    assert ("majority@1/accuracy" in found["agent_metrics"]) == (name == "mcqa")


def test_a_model_replies_as_often_as_nemo_gym_lets_it(python: str, tmp_path: Path) -> None:
    """
    Six times to a task of the workplace, as its YAML says.
    """
    with LoopbackEndpoint(lambda body: calls("company_directory_find_email_address", name="Ana")) as endpoint:
        model = {"use": "openai_model", "config": {"base_url": endpoint.base_url}}
        hosted = {"use": "nemo_gym:workplace_assistant", "config": {"python": python}, "limit": 2}
        run_sync({"environments": {"work": hosted}, "models": {"policy": model}}, tmp_path / "run", environ={})

    rollouts = list(read_rollouts(tmp_path / "run"))
    assert [(len(each.trajectory.turns), each.trajectory.stop) for each in rollouts] == [(6, "max_turns")] * 2


def test_a_game_of_nemo_gym_is_played_step_by_step(python: str, tmp_path: Path) -> None:
    """
    The hand is shown before the model is first asked.
    """
    asked: list[dict[str, Any]] = []

    def policy(body: dict[str, Any]) -> Reply:
        asked.append(body)
        return says("<action>stand</action>")

    with LoopbackEndpoint(policy) as endpoint:
        model = {"use": "openai_model", "config": {"base_url": endpoint.base_url}}
        hosted = {"use": "nemo_gym:blackjack", "config": {"python": python}}
        run_sync({"environments": {"cards": hosted}, "models": {"policy": model}}, tmp_path / "run", environ={})

    rollouts = list(read_rollouts(tmp_path / "run"))
    assert {rollout.reward.value for rollout in rollouts} <= {-1.0, 0.0, 1.0}
    assert all(rollout.reward.metrics["terminated"] for rollout in rollouts)
    assert all("Your hand:" in json.dumps(body["input"][-1]) for body in asked)


@pytest.mark.parametrize("verdict", ["YES", "NO"])
def test_a_judge_of_nemo_gym_is_asked_where_we_say(python: str, tmp_path: Path, verdict: str) -> None:
    """
    The server asks the address that stands in `servers`, in the words of the Responses API.
    """
    numbers = itertools.count()

    def policy(body: dict[str, Any]) -> Answer:
        reply = says(f"[[{verdict}]]" if "EVALUATION QUESTION" in json.dumps(body) else "An apple.")
        return raw(whole_response(reply.to_response(next(numbers)).body, "policy", body))

    with LoopbackEndpoint(policy) as endpoint:
        address = endpoint.base_url.removesuffix("/v1")
        config = {"python": python, "servers": {"policy_model": address}}
        hosted = {"judged": {"use": "nemo_gym:multichallenge", "config": config}}
        model = {"use": "openai_model", "config": {"base_url": endpoint.base_url}}
        run_sync({"environments": hosted, "models": {"policy": model}}, tmp_path / "run", environ={})

    for rollout in read_rollouts(tmp_path / "run"):
        rubric = rollout.row.value["rubric"]
        expected = sum(item["pass_criteria"] == verdict for item in rubric) / len(rubric)
        assert rollout.reward.value == pytest.approx(expected)


def test_a_server_of_nemo_gym_and_an_environment_of_ours_are_one_mix(python: str, tmp_path: Path) -> None:
    """
    In one run, with one report.
    """
    ours, _ = _ours(python, ("example_session_state_mgmt",), tmp_path, ours={"use": "example_single_tool_call"})

    assert [reward for _, reward in ours["example_session_state_mgmt"]].count(1.0) == 3
    assert [reward for _, reward in ours["ours"]] == [1.0] * 5
