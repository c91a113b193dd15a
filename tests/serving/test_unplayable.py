"""
What is not played any more as long as a server lives: tasks that end their workers, by `/run` and in sessions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gymcore import Composition, Plan, Rollout, compose, discover
from gymcore.documents import encode_json
from gymcore.records import Failure, Reward, Row, Trajectory
from gymcore.responses import message
from gymcore.serving.cookies import COOKIE
from gymcore.serving.outages import DEATHS, Unplayable
from gymcore.serving.refusals import FailedRollout
from gymcore.testing import PluginFolder

HOSTILE = Path(__file__).parents[1] / "data" / "hostile"

Serving = Callable[..., Any]

DIED = Failure(stage="worker", error="WorkerDied", message="it died", retryable=True)


@pytest.fixture
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composition]:
    """
    An environment in a process of its own, with a task that ends it and one that does not.
    """
    rows = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    row = {"responses_create_params": {"input": "hi"}}
    rows.write_text("".join(json.dumps({**row, "how": how}) + "\n" for how in ("dies", "tells")))
    entry = {"data": [str(rows)], "config": {"log": str(rows.with_name("log"))}}
    with PluginFolder(HOSTILE):
        plan = {"environments": {"hostile": entry}, "models": {"policy": {"use": "oracle"}}}
        yield compose(Plan.model_validate(plan), discover())


async def acted(served: Any, row: dict[str, Any]) -> Any:
    """Open a session for a row, and have its tool called."""
    seed = await served.post("/seed_session", row)
    assert seed.status_code == 200, seed.text
    served.client.cookies.clear()
    reply = await served.post("/act", {}, headers={"cookie": f"{COOKIE}={seed.cookies[COOKIE]}"})
    served.client.cookies.clear()
    return reply


async def test_a_task_that_ends_its_worker_in_sessions_is_opened_no_more(fragile: Composition, wire: Serving) -> None:
    """
    The third death is the last that anybody is asked to try again, in whatever call; all other tasks go on.
    """
    async with wire(fragile) as served:
        poison, good = sorted(served.rows(), key=lambda row: str(row["how"]))
        deaths = [await acted(served, poison) for _ in range(DEATHS)]
        scored = {**poison, "response": {"output": [message("hi")]}}
        numbered = {**poison, "_ng_task_index": 0, "_ng_rollout_index": 0}
        refused = [
            await served.post(path, body)
            for path, body in (("/seed_session", poison), ("/reset", poison), ("/run", poison), ("/verify", scored))
        ]
        kept = await served.post("/run", numbered)
        other = await acted(served, good)
        ready = await served.client.get("/ready")
        failures = served.lines("failures.jsonl")

    told = [reply.json()["error"] for reply in deaths]
    assert [(error["type"], error["retryable"]) for error in told] == [
        ("WorkerDied", True),
        ("WorkerDied", True),
        ("WorkerDied", False),
    ]
    assert [error["hints"][0] for error in told] == [
        "try: /seed_session, for another",
        "try: /seed_session, for another",
        "the same request will fail again",
    ]
    for reply in refused:
        assert (reply.status_code, reply.json()["error"].get("type")) == (503, "Poison"), reply.text
        assert reply.json()["error"]["retryable"] is False
    assert kept.json()["_ng_failure_terminal"] is True
    assert (other.status_code, ready.status_code) == (200, 200)
    assert [line["retryable"] for line in failures] == [True] * DEATHS  # another process may try it


def ended(task_id: str, failure: Failure | None) -> Rollout:
    """Return a rollout that has ended."""
    row = Row(encode_json({"environment": "a", "task_id": task_id}))
    return Rollout(row, 0, Trajectory(), reward=None if failure else Reward(value=1.0), failure=failure)


def test_what_one_worker_takes_with_it_has_died_once() -> None:
    """
    Many rollouts of a task beside another that ends their worker do not make it suspect, and one that lives clears it.
    """
    unplayable = Unplayable((), lambda line: None)
    died = ended("x", DIED)
    for _ in range(DEATHS - 1):
        deaths = unplayable.deaths(died.key[:2])
        for _ in range(8):
            unplayable.judge(died, deaths)
    unplayable.refuse(died.key[:2])
    assert unplayable.told(died.key[:2], DIED).retryable

    unplayable.judge(ended("x", None), 0)
    for _ in range(DEATHS - 1):
        unplayable.judge(died, unplayable.deaths(died.key[:2]))
    unplayable.refuse(died.key[:2])
    unplayable.judge(died, unplayable.deaths(died.key[:2]))
    assert not unplayable.told(died.key[:2], DIED).retryable
    unplayable.refuse(("a", "y"))
    found_before = Unplayable([("a", "y", 3)], lambda line: None)
    with pytest.raises(FailedRollout, match="died 3 times"):
        found_before.refuse(("a", "y"))
    with pytest.raises(FailedRollout, match="died 3 times"):
        unplayable.refuse(died.key[:2])
