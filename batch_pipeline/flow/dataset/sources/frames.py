"""`input.asset`: rows of a frame that Dagster has loaded, of pandas, Polars or Arrow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson
import pyarrow as pa

from batch_pipeline.errors import InputDataError, UsageError
from batch_pipeline.flow import paths
from batch_pipeline.flow.dataset.reading.files import Sources
from batch_pipeline.flow.dataset.sources import copies
from batch_pipeline.flow.dataset.sources.source import (
    Reading,
    arrow_rows,
    check_columns,
    columns_of,
)
from batch_pipeline.storage.files import Files

if TYPE_CHECKING:
    import pandas as pd

_POINTER = "asset.json"


@dataclass(frozen=True)
class FramesSource:
    """The values of an upstream asset, one for each of its partitions that the night is made of."""

    key: str
    # Each is loaded when its turn comes: of many partitions one at a time is in memory.
    frames: Iterable[Any]
    version: None = None
    kind: str = "asset"
    simulated: bool = False

    @property
    def origin(self) -> str:
        return f"asset {self.key}"

    @contextmanager
    def open(self) -> Iterator[Reading]:
        columns: dict[str, str | None] = {}
        yield Reading(columns, self._rows(columns))

    def _rows(self, columns: dict[str, str | None]) -> Iterator[dict[str, Any]]:
        for frame in self.frames:
            table = as_table(self.origin, frame)
            found = columns_of(table.schema)
            if columns and found.keys() != columns.keys():
                other = ", ".join(sorted(found.keys() ^ columns.keys()))
                raise InputDataError(
                    f"{self.origin}: its partitions have different columns ({other}); nothing was "
                    "sent. Give all of them the same columns."
                )
            for name, kind in found.items():
                # A column without any value has no type of its own.
                if columns.get(name, "null") == "null":
                    columns[name] = kind
            yield from arrow_rows(table.select(list(columns)).to_batches())


def keep(
    files: Files, job: str, partition: str, source: FramesSource, data_version: str
) -> Sources:
    """Copy the values and make them the night's input, under their version in Dagster."""
    sources = copies.copy(files, job, partition, source)
    assert sources.copied is not None
    pointer = {
        "copy": copies.folder_of(job, partition, source, sources.copied),
        "version": data_version,
    }
    files.write(f"{paths.input_copies(job, partition)}/{_POINTER}", orjson.dumps(pointer))
    return find(files, job, partition, source.key)


def find(files: Files, job: str, partition: str, key: str) -> Sources:
    """The values that Dagster has left for a night; UsageError where there are none."""
    found = files.read(f"{paths.input_copies(job, partition)}/{_POINTER}")
    pointer = {} if found is None else orjson.loads(found)
    sources = copies.read_copy(files, pointer["copy"]) if pointer else None
    if sources is None or sources.copied is None or sources.copied.origin != f"asset {key}":
        raise UsageError(
            f"{job} {partition}: the input is the asset {key}, which only Dagster can load, and it "
            f"has not been taken yet. Materialize {job}/input_dataset of this partition in Dagster "
            f"(job {job}_submit); the command line goes on from there. Without Dagster, write the "
            "rows to a file and declare input.path."
        )
    return sources.with_version(pointer["version"])


def as_table(origin: str, frame: Any) -> pa.Table:
    """A frame as an Arrow table; InputDataError for what would be lost or told apart by nothing."""
    module = type(frame).__module__.partition(".")[0]
    if isinstance(frame, pa.RecordBatchReader):
        table = frame.read_all()
    elif isinstance(frame, pa.Table):
        table = frame
    elif module == "pandas":
        return _from_pandas(origin, frame)
    elif module == "polars" and hasattr(frame, "collect"):
        table = frame.collect().to_arrow()
    elif module == "polars" and hasattr(frame, "to_arrow"):
        table = frame.to_arrow()
    else:
        raise InputDataError(
            f"{origin}: its value is a {type(frame).__module__}.{type(frame).__name__}, not a "
            "frame; nothing was sent. Let the asset return a DataFrame of pandas or Polars, or a "
            "pyarrow table, and set input.asset.as to which."
        )
    check_columns(origin, table.schema.names, "Rename one of them in the asset.")
    return table


def _from_pandas(origin: str, frame: pd.DataFrame) -> pa.Table:
    if not hasattr(frame, "columns"):
        raise InputDataError(
            f"{origin}: its value is a Series, not a DataFrame; nothing was sent. Return "
            "series.to_frame()."
        )
    check_columns(origin, list(frame.columns), "Rename one of them in the asset.")
    names = [name for name in frame.index.names if name is not None]
    plain = frame.index.nlevels == 1 and (frame.index.dtype.kind in "iu" or not len(frame.index))
    if names or not plain:
        what = f"named {', '.join(map(repr, names))}" if names else f"of type {frame.index.dtype}"
        raise InputDataError(
            f"{origin}: the frame has an index {what}, which would be lost; nothing was sent. "
            "Return frame.reset_index() to make columns of it, or frame.reset_index(drop=True)."
        )
    try:
        return pa.Table.from_pandas(frame, preserve_index=False)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise InputDataError(
            f"{origin}: a column holds values of several types: {'; '.join(map(str, error.args))}; "
            "nothing was sent. Give each column one type, for instance astype(str)."
        ) from error
