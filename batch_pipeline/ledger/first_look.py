"""Whether a night is in the ledger, asked before SQLAlchemy is loaded, which takes longer.

Only of a SQLite file and only that one question; whoever needs more opens the `ledger`.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote

_SCHEME = "sqlite:///"


def has_night(ledger_url: str, job: str, partition: str) -> bool | None:
    """Whether this partition has been begun under any account; None: the ledger has to be opened to
    tell. Writes nothing.
    """
    if not ledger_url.startswith(_SCHEME) or "?" in ledger_url:
        return None
    path = Path(unquote(ledger_url.removeprefix(_SCHEME)))
    if not path.exists():
        return False
    query = "SELECT 1 FROM night WHERE job = ? AND partition = ? LIMIT 1"
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            return database.execute(query, (job, partition)).fetchone() is not None
    except sqlite3.Error:
        return None
