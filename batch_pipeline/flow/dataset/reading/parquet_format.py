"""Rows of parquet files: streamed by row group, with the digits that cells have, and counted."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import count
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from batch_pipeline.errors import InputDataError
from batch_pipeline.flow.dataset.documents.inspection import content_kinds
from batch_pipeline.flow.dataset.reading.columns import NumberedRows, Wanted, check_header, place_of
from batch_pipeline.flow.dataset.reading.row_json import JsonRow, row_of_cells, undecodable
from batch_pipeline.flow.dataset.reading.splits import Section

# What a batch of parquet rows may hold, whatever the size of file and row group. A repeated text is
# stored once in a dictionary page, so that a file's own sizes may promise too little: hence the
# second bound. A page has to be read whole in any case: 1,024 rows, as pyarrow writes it.
_BATCH_BYTES = 8_000_000
_BATCH_ROWS = 256


def read_parquet(stream: BinaryIO, section: Section, wanted: Wanted) -> NumberedRows:
    """The rows of a file or of some of its row groups, numbered from the section's first."""
    file = section.file
    # Pre-buffering would load a whole row group, which may be a gigabyte of documents.
    parquet = pq.ParquetFile(stream, pre_buffer=False, buffer_size=1_000_000)
    metadata = parquet.metadata
    names = parquet.schema_arrow.names
    cells_of = [cells_reader(kind) for kind in parquet.schema_arrow.types]
    check_header(file.path, names)
    wanted.check(place_of(file, 1), names)
    documents = _documents(parquet.schema_arrow, wanted)
    groups = sum(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
    if groups != metadata.num_rows:
        raise _wrong_footer(file.path, groups, metadata.num_rows)
    numbers = count(section.first)
    for group in range(section.start, section.end or metadata.num_row_groups):
        sizes, rows = metadata.row_group(group), 0
        row_bytes = sizes.total_byte_size // max(sizes.num_rows, 1)
        batch_rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(row_bytes, 1)))
        # A thread for each column would keep memory of its own, and hardly be faster.
        batches = parquet.iter_batches(batch_rows, row_groups=[group], use_threads=False)
        for batch in batches:
            rows += batch.num_rows
            columns = [read(column) for read, column in zip(cells_of, batch.columns, strict=True)]
            for cells in zip(*columns, strict=True):
                yield next(numbers), _row(dict(zip(names, cells, strict=True)), documents)
        # Where columns have unequal lengths, Arrow ends with the shortest, without an error.
        if rows != sizes.num_rows:
            place = f"{file.path}, row group {group + 1}"
            raise _wrong_footer(place, rows, sizes.num_rows)


def _documents(schema: pa.Schema, wanted: Wanted) -> dict[str, bool]:
    """The columns of bytes that documents may be taken from; whether each of them is a text where
    its bytes are no document's, since a placeholder has just its name."""
    kinds = (
        pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view,
        pa.types.is_fixed_size_binary,
    )  # fmt: skip
    columns = {slot.column for slot in wanted.documents}
    return {
        field.name: field.name in wanted.columns
        for field in schema
        if field.name in columns and any(is_of_kind(field.type) for is_of_kind in kinds)
    }


def _row(cells: dict[str, Any], documents: dict[str, bool]) -> JsonRow:
    """A row; bytes of documents are no part of its JSON text, where they are null."""
    if not documents:
        return row_of_cells(cells)
    found = {
        name: cells[name]
        for name, or_text in documents.items()
        if isinstance(cells[name], bytes)
        and (not or_text or content_kinds.begins_like_a_document(cells[name]))
    }
    row = row_of_cells(cells | dict.fromkeys(found))
    row.cells.update(found)
    return row


def _wrong_footer(place: str, rows: int, said: int) -> InputDataError:
    return InputDataError(
        f"{place}: {rows:,} rows can be read where the file's footer says {said:,}: the file is "
        "damaged. Write it again, or restore it, then run again."
    )


@cache
def cells_reader(kind: pa.DataType) -> Callable[[pa.Array[Any]], list[Any]]:
    """What makes Python values of a column of this type, with the digits that it holds.

    As a Python float a 32-bit 0.1 would read 0.10000000149011612, and Python's time has no
    nanoseconds: both go by way of text.
    """
    if isinstance(kind, pa.BaseExtensionType):
        storage = kind.storage_type
        exact = _with_exact(storage, pa.string()) == storage and not _has_half(storage)
        if exact:
            return _plain_cells
        read = cells_reader(storage)
        return lambda column: read(column.storage)
    as_text, as_double = (_with_exact(kind, to) for to in (pa.string(), pa.float64()))

    def cells(column: pa.Array[Any]) -> list[Any]:
        values = _plain_cells(column.cast(as_text).cast(as_double))
        return [_with_halves(value, kind) for value in values] if _has_half(kind) else values

    return _plain_cells if as_text == kind and not _has_half(kind) else cells


def _with_exact(kind: pa.DataType, to: pa.DataType) -> pa.DataType:
    """A type with `to` in place of 32-bit floats, and text in place of times in nanoseconds."""
    if pa.types.is_float32(kind):
        return to
    if kind == pa.time64("ns"):
        return pa.string()
    if pa.types.is_dictionary(kind):
        value = _with_exact(kind.value_type, to)
        return kind if value == kind.value_type else value
    return _nested(kind, lambda inner: _with_exact(inner, to))


def _nested(kind: Any, change: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:
    """A nested type with its inner types changed; any other type as it is."""

    def changed(field: pa.Field[Any]) -> pa.Field[Any]:
        return field.with_type(change(field.type))

    if pa.types.is_struct(kind):
        return pa.struct([changed(field) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(changed(kind.key_field), changed(kind.item_field))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(changed(kind.value_field), kind.list_size)
    if pa.types.is_large_list(kind):
        return pa.large_list(changed(kind.value_field))
    if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        # The texts of a view are made by way of a list, which has the same values.
        value = changed(kind.value_field)
        return kind if value == kind.value_field else pa.large_list(value)
    return pa.list_(changed(kind.value_field)) if pa.types.is_list(kind) else kind


def _has_half(kind: pa.DataType) -> bool:
    inner = [kind.field(number).type for number in range(kind.num_fields)]
    return pa.types.is_float16(kind) or any(map(_has_half, inner))


def _with_halves(value: Any, kind: Any) -> Any:
    """A value with its 16-bit floats as the shortest digits that mean them."""
    if value is None or not _has_half(kind):
        return value
    if pa.types.is_float16(kind):
        return float(str(np.float16(value)))
    if pa.types.is_struct(kind):
        return {field.name: _with_halves(value[field.name], field.type) for field in kind}
    if pa.types.is_map(kind):
        return [
            (_with_halves(key, kind.key_type), _with_halves(item, kind.item_type))
            for key, item in value
        ]
    return [_with_halves(item, kind.value_type) for item in value]


def _plain_cells(column: pa.Array[Any]) -> list[Any]:
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
