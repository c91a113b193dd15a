"""
Rejects: the rows that were left out, each with its place and the reason, until they are written beside the others.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from gymcore.documents import encode_json

__all__ = ["RAW_BYTES", "CutLine", "Rejects"]

RAW_BYTES = 16_384
"""So much of a bad row is kept; a line may have 64 MB, and its beginning is enough to find it again."""

_IN_MEMORY = 1 << 20


class CutLine(bytes):
    """The beginning of a line that is too long to be read."""

    length: int
    """How many bytes the whole line has."""


class Rejects:
    """
    Gathers bad rows on disk, so that a million of them need no more memory than ten.

    Attributes:
        count: How many there are.
    """

    def __init__(self) -> None:
        self.count = 0
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY, prefix="gymcore-")  # noqa: SIM115
        weakref.finalize(self, self._file.close)

    def add(self, where: str, reason: str, hints: Sequence[str], raw: bytes) -> None:
        """
        Keep one bad row.

        Args:
            where: Its place, `file:line`.
            reason: What is wrong with it.
            hints: What to try.
            raw: The line as it stands in the file; what is no UTF-8 in it becomes a replacement sign.
        """
        file, _, line = where.rpartition(":")
        told = {
            "file": file,
            "line": int(line),
            "reason": reason,
            **({"hints": list(hints)} if hints else {}),
            "bytes": raw.length if isinstance(raw, CutLine) else len(raw),
            "row": raw[:RAW_BYTES].decode("utf-8", "replace"),
        }
        self._file.write(encode_json(told) + b"\n")
        self.count += 1

    def write(self, path: Path) -> None:
        """Write one JSON object a line; the file is not renamed here: the caller decides when it is whole."""
        with path.open("wb") as out:
            self.copy_to(out)
            out.flush()
            os.fsync(out.fileno())

    def copy_to(self, out: IO[bytes]) -> None:
        """Add them to an open file."""
        self._file.seek(0)
        try:
            shutil.copyfileobj(self._file, out)
        finally:
            self._file.seek(0, os.SEEK_END)
