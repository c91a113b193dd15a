"""
Which rollouts of a run folder are poison: they ended their worker twice, and are not worth another.
"""

from __future__ import annotations

from pathlib import Path

from gymcore.collection.journal import Damage, read_lines
from gymcore.documents import DocumentError, decode_json
from gymcore.records import POISON, RolloutKey
from gymcore.run_folder import FAILURES_NAME

__all__ = ["read_poisoned"]


def read_poisoned(folder: Path) -> frozenset[RolloutKey]:
    """
    Find the rollouts that a folder's failures call poison; whether one was finished later is not looked at.

    Raises:
        StorageError: the file is there and cannot be read.
    """
    found: set[RolloutKey] = set()
    for line in read_lines(folder / FAILURES_NAME):
        # Looked for in the bytes first: there may be a million other failures.
        if isinstance(line, Damage) or not (found or POISON.encode() in line[1]):
            continue
        try:
            value = decode_json(line[1])
            key = (str(value["environment"]), str(value["task_id"]), int(value["repeat"]))
            # The last failure decides: told to, a run may have played it again. A plugin's exception may have any name.
            if value["error"] == POISON and value["stage"] == "worker":
                found.add(key)
            else:
                found.discard(key)
        except (DocumentError, KeyError, TypeError, ValueError):
            continue  # the journal says what is damaged
    return frozenset(found)
