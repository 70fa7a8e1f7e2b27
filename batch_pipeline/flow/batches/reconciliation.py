"""Submissions whose answer was lost: looked for in the API's own list, never blindly repeated.

The list holds ids, times and counts, no names; batches of other tenants can look the same. Only the
custom ids in the results, which exist after the end, prove whose a batch is. Until then a candidate
is left alone: never cancelled, deleted or collected.

A list that lags longer than the window makes a batch look as if it had never been made. What was
given up is therefore watched on: found later, it answers what is still open, or is booked as a
duplicate.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import orjson

from batch_pipeline.api.protocol import Api, ApiFailure, BatchInfo
from batch_pipeline.flow.dataset.requests import parse_custom_id
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.ledger import ledger, listed_batches, submissions, transitions
from batch_pipeline.ledger.listed_batches import LATE_WATCH_SECONDS
from batch_pipeline.ledger.submissions import State, Submission

log = logging.getLogger(__name__)

PAGE = 1_000
# How far the API's clock may be from the database's, in seconds, until it is known better: what was
# accepted tells when the API says that it was made. Further than a day no clock is believed.
CLOCK_SKEW_SECONDS = 300.0
LARGEST_SKEW_SECONDS = 86_400.0


@dataclass(frozen=True)
class Look:
    """One complete reading of the list, begun at `begun` by the database's clock.

    `batches` are those whose owner is not known yet; the clocks may differ by `skew` seconds.
    `blind`: what is in flight was not in it, so that it does not show this account's batches.
    """

    begun: float
    batches: Sequence[BatchInfo]
    skew: float
    blind: bool


def reconcile(pipeline: Pipeline, account: str) -> None:
    """Settle what can be settled among the account's unknown submissions; look for late ones."""
    with pipeline.ledger.write() as connection:
        transitions.reap(connection, account)
        unknown = submissions.of_account(connection, account, State.UNKNOWN)
        given_up = listed_batches.watched(connection, account)
        begun = ledger.now(connection)
    if unknown:
        look = _look(pipeline, account, begun, [*unknown, *given_up])
    elif given_up:
        try:
            look = _look(pipeline, account, begun, given_up)
        except ApiFailure as failure:
            # Nothing waits for it: the watch goes on with the next poll.
            log.info("the list could not be read for batches that come late: %s", failure)
            return
    else:
        return
    window, skew = pipeline.settings.reconcile_seconds, look.skew
    for batch in look.batches:
        lost = any(is_candidate(submission, batch, window, skew) for submission in unknown)
        late = any(is_late(submission, batch, skew) for submission in given_up)
        if batch.ended and (lost or late):
            _identify(pipeline, account, batch)
    if look.blind:
        log.warning(
            "the list shows none of the batches that are in flight: is the key one of account %s? "
            "What is of unknown outcome is looked for on",
            account,
        )
        return
    with pipeline.ledger.write() as connection:
        seen = listed_batches.known(connection, account, (b.id for b in look.batches))
        left = [batch for batch in look.batches if batch.id not in seen]
        for submission in unknown:
            # False for what was adopted a moment ago: its batch is no candidate any more.
            if is_absent(submission, left, look.begun, window, skew) and transitions.give_back(
                connection, submission, State.ABSENT, "not in the API's list"
            ):
                log.warning("submission %s was never made; it goes out again", submission.token)


def _look(pipeline: Pipeline, account: str, begun: float, wanted: Sequence[Submission]) -> Look:
    """Read the list back to the oldest that is looked for, without what is known already."""
    with pipeline.ledger.read() as connection:
        made = submissions.last_accepted(connection, account)
        in_flight = submissions.of_account(connection, account, State.ACCEPTED)
    skew = clock_skew(made)
    since = min(submission.intent_at for submission in wanted) - skew
    listed = list(read_list(pipeline.api, since))
    ids = [batch.id for batch in listed]
    with pipeline.ledger.read() as connection:
        seen = listed_batches.known(connection, account, ids)
    # A batch that is made may take a while to appear; one that is processed cannot be deleted.
    settled = begun - pipeline.settings.reconcile_seconds
    shown = [s.batch_id for s in in_flight if since <= (s.accepted_at or 0.0) < settled - skew]
    return Look(
        begun,
        [batch for batch in listed if batch.id not in seen],
        skew,
        blind=bool(shown) and not set(shown) & set(ids),
    )


def clock_skew(made: Sequence[Submission]) -> float:
    """How far the API's clock may be from the database's, in seconds, by what was accepted lately.

    What an upload took counts in: a bound that is too wide only leaves more batches to tell apart.
    """
    differences = [abs(s.accepted_at - s.intent_at) for s in made if s.accepted_at is not None]
    return min(max(differences, default=0.0) + CLOCK_SKEW_SECONDS, LARGEST_SKEW_SECONDS)


def is_candidate(
    submission: Submission, batch: BatchInfo, window: float, skew: float = CLOCK_SKEW_SECONDS
) -> bool:
    """Whether a listed batch may be this submission's: same count, made while it was under way."""
    assert submission.window_from is not None
    return (
        _has_count_of(submission, batch)
        and batch.created_at >= submission.intent_at - skew
        and batch.created_at <= submission.window_from + window + skew
    )


def is_late(submission: Submission, batch: BatchInfo, skew: float = CLOCK_SKEW_SECONDS) -> bool:
    """Whether a listed batch may be that of a submission given up: same count, made since.

    The window's end is no bound here: a process that was frozen before its very last bytes may
    send them whenever it wakes up.
    """
    assert submission.window_from is not None
    return (
        _has_count_of(submission, batch)
        and batch.created_at >= submission.intent_at - skew
        and batch.created_at <= submission.window_from + LATE_WATCH_SECONDS
    )


def _has_count_of(submission: Submission, batch: BatchInfo) -> bool:
    """No batch has no requests: one whose counts are 0 has not been counted yet, or not told."""
    return batch.requests in (0, submission.requests)


def is_absent(
    submission: Submission,
    left: Sequence[BatchInfo],
    begun: float,
    window: float,
    skew: float = CLOCK_SKEW_SECONDS,
) -> bool:
    """Whether a complete look proves that nothing was made: late enough, and no candidate left."""
    assert submission.window_from is not None
    late_enough = begun > submission.window_from + window
    return late_enough and not any(is_candidate(submission, batch, window, skew) for batch in left)


def read_list(api: Api, since: float) -> Iterator[BatchInfo]:
    """All listed batches made at `since` or later, newest first; raises ApiFailure if cut off."""
    after: str | None = None
    known: set[str] = set()
    while True:
        page, more = api.list_batches(after, PAGE)
        yield from (batch for batch in page if batch.created_at >= since)
        if not more or (page and page[-1].created_at < since):
            return
        if known.issuperset(batch.id for batch in page):
            # More is announced and none of it comes: what was read is not the whole list.
            raise ApiFailure(200, None, None, f"the list does not go on after {after}")
        known.update(batch.id for batch in page)
        after = page[-1].id


def _identify(pipeline: Pipeline, account: str, batch: BatchInfo) -> None:
    """Read the tokens of an ended candidate: ours is adopted, by whichever submission it names."""
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
    """The token of the first result line; None for a line that is not ours."""
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
