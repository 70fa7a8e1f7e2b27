"""Finds out what became of submissions whose answer was lost, from the API's list of batches.

A submission of unknown outcome is never simply repeated: its batch may be running and be billed.
The rules, each with the failure that it prevents:

- The list holds ids, times and counts, no names, and batches of other tenants can look the same.
  Only the custom ids in the results, which exist after a batch's end, prove whose it is. Until
  then a candidate is left alone: the batch that is cancelled might be another tenant's.
- Only a complete reading of the list proves that a batch is missing, and only if the reading began
  `reconcile_seconds` after the answer was lost. A new batch appears in the list with a delay; given
  up before, its shard would be bought again.
- A reading in which none of this account's running batches appears proves nothing: the key may have
  been changed for one of another workspace.
- What was given up is watched on for two days. If the delay was longer after all, the batch answers
  what is still open, or is booked as a duplicate and its cost is reported.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import orjson

from batch_pipeline.api.protocol import Api, ApiFailure, BatchInfo
from batch_pipeline.flow.dataset.requests import parse_custom_id
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.ledger import listed_batches, submissions, transitions
from batch_pipeline.ledger.database import ledger
from batch_pipeline.ledger.listed_batches import LATE_WATCH_SECONDS
from batch_pipeline.ledger.submissions import State, Submission

log = logging.getLogger(__name__)

PAGE = 1_000
# The least difference, in seconds, that the API's clock and the database's are believed to have.
# Batches that were accepted lately show whether it is larger.
CLOCK_SKEW_SECONDS = 300.0
# More than this is an error of a clock, which must not make every listed batch a candidate.
LARGEST_SKEW_SECONDS = 86_400.0


@dataclass(frozen=True)
class Look:
    """One complete reading of the API's list, begun at `begun` by the database's clock.

    `batches` are the listed ones that no account of this ledger has attributed yet. The clocks may
    differ by `skew` seconds. `blind`: batches that are running were not listed, so that the list
    cannot be this account's.
    """

    begun: float
    batches: Sequence[BatchInfo]
    skew: float
    blind: bool


def reconcile(pipeline: Pipeline, account: str) -> None:
    """Settle the account's submissions of unknown outcome where the API's list allows it.

    Looks for the batches of submissions that were given up, too. Raises ApiFailure if the list
    cannot be read and a submission of unknown outcome waits for it.
    """
    with pipeline.ledger.write() as connection:
        transitions.reap(connection, account)
        unknown = submissions.of_account(connection, account, State.UNKNOWN)
        given_up = listed_batches.watched(connection, account)
        begun = ledger.now(connection)
    if not unknown and not given_up:
        return
    try:
        look = _look(pipeline, account, begun, [*unknown, *given_up])
    except ApiFailure as failure:
        if unknown:
            raise
        # No shard waits for a late batch: the next poll looks again.
        log.info("the list could not be read for batches that come late: %s", failure)
        return
    window, skew = pipeline.settings.reconcile_seconds, look.skew
    for batch in look.batches:
        lost = any(is_candidate(submission, batch, window, skew) for submission in unknown)
        late = any(is_late(submission, batch, skew) for submission in given_up)
        if batch.ended and (lost or late):
            _attribute(pipeline, account, batch)
    if look.blind:
        log.warning(
            "the list shows none of the batches that are in flight: is the key one of account %s? "
            "Submissions of unknown outcome are looked for on",
            account,
        )
        return
    _give_up(pipeline, account, unknown, look)


def _give_up(pipeline: Pipeline, account: str, unknown: Sequence[Submission], look: Look) -> None:
    """Release the shards of submissions that the look proves never to have become a batch."""
    window = pipeline.settings.reconcile_seconds
    with pipeline.ledger.write() as connection:
        attributed = listed_batches.known(connection, account, (b.id for b in look.batches))
        left = [batch for batch in look.batches if batch.id not in attributed]
        for submission in unknown:
            # `give_back` returns False for a submission whose batch was attributed a moment ago:
            # that batch is not in `left` any more.
            if is_absent(submission, left, look.begun, window, look.skew) and transitions.give_back(
                connection, submission, State.ABSENT, "not in the API's list"
            ):
                log.warning("submission %s was never made; it goes out again", submission.token)


def _look(pipeline: Pipeline, account: str, begun: float, wanted: Sequence[Submission]) -> Look:
    """Read the list back to the oldest submission in `wanted`."""
    with pipeline.ledger.read() as connection:
        accepted = submissions.last_accepted(connection, account)
        in_flight = submissions.of_account(connection, account, State.ACCEPTED)
    skew = clock_skew(accepted)
    since = min(submission.intent_at for submission in wanted) - skew
    listed = list(read_list(pipeline.api, since))
    ids = [batch.id for batch in listed]
    with pipeline.ledger.read() as connection:
        attributed = listed_batches.known(connection, account, ids)
    # Batches that the list must show: old enough to have appeared, and not deleted, since the API
    # deletes no batch that is being processed.
    appeared = begun - pipeline.settings.reconcile_seconds - skew
    expected = {s.batch_id for s in in_flight if since <= (s.accepted_at or 0.0) < appeared}
    return Look(
        begun,
        [batch for batch in listed if batch.id not in attributed],
        skew,
        blind=bool(expected) and expected.isdisjoint(ids),
    )


def clock_skew(accepted: Sequence[Submission]) -> float:
    """The most, in seconds, that the API's clock and the database's may differ.

    Measured on submissions that were accepted lately: when the API says that it made the batch,
    less when the ledger recorded the intent. That includes the time of the upload; a bound that is
    too wide only leaves more batches to tell apart.
    """
    differences = [abs(s.accepted_at - s.intent_at) for s in accepted if s.accepted_at is not None]
    return min(max(differences, default=0.0) + CLOCK_SKEW_SECONDS, LARGEST_SKEW_SECONDS)


def is_candidate(
    submission: Submission, batch: BatchInfo, window: float, skew: float = CLOCK_SKEW_SECONDS
) -> bool:
    """Whether a listed batch may be an unknown submission's: of its count, and made in its time."""
    assert submission.window_from is not None
    return _may_be(submission, batch, skew, until=submission.window_from + window + skew)


def is_late(submission: Submission, batch: BatchInfo, skew: float = CLOCK_SKEW_SECONDS) -> bool:
    """Whether a listed batch may be that of a submission given up: same count, made since.

    The end of the window does not count here: a process that was frozen before the last bytes may
    send them whenever it wakes up.
    """
    assert submission.window_from is not None
    return _may_be(submission, batch, skew, until=submission.window_from + LATE_WATCH_SECONDS)


def _may_be(submission: Submission, batch: BatchInfo, skew: float, *, until: float) -> bool:
    # Every batch has requests: counts of 0 mean that the API has not counted, or not told, yet.
    same_count = batch.requests in (0, submission.requests)
    return same_count and submission.intent_at - skew <= batch.created_at <= until


def is_absent(
    submission: Submission,
    left: Sequence[BatchInfo],
    begun: float,
    window: float,
    skew: float = CLOCK_SKEW_SECONDS,
) -> bool:
    """Whether a complete look proves that no batch was made.

    It does if it began after the window and none of the batches that are `left`, whose owner is not
    known, is a candidate.
    """
    assert submission.window_from is not None
    late_enough = begun > submission.window_from + window
    return late_enough and not any(is_candidate(submission, batch, window, skew) for batch in left)


def read_list(api: Api, since: float) -> Iterator[BatchInfo]:
    """All listed batches made at `since` or later, newest first; ApiFailure if it is cut off."""
    after: str | None = None
    known: set[str] = set()
    while True:
        page, more = api.list_batches(after, PAGE)
        yield from (batch for batch in page if batch.created_at >= since)
        if not more or (page and page[-1].created_at < since):
            return
        if known.issuperset(batch.id for batch in page):
            # The API announces more and sends nothing new: what was read is not the whole list.
            raise ApiFailure(200, None, None, f"the list does not go on after {after}")
        known.update(batch.id for batch in page)
        after = page[-1].id


def _attribute(pipeline: Pipeline, account: str, batch: BatchInfo) -> None:
    """Read the token in an ended candidate's results, and record whose batch it is.

    The submission that the token names gets the batch, which may be another one than the one that
    was looked for. A batch without a token of this account is remembered as another tenant's.
    """
    try:
        token = _first_token(pipeline.api, batch.id)
    except ApiFailure as failure:
        log.info("batch %s cannot be told apart yet: %s", batch.id, failure)
        return
    with pipeline.ledger.write() as connection:
        owner = None if token is None else submissions.by_token(connection, account, token)
        if owner is None:
            listed_batches.mark(connection, account, batch.id, None)
            return
        transitions.accept(
            connection,
            owner.id,
            batch.id,
            accepted_at=batch.created_at,
            expires_at=batch.expires_at,
        )
    late = ", after it had been given up" if owner.state is State.ABSENT else ""
    log.info("batch %s is ours and was adopted%s", batch.id, late)


def _first_token(api: Api, batch_id: str) -> str | None:
    """The token in the first result line; None if its custom id is not of this project's form."""
    data = b""
    with api.stream_results(batch_id) as chunks:
        for chunk in chunks:
            data += chunk
            line, end, _ = data.partition(b"\n")
            if end:
                break
        else:
            line = data
    try:
        parsed = parse_custom_id(orjson.loads(line).get("custom_id"))
    except (orjson.JSONDecodeError, AttributeError) as error:
        raise ApiFailure(200, None, None, "its first result line cannot be read") from error
    return None if parsed is None else parsed[0]
