"""
Data preparation: the splits of environments, checked, routed and mixed, one file a split, and its statistics.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gymcore.composition.asked_names import key_of, shown_name
from gymcore.composition.composer import Composition, compose, refuse_warnings
from gymcore.composition.linting.linter import LintWarning
from gymcore.composition.routes import Resolver, with_argument
from gymcore.composition.sources.plugin_rows import splits_without_rows
from gymcore.composition.tokens import WORDS
from gymcore.datasets.describing import DatasetStatistics
from gymcore.datasets.hints import hints_without_a_plan
from gymcore.discovery import Catalog, Plugin
from gymcore.discovery.catalog import bare_name, split_argument
from gymcore.documents import DocumentError, decode_json
from gymcore.errors import GymcoreError, PlanError, Problem, RequestError, RunFolderError
from gymcore.plan import CheckPlan, EnvironmentPlan, MixPlan, ModelPlan, Plan, WarningName
from gymcore.run_folder import REJECTS_NAME, disk_error, only_writer, part_of, sha256_of, sync_folder, write_part

__all__ = ["SPLITS", "Prepared", "PreparedSplit", "prepare_data"]

SPLITS = ("train", "validation", "example")

_NOBODY = {"policy": ModelPlan(use="nop")}
"""The model of a plan that nobody plays: it asks of an environment neither a solution nor anything else."""


@dataclass(frozen=True)
class PreparedSplit:
    """One split of all environments that have it."""

    name: str
    tasks: dict[str, int]
    """How many rows each environment has in it."""
    sha256: str

    def to_dict(self) -> dict[str, Any]:
        """Return what `--json` prints of it."""
        return {"split": self.name, "rows": sum(self.tasks.values()), "tasks": self.tasks, "sha256": self.sha256}


@dataclass(frozen=True)
class Prepared:
    """What was prepared."""

    folder: Path
    splits: tuple[PreparedSplit, ...]
    skipped: dict[str, str]
    """Installed environments that were left out, and splits that an environment has not after all; and why."""
    rejected: int
    """How many invalid rows were left out."""
    warnings: tuple[LintWarning, ...]
    is_new: bool
    """Whether something was written; where the same lay there already, nothing was."""
    replaced: tuple[str, ...] = ()
    """Names of files in whose place there are others now."""
    removed: tuple[str, ...] = ()
    """Names of files that were prepared here before, and by this request are not."""
    kept: tuple[str, ...] = ()
    """Names of files that are called like prepared ones, were not prepared here as they are, and stay as they are."""

    def to_dict(self) -> dict[str, Any]:
        """Return what `--json` prints of it."""
        return {
            "folder": str(self.folder),
            "written": self.is_new,
            "replaced": list(self.replaced),
            "removed": list(self.removed),
            "kept": list(self.kept),
            "splits": [split.to_dict() for split in self.splits],
            "rejected": self.rejected,
            "skipped": self.skipped,
            "warnings": [warning.to_dict() for warning in self.warnings],
        }


def prepare_data(
    environments: Sequence[str],
    catalog: Catalog,
    folder: Path,
    *,
    skip_invalid: bool = False,
    ignore: Collection[WarningName] = (),
    strict: bool = False,
    force: bool = False,
    tokenizer: str = WORDS,
    environ: Mapping[str, str] | None = None,
) -> Prepared:
    """
    Check the splits of environments and write each split of all of them into one file, with its statistics.

    Every file is whole or not there, and none is written before all are known to be good. A file that was not prepared
    in this folder is never removed, and replaced only where it is to be, by one of its name.

    Args:
        environments: Their names, `name` or `distribution/name`, with `:ARGUMENT` where they take one; every installed
            one where there are none.
        catalog: What is installed.
        folder: Where the files go.
        skip_invalid: Leave invalid rows out, and write them to `rejects.jsonl`; else one of them is refused with all.
        ignore: Warnings that are not looked for.
        strict: Take warnings for mistakes.
        force: Replace other files of these names, and remove what was prepared in this folder before and is not now.
        tokenizer: What measures prompts: `words`, or the path of a `tokenizer.json`.
        environ: As for `compose`.

    Raises:
        RequestError: an environment, a row or the folder is not as it should be; nothing was written.
        PluginError: an environment that was named is broken.
        StorageError: the disk failed.
    """
    DatasetStatistics(tokenizer)  # a wrong tokenizer is said before the work, and not after it
    chosen, skipped = _chosen(environments, catalog, os.environ if environ is None else environ)
    _refuse_sources(folder, [each.plugin for each in chosen.values()], catalog)
    check = CheckPlan(skip_invalid=skip_invalid, ignore=list(ignore))
    compositions = {}
    for split in SPLITS:
        having = {name: each.plan for name, each in chosen.items() if split in each.splits}
        if having:
            plan = Plan(environments=having, models=_NOBODY, mix=MixPlan(split=split), check=check)
            with hints_without_a_plan():
                compositions[split] = compose(plan, catalog, environ=environ)
    if not compositions:
        raise PlanError([Problem(f"none of the environments has a split of {', '.join(SPLITS)}", where="--env")])
    warnings = tuple(dict.fromkeys(warning for each in compositions.values() for warning in each.warnings))
    if strict:
        refuse_warnings(warnings)
    try:
        with only_writer(folder), _clearing_parts(folder):
            rejected = _write_rejects(compositions.values(), folder)
            rejects_sha256 = sha256_of(part_of(folder / REJECTS_NAME))
            splits = tuple(
                _write_split(name, each, folder, tokenizer, rejects_sha256) for name, each in compositions.items()
            )
            changes = _Changes.of(folder)
            changes.carry_out(folder, force=force)
    except OSError as error:
        raise disk_error("the output folder cannot be written", error, folder) from None
    is_new = bool(changes.new or changes.replaced or changes.removed)
    return Prepared(
        folder, splits, skipped, rejected, warnings, is_new, changes.replaced, changes.removed, changes.kept
    )


@dataclass(frozen=True)
class _Chosen:
    """One environment whose splits are prepared."""

    plan: EnvironmentPlan
    plugin: Plugin
    splits: Collection[str]


def _chosen(
    names: Sequence[str], catalog: Catalog, environ: Mapping[str, str]
) -> tuple[dict[str, _Chosen], dict[str, str]]:
    """Return environments by the names under which they play, and which were left out and why."""
    chosen: dict[str, _Chosen] = {}
    skipped: dict[str, str] = {}
    plain = {bare_name(name) for name in names if ":" not in name}
    for name in names or [plugin.qualified for plugin in catalog.of_kind("environment")]:
        used, argument = split_argument(name)
        try:
            plugin = catalog.find("environment", used, where="--env")
            if not names and plugin.status == "conflict":
                skipped[plugin.qualified] = plugin.problem or ""
                continue
            entries = {key: each.plan.model_dump() for key, each in chosen.items()}
            key = plugin.name if argument is None else key_of(name, entries, plain)
            if key in chosen:
                raise PlanError([Problem(f"the environment {shown_name(name)!r} is named twice", "--env")])
            problem = with_argument(EnvironmentPlan(use=name), catalog, "--env", form="--env ")[1]
            if problem is not None:
                raise PlanError([replace(problem, where="--env")])
            use = plugin.qualified + ("" if argument is None else f":{argument}")
            chosen[key], missing = _choose(key, EnvironmentPlan(use=use), plugin, catalog, environ)
            skipped.update({f"{key} ({split})": error.message for split, error in missing.items()})
        except GymcoreError as error:
            if names:
                raise
            skipped[name] = error.message
    return chosen, skipped


def _choose(
    name: str, entry: EnvironmentPlan, plugin: Plugin, catalog: Catalog, environ: Mapping[str, str]
) -> tuple[_Chosen, dict[str, RequestError]]:
    """
    Find out which splits an environment has, and which of those that its manifest names it has not.

    Raises:
        GymcoreError: it cannot be used, or has none.
    """
    with (
        hints_without_a_plan(plugin),
        closing(Resolver(Plan(environments={name: entry}, models=_NOBODY), catalog, environ)) as resolver,
    ):
        resolver.resolve_models()
        route = resolver.resolve_environment(name)
        # Which split is asked for comes later; that the default one is missing is no mistake here.
        resolver.errors = [error for error in resolver.errors if not (error.where or "").endswith(".split")]
        resolver.raise_errors()
        having = [split for split in plugin.manifest.splits if split in SPLITS]
        if not having:
            has = ", ".join(plugin.manifest.splits) or "none"
            told = f"the environment {plugin.name!r} has no split of {', '.join(SPLITS)}"
            raise PlanError([Problem(told, "--env", (f"its splits: {has}",))])
        assert route is not None
        missing = splits_without_rows(plugin, route.environment_class, route.environment_options)
        missing = {split: error for split, error in missing.items() if split in having}
        if len(missing) == len(having):
            raise next(iter(missing.values()))
    return _Chosen(entry, plugin, [split for split in having if split not in missing]), missing


def _refuse_sources(folder: Path, plugins: Iterable[Plugin], catalog: Catalog) -> None:
    """
    Find that what is written would take the place of what is read.

    Raises:
        RunFolderError: the folder lies in the package of a plugin, or a file in it is one that holds rows of a plugin.
    """
    hints = ["try: another --out"]
    for plugin in plugins:
        homes = catalog.homes(plugin)
        if any(folder.resolve().is_relative_to(home) for home in homes):
            told = f"the output folder lies in the package of {plugin.title}, whose rows are read"
            raise RunFolderError(told, where=str(folder), hints=hints)
        paths = [source for files in plugin.manifest.splits.values() for source in files if isinstance(source, str)]
        sources = [home / path for home in homes for path in paths]
        for name in _NAMES:
            if any(_is_same(folder / name, source) for source in sources):
                told = f"the file holds rows of {plugin.title}, which are read"
                raise RunFolderError(told, where=str(folder / name), hints=hints)


def _is_same(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)
    except OSError:  # one of them is not there
        return False


def _write_split(
    name: str, composition: Composition, folder: Path, tokenizer: str, rejects_sha256: str | None
) -> PreparedSplit:
    sha256 = composition.dataset.write(part_of(folder / f"{name}.jsonl"))
    statistics = DatasetStatistics(tokenizer)
    for row in composition.dataset:
        statistics.add(row.identity[0], row.value, len(row.data))
    routes = {route.environment: route for route in composition.routes.values()}
    environments = {}
    for environment, own in statistics.environments.items():
        plugin = routes[environment].environment_plugin
        scale = plugin.manifest.reward_range
        environments[environment] = {
            "environment": environment,
            "split": name,
            "plugin": f"{plugin.qualified} {plugin.version}",
            "files": [source["file"] for source in composition.lock["data"] if source["for"] == environment],
            "reward_range": None if scale is None else list(scale),
            **own.to_dict(statistics.unit),
        }
    metrics = {
        "split": name,
        "file": f"{name}.jsonl",
        "sha256": sha256,
        "rejected": 0 if composition.rejects is None else composition.rejects.count,
        "rejects_sha256": rejects_sha256,
        "environments": environments,
        "total": statistics.total.to_dict(statistics.unit),
    }
    text = json.dumps(metrics, indent=2, ensure_ascii=False)
    write_part(folder / f"{name}_metrics.json", text.encode() + b"\n")
    return PreparedSplit(name, composition.tasks(), sha256)


def _write_rejects(compositions: Collection[Composition], folder: Path) -> int:
    every = [each.rejects for each in compositions if each.rejects is not None]
    if every:
        with part_of(folder / REJECTS_NAME).open("wb") as out:
            for rejects in every:
                rejects.copy_to(out)
            out.flush()
            os.fsync(out.fileno())
    return sum(rejects.count for rejects in every)


_NAMES = (*(name for split in SPLITS for name in (f"{split}.jsonl", f"{split}_metrics.json")), REJECTS_NAME)


@contextmanager
def _clearing_parts(folder: Path) -> Iterator[None]:
    """Begin without the parts of a process that was killed, and leave none behind."""
    _remove_parts(folder)
    try:
        yield
    finally:
        with suppress(OSError):
            _remove_parts(folder)


def _remove_parts(folder: Path) -> None:
    for name in _NAMES:
        part_of(folder / name).unlink(missing_ok=True)


@dataclass(frozen=True)
class _Changes:
    """What giving the parts their names does to the files of a folder, by their names."""

    new: tuple[str, ...]
    replaced: tuple[str, ...]
    removed: tuple[str, ...]
    kept: tuple[str, ...]

    @classmethod
    def of(cls, folder: Path) -> _Changes:
        """
        Compare the parts in a folder with what else is there.

        Raises:
            RunFolderError: something that is no file has the name of one that is to be written.
        """
        written = [name for name in _NAMES if part_of(folder / name).exists()]
        there = [name for name in _NAMES if os.path.lexists(folder / name)]
        for name in written:
            if (folder / name).exists() and not (folder / name).is_file():
                raise RunFolderError("this is no file", where=str(folder / name), hints=["try: another --out"])
        old = [name for name in there if name not in written]
        own = _prepared_before(folder) if old else ()
        return cls(
            new=tuple(name for name in written if name not in there),
            replaced=tuple(
                name for name in written if name in there and _digest(folder / name) != _digest(part_of(folder / name))
            ),
            removed=tuple(name for name in old if name in own),
            kept=tuple(name for name in old if name not in own),
        )

    def carry_out(self, folder: Path, *, force: bool) -> None:
        """
        Give the parts their names.

        Raises:
            RunFolderError: other files would be lost, and they are not to be.
        """
        if (self.replaced or self.removed) and not force:
            differences = [f"{name}: differs" for name in self.replaced]
            differences += [f"{name}: was prepared before, and is not now" for name in self.removed]
            does = " and ".join([*["replace"] * bool(self.replaced), *["remove"] * bool(self.removed)])
            raise RunFolderError(
                "the folder holds other data of the same names",
                where=str(folder),
                differences=differences,
                hints=[f"try: another --out, or --force to {does} them"],
            )
        for name in (*self.new, *self.replaced):
            part_of(folder / name).replace(folder / name)
        for name in self.removed:
            (folder / name).unlink()
        sync_folder(folder)


def _prepared_before(folder: Path) -> set[str]:
    """Return which files of a folder were prepared there and are as they were: their statistics say what they held."""
    own = set()
    for split in SPLITS:
        metrics = _read_metrics(folder, split)
        if metrics is None:
            continue
        if _digest(folder / f"{split}.jsonl") in (metrics["sha256"], None):
            own |= {f"{split}.jsonl", f"{split}_metrics.json"}
        if metrics.get("rejects_sha256") == _digest(folder / REJECTS_NAME):
            own.add(REJECTS_NAME)
    return own


def _read_metrics(folder: Path, split: str) -> dict[str, Any] | None:
    """Return the statistics of a split; None where they are not there, or were written by somebody else."""
    path = folder / f"{split}_metrics.json"
    try:
        metrics = decode_json(path.read_bytes()) if path.is_file() else None
    except DocumentError:
        return None
    if not isinstance(metrics, dict) or not isinstance(metrics.get("sha256"), str):
        return None
    return metrics if (metrics.get("split"), metrics.get("file")) == (split, f"{split}.jsonl") else None


def _digest(path: Path) -> str | None:
    """Return the digest of a file; None where it is none, for to open a pipe may take for ever."""
    return sha256_of(path) if path.is_file() else None
