"""
Rows that come over the wire: checked as `compose` checks those of a file, and given the route that they ask for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gymcore.composition import Route
from gymcore.composition.rows.preparation import RowError, prepare_row
from gymcore.composition.rows.reader import RowReader
from gymcore.documents import DocumentError, decode_exactly, decode_json, encode_json
from gymcore.errors import nearest
from gymcore.records import ROLLOUT_KEYS, ROUTE_KEYS, Row
from gymcore.serving.refusals import Refusal

__all__ = ["INDICES", "LONG_BODY", "SentRow", "read_object", "read_row", "read_seed", "route_of"]

INDICES = ("_ng_task_index", "_ng_rollout_index", "_ng_attempt_index", "_ng_rollout_id")
"""The keys by which clients number what they ask for; they are no part of a task."""

FAILURE_KEYS = ("_ng_failure_class", "_ng_failure_terminal", "failure")
"""What `FailedRollout.answer` adds to a row: a collector may send its file of failures again."""

_NO_TASK = {*INDICES, *ROLLOUT_KEYS, *FAILURE_KEYS}
"""What may come beside a row whose response is scored: a client may send back what it was told of it."""

_BESIDE_A_SEED = {*ROLLOUT_KEYS, *FAILURE_KEYS}
"""What may come beside a row that a session is opened for; its numbers count."""

_NOT_OWN = {*_NO_TASK, *ROUTE_KEYS, "response", "responses_create_params"}
"""What may change between the two times that a client sends the row of a session."""

LONG_BODY = 2**18
"""The bytes above which it takes a while to read a body, and is better done beside the event loop."""

MOST_KEYS = 10_000
"""So many keys a row may have itself: each is looked at several times, and a hundred thousand take half a second."""

WHERE = "the row"
"""How messages name it."""


@dataclass(frozen=True, slots=True)
class SentRow:
    """A row as somebody sent it, and the task that it is."""

    sent: dict[str, Any]
    """The row with everything that came with it; treat it as frozen."""
    route: Route
    row: Row
    """What is played: the row without the client's numbers, with its route and its identity."""
    digest: bytes
    """Tells requests apart: of what was sent, numbers included."""

    @property
    def is_numbered(self) -> bool:
        """Whether the client says which rollout of which task it wants, or names it."""
        sent = self.sent
        return isinstance(sent.get("_ng_rollout_id"), str | int) or self._has_both_indices

    @property
    def _has_both_indices(self) -> bool:
        return isinstance(self.sent.get("_ng_task_index"), int) and isinstance(self.sent.get("_ng_rollout_index"), int)

    @property
    def takes_failures(self) -> bool:
        """
        Whether the client keeps a failure and goes on, where any error would end all of its work.

        NeMo Gym's collector does, and numbers task and rollout; NeMo RL does not, and numbers rows.
        """
        return self._has_both_indices and "_rowidx" not in self.sent

    @property
    def rollout_index(self) -> int:
        """Which of the rollouts of its task the client calls it, from 0."""
        index = self.sent.get("_ng_rollout_index")
        return index if type(index) is int and 0 <= index < 1 << 31 else 0

    @property
    def told(self) -> dict[str, Any]:
        """What tells its task from others: its own keys, without what is asked and answered, which makes rows long."""
        return {key: value for key, value in self.sent.items() if key == "task_id" or key not in _NOT_OWN}

    def is_task(self, told: Mapping[str, Any]) -> bool:
        """
        Whether nothing says that this is another task than that of which something was told before.

        Without a `task_id` in both their own keys tell: an agent may have changed what is asked, and added keys.
        """
        own = self.told
        if own.get("task_id") is not None and told.get("task_id") is not None:
            return bool(own["task_id"] == told["task_id"])
        both = own.keys() & told.keys() - {"task_id"}
        return all(own[key] == told[key] for key in both if own[key] is not None and told[key] is not None)


def read_object(body: bytes) -> dict[str, Any]:
    """
    Read a request's body.

    Raises:
        Refusal: it is no JSON object.
    """
    try:
        value = decode_json(body)
    except DocumentError as error:
        raise Refusal(400, f"the body is no JSON: {error.message}") from None
    if not isinstance(value, dict):
        raise Refusal(400, "the body must be a JSON object")
    return value


def route_of(row: Mapping[str, Any], routes: Mapping[str, Route]) -> Route:
    """
    Find who serves a row: by its `agent_ref`, its `environment`, or because there is only one environment.

    Raises:
        Refusal: nobody does.
    """
    reference = row.get("agent_ref")
    name = reference.get("name") if isinstance(reference, dict) else reference
    if name is not None:
        if isinstance(name, str) and name in routes:
            return routes[name]
        close = nearest(str(name)[:100], routes)
        hint = f"try: {' or '.join(close)}" if close else f"agents here: {', '.join(sorted(routes))}"
        raise Refusal(404, f"no agent is named {str(name)[:100]!r}", hints=[hint])
    environment = row.get("environment")
    own = [route for route in routes.values() if environment in (None, route.environment)]
    if len({route.environment for route in own}) == 1:
        return own[0]
    hint = f'try: "agent_ref": {{"name": "..."}} with one of {", ".join(sorted(routes))}'
    raise Refusal(422, "the row says no `agent_ref.name`, so nobody knows who plays it", hints=[hint])


def read_row(
    body: bytes, routes: Mapping[str, Route], *, extra: tuple[str, ...] = (), read: dict[str, Any] | None = None
) -> tuple[SentRow, list[Any]]:
    """
    Read and check a row that somebody sent.

    Args:
        body: The request's body.
        routes: Who serves rows.
        extra: Keys of the protocol that came beside the row, such as `response`.
        read: What `read_object` has read of the body, where it has.

    Returns:
        The row, and what the extra keys hold, None where they are absent.

    Raises:
        Refusal: it is no row, or none for anybody here.
    """
    value = read_object(body) if read is None else read
    if len(body) > LONG_BODY:  # before more is done with it than it may be worth
        if len(value) > MOST_KEYS:
            raise Refusal(422, f"{WHERE} has {len(value):,} keys; {MOST_KEYS:,} may stand beside each other")
        route_of(value, routes)
    reader = RowReader(is_alone=True)
    if extra:  # nothing of this is kept, so nothing that reading loses is missed
        found = [value.pop(key, None) for key in extra]
        row: dict[str, Any] | None = {key: item for key, item in value.items() if key not in _NO_TASK}
        line = encode_json(row)
    else:
        found, line = [], body.strip()
        row = reader.parse(line, WHERE, value)
        if row is not None and FAILURE_KEYS[0] in row:
            value = row = {key: item for key, item in decode_exactly(line).items() if key not in FAILURE_KEYS}
            line = encode_json(row)
    if row is not None:
        route = route_of(row, routes)
        if not extra and not row.keys().isdisjoint(INDICES):
            row = {key: item for key, item in decode_exactly(line).items() if key not in INDICES}
            line = encode_json(row)
        try:
            line, row, _ = prepare_row(line, row, _prompt(row, route), route.environment_class.task_model.model_fields)
        except RowError as error:
            raise Refusal(422, f"{WHERE}: {error}", hints=[error.hint] if error.hint else []) from None
        if (routed := reader.routed(line, row, route, WHERE)) is not None:
            data = routed[0] if b"\n" not in routed[0] else encode_json(decode_json(routed[0]))
            return SentRow(value, route, Row(data), hashlib.blake2b(body, digest_size=16).digest()), found
    problem = reader.problems[0]
    raise Refusal(422, f"{problem.where}: {problem.message}", hints=problem.hints)


def read_seed(body: bytes, routes: Mapping[str, Route]) -> SentRow:
    """
    Read and check a row that a session is opened for, to be kept; what a client was told of it may come beside it.

    Raises:
        Refusal: it is no row, or none for anybody here.
    """
    read = read_object(body)
    if _BESIDE_A_SEED.isdisjoint(read):
        return read_row(body, routes, read=read)[0]
    row = {key: item for key, item in decode_exactly(body).items() if key not in _BESIDE_A_SEED}
    return read_row(encode_json(row), routes)[0]


def _prompt(row: Mapping[str, Any], route: Route) -> Any:
    """Return the prompt that a row is still to be asked with: one that `compose` has written has it already."""
    return None if "task_id" in row and "environment" in row else route.prompt
