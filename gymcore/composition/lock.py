"""
The lock: what a plan became, precise enough to tell whether finished work still means the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

from gymcore.composition.dataset import Dataset
from gymcore.composition.routes import ModelChoice, Route
from gymcore.discovery import Plugin
from gymcore.documents import encode_json
from gymcore.plan import Plan, source_name

__all__ = ["LOCK_FORMAT", "conflicts", "describe_lock", "differences", "lock_digest"]

LOCK_FORMAT = 2


def describe_lock(
    routes: Mapping[str, Route],
    models: Mapping[str, ModelChoice],
    sources: Iterable[dict[str, Any]],
    dataset: Dataset,
    plan: Plan,
    sha256: str | None = None,
) -> dict[str, Any]:
    """
    Write down what a composition consists of, as plain values; it holds no secret and nothing operational.

    Args:
        routes: Who serves the tasks.
        models: Every model of the plan.
        sources: What is to be said of each file that rows came from.
        dataset: The tasks in order.
        plan: What was asked for; its seed and its mix are of interest.
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
    return {
        **lock,
        "data": list(sources),
        "dataset": {"rows": len(dataset), "sha256": sha256 or dataset.sha256()},
    }


def _tasks(routes: Mapping[str, Route], dataset: Dataset) -> dict[str, int]:
    counts = {route.environment: 0 for route in routes.values()}
    for name, count in dataset.counts().items():
        counts[routes[name].environment] += count
    return counts


def _describe_routes(routes: Mapping[str, Route], models: Mapping[str, ModelChoice], plan: Plan) -> dict[str, Any]:
    """Write down the part of a lock that does not depend on the rows."""
    used = {route.model for route in routes.values()}
    environments: dict[str, Any] = {}
    for route in routes.values():
        entry = environments.setdefault(
            route.environment,
            {
                "plugin": _plugin(route.environment_plugin),
                "asked": {
                    "config": route.environment_options.meaning,
                    "split": route.plan.split,
                    "data": [source_name(source) for source in route.plan.data],
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
        entry["agents"][route.agent_plugin.name] = _plugin(route.agent_plugin)
    return {
        "format": LOCK_FORMAT,
        "gymcore": version("gymcore"),
        "seed": plan.mix.seed,
        "mix": _mix(plan),
        "environments": environments,
        "models": {
            name: {"plugin": _plugin(choice.plugin), "config": choice.options.meaning}
            for name, choice in models.items()
            # Judges are asked by verifiers, so every model but an unused policy counts.
            if name in used or name != "policy"
        },
    }


def _mix(plan: Plan) -> dict[str, Any]:
    """Write down what decides the order of rows, apart from the seed; empty where every row comes once."""
    asked = plan.mix.model_dump(exclude_defaults=True, exclude={"seed", "split", "limit", "allow_starved"})
    weights = {name: plan.environments[name].weight for name in sorted(plan.environments)}
    if any(weight is not None for weight in weights.values()):
        asked["weights"] = {name: 1 if weight is None else weight for name, weight in weights.items()}
    return asked


def _plugin(plugin: Plugin) -> str:
    return f"{plugin.qualified} {plugin.version}"


def lock_digest(lock: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits that name a lock; every rollout carries them."""
    return hashlib.blake2b(encode_json(lock), digest_size=8).hexdigest()


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
    return differences(_grown(there, here), here)


def _grown(there: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, Any]:
    """Return a lock with everything in which another one only goes further than it does."""
    added = {name: entry for name, entry in here["environments"].items() if name not in there["environments"]}
    kept = {
        name: _grown_environment(entry, here["environments"].get(name, entry))
        for name, entry in there["environments"].items()
    }
    grown = {
        **there,
        "environments": {**kept, **added},
        # A verifier sees every model, so another one may mean something to environments that are there already.
        "models": {**(here["models"] if added else {}), **there["models"]},
    }
    # The order of the tasks means nothing to finished work; that all are still there is looked at elsewhere.
    grown["mix"] = here["mix"]
    files = {(entry["for"], entry["file"]): entry["rows"] for entry in here["data"]}
    if all(files.get((entry["for"], entry["file"]), -1) >= entry["rows"] for entry in there["data"]):
        grown["data"] = here["data"]
    if here["dataset"]["rows"] >= there["dataset"]["rows"]:
        grown["dataset"] = here["dataset"]
    return grown


def _grown_environment(there: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, Any]:
    asked, wanted = dict(there["asked"]), here["asked"]
    if asked["limit"] is not None and (wanted["limit"] is None or wanted["limit"] > asked["limit"]):
        asked["limit"] = wanted["limit"]
    if asked["data"] and wanted["data"] and set(asked["data"]) <= set(wanted["data"]):
        asked["data"] = wanted["data"]
    asked["agents"] = {**wanted["agents"], **asked["agents"]}
    return {
        **there,
        "asked": asked,
        "agents": {**here["agents"], **there["agents"]},
        "tasks": max(there["tasks"], here["tasks"]),
        **({"epochs": here["epochs"]} if here.get("epochs", 1) > there.get("epochs", 1) else {}),
    }


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
