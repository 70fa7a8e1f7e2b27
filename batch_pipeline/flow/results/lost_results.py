"""Results that can never be had: deleted by the API after 29 days, or without some lines for ever.

What they held may have been billed, and nobody can tell any more. So nothing is bought again
silently: such requests are set aside with the error type `results_gone`, what they cost at most is
kept beside the bill, and a person may redrive them.
"""

from __future__ import annotations

import logging

from batch_pipeline.api.protocol import ApiFailure, BatchInfo
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.results import collection
from batch_pipeline.flow.results.judge import ResultsIncompleteError
from batch_pipeline.flow.status.warnings import RESULTS_KEPT_SECONDS
from batch_pipeline.jobs.spec import RetrySpec
from batch_pipeline.ledger import ledger, transitions
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.submissions import Submission

log = logging.getLogger(__name__)

# Whole downloads that lack the same lines, over at least this time after the batch was seen to end.
MOST_DOWNLOADS = 20
LEAST_SECONDS = 24 * 3600.0


def collect(pipeline: Pipeline, night: Night, submission: Submission, retry: RetrySpec) -> None:
    """Collect an ended submission, or set aside what of it can never be had.

    Raises ResultsIncompleteError or ApiFailure where that is not certain: nothing has changed then.
    """
    try:
        collection.collect(pipeline, night, submission, retry)
    except (ApiFailure, ResultsIncompleteError) as error:
        why = _why_gone(pipeline, submission, error)
        if why is None:
            raise
        log.error("batch %s: %s; its requests are set aside", submission.batch_id, why)
        collection.collect(pipeline, night, submission, retry, gone=why)


def why_gone(
    submission: Submission,
    error: ApiFailure | ResultsIncompleteError,
    batch: BatchInfo | None,
    at: float,
) -> str | None:
    """Why the results will never be whole, or None as long as they may be.

    `batch` is what the API says of it, None where it does not know it.
    """
    if isinstance(error, ApiFailure):
        kept = submission.accepted_at is not None and (
            at <= submission.accepted_at + RESULTS_KEPT_SECONDS
        )
        archived = batch is not None and batch.archived
        if error.status not in collection.ABSENT or (kept and not archived):
            return None
        return "the API has deleted the results of its batch: they are kept for 29 days"
    waited = at - (submission.ended_at if submission.ended_at is not None else at)
    downloads = submission.downloads + 1
    if downloads < MOST_DOWNLOADS or waited < LEAST_SECONDS:
        return None
    return f"{downloads} whole downloads of its batch's results had no line for it"


def _why_gone(
    pipeline: Pipeline, submission: Submission, error: ApiFailure | ResultsIncompleteError
) -> str | None:
    if submission.batch_id is None:
        return None
    batch: BatchInfo | None = None
    if isinstance(error, ApiFailure):
        if error.status not in collection.ABSENT:
            return None
        try:
            batch = pipeline.api.retrieve_batch(submission.batch_id)
        except ApiFailure as failure:
            if failure.status != 404:
                return None
    with pipeline.ledger.write() as connection:
        at = ledger.now(connection)
        if isinstance(error, ResultsIncompleteError):
            transitions.count_download(connection, submission)
    return why_gone(submission, error, batch, at)
