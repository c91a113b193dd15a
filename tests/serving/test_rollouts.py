"""
`/run`: a row is played, kept, and answered, once for each number that a client gives.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gymcore import EndpointError, Environment, Model, ModelError, Response, Reward, Trajectory, read_rollouts
from gymcore.collection.disk import Disk
from gymcore.composition import Composition
from gymcore.documents import encode_json
from gymcore.errors import StorageError
from gymcore.interfaces import tool
from gymcore.records import Failure, Rollout
from gymcore.responses import function_call, message
from gymcore.runtime.placement import SET_ASIDE
from gymcore.runtime.schedule import Planned
from gymcore.serving.app import LONGEST_PAUSE_S
from gymcore.serving.outages import Enduring
from gymcore.serving.rows import LONG_BODY, read_row

from .conftest import no_garbage_collected, refusing_s, until

Composed = Callable[..., Composition]
Serving = Callable[..., Any]


class Says(Model):
    """A policy that answers at once, with token ids as an endpoint for training gives them."""

    async def respond(self, request: Any, rollout: Any) -> Response:
        item = message("hi") | {"prompt_token_ids": [1, 2], "generation_token_ids": [3], "generation_log_probs": [-0.5]}
        return Response(output=[item], usage={"input_tokens": 2, "output_tokens": 1, "total_tokens": 3}, id="resp_1")


class World(Environment):
    """One whose verifier measures something."""

    def verify(self, trajectory: Trajectory) -> Reward:
        return Reward(value=0.5, parts={"half": 0.5}, metrics={"length": len(trajectory.text), "seen": True})


async def test_a_row_is_answered_verbatim_with_its_response_its_reward_and_its_metrics(
    composed: Composed, wire: Serving
) -> None:
    """
    Everything that was sent comes back, numbers of the verifier stand beside it, and token ids are untouched.
    """
    async with wire(composed({"a": (World, 1)}, Says)) as served:
        sent = {**served.rows()[0], "extra": {"x": [1.5, None, "ä"]}, "_ng_task_index": 7, "_ng_rollout_index": 1}
        reply = await served.post("/run", sent)

    answer = reply.json()
    assert reply.status_code == 200
    assert {key: answer[key] for key in sent} == sent
    assert (answer["reward"], answer["length"], answer["seen"]) == (0.5, 2, True)
    assert answer["reward_parts"] == {"half": 0.5}
    output = answer["response"]["output"]
    assert output[-1]["generation_token_ids"] == [3]
    assert answer["response"]["usage"]["total_tokens"] == 3
    assert {"id", "created_at", "model", "object", "output", "parallel_tool_calls", "tool_choice", "tools"} <= set(
        answer["response"]
    )


class Telling(Environment):
    """One whose verifier tells more than numbers."""

    def verify(self, trajectory: Trajectory) -> Reward:
        told: dict[str, Any] = {"answer": "B", "calls": [{"name": "a", "arguments": {}}], "id": 3, "stop": "no"}
        return Reward(value=0.5, metrics={"seen": True}, info={**told, "seen": False})


async def test_what_else_a_verifier_tells_stands_beside_the_reward_and_hides_nothing(
    composed: Composed, wire: Serving
) -> None:
    """
    By `/run` as by `/verify`; keys of the row and of the answer stay what they are, and the run folder has all of it.
    """
    async with wire(composed({"a": (Telling, 1)}, Says)) as served:
        row = {**served.rows()[0], "id": "mine"}
        ran = (await served.post("/run", row)).json()
        verified = (await served.post("/verify", {**row, "response": ran["response"]})).json()

    for answer in (ran, verified):
        assert (answer["answer"], answer["calls"]) == ("B", [{"name": "a", "arguments": {}}])
        assert (answer["id"], answer["stop"], answer["seen"]) == ("mine", "finished", True)
    (rollout,) = read_rollouts(served.folder)
    assert rollout.reward is not None
    assert (rollout.reward.info["id"], rollout.reward.info["answer"]) == (3, "B")


async def test_a_response_has_what_the_clients_of_the_api_insist_on(composed: Composed, wire: Serving) -> None:
    """
    Ids of messages and details of usage, which endpoints leave out and pydantic models of clients need.
    """
    async with wire(composed({"a": (World, 1)}, Says)) as served:
        response = (await served.post("/run", served.rows()[0])).json()["response"]

    assert response["output"][0]["id"].startswith("msg_")
    assert response["usage"]["input_tokens_details"] == {"cached_tokens": 0}
    assert response["usage"]["output_tokens_details"] == {"reasoning_tokens": 0}


async def test_a_metric_never_takes_the_place_of_a_key_of_the_row(composed: Composed, wire: Serving) -> None:
    """
    A row's own `length` stays; the metric of that name stands in `metrics` alone.
    """
    async with wire(composed({"a": (World, 1)}, Says)) as served:
        reply = await served.post("/run", {**served.rows()[0], "length": "mine"})

    assert reply.json()["length"] == "mine"
    assert reply.json()["metrics"]["length"] == 2


async def test_what_a_verifier_tells_says_nothing_of_where_a_rollout_belongs(composed: Composed, wire: Serving) -> None:
    """
    Neither to whom it is routed, nor that it has failed; in the run folder it stands as it was told.
    """
    told = {"_ng_failure_class": "open: X", "agent_ref": {"name": "other"}, "epoch": 7, "fine": True}

    class Telling(Environment):
        def verify(self, trajectory: Trajectory) -> Reward:
            return Reward(value=1.0, info=told)

    async with wire(composed({"a": (Telling, 1)}, Says)) as served:
        row = {key: item for key, item in served.rows()[0].items() if key not in ("agent_ref", "epoch")}
        answer = (await served.post("/run", row)).json()
        (line,) = served.lines()

    assert answer["fine"] is True
    assert answer.keys().isdisjoint({"_ng_failure_class", "agent_ref", "epoch"})
    assert line["reward_info"] == told


async def test_a_rollout_is_on_the_disk_before_it_is_answered(composed: Composed, wire: Serving) -> None:
    """
    It stands in the run folder like all others, under the number that the client gave it.
    """
    async with wire(composed({"a": (World, 2)}, Says)) as served:
        for index, row in enumerate(served.rows()):
            await served.post("/run", {**row, "_ng_task_index": index, "_ng_rollout_index": 3})
            assert len(served.lines()) == index + 1

    assert [(line["task_id"], line["repeat"], line["reward"]) for line in served.lines()] == [
        ("a/0", 3, 0.5),
        ("a/1", 3, 0.5),
    ]
    assert all("_ng_task_index" not in line for line in served.lines())


async def test_the_same_number_again_joins_the_rollout_that_is_being_played(composed: Composed, wire: Serving) -> None:
    """
    A client that lost its connection posts again: it gets the same rollout, and nothing is played twice.
    """
    opened = []
    began, may_end = asyncio.Event(), asyncio.Event()

    class Slow(World):
        async def open(self) -> None:
            opened.append(1)
            began.set()
            await may_end.wait()

    async with wire(composed({"a": (Slow, 1)}, Says)) as served:
        sent = {**served.rows()[0], "_ng_task_index": 0, "_ng_rollout_index": 0}
        first = asyncio.create_task(served.post("/run", sent))
        await began.wait()
        first.cancel()  # the connection is lost
        again = [asyncio.create_task(served.post("/run", sent)) for _ in range(2)]
        await asyncio.wait([first])
        may_end.set()
        replies = await asyncio.gather(*again)
        later = await served.post("/run", sent)

    assert opened == [1]
    assert replies[0].content == replies[1].content == later.content
    assert len(served.lines()) == 1


async def test_an_answer_is_kept_for_a_while_only(composed: Composed, wire: Serving) -> None:
    """
    A trainer uses the same numbers in its next step, and must not get what an earlier policy did.
    """
    async with wire(composed({"a": (World, 1)}, Says), kept_s=0.05) as served:
        sent = {**served.rows()[0], "_ng_task_index": 0, "_ng_rollout_index": 0}
        await served.post("/run", sent)
        await asyncio.sleep(0.1)
        await served.post("/run", sent)

    assert [line["repeat"] for line in served.lines()] == [0, 1]


async def test_what_is_kept_too_long_is_not_answered_whatever_was_asked_meanwhile(
    composed: Composed, wire: Serving
) -> None:
    """
    Hundreds of kept answers, and one from the middle asked for again when all are over: it is played anew.
    """
    async with wire(composed({"a": (World, 1)}, Says), kept_s=0.2) as served:
        sent = [{**served.rows()[0], "_ng_task_index": n, "_ng_rollout_index": 0} for n in range(150)]
        await asyncio.gather(*[served.post("/run", row) for row in sent])
        await asyncio.sleep(0.3)
        await served.post("/run", sent[120])

        assert len(served.lines()) == 151
        await asyncio.sleep(0.3)
        assert served.served.on_demand.kept_bytes == 0


async def test_of_too_much_that_is_kept_what_was_delivered_goes_first(composed: Composed, wire: Serving) -> None:
    """
    An answer that its client has not got is the last to go.
    """

    is_gone = False

    async def gone() -> bool:
        return is_gone

    class Long(World):
        def verify(self, trajectory: Trajectory) -> Reward:
            nonlocal is_gone
            is_gone = True
            return Reward(value=1.0, metrics={"text": "x" * 1000})

    async with wire(composed({"a": (Long, 1)}, Says), kept_bytes=20_000) as served:
        on_demand = served.served.on_demand
        lost = {**served.rows()[0], "_ng_task_index": -1, "_ng_rollout_index": 0}
        sent, _ = read_row(encode_json(lost), served.served.composition.routes)
        first = await on_demand.answer(sent, gone)
        for number in range(40):
            await served.post("/run", {**served.rows()[0], "_ng_task_index": number, "_ng_rollout_index": 0})
        assert on_demand.kept_bytes <= 20_000
        again = await served.post("/run", lost)

    assert again.content == first
    assert len(served.lines()) == 41


@pytest.mark.parametrize("other", [{"_ng_rollout_index": 1}, {"_ng_attempt_index": 1}, {"note": "another row"}])
async def test_another_number_is_another_rollout(composed: Composed, wire: Serving, other: dict[str, Any]) -> None:
    """
    The index of the rollout, that of the attempt, and the row itself tell requests apart.
    """
    async with wire(composed({"a": (World, 1)}, Says)) as served:
        sent = {**served.rows()[0], "_ng_task_index": 0, "_ng_rollout_index": 0}
        await served.post("/run", sent)
        await served.post("/run", {**sent, **other})

    assert len(served.lines()) == 2


async def test_rows_without_a_number_are_played_each_time(composed: Composed, wire: Serving) -> None:
    """
    Who does not number wants what was asked: a rollout, also of two at the same time.
    """
    async with wire(composed({"a": (World, 1)}, Says)) as served:
        row = served.rows()[0]
        await asyncio.gather(served.post("/run", row), served.post("/run", row))
        await served.post("/run", row)

    assert [line["repeat"] for line in served.lines()] == [0, 1, 2]


@asynccontextmanager
async def _losing_its_client(composed: Composed, wire: Serving) -> AsyncIterator[tuple[Any, Any, Any]]:
    """Serve a rollout that has begun and lost its client; what asks for the same bytes again, and what came of it."""
    began = asyncio.Event()
    is_gone = False

    class Slow(World):
        async def open(self) -> None:
            began.set()
            await asyncio.sleep(0.1)

    async def gone() -> bool:
        await asyncio.sleep(0)  # as looking at a connection does
        return is_gone

    async def here() -> bool:
        return False

    async with wire(composed({"a": (Slow, 1)}, Says)) as served:
        sent, _ = read_row(encode_json(served.rows()[0]), served.served.composition.routes)
        answer = served.served.on_demand.answer
        lost = asyncio.create_task(answer(sent, gone))
        await began.wait()
        is_gone = True
        yield served, partial(answer, sent, here), lost


async def test_a_row_without_a_number_joins_only_a_rollout_that_lost_its_client(
    composed: Composed, wire: Serving
) -> None:
    """
    Whoever lost the connection posts the same bytes again, and gets what was begun for them; once.
    """
    async with _losing_its_client(composed, wire) as (served, ask, lost):
        again = await ask()
        assert await lost == again
        assert len(served.lines()) == 1
        await ask()

    assert len(served.lines()) == 2


async def test_a_failure_is_never_a_reward(composed: Composed, wire: Serving) -> None:
    """
    The status says that it failed, the body why; it is recorded, and the same number again is another attempt.
    """
    replies = iter([ModelError("the endpoint is gone"), None])

    class Fails(Model):
        async def respond(self, request: Any, rollout: Any) -> Response:
            if (error := next(replies)) is not None:
                raise error
            return Response(output=[message("hi")])

    async with wire(composed({"a": (World, 1)}, Fails)) as served:
        sent = {**served.rows()[0], "_ng_rollout_id": "0-0", "_rowidx": 0}
        failed = await served.post("/run", sent)
        again = await served.post("/run", sent)

    assert failed.status_code == 502
    assert "reward" not in failed.json()
    assert failed.json()["error"]["stage"] == "model"
    assert "the endpoint is gone" in failed.json()["error"]["message"]
    assert again.json()["reward"] == 0.5
    assert len(served.lines("failures.jsonl")) == 1


async def test_one_lost_rollout_is_taken_by_one_client(composed: Composed, wire: Serving) -> None:
    """
    Two come back at the same moment for the same bytes: one gets what was begun, the other a rollout of its own.
    """
    async with _losing_its_client(composed, wire) as (served, ask, lost):
        await asyncio.gather(ask(), ask(), lost)

    assert len(served.lines()) == 2


async def test_a_collector_is_told_of_a_failure_in_its_own_words(composed: Composed, wire: Serving) -> None:
    """
    Any error would end all of its work: it gets the row, what failed, and no reward; the means leave it out.
    """

    class Broken(Environment):
        def verify(self, trajectory: Trajectory) -> float:
            return 1 / 0

    async with wire(composed({"a": (Broken, 1)}, Says)) as served:
        sent = {**served.rows()[0], "_ng_task_index": 0, "_ng_rollout_index": 0}
        reply = await served.post("/run", sent)
        rollouts = [reply.json(), {"_ng_task_index": 0, "_ng_rollout_index": 1, "reward": 1.0}]
        means = (await served.post("/aggregate_metrics", {"verify_responses": rollouts})).json()

    answer = reply.json()
    assert reply.status_code == 200
    assert answer["_ng_failure_class"] == "verify: ZeroDivisionError"
    assert answer["_ng_failure_terminal"] is True
    assert "reward" not in answer
    assert {key: answer[key] for key in sent} == sent
    assert means["agent_metrics"]["mean/reward"] == 1.0


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"responses_create_params": {}}, "input"),
        ({"agent_ref": {"name": "nobody"}}, "no agent is named 'nobody'"),
    ],
)
async def test_a_row_that_cannot_be_played_ends_no_collector(
    composed: Composed, wire: Serving, changed: dict[str, Any], told: str
) -> None:
    """
    It is among the failures of who numbers task and rollout, with the reason; others, NeMo RL too, get the status.
    """
    async with wire(composed({"a": (World, 1)}, Says)) as served:
        row = {**served.rows()[0], **changed}
        sent = {**row, "_ng_task_index": 3, "_ng_rollout_index": 0}
        reply = await served.post("/run", sent)
        others = [await served.post("/run", row), await served.post("/run", {**sent, "_rowidx": 3})]

    answer = reply.json()
    assert reply.status_code == 200
    assert told in answer.pop("failure")["message"]
    assert answer == {**sent, "_ng_failure_class": "row: refused", "_ng_failure_terminal": True}
    assert all(other.status_code in (404, 422) for other in others)


async def test_a_file_of_failures_can_be_sent_again(composed: Composed, wire: Serving) -> None:
    """
    What was told of a failure is no part of the task, and does not stand beside the reward.
    """
    async with wire(composed({"a": (World, 1)}, Says)) as served:
        row = {**served.rows()[0], "_ng_task_index": 0, "_ng_rollout_index": 0}
        failed = {**row, "_ng_failure_class": "x", "_ng_failure_terminal": False, "failure": {}}
        answer = (await served.post("/run", failed)).json()

    assert answer["reward"] == 0.5
    assert not any("failure" in key for key in answer)


@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize("own", [{}, {"turns": 3, "epoch": "x"}, {"environment": "prod", "task_id": ""}], ids=str)
async def test_a_failed_row_with_a_reward_of_its_own_is_the_same_task_again(
    composed: Composed, wire: Serving, own: dict[str, Any], keeps: bool
) -> None:
    """
    Its reward and its response are not told at once, so that nobody takes them for earned, but nothing of it is lost.
    """
    failures = [OSError("the first time")]

    class Once(Environment):
        keeps_route = keeps

        def verify(self, trajectory: Trajectory) -> float:
            if failures:
                raise failures.pop()
            return 0.5

    async with wire(composed({"a": (Once, 1)}, Says)) as served:
        task = {key: item for key, item in served.rows()[0].items() if key not in ("environment", "task_id")}
        row = {**task, "reward": 0.25, "response": "gold", **own, "_ng_task_index": 0, "_ng_rollout_index": 0}
        failed = (await served.post("/run", row)).json()
        again = (await served.post("/run", failed)).json()
        (line,) = served.lines()
        (lost,) = served.lines("failures.jsonl")

    assert failed.keys().isdisjoint({"reward", "response"})
    assert again["reward"] == 0.5
    assert (line["environment"], line["task_id"]) == (lost["environment"], lost["task_id"])
    aside = line["agent_ref"]["served_as"]
    assert {key: aside[key] for key in ("reward", "response", *own)} == {"reward": 0.25, "response": "gold", **own}


@pytest.mark.parametrize("index", [None, "0", [], {}, 1.5])
async def test_what_is_no_number_does_not_number_a_request(composed: Composed, wire: Serving, index: Any) -> None:
    """
    Two posts are two rollouts then.
    """
    async with wire(composed({"a": (World, 1)}, Says)) as served:
        for _ in range(2):
            reply = await served.post("/run", {**served.rows()[0], "_ng_task_index": index, "_ng_rollout_index": index})
            assert reply.status_code == 200

    assert len(served.lines()) == 2


async def test_a_task_that_ends_its_worker_is_not_played_again_and_again(composed: Composed, wire: Serving) -> None:
    """
    After some deaths it is poison, and refused before it takes others with it, also to who would play it in a session.
    """
    played = 0

    class Dies:
        def withdraw(self) -> None:
            return None

        def cancel(self) -> None:
            return None

        async def play(self, planned: Planned) -> Rollout:
            nonlocal played
            played += 1
            failure = Failure(stage="worker", error="WorkerDied", message="it died", retryable=True)
            return Rollout(planned.row, planned.repeat, Trajectory(), failure=failure)

        def notes(self) -> tuple[str, ...]:
            return ()

    async with wire(composed({"a": (World, 1)}, Says)) as served:
        served.served.on_demand._executor = Enduring(Dies(), served.served.unplayable, lambda planned: {})
        row = served.rows()[0]
        first = await served.post("/run", row)
        second = await served.post("/run", row)
        session = await served.post("/seed_session", row)

    assert played == 3
    for reply in (first, second, session):
        assert reply.status_code == 503
        assert reply.json()["error"]["retryable"] is False
        assert reply.json()["error"]["hints"] == ["the same request will fail again"]


async def test_an_environment_that_is_down_is_no_model_that_failed(composed: Composed, wire: Serving) -> None:
    """
    It is told as a failure of its own stage, in a session, too; where it stays down, `/ready` names it, and nobody is
    told to try again.
    """
    is_lasting = False

    class Hosted(World):
        async def open(self) -> None:
            raise EndpointError("its server has ended", is_lasting=is_lasting)

    said: list[str] = []
    async with wire(composed({"a": (Hosted, 1), "b": (World, 1)}, Says), say=said.append) as served:
        down, up = served.rows()
        agent = served.served.composition.routes[down["agent_ref"]["name"]].agent_plugin.name
        replies = [await served.post(path, down) for path in ("/run", "/seed_session")]
        ready = await served.client.get("/ready")
        is_lasting = True
        replies += [await served.post(path, down) for path in ("/run", "/seed_session")]
        replies.append(await served.post("/verify", {**down, "response": {"output": [message("hi")]}}))
        kept = await served.post("/run", {**down, "_ng_task_index": 0, "_ng_rollout_index": 9})
        others = await served.post("/run", up)
        unready = await served.client.get("/ready")

    for reply, is_retryable in zip(replies, (True, True, False, False, False), strict=True):
        told = reply.json()["error"]
        assert (reply.status_code, told["stage"], told["retryable"]) == (500, "open", is_retryable)
        assert (told["hints"] == ["the same request will fail again"]) is not is_retryable
    assert (kept.status_code, kept.json()["_ng_failure_terminal"]) == (200, True)
    failures = served.lines("failures.jsonl")
    assert [(line["stage"], line["retryable"]) for line in failures] == [("open", True)] * 5
    told = [(line["provenance"]["agent"], line["provenance"]["model"]) for line in failures]
    assert told == [(agent, "policy"), ("client", "client"), (agent, "policy"), ("client", "client"), (agent, "policy")]
    assert {frozenset(line["provenance"]) for line in failures} == {frozenset(("lock", "agent", "model", "seed"))}
    assert (ready.status_code, others.status_code) == (200, 200)
    assert (unready.status_code, unready.json()["error"]["environments"]) == (503, ["a"])
    assert "its server has ended" in unready.json()["error"]["message"]
    assert said == ["a: nothing more of it can be played: its server has ended"]


async def test_an_environment_that_was_set_aside_is_not_ready(composed: Composed, wire: Serving) -> None:
    """
    Nothing of it is played before the server is started anew.
    """

    class SetAside:
        async def play(self, planned: Planned) -> Rollout:
            failure = Failure(stage="worker", error=SET_ASIDE, message="its workers die", retryable=True)
            return Rollout(planned.row, planned.repeat, Trajectory(), failure=failure)

        def withdraw(self) -> None:
            return None

        def cancel(self) -> None:
            return None

        def notes(self) -> tuple[str, ...]:
            return ()

    async with wire(composed({"a": (World, 1)}, Says)) as served:
        on_demand = served.served.on_demand
        on_demand._executor = Enduring(SetAside(), served.served.unplayable, lambda planned: {})
        await served.post("/run", served.rows()[0])
        unready = await served.client.get("/ready")

    assert (unready.status_code, unready.json()["error"]["environments"]) == (503, ["a"])


async def test_a_model_that_is_down_is_told_as_such(composed: Composed, wire: Serving) -> None:
    """
    Wherever it is asked: by the agent, or by a verifier; the environment is ready all the same, and where the server
    runs it is said once what to try.
    """

    said: list[str] = []

    class Down(Model):
        async def respond(self, request: Any, rollout: Any) -> Response:
            raise EndpointError("wrong key", where="http://127.0.0.1:9/v1", hints=["try: another key"])

    class Judged(World):
        async def verify(self, trajectory: Trajectory) -> Reward:  # type: ignore[override]
            await self.models["policy"].ask("Is it good?")
            return Reward(value=1.0)

    async with wire(composed({"a": (Judged, 1)}, Down), say=said.append) as served:
        row = served.rows()[0]
        played = await served.post("/run", row)
        scored = await served.post("/verify", {**row, "response": {"output": [message("hi")]}})
        ready = await served.client.get("/ready")

    for reply in (played, scored):
        assert (reply.status_code, reply.json()["error"]["stage"]) == (502, "model")
        assert reply.json()["error"]["message"].endswith("wrong key (http://127.0.0.1:9/v1)")
    assert ready.status_code == 200
    assert said == ["wrong key (http://127.0.0.1:9/v1)\n  try: another key"]  # once, and not to clients: they cannot


async def test_a_broken_verifier_tells_its_class_and_no_traceback(composed: Composed, wire: Serving) -> None:
    """
    What a client sees of a fault is one sentence, without files and lines of the server.
    """

    class Broken(Environment):
        def verify(self, trajectory: Trajectory) -> float:
            return 1 / 0

    async with wire(composed({"a": (Broken, 1)}, Says)) as served:
        reply = await served.post("/run", served.rows()[0])

    assert reply.status_code == 500
    assert "ZeroDivisionError" in reply.text
    assert "Traceback" not in reply.text
    assert ".py" not in reply.text


@pytest.mark.parametrize(
    ("change", "status", "told"),
    [
        ({"agent_ref": {"name": "c_agent"}}, 404, "try: "),
        ({"agent_ref": {}, "environment": "c"}, 422, "agent_ref"),
        ({"responses_create_params": {"input": 3}}, 422, "input"),
        ({"responses_create_params": {"input": "x", "temperature": 9}}, 422, "temperature"),
        ({"environment": "b"}, 422, "leads to 'a'"),
    ],
)
async def test_a_row_that_cannot_be_played_is_refused_with_its_reason(
    composed: Composed, wire: Serving, change: dict[str, Any], status: int, told: str
) -> None:
    """
    It is checked as `compose` checks rows, and nothing is played.
    """
    async with wire(composed({"a": (World, 1), "b": (World, 1)}, Says)) as served:
        reply = await served.post("/run", {**served.rows()[0], **change})

    assert reply.status_code == status
    assert told in reply.text
    assert served.lines() == []


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff", b'{"a": NaN}', b"[" * 2000])
async def test_what_is_no_row_is_told_so(composed: Composed, wire: Serving, body: bytes) -> None:
    """
    Rubbish costs its sender an answer, and nobody else anything.
    """
    async with wire(composed({"a": (World, 1)}, Says)) as served:
        for path in ("/run", "/seed_session", "/verify", "/aggregate_metrics", "/v1/responses"):
            reply = await served.client.post(path, content=body)
            assert reply.status_code == 400, path
            assert reply.json()["error"]["message"]


async def test_a_long_row_is_read_as_a_short_one(composed: Composed, wire: Serving) -> None:
    """
    Beside the event loop, which changes nothing of it: it comes back verbatim, and is kept.
    """
    async with wire(composed({"a": (World, 1)}, Says)) as served:
        row = {**served.rows()[0], "note": [{"number": number} for number in range(40_000)], "_ng_rollout_index": 3}
        asked, seeded = await asyncio.gather(served.post("/run", row), served.post("/seed_session", row))
        scored = await served.post("/verify", {**row, "response": asked.json()["response"]})
        wrong = await served.post("/run", {**row, "responses_create_params": 1})

    assert len(encode_json(row)) > LONG_BODY
    assert (asked.status_code, seeded.status_code, scored.status_code, wrong.status_code) == (200, 200, 200, 422)
    assert asked.json()["note"] == scored.json()["note"] == row["note"]
    assert sorted(line["repeat"] for line in served.lines()) == [0, 3]
    assert all(line["note"] == row["note"] for line in served.lines())


async def test_long_bodies_that_are_refused_leave_most_of_the_time_to_others(composed: Composed, wire: Serving) -> None:
    """
    Whoever sends them over and over waits for nineteen times as long as each took; a row of usual length does not.
    """
    async with wire(composed({"a": (World, 1)}, Says)) as served:
        nobody = {"agent_ref": {"name": "nobody"}, "texts": ["ab"] * 500_000}
        routes = served.served.composition.routes
        with no_garbage_collected():
            least_s = refusing_s(lambda: read_row(encode_json(nobody), routes))
            begun = time.monotonic()
            first = await served.post("/seed_session", nobody)
            second = asyncio.create_task(served.post("/seed_session", nobody))
            played = await served.post("/run", served.rows()[0])
            is_answered_first = not second.done()
            refused = await second
            took_s = time.monotonic() - begun

    assert (first.status_code, played.status_code, refused.status_code) == (404, 200, 404)
    assert is_answered_first
    assert took_s > min(10 * least_s, LONGEST_PAUSE_S)


async def test_a_row_of_too_many_keys_is_refused_before_it_is_looked_at(composed: Composed, wire: Serving) -> None:
    """
    Each of them would be looked at several times while everybody waits.
    """
    async with wire(composed({"a": (World, 1)}, Says)) as served:
        row = {**served.rows()[0], **{f"a key of some length, {number}": number for number in range(20_000)}}
        replies = [await served.post(path, {**row, "response": {}}) for path in ("/seed_session", "/verify")]
        replies.append(await served.post("/run", row))

    assert [reply.status_code for reply in replies] == [422] * 3
    assert all("10,000 may stand beside each other" in reply.text for reply in replies)


async def test_no_more_rollouts_are_in_flight_than_the_plan_allows(composed: Composed, wire: Serving) -> None:
    """
    A trainer posts a thousand at once; they wait, and all are played.
    """
    now, most = 0, 0

    class Counted(World):
        async def open(self) -> None:
            nonlocal now, most
            now += 1
            most = max(most, now)
            await asyncio.sleep(0.001)

        async def close(self) -> None:
            nonlocal now
            now -= 1

    composition = composed({"a": (Counted, 40)}, Says, collect={"concurrency": 7})
    async with wire(composition) as served:
        replies = await asyncio.gather(*[served.post("/run", row) for row in served.rows()])

    assert {reply.status_code for reply in replies} == {200}
    assert most == 7
    assert len(served.lines()) == 40


async def test_bounds_of_an_environment_and_of_a_model_hold_here_too(composed: Composed, wire: Serving) -> None:
    """
    `concurrency` of either is kept, within that of all together.
    """
    now: dict[str, int] = {"a": 0, "b": 0}
    most: dict[str, int] = {"a": 0, "b": 0}

    class Counted(World):
        async def open(self) -> None:
            name = self.task.environment
            now[name] += 1
            most[name] = max(most[name], now[name])
            await asyncio.sleep(0.001)

        async def close(self) -> None:
            now[self.task.environment] -= 1

    composition = composed(
        {"a": (Counted, 20), "b": (Counted, 20)},
        Says,
        environments={"a": {"concurrency": 2}},
        models={"policy": {"concurrency": 5}},
    )
    async with wire(composition) as served:
        await asyncio.gather(*[served.post("/run", row) for row in served.rows()])

    assert most["a"] == 2
    assert 3 <= most["b"] <= 5


async def test_who_waits_for_room_is_told_at_once_that_the_server_stops(composed: Composed, wire: Serving) -> None:
    """
    Only what is being played is waited for; the others get a status and a reason, and may come again.
    """
    began, may_end = asyncio.Event(), asyncio.Event()

    class Slow(World):
        async def open(self) -> None:
            began.set()
            await may_end.wait()

    async with wire(composed({"a": (Slow, 5)}, Says, collect={"concurrency": 1})) as served:
        asked = [asyncio.create_task(served.post("/run", row)) for row in served.rows()]
        await began.wait()
        await until(lambda: len(served.served.on_demand._queued) == 4)
        served.served.on_demand.stop()
        await until(lambda: sum(one.done() for one in asked) == 4)  # the fifth is still being played
        late = await served.post("/run", {**served.rows()[0], "note": 1})
        may_end.set()
        replies = await asyncio.gather(*asked)

    assert sorted(reply.status_code for reply in replies) == [200, 503, 503, 503, 503]
    assert late.status_code == 503
    assert all("stopping" in reply.json()["error"]["message"] for reply in replies if reply.status_code == 503)


async def test_who_waits_for_what_is_gone_is_told_at_once_that_the_server_stops(
    composed: Composed, wire: Serving
) -> None:
    """
    Their rollouts have not begun; those of others are waited for, also where that is found while they finish.
    """
    served_on = asyncio.Event()
    slow = 0

    class Gone(World):
        async def open(self) -> None:
            await served_on.wait()
            self.is_waiting = True
            await asyncio.Event().wait()

    class Slow(World):
        async def open(self) -> None:
            nonlocal slow
            slow += 1
            served_on.set()
            await asyncio.sleep(0.5)

    composition = composed({"a": (Slow, 2), "b": (Gone, 3)}, Says, collect={"concurrency": 8})
    async with wire(composition) as served:
        row = next(row for row in served.rows() if row["environment"] == "b")
        asked = [asyncio.create_task(served.post("/run", row)) for row in served.rows()]
        asked.append(asyncio.create_task(served.post("/seed_session", row)))
        on_demand, sessions = served.served.on_demand, served.served.sessions
        await until(lambda: len(sessions) > 0 and slow == 2 and on_demand.in_flight["b"] > 0)
        stopped = time.monotonic()
        await asyncio.gather(on_demand.close(30), sessions.drain(30))
        took_s = time.monotonic() - stopped
        replies = await asyncio.gather(*asked)

    assert [reply.status_code for reply in replies] == [
        {"a": 200, "b": 503}[row["environment"]] for row in served.rows()
    ] + [503]
    assert all("stopping" in reply.json()["error"]["message"] for reply in replies if reply.status_code == 503)
    assert took_s < 15
    assert [line["environment"] for line in served.lines()] == ["a", "a"]


async def test_rollouts_that_nobody_waits_for_any_more_are_not_begun(composed: Composed, wire: Serving) -> None:
    """
    A collector that was stopped with thousands in the queue costs no model call for them.
    """
    opened = 0
    is_gone = False
    began, may_end = asyncio.Event(), asyncio.Event()

    class Slow(World):
        async def open(self) -> None:
            nonlocal opened
            opened += 1
            began.set()
            await may_end.wait()

    async def gone() -> bool:
        return is_gone

    async with wire(composed({"a": (Slow, 10)}, Says, collect={"concurrency": 1})) as served:
        routes = served.served.composition.routes
        sent = [read_row(encode_json(row), routes)[0] for row in served.rows()]
        asked = [asyncio.create_task(served.served.on_demand.answer(row, gone)) for row in sent]
        await began.wait()
        is_gone = True
        may_end.set()
        await asyncio.wait(asked)

    assert opened == 1


async def test_a_full_disk_is_told_to_everybody_and_ends_the_server(composed: Composed, wire: Serving) -> None:
    """
    Those whose rollout could not be kept, and those that are still being played: none waits for the end of the drain.
    """
    began, may_end = asyncio.Event(), asyncio.Event()

    class Slow(World):
        async def open(self) -> None:
            if str(self.task.task_id) == "a/1":
                began.set()
                await may_end.wait()

    statuses = []

    async def serve_until_full() -> None:
        async with wire(composed({"a": (Slow, 2)}, Says), disk=FullDisk()) as served:
            first, second = served.rows()
            slow = asyncio.create_task(served.post("/run", second))
            await began.wait()
            statuses.append((await served.post("/run", first)).status_code)
            may_end.set()
            statuses.append((await asyncio.wait_for(slow, 60)).status_code)
            statuses.append((await served.post("/run", first)).status_code)

    with pytest.raises(StorageError):
        await serve_until_full()

    assert statuses == [507, 507, 503]


async def test_a_run_folder_that_is_deleted_is_noticed_at_once(
    composed: Composed, wire: Serving, tmp_path: Path
) -> None:
    """
    The first rollout that cannot be kept is refused: the files are open, and would take it.
    """
    statuses = []

    async def serve_until_deleted() -> None:
        async with wire(composed({"a": (World, 1)}, Says)) as served:
            row = served.rows()[0]
            statuses.append((await served.post("/run", row)).status_code)
            shutil.rmtree(tmp_path)
            statuses.append((await served.post("/run", row)).status_code)

    with pytest.raises(StorageError, match=r"the file was deleted meanwhile .*\n  what was in it is lost"):
        await serve_until_deleted()

    assert statuses == [200, 507]


class FullDisk(Disk):
    """A disk that takes nothing more."""

    def write(self, file: int, data: Any) -> int:
        """Take nothing."""
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


async def test_tools_are_called_in_the_rollout_and_not_by_the_client(composed: Composed, wire: Serving) -> None:
    """
    One request is the whole episode: every reply, every call and every result, in order.
    """

    class Adds(Environment):
        total = 0

        @tool
        def add(self, number: int) -> int:
            """Add a number."""
            self.total += number
            return self.total

        def verify(self, trajectory: Trajectory) -> float:
            return float(self.total)

    class Calls(Model):
        async def respond(self, request: Any, rollout: Any) -> Response:
            if len(request.input) > 1:
                return Response(output=[message("done")])
            return Response(
                output=[function_call("add", '{"number": 4}', "c1"), function_call("add", '{"number": 5}', "c2")]
            )

    async with wire(composed({"a": (Adds, 1)}, Calls)) as served:
        answer = (await served.post("/run", served.rows()[0])).json()

    kinds = [item["type"] for item in answer["response"]["output"]]
    assert kinds == ["function_call", "function_call", "function_call_output", "function_call_output", "message"]
    assert answer["reward"] == 9.0


async def test_what_was_collected_is_summed_up_by_task_and_in_total(composed: Composed, wire: Serving) -> None:
    """
    Every number of the rollouts counts, and numbers of the protocol do not.
    """
    usage = {"usage": {"t": 3}}
    async with wire(composed({"a": (World, 1)}, Says)) as served:
        rollouts: list[dict[str, Any]] = [
            {
                "_ng_task_index": 0,
                "_ng_rollout_index": n,
                "reward": reward,
                "seen": True,
                "response": usage,
            }
            for n, reward in enumerate([0.0, 1.0])
        ]
        reply = await served.post(
            "/aggregate_metrics", {"verify_responses": [*rollouts, {"_ng_task_index": 1, "reward": 1}]}
        )

    found = reply.json()
    assert [group["mean/reward"] for group in found["group_level_metrics"]] == [0.5, 1.0]
    assert found["agent_metrics"]["mean/reward"] == pytest.approx(2 / 3)
    assert found["agent_metrics"]["mean/t"] == 3.0
    assert found["key_metrics"]["mean/seen"] == 1.0
    assert not any("_ng_" in name for name in found["agent_metrics"])


class Sums(World):
    """One that says itself what its rollouts amount to."""

    @classmethod
    @asynccontextmanager
    async def shared(cls, config: Any) -> AsyncIterator[str]:
        yield "shared"

    @classmethod
    async def aggregate_metrics(cls, config: Any, resources: Any, rollouts: Any) -> dict[str, Any]:
        kept = [rollout["kept"] for rollout in rollouts] + [rollout["kept"] for rollout in rollouts]
        return {"agent_metrics": {"kept": kept, "mean/reward": 7.0, "resources": resources}}


async def test_an_environment_says_itself_what_its_rollouts_amount_to(composed: Composed, wire: Serving) -> None:
    """
    Beside our statistics and over them; of failures, and of rollouts of several environments, it is not asked.
    """
    rollouts = [{"agent_ref": {"name": "a_agent"}, "_ng_task_index": 0, "reward": 1.0, "kept": True}]
    failed = {"agent_ref": {"name": "a_agent"}, "_ng_task_index": 0, "_ng_failure_class": "x"}
    other = {"agent_ref": {"name": "b_agent"}, "_ng_task_index": 1, "reward": 0.0}
    async with wire(composed({"a": (Sums, 1), "b": (World, 1)}, Says)) as served:
        own = (await served.post("/aggregate_metrics", {"verify_responses": [*rollouts, failed]})).json()
        mixed = (await served.post("/aggregate_metrics", {"verify_responses": [*rollouts, other]})).json()

    assert own["agent_metrics"]["kept"] == [True, True]
    assert own["agent_metrics"]["resources"] == "shared"
    assert own["agent_metrics"]["max/reward"] == 1.0
    assert own["key_metrics"]["mean/reward"] == 7.0
    assert own["group_level_metrics"][0]["mean/reward"] == 1.0
    assert mixed["agent_metrics"]["mean/reward"] == 0.5
    assert "kept" not in mixed["agent_metrics"]


async def test_what_an_environment_says_of_tasks_is_added_to_what_is_known_of_them(
    composed: Composed, wire: Serving
) -> None:
    """
    Its metrics win; who played, which rollouts there are and which are missing it has not seen.
    """
    unknown = [{"_ng_task_index": 7, "subset": "x"}, {"subset": "y"}]

    class Grouped(World):
        @classmethod
        async def aggregate_metrics(cls, config: Any, resources: Any, rollouts: Any) -> dict[str, Any]:
            first = {"_ng_task_index": 0, "pass@1": 0.5, "mean/reward": 7.0}
            wrong = {"sample": {}, "num_rollouts": 9, "expected_num_rollouts": 9, "missing_num_rollouts": 0}
            wrong |= {"reward_profile_completion_pct": 100.0, "rollout_infos": []}
            return {"group_level_metrics": [{**first, **wrong}, *unknown, {"_ng_task_index": 0, "pass@2": 1.0}]}

    common = {"agent_ref": {"name": "a_agent"}, "reward": 1.0}
    rollouts = [
        {**common, "_ng_task_index": 0, "_ng_rollout_index": 0},
        {**common, "_ng_task_index": 0, "_ng_rollout_index": 1, "_ng_failure_class": "x"},
        {**common, "_ng_task_index": 1, "_ng_rollout_index": 0, "_ng_failure_class": "x"},
    ]
    async with wire(composed({"a": (Grouped, 1)}, Says)) as served:
        reply = await served.post("/aggregate_metrics", {"verify_responses": rollouts})

    first, second, *others = reply.json()["group_level_metrics"]
    assert (first["pass@1"], first["pass@2"], first["mean/reward"], first["max/reward"]) == (0.5, 1.0, 7.0, 1.0)
    assert first["sample"] == second["sample"] == {"agent_ref": {"name": "a_agent"}}
    counts = ("num_rollouts", "expected_num_rollouts", "missing_num_rollouts", "reward_profile_completion_pct")
    assert [first[name] for name in counts] == [1, 2, 1, 50.0]
    assert [info["rollout_id"] for info in first["rollout_infos"]] == ["0:0"]
    assert [second[name] for name in ("_ng_task_index", *counts)] == [1, 0, 1, 1, 0.0]
    assert others == unknown


@pytest.mark.parametrize(
    ("said", "status", "named"),
    [(1 / 3, 500, "TypeError"), ({"key_metrics": []}, 500, "TypeError"), (ValueError("no"), 500, "ValueError: no")],
    ids=["number", "list", "error"],
)
async def test_an_environment_that_sums_up_wrongly_is_named(
    composed: Composed, wire: Serving, said: Any, status: int, named: str
) -> None:
    """
    Its client learns which one it is, and what happened.
    """

    class Wrong(World):
        @classmethod
        async def aggregate_metrics(cls, config: Any, resources: Any, rollouts: Any) -> Any:
            if isinstance(said, Exception):
                raise said
            return said

    async with wire(composed({"a": (Wrong, 1)}, Says)) as served:
        reply = await served.post("/aggregate_metrics", {"verify_responses": [{"reward": 1.0}]})

    assert reply.status_code == status
    assert reply.json()["error"]["message"].startswith("a could not sum the rollouts up: ")
    assert named in reply.json()["error"]["message"]


async def test_each_task_is_answered_with_its_rollouts_and_with_what_is_missing(
    composed: Composed, wire: Serving
) -> None:
    """
    As NeMo Gym answers: which rollouts there are with their numbers, how many failed, and no spread of a single number.
    """
    common = {"agent_ref": {"name": "a_agent"}, "_ng_task_index": 0}
    rollouts = [
        {**common, "_ng_rollout_index": 1, "reward": 0.5, "seen": True, "response": {"usage": {"output_tokens": 4}}},
        {**common, "_ng_rollout_index": 0, "reward": 1, "once": 2},
        {**common, "_ng_rollout_index": 2, "_ng_failure_class": "x"},
    ]
    async with wire(composed({"a": (World, 1)}, Says)) as served:
        reply = await served.post("/aggregate_metrics", {"verify_responses": rollouts})
        nothing = await served.post("/aggregate_metrics", {"verify_responses": []})

    (group,) = reply.json()["group_level_metrics"]
    assert group["sample"] == {"agent_ref": {"name": "a_agent"}}
    assert (group["num_rollouts"], group["expected_num_rollouts"], group["missing_num_rollouts"]) == (2, 3, 1)
    assert group["reward_profile_completion_pct"] == pytest.approx(100 * 2 / 3)
    which = {"_ng_task_index": 0}
    assert group["rollout_infos"] == [
        {**which, "rollout_id": "0:0", "_ng_rollout_index": 0, "reward": 1, "once": 2},
        {**which, "rollout_id": "0:1", "_ng_rollout_index": 1, "reward": 0.5, "seen": 1, "output_tokens": 4},
    ]
    assert group["mean/once"] == 2
    assert "std/once" not in group
    assert "std/reward" in group
    assert nothing.json() == {"group_level_metrics": [], "agent_metrics": {}, "key_metrics": {}}


async def test_an_evaluation_of_real_size_is_summed_up(composed: Composed, wire: Serving) -> None:
    """
    A collector sends all of its rollouts in one body, with more parts and bytes than any other call may have.
    """
    rollouts = [
        {"_ng_task_index": index // 16, "_ng_rollout_index": index % 16, "reward": index % 2, "parts": {"a": [{}] * 4}}
        for index in range(33_600)
    ]
    rollouts[0]["text"] = "ä{" * 2_000_000
    rollouts += [{"_ng_task_index": 1, "reward": 1, "text": "x" * 500} for _ in range(30_000)]
    async with wire(composed({"a": (World, 1)}, Says)) as served:
        body = encode_json({"before": [1, {"verify_responses": 2}], "verify_responses": rollouts, "after": None})
        assert len(body) > 2**24
        reply = await served.client.post("/aggregate_metrics", content=body)

    found = reply.json()
    assert reply.status_code == 200
    assert found["agent_metrics"]["mean/reward"] == pytest.approx((16_800 + 30_000) / 63_600)
    assert found["agent_metrics"]["median/reward"] == 1
    assert [group["num_rollouts"] for group in found["group_level_metrics"]][:3] == [16, 30_016, 16]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"verify_responses": [{"reward": 1}, 2]}', 422),
        (b'{"verify_responses": {"reward": 1}}', 422),
        (b'{"verify_responses": [{"reward": 1}', 400),
        (b'{"verify_responses": [{"reward": 1}]} {}', 400),
        (b'{"verify_responses": [{"reward": 1},]}', 400),
        (b'{1: [{"reward": 1}]}', 400),
        (b'{"verify_responses": [{"\xff": 1}]}', 400),
        (b'{"other": 1}', 422),
        (b'{"verify_responses": [' + b"[" * 100_000, 413),
        (b'{"verify_responses": [{"a": ' + b"[{}," * 5_000_000, 413),
        (b'{"verify_responses": [{"a": "' + b"x" * (2**24 + 10), 413),
    ],
    ids=["number", "object", "half", "more", "comma", "name", "bytes", "none", "deep", "parts", "long"],
)
async def test_what_are_no_rollouts_is_told_so(composed: Composed, wire: Serving, body: bytes, status: int) -> None:
    """
    However it is broken, and wherever.
    """
    async with wire(composed({"a": (World, 1)}, Says)) as served:
        reply = await served.client.post("/aggregate_metrics", content=body)

    assert reply.status_code == status, reply.text


@pytest.mark.parametrize(
    "own",
    [
        {"metrics": ["mine"]},
        {"turns": 3, "timing": 1, "repeat": None, "crc": "x", "provenance": {}},
        {"response": "golden text", "reward": None},
        {"stop": ["x"], "reward_parts": 2},
        {"epoch": 0},
        {"epoch": "x", "environment": {"a": 1}},
        {"environment": "prod", "task_id": ["no id"]},
        {"task_id": 17},
    ],
    ids=str,
)
async def test_keys_of_an_author_are_no_mistake_whatever_they_are_called(
    composed: Composed, wire: Serving, own: dict[str, Any]
) -> None:
    """
    A collector would end at a refusal: they come back as they are, unless the answer has its own of that name.
    """
    async with wire(composed({"a": (World, 1), "b": (World, 1)}, Says)) as served:
        task = {key: item for key, item in served.rows()[0].items() if key not in ("environment", "task_id")}
        row = {**task, **own, "_ng_task_index": 0, "_ng_rollout_index": 0}
        reply = await served.post("/run", row)
        seeded = await served.post("/seed_session", row)
        stepped = await served.post("/verify", {**row, "response": reply.json()["response"]})
        (line, _) = served.lines()
        kept = [Rollout.from_line(encode_json(line)) for line in served.lines()]

    answer = reply.json()
    told = {"response", "reward", "reward_parts", "metrics", "stop"}
    assert (reply.status_code, seeded.status_code, stepped.status_code) == (200, 200, 200)
    assert {key: answer[key] for key in row if key not in told} == {
        key: item for key, item in row.items() if key not in told
    }
    assert answer["reward"] == 0.5
    assert answer["metrics"] == {"length": 2, "seen": True}
    aside = {} if own == {"task_id": 17} else own
    assert [rollout.row.value["agent_ref"].get("served_as", {}) for rollout in kept] == [aside, aside]
    assert (line["environment"], line["reward"], line["stop"]) == ("a", 0.5, "finished")


async def test_rows_that_differ_in_a_key_that_is_set_aside_are_two_tasks(composed: Composed, wire: Serving) -> None:
    """
    What identifies a row without an id is all of its content; the same row is the same task again.
    """
    async with wire(composed({"a": (World, 1)}, Says)) as served:
        task = {key: item for key, item in served.rows()[0].items() if key not in ("environment", "task_id")}
        for turns in (3, 5, 3):
            await served.post("/run", {**task, "turns": turns})

    first, second, again = (line["task_id"] for line in served.lines())
    assert first == again != second


@pytest.mark.parametrize("route", [{}, {"agent_ref": {"name": "a_agent"}}], ids=["without a route", "with ours"])
async def test_what_is_served_elsewhere_is_sent_with_the_keys_of_its_author_alone(
    composed: Composed, wire: Serving, route: dict[str, Any]
) -> None:
    """
    The id that a task gets here, because some of its keys are set aside, is no route that it had before.
    """

    class Elsewhere(World):
        keeps_route = True

    async with wire(composed({"a": (Elsewhere, 1)}, Says)) as served:
        for turns in (3, 5):
            await served.post("/run", {"responses_create_params": {"input": "x"}, **route, "turns": turns})
        lines = served.lines()

    assert [line["agent_ref"]["served_as"] for line in lines] == [{"turns": 3}, {"turns": 5}]
    assert len({line["task_id"] for line in lines}) == 2


@pytest.mark.parametrize("before", [None, "x", [1], 3])
@pytest.mark.parametrize("keeps", [False, True])
async def test_what_is_no_route_at_all_is_no_obstacle_to_setting_keys_aside(
    composed: Composed, wire: Serving, before: Any, keeps: bool
) -> None:
    """
    A client may write anything there.
    """

    class Elsewhere(World):
        keeps_route = keeps

    async with wire(composed({"a": (Elsewhere, 1)}, Says)) as served:
        reference = {"name": "a_agent", "served_as": before}
        reply = await served.post("/run", {**served.rows()[0], "agent_ref": reference, "reward": 9.0, "epoch": "x"})
        (line,) = served.lines()

    assert reply.status_code == 200, reply.text
    assert reply.json()["agent_ref"] == reference
    assert line["agent_ref"]["served_as"] == {"reward": 9.0, "epoch": "x"}


async def test_a_row_with_a_reward_of_its_own_that_fails_has_none(composed: Composed, wire: Serving) -> None:
    """
    Whoever reads the file of failures must not take it for one that was earned.
    """

    class Broken(Environment):
        def verify(self, trajectory: Trajectory) -> float:
            return 1 / 0

    async with wire(composed({"a": (Broken, 1)}, Says)) as served:
        row = {**served.rows()[0], "reward": 1.0, "turns": 3, "_ng_task_index": 0, "_ng_rollout_index": 0}
        answer = (await served.post("/run", row)).json()

    assert answer["_ng_failure_class"] == "verify: ZeroDivisionError"
    assert "reward" not in answer
    assert answer["turns"] == 3
