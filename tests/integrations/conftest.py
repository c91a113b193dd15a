"""
What the tests of exports share: rows for the echo environments, composed without a run folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gymcore.composition import Composition, compose
from gymcore.discovery import Catalog
from gymcore.plan import Plan

Composed = Callable[..., Composition]


@pytest.fixture
def composed(catalog: Catalog) -> Composed:
    """
    Compose a plan given as plain values.
    """

    def run(environments: dict[str, Any], **rest: Any) -> Composition:
        return compose(Plan.model_validate({"environments": environments, **rest}), catalog, environ={})

    return run


@pytest.fixture
def echoing(composed: Composed, tmp_path: Path) -> Composed:
    """
    Compose rows of the environment `echo` that ask with the given create parameters, one row each.
    """

    def run(*params: dict[str, Any], **plan: Any) -> Composition:
        rows = [{"answer": f"word {n}", "responses_create_params": given} for n, given in enumerate(params)]
        file = tmp_path / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return composed({"echo": {"data": [str(file)], **plan}})

    return run
