"""
What the user asks for: a Plan, read from YAML, from flags, or built in Python.

A plan is what was *asked*; defaults of plugins are not in it, and whether the names exist is compose's question.
Every mistake of a plan is reported at once, with its key path and, where there is a file, its line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    PlainValidator,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from gymcore.documents import DocumentError, YamlDocument, parse_yaml, write_yaml
from gymcore.errors import PlanError, Problem, nearest
from gymcore.records import Record

__all__ = [
    "FILTER_CONDITIONS",
    "AgentPlan",
    "CheckPlan",
    "CollectPlan",
    "DataSource",
    "EnvironmentPlan",
    "HubData",
    "MixPlan",
    "ModelPlan",
    "Plan",
    "PlanText",
    "PromptPlan",
    "RayPlan",
    "UrlData",
    "Variables",
    "WarningName",
    "expand_variables",
    "load_environ",
    "read_document",
    "read_plan",
    "source_name",
]

Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,63}$")]
MOST_COUNT = 2**63 - 1
Count = Annotated[int, Field(ge=1, le=MOST_COUNT, strict=True)]
Rows = Annotated[int, Field(ge=1, le=10**9, strict=True)]
"""Of a mix: each takes some 20 bytes of memory while it is composed."""
Flag = Annotated[bool, Field(strict=True)]
"""Only `true` and `false`: `yes` and `on` are words."""
Seed = Annotated[int, Field(ge=-(2**63), le=2**63 - 1, strict=True)]
Seconds = Annotated[float, Field(ge=0, strict=True, allow_inf_nan=False)]
PositiveSeconds = Annotated[float, Field(gt=0, strict=True, allow_inf_nan=False)]


def _check_weight(value: Any) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not LEAST_WEIGHT <= value <= MOST_WEIGHT:
        raise PydanticCustomError("weight", "Input should be a number such as 2 or 0.3, from 1e-6 to 1e9")
    return value


LEAST_WEIGHT, MOST_WEIGHT = 1e-6, 1e9
Weight = Annotated[int | float, PlainValidator(_check_weight)]
"""How much of the mix, in relation to the others; `2` and `0.3` are taken exactly as they are written."""
ShareOfPhase = Annotated[
    int | float,
    PlainValidator(lambda value: 0 if type(value) in (int, float) and value == 0 else _check_weight(value)),
]
"""A weight, or 0 for no rows."""

FILTER_CONDITIONS = ("min", "max", "not", "contains", "exists")
"""What the conditions of a `filter` are called."""

PLAN_BYTES = 2**24
"""The size of a file that nobody takes for a plan."""

_SHARE = re.compile(r"\d{1,3}(\.\d{1,9})?%")


def _check_budget(value: Any) -> Any:
    is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if not is_count and not (isinstance(value, str) and _SHARE.fullmatch(value) and float(value[:-1]) <= 100):
        raise PydanticCustomError("failure_budget", "Input should be a count such as 50, or a share such as 5%")
    return value


FailureBudget = Annotated[int | str, BeforeValidator(_check_budget)]
"""How many rollouts of an environment may fail: a count, or a share of those planned such as `5%`."""


class AgentPlan(Record):
    """Which agent plays, and its options."""

    use: str = "simple_agent"
    """The installed agent's name, or `distribution/name`."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Options of the agent; `gym show NAME` lists them."""


AgentByName = Annotated[AgentPlan, BeforeValidator(lambda value: {"use": value} if isinstance(value, str) else value)]
"""An agent with its options, or only its name."""

VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]

_COMMIT = re.compile(r"[0-9a-f]{40}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
HubWord = Annotated[str, Field(pattern=r"^[^<>:/\\|?*\x00-\x1f]{1,128}$")]


class HubData(Record):
    """A dataset of the Hugging Face hub, as it was at one commit."""

    huggingface: str
    """Its name, `owner/name`."""
    revision: str = Field(default="", validate_default=True)
    """The commit, 40 hexadecimal digits; a branch or a tag may mean something else tomorrow."""
    config: HubWord | None = None
    """Which of its configurations; the default one where it is absent."""
    split: HubWord = "train"
    """Which of its splits."""

    @field_validator("huggingface")
    @classmethod
    def _is_a_repository(cls, value: str) -> str:
        if not _REPOSITORY.fullmatch(value) or ".." in value or "--" in value:
            raise PydanticCustomError("repository", "A dataset of the hub is named owner/name")
        return value

    @field_validator("revision")
    @classmethod
    def _is_pinned(cls, value: str, info: ValidationInfo) -> str:
        if not _COMMIT.fullmatch(value):
            name = info.data.get("huggingface", "OWNER/NAME")
            command = f"git ls-remote https://huggingface.co/datasets/{name} {value or 'main'}"
            told = f"A revision must be a commit of 40 hexadecimal digits, as `{command}` shows it"
            raise PydanticCustomError("unpinned", "{told}", {"told": told})
        return value


class UrlData(Record):
    """A file at an address, with the digest of its bytes."""

    url: str
    """`https:`, `http:`, or `file:` with an absolute path."""
    sha256: str = Field(default="", validate_default=True)
    """The SHA-256 of the file, 64 hexadecimal digits."""

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        scheme, _, rest = value.partition("://")
        host, _, path = rest.partition("/")
        if scheme not in ("http", "https", "file") or not path or (scheme == "file") == bool(host):
            raise PydanticCustomError(
                "url", "An address looks like https://HOST/PATH, http://HOST/PATH or file:///PATH"
            )
        if "@" in host:
            raise PydanticCustomError("url_password", "An address must hold no password, because it is written down")
        if not value.isprintable() or " " in value or not value.isascii():
            raise PydanticCustomError("url_letters", "An address holds ASCII letters without spaces; try %20 and so on")
        return value

    @field_validator("sha256")
    @classmethod
    def _is_a_digest(cls, value: str) -> str:
        if not _DIGEST.fullmatch(value):
            told = "A digest of 64 hexadecimal digits must be given, as `sha256sum FILE` shows it"
            raise PydanticCustomError("digest", "{told}", {"told": told})
        return value


def _kind_of_source(value: Any) -> str | None:
    if isinstance(value, str):
        return "[path]"
    if isinstance(value, HubData | UrlData):
        return "[huggingface]" if isinstance(value, HubData) else "[url]"
    if isinstance(value, dict) and len(found := [key for key in ("huggingface", "url") if key in value]) == 1:
        return f"[{found[0]}]"
    return None


DataSource = Annotated[
    Annotated[str, Tag("[path]")] | Annotated[HubData, Tag("[huggingface]")] | Annotated[UrlData, Tag("[url]")],
    Discriminator(
        _kind_of_source,
        custom_error_type="source",
        custom_error_message=(
            "Data are the path of a file, {huggingface: OWNER/NAME, revision: COMMIT} or {url: ADDRESS, sha256: DIGEST}"
        ),
    ),
]
"""Where rows come from: a file, a dataset of the hub, or a file at an address."""

Sources = Annotated[
    list[DataSource],
    BeforeValidator(lambda value: value if isinstance(value, list | tuple) else [value]),
]
"""Where rows come from, one after the other, or one source alone."""


def source_name(source: str | HubData | UrlData) -> str:
    """
    Name a source as messages and the lock do; of an address without what may be secret in it.
    """
    if isinstance(source, HubData):
        config = source.config or "default"
        return f"hf://{source.huggingface}@{source.revision}/{config}/{source.split}"
    if isinstance(source, UrlData):
        return re.split(r"[?#]", source.url, maxsplit=1)[0]
    return source


class PromptPlan(Record):
    """What rows are asked with: texts in which `{field}` is replaced by what a row says."""

    system: str | None = None
    """Takes the place of the messages of the system and the developer, wherever they stand."""
    user: str | None = None
    """Takes the place of everything else that is said."""


class ModelPlan(Record):
    """Which model answers, and its options."""

    use: str = "oracle"
    """The installed model's name, or `distribution/name`."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Options of the model; `gym show NAME` lists them."""
    concurrency: Count | None = None
    """At most this many rollouts that this model plays in flight, within `collect.concurrency`."""


class EnvironmentPlan(Record):
    """One environment of the mix; every option that can differ between environments stands here."""

    use: str | None = None
    """The installed environment's name, or `distribution/name`; the key of this entry where it is absent."""
    split: str | None = None
    """Which of its own splits to take; `mix.split` where it is absent, and `example` where there are no data either."""
    data: Sources = Field(default_factory=list)
    """Files, or sources elsewhere, to take instead of a split; every row is a task of this environment."""
    filter: dict[str, Any] = Field(default_factory=dict)
    """Which of its rows are taken: for key paths of a row, the condition that holds for what stands there."""
    prompt: PromptPlan | None = None
    """What its rows are asked with, instead of what they say; what its manifest says where it is absent."""
    weight: Weight | None = None
    """Its share of the mix in relation to the others; 1 where it is absent and others have one."""
    limit: Count | None = None
    """At most this many tasks, the first in the order of its rows; `mix.limit` where it is absent."""
    repeats: Count | None = None
    """Rollouts of each task; `collect.repeats` where it is absent."""
    concurrency: Count | None = None
    """At most this many rollouts of this environment in flight, within `collect.concurrency`."""
    timeout_s: PositiveSeconds | None = None
    """The longest one rollout may take; `collect.timeout_s` where it is absent."""
    tool_timeout_s: PositiveSeconds | None = None
    """The longest one tool call may take; `collect.tool_timeout_s` where it is absent."""
    verify_timeout_s: PositiveSeconds | None = None
    """The longest its verifier may take; `collect.verify_timeout_s` where it is absent."""
    max_failures: FailureBudget | None = None
    """When more rollouts than this fail in a run, it is stopped; `collect.max_failures` where it is absent."""
    isolation: Literal["none", "process", "venv"] | None = None
    """
    `process` plays it in an interpreter of its own, and `venv` in one that also has packages of its own; what its
    manifest says where it is absent, and else `none`.
    """
    workers: Count | None = None
    """How many processes play it where it is isolated; one where it is absent."""
    environ: list[VariableName] = Field(default_factory=list)
    """Environment variables that those processes may see; keys and tokens are kept from them unless named here."""
    memory_mb: Count | None = None
    """The address space of each of those processes, in megabytes; what needs more fails there."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Create parameters that replace those of the rows: `temperature`, `max_output_tokens`, ..."""
    agent: AgentByName | None = None
    """Who plays it; a bare name is enough."""
    model: str = "policy"
    """Which of the plan's models plays it."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Options of the environment; `gym show NAME` lists them."""


class MixPhase(Record):
    """A stretch of the mix with weights of its own."""

    until: Rows | None = None
    """The row of the mix with which it ends, counted from 1; only the last may say nothing."""
    weights: dict[Name, ShareOfPhase]
    """The weight of each environment; one that is not named has no rows in this phase."""


Exhausted = Literal["once", "stop", "repeat"]
"""What happens when an environment has no more rows."""


class MixPlan(Record):
    """How the environments' tasks are put in order."""

    seed: Seed = 0
    """The source of all chance: each task's own seed is derived from it, and the order of shuffled rows."""
    split: str | None = None
    """The split of every environment of the plan that names none itself."""
    limit: Count | None = None
    """At most this many tasks of every environment that says nothing else; see `size` for all together."""
    size: Rows | None = None
    """How many rows the mix has, of all environments together."""
    batch: Count | None = None
    """Rows of a training batch: every one of them holds the shares, rounded."""
    exhausted: Exhausted | None = None
    """
    When an environment has no more rows: `stop` ends the mix, `repeat` begins its next epoch, and `once` takes every
    row exactly once, which leaves no choice of weights. `repeat` where there is a size, `stop` where there are only
    weights, `once` where there is neither.
    """
    shuffle: Flag | None = None
    """
    Whether the rows of each environment are put in an order by chance; else those of an environment with a weight are,
    and all where there is a size, a batch or a schedule.
    """
    weight_by: Literal["rows", "tokens"] = "rows"
    """What weights are shares of."""
    tokenizer: str = "words"
    """What counts tokens: `words`, what white space separates, or the path of a `tokenizer.json`."""
    allow_starved: Flag = False
    """Accept a share below one row of a batch, with which some batches hold no row of that environment."""
    schedule: list[MixPhase] = Field(default_factory=list)
    """A curriculum: weights that change as the mix goes on, in the place of those of the environments."""

    @property
    def total(self) -> int | None:
        """How many rows the mix is to have, where it says so."""
        return self.size or (self.schedule[-1].until if self.schedule else None)

    def exhausted_or_default(self, *, is_weighted: bool) -> Exhausted:
        """Return what happens when an environment has no more rows."""
        if self.exhausted is not None:
            return self.exhausted
        if self.total is not None:
            return "repeat"
        return "stop" if is_weighted or self.schedule else "once"

    def is_shuffled(self, *, is_weighted: bool) -> bool:
        """Whether the rows of an environment, with a weight of its own or without, are put in an order by chance."""
        if self.shuffle is not None:
            return self.shuffle
        return is_weighted or self.total is not None or self.batch is not None or bool(self.schedule)


class RayPlan(Record):
    """How `collect.executor: ray` uses Ray."""

    address: str | None = None
    """Where Ray runs, such as `10.0.0.1:6379` or `auto`; RAY_ADDRESS where it is absent, or else one started here."""
    workers: Count | None = None
    """Processes that play; one for each CPU where it is absent."""
    start_timeout_s: PositiveSeconds = 120.0
    """The longest that starting the workers may take."""


class CollectPlan(Record):
    """How rollouts are played; apart from `repeats`, none of this changes what a finished rollout means."""

    repeats: Count = 1
    """Rollouts of each task, where the environment says nothing else."""
    concurrency: Count = 64
    """At most this many rollouts in flight."""
    timeout_s: PositiveSeconds = 600.0
    """The longest one rollout may take, apart from waiting for an endpoint that is down; then it is a failure."""
    tool_timeout_s: PositiveSeconds = 120.0
    """The longest one tool call may take, where the event loop can go on meanwhile; then the rollout is a failure."""
    verify_timeout_s: PositiveSeconds = 300.0
    """The longest a verifier may take; as for tools."""
    executor: Literal["local", "ray"] = "local"
    """Where rollouts are played: in this process, or in workers on Ray."""
    ray: RayPlan = Field(default_factory=RayPlan)
    """How `executor: ray` uses Ray."""
    drain_s: Seconds = 30.0
    """How long rollouts in flight may go on after the first Ctrl-C."""
    max_failures: FailureBudget | None = None
    """When more rollouts of an environment than this fail in a run, that environment is stopped; the others go on."""


WarningName = Literal[
    "shared-prompt",
    "leaked-prompt",
    "duplicate-row",
    "answer-in-prompt",
    "tool-conflict",
    "tool-drift",
    "no-validation",
    "reward-ranges",
    "constant-field",
]
"""The warnings that compose may give of rows; the names by which they are silenced."""


class CheckPlan(Record):
    """What becomes of rows that are wrong, or merely odd."""

    skip_invalid: Flag = False
    """Leave invalid rows out, and write them to `rejects.jsonl`; else one of them is refused with all."""
    ignore: list[WarningName] = Field(default_factory=list)
    """Warnings that are not looked for."""
    strict: Flag = False
    """Refuse rows of which there is a warning."""
    requirements: Literal["refuse", "warn"] = "refuse"
    """
    What becomes of a plugin whose distribution needs something else than what is installed: `refuse` it, or `warn` and
    use it all the same.
    """


class Plan(Record):
    """
    Everything a run needs to know.

    Example:
        >>> Plan.model_validate({"environments": {"example_multi_step": {"limit": 2}}}).mix.seed
        0
    """

    environments: dict[Name, EnvironmentPlan] = Field(default_factory=dict)
    data: Sources = Field(default_factory=list)
    """Files, or sources elsewhere, whose rows carry their own route (`agent_ref`)."""
    agent: AgentByName | None = None
    """Who plays environments that name no agent themselves."""
    models: dict[Name, ModelPlan] = Field(default_factory=lambda: {"policy": ModelPlan()})
    """`policy` is what is trained or tested; others are for judges."""
    mix: MixPlan = Field(default_factory=MixPlan)
    check: CheckPlan = Field(default_factory=CheckPlan)
    collect: CollectPlan = Field(default_factory=CollectPlan)
    hooks: list[str] = Field(default_factory=list)
    """Hook plugins to activate."""

    @field_validator("environments", mode="before")
    @classmethod
    def _empty_entries(cls, value: Any) -> Any:
        return {key: {} if item is None else item for key, item in value.items()} if isinstance(value, dict) else value

    @field_validator("models", mode="before")
    @classmethod
    def _models_by_name(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        named = {key: {"use": item} if isinstance(item, str) else item for key, item in value.items()}
        return {"policy": {}, **named}

    @classmethod
    def from_file(cls, path: Path | str, settings: Iterable[str] = ()) -> Plan:
        """
        Read a plan.

        Args:
            path: A YAML file.
            settings: Changes of the form `key.path=value`, applied in order after the file.

        Raises:
            PlanError: with every mistake in it.
        """
        return cls.from_document(read_document(path), source=str(path), settings=settings)

    @classmethod
    def from_document(cls, document: YamlDocument, *, source: str = "the plan", settings: Iterable[str] = ()) -> Plan:
        """
        Check a document that was read already.

        Raises:
            PlanError: with every mistake in it.
        """
        text = read_plan(document, source=source, settings=settings)
        if text.problems or text.plan is None:
            raise PlanError(text.problems, source=source)
        return text.plan

    def to_yaml(self) -> str:
        """Write the plan, without what is default, as YAML that `from_file` reads back equal."""
        return write_yaml(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain values, without what is default."""
        value = self.model_dump(exclude_defaults=True)
        value["environments"] = {name: _entry(entry) for name, entry in self.environments.items()}
        value["models"] = {
            name: {"use": entry.use, **entry.model_dump(exclude_defaults=True)} for name, entry in self.models.items()
        }
        return value


def _entry(entry: EnvironmentPlan) -> dict[str, Any]:
    value = entry.model_dump(exclude_defaults=True)
    if entry.agent is not None:
        value["agent"] = {"use": entry.agent.use, **value["agent"]}
    return value


@dataclass(frozen=True)
class PlanText:
    """A plan as somebody wrote it: what could be understood, what could not, and where each key stands."""

    plan: Plan | None
    """The plan without the keys that are wrong; None where nothing of it could be understood."""
    problems: tuple[Problem, ...]
    """Every mistake of form; names are compose's question."""
    source: str
    document: YamlDocument

    def locate(self, where: str) -> str:
        """Complete a key path by the file and line on which it, or the nearest key above it, stands."""
        lines = {".".join(map(str, path)): line for path, line in self.document.lines.items() if path}
        path = where
        while path and path not in lines:
            path = path.rpartition(".")[0]
        return f"{where}, {self.source}:{lines[path]}" if path else where


def read_document(path: Path | str) -> YamlDocument:
    """
    Read the file of a plan.

    Raises:
        PlanError: it cannot be read, or is no YAML.
    """
    try:
        return parse_yaml(_read_bounded(Path(path)))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise PlanError([Problem(f"the plan cannot be read: {reason}", where=str(path))]) from None
    except DocumentError as error:
        where = str(path) if error.line is None else f"{path}:{error.line}"
        raise PlanError([Problem(error.message, where=where)]) from None


def _read_bounded(path: Path) -> bytes:
    """
    Read a file that has an end.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no file, or a huge one.
    """
    # Looked at first: merely to open a pipe may take for ever.
    if not path.is_dir() and path.exists() and not path.is_file():
        raise ValueError("it is no regular file")
    with path.open("rb") as file:
        data = file.read(PLAN_BYTES + 1)
    if len(data) > PLAN_BYTES:
        raise ValueError(f"it is larger than {PLAN_BYTES // 2**20} MB")
    return data


def read_plan(document: YamlDocument, *, source: str, settings: Iterable[str] = ()) -> PlanText:
    """
    Understand as much of a plan as possible, so that its other mistakes can be found and reported with those of form.

    Args:
        document: The plan as plain values.
        source: How messages name it.
        settings: Changes of the form `key.path=value`, applied in order after the document.
    """
    value = document.value if document.value is not None else {}
    if not isinstance(value, dict):
        problem = Problem("a plan is a mapping of keys, such as `environments:`", where=source)
        return PlanText(None, (problem,), source, document)
    problems = _apply_settings(value, settings)
    try:
        return PlanText(Plan.model_validate(value), tuple(problems), source, document)
    except ValidationError as error:
        mistakes = error.errors(include_url=False)
    problems.extend(_explain(item, document, source, Plan) for item in mistakes)
    for item in mistakes:
        value = _without(value, _path_of(item))
    try:
        plan = Plan.model_validate(value)
    except ValidationError:
        plan = None
    return PlanText(plan, tuple(problems), source, document)


def _without(value: Any, path: tuple[str | int, ...]) -> Any:
    """Return a plain value without the key at a path, or without the list that the path leads into."""
    if not isinstance(value, dict) or not path or path[0] not in value:
        return value
    inner = value[path[0]]
    if len(path) > 1 and isinstance(inner, dict):
        return {**value, path[0]: _without(inner, path[1:])}
    return {key: item for key, item in value.items() if key != path[0]}


def _apply_settings(value: dict[str, Any], settings: Iterable[str]) -> list[Problem]:
    """Change a plain plan by `key.path=value` texts; the value is YAML, a bare word being a word."""
    problems = []
    for setting in settings:
        path, equals, text = setting.partition("=")
        where = f"--set {path}"  # without the value, which may be a secret
        keys = path.strip().split(".")
        if equals and not path.strip():
            problems.append(Problem("a setting looks like key.path=value; this one has no key", where="--set =..."))
            continue
        if not equals or not all(keys):
            problems.append(Problem("a setting looks like key.path=value", where=where))
            continue
        if not setting.isascii() and any("\ud800" <= character <= "\udfff" for character in setting):
            problems.append(Problem("the setting is not UTF-8", where=ascii(where)[1:-1]))
            continue
        parsed = _value_of(text)
        if len(keys) > 4 and keys[0] == "environments" and keys[2] == "filter":
            keys = [*keys[:3], *_in_filter(keys[3:])]
        target = value
        for depth, key in enumerate(keys[:-1]):
            if target.get(key) is None:
                target[key] = {}
            inner = target[key]
            if isinstance(inner, str) and (key == "agent" or (depth == 1 and keys[0] == "models")):
                inner = target[key] = {"use": inner}
            if not isinstance(inner, dict):
                problems.append(Problem(f"{key!r} is no mapping, so nothing can be set inside it", where=where))
                break
            target = inner
        else:
            target[keys[-1]] = parsed
    return problems


def _value_of(text: str) -> Any:
    """Return what a setting means: YAML where it is YAML, and otherwise the text."""
    try:
        parsed = parse_yaml(text).value
    except DocumentError:
        return text
    # A text is taken letter by letter: YAML would end it where ` #` stands, and fold its lines into one.
    written = text.strip()
    is_bare = isinstance(parsed, str) and not written.startswith(("'", '"', "|", ">"))
    return written if is_bare or (parsed is None and written.startswith("#")) else parsed


def _in_filter(keys: list[str]) -> list[str]:
    """Return the keys of a setting inside a `filter`: a key path of rows is one key, and conditions come after it."""
    end = len(keys)
    while end > 1 and keys[end - 1] in FILTER_CONDITIONS:
        end -= 1
    return [".".join(keys[:end]), *keys[end:]]


def _explain(error: Mapping[str, Any], document: YamlDocument, source: str, model: type[Plan]) -> Problem:
    path = _as_written(_path_of(error), document)
    line = document.line(path)
    dotted = ".".join(str(part) for part in path)
    place = f"{source}:{line}" if line is not None and path else source
    where = f"{dotted}, {place}" if dotted else place
    if error["type"] == "extra_forbidden":
        kind = error["loc"][-2] if len(error["loc"]) > 1 else ""
        known = list(_OF_SOURCES[kind].model_fields) if kind in _OF_SOURCES else _keys_at(path[:-1], model)
        close = nearest(str(path[-1]), known)
        hint = f"try: {', '.join(close)}" if close else f"known here: {', '.join(known)}"
        return Problem(f"unknown key {str(path[-1])!r}", where=where, hints=(hint,))
    if error["type"] == "string_pattern_mismatch":
        return Problem(f"{error['input']!r} is no name: letters, digits, '_', '-' and '.', 64 at most", where=where)
    told = f"{error['msg'][0].lower()}{error['msg'][1:]}"
    if error["type"].startswith("url"):  # an address may hold a secret
        return Problem(told, where=where)
    shown = repr(error["input"])
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    is_quotable = error["type"] == "string_type" and error["input"] is not None
    hints = ("a text that YAML reads as something else is written in quotes, 'like this'",) if is_quotable else ()
    if (
        error["type"] in _OF_NUMBERS
        and isinstance(error["input"], str)
        and (found := _NUMBER.fullmatch(error["input"]))
    ):
        hints = (f"a text is no number; try: {found[1] or ''}{found[2]}, without quotes",)
    return Problem(f"{told}, not {shown}", where=where, hints=hints)


_OF_NUMBERS = ("int_type", "float_type", "weight", "failure_budget")
"""The kinds of mistakes that are made where a number should stand."""
_NUMBER = re.compile(r"\s*(?:\+|(-?))0*(\d{1,20}(?:\.\d{1,20})?)\s*", re.ASCII)


def _path_of(error: Mapping[str, Any]) -> tuple[str | int, ...]:
    """Return the key path of a mistake, without what only the checker sees: `[key]`, `[url]` and the like."""
    return tuple(part for part in error["loc"] if not (isinstance(part, str) and part.startswith("[")))


def _as_written(path: tuple[str | int, ...], document: YamlDocument) -> tuple[str | int, ...]:
    """Leave the places in lists out where one value stands instead of a list."""
    written: tuple[str | int, ...] = ()
    for part in path:
        if isinstance(part, str) or written not in document.lines or (*written, part) in document.lines:
            written = (*written, part)
    return written


_OF_SOURCES: dict[Any, type[Record]] = {"[huggingface]": HubData, "[url]": UrlData}


def _keys_at(path: tuple[Any, ...], model: type[Plan]) -> list[str]:
    if not path:
        return list(model.model_fields)
    if path == ("collect", "ray"):
        return list(RayPlan.model_fields)
    if path[:2] == ("mix", "schedule"):
        return list(MixPhase.model_fields)
    inner: dict[str, type[Record]] = {"mix": MixPlan, "check": CheckPlan, "collect": CollectPlan, "agent": AgentPlan}
    if path[0] in ("environments", "models"):
        owner: type[Record] = EnvironmentPlan if path[0] == "environments" else ModelPlan
        if len(path) > 2:
            inside: dict[Any, type[Record]] = {"agent": AgentPlan, "prompt": PromptPlan}
            owner = inside.get(path[-1], owner)
        return list(owner.model_fields)
    return list(inner[path[0]].model_fields) if path[0] in inner else []


_VARIABLE = re.compile(r"\$\{([^{}]*)\}")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_SECRET = "secret:"
_SECRET_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./:@#-]{0,255}\Z")


class Variables(Mapping[str, str]):
    """
    What `${NAME}` stands for in a plan, and what `${secret:NAME}` does.

    As a mapping it holds the variables alone, so that nobody lists a secret or copies it along.

    Args:
        environ: The variables.
        secret: Returns the secret of a name; raises a `PlanError` where nobody keeps it.
    """

    def __init__(self, environ: Mapping[str, str], secret: Callable[[str], str]) -> None:
        self._environ = environ
        self.secret = secret

    def __getitem__(self, name: str) -> str:
        return self._environ[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._environ)

    def __len__(self) -> int:
        return len(self._environ)


def expand_variables(value: Any, environ: Mapping[str, str], where: str) -> tuple[Any, list[Problem]]:
    """
    Replace every `${NAME}` inside the strings of a plain value, and every `${secret:NAME}` where `environ` is
    `Variables`.

    Returns:
        The value, and a problem for each variable that is not set and each secret that nobody keeps.

    Raises:
        PluginError: a hook plugin failed when it was asked for a secret.
    """
    problems: list[Problem] = []

    def expand(inner: Any, path: str) -> Any:
        if isinstance(inner, dict):
            return {key: expand(item, f"{path}.{key}") for key, item in inner.items()}
        if isinstance(inner, list):
            return [expand(item, f"{path}[{index}]") for index, item in enumerate(inner)]
        if not isinstance(inner, str):
            return inner

        def replace(match: re.Match[str]) -> str:
            name = match[1]
            if name.startswith(_SECRET):
                return _secret(name.removeprefix(_SECRET), environ, path, problems)
            if not _VARIABLE_NAME.match(name):
                problems.append(Problem(f"${{{name}}} is no variable name", where=path))
            elif name not in environ:
                hint = f"try: export {name}=..., or write {name}=... into the file .env"
                problems.append(Problem(f"${{{name}}} is not set", where=path, hints=(hint,)))
            else:
                return environ[name]
            return ""

        return _VARIABLE.sub(replace, inner)

    return expand(value, where), problems


def _secret(name: str, environ: Mapping[str, str], path: str, problems: list[Problem]) -> str:
    """Return a secret, or add to the problems why there is none."""
    if not _SECRET_NAME.match(name):
        told = f"${{secret:{name}}} names no secret: letters, digits and _ . / : @ # -, 256 at most"
        problems.append(Problem(told, where=path))
    elif not isinstance(environ, Variables):
        problems.append(Problem(f"${{secret:{name}}} is for a user's own plan, and nobody is asked here", where=path))
    else:
        try:
            return environ.secret(name)
        except PlanError as error:
            problems.extend(replace(problem, where=path) for problem in error.problems)
    return ""


def load_environ(folder: Path = Path()) -> dict[str, str]:
    """
    Return the process environment, completed by the file `.env` of a folder; what is exported wins.

    Raises:
        PlanError: the file cannot be read.
    """
    path = folder / ".env"
    if not path.is_file():
        return dict(os.environ)
    from dotenv import dotenv_values

    # Without interpolation: `${NAME}` has one meaning here, and it is the plan's.
    try:
        values = dotenv_values(path, interpolate=False)
    except UnicodeDecodeError:
        raise PlanError([Problem("the file of variables is not UTF-8", where=str(path))]) from None
    except OSError as error:
        raise PlanError([Problem(f"the file of variables cannot be read: {error.strerror}", where=str(path))]) from None
    return {**{name: value for name, value in values.items() if value is not None}, **os.environ}
