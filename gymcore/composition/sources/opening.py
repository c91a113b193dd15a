"""
Where rows come from: files, and pinned sources elsewhere, which become files in a cache before they are read.

A dataset of the hub is read here and not by the library `datasets`, which gives every row the keys of all others,
filled with null, where a row here is what its author wrote.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import os
import zlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from gymcore.composition.dataset import BLOCK
from gymcore.composition.rows.reader import MAX_LINE_BYTES
from gymcore.documents import encode_json
from gymcore.errors import PlanError, Problem
from gymcore.plan import HubData, UrlData, expand_variables, source_name

if TYPE_CHECKING:
    from gymcore.composition.sources.downloads import Downloads

__all__ = ["SourceLines", "open_source"]

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

ROWS_AT_ONCE = 256
"""How many rows of a table are in memory at a time."""


class SourceLines:
    """
    The lines of several files, or of packed ones, one after the other; no more than what is asked for is in memory.

    A file that does not end in a line break ends its last line all the same, and a byte order mark at the beginning of
    any but the first, which is told there, is left out.
    """

    def __init__(self, files: Sequence[tuple[Path, str]], where: str) -> None:
        self._files = iter(files)
        self._where = where
        self._name = ""
        self._file: Any = None  # what has `readline` and `close`
        self._is_first = True
        self._is_at_start = True
        self._line = 0

    def __iter__(self) -> Iterator[bytes]:
        return iter(partial(self.readline, MAX_LINE_BYTES + 1), b"")

    def readline(self, limit: int = -1) -> bytes:
        """
        Return the next line, or as much of it as is allowed; nothing at the end of the last file.

        Raises:
            PlanError: a file cannot be read, or is not what its name says.
        """
        while self._file is not None or self._open_next():
            with _reading(f"{self._where}: {self._name}"):
                chunk: bytes = self._file.readline(limit)
            if not chunk:
                was_inside = not self._is_at_start
                self.close()
                if was_inside:
                    return b"\n"
                continue
            is_last = not chunk.endswith(b"\n") and not 0 < limit <= len(chunk)
            if self._is_at_start:
                self._line += 1
                if self._line == 1 and not self._is_first:
                    chunk = chunk.removeprefix(BYTE_ORDER_MARK)
            elif is_last:
                chunk += b"\n"  # whoever skips a long line looks for its end
            self._is_at_start = is_last or chunk.endswith(b"\n")
            if chunk:
                return chunk
        return b""

    def where(self) -> str:
        """Say where the last line stands, `file:line`."""
        return f"{self._name}:{self._line}"

    def close(self) -> None:
        """Close the file that is open."""
        if self._file is not None:
            self._file.close()
            self._file = None
            self._is_first = False
        self._is_at_start = True

    def _open_next(self) -> bool:
        path, self._name = next(self._files, (None, self._name))
        if path is None:
            return False
        self._line = 0
        self._file = _opened(path, self._name, f"{self._where}: {self._name}")
        return True


@contextmanager
def open_source(
    source: str | HubData | UrlData,
    where: str,
    environ: Mapping[str, str] | None = None,
    downloads: Downloads | None = None,
    *,
    has_variables: bool = True,
) -> Iterator[SourceLines | IO[bytes]]:
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
        PlanError: it cannot be had, or is not what it is pinned to; also while it is read.
        RunFolderError, StorageError: the cache cannot be written.
    """
    environ = os.environ if environ is None else environ
    name = source_name(source)
    if isinstance(source, HubData):
        from gymcore.composition.sources.hub import fetch_hub_files  # here, because few fetch anything

        files = fetch_hub_files(source, where, environ)
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
    if len(files) == 1 and not isinstance(source, HubData) and not _is_packed(name):
        with _opened(files[0][0], name, f"{where}: {name}") as file:
            yield file  # the file itself: nothing of ours is done for each line
        return
    with closing(SourceLines(files, where)) as lines:
        yield lines


def _is_packed(name: str) -> bool:
    return name.lower().endswith((".gz", ".parquet"))


@contextmanager
def _reading(place: str) -> Iterator[None]:
    """Say of what goes wrong with a file where it stands; the disk that is written to is another one."""
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise PlanError([Problem(f"the data file is damaged: {error}", place)]) from None
    except OSError as error:
        hint: tuple[str, ...] = ()
        if isinstance(error, FileNotFoundError) and "://" in place:
            hint = ("an address is written {url: ADDRESS, sha256: DIGEST}",)
        elif isinstance(error, FileNotFoundError) and not Path(error.filename or "/").is_absolute():
            hint = ("a path begins in the folder where the command is started, wherever its plan lies",)
        told = f"the data file cannot be read: {error.strerror or error}"
        raise PlanError([Problem(told, place, hint)]) from None


class _File(io.FileIO):
    """A file that says where it stands when it cannot be read, once a block and not for every line."""

    def __init__(self, path: Path, place: str) -> None:
        super().__init__(path)
        self._place = place

    def readinto(self, buffer: Any, /) -> int:
        with _reading(self._place):
            return super().readinto(buffer)


def _opened(path: Path, name: str, place: str) -> Any:
    """
    Open a file for reading its lines.

    Raises:
        PlanError: it cannot be opened, or is not what its name says.
    """
    with _reading(place):
        # Looked at first: merely to open a pipe may take for ever.
        if path.exists() and not path.is_dir() and not path.is_file():
            raise PlanError([Problem("the data file is no regular file", place, ("try: write it into a file first",))])
        file: Any = io.BufferedReader(_File(path, place), BLOCK)
    try:
        if name.lower().endswith(".parquet"):
            return _TableLines(file, place)
        if name.lower().endswith(".gz"):
            file = _Unpacked(file)
        with _reading(place):
            _refuse_one_document(file, name, place)
    except BaseException:
        file.close()
        raise
    return file


class _Unpacked(gzip.GzipFile):
    """A compressed file that closes what it reads from."""

    def __init__(self, packed: IO[bytes]) -> None:
        self._packed = packed
        super().__init__(fileobj=packed)

    def close(self) -> None:
        super().close()
        self._packed.close()


def _refuse_one_document(file: Any, name: str, place: str) -> None:
    """Refuse a `.json` that is one list, or one object over many lines, instead of every line of it."""
    if not name.lower().removesuffix(".gz").endswith(".json"):
        return
    head = file.peek(256).removeprefix(BYTE_ORDER_MARK).lstrip()
    if head.startswith(b"[") or head.partition(b"\n")[0].strip() == b"{":
        hint = f"try: jq -c '{'.[]' if head.startswith(b'[') else '.'}' FILE > rows.jsonl"
        raise PlanError([Problem("the data file is one JSON document, and not one for each line", place, (hint,))])


class _TableLines:
    """The rows of a table as lines."""

    def __init__(self, file: IO[bytes], place: str) -> None:
        self._file = file
        self._rows = _table_rows(file, place)

    def readline(self, limit: int = -1) -> bytes:
        return next(self._rows, b"")

    def close(self) -> None:
        self._rows.close()
        self._file.close()


def _table_rows(file: IO[bytes], place: str) -> Generator[bytes, None, None]:
    try:
        import pyarrow
        from pyarrow import parquet, types
    except ImportError:
        hint = "try: pip install 'gymcore[huggingface]', which brings it"
        raise PlanError([Problem("a parquet file needs the package `pyarrow`", place, (hint,))]) from None
    try:
        with parquet.ParquetFile(file) as table:
            _refuse_columns(table.schema_arrow, place)
            schema = _without_nanoseconds(table.schema_arrow)
            floating = [
                field.name for field in table.schema_arrow if any(map(types.is_floating, _types_in(field.type)))
            ]
            for batch in table.iter_batches(batch_size=ROWS_AT_ONCE):
                for row in (batch if schema is None else _cast(batch, schema, place)).to_pylist():
                    yield (_encoded(row, floating) if floating else encode_json(row)) + b"\n"
    except pyarrow.ArrowException as error:
        told = str(error).strip().splitlines()[0][:200]
        raise PlanError([Problem(f"the data file is damaged: {told}", place)]) from None


def _encoded(row: dict[str, Any], floating: Sequence[str]) -> bytes:
    """Write a row; a number that is not finite as itself, which is refused with its row as it is in a line of JSON."""
    if all(_is_finite(row[name]) for name in floating):
        return encode_json(row)
    return json.dumps(row, default=str).encode()


def _is_finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    return not isinstance(value, list | tuple) or all(map(_is_finite, value))


def _refuse_columns(schema: Any, place: str) -> None:
    """
    Refuse a table in whose rows something would be lost.

    Raises:
        PlanError: a column holds bytes, or two of one object have the same name.
    """
    from pyarrow import types

    tests = [
        getattr(types, f"is_{name}", None) for name in ("binary", "large_binary", "fixed_size_binary", "binary_view")
    ]
    is_bytes = [test for test in tests if test is not None]  # views are known from pyarrow 16 on
    for field in schema:
        if any(test(kind) for kind in _types_in(field.type) for test in is_bytes):
            told = f"the column {field.name!r} holds bytes, which no row can"
            raise PlanError([Problem(told, place, ("try: a dataset with texts or addresses in their place",))])
    objects = [kind for field in schema for kind in _types_in(field.type) if types.is_struct(kind)]
    for names in (schema.names, *([kind.field(index).name for index in range(kind.num_fields)] for kind in objects)):
        if twins := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            told = f"two columns are called {twins[0]!r}, and only the last would count"
            raise PlanError([Problem(told, place, ("try: other names for them",))])


def _types_in(kind: Any) -> Iterator[Any]:
    """Yield a type and those of what is in it, at any depth."""
    yield kind
    for index in range(kind.num_fields):
        yield from _types_in(kind.field(index).type)
    # Of a dictionary or a run the values, of an extension what it is stored as.
    for inner in ("value_type", "storage_type"):
        if not kind.num_fields and (found := getattr(kind, inner, None)) is not None:
            yield from _types_in(found)


def _without_nanoseconds(schema: Any) -> Any | None:
    """Return a schema with microseconds, the finest of Python, in the place of nanoseconds; None without those."""
    import pyarrow
    from pyarrow import types

    def changed(kind: Any) -> Any:
        if types.is_timestamp(kind) and kind.unit == "ns":
            return pyarrow.timestamp("us", kind.tz)
        if types.is_duration(kind) and kind.unit == "ns":
            return pyarrow.duration("us")
        if types.is_time64(kind) and kind.unit == "ns":
            return pyarrow.time64("us")
        if types.is_struct(kind):
            return pyarrow.struct(
                [field.with_type(changed(field.type)) for field in map(kind.field, range(kind.num_fields))]
            )
        if types.is_list(kind) or types.is_large_list(kind):
            make = pyarrow.list_ if types.is_list(kind) else pyarrow.large_list
            return make(kind.value_field.with_type(changed(kind.value_type)))
        return kind

    wanted = pyarrow.schema([field.with_type(changed(field.type)) for field in schema])
    return None if wanted.equals(schema.remove_metadata()) else wanted


def _cast(batch: Any, schema: Any, place: str) -> Any:
    import pyarrow

    try:
        return pyarrow.Table.from_batches([batch]).cast(schema)
    except pyarrow.ArrowException as error:
        told = f"times finer than a microsecond cannot stand in rows: {str(error).strip().splitlines()[0][:200]}"
        raise PlanError([Problem(told, place, ("try: texts in their place",))]) from None
