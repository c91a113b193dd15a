"""
The folder in which the doctor works: gone when it has finished, and gone by the next time where it was killed.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gymcore.errors import RunFolderError
from gymcore.run_folder import only_writer

__all__ = ["scratch_in"]

_PREFIX = ".gym-doctor-"
_SETTLED_S = 60.0
"""After so long without a lock a folder is nobody's: a doctor takes the lock as soon as it has made one."""

_REMOVAL_S = 5.0


@contextmanager
def scratch_in(folder: Path) -> Iterator[Path]:
    """
    Make a scratch folder, and remove it afterwards, also when asked to stop meanwhile.

    What a doctor left that was killed here is removed as well.

    Args:
        folder: Where; it is made where there is none.

    Raises:
        OSError: the folder cannot be made or written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    scratch = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=folder))
    try:
        try:
            with only_writer(scratch):
                yield scratch
        finally:
            _remove(scratch)
    except KeyboardInterrupt:  # which may have come while it was removed
        _remove(scratch)
        raise


def _remove(scratch: Path) -> None:
    """
    Remove a folder, though a process that was killed in it may be writing its last file.

    Raises:
        OSError: the folder cannot be removed.
    """
    end = time.monotonic() + _REMOVAL_S
    while scratch.exists():
        try:
            shutil.rmtree(scratch)
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.01)


def _sweep(folder: Path) -> None:
    """Remove the scratch folders of doctors that are no more: what is alive holds the lock of its own."""
    for left in folder.glob(f"{_PREFIX}*"):
        with suppress(OSError, RunFolderError):
            if time.time() - left.stat().st_mtime < _SETTLED_S or left.is_symlink():
                continue
            with only_writer(left):
                shutil.rmtree(left)
