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
from gymcore.composition.rows.reader import MAX_EPOCH, RowReader
from gymcore.documents import DocumentError, decode_exactly, decode_json, encode_json
from gymcore.errors import nearest
from gymcore.records import ROLLOUT_KEYS, ROUTE_KEYS, Row
from gymcore.serving.refusals import Refusal, RefusedRow

__all__ = ["INDICES", "LONG_BODY", "SentRow", "read_object", "read_row", "route_of", "takes_failures"]

INDICES = ("_ng_task_index", "_ng_rollout_index", "_ng_attempt_index", "_ng_rollout_id")
"""The keys by which clients number what they ask for; they are no part of a task."""

FAILURE_KEYS = ("_ng_failure_class", "_ng_failure_terminal", "failure")
"""What `FailedRollout.answer` adds to a row: a collector may send its file of failures again."""

_NOT_OWN = {*INDICES, *ROLLOUT_KEYS, *FAILURE_KEYS, *ROUTE_KEYS, "responses_create_params"}
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
        return isinstance(sent.get("_ng_rollout_id"), str | int) or _has_both_indices(sent)

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


def takes_failures(row: Mapping[str, Any]) -> bool:
    """
    Whether whoever sent a row keeps a failure and goes on, where any error would end all of its work.

    NeMo Gym's collector does, and numbers task and rollout; NeMo RL does not, and numbers rows.
    """
    return _has_both_indices(row) and "_rowidx" not in row


def _has_both_indices(row: Mapping[str, Any]) -> bool:
    return isinstance(row.get("_ng_task_index"), int) and isinstance(row.get("_ng_rollout_index"), int)


def read_row(body: bytes, routes: Mapping[str, Route], *, extra: tuple[str, ...] = ()) -> tuple[SentRow, list[Any]]:
    """
    Read and check a row that somebody sent.

    Keys of it that a rollout adds, or that say something else of a route than ours may, are its author's: they are set
    aside in `agent_ref.served_as` of what is played and kept.

    Args:
        body: The request's body.
        routes: Who serves rows.
        extra: Keys of the protocol that came beside the row, such as `response`.

    Returns:
        The row, and what the extra keys hold, None where they are absent.

    Raises:
        RefusedRow: it is no row, or none for anybody here.
        Refusal: it is no JSON object.
    """
    value = read_object(body)
    try:
        return _read(value, body, routes, extra)
    except Refusal as refusal:
        raise RefusedRow(refusal, value) from None


def _read(
    value: dict[str, Any], body: bytes, routes: Mapping[str, Route], extra: tuple[str, ...]
) -> tuple[SentRow, list[Any]]:
    if len(body) > LONG_BODY:  # before more is done with it than it may be worth
        if len(value) > MOST_KEYS:
            raise Refusal(422, f"{WHERE} has {len(value):,} keys; {MOST_KEYS:,} may stand beside each other")
        route_of(value, routes)
    reader = RowReader(is_alone=True, reserved=frozenset())
    line = body.strip()
    # With extra keys nothing of it is kept, so nothing that reading loses is missed.
    sent = value if extra else reader.parse(line, WHERE, value)
    if sent is None:
        raise _refused(reader)
    route = route_of(sent, routes)
    found = [sent.get(key) for key in extra]
    beside = {*extra, *(FAILURE_KEYS if FAILURE_KEYS[0] in sent else ())}
    own = _own_keys(sent, route, routes) - beside
    row = sent
    if not sent.keys().isdisjoint({*beside, *own, *INDICES}):
        exact = decode_exactly(line)
        aside = {key: exact[key] for key in exact if key in own}
        row = {key: item for key, item in exact.items() if key not in beside and key not in own and key not in INDICES}
        line = encode_json(row)
        sent = {key: item for key, item in sent.items() if key not in beside}
    else:
        aside = {}
    try:
        line, row, _ = prepare_row(line, row, _prompt(row, route), route.environment_class.task_model.model_fields)
    except RowError as error:
        raise Refusal(422, f"{WHERE}: {error}", hints=[error.hint] if error.hint else []) from None
    routed = reader.routed(line, row, route, WHERE)
    if routed is None:
        raise _refused(reader)
    data = routed[0] if b"\n" not in routed[0] else encode_json(decode_json(routed[0]))
    if aside:
        data = _with_aside(data, aside, sent.get("task_id"))
    return SentRow(sent, route, Row(data), hashlib.blake2b(body, digest_size=16).digest()), found


def _refused(reader: RowReader) -> Refusal:
    problem = reader.problems[0]
    return Refusal(422, f"{problem.where}: {problem.message}", hints=problem.hints)


def _own_keys(row: Mapping[str, Any], route: Route, routes: Mapping[str, Route]) -> set[str]:
    """Return the keys of a row that mean something else to us than to its author."""
    own = {key for key in ROLLOUT_KEYS if key in row}
    epoch = row.get("epoch", 1)
    if type(epoch) is not int or not 1 <= epoch <= MAX_EPOCH:
        own.add("epoch")
    if route.environment_class.keeps_route:  # then whoever checks the row sets the others aside
        return own
    task_id, environment = row.get("task_id"), row.get("environment")
    if isinstance(task_id, bool) or not isinstance(task_id, str | int | None) or task_id == "":
        own.add("task_id")
    # Another one that is served is a mistake, because the row would be played by the wrong one.
    if environment is not None and all(environment != served.environment for served in routes.values()):
        own.add("environment")
    return own


def _with_aside(line: bytes, aside: dict[str, Any], told_id: Any) -> bytes:
    """Set keys of its author's aside in a row; an id that its content has given it is given for all of that."""
    row = decode_exactly(line)
    reference = row["agent_ref"]
    before = reference.get("served_as")
    row["agent_ref"] = {**reference, "served_as": {**(before if isinstance(before, dict) else {}), **aside}}
    if row["task_id"] != told_id and not aside.keys().isdisjoint(ROLLOUT_KEYS):
        content = sorted((key, item) for key, item in {**row, **aside}.items() if key not in ROUTE_KEYS)
        digest = hashlib.blake2b(encode_json(content), digest_size=10)
        row["task_id"] = f"{row['environment']}/{digest.hexdigest()}"
    return encode_json(row)


def _prompt(row: Mapping[str, Any], route: Route) -> Any:
    """Return the prompt that a row is still to be asked with: one that `compose` has written has it already."""
    return None if "task_id" in row and "environment" in row else route.prompt
