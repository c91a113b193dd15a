"""
What becomes of sessions: what is scored, or fails, stands in the run folder as if it had been played here.
"""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from gymcore import Environment, Model, Response, Reward, Trajectory
from gymcore.collection import read_rollouts
from gymcore.collection.disk import Disk
from gymcore.composition import Composition
from gymcore.errors import StorageError
from gymcore.interfaces import tool
from gymcore.records import Turn
from gymcore.responses import function_call, function_call_output, message
from gymcore.serving.cookies import COOKIE

from .conftest import until
from .test_rollouts import FullDisk

Composed = Callable[..., Composition]
Serving = Callable[..., Any]
Serve = Callable[..., Any]

BOTH = ("--env", "example_single_tool_call", "--env", "example_multi_step", "--out", "runs/mix")


class Adds(Environment):
    """One whose state is what its tool was told, and that asks once whether there is more."""

    total = 0

    @tool
    def add(self, number: int) -> dict[str, int]:
        """Add a number."""
        self.total += number
        return {"total": self.total}

    @tool
    def crash(self) -> str:
        """Fail."""
        raise RuntimeError("no")

    async def reply(self, turn: Turn) -> str | None:
        return "more?" if turn.text == "half" else None

    def verify(self, trajectory: Trajectory) -> Reward:
        calls = len(trajectory.calls())
        return Reward(value=float(self.total), parts={"sum": float(self.total)}, metrics={"calls": calls})


class Policy(Model):
    """A policy that adds two numbers, is asked whether there is more, and ends."""

    async def respond(self, request: Any, rollout: Any) -> Response:
        said = [item for item in request.input if item.get("role") != "user"]
        if not said:
            two = [function_call("add", '{"number": 4}', "c1"), function_call("add", '{"number": 5}', "c2")]
            return Response(output=two)
        if said[-1].get("type") == "function_call_output":
            return Response(output=[message("half")])
        usage = {"input_tokens": 2, "output_tokens": 1, "total_tokens": 3}
        return Response(output=[message("done")], usage=usage, id="resp_1", model="m", status="completed")


def episode(*numbers: int) -> dict[str, Any]:
    """Return the response of an episode that adds numbers, one a turn."""
    output: list[dict[str, Any]] = []
    for index, number in enumerate(numbers):
        output.append(function_call("add", f'{{"number": {number}}}', f"c{index}"))
        output.append(function_call_output(f"c{index}", "{}"))
    return {"id": "resp_1", "output": [*output, message("done")]}


async def seeded(served: Any, row: Mapping[str, Any], path: str = "/seed_session") -> dict[str, str]:
    """Open a session, and return the header that names it; no other request sends it by itself."""
    reply = await served.post(path, row)
    assert reply.status_code == 200, reply.text
    served.client.cookies.clear()
    return {"cookie": f"{COOKIE}={reply.cookies[COOKIE]}"}


def what_counts(line: Mapping[str, Any]) -> dict[str, Any]:
    """Return a line without what differs between any two rollouts of a task."""
    turns = [{**turn, "duration_s": 0.0} for turn in line["turns"]]
    seed = line["provenance"]["seed"], line["provenance"]["lock"]
    left_out = ("repeat", "timing", "provenance", "crc")
    return {**{key: value for key, value in line.items() if key not in left_out}, "turns": turns, "seed": seed}


@pytest.mark.parametrize("is_stepped", [False, True])
async def test_a_session_is_recorded_as_a_rollout_that_was_played_here(
    composed: Composed, wire: Serving, is_stepped: bool
) -> None:
    """
    The same things done by a client, scored at once or turn by turn, are the same line; it says who has done them.
    """
    async with wire(composed({"a": (Adds, 1)}, Policy)) as served:
        row = {**served.rows()[0], "of": {"note": [1.50, None, "ä"]}}
        text = json.dumps(row, indent=1).replace("\n", " ").encode()  # spaced as no writer of ours does it
        await served.client.post("/run", content=text)
        response = served.lines()[0]["response"]
        seed = await served.client.post("/reset" if is_stepped else "/seed_session", content=text)
        assert seed.status_code == 200
        if is_stepped:
            calls, rest = response["output"][:2], {key: response[key] for key in response if key != "output"}
            for output in (calls, [message("half")]):
                await served.post("/step", {"response": {"output": output}})
            reply = await served.post("/step", {"response": {**rest, "output": [message("done")]}})
        else:
            for number in (4, 5):
                await served.post("/add", {"number": number})
            reply = await served.post("/verify", {**row, "response": response})
        own, clients = served.lines()
        data = (served.folder / "rollouts.jsonl").read_bytes().splitlines()

    assert reply.json()["reward"] == own["reward"] == 9.0
    assert what_counts(clients) == what_counts(own)
    assert [line["repeat"] for line in (own, clients)] == [0, 1]
    assert len(own["turns"]) == 3
    assert all(line.startswith(text[:-1].rstrip()) for line in data)
    assert clients["provenance"] == {**own["provenance"], "agent": "client", "model": "client"}
    assert 0 < clients["timing"]["duration_s"] < 60
    assert own["timing"]["started_at"] <= clients["timing"]["started_at"]
    assert [len(rollout.trajectory.items) for rollout in read_rollouts(served.folder)] == [7, 7]


async def test_sessions_of_a_task_and_rollouts_that_are_played_here_get_different_numbers(
    composed: Composed, wire: Serving
) -> None:
    """
    The client's, where it is free, else the next; what is open holds its number, and what is abandoned frees it.
    """
    async with wire(composed({"a": (Adds, 1)}, Policy)) as served:
        row = served.rows()[0]
        first, second = await seeded(served, row), await seeded(served, row)
        fifth = await seeded(served, {**row, "_ng_task_index": 0, "_ng_rollout_index": 5})
        left = await seeded(served, row)
        await served.post("/run", row)
        await served.post("/close_session", {}, headers=left)
        last = await seeded(served, row)
        for number, cookie in enumerate((second, fifth, last, first)):
            await served.post("/add", {"number": number}, headers=cookie)
            await served.post("/verify", {**row, "response": episode(number)}, headers=cookie)
        await served.post("/run", row)

    assert [(line["repeat"], line["reward"]) for line in served.lines()] == [
        (3, 9.0),
        (1, 0.0),
        (5, 1.0),
        (2, 2.0),
        (0, 3.0),
        (4, 9.0),
    ]
    assert not any(key.startswith("_ng") for line in served.lines() for key in line)


async def test_nothing_is_lost_and_nothing_is_twice_where_all_come_at_once(composed: Composed, wire: Serving) -> None:
    """
    Sessions that are scored, sessions that are left, and rollouts, of one task: as many lines as were answered.
    """

    async def scored(served: Any, number: int) -> float:
        row = served.rows()[0]
        cookie = await seeded(served, row)
        if number % 3 == 0:
            await served.post("/close_session", {}, headers=cookie)
            return -1.0
        await served.post("/add", {"number": number}, headers=cookie)
        reply = await served.post("/verify", {**row, "response": episode(number)}, headers=cookie)
        return float(reply.json()["reward"])

    async with wire(composed({"a": (Adds, 1)}, Policy)) as served:
        row = served.rows()[0]
        rewards, runs, again = await asyncio.gather(
            asyncio.gather(*[scored(served, number) for number in range(60)]),
            asyncio.gather(*[served.post("/run", row) for _ in range(20)]),
            asyncio.gather(*[scored(served, number) for number in range(60)]),
        )
        lines = served.lines()

    answered = [*rewards, *(reply.json()["reward"] for reply in runs), *again]
    assert sorted(line["reward"] for line in lines) == sorted(reward for reward in answered if reward >= 0)
    assert len({line["repeat"] for line in lines}) == len(lines) == 100


async def test_scoring_again_writes_no_second_line(composed: Composed, wire: Serving) -> None:
    """
    Whoever lost the answer gets it again, whoever brings another response is refused: one session is one rollout.
    """
    async with wire(composed({"a": (Adds, 1)}, Policy)) as served:
        body = {**served.rows()[0], "response": episode(1)}
        await served.post("/seed_session", served.rows()[0])
        await served.post("/add", {"number": 1})
        replies = await asyncio.gather(*[served.post("/verify", body) for _ in range(3)])
        replies.append(await served.post("/verify", body))
        other = await served.post("/verify", {**body, "response": episode(2)})

    assert {reply.content for reply in replies} == {replies[0].content}
    assert other.status_code == 409
    assert [line["reward"] for line in served.lines()] == [1.0]


async def test_what_nobody_scored_is_not_recorded(composed: Composed, wire: Serving) -> None:
    """
    A session that its client closes, replaces or forgets, one that is open in the end, and an episode without one.
    """
    async with wire(composed({"a": (Adds, 1)}, Policy), idle_s=0.3) as served:
        row = served.rows()[0]
        await served.post("/close_session", {}, headers=await seeded(served, row))
        await served.post("/seed_session", row, headers=await seeded(served, row))
        served.client.cookies.clear()
        without = await served.post("/verify", {**row, "response": episode(2, 3)})
        await until(lambda: len(served.served.sessions) == 0)
        await seeded(served, row)

    assert without.json()["reward"] == 5.0
    assert served.lines() == served.lines("failures.jsonl") == []


async def test_a_session_that_fails_is_a_failure_like_that_of_a_rollout(composed: Composed, wire: Serving) -> None:
    """
    In its verifier, in a tool, while it is opened, or because it takes too long: once, with its stage, and no reward.
    """

    class Breaks(Adds):
        async def open(self) -> None:
            if self.task.task_id == "a/1":
                raise OSError("no room")

        async def reply(self, turn: Turn) -> str | None:
            await asyncio.Event().wait()
            return None

        def verify(self, trajectory: Trajectory) -> Reward:
            raise ZeroDivisionError("of what?")

    composition = composed({"a": (Breaks, 2)}, Policy, collect={"timeout_s": 1.0})
    async with wire(composition) as served:
        row, unopened = served.rows()
        body = {**row, "response": episode(1)}
        statuses = []
        cookie = await seeded(served, row)
        statuses += [(await served.post("/verify", body, headers=cookie)).status_code for _ in range(2)]
        cookie = await seeded(served, row)
        for path, sent in (("/crash", {}), ("/add", {"number": 1}), ("/verify", body)):
            statuses.append((await served.post(path, sent, headers=cookie)).status_code)
        statuses.append((await served.post("/seed_session", unopened)).status_code)
        cookie = await seeded(served, row, "/reset")
        hanging = {"response": {"output": [message("hi")]}}
        statuses.append((await served.post("/step", hanging, headers=cookie)).status_code)
        failures = served.lines("failures.jsonl")

    assert statuses == [500] * 6 + [504]
    assert [(line["stage"], line["error"], line["task_id"], line["repeat"]) for line in failures] == [
        ("verify", "ZeroDivisionError", "a/0", 0),
        ("tool", "RuntimeError", "a/0", 0),
        ("open", "OSError", "a/1", 0),
        ("timeout", "TimeoutError", "a/0", 0),
    ]
    assert {line["provenance"]["agent"] for line in failures} == {"client"}
    assert len({(line["provenance"]["lock"], line["task_id"], line["provenance"]["seed"]) for line in failures}) == 2
    assert all("reward" not in line for line in failures)
    assert served.lines() == []


async def test_a_session_whose_rollout_cannot_be_kept_is_answered_with_507(composed: Composed, wire: Serving) -> None:
    """
    On a full disk nobody gets a reward that is not there, however often it is asked for, and the server ends.
    """
    statuses = []

    async def serve_until_full() -> None:
        async with wire(composed({"a": (Adds, 1)}, Policy), disk=FullDisk()) as served:
            row = served.rows()[0]
            body = {**row, "response": episode(1)}
            first, second = await seeded(served, row), await seeded(served, row)
            for cookie in (first, first, second):
                reply = await served.post("/verify", body, headers=cookie)
                assert "reward" not in reply.json()
                statuses.append(reply.status_code)
            statuses.append((await served.post("/seed_session", row)).status_code)
            await asyncio.wait_for(served.served.sessions.drain(600), 60)
            await served.served.sessions.aclose()
            statuses.append((await served.post("/verify", body, headers=first)).status_code)

    with pytest.raises(StorageError):
        await serve_until_full()

    assert statuses == [507, 507, 507, 503, 507]


async def test_nothing_is_played_on_that_cannot_be_kept(composed: Composed, wire: Serving) -> None:
    """
    Once the disk fails, while the server drains, a rollout and a tool call that take for ever are ended, and told why.
    """
    begun = asyncio.Semaphore(0)

    class Endless(Adds):
        async def open(self) -> None:
            if self.task.task_id == "a/1":
                await self.wait()

        @tool
        async def wait(self) -> str:
            """Wait."""
            begun.release()
            await asyncio.Event().wait()
            return ""

    statuses = []

    async def serve_until_full() -> None:
        async with wire(composed({"a": (Endless, 2)}, Policy), disk=FullDisk()) as served:
            row, endless = served.rows()
            first, second = await seeded(served, row), await seeded(served, row)
            asked = [
                asyncio.create_task(served.post("/run", endless)),
                asyncio.create_task(served.post("/wait", {}, headers=first)),
            ]
            await begun.acquire()
            await begun.acquire()
            draining = asyncio.gather(served.served.on_demand.close(600), served.served.sessions.drain(600))
            await asyncio.sleep(0.1)
            statuses.append((await served.post("/verify", {**row, "response": episode()}, headers=second)).status_code)
            async with asyncio.timeout(60):
                await draining
                await served.served.sessions.aclose()
                statuses.extend([reply.status_code for reply in await asyncio.gather(*asked)])

    with pytest.raises(StorageError):
        await serve_until_full()

    assert statuses == [507, 507, 507]


class HeldDisk(Disk):
    """A disk that takes nothing until it is let."""

    def __init__(self) -> None:
        self.let = threading.Event()

    def write(self, file: int, data: Any) -> int:
        """Take it, then."""
        self.let.wait(30)
        return super().write(file, data)


async def test_a_session_that_waits_for_the_disk_when_the_server_ends_is_kept_and_answered(
    composed: Composed, wire: Serving
) -> None:
    """
    Its environment is closed by then, but nobody has been told yet; what is scored later is told to come again.
    """
    disk = HeldDisk()
    async with wire(composed({"a": (Adds, 1)}, Policy), disk=disk) as served:
        row = served.rows()[0]
        body = {**row, "response": episode(1)}
        first, second = await seeded(served, row), await seeded(served, row)
        scoring = asyncio.create_task(served.post("/verify", body, headers=first))
        while (await served.client.get("/ready")).json()["sessions"] > 1:
            await asyncio.sleep(0.01)
        closing = asyncio.create_task(served.served.sessions.aclose())
        done, _ = await asyncio.wait([closing, scoring], timeout=0.1)
        assert not done
        disk.let.set()
        _, reply = await asyncio.gather(closing, scoring)
        late = await served.post("/verify", body, headers=second)
        opened = await served.post("/seed_session", row)

    assert (reply.status_code, late.status_code, opened.status_code) == (200, 410, 503)
    assert [line["repeat"] for line in served.lines()] == [0]


async def test_nobody_waits_for_a_journal_that_is_closed(composed: Composed, wire: Serving) -> None:
    """
    Whoever comes to be kept after the last line was written is told that the server is stopping.
    """
    async with wire(composed({"a": (Adds, 1)}, Policy)) as served:
        row = served.rows()[0]
        cookie = await seeded(served, row)
        served.served.recorder.finish()
        reply = await served.post("/verify", {**row, "response": episode(1)}, headers=cookie)

    assert reply.status_code == 503
    assert served.lines() == []


async def test_a_row_with_what_was_told_of_it_is_kept_without_that(composed: Composed, wire: Serving) -> None:
    """
    A client may open a session for what another one answered; a row that loses something in reading is refused.
    """
    async with wire(composed({"a": (Adds, 1)}, Policy)) as served:
        row = served.rows()[0]
        told = {**row, "response": episode(7), "reward": 1.0, "metrics": {}, "_ng_failure_class": "x", "extra": 1}
        cookie = await seeded(served, told)
        await served.post("/verify", {**told, "response": episode()}, headers=cookie)
        twins = await served.client.post("/seed_session", content=json.dumps(row)[:-1].encode() + b',"x":1,"x":2}')

    line = served.lines()[0]
    assert list(line)[: len(row) + 1] == [*row, "extra"]
    assert (line["reward"], line["response"]["output"]) == (0.0, episode()["output"])
    assert twins.status_code == 422
    assert "stands twice" in twins.text


async def test_a_session_that_was_scored_keeps_no_episode(composed: Composed, wire: Serving) -> None:
    """
    While it is remembered for who asks again, which may be many long ones, nothing is left but the score.
    """

    def alive() -> int:
        gc.collect()
        return sum(type(thing) is Trajectory for thing in gc.get_objects())

    async with wire(composed({"a": (Adds, 1)}, Policy)) as served:
        row = served.rows()[0]
        body = {**row, "response": episode(1)}
        before = alive()
        cookies, failing = [[await seeded(served, row) for _ in range(20)] for _ in range(2)]
        first = [await served.post("/verify", body, headers=cookie) for cookie in cookies]
        crashed = [await served.post("/crash", {}, headers=cookie) for cookie in failing]
        left = alive() - before
        again = [await served.post("/verify", body, headers=cookie) for cookie in cookies]

    assert [reply.status_code for reply in (*first, *crashed)] == [200] * 20 + [500] * 20
    assert [reply.json() for reply in again] == [reply.json() for reply in first]
    assert left < 10  # what was written last


async def test_a_number_is_free_only_once_what_came_of_it_is_kept(composed: Composed, wire: Serving) -> None:
    """
    Also where a session is closed in the moment in which it fails, and before whoever asked has heard of it.
    """
    async with wire(composed({"a": (Adds, 1)}, Policy)) as served:
        row = served.rows()[0]
        cookie = await seeded(served, row)
        _, session = served.served.sessions.find({COOKIE: cookie["cookie"].partition("=")[2]})
        crashing = asyncio.create_task(served.post("/crash", {}, headers=cookie))
        while not session.is_over:
            await asyncio.sleep(0)
        await session.close()
        failures = served.lines("failures.jsonl")
        reply = await crashing

    assert (reply.status_code, reply.json()["error"]["stage"]) == (500, "tool")
    assert [(line["stage"], line["repeat"]) for line in failures] == [("tool", 0)]


async def test_what_a_stop_ends_is_told_that_the_server_stops(composed: Composed, wire: Serving) -> None:
    """
    A tool call, an episode that is judged without a session, and a session that was to be opened in place of another.
    """
    begun = asyncio.Semaphore(0)
    closing, closed = asyncio.Event(), asyncio.Event()

    class Slow(Adds):
        @tool
        async def wait(self) -> str:
            """Wait."""
            begun.release()
            await asyncio.Event().wait()
            return ""

        async def close(self) -> None:
            closing.set()
            await closed.wait()

    output = [function_call("wait", "{}", "c"), function_call_output("c", ""), message("done")]
    async with wire(composed({"a": (Slow, 1)}, Policy)) as served:
        row = served.rows()[0]
        waiting, replaced = await seeded(served, row), await seeded(served, row)
        asked = [
            asyncio.create_task(served.post("/wait", {}, headers=waiting)),
            asyncio.create_task(served.post("/verify", {**row, "response": {"output": output}})),
            asyncio.create_task(served.post("/seed_session", row, headers=replaced)),
        ]
        for waits in (begun.acquire(), begun.acquire(), closing.wait()):
            await waits
        served.served.on_demand.stop()
        closed.set()
        third = await asked[2]
        await served.served.sessions.aclose()
        replies = [*await asyncio.gather(*asked[:2]), third]

    for reply in replies:
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "5"), reply.text
        assert reply.json()["error"]["hints"] == ["try: again when it is back"]
    assert served.lines() == served.lines("failures.jsonl") == []


# -- as a process -----------------------------------------------------------------------------------------------------


def scored_session(client: httpx.Client, row: Mapping[str, Any]) -> httpx.Response:
    """Play a session to its end, without a call."""
    client.cookies.clear()
    client.post("/seed_session", json=row).raise_for_status()
    return client.post("/verify", json={**row, "response": {"output": [message("It is mild.")]}})


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a composed dataset."""
    return [json.loads(line) for line in (folder / "dataset.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_session_that_was_scored_survives_the_end_of_the_process(gym_serve: Serve) -> None:
    """
    SIGKILL right after the answer: the line is there.
    """
    with gym_serve(*BOTH) as served, httpx.Client(base_url=served.url, timeout=30) as client:
        rows = rows_of(served.folder / "runs/mix")[:4]
        rewards = {row["task_id"]: scored_session(client, row).json()["reward"] for row in rows}
        served.process.kill()
        served.process.wait()

    kept = {rollout.key[1]: rollout.reward for rollout in read_rollouts(served.folder / "runs/mix")}
    assert {name: reward.value for name, reward in kept.items() if reward is not None} == rewards
    assert len(kept) == 4


@pytest.mark.slow
def test_what_clients_have_played_counts_in_the_report_and_in_a_run_afterwards(gym_serve: Serve) -> None:
    """
    An evaluation over the wire is a run folder like others: a run plays only what is missing of it.
    """
    with gym_serve(*BOTH) as served, httpx.Client(base_url=served.url, timeout=30) as client:
        for row in rows_of(served.folder / "runs/mix")[:3]:
            assert scored_session(client, row).json()["reward"] == 0.0
        code, _, err = served.stop()
    folder = served.folder
    total = json.loads((folder / "runs/mix/report.json").read_text())["total"]
    run = subprocess.run(
        [sys.executable, "-m", "gymcore", "run", "runs/mix"], cwd=folder, capture_output=True, text=True, timeout=60
    )

    assert code == 0, err
    assert (total["finished"], total["owed"], total["reward"]["mean"]) == (3, 7, 0.0)
    assert run.returncode == 0, run.stderr
    assert "3 rollouts are finished already" in run.stderr
    lines = [json.loads(line) for line in (folder / "runs/mix/rollouts.jsonl").read_text().splitlines()]
    assert [line["provenance"]["agent"] for line in lines] == ["client"] * 3 + ["simple_agent"] * 7
