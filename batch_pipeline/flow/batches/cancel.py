"""Cancelling a night: the hold is recorded first, then what is in flight is cancelled."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from batch_pipeline.api.protocol import ApiFailure
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.ledger import ledger, nights, submissions, takeovers, transitions
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.submissions import State, Submission

log = logging.getLogger(__name__)


def hold(pipeline: Pipeline, night: Night) -> int:
    """Hold the night until a person resumes it, cancel its batches; returns how many.

    What was done by then is billed and collected. A create under way sees the hold and is not
    finished, or is cancelled when its answer comes; one of unknown outcome is never cancelled
    before it is proven ours.
    """
    with pipeline.ledger.write() as connection:
        nights.update_night(connection, night.id, held_at=ledger.now(connection), completed_at=None)
        takeovers.settle(connection, night.id)
        in_flight = submissions.of_night(connection, night.id, State.ACCEPTED)
    return sum(_cancel(pipeline, submission) for submission in in_flight)


def again(pipeline: Pipeline, in_flight: Sequence[Submission]) -> None:
    """Cancel what a process that died, or an API in trouble, left uncancelled of nights on hold."""
    for submission in in_flight:
        with pipeline.ledger.read() as connection:
            held_at = nights.get_night(connection, submission.night_id).held_at
        if held_at is not None:
            _cancel(pipeline, submission)


def _cancel(pipeline: Pipeline, submission: Submission) -> bool:
    """Whether the API has taken the cancel in."""
    assert submission.batch_id is not None
    with pipeline.ledger.write() as connection:
        # Before the call: a canceled request must not count as an attempt.
        transitions.request_cancel(connection, submission)
    try:
        pipeline.api.cancel_batch(submission.batch_id)
    except ApiFailure as failure:
        # It may just have ended.
        log.warning("batch %s could not be cancelled: %s", submission.batch_id, failure)
        return False
    return True
