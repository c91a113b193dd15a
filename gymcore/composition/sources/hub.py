"""
Datasets of the Hugging Face hub at a pinned commit: which files are a split, and where they lie in the hub's cache.

`huggingface_hub` fetches and caches; it comes with the extra `gymcore[huggingface]`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from gymcore.cache_folder import cache_folder
from gymcore.documents import DocumentError, decode_json, encode_json
from gymcore.errors import PlanError, Problem, nearest
from gymcore.plan import HubData, source_name
from gymcore.run_folder import write_whole

__all__ = ["FORMATS", "fetch_hub_files"]

FORMATS = (".jsonl", ".jsonl.gz", ".ndjson", ".json", ".json.gz", ".parquet")
"""What files of rows are called."""

METADATA = frozenset(("config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json"))
"""Files that speak of a dataset and hold no rows, unless they are named letter by letter.

Source: `FILES_TO_IGNORE` of the library `datasets`
"""

MAX_BYTES = 2**36
"""The most that the files of one split may hold, together."""

TIMEOUT_S = 30.0
"""The longest that the hub may take to answer what files there are."""

CARD = "README.md"

_SPLIT_WORDS = {
    "train": {"train", "training"},
    "validation": {"validation", "valid", "val", "dev"},
    "test": {"test", "testing", "eval", "evaluation"},
}
"""Words in the names of files that say which split they are, where the card of a dataset says nothing.

Source: https://huggingface.co/docs/hub/datasets-file-names-and-splits
"""

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})(?=\.)")


class _HubError(Exception):
    def __init__(self, message: str, *hints: str) -> None:
        self.hints = hints
        super().__init__(message)


def fetch_hub_files(source: HubData, where: str, environ: Mapping[str, str]) -> list[tuple[Path, str]]:
    """
    Return the files of a split in the cache of the hub, in the order of their names, fetched where they are not there.

    With each is what messages call it, `hf://OWNER/NAME@COMMIT/PATH`.

    Args:
        source: Which split of which dataset at which commit.
        where: The key path at which it stands, for messages.
        environ: Where HF_TOKEN, HF_ENDPOINT, HF_HUB_CACHE and HF_HUB_OFFLINE come from.

    Raises:
        PlanError: the package is not installed, or the dataset cannot be had.
    """
    try:
        from huggingface_hub import utils
    except ImportError:
        hint = "try: pip install 'gymcore[huggingface]'"
        problem = Problem("a dataset of the hub needs the package `huggingface_hub`", where, (hint,))
        raise PlanError([problem]) from None
    repository = _Repository(source, environ)
    was_silent = utils.are_progress_bars_disabled()
    utils.disable_progress_bars()
    try:
        sizes = repository.files()
        chosen = choose_files(source, sizes, repository.card(sizes))
        _refuse_huge(sum(sizes[name] or 0 for name in chosen))
        base = f"hf://{source.huggingface}@{source.revision}"
        return [(repository.fetched(name), f"{base}/{name}") for name in chosen]
    except _HubError as error:
        raise PlanError([Problem(f"{source_name(source)}: {error}", where, error.hints)]) from None
    finally:
        if not was_silent:
            utils.enable_progress_bars()


def _refuse_huge(size: int) -> None:
    if size > MAX_BYTES:
        raise _HubError(f"its files hold {size:,} bytes, more than {MAX_BYTES:,}")


class _Repository:
    """A dataset of the hub at a commit."""

    def __init__(self, source: HubData, environ: Mapping[str, str]) -> None:
        self.source = source
        self.is_offline = environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
        self.token = environ.get("HF_TOKEN") or None
        self.endpoint = environ.get("HF_ENDPOINT") or None
        self.cache = environ.get("HF_HUB_CACHE") or None
        name = f"{source.huggingface.replace('/', '--')}@{source.revision}.json"
        self.listing = cache_folder(environ) / "huggingface" / name

    def files(self) -> dict[str, int | None]:
        """Return the files of the dataset and their sizes; offline, those the hub has told of, or the cache has."""
        from huggingface_hub import HfApi, snapshot_download

        if self.is_offline:
            if (listed := self._remembered()) is not None:
                return listed
            folder = Path(
                self._asked(
                    snapshot_download,
                    repo_id=self.source.huggingface,
                    repo_type="dataset",
                    revision=self.source.revision,
                    cache_dir=self.cache,
                    local_files_only=True,
                )
            )
            paths = sorted(path for path in folder.rglob("*") if path.is_file())
            return {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}
        info = self._asked(
            HfApi(endpoint=self.endpoint, token=self.token).dataset_info,
            self.source.huggingface,
            revision=self.source.revision,
            timeout=TIMEOUT_S,
            files_metadata=True,
        )
        if info.sha != self.source.revision:
            raise _HubError(f"the hub answers with another commit, {info.sha}")
        files = {entry.rfilename: entry.size for entry in info.siblings or ()}
        self._remember(files)
        return files

    def _remember(self, files: Mapping[str, int | None]) -> None:
        """Keep the list of files, so that a cache that holds some of them is not taken for the whole later, offline."""
        with suppress(OSError):  # without it, offline is what it is for whoever fetched with other tools
            self.listing.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_whole(self.listing, encode_json(files))

    def _remembered(self) -> dict[str, int | None] | None:
        try:
            files = decode_json(self.listing.read_bytes())
        except (OSError, DocumentError):
            return None
        return files if isinstance(files, dict) else None

    def card(self, files: Iterable[str]) -> Mapping[str, Any]:
        """Return what the dataset says of itself, as plain values."""
        from huggingface_hub import metadata_load

        if CARD not in files:
            return {}
        try:
            card = metadata_load(self.fetched(CARD))
        except _HubError:
            raise
        except Exception as error:  # whatever somebody wrote there
            raise _HubError(f"its card cannot be read: {type(error).__name__}: {error}"[:300]) from None
        return card if isinstance(card, dict) else {}

    def fetched(self, name: str) -> Path:
        """Return a file of the dataset in the cache."""
        from huggingface_hub import hf_hub_download

        return Path(
            self._asked(
                hf_hub_download,
                repo_id=self.source.huggingface,
                filename=name,
                repo_type="dataset",
                revision=self.source.revision,
                cache_dir=self.cache,
                token=self.token,
                endpoint=self.endpoint,
                local_files_only=self.is_offline,
            )
        )

    def _asked(self, call: Any, *arguments: Any, **options: Any) -> Any:
        """Call the library, and say in one line why it could not do what it was asked to."""
        from huggingface_hub import errors

        name = self.source.huggingface
        try:
            return call(*arguments, **options)
        except errors.GatedRepoError:
            hints = (f"try: accept its terms at https://huggingface.co/datasets/{name}, and export HF_TOKEN=...",)
            raise _HubError("the dataset is gated", *hints) from None
        except errors.RevisionNotFoundError:
            hint = f"try: git ls-remote https://huggingface.co/datasets/{name}"
            raise _HubError("the dataset has no such commit", hint) from None
        except errors.RepositoryNotFoundError:
            raise _HubError("there is no such dataset, or HF_TOKEN may not see it") from None
        except errors.LocalEntryNotFoundError as error:
            if self.is_offline:
                hint = f"try: once without HF_HUB_OFFLINE, or hf download --repo-type dataset {name} --revision ..."
                raise _HubError("the cache does not have it, and HF_HUB_OFFLINE is set", hint) from None
            raise _HubError(f"it is not in the cache, and the hub cannot be reached: {_first_line(error)}") from None
        except Exception as error:  # of the library, of the client under it, or of the disk
            raise _HubError(f"the hub cannot be used: {type(error).__name__}: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]


def choose_files(source: HubData, files: Iterable[str], card: Mapping[str, Any]) -> list[str]:
    """
    Return which files of a dataset are the split that is asked for, sorted.

    Args:
        source: What is asked for.
        files: The paths of all files.
        card: What the dataset says of itself; its `configs` name files for splits.

    Source:
        https://huggingface.co/docs/hub/datasets-manual-configuration
    """
    visible = sorted(path for path in files if not any(part.startswith((".", "_")) for part in path.split("/")))
    given = card.get("configs")
    listed = given if isinstance(given, list) else []
    configs = [entry for entry in listed if isinstance(entry, dict) and entry.get("data_files")]
    if configs:
        chosen = _files_of_config(_config_of(source, configs), source, visible)
    elif source.config not in (None, "default"):
        raise _HubError(f"it has no configuration {source.config!r}: its card names none")
    else:
        rows = [path for path in visible if path.lower().endswith(FORMATS) and _name_of(path) not in METADATA]
        chosen = _without_copies(_files_by_name(source.split, rows))
    if not chosen:
        splits = [split for split in _SPLIT_WORDS if _files_by_name(split, visible)]
        raise _HubError(f"no file is its split {source.split!r}", f"splits, by the names of files: {', '.join(splits)}")
    if wrong := [path for path in chosen if not path.lower().endswith(FORMATS)]:
        raise _HubError(f"{wrong[0]} is no file of rows that can be read", f"what can be: {', '.join(FORMATS)}")
    _refuse_missing_shards(chosen)
    return chosen


def _config_of(source: HubData, configs: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    named = {str(entry.get("config_name", "default")): entry for entry in configs}
    if source.config is not None:
        wanted = source.config
    elif len(named) == 1:
        wanted = next(iter(named))
    else:
        wanted = next((name for name, entry in named.items() if entry.get("default") is True), "default")
    if wanted not in named:
        close = nearest(wanted, named)
        asked = f"no configuration {wanted!r}" if source.config else f"{len(named)} configurations and no default one"
        hint = f"try: config: {close[0]}" if close and source.config else f"its configurations: {', '.join(named)}"
        raise _HubError(f"it has {asked}", hint)
    return named[wanted]


def _files_of_config(config: Mapping[str, Any], source: HubData, files: Sequence[str]) -> list[str]:
    given = config["data_files"]
    folder = config.get("data_dir")
    prefix = f"{folder.strip('/')}/" if isinstance(folder, str) and folder.strip("/.") else ""
    splits: dict[str, list[Any]] = {}
    for entry in given if isinstance(given, list) else [given]:
        if isinstance(entry, dict):
            paths = entry.get("path")
            splits.setdefault(str(entry.get("split")), []).extend(paths if isinstance(paths, list) else [paths])
        else:
            splits.setdefault("train", []).append(entry)
    if source.split not in splits:
        close = nearest(source.split, splits)
        hint = f"try: split: {close[0]}" if close else f"its splits: {', '.join(splits)}"
        raise _HubError(f"it has no split {source.split!r}", hint)
    chosen: set[str] = set()
    for pattern in splits[source.split]:
        if not isinstance(pattern, str) or "://" in pattern:
            raise _HubError(f"its card names files outside of it: {pattern!r:.100}")
        matcher = _matcher(prefix + pattern)
        ignored = METADATA - {_name_of(pattern)}
        chosen.update(path for path in files if matcher.fullmatch(path) and _name_of(path) not in ignored)
    return sorted(chosen)


def _matcher(pattern: str) -> re.Pattern[str]:
    """Translate a pattern of paths: `*` and `?` stay inside a folder, `**` goes through all."""
    # The pattern is whatever somebody wrote; few stars match in a time that is bounded by the length of a path.
    if len(pattern) > 500 or pattern.count("*") > 8:
        raise _HubError(f"its card has a pattern of files that is too complicated: {pattern[:100]!r}")
    text = ""
    for token in re.findall(r"\*\*/|\*\*|\*|\?|\[[^\]/]+\]|.", pattern.removeprefix("./"), flags=re.S):
        if token == "**/":
            text += "(?:.*/)?"
        elif token == "**":
            text += ".*"
        elif token in "*?":
            text += "[^/]*" if token == "*" else "[^/]"
        elif len(token) > 1:
            inner = re.escape(token[1:-1].lstrip("!^")).replace(r"\-", "-")
            text += f"[{'^' if token[1] in '!^' else ''}{inner}]"
        else:
            text += re.escape(token)
    try:
        return re.compile(text)
    except re.error:
        raise _HubError(f"its card has a pattern of files that means nothing: {pattern[:100]!r}") from None


def _files_by_name(split: str, files: Sequence[str]) -> list[str]:
    """Return the files whose names say that they are a split; where none says anything, all are `train`."""
    words = {path: set(re.split(r"[^a-z0-9]+", path.lower())) for path in files}
    known = _SPLIT_WORDS.get(split, {split.lower()})
    named = [path for path in files if not known.isdisjoint(words[path])]
    if named or split != "train":
        return named
    others = set().union(*_SPLIT_WORDS.values())
    return [path for path in files if others.isdisjoint(words[path])]


def _name_of(path: str) -> str:
    return path.rpartition("/")[2]


def _without_copies(files: Sequence[str]) -> list[str]:
    """Of files that differ only in their format, and so hold the same rows, keep the first in the order of FORMATS."""
    kept: dict[str, tuple[int, str]] = {}
    for path in files:
        rank, ending = next((rank, end) for rank, end in enumerate(FORMATS) if path.lower().endswith(end))
        stem = path[: -len(ending)]
        kept[stem] = min(kept.get(stem, (rank, path)), (rank, path))
    return sorted(path for _, path in kept.values())


def _refuse_missing_shards(files: Sequence[str]) -> None:
    """Refuse a split of which files are missing, as in a cache that was filled in part."""
    counts: dict[tuple[str, int], int] = {}
    for path in files:
        if found := _SHARD.search(path):
            key = (path[: found.start()] + path[found.end() :], int(found[2]))
            counts[key] = counts.get(key, 0) + 1
    for (name, total), count in counts.items():
        if count < total:
            raise _HubError(f"{count} of the {total} files of {name} are there", "try: without HF_HUB_OFFLINE")
