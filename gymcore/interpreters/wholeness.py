"""
Whether a virtual environment was built to its end, and what of it is gone since: people and tools clean up caches.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

__all__ = ["WHOLE_NAME", "mark_whole", "what_is_gone"]

WHOLE_NAME = "whole.json"


def mark_whole(folder: Path, about: Mapping[str, str], paths: Iterable[Path]) -> None:
    """
    Write the file that says that all is there.

    Args:
        folder: The folder of the virtual environment.
        about: What it is, for whoever looks into it.
        paths: What it consists of, inside the folder, as far as it is to be looked at before every use.

    Raises:
        OSError: it cannot be written.
    """
    holds = sorted({path.relative_to(folder).as_posix() for path in paths})
    part = folder / f".{WHOLE_NAME}.part"
    part.write_text(json.dumps({**about, "holds": holds}))
    part.replace(folder / WHOLE_NAME)


def what_is_gone(folder: Path, python: Path) -> Path | None:
    """
    Return something that a virtual environment is not whole without: the file that says that it is, its Python, or what
    it consists of; None where all is there.

    Raises:
        OSError: it cannot be looked at.
    """
    whole = folder / WHOLE_NAME
    if not whole.is_file():
        return whole
    if not python.is_file() or not os.access(python, os.X_OK):
        return python
    try:
        paths = [folder / path for path in json.loads(whole.read_bytes())["holds"]]
    except (ValueError, LookupError, TypeError):
        return whole
    return next((path for path in paths if not path.exists()), None)
