"""The file formats: from a stream of bytes to numbered rows of JSON.

Belongs here: which reader a file has; the readers of jsonl, txt and md, streaming. Parquet is in
`parquet_format`, CSV in `csv_format`, arrays of JSON in `json_format`;
what a row's cells mean for the prompt is in `row_json`;
finding and opening files is in `files` and `streams`.
"""

from __future__ import annotations

import codecs
import sys
from functools import partial
from itertools import islice
from typing import BinaryIO

from batch_pipeline.errors import InputDataError
from batch_pipeline.flow.dataset.reading.columns import (
    ROW_BYTES,
    LinesSeen,
    NumberedRows,
    Wanted,
    place_of,
)
from batch_pipeline.flow.dataset.reading.csv_format import read_csv
from batch_pipeline.flow.dataset.reading.document_format import TEXT
from batch_pipeline.flow.dataset.reading.files import Kind, SourceFile
from batch_pipeline.flow.dataset.reading.json_format import json_cause, read_json_array
from batch_pipeline.flow.dataset.reading.parquet_format import read_parquet
from batch_pipeline.flow.dataset.reading.row_json import (
    JsonRow,
    decode_text,
    row_of_cells,
    row_of_json,
    too_large,
)
from batch_pipeline.flow.dataset.reading.splits import Section
from batch_pipeline.jobs.prompts.template import DOCUMENT

_TEXT_BLOCK = 1 << 20


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
            return read_parquet(stream, section, wanted)
        case Kind.CSV:
            return read_csv(stream, section.file, wanted)
        case Kind.JSONL:
            return _read_jsonl(stream, section, wanted, seen)
        case Kind.JSON:
            return read_json_array(stream, section.file, wanted, seen)
        case _:
            return _read_text(stream, section.file, wanted)


# --- jsonl ---------------------------------------------------------------------------------------


def _read_jsonl(
    stream: BinaryIO, section: Section, wanted: Wanted, seen: LinesSeen
) -> NumberedRows:
    """Lines end at \\n alone, not at U+2028; empty ones are no rows."""
    file, left = section.file, sys.maxsize
    if section.end is not None:
        stream.seek(section.start)
        left = section.end - section.start
    for number, line in enumerate(iter(partial(stream.readline, ROW_BYTES), b""), section.first):
        if len(line) == ROW_BYTES:
            raise InputDataError(
                f"{place_of(file, number)}: the line has over {ROW_BYTES:,} bytes, more than any "
                "request. Every line has to be one JSON object; correct the file."
            )
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
            f"{place_of(file, number)}: {json_cause(error)}. Every line has to be one JSON "
            "object in UTF-8."
        ) from error
    if wanted.id_column not in row.cells:
        raise wanted.error(place_of(file, number), wanted.id_column, list(row.cells))
    return row


# --- txt and md ----------------------------------------------------------------------------------


def _read_text(stream: BinaryIO, file: SourceFile, wanted: Wanted) -> NumberedRows:
    documents = {DOCUMENT: None} if wanted.takes_files else {}
    wanted.check(file.path, ("id", *documents, TEXT))
    blocks = islice(iter(partial(stream.read, _TEXT_BLOCK), b""), ROW_BYTES // _TEXT_BLOCK + 1)
    data = b"".join(blocks).removeprefix(codecs.BOM_UTF8)
    text = too_large(data) if len(data) > ROW_BYTES else decode_text(data)
    yield 1, row_of_cells({"id": file.relative_path, **documents, TEXT: text})
