"""Rows of CSV files, and what an error says of the ways in which spreadsheets and pandas write
them."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterator
from typing import BinaryIO, TextIO

from batch_pipeline.errors import InputDataError
from batch_pipeline.flow.dataset.reading.columns import (
    ROW_BYTES,
    NumberedRows,
    Wanted,
    check_header,
    place_of,
)
from batch_pipeline.flow.dataset.reading.files import SourceFile
from batch_pipeline.flow.dataset.reading.row_json import has_surrogate, row_of_cells

# Each cell takes memory of its own, an empty one too.
_MOST_COLUMNS = 1_000_000
_WIDE_LINE = 1_000_000
# Reading a line costs as much as reading this many characters more. So what is compressed into one
# quoted cell of endless short lines, which no request can hold, is refused in seconds.
_LINE_COSTS = 30


def read_csv(stream: BinaryIO, file: SourceFile, wanted: Wanted) -> NumberedRows:
    """The rows of a file, with the line that each starts at; empty lines are no rows."""
    # The default, 131,072 characters, is less than a contract.
    csv.field_size_limit(ROW_BYTES)
    encoding = file.csv.encoding
    if codecs.lookup(encoding).name == "utf-8":
        encoding = "utf-8-sig"
    text = io.TextIOWrapper(stream, encoding, errors="surrogateescape", newline="")
    lines = _Lines(text, file.csv.delimiter)
    # Without `strict`, an unclosed quote would swallow the rest of the file into one cell.
    rows = csv.reader(
        iter(lines),
        strict=True,
        delimiter=file.csv.delimiter,
        quoting=csv.QUOTE_NONE if file.csv.quoting == "none" else csv.QUOTE_MINIMAL,
    )
    header: list[str] | None = None
    start = 1
    while True:
        lines.left = ROW_BYTES
        try:
            cells = next(rows, None)
        except csv.Error as error:
            raise InputDataError(
                f"{place_of(file, start)}: not valid CSV: {error}. Quote cells that hold commas, "
                "quotes or line breaks, double the quotes inside them, and close each quote; or "
                "set input.csv: {quoting: none} where a quote is a character like any other."
            ) from error
        except UnicodeError as error:
            raise InputDataError(
                f"{place_of(file, start)}: no text in {file.csv.encoding}: {error}. Correct "
                "input.csv.encoding or the file."
            ) from error
        if cells is None:
            return
        if header is None and cells:
            header = cells
            hint = _csv_hint(header, file.csv.delimiter, wanted)
            check_header(place_of(file, start), header, hint)
            wanted.check(place_of(file, start), header, hint)
        elif header is not None and cells:
            if len(cells) != len(header):
                raise _wrong_cells(place_of(file, start), cells, len(header))
            row = {name: cell or None for name, cell in zip(header, cells, strict=True)}
            yield start, row_of_cells(row)
        start = rows.line_num + 1


class _Lines:
    """The lines of a CSV file, as long as no row has more than `left` characters."""

    def __init__(self, text: TextIO, delimiter: str) -> None:
        self._text, self._delimiter = text, delimiter
        self.left = ROW_BYTES

    def __iter__(self) -> Iterator[str]:
        readline = self._text.readline
        while line := readline(ROW_BYTES):
            length = len(line)
            self.left -= length + _LINE_COSTS
            if self.left <= 0:
                raise csv.Error(
                    f"a row has over {ROW_BYTES:,} characters (each line counts {_LINE_COSTS} "
                    "more), and no request is as large"
                )
            if length > _WIDE_LINE and line.count(self._delimiter) > _MOST_COLUMNS:
                raise csv.Error(f"a line has over {_MOST_COLUMNS:,} cells")
            yield line


def _wrong_cells(place: str, cells: list[str], wanted: int) -> InputDataError:
    if not any(cells):
        remedy = (
            "All of them are empty, as spreadsheets leave it below the last row: delete such rows "
            "and save the file again"
        )
    elif not any(cells[wanted:]) and len(cells) > wanted:
        remedy = (
            "Those beyond it are empty, as spreadsheets leave it beside the last column: delete "
            "such columns and save the file again"
        )
    else:
        remedy = "Quote cells that hold commas or line breaks"
    return InputDataError(f"{place}: {len(cells)} cells where the header has {wanted}. {remedy}.")


def _csv_hint(header: list[str], delimiter: str, wanted: Wanted) -> str:
    """What may be done where a header is not as it should be; empty where nothing is known."""
    line = delimiter.join(header)
    if line.startswith("sep="):
        return f" {line!r} is for Excel alone: delete line 1, and set input.csv: {{delimiter: …}}."
    if "\0" in line or line.startswith(("\udcff\udcfe", "\udcfe\udcff")):
        return " It seems to be UTF-16: set input.csv: {encoding: utf-16}."
    hint = ""
    if has_surrogate(line):
        hint = " Save the file as UTF-8, or set input.csv: {encoding: …} (from Excel often cp1252)."
    for other in ";\t|,":
        cells = line.split(other)
        if len(cells) > len(header) and len(wanted.missing_from(cells)) < len(
            wanted.missing_from(header)
        ):
            shown = json.dumps(other)
            setting = f"input.csv: {{delimiter: {shown}}}"
            return f"{hint} Its cells seem to be separated by {shown}: set {setting}."
    return hint
