"""Reading the rows of a night's files, one at a time, each with its id and its prompt texts.

Belongs here: what a row is for the rest of the flow, when a row is set aside, and when the night
stops instead. Formats are in `formats`; a row's JSON text is in `row_json`; duplicate ids are found
in the snapshot, where all rows are seen at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from batch_pipeline.errors import InputDataError, StorageError
from batch_pipeline.flow.dataset.documents.inspection.inspect_types import Refused
from batch_pipeline.flow.dataset.documents.reference import Document
from batch_pipeline.flow.dataset.reading.columns import LinesSeen, Wanted, place_of
from batch_pipeline.flow.dataset.reading.document_format import row_of_file
from batch_pipeline.flow.dataset.reading.files import ONE_ROW, SourceFile, Sources
from batch_pipeline.flow.dataset.reading.formats import read_format
from batch_pipeline.flow.dataset.reading.row_json import (
    CellProblem,
    JsonRow,
    column_text,
    values_of,
    with_places,
)
from batch_pipeline.flow.dataset.reading.splits import Section
from batch_pipeline.flow.dataset.reading.streams import open_stream


class Row(NamedTuple):
    """One input row.

    `input` is the whole row as a JSON object (UTF-8), `source` its file, `number` the row (parquet)
    or line (csv, jsonl) from 1. `values` are the prompt's texts by column, without those that have
    a problem; `problem` is why the row is set aside as `invalid_input`, or None. `places` is where
    the texts stand in `input` (`row_json.places_of`), if that is known; `cells` are those of
    `input`.

    Where the prompt may ask for documents, a row has neither texts nor problem before
    `documents.resolve` has looked at it. Then `documents` are the prompt's by their column, and
    `refused` says why one of them cannot be sent. `file` is the row's own, where that is the row.
    """

    id: str
    input: bytes
    source: str
    number: int
    values: dict[str, str]
    problem: str | None = None
    places: tuple[int, ...] | None = None
    cells: dict[str, Any] = {}  # noqa: RUF012
    documents: Mapping[str, Document] = {}
    refused: Refused | None = None
    file: SourceFile | None = None

    def texts(self, names: Sequence[str]) -> list[str] | None:
        """The texts of the row for placeholders of these names, and those that were taken out of
        files; None where a document is sent as it is, whose text is not known."""
        if not self.documents:
            return [self.values[name] for name in names]
        if any(not document.as_text for document in self.documents.values()):
            return None
        blocks = (each.text for each in self.documents.values() if each.text is not None)
        return [*(self.values[name] for name in names if name in self.values), *blocks]


def read_rows(sources: Sources, id_column: str, columns: Sequence[str]) -> Iterator[Row]:
    """All rows of the files, in order, with memory bounded by the largest row (or text file).

    Raises InputDataError, naming file and row, for a file that cannot be read, a missing column, a
    malformed line, and a row without an id.
    """
    wanted = Wanted(id_column, tuple(columns))
    for file in sources.files:
        yield from read_section(Section(file), wanted)


def read_section(section: Section, wanted: Wanted, seen: LinesSeen | None = None) -> Iterator[Row]:
    """The rows of a file, or of a part of one; see `read_rows`.

    Of a part of a jsonl file `seen` learns which columns it has: whether the whole file lacks one
    cannot be told from the part.
    """
    file, number = section.file, 0
    lines = wanted.seen() if seen is None else seen
    if file.is_document:
        yield _row(row_of_file(file, wanted), file, 1, wanted, file)
        return
    # Looked up once: a kind's hash takes as long as a tenth of a short row.
    own = file if file.kind in ONE_ROW else None
    try:
        with open_stream(file) as stream:
            for number, row in read_format(stream, section, wanted, lines):
                yield _row(row, file, number, wanted, own)
    except (OSError, pa.ArrowException, UnicodeError) as error:
        raise _unreadable(file, number, error) from error
    except (InputDataError, StorageError):
        raise
    except Exception as error:
        # Remote backends raise what their HTTP clients raise; anything else is a bug.
        if not file.is_remote:
            raise
        raise _unreadable(file, number, error) from error
    if seen is None:
        lines.check(file, wanted)


def _row(
    row: JsonRow, file: SourceFile, number: int, wanted: Wanted, own: SourceFile | None
) -> Row:
    """A row of a file; `own` is that file where it has no other row."""
    values: dict[str, str] = {}
    problem, places = None, None
    if not wanted.documents and (own is None or not own.is_document):
        values, problem = values_of(row, wanted.columns)
        if problem is None:
            row, places = with_places(row, wanted.columns)
    row_id = row.cells[wanted.id_column]
    if type(row_id) is not str or not row_id:
        row_id = _row_id(row, wanted.id_column, place_of(file, number))
    return Row(row_id, row.text, file.path, number, values, problem, places, row.cells, file=own)


def _row_id(row: JsonRow, column: str, place: str) -> str:
    try:
        row_id = column_text(row, column)
    except CellProblem as problem:
        empty = not any(row.cells.values())
        remedy = (
            "all of its cells are empty, as spreadsheets leave it below the last row: delete such "
            "rows and save the file again"
            if empty
            else "correct the file"
        )
        raise InputDataError(
            f"{place}: {problem}. Every row needs an id of its own; {remedy}."
        ) from None
    if not row_id:
        raise InputDataError(
            f"{place}: empty id in column {column!r}. Every row needs an id of its own; "
            "correct the file."
        )
    return row_id


def _unreadable(file: SourceFile, number: int, error: Exception) -> InputDataError:
    where = f"after {place_of(file, number)}" if number else file.path
    cause = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return InputDataError(
        f"{where}: the file cannot be read: {cause}. Restore or replace it, or check the rights "
        "to read it, then run again."
    )
