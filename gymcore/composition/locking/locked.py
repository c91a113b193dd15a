"""
Composing again from a lock: the plan that it tells of, and a refusal in words where something else has come of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gymcore.composition.composer import Composition
from gymcore.composition.locking.lock import TOKENIZER_DIGEST
from gymcore.composition.locking.moves import moves
from gymcore.errors import RunFolderError

__all__ = ["plan_of", "refuse_what_moved"]

SHOWN = 20


def plan_of(lock: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return the plan of which a lock has come, as plain values.

    What a lock does not hold is not in it: secrets, operational options, and how rollouts are collected.

    Args:
        lock: A lock that is whole.
    """
    mix = {key: value for key, value in lock["mix"].items() if key != TOKENIZER_DIGEST}
    weights = mix.pop("weights", {})
    return {
        "environments": {
            name: {**_entry(entry), **({"weight": weights[name]} if name in weights else {})}
            for name, entry in lock["environments"].items()
        },
        "data": lock["asked"]["data"],
        "check": {"skip_invalid": lock["asked"]["skip_invalid"]},
        "models": {
            name: {"use": _name_of(entry["plugin"]), "config": entry["config"]}
            for name, entry in lock["models"].items()
        },
        "hooks": [_name_of(plugin) for plugin in lock["hooks"]],
        "mix": {**mix, "seed": lock["seed"], "allow_starved": True},
    }


def _entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    asked = {key: value for key, value in entry["asked"].items() if key not in ("agent", "agents", "variables")}
    agents = entry["asked"]["agents"]
    own = entry["asked"].get("agent") or next(iter(agents), None)
    if own is not None:
        asked["agent"] = {"use": _name_of(entry["agents"][own]), "config": agents[own]}
    return {"use": _name_of(entry["plugin"]), **asked}


def _name_of(plugin: str) -> str:
    """Return `distribution/name` of what a lock says of a plugin."""
    return plugin.rpartition(" ")[0]


def refuse_what_moved(
    composition: Composition, lock: Mapping[str, Any], where: Path, hints: Sequence[str] = ()
) -> list[str]:
    """
    Compare what was composed with the lock that it was to come out as.

    Args:
        composition: What was composed.
        lock: What it was to be; whole.
        where: The file of the lock.
        hints: What else is to be known where it is refused.

    Returns:
        What has moved without consequence, such as how a plugin was installed; one line each.

    Raises:
        RunFolderError: something else has come of it, with everything that has moved.
    """
    found = moves(lock, composition.lock)
    decisive = [move.line for move in found if move.is_decisive]
    if decisive:
        more = [f"and {len(decisive) - SHOWN} more"] if len(decisive) > SHOWN else []
        raise RunFolderError(
            "this is not what the lock tells of, so nothing is written",
            where=str(where),
            differences=[*decisive[:SHOWN], *more],
            hints=[*hints, "try: install and ask for what the lock tells of, or leave --locked out to compose anew"],
        )
    return [move.line for move in found]
