"""Joins: each block has a database of its own, which leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from batch_pipeline.flow import joins
from batch_pipeline.storage.files import Files

SCHEMA = pa.schema([("n", pa.int64())])
NAMES = "SELECT table_name FROM duckdb_tables() UNION SELECT view_name FROM duckdb_views() "


def named(connection: duckdb.DuckDBPyConnection) -> set[str]:
    """Tables and views of our own."""
    query = f"{NAMES} WHERE NOT internal"
    return {name for (name,) in connection.execute(query).fetchall()}


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """The files of an empty local home."""
    return Files(str(tmp_path))


def test_a_join_finds_nothing_of_the_former(files: Files) -> None:
    with joins.tables(files, {"former": ((), SCHEMA)}) as connection:
        connection.execute("CREATE TEMP TABLE made AS SELECT 1 AS n")
        connection.execute("CREATE TEMP VIEW seen AS FROM former")
        assert named(connection) == {"former", "made", "seen"}
    with joins.tables(files, {"latter": ((), SCHEMA)}) as connection:
        assert named(connection) == {"latter"}


def test_joins_within_joins_do_not_see_each_other(files: Files) -> None:
    with (
        joins.tables(files, {"outer_table": ((), SCHEMA)}) as outer,
        joins.tables(files, {"inner_table": ((), SCHEMA)}) as inner,
    ):
        assert named(outer) == {"outer_table"}
        assert named(inner) == {"inner_table"}


def test_what_a_join_spilled_is_gone_with_it(files: Files, tmp_path: Path) -> None:
    with joins.tables(files, {}) as connection:
        connection.execute("SET memory_limit = '20MB'")
        connection.execute(
            "CREATE TEMP TABLE large AS SELECT range AS n, md5(range::VARCHAR) AS text "
            "FROM range(1_000_000)"
        )
        assert list((tmp_path / ".staging").iterdir())
    assert not list((tmp_path / ".staging").iterdir())
    with joins.tables(files, {}) as connection:
        [(limit,)] = connection.execute("SELECT current_setting('memory_limit')").fetchall()
    assert limit == "244.1 MiB"


def test_a_join_that_failed_leaves_nothing_behind(files: Files, tmp_path: Path) -> None:
    def fail() -> None:
        with joins.tables(files, {}) as connection:
            connection.execute("SET memory_limit = '20MB'")
            connection.execute("no query")

    with pytest.raises(duckdb.ParserException):
        fail()
    with joins.tables(files, {}) as connection:
        [(limit,)] = connection.execute("SELECT current_setting('memory_limit')").fetchall()
    assert limit == "244.1 MiB"
    assert not list((tmp_path / ".staging").iterdir())


def test_a_query_that_is_interrupted_is_an_interrupt(files: Files) -> None:
    """And no error of the night, which would be recorded and told as a fault of the program. The
    text is DuckDB's own, after Ctrl-C in a query."""
    with pytest.raises(KeyboardInterrupt), joins.tables(files, {}):
        raise RuntimeError("Query interrupted")
    with pytest.raises(RuntimeError, match="another"), joins.tables(files, {}):
        raise RuntimeError("another")
