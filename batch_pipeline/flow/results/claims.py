"""Which ended submissions this process collects: each claimed, whoever else does so.

Belongs here: claims and their signs of life, and how many are collected at a time. What collecting
is stands in `collection`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable, Generator, Iterator, Sequence

import pyarrow as pa
import sqlalchemy as sa

from batch_pipeline.api.protocol import ApiFailure
from batch_pipeline.flow.concurrency import Stop, at_once
from batch_pipeline.flow.gates import breaker, budget
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.results import lost_results
from batch_pipeline.flow.results.judge import ResultsIncompleteError
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import leases, submissions
from batch_pipeline.ledger.heartbeat import beating
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.submissions import State, Submission

log = logging.getLogger(__name__)

# Fewer answers are collected before a second thread would have helped.
SEVERAL_FROM_REQUESTS = 10_000
# Each holds some blocks of its batch in memory.
MOST_COLLECTORS = 2


def collect_all(
    pipeline: Pipeline, spec: JobSpec, night: Night, collected: Callable[[], None]
) -> int:
    """Collect what of a night has ended and nobody else collects; returns how many submissions.

    What cannot be had now is left. `collected` is called after each, one call at a time.
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

    return sum(at_once(count, collect, stop)) if count > 1 else collect()


def collectors_at_once(ended: Sequence[Submission], workers: int) -> int:
    """How many of a night's ended submissions are collected at the same time."""
    if sum(submission.requests for submission in ended) < SEVERAL_FROM_REQUESTS:
        return 1
    return max(1, min(len(ended), workers, MOST_COLLECTORS))


def _collect(
    pipeline: Pipeline, spec: JobSpec, night: Night, collected: Callable[[], None], stop: Stop
) -> int:
    """Collect one ended submission after the other, until there is none that nobody collects."""
    count, watch = 0, breaker.Watch(pipeline, spec.alerts, night)
    # Closed at once whatever happens: a claim that is kept alive holds up the others.
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
            # Arrow keeps what the rows took, and more so with each thread that asks for some.
            pa.default_memory_pool().release_unused()
            collected()
    return count


def claimed(pipeline: Pipeline, night: Night) -> Generator[Submission]:
    """The night's ended submissions that nobody else collects, each once, held while it is used."""
    after = 0
    while True:
        with pipeline.ledger.write() as connection:
            submission = leases.claim_ended(
                connection,
                night.id,
                pipeline.owner,
                pipeline.settings.lease_seconds,
                after=after,
                is_gone=is_gone,
            )
        if submission is None:
            return
        after = submission.id
        with _held(pipeline, submission):
            yield submission


def is_gone(owner: str) -> bool:
    """Whether a process of this machine that held a claim has ended; of another: not known."""
    host, _, rest = owner.partition(":")
    pid = rest.partition(":")[0]
    if host != socket.gethostname() or not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


@contextlib.contextmanager
def _held(pipeline: Pipeline, submission: Submission) -> Iterator[None]:
    """Extend the claim while the block runs, and give it up at its end."""
    seconds = pipeline.settings.lease_seconds

    def beat() -> bool:
        with pipeline.ledger.write() as connection:
            leases.keep_claim(connection, submission, pipeline.owner, seconds)
        return True

    try:
        with beating(f"claim-{submission.token}", seconds / 4, beat):
            yield
    finally:
        # A ledger that cannot be written now ends in a lease that runs out: harmless.
        with contextlib.suppress(sa.exc.DBAPIError), pipeline.ledger.write() as connection:
            leases.release_claim(connection, submission, pipeline.owner)
