"""The seam between an input that is not files and the rest of the flow: what a source says of
itself, and its rows.

A source is read once, into a copy in the home (`copies`). From there on everything is as with
files, so that pieces, processes, redrives and estimates need not know of sources.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from batch_pipeline.errors import InputDataError
from batch_pipeline.flow.dataset.reading.parquet_format import cells_reader

# Rows of a table that are turned into Python values at once.
_BATCH_ROWS = 256


@dataclass(frozen=True)
class Reading:
    """The rows of a source, in its order, and the type of each column, where it is known.

    `columns` is complete once the rows are read. Types that are None are those of the values.
    """

    columns: dict[str, str | None]
    rows: Iterable[Mapping[str, Any]]


class Source(Protocol):
    """One night's rows where they come from.

    `kind` is the declaration's key; `origin` tells people where the rows are from. `version` is
    what another content is told by before rows are read; None: only the rows tell.
    """

    @property
    def kind(self) -> str: ...
    @property
    def origin(self) -> str: ...
    @property
    def version(self) -> str | None: ...
    @property
    def simulated(self) -> bool: ...

    def open(self) -> AbstractContextManager[Reading]:
        """The rows as they are now; InputDataError and UsageError for what cannot be read."""
        ...


def check_columns(origin: str, names: Iterable[object], remedy: str) -> list[str]:
    """The names of columns; InputDataError where one is no text, is empty or is there twice."""
    found: list[str] = []
    for position, name in enumerate(names, 1):
        if not isinstance(name, str) or not name:
            problem = f"the name of column {position} is {name!r}, and has to be a text"
        elif name in found:
            problem = f"two columns are named {name!r}"
        else:
            found.append(name)
            continue
        raise InputDataError(f"{origin}: {problem}; nothing was sent. {remedy}")
    return found


def columns_of(schema: pa.Schema) -> dict[str, str | None]:
    """The columns of an Arrow schema with their types as text."""
    return {field.name: _type_text(field.type) for field in schema}


def _type_text(kind: pa.DataType) -> str:
    """A type as another shape is told by it: a text is a text, however long or encoded."""
    if pa.types.is_dictionary(kind):
        return _type_text(kind.value_type)
    text_like = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    if any(check(kind) for check in text_like):
        return "string"
    # A column of integers in which one is missing comes as floats from pandas.
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return "number"
    return "null" if pa.types.is_null(kind) else str(kind)


def arrow_rows(batches: Iterable[pa.RecordBatch]) -> Iterator[dict[str, Any]]:
    """The rows of Arrow data as Python values, with the digits that it holds."""
    for batch in batches:
        for start in range(0, batch.num_rows, _BATCH_ROWS):
            part = batch.slice(start, _BATCH_ROWS)
            names = part.schema.names
            columns = [
                cells_reader(field.type)(column)
                for field, column in zip(part.schema, part.columns, strict=True)
            ]
            for cells in zip(*columns, strict=True):
                yield dict(zip(names, cells, strict=True))
