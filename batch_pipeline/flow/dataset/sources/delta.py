"""`input.delta`: rows of a Delta table, at one version of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from batch_pipeline.errors import InputDataError, UsageError
from batch_pipeline.flow.dataset.reading.listing import expand_path
from batch_pipeline.flow.dataset.sources.source import (
    Reading,
    arrow_rows,
    check_columns,
    columns_of,
)
from batch_pipeline.jobs.input.input_sources import DeltaSourceSpec
from batch_pipeline.jobs.partitions import path_patterns
from batch_pipeline.jobs.partitions.declared_partitions import Declared
from batch_pipeline.safe_text import redacted

if TYPE_CHECKING:
    from deltalake import DeltaTable


@dataclass(frozen=True)
class DeltaSource:
    """A declared table and the night that it is read for."""

    declared: DeltaSourceSpec
    partitions: Declared
    partition: str
    environ: Mapping[str, str]
    kind: str = "delta"
    simulated: bool = False

    @cached_property
    def _uri(self) -> str:
        uri = path_patterns.fill(self.declared.uri, self.partitions, self.partition)
        return expand_path(uri, self.partition, self.environ)

    @cached_property
    def _where(self) -> str | None:
        where = self.declared.where
        # A key has no quote in it that would end a text.
        return where and path_patterns.fill(where, self.partitions, self.partition)

    @property
    def origin(self) -> str:
        return f"delta {redacted(self._uri)}" + (f" where {self._where}" if self._where else "")

    @cached_property
    def version(self) -> str:
        return str(self._table.version())

    @cached_property
    def _table(self) -> DeltaTable:
        try:
            from deltalake import DeltaTable  # noqa: PLC0415  # an extra, and slow to import
            from deltalake.exceptions import DeltaError, TableNotFoundError  # noqa: PLC0415
        except ImportError:
            raise UsageError(
                "input.delta needs the package deltalake: pip install 'batch-pipeline[delta]'."
            ) from None
        at = self.declared.version
        try:
            return DeltaTable(self._uri, version=at)
        except TableNotFoundError as error:
            raise InputDataError(
                f"{self.origin}: there is no Delta table: {_first_line(error)}; nothing was sent. "
                "Correct input.delta.uri, or wait for the table."
            ) from error
        except (DeltaError, OSError, ValueError) as error:
            which = "" if at is None else f" at version {at}"
            raise InputDataError(
                f"{self.origin}: the table cannot be opened{which}: {_first_line(error)}; nothing "
                "was sent. " + _versions_advice(at)
            ) from error

    @contextmanager
    def open(self) -> Iterator[Reading]:
        from deltalake import QueryBuilder  # noqa: PLC0415  # as above

        table = self._table
        try:
            query = QueryBuilder().register("input", table)
            where = f" WHERE {self._where}" if self._where else ""
            found = query.execute(f"SELECT * FROM input{where}")  # noqa: S608  # of the declaration
            reader = pa.RecordBatchReader.from_stream(found)
            check_columns(self.origin, reader.schema.names, "Rename one of them in the table.")
            yield Reading(columns_of(reader.schema), self._rows(reader))
        except InputDataError:
            raise
        except Exception as error:
            # The engine's errors are plain exceptions.
            raise self._failed(error) from error

    def _rows(self, reader: pa.RecordBatchReader) -> Iterator[dict[str, Any]]:
        try:
            yield from arrow_rows(reader)
        except Exception as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> InputDataError:
        told = str(error)
        gone = "not found" in told.lower() or "no such file" in told.lower()
        if gone:
            return InputDataError(
                f"{self.origin}: version {self.version} names files that are gone, as after a "
                f"VACUUM: {_first_line(error)}; nothing was sent. "
                + _versions_advice(self.declared.version)
            )
        return InputDataError(
            f"{self.origin}: cannot be read: {_first_line(error)}; nothing was sent. Correct "
            "input.delta.where, or the table."
        )


def _versions_advice(declared: int | None) -> str:
    if declared is None:
        return "Restore the table, then run again."
    return (
        "Declare a later input.delta.version, or none for the newest; nights that have taken that "
        "version keep it."
    )


def _first_line(error: Exception) -> str:
    return redacted(str(error).strip().split("\n", 1)[0])
