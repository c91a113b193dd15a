"""
`export()`: a composition in, one file for a trainer out, whole or not at all.
"""

from __future__ import annotations

import fcntl
import glob
import hashlib
import importlib
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from gymcore.chat import InexpressibleError
from gymcore.composition import Composition
from gymcore.documents import encode_json
from gymcore.errors import DataError, Problem, RequestError, nearest
from gymcore.integrations.composed_row import ComposedRow
from gymcore.integrations.first_types import READER_CHUNK, FirstTypes
from gymcore.integrations.formats import MESSAGES, LineFormat, TableFormat, Uniform
from gymcore.integrations.tables import PLAIN_KEYS, need_pyarrow, write_table
from gymcore.run_folder import (
    DATASET_NAME,
    FAILURES_NAME,
    LOCK_NAME,
    PLAN_NAME,
    REJECTS_NAME,
    REPORT_NAME,
    ROLLOUTS_NAME,
    WRITER_NAME,
    disk_error,
    part_of,
    sync_folder,
)

__all__ = ["FORMATS", "Export", "export", "load_format"]

FORMATS = {
    "nemo-gym": "nemo_gym",
    "openai-messages": "openai_messages",
    "parquet": "parquet",
    "skyrl": "skyrl",
    "trl": "trl",
    "verl": "verl",
}
"""The formats, each with the module of this folder that makes its rows."""

SETTLED_S = 5.0
"""A part that was written to within so many seconds is left alone."""

_TAKEN = {PLAN_NAME, LOCK_NAME, DATASET_NAME, REJECTS_NAME, ROLLOUTS_NAME, FAILURES_NAME, REPORT_NAME, WRITER_NAME}


@dataclass(frozen=True)
class Export:
    """What was written."""

    path: Path
    to: str
    """The format."""
    rows: int
    sha256: str
    """The digest of the file; the same composition gives the same, with the same pyarrow for a table."""
    notes: tuple[str, ...] = ()
    """What a reader of the file should know, one line each."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "file": str(self.path),
            "format": self.to,
            "rows": self.rows,
            "bytes": self.path.stat().st_size,
            "sha256": self.sha256,
            "notes": list(self.notes),
        }


def load_format(name: str) -> LineFormat | TableFormat:
    """
    Return a format by its name.

    Raises:
        RequestError: there is none.
    """
    if name not in FORMATS:
        close = nearest(name, FORMATS)
        hint = f"try: {close[0]}" if close else f"formats: {', '.join(FORMATS)}"
        raise RequestError(f"no format is named {name!r}", hints=[hint])
    found: LineFormat | TableFormat = importlib.import_module(f"gymcore.integrations.{FORMATS[name]}").FORMAT
    return found


def export(composition: Composition, to: str, out: Path, *, reader_chunk: int = READER_CHUNK) -> Export:
    """
    Write a composition as the rows that a trainer reads.

    Rows are read, turned and written one after the other, so a million need no more memory than a thousand.

    Args:
        composition: What is to be exported.
        to: The format, one of `FORMATS`.
        out: The file; one that is there is replaced once the new one is whole.
        reader_chunk: How many bytes of JSON lines are looked at before their types are settled on, by whoever reads
            them: the `chunksize` of `datasets`.

    Raises:
        RequestError: no format has that name, its files are called otherwise, or it needs a package.
        DataError: the format has no words for some rows; with the first ten and how many there are.
        RunFolderError: the file cannot be written there.
        StorageError: the disk failed.
    """
    form = load_format(to)
    if out.suffix != form.suffix:
        raise RequestError(
            f"{to} is written to a file that ends with {form.suffix}",
            where=str(out),
            hints=[f"try: {out.parent / f'{out.stem}{form.suffix}'}"],
        )
    if out.name in _TAKEN and any((out.parent / name).exists() for name in (LOCK_NAME, WRITER_NAME)):
        message = "a run folder has a file of that name, and this is one"
        raise RequestError(message, where=str(out), hints=["try: another name, or another folder"])
    _refuse_to_replace(composition, form, out)
    if isinstance(form, TableFormat):
        need_pyarrow()
    writing = _Writing(composition, form, reader_chunk)
    try:
        with _whole(out) as file:
            writing.write(file)
        with out.open("rb") as written:
            digest = hashlib.file_digest(written, "sha256").hexdigest()
    except OSError as error:
        raise disk_error("the export cannot be written", error, out) from None
    return Export(out, to, len(composition.dataset), digest, tuple(writing.notes()))


def _refuse_to_replace(composition: Composition, form: LineFormat | TableFormat, out: Path) -> None:
    """
    Keep an export from the rows that it is made of, and from the file of another format.

    Raises:
        RequestError: it would replace one of them.
    """
    plan = composition.plan
    given = [*plan.data, *(one for entry in plan.environments.values() for one in entry.data)]
    for route in composition.routes.values():
        given += route.plan.data
    for source in given:
        with suppress(OSError):
            if isinstance(source, str) and out.samefile(source):
                raise RequestError("the rows come from this file", where=str(out), hints=["try: another --out"])
    others = {load_format(name).file_name: name for name in FORMATS if name != form.name}
    if out.name in others and out.exists():
        message = f"this is where {others[out.name]} is written to, and the file exists"
        raise RequestError(message, where=str(out), hints=["try: another --out"])


@contextmanager
def _whole(path: Path) -> Iterator[IO[bytes]]:
    """Give a file its name only when all of it is on disk; nothing is left of one that is not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own for every process, so that two that write the same file do not write into each other's.
    part = part_of(path.with_name(f"{path.name}.{os.getpid()}"))
    try:
        with part.open("wb") as file:
            with suppress(OSError):  # where there are no locks, nothing is swept either
                fcntl.flock(file, fcntl.LOCK_EX)
                _sweep(path, part)
            yield file
            file.flush()
            os.fsync(file.fileno())
            part.replace(path)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def _sweep(path: Path, own: Path) -> None:
    """Remove what killed processes left of this file: the parts that nobody holds."""
    for part in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        if part == own or not part.name.removeprefix(f".{path.name}.").removesuffix(".part").isdecimal():
            continue
        with suppress(OSError), part.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever has just made one holds it in a moment.
            if time.time() - os.fstat(file.fileno()).st_mtime > SETTLED_S:
                part.unlink()


def _write_record(file: IO[bytes], record: dict[str, Any]) -> int:
    return file.write(encode_json(record) + b"\n")


@dataclass
class _Writing:
    """One call of `export`: gathers mistakes and remarks while it writes."""

    composition: Composition
    form: LineFormat | TableFormat
    reader_chunk: int
    problems: list[Problem] = field(default_factory=list)
    bad: int = 0
    remarks: dict[str, int] = field(default_factory=dict)
    further: list[str] = field(default_factory=list)
    message_keys: set[str] = field(default_factory=lambda: set(PLAIN_KEYS))

    def write(self, file: IO[bytes]) -> None:
        """
        Write all rows.

        Raises:
            DataError: the format has no words for some of them.
        """
        if isinstance(self.form, LineFormat):
            self._write_lines(file, self.form)
            return
        has_messages = MESSAGES in self.form.columns.values()
        if has_messages:
            self._survey(self.form)
        facts = {"gymcore.format": self.form.name, "gymcore.dataset": self.composition.lock["dataset"]["sha256"]}
        record = self.form.record
        rows = self._rows() if has_messages else self._remarked(self._rows())
        records = ((record(row), len(row.row.data)) for row in rows)
        write_table(file, self.form.columns, records, message_keys=self.message_keys, facts=facts)

    def _write_lines(self, file: IO[bytes], form: LineFormat) -> None:
        """
        Write lines; all of them anew where one that comes late needs a type that those before it lack.

        Raises:
            DataError: the format has no words for some of them.
        """
        uniform = form.uniform
        if uniform is None:
            for row in self._remarked(self._rows()):
                line = self._turned(row, form.line)
                if line is not None and not self.bad:
                    file.write(line + b"\n")
            self._raise_problems()
            return
        types, is_wide = FirstTypes(self.reader_chunk), False
        for row in self._remarked(self._rows()):
            record = self._turned(row, uniform.record)
            if record is not None and not self.bad:
                is_wide = is_wide or uniform.is_wide(row)
                types.see(record, _write_record(file, record))
        self._raise_problems()
        if is_wide or types.late:
            numbers, is_marked = types.mixed_numbers, uniform.column in types.late
            types = self._write_uniform(file, uniform, numbers, is_wide=is_wide, is_marked=is_marked)
            if uniform.column in types.late and not is_marked:
                is_marked = True
                types = self._write_uniform(file, uniform, numbers, is_wide=is_wide, is_marked=True)
            self.further += [uniform.wide_note] * is_wide + [uniform.mark_note] * is_marked
        if types.late:
            columns = ", ".join(sorted(types.late))
            self.further.append(
                f"load_dataset needs chunksize={types.sufficient}: rows after its first chunk hold values in {columns} "
                "of a kind that the rows before them lack"
            )

    def _write_uniform(
        self, file: IO[bytes], uniform: Uniform, numbers: set[str], *, is_wide: bool, is_marked: bool
    ) -> FirstTypes:
        """
        Write all lines again, of types that are the same from the first to the last as far as there are such.

        Args:
            file: Where to, in the place of what it holds.
            uniform: What makes them alike.
            numbers: The columns whose integers are written as other numbers are.
            is_wide: Whether all rows are wide.
            is_marked: Whether the first row says that objects may have different keys.

        Returns:
            What a reader takes them for.
        """
        file.seek(0)
        file.truncate()
        types = FirstTypes(self.reader_chunk)
        for row in self._rows():
            record = uniform.record(row)
            if is_wide:
                record = uniform.widened(record)
            for key in numbers & record.keys():
                if type(record[key]) is int and abs(record[key]) < 1 << 53:  # those that every reader holds exactly
                    record[key] = float(record[key])
            if is_marked and (mark := uniform.marked(record)) is not None:
                record, is_marked = mark, False
            types.see(record, _write_record(file, record))
        return types

    def notes(self) -> list[str]:
        """Return what a reader of the file should know."""
        notes = [f"{remark} ({count:,} row{'s' * (count > 1)})" for remark, count in self.remarks.items()]
        notes += self.further
        further = sorted(self.message_keys - set(PLAIN_KEYS))
        if further:
            keys = ", ".join(further)
            notes.append(
                f"prompts hold more than texts, so all messages have the keys {keys}, null where they are not needed; "
                "for a chat template that asks whether a key is there, drop the nulls"
            )
        return notes

    def _rows(self) -> Iterator[ComposedRow]:
        routes = {name: self.composition.routes[name] for name in self.composition.dataset.route_names}
        for position, row in enumerate(self.composition.dataset):
            yield ComposedRow(row, routes[row.value["agent_ref"]["name"]], position)

    def _survey(self, form: TableFormat) -> None:
        """
        Read every row before the first is written: all row groups share one schema, so all of it must be known.

        Raises:
            DataError: the format has no words for some of them.
        """
        columns = [name for name, kind in form.columns.items() if kind == MESSAGES]
        for row in self._remarked(self._rows()):
            record = self._turned(row, form.record)
            if record is not None:
                for column in columns:
                    self.message_keys.update(*record[column])
        self._raise_problems()

    def _turned(self, row: ComposedRow, function: Any) -> Any:
        """Turn a row, or count it among the mistakes."""
        try:
            return function(row)
        except InexpressibleError as error:
            self.bad += 1
            if len(self.problems) < DataError.shown:
                where = f"{DATASET_NAME}:{row.position + 1}, {row.task_id}"
                hint = "try: --to parquet or nemo-gym, which take any row, or leave these rows out"
                self.problems.append(Problem(f"{self.form.name} has no words for {error}", where, (hint,)))
            return None

    def _remarked(self, rows: Iterable[ComposedRow]) -> Iterator[ComposedRow]:
        for row in rows:
            self._remark(row)
            yield row

    def _remark(self, row: ComposedRow) -> None:
        remarks = ["the prompt is empty"] if row.is_empty else []
        for remark in (*remarks, *self.form.remarks(row)):
            self.remarks[remark] = self.remarks.get(remark, 0) + 1

    def _raise_problems(self) -> None:
        if self.bad:
            raise DataError(self.problems, count=self.bad, rows=len(self.composition.dataset))
