"""`read_results` and `scan_results`: the results of a job as pandas, Polars or Arrow.

Belongs here: which type of a frame each column gets. Which rows are read is in `datasets`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.errors import UsageError
from batch_pipeline.flow.results.typed.columns import CATEGORY
from batch_pipeline.reading import datasets
from batch_pipeline.reading.datasets import Dataset, Found, Incomplete
from batch_pipeline.settings import home_from_environment
from batch_pipeline.storage.files import Files

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

As = Literal["pandas", "polars", "arrow", "batches"]

# Texts with few values in a night, which take an eighth of the memory as categories.
_CATEGORIES = frozenset(
    {"status", "stop_reason", "error_type", "model", "mode", "route", "reason", "partition"}
)


@overload
def read_results(
    job: str,
    partition: str | Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    as_: Literal["pandas"] = "pandas",
    *,
    dataset: str = ...,
    incomplete: Incomplete | None = ...,
    home: str | None = ...,
) -> pd.DataFrame: ...
@overload
def read_results(
    job: str,
    partition: str | Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    *,
    as_: Literal["polars"],
    dataset: str = ...,
    incomplete: Incomplete | None = ...,
    home: str | None = ...,
) -> pl.DataFrame: ...
@overload
def read_results(
    job: str,
    partition: str | Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    *,
    as_: Literal["arrow"],
    dataset: str = ...,
    incomplete: Incomplete | None = ...,
    home: str | None = ...,
) -> pa.Table: ...
@overload
def read_results(
    job: str,
    partition: str | Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    *,
    as_: Literal["batches"],
    dataset: str = ...,
    incomplete: Incomplete | None = ...,
    home: str | None = ...,
) -> pa.RecordBatchReader: ...
def read_results(
    job: str,
    partition: str | Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    as_: As = "pandas",
    *,
    dataset: str = Dataset.RESULTS,
    incomplete: Incomplete | None = None,
    home: str | None = None,
) -> Any:
    """The results of a job, one row an item: of one partition, of several, or of all (None).

    `columns` are those of the dataset and `partition`, a text; by default all of them. `as_`
    "batches" is an Arrow stream, for results that do not fit in memory. `dataset` is `results`,
    `typed` (where the job declares `output`) or `dead_letter`. A night that is not complete is
    refused where it is named, and left out where all are read; `incomplete` is "refuse",
    "leave_out" or "read". `home` is that of the environment unless given.

    In pandas costs and other decimals are exact (`decimal128[pyarrow]`), texts are `str`, and texts
    of few values are categories. Raises UsageError.
    """
    found = _found(job, partition, columns, dataset, incomplete, home)
    if as_ == "batches":
        return found.reader()
    if as_ == "arrow":
        return found.reader().read_all()
    if as_ == "polars":
        return _polars(found.reader().read_all())
    if as_ == "pandas":
        return _pandas(found)
    raise UsageError(f"as_ is 'pandas', 'polars', 'arrow' or 'batches', not {as_!r}")


def scan_results(
    job: str,
    partition: str | Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    *,
    dataset: str = Dataset.RESULTS,
    incomplete: Incomplete | None = None,
    home: str | None = None,
) -> pl.LazyFrame:
    """The results of a job as a Polars LazyFrame: columns that the query does not use are not read,
    and rows are streamed. Parameters as of `read_results`.
    """
    found = _found(job, partition, columns, dataset, incomplete, home)
    _import_polars()
    from polars.io.plugins import register_io_source  # noqa: PLC0415  # an optional library

    def source(
        with_columns: list[str] | None,
        predicate: pl.Expr | None,
        n_rows: int | None,
        _batch_size: int | None,
    ) -> Iterator[pl.DataFrame]:
        for batch in found.select(with_columns).batches():
            frame = _polars(pa.Table.from_batches([batch]))
            if n_rows is not None:
                frame = frame.head(n_rows)
                n_rows -= frame.height
            yield frame if predicate is None else frame.filter(predicate)
            if n_rows == 0:
                return

    schema = _polars(found.schema.empty_table()).schema
    return register_io_source(source, schema=schema)


def _found(
    job: str,
    partition: str | Sequence[str] | None,
    columns: Sequence[str] | None,
    dataset: str,
    incomplete: Incomplete | None,
    home: str | None,
) -> Found:
    if isinstance(columns, str):
        raise UsageError(f"columns is a list of names, such as [{columns!r}]")
    if dataset not in set(Dataset):
        raise UsageError(f"dataset is one of {', '.join(Dataset)}, not {dataset!r}")
    files = Files(home_from_environment() if home is None else home)
    found = datasets.find(files, job, partition, Dataset(dataset), incomplete)
    return found.select(columns)


def _categories(schema: pa.Schema) -> list[str]:
    return [
        field.name
        for field in schema
        if pa.types.is_string(field.type)
        and (field.name in _CATEGORIES or CATEGORY.keys() <= (field.metadata or {}).keys())
    ]


def _pandas(found: Found) -> pd.DataFrame:
    import pandas as pd  # noqa: PLC0415  # heavy

    table = found.reader().read_all()
    for name in _categories(found.schema):
        place = table.schema.get_field_index(name)
        encoded = pc.dictionary_encode(table.column(place)).unify_dictionaries()
        table = table.set_column(place, name, encoded)
    # A number that is missing in some rows would become a float.
    nullable = {} if found.dataset is not Dataset.TYPED else {
        pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype(),
    }  # fmt: skip

    def dtype(kind: pa.DataType) -> Any:
        if pa.types.is_decimal(kind) or pa.types.is_date(kind) or pa.types.is_time(kind):
            return pd.ArrowDtype(kind)
        return nullable.get(kind)

    frame: pd.DataFrame = table.to_pandas(types_mapper=dtype)
    return frame


def _polars(table: pa.Table) -> pl.DataFrame:
    polars = _import_polars()
    few = polars.col(_categories(table.schema)).cast(polars.Categorical)
    frame: pl.DataFrame = polars.DataFrame(table).with_columns(few)
    return frame


def _import_polars() -> Any:
    try:
        import polars  # noqa: PLC0415  # an optional library
    except ImportError as error:
        raise UsageError("Polars is not installed; pip install 'batch-pipeline[polars]'") from error
    return polars
