"""
Both example environments, played over real sockets from a plan to a report.
"""

import json
from importlib.resources import files

import pytest

from gymcore import EndpointError, read_rollouts, run_sync
from gymcore.testing.endpoint import LoopbackEndpoint, calls, says, status


def synonyms():
    """Map each query of the synonyms environment to what a perfect agent looks up."""
    rows = files("gym_plugin_example_multi_step").joinpath("data/example.jsonl").read_text().splitlines()
    parsed = [json.loads(row) for row in rows]
    return {row["responses_create_params"]["input"][-1]["content"]: row["expected_synonyms"] for row in parsed}


class Solver:
    """
    A policy that solves both environments from the conversation alone, on either API.

    Args:
        faults: What it answers to every second request instead, in turn.
    """

    def __init__(self, *faults):
        self.answers = synonyms()
        self.faults = list(faults)
        self.asked = 0

    def __call__(self, body):
        self.asked += 1
        if self.faults and self.asked % 2:
            self.faults.append(self.faults.pop(0))
            return self.faults[-1]
        items = body.get("input") or body["messages"]
        made = [item for item in items if item.get("type") == "function_call"]
        made += [call["function"] for item in items for call in item.get("tool_calls") or ()]
        results = [
            item.get("output") or item.get("content") for item in items if "call_id" in item and "output" in item
        ]
        results += [item["content"] for item in items if item.get("role") == "tool"]
        if "get_weather" in json.dumps(body["tools"]):
            return says("Cold.") if results else calls("get_weather", city="Oslo")
        wanted = self.answers[next(item["content"] for item in reversed(items) if item.get("role") == "user")]
        if len(made) < len(wanted):
            return calls("get_synonym_value", synonym=wanted[len(made)])
        if len(made) == len(wanted):
            values = [json.loads(result)["synonym_value"] for result in results]
            return calls("extract_synonym_values", synonym_values=values)
        return says("Done.")


def plan(base_url, **config):
    return {
        "environments": {"example_single_tool_call": {}, "example_multi_step": {}},
        "models": {"policy": {"use": "openai_model", "config": {"base_url": base_url, **config}}},
        "collect": {"concurrency": 8},
    }


@pytest.mark.parametrize("api", ["responses", "chat"])
def test_solves_both_example_environments(api, tmp_path):
    """
    A policy that knows the answers earns every reward, over either API, with one request for each reply.
    """
    with LoopbackEndpoint(Solver()) as endpoint:
        run_sync(plan(endpoint.base_url, api=api, api_key="sk-secret"), tmp_path / "run", environ={})

    rollouts = list(read_rollouts(tmp_path / "run"))
    assert {rollout.environment for rollout in rollouts} == {"example_single_tool_call", "example_multi_step"}
    assert {rollout.reward.value for rollout in rollouts} == {1.0}
    assert len(endpoint.requests) == sum(len(rollout.trajectory.turns) for rollout in rollouts)
    written = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert not any(b"sk-secret" in path.read_bytes() for path in written)


def test_faults_cost_no_reward(tmp_path):
    """
    With every second request misbehaving, each rollout still earns its reward, and the tries are recorded.
    """
    retry_now = {"Retry-After": "0"}
    faults = [status(code, headers=retry_now) for code in (500, 429, 503, 408)]
    with LoopbackEndpoint(Solver(*faults)) as endpoint:
        asked = {**plan(endpoint.base_url, max_retries=50), "environments": {"example_single_tool_call": {"limit": 3}}}
        run_sync(asked, tmp_path / "run", environ={})

    rollouts = list(read_rollouts(tmp_path / "run"))
    assert [rollout.reward.value for rollout in rollouts] == [1.0] * 3
    assert sum(turn.attempts for rollout in rollouts for turn in rollout.trajectory.turns) == len(endpoint.requests)


def test_an_endpoint_that_refuses_the_key_ends_the_run(tmp_path):
    """
    A wrong key ends the run after one question, with the reason.
    """
    with LoopbackEndpoint(status(401)) as endpoint, pytest.raises(EndpointError, match="Unauthorized"):
        run_sync({**plan(endpoint.base_url), "collect": {"concurrency": 1}}, tmp_path / "run", environ={})

    assert len(endpoint.requests) == 1


def test_with_a_seed_a_run_that_went_on_equals_one_that_was_never_stopped(tmp_path):
    """
    An endpoint that honours the seed says the same again: what a run says does not depend on when it was interrupted.
    """

    class Sampling:
        """Answers by the seed alone; after `lasts` requests the key is refused."""

        def __init__(self, lasts):
            self.lasts = lasts

        def __call__(self, body):
            self.lasts -= 1
            return says(f"sample {body['seed']}") if self.lasts >= 0 else status(401)

    def said(folder):
        return {rollout.key: rollout.trajectory.turns[-1].text for rollout in read_rollouts(folder)}

    def play(folder, lasts):
        with LoopbackEndpoint(Sampling(lasts)) as endpoint:
            asked = {
                **plan(endpoint.base_url, send_seed=True),
                "environments": {"example_single_tool_call": {"limit": 4, "repeats": 5}},
                "collect": {"concurrency": 4},
            }
            return run_sync(asked, folder, environ={})

    play(tmp_path / "whole", 1000)
    with pytest.raises(EndpointError, match="status 401"):
        play(tmp_path / "stopped", 9)
    before = said(tmp_path / "stopped")
    play(tmp_path / "stopped", 1000)

    assert 0 < len(before) < 20
    assert said(tmp_path / "stopped") == said(tmp_path / "whole")
    assert len(set(said(tmp_path / "whole").values())) == 20
