"""
The environment `remote` against servers that behave, and against servers that do not.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
import tracemalloc
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from gym_plugin_nemo_gym.remote.environment import Remote, RemoteConfig
from gym_plugin_nemo_gym.served import row_for_server
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gymcore import EndpointError, Rollout, ToolCall
from gymcore.testing import ScriptedModel, calls, play, says
from gymcore.testing.replies import Reply

from .conftest import Answer, Heard, Server

Serving = Callable[..., Server]

PATIENT: dict[str, Any] = {"connect_timeout_s": 60.0, "request_timeout_s": 60.0, "retries": 2}
PARAMETERS = {"type": "object", "properties": {"n": {"type": "integer"}}}
TOOLS = [{"type": "function", "name": name, "parameters": PARAMETERS} for name in ("add", "look up")]
ROW = {"responses_create_params": {"input": "Add.", "tools": TOOLS[:1]}, "id": 7}
ADDS = (calls("add", n=1), says("Done."))
GYMCORE = {"set-cookie": "gymcore_session=s1; Path=/"}
UNKNOWN = "whether it was done is not known"


def _json(value: Any, status: int = 200, **headers: str) -> Answer:
    return Answer(json.dumps(value).encode(), status, {name.replace("_", "-"): text for name, text in headers.items()})


class Adder:
    """
    A server that adds; `instead` says what it answers to some calls, by path, once for each time that it is asked.
    """

    def __init__(self, **instead: Any) -> None:
        self.total = 0
        self.instead = {name: list(told) if isinstance(told, list) else told for name, told in instead.items()}

    def __call__(self, heard: Heard) -> Answer:
        told = self.instead.get(heard.path.strip("/") or "first")
        if isinstance(told, list):
            told = told.pop(0) if told else None
        if told is not None:
            return told
        if heard.path == "/verify":
            return _json({**heard.body, "reward": float(self.total), "calls": 1, "is_right": True})
        if heard.path == "/seed_session":
            return _json({}, set_cookie="session=1; Path=/")
        self.total += (heard.body or {}).get("n", 0)
        return _json({"total": self.total})


def _play(server: Server, *replies: Reply, row: Any = None, limit_s: float = 60.0, **config: Any) -> Rollout:
    options = RemoteConfig(**{"url": server.url, **PATIENT, **config})
    model = ScriptedModel(*(replies or ADDS))
    return play(Remote, row or ROW, model, config=options, tool_timeout_s=limit_s)


def _limit_s(answer: Answer) -> float:
    """Return how long an answer is waited for: not long where none comes in time."""
    return 1.5 if answer.sends == "nothing" or answer.delay_s else 60.0


def _outputs(rollout: Rollout) -> list[str]:
    return [item["output"] for turn in rollout.trajectory.turns for item in turn.results]


# -- a rollout ---------------------------------------------------------------------------------------------------------


def test_a_rollout_is_seeded_played_and_verified_over_there(serving: Serving) -> None:
    """
    The row, the arguments and the whole episode go there; the reward and every further number come back.
    """
    server = serving(Adder())

    rollout = _play(server)

    assert server.paths() == ["/seed_session", "/add", "/verify"]
    seeded, added, verified = server.heard[1:]
    assert seeded.body == ROW
    assert added.body == {"n": 1}
    assert {key: verified.body[key] for key in ROW} == ROW
    kinds = [item["type"] for item in verified.body["response"]["output"]]
    assert kinds == ["function_call", "function_call_output", "message"]
    assert verified.body["response"]["object"] == "response"
    assert _outputs(rollout) == ['{"total": 1}']
    assert rollout.reward is not None
    assert rollout.reward.value == 1.0
    assert rollout.reward.metrics == {"calls": 1, "is_right": True}
    server.wait_until_closed()


def test_a_row_is_sent_with_the_route_that_it_had() -> None:
    """
    Ours means nothing there; `agent` replaces theirs for all rows, with the environment that belongs to it.
    """
    theirs = {"agent_ref": {"name": "adder_agent"}, "environment": "adder", "task_id": "adder/1"}
    reference = {"name": "remote_simple_agent", "served_as": theirs}
    row = {**ROW, "agent_ref": reference, "environment": "remote", "task_id": "adder/1", "epoch": 2}
    other = {"type": "responses_api_agents", "name": "other_agent"}
    of_an_author = {**row, "agent_ref": {**reference, "served_as": {"environment": "python"}}}

    assert row_for_server(row) == {**ROW, **theirs}
    assert row_for_server(row, "other_agent") == {**ROW, "agent_ref": other, "task_id": "adder/1"}
    assert row_for_server(of_an_author, "other_agent") == {**ROW, "agent_ref": other, "environment": "python"}
    assert row_for_server({**row, "agent_ref": {"name": "remote_simple_agent"}}) == ROW


def test_every_rollout_has_cookies_of_its_own(serving: Serving) -> None:
    """
    What a reply sets replaces what was there, and nothing of one rollout is seen in another.
    """
    numbers = itertools.count()

    def behave(heard: Heard) -> Answer:
        fresh = f"s={next(numbers)}; Path=/; HttpOnly"
        if heard.path == "/verify":
            return _json({"reward": 1.0})
        return _json({}, set_cookie=fresh)

    server = serving(behave)
    for _ in range(2):
        _play(server)

    assert [heard.headers.get("cookie") for heard in server.heard if heard.path != "/"] == [
        None,
        "s=1",
        "s=2",
        None,
        "s=5",
        "s=6",
    ]


def test_a_rollout_has_one_connection(serving: Serving) -> None:
    """
    Of its own, and closed with it; one more looks at first whether anybody is there.
    """
    server = serving(Adder())

    _play(server, *(calls("add", n=n) for n in range(5)), says("Done."))

    assert server.opened == 2
    server.wait_until_closed()


def test_a_cookie_that_is_none_changes_nothing(serving: Serving) -> None:
    """
    Whatever stands in its place.
    """
    server = serving(Adder(add=[_json({}, set_cookie="rubbish"), _json({}, set_cookie="=x; a=b")]))

    rollout = _play(server, calls("add", n=1), calls("add", n=2), says("Done."))

    assert rollout.reward is not None
    assert {heard.headers["cookie"] for heard in server.heard[2:]} == {"session=1"}


def test_calls_of_one_turn_go_out_one_after_the_other(serving: Serving) -> None:
    """
    In their order: a server may keep its state in the cookies.
    """
    server = serving(lambda heard: _json({"reward": 1}) if heard.path == "/verify" else Answer(delay_s=0.02))

    rollout = _play(server, sum((calls("add", n=n) for n in range(1, 6)), calls("add", n=0)), says("Done."))

    assert [heard.body["n"] for heard in server.tools] == [0, 1, 2, 3, 4, 5]
    assert rollout.failure is None


def test_a_token_is_sent_and_a_wrong_one_ends_the_run(serving: Serving) -> None:
    """
    Before anything is played.
    """

    def behave(heard: Heard) -> Answer:
        is_known = heard.headers.get("authorization") == "Bearer sesame"
        return Adder()(heard) if is_known else _json({}, 401)

    server = serving(behave)
    assert _play(server, token="sesame").failure is None
    with pytest.raises(EndpointError, match="asks for a token, or for another one"):
        _play(server, token="other")
    assert server.paths().count("/seed_session") == 1


def test_a_session_of_gymcore_is_closed_in_the_end(serving: Serving) -> None:
    """
    Scored or not; other servers have no such call.
    """
    scored = serving(Adder(seed_session=Answer(headers=GYMCORE)))
    failed = serving(Adder(seed_session=Answer(headers=GYMCORE), add=Answer(sends="end")))
    other = serving(Adder())

    for server in (scored, failed, other):
        _play(server)

    assert scored.paths() == ["/seed_session", "/add", "/verify", "/close_session"]
    assert failed.paths() == ["/seed_session", "/add", "/close_session"]
    assert other.paths() == ["/seed_session", "/add", "/verify"]


# -- what a model may ask for ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["verify", "seed_session", "close_session", "run", "..", "../verify", "add/../verify", "", "sub", "a" * 999]
)
def test_only_the_tools_of_the_row_can_be_called(serving: Serving, name: str) -> None:
    """
    Nothing else of the server is in reach of a model.
    """
    server = serving(Adder())

    rollout = _play(server, Reply((ToolCall(name, '{"n":1}'),)), says("Done."))

    assert server.paths() == ["/seed_session", "/verify"]
    assert "there is no tool" in _outputs(rollout)[0]
    assert "the tools are: add" in _outputs(rollout)[0]


@pytest.mark.parametrize("name", ["verify", "seed_session", "a/b", "..", "look up"])
def test_a_row_cannot_offer_a_call_of_the_protocol_as_a_tool(name: str) -> None:
    """
    It is refused when it is composed.
    """
    row = {"responses_create_params": {"input": "Add.", "tools": [{"type": "function", "name": name}]}}

    with pytest.raises(ValueError, match="no tool can be called"):
        Remote.task_model.model_validate(row)


def test_where_rows_say_nothing_of_tools_the_server_knows_them(serving: Serving) -> None:
    """
    The plan may offer them with `params.tools`.
    """
    server = serving(Adder(other=Answer(b"Not Found", 404)))

    rollout = _play(
        server,
        calls("add", n=1) + calls("other") + Reply((ToolCall("verify", "{}"),)),
        says("Done."),
        row={"responses_create_params": {"input": "Add."}},
    )

    assert server.paths() == ["/seed_session", "/add", "/other", "/verify"]
    assert _outputs(rollout)[:2] == ['{"total": 1}', "Not Found"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("{", "they are no JSON"),
        ('{"n":NaN}', "they are no JSON"),
        ("[1]", "they are no JSON object"),
        ('"\ud800"', "they are no JSON"),
        ('{"n":"' + "x" * 1_000_000 + '"}', "at most 1,000,000 are read"),
        ("[" * 5000, "they are no JSON"),
    ],
)
def test_arguments_that_are_no_object_are_not_sent(serving: Serving, arguments: str, told: str) -> None:
    """
    The model is told, as by a tool that is here.
    """
    server = serving(Adder())

    rollout = _play(server, Reply((ToolCall("add", arguments),)), says("Done."))

    assert server.tools == []
    assert f"invalid arguments for add: {told}" in _outputs(rollout)[0] or told in _outputs(rollout)[0]


def test_arguments_are_sent_as_the_model_wrote_them(serving: Serving) -> None:
    """
    None at all are an empty object.
    """
    server = serving(Adder())

    _play(server, Reply((ToolCall("add", ""),)) + Reply((ToolCall("add", '{"n": 1e0, "x": "é"}'),)), says("Done."))

    assert [heard.body for heard in server.tools] == [{}, {"n": 1.0, "x": "é"}]


# -- what a tool may answer --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "metrics"),
    [
        (200, b"", {}),
        (200, b'{"error": {"message": "odd"}}', {}),
        (200, b"\xff\x00", {}),
        (404, b'{"detail":"Not Found"}', {}),
        (409, b"taken", {}),
        (422, b'{"detail":[{"loc":["body","n"]}]}', {}),
        (500, b"Internal Server Error", {"failed_calls": 1}),
        (500, b'{"error": "the tool says so"}', {"failed_calls": 1}),
        (507, b"full", {"failed_calls": 1}),
    ],
)
def test_an_answer_is_the_output_whatever_its_status(
    serving: Serving, status: int, body: bytes, metrics: dict[str, int]
) -> None:
    """
    So the protocol has it; tools that fail are counted.
    """
    server = serving(Adder(add=Answer(body, status)))

    rollout = _play(server)

    assert _outputs(rollout) == [body.decode("utf-8", "replace")]
    assert rollout.reward is not None
    assert rollout.reward.metrics == {"calls": 1, "is_right": True, **metrics}


REFUSED = {"error": {"message": "the rollout failed (tool)", "hints": ["try: b", "or: c"], "retryable": False}}


@pytest.mark.parametrize(
    ("answer", "retryable", "told"),
    [
        (_json(REFUSED, 500), False, "status 500: the rollout failed (tool); it says: try: b"),
        (_json({"error": {"message": "it timed out", "retryable": True}}, 504), True, "it timed out"),
        (_json({"error": {"message": "the session is closed"}}, 410), True, "status 410: the session is closed"),
        (_json({"error": {"message": "tools are called in a session"}}, 404), False, "status 404"),
        (Answer(b"<html>bad gateway</html>", 502), True, "status 502: <html>bad gateway</html>"),
        (Answer(b"", 503), True, "status 503"),
        (Answer(b"slow down", 429), True, "status 429"),
        (Answer(b"", 401), False, "status 401"),
        (Answer(b"", 302, {"location": "/elsewhere"}), False, "status 302"),
        (Answer(sends="end"), True, UNKNOWN),
        (Answer(sends="reset"), True, UNKNOWN),
        (Answer(b'{"total": 1}', sends="half"), True, UNKNOWN),
        (Answer(sends="garbage"), True, UNKNOWN),
        (Answer(sends="nothing"), True, ""),
        (Answer(delay_s=3.0), True, ""),
        (Answer(sends="endless"), False, "more than 16,777,216 bytes"),
        (Answer(b"\x1f\x8b", headers={"content-encoding": "gzip"}), False, "in the coding 'gzip'"),
        (Answer(headers={"set-cookie": "s=" + "x" * 20_000}), False, "the cookies of the server"),
    ],
)
def test_what_is_no_answer_of_a_tool_fails_the_rollout(
    serving: Serving, answer: Answer, retryable: bool, told: str
) -> None:
    """
    It is never shown to the model, never sent again, and scored by nobody.
    """
    server = serving(Adder(add=answer))

    rollout = _play(server, request_timeout_s=_limit_s(answer))

    assert rollout.reward is None
    assert rollout.failure is not None
    assert rollout.failure.stage == "tool"
    assert rollout.failure.retryable is retryable
    assert told in rollout.failure.message
    assert server.paths() == ["/seed_session", "/add"]
    server.wait_until_closed()


def test_a_call_that_nobody_could_have_had_is_made_when_the_server_is_back(serving: Serving) -> None:
    """
    A refused connection has carried nothing.
    """

    def behave(heard: Heard) -> Answer:
        return adder(heard)

    adder = Adder()
    server = serving(behave)
    model = _Leaving(server, 0.2)

    rollout = play(Remote, ROW, model, config=RemoteConfig(url=server.url, **{**PATIENT, "retries": 6}))

    assert rollout.reward is not None
    assert server.paths() == ["/seed_session", "/add", "/verify"]


class _Leaving(ScriptedModel):
    """A model before whose first tool call the server is gone, and comes back after a while."""

    def __init__(self, server: Server, after_s: float) -> None:
        super().__init__(*ADDS)
        self._server = server
        self._after_s = after_s

    async def respond(self, *asked: Any) -> Any:
        if not self.requests:
            self._server.go()
            self._server.come_back(self._after_s)
        return await super().respond(*asked)


def test_retries_are_bounded(serving: Serving) -> None:
    """
    A server that stays away fails the rollout, soon.
    """
    server = serving(Adder())

    rollout = play(Remote, ROW, _Leaving(server, 60.0), config=RemoteConfig(url=server.url, **PATIENT))

    assert rollout.failure is not None
    assert (rollout.failure.stage, rollout.failure.retryable) == ("tool", True)
    assert "nobody could be asked" in rollout.failure.message


FAULTS = st.sampled_from(
    [
        Answer(b"fine"),
        Answer(b"", 500),
        Answer(b"", 503),
        Answer(b"half of it", sends="half"),
        Answer(sends="end"),
        Answer(sends="reset"),
        Answer(sends="garbage"),
        Answer(sends="nothing"),
        Answer(b"late", delay_s=0.05),
        Answer(b"too late", delay_s=0.6),
        _json(REFUSED, 500),
        Answer(b"", headers={"set-cookie": "gymcore_session=s2"}),
    ]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    faults=st.lists(FAULTS, max_size=6),
    hang_ups=st.lists(st.booleans(), min_size=6, max_size=6),
    seeds=st.sampled_from([Answer(), Answer(headers=GYMCORE)]),
    side_by_side=st.booleans(),
)
def test_no_tool_call_is_ever_sent_twice(
    serving: Serving, faults: list[Answer], hang_ups: list[bool], seeds: Answer, side_by_side: bool
) -> None:
    """
    Whatever becomes of connections and replies: each call arrives once or not at all, and everything is closed.
    """
    left = list(zip(faults, hang_ups, strict=False))

    def behave(heard: Heard) -> Answer:
        if heard.path == "/verify":
            return _json({"reward": 1.0})
        if not heard.is_tool or not left:
            return seeds
        answer, hangs_up = left.pop(0)
        server.hangs_up = int(hangs_up)
        return answer

    server = serving(behave)
    asked = [calls("add", n=n) for n in range(6)]
    script = [sum(asked[1:], asked[0])] if side_by_side else asked

    try:
        rollout = _play(server, *script, says("Done."), connect_timeout_s=1.0, request_timeout_s=0.3)
    except EndpointError:  # this machine is so busy that nobody came to the door in time
        assert server.tools == []
        return

    sent = [heard.body["n"] for heard in server.tools]
    assert len(sent) == len(set(sent))
    assert (rollout.reward is None) != (rollout.failure is None)
    if rollout.reward is not None:
        assert sent == list(range(6))
        asked_again = server.paths().count("/verify") - 1
        assert asked_again == 0 or (asked_again > 0 and seeds.headers)  # a server of gymcore that was slow, say
    server.wait_until_closed()


# -- before and after --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (Answer(b"", 500), "/seed_session was answered with status 500"),
        (_json({"error": {"message": "no agent is named 'x'"}}, 404), "no agent is named 'x'"),
        (Answer(sends="end"), UNKNOWN),
        (Answer(sends="nothing"), "was not answered within 1.5 s"),
        (_json({"mcp": {"url_path": "/mcp", "headers": {}}}), "over MCP"),
    ],
)
def test_a_session_that_cannot_be_begun_is_a_failure(serving: Serving, answer: Answer, told: str) -> None:
    """
    Of the stage `open`; nothing is played.
    """
    server = serving(Adder(seed_session=answer))

    failure = _play(server, request_timeout_s=_limit_s(answer)).failure

    assert failure is not None
    assert failure.stage == "open"
    assert told in failure.message
    assert server.paths() == ["/seed_session"]


def _scored(**told: Any) -> Answer:
    return _json({**ROW, "response": {}, **told})


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (_scored(), "without a reward"),
        (_scored(reward=None), "with the reward None"),
        (_scored(reward="1.0"), "with the reward '1.0'"),
        (_scored(reward=True), "with the reward True"),
        (_scored(reward=float("nan")), "no JSON object"),
        (_scored(reward=float("inf")), "no JSON object"),
        (_scored(reward=2**63), "with the reward 9223372036854775808"),
        (Answer(b"[1.0]"), "no JSON object"),
        (Answer(b"<html>"), "no JSON object"),
        (Answer(b'{"reward": 1.0}', 500), "status 500"),
        (Answer(b'{"reward": 1.0}', 404), "status 404"),
        (Answer(b'{"reward": 1.0}', sends="half"), UNKNOWN),
        (Answer(sends="end"), UNKNOWN),
        (Answer(sends="nothing"), "not answered within"),
    ],
)
def test_without_a_reward_there_is_none(serving: Serving, answer: Answer, told: str) -> None:
    """
    A failure is never a reward, and a server that we know nothing of is asked once.
    """
    server = serving(Adder(verify=answer))

    rollout = _play(server, request_timeout_s=_limit_s(answer))

    assert rollout.reward is None
    assert rollout.failure is not None
    assert rollout.failure.stage == "verify"
    assert told in rollout.failure.message
    assert server.paths().count("/verify") == 1


def test_a_gymcore_server_is_asked_for_its_reward_again(serving: Serving) -> None:
    """
    It verifies a session once, however often it is asked; a connection that is lost on the way costs nothing.
    """
    lost = [Answer(sends="end"), Answer(sends="reset")]
    server = serving(Adder(seed_session=Answer(headers=GYMCORE), verify=lost))

    rollout = _play(server)

    assert rollout.reward is not None
    assert server.paths() == ["/seed_session", "/add", "/verify", "/verify", "/verify", "/close_session"]


def test_numbers_of_the_row_are_no_metrics(serving: Serving) -> None:
    """
    Servers tell the row again; what measures something is what they add.
    """
    told = _scored(reward=0.5, accuracy=0.25, _ng_task_index=3, id=8, note="x", deep={"a": 1}, huge=2**63, small=-1e300)
    server = serving(Adder(verify=told))

    reward = _play(server).reward

    assert reward is not None
    metrics = {"accuracy": 0.25, "small": -1e300, "left_out": ["_ng_task_index"]}
    assert (reward.value, reward.metrics, reward.parts) == (0.5, metrics, {})


def test_what_a_server_calls_as_gymcore_does_is_kept_too(serving: Serving) -> None:
    """
    Under its own name, among the metrics or in `info`, where the row does not say it.
    """
    others = {"timing": {"a": 1}, "reward_info": [1], "provenance": "p", "stop": "s", "reward_parts": {"why": "x"}}
    told = {**others, "metrics": {"by_class": {"a": 1}, "f1": 0.5}, "repeat": 2, "epoch": 3, "turns": 7}
    row = {**ROW, "turns": 7}
    server = serving(Adder(verify=_scored(reward=1, **told)))

    reward = _play(server, row=row).reward

    assert reward is not None
    assert reward.metrics == {"f1": 0.5, "repeat": 2, "epoch": 3}
    assert reward.info == {**others, "metrics": told["metrics"]}


def test_what_a_gymcore_server_says_is_of_the_same_kind_here(serving: Serving) -> None:
    """
    What it names in `metrics` is a metric, and a number besides is none; nothing is told twice.
    """
    metrics = {"length": 3, "why": "w", "left_out": ["far"]}
    info = {"number": 4, "is_so": True, "timing": "t", "deep": {"a": [1]}}
    own = {"environment": "far", "task_id": "1", "reward": 1, "reward_parts": {"form": 0.5}, "stop": "finished"}
    told = {**own, "metrics": metrics, **metrics, **info, "_ng_x": 1}
    server = serving(Adder(seed_session=Answer(headers=GYMCORE), verify=_scored(**told)))

    reward = _play(server).reward

    assert reward is not None
    assert reward.metrics == {**metrics, "left_out": ["far", "_ng_x"]}
    assert (reward.parts, reward.info) == ({"form": 0.5}, info)


def test_what_a_server_tells_besides_numbers_is_kept_as_it_is(serving: Serving) -> None:
    """
    Texts, lists and objects, but nothing of the row; the numbers of `reward_components` are parts as well.
    """
    components = {"form": 0.5, "why": "x"}
    server = serving(Adder(verify=_scored(reward=1, extracted=None, deep={"a": [1]}, reward_components=components)))

    reward = _play(server).reward

    assert reward is not None
    assert reward.info == {"extracted": None, "deep": {"a": [1]}, "reward_components": components}
    assert (reward.parts, reward.metrics) == ({"form": 0.5}, {})


def test_what_is_too_long_or_too_deep_to_be_kept_is_named(serving: Serving) -> None:
    """
    It is left out whole, and costs neither the rest nor the reward.
    """
    deep: list[Any] = []
    for _ in range(300):
        deep = [deep]
    told = {"first": "x" * 200_000, "second": "x" * 100_000, "deep": deep, "last": "x" * 50_000}
    body = json.dumps({**ROW, "response": {}, "reward": 1, **told}).encode()
    server = serving(Adder(verify=Answer(body, headers={"content-type": "application/json"})))

    reward = _play(server).reward

    assert reward is not None
    assert sorted(reward.info) == ["first", "last"]
    assert reward.metrics == {"left_out": ["second", "deep"]}


def test_what_gymcore_says_of_a_reward_comes_back_whole(serving: Serving) -> None:
    """
    Texts and lists among the metrics, a metric whose name the row has taken, and the parts.
    """
    metrics = {"id": 1, "why": "because", "all": [1, "a"], "none": None, "bad": {"a": 1}, "worse": [{"a": 1}]}
    server = serving(Adder(verify=_scored(reward=1, reward_parts={"form": 0.5, "bad": "x"}, metrics=metrics)))

    reward = _play(server).reward

    assert reward is not None
    assert reward.metrics == {"id": 1, "why": "because", "all": [1, "a"], "none": None}
    assert reward.parts == {"form": 0.5}


SUMS = {
    "group_level_metrics": [{"_ng_task_index": 0}],
    "agent_metrics": {"pass@1": 1.0},
    "key_metrics": {"pass@1": 1.0},
}
ROLLOUT = {
    "agent_ref": {"name": "remote_simple_agent", "served_as": {"agent_ref": {"name": "adder_agent"}, "reward": 9.0}},
    "environment": "remote",
    "task_id": "1",
    "reward": 1.0,
    "extracted": "B",
}


def _sums(server: Server, rollouts: Iterable[Any] = (ROLLOUT,), limit_s: float = 60.0) -> Any:
    config = RemoteConfig(**{"url": server.url, **PATIENT, "request_timeout_s": limit_s})

    async def ask() -> Any:
        async with Remote.shared(config) as outage:
            return await Remote.aggregate_metrics(config, outage, rollouts)

    return asyncio.run(ask())


def test_the_server_sums_rollouts_up_itself(serving: Serving) -> None:
    """
    It is sent them with the route that they have there.
    """
    server = serving(Adder(aggregate_metrics=_json({**SUMS, "more": 1})))

    assert _sums(server) == SUMS
    sent = {"agent_ref": {"name": "adder_agent"}, "reward": 1.0, "extracted": "B"}
    assert server.heard[-1].body == {"verify_responses": [sent]}


def test_a_server_that_sums_up_gets_no_more_of_a_response_than_its_usage(serving: Serving) -> None:
    """
    As from NeMo Gym's own collector; what was said is never held together.
    """
    usage = {"output_tokens": 4}
    server = serving(Adder(aggregate_metrics=_json(SUMS)))

    def rollouts() -> Iterable[Any]:
        for _ in range(200):
            said = {"output": ["x" * 2**18]}
            yield {"reward": 1.0, "responses_create_params": said, "response": {**said, "usage": usage}}
        yield {"reward": 0.5, "response": None}

    tracemalloc.start()
    try:
        assert _sums(server, rollouts()) == SUMS
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    sent = [{"reward": 1.0, "response": {"usage": usage}}] * 200
    assert server.heard[-1].body == {"verify_responses": [*sent, {"reward": 0.5}]}
    assert peak < 20 * 2**20


def test_many_rollouts_are_sent_in_pieces_and_whole_again_where_that_breaks(serving: Serving) -> None:
    """
    From the disk, with their length.
    """
    rollouts = [{"reward": 1.0, "number": number, "extracted": "x" * 1000} for number in range(3000)]
    server = serving(Adder(aggregate_metrics=[Answer(sends="end"), _json(SUMS)]))

    assert _sums(server, rollouts) == SUMS

    first, second = (heard for heard in server.heard if heard.path == "/aggregate_metrics")
    assert first.body == second.body == {"verify_responses": rollouts}
    assert "transfer-encoding" not in second.headers


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (_json({"detail": "Not Found"}, 404), "status 404"),
        (_json({"detail": "KeyError"}, 500), "status 500"),
        (_json({**SUMS, "key_metrics": []}), "something else than group_level_metrics, agent_metrics, key_metrics"),
        (Answer(b"<html>"), "no JSON object"),
        (Answer(sends="nothing"), "not answered within"),
    ],
)
def test_what_the_server_does_not_sum_up_is_left_to_us(
    serving: Serving, caplog: pytest.LogCaptureFixture, answer: Answer, told: str
) -> None:
    """
    With a line that says why; statistics of the numbers are there all the same.
    """
    server = serving(Adder(aggregate_metrics=answer))

    assert _sums(server, limit_s=_limit_s(answer)) == {}
    (record,) = caplog.records
    assert told in record.message
    assert record.message.endswith("rollouts are summed up without the metrics of their server")


def test_a_server_that_is_slow_to_sum_up_is_waited_for_once(serving: Serving, caplog: pytest.LogCaptureFixture) -> None:
    """
    For less than one request may take: as long as that, the verifier may take, after which nothing would be answered.
    """
    server = serving(Adder(aggregate_metrics=Answer(sends="nothing")))

    assert _sums(server, limit_s=1.5) == {}
    assert server.paths() == ["/aggregate_metrics"]
    assert "was not answered within 1.2 s (0.8 request_timeout_s)" in caplog.text


def test_rollouts_that_take_too_long_to_send_are_not_read_on(serving: Serving) -> None:
    """
    Once ours are summed up, nobody else reads the file in which they are.
    """
    read: list[int] = []

    def rollouts() -> Iterable[Any]:
        for number in range(200):
            time.sleep(0.05)
            read.append(number)
            yield ROLLOUT

    server = serving(Adder(aggregate_metrics=_json(SUMS)))

    assert _sums(server, rollouts(), limit_s=1.5) == {}
    assert len(read) < 200
    assert server.paths() == []


def test_a_session_that_cannot_be_closed_costs_nothing(serving: Serving) -> None:
    """
    The reward is there by then.
    """
    server = serving(Adder(seed_session=Answer(headers=GYMCORE), close_session=Answer(sends="nothing")))

    assert _play(server, request_timeout_s=1.5).reward is not None


def test_nobody_there_ends_the_run_before_it_begins(serving: Serving) -> None:
    """
    With what to try; whoever comes a moment later is waited for.
    """
    server = serving(Adder())
    server.go()
    with pytest.raises(EndpointError, match="nobody could be asked at"):
        _play(server, retries=0)

    server.come_back(0.3)

    assert _play(server, retries=6).reward is not None


# -- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url", ["http://h", "https://h.example:8443/env/weather", "http://[::1]:9000", "http://127.0.0.1:9000/"]
)
def test_an_address_may_have_a_path(url: str) -> None:
    """
    A slash at its end means nothing.
    """
    assert RemoteConfig(url=url).url == url.rstrip("/")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://user:hush@h:9000", "try: the option `token`"),
        ("http://hush@h", "no user and no password"),
        ("h:9000", "looks like"),
        ("ftp://h", "looks like"),
        ("http://", "looks like"),
        ("http://h:0", "looks like"),
        ("http://h:99999", "from 1 to 65535"),
        ("http://h/?key=hush", "without a query"),
        ("http://h/#a", "without a query"),
        ("http://h/a b", "without spaces"),
        ("http://ä", "ASCII"),
    ],
)
def test_an_address_that_is_none_is_refused(url: str, told: str) -> None:
    """
    Without what may be secret in it.
    """
    with pytest.raises(ValueError, match="address") as caught:
        RemoteConfig(url=url)

    assert told in str(caught.value)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("token", ["a b", "a\r\nb", "ä"])
def test_a_token_that_is_no_header_is_refused(token: str) -> None:
    """
    And not shown.
    """
    with pytest.raises(ValueError, match="a token holds ASCII letters") as caught:
        RemoteConfig(url="http://h", token=token)

    assert token not in str(caught.value)
