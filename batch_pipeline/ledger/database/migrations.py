"""Migration of an older ledger to the present tables, with work in flight.

Migrations only add. A table that is missing is made as it is declared; a column that is missing
gets the `server_default` that every added column has to have, or NULL. So a process of the older
version that is still running can go on with the tables and columns that it knows.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.schema import CreateColumn

from batch_pipeline.ledger.database import tables

# Older ledgers are refused: no release wrote them.
OLDEST = 3


def migrate(connection: Connection) -> None:
    """Bring the tables up to `SCHEMA_VERSION`, in the caller's transaction."""
    found = sa.inspect(connection)
    existing = set(found.get_table_names())
    for table in tables.metadata.sorted_tables:
        if table.name not in existing:
            continue
        known = {column["name"] for column in found.get_columns(table.name)}
        for column in table.columns:
            if column.name not in known:
                _add_column(connection, table, column)
        indexes = {index["name"] for index in found.get_indexes(table.name)}
        for index in table.indexes:
            if index.name not in indexes:
                index.create(connection)
    tables.metadata.create_all(connection)


def _add_column(connection: Connection, table: sa.Table, column: sa.Column[object]) -> None:
    assert column.nullable or column.server_default is not None, column
    preparer = connection.dialect.identifier_preparer
    declared = CreateColumn(column).compile(dialect=connection.dialect)
    name = preparer.format_table(table)
    connection.exec_driver_sql(f"ALTER TABLE {name} ADD COLUMN {declared}")
