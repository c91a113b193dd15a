"""
An environment whose tools and verifier are somewhere else: what all of them have in common, however they are reached.
"""

from __future__ import annotations

import asyncio
import math
import re
import tempfile
import threading
from collections.abc import Iterable, Mapping
from typing import IO, Any, Generic, TypeGuard

from pydantic import ModelWrapValidatorHandler, PrivateAttr, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import TypeVar

from gym_plugin_nemo_gym.session import CALLS, Session, aggregated
from gym_plugin_nemo_gym.wire import Patience, ServerFault, Wire
from gymcore import Config, EndpointError, Environment, Reward, Task, ToolCall, ToolError, Trajectory, option
from gymcore.documents import DocumentError, decode_json, encode_json
from gymcore.interfaces import MAX_ARGUMENTS_LENGTH
from gymcore.records import ROLLOUT_KEYS, ROUTE_KEYS
from gymcore.runtime.brackets import log

__all__ = ["Served", "ServedConfig", "ServedTask", "bounded", "reward_of", "row_for_server"]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,127}")
_OF_ALL = frozenset(("responses_create_params", "response", "reward"))
_OF_GYMCORE = _OF_ALL | {"agent_ref", "environment", "task_id", "stop"}
"""What an answer says that does not explain the reward."""
MOST_OF_AN_INFO = 256 * 2**10
"""What is kept of an answer besides its numbers, in bytes, at most."""
PART_OF_A_REQUEST = 0.8
"""
Of `request_timeout_s`, how long having rollouts summed up may take, with all tries: less than `verify_timeout_s`, which
is as long unless somebody says otherwise, and after which gymcore's own statistics would not be answered either.
"""
IN_MEMORY = 2**20
"""The bytes of many rollouts above which they go to the disk before they are sent."""


class ServedConfig(Config):
    """How a server is asked."""

    agent: str | None = option(
        None, description="The `agent_ref.name` that every row is sent with, in the place of what it says itself."
    )
    connect_timeout_s: float = option(
        5.0, description="The longest that making a connection may take.", operational=True, gt=0, le=3600
    )
    request_timeout_s: float = option(
        300.0, description="The longest that one request may take.", operational=True, gt=0, le=86_400
    )
    retries: int = option(
        4, description="How often a request is sent again that nobody has received.", operational=True, ge=0, le=20
    )

    @property
    def patience(self) -> Patience:
        """How long the server is waited for."""
        return Patience(self.connect_timeout_s, self.request_timeout_s, self.retries)


class ServedTask(Task):
    """A row of whoever serves the environment: kept whole, and not understood."""

    environment: Any = ""
    task_id: Any = ""
    """Until a row is routed here, both are his, and whatever he means by them."""

    _row: dict[str, Any] = PrivateAttr(default_factory=dict)

    @model_validator(mode="wrap")
    @classmethod
    def _keep(cls, value: Any, check: ModelWrapValidatorHandler[ServedTask]) -> ServedTask:
        task = check(value)
        if isinstance(value, dict):
            task._row = value
        for name in task.offered or ():
            if name in CALLS or not _NAME.fullmatch(name):
                told = f"no tool can be called {name[:60]!r} over this protocol"
                error = PydanticCustomError("tool_name", "{told}", {"told": told})
                place = ("responses_create_params", "tools")
                raise ValidationError.from_exception_data(cls.__name__, [{"type": error, "loc": place, "input": None}])
        return task

    @property
    def row(self) -> dict[str, Any]:
        """The row as it came; treat it as frozen."""
        return self._row

    @property
    def offered(self) -> list[str] | None:
        """The names of the functions that the row offers; None where it says nothing of tools."""
        tools = self.responses_create_params.tools
        if tools is None:
            return None
        return [str(tool.get("name")) for tool in tools if tool.get("type") == "function"]


ConfigT = TypeVar("ConfigT", bound=ServedConfig, default=ServedConfig)


class Served(Environment[ServedTask, ConfigT], Generic[ConfigT]):
    """
    An environment behind a server; a subclass knows the way to it.

    A rollout is one session there: what it has seeded, it closes, and no tool call is ever sent twice.
    """

    keeps_route = True

    _session: Session | None = None

    @classmethod
    async def way(cls, resources: Any) -> Wire:  # whatever `shared` yields
        """Return the way to the server."""
        raise NotImplementedError

    @classmethod
    async def aggregate_metrics(
        cls, config: ConfigT, resources: Any, rollouts: Iterable[Mapping[str, Any]]
    ) -> Mapping[str, Any]:
        """Have the server say itself what rollouts amount to; where it does not, say so, and leave it to gymcore."""
        limit_s = PART_OF_A_REQUEST * config.request_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                with tempfile.SpooledTemporaryFile(IN_MEMORY) as file:
                    await _write(file, (_without_bulk(rollout, config.agent) for rollout in rollouts))
                    return await aggregated(await cls.way(resources), file)
        except TimeoutError:
            told = f"/aggregate_metrics was not answered within {limit_s:g} s ({PART_OF_A_REQUEST} request_timeout_s)"
        except (ServerFault, EndpointError, OSError) as error:  # there may be no server, or no room on the disk
            told = str(error)
        log(f"{told}; rollouts are summed up without the metrics of their server")
        return {}

    async def wire(self) -> Wire:
        """Return the way to the server for this rollout."""
        return await self.way(self.resources)

    async def open(self) -> None:
        """Begin a session."""
        await (await self._begun()).seed()

    async def _begun(self) -> Session:
        self._session = Session(await self.wire(), row_for_server(self.task.row, self.config.agent))
        return self._session

    async def other_tool(self, call: ToolCall) -> str:
        """Have a tool called over there."""
        offered = self.task.offered
        if call.name in CALLS or not _NAME.fullmatch(call.name) or (offered is not None and call.name not in offered):
            names = ", ".join(offered or ()) or "none"
            raise ToolError(f"there is no tool {call.name[:100]!r}; the tools are: {names}")
        arguments = _checked(call)
        assert self._session is not None
        return await self._session.call(call.name, arguments)

    async def verify(self, trajectory: Trajectory) -> Reward:
        """Have what happened scored over there."""
        assert self._session is not None
        response = trajectory.to_response("policy", self.task.row.get("responses_create_params", {}))
        answer = await self._session.verify(response)
        reward = reward_of(answer, self._session.row, is_of_gymcore=self._session.is_of_gymcore)
        failed = self._session.failed_calls
        if not failed or "failed_calls" in reward.metrics:
            return reward
        return reward.model_copy(update={"metrics": {**reward.metrics, "failed_calls": failed}})

    async def close(self) -> None:
        """End the session."""
        if self._session is not None:
            await self._session.close()


def row_for_server(row: Mapping[str, Any], agent: str | None = None) -> dict[str, Any]:
    """
    Return a row as its server takes it: without our route, and with the one that it had before.

    Args:
        row: A row as it was composed.
        agent: Whom it is routed to over there, where that is said for all rows.
    """
    reference = row.get("agent_ref")
    before = reference.get("served_as") if isinstance(reference, dict) else None
    before = dict(before) if isinstance(before, dict) else {}
    if agent is not None:
        is_ours = before.keys() >= {"agent_ref", "environment", "task_id"} and isinstance(before["environment"], str)
        if is_ours:  # composed by gymcore, for that other agent
            del before["environment"]
        before["agent_ref"] = {"type": "responses_api_agents", "name": agent}
    return {**{key: value for key, value in row.items() if key not in ROUTE_KEYS}, **before}


def _without_bulk(rollout: Mapping[str, Any], agent: str | None) -> dict[str, Any]:
    """
    Return a rollout as its server sums it up: without the prompt, and of the response only the usage.

    Source: rollout_collection.py of nemo-gym 0.4.0, whose servers get no more of it.
    """
    told = {key: rollout[key] for key in ROLLOUT_KEYS if key in rollout}
    sent = row_for_server(rollout, agent) | told  # a row may have had a reward of its own
    sent.pop("responses_create_params", None)
    usage = _mapping(sent.pop("response", None)).get("usage")
    return {**sent, "response": {"usage": usage}} if usage else sent


async def _write(file: IO[bytes], rollouts: Iterable[Mapping[str, Any]]) -> None:
    """Write rollouts as a body, one by one, in a thread that has ended when this has: it reads what others close."""
    is_given_up = threading.Event()

    def write() -> None:
        file.write(b'{"verify_responses":[')
        for number, rollout in enumerate(rollouts):
            if is_given_up.is_set():
                return
            file.write((b"," if number else b"") + encode_json(rollout))
        file.write(b"]}")

    writing = asyncio.create_task(asyncio.to_thread(write))
    try:
        await asyncio.shield(writing)
    finally:
        is_given_up.set()
        await asyncio.wait([writing])


def _checked(call: ToolCall) -> bytes:
    """
    Return the arguments of a call as a body.

    Raises:
        ToolError: they are no JSON object, or too long.
    """
    if len(call.arguments) > MAX_ARGUMENTS_LENGTH:
        told = f"{len(call.arguments):,} characters; at most {MAX_ARGUMENTS_LENGTH:,} are read"
        raise ToolError(f"invalid arguments for {call.name}: {told}")
    try:
        text = (call.arguments or "{}").encode()
        value = decode_json(text)
    except (DocumentError, UnicodeEncodeError):
        raise ToolError(f"invalid arguments for {call.name}: they are no JSON") from None
    if not isinstance(value, dict):
        raise ToolError(f"invalid arguments for {call.name}: they are no JSON object")
    return text


def reward_of(answer: Mapping[str, Any], row: Mapping[str, Any], *, is_of_gymcore: bool = False) -> Reward:
    """
    Read what a server says of an attempt: its reward, every further number as a metric, and all else as it is.

    A gymcore server names its metrics itself, in `metrics`; what else it says is no metric. What is longer than
    `MOST_OF_AN_INFO`, together with what came before it, is left out, and so is what begins with `_ng_`, which means
    something to the clients of NeMo Gym; the metric `left_out` names it.

    Args:
        answer: Its answer to `/verify`, which tells the row again.
        row: The row, as it was sent; what it says itself is no news.
        is_of_gymcore: Whether a gymcore server says it.

    Raises:
        ServerFault: there is no reward that is a finite number.
    """
    value = answer.get("reward")
    if not _is_number(value) or isinstance(value, bool):
        told = "without a reward" if "reward" not in answer else f"with the reward {value!r:.60}"
        raise ServerFault(f"/verify was answered {told}, and a reward is a finite number")
    metrics = {name: item for name, item in _mapping(answer.get("metrics")).items() if _is_observation(item)}
    parts = {**_mapping(answer.get("reward_components")), **_mapping(answer.get("reward_parts"))}
    numbers = {name: float(item) for name, item in parts.items() if _is_number(item)}
    read = {"metrics": metrics, "reward_parts": numbers}
    known = _OF_GYMCORE if is_of_gymcore else _OF_ALL
    further = {
        name: item
        for name, item in answer.items()
        if name not in row and name not in known and not _is_read(item, read.get(name, {}))
    }
    if not is_of_gymcore:
        metrics |= {name: item for name, item in further.items() if _is_number(item) and not name.startswith("_ng_")}
    news = {name: item for name, item in further.items() if name not in metrics or metrics[name] != item}
    info, left_out = bounded({name: item for name, item in news.items() if not name.startswith("_ng_")})
    left_out += [name[:100] for name in news if name.startswith("_ng_")]
    if left_out:
        before = metrics.get("left_out")  # further away
        metrics["left_out"] = [*before, *left_out] if isinstance(before, list) else left_out
    return Reward(value=float(value), parts=numbers, metrics=metrics, info=info)


def _is_read(item: Any, found: Mapping[str, Any]) -> bool:
    """Whether all that a dictionary says is among what was found in it."""
    return isinstance(item, dict) and item.keys() <= found.keys()


def bounded(told: Mapping[str, Any]) -> tuple[dict[str, Any], list[float | int | str]]:
    """Return what is kept of what a server tells, each item whole, and the names of what is not."""
    kept: dict[str, Any] = {}
    left = MOST_OF_AN_INFO
    for name, item in told.items():
        text = encode_json({name: item})
        if len(text) <= left and decode_json(text) == {name: item}:  # what lies too deep does not come back
            kept[name] = item
            left -= len(text)
    return kept, [name[:100] for name in told if name not in kept]


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _is_number(value: Any) -> TypeGuard[int | float]:
    """Whether a value is a truth, or a finite number that fits where numbers are kept."""
    return math.isfinite(value) if isinstance(value, float) else isinstance(value, int) and abs(value) < 2**63


def _is_observation(value: Any) -> bool:
    """Whether a metric of a gymcore server is one of ours: a number, a text, nothing, or a list of some."""
    if isinstance(value, list):
        return all(isinstance(item, str) or (_is_number(item) and not isinstance(item, bool)) for item in value)
    return value is None or isinstance(value, str) or _is_number(value)
