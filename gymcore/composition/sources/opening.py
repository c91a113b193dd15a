"""
Where rows come from: files, and pinned sources elsewhere, which become files in a cache before they are read.

A dataset of the hub is read here and not by the library `datasets`, which gives every row the keys of all others,
filled with null, where a row here is what its author wrote.
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from gymcore.composition.dataset import BLOCK
from gymcore.documents import encode_json
from gymcore.errors import PlanError, Problem
from gymcore.plan import HubData, UrlData, expand_variables, source_name

if TYPE_CHECKING:
    from gymcore.composition.sources.downloads import Downloads

__all__ = ["open_source"]

MAX_LINE_BYTES = 2**28
"""The longest line of a file that was compressed, which may be a bomb."""

ROWS_AT_ONCE = 256
"""How many rows of a table are in memory at a time."""


@contextmanager
def open_source(
    source: str | HubData | UrlData,
    where: str,
    environ: Mapping[str, str] | None = None,
    downloads: Downloads | None = None,
    *,
    has_variables: bool = True,
) -> Iterator[Iterator[bytes]]:
    """
    Open a source for reading: its rows as lines, which are not held in memory.

    A file whose name ends in `.gz` is decompressed, one that ends in `.parquet` is a table whose rows become lines.

    Args:
        source: The path of a file, or what is fetched.
        where: The key path at which it stands, for messages.
        environ: Where the folder of the cache and `${NAME}` in an address come from; the process environment where it
            is None.
        has_variables: Whether `${NAME}` in an address is replaced: in a user's plan, and in nobody else's manifest.
        downloads: What fetches files at addresses; as `environ` says where it is None.

    Raises:
        PlanError: it cannot be had, or is not what it is pinned to.
        RunFolderError, StorageError: the cache cannot be written.
    """
    environ = os.environ if environ is None else environ
    name = source_name(source)
    place = f"{where}: {name}"
    if isinstance(source, HubData):
        from gymcore.composition.sources.hub import fetch_hub_files  # here, because few fetch anything

        files = [(path, path.name) for path in fetch_hub_files(source, where, environ)]
    elif isinstance(source, UrlData):
        from gymcore.composition.sources.downloads import Downloads

        known = environ if has_variables else {}
        address, problems = expand_variables(source.url, known, f"{where}.url")
        if problems:
            raise PlanError(problems)
        fetched = (downloads or Downloads.of(environ)).fetch(address, source.sha256, name, where)
        files = [(fetched, name)]
    else:
        files = [(Path(source), source)]
    if len(files) == 1 and not _is_packed(files[0][1]):
        try:
            file = files[0][0].open("rb", buffering=BLOCK)
        except OSError as error:
            hint = ("an address is written {url: ADDRESS, sha256: DIGEST}",) if "://" in name else ()
            raise PlanError([Problem(f"the data file cannot be read: {error.strerror}", place, hint)]) from None
        with file:
            yield iter(file)  # the file itself: nothing of ours is done for each line
        return
    lines = _lines(files, place)
    try:
        yield lines
    finally:
        lines.close()


def _is_packed(name: str) -> bool:
    return name.lower().endswith((".gz", ".parquet"))


def _lines(files: Sequence[tuple[Path, str]], place: str) -> Any:
    """Yield the lines of several files, or of packed ones, one after the other."""
    for path, name in files:
        try:
            if name.lower().endswith(".parquet"):
                with path.open("rb") as table:
                    yield from _table_rows(table, place)
            elif name.lower().endswith(".gz"):
                with gzip.open(path, "rb") as packed:
                    while line := packed.readline(MAX_LINE_BYTES):
                        if len(line) == MAX_LINE_BYTES:
                            raise PlanError([Problem(f"a line is longer than {MAX_LINE_BYTES:,} bytes", place)])
                        yield line
            else:
                with path.open("rb") as plain:
                    yield from plain
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise PlanError([Problem(f"the data file is damaged: {error}", place)]) from None
        except OSError as error:
            raise PlanError([Problem(f"the data file cannot be read: {error.strerror or error}", place)]) from None


def _table_rows(file: IO[bytes], place: str) -> Iterator[bytes]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        hint = "try: pip install 'gymcore[huggingface]', which brings it"
        raise PlanError([Problem("a parquet file needs the package `pyarrow`", place, (hint,))]) from None
    try:
        with parquet.ParquetFile(file) as table:
            if found := _binary_columns(table.schema_arrow):
                told = f"the column {found[0]!r} holds bytes, which no row can"
                raise PlanError([Problem(told, place, ("try: a dataset with texts or addresses in their place",))])
            for batch in table.iter_batches(batch_size=ROWS_AT_ONCE):
                for row in batch.to_pylist():
                    yield encode_json(row) + b"\n"
    except pyarrow.ArrowException as error:
        told = str(error).strip().splitlines()[0][:200]
        raise PlanError([Problem(f"the data file is damaged: {told}", place)]) from None


def _binary_columns(schema: Any) -> list[str]:
    """Return the columns in which bytes stand, at any depth."""
    from pyarrow import types

    def is_binary(kind: Any) -> bool:
        if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
            return True
        return any(is_binary(kind.field(index).type) for index in range(kind.num_fields))

    return [field.name for field in schema if is_binary(field.type)]
