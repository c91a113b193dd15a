"""
The manifest `gym.yaml` beside a plugin's class: what it is, its defaults, its data; read without importing anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from gymcore.documents import DocumentError, YamlDocument, parse_yaml
from gymcore.errors import Problem, nearest

if TYPE_CHECKING:
    from gymcore.plan import HubData, UrlData

__all__ = [
    "INTERFACE_VERSIONS",
    "MANIFEST_BYTES",
    "MANIFEST_NAME",
    "Manifest",
    "ManifestError",
    "PluginRows",
    "read_manifest",
]

INTERFACE_VERSIONS = (1,)  # the same tuple as in `interfaces`, which would load pydantic; a test compares them
MANIFEST_NAME = "gym.yaml"
MANIFEST_BYTES = 100_000
"""A larger one is refused unread, so that a listing is quick whatever is installed."""


class ManifestError(Exception):
    """A manifest that cannot be used; `problems` holds every mistake in it."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("; ".join(f"{item.message} ({item.where})" for item in problems))


@dataclass(frozen=True)
class PluginRows:
    """Stands among the files of a split for rows that `Environment.own_rows` yields: `{from: plugin}`."""

    def to_dict(self) -> dict[str, str]:
        """Return how a manifest says it."""
        return {"from": "plugin"}


@dataclass(frozen=True)
class Manifest:
    """What an author says of a plugin."""

    gym_api: int
    """The version of the interface it was written for."""
    description: str = ""
    isolation: str | None = None
    """Environments: `process` where it may block or crash, and so plays in an interpreter of its own; `venv` where it
    needs packages of its own, too."""
    agent: str | None = None
    """Environments: who plays it unless the plan says otherwise."""
    splits: dict[str, tuple[str | HubData | UrlData | PluginRows, ...]] = field(default_factory=dict)
    """Environments: the files of each split, as paths inside the package, or pinned sources elsewhere, or what the
    class itself yields."""
    prompt: dict[str, str] = field(default_factory=dict)
    """Environments: what rows are asked with unless the plan says otherwise, `system` and `user`."""
    config: dict[str, Any] = field(default_factory=dict)
    """Defaults of the plugin's own options."""
    reward_range: tuple[float, float] | None = None
    """Environments: the lowest and the highest reward, where the author says so."""
    argument: str | None = None
    """Environments: the option that is set by what follows a colon, as in `use: NAME:ARGUMENT`."""


_KEYS = ("gym_api", "description", "agent", "argument", "isolation", "splits", "prompt", "config", "reward_range")


def read_manifest(text: bytes, where: str) -> Manifest:
    """
    Check a manifest.

    Args:
        text: The bytes of the file.
        where: How messages name the file.

    Returns:
        What it says. Of one for another interface version only that and the description: what else it may hold, and
        what that means, only the gymcore of that version knows.

    Raises:
        ManifestError: with every mistake in it.
    """
    document = _parsed(text, where)
    value = document.value
    gym_api, description = value.get("gym_api"), value.get("description")
    if type(gym_api) is int and gym_api not in INTERFACE_VERSIONS:
        return Manifest(gym_api, description if isinstance(description, str) else "")
    problems: list[Problem] = []

    def wrong(key: str, message: str) -> None:
        problems.append(Problem(message, where=f"{where}:{document.line((key,)) or 1}"))

    for key in value:
        if key not in _KEYS and not key.startswith("x-"):
            close = nearest(key, _KEYS)
            wrong(key, f"unknown key {key!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
    if type(value.get("gym_api")) is not int:
        wrong("gym_api", "`gym_api` must say for which interface version it was written, such as `gym_api: 1`")
    for key in ("description", "agent", "argument"):
        if not isinstance(value.get(key), str | None):
            wrong(key, f"`{key}` must be a text")
    if value.get("isolation") not in (None, "none", "process", "venv"):
        wrong("isolation", "`isolation` must be `none`, `process` or `venv`")
    if not isinstance(value.get("config"), dict | None):
        wrong("config", "`config` must be a mapping of options")
    prompt = value.get("prompt") or {}
    if not isinstance(prompt, dict) or not all(
        key in ("system", "user") and isinstance(text, str) for key, text in prompt.items()
    ):
        wrong("prompt", "`prompt` must be a mapping of `system` and `user` to texts")
    splits = _read_splits(value.get("splits"), document, where, problems)
    reward_range = value.get("reward_range")
    if reward_range is not None and not _is_range(reward_range):
        wrong("reward_range", "`reward_range` must be the lowest and the highest reward, such as [0, 1]")
    if problems:
        raise ManifestError(problems)
    return Manifest(
        gym_api=value["gym_api"],
        description=value.get("description") or "",
        agent=value.get("agent"),
        isolation=value.get("isolation"),
        splits=splits,
        prompt=prompt,
        config=value.get("config") or {},
        reward_range=None if reward_range is None else (float(reward_range[0]), float(reward_range[1])),
        argument=value.get("argument"),
    )


def _parsed(text: bytes, where: str) -> YamlDocument:
    """Read a mapping, or raise a `ManifestError`."""
    if len(text) > MANIFEST_BYTES:
        raise ManifestError([Problem(f"the manifest is larger than {MANIFEST_BYTES:,} bytes", where=where)])
    try:
        document = parse_yaml(text)
    except DocumentError as error:
        place = where if error.line is None else f"{where}:{error.line}"
        raise ManifestError([Problem(error.message, where=place)]) from None
    if not isinstance(document.value, dict):
        raise ManifestError([Problem("a manifest is a mapping, with at least `gym_api: 1`", where=where)])
    return document


def _is_range(value: Any) -> bool:
    is_pair = isinstance(value, list) and len(value) == 2 and all(type(item) in (int, float) for item in value)
    return is_pair and abs(value[0]) <= 1e300 and abs(value[1]) <= 1e300 and value[0] < value[1]


def _read_splits(
    value: Any, document: YamlDocument, where: str, problems: list[Problem]
) -> dict[str, tuple[str | HubData | UrlData | PluginRows, ...]]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        problems.append(Problem("`splits` must map names to files", where=f"{where}:{document.line(('splits',)) or 1}"))
        return {}
    splits = {}
    for name, files in value.items():
        place = f"{where}:{document.line(('splits', name)) or 1}"
        given = [files] if isinstance(files, str | dict) else files
        if not isinstance(given, list) or not given or not all(isinstance(source, str | dict) for source in given):
            problems.append(Problem(f"the split {name!r} must be a path or a list of paths", where=place))
            continue
        read: list[str | HubData | UrlData | PluginRows] = []
        for source in given:
            if isinstance(source, dict):
                read.extend(_read_source(source, name, place, problems))
                continue
            parts = PurePosixPath(source)
            if parts.is_absolute() or ".." in parts.parts or "\\" in source or not parts.name:
                problems.append(Problem(f"the path {source!r} must stay inside the package", where=place))
            read.append(source)
        splits[str(name)] = tuple(read)
    return splits


def _read_source(
    source: dict[str, Any], split: str, place: str, problems: list[Problem]
) -> Iterator[HubData | UrlData | PluginRows]:
    """Check a source that is not in the package; a file of the machine it is installed on is none."""
    if source == PluginRows().to_dict():
        yield PluginRows()
        return
    from pydantic import ValidationError  # here, because most manifests have none, and a listing is quick

    from gymcore.plan import HubData, UrlData

    kind = HubData if "huggingface" in source else UrlData if "url" in source else None
    if kind is None:
        told = f"the split {split!r} must be a path or a list of paths, or name `huggingface`, `url` or `from: plugin`"
        problems.append(Problem(told, where=place))
        return
    try:
        read = kind.model_validate(source)
    except ValidationError as error:
        for item in error.errors(include_url=False):
            key = ".".join(str(part) for part in item["loc"])
            problems.append(Problem(f"the split {split!r}: {key}: {item['msg'][0].lower()}{item['msg'][1:]}", place))
        return
    if isinstance(read, UrlData) and read.url.startswith("file:"):
        problems.append(Problem(f"the split {split!r}: an address of a manifest must not lead to a file here", place))
        return
    yield read
