"""The published datasets of a job, read from the home: which files, which columns, which rows.

Belongs here: what may be read, and the stream of Arrow batches that every other form is made of.
Local and remote homes are read in one way, file by file: an Arrow scan of files that fsspec opens
can wait for ever, see `flow.joins`. Neither ledger nor API is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from batch_pipeline.errors import UsageError
from batch_pipeline.flow import paths
from batch_pipeline.flow.answers.schemas import DEAD_LETTER_SCHEMA, RESULTS_SCHEMA
from batch_pipeline.storage.files import Files

BATCH_ROWS = 10_000
PARTITION = pa.field("partition", pa.string(), nullable=False)
# Reports and schemas that are read at once: of an object store each takes a round trip.
_AT_ONCE = 16
# How often files are listed that another process replaces meanwhile.
_TRIES = 10
_NAMED = 10


class Dataset(StrEnum):
    """The datasets of a job that may be read; the values are the names of their folders."""

    RESULTS = "results"
    DEAD_LETTER = "dead_letter"
    TYPED = "typed"


Incomplete = Literal["refuse", "leave_out", "read"]
"""What is done about nights that are not complete."""


@dataclass(frozen=True)
class Found:
    """Files of a dataset as (partition, path), and the columns that are read of them, in order."""

    files: Files
    dataset: Dataset
    parts: tuple[tuple[str, str], ...]
    schema: pa.Schema

    def select(self, columns: Sequence[str] | None) -> Found:
        """The same files with these columns alone; UsageError for a column that is not there."""
        if columns is None:
            return self
        unknown = [name for name in columns if name not in self.schema.names]
        if unknown:
            raise UsageError(
                f"{self.dataset} has no column {', '.join(map(repr, unknown))}; it has "
                f"{', '.join(self.schema.names)}"
            )
        fields = [self.schema.field(name) for name in dict.fromkeys(columns)]
        return replace(self, schema=pa.schema(fields))

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows as a stream, in the order of the partitions; one batch is held in memory."""
        wanted = [name for name in self.schema.names if name != PARTITION.name]
        for partition, path in self.parts:
            try:
                with self.files.open_native(path) as source, pq.ParquetFile(source) as parquet:
                    there = set(parquet.schema_arrow.names)
                    columns = [name for name in wanted if name in there]
                    for batch in parquet.iter_batches(BATCH_ROWS, columns=columns or ["id"]):
                        yield self._shaped(batch, partition)
            except FileNotFoundError as error:
                raise UsageError(
                    f"{path} was replaced while it was read, because its night was run again; "
                    "read again once it is complete"
                ) from error

    def reader(self) -> pa.RecordBatchReader:
        """The rows as an Arrow stream, with its schema."""
        return pa.RecordBatchReader.from_batches(self.schema, self.batches())

    def _shaped(self, batch: pa.RecordBatch, partition: str) -> pa.RecordBatch:
        rows, columns = batch.num_rows, []
        for field in self.schema:
            if field.name == PARTITION.name:
                columns.append(pa.repeat(pa.scalar(partition, field.type), rows))
            elif field.name in batch.schema.names:
                column = batch.column(field.name)
                columns.append(column if column.type == field.type else column.cast(field.type))
            else:
                columns.append(pa.nulls(rows, field.type))
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)


def find(
    files: Files,
    job: str,
    partitions: str | Sequence[str] | None,
    dataset: Dataset = Dataset.RESULTS,
    incomplete: Incomplete | None = None,
) -> Found:
    """The files of one partition, of several, or of all (None).

    Nights that are not complete are refused where they are named, and left out of all, unless
    `incomplete` says otherwise. Raises UsageError for a partition without results.
    """
    wanted = [partitions] if isinstance(partitions, str) else partitions
    rule = incomplete or ("leave_out" if partitions is None else "refuse")
    for _ in range(_TRIES):
        results = _listed(files, job, Dataset.RESULTS, wanted)
        parts = results if dataset is Dataset.RESULTS else _listed(files, job, dataset, wanted)
        there = list(dict.fromkeys(partition for partition, _ in results))
        complete = there if rule == "read" else _complete(files, job, there)
        # A night that is published anew says so in its report, and its files get new names. So
        # files that are the same before and after a look at the report are all that there are.
        if rule == "read" or parts == _listed(files, job, dataset, wanted):
            break
    else:
        raise UsageError(f"{job} is being published anew; read again in a moment")
    if wanted is None:
        if not there:
            raise UsageError(
                f"{job} has no results under {files.uri(job)}; run a night of it, or correct the "
                "job's name or the home"
            )
        wanted = there
    if rule != "leave_out":
        _require(files, job, [name for name in wanted if name not in set(there)], "has no results")
        unfinished = [name for name in wanted if name not in set(complete)]
        _require(files, job, unfinished, "is not complete")
    order = {name: place for place, name in enumerate(wanted) if name in set(complete)}
    parts = sorted((part for part in parts if part[0] in order), key=lambda p: (order[p[0]], p[1]))
    if dataset is Dataset.TYPED:
        _require_typed(files, job, list(order), parts)
    schema = _schema(files, job, dataset, parts)
    return Found(files, dataset, tuple(parts), schema.append(PARTITION))


def _complete(files: Files, job: str, partitions: Sequence[str]) -> list[str]:
    """Those of the partitions that are complete."""
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        found = list(threads.map(lambda name: is_complete(files, job, name), partitions))
    return [name for name, complete in zip(partitions, found, strict=True) if complete]


def is_complete(files: Files, job: str, partition: str) -> bool:
    """Whether a night's report says that its results are complete."""
    data = files.read(paths.report(job, partition, ".json"))
    return data is not None and orjson.loads(data).get("complete") is True


def _listed(
    files: Files, job: str, dataset: Dataset, wanted: Sequence[str] | None
) -> list[tuple[str, str]]:
    """(partition, path) of a dataset's files, sorted."""
    for name in (job, *(wanted or ())):
        if "/" in name or name in ("", ".", ".."):
            raise UsageError(f"{name!r} is no name of a job or a partition")
    if wanted is not None and len(wanted) == 1:
        found = files.list(f"{job}/{dataset}/partition={wanted[0]}", ".parquet")
    else:
        found = files.glob(f"{job}/{dataset}/partition=*/*.parquet")
    pairs = [(path.rsplit("/", 2)[1].removeprefix("partition="), path) for path in found]
    chosen = None if wanted is None else set(wanted)
    return sorted(pair for pair in pairs if chosen is None or pair[0] in chosen)


def _require(files: Files, job: str, lacking: Sequence[str], problem: str) -> None:
    if not lacking:
        return
    more = f" and {len(lacking) - _NAMED:,} more" if len(lacking) > _NAMED else ""
    raise UsageError(
        f"{job} {', '.join(lacking[:_NAMED])}{more} {problem} under {files.uri(job)}; run it with "
        f"`batch-pipeline run {job} --partition {lacking[0]}` or materialize its collected_results"
    )


def _require_typed(
    files: Files, job: str, kept: Sequence[str], parts: Sequence[tuple[str, str]]
) -> None:
    lacking = sorted(set(kept) - {partition for partition, _ in parts})
    if lacking:
        raise UsageError(
            f"{job} {lacking[0]} has no typed dataset under {files.uri(job)}; declare `output: "
            "{carry: [...]}` or `output: {typed: true}` in the job and run the night again: "
            "nothing is bought for it"
        )


def _schema(
    files: Files, job: str, dataset: Dataset, parts: Sequence[tuple[str, str]]
) -> pa.Schema:
    if dataset is Dataset.RESULTS:
        return RESULTS_SCHEMA
    if dataset is Dataset.DEAD_LETTER:
        return DEAD_LETTER_SCHEMA
    # The files of a night have one schema; nights may differ, as their declarations did.
    one_a_night = list(dict(reversed(parts)).values())
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        schemas = list(threads.map(lambda path: _schema_of(files, path), reversed(one_a_night)))
    try:
        found: pa.Schema = pa.unify_schemas(schemas, promote_options="permissive")
    except pa.ArrowTypeError as error:
        raise UsageError(
            f"the typed columns of {job} changed their type between these nights ({error}); read "
            "the nights before and after the change separately"
        ) from error
    fields = [field.with_type(_readable(field.type)) for field in found]
    return pa.schema(fields)


def _readable(kind: pa.DataType) -> pa.DataType:
    """A type that pandas and Polars have: for a column without values, and for wide decimals."""
    if pa.types.is_null(kind):
        return pa.string()
    return pa.decimal128(38, kind.scale) if pa.types.is_decimal256(kind) else kind


def _schema_of(files: Files, path: str) -> pa.Schema:
    with files.open_native(path) as source, pq.ParquetFile(source) as parquet:
        return parquet.schema_arrow
