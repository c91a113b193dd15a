"""
Projects to check: the one that `gym new` writes, and what is changed in it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gymcore.authoring import Project as NewProject
from gymcore.authoring import write_project

Change = Callable[[Path], None]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """
    The environment that `gym new environment word_count` writes, untouched.
    """
    write_project(NewProject("environment", "word_count"), tmp_path / "project")
    return tmp_path / "project"


@pytest.fixture
def edit(written: Path) -> Callable[[str, str, str], None]:
    """
    Replace a text in a file of the project by another.
    """

    def replace(path: str, old: str, new: str) -> None:
        file = written / path
        text = file.read_text()
        assert old in text, f"{old!r} is not in {path}"
        file.write_text(text.replace(old, new))

    return replace
