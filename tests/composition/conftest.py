"""
What the tests of compose share: rows for the echo environment, and one call that composes them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gymcore.composition import Composition, compose
from gymcore.discovery import Catalog
from gymcore.documents import YamlDocument
from gymcore.plan import Plan

Compose = Callable[..., Composition]


@pytest.fixture
def composed(catalog: Catalog) -> Compose:
    """
    Compose a plan given as plain values, in an environment where nothing is set but what is given.
    """

    def run(plan: dict[str, Any], *settings: str, **environ: str) -> Composition:
        copy = json.loads(json.dumps(plan))
        return compose(Plan.from_document(YamlDocument(copy), settings=settings), catalog, environ=environ)

    return run


@pytest.fixture
def write_rows(tmp_path: Path) -> Callable[..., str]:
    """
    Write rows, given as values or as raw bytes, to a file, and return its path.
    """

    def write(*rows: Any, name: str = "rows.jsonl", end: bytes = b"\n") -> str:
        lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
        path = tmp_path / name
        path.write_bytes(b"".join(line + end for line in lines))
        return str(path)

    return write
