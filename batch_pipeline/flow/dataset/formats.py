"""The file formats: from a stream of bytes to numbered rows of JSON.

Belongs here: parquet, csv, jsonl, txt and md, one reader each, streaming, and which columns a file
must have. What a row's cells mean for the prompt is `row_json` and `readers`; finding and opening
files is `sources` and `streams`.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterator
from itertools import count
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from batch_pipeline.errors import InputDataError
from batch_pipeline.flow.dataset.columns import LinesSeen, Wanted, place_of
from batch_pipeline.flow.dataset.files import Kind, SourceFile
from batch_pipeline.flow.dataset.row_json import JsonRow, decode_text, undecodable
from batch_pipeline.flow.dataset.splits import Section

NumberedRows = Iterator[tuple[int, JsonRow]]

# What a batch of parquet rows may hold, whatever the size of file and row group. A repeated text is
# stored once in a dictionary page, so that a file's own sizes may promise too little: hence the
# second bound. A page has to be read whole in any case: 1,024 rows, as pyarrow writes it.
_BATCH_BYTES = 8_000_000
_BATCH_ROWS = 256
# The csv module keeps the limit in a C long, which has 32 bits on some systems.
_CSV_FIELD_BYTES = 2**31 - 1


def read_format(stream: BinaryIO, section: Section, wanted: Wanted) -> NumberedRows:
    """The rows of one open file that is no jsonl, with the row (parquet) or line (csv) that each
    starts at; lines of jsonl are `row_of_line`.

    Raises InputDataError for missing columns and malformed lines; what pyarrow and the stream
    raise for an unreadable file is left to the caller.
    """
    match section.file.kind:
        case Kind.PARQUET:
            return _read_parquet(stream, section, wanted)
        case Kind.CSV:
            return _read_csv(stream, section.file, wanted)
        case _:
            return _read_text(stream, section.file, wanted)


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
                yield next(numbers), JsonRow.of_cells(dict(zip(names, cells, strict=True)))


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
            yield start, JsonRow.of_cells(row)
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


def row_of_line(
    line: bytes, file: SourceFile, number: int, wanted: Wanted, seen: LinesSeen
) -> JsonRow | None:
    """The row of a line; None for an empty one. `seen` learns what it had.

    Raises InputDataError where it is no JSON object or has no id column.
    """
    text = (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).strip(b" \t\r\n")
    if not text:
        return None
    try:
        row = JsonRow.of_json(text)
    except ValueError as error:
        raise InputDataError(
            f"{place_of(file, number)}: {_json_cause(error)}. Every line has to be one JSON "
            "object in UTF-8."
        ) from error
    if wanted.id_column not in row.cells:
        raise wanted.error(place_of(file, number), wanted.id_column, row.cells)
    if seen.unseen:
        seen.unseen.difference_update(row.cells)
    if seen.first is None:
        seen.first = (number, list(row.cells))
    return row


def _json_cause(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg} at character {error.pos + 1}"
    return str(error)


# --- txt and md ----------------------------------------------------------------------------------


def _read_text(stream: BinaryIO, file: SourceFile, wanted: Wanted) -> NumberedRows:
    wanted.check(file.path, ("id", "text"))
    text = decode_text(stream.read().removeprefix(codecs.BOM_UTF8))
    yield 1, JsonRow.of_cells({"id": file.relative_path, "text": text})
