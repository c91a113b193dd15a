"""
The lock: what a plan became, precise enough to tell whether finished work still means the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from itertools import chain
from typing import Any

from gymcore.composition.configuration import Options
from gymcore.composition.dataset import Dataset
from gymcore.composition.locking.installed import code_changes, describe_distributions
from gymcore.composition.routes import ModelChoice, Route, written_sources
from gymcore.discovery import Catalog, Plugin
from gymcore.discovery.catalog import bare_name
from gymcore.documents import encode_json
from gymcore.plan import Plan

__all__ = [
    "LOCK_FORMAT",
    "TOKENIZER_DIGEST",
    "changed_code",
    "code_that_only_observes",
    "conflicts",
    "describe_lock",
    "differences",
    "encode_lock",
    "grown",
    "is_as_written",
    "lock_digest",
    "meaning_changes",
    "ordered",
]

LOCK_FORMAT = 4

TOKENIZER_DIGEST = "tokenizer_sha256"
"""What a lock says of its mix beside what a plan does."""


def describe_lock(
    routes: Mapping[str, Route],
    models: Mapping[str, ModelChoice],
    sources: Iterable[dict[str, Any]],
    dataset: Dataset,
    plan: Plan,
    catalog: Catalog,
    shares: Mapping[str, float],
    tokenizer: str | None,
    sha256: str | None = None,
) -> dict[str, Any]:
    """
    Write down what a composition consists of, as plain values; it holds no secret, nothing operational, and no path of
    this machine but those that the plan names.

    Whatever has names is sorted by them, so the order in which a plan names its environments changes nothing.

    Args:
        routes: Who serves the tasks.
        models: Every model of the plan.
        sources: What is to be said of each file that rows came from.
        dataset: The tasks in order.
        plan: What was asked for; its seed, its mix and its hooks are of interest.
        catalog: What is installed; of the plugins that are used, the files are read.
        shares: Which part of the rows each environment was to have.
        tokenizer: The digest of the file of the tokenizer that counted tokens, where one did.
        sha256: The digest of the dataset's file, where it is known already.
    """
    lock = _describe_routes(routes, models, plan)
    for name, count in _tasks(routes, dataset).items():
        lock["environments"][name]["tasks"] = count
    for name, epochs in dataset.epochs().items():
        if epochs > 1:
            # Each epoch plays every task anew: how often, decides which rollout is which.
            entry = lock["environments"][routes[name].environment]
            entry["epochs"] = max(epochs, entry.get("epochs", 1))
            entry["asked"]["repeats"] = routes[name].repeats
    for name, entry in lock["environments"].items():
        entry["requested"] = shares.get(name)
    hooks = [catalog.find("hook", name) for name in plan.hooks]
    plugins = [*_plugins(routes, models), *hooks]
    if tokenizer is not None:
        lock["mix"][TOKENIZER_DIGEST] = tokenizer
    lock["hooks"] = sorted(_plugin(plugin) for plugin in hooks)
    return {
        **{key: ordered(value) for key, value in lock.items()},
        "distributions": describe_distributions(catalog, plugins),
        "data": list(sources),
        "dataset": {"rows": len(dataset), "sha256": sha256 or dataset.sha256()},
    }


def ordered(value: Any) -> Any:
    """Return a plain value with its keys sorted, at every depth; lists keep their order."""
    if isinstance(value, dict):
        return {key: ordered(value[key]) for key in sorted(value)}
    return [ordered(item) for item in value] if isinstance(value, list) else value


def _plugins(routes: Mapping[str, Route], models: Mapping[str, ModelChoice]) -> Iterable[Plugin]:
    """Yield every plugin that a lock tells of, hooks apart."""
    for route in routes.values():
        yield route.environment_plugin
        yield route.agent_plugin
    for choice in _used_models(routes, models).values():
        yield choice.plugin


def _used_models(routes: Mapping[str, Route], models: Mapping[str, ModelChoice]) -> dict[str, ModelChoice]:
    used = {route.model for route in routes.values()}
    # Judges are asked by verifiers, so every model but an unused policy counts.
    return {name: choice for name, choice in models.items() if name in used or name != "policy"}


def _tasks(routes: Mapping[str, Route], dataset: Dataset) -> dict[str, int]:
    counts = {route.environment: 0 for route in routes.values()}
    for name, count in dataset.counts().items():
        counts[routes[name].environment] += count
    return counts


def _describe_routes(routes: Mapping[str, Route], models: Mapping[str, ModelChoice], plan: Plan) -> dict[str, Any]:
    """Write down the part of a lock that does not depend on the rows."""
    environments: dict[str, Any] = {}
    for route in routes.values():
        entry = environments.setdefault(
            route.environment,
            {
                "plugin": _plugin(route.environment_plugin),
                "asked": {
                    "config": route.environment_options.meaning,
                    "split": route.plan.split,
                    "data": _plain_sources(route.plan.data),
                    "limit": route.plan.limit,
                    "params": route.plan.params,
                    "model": route.model,
                    "agents": {},
                    # Not where nothing is said, so that folders of before these keys still fit.
                    **({"filter": route.plan.filter} if route.plan.filter else {}),
                    **({"prompt": prompt.model_dump(exclude_none=True)} if (prompt := route.plan.prompt) else {}),
                },
                "agents": {},
            },
        )
        entry["asked"]["agents"][route.agent_plugin.name] = route.agent_options.meaning
        agent = f"agents.{route.agent_plugin.name}"
        marks = {**_marks(route.environment_options, "config"), **_marks(route.agent_options, agent)}
        if marks:
            entry["asked"]["variables"] = {**entry["asked"].get("variables", {}), **marks}
        entry["agents"][route.agent_plugin.name] = _plugin(route.agent_plugin)
    for name, entry in environments.items():
        own = plan.environments[name].agent if name in plan.environments else None
        if own is not None and len(entry["agents"]) > 1:  # else there is no question whose the others are
            entry["asked"]["agent"] = bare_name(own.use)
    return {
        "format": LOCK_FORMAT,
        "gymcore": version("gymcore"),
        "seed": plan.mix.seed,
        "mix": _mix(plan),
        "asked": {"data": _plain_sources(plan.data), "skip_invalid": plan.check.skip_invalid},
        "environments": environments,
        "models": {
            name: {
                "plugin": _plugin(choice.plugin),
                "config": choice.options.meaning,
                **({"variables": marks} if (marks := _marks(choice.options, "config")) else {}),
            }
            for name, choice in _used_models(routes, models).items()
        },
    }


def _marks(options: Options, of: str) -> dict[str, str]:
    """Return the marks of what came out of variables, by which another value is noticed."""
    return {f"{of}.{name}": mark for name, mark in options.marks.items()}


def _plain_sources(sources: Sequence[Any]) -> list[Any]:
    """Return sources as plain values that name them again: a path as a text, all others with their keys."""
    written = written_sources(sources)
    return [source if isinstance(source, str) else source.model_dump(exclude_none=True) for source in written]


def _mix(plan: Plan) -> dict[str, Any]:
    """Write down what decides the order of rows, apart from the seed; empty where every row comes once."""
    asked = plan.mix.model_dump(exclude_defaults=True, exclude={"seed", "split", "limit", "allow_starved"})
    weights = {name: plan.environments[name].weight for name in sorted(plan.environments)}
    # Only those that the plan says: an environment without one has the weight 1 beside others, and keeps its order.
    if said := {name: weight for name, weight in weights.items() if weight is not None}:
        asked["weights"] = said
    return asked


def _plugin(plugin: Plugin) -> str:
    return f"{plugin.qualified} {plugin.version}"


def lock_digest(lock: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits that name a lock; every rollout carries them."""
    return hashlib.blake2b(encode_json(ordered(dict(lock))), digest_size=8).hexdigest()


def encode_lock(lock: Mapping[str, Any]) -> bytes:
    """Return the text of a lock's file; its last key is the digest of all others, the one that rollouts carry."""
    sealed = {**lock, "digest": lock_digest(lock)}
    return json.dumps(sealed, indent=2, ensure_ascii=False).encode() + b"\n"


def is_as_written(lock: dict[str, Any]) -> bool:
    """Take the digest out of a lock that was read, and say whether it is that of the rest."""
    digest = lock.pop("digest", None)
    try:
        return bool(digest == lock_digest(lock))
    except (TypeError, RecursionError):
        return False


def conflicts(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """
    Compare the lock that finished rollouts belong to with another, and say what keeps them from belonging to that too.

    A lock may grow: by environments, with models that only these may need; by the rows of files that grew or were
    added, by a larger limit, and by agents that further rows name. Whether every row of old is still there is the
    dataset's to say.

    Args:
        there: The lock that is there.
        here: The lock that is to take its place.

    Returns:
        One line a key, as `differences` writes them; nothing where `here` is `there`, or more of the same.
    """
    return [*differences(_meaning(grown(there, here)), _meaning(here)), *changed_code(there, here)]


def changed_code(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Say which code has changed that has a part in rollouts, one line a file."""
    return [*chain(*_code_changes(there, here).values())]


def meaning_changes(there: Mapping[str, Any], here: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """
    Compare two locks of the same rows, and say what changes the meaning of a rollout.

    Args:
        there: The lock that is there.
        here: The same, as it would be written now.

    Returns:
        One line a key, as `differences` writes them, and one line a file of code: first what is about more than the
        models, then what is about nothing else.
    """
    lines = differences(_meaning(there), _meaning(here))
    about_more = [line for line in lines if not line.startswith("models.")]
    about_models = [line for line in lines if line.startswith("models.")]
    for name, found in _code_changes(there, here).items():
        (about_more if name in _playing(there) else about_models).extend(found)
    return about_more, about_models


def _meaning(lock: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return what of a lock is compared key by key because it decides what a rollout means.

    Apart from it: hooks only observe, shares and sources are what the rows have become (which are compared), and how
    and whence something was installed means nothing where its code is the same, which is compared file by file.
    """
    told = {key: value for key, value in lock.items() if key not in ("asked", "hooks", "distributions")}
    told["environments"] = {
        name: {key: value for key, value in entry.items() if key != "requested"}
        for name, entry in lock["environments"].items()
    }
    return told


def _code_changes(there: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return what has changed of code that has a part in rollouts: hooks only observe them."""
    changes = code_changes(there.get("distributions", {}), here.get("distributions", {}))
    if not changes:
        return {}
    observing = code_that_only_observes(here)
    return {name: lines for name, lines in changes.items() if name not in observing}


def code_that_only_observes(lock: Mapping[str, Any]) -> set[str]:
    """Return the distributions of which nothing but hooks is used: their code decides nothing about a rollout."""
    models = {_distribution_of(entry["plugin"]) for entry in lock["models"].values()}
    return {_distribution_of(plugin) for plugin in lock.get("hooks", ())} - _playing(lock) - models


def _playing(lock: Mapping[str, Any]) -> set[str]:
    """Return the distributions of environments and agents."""
    return {
        _distribution_of(plugin)
        for entry in lock["environments"].values()
        for plugin in (entry["plugin"], *entry["agents"].values())
    }


def _distribution_of(plugin: str) -> str:
    return plugin.partition("/")[0]


def grown(there: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, Any]:
    """Return a lock with everything in which another one only goes further than it does."""
    added = {name: entry for name, entry in here["environments"].items() if name not in there["environments"]}
    kept = {
        name: _grown_environment(entry, here["environments"].get(name, entry))
        for name, entry in there["environments"].items()
    }
    lock = {
        **there,
        "environments": {**kept, **added},
        # A verifier sees every model, so another one may mean something to environments that are there already.
        "models": {**(here["models"] if added else {}), **there["models"]},
    }
    # The order of the tasks means nothing to finished work; that all are still there is looked at elsewhere.
    lock["mix"] = here["mix"]
    lock["asked"] = here["asked"]
    files = {(entry["for"], entry["file"]): entry["rows"] for entry in here["data"]}
    if all(files.get((entry["for"], entry["file"]), -1) >= entry["rows"] for entry in there["data"]):
        lock["data"] = here["data"]
    if here["dataset"]["rows"] >= there["dataset"]["rows"]:
        lock["dataset"] = here["dataset"]
    return lock


def _grown_environment(there: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, Any]:
    asked, wanted = dict(there["asked"]), here["asked"]
    if asked["limit"] is not None and (wanted["limit"] is None or wanted["limit"] > asked["limit"]):
        asked["limit"] = wanted["limit"]
    if asked["data"] and wanted["data"] and _hold_all(asked["data"], wanted["data"]):
        asked["data"] = wanted["data"]
    asked["agents"] = {**wanted["agents"], **asked["agents"]}
    added = {name: mark for name, mark in wanted.get("variables", {}).items() if _is_added(name, there, here)}
    if added:
        asked["variables"] = {**asked.get("variables", {}), **added}
    if "agent" in wanted:
        asked.setdefault("agent", wanted["agent"])
    if "repeats" in wanted:  # the first epoch had as many, or none would be finished that the second does not ask for
        asked.setdefault("repeats", wanted["repeats"])
    return {
        **there,
        "asked": asked,
        "agents": {**here["agents"], **there["agents"]},
        "tasks": max(there["tasks"], here["tasks"]),
        **({"epochs": here["epochs"]} if here.get("epochs", 1) > there.get("epochs", 1) else {}),
    }


def _hold_all(sources: Sequence[Any], others: Sequence[Any]) -> bool:
    """Whether all of some sources are among others."""
    return {encode_json(source) for source in sources} <= {encode_json(source) for source in others}


def _is_added(mark: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> bool:
    """Whether a mark is of an agent that only the larger lock has."""
    agents = here["asked"]["agents"].keys() - there["asked"]["agents"].keys()
    return any(mark.startswith(f"agents.{agent}.") for agent in agents)


def differences(there: Any, here: Any, path: str = "") -> list[str]:
    """
    Compare two plain values and say what differs, one line a key: `key: there -> here`.
    """
    if isinstance(there, dict) and isinstance(here, dict):
        lines = []
        for key in [*there, *(key for key in here if key not in there)]:
            inner = f"{path}.{key}" if path else str(key)
            if key not in there:
                lines.append(f"{inner}: absent -> {_shown(here[key])}")
            elif key not in here:
                lines.append(f"{inner}: {_shown(there[key])} -> absent")
            else:
                lines.extend(differences(there[key], here[key], inner))
        return lines
    if isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        return [
            line
            for index, pair in enumerate(zip(there, here, strict=True))
            for line in differences(*pair, f"{path}[{index}]")
        ]
    if there == here:
        return []
    old, new = encode_json(there).decode(), encode_json(here).decode()
    # Long values that begin alike are shown from where they part, or both would look the same.
    pairs = enumerate(zip(old, new, strict=False))
    alike = next((index for index, (a, b) in pairs if a != b), min(len(old), len(new)))
    start = alike - 20 if alike > 60 else 0
    return [f"{path}: {_cut(old, start)} -> {_cut(new, start)}"]


def _shown(value: Any) -> str:
    return _cut(encode_json(value).decode())


def _cut(text: str, start: int = 0) -> str:
    """Return at most 80 characters of a text, with dots where something is left out."""
    head = "..." if start else ""
    text = head + text[start:]
    return text if len(text) <= 80 else text[:77] + "..."
