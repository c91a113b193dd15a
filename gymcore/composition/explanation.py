"""
Where a row of a dataset came from: its source, its places in the mix, who plays it, and which layer set each option.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gymcore.composition.composer import trace
from gymcore.composition.configuration import option_origins
from gymcore.composition.folder import named_lock, open_composition
from gymcore.composition.routes import DEFAULT_SPLIT
from gymcore.composition.secrets import Secrets
from gymcore.discovery import Catalog, Plugin
from gymcore.discovery.catalog import bare_name
from gymcore.documents import DocumentError, decode_json
from gymcore.errors import GymcoreError, RequestError, RunFolderError, nearest
from gymcore.plan import EnvironmentPlan, Plan, Variables
from gymcore.run_folder import DATASET_NAME, PLAN_NAME

__all__ = ["Explanation", "OptionLayer", "explain", "has_word_of"]

SHOWN = 10
"""How many ids are offered where one is not enough, or unknown."""


@dataclass(frozen=True)
class OptionLayer:
    """One option, and which layer has set it."""

    of: str
    """`environment`, `agent`, `model`, or `plan` for what is no option of a plugin."""
    name: str
    layer: str
    """`default`, `manifest`, `environment variable`, `plan`, or `not set`."""
    value: Any = None
    variable: str | None = None
    is_hidden: bool = False
    """Whether the value is a secret, or came out of a variable."""


@dataclass(frozen=True)
class Explanation:
    """What is known of one row."""

    environment: str
    task_id: str
    positions: tuple[int, ...]
    """The rows of the mix that it is, counted from 1: the lines of `dataset.jsonl`."""
    rows: int
    """How many rows the mix has."""
    epochs: tuple[int, ...]
    """How often the mix had come round to it, for each of its rows."""
    split: str | None
    route: str
    environment_plugin: str
    """`distribution/name version`, as the lock says."""
    agent_plugin: str
    model: str
    """Which of the plan's models plays it."""
    model_plugin: str
    source: str | None
    """`file:line` where it stands now; None where it is not found."""
    warnings: tuple[str, ...] = ()
    """What is not as it was when the row was composed, or cannot be found out."""
    options: tuple[OptionLayer, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


def explain(folder: Path, task_id: str, catalog: Catalog, environ: Mapping[str, str]) -> Explanation:
    """
    Find out where a row of a run folder came from.

    Args:
        folder: The run folder.
        task_id: The task's id, the beginning of one, or `ENVIRONMENT/ID` where two environments have it.
        catalog: What is installed.
        environ: Where variables come from.

    Raises:
        RunFolderError: the folder holds no composition, or its dataset cannot be read.
        RequestError: no row has that id, or several do.
    """
    lock, file = named_lock(folder)
    if file.parent != folder:
        raise RunFolderError("this is no run folder", where=str(folder))
    row, rows = _find(folder / DATASET_NAME, task_id)
    entry = lock["environments"].get(row.environment)
    if entry is None:
        raise RunFolderError(f"the lock tells of no environment {row.environment!r}", where=str(file))
    plan = Plan.from_file(folder / PLAN_NAME)
    agent = row.route.removeprefix(f"{row.environment}_")
    model = str(entry["asked"].get("model"))
    environ = Variables(environ, Secrets(plan, catalog))  # one for all that follows, so that a secret is asked for once
    warnings = _no_longer_fitting(folder, catalog, environ)
    source = _source_of(row, plan, lock, catalog, environ, warnings)
    return Explanation(
        environment=row.environment,
        task_id=row.task_id,
        positions=tuple(row.positions),
        rows=rows,
        epochs=tuple(row.epochs),
        split=entry["asked"].get("split"),
        route=row.route,
        environment_plugin=entry["plugin"],
        agent_plugin=entry["agents"].get(agent, agent),
        model=model,
        model_plugin=lock["models"].get(model, {}).get("plugin", "not known"),
        source=source,
        warnings=tuple(warnings),
        options=tuple(_options(row.environment, agent, model, plan, catalog, environ, warnings)),
    )


def _no_longer_fitting(folder: Path, catalog: Catalog, environ: Mapping[str, str]) -> list[str]:
    """Say what of plan, dataset, options and code is no longer as the lock tells."""
    try:
        open_composition(folder, catalog, environ=environ, is_played=False)
    except RunFolderError as error:
        return [error.message, *error.differences]
    except GymcoreError as error:
        return [f"the folder could not be run as it is: {error.message}"]
    return []


@dataclass
class _Row:
    environment: str
    task_id: str
    route: str
    positions: list[int] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)


def _find(path: Path, wanted: str) -> tuple[_Row, int]:
    """Find the one task that an id, or the beginning of one, means; and how many rows there are."""
    exact: dict[tuple[str, str], _Row] = {}
    begun: dict[tuple[str, str], _Row] = {}
    rows = 0
    # Most rows need not be parsed to see that they are not meant.
    may_be = has_word_of(wanted)
    for rows, line in enumerate(_lines(path), start=1):
        if not may_be(line):
            continue
        environment, task, row = _parsed(line, f"{path}:{rows}")
        key = (environment, task)
        if wanted in (task, f"{environment}/{task}"):
            found = exact
        elif _begins(environment, task, wanted) and (key in begun or len(begun) <= SHOWN):
            found = begun
        else:
            continue
        there = found.setdefault(key, _Row(environment, task, _route_of(row)))
        there.positions.append(rows)
        there.epochs.append(row.get("epoch", 1))
    found = exact or begun
    if not found:
        close = _nearest(path, wanted)
        hints = [f"try: {' or '.join(map(_shown, close))}"] if close else ["its ids: task_id in dataset.jsonl"]
        raise RequestError(f"no row has the task id {wanted!r}", where=str(path), hints=hints)
    if len(found) > 1:
        names = [task if task.startswith(f"{name}/") else f"{name}/{task}" for name, task in found]
        more = ["..."] if len(names) > SHOWN else []
        what = "two environments have the task id" if exact else "several task ids begin with"
        raise RequestError(f"{what} {wanted!r}", where=str(path), hints=[*map(_shown, names[:SHOWN]), *more])
    return next(iter(found.values())), rows


def _shown(task: str) -> str:
    """Write an id as it is, or with escapes where it holds what is no plain letter, such as a line break."""
    return task if task.isprintable() else repr(task)


def _begins(environment: str, task: str, wanted: str) -> bool:
    names = (task, task.removeprefix(f"{environment}/"), f"{environment}/{task}")
    return bool(wanted) and any(name.startswith(wanted) for name in names)


def has_word_of(text: str) -> Callable[[bytes], bool]:
    """Return a quick test that lets every JSON line through in which a text stands, and few others."""
    words = re.findall(r"[A-Za-z0-9]+", text)  # nobody writes these as escapes
    longest = max(words, key=len, default="").encode()
    return lambda line: longest in line


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield from file
    except OSError as error:
        raise RunFolderError(f"the dataset cannot be read: {error.strerror}", where=str(path)) from None


def _parsed(line: bytes, where: str) -> tuple[str, str, dict[str, Any]]:
    try:
        row = decode_json(line)
        return str(row["environment"]), str(row["task_id"]), row
    except (DocumentError, KeyError, TypeError):
        raise RunFolderError("this row was not written by `gym compose`", where=where) from None


def _route_of(row: Mapping[str, Any]) -> str:
    reference = row.get("agent_ref")
    return str(reference.get("name")) if isinstance(reference, dict) else ""


def _nearest(path: Path, wanted: str) -> list[str]:
    """Return the ids nearest to one that nobody has: of those that begin or end most like it, the most alike."""
    best: list[tuple[int, str]] = []
    for number, line in enumerate(_lines(path), start=1):
        environment, task, _ = _parsed(line, f"{path}:{number}")
        short = task.removeprefix(f"{environment}/")
        alike = max(_alike(wanted, task), _alike(wanted, short))
        if len(best) < 50:
            heapq.heappush(best, (alike, task))
        elif alike > best[0][0]:
            heapq.heapreplace(best, (alike, task))
    return nearest(wanted, dict.fromkeys(task for _, task in sorted(best, reverse=True)))


def _alike(one: str, other: str) -> int:
    """Return how many characters two texts begin with and end with alike."""
    return _begin_alike(one, other) + _begin_alike(one[::-1], other[::-1])


def _begin_alike(one: str, other: str) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(one), len(other)))


def _source_of(
    row: _Row,
    plan: Plan,
    lock: Mapping[str, Any],
    catalog: Catalog,
    environ: Mapping[str, str],
    warnings: list[str],
) -> str | None:
    """Read the sources again, and say where the row stands; whatever is not as it was becomes a warning."""
    places: list[str] = []

    def tell(where: str, environment: str, task: str) -> None:
        if (environment, task) == (row.environment, row.task_id):
            places.append(where)

    try:
        files = trace(plan, catalog, row.environment, tell, environ=environ)
    except GymcoreError as error:
        warnings.append(f"its source cannot be read again: {error.message}")
        files = []
    known = {(entry["for"], entry["file"]): entry for entry in lock["data"]}
    changed = []
    for entry in files:
        was = known.get((entry["for"], entry["file"]))
        if was is None:
            warnings.append(f"{entry['file']}: the lock does not tell of this file")
        elif was["sha256"] != entry["sha256"]:
            changed.append(entry["file"])
    at = places[0] if places else None
    for name in changed:
        # A row of the hub is named by its file, and the lock names the split.
        if at is None or at.rpartition(":")[0] == name or name.startswith("hf://"):
            warnings.append(f"{name} has changed since the row was composed: its digest is not that of the lock")
    if at is None and files:
        warnings.append("no source holds this row any more")
    return at


def _options(
    environment: str,
    agent: str,
    model: str,
    plan: Plan,
    catalog: Catalog,
    environ: Mapping[str, str],
    warnings: list[str],
) -> Iterator[OptionLayer]:
    entry = plan.environments.get(environment, EnvironmentPlan())
    plugin = _found(catalog, "environment", entry.use or environment, warnings)
    yield from _plan_options(entry, plan, plugin)
    if plugin is not None:
        yield from _plugin_options("environment", plugin, entry.config, catalog, environ, warnings)
    own = entry.agent or plan.agent
    played_by = _found(
        catalog, "agent", own.use if own is not None and bare_name(own.use) == agent else agent, warnings
    )
    if played_by is not None:
        config = own.config if own is not None and bare_name(own.use) == agent else {}
        yield from _plugin_options("agent", played_by, config, catalog, environ, warnings)
    asked = plan.models.get(model)
    answers = None if asked is None else _found(catalog, "model", asked.use, warnings)
    if asked is not None and answers is not None:
        yield from _plugin_options("model", answers, asked.config, catalog, environ, warnings)


def _found(catalog: Catalog, kind: Any, name: str, warnings: list[str]) -> Plugin | None:
    try:
        return catalog.find(kind, name)
    except GymcoreError as error:
        warnings.append(error.message)
        return None


def _plugin_options(
    of: str,
    plugin: Plugin,
    asked: Mapping[str, Any],
    catalog: Catalog,
    environ: Mapping[str, str],
    warnings: list[str],
) -> Iterator[OptionLayer]:
    try:
        component = catalog.load(plugin)
    except GymcoreError as error:
        warnings.append(error.message)
        return
    for origin in option_origins(component.config_model, plugin.manifest.config, asked, environ):
        yield OptionLayer(of, **asdict(origin))


_OF_PLUGINS = ("use", "data", "agent", "model", "config")
"""Keys of an environment's entry that are told elsewhere."""


def _plan_options(entry: EnvironmentPlan, plan: Plan, plugin: Plugin | None) -> Iterator[OptionLayer]:
    """Say of each key of an environment's entry in the plan who has set it."""
    plain = entry.model_dump(mode="json", exclude_none=True)
    for name, info in EnvironmentPlan.model_fields.items():
        if name in _OF_PLUGINS:
            continue
        value = plain.get(name)
        if name == "params":
            yield from (OptionLayer("plan", f"params.{key}", "plan", item) for key, item in plain[name].items())
        elif name == "split" and value == DEFAULT_SPLIT and plan.mix.split is None:
            # It is written whether somebody asked for it or not.
            yield OptionLayer("plan", name, "default", value)
        elif name == "prompt" and value and plugin is not None and value == plugin.manifest.prompt:
            # It is written whether the plan asked for it or the manifest did.
            yield OptionLayer("plan", name, "manifest", value)
        elif getattr(entry, name) != info.get_default(call_default_factory=True, validated_data={}):
            yield OptionLayer("plan", name, "plan", value)
        elif name == "isolation" and plugin is not None and plugin.manifest.isolation is not None:
            yield OptionLayer("plan", name, "manifest", plugin.manifest.isolation)
        else:
            yield _general(name, value, plan)


def _general(name: str, value: Any, plan: Plan) -> OptionLayer:
    """Say what holds for an environment that says nothing itself: what the plan says of all, or its default."""
    for section in (plan.mix, plan.collect):
        info = type(section).model_fields.get(name)
        if info is not None and name != "concurrency":  # a bound on all of them together
            general = getattr(section, name)
            layer = "default" if general == info.get_default(call_default_factory=True, validated_data={}) else "plan"
            return OptionLayer("plan", name, layer, general)
    return OptionLayer("plan", name, "default", value)
