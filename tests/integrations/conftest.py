"""
What the tests of exports share: rows for the echo environments, composed without a run folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gymcore.composition import Composition, compose
from gymcore.discovery import Catalog
from gymcore.plan import Plan
from gymcore.testing.plugins import PluginFolder

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

    def run(*params: dict[str, Any], skip_invalid: bool = False, **plan: Any) -> Composition:
        rows = [{"answer": f"word {n}", "responses_create_params": given} for n, given in enumerate(params)]
        file = tmp_path / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return composed({"echo": {"data": [str(file)], **plan}}, check={"skip_invalid": skip_invalid})

    return run


WORDY = """
from typing import Any, Literal

from pydantic import BaseModel

from gymcore import Environment, tool


class Point(BaseModel):
    x: int


class Wordy(Environment):
    @tool
    def move(self, to: Point, path: list[Point]) -> str:
        "Move there."
        return ""

    @tool
    def put(self, value: Any, pair: tuple[int, str], kind: Literal["a"], table: dict[str, int]) -> str:
        '''
        Put it there. Returns: nothing.

        Args:
            value: Anything. Returns: no matter.
            pair: Two of them.
            kind: The only one.
            table: By name.
        '''
        return ""

    def verify(self, trajectory):
        return 1.0
"""
"""An environment whose tools have schemas that need more than a type hint, and descriptions like docstrings."""


@pytest.fixture
def wordy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PluginFolder]:
    """
    The environment `wordy`, installed.
    """
    with PluginFolder(tmp_path_factory.mktemp("wordy")) as folder:
        files = {"wordy/__init__.py": WORDY.replace("'", "'"), "wordy/gym.yaml": "gym_api: 1\n"}
        folder.install("gym-plugin-wordy", files, {"gymcore.environments": {"wordy": "wordy:Wordy"}})
        yield folder
