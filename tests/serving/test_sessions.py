"""
Sessions: an environment that a client plays itself, from `/seed_session` over its tools to `/verify`.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from gymcore import Environment, Model, Response, Reward, Trajectory
from gymcore.composition import Composition
from gymcore.interfaces import tool
from gymcore.records import Turn
from gymcore.responses import function_call, function_call_output, message
from gymcore.serving.cookies import COOKIE
from gymcore.serving.sessions import SWEEP_S

from .conftest import until

Composed = Callable[..., Composition]
Serving = Callable[..., Any]


class Says(Model):
    """A policy that answers at once."""

    async def respond(self, request: Any, rollout: Any) -> Response:
        return Response(output=[message(f"seen {len(request.input)}")])


class Counter(Environment):
    """One whose state is what its tools were told."""

    log: list[str]

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        cls.log = []

    async def open(self) -> None:
        self.total = 0
        self.log.append("open")

    async def close(self) -> None:
        self.log.append("close")

    @tool
    def add(self, number: int) -> dict[str, int]:
        """Add a number."""
        self.total += number
        return {"total": self.total}

    @tool
    def shout(self) -> str:
        """Say something."""
        return "HEY"

    @tool
    def crash(self) -> str:
        """Fail."""
        raise RuntimeError("no")

    def verify(self, trajectory: Trajectory) -> Reward:
        return Reward(value=float(self.total), metrics={"calls": len(trajectory.calls())})


def episode(*numbers: int) -> dict[str, Any]:
    """Return the response of an episode that adds numbers, one a turn."""
    output: list[dict[str, Any]] = []
    for index, number in enumerate(numbers):
        output.append(function_call("add", f'{{"number": {number}}}', f"c{index}"))
        output.append(function_call_output(f"c{index}", "{}"))
    return {"id": "resp_1", "created_at": 1.5, "object": "response", "output": [*output, message("done")]}


async def test_the_tools_of_a_session_share_its_state_until_it_is_verified(composed: Composed, wire: Serving) -> None:
    """
    Seed, two tools, verify: the order in which every client of the protocol does it.
    """

    class World(Counter):
        pass

    async with wire(composed({"a": (World, 1)}, Says)) as served:
        row = served.rows()[0]
        seeded = await served.post("/seed_session", row)
        first = await served.post("/add", {"number": 4})
        second = await served.post("/add", {"number": 5})
        scored = await served.post("/verify", {**row, "response": episode(4, 5)})

    assert (seeded.status_code, seeded.json()) == (200, {})
    assert (first.json(), second.json()) == ({"total": 4}, {"total": 9})
    assert scored.json()["reward"] == 9.0
    assert scored.json()["calls"] == 2
    assert scored.json()["response"] == episode(4, 5)
    assert scored.json()["responses_create_params"] == row["responses_create_params"]
    assert World.log == ["open", "close"]


async def test_every_answer_names_the_session_again_and_never_otherwise(composed: Composed, wire: Serving) -> None:
    """
    Some clients replace their cookies by those of each answer, others keep the first: both find their session.
    """

    class World(Counter):
        pass

    async with wire(composed({"a": (World, 1)}, Says)) as served:
        replies = [await served.post("/seed_session", served.rows()[0])]
        replies += [await served.post("/add", {"number": 1}), await served.post("/shout", {})]
        replies.append(await served.post("/verify", {**served.rows()[0], "response": episode(1)}))

    names = {reply.headers["set-cookie"] for reply in replies}
    assert len(names) == 1
    assert "HttpOnly" in names.pop()


async def test_an_error_names_the_session_again(composed: Composed, wire: Serving) -> None:
    """
    NeMo Gym's agent replaces its cookies by those of errors, too: a session that failed must not lose its failure.
    """

    class World(Counter):
        async def reply(self, turn: Turn) -> str | None:
            raise RuntimeError("no")

    async with wire(composed({"a": (World, 2)}, Says), body_bytes=2**20) as served:
        row, other = served.rows()
        jar = dict((await served.post("/seed_session", row)).cookies)
        served.client.cookies.jar.set_policy(_NoCookies())
        statuses = []
        for path, body in (
            ("/verify", {**other, "response": episode(1)}),
            ("/verify", {**row, "response": {}}),
            ("/add", {"number": "1" * 2**20}),
            ("/crash", {}),
            ("/add", {"number": 1}),
            ("/verify", {**row, "response": episode(1)}),
            ("/close_session", {}),
            ("/verify", {**row, "response": episode(1)}),
        ):
            cookies = "; ".join(f"{name}={value}" for name, value in jar.items())
            reply = await served.post(path, body, headers={"cookie": cookies})
            jar = dict(reply.cookies)
            statuses.append(reply.status_code)
            assert "reward" not in reply.json()

    assert statuses == [409, 422, 413, 500, 500, 500, 200, 410]
    assert list(jar) == [COOKIE]


async def test_sessions_do_not_mix(composed: Composed, wire: Serving) -> None:
    """
    A hundred at once, each with a sum of its own; `tests/benchmarks/serving.py` does it with a thousand and a port.
    """

    class World(Counter):
        pass

    async def play(served: Any, number: int) -> float:
        row = served.rows()[0]
        seeded = await served.client.post("/seed_session", json=row)
        cookies = {"cookie": seeded.headers["set-cookie"].partition(";")[0]}
        for _ in range(3):
            await served.post("/add", {"number": number}, headers=cookies)
            await asyncio.sleep(0)
        scored = await served.post("/verify", {**row, "response": episode(number)}, headers=cookies)
        reward: float = scored.json()["reward"]
        return reward

    async with wire(composed({"a": (World, 1)}, Says)) as served:
        served.client.cookies.jar.set_policy(_NoCookies())
        rewards = await asyncio.gather(*[play(served, number) for number in range(100)])

    assert rewards == [3.0 * number for number in range(100)]


@pytest.mark.rig
def test_a_thousand_sessions_do_not_mix(tmp_path: Path) -> None:
    """
    Twenty calls of each, on a port, all at once: the benchmark compares every sum.
    """
    benchmark = Path(__file__).parents[1] / "benchmarks/serving.py"
    command = [sys.executable, str(benchmark), "--soak", "0", "--sessions", "1000"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)

    assert done.returncode == 0, done.stderr
    assert "1,000 of 1,000 kept their own state, 20,000 calls" in done.stdout


async def test_what_a_model_did_wrong_is_a_tool_output_and_no_error(composed: Composed, wire: Serving) -> None:
    """
    Wrong arguments and unknown tools are told in the text, with status 200, as in a run.
    """

    class World(Counter):
        pass

    async with wire(composed({"a": (World, 1)}, Says)) as served:
        await served.post("/seed_session", served.rows()[0])
        wrong = await served.post("/add", {"number": "x"})
        unknown = await served.post("/multiply", {"number": 1})
        garbled = await served.client.post("/add", content=b"{nope")
        plain = await served.post("/shout", {})

    assert [reply.status_code for reply in (wrong, unknown, garbled, plain)] == [200] * 4
    assert "number" in wrong.json()["error"]
    assert "add, shout" in unknown.json()["error"]
    assert "invalid arguments" in garbled.json()["error"]
    assert plain.text == "HEY"


async def test_a_tools_text_that_cannot_be_encoded_is_answered(composed: Composed, wire: Serving) -> None:
    """
    A lone surrogate becomes a question mark, as in a rollout that is played here.
    """

    class World(Counter):
        @tool
        def cut(self) -> str:
            """Return half a character."""
            return "half \ud83d."

    async with wire(composed({"a": (World, 1)}, Says)) as served:
        await served.post("/seed_session", served.rows()[0])
        reply = await served.post("/cut", {})

    assert (reply.status_code, reply.text) == (200, "half ?.")


async def test_a_tool_that_crashes_ends_its_session_without_a_reward(composed: Composed, wire: Serving) -> None:
    """
    The failure is told at once, and again to whoever wants it scored; the environment is closed.
    """

    class World(Counter):
        pass

    async with wire(composed({"a": (World, 1)}, Says)) as served:
        await served.post("/seed_session", served.rows()[0])
        crashed = await served.post("/crash", {})
        scored = await served.post("/verify", {**served.rows()[0], "response": episode(1)})

    assert crashed.status_code == scored.status_code == 500
    assert "RuntimeError: no" in crashed.json()["error"]["message"]
    assert "reward" not in scored.json()
    assert World.log == ["open", "close"]


async def test_after_a_failure_in_a_session_another_session_is_named(composed: Composed, wire: Serving) -> None:
    """
    The same request gives the same for ever there; where no session is left to its client, it may be asked again.
    """

    class World(Counter):
        is_full = False

        async def open(self) -> None:
            await super().open()
            if self.is_full:
                raise OSError("no room")

        @tool
        def unplug(self) -> str:
            """Fail, but perhaps not always."""
            raise OSError("gone")

        def verify(self, trajectory: Trajectory) -> Reward:
            raise OSError("gone")

    async with wire(composed({"a": (World, 1)}, Says)) as served:
        row = served.rows()[0]
        scoring = {**row, "response": episode(1)}
        alone = [await served.post("/verify", scoring)]
        await served.post("/seed_session", row)
        inside = [
            await served.post("/unplug", {}),
            await served.post("/unplug", {}),
            await served.post("/verify", scoring),
        ]
        await served.post("/seed_session", row)
        inside += [await served.post("/verify", scoring), await served.post("/verify", scoring)]
        served.client.cookies.clear()
        World.is_full = True
        alone.append(await served.post("/seed_session", row))

    told = [reply.json()["error"] for reply in inside]
    assert [(error["hints"], error["retryable"]) for error in told] == [(["try: /seed_session, for another"], True)] * 5
    assert [reply.json()["error"]["hints"] for reply in alone] == [["try: the same request again"]] * 2


@pytest.mark.parametrize(("given", "told"), [({}, "there is no `response`"), ({"response": "hi"}, "`response`: ")])
async def test_scoring_nothing_is_told_so(composed: Composed, wire: Serving, given: dict[str, Any], told: str) -> None:
    """
    What is missing is not what is wrong.
    """

    class World(Counter):
        pass

    async with wire(composed({"a": (World, 1)}, Says)) as served:
        await served.post("/seed_session", served.rows()[0])
        reply = await served.post("/verify", {**served.rows()[0], **given})
        step = await served.post("/step", given)

    assert (reply.status_code, step.status_code) == (422, 422)
    assert reply.json()["error"]["message"].startswith(told)
    assert step.json()["error"]["message"].startswith(told)


async def test_scoring_twice_scores_once(composed: Composed, wire: Serving) -> None:
    """
    A client whose answer was lost asks again, and gets the same reward.
    """
    verified = []

    class World(Counter):
        def verify(self, trajectory: Trajectory) -> float:
            verified.append(1)
            return 0.25

    async with wire(composed({"a": (World, 1)}, Says)) as served:
        await served.post("/seed_session", served.rows()[0])
        body = {**served.rows()[0], "response": episode(1)}
        replies = await asyncio.gather(served.post("/verify", body), served.post("/verify", body))
        replies.append(await served.post("/verify", body))

    assert [reply.json()["reward"] for reply in replies] == [0.25] * 3
    assert verified == [1]


async def test_without_a_session_what_was_done_is_done_again_and_scored(composed: Composed, wire: Serving) -> None:
    """
    Whoever brings only the episode gets the reward of what it shows, also where the state decides.
    """

    class World(Counter):
        pass

    async with wire(composed({"a": (World, 1)}, Says)) as served:
        scored = await served.post("/verify", {**served.rows()[0], "response": episode(2, 3)})

    assert scored.json()["reward"] == 5.0
    assert World.log == ["open", "close"]


async def test_a_session_is_not_idle_while_a_body_for_it_comes(composed: Composed, wire: Serving) -> None:
    """
    That may take longer than a session may be idle.
    """

    class World(Counter):
        pass

    async with wire(composed({"a": (World, 1)}, Says)) as served:
        row = served.rows()[0]
        seed = await served.post("/seed_session", row)
        _, session = served.served.sessions.find(seed.cookies)
        body = json.dumps({**row, "response": episode(1)}).encode()

        async def slowly() -> AsyncIterator[bytes]:
            yield body[:100]
            session.heard -= 100_000
            await asyncio.sleep(2 * SWEEP_S)  # until it was looked for those that are idle
            yield body[100:]

        reply = await served.client.post("/verify", content=slowly())

    assert reply.status_code == 200, reply.text


async def test_an_idle_session_is_closed_and_its_client_told(composed: Composed, wire: Serving) -> None:
    """
    A client that never comes back leaves nothing open.
    """

    class World(Counter):
        pass

    async with wire(composed({"a": (World, 1)}, Says), idle_s=0.2) as served:
        await served.post("/seed_session", served.rows()[0])
        await until(lambda: World.log == ["open", "close"])
        late = await served.post("/add", {"number": 1})

    assert World.log == ["open", "close"]
    assert late.status_code == 410
    assert "nothing was heard of it for 0.2 s" in late.text
    assert "seed_session" in late.text


async def test_a_session_that_its_client_closed_is_told_to_be(composed: Composed, wire: Serving) -> None:
    """
    And not to have been idle; one that this server never opened is told so.
    """

    class World(Counter):
        pass

    async with wire(composed({"a": (World, 1)}, Says)) as served:
        await served.post("/seed_session", served.rows()[0])
        await served.post("/close_session", {})
        closed = await served.post("/add", {"number": 1})
        foreign = await served.post("/add", {"number": 1}, headers={"cookie": f"{COOKIE}=x.y"})

    assert closed.status_code == foreign.status_code == 410
    assert "its client closed it" in closed.json()["error"]["message"]
    assert "another server opened it" in foreign.json()["error"]["message"]


async def test_stopping_closes_every_session(composed: Composed, wire: Serving) -> None:
    """
    Whatever clients have left open is closed with the server.
    """

    class World(Counter):
        pass

    async with wire(composed({"a": (World, 1)}, Says)) as served:
        served.client.cookies.jar.set_policy(_NoCookies())
        for _ in range(5):
            await served.post("/seed_session", served.rows()[0])
        assert World.log == ["open"] * 5

    assert World.log == ["open"] * 5 + ["close"] * 5


async def test_a_session_that_a_stop_has_closed_was_not_over_long_ago(composed: Composed, wire: Serving) -> None:
    """
    Its client is told that the server stops, and not that it has come late.
    """

    class World(Counter):
        pass

    async with wire(composed({"a": (World, 1)}, Says)) as served:
        await served.post("/seed_session", served.rows()[0])
        await served.served.sessions.aclose()
        reply = await served.post("/verify", {**served.rows()[0], "response": episode(1)})

    assert reply.status_code == 410
    assert reply.json()["error"]["message"] == "the session is closed: the server is stopping"


async def test_seeding_again_closes_the_session_of_before(composed: Composed, wire: Serving) -> None:
    """
    A client that keeps its cookies and begins another row leaves nothing behind.
    """

    class World(Counter):
        pass

    async with wire(composed({"a": (World, 1)}, Says)) as served:
        await served.post("/seed_session", served.rows()[0])
        await served.post("/seed_session", served.rows()[0])
        assert World.log == ["open", "close", "open"]
        assert (await served.post("/close_session", {})).status_code == 200
        assert World.log == ["open", "close", "open", "close"]


@pytest.mark.parametrize("forged", ["x", "x.y", "é", "a" * 5000, ""])
async def test_a_forged_cookie_opens_nothing(composed: Composed, wire: Serving, forged: str) -> None:
    """
    A name that this server has not signed is nobody's session.
    """

    class World(Counter):
        pass

    async with wire(composed({"a": (World, 1)}, Says)) as served:
        headers = {"cookie": f"{COOKIE}={forged}".encode()}
        reply = await served.post("/add", {"number": 1}, headers=headers)

    assert reply.status_code in (404, 410)


async def test_an_environment_that_cannot_be_opened_is_a_failure(composed: Composed, wire: Serving) -> None:
    """
    Seeding fails with the reason, and no session stays.
    """

    class World(Counter):
        async def open(self) -> None:
            raise OSError("no room")

    async with wire(composed({"a": (World, 1)}, Says)) as served:
        reply = await served.post("/seed_session", served.rows()[0])
        ready = await served.client.get("/ready")

    assert reply.status_code == 500
    assert "no room" in reply.text
    assert ready.json()["sessions"] == 0


async def test_in_a_session_the_agent_plays_its_whole_episode(composed: Composed, wire: Serving) -> None:
    """
    Where `model` names it; else one reply is asked for, whatever cookie is sent: agents send theirs to their model.
    """

    class World(Counter):
        async def reply(self, turn: Turn) -> str | None:
            return "and?" if turn.text == "seen 1" else None

    async with wire(composed({"a": (World, 1), "b": (World, 1)}, Says)) as served:
        row = served.rows()[0]
        params = row["responses_create_params"]
        alone = await served.post("/v1/responses", params)
        without = await served.post("/v1/responses", {**params, "model": "a_agent"})
        await served.post("/seed_session", row)
        asked = await served.post("/v1/responses", params)
        named = await served.post("/v1/responses", {**params, "model": "policy"})
        other = await served.post("/v1/responses", {**params, "model": "b_agent"})
        played = await served.post("/v1/responses", {**params, "model": "a_agent"})
        scored = await served.post("/verify", {**row, "response": played.json()})
        late = await served.post("/v1/responses", params)

    for reply in (alone, asked, named, late):
        assert [item["role"] for item in reply.json()["output"]] == ["assistant"]
    assert (without.status_code, other.status_code) == (404, 409)
    assert [item["role"] for item in played.json()["output"]] == ["assistant", "user", "assistant"]
    assert scored.json()["reward"] == 0.0


async def test_an_agent_asks_its_model_with_whatever_cookie(composed: Composed, wire: Serving) -> None:
    """
    Also with that of a session that is over, or of another server.
    """
    async with wire(composed({"a": (Counter, 1)}, Says)) as served:
        reply = await served.post("/v1/responses", {"input": "x"}, headers={"cookie": f"{COOKIE}=another"})

    assert [item["role"] for item in reply.json()["output"]] == ["assistant"]


class _NoCookies:
    """A policy of a cookie jar that keeps and sends nothing: each request names its own session."""

    rfc2965 = hide_cookie2 = netscape = False

    def set_ok(self, cookie: Any, request: Any) -> bool:
        return False

    def return_ok(self, cookie: Any, request: Any) -> bool:
        return False

    def domain_return_ok(self, domain: str, request: Any) -> bool:
        return False

    def path_return_ok(self, path: str, request: Any) -> bool:
        return False


async def test_a_session_that_was_scored_takes_nobodys_place(composed: Composed, wire: Serving) -> None:
    """
    Two may be open, and any number may have been.
    """

    class World(Counter):
        pass

    async with wire(composed({"a": (World, 1)}, Says), most_sessions=2) as served:
        served.client.cookies.jar.set_policy(_NoCookies())
        body = {**served.rows()[0], "response": episode(1)}
        for _ in range(5):
            assert (await served.post("/verify", body)).json()["reward"] == 1.0
        for _ in range(5):
            seeded = await served.post("/seed_session", served.rows()[0])
            cookie = {"cookie": seeded.headers["set-cookie"].partition(";")[0]}
            assert (await served.post("/verify", body, headers=cookie)).status_code == 200
        opened = [(await served.post("/seed_session", served.rows()[0])).status_code for _ in range(3)]
        ready = (await served.client.get("/ready")).json()

    assert opened == [200, 200, 503]
    assert ready["sessions"] == 2


async def test_what_hangs_in_a_session_meets_the_bound_on_rollouts(composed: Composed, wire: Serving) -> None:
    """
    Opening, answering a turn, and a whole episode of the agent: 504, and the environment is closed.
    """

    class World(Counter):
        async def open(self) -> None:
            await super().open()
            if self.task.task_id == "a/1":
                await asyncio.Event().wait()

        async def reply(self, turn: Turn) -> str | None:
            await asyncio.Event().wait()
            return None

    composition = composed({"a": (World, 2)}, Says, collect={"timeout_s": 1.0})
    async with wire(composition) as served:
        served.client.cookies.jar.set_policy(_NoCookies())
        fine, hanging = served.rows()
        seeded = [await served.post(path, fine) for path in ("/reset", "/seed_session")]
        stepping, playing = ({"cookie": reply.headers["set-cookie"].partition(";")[0]} for reply in seeded)
        asked = {**fine["responses_create_params"], "model": "a_agent"}
        replies = await asyncio.gather(  # what hangs takes as long as it may, and all of it at once
            served.post("/seed_session", hanging),
            served.post("/step", {"response": {"output": [message("hi")]}}, headers=stepping),
            served.post("/v1/responses", asked, headers=playing),
        )
        await until(lambda: World.log.count("close") == 3)

    assert [reply.status_code for reply in replies] == [504, 504, 504]
    assert World.log.count("open") == World.log.count("close") == 3


async def test_a_tool_and_a_verifier_that_take_too_long_are_told_so(composed: Composed, wire: Serving) -> None:
    """
    With 504, in a session and in `/run`: another time they may be faster.
    """

    class World(Environment):
        @tool
        async def hang(self) -> str:
            """Take for ever."""
            await asyncio.Event().wait()
            return ""

        async def verify(self, trajectory: Trajectory) -> float:  # type: ignore[override]
            await asyncio.Event().wait()
            return 1.0

    own = {"a": {"verify_timeout_s": 0.1}}
    composition = composed({"a": (World, 1)}, Says, environments=own, collect={"tool_timeout_s": 0.1})
    async with wire(composition) as served:
        row = served.rows()[0]
        await served.post("/seed_session", row)
        replies = [await served.post("/hang", {})]
        await served.post("/seed_session", row)
        replies.append(await served.post("/verify", {**row, "response": {"output": [message("hi")]}}))
        replies.append(await served.post("/run", row))

    told = [(reply.status_code, reply.json()["error"]["stage"], reply.json()["error"]["type"]) for reply in replies]
    assert told == [(504, stage, "TimeoutError") for stage in ("tool", "verify", "verify")]
    assert all(reply.json()["error"]["retryable"] for reply in replies)
    assert "(collect.tool_timeout_s)" in replies[0].text
    assert all("(environments.a.verify_timeout_s)" in reply.text for reply in replies[1:])


async def test_a_row_of_another_session_is_not_scored_with_this_one(composed: Composed, wire: Serving) -> None:
    """
    Nor is another episode after the first: no reward stands beside what it was not given for.
    """

    class World(Counter):
        pass

    async with wire(composed({"a": (World, 2), "b": (World, 1)}, Says)) as served:
        first, second, other = sorted(served.rows(), key=lambda row: row["task_id"])
        await served.post("/seed_session", first)
        wrong_world = await served.post("/verify", {**other, "response": episode(1)})
        wrong_task = await served.post("/verify", {**second, "response": episode(1)})
        right = await served.post("/verify", {**first, "response": episode(1)})
        again = await served.post("/verify", {**first, "response": episode(2)})

    assert [reply.status_code for reply in (wrong_world, wrong_task, right, again)] == [409, 409, 200, 409]
    assert right.json()["task_id"] == "a/0"


async def test_without_a_task_id_a_rows_own_keys_tell_whose_session_it_is(composed: Composed, wire: Serving) -> None:
    """
    Another task is refused; what an agent has changed of the question, added, or left out is not.
    """

    class World(Counter):
        pass

    async with wire(composed({"a": (World, 1)}, Says)) as served:
        asked = {"responses_create_params": {"input": "how many?"}, "_ng_task_index": 1}
        first = {**asked, "of": {"what": ["pears", 1]}, "size": None}
        await served.post("/seed_session", first)
        other = {**first, "of": {"what": ["apples", 1]}}
        wrong = await served.post("/verify", {**other, "response": episode(1)})
        nameless = await served.post("/verify", {**other, "task_id": "a/0", "response": episode(1)})
        changed = {**first, "responses_create_params": {"input": "So: how many?"}, "_ng_task_index": 2, "size": 3}
        right = await served.post("/verify", {**changed, "added": 1, "reward": 0.5, "response": episode(1)})

    assert [reply.status_code for reply in (wrong, nameless, right)] == [409, 409, 200]


async def test_closing_while_it_is_scored_is_told_and_breaks_nothing(composed: Composed, wire: Serving) -> None:
    """
    Whoever waits for the reward hears that the session is over.
    """

    class World(Counter):
        async def verify(self, trajectory: Trajectory) -> float:
            begun.set()
            await asyncio.Event().wait()
            return 1.0

    begun = asyncio.Event()
    async with wire(composed({"a": (World, 1)}, Says)) as served:
        row = served.rows()[0]
        await served.post("/seed_session", row)
        scoring = asyncio.create_task(served.post("/verify", {**row, "response": episode(1)}))
        await begun.wait()
        await served.post("/close_session", {})
        reply = await scoring

    assert reply.status_code == 410
    assert World.log == ["open", "close"]


async def test_nothing_is_opened_while_the_server_stops(composed: Composed, wire: Serving) -> None:
    """
    Neither for a session nor for an episode that is to be scored.
    """

    class World(Counter):
        pass

    async with wire(composed({"a": (World, 1)}, Says)) as served:
        served.served.on_demand.stop()
        row = served.rows()[0]
        replies = [
            await served.post("/seed_session", row),
            await served.post("/verify", {**row, "response": episode(1)}),
        ]

    assert [reply.status_code for reply in replies] == [503, 503]
    assert World.log == []


# -- the Gymnasium flavour --------------------------------------------------------------------------------------------


async def test_a_turn_at_a_time_comes_to_the_same_reward(composed: Composed, wire: Serving) -> None:
    """
    Reset, steps with and without calls, and the reward with the last.
    """

    class World(Counter):
        async def reply(self, turn: Turn) -> str | None:
            return "more?" if turn.text == "half" else None

    async with wire(composed({"a": (World, 1)}, Says)) as served:
        begun = await served.post("/reset", served.rows()[0])
        steps = []
        for output in (
            [function_call("add", '{"number": 4}', "c1"), function_call("add", '{"number": 5}', "c2")],
            [message("half")],
            [message("done")],
        ):
            steps.append((await served.post("/step", {**served.rows()[0], "response": {"output": output}})).json())

    assert begun.json() == {"observation": None, "info": {}}
    assert steps[0]["observation"] is None
    outputs = [{"call_id": "c1", "output": '{"total":4}'}, {"call_id": "c2", "output": '{"total":9}'}]
    assert steps[0]["info"] == {"tool_outputs": outputs}
    assert steps[1] == {"observation": "more?", "reward": 0.0, "terminated": False, "truncated": False, "info": {}}
    assert steps[2] == {
        "observation": None,
        "reward": 9.0,
        "terminated": True,
        "truncated": False,
        "info": {"calls": 2},
    }
    assert World.log == ["open", "close"]


@pytest.mark.parametrize("shown", [["Your hand: 7."], ["A game.", "Your hand: 7."], []])
async def test_what_is_shown_before_the_first_turn_is_told_by_the_reset(
    composed: Composed, wire: Serving, shown: list[str]
) -> None:
    """
    Only what the row does not ask itself, as one text.
    """

    class World(Counter):
        async def open(self) -> None:
            await super().open()
            params = self.task.responses_create_params
            longer = [*params.request().input, *(message(text, role="user") for text in shown)]
            self.task = self.task.model_copy(
                update={"responses_create_params": params.model_copy(update={"input": longer})}
            )

    async with wire(composed({"a": (World, 1)}, Says)) as served:
        begun = await served.post("/reset", served.rows()[0])

    assert begun.json() == {"observation": "\n".join(shown) or None, "info": {}}


async def test_a_prompt_that_the_environment_writes_anew_is_no_observation(composed: Composed, wire: Serving) -> None:
    """
    It does not come after that of the row, which whoever resets asks.
    """

    class World(Counter):
        async def open(self) -> None:
            await super().open()
            params = self.task.responses_create_params.model_copy(update={"input": "Another question."})
            self.task = self.task.model_copy(update={"responses_create_params": params})

    async with wire(composed({"a": (World, 1)}, Says)) as served:
        begun = await served.post("/reset", served.rows()[0])

    assert begun.json() == {"observation": None, "info": {}}


async def test_the_last_step_asked_again_gets_the_same(composed: Composed, wire: Serving) -> None:
    """
    Also while it is being scored; a client whose connection broke loses no reward, and another response gets none.
    """
    begun = asyncio.Event()

    class World(Counter):
        async def verify(self, trajectory: Trajectory) -> Reward:  # type: ignore[override]
            begun.set()
            await asyncio.sleep(0.05)
            return Reward(value=float(self.total), metrics={"calls": len(trajectory.calls())})

    async with wire(composed({"a": (World, 1)}, Says)) as served:
        await served.post("/reset", served.rows()[0])
        await served.post("/step", {"response": {"output": [function_call("add", '{"number": 2}', "c1")]}})
        last = {"response": {"output": [message("done")], "status": "completed"}}
        first = asyncio.create_task(served.post("/step", last))
        await begun.wait()
        again = await served.post("/step", last)
        later = await served.post("/step", last)
        other = await served.post("/step", {"response": {"output": [message("no")]}})
        reply = await first
        lines = served.lines()

    assert reply.json()["reward"] == 2.0
    assert reply.json()["terminated"] is True
    assert again.json() == later.json() == reply.json()
    assert (other.status_code, other.json()["error"]["hints"]) == (409, ["try: /seed_session, for another"])
    assert len(lines) == 1


async def test_a_turn_that_was_cut_off_ends_the_episode(composed: Composed, wire: Serving) -> None:
    """
    It is scored as it is, and said to be truncated.
    """

    class World(Counter):
        async def reply(self, turn: Turn) -> str | None:
            return "never asked"

    async with wire(composed({"a": (World, 1)}, Says)) as served:
        await served.post("/reset", served.rows()[0])
        cut = {"status": "incomplete", "output": [message("I was abo")]}
        step = (await served.post("/step", {"response": cut})).json()

    assert (step["terminated"], step["truncated"], step["reward"]) == (False, True, 0.0)


async def test_a_step_without_a_session_is_told_so(composed: Composed, wire: Serving) -> None:
    """
    And what to do first.
    """

    class World(Counter):
        pass

    async with wire(composed({"a": (World, 1)}, Says)) as served:
        reply = await served.post("/step", {"response": {"output": []}})

    assert reply.status_code == 404
    assert "seed_session" in reply.text
