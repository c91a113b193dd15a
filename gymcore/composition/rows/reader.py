"""
Rows: read from files and packages, checked against their environment, and given their route.
"""

from __future__ import annotations

import hashlib
import re
import reprlib
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Protocol

import orjson
from pydantic import ValidationError
from xxhash import xxh3_64_intdigest, xxh3_128_digest

from gymcore.compact_keys import KeyNumbers, KeySet
from gymcore.composition.rows.rejects import RAW_BYTES, CutLine, Rejects
from gymcore.composition.rows.strict import lost_in_reading
from gymcore.documents import DocumentError, decode_exactly, decode_json, encode_json
from gymcore.errors import DataError, Problem
from gymcore.interfaces import Environment
from gymcore.records import ROLLOUT_KEYS, ROUTE_KEYS, Task, extend_object

__all__ = [
    "MAX_EPOCH",
    "MAX_LINE_BYTES",
    "Drift",
    "RowReader",
    "RowSource",
    "Served",
    "numbered_lines",
    "says_where_it_goes",
    "shape_of_schema",
]

MAX_LINE_BYTES = 64 << 20
"""The longest line that is read; a longer one is a bad row, of which no more than this is ever in memory."""

MAX_EPOCH = 2**31 - 1
"""The highest epoch of a row; times the repeats it is the number of a rollout, which has to stay an exact one."""

REMEMBERED_TOOLS = 64
"""How many different lists of tools are remembered: most rows of a file offer the same ones."""

REMEMBERED_REASONS = 100
"""How many kinds of reasons are counted one by one."""

_ROUTE_KEYS = frozenset(ROUTE_KEYS)


class Served(Protocol):
    """What is known of whoever serves a row: a `Route`, or less than that."""

    @property
    def name(self) -> str:
        """The `agent_ref.name` of its rows."""

    @property
    def environment(self) -> str:
        """The environment's name."""

    @property
    def environment_class(self) -> type[Environment[Any, Any]]:
        """Its class, whose task model the rows must fit."""


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
    """
    Yield the non-blank lines of a file with their one-based numbers, and sum up its digest on the way.

    Of a line that is too long only the beginning is yielded, as a `CutLine`.
    """
    digest = hashlib.sha256()
    sum_up = digest.update
    read = getattr(lines, "readline", None)
    for number, line in enumerate(lines if read is None else iter(partial(read, MAX_LINE_BYTES + 1), b""), start=1):
        sum_up(line)
        if len(line) > MAX_LINE_BYTES:
            cut = CutLine(line[:RAW_BYTES])
            cut.length = len(line)
            while read is not None and not line.endswith(b"\n") and (line := read(1 << 20)):
                sum_up(line)
                cut.length += len(line)
            cut.length -= line.endswith(b"\n")
            source.rows += 1
            yield number, cut
            continue
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
class Drift:
    """Rows that describe the parameters of a tool otherwise than its code does."""

    rows: int = 0
    places: list[str] = field(default_factory=list)
    """Where the first of them stand."""


@dataclass
class RowReader:
    """
    Checks rows one by one and gathers every mistake; identities are given in the order of reading.

    Memory grows by some 25 bytes a row, which tell twins apart.
    """

    rejects: Rejects | None = None
    """Where bad rows go so that the others can be used; None where one bad row spoils all."""
    on_tools: Callable[[str, list[dict[str, Any]], str], None] | None = None
    """Told of every list of tools that an environment's rows bring, and where it stands."""
    problems: list[Problem] = field(default_factory=list)
    bad: int = 0
    read: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    """How many rows each kind of mistake has spoilt."""
    drifts: dict[tuple[str, str], Drift] = field(default_factory=dict)
    """By environment and tool."""
    _line: bytes = b""
    """The line that is being looked at."""
    _parsed: tuple[dict[str, Any], bytes] = field(default_factory=lambda: ({}, b""))
    """The row that was read from it, and its content in canonical form."""
    reserved: frozenset[str] = frozenset(ROLLOUT_KEYS)
    """Keys that no row may bring."""
    is_alone: bool = False
    """Whether it reads a single row, which has no twins; then it costs hardly any memory."""
    _twins: array[int] = field(default_factory=lambda: array("I"))
    """How often each content was seen, by its number."""
    _has_derived: bool = False
    """Whether some row brings an id that was derived from a content."""
    _offered: dict[tuple[tuple[str, type], bytes], _OfferedTools] = field(default_factory=dict)
    _last_offered: tuple[tuple[str, type] | None, Any, _OfferedTools] = (None, None, _NO_TOOLS)
    _last_shown: tuple[str, Any] = ("", None)

    @cached_property
    def _contents(self) -> KeyNumbers:
        return KeyNumbers()

    @cached_property
    def _own_ids(self) -> KeySet:
        return KeySet()

    def raise_problems(self) -> None:
        """
        Raise what was gathered.

        Raises:
            DataError: at least one row was wrong, and bad rows are not left out.
        """
        if self.bad and self.rejects is None:
            raise DataError(self.problems, count=self.bad, rows=self.read)

    def reject(self, where: str, message: str, *hints: str) -> None:
        """Count a bad row, and keep its mistake where it is one of the first, or where it is to be left out."""
        self.bad += 1
        kind = _kind_of(message)
        if kind not in self.reasons and len(self.reasons) >= REMEMBERED_REASONS:
            kind = "other reasons"
        self.reasons[kind] = self.reasons.get(kind, 0) + 1
        if self.rejects is not None:
            self.rejects.add(where, message, hints, self._line)
        if len(self.problems) < DataError.shown:
            self.problems.append(Problem(message, where=where, hints=hints))

    def parse(self, line: bytes, where: str, read: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """Parse one line into a row, or reject it; `read` is what `decode_json` has made of it, where it has."""
        self.read += 1
        self._line = line
        if isinstance(line, CutLine):
            self.reject(where, f"the line is longer than {MAX_LINE_BYTES >> 20} MB")
            return None
        try:
            row = decode_json(line) if read is None else read
        except DocumentError as error:
            self.reject(where, *_explained(line, error))
            return None
        if not isinstance(row, dict):
            self.reject(where, f"a row is a JSON object, not {_shown(row)}")
            return None
        if not self.reserved.isdisjoint(row):
            taken = next(key for key in row if key in self.reserved)
            self.reject(where, f"the row has the key {taken!r}, which a rollout adds; is this file a result?")
            return None
        # Here, before anything is done to the row: what is written anew has lost already what reading loses.
        try:
            content = _canonical(row)
            is_routed = not _ROUTE_KEYS.isdisjoint(row)
            route = orjson.dumps({key: row[key] for key in ROUTE_KEYS if key in row}) if is_routed else b""
            lost = lost_in_reading(line, row, content, route)
        except TypeError:
            self.reject(where, _TOO_DEEP)
            return None
        if lost is not None:
            self.reject(where, lost)
            return None
        self._parsed = row, content
        return row

    def routed(
        self, line: bytes, row: dict[str, Any], route: Served, where: str, split: str | None = None
    ) -> tuple[bytes, str] | None:
        """
        Check a row against its environment and return it with its route, and its task's id, or reject it.

        The author's bytes are kept as they are; only a route key that says something else is replaced.

        Args:
            line: The row's bytes.
            row: The row.
            route: Who serves it.
            where: Its place, `file:line`.
            split: Its split, where several are read: each may number its tasks from one.
        """
        reasons = _reasons_of_model(row, route.environment_class.task_model)
        if reasons:
            self.reject(where, "; ".join(reasons))
            return None
        offered = self._offered_tools(row, route, where)
        is_new = _ROUTE_KEYS.isdisjoint(row)  # as nearly all are, and then there is nothing to hold against a route
        served_as = None if is_new or not route.environment_class.keeps_route else _other_route(row, route)
        if not is_new:
            reasons = _reasons_of_route(row, route, served_as)
        if reasons or offered.reasons:
            is_of_another = row.get("environment") not in (None, route.environment)
            hint = f"try: jq -c 'del(.environment)' FILE, where they are rows of {route.environment!r} all the same"
            self.reject(where, "; ".join([*reasons, *offered.reasons]), *([hint] if is_of_another else []))
            return None
        task_id = self._identify(row, route.environment, where, split, is_theirs=served_as is not None)
        if task_id is None:
            return None
        if offered.differing:
            self._count_drift(offered, route, where)
        wanted: dict[str, Any] = {
            "agent_ref": {"type": "responses_api_agents", "name": route.name},
            "environment": route.environment,
            "task_id": task_id,
        }
        if is_new:
            return extend_object(line, encode_json(wanted)), str(task_id)
        given = row.get("agent_ref")
        if served_as is not None:
            wanted["agent_ref"]["served_as"] = served_as
        elif isinstance(given, dict) and given.get("name") == route.name:
            wanted["agent_ref"] = given
        if any(key in row and row[key] != value for key, value in wanted.items()):
            return encode_json({**decode_exactly(line), **wanted}), str(task_id)
        missing = {key: value for key, value in wanted.items() if key not in row}
        return extend_object(line, encode_json(missing)) if missing else line, str(task_id)

    def _count_drift(self, offered: _OfferedTools, route: Served, where: str) -> None:
        for name in offered.differing:
            drift = self.drifts.setdefault((route.environment, name), Drift())
            drift.rows += 1
            if len(drift.places) < 3:
                drift.places.append(where)

    def unrouted(self, row: dict[str, Any], owner: str, where: str, split: str | None = None) -> bool:
        """Check a row whose environment is not installed, by what holds for every row; False where it is rejected."""
        reasons = _reasons_of_model(row, Task)
        if reasons:
            self.reject(where, "; ".join(reasons))
            return False
        if self._identify(row, owner, where, split) is None:
            return False
        tools = row["responses_create_params"].get("tools")
        if tools and self.on_tools is not None and self._last_shown != (owner, tools):
            self._last_shown = owner, tools
            self.on_tools(owner, tools, where)
        return True

    def _offered_tools(self, row: dict[str, Any], route: Served, where: str) -> _OfferedTools:
        tools = row["responses_create_params"].get("tools")
        if not tools:
            return _NO_TOOLS
        owner, before, known = self._last_offered
        asked = (route.environment, route.environment_class)  # two run folders may call different ones alike
        if owner == asked and before == tools:  # nearly always, and cheaper than a digest
            return known
        key = (asked, hashlib.blake2b(encode_json(tools), digest_size=16).digest())
        offered = self._offered.get(key)
        if offered is None:
            if len(self._offered) == REMEMBERED_TOOLS:
                self._offered.clear()
            offered = self._offered[key] = _compared_tools(tools, route)
            if self.on_tools is not None:
                self.on_tools(route.environment, tools, where)
        self._last_offered = (asked, tools, offered)
        return offered

    def _identify(
        self, row: dict[str, Any], owner: str, where: str, split: str | None, *, is_theirs: bool = False
    ) -> str | int | None:
        """
        Give a task its id: its author's own, or a digest of its content and a number for twins.

        What somebody else calls his tasks (`is_theirs`) need be no id of ours: it is taken where it can be.
        """
        parsed, canonical = self._parsed
        if parsed is not row:
            try:
                canonical = _canonical(row)
            except TypeError:
                self.reject(where, _TOO_DEEP)
                return None
        own = row.get("task_id")
        epoch = row.get("epoch", 1)
        if own is not None:
            told = self._objection_to(own, owner, split, epoch)
            if told is None:
                return own  # type: ignore[no-any-return]
            if not is_theirs:
                self.reject(where, told)
                return None
        # No cryptography: whoever made two rows of one digest would only have made twins. It is 15 times as fast.
        digest = xxh3_128_digest(canonical, xxh3_64_intdigest(owner.encode()))[:_ID_BYTES]
        name = f"{owner}/{digest.hex()}"
        if self.is_alone:
            return name
        number = self._content(digest, epoch)
        self._twins[number] += 1
        while self._has_derived and _key(owner, split, epoch, _twin(name, self._twins[number])) in self._own_ids:
            self._twins[number] += 1  # a row that was composed before has this one
        return _twin(name, self._twins[number])

    def _content(self, digest: bytes, epoch: Any) -> int:
        """Return the number of a content in an epoch."""
        number = self._contents.number_of(
            digest + b"\0\0" if epoch == 1 else xxh3_128_digest(b"%b%a" % (digest, epoch))
        )
        if number == len(self._twins):
            self._twins.append(0)
        return number

    def _objection_to(self, own: Any, owner: str, split: str | None, epoch: Any) -> str | None:
        """Say why an id of an author's own can be none, and remember it where it can."""
        if isinstance(own, bool) or not isinstance(own, str | int) or own == "":
            return _not_an_id(own)
        if self.is_alone:
            return None
        if not self._own_ids.add(_key(owner, split, epoch, own)):
            return f"the `task_id` {_shown(own)} stands twice in {owner!r}"
        # One that was derived once, for a row that was composed before: it may be given to no other row here.
        if isinstance(own, str) and own.startswith(owner) and (found := _DERIVED.fullmatch(own, len(owner))):
            self._has_derived = True
            if int(found[2] or 1) <= self._twins[self._content(bytes.fromhex(found[1]), epoch)]:
                return f"an earlier row without a `task_id` has the same content as {_shown(own)}, and so the same id"
        return None


def _not_an_id(own: Any) -> str:
    return f"`task_id` must be a text or an integer, not {_shown(own)}"


_ID_BYTES = 10
_DERIVED = re.compile(r"/([0-9a-f]{20})(?:-([1-9]\d{0,8}))?")
"""What follows the name of the environment in an id that was derived from a content: its digest, and which twin."""


def _twin(name: str, number: int) -> str:
    return name if number == 1 else f"{name}-{number}"


def _key(owner: str, split: str | None, epoch: Any, task_id: str | int) -> bytes:
    return f"{owner}\0{split}\0{epoch}\0{task_id}".encode("utf-8", "surrogatepass")


_TOO_DEEP = "the row is nested too deeply, more than 250 levels"


def _canonical(row: dict[str, Any]) -> bytes:
    """
    Write a row without its route keys, so that rows of the same content are the same bytes.

    Raises:
        TypeError: it is nested too deeply.
    """
    if not _ROUTE_KEYS.isdisjoint(row):
        row = {key: value for key, value in row.items() if key not in _ROUTE_KEYS}
    return orjson.dumps(row, option=orjson.OPT_SORT_KEYS)


def _explained(line: bytes, error: DocumentError) -> tuple[str, ...]:
    """Say what is wrong with a line that is no JSON, in the words of whoever made it, and what to try."""
    if kind := next((kind for start, kind in _NO_TEXT.items() if line.startswith(start)), None):
        hint = f"try: a name that ends in {kind}" if kind in (".gz", ".parquet") else "try: unpack it first"
        return f"not JSON: the file is packed, as files named *{kind} are", hint
    if line.startswith((b"\xff\xfe", b"\xfe\xff")) or _has_halves_of_zeros(line[:64]):
        return "not JSON: this looks like UTF-16, and not UTF-8", "try: iconv -f UTF-16 -t UTF-8"
    if line.startswith(b"\xef\xbb\xbf"):
        return "a byte order mark (BOM) stands inside the file; were two files joined?", "try: remove it"
    try:
        line.decode()
    except UnicodeDecodeError as undecodable:
        return (f"not JSON: not UTF-8 at byte {undecodable.start + 1}",)
    if _BROKEN_BY_CR.search(line):
        return "the lines end with CR alone, as old systems wrote them", "try: tr '\\r' '\\n'"
    if not_finite := _NOT_FINITE.search(line):
        return error.message, f"{not_finite[1].decode()} is no JSON; try: null"
    return (error.message,)


_NO_TEXT = {
    b"\x1f\x8b": ".gz",
    b"PAR1": ".parquet",
    b"\x28\xb5\x2f\xfd": ".zst",
    b"\xfd7zXZ\0": ".xz",
    b"BZh": ".bz2",
    b"PK\x03\x04": ".zip",
}
"""How files begin that are no text, and what they are called.

Source: https://en.wikipedia.org/wiki/List_of_file_signatures
"""


def _has_halves_of_zeros(sample: bytes) -> bool:
    """Whether every other byte is mostly zero and the bytes between are not, as where UTF-16 holds JSON."""
    first, second = sample[::2].count(0), sample[1::2].count(0)
    return max(first, second) * 4 >= len(sample) > 4 * min(first, second)


_BROKEN_BY_CR = re.compile(rb"\}\s*\r\s*\{")
_NOT_FINITE = re.compile(rb"[:\[,]\s{0,100}(-?(?:NaN|Infinity))\b")
_VARYING = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|\d[\d.,]*")


def _kind_of(message: str) -> str:
    """Return what messages of one kind have in common: the first line without texts and numbers."""
    return _VARYING.sub("...", message[:300].partition("; ")[0])


def _reasons_of_model(row: dict[str, Any], task_model: type[Task]) -> list[str]:
    if not _ROUTE_KEYS.isdisjoint(row):  # a table writes null where a row has nothing
        row = {key: value for key, value in row.items() if value is not None or key not in _ROUTE_KEYS}
    try:
        task_model.model_validate(row)
    except ValidationError as error:
        # Only the path and the reason: the value may be as long as a prompt.
        details = error.errors(include_url=False, include_input=False)
        told = [f"{'.'.join(str(part) for part in item['loc'])}: {_lower(item['msg'])}" for item in details[:5]]
        # One thing, although the model has a word for each type that it is not.
        return [_not_an_id(row["task_id"]), *told[2:]] if told[0].startswith("task_id.") else told
    except Exception as error:  # a validator of the author's, which meant to refuse the row
        return [f"{task_model.__name__} raised {type(error).__name__}: {error}"[:300]]
    return []


def _reasons_of_route(row: dict[str, Any], route: Served, served_as: dict[str, Any] | None) -> list[str]:
    """Say why a row that brings keys of a route cannot have this one."""
    reasons = []
    epoch = row.get("epoch", 1)
    if type(epoch) is not int or not 1 <= epoch <= MAX_EPOCH:
        told = f"`epoch` counts from 1, to {MAX_EPOCH} at most, and says {_shown(epoch)}"
        reasons.append(f"{told}; a key of the author's needs another name")
    environment = row.get("environment")
    if environment not in (None, route.environment) and served_as is None:
        reasons.append(f"`environment` says {_shown(environment)}, but its route leads to {route.environment!r}")
    return reasons


def _other_route(row: dict[str, Any], route: Served) -> dict[str, Any] | None:
    """Return what a row says of a route that is not ours; None where it says nothing, or was routed here already."""
    given = row.get("agent_ref")
    if isinstance(given, dict) and given.get("name") == route.name:
        # Theirs may be called like ours; but whoever composes here says all three, and by hand it is this one alone.
        environment = row.get("environment")
        if environment == route.environment or (environment is None and row.get("task_id") is None):
            return None
    return {key: row[key] for key in ROUTE_KEYS if row.get(key) is not None} or None


def says_where_it_goes(row: dict[str, Any], route: Served) -> bool:
    """Whether a row is taken for one that was routed here before, and holds already what its server is to be told."""
    given = row.get("agent_ref")
    return isinstance(given, dict) and "served_as" in given and _other_route(row, route) is None


def _compared_tools(tools: list[dict[str, Any]], route: Served) -> _OfferedTools:
    known = route.environment_class.tools
    takes_others = route.environment_class.takes_other_tools()
    reasons, differing = [], []
    for tool in tools:
        name = tool.get("name")
        own = known.get(str(name))
        if tool.get("type", "function") == "function" and not (
            isinstance(name, str) and (name in known or takes_others)
        ):
            have = ", ".join(known) or "none"
            reasons.append(f"{route.environment!r} has no tool {_shown(name)} (its tools: {have})")
        elif own is not None and shape_of_schema(tool.get("parameters")) != shape_of_schema(own.parameters):
            differing.append(own.name)
    return _OfferedTools(tuple(reasons), tuple(differing))


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


_SHOWN = reprlib.Repr()
_SHOWN.maxlevel, _SHOWN.maxstring, _SHOWN.maxlong = 3, 60, 60


def _shown(value: Any) -> str:
    text = _SHOWN.repr(value)  # bounded, because a value may be as deep and as long as a line
    return text if len(text) <= 60 else text[:57] + "..."


def shape_of_schema(schema: Any) -> Any:
    """Reduce a JSON schema to what decides which arguments fit it: without titles, descriptions and order."""
    if isinstance(schema, list):
        return [shape_of_schema(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    shape: dict[str, Any] = {}
    for key, value in schema.items():
        if key in ("properties", "$defs") and isinstance(value, dict):  # here keys are names, and `title` may be one
            shape[key] = {name: shape_of_schema(inner) for name, inner in value.items()}
        elif key == "required" and isinstance(value, list):
            shape[key] = sorted(value, key=str)
        elif key not in ("title", "description"):
            shape[key] = shape_of_schema(value)
    return shape
