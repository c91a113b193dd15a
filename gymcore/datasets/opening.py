"""
Dataset files as a user names them: files of any kind that compose reads, and run folders.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from gymcore.composition.sources.opening import open_source
from gymcore.errors import PlanError, RequestError
from gymcore.plan import Plan
from gymcore.run_folder import DATASET_NAME, PLAN_NAME

__all__ = ["open_data", "plan_beside"]


@contextmanager
def open_data(given: Path) -> Iterator[tuple[str, Iterable[bytes]]]:
    """
    Open a file, or the dataset of a run folder: how messages name it, and its rows as lines.

    Raises:
        RequestError: it cannot be read, now or while it is.
    """
    path = given
    if given.is_dir():
        path = given / DATASET_NAME
        if not os.path.lexists(path):
            told = f"the folder holds no {DATASET_NAME}, and so is no run folder"
            raise RequestError(told, where=str(given), hints=(_hint_of(given),))
    try:
        with open_source(str(path), "FILE") as lines:
            yield str(path), lines
    except PlanError as error:
        (problem,) = error.problems
        raise RequestError(problem.message, where=str(path), hints=problem.hints) from None
    except OSError as error:
        raise RequestError(f"the data file cannot be read: {error.strerror}", where=str(path)) from None


def _hint_of(folder: Path) -> str:
    """Say what to try with a folder that holds no dataset."""
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError:
        return "try: a run folder, or a file"
    if not names:
        return f"try: gym compose --env NAME --out {folder}"
    files = [name for name in names if name.endswith(_ENDINGS) and not name.startswith(".")]
    if not files:
        return "try: a run folder, or a file of rows"
    return f"try: {folder / files[0]}" + (f", or another of its {len(files)} files" if len(files) > 1 else "")


_ENDINGS = (".jsonl", ".jsonl.gz", ".parquet")


def plan_beside(given: Path) -> Plan | None:
    """
    Return the plan of a run folder, as it was resolved; None for a file, and where there is none.

    Raises:
        PlanError: it cannot be read, or is no plan.
    """
    path = given / PLAN_NAME
    if not given.is_dir() or not path.exists():
        return None
    try:
        return Plan.from_file(path)
    except PlanError as error:
        hint = f"try: {given / DATASET_NAME}, for the rows without the plan"
        raise PlanError([replace(problem, hints=(*problem.hints, hint)) for problem in error.problems]) from None
