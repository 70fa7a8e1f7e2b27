"""The file formats: from a stream of bytes to numbered rows of JSON.

Belongs here: parquet, csv, jsonl, txt and md, one reader each, streaming; which columns a file must
have, and how an error names a place in it. What a row's cells mean for the prompt is in `row_json`;
finding and opening files is in `files` and `streams`.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from batch_pipeline.errors import InputDataError
from batch_pipeline.flow.dataset.files import Kind, SourceFile
from batch_pipeline.flow.dataset.row_json import (
    JsonRow,
    decode_text,
    row_of_cells,
    row_of_json,
    undecodable,
)
from batch_pipeline.flow.dataset.splits import Section

NumberedRows = Iterator[tuple[int, JsonRow]]

# What a batch of parquet rows may hold, whatever the size of file and row group. A repeated text is
# stored once in a dictionary page, so that a file's own sizes may promise too little: hence the
# second bound. A page has to be read whole in any case: 1,024 rows, as pyarrow writes it.
_BATCH_BYTES = 8_000_000
_BATCH_ROWS = 256
# The csv module keeps the limit in a C long, which has 32 bits on some systems.
_CSV_FIELD_BYTES = 2**31 - 1


def read_format(
    stream: BinaryIO, section: Section, wanted: Wanted, seen: LinesSeen
) -> NumberedRows:
    """The rows of an open file or of a part of one, with the row (parquet) or line (csv, jsonl)
    that each starts at; `seen` learns what lines of jsonl have.

    Raises InputDataError for missing columns and malformed lines; what pyarrow and the stream
    raise for an unreadable file is left to the caller.
    """
    match section.file.kind:
        case Kind.PARQUET:
            return _read_parquet(stream, section, wanted)
        case Kind.CSV:
            return _read_csv(stream, section.file, wanted)
        case Kind.JSONL:
            return _read_jsonl(stream, section, wanted, seen)
        case _:
            return _read_text(stream, section.file, wanted)


# --- columns -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wanted:
    """The columns that every file must have: the id's, and those that the template names."""

    id_column: str
    columns: tuple[str, ...]

    def missing_from(self, present: Iterable[str]) -> list[str]:
        """The wanted columns that are not there, in order and each once."""
        present = set(present)
        return [
            name for name in dict.fromkeys((self.id_column, *self.columns)) if name not in present
        ]

    def check(self, place: str, present: Iterable[str]) -> None:
        """Raise InputDataError where a wanted column is missing at this place of the input."""
        names = list(present)
        missing = self.missing_from(names)
        if missing:
            raise self.error(place, missing[0], names)

    def error(self, place: str, column: str, present: Iterable[str]) -> InputDataError:
        """The error for one missing column."""
        there = ", ".join(repr(name) for name in present) or "none"
        if column == self.id_column:
            what, remedy = "the id column", "Correct input.id_column"
        else:
            what, remedy = (
                "the prompt's column",
                "Correct the placeholder (double its braces if they are meant literally)",
            )
        return InputDataError(
            f"{place}: {what} {column!r} is missing. Columns there: {there}. {remedy}, or the file."
        )


def place_of(file: SourceFile, number: int) -> str:
    """How an error names a row, or the whole file where no row has been read (`number` 0)."""
    if not number or file.kind in {Kind.TXT, Kind.MD}:
        return file.path
    return f"{file.path}, {'row' if file.kind is Kind.PARQUET else 'line'} {number}"


@dataclass(slots=True)
class LinesSeen:
    """Which columns of the template the lines of a jsonl file had, as far as it was read.

    A key that some rows lack is a null there; one that no row of the file has is a mistake in the
    declaration, known only at the file's end, which is still before anything is sent. `unseen` are
    the columns that no line had, `first` is the number and the columns of the first row, `lines`
    the number of lines.
    """

    unseen: set[str]
    first: tuple[int, list[str]] | None = None
    lines: int = 0

    def add_row(self, number: int, cells: Mapping[str, object]) -> None:
        """Take in the row of a line."""
        if self.unseen:
            self.unseen.difference_update(cells)
        if self.first is None:
            self.first = (number, list(cells))

    def add(self, later: LinesSeen) -> None:
        """Take in the lines of the file's next part, whose numbers count from 1."""
        self.unseen &= later.unseen
        if self.first is None and later.first is not None:
            number, present = later.first
            self.first = (self.lines + number, present)
        self.lines += later.lines

    def check(self, file: SourceFile, wanted: Wanted) -> None:
        """Raise InputDataError where no row of the whole file had a column."""
        if self.first and self.unseen:
            number, present = self.first
            column = next(name for name in wanted.columns if name in self.unseen)
            raise wanted.error(f"{place_of(file, number)} and every other row", column, present)


# --- parquet -------------------------------------------------------------------------------------


def _read_parquet(stream: BinaryIO, section: Section, wanted: Wanted) -> NumberedRows:
    file = section.file
    # Pre-buffering would load a whole row group, which may be a gigabyte of documents.
    parquet = pq.ParquetFile(stream, pre_buffer=False, buffer_size=1_000_000)
    names = parquet.schema_arrow.names
    _check_header(file.path, names)
    wanted.check(place_of(file, 1), names)
    numbers = count(section.first)
    for group in range(section.start, section.end or parquet.num_row_groups):
        sizes = parquet.metadata.row_group(group)
        row_bytes = sizes.total_byte_size // max(sizes.num_rows, 1)
        batch_rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(row_bytes, 1)))
        # A thread for each column would keep memory of its own, and hardly be faster.
        batches = parquet.iter_batches(batch_rows, row_groups=[group], use_threads=False)
        for batch in batches:
            columns = [_column_cells(column) for column in batch.columns]
            for cells in zip(*columns, strict=True):
                yield next(numbers), row_of_cells(dict(zip(names, cells, strict=True)))


def _column_cells(column: pa.Array[Any]) -> list[Any]:
    if pa.types.is_float16(column.type) or pa.types.is_float32(column.type):
        # As a Python float a 32-bit 0.1 would read 0.10000000149011612.
        texts = column.cast(pa.string()).to_pylist()
        return [None if text is None else float(text) for text in texts]
    try:
        cells: list[Any] = column.to_pylist()
    except (ValueError, ArithmeticError, LookupError):
        # Bytes that are no UTF-8, a date beyond year 9999, an unknown time zone: only the cell
        # that has it is lost, not the night.
        return [_scalar_cell(scalar) for scalar in column]
    return cells


def _scalar_cell(scalar: pa.Scalar[Any]) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError as error:
        return undecodable(bytes(error.object).decode(errors="backslashreplace"))
    except (ValueError, ArithmeticError, LookupError) as error:
        return undecodable(str(error))


# --- csv -----------------------------------------------------------------------------------------


def _read_csv(stream: BinaryIO, file: SourceFile, wanted: Wanted) -> NumberedRows:
    csv.field_size_limit(
        _CSV_FIELD_BYTES
    )  # the default, 131,072 characters, is less than a contract
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    # Without `strict`, an unclosed quote would swallow the rest of the file into one cell.
    lines = csv.reader(text, strict=True)
    header: list[str] | None = None
    start = 1
    while True:
        try:
            cells = next(lines, None)
        except csv.Error as error:
            raise InputDataError(
                f"{place_of(file, start)}: not valid CSV: {error}. Quote cells that hold commas, "
                "quotes or line breaks, and double the quotes inside them."
            ) from error
        if cells is None:
            return
        if header is None and cells:
            header = cells
            _check_header(place_of(file, start), header)
            wanted.check(place_of(file, start), header)
        elif header is not None and cells:
            if len(cells) != len(header):
                raise InputDataError(
                    f"{place_of(file, start)}: {len(cells)} cells where the header has "
                    f"{len(header)}. Quote cells that hold commas or line breaks."
                )
            row = {name: cell or None for name, cell in zip(header, cells, strict=True)}
            yield start, row_of_cells(row)
        start = lines.line_num + 1


def _check_header(place: str, names: list[str]) -> None:
    for position, name in enumerate(names, 1):
        if not name:
            problem = f"column {position} has no name"
        elif name in names[: position - 1]:
            problem = f"two columns are named {name!r}"
        elif any("\ud800" <= character <= "\udfff" for character in name):
            problem = f"the name of column {position} is not UTF-8; save the file as UTF-8"
        else:
            continue
        raise InputDataError(f"{place}: {problem}. Every column needs a name of its own.")


# --- jsonl ---------------------------------------------------------------------------------------


def _read_jsonl(
    stream: BinaryIO, section: Section, wanted: Wanted, seen: LinesSeen
) -> NumberedRows:
    """Lines end at \\n alone, not at U+2028; empty ones are no rows."""
    file, left = section.file, sys.maxsize
    if section.end is not None:
        stream.seek(section.start)
        left = section.end - section.start
    for number, line in enumerate(stream, section.first):
        row = _row_of_line(line, file, number, wanted)
        if row is not None:
            seen.add_row(number, row.cells)
            yield number, row
        seen.lines += 1
        left -= len(line)
        if left <= 0:
            return


def _row_of_line(line: bytes, file: SourceFile, number: int, wanted: Wanted) -> JsonRow | None:
    """The row of a line; None for an empty one.

    Raises InputDataError where the line is no JSON object or has no id column.
    """
    text = (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).strip(b" \t\r\n")
    if not text:
        return None
    try:
        row = row_of_json(text)
    except ValueError as error:
        raise InputDataError(
            f"{place_of(file, number)}: {_json_cause(error)}. Every line has to be one JSON "
            "object in UTF-8."
        ) from error
    if wanted.id_column not in row.cells:
        raise wanted.error(place_of(file, number), wanted.id_column, row.cells)
    return row


def _json_cause(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg} at character {error.pos + 1}"
    return str(error)


# --- txt and md ----------------------------------------------------------------------------------


def _read_text(stream: BinaryIO, file: SourceFile, wanted: Wanted) -> NumberedRows:
    wanted.check(file.path, ("id", "text"))
    text = decode_text(stream.read().removeprefix(codecs.BOM_UTF8))
    yield 1, row_of_cells({"id": file.relative_path, "text": text})
