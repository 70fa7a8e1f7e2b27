"""Collects submissions, and sets aside requests whose results are lost for ever.

Results are lost when the API has deleted them, which it does after 29 days, or when download after
download lacks the same lines. Such requests may have been billed, and the API cannot say so any
more. They are not sent again by themselves: they are set aside with the error type `results_gone`,
the most that they can have cost is kept beside the bill, and a person may redrive them.
"""

from __future__ import annotations

from batch_pipeline.api.protocol import ApiFailure, BatchInfo
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.results import collection, lines
from batch_pipeline.flow.results.judging.odd_lines import ResultsIncompleteError
from batch_pipeline.flow.status.batch_warnings import RESULTS_KEPT_SECONDS
from batch_pipeline.jobs.spec import RetrySpec
from batch_pipeline.ledger.database import ledger
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.submissions import submissions, transitions
from batch_pipeline.ledger.submissions.submissions import Submission
from batch_pipeline.safe_text import get_logger

log = get_logger(__name__)

# The answers that can be read are published after this number of whole downloads.
PUBLISHED_AFTER = 3
# Lines are lost after this number of whole downloads without them, and at least this time after
# the batch was seen to have ended.
MOST_DOWNLOADS = 20
LEAST_SECONDS = 24 * 3600.0


def collect(pipeline: Pipeline, night: Night, submission: Submission, retry: RetrySpec) -> None:
    """Collect an ended submission, and set aside those of its requests whose results are lost.

    Raises ResultsIncompleteError or ApiFailure where results are missing that may still come. After
    the third whole download the others are published, once; what is missing stays with its batch.
    """
    in_part = submission.batch_id is not None and submission.downloads + 1 >= PUBLISHED_AFTER
    try:
        collection.collect(pipeline, night, submission, retry, in_part=in_part)
    except (ApiFailure, ResultsIncompleteError) as error:
        why = _why_gone(pipeline, submission, error)
        if why is None:
            raise
        log.error("batch %s: %s; its requests are set aside", submission.batch_id, why)
        with pipeline.ledger.read() as connection:
            submission = submissions.get(connection, submission.id)
        collection.collect(pipeline, night, submission, retry, gone=why)


def why_gone(
    submission: Submission,
    error: ApiFailure | ResultsIncompleteError,
    batch: BatchInfo | None,
    at: float,
) -> str | None:
    """Why missing results are lost for ever; None while they may still come.

    `error` is why collecting failed, `batch` is the batch as the API shows it, None where the API
    does not know it.
    """
    if isinstance(error, ApiFailure):
        kept = submission.accepted_at is not None and (
            at <= submission.accepted_at + RESULTS_KEPT_SECONDS
        )
        archived = batch is not None and batch.archived
        if error.status not in lines.ABSENT or (kept and not archived):
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
        with pipeline.ledger.write() as connection:
            transitions.count_failed_download(
                connection,
                submission,
                str(error),
                pipeline.settings.poll_seconds,
                error.retry_after or 0.0,
            )
        if error.status not in lines.ABSENT:
            return None
        try:
            batch = pipeline.api_of(submission.account).retrieve_batch(submission.batch_id)
        except ApiFailure as failure:
            if failure.status != 404:
                return None
    with pipeline.ledger.write() as connection:
        at = ledger.now(connection)
        if isinstance(error, ResultsIncompleteError):
            rest = pipeline.settings.poll_seconds
            transitions.count_download(connection, submission, str(error), rest)
    return why_gone(submission, error, batch, at)
