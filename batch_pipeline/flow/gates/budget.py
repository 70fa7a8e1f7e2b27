"""A night's ceilings in USD, and the most that its shards can cost.

Belongs here: the amounts that admission checks, made of the job's limits, the prices and the tokens
measured. The transaction that checks and reserves them stands in `ledger.admission`, what was spent
in `ledger.admission.budget`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import orjson
from sqlalchemy import Connection

from batch_pipeline.flow.dataset.requests import Declaration
from batch_pipeline.flow.gates.billing import searches_bound
from batch_pipeline.flow.gates.cache_marks import read_marks, written_at_most
from batch_pipeline.flow.gates.prices import price_at, stated_prices
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import nights, shards, submissions, sums
from batch_pipeline.ledger import snapshots as inputs
from batch_pipeline.ledger.admission import admission
from batch_pipeline.ledger.admission.admission import Limits
from batch_pipeline.ledger.admission.budget import Ceilings, Money, Shortfall, spendings
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.shards import Shard
from batch_pipeline.ledger.snapshots import Snapshot
from batch_pipeline.ledger.submissions import Submission
from batch_pipeline.ledger.sums import FeeKind, Sums
from batch_pipeline.pricing.bounds import LEAST_ANSWERS, Bounds, Measured
from batch_pipeline.pricing.prices import Mode, ModelPrice
from batch_pipeline.settings import Settings
from batch_pipeline.wording import usd

# Shards are cut so that this number of them fits under the tightest ceiling at once. What a shard
# can cost at most is reserved, and less is billed, so that collected shards make room for others. A
# night in one shard might never go: the most that it can cost may exceed a ceiling that its real
# cost stays far below.
SHARDS_UNDER_A_CEILING = 8


def limits(pipeline: Pipeline, spec: JobSpec, night: Night) -> Limits:
    """What admission checks for a night: its share of the queue and its ceilings."""
    with pipeline.ledger.read() as connection:
        money = _money(connection, pipeline.settings, spec, night)
    return pipeline.limits(spec.limits.max_queued_requests, money, read_marks(spec))


def shortfall(
    connection: Connection, settings: Settings, spec: JobSpec, night: Night
) -> Shortfall | None:
    """The ceiling that a night's next shard does not fit under; None: it fits, or none waits."""
    money = _money(connection, settings, spec, night)
    shard = shards.next_to_go(connection, night.id) if money.ceilings.any else None
    if shard is None:
        return None
    found = admission.affordable(connection, night, shard, money)
    return found if isinstance(found, Shortfall) else None


def note_if_passed(pipeline: Pipeline, spec: JobSpec, night: Night, submission: Submission) -> None:
    """Note on the night that a ceiling was passed, where the submission was billed more than its
    bound: its input had more tokens a byte than measured before, by more than the buffer."""
    declared = ceilings(pipeline.settings, spec)
    if not declared.any:
        return
    with pipeline.ledger.write() as connection:
        submission = submissions.get(connection, submission.id)
        if submission.cost_usd is None or submission.cost_usd <= submission.usd_bound:
            return
        for name, limit, spent in spendings(connection, night, declared):
            if spent.total <= limit:
                continue
            message = (
                f"{name} ({usd(limit)}) is passed by {usd(spent.total - limit)}: "
                f"{submission.requests:,} requests were billed {usd(submission.cost_usd)} where at "
                f"most {usd(submission.usd_bound)} were reserved, because their input measured "
                f"more tokens a byte than before; budget.buffer is {spec.budget.buffer:g}"
            )
            nights.update_night(connection, night.id, over_budget=message)


def _money(connection: Connection, settings: Settings, spec: JobSpec, night: Night) -> Money:
    """The ceilings of a night that has a snapshot, and the bounds of its shards as measured now."""
    declared = ceilings(settings, spec)
    if not declared.any:
        return Money(stated_prices=stated_prices(spec))
    snapshot_id = nights.get_night(connection, night.id).snapshot_id
    assert snapshot_id is not None
    bounds = bounds_of(connection, spec, night, inputs.get_snapshot(connection, snapshot_id))
    return Money(declared, lambda shard: most_usd(bounds, shard), stated_prices(spec))


def ceilings(settings: Settings, spec: JobSpec) -> Ceilings:
    """The ceilings that the job and the environment declare."""
    return Ceilings(
        partition=spec.budget.max_usd_per_partition,
        job_month=spec.budget.max_usd_per_month,
        account_month=settings.max_usd_per_month,
    )


def bounds_of(connection: Connection, spec: JobSpec, night: Night, snapshot: Snapshot) -> Bounds:
    """What bounds the cost of a snapshot's requests: today's price, and the tokens a byte that the
    night has measured under the snapshot's declaration."""
    declaration = Declaration.from_json(snapshot.declaration)
    snapshots = inputs.snapshots_of(connection, night.id)
    tokens = measured(
        part
        for part in sums.of_night(connection, night.id)
        if snapshots[part.snapshot_id].declaration_hash == snapshot.declaration_hash
    )
    price = price_at(declaration, datetime.now(UTC), stated_prices(spec))
    return Bounds(
        price,
        tokens.tokens_per_byte(spec.budget.buffer),
        asks_for_caching(declaration),
        _fees(connection, spec, night, declaration, price, tokens),
        written_at_most(spec),
    )


def _fees(
    connection: Connection,
    spec: JobSpec,
    night: Night,
    declaration: Declaration,
    price: ModelPrice,
    tokens: Measured,
) -> Decimal:
    """The most in USD that a request is billed beside its tokens, as far as that is known.

    Searches are bounded by the declaration, where it says `max_uses`. All else is what the night
    has measured, with the buffer.
    """
    bound = searches_bound(declaration, price)
    if tokens.answers < LEAST_ANSWERS:
        return bound
    measured_usd = sum(
        (
            fee.usd
            for fee in sums.fees(connection, night.id)
            if fee.usd is not None and not (bound and fee.kind is FeeKind.WEB_SEARCHES)
        ),
        Decimal(0),
    )
    each = max(measured_usd, Decimal(0)) / tokens.answers
    return bound + each * (1 + Decimal(str(spec.budget.buffer)))


def measured(collected: Iterable[Sums]) -> Measured:
    """The billed prompt tokens of collected submissions, and the bytes of their requests."""
    found = Measured()
    for part in collected:
        found = Measured(
            found.answers + part.measured_answers,
            found.bytes + part.measured_bytes,
            found.tokens + part.measured_tokens,
        )
    return found


def asks_for_caching(declaration: Declaration) -> bool:
    """Whether requests may be billed for cache writes of the job's own asking, anywhere in them.

    The API caches only where it is asked to; what `caching` asks for is `written_at_most`.
    The declaration tells: the word `cache_control` in a document is text of the prompt.
    """
    return b'"cache_control"' in orjson.dumps(declaration.params)


def most_usd(bounds: Bounds, shard: Shard) -> Decimal:
    """The most that a shard can cost, sent the way that it was planned for."""
    return bounds.usd(
        shard.engine,
        input_bytes=shard.bytes,
        largest_bytes=shard.largest_bytes,
        output_tokens=shard.output_tokens,
        requests=shard.requests,
    )


def realtime_usd(bounds: Bounds, shard: Shard) -> Decimal:
    """The most that a shard can cost call by call, whichever way it was planned for."""
    return most_usd(bounds, replace(shard, engine="realtime"))


def requests_at_once(
    bounds: Bounds, declared: Ceilings, snapshot: Snapshot, mode: Mode = "batch"
) -> int | None:
    """How many requests a shard may have so that several shards fit under the tightest ceiling;
    None: there is no ceiling.

    Calculated from a request of mean size: admission checks the bound of the shard itself.
    """
    limits = (declared.partition, declared.job_month, declared.account_month)
    given = [limit for limit in limits if limit is not None]
    if not given or not snapshot.items:
        return None
    sent = max(1, snapshot.items - snapshot.count_set_aside())
    mean_bytes = -(-snapshot.request_bytes // sent)
    declaration = Declaration.from_json(snapshot.declaration)
    one = bounds.usd(
        mode,
        input_bytes=mean_bytes,
        largest_bytes=mean_bytes,
        output_tokens=declaration.max_tokens,
    )
    return max(1, int(min(given) / SHARDS_UNDER_A_CEILING / one))
