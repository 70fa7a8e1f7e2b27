"""Sends waiting shards as batches: intent, body, seal, last bytes, and what the API's answer means.

The order of these writes is what keeps a batch from being bought twice
(`ledger.submissions.transitions` has the state machine and its invariants):

- INTENT is in the ledger before the first byte of the body leaves. Otherwise a crash during the
  upload would leave a batch that no row of the ledger knows of, and its shard would go again.
- What the API lists is marked before the body leaves, unless it was seconds ago. Should the answer
  be lost, only what was not listed by then can be this batch.
- All of the body but its last bytes is sent under an announced length. Without its end the API
  cannot take the batch in, so a sender that dies here has bought nothing.
- SEALED is in the ledger before the last bytes leave, and only the holder of the lease seals. A
  sender that was frozen would otherwise complete a body whose shard another process has sent.
- The home's mark is raised after the seal and before the last bytes leave (`home_mark`). A ledger
  that is lost or restored would otherwise buy the batch again without a word.
- A document that is not what the snapshot knows is noticed before the last bytes leave: the body
  stays incomplete, and the shard goes without that row.
- After the seal a failure proves nothing unless it is a definite refusal: the submission is UNKNOWN
  and is looked for in the API's list (`reconciliation`), instead of being sent again.
- An id that the API returned is recorded even if the lease was lost meanwhile, and the write is
  repeated while the database fails. An unrecorded batch would run, be billed, and be bought again.

Belongs here: sending. What became of a submission whose answer was lost is found out in
`reconciliation`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from batch_pipeline import telemetry
from batch_pipeline.api.protocol import ApiFailure, BatchInfo
from batch_pipeline.flow.answers.outcomes import CreateVerdict, is_page, of_create_failure
from batch_pipeline.flow.batches import (
    changed_documents,
    listing,
    reconciliation,
    refused_shards,
)
from batch_pipeline.flow.batches.body import body_of
from batch_pipeline.flow.batches.lease import renewed_lease
from batch_pipeline.flow.concurrency import Stop, run_in_threads
from batch_pipeline.flow.dataset.documents.reference import DocumentChangedError
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.ledger import nights, shards
from batch_pipeline.ledger.accounts import accounts, organisations
from batch_pipeline.ledger.admission import admission
from batch_pipeline.ledger.admission.admission import Intent, Limits, ReadGates, Waiting
from batch_pipeline.ledger.admission.senders import Sender
from batch_pipeline.ledger.database.ledger import insisting, steady
from batch_pipeline.ledger.home import identity
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.submissions import refusals, transitions
from batch_pipeline.ledger.submissions.submissions import State, Submission
from batch_pipeline.safe_text import get_logger

log = get_logger(__name__)

# A full queue is tried again after this time if the API's answer has no `retry-after`.
QUEUE_FULL_SECONDS = 60.0
# Fewer bytes are sent by one thread before a second one would have helped.
SEVERAL_FROM_BYTES = 16 << 20
# More uploads at a time do not make a network faster.
MOST_UPLOADS = 4
# Verdicts after which an account is sent no other shard: an API in trouble must not make every
# shard of a night unknown.
_TROUBLE = (CreateVerdict.UNKNOWN, CreateVerdict.NOT_SENT)


@dataclass(frozen=True)
class Submitted:
    """What one round of submitting did: batches accepted, real-time calls answered, and why the
    other requests wait."""

    batches: int
    waiting: Waiting
    answers: int = 0


def submit_waiting(
    pipeline: Pipeline,
    night: Night,
    limits: Limits,
    read_gates: ReadGates,
) -> Submitted:
    """Send the night's waiting batch shards while queue and money have room for them.

    A large night is sent by several threads: one makes a body while another waits for the network.
    Other processes may send the same night, since each sender claims the next waiting shard in the
    ledger. An interrupt takes effect once the uploads under way have their answers: an upload that
    is broken off after its last bytes would have to be looked for in the API's list.
    """
    with pipeline.ledger.read() as connection:
        waiting, size = shards.waiting_size(connection, night.id, "batch")
    count = uploads_at_once(waiting, size, pipeline.settings.workers)
    stop = Stop()
    trouble: dict[str, Waiting] = {}

    def submit() -> Submitted:
        return _submit(pipeline, night, limits, read_gates, stop, trouble)

    rounds = run_in_threads(count, submit, stop) if count > 1 else []
    if not stop.is_set():
        # One thread alone at the end: while others still hold shards, the queue may look full and
        # the reason why the last ones wait may be wrong a moment later.
        rounds += run_in_threads(1, submit, stop)
    accepted = sum(each.batches for each in rounds)
    # Where no account answers, what the last thread found tells nothing.
    unanswered = next(iter(trouble.values()), None) if stop.is_set() else None
    return Submitted(accepted, unanswered or rounds[-1].waiting)


def uploads_at_once(waiting: int, size: int, workers: int) -> int:
    """The number of threads that send a night's waiting shards, which have `size` bytes in all."""
    return max(1, min(waiting, workers, MOST_UPLOADS)) if size >= SEVERAL_FROM_BYTES else 1


def _submit(
    pipeline: Pipeline,
    night: Night,
    limits: Limits,
    read_gates: ReadGates,
    stop: Stop,
    trouble: dict[str, Waiting],
) -> Submitted:
    """Send one shard after the other until the next one has to wait. An account whose API does not
    answer is added to `trouble`, and the others go on without it."""
    accepted = 0
    while not stop.is_set():
        refused_shards.split_all(pipeline, night)
        able = replace(limits, senders=_without(limits.senders, trouble))
        with pipeline.ledger.write() as connection:
            transitions.reap(connection, *night.sent_by)
            intent = admission.begin(connection, night, pipeline.holder, able, read_gates)
        if isinstance(intent, Waiting):
            return Submitted(accepted, intent)
        sent = _send(pipeline, night, intent, stop)
        if isinstance(sent, BatchInfo):
            accepted += 1
        elif sent is not None and sent.verdict in _TROUBLE:
            waiting = admission.unanswered(night, sent.failure, intent.shard.requests)
            trouble.setdefault(intent.submission.account, waiting)
            if not _without(limits.senders, trouble):
                stop()
                return Submitted(accepted, waiting)
        # Arrow keeps the memory of this shard's rows for later use. The next shard may be sent by
        # another process, so that each process would keep the memory of its largest shard.
        pa.default_memory_pool().release_unused()
    return Submitted(accepted, Waiting(None))


def _without(senders: Sequence[Sender], trouble: Collection[str]) -> tuple[Sender, ...]:
    return tuple(sender for sender in senders if sender.account not in trouble)


@dataclass(frozen=True)
class _Failed:
    """A create that returned no batch, and what that means."""

    failure: ApiFailure
    verdict: CreateVerdict


@telemetry.traced("shard")
def _send(
    pipeline: Pipeline, night: Night, intent: Intent, stop: Stop
) -> BatchInfo | _Failed | None:
    """Send one shard and record what came of it; None: documents have changed, and it was not
    sent. Requests without them are, in the next round."""
    submission, shard = intent.submission, intent.shard
    if submission.mark_id is None:
        reconciliation.mark_list(pipeline, submission)
    marks = submission.caching, submission.marked_models
    chunks = _SealedChunks(pipeline, submission, stop)
    try:
        with (
            renewed_lease(pipeline, submission),
            changed_documents.looked_at(pipeline, night, shard, stop) as looked,
        ):
            if looked.changed:
                changed_documents.take_out(pipeline, night, shard, submission, looked.changed)
                return None
            body = body_of(pipeline, shard, submission.token, *marks, looked.opener)
            batch = pipeline.api_of(submission.account).create_batch(
                chunks.of(body.chunks), body.length, body.betas
            )
    except ApiFailure as failure:
        if chunks.changed is not None:
            # The body is incomplete for good. The next look at this shard takes the row out.
            with pipeline.ledger.write() as connection:
                transitions.give_back(connection, submission, State.ABSENT, str(chunks.changed))
                accounts.probe_at_once(connection, submission.account)
            log.warning("a batch is sent anew: %s", chunks.changed)
            return None
        verdict = of_create_failure(failure, sealed=chunks.sealed)
        _record_failure(pipeline, submission, _Failed(failure, verdict), sealed=chunks.sealed)
        if chunks.broken_by is not None:
            raise chunks.broken_by from None
        return _Failed(failure, verdict)
    except BaseException:
        # An interrupt, a full disk or a bug says nothing about the batch either.
        with pipeline.ledger.write() as connection:
            _record_no_answer(connection, submission, "interrupted", sealed=chunks.sealed)
        raise
    telemetry.note(batch_id=batch.id)
    _record_acceptance(pipeline, submission, batch)
    return batch


class _SealedChunks:
    """The chunks of a body, the last one only after the ledger has sealed the submission.

    Raises ApiFailure instead, which leaves the body incomplete, if the lease was lost or this
    process was frozen around the seal.
    """

    def __init__(self, pipeline: Pipeline, submission: Submission, stop: Stop) -> None:
        self._pipeline = pipeline
        self._submission = submission
        self._stop = stop
        self.sealed = False
        # A document that is not what the snapshot knows: no fault of the API's, nor of the home's.
        self.changed: DocumentChangedError | None = None
        # An error of the home (a snapshot that cannot be read, a mark that cannot be raised). The
        # SDK turns what is raised while it sends into an error of its connection, and the shard
        # would be tried again for ever as if the API were down.
        self.broken_by: Exception | None = None

    def of(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        try:
            yield from self._sealed(chunks)
        except DocumentChangedError as error:
            self.changed = error
            raise
        except (ApiFailure, SQLAlchemyError):  # the next round waits for a ledger that is down
            raise
        except Exception as error:
            self.broken_by = error
            raise

    def _sealed(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        held_back = next(chunks)
        for chunk in chunks:
            self._stop.check()
            yield held_back
            held_back = chunk
        lease_seconds = self._pipeline.settings.lease_seconds
        before = steady()
        with self._pipeline.ledger.write() as connection:
            if not transitions.seal(connection, self._submission, lease_seconds):
                raise ApiFailure(None, None, None, "the claim was lost before the last bytes")
            sent = identity.count_sent(connection, self._submission.id)
        self._pipeline.mark.raise_to(sent)
        # A process that was frozen here must not complete a body after its lease: the shard may
        # count as unknown by then, and the batch would appear after the look for it.
        if steady() - before > lease_seconds / 2:
            raise ApiFailure(None, None, None, "too slow to finish the body safely")
        self.sealed = True
        yield held_back


def _record_acceptance(pipeline: Pipeline, submission: Submission, batch: BatchInfo) -> None:
    @insisting
    def record() -> bool:
        with pipeline.ledger.write() as connection:
            sent_at = submission.intent_at
            accounts.prove(connection, submission.account, sent_at, by_results=False)
            return listing.accept(connection, submission.id, batch)

    night_held = record()
    log.info("batch %s accepted: %s requests", batch.id, f"{submission.requests:,}")
    if night_held:
        # The night was cancelled while the create was under way.
        try:
            pipeline.api_of(submission.account).cancel_batch(batch.id)
        except ApiFailure as failure:
            log.warning("batch %s could not be cancelled: %s", batch.id, failure)


def _record_no_answer(
    connection: Connection, submission: Submission, error: str, *, sealed: bool
) -> None:
    """Once sealed a batch may have been made; before that the body is incomplete for good."""
    if sealed:
        transitions.lose_track(connection, submission, error)
    else:
        transitions.give_back(connection, submission, State.ABSENT, error)


def _record_failure(
    pipeline: Pipeline, submission: Submission, failed: _Failed, *, sealed: bool
) -> None:
    failure, verdict = failed.failure, failed.verdict
    error = str(failure)
    refusal = refused_shards.of_failure(failure, submission.token)
    with pipeline.ledger.write() as connection:
        match verdict:
            case CreateVerdict.UNKNOWN | CreateVerdict.NOT_SENT:
                _record_no_answer(connection, submission, error, sealed=sealed)
                if is_page(failure):
                    refusals.note_page(connection, submission, refusal)
            case CreateVerdict.QUEUE_FULL:
                transitions.give_back(connection, submission, State.REFUSED, error)
                seconds = failure.retry_after or QUEUE_FULL_SECONDS
                organisations.wait_for_queue(connection, submission.account, seconds)
            case CreateVerdict.PAUSE:
                transitions.give_back(connection, submission, State.REFUSED, error)
                accounts.pause_account(connection, submission.account, error)
            case CreateVerdict.REFUSED:
                # Any body would be refused: the night rests until a person has looked.
                transitions.give_back(connection, submission, State.REFUSED, error)
                why = f"the API refused a batch as a whole: {error}"
                nights.update_night(connection, submission.night_id, refused=why)
            case CreateVerdict.BODY_REFUSED:
                transitions.give_back(connection, submission, State.REFUSED, error)
                refusals.refuse_body(connection, submission, refusal)
                # As a probe of a paused account it told nothing: the next part goes instead.
                accounts.probe_at_once(connection, submission.account)
    log.warning("create of %s requests: %s (%s)", f"{submission.requests:,}", verdict, error)
