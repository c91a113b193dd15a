"""
A composition in a run folder: plan.yaml, gym.lock and dataset.jsonl, written whole or not at all, and read back.
"""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gymcore.composition.composer import Composition
from gymcore.composition.dataset import Dataset
from gymcore.composition.lock import LOCK_FORMAT, describe_lock, differences
from gymcore.composition.routes import Resolver
from gymcore.discovery import Catalog
from gymcore.documents import DocumentError, decode_json
from gymcore.errors import PlanError, Problem, RunFolderError, StorageError
from gymcore.plan import Plan

__all__ = ["DATASET_NAME", "LOCK_NAME", "PLAN_NAME", "open_composition", "read_lock", "write_composition"]

PLAN_NAME = "plan.yaml"
LOCK_NAME = "gym.lock"
DATASET_NAME = "dataset.jsonl"
ROLLOUTS_NAME = "rollouts.jsonl"


def write_composition(composition: Composition, folder: Path) -> None:
    """
    Write a composition into a run folder, or agree with the one that is there.

    A folder without rollouts takes any composition; one with rollouts only the composition they belong to.

    Raises:
        RunFolderError: the folder holds rollouts of another composition (the differences are listed), or files that
            are none of ours.
        StorageError: the folder cannot be written.
    """
    there = read_lock(folder)
    if there is None and folder.is_dir() and any(folder.iterdir()):
        raise RunFolderError(
            "the output folder is not empty and holds no run", where=str(folder), hints=["try: another --out"]
        )
    collected = _size_of(folder / ROLLOUTS_NAME) > 0
    if there is not None and collected:
        lines = differences(there, composition.lock)
        if lines:
            raise RunFolderError(
                "the folder holds rollouts of another plan",
                where=str(folder),
                differences=lines[:20],
                hints=["try: another --out, or the plan that made them: gym run " + str(folder)],
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if there is None or there != composition.lock or not (folder / DATASET_NAME).is_file():
            part = folder / f".{DATASET_NAME}.part"
            composition.dataset.write(part)
            part.replace(folder / DATASET_NAME)
        write_whole(folder / PLAN_NAME, composition.plan.to_yaml().encode())
        write_whole(folder / LOCK_NAME, json.dumps(composition.lock, indent=2, ensure_ascii=False).encode() + b"\n")
    except OSError as error:
        raise StorageError(
            f"the output folder cannot be written: {error.strerror}", where=str(folder), hints=["try: another --out"]
        ) from None


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that whoever reads it finds the old content or the new, and never a part."""
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    part.replace(path)


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def read_lock(folder: Path) -> dict[str, Any] | None:
    """
    Read the lock of a run folder; None when the folder holds none.

    Raises:
        RunFolderError: it is damaged, or of a format this version does not know.
    """
    path = folder / LOCK_NAME
    try:
        lock = decode_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        raise RunFolderError("the output folder is a file", where=str(folder), hints=["try: another --out"]) from None
    except OSError as error:
        raise StorageError(f"the lock cannot be read: {error.strerror}", where=str(path)) from None
    except DocumentError as error:
        raise RunFolderError(f"the lock is damaged: {error}", where=str(path)) from None
    if not isinstance(lock, dict) or lock.get("format") != LOCK_FORMAT:
        raise RunFolderError("the lock was written by another version of gymcore", where=str(path))
    return lock


def open_composition(
    folder: Path, catalog: Catalog, *, settings: tuple[str, ...] = (), environ: Mapping[str, str] | None = None
) -> Composition:
    """
    Read a composition back from a run folder; its dataset is the file that lies there.

    Args:
        folder: Where `write_composition` wrote it.
        catalog: What is installed.
        settings: Changes to its plan, `key.path=value`.
        environ: As for `compose`.

    Raises:
        RunFolderError: there is no composition, its dataset was changed, or what is installed has changed what
            finished rollouts mean.
    """
    lock = read_lock(folder)
    if lock is None:
        hints = ["try: gym compose --env NAME --out " + str(folder)]
        raise RunFolderError("there is no composition in this folder", where=str(folder), hints=hints)
    plan = Plan.from_file(folder / PLAN_NAME, settings)
    resolver = Resolver(plan, catalog, os.environ if environ is None else environ)
    resolver.resolve_models()
    for name, entry in lock["environments"].items():
        for agent in entry["agents"]:
            resolver.resolve_environment(name, agent)
    resolver.raise_errors()
    dataset, digest = _index(folder / DATASET_NAME, list(resolver.routes))
    here = describe_lock(resolver.routes, resolver.models, lock["data"], dataset, plan.mix.seed, digest)
    found = differences(lock, here)
    only_models = all(line.startswith("models.") for line in found)
    if found and not (only_models and _size_of(folder / ROLLOUTS_NAME) == 0):
        raise RunFolderError(
            "what is installed or asked for no longer fits what lies in the folder",
            where=str(folder),
            differences=found[:20],
            hints=["try: compose again into another folder, with --out"],
        )
    return Composition(resolver.written_plan(), resolver.routes, resolver.models, dataset, here)


def _index(path: Path, route_names: list[str]) -> tuple[Dataset, str]:
    """Read through a dataset once: where each row stands, whose it is, and the digest of the whole."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise RunFolderError(f"the dataset cannot be read: {error.strerror}", where=str(path)) from None
    index = {name: number for number, name in enumerate(route_names)}
    offsets, lengths, routes = array("Q"), array("I"), array("I")
    digest = hashlib.sha256()
    position = 0
    for number, line in enumerate(file, start=1):
        digest.update(line)
        try:
            name = decode_json(line)["agent_ref"]["name"]
            routes.append(index[name])
        except (DocumentError, KeyError, TypeError):
            problem = Problem("this row was not written by `gym compose`", f"{path}:{number}")
            raise PlanError([problem]) from None
        offsets.append(position)
        lengths.append(len(line.rstrip(b"\n")))
        position += len(line)
    return Dataset(file, offsets, lengths, routes, route_names), digest.hexdigest()
