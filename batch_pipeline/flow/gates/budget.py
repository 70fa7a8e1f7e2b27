"""A night's ceilings in USD, and the most that its shards can cost.

Belongs here: the amounts that admission checks, made of the job's limits, the prices and the tokens
measured. The transaction that checks and reserves them stands in `ledger.admission`, what was spent
in `ledger.admission.budget`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

from sqlalchemy import Connection

from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.flow.dataset.requests.priced import asks_for_caching, part_of
from batch_pipeline.flow.gates.billing import searches_bound
from batch_pipeline.flow.gates.cache_marks import read_marks, written_at_most
from batch_pipeline.flow.gates.prices import price_at, stated_prices
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import nights, shards, sums
from batch_pipeline.ledger import snapshots as inputs
from batch_pipeline.ledger.admission import admission
from batch_pipeline.ledger.admission.admission import Limits
from batch_pipeline.ledger.admission.budget import Ceilings, Money, Shortfall, spendings
from batch_pipeline.ledger.admission.senders import Sender
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.shards import Shard
from batch_pipeline.ledger.snapshots import Snapshot
from batch_pipeline.ledger.submissions import submissions
from batch_pipeline.ledger.submissions.submissions import Submission
from batch_pipeline.ledger.sums import FeeKind, Sums
from batch_pipeline.pricing.bounds import LEAST_ANSWERS, Measured, ModelBounds, Part, ShardSize
from batch_pipeline.pricing.prices import Mode, ModelPrice
from batch_pipeline.wording import usd

# Shards are cut so that this number of them fits under the tightest ceiling at once. What a shard
# can cost at most is reserved, and less is billed, so that collected shards make room for others. A
# night in one shard might never go: the most that it can cost may exceed a ceiling that its real
# cost stays far below.
SHARDS_UNDER_A_CEILING = 8


def limits(pipeline: Pipeline, spec: JobSpec, night: Night) -> Limits:
    """What admission checks for a night: its share of the queue and its ceilings."""
    connected = pipeline.answering(spec)
    with pipeline.ledger.read() as connection:
        senders = pipeline.senders(connection, connected)
        money = _money(connection, spec, night, senders)
    return Limits(
        senders=senders,
        job_queue=spec.limits.max_queued_requests,
        lease_seconds=pipeline.settings.lease_seconds,
        money=money,
        marks=read_marks(spec),
    )


def shortfall(
    connection: Connection, pipeline: Pipeline, spec: JobSpec, night: Night
) -> Shortfall | None:
    """The ceiling that a night's next shard does not fit under; None: it fits, or none waits."""
    senders = pipeline.senders_of(connection, night)
    money = _money(connection, spec, night, senders)
    any_ = tightest(spec, senders) is not None
    shard = shards.next_to_go(connection, night.id) if any_ else None
    if shard is None:
        return None
    found = [
        admission.affordable(connection, night, shard, money.of(sender.account, sender))
        for sender in senders
    ]
    short = [each for each in found if isinstance(each, Shortfall)]
    return short[0] if short and len(short) == len(found) else None


def note_if_passed(pipeline: Pipeline, spec: JobSpec, night: Night, submission: Submission) -> None:
    """Note on the night that a ceiling was passed, where the submission was billed more than its
    bound: its input had more tokens a byte than measured before, by more than the buffer."""
    with pipeline.ledger.write() as connection:
        declared = _ceilings_of(pipeline.senders_of(connection, night), spec, submission.account)
        if not declared.any:
            return
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


def _money(connection: Connection, spec: JobSpec, night: Night, senders: Sequence[Sender]) -> Money:
    """The ceilings of a night that has a snapshot, and the bounds of its shards as measured now."""
    declared = ceilings(spec, senders)
    if not declared.any and tightest(spec, senders) is None:
        return Money(stated_prices=stated_prices(spec))
    snapshot_id = nights.get_night(connection, night.id).snapshot_id
    assert snapshot_id is not None
    bounds = bounds_of(connection, spec, night, inputs.get_snapshot(connection, snapshot_id))
    return Money(declared, lambda shard: most_usd(bounds, shard), stated_prices(spec))


def ceilings(spec: JobSpec, senders: Sequence[Sender]) -> Ceilings:
    """The ceilings that the job declares, and that of its account if one alone may send: of several
    each has its own, under which it is asked for room."""
    declared = Ceilings(
        partition=spec.budget.max_usd_per_partition, job_month=spec.budget.max_usd_per_month
    )
    return declared.of(senders[0].account, senders[0]) if len(senders) == 1 else declared


def _ceilings_of(senders: Sequence[Sender], spec: JobSpec, account: str) -> Ceilings:
    """The ceilings for what an account has sent."""
    own = next((sender for sender in senders if sender.account == account), None)
    return ceilings(spec, ()).of(account, own)


def tightest(spec: JobSpec, senders: Sequence[Sender]) -> Decimal | None:
    """The smallest of all ceilings that a shard may come under; None: there is none."""
    of_accounts = (sender.max_usd_per_month for sender in senders)
    every = (spec.budget.max_usd_per_partition, spec.budget.max_usd_per_month, *of_accounts)
    return min((limit for limit in every if limit is not None), default=None)


def bounds_of(
    connection: Connection, spec: JobSpec, night: Night, snapshot: Snapshot
) -> ModelBounds:
    """What bounds the cost of a snapshot's requests: today's prices, and the tokens a byte that the
    night has measured under the snapshot's declaration, by model."""
    declaration = Declaration.from_json(snapshot.declaration)
    snapshots = inputs.snapshots_of(connection, night.id)
    same = {
        snapshot_id
        for snapshot_id, each in snapshots.items()
        if each.declaration_hash == snapshot.declaration_hash
    }
    tokens = measured(p for p in sums.of_night(connection, night.id) if p.snapshot_id in same)
    others: dict[str, Measured] = {}
    of_models = sums.measured_by_model(connection, night.id)
    for (snapshot_id, model_id), found in of_models.items():
        if snapshot_id in same:
            more = Measured(*found.values())
            others[model_id] = others.get(model_id, Measured()) + more
    own = tokens
    for other in others.values():
        own -= other
    price = price_at(declaration, datetime.now(UTC), stated_prices(spec))
    each = _measured_fees(connection, spec, night, declaration, price, tokens)
    return ModelBounds(
        price,
        own.tokens_per_byte(spec.budget.buffer),
        asks_for_caching(declaration),
        searches_bound(declaration, price) + each,
        written_at_most(spec),
        declaration.model_id,
        spec.budget.buffer,
        others,
        stated_prices(spec),
        each,
    )


def _measured_fees(
    connection: Connection,
    spec: JobSpec,
    night: Night,
    declaration: Declaration,
    price: ModelPrice,
    tokens: Measured,
) -> Decimal:
    """USD that a request is billed beside its tokens, as the night has measured, with the buffer.

    Without searches where the declaration bounds them, because it says `max_uses`.
    """
    bound = searches_bound(declaration, price)
    if tokens.answers < LEAST_ANSWERS:
        return Decimal(0)
    measured_usd = sum(
        (
            fee.usd
            for fee in sums.fees(connection, night.id)
            if fee.usd is not None and not (bound and fee.kind is FeeKind.WEB_SEARCHES)
        ),
        Decimal(0),
    )
    each = max(measured_usd, Decimal(0)) / tokens.answers
    return each * (1 + Decimal(str(spec.budget.buffer)))


def measured(collected: Iterable[Sums]) -> Measured:
    """The billed prompt tokens of collected submissions, and the bytes of their requests."""
    found = Measured()
    for part in collected:
        found += Measured(part.measured_answers, part.measured_bytes, part.measured_tokens)
    return found


def most_usd(bounds: ModelBounds, shard: Shard) -> Decimal:
    """The most that a shard can cost, sent the way that it was planned for."""
    whole = {
        "input_bytes": shard.size_of_prompts,
        "largest_bytes": shard.largest_bytes,
        "output_tokens": shard.output_tokens,
        "requests": shard.requests,
    }
    parts = None if shard.parts is None else [Part(**part) for part in shard.parts]
    return bounds.of_size(shard.engine, ShardSize(whole, parts))


def realtime_usd(bounds: ModelBounds, shard: Shard) -> Decimal:
    """The most that a shard can cost call by call, whichever way it was planned for."""
    return most_usd(bounds, replace(shard, engine="realtime"))


def requests_at_once(
    bounds: ModelBounds,
    tightest: Decimal | None,
    snapshot: Snapshot,
    mode: Mode = "batch",
    also: Iterable[Declaration] = (),
) -> int | None:
    """How many requests a shard may have so that several shards fit under the `tightest` ceiling;
    None: there is no ceiling.

    Calculated from a request of mean size, of the dearest route, or of what is asked `also`:
    admission checks the bound of the shard itself.
    """
    if tightest is None or not snapshot.items:
        return None
    sent = max(1, snapshot.items - snapshot.count_set_aside())
    mean_bytes = -(-snapshot.size_of_prompts // sent)
    declaration = Declaration.from_json(snapshot.declaration)
    one = max(
        bounds.of(part_of(asked, 1, mean_bytes, mean_bytes, asked.max_tokens)).usd(
            mode,
            input_bytes=mean_bytes,
            largest_bytes=mean_bytes,
            output_tokens=asked.max_tokens,
        )
        for asked in (*declaration.by_route().values(), *also)
    )
    return max(1, int(tightest / SHARDS_UNDER_A_CEILING / one))
