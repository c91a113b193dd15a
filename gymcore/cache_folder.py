"""
Where things are kept that can be made or fetched again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder(environ: Mapping[str, str]) -> Path:
    """
    Return the folder for what can be fetched again: GYMCORE_CACHE, or `gymcore` below XDG_CACHE_HOME or ~/.cache.

    It is absolute, for processes that work in another folder.
    """
    own = environ.get("GYMCORE_CACHE")
    if own:
        return Path(own).absolute()
    shared = environ.get("XDG_CACHE_HOME")
    # https://specifications.freedesktop.org/basedir-spec/: a relative path is invalid, and as if it were not set.
    base = Path(shared) if shared and Path(shared).is_absolute() else Path.home() / ".cache"
    return base / "gymcore"
