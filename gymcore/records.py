"""
What is passed around and written down: Task, Turn, Trajectory, Reward, Failure, Rollout.

Records are frozen. A rollout is one line of a run folder and reads back equal; how lines reach the disk is
`collection`'s business.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from gymcore.documents import decode_json, encode_json
from gymcore.responses import CreateParams, Item, sum_usage, text_of, whole_response

__all__ = [
    "POISON",
    "ROLLOUT_KEYS",
    "ROUTE_KEYS",
    "Failure",
    "FailureStage",
    "Record",
    "Reward",
    "Rollout",
    "RolloutKey",
    "Row",
    "Stop",
    "Task",
    "ToolCall",
    "Trajectory",
    "Turn",
    "calls_in",
    "seed_of",
]

ROUTE_KEYS = ("agent_ref", "environment", "task_id", "epoch")
"""The keys that compose adds to a row; `epoch` only where a mix repeats its rows."""

ROLLOUT_KEYS = (
    "repeat",
    "response",
    "reward",
    "reward_parts",
    "reward_info",
    "metrics",
    "stop",
    "turns",
    "timing",
    "provenance",
    "crc",
)
"""The keys that a rollout adds to its row; a row that brings one of them is no task."""


class Record(BaseModel):
    """A frozen value; unknown keys are a mistake."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Task(BaseModel):
    """
    One problem and what judging it needs: a row of the dataset, checked.

    Subclass it to name the fields that the verifier reads; keys that no field names are kept as they came.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    responses_create_params: CreateParams
    environment: str = ""
    """The name under which the plan runs the environment."""
    task_id: str | int = ""
    """What identifies the task; a digest of its content where its author gave none."""


_LAST_MEMBERS = re.compile(rb',"environment":"([^"\\]*)","task_id":"([^"\\]*)"(?:,"epoch":(\d+))?\}\s*\Z')


class Row:
    """
    A dataset row as its author wrote it: the bytes of one JSON object, parsed when asked.

    Two rows are equal when their values are, whatever their spacing.
    """

    __slots__ = ("_epoch", "_identity", "_value", "data")

    def __init__(self, data: bytes, value: dict[str, Any] | None = None) -> None:
        self.data = data
        self._value = value
        self._identity: tuple[str, str] | None = None
        self._epoch = 1

    @property
    def value(self) -> dict[str, Any]:
        """The row as a plain dictionary; treat it as frozen."""
        if self._value is None:
            self._value = decode_json(self.data)
        return self._value

    @property
    def identity(self) -> tuple[str, str]:
        """Environment and task id; where they are the last members, as compose writes them, nothing is parsed."""
        if self._identity is None:
            # An inner object would be followed by another brace, and in a text quotation marks are escaped.
            found = None if self._value else _LAST_MEMBERS.search(self.data, max(0, len(self.data) - 300))
            if found:
                self._identity = found[1].decode(), found[2].decode()
                if found[3] is not None:
                    self._epoch = int(found[3])
                elif b'"epoch"' in self.data:  # somebody has put it elsewhere, or a prompt speaks of it
                    self._epoch = self.value.get("epoch", 1)
            else:
                self._identity = str(self.value["environment"]), str(self.value["task_id"])
                self._epoch = self.value.get("epoch", 1)
        return self._identity

    @property
    def epoch(self) -> int:
        """How often the mix has come round to this task, from 1; more than 1 only where a mix repeats its rows."""
        _ = self.identity
        return self._epoch

    def extended(self, extra: Mapping[str, Any]) -> bytes:
        """Return the row's own bytes with `extra` added as last members, without re-encoding what was there."""
        return extend_object(self.data, encode_json(extra))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Row) and self.value == other.value

    def __hash__(self) -> int:
        return hash(self.value.get("task_id"))

    def __repr__(self) -> str:
        return f"Row({self.data[:60]!r}...)" if len(self.data) > 60 else f"Row({self.data!r})"


def extend_object(data: bytes, extra: bytes) -> bytes:
    """Join two JSON objects, given as bytes, into one that holds the members of both in order."""
    head = data.rstrip()[:-1].rstrip()
    is_empty = len(extra) == 2 or head.endswith(b"{")
    return b"".join((head, b"" if is_empty else b",", memoryview(extra)[1:]))


def seed_of(plan_seed: int, task_id: str | int) -> int:
    """
    Derive the seed of a task's world: the same for every repeat, independent of all other tasks.

    Returns:
        An integer from 0 to 2**63 - 1.
    """
    digest = hashlib.blake2b(f"{plan_seed}/{task_id}".encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One request of a model for a tool, exactly as it made it."""

    name: str
    arguments: str
    """JSON text, unchecked: a model may write anything here."""
    call_id: str = ""

    def parsed(self) -> dict[str, Any]:
        """Return the arguments as a dictionary; empty when they are no JSON object, so that verifiers never raise."""
        try:
            value = decode_json(self.arguments.encode("utf-8", "replace"))
        except Exception:  # whatever a model wrote
            return {}
        return value if isinstance(value, dict) else {}


@dataclass(frozen=True, slots=True)
class Turn:
    """One reply of the model, with the results of its tool calls and what the world said next."""

    output: tuple[Item, ...]
    """The items the model replied with, untouched."""
    results: tuple[Item, ...] = ()
    """One `function_call_output` item per tool call that was carried out, in the order of the calls."""
    answer: Item | None = None
    """The next user message, where the environment plays one."""
    usage: dict[str, Any] | None = None
    response_id: str | None = None
    status: str | None = None
    duration_s: float = 0.0
    """From asking the model to having the results of its tool calls."""
    attempts: int = 1
    """How often the endpoint was asked until it replied."""
    _calls: tuple[ToolCall, ...] | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """The tool calls the model asked for, in order, well-formed or not."""
        if self._calls is None:
            object.__setattr__(self, "_calls", calls_in(self.output))
        assert self._calls is not None
        return self._calls

    def knowing(self, calls: tuple[ToolCall, ...]) -> Turn:
        """Return this turn; `calls` are those of its output, which somebody has found already."""
        object.__setattr__(self, "_calls", calls)
        return self

    @property
    def text(self) -> str:
        """What the model said, its messages joined."""
        return "".join([text_of(item) for item in self.output])

    @property
    def items(self) -> tuple[Item, ...]:
        """Everything this turn added to the conversation, in order."""
        tail = () if self.answer is None else (self.answer,)
        return (*self.output, *self.results, *tail)

    @property
    def is_empty(self) -> bool:
        """Whether the model neither said nor asked for anything."""
        return not self.calls and not self.text.strip()


def calls_in(items: Iterable[Item]) -> tuple[ToolCall, ...]:
    """Return the tool calls among items, in order, well-formed or not."""
    return tuple(
        [
            ToolCall(_text(item, "name"), _text(item, "arguments"), _text(item, "call_id"))
            for item in items
            if item.get("type") == "function_call"
        ]
    )


def _text(item: Item, key: str) -> str:
    """Return a key as text, whatever a model or an endpoint put there."""
    value = item.get(key, "")
    return value if isinstance(value, str) else encode_json(value).decode()


Stop = Literal["finished", "empty", "truncated", "max_turns", "max_tool_calls", "max_time", "max_output"]
"""
Why a trajectory ended: the model answered; said nothing; was cut off by the endpoint; or met a bound of the agent.
"""


@dataclass(frozen=True, slots=True)
class Trajectory:
    """The turns of one attempt, not yet scored."""

    turns: tuple[Turn, ...] = ()
    stop: str = "finished"
    """One of `Stop`; agents of other authors may use words of their own."""
    envelope: dict[str, Any] = field(default_factory=dict)
    """The last response without its output and usage."""

    @property
    def items(self) -> list[Item]:
        """Everything that was said and done, in order: the `output` of the whole episode."""
        return [item for turn in self.turns for item in turn.items]

    @property
    def text(self) -> str:
        """The last thing the model said; empty when it said nothing in its last turn."""
        return self.turns[-1].text if self.turns else ""

    @property
    def is_truncated(self) -> bool:
        """Whether a limit cut it off, ours or the endpoint's."""
        return self.stop not in ("finished", "empty")

    @property
    def usage(self) -> dict[str, Any] | None:
        """Token counts summed over the turns; None when none were reported."""
        return sum_usage(turn.usage for turn in self.turns)

    def to_response(self, model: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """
        Return the whole episode as one response: its output in order, its usage summed.

        Args:
            model: Which model answered, where nothing says so.
            params: The create parameters that it was asked with.
        """
        return whole_response({**self.envelope, "output": self.items, "usage": self.usage}, model, params)

    def calls(self, name: str | None = None) -> list[ToolCall]:
        """Return the tool calls of all turns in order; with `name`, those of one tool."""
        return [call for turn in self.turns for call in turn.calls if name is None or call.name == name]

    def last_call(self, name: str) -> ToolCall | None:
        """Return the last call of a tool, or None when it was never called."""
        found = self.calls(name)
        return found[-1] if found else None


class Reward(Record):
    """What a verifier gives: the number a trainer sees, and what explains it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    value: float
    """What the trainer optimises, usually 0.0 to 1.0."""
    parts: dict[str, float] = Field(default_factory=dict)
    """Named contributions, for reading only; they need not sum to `value`."""
    metrics: dict[str, float | int | bool | str | list[float | int | str] | None] = Field(default_factory=dict)
    """Named observations about the attempt that are no part of the reward; numbers are averaged in the report."""
    info: dict[str, JsonValue] = Field(default_factory=dict)
    """What else the verifier says of the attempt, as JSON values that are kept and handed on, and not looked into."""


FailureStage = Literal["open", "model", "tool", "reply", "agent", "verify", "timeout", "worker"]
"""
The stage of a rollout in which it failed; `timeout` is the bound on the whole rollout, and `worker` the end of the
process in which it was played.
"""


POISON = "Poison"
"""The `error` of a rollout that ended its worker twice; it is not played again."""


class Failure(Record):
    """Why an attempt gave no reward."""

    stage: FailureStage
    error: str
    """The class of the error: `ModelError`, `ZeroDivisionError`, ..."""
    message: str
    """What it said, at most 2,000 characters."""
    retryable: bool
    """Whether the same rollout may succeed later: an endpoint may recover, a bug will not."""
    location: str | None = None
    """`file:line` of the plugin's code that raised, where there is one."""


RolloutKey = tuple[str, str, int]
"""(environment, task id, repeat): what a rollout is one of, exactly once."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """One attempt at one task: its trajectory with a reward, or its failure; never both."""

    row: Row
    repeat: int
    trajectory: Trajectory
    reward: Reward | None = None
    failure: Failure | None = None
    started_at: float = 0.0
    """Seconds since 1970."""
    duration_s: float = 0.0
    provenance: dict[str, Any] = field(default_factory=dict)
    """What produced it: seed, agent, model, and the digest of the lock."""

    @property
    def environment(self) -> str:
        """The environment's name in the plan."""
        return self.row.identity[0]

    @property
    def key(self) -> RolloutKey:
        """What this is a rollout of."""
        return (*self.row.identity, self.repeat)

    def to_line(self) -> bytes:
        """
        Write a finished rollout as one JSON object: the row's own bytes, then what happened.

        Raises:
            ValueError: the rollout is a failure; failures have no reward and a file of their own.
        """
        if self.reward is None:
            raise ValueError("a rollout without a reward is a failure, not a result")
        trajectory = self.trajectory
        response = {**trajectory.envelope, "output": trajectory.items, "usage": trajectory.usage}
        return self.row.extended(
            {
                "repeat": self.repeat,
                "response": response,
                "reward": self.reward.value,
                "reward_parts": self.reward.parts,
                **({"reward_info": self.reward.info} if self.reward.info else {}),
                "metrics": self.reward.metrics,
                "stop": trajectory.stop,
                "turns": [_turn_to_json(turn) for turn in trajectory.turns],
                "timing": {"started_at": self.started_at, "duration_s": self.duration_s},
                "provenance": self.provenance,
            }
        )

    @classmethod
    def from_line(cls, line: bytes) -> Rollout:
        """
        Read a line of `rollouts.jsonl` back.

        Raises:
            DocumentError: the line is not JSON.
            KeyError: it is not a rollout.
        """
        value = decode_json(line)
        row = {key: item for key, item in value.items() if key not in ROLLOUT_KEYS}
        response = dict(value["response"])
        items = iter(response.pop("output"))
        response.pop("usage", None)
        turns = tuple(_turn_from_json(turn, items) for turn in value["turns"])
        return cls(
            row=Row(encode_json(row), row),
            repeat=value["repeat"],
            trajectory=Trajectory(turns=turns, stop=value["stop"], envelope=response),
            reward=Reward(
                value=value["reward"],
                parts=value["reward_parts"],
                metrics=value["metrics"],
                info=value.get("reward_info", {}),
            ),
            started_at=value["timing"]["started_at"],
            duration_s=value["timing"]["duration_s"],
            provenance=value["provenance"],
        )

    def to_failure_line(self) -> bytes:
        """Write a failed rollout as one JSON object: which rollout, and why; it has no `reward` key at all."""
        if self.failure is None:
            raise ValueError("this rollout did not fail")
        environment, task_id, repeat = self.key
        return encode_json(
            {
                "environment": environment,
                "task_id": task_id,
                "agent_ref": self.row.value.get("agent_ref"),
                "repeat": repeat,
                **self.failure.model_dump(),
                "timing": {"started_at": self.started_at, "duration_s": self.duration_s},
                "provenance": self.provenance,
            }
        )


def _turn_to_json(turn: Turn) -> dict[str, Any]:
    return {
        "output": len(turn.output),
        "results": len(turn.results),
        "answer": turn.answer is not None,
        "usage": turn.usage,
        "response_id": turn.response_id,
        "status": turn.status,
        "duration_s": turn.duration_s,
        "attempts": turn.attempts,
    }


def _turn_from_json(value: dict[str, Any], items: Iterator[Item]) -> Turn:
    return Turn(
        output=tuple(next(items) for _ in range(value["output"])),
        results=tuple(next(items) for _ in range(value["results"])),
        answer=next(items) if value["answer"] else None,
        usage=value["usage"],
        response_id=value["response_id"],
        status=value["status"],
        duration_s=value["duration_s"],
        attempts=value["attempts"],
    )
