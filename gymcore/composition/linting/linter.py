"""
The linter: what is odd about rows that are all right one by one, with examples.

It looks at rows in the pass in which they are checked. Whether two are the same is asked of every row until there are
very many; what costs more, such as whether two prompts are nearly the same, of rows at distances that grow.
"""

from __future__ import annotations

import re
import zlib
from array import array
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from gymcore.composition.linting.near_prompts import NearPrompts
from gymcore.composition.rows.reader import Drift, shape_of_schema
from gymcore.documents import encode_json
from gymcore.plan import WarningName
from gymcore.records import ROUTE_KEYS
from gymcore.responses import text_of

__all__ = ["LintWarning", "Linter"]

EXAMPLES = 3
LEAST_ROWS = 20
"""With fewer rows, that they share a value says nothing."""
QUICK, THOROUGH = 200, 16_000
"""So many rows of one owner are looked at closely, then every second until there are as many again, and so on."""
ALL_ROWS = 20_000
"""So many rows of one owner are held against others; then only one prompt in eight, unless time does not matter."""
REMEMBERED_ROWS = 200_000
"""Rows that further ones are held against."""
REMEMBERED_TOOLS = 1000
REMEMBERED_FIELDS = 200

_SQUEEZED = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", b"abcdefghijklmnopqrstuvwxyz")
_SPACING = b" \t\r\n\v\f"
_LEAST_PROMPT = 16
"""Letters of a prompt that is taken for the same in another environment: `Say one.` may mean anything."""
_ANSWERS = re.compile(r"answer|solution|expected|target|ground.?truth|gold|label|reference_|^reference$|correct", re.I)
_IDENTITY = re.compile(r"(^|_)(id|uuid|index|idx)$", re.I)
_OPTION = re.compile(r"(?:^|[\s(])(?:[A-Ja-j]|\d{1,2})[).:]\s*$|[-*•]\s*$")


@dataclass(frozen=True)
class LintWarning:
    """Something odd about rows."""

    name: WarningName
    """What kind it is; the name by which it is silenced."""
    message: str
    """What was seen, in one line."""
    count: int = 1
    """How many rows, or pairs of rows, it is about: at least so many, where not every row was looked at."""
    examples: tuple[str, ...] = ()
    """Where the first of them stand."""

    def to_dict(self) -> dict[str, Any]:
        """Return what `--json` prints of it."""
        return {"name": self.name, "message": self.message, "count": self.count, "examples": list(self.examples)}


@dataclass
class _Seen:
    """Rows of one kind: how many, and where the first stand."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, example: str) -> None:
        self.count += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(example)


@dataclass
class _Owner:
    """The rows of one environment and one split."""

    number: int
    environment: str
    split: str | None
    identities: frozenset[str] = frozenset()
    """Keys that tell rows apart and say nothing."""
    rows: int = 0
    """Those that were looked at closely."""
    passed: int = 0
    distance: int = 1
    """Every how manieth row is looked at closely."""
    constants: dict[str, Any] = field(default_factory=dict)
    answers: dict[str, bool] = field(default_factory=dict)
    others: tuple[tuple[int, bool], ...] = ()
    """The owners whose prompts are compared with these, and whether what stands around them must be the same."""
    is_reference: bool = False
    """Whether its rows are only there to compare others with."""
    asks_code: bool = False
    """Whether a row brings no tools, and so offers those of the code."""

    @property
    def name(self) -> str:
        return self.environment if self.split is None else f"{self.environment} ({self.split})"


class Linter:
    """
    Looks at rows one after the other, and says at the end what is odd about them.

    Args:
        ignore: Warnings that are not looked for.
        is_alone: Whether all rows are of one environment and one split, so that there is nothing to compare them with.
        is_thorough: Whether time matters less than what is found.
        remembered: How many rows others are held against, the first ones.
    """

    def __init__(
        self,
        ignore: Collection[str] = (),
        *,
        is_alone: bool = False,
        is_thorough: bool = False,
        remembered: int = REMEMBERED_ROWS,
    ) -> None:
        self._remembered = remembered
        self._closely = THOROUGH if is_thorough else QUICK
        self._all = remembered if is_thorough else ALL_ROWS
        self._ignored = frozenset(ignore)
        self._compares = not is_alone and not {"shared-prompt", "leaked-prompt"} <= self._ignored
        self._looks_at_rows = self._compares or not {"duplicate-row", "answer-in-prompt", "constant-field"} <= (
            self._ignored
        )
        self._owners: dict[tuple[str, str | None], _Owner] = {}
        self._by_number: list[_Owner] = []
        self._found: dict[tuple[WarningName, str], _Seen] = {}
        self._places: list[str] = []
        self._place_owners = array("I")
        self._tasks: dict[int, int] = {}
        self._prompts: dict[int, int] = {}
        """Where each was seen first."""
        self._near = NearPrompts()
        self._shapes: dict[str, dict[bytes, dict[str, str]]] = {}
        """For each tool, the environments and places of each of its schemas."""
        self._ranges: dict[str, tuple[float, float]] = {}
        self._without_validation: list[str] = []

    # -- what is told of environments ----------------------------------------------------------------------------------

    def declare(
        self, environment: str, *, split: str | None, splits: Iterable[str], reward_range: tuple[float, float] | None
    ) -> None:
        """
        Say what an environment declares.

        Args:
            environment: Its name.
            split: The split that is taken, or None where its rows come from elsewhere.
            splits: Those that it has.
            reward_range: What its manifest says of its rewards.
        """
        if reward_range is not None:
            self._ranges[environment] = reward_range
        if split == "train" and not {"validation", "test"} & set(splits):
            self._without_validation.append(environment)

    def offered(self, environment: str, tools: Iterable[Any], where: str) -> None:
        """Look at the tools that an environment's rows offer; a tool that is no function of the row's is nobody's."""
        if "tool-conflict" in self._ignored:
            return
        for tool in tools:
            name = tool.get("name") if isinstance(tool, dict) and tool.get("type", "function") == "function" else None
            if not isinstance(name, str) or (name not in self._shapes and len(self._shapes) >= REMEMBERED_TOOLS):
                continue
            shape = orjson_sorted(shape_of_schema(tool.get("parameters")))
            shapes = self._shapes.setdefault(name, {})
            if shape in shapes or len(shapes) < 10:
                shapes.setdefault(shape, {}).setdefault(environment, where)

    # -- rows ----------------------------------------------------------------------------------------------------------

    def add(
        self, environment: str, split: str | None, row: Mapping[str, Any], where: str, *, is_reference: bool = False
    ) -> bool:
        """
        Look at a row that is all right.

        Args:
            environment: Its environment's name.
            split: Its split, or None where nobody knows.
            row: The row.
            where: Its place, `file:line`.
            is_reference: Whether it is no row of the mix, and only there to compare others with.

        Returns:
            Whether it offers the tools of the code, for the first time of this environment and split.
        """
        owner = self._owners.get((environment, split))
        if owner is None:
            owner = self._new_owner(environment, split)
            owner.is_reference = is_reference
            owner.identities = _NO_CONTENT | {key for key in row if _IDENTITY.search(key)}
        params = row["responses_create_params"]
        is_news = not params.get("tools") and not owner.asks_code
        if is_news:
            owner.asks_code = True
        if not self._looks_at_rows:
            return is_news
        asked, around = _prompt(params.get("input"))
        owner.passed += 1
        if owner.passed > self._all and asked and (len(asked) * 31 + ord(asked[-1]) + ord(asked[len(asked) // 2])) & 7:
            return is_news  # twins are left out together
        is_close = owner.passed % owner.distance == 0
        self._compare(owner, row, asked, around, where, is_close=is_close)
        if is_close and not is_reference:
            owner.rows += 1
            if owner.rows % self._closely == 0:
                owner.distance *= 2
            if "answer-in-prompt" not in self._ignored:
                self._look_for_answers(owner, row, asked, around, where)
            if "constant-field" not in self._ignored:
                _keep_constants(owner, row)
        return is_news

    def _new_owner(self, environment: str, split: str | None) -> _Owner:
        owner = _Owner(len(self._by_number), environment, split)
        for other in self._by_number:
            is_leak = other.environment == environment
            if is_leak and "example" in (other.split, split):
                continue  # examples are a part of the others, to be looked at
            if ("leaked-prompt" if is_leak else "shared-prompt") not in self._ignored:
                owner.others += ((other.number, is_leak),)
                other.others += ((owner.number, is_leak),)
        self._by_number.append(owner)
        self._owners[environment, split] = owner
        return owner

    def _first(self, places: dict[int, int], key: int, place: int) -> int | None:
        """Return where a key was seen first, or None where this is the first time."""
        first = places.get(key)
        if first is None and place < self._remembered:
            places[key] = place
        return first

    def _compare(
        self, owner: _Owner, row: Mapping[str, Any], asked: str, around: str, where: str, *, is_close: bool
    ) -> None:
        identities = owner.identities
        own = [value for key, value in row.items() if key not in identities]
        prompt: Any = asked
        if len(asked) <= 1000:
            prompt = asked.encode("utf-8", "replace").translate(_SQUEEZED, _SPACING)
        place = len(self._places)
        if place < self._remembered:
            self._places.append(where)
            self._place_owners.append(owner.number)
        first = self._first(self._tasks, hash((prompt, around, orjson_sorted(own))), place)
        if first is not None:
            self._see_twin(owner, where, first)
            if self._owner_of(first).environment == owner.environment:
                return
        if not self._compares:
            return
        is_short = len(prompt) < _LEAST_PROMPT
        first = self._first(self._prompts, hash((prompt, around)) if is_short else hash(prompt), place)
        if first is not None:
            self._see_shared(owner, where, first, "prompts stand in both {} and {}")
        elif is_close and not is_short and place < self._remembered:
            near = self._near.add(owner.number, hash(around), place, asked, owner.others)
            if near is None:
                return
            if self._owner_of(near).environment == owner.environment:
                told = f"prompts of {owner.name} are nearly the same as prompts of {self._owner_of(near).name}"
                self._see("leaked-prompt", told, where, self._places[near])
            else:
                self._see_shared(owner, where, near, "prompts stand nearly the same in both {} and {}")

    def _owner_of(self, place: int) -> _Owner:
        return self._by_number[self._place_owners[place]]

    def _see_twin(self, owner: _Owner, where: str, first: int) -> None:
        """Remember a row of which an earlier one says the same."""
        other = self._owner_of(first)
        if other is owner:
            if not owner.is_reference:
                told = f"rows of {owner.name} say the same as others of it"
                self._see("duplicate-row", told, where, self._places[first])
        elif other.environment == owner.environment and "example" not in (other.split, owner.split):
            told = f"rows of {owner.name} say the same as rows of {other.name}"
            self._see("leaked-prompt", told, where, self._places[first])

    def _see_shared(self, owner: _Owner, where: str, first: int, told: str) -> None:
        other = self._owner_of(first)
        # One line of one file is in both because somebody plays it twice on purpose, under two names.
        if other.environment != owner.environment and where != self._places[first]:
            told = told.format(other.name, owner.name)
            self._see("shared-prompt", told, where, self._places[first])

    def _look_for_answers(self, owner: _Owner, row: Mapping[str, Any], asked: str, around: str, where: str) -> None:
        for key, value in row.items():
            kind = type(value)
            if kind is str:
                if len(value) >= 8:
                    self._look_for_answer(owner, key, value, asked, around, where)
            elif kind is dict and key != "responses_create_params" and key not in ROUTE_KEYS:
                for inner, text in list(value.items())[:50]:
                    if type(text) is str and len(text) >= 8:
                        self._look_for_answer(owner, f"{key}.{inner}", text, asked, around, where)

    def _look_for_answer(self, owner: _Owner, key: str, value: str, asked: str, around: str, where: str) -> None:
        is_answer = owner.answers.get(key)
        if is_answer is None:
            is_answer = _ANSWERS.search(key) is not None and not _IDENTITY.search(key)
            if len(owner.answers) < REMEMBERED_FIELDS:
                owner.answers[key] = is_answer
        if is_answer and _is_telling(value) and (_tells(asked, value) or _tells(around, value)):
            self._see("answer-in-prompt", f"prompts of {owner.name} hold the row's own {key!r}", where)

    def _see(self, name: WarningName, told: str, where: str, other: str | None = None) -> None:
        if name in self._ignored:
            return
        self._found.setdefault((name, told), _Seen()).add(where if other is None else f"{where} and {other}")

    # -- what came of it -----------------------------------------------------------------------------------------------

    def warnings(self, drifts: Mapping[tuple[str, str], Drift] | None = None) -> tuple[LintWarning, ...]:
        """
        Return what is odd, each kind of it once for each environment or pair.

        Args:
            drifts: Rows that describe tools otherwise than the code does.
        """
        found = [
            LintWarning(name, _counted(seen.count, told), seen.count, tuple(seen.examples))
            for (name, told), seen in self._found.items()
        ]
        for (environment, tool), drift in (drifts or {}).items():
            told = f"rows of {environment} describe the parameters of {tool} otherwise than its code does"
            found.append(LintWarning("tool-drift", _counted(drift.rows, told), drift.rows, tuple(drift.places)))
        found.extend(self._conflicts())
        found.extend(self._constants())
        for name in sorted(set(self._without_validation)):
            found.append(LintWarning("no-validation", f"{name} has no validation split to hold its training against"))
        found.extend(self._scales())
        return tuple(warning for warning in found if warning.name not in self._ignored)

    def _conflicts(self) -> Iterable[LintWarning]:
        for name, shapes in sorted(self._shapes.items()):
            environments = {environment for places in shapes.values() for environment in places}
            if len(shapes) > 1 and len(environments) > 1:
                places = [
                    f"{environment}: {where}" for found in shapes.values() for environment, where in found.items()
                ]
                told = f"the tool {name!r} has {len(shapes)} schemas in {', '.join(sorted(environments))}"
                yield LintWarning("tool-conflict", told, len(shapes), tuple(places[:EXAMPLES]))

    def _constants(self) -> Iterable[LintWarning]:
        for owner in self._by_number:
            if owner.rows >= LEAST_ROWS:
                for key, value in owner.constants.items():
                    text = encode_json(value).decode()
                    shown = text if len(text) <= 60 else f"{text[:57]}..."
                    told = f"every row of {owner.name} has the same {key!r}: {shown}"
                    yield LintWarning("constant-field", told, owner.rows)

    def _scales(self) -> Iterable[LintWarning]:
        if len(set(self._ranges.values())) > 1:
            told = ", ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in sorted(self._ranges.items()))
            yield LintWarning("reward-ranges", f"rewards are on different scales: {told}", len(self._ranges))


_NO_CONTENT = frozenset((*ROUTE_KEYS, "responses_create_params"))


def orjson_sorted(value: Any) -> bytes:
    """Write a value so that equal values are equal bytes, whatever the order of their keys."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        return encode_json(value)


def _prompt(given: Any) -> tuple[str, str]:
    """Return what is asked, and what stands around it: instructions, and earlier turns."""
    if isinstance(given, str):
        return given, ""
    asked: list[str] = []
    around: list[str] = []
    for item in given if isinstance(given, list) else ():
        if not isinstance(item, dict):  # an environment's own task model may take what others do not
            continue
        content = item.get("content")
        text = content if type(content) is str else _text(item)
        (asked if item.get("role") == "user" else around).append(text)
    return "\n".join(asked), "\n".join(around)


def _text(item: dict[str, Any]) -> str:
    content = item.get("content")
    if isinstance(content, list) and all(isinstance(part, dict) and "text" in part for part in content):
        return text_of(item)
    # Pictures and earlier calls are no text, and make another prompt all the same.
    return f"{text_of(item)} {zlib.crc32(orjson_sorted(item)):08x}"


def _keep_constants(owner: _Owner, row: Mapping[str, Any]) -> None:
    constants = owner.constants
    if owner.rows == 1:
        own = [(key, value) for key, value in row.items() if key not in _NO_CONTENT]
        constants.update(own[:REMEMBERED_FIELDS])
        return
    differing = [key for key, value in constants.items() if key not in row or row[key] != value]
    for key in differing:
        del constants[key]


def _is_telling(value: str) -> bool:
    """Whether a text is long enough that its standing in a prompt is no accident."""
    return len(value) >= 16 or (len(value) >= 8 and value.count(" ") >= 2)


def _tells(text: str, value: str) -> bool:
    """Whether a text holds a value as something of its own: not as a part of a word, and not as one of some options."""
    place = text.find(value)
    if place < 0 or len(text.strip()) == len(value):
        return False
    end = place + len(value)
    is_whole = not (text[place - 1 : place].isalnum() or text[end : end + 1].isalnum())
    return is_whole and not _OPTION.search(text[max(0, place - 8) : place])


def _counted(count: int, told: str) -> str:
    return f"{told} ({count:,} {'row' if count == 1 else 'rows'})"
