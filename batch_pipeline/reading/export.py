"""Writes the rows of a dataset as JSON Lines, CSV, Parquet or a spreadsheet, as they are read.

One batch of rows is held in memory. What a spreadsheet would run as a formula is written so that it
is shown as text: answers of a model, and documents of strangers, are in these files.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO, Literal

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batch_pipeline.errors import UsageError
from batch_pipeline.reading.datasets import Dataset, Found
from batch_pipeline.safe_text import get_logger

log = get_logger(__name__)

Format = Literal["jsonl", "csv", "parquet", "xlsx"]
# A file that another program reads from its end, so that a stream is of no use.
WHOLE_FILES = ("parquet", "xlsx")

# What Excel, LibreOffice and Google Sheets take for the beginning of a formula, also after a tab or
# an end of line (OWASP, CSV Injection).
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
# Limits of a worksheet.
SHEET_ROWS = 1_048_576
CELL_CHARACTERS = 32_767
_CUT = " … (cut off)"


def export(
    found: Found,
    kind: Format,
    target: BinaryIO,
    *,
    columns: Sequence[str] | None = None,
    statuses: Sequence[str] = (),
) -> int:
    """Write the rows, all or those of these statuses; returns how many.

    Raises UsageError for a column that is not there.
    """
    chosen = found.select(columns)
    rows = _Rows(found, chosen.schema, statuses)
    _WRITERS[kind](rows, target)
    return rows.count


@contextmanager
def written(path: Path) -> Iterator[BinaryIO]:
    """A file that gets its name, in place of a former one, when the block ends without error."""
    staged = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(staged, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        staged.replace(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        staged.unlink(missing_ok=True)


class _Rows:
    """The chosen rows and columns as batches; counts what was read."""

    def __init__(self, found: Found, schema: pa.Schema, statuses: Sequence[str]) -> None:
        self.schema = schema
        self.count = 0
        self._statuses = pa.array(statuses, pa.string())
        # The dead letters' reason is the status of their rows.
        self._status = "reason" if found.dataset is Dataset.DEAD_LETTER else "status"
        asked = [*schema.names, *([self._status] if statuses else [])]
        self._found = found.select(asked)
        # Texts that are JSON; a typed dataset has none that is known to be.
        self.json_columns = () if found.dataset is Dataset.TYPED else ("parsed", "details", "input")

    def batches(self) -> Iterator[pa.RecordBatch]:
        for batch in self._found.batches():
            kept = batch
            if len(self._statuses):
                kept = batch.filter(pc.is_in(batch.column(self._status), self._statuses))
            self.count += kept.num_rows
            yield kept.select(self.schema.names)


def _jsonl(rows: _Rows, target: BinaryIO) -> None:
    """One JSON object a row (UTF-8): `parsed` and `details` are JSON, amounts have their digits."""
    nested = [name for name in rows.json_columns if name in rows.schema.names]
    for batch in rows.batches():
        for row in batch.to_pylist():
            for name in nested:
                if row[name] is not None:
                    # Its text as it is, so that a number keeps its digits, but on one line: inside
                    # a JSON text an end of line is escaped, outside it is a blank.
                    row[name] = orjson.Fragment(re.sub(r"[\r\n]", " ", row[name]))
            line = orjson.dumps(row, default=_as_json, option=orjson.OPT_UTC_Z)
            target.write(line + b"\n")


def _as_json(value: Any) -> Any:
    if isinstance(value, Decimal):
        return orjson.Fragment(_digits(value))
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    return str(value)


def _csv(rows: _Rows, target: BinaryIO) -> None:
    """CSV with a header, as RFC 4180 has it, in UTF-8."""
    text = io.TextIOWrapper(target, encoding="utf-8", newline="", write_through=True)
    try:
        writer = csv.writer(text, lineterminator="\r\n")
        writer.writerow(map(_defused, rows.schema.names))
        for batch in rows.batches():
            columns = (column.to_pylist() for column in batch.columns)
            writer.writerows(
                [_csv_cell(value) for value in row] for row in zip(*columns, strict=True)
            )
    finally:
        text.detach()


def _csv_cell(value: Any) -> Any:
    return _defused(value) if isinstance(value, str) else _plain(value)


def _defused(text: str) -> str:
    """A text that no spreadsheet takes for a formula: with an apostrophe before what may be one."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _digits(value: Decimal) -> str:
    """An amount with the digits that it has, without zeros at its end."""
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _plain(value: Any) -> Any:
    """A value of a row as a number or a text; None stays."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, Decimal):
        return _digits(value)
    if isinstance(value, (list, dict)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return value


def _parquet(rows: _Rows, target: BinaryIO) -> None:
    with pq.ParquetWriter(target, rows.schema, compression="zstd") as writer:
        for batch in rows.batches():
            writer.write_batch(batch)


def _xlsx(rows: _Rows, target: BinaryIO) -> None:
    """A workbook, of as many sheets as the rows need; every text is a text, never a formula."""
    try:
        import xlsxwriter  # noqa: PLC0415  # an optional library
    except ImportError as error:
        raise UsageError(
            "xlsx needs a library more; pip install 'batch-pipeline[xlsx]', or export as csv"
        ) from error

    options = {
        "constant_memory": True, "strings_to_formulas": False, "strings_to_urls": False,
        "strings_to_numbers": False,
    }  # fmt: skip
    cut = 0
    with xlsxwriter.Workbook(target, options) as book:
        bold = book.add_format({"bold": True})
        sheet, place = None, SHEET_ROWS
        for batch in _or_an_empty_one(rows):
            columns = [column.to_pylist() for column in batch.columns]
            for row in range(batch.num_rows or 1):
                if place == SHEET_ROWS:
                    sheet = book.add_worksheet()
                    sheet.freeze_panes(1, 0)
                    for column, name in enumerate(rows.schema.names):
                        sheet.write_string(0, column, name, bold)
                    place = 1
                if not batch.num_rows:
                    break
                for column, values in enumerate(columns):
                    cut += _write_cell(sheet, place, column, values[row])
                place += 1
    if cut:
        log.warning(
            "%s cells were longer than the %s characters that a spreadsheet holds, and are cut "
            "off; export as jsonl, csv or parquet to have them whole",
            f"{cut:,}",
            f"{CELL_CHARACTERS:,}",
        )


def _or_an_empty_one(rows: _Rows) -> Iterator[pa.RecordBatch]:
    """The batches; a file without rows has its header nevertheless."""
    some = False
    for batch in rows.batches():
        if batch.num_rows:
            some = True
            yield batch
    if not some:
        yield pa.RecordBatch.from_pylist([], schema=rows.schema)


def _write_cell(sheet: Any, row: int, column: int, value: Any) -> bool:
    """Write a cell; returns whether it was cut off."""
    if value is None:
        return False
    if isinstance(value, bool):
        sheet.write_boolean(row, column, value)
        return False
    # A spreadsheet counts in floats: what one does not hold exactly is a text.
    if isinstance(value, (int, float, Decimal)) and _is_exact(value):
        sheet.write_number(row, column, float(value))
        return False
    text = str(_plain(value))
    too_long = len(text) > CELL_CHARACTERS
    if too_long:
        text = text[: CELL_CHARACTERS - len(_CUT)] + _CUT
    sheet.write_string(row, column, text)
    return too_long


def _is_exact(value: float | Decimal) -> bool:
    """Whether a spreadsheet shows a number with the digits that it has: it keeps 15 of them."""
    if isinstance(value, float):
        return value - value == 0.0
    digits = Decimal(value).normalize().as_tuple().digits
    return len(digits) <= 15


_WRITERS: dict[Format, Callable[[_Rows, BinaryIO], None]] = {
    "jsonl": _jsonl,
    "csv": _csv,
    "parquet": _parquet,
    "xlsx": _xlsx,
}
