"""
The file in which a server writes its port, for whoever waits for it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gymcore.errors import RequestError, StorageError
from gymcore.run_folder import write_whole

__all__ = ["check_port_file", "port_written"]

_PORT = re.compile(rb"(?:[0-9]{1,5}\n)?")


def check_port_file(path: Path) -> None:
    """
    Look whether a port may be written to a file: it is not there, is empty, or holds a port already.

    Raises:
        RequestError: it is something else, which would be lost; or there is no folder for it.
    """
    if not path.parent.is_dir():
        hints = [f"try: mkdir -p {shlex.quote(str(path.parent))}"]
        raise RequestError("there is no folder for the port file", where=str(path), hints=hints)
    if path.exists() and not _is_port(path):
        hints = ["try: another name, or remove it; a number and a line break is what is replaced"]
        raise RequestError("there is something else than the port of an earlier server", where=str(path), hints=hints)


def _is_port(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return _PORT.fullmatch(file.read(7)) is not None
    except OSError:
        return False


@contextmanager
def port_written(path: Path | None, port: int) -> Iterator[None]:
    """
    Write a port while inside, whole or not at all; afterwards the file is removed, unless another server has taken it.

    Raises:
        RequestError: something else is there.
        StorageError: it cannot be written.
    """
    if path is None:
        yield
        return
    check_port_file(path)
    told = f"{port}\n".encode()
    try:
        write_whole(path, told)
    except OSError as error:
        raise StorageError(f"the port file cannot be written: {error.strerror}", where=str(path)) from None
    try:
        yield
    finally:
        with suppress(OSError):
            if path.read_bytes() == told:
                path.unlink()
