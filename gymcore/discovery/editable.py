"""
Editable installations: where the project lies, and whether it offers something else by now than what is installed.

What an editable installation offers was written down when it was installed; its author has changed `pyproject.toml`
since, and wonders. This is asked only where something is wrong, for it reads other people's projects.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gymcore.discovery.metadata import MetadataError, read_text
from gymcore.discovery.plugin import GROUPS, Kind, normalised

__all__ = ["installed_distributions", "offered_since", "project_folder", "project_name", "stale_hint"]

PROJECT_BYTES = 1_000_000
"""A pyproject.toml that is larger is not looked at."""


def installed_distributions(path: Sequence[str] | None) -> Iterator[Any]:
    """Yield every installed distribution; a finder of somebody else's that fails hides no other's."""
    import importlib_metadata

    where = {} if path is None else {"path": list(path)}
    try:
        yield from importlib_metadata.distributions(**where)
    except (Exception, SystemExit):
        yield from importlib_metadata.MetadataPathFinder.find_distributions(
            importlib_metadata.DistributionFinder.Context(**where)  # type: ignore[no-untyped-call]
        )


def project_folder(distribution: Any) -> Path | None:
    """
    Return the folder of the project of which a distribution is an editable installation; None where it is none.

    Source:
        https://packaging.python.org/en/latest/specifications/direct-url/
    """
    try:
        text = read_text(distribution, "direct_url.json")
    except MetadataError:
        return None
    if not text or "editable" not in text:
        return None
    try:
        direct = json.loads(text)
        is_editable = direct["dir_info"]["editable"] is True
        url = direct["url"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not is_editable or not isinstance(url, str) or not url.startswith("file://"):
        return None
    from urllib.parse import unquote, urlsplit

    path = unquote(urlsplit(url).path)
    return Path(path) if path else None


def stale_hint(distribution: Any) -> str | None:
    """Say what to do where the project of an editable installation offers other plugins than what is installed."""
    folder = project_folder(distribution)
    declared = None if folder is None else _declared(folder)
    if folder is None or declared is None:
        return None
    installed = {
        (GROUPS[entry.group], entry.name): entry.value.replace(" ", "")
        for entry in distribution.entry_points
        if entry.group in GROUPS
    }
    if installed == declared:
        return None
    return (
        f"{folder / 'pyproject.toml'} offers other plugins than what is installed: run `pip install -e .` again there"
    )


def offered_since(kind: Kind, name: str, path: Sequence[str] | None) -> str | None:
    """Say which project offers a plugin that is not installed, because it was added after the installation."""
    for distribution in installed_distributions(path):
        try:
            folder = project_folder(distribution)
            declared = (folder is not None and _declared(folder)) or {}
        except Exception:  # a damaged distribution of somebody else
            continue
        if any(kind == offered and normalised(name) == normalised(known) for offered, known in declared):
            return f"{folder} offers it, and was installed before it did: run `pip install -e .` again there"
    return None


def project_name(folder: Path) -> str | None:
    """Return the name of the project in a folder; None where there is none, or it says no name."""
    project = _pyproject(folder) or {}
    for table in (project.get("project"), project.get("tool", {}).get("poetry")):
        if isinstance(table, dict) and isinstance(table.get("name"), str):
            return str(table["name"])
    return None


def _pyproject(folder: Path) -> dict[str, Any] | None:
    import tomllib

    try:
        file = folder / "pyproject.toml"
        if not file.is_file():  # a pipe would wait for somebody to write into it
            return None
        with file.open("rb") as opened:
            return tomllib.loads(opened.read(PROJECT_BYTES).decode())
    except (OSError, ValueError, RecursionError):
        return None


def _declared(folder: Path) -> dict[tuple[Kind, str], str] | None:
    """Return what a project says that it offers; None where it does not say so in its pyproject.toml."""
    project = _pyproject(folder)
    if project is None:
        return None
    standard, poetry = project.get("project"), project.get("tool", {}).get("poetry")
    if isinstance(standard, dict) and isinstance(standard.get("entry-points"), dict):
        groups = standard["entry-points"]
    elif isinstance(poetry, dict) and isinstance(poetry.get("plugins"), dict):
        groups = poetry["plugins"]
    elif isinstance(standard, dict) and "entry-points" not in standard.get("dynamic", ()):
        groups = {}
    else:
        return None
    return {
        (GROUPS[group], str(name)): str(value).replace(" ", "")
        for group, offered in groups.items()
        if group in GROUPS and isinstance(offered, dict)
        for name, value in offered.items()
    }
