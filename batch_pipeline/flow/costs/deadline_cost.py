"""What a night's deadline cost, from the answers of the shards that went in real time for it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from decimal import Decimal

from batch_pipeline.flow import joins
from batch_pipeline.flow.answers.answers import answer_paths
from batch_pipeline.flow.answers.schemas import ANSWERS_SCHEMA
from batch_pipeline.flow.costs import answer_sums
from batch_pipeline.flow.costs.answer_sums import Priced
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.status.progress import Progress
from batch_pipeline.ledger.submissions.submissions import Submission
from batch_pipeline.pricing.prices import ModelPrice
from batch_pipeline.reporting.report.report import DeadlineCost


def of_night(
    pipeline: Pipeline, state: Progress, collected: Iterable[Priced], hurried: Collection[int]
) -> DeadlineCost | None:
    """What the deadline cost so far, and whether it was met; None where the night has none.

    `hurried` are the shards that went in real time for the deadline.
    """
    night = state.night
    if night.deadline_at is None:
        return None
    groups: defaultdict[ModelPrice, list[Submission]] = defaultdict(list)
    for priced in collected:
        if priced.submission.shard_id in hurried:
            groups[priced.price].append(priced.submission)
    requests, realtime, batch = 0, Decimal(0), Decimal(0)
    for price, group in groups.items():
        files = answer_paths(night, group)
        with joins.tables(pipeline.files, {"answers": (files, ANSWERS_SCHEMA)}) as connection:
            rows = answer_sums.by_tier(connection, price.batch.starts)
        requests += sum(row.answers for row in rows)
        realtime += sum((row.usd for row in rows), Decimal(0))
        batch += sum((row.usd_by("batch", price) for row in rows), Decimal(0))
    return DeadlineCost(
        datetime.fromtimestamp(night.deadline_at, UTC), _met(state), requests, realtime, batch
    )


def _met(state: Progress) -> bool | None:
    wanted = state.night.deadline_at
    assert wanted is not None
    if state.night.completed_at is not None:
        return state.night.completed_at <= wanted
    return False if state.at > wanted else None
