"""Recognises errors of a full, read-only or missing disk or database, and says what to do.

The libraries that raise them are many (the operating system, SQLite, PostgreSQL, DuckDB, Arrow).
Nothing is lost by such an error: files get their names when they are whole, and the ledger changes
by transactions.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator

import sqlalchemy as sa

from batch_pipeline.errors import BatchPipelineError, StorageError

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


def explain(error: BaseException, home: str) -> BatchPipelineError | None:
    """The error to show to a person; None where the storage is not to blame."""
    for cause in _causes(error):
        trouble = _trouble(cause)
        if trouble is not None:
            return StorageError(
                f"The home {home}: {trouble} ({_short(cause)}). Nothing is lost: see to it and run "
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


def is_damage(error: BaseException) -> bool:
    """Whether an error says that a SQLite file is cut off, or no database at all."""
    text = str(error)
    return "malformed" in text or "not a database" in text


def _trouble(error: BaseException) -> str | None:
    if isinstance(error, OSError) and error.errno in _BY_NUMBER:
        return _BY_NUMBER[error.errno]
    text = str(error).lower()
    return next((trouble for part, trouble in _BY_TEXT.items() if part in text), None)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, then the errors that caused it, the latest first."""
    known: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in known:
        known.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _short(error: BaseException) -> str:
    """The first line of the message, without the SQL statement that SQLAlchemy adds."""
    said = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    return str(said).strip().partition("\n")[0]
