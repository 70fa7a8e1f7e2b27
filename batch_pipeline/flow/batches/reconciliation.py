"""Finds out what became of submissions whose answer was lost, from the API's list of batches.

A submission of unknown outcome is never simply repeated: its batch may be running and be billed.
The rules, each with the failure that it prevents:

- The list holds ids, times and counts, no names. Each listed batch that the ledger does not know,
  and that was not listed before the submission was sent (its mark), is a *candidate*: counts may be
  wrong and clocks may be off, so that they only say which candidate is read first.
- Only the custom ids in the results, which exist after a batch's end, prove whose it is. Until
  then a candidate is left alone: the batch that is cancelled might be another tenant's.
- Only a complete look at the list proves that a batch is missing, and only if it began
  `reconcile_seconds` after the answer was lost: a new batch appears in the list with a delay. That
  look fixes the candidates, however long they take to end; a batch that is listed later is none.
  Otherwise other tenants' new batches would keep a submission waiting for ever.
- A list that was cut off, that has more entries without an id than the mark, or that shows nothing
  of what this account is known to have, proves nothing: the key may be one of another workspace.
- Time is measured by a clock that is never set, as far as one process sees it. An hour that the
  machine's clock jumps would otherwise end the wait at once.
- What was given up is watched on for two days. If the delay was longer after all, the batch answers
  what is still open, or is booked as a duplicate and its cost is reported.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from batch_pipeline.api.protocol import Api, ApiFailure, BatchInfo
from batch_pipeline.flow.batches import listing
from batch_pipeline.flow.batches.listing import Listing
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.ledger.database import ledger
from batch_pipeline.ledger.database.ledger import steady
from batch_pipeline.ledger.submissions import listed_batches, refusals, submissions, transitions
from batch_pipeline.ledger.submissions.listed_batches import Mark
from batch_pipeline.ledger.submissions.submissions import State, Submission
from batch_pipeline.safe_text import get_logger

log = get_logger(__name__)

# Ids in a mark. It still tells what is new when fewer batches than this were deleted or listed in
# another order.
MARKED = 200
# Batches whose results are begun to be read in one look: the next look goes on.
MOST_READ = 100
# Twice the time after which the API ends a batch. A candidate that has not ended by then, or whose
# results cannot be read, is waited for no longer.
CANDIDATE_SECONDS = 48 * 3600.0
# A list that shows none of the marked batches any more is believed after this time: they may have
# been deleted, and what was made before has ended.
STRANGE_LIST_SECONDS = 26 * 3600.0
RUNNING = ("in_progress", "canceling")

# Since when this process waits for a submission: seconds waited before, and the steady clock then.
_waits: dict[tuple[str, float], tuple[float, float]] = {}
# Since when this process finds a candidate neither listed nor by its id, by the steady clock.
_missing: dict[str, float] = {}


@dataclass(frozen=True)
class Look:
    """One reading of the API's list, begun at `begun` by the ledger's clock.

    `attributed` are the listed batches whose owner is known, `expected` those in flight that the
    list is bound to show.
    """

    begun: float
    listing: Listing
    marks: Mapping[int, Mark]
    attributed: Collection[str]
    expected: Collection[str]

    def mark(self, submission: Submission) -> Mark | None:
        return None if submission.mark_id is None else self.marks.get(submission.mark_id)

    def candidates(self, submission: Submission) -> list[BatchInfo]:
        """Listed batches that may be the submission's, the likeliest first."""
        new, _ = self.listing.since(self.mark(submission))
        return sorted(
            (batch for batch in new if batch.id not in self.attributed),
            key=lambda batch: (batch.requests != submission.requests, batch.requests != 0),
        )

    def proves_nothing(self, submission: Submission, waited: float) -> str | None:
        """Why the look does not prove that a batch is missing; None: it does."""
        mark = self.mark(submission)
        _, odd = self.listing.since(mark)
        if self.listing.fault is not None:
            return f"the list was cut off ({self.listing.fault.message})"
        if odd:
            return f"{odd} of the list's entries have no id"
        if not self.listing.whole:
            return None  # Read as far as batches that the mark holds: it is this account's.
        listed = {batch.id for batch in self.listing.batches}
        strange = mark is not None and bool(mark.ids) and waited < STRANGE_LIST_SECONDS
        strange = strange and listed.isdisjoint(mark.ids if mark is not None else ())
        if (self.expected and listed.isdisjoint(self.expected)) or (
            strange and not self.attributed
        ):
            return "the list shows none of this account's batches: is the key one of its workspace?"
        return None


def mark_list(pipeline: Pipeline, submission: Submission) -> None:
    """Note what the API lists before a submission is sent: one page of the list.

    If the list cannot be had, an older mark is as true; without any, each listed batch may be the
    submission's.
    """
    with pipeline.ledger.read() as connection:
        at = ledger.now(connection)
    try:
        page = pipeline.api_of(submission.account).list_batches(None, MARKED)
    except ApiFailure as failure:
        log.info("the list could not be read before a create: %s", failure)
        with pipeline.ledger.write() as connection:
            older = listed_batches.fresh_mark(connection, submission.account, float("inf"))
            transitions.use_mark(connection, submission, older)
        return
    with pipeline.ledger.write() as connection:
        mark_id = listed_batches.add_mark(
            connection,
            submission.account,
            at,
            [batch.id for batch in page.batches],
            len(page.odd),
            whole=page.more is False,
        )
        transitions.use_mark(connection, submission, mark_id)


def reconcile(pipeline: Pipeline, account: str) -> None:
    """Settle the account's submissions of unknown outcome where the API's list allows it.

    Looks for the batches of submissions that were given up, too. Raises ApiFailure if the API does
    not answer and a submission of unknown outcome waits for it.
    """
    with pipeline.ledger.write() as connection:
        transitions.reap(connection, account)
        unknown = submissions.of_account(connection, account, State.UNKNOWN)
        given_up = listed_batches.watched(connection, account)
        begun = ledger.now(connection)
    if not unknown and not given_up:
        return
    waited = {one.token: _waited(pipeline, one, begun) for one in unknown}
    try:
        look = _look(pipeline, account, begun, [*unknown, *given_up])
    except ApiFailure as failure:
        # An answer that cannot be read is no outage: what else there is to do goes on.
        if unknown and failure.status != 200:
            raise
        log.warning("the list of batches cannot be read, and is read again: %s", failure)
        why = f"it cannot be read ({failure})"
        with pipeline.ledger.write() as connection:
            for submission in unknown:
                found = submission.candidates or ()
                transitions.wait_for(connection, submission, found, submission.candidates_from, why)
        return
    to_read = _to_read(pipeline.api_of(account), look, unknown, given_up)
    _attribute(pipeline, account, to_read, waited)
    for submission in unknown:
        _judge(pipeline, look, submission, waited[submission.token])


def _waited(pipeline: Pipeline, submission: Submission, begun: float) -> float:
    """Seconds since the answer was lost: what passed before this process, by the ledger's clock,
    and what passed since it first looked, by a clock that is never set."""
    assert submission.window_from is not None
    # What this process has lost itself, it has lost a moment ago.
    mine = submission.holder == pipeline.holder
    before = 0.0 if mine else max(0.0, begun - submission.window_from)
    first = _waits.setdefault((submission.token, submission.window_from), (before, steady()))
    return first[0] + steady() - first[1]


def _look(pipeline: Pipeline, account: str, begun: float, wanted: Sequence[Submission]) -> Look:
    """Read the list back to the oldest mark of the submissions in `wanted`."""
    with pipeline.ledger.read() as connection:
        marks = listed_batches.marks(connection, (one.mark_id for one in wanted))
        in_flight = submissions.of_account(connection, account, State.ACCEPTED)
    of_wanted = [None if one.mark_id is None else marks.get(one.mark_id) for one in wanted]

    def enough(read: Sequence[BatchInfo]) -> bool:
        return all(_is_reached(mark, read) for mark in of_wanted)

    listed = listing.read_list(pipeline.api_of(account), enough)
    with pipeline.ledger.read() as connection:
        attributed = listed_batches.known(connection, account, (b.id for b in listed.batches))
    # Old enough to have appeared, and not deleted, since the API deletes no batch that runs.
    appeared = begun - pipeline.settings.reconcile_seconds
    expected = {s.batch_id for s in in_flight if (s.accepted_at or 0.0) < appeared}
    return Look(begun, listed, marks, attributed, {i for i in expected if i is not None})


def _is_reached(mark: Mark | None, read: Sequence[BatchInfo]) -> bool:
    """Whether the list was read past a mark: past its last id, or as many batches as it holds past
    the last of its ids that is left."""
    if mark is None or mark.whole:
        return False
    before = set(mark.ids)
    deepest = max((n for n, batch in enumerate(read) if batch.id in before), default=None)
    if deepest is None:
        return False
    return read[deepest].id == mark.ids[-1] or len(read) - deepest > len(mark.ids)


def _to_read(
    api: Api, look: Look, unknown: Iterable[Submission], given_up: Iterable[Submission]
) -> list[BatchInfo]:
    """Ended batches whose owner is to be found out, the likeliest first."""
    listed = {batch.id: batch for batch in look.listing.batches}
    found: dict[str, BatchInfo] = {}
    for submission in unknown:
        if submission.candidates_from is None:
            wanted = look.candidates(submission)
        else:
            fixed = submission.candidates or ()
            wanted = [listed.get(i) or _unlisted(i) for i in fixed if i not in look.attributed]
        found.update((batch.id, batch) for batch in wanted)
    for submission in given_up:
        # No shard waits for these, and there may be many in two days: only what looks like it.
        likely = (b for b in look.candidates(submission) if b.requests in (0, submission.requests))
        found.update((batch.id, batch) for batch in likely if batch.ended)
    ended = []
    for batch in found.values():
        current = batch
        if not batch.ended and batch.processing_status not in RUNNING:
            current = _retrieved(api, batch)
        if current.ended:
            _missing.pop(batch.id, None)
            ended.append(current)
    return ended[:MOST_READ]


def _unlisted(batch_id: str) -> BatchInfo:
    return BatchInfo(batch_id, "", {}, None, None, None, archived=False)


def _retrieved(api: Api, batch: BatchInfo) -> BatchInfo:
    """A batch by its id where the list does not tell its state, or does not show it."""
    try:
        current = api.retrieve_batch(batch.id)
    except ApiFailure as failure:
        if failure.status == 404:
            _missing.setdefault(batch.id, steady())
        return batch
    _missing.pop(batch.id, None)
    return current


def _attribute(
    pipeline: Pipeline, account: str, batches: Sequence[BatchInfo], unknown: Iterable[str]
) -> None:
    """Find out whose each batch is, until none of the `unknown` tokens is left to be found."""
    wanted = set(unknown)
    was_wanted = bool(wanted)
    for batch in batches:
        if was_wanted and not wanted:
            return
        owner = _owner(pipeline, account, batch)
        if owner is not None:
            wanted.discard(owner.token)


def _owner(pipeline: Pipeline, account: str, batch: BatchInfo) -> Submission | None:
    """Read the token in an ended batch's results, and record whose batch it is.

    The submission that the token names gets the batch, which may be another one than the one that
    was looked for. A batch without a token of this account is remembered as another tenant's, and
    nothing else of it is kept.
    """
    try:
        token = listing.token_of(pipeline.api_of(account), batch.id)
    except ApiFailure as failure:
        log.info("batch %s cannot be told apart yet: %s", batch.id, failure)
        return None
    with pipeline.ledger.write() as connection:
        owner = None if token is None else submissions.by_token(connection, account, token)
        if owner is None:
            listed_batches.mark(connection, account, batch.id, None)
            return None
        listing.accept(connection, owner.id, batch)
    late = ", after it had been given up" if owner.state is State.ABSENT else ""
    log.info("batch %s is ours and was adopted%s", batch.id, late)
    return owner


def _judge(pipeline: Pipeline, look: Look, submission: Submission, waited: float) -> None:
    """Record what a submission of unknown outcome waits for, or that it was never made."""
    late_enough = waited > pipeline.settings.reconcile_seconds
    nothing = look.proves_nothing(submission, waited)
    with pipeline.ledger.write() as connection:
        submission = submissions.get(connection, submission.id)
        if submission.state is not State.UNKNOWN:
            return
        fixed_at = submission.candidates_from
        if fixed_at is None:
            ids = [batch.id for batch in look.candidates(submission)]
            fixed_at = look.begun if late_enough and nothing is None else None
        else:
            ids, nothing = (
                [i for i in submission.candidates or () if not _is_gone(pipeline, i)],
                None,
            )
        known = listed_batches.known(connection, submission.account, ids)
        left = [batch_id for batch_id in ids if batch_id not in known]
        over = fixed_at is not None and look.begun > fixed_at + CANDIDATE_SECONDS
        if fixed_at is None or (left and not over):
            if (
                transitions.wait_for(connection, submission, left, fixed_at, nothing)
                and late_enough
            ):
                why = nothing or f"{len(left):,} listed batches may be its own, and have not ended"
                log.warning("submission %s waits: %s", submission.token, why)
            return
        if transitions.give_back(connection, submission, State.ABSENT, "not in the API's list"):
            log.warning("submission %s was never made; it goes out again", submission.token)
            refusal = refusals.of(submission)
            if refusal is not None and refusal.too_large:
                refusals.refuse_body(connection, submission, refusal)


def _is_gone(pipeline: Pipeline, batch_id: str) -> bool:
    """Whether a candidate was deleted: the API has known it neither in the list nor by its id for
    longer than it leaves out a batch that exists."""
    since = _missing.get(batch_id)
    return since is not None and steady() - since > pipeline.settings.reconcile_seconds
