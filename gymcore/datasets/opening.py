"""
Dataset files as a user names them: files of any kind that compose reads, and run folders.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gymcore.composition.sources.opening import open_source
from gymcore.errors import PlanError, RequestError
from gymcore.run_folder import DATASET_NAME

__all__ = ["open_data"]


@contextmanager
def open_data(given: Path) -> Iterator[tuple[str, Iterable[bytes]]]:
    """
    Open a file, or the dataset of a run folder: how messages name it, and its rows as lines.

    Raises:
        RequestError: it cannot be read, now or while it is.
    """
    is_folder = given.is_dir()
    path = given / DATASET_NAME if is_folder else given
    hints = (f"try: gym compose --env NAME --out {given}",) if is_folder else ()
    try:
        with open_source(str(path), "FILE") as lines:
            yield str(path), lines
    except PlanError as error:
        (problem,) = error.problems
        raise RequestError(problem.message, where=str(path), hints=problem.hints or hints) from None
    except OSError as error:
        raise RequestError(f"the data file cannot be read: {error.strerror}", where=str(path), hints=hints) from None
