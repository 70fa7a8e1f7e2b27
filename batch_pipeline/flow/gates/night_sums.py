"""What a night's collected submissions add up to, kept as they are collected.

Belongs here: how summaries are added, and the night's sums whichever release collected them. The
rows are `state.tallies`; what is read out of the sums stands in `progress` and `breaker`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection

from batch_pipeline.flow.gates.first_attempts import FirstAttempts
from batch_pipeline.ledger import redrives, shards, tallies
from batch_pipeline.ledger.shards import Shard
from batch_pipeline.ledger.submissions import Submission
from batch_pipeline.ledger.tallies import Tally

# Counts of a summary that are added up as they are.
SUMMED = ("statuses", "usage", "measured", "gone")
# Kept of a night: those of its submissions (a few each) in all but the strangest nights.
MOST_ERRORS = 50


def of_submission(submission: Submission, shard: Shard, *, put_behind: bool = False) -> Tally:
    """The tally of one collected submission; `put_behind`: a redrive has looked at it."""
    summary = dict(submission.summary or {})
    wanted = SUMMED if put_behind else (*SUMMED, "first")
    return Tally(
        night_id=submission.night_id,
        snapshot_id=shard.snapshot_id,
        pilot=shard.pilot,
        engine=submission.engine,
        batches=int(submission.batch_id is not None),
        requests=submission.requests,
        cost_usd=submission.cost_usd or Decimal(0),
        first_intent_at=submission.intent_at,
        first_accepted_at=submission.accepted_at,
        last_ended_at=submission.ended_at,
        last_collected_at=submission.collected_at,
        summary={name: summary[name] for name in wanted if name in summary},
    )


def add(one: Tally, other: Tally) -> Tally:
    """The sum of two tallies of the same kind."""
    return replace(
        one,
        batches=one.batches + other.batches,
        requests=one.requests + other.requests,
        cost_usd=one.cost_usd + other.cost_usd,
        first_intent_at=min(one.first_intent_at, other.first_intent_at),
        first_accepted_at=_least(one.first_accepted_at, other.first_accepted_at),
        last_ended_at=_most(one.last_ended_at, other.last_ended_at),
        last_collected_at=_most(one.last_collected_at, other.last_collected_at),
        summary=_added(one.summary, other.summary),
    )


def keep(connection: Connection, night_id: int) -> None:
    """Take what has been collected of a night into its tallies, in the caller's transaction."""
    kept = {_kind(tally): tally for tally in tallies.of_night(connection, night_id)}
    for submission in tallies.not_tallied(connection, night_id):
        tally = _read(connection, submission)
        former = kept.get(_kind(tally))
        kept[_kind(tally)] = tally if former is None else add(former, tally)
        tallies.put(connection, kept[_kind(tally)], submission.id)


def of_night(connection: Connection, night_id: int) -> list[Tally]:
    """All that is collected of a night; what is in no tally yet comes one by one."""
    left = tallies.not_tallied(connection, night_id)
    return tallies.of_night(connection, night_id) + [_read(connection, each) for each in left]


def _read(connection: Connection, submission: Submission) -> Tally:
    shard = shards.get_shard(connection, submission.shard_id)
    behind = redrives.put_behind(connection, submission.id)
    return of_submission(submission, shard, put_behind=behind)


def _kind(tally: Tally) -> tuple[int, bool, str]:
    return tally.snapshot_id, tally.pilot, tally.engine


def _added(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in SUMMED:
        if name in one or name in other:
            found[name] = dict(Counter(one.get(name, {})) + Counter(other.get(name, {})))
    if "first" in one or "first" in other:
        first = FirstAttempts()
        for summary in (one, other):
            if "first" in summary:
                first.add(summary["first"])
        found["first"] = first.as_json(MOST_ERRORS)
    return found


def _least(one: float | None, other: float | None) -> float | None:
    return min((at for at in (one, other) if at is not None), default=None)


def _most(one: float | None, other: float | None) -> float | None:
    return max((at for at in (one, other) if at is not None), default=None)
