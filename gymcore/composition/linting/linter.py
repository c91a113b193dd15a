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
from itertools import islice
from typing import Any, NamedTuple

import orjson

from gymcore.composition.linting.near_prompts import COMMON, Near, NearPrompts
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
REMEMBERED_OWNERS = 200
"""Environments and splits whose rows are looked at; whoever has more has no list of environments."""
REMEMBERED_PAIRS = 20_000
"""Pairs of prompts of which is known in the end whether they are only of one template."""
REMEMBERED_TOOLS = 1000
REMEMBERED_FIELDS = 200
ANSWER_KEYS, INNER_KEYS = 1000, 50
"""So many keys of a row, and of an object in it, are held against the words for answers; rows have some ten."""
LOOKED_AT, LOOKED_OVER = 1_000_000, 5
"""So many characters, and so many times its prompt, are read for all answers of a row; most are read once or twice."""
PLACE_COST = 200
"""As so many characters counts a place where an answer stands and is none."""
SAMPLED_ANSWERS, SAMPLED_EACH, SAMPLE_LENGTH = 8, 2, 2000
"""Of so many answers of a key, so many prompts each are kept, their first and last so many characters."""
SAMPLED_LENGTH = 5_000_000
"""So many characters are kept of all of them."""
CHOICE_LENGTH, TOLD = 1000, 200
"""No choice of a list is longer, and of so many is asked in the end whether they are choices."""
KEY_LENGTH = 200
"""Of a longer key the start is looked at: it is no name."""

_SQUEEZED = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", b"abcdefghijklmnopqrstuvwxyz")
_SPACING = b" \t\r\n\v\f"
_LEAST_PROMPT = 16
"""Letters of a prompt that is taken for the same in another environment: `Say one.` may mean anything."""
_ANSWERS = re.compile(r"answer|solution|expected|target|ground.?truth|gold|label|reference_|^reference$|correct", re.I)
_IDENTITY = re.compile(r"(^|_)(id|uuid|index|idx)$", re.I)
_WORD_END = re.compile(r"[\W_]")
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
class _Answers:
    """The values of a key that speaks of answers, in the rows of one owner."""

    samples: dict[str, list[str]] = field(default_factory=dict)
    """For some values, prompts of rows that have them."""
    told: dict[str, _Seen] = field(default_factory=dict)
    """For each value that stands in prompts of its own rows, these rows."""
    further: _Seen = field(default_factory=_Seen)
    """The rows of values beyond those."""

    def wants(self, value: str) -> bool:
        """Whether another prompt of a value is to be kept."""
        prompts = self.samples.get(value)
        return len(self.samples) < SAMPLED_ANSWERS if prompts is None else len(prompts) < SAMPLED_EACH

    def add(self, value: str, where: str) -> None:
        """Remember a row whose prompt holds its own value."""
        if value in self.told or (len(value) <= CHOICE_LENGTH and len(self.told) < TOLD):
            self.told.setdefault(value, _Seen()).add(where)
        elif not self.is_choice(value):
            self.further.add(where)

    def is_choice(self, value: str) -> bool:
        """Whether a value stands in most prompts of rows that have another one: they list what may be answered."""
        others = [prompt for other, prompts in self.samples.items() if other != value for prompt in prompts]
        missed = 0
        for prompt in others:
            missed += not _tells(prompt, value, LOOKED_AT)[0]
            if 2 * missed >= len(others):
                return False
        return bool(others)

    def leaks(self) -> _Seen:
        """Return the rows whose prompts hold their own value, which is no choice."""
        found = _Seen()
        for seen in (*(seen for value, seen in self.told.items() if not self.is_choice(value)), self.further):
            found.count += seen.count
            found.examples += seen.examples[: EXAMPLES - len(found.examples)]
        return found


@dataclass
class _Owner:
    """The rows of one environment and one split."""

    number: int
    environment: str
    split: str | None
    rows: int = 0
    """Those that were looked at closely."""
    passed: int = 0
    distance: int = 1
    """Every how manieth row is looked at closely."""
    constants: dict[str, Any] | None = None
    """What has been the same in all rows."""
    answers: dict[str, bool] = field(default_factory=dict)
    """Whether a key speaks of answers."""
    known_answers: dict[str, _Answers] = field(default_factory=dict)
    others: list[tuple[int, bool]] = field(default_factory=list)
    """The owners whose prompts are compared with these, and whether what stands around them must be the same."""
    siblings: list[_Owner] = field(default_factory=list)
    """The other splits of its environment."""
    tasks: dict[int, int] = field(default_factory=dict)
    """Where each row was seen first."""
    asked: dict[int, int] = field(default_factory=dict)
    """Where each prompt was seen first, times eight, and how many rows with other values have it; of a split only."""
    around: tuple[str, int] = ("", 0)
    """What stood around the last prompt, and a hash of it: nearly always what stands around the next one."""
    is_reference: bool = False
    """Whether its rows are only there to compare others with."""
    asks_code: bool = False
    """Whether a row brings no tools, and so offers those of the code."""

    @property
    def name(self) -> str:
        return self.environment if self.split is None else f"{self.environment} ({self.split})"


class _Pair(NamedTuple):
    """Two prompts that are odd together, unless they are of one template."""

    name: WarningName
    told: str
    example: str
    owner: _Owner
    other: _Owner
    asked: int
    """The hash of both, where they are the same."""
    near: Near | None
    """Where they are nearly the same."""


class _Identities(dict[str, bool]):
    """Whether a key tells rows apart and says nothing, as an id does."""

    def __missing__(self, key: str) -> bool:
        if len(self) >= 10 * REMEMBERED_FIELDS:
            self.clear()
        found = self[key] = key in _NO_CONTENT or _is_identity(key)
        return found


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
        self._identities = _Identities()
        self._pairs: list[_Pair] = []
        self._prompts: dict[int, int] = {}
        """Where each was seen first."""
        self._near = NearPrompts()
        self._sampled_left = SAMPLED_LENGTH
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
            if len(self._by_number) >= REMEMBERED_OWNERS:
                return False
            owner = self._new_owner(environment, split)
            owner.is_reference = is_reference
        params = row["responses_create_params"]
        is_news = not params.get("tools") and not owner.asks_code
        if is_news:
            owner.asks_code = True
        if not self._looks_at_rows or row.get("epoch", 1) != 1:
            return is_news  # a mix that repeats its rows says so, and is not told of it
        owner.passed += 1
        if not is_reference and "constant-field" not in self._ignored:
            _keep_constants(owner, row)
        asked, around = _prompt(params)
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
        return is_news

    def _new_owner(self, environment: str, split: str | None) -> _Owner:
        owner = _Owner(len(self._by_number), environment, split)
        for other in self._by_number:
            is_leak = other.environment == environment
            if is_leak and "example" in (other.split, split):
                continue  # examples are a part of the others, to be looked at
            if ("leaked-prompt" if is_leak else "shared-prompt") not in self._ignored:
                owner.others.append((other.number, is_leak))
                other.others.append((owner.number, is_leak))
                if is_leak:
                    owner.siblings.append(other)
                    other.siblings.append(owner)
        self._by_number.append(owner)
        self._owners[environment, split] = owner
        return owner

    def _compare(
        self, owner: _Owner, row: Mapping[str, Any], asked: str, around: str, where: str, *, is_close: bool
    ) -> None:
        prompt: Any = asked
        if len(asked) <= 1000:
            prompt = asked.encode("utf-8", "replace").translate(_SQUEEZED, _SPACING)
        if around != owner.around[0]:
            owner.around = around, hash(around)
        rest = owner.around[1]
        identities = self._identities
        content = {key: value for key, value in row.items() if not identities[key]}
        params = content["responses_create_params"] = row["responses_create_params"].copy()
        params.pop("input", None)
        task = hash((prompt, rest, orjson_sorted(content)))
        place = len(self._places)
        if place < self._remembered:
            self._places.append(where)
            self._place_owners.append(owner.number)
        first = owner.tasks.get(task)
        if first is not None:
            if not owner.is_reference:
                told = f"rows of {owner.name} say the same as others of it"
                self._see("duplicate-row", told, where, self._places[first])
            return
        if place < self._remembered:
            owner.tasks[task] = place
        if not self._compares:
            return
        is_short = len(prompt) < _LEAST_PROMPT
        if owner.split is not None and "leaked-prompt" not in self._ignored:
            self._look_for_leaks(owner, task, None if is_short else hash((prompt, rest)), where, place)
        key = hash((prompt, rest)) if is_short else hash(prompt)
        first = self._prompts.get(key)
        if first is not None:
            self._see_shared(owner, where, first, "prompts stand in both {} and {}")
            if not self._is_example_of(first, owner):
                return  # what is nearly the same was looked for when it was seen first
        if place >= self._remembered:
            return
        self._prompts.setdefault(key, place)
        if is_close and not is_short:
            for token, near in self._near.add(owner.number, rest, place, asked, owner.others):
                self._see_near(token, near)

    def _look_for_leaks(self, owner: _Owner, task: int, asked: int | None, where: str, place: int) -> None:
        """Hold a row that is no duplicate against the other splits of its environment."""
        if asked is not None:
            before = owner.asked.get(asked)
            if before is not None:
                owner.asked[asked] = before + (before & 7 <= COMMON)
            elif place < self._remembered:
                owner.asked[asked] = place << 3 | 1
        for other in owner.siblings:
            first = other.tasks.get(task)
            if first is not None:
                told = f"rows of {owner.name} say the same as rows of {other.name}"
                self._see("leaked-prompt", told, where, self._places[first])
            elif asked is not None and (known := other.asked.get(asked)) is not None:
                told = f"prompts of {owner.name} are those of {other.name}, with other values beside them"
                self._see_pair("leaked-prompt", told, f"{where} and {self._places[known >> 3]}", owner, other, asked)

    def _is_example_of(self, place: int, owner: _Owner) -> bool:
        """Whether a row is of the same environment, and of a split that is not compared with this one: an example."""
        first = self._owner_of(place)
        return first is not owner and first.environment == owner.environment and first not in owner.siblings

    def _owner_of(self, place: int) -> _Owner:
        return self._by_number[self._place_owners[place]]

    def _see_pair(
        self,
        name: WarningName,
        told: str,
        example: str,
        owner: _Owner,
        other: _Owner,
        asked: int,
        near: Near | None = None,
    ) -> None:
        if len(self._pairs) < REMEMBERED_PAIRS:
            self._pairs.append(_Pair(name, told, example, owner, other, asked, near))

    def _see_near(self, place: int, near: Near) -> None:
        owner, where = self._owner_of(place), self._places[place]
        other, other_where = self._by_number[near.owner], self._places[near.token]
        if other.environment == owner.environment:
            told = f"prompts of {owner.name} are nearly the same as prompts of {other.name}"
            self._see_pair("leaked-prompt", told, f"{where} and {other_where}", owner, other, 0, near)
        elif where != other_where:
            told = f"prompts stand nearly the same in both {other.name} and {owner.name}"
            self._see_pair("shared-prompt", told, f"{where} and {other_where}", owner, other, 0, near)

    def _is_template(self, pair: _Pair) -> bool:
        """Whether many prompts of one of two owners have what a pair has in common; known when all rows were seen."""
        if pair.near is not None:
            return self._near.is_template(pair.owner.number, pair.near)
        return any(owner.asked.get(pair.asked, 0) & 7 > COMMON for owner in (pair.owner, pair.other))

    def _see_shared(self, owner: _Owner, where: str, first: int, told: str) -> None:
        other = self._owner_of(first)
        # One line of one file is in both because somebody plays it twice on purpose, under two names.
        if other.environment != owner.environment and where != self._places[first]:
            told = told.format(other.name, owner.name)
            self._see("shared-prompt", told, where, self._places[first])

    def _look_for_answers(self, owner: _Owner, row: Mapping[str, Any], asked: str, around: str, where: str) -> None:
        left = LOOKED_AT + LOOKED_OVER * (len(asked) + len(around))
        for key, value in islice(row.items(), ANSWER_KEYS):
            kind = type(value)
            if kind is str:
                if len(value) >= 8:
                    left = self._look_for_answer(owner, key, value, asked, around, where, left)
            elif kind is dict and key != "responses_create_params" and key not in ROUTE_KEYS:
                for inner, text in islice(value.items(), INNER_KEYS):
                    if type(text) is str and len(text) >= 8:
                        left = self._look_for_answer(owner, f"{key}.{inner}", text, asked, around, where, left)

    def _look_for_answer(
        self, owner: _Owner, key: str, value: str, asked: str, around: str, where: str, left: int
    ) -> int:
        """Look for one in the prompt, and return how many characters are left to be read for the others."""
        is_answer = owner.answers.get(key)
        if is_answer is None:
            is_answer = _ANSWERS.search(key[:KEY_LENGTH]) is not None and not _is_identity(key)
            if len(owner.answers) < REMEMBERED_FIELDS:
                owner.answers[key] = is_answer
        if is_answer and _is_telling(value):
            answers = owner.known_answers.get(key)
            if answers is None:
                if len(owner.known_answers) >= REMEMBERED_FIELDS:
                    return left
                answers = owner.known_answers[key] = _Answers()
            if answers.wants(value):
                self._keep_sample(answers, value, asked, around)
            for text in (asked, around):
                is_told, left = _tells(text, value, left)
                if is_told:
                    answers.add(value, where)
                    break
        return left

    def _keep_sample(self, answers: _Answers, value: str, asked: str, around: str) -> None:
        prompt = f"{_ends(asked)}\n{_ends(around)}"
        length = len(value) + len(prompt)
        if length <= self._sampled_left and len(value) <= CHOICE_LENGTH:
            self._sampled_left -= length
            answers.samples.setdefault(value, []).append(prompt)

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
        for token, near in self._near.rest():
            self._see_near(token, near)
        pairs: dict[tuple[WarningName, str], _Seen] = {}
        for pair in self._pairs:
            if not self._is_template(pair):
                pairs.setdefault((pair.name, pair.told), _Seen()).add(pair.example)
        for owner in self._by_number:
            for key, answers in owner.known_answers.items():
                seen = answers.leaks()
                if seen.count:
                    pairs["answer-in-prompt", f"prompts of {owner.name} hold the row's own {key!r}"] = seen
        found = [
            LintWarning(name, _counted(seen.count, told), seen.count, tuple(seen.examples))
            for (name, told), seen in (*self._found.items(), *pairs.items())
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
            if owner.passed >= LEAST_ROWS:
                for key, value in (owner.constants or {}).items():
                    text = encode_json(value).decode()
                    shown = text if len(text) <= 60 else f"{text[:57]}..."
                    told = f"every row of {owner.name} has the same {key!r}: {shown}"
                    yield LintWarning("constant-field", told, owner.passed)

    def _scales(self) -> Iterable[LintWarning]:
        if len(set(self._ranges.values())) > 1:
            told = ", ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in sorted(self._ranges.items()))
            yield LintWarning("reward-ranges", f"rewards are on different scales: {told}", len(self._ranges))


_NO_CONTENT = frozenset((*ROUTE_KEYS, "responses_create_params"))
_MISSING = object()


def orjson_sorted(value: Any) -> bytes:
    """Write a value so that equal values are equal bytes, whatever the order of their keys."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        return encode_json(value)


def _prompt(params: Mapping[str, Any]) -> tuple[str, str]:
    """Return what is asked, and what stands around it: instructions, and earlier turns."""
    given, instructions = params.get("input"), params.get("instructions")
    around = [instructions] if isinstance(instructions, str) else []
    if isinstance(given, str):
        return given, "".join(around)
    asked: list[str] = []
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
    if constants is None:
        own = [(key, value) for key, value in row.items() if key not in _NO_CONTENT]
        owner.constants = dict(own[:REMEMBERED_FIELDS])
    elif constants:
        for key, value in list(constants.items()):
            found = row.get(key, _MISSING)
            if found is not value and (type(found) is not type(value) or found != value):  # true is no 1
                del constants[key]


def _is_telling(value: str) -> bool:
    """Whether a text is long enough that its standing in a prompt is no accident."""
    return len(value) >= 16 or (len(value) >= 8 and value.count(" ") >= 2)


def _ends(text: str) -> str:
    """Return a text, or of a long one the beginning and the end."""
    if len(text) <= 2 * SAMPLE_LENGTH:
        return text
    return f"{text[:SAMPLE_LENGTH]}\n{text[-SAMPLE_LENGTH:]}"


def _is_identity(key: str) -> bool:
    # Eight letters are all that it can match, and what stands before that.
    return key[-1:] in "dDxX" and _IDENTITY.search(key[-8:]) is not None


def _tells(text: str, value: str, left: int) -> tuple[bool, int]:
    """
    Look for a value in a text as something of its own: not as a part of a word, and not as one of some options.

    Args:
        text: The text.
        value: The value.
        left: How many characters may be read. A value that repeats itself is found again at nearly every place of a
            text that does, and each time all of it is read.

    Returns:
        Whether it was found, and how many characters are left.
    """
    start = 0
    while left > 0:
        place = text.find(value, start)
        if place < 0:
            return False, left - (len(text) - start)
        end = place + len(value)
        left -= end - start + PLACE_COST
        if text[place - 1 : place].isalnum():
            inner = _WORD_END.search(text, place)
            if inner is None:
                return False, left
            left -= inner.start() - place
            start = inner.end()  # within one word there is no place for it
            continue
        if not text[end : end + 1].isalnum() and not _OPTION.search(text[max(0, place - 8) : place]):
            return len(text.strip()) != len(value), left
        start = place + 1
    return False, left


def _counted(count: int, told: str) -> str:
    return f"{told} ({count:,} {'row' if count == 1 else 'rows'})"
