"""Waits whose end the ledger keeps: how long each is, an hour at most, and whether it lasts.

Belongs here: the times. What waits, and why, stands with its rows in `accounts`, `nights` and
`transitions`.
"""

from __future__ import annotations

from sqlalchemy import Connection

from batch_pipeline.ledger.database.ledger import now
from batch_pipeline.settings import LONGEST_WAIT_SECONDS


def until(connection: Connection, seconds: float) -> float:
    """The end of a wait of `seconds` from now, of an hour at most."""
    return now(connection) + min(seconds, LONGEST_WAIT_SECONDS)


def doubled(first_seconds: float, earlier: int) -> float:
    """The seconds of a wait that is twice as long as the one before, after `earlier` such waits."""
    return first_seconds * 2.0 ** min(earlier, 30)


def lasts(end: float, at: float) -> bool:
    """Whether a wait with this end lasts at a time.

    None is longer than `LONGEST_WAIT_SECONDS`: an end beyond it is left of a clock that was wrong.
    """
    return at < end <= at + LONGEST_WAIT_SECONDS
