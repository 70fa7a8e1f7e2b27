"""Cancels a night: the hold is recorded first, then its batches at the API are cancelled.

In that order, because a create may be under way in another process. It reads the hold before it
seals the submission, or cancels the batch itself when the API's answer comes; a cancel that ran
before the hold was recorded would miss that batch.
"""

from __future__ import annotations

from collections.abc import Sequence

from batch_pipeline.api.protocol import ApiFailure
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.ledger import nights
from batch_pipeline.ledger.database import ledger
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.submissions import submissions, takeovers, transitions
from batch_pipeline.ledger.submissions.submissions import State, Submission
from batch_pipeline.safe_text import get_logger

log = get_logger(__name__)


def hold(pipeline: Pipeline, night: Night) -> int:
    """Hold the night until a person resumes it, and cancel its batches; returns their number.

    Requests that were processed by then are billed, and are collected. A submission of unknown
    outcome is not cancelled before the API's list has proven whose batch it is.
    """
    with pipeline.ledger.write() as connection:
        nights.update_night(connection, night.id, held_at=ledger.now(connection), completed_at=None)
        takeovers.settle(connection, night.id)
        in_flight = submissions.of_night(connection, night.id, State.ACCEPTED)
    return sum(_cancel(pipeline, submission) for submission in in_flight)


def repeat(pipeline: Pipeline, in_flight: Sequence[Submission]) -> None:
    """Cancel again the batches of held nights whose cancel did not reach the API.

    The process that held the night may have died, or the API may have failed, after the cancel was
    recorded and before it was sent.
    """
    for submission in in_flight:
        with pipeline.ledger.read() as connection:
            held_at = nights.get_night(connection, submission.night_id).held_at
        if held_at is not None:
            _cancel(pipeline, submission)


def _cancel(pipeline: Pipeline, submission: Submission) -> bool:
    """Cancel one batch; False if the API did not take the cancel in."""
    assert submission.batch_id is not None
    with pipeline.ledger.write() as connection:
        # Recorded before the call: what comes back cancelled must not count as an attempt.
        transitions.request_cancel(connection, submission)
    try:
        pipeline.api_of(submission.account).cancel_batch(submission.batch_id)
    except ApiFailure as failure:
        # The batch may just have ended.
        log.warning("batch %s could not be cancelled: %s", submission.batch_id, failure)
        return False
    return True
