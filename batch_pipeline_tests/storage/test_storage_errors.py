"""Errors of disk and database, told to a person."""

from __future__ import annotations

import errno
import ftplib
from pathlib import Path

import pytest
import sqlalchemy as sa

from batch_pipeline.errors import StorageError
from batch_pipeline.ledger.database.ledger import Ledger
from batch_pipeline.storage import storage_errors


def lost_connection() -> sa.exc.DBAPIError:
    return sa.exc.OperationalError("SELECT 1", {}, Exception("server closed the connection\nmore"))


def chained(cause: BaseException) -> Exception:
    error = RuntimeError("while writing")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "no room left on the disk"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "no room left on the disk"),
        (OSError(errno.EROFS, "Read-only file system"), "it cannot be written"),
        (Exception("database or disk is full"), "no room left on the disk"),
        (Exception("attempt to write a readonly database"), "it cannot be written"),
        (chained(OSError(errno.ENOSPC, "No space left on device")), "no room left on the disk"),
        (lost_connection(), "The ledger does not answer (server closed the connection)"),
        (OSError(errno.ENOENT, "No such file"), None),
        (ValueError("a bug"), None),
    ],
)
def test_the_storages_errors_are_told_from_bugs(
    error: BaseException, said: str | None, tmp_path: Path
) -> None:
    (tmp_path / "_ledger").mkdir()
    found = storage_errors.explain(error, str(tmp_path))
    if said is None:
        assert found is None
    else:
        assert isinstance(found, StorageError)
        assert said in str(found)
        assert "Nothing is lost" in str(found)


def test_a_ledger_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    with ledger.read() as connection:
        connection.execute(sa.text("PRAGMA query_only = 1"))
    with pytest.raises(sa.exc.DBAPIError) as caught, ledger.write() as connection:
        connection.execute(sa.text("CREATE TABLE t (x)"))
    ledger.close()
    assert "it cannot be written" in str(storage_errors.explain(caught.value, str(tmp_path)))


@pytest.mark.parametrize(
    ("error", "home", "said"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file"), "", "is gone"),
        (chained(Exception("disk I/O error")), "", "is gone"),
        (Exception("attempt to write a readonly database"), "", "is gone"),
        (Exception("no such table: night"), "", "is gone"),
        (ConnectionRefusedError(111, "refused"), "ftp://host/home", "cannot be reached"),
        (chained(TimeoutError("timed out")), "s3://bucket/home", "cannot be reached"),
        (ftplib.error_perm("530 Login incorrect"), "ftp://host/home", "530 Login incorrect"),
        (KeyError("a bug"), "s3://bucket/home", None),
    ],
)
def test_a_home_that_is_gone_or_out_of_reach_is_told(
    error: BaseException, home: str, said: str | None, tmp_path: Path
) -> None:
    found = storage_errors.explain(error, home or str(tmp_path / "removed"))
    assert (said is None and found is None) or (said is not None and said in str(found))
