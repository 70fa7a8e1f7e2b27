"""`input.sql`: the rows of a query, through SQLAlchemy, streamed.

The query is one statement in a transaction that only reads, where the database has one, and that is
rolled back: so its rows are of one moment, and nothing is written.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from batch_pipeline.errors import InputDataError, UsageError
from batch_pipeline.flow.dataset.sources.source import Reading, check_columns
from batch_pipeline.jobs.input.input_sources import SqlSourceSpec
from batch_pipeline.jobs.partitions.declared_partitions import Declared
from batch_pipeline.jobs.partitions.partitions import window_of
from batch_pipeline.safe_text import redacted

# Rows that are fetched at once: of long documents, not more than memory has room for.
_FETCHED = 500
_READ_ONLY = {
    "sqlite": "PRAGMA query_only = ON",
    "mysql": "SET TRANSACTION READ ONLY",
    "mariadb": "SET TRANSACTION READ ONLY",
    "oracle": "SET TRANSACTION READ ONLY",
}


@dataclass(frozen=True)
class SqlSource:
    """A declared query and the night that it is asked for."""

    declared: SqlSourceSpec
    partitions: Declared
    partition: str
    # Only the rows tell that another run of the query has another answer.
    version: None = None
    kind: str = "sql"
    simulated: bool = False

    @property
    def origin(self) -> str:
        return f"sql {self.declared.url_env}"

    @contextmanager
    def open(self) -> Iterator[Reading]:
        engine = self._engine()
        try:
            with engine.connect() as connection:
                self._only_reading(connection)
                result = connection.execute(sa.text(self.declared.query), self._values(engine))
                names = check_columns(
                    self.origin, result.keys(), "Give each column of the query a name (AS)."
                )
                rows = (dict(zip(names, row, strict=True)) for row in result)
                yield Reading(dict.fromkeys(names), rows)
                connection.rollback()
        except SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or error
            raise InputDataError(
                f"{self.origin}: the query failed: {redacted(str(cause)).strip()}; nothing was "
                f"sent. Correct input.sql.query, or the database behind {self.declared.url_env}."
            ) from None
        finally:
            engine.dispose()

    def _engine(self) -> sa.Engine:
        name = self.declared.url_env
        url = os.environ.get(name)
        if not url:
            raise UsageError(
                f"{self.origin}: the environment variable {name} is not set or empty. Set it "
                "to the SQLAlchemy URL of the database, like postgresql+psycopg2://user:password@host/db."
            )
        try:
            return sa.create_engine(url, poolclass=sa.pool.NullPool)
        except (ArgumentError, NoSuchModuleError, ImportError) as error:
            raise UsageError(
                f"{self.origin}: {redacted(str(error))}. {name} has to be an SQLAlchemy URL, and "
                "the database's driver has to be installed (PostgreSQL: batch-pipeline[postgres] "
                "and postgresql+psycopg2://…)."
            ) from None

    @staticmethod
    def _only_reading(connection: sa.Connection) -> None:
        dialect = connection.dialect.name
        options: dict[str, Any] = {"stream_results": True, "max_row_buffer": _FETCHED}
        if dialect == "postgresql":
            options |= {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        connection.execution_options(**options)
        if dialect in _READ_ONLY:
            connection.exec_driver_sql(_READ_ONLY[dialect])

    def _values(self, engine: sa.Engine) -> Mapping[str, object]:
        """What the query's names are bound to."""
        values: dict[str, object] = {"partition": self.partition}
        if self.declared.binds - {"partition"}:
            window = window_of(self.partitions, self.partition)
            if window is None:
                raise UsageError(
                    f"{self.origin}: {self.partition!r} is not a time of the job's partitions as "
                    "they are declared now, and the query binds :partition_start or :partition_end."
                )
            values["partition_start"] = _moment(engine, window.start)
            values["partition_end"] = _moment(engine, window.end)
        return {name: values[name] for name in self.declared.binds}


def _moment(engine: sa.Engine, moment: datetime) -> object:
    """A moment as a database compares it: SQLite has no times but texts, which are UTC."""
    at = moment.astimezone(UTC)
    return at.strftime("%Y-%m-%d %H:%M:%S") if engine.dialect.name == "sqlite" else at
