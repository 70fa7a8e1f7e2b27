"""The state machine of submissions, which keeps a shard from being bought twice.

    INTENT → SEALED → ACCEPTED → ENDED → COLLECTED       a batch at the API
       ↓       ↓ ↘
    ABSENT REFUSED UNKNOWN → ACCEPTED or ABSENT          ABSENT, REFUSED: the shard waits again
    ABSENT → ACCEPTED                                    the API's list shows the batch late
    CALLING → ENDED → COLLECTED                          a shard that goes out call by call

Invariants, each with the failure that it prevents:

- INTENT is written before the first byte of the body leaves, SEALED before its last bytes. A sender
  that dies in INTENT leaves a body that cannot be completed: the shard may go again at once. One
  that dies later leaves an outcome to be looked for; without SEALED the two could not be told
  apart, and either every crash would wait for the API's list or a batch would be bought twice.
- Only the holder of fence and lease seals. A process that was frozen for longer than its lease, and
  wakes up, would otherwise complete a body whose shard another process has sent meanwhile.
- An id that the API returned is recorded whatever fence, lease and state say. A batch that is not
  recorded runs, is billed, and its shard is bought again.
- UNKNOWN keeps its shard, its room in the queue and its money. The batch may be running: released,
  it would be bought a second time, over the queue limit and the budget.
- UNKNOWN becomes ABSENT only after a complete look at the API's list that began late enough (see
  `flow.batches.reconciliation`), and ABSENT is watched for two days more (`listed_batches`): a list
  may lag.
- A submission stays with its account, and its shard too as long as a batch of it may appear: lists
  are read by workspace, and another account would buy it again (`pinned_to`).
- A shard goes back to waiting only if no other submission has it. A late batch that took the shard
  would otherwise be sent once more.
- The bound counts as spent until collection replaces it by what was billed; what can never be known
  stays at its bound (`unproven_usd`). Money of lost answers would otherwise be spent twice.

Belongs here: the transitions. Whether a shard may go is decided in `admission`, in the transaction
that calls `hold`; leases and claims stand in `leases`.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from batch_pipeline.ledger import nights, shards, sums, waits
from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.database.ledger import now
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.shards import Shard, ShardState
from batch_pipeline.ledger.submissions import listed_batches, submissions
from batch_pipeline.ledger.submissions.submissions import LIVE, State, Submission
from batch_pipeline.ledger.sums import Counts
from batch_pipeline.pricing.tokens import Lifetime


def new_token() -> str:
    """80 random bits as 16 characters that a custom id may hold."""
    return base64.b32encode(secrets.token_bytes(10)).decode().lower()


def claim(
    connection: Connection,
    shard: Shard,
    night: Night,
    state: State,
    holder: str,
    lease_seconds: float,
    *,
    account: str,
    usd_bound: Decimal | None = None,
    stated_prices: dict[str, Any] | None = None,
    caching: Lifetime | None = None,
    marked_models: Sequence[str] | None = None,
) -> Submission:
    """Add a submission of a shard, INTENT or CALLING; the caller has checked that it may go.

    `account` sends it, and keeps it: polls, cancels and collects it, and is asked for it where its
    outcome is lost. `usd_bound` is reserved: the most that the shard can cost, as planned unless
    given. `caching` is the lifetime of the cache marks that the requests of `marked_models` are
    sent with, None: of all models.
    """
    token, at = new_token(), now(connection)
    connection.execute(
        sa.insert(tables.submission).values(
            shard_id=shard.id,
            night_id=night.id,
            snapshot_id=shard.snapshot_id,
            pilot=shard.pilot,
            account=account,
            engine=shard.engine,
            token=token,
            requests=shard.requests,
            usd_bound=shard.usd_bound if usd_bound is None else usd_bound,
            stated_prices=stated_prices,
            caching=caching,
            marked_models=None if marked_models is None else list(marked_models),
            warms=shard.warms,
            state=state.value,
            holder=holder,
            fence=1,
            lease_until=at + lease_seconds,
            intent_at=at,
            mark_id=listed_batches.fresh_mark(connection, account),
        )
    )
    shards.set_shard_state(connection, shard.id, ShardState.CLAIMED)
    submission = submissions.by_token(connection, account, token)
    assert submission is not None
    return submission


def seal(connection: Connection, submission: Submission, lease_seconds: float) -> bool:
    """INTENT → SEALED for the holder of fence and lease, before the last bytes leave.

    False, and the body is to be left incomplete: the lease was lost, the night was cancelled in
    between, or an earlier submission of the shard was found at the API after all.
    """
    if nights.get_night(connection, submission.night_id).held_at is not None:
        return False
    if _has_other(connection, submission):
        return False
    at = now(connection)
    return submissions.change(
        connection,
        tables.submission.c.id == submission.id,
        tables.submission.c.fence == submission.fence,
        tables.submission.c.state == State.INTENT.value,
        tables.submission.c.lease_until > at,
        state=State.SEALED.value,
        lease_until=at + lease_seconds,
    )


def accept(
    connection: Connection,
    submission_id: int,
    batch_id: str,
    *,
    accepted_at: float,
    expires_at: float | None,
) -> bool:
    """→ ACCEPTED with the id that the API returned, whatever the state, fence and lease.

    True: the night was cancelled meanwhile, and the batch is to be cancelled too.
    """
    submission = submissions.get(connection, submission_id)
    if submission.batch_id is not None:
        # Sender and reconciliation may both learn the id; the state reached since then stays.
        return False
    submissions.change(
        connection,
        tables.submission.c.id == submission_id,
        state=State.ACCEPTED.value,
        batch_id=batch_id,
        accepted_at=accepted_at,
        expires_at=expires_at,
        error=None,
    )
    if shards.get_shard(connection, submission.shard_id).state is ShardState.WAITING:
        shards.set_shard_state(connection, submission.shard_id, ShardState.CLAIMED)
    listed_batches.mark(connection, submission.account, batch_id, submission_id)
    held = nights.get_night(connection, submission.night_id).held_at is not None
    if held:
        request_cancel(connection, submission)
    return held


def give_back(connection: Connection, submission: Submission, state: State, error: str) -> bool:
    """→ ABSENT or REFUSED: no batch was made, the shard waits again. False: settled already."""
    assert state in (State.ABSENT, State.REFUSED)
    released = submissions.change(
        connection,
        tables.submission.c.id == submission.id,
        tables.submission.c.state.in_(
            [State.INTENT.value, State.SEALED.value, State.UNKNOWN.value]
        ),
        state=state.value,
        error=error,
    )
    if released and not _has_other(connection, submission):
        shards.set_shard_state(connection, submission.shard_id, ShardState.WAITING)
    return released


def use_mark(connection: Connection, submission: Submission, mark_id: int | None) -> None:
    """Note what the API listed before the last bytes of a submission leave."""
    submissions.change(connection, tables.submission.c.id == submission.id, mark_id=mark_id)


def wait_for(
    connection: Connection,
    submission: Submission,
    candidates: Sequence[str],
    candidates_from: float | None,
    reason: str | None,
) -> bool:
    """Record which listed batches may be that of a submission of unknown outcome, since when they
    are all there can be, and why else it waits; False: that is known."""
    found = {
        "candidates": list(candidates),
        "candidates_from": candidates_from,
        "waits_for": reason,
    }
    if all(getattr(submission, name) == value for name, value in found.items()):
        return False
    return submissions.change(
        connection,
        tables.submission.c.id == submission.id,
        tables.submission.c.state == State.UNKNOWN.value,
        **found,
    )


def lose_track(connection: Connection, submission: Submission, error: str) -> bool:
    """SEALED → UNKNOWN: the API's answer was lost, and its list is consulted from now on."""
    return submissions.change(
        connection,
        tables.submission.c.id == submission.id,
        tables.submission.c.state == State.SEALED.value,
        state=State.UNKNOWN.value,
        window_from=now(connection),
        error=error,
    )


def pinned_to(connection: Connection, night_id: int) -> dict[int, tuple[str, float]]:
    """The shards of a night whose batch may still appear in an account's list, by id: the account,
    and until when.

    The account's answer to a whole body was lost, and its list did not show a batch. Sent by
    another account, the requests would be bought twice if it appears after all.
    """
    columns = tables.submission.c
    query = sa.select(columns.shard_id, columns.account, columns.window_from).where(
        columns.night_id == night_id,
        columns.state == State.ABSENT.value,
        columns.window_from > now(connection) - listed_batches.LATE_WATCH_SECONDS,
    )
    return {
        row.shard_id: (row.account, row.window_from + listed_batches.LATE_WATCH_SECONDS)
        for row in connection.execute(query.order_by(columns.id))
    }


def reap(connection: Connection, *accounts: str) -> None:
    """INTENT → ABSENT and SEALED → UNKNOWN where the lease of an account's sender has run out."""
    at = now(connection)
    for submission in submissions.find(
        connection,
        tables.submission.c.account.in_(accounts),
        tables.submission.c.lease_until <= at,
        states=(State.INTENT, State.SEALED),
    ):
        if submission.state is State.INTENT:
            give_back(connection, submission, State.ABSENT, "its sender died before the end")
        else:
            submissions.change(
                connection,
                tables.submission.c.id == submission.id,
                state=State.UNKNOWN.value,
                window_from=submission.lease_until,
                error="its sender died before the answer",
            )


def end(connection: Connection, submission: Submission) -> None:
    """ACCEPTED or CALLING → ENDED: every request has its result, and the queue has room again."""
    submissions.change(
        connection,
        tables.submission.c.id == submission.id,
        tables.submission.c.state.in_([State.ACCEPTED.value, State.CALLING.value]),
        state=State.ENDED.value,
        ended_at=now(connection),
    )


def collect(
    connection: Connection, submission: Submission, counts: Counts, cost_usd: Decimal
) -> bool:
    """ENDED → COLLECTED: the bound becomes what was billed. False: collected before."""
    collected = submissions.change(
        connection,
        tables.submission.c.id == submission.id,
        tables.submission.c.state == State.ENDED.value,
        state=State.COLLECTED.value,
        collected_at=now(connection),
        cost_usd=cost_usd,
        **counts.columns(),
    )
    if collected:
        sums.record(connection, submission.id, counts)
        shards.set_shard_state(connection, submission.shard_id, ShardState.COLLECTED)
        night = nights.get_night(connection, submission.night_id)
        nights.update_night(
            connection,
            night.id,
            revision=night.revision + 1,
            open_requests=night.open_requests + counts.open,
            undecided=night.undecided + counts.undecided,
        )
    return collected


def note_missing(
    connection: Connection, submission: Submission, at: float, *, missing: bool
) -> None:
    """Note whether the API knew a submission's batch at a time, and since when it does not."""
    if missing != (submission.missing_since is not None):
        since = at if missing else None
        submissions.change(connection, tables.submission.c.id == submission.id, missing_since=since)


def request_cancel(connection: Connection, submission: Submission) -> None:
    """Note since when a cancel is asked for: what comes back cancelled is then no attempt."""
    submissions.change(
        connection,
        tables.submission.c.id == submission.id,
        cancel_requested_at=sa.func.coalesce(
            tables.submission.c.cancel_requested_at, now(connection)
        ),
    )


def count_download(
    connection: Connection, submission: Submission, error: str, rest_seconds: float
) -> None:
    """Count a whole download of an ended submission's results that lacked lines.

    The first pause before the next one is `rest_seconds`, each further one twice as long.
    """
    rest = waits.doubled(rest_seconds, submission.downloads)
    _rest(connection, submission, error, rest)
    submissions.change(
        connection,
        tables.submission.c.id == submission.id,
        downloads=submission.downloads + 1,
        failed_downloads=0,
    )


def count_failed_download(
    connection: Connection, submission: Submission, error: str, rest_seconds: float, asked: float
) -> None:
    """Count a download of an ended submission's results that the API refused or that broke off.

    It says nothing of the results. The pauses double as those of `count_download`; one is at least
    the `asked` seconds that the API asked for.
    """
    rest = waits.doubled(rest_seconds, submission.failed_downloads)
    _rest(connection, submission, error, max(rest, asked))
    submissions.change(
        connection,
        tables.submission.c.id == submission.id,
        failed_downloads=submission.failed_downloads + 1,
    )


def download_at_once(connection: Connection, night_id: int) -> None:
    """End the pauses of a night's downloads that failed: a person has seen to the cause."""
    columns = tables.submission.c
    submissions.change(
        connection,
        columns.night_id == night_id,
        columns.failed_downloads > 0,
        failed_downloads=0,
        next_download_at=None,
    )


def _rest(connection: Connection, submission: Submission, error: str, seconds: float) -> None:
    """Fetch the results of an ended submission again after a pause, an hour at most."""
    submissions.change(
        connection,
        tables.submission.c.id == submission.id,
        next_download_at=waits.until(connection, seconds),
        error=error,
    )


def publish(
    connection: Connection, submission: Submission, counts: Counts, cost_usd: Decimal
) -> None:
    """Record that answers of an ended submission are published while other lines are missing.

    It stays ENDED, with its shard and its bound: what is missing is not sent again.
    """
    submissions.change(
        connection,
        tables.submission.c.id == submission.id,
        published={"cost_usd": str(cost_usd), "counts": counts.as_json()},
    )


def _has_other(connection: Connection, submission: Submission) -> bool:
    """Whether another submission has the shard: one that was given up and accepted late."""
    others = submissions.find(
        connection,
        tables.submission.c.shard_id == submission.shard_id,
        tables.submission.c.id != submission.id,
        states=(*LIVE, State.COLLECTED),
    )
    return bool(others)


def close(connection: Connection, submission: Submission) -> bool:
    """CALLING → ENDED before every request has its answer; the others count as cancelled."""
    at = now(connection)
    return submissions.change(
        connection,
        tables.submission.c.id == submission.id,
        tables.submission.c.fence == submission.fence,
        tables.submission.c.state == State.CALLING.value,
        state=State.ENDED.value,
        cancel_requested_at=at,
        ended_at=at,
    )
