"""Reading the rows of a night's files, one at a time, each with its id and its prompt texts.

Belongs here: what a row is for the rest of the flow, when a row is set aside, and when the night
stops instead. Formats are `formats`; a row's JSON text is `row_json`; duplicate ids are found in
the snapshot, which sees all rows at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple

import pyarrow as pa

from batch_pipeline.errors import InputDataError
from batch_pipeline.flow.dataset.columns import LinesSeen, Wanted, place_of
from batch_pipeline.flow.dataset.files import Kind, SourceFile, Sources, is_remote
from batch_pipeline.flow.dataset.formats import read_format, row_of_line
from batch_pipeline.flow.dataset.regular_rows import Lines, read_lines
from batch_pipeline.flow.dataset.row_json import (
    CellProblem,
    JsonRow,
    as_written,
    places_of,
    row_values,
    values_and_problem,
)
from batch_pipeline.flow.dataset.splits import Section
from batch_pipeline.flow.dataset.streams import open_stream, unbuffered

__all__ = ["Row", "read_rows", "read_section", "row_values"]


class Row(NamedTuple):
    """One input row.

    `input` is the whole row as a JSON object (UTF-8), `source` its file, `number` the row (parquet)
    or line (csv, jsonl) from 1, and `problem` why the row is set aside as `invalid_input`, or None.
    `places` is where the texts of the template's columns lie in `input`, if that can be told
    (`row_json.places_of`); they are parsed if they are wanted.
    """

    id: str
    input: bytes
    source: str
    number: int
    columns: tuple[str, ...]
    problem: str | None = None
    places: tuple[int, ...] | None = None
    parsed: dict[str, str] | None = None

    @property
    def values(self) -> dict[str, str]:
        """The text of each template column, without those that have a problem."""
        return row_values(self.input, self.columns)[0] if self.parsed is None else self.parsed


class CommonRows(NamedTuple):
    """Rows of a jsonl file that are common lines, one after the other: `number` is the first one's.
    They are there until the next ones are read."""

    lines: Lines
    source: str
    number: int
    columns: tuple[str, ...]

    def row(self, number: int) -> Row:
        """One of them, to be kept."""
        row_id, _, _, places = self.lines.lines[number - self.number]
        text = self.lines.text(number - self.number)
        return Row(row_id, text, self.source, number, self.columns, places=places)

    def rows(self) -> Iterator[Row]:
        return map(self.row, range(self.number, self.number + len(self.lines.lines)))


def read_rows(sources: Sources, id_column: str, columns: Sequence[str]) -> Iterator[Row]:
    """All rows of the files, in order, with memory bounded by the largest row (or text file).

    Raises InputDataError, naming file and row, for a file that cannot be read, a missing column, a
    malformed line, and a row without an id.
    """
    wanted = Wanted(id_column, tuple(columns))
    for file in sources.files:
        yield from read_section(Section(file), wanted)


def read_section(section: Section, wanted: Wanted, seen: LinesSeen | None = None) -> Iterator[Row]:
    """The rows of a file, or of a part of one; see `read_rows` and `formats.read_format`."""
    for found in read_together(section, wanted, seen):
        if isinstance(found, Row):
            yield found
        else:
            yield from found.rows()


def read_together(
    section: Section, wanted: Wanted, seen: LinesSeen | None = None
) -> Iterator[Row | CommonRows]:
    """`read_section`, with the common lines of a block together."""
    file, number = section.file, 0
    try:
        with open_stream(file) as stream:
            jsonl = file.kind is Kind.JSONL
            read = _read_lines if jsonl else _read_cells
            for found in read(stream, section, wanted, seen):
                number = found.number
                yield found
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(file, number, error) from error
    except InputDataError:
        raise
    except Exception as error:
        # Remote backends raise what their HTTP clients raise; anything else is a bug.
        if not is_remote(file.path):
            raise
        raise _unreadable(file, number, error) from error


def _read_cells(
    stream: BinaryIO, section: Section, wanted: Wanted, _seen: LinesSeen | None
) -> Iterator[Row | CommonRows]:
    for number, row in read_format(stream, section, wanted):
        yield _row(row, section.file, number, wanted)


def _read_lines(
    stream: BinaryIO, section: Section, wanted: Wanted, seen: LinesSeen | None
) -> Iterator[Row | CommonRows]:
    file, number = section.file, section.first
    so_far = LinesSeen(set(wanted.columns)) if seen is None else seen
    size = None
    stream = unbuffered(stream)
    if section.end is not None:
        stream.seek(section.start)
        size = section.end - section.start
    for found in read_lines(stream, size, wanted):
        so_far.lines += len(found.lines) if isinstance(found, Lines) else 1
        if isinstance(found, Lines):
            if so_far.first is None:
                # What is told of a missing column are the columns of the first row.
                row_of_line(found.text(0), file, number, wanted, so_far)
            so_far.unseen.clear()
            yield CommonRows(found, file.path, number, wanted.columns)
            number += len(found.lines)
            continue
        row = row_of_line(found, file, number, wanted, so_far)
        if row is not None:
            yield _row(as_written(row, wanted.columns), file, number, wanted)
        number += 1
    if seen is None:
        so_far.check(file, wanted)


def _row(row: JsonRow, file: SourceFile, number: int, wanted: Wanted) -> Row:
    values, problem = values_and_problem(row, wanted.columns)
    row_id = row.cells.get(wanted.id_column)
    if type(row_id) is not str or not row_id:
        row_id = _row_id(row, wanted.id_column, place_of(file, number))
    places = places_of(row, wanted.columns) if problem is None else None
    parsed = values if places is None else None
    return Row(row_id, row.text, file.path, number, wanted.columns, problem, places, parsed)


def _row_id(row: JsonRow, column: str, place: str) -> str:
    try:
        row_id = row.column_text(column)
    except CellProblem as problem:
        raise InputDataError(
            f"{place}: {problem}. Every row needs an id of its own; correct the file."
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
