"""Finds out whose the batches are that the API has listed in the last 29 days.

A batch that has ended has a token in its results. One that has not ended may be any: nothing is
sent until it has.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from batch_pipeline.api.protocol import ApiFailure, BatchInfo
from batch_pipeline.flow.batches import listing
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.results.lines import ABSENT
from batch_pipeline.flow.status.batch_warnings import RESULTS_KEPT_SECONDS
from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.submissions import listed_batches, submissions
from batch_pipeline.ledger.submissions.submissions import State
from batch_pipeline.safe_text import get_logger

log = get_logger(__name__)

# Clocks may differ, and the list need not be in the order of time.
MARGIN_SECONDS = 2 * 86_400.0


@dataclass
class Listed:
    """Batches by id: ours, other tenants', those that have not ended, those whose results cannot be
    read now, and those with a token of this project that nothing in the home names."""

    ours: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    running: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    unnamed: list[str] = field(default_factory=list)

    @classmethod
    def of_all(cls, found: Iterable[Listed]) -> Listed:
        """What several accounts have listed."""
        whole = cls()
        for each in found:
            for name, ids in vars(each).items():
                getattr(whole, name).extend(ids)
        return whole

    @property
    def pending(self) -> list[str]:
        return [*self.running, *self.unreadable]


def identify(
    pipeline: Pipeline,
    account: str,
    tokens: Collection[str],
    sizes: Collection[int],
    *,
    dry_run: bool,
) -> Listed:
    """Attribute the account's listed batches; `tokens` are those that the home names.

    A batch with another token of this project is another home's, unless it has as many requests as
    one of `sizes`: those of shards of which the home does not tell whether they were sent.
    Raises ApiFailure where the list cannot be read whole: a batch that it does not show would be
    bought again.
    """
    oldest = time.time() - RESULTS_KEPT_SECONDS - MARGIN_SECONDS

    def enough(read: Sequence[BatchInfo]) -> bool:
        page = read[-listing.PAGE :]
        return all(b.created_at is not None and b.created_at < oldest for b in page)

    read = listing.read_list(pipeline.api_of(account), enough)
    if read.fault is not None:
        raise read.fault
    if read.odd:
        # What has a mark and is not found is looked for on, entry by entry (`reconciliation`).
        log.warning("%d entries of the list have no id", len(read.odd))
    with pipeline.ledger.read() as connection:
        seen = listed_batches.known(connection, account, (b.id for b in read.batches))
        seen |= {
            one.batch_id
            for one in submissions.of_account(connection, account)
            if one.batch_id is not None
        }
    found = Listed()
    for batch in read.batches:
        if batch.id not in seen and not (batch.archived and batch.ended):
            _attribute(pipeline, account, batch, tokens, sizes, found, dry_run=dry_run)
    return found


def _attribute(
    pipeline: Pipeline,
    account: str,
    batch: BatchInfo,
    tokens: Collection[str],
    sizes: Collection[int],
    found: Listed,
    *,
    dry_run: bool,
) -> None:
    if not batch.ended:
        found.running.append(batch.id)
        return
    try:
        token = listing.token_of(pipeline.api_of(account), batch.id)
    except ApiFailure as failure:
        gone = failure.status in ABSENT and _is_old(batch)
        if not gone:
            log.info("batch %s cannot be told apart yet: %s", batch.id, failure)
            found.unreadable.append(batch.id)
        return
    ours = token in tokens
    if token is not None and not ours and batch.requests in sizes:
        found.unnamed.append(batch.id)
        return
    (found.ours if ours else found.foreign).append(batch.id)
    if dry_run:
        return
    with pipeline.ledger.write() as connection:
        # Under whichever account: one of the same workspace may have sent it.
        named = [] if not ours else submissions.find(connection, tables.submission.c.token == token)
        owner = named[0] if named else None
        if owner is None or owner.state is State.COLLECTED:
            owner_id = None if owner is None else owner.id
            listed_batches.mark(connection, account, batch.id, owner_id)
        else:
            listing.accept(connection, owner.id, batch)


def _is_old(batch: BatchInfo) -> bool:
    return batch.created_at is not None and (
        batch.created_at < time.time() - RESULTS_KEPT_SECONDS + MARGIN_SECONDS
    )


def forget(pipeline: Pipeline, account: str, batches: Sequence[str]) -> None:
    """Record that batches are not of this home."""
    with pipeline.ledger.write() as connection:
        for batch_id in batches:
            listed_batches.mark(connection, account, batch_id, None)
