"""Collects the ended submissions of a night that no other process collects.

A claim in the ledger keeps two processes from downloading the same batch. It is extended while its
submission is collected; the claim of a process that died is taken over, at once on the same
machine, on another when its lease has run out. How a submission is collected stands in
`collection`.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Iterator, Sequence

import pyarrow as pa
import sqlalchemy as sa

from batch_pipeline.api.protocol import ApiFailure
from batch_pipeline.flow.concurrency import Stop, is_gone, run_in_threads
from batch_pipeline.flow.gates import breaker, budget
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.results import lost_results
from batch_pipeline.flow.results.judging.odd_lines import ResultsIncompleteError
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.processes import leases
from batch_pipeline.ledger.processes.heartbeat import beating
from batch_pipeline.ledger.submissions import submissions
from batch_pipeline.ledger.submissions.submissions import State, Submission
from batch_pipeline.safe_text import get_logger

log = get_logger(__name__)

# Fewer requests are collected by one thread: a second one takes longer to start than it saves.
SEVERAL_FROM_REQUESTS = 10_000
# Each thread holds a block of its batch and the block's rows in memory.
MOST_COLLECTORS = 2


def collect_all(
    pipeline: Pipeline, spec: JobSpec, night: Night, collected: Callable[[], None]
) -> int:
    """Collect the ended submissions of a night; returns how many were collected here.

    Submissions that another process has claimed, or whose results the API does not give now, are
    left for the next round. `collected` is called after each submission, by one thread at a time.
    """
    with pipeline.ledger.read() as connection:
        ended = submissions.of_night(connection, night.id, State.ENDED)
    count = collectors_at_once(ended, pipeline.settings.workers)
    stop, telling = Stop(), threading.Lock()

    def collect() -> int:
        return _collect(pipeline, spec, night, tell, stop)

    def tell() -> None:
        with telling:
            collected()

    return sum(run_in_threads(count, collect, stop)) if count > 1 else collect()


def collectors_at_once(ended: Sequence[Submission], workers: int) -> int:
    """How many of a night's ended submissions are collected at the same time."""
    if sum(submission.requests for submission in ended) < SEVERAL_FROM_REQUESTS:
        return 1
    return max(1, min(len(ended), workers, MOST_COLLECTORS))


def _collect(
    pipeline: Pipeline, spec: JobSpec, night: Night, collected: Callable[[], None], stop: Stop
) -> int:
    """Collect one ended submission after the other, until all are collected or claimed."""
    count, watch = 0, breaker.Watch(pipeline, spec.alerts, night)
    # Closed at once also after an error: a claim that is kept alive keeps other processes off.
    with contextlib.closing(claimed(pipeline, night)) as ended:
        for submission in ended:
            stop.check()
            try:
                lost_results.collect(pipeline, night, submission, spec.retry)
                watch.collected()
                budget.note_if_passed(pipeline, spec, night, submission)
            except (ApiFailure, ResultsIncompleteError) as error:
                log.warning("batch %s: %s", submission.batch_id, error)
                continue
            count += 1
            # Arrow would keep the memory that the rows took, separately for each thread.
            pa.default_memory_pool().release_unused()
            collected()
    return count


def claimed(pipeline: Pipeline, night: Night) -> Generator[Submission]:
    """Claim the night's ended submissions one after the other; each is held while it is used.

    Submissions that another process has claimed are left out.
    """
    after = 0
    while True:
        with pipeline.ledger.write() as connection:
            submission = leases.claim_ended(
                connection,
                night.id,
                pipeline.holder,
                pipeline.settings.lease_seconds,
                after=after,
                is_gone=is_gone,
            )
        if submission is None:
            return
        after = submission.id
        with _held(pipeline, submission):
            yield submission


@contextlib.contextmanager
def _held(pipeline: Pipeline, submission: Submission) -> Iterator[None]:
    """Extend the claim while the block runs, and give it up at its end."""
    seconds = pipeline.settings.lease_seconds

    def beat() -> bool:
        with pipeline.ledger.write() as connection:
            leases.keep_claim(connection, submission, pipeline.holder, seconds)
        return True

    try:
        with beating(f"claim-{submission.token}", seconds / 4, beat):
            yield
    finally:
        # Where the ledger cannot be written now, the claim ends when its lease runs out.
        with contextlib.suppress(sa.exc.DBAPIError), pipeline.ledger.write() as connection:
            leases.release_claim(connection, submission, pipeline.holder)
