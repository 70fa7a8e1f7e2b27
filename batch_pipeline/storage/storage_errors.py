"""Recognises errors of a full, read-only or missing disk or database, and says what to do.

The libraries that raise them are many (the operating system, SQLite, PostgreSQL, DuckDB, Arrow).
Nothing is lost by such an error: files get their names when they are whole, and the ledger changes
by transactions.
"""

from __future__ import annotations

import errno
import socket
from pathlib import Path

import sqlalchemy as sa

from batch_pipeline.errors import BatchPipelineError, StorageError, causes

FULL = "there is no room left on the disk"
READ_ONLY = "it cannot be written"
_BY_NUMBER = {
    errno.ENOSPC: FULL,
    errno.EDQUOT: FULL,
    errno.EFBIG: FULL,
    errno.EROFS: READ_ONLY,
    errno.EACCES: READ_ONLY,
    errno.EPERM: READ_ONLY,
}
# For libraries whose errors have no number: SQLite, PostgreSQL, DuckDB, Arrow.
_BY_TEXT = {
    "disk is full": FULL,
    "no space left": FULL,
    "readonly database": READ_ONLY,
    "read-only": READ_ONLY,
}

# What SQLite says of a ledger that was removed.
_GONE = ("unable to open database file", "disk i/o error", "no such table")
# Libraries of remote homes, whose errors tell that a store cannot be reached or refuses access.
_OF_STORES = {
    "botocore",
    "aiobotocore",
    "aiohttp",
    "ftplib",
    "paramiko",
    "gcsfs",
    "google",
    "azure",
}


def explain(error: BaseException, home: str) -> BatchPipelineError | None:
    """The error to show to a person; None where the storage is not to blame."""
    if "://" not in home and _is_removed(Path(home), error):
        return StorageError(removed(home))
    for cause in causes(error, implicit=True):
        if "://" in home and _is_unreachable(cause):
            return StorageError(
                f"The home {home} cannot be reached, or refuses access ({_short(cause)}). Nothing "
                "is lost: check BATCH_PIPELINE_HOME, its credentials and the network, and run "
                "again, that goes on from here."
            )
        problem = _disk_problem(cause)
        if problem is not None:
            return StorageError(
                f"The home {home}: {problem} ({_short(cause)}). Nothing is lost: see to it and run "
                "again, that goes on from here."
            )
        if isinstance(cause, sa.exc.DBAPIError) and is_damage(cause):
            return StorageError(
                f"The ledger's file is damaged ({_short(cause)}). Restore a backup, or run "
                "`batch-pipeline recover`, which keeps the damaged file aside and rebuilds the "
                "ledger from its home."
            )
        if isinstance(cause, sa.exc.DBAPIError):
            return StorageError(
                f"The ledger does not answer ({_short(cause)}). Nothing is lost: run again once it "
                "does, that goes on from here."
            )
    return None


def removed(home: str) -> str:
    """The message that a home is gone."""
    return (
        f"The home {home} is gone, or the mark in it is: it was removed or exchanged while this "
        "process ran. Put it back as it was and run again; if it is lost, a backup and "
        "`batch-pipeline recover` bring back what was bought, which is still at the API."
    )


def is_damage(error: BaseException) -> bool:
    """Whether an error says that a SQLite file is cut off, or no database at all."""
    text = str(error)
    return "malformed" in text or "not a database" in text


def _is_removed(home: Path, error: BaseException) -> bool:
    """Whether a local home was removed under this process, so that it failed.

    Staging makes the folder anew, and SQLite an empty ledger in it, but not the home's mark.
    """
    if (home / "_ledger").is_dir():
        return False
    text = " ".join(str(cause).lower() for cause in causes(error, implicit=True))
    if "readonly database" in text:
        # SQLite says so too of a file that was removed while it was open.
        return not (home / "ledger.sqlite").exists()
    missing = any(isinstance(cause, FileNotFoundError) for cause in causes(error, implicit=True))
    return missing or any(part in text for part in _GONE)


def _is_unreachable(error: BaseException) -> bool:
    if type(error).__module__.partition(".")[0] in _OF_STORES:
        return True
    return isinstance(error, ConnectionError | TimeoutError | socket.gaierror)


def _disk_problem(error: BaseException) -> str | None:
    if isinstance(error, OSError) and error.errno in _BY_NUMBER:
        return _BY_NUMBER[error.errno]
    text = str(error).lower()
    return next((problem for part, problem in _BY_TEXT.items() if part in text), None)


def _short(error: BaseException) -> str:
    """The first line of the message, without the SQL statement that SQLAlchemy adds."""
    said = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    return str(said).strip().partition("\n")[0]
