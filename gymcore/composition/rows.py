"""
Rows: read from files and packages, checked against their environment, and given their route.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson
from pydantic import ValidationError

from gymcore.compact_keys import KeyNumbers, KeySet
from gymcore.composition.routes import Route
from gymcore.documents import DocumentError, decode_json, encode_json
from gymcore.errors import DataError, Problem
from gymcore.records import ROLLOUT_KEYS, ROUTE_KEYS, extend_object

__all__ = ["RowReader", "RowSource", "numbered_lines"]

REMEMBERED_TOOLS = 64
"""How many different lists of tools are remembered: most rows of a file offer the same ones."""

_ROLLOUT_KEYS = frozenset(ROLLOUT_KEYS)


@dataclass
class RowSource:
    """Where rows came from, with what the lock says of it."""

    name: str
    """How messages and the lock name it: a path, or `plugin file`."""
    rows: int = 0
    sha256: str = ""

    def to_dict(self, owner: str) -> dict[str, Any]:
        """Return what the lock says of it; `owner` is the environment it serves, or `data`."""
        return {"for": owner, "file": self.name, "rows": self.rows, "sha256": self.sha256}


def numbered_lines(lines: Iterable[bytes], source: RowSource) -> Iterator[tuple[int, bytes]]:
    """Yield the non-blank lines of a file with their one-based numbers, and sum up its digest on the way."""
    digest = hashlib.sha256()
    for number, line in enumerate(lines, start=1):
        digest.update(line)
        text = line.strip()
        if number == 1:
            text = text.removeprefix(b"\xef\xbb\xbf")
        if text:
            source.rows += 1
            yield number, text
    source.sha256 = digest.hexdigest()


@dataclass(frozen=True, slots=True)
class _OfferedTools:
    """What a list of tools in a row says, held against the tools of an environment."""

    reasons: tuple[str, ...] = ()
    """Why no row may offer them."""
    differing: tuple[str, ...] = ()
    """Names of tools whose parameters are described otherwise than the code does."""


_NO_TOOLS = _OfferedTools()


@dataclass
class RowReader:
    """
    Checks rows one by one and gathers every mistake; identities are given in the order of reading.

    Memory grows by some 25 bytes a row, which tell twins apart.
    """

    problems: list[Problem] = field(default_factory=list)
    bad: int = 0
    read: int = 0
    notes: dict[str, int] = field(default_factory=dict)
    """Remarks that are no mistakes, and how many rows each is about."""
    _contents: KeyNumbers = field(default_factory=KeyNumbers)
    _twins: array[int] = field(default_factory=lambda: array("I"))
    """How often each content was seen, by its number."""
    _own_ids: KeySet = field(default_factory=KeySet)
    _offered: dict[tuple[str, bytes], _OfferedTools] = field(default_factory=dict)
    _last_offered: tuple[str, Any, _OfferedTools] = ("", None, _NO_TOOLS)

    def raise_problems(self) -> None:
        """
        Raise what was gathered.

        Raises:
            DataError: at least one row was wrong.
        """
        if self.bad:
            raise DataError(self.problems, count=self.bad, rows=self.read)

    def reject(self, where: str, message: str, *hints: str) -> None:
        """Count a bad row, and keep its mistake where it is one of the first."""
        self.bad += 1
        if len(self.problems) < DataError.shown:
            self.problems.append(Problem(message, where=where, hints=hints))

    def parse(self, line: bytes, where: str) -> dict[str, Any] | None:
        """Parse one line into a row, or reject it."""
        self.read += 1
        try:
            row = decode_json(line)
        except DocumentError as error:
            self.reject(where, error.message)
            return None
        if not isinstance(row, dict):
            self.reject(where, f"a row is a JSON object, not {_shown(row)}")
            return None
        if not _ROLLOUT_KEYS.isdisjoint(row):
            taken = next(key for key in ROLLOUT_KEYS if key in row)
            self.reject(where, f"the row has the key {taken!r}, which a rollout adds; is this file a result?")
            return None
        return row

    def routed(self, line: bytes, row: dict[str, Any], route: Route, where: str) -> tuple[bytes, str] | None:
        """
        Check a row against its environment and return it with its route, and its task's id, or reject it.

        The author's bytes are kept as they are; only a route key that says something else is replaced.
        """
        reasons = _reasons_of_model(row, route)
        if reasons:
            self.reject(where, "; ".join(reasons))
            return None
        offered = self._offered_tools(row, route)
        epoch = row.get("epoch", 1)
        if type(epoch) is not int or epoch < 1:
            reasons.append(f"`epoch` counts from 1 and says {_shown(epoch)}; a key of the author's needs another name")
        environment = row.get("environment", route.environment)
        if environment != route.environment:
            reasons.append(f"`environment` says {_shown(environment)}, but its route leads to {route.environment!r}")
        if reasons or offered.reasons:
            self.reject(where, "; ".join([*reasons, *offered.reasons]))
            return None
        task_id = self._identify(row, route, where)
        if task_id is None:
            return None
        for name in offered.differing:
            note = f"{route.environment}: rows describe the parameters of {name} otherwise than its code does"
            self.notes[note] = self.notes.get(note, 0) + 1
        wanted = {
            "agent_ref": {"type": "responses_api_agents", "name": route.name},
            "environment": route.environment,
            "task_id": task_id,
        }
        given = row.get("agent_ref")
        if isinstance(given, dict) and given.get("name") == route.name:
            wanted["agent_ref"] = given
        if any(key in row and row[key] != value for key, value in wanted.items()):
            return encode_json({**row, **wanted}), str(task_id)
        missing = {key: value for key, value in wanted.items() if key not in row}
        return extend_object(line, encode_json(missing)) if missing else line, str(task_id)

    def _offered_tools(self, row: dict[str, Any], route: Route) -> _OfferedTools:
        tools = row["responses_create_params"].get("tools")
        if not tools:
            return _NO_TOOLS
        environment, before, known = self._last_offered
        if environment == route.environment and before == tools:  # nearly always, and cheaper than a digest
            return known
        key = (route.environment, hashlib.blake2b(encode_json(tools), digest_size=16).digest())
        offered = self._offered.get(key)
        if offered is None:
            if len(self._offered) == REMEMBERED_TOOLS:
                self._offered.clear()
            offered = self._offered[key] = _compared_tools(tools, route)
        self._last_offered = (route.environment, tools, offered)
        return offered

    def _identify(self, row: dict[str, Any], route: Route, where: str) -> str | int | None:
        """Give a task its id: its author's own, or a digest of its content and a number for twins."""
        content = {key: value for key, value in row.items() if key not in ROUTE_KEYS}
        try:
            canonical = orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
        except TypeError:
            self.reject(where, "the row is nested too deeply, more than 250 levels")
            return None
        own = row.get("task_id")
        if own is not None:
            if isinstance(own, bool) or not isinstance(own, str | int) or own == "":
                self.reject(where, f"`task_id` must be a text or an integer, not {_shown(own)}")
                return None
            if not self._own_ids.add(f"{route.environment}\0{row.get('epoch', 1)}\0{own}".encode()):
                self.reject(where, f"the `task_id` {_shown(own)} stands twice in {route.environment!r}")
                return None
            return own
        digest = hashlib.sha256(route.environment.encode() + b"\0")
        digest.update(canonical)
        name = digest.hexdigest()[:20]
        number = self._contents.number(f"{route.environment}\0{row.get('epoch', 1)}\0{name}".encode())
        if number == len(self._twins):
            self._twins.append(0)
        self._twins[number] += 1
        twin = f"-{self._twins[number]}" if self._twins[number] > 1 else ""
        return f"{route.environment}/{name}{twin}"


def _reasons_of_model(row: dict[str, Any], route: Route) -> list[str]:
    try:
        route.environment_class.task_model.model_validate(row)
    except ValidationError as error:
        # Only the path and the reason: the value may be as long as a prompt.
        details = error.errors(include_url=False, include_input=False)
        return [f"{'.'.join(str(part) for part in item['loc'])}: {_lower(item['msg'])}" for item in details[:5]]
    except Exception as error:  # a validator of the author's, which meant to refuse the row
        return [f"{route.environment_class.task_model.__name__} raised {type(error).__name__}: {error}"[:300]]
    return []


def _compared_tools(tools: list[dict[str, Any]], route: Route) -> _OfferedTools:
    known = route.environment_class.tools
    reasons, differing = [], []
    for tool in tools:
        name = tool.get("name")
        own = known.get(str(name))
        if tool.get("type", "function") == "function" and not (isinstance(name, str) and name in known):
            have = ", ".join(known) or "none"
            reasons.append(f"{route.environment!r} has no tool {_shown(name)} (its tools: {have})")
        elif own is not None and _shape(tool.get("parameters")) != _shape(own.parameters):
            differing.append(own.name)
    return _OfferedTools(tuple(reasons), tuple(differing))


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _shape(schema: Any) -> Any:
    """Reduce a JSON schema to what decides which arguments fit it: without titles, descriptions and order."""
    if isinstance(schema, list):
        return [_shape(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    shape: dict[str, Any] = {}
    for key, value in schema.items():
        if key in ("properties", "$defs") and isinstance(value, dict):  # here keys are names, and `title` may be one
            shape[key] = {name: _shape(inner) for name, inner in value.items()}
        elif key == "required" and isinstance(value, list):
            shape[key] = sorted(value, key=str)
        elif key not in ("title", "description"):
            shape[key] = _shape(value)
    return shape
