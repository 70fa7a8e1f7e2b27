"""Submissions that were given up and are watched: the API's list may show one after all.

Belongs here: which, and for how long. What is looked for in the list, and what becomes of a batch
that is found, stands in `flow.reconciliation`.
"""

from __future__ import annotations

from sqlalchemy import Connection

from batch_pipeline.ledger import submissions, tables
from batch_pipeline.ledger.ledger import now
from batch_pipeline.ledger.submissions import State, Submission

# A batch ends within 24 hours of its creation; the rest is for a list that lags.
LATE_WATCH_SECONDS = 48 * 3600.0


def watched(connection: Connection, account: str | None = None) -> list[Submission]:
    """Submissions of unknown outcome that counted as never made less than 48 hours ago.

    Of all accounts without one. Only what may have left whole: a body that was never sealed has no
    `window_from`.
    """
    of_account = () if account is None else (tables.submission.c.account == account,)
    since = now(connection) - LATE_WATCH_SECONDS
    return submissions.find(
        connection,
        tables.submission.c.window_from > since,
        *of_account,
        states=(State.ABSENT,),
    )
