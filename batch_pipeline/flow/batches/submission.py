"""Waiting shards → batches at the API: intent, seal, last bytes, and what the answer means.

Belongs here: sending. Finding out what became of a submission whose answer was lost stands in
`reconciliation`; the state machine itself in `state.submissions`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa

from batch_pipeline.api.protocol import ApiFailure, BatchInfo
from batch_pipeline.flow.batches.body import body_chunks
from batch_pipeline.flow.concurrency import Stop, at_once
from batch_pipeline.flow.dataset import snapshot as snapshots
from batch_pipeline.flow.dataset.requests import Declaration, body_length
from batch_pipeline.flow.outcomes import CreateVerdict, of_create_failure
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.planning import manifests, variants
from batch_pipeline.ledger import accounts, admission, leases, nights, shards, transitions
from batch_pipeline.ledger import snapshots as inputs
from batch_pipeline.ledger.admission import Intent, Limits, ReadGates, Waiting
from batch_pipeline.ledger.heartbeat import beating
from batch_pipeline.ledger.ledger import insisting
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.submissions import State, Submission

log = logging.getLogger(__name__)

# Large enough that what is done for each does not show, small enough for a processor's cache.
UPLOAD_CHUNK_BYTES = 512 << 10
# What a body is made from of a manifest.
_SENT = ("ordinal", "variant", "request_bytes")
# Without a `retry-after`, a full queue is tried again after this.
QUEUE_FULL_SECONDS = 60.0
# Below this a night is sent before a second thread would have helped.
SEVERAL_FROM_BYTES = 16 << 20
# More do not make a network faster.
MOST_UPLOADS = 4


@dataclass(frozen=True)
class Submitted:
    """What one round of submitting did: batches accepted, real-time calls answered, and why the
    rest waits.

    `in_trouble`: the API did not answer, and nothing more was tried.
    """

    batches: int
    waiting: Waiting
    in_trouble: bool = False
    answers: int = 0


def submit_waiting(
    pipeline: Pipeline,
    night: Night,
    limits: Limits,
    read_gates: ReadGates,
) -> Submitted:
    """Send the night's waiting batch shards, while there is room and money.

    What is large goes up several at once: one is made while another is on its way. Other processes
    may do the same; each claims the next shard that waits. What a failed create leaves is settled
    in the ledger: it waits, or it is looked for. An interrupt waits for the answers of what is on
    its way: one that breaks in before an answer is recorded makes an unknown outcome of it.
    """
    with pipeline.ledger.read() as connection:
        waiting, size = shards.waiting_size(connection, night.id, "batch")
    count = uploads_at_once(waiting, size, pipeline.settings.workers)
    stop = Stop()

    def submit() -> Submitted:
        return _submit(pipeline, night, limits, read_gates, stop)

    rounds = at_once(count, submit, stop) if count > 1 else []
    if not stop.is_set():
        # Why the rest waits, if any is left, is known once nothing else is on its way.
        rounds += at_once(1, submit, stop)
    accepted = sum(each.batches for each in rounds)
    trouble = [each.waiting for each in rounds if each.in_trouble]
    return Submitted(accepted, trouble[0] if trouble else rounds[-1].waiting)


def uploads_at_once(waiting: int, size: int, workers: int) -> int:
    """How many of a night's waiting shards, of `size` bytes in all, are sent at the same time."""
    return max(1, min(waiting, workers, MOST_UPLOADS)) if size >= SEVERAL_FROM_BYTES else 1


def _submit(
    pipeline: Pipeline, night: Night, limits: Limits, read_gates: ReadGates, stop: Stop
) -> Submitted:
    """Send one shard after the other, until something keeps the next from going."""
    accepted = 0
    while not stop.is_set():
        with pipeline.ledger.write() as connection:
            transitions.reap(connection, night.account)
            intent = admission.begin(connection, night, pipeline.owner, limits, read_gates)
        if isinstance(intent, Waiting):
            return Submitted(accepted, intent)
        failure, verdict = _send(pipeline, intent, limits, stop)
        if verdict in (CreateVerdict.UNKNOWN, CreateVerdict.NOT_SENT):
            # An API in trouble must not make every shard of a night unknown.
            stop()
            waiting = admission.unanswered(night, failure, intent.shard.requests)
            return Submitted(accepted, waiting, in_trouble=True)
        # Arrow keeps what the rows took for the next ones, which another process may send.
        pa.default_memory_pool().release_unused()
        if verdict is None:
            accepted += 1
    return Submitted(accepted, Waiting(None))


def _send(
    pipeline: Pipeline, intent: Intent, limits: Limits, stop: Stop
) -> tuple[ApiFailure | None, CreateVerdict | None]:
    """Send one shard and record what came of it; no verdict: accepted."""
    submission = intent.submission
    with pipeline.ledger.read() as connection:
        snapshot = inputs.get_snapshot(connection, intent.shard.snapshot_id)
    declaration = Declaration.from_json(snapshot.declaration)
    manifest = manifests.read(pipeline.files, intent.shard.manifest, _SENT)
    ordinals, names, sizes = (column.to_pylist() for column in manifest.columns)
    asked = variants.builders_of(manifest, declaration)
    builders = [asked[name] for name in names]
    rows = snapshots.read_inputs(pipeline.files, snapshot, ordinals)
    chunks = body_chunks(submission.token, builders, rows, UPLOAD_CHUNK_BYTES)
    length = body_length(sizes)
    body = _SealedBody(pipeline, submission, limits, chunks, stop)
    try:
        with heartbeat(pipeline, submission):
            batch = pipeline.api.create_batch(iter(body), length, declaration.betas)
    except ApiFailure as failure:
        return failure, _record_failure(pipeline, submission, failure, sealed=body.sealed)
    except BaseException:
        # Not an answer of the API's: an interrupt, a full disk, a bug. What is known is recorded.
        with pipeline.ledger.write() as connection:
            if body.sealed:
                transitions.lose_track(connection, submission, "interrupted")
            else:
                transitions.give_back(connection, submission, State.ABSENT, "interrupted")
        raise
    _record_acceptance(pipeline, submission, batch)
    return None, None


class _SealedBody:
    """A body whose last chunk leaves only once the ledger says that it may.

    Until then the API cannot take the batch in, because the announced length is not reached; a
    holder that has lost its lease stops here.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        submission: Submission,
        limits: Limits,
        chunks: Iterator[bytes],
        stop: Stop,
    ) -> None:
        self._pipeline = pipeline
        self._submission = submission
        self._limits = limits
        self._chunks = chunks
        self._interrupted = stop
        self.sealed = False

    def __iter__(self) -> Iterator[bytes]:
        held = next(self._chunks)
        for chunk in self._chunks:
            self._interrupted.check()
            yield held
            held = chunk
        before = _clock()
        with self._pipeline.ledger.write() as connection:
            if not transitions.seal(connection, self._submission, self._limits.lease_seconds):
                raise ApiFailure(None, None, None, "the claim was lost before the last bytes")
        # A process that was frozen here must not finish what others have given up.
        if _clock() - before > self._limits.lease_seconds / 2:
            raise ApiFailure(None, None, None, "too slow to finish the body safely")
        self.sealed = True
        yield held


def _clock() -> float:
    """Seconds of a clock that goes on while the machine sleeps, unlike `time.monotonic`."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Lease:
    """This process's hold on a submission, as far as it can know without asking."""

    def __init__(self, pipeline: Pipeline, submission: Submission) -> None:
        self._pipeline = pipeline
        self._submission = submission
        self._seconds = pipeline.settings.lease_seconds
        self._renewed = _clock()
        self._lost = False

    def renew(self) -> bool:
        """Extend it in the ledger; False: it was taken over or settled."""
        at = _clock()
        with self._pipeline.ledger.write() as connection:
            self._lost = not leases.keep_alive(connection, self._submission, self._seconds)
        self._renewed = at
        return not self._lost

    def held(self) -> bool:
        """Whether it is held still; a process that was frozen asks the ledger first."""
        if self._lost:
            return False
        return _clock() - self._renewed < self._seconds / 2 or self.renew()


@contextmanager
def heartbeat(pipeline: Pipeline, submission: Submission) -> Iterator[Lease]:
    """Keep the lease alive from a thread of its own: an upload may block longer than a lease."""
    lease = Lease(pipeline, submission)
    seconds = pipeline.settings.lease_seconds / 4
    with beating(f"lease-{submission.token}", seconds, lease.renew):
        yield lease


def _record_acceptance(pipeline: Pipeline, submission: Submission, batch: BatchInfo) -> None:
    @insisting
    def record() -> bool:
        with pipeline.ledger.write() as connection:
            return transitions.accept(
                connection,
                submission.id,
                batch.id,
                accepted_at=batch.created_at,
                expires_at=batch.expires_at,
            )

    held = record()
    log.info("batch %s accepted: %s requests", batch.id, f"{submission.requests:,}")
    if held:
        # A cancel came while the create was under way.
        try:
            pipeline.api.cancel_batch(batch.id)
        except ApiFailure as failure:
            log.warning("batch %s could not be cancelled: %s", batch.id, failure)


def _record_failure(
    pipeline: Pipeline, submission: Submission, failure: ApiFailure, *, sealed: bool
) -> CreateVerdict:
    verdict = of_create_failure(failure)
    error = str(failure)
    with pipeline.ledger.write() as connection:
        match verdict:
            case CreateVerdict.UNKNOWN | CreateVerdict.NOT_SENT if sealed:
                transitions.lose_track(connection, submission, error)
            case CreateVerdict.UNKNOWN | CreateVerdict.NOT_SENT:
                # The body is incomplete, and nobody can complete it any more.
                transitions.give_back(connection, submission, State.ABSENT, error)
            case CreateVerdict.QUEUE_FULL:
                transitions.give_back(connection, submission, State.REFUSED, error)
                seconds = failure.retry_after or QUEUE_FULL_SECONDS
                accounts.wait_for_queue(connection, submission.account, seconds)
            case CreateVerdict.PAUSE:
                transitions.give_back(connection, submission, State.REFUSED, error)
                accounts.pause_account(connection, submission.account, error)
            case CreateVerdict.REFUSED:
                # The same body would be refused again: the night rests until somebody has looked.
                transitions.give_back(connection, submission, State.REFUSED, error)
                nights.update_night(connection, submission.night_id, refused=error)
    log.warning("create of %s requests: %s (%s)", f"{submission.requests:,}", verdict, error)
    return verdict
