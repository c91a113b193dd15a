"""
A composition in a run folder: plan.yaml, gym.lock, dataset.jsonl (and rejects.jsonl), written whole or not at all.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from gymcore.composition.composer import Composition
from gymcore.composition.dataset import Dataset, route_numbers
from gymcore.composition.locking.lock import (
    LOCK_FORMAT,
    TOKENIZER_DIGEST,
    changed_code,
    conflicts,
    describe_lock,
    differences,
    encode_lock,
    grown,
    is_as_written,
    lock_digest,
    meaning_changes,
)
from gymcore.composition.locking.moves import moves
from gymcore.composition.routes import Resolver
from gymcore.discovery import Catalog
from gymcore.documents import DocumentError, decode_json
from gymcore.errors import PlanError, Problem, RunFolderError
from gymcore.plan import Plan, read_document, source_name
from gymcore.run_folder import (
    DATASET_NAME,
    EARLIER_NAME,
    LOCK_NAME,
    PLAN_NAME,
    REJECTS_NAME,
    ROLLOUTS_NAME,
    WRITER_NAME,
    disk_error,
    only_writer,
    part_of,
    sha256_of,
    size_of,
    sync_folder,
    write_part,
    write_whole,
)

__all__ = ["in_order_of", "named_lock", "open_composition", "read_lock", "write_composition"]


def write_composition(composition: Composition, folder: Path) -> None:
    """
    Write a composition into a run folder, or agree with the one that is there.

    A folder without rollouts takes any composition; one with rollouts only the composition they belong to, or one that
    holds all of it and more: further environments, further rows.

    Raises:
        RunFolderError: the folder holds rollouts of another composition (the differences are listed), or files that
            are none of ours.
        StorageError: the folder cannot be written.
    """
    if _parsed_lock(folder / LOCK_NAME)[0] is None and _is_foreign(folder):
        raise RunFolderError(
            "the output folder is not empty and holds no run", where=str(folder), hints=["try: another --out"]
        )
    try:
        with only_writer(folder):
            _finish_writing(folder)
            _refuse_own_sources(composition, folder)
            _refuse_other_rollouts(composition, folder)
            _write_files(composition, folder)
    except OSError as error:
        raise disk_error("the output folder cannot be written", error, folder) from None


def _refuse_own_sources(composition: Composition, folder: Path) -> None:
    """
    Keep the rows from the files that they were read from.

    Raises:
        RunFolderError: a file that would be replaced is one of them.
    """
    replaced = [folder / REJECTS_NAME]
    if sha256_of(folder / DATASET_NAME) != composition.lock["dataset"]["sha256"]:
        replaced.append(folder / DATASET_NAME)
    for source in composition.lock["data"]:
        for path in replaced:
            with suppress(OSError):
                if path.samefile(source["file"]):
                    told = "the rows come from this file, which would be replaced"
                    raise RunFolderError(told, where=str(path), hints=["try: another --out"])


def _refuse_other_rollouts(composition: Composition, folder: Path) -> None:
    if size_of(folder / ROLLOUTS_NAME) == 0:
        return
    there = _whole_lock(folder / LOCK_NAME)
    if there is None or there == composition.lock:
        return
    lines = conflicts(there, composition.lock)
    if not lines and there["dataset"] != composition.lock["dataset"]:
        lines = _rows_missing(there, folder / DATASET_NAME, composition.dataset)
    if lines and lines == changed_code(there, composition.lock):
        raise RunFolderError(
            "the folder holds rollouts that other code has made",
            where=str(folder),
            differences=lines[:20],
            hints=["try: another --out, or the code that made them"],
        )
    if lines:
        raise RunFolderError(
            "the folder holds rollouts of another plan",
            where=str(folder),
            differences=_in_words(grown(there, composition.lock), composition.lock, lines)[:20],
            hints=["try: another --out, or the plan that made them: gym run " + str(folder)],
        )


def _in_words(there: Mapping[str, Any], here: Mapping[str, Any], lines: list[str]) -> list[str]:
    """Return what stands against a lock in the words of `gym diff`, or key by key where these do not say it."""
    return [move.line for move in moves(there, here) if move.is_decisive] or lines


def _rows_missing(lock: dict[str, Any], path: Path, dataset: Dataset) -> list[str]:
    """
    Look whether a dataset holds every row of the file that is to be replaced, those of a route in the same order.

    Both are read once, side by side, so a million rows need no more memory than ten.

    Returns:
        A line that says what is missing; nothing where all is there.
    """
    following = {name: iter(positions) for name, positions in dataset.positions().items()}
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                digest.update(line)
                row = line.rstrip(b"\n")
                positions = following.get(_route_named_by(row) or "", iter(()))
                if not any(dataset.row(position).data == row for position in positions):
                    return [f"{DATASET_NAME}:{number}: this row -> absent, changed, or in another order"]
    except FileNotFoundError:
        return [f"{DATASET_NAME}: absent, so nobody can tell whether its rows are still the same"]
    if digest.hexdigest() != lock["dataset"]["sha256"]:
        return [f"{DATASET_NAME}: not the one that {LOCK_NAME} tells of"]
    return []


def _route_named_by(row: bytes) -> str | None:
    try:
        name = decode_json(row)["agent_ref"]["name"]
    except (DocumentError, KeyError, TypeError):
        return None
    return name if isinstance(name, str) else None


def _write_files(composition: Composition, folder: Path) -> None:
    _keep_earlier_lock(composition, folder)
    with _clearing_parts(folder):
        _remove_parts(folder)
        if sha256_of(folder / DATASET_NAME) != composition.lock["dataset"]["sha256"]:
            composition.dataset.write(part_of(folder / DATASET_NAME))
        write_part(folder / PLAN_NAME, composition.plan.to_yaml().encode())
        if composition.rejects is not None:
            composition.rejects.write(part_of(folder / REJECTS_NAME))
        elif (folder / REJECTS_NAME).exists():
            write_part(folder / REJECTS_NAME, b"")  # as much as to say that there are none any more
        sync_folder(folder)
        # The lock comes last. Once its part is whole, all are, and whoever comes next can put them in place.
        write_part(folder / LOCK_NAME, encode_lock(composition.lock))
    # From here on parts that are not in place yet are finished by whoever comes next, and must not be removed.
    _put_in_place(folder)


def _keep_earlier_lock(composition: Composition, folder: Path) -> None:
    """Keep the lock that is to be replaced where rollouts name it, under the digest by which they do."""
    there, is_whole = _parsed_lock(folder / LOCK_NAME)
    if there is None or not is_whole or there == composition.lock or size_of(folder / ROLLOUTS_NAME) == 0:
        return
    kept = folder / EARLIER_NAME
    kept.mkdir(exist_ok=True)
    write_whole(kept / f"{lock_digest(there)}.lock", encode_lock(there))
    sync_folder(kept)


def _put_in_place(folder: Path) -> None:
    """Give the parts their names, the lock last, so that no power cut leaves a lock beside files of another."""
    sync_folder(folder)
    for name in (DATASET_NAME, PLAN_NAME):
        if part_of(folder / name).exists():
            part_of(folder / name).replace(folder / name)
    rejects = part_of(folder / REJECTS_NAME)
    if size_of(rejects):
        rejects.replace(folder / REJECTS_NAME)
    elif rejects.exists():
        (folder / REJECTS_NAME).unlink(missing_ok=True)
        rejects.unlink()
    sync_folder(folder)
    part_of(folder / LOCK_NAME).replace(folder / LOCK_NAME)
    sync_folder(folder)


def _finish_writing(folder: Path) -> None:
    """Put in place what a killed process had written to the end, and not named to the end."""
    try:
        lock = decode_json(part_of(folder / LOCK_NAME).read_bytes())
    except (FileNotFoundError, DocumentError):
        return
    if isinstance(lock, dict) and is_as_written(lock) and lock.get("format") == LOCK_FORMAT:
        _put_in_place(folder)


def _is_foreign(folder: Path) -> bool:
    """Whether a folder without a lock holds something else than what an interrupted `write_composition` leaves."""
    try:
        found = {path.name for path in folder.iterdir()}
    except OSError:
        return False  # it is not there, or cannot be used, as writing will tell
    parts = {part_of(folder / name).name for name in (DATASET_NAME, PLAN_NAME, REJECTS_NAME, LOCK_NAME)}
    ours = parts | {WRITER_NAME}
    return bool(found) and not (found & ours and found <= ours | {DATASET_NAME, PLAN_NAME, REJECTS_NAME})


@contextmanager
def _clearing_parts(folder: Path) -> Iterator[None]:
    """Leave no part behind where not all could be written."""
    try:
        yield
    except BaseException:
        with suppress(OSError):
            _remove_parts(folder)
        raise


def _remove_parts(folder: Path) -> None:
    """Remove the parts, that of the lock first: while it is there, the others count as whole."""
    if part_of(folder / LOCK_NAME).exists():
        part_of(folder / LOCK_NAME).unlink()
        sync_folder(folder)
    for name in (DATASET_NAME, PLAN_NAME, REJECTS_NAME):
        part_of(folder / name).unlink(missing_ok=True)


def read_lock(folder: Path) -> dict[str, Any] | None:
    """
    Read the lock of a run folder; None when the folder holds none.

    What a killed process has left is put in place first, where this process may and no other writes there.

    Raises:
        RunFolderError: it is damaged, was changed by hand, or is of a format this version does not know.
    """
    with suppress(OSError, RunFolderError):
        _finish_what_was_left(folder)
    return _whole_lock(folder / LOCK_NAME)


def _finish_what_was_left(folder: Path) -> None:
    """
    Put in place what a killed process had written to the end.

    Raises:
        RunFolderError: another process writes there.
        OSError: the folder cannot be written.
    """
    if part_of(folder / LOCK_NAME).exists():
        with only_writer(folder):
            _finish_writing(folder)


def named_lock(path: Path) -> tuple[dict[str, Any], Path]:
    """
    Read the lock that somebody names, by its run folder or by itself; that of a folder as `read_lock` does.

    Returns:
        The lock, and its file; what belongs to it lies beside it, where it lies anywhere.

    Raises:
        RunFolderError: there is none, or it is damaged, was changed by hand, or is of a format this version does not
            know.
    """
    file = path / LOCK_NAME if path.is_dir() else path
    lock = read_lock(file.parent) if file.name == LOCK_NAME else _whole_lock(file)
    if lock is None:
        hints = ["try: a run folder, or the gym.lock of one"]
        if path.is_dir():
            raise RunFolderError("there is no composition in this folder", where=str(path), hints=hints)
        raise RunFolderError("there is no such run folder or lock", where=str(path), hints=hints)
    return lock, file


def _whole_lock(path: Path) -> dict[str, Any] | None:
    lock, is_whole = _parsed_lock(path)
    if lock is not None and not is_whole:
        raise RunFolderError(
            "the lock is damaged: its last line is not the digest of what it says",
            where=str(path),
            hints=["a lock is not edited: compose again for another plan, or put back the file as it was"],
        )
    return lock


def _parsed_lock(path: Path) -> tuple[dict[str, Any] | None, bool]:
    """Read a lock that is ours for certain, and say whether it is whole."""
    try:
        lock = decode_json(path.read_bytes())
    except FileNotFoundError:
        return None, False
    except OSError as error:
        raise disk_error("this cannot be used as a run folder", error, path.parent) from None
    except DocumentError as error:
        raise RunFolderError(f"the lock is damaged: {error}", where=str(path)) from None
    if not isinstance(lock, dict) or lock.get("format") != LOCK_FORMAT:
        raise RunFolderError("the lock was written by another version of gymcore", where=str(path))
    return lock, is_as_written(lock)


def open_composition(
    folder: Path,
    catalog: Catalog,
    *,
    settings: tuple[str, ...] = (),
    for_all: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    is_played: bool = True,
) -> Composition:
    """
    Read a composition back from a run folder; its dataset is the file that lies there.

    Args:
        folder: Where `write_composition` wrote it.
        catalog: What is installed.
        settings: Changes to its plan, `key.path=value`.
        for_all: Keys of `collect` that hold for every environment, whatever the plan says of single ones; None changes
            nothing.
        environ: As for `compose`.
        is_played: As for `compose`.

    Raises:
        RunFolderError: there is no composition, its dataset was changed, or what is installed has changed what
            finished rollouts mean.
    """
    try:
        _finish_what_was_left(folder)
    except OSError as error:
        raise disk_error("the run folder cannot be written", error, folder) from None
    lock = _whole_lock(folder / LOCK_NAME)
    if lock is None:
        hints = ["try: gym compose --env NAME --out " + str(folder)]
        raise RunFolderError("there is no composition in this folder", where=str(folder), hints=hints)
    written = Plan.from_file(folder / PLAN_NAME)
    plan = _changed_plan(folder / PLAN_NAME, settings, for_all or {})
    environ = os.environ if environ is None else environ
    with closing(Resolver(plan, catalog, environ, is_played=is_played)) as resolver:
        resolver.resolve_models()
        resolver.find_hooks()
        for name in in_order_of(written, lock):
            for agent in lock["environments"][name]["agents"]:
                resolver.resolve_environment(name, agent)
    resolver.raise_errors()
    dataset, digest = _index(folder / DATASET_NAME, list(resolver.routes))
    shares = {name: entry.get("requested") for name, entry in lock["environments"].items()}
    tokenizer = lock["mix"].get(TOKENIZER_DIGEST)  # what it has counted is in the order of the rows
    here = describe_lock(
        resolver.routes, resolver.models, lock["data"], dataset, plan, catalog, shares, tokenizer, digest
    )
    about_more, about_models = meaning_changes(lock, here)
    not_said = differences(_fixed(written, lock["environments"]), _fixed(plan))
    if not_said or about_more or (about_models and size_of(folder / ROLLOUTS_NAME) > 0):
        raise RunFolderError(
            "what is installed or asked for no longer fits what lies in the folder",
            where=str(folder),
            differences=[*not_said, *_in_words(lock, here, [*about_more, *about_models])][:20],
            hints=[
                "try: compose again, into another folder; or with more than before, into this one: --out " + str(folder)
            ],
        )
    return Composition(
        resolver.written_plan(), resolver.routes, resolver.models, dataset, here, tuple(resolver.remarks), shares
    )


def in_order_of(plan: Plan, lock: Mapping[str, Any]) -> list[str]:
    """Return the environments of a lock, which sorts them, in the order in which a plan names them."""
    named = [name for name in plan.environments if name in lock["environments"]]
    return list(dict.fromkeys([*named, *lock["environments"]]))


def _changed_plan(path: Path, settings: Iterable[str], for_all: Mapping[str, Any]) -> Plan:
    """Read a plan, and change it."""
    chosen = {key: value for key, value in for_all.items() if value is not None}
    document = read_document(path)
    entries = document.value.get("environments") if isinstance(document.value, dict) else None
    for entry in entries.values() if isinstance(entries, dict) else ():
        for key in chosen if isinstance(entry, dict) else ():
            entry.pop(key, None)
    changes = [f"collect.{key}={value}" for key, value in chosen.items()]
    return Plan.from_document(document, source=str(path), settings=[*changes, *settings])


def _fixed(plan: Plan, environments: Iterable[str] | None = None) -> dict[str, Any]:
    """Return what of a plan the rows of a folder have settled, and a lock does not say: whose rows they are."""
    names = plan.environments if environments is None else environments
    agents = {name: plan.environments[name].agent for name in names if name in plan.environments}
    return {
        "data": [source_name(source) for source in plan.data],
        "agent": None if plan.agent is None else plan.agent.use,
        "environments": {name: agent and agent.use for name, agent in agents.items()},
    }


def _index(path: Path, route_names: list[str]) -> tuple[Dataset, str]:
    """Read through a dataset once: where each row stands, whose it is, and the digest of the whole."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise RunFolderError(f"the dataset cannot be read: {error.strerror}", where=str(path)) from None
    index = {name: number for number, name in enumerate(route_names)}
    offsets, lengths, routes = array("Q"), array("I"), route_numbers(len(route_names))
    most_epochs = dict.fromkeys(route_names, 1)
    digest = hashlib.sha256()
    position = 0
    for number, line in enumerate(file, start=1):
        digest.update(line)
        try:
            row = decode_json(line)
            name = row["agent_ref"]["name"]
            routes.append(index[name])
            most_epochs[name] = max(most_epochs[name], row.get("epoch", 1))
        except (DocumentError, KeyError, TypeError):
            file.close()
            problem = Problem("this row was not written by `gym compose`", f"{path}:{number}")
            raise PlanError([problem]) from None
        offsets.append(position)
        lengths.append(len(line.rstrip(b"\n")))
        position += len(line)
    return Dataset(file, offsets, lengths, routes, route_names, most_epochs=most_epochs), digest.hexdigest()
