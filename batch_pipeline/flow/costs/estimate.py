"""What a night will cost and how long it will take, from its input, without sending a message.

Belongs here: what is still to be bought, and what follows from it. Where its tokens are known from
is in `tokens`, the arithmetic in `pricing.estimate`, the recommendation in `advice`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal

from batch_pipeline.errors import (
    AccountError,
    ApiError,
    InputDataError,
    NoCredentialsError,
    UsageError,
)
from batch_pipeline.flow.costs import (
    asked_otherwise,
    avoided,
    cache_forecast,
    document_ways,
    estimate_ways,
    experience,
)
from batch_pipeline.flow.costs.advice import Advice, Way, advise
from batch_pipeline.flow.costs.cache_forecast import CacheForecast
from batch_pipeline.flow.costs.document_ways import DocumentWays
from batch_pipeline.flow.costs.estimate_ways import AskedWay, way_of
from batch_pipeline.flow.costs.tokens import COUNTED_REQUESTS, Tokens, count_tokens, known_tokens
from batch_pipeline.flow.dataset import input_dataset
from batch_pipeline.flow.dataset.reading.files import Sources
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.flow.dataset.sources.find import find_input
from batch_pipeline.flow.deadline import outlook
from batch_pipeline.flow.deadline.forecast import Turnaround
from batch_pipeline.flow.gates import models
from batch_pipeline.flow.gates.billing import searches_bound
from batch_pipeline.flow.gates.prices import price_for
from batch_pipeline.flow.pilot.agreement import least_pairs
from batch_pipeline.flow.pilot.pilot_run import UNITS_PER_SAMPLED, pairs_that_fit, sample_size
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.planning.unbought import Unbought, unbought
from batch_pipeline.flow.reuse import copies
from batch_pipeline.jobs.partitions import due_times as deadlines
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import nights
from batch_pipeline.ledger import snapshots as inputs
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.snapshots import REUSE, NewSnapshot, Snapshot
from batch_pipeline.pricing.estimate import (
    Amounts,
    Spread,
    Work,
    batch_hours,
    realtime_hours,
)
from batch_pipeline.pricing.prices import MODES, ModelPrice
from batch_pipeline.reporting.report.avoided import Avoided, Cascade
from batch_pipeline.storage.files import Files
from batch_pipeline.wording import duration
from batch_pipeline.wording import speed as as_speed


@dataclass(frozen=True)
class Estimate:
    """An estimate of what is still to be bought, in USD, with what it is based on."""

    job: str
    partition: str
    model_id: str
    price: ModelPrice
    snapshot: NewSnapshot
    work: Work
    tokens: Tokens
    mode: str
    buffer: float
    batch: Amounts
    realtime: Amounts
    pilot_extra_usd: Decimal
    batch_hours: float
    batch_hours_from: str
    realtime_hours: float
    realtime_hours_from: str
    advice: Advice
    warnings: tuple[str, ...]
    # The requests by route and model, where these are not all of the job's own.
    ways: tuple[AskedWay, ...]
    avoided: tuple[Avoided, ...]
    caching: CacheForecast | None = None
    cascade: Cascade | None = None
    documents: DocumentWays | None = None

    @property
    def expected_usd(self) -> Decimal:
        """USD as the job is declared: in real time, or as batches with the declared pilot."""
        if self.mode == "realtime":
            return self.realtime.expected
        return self.batch.expected + self.pilot_extra_usd

    @property
    def reused(self) -> int:
        """Requests that earlier nights answer."""
        return self.snapshot.reused

    @property
    def already_bought(self) -> int:
        """Requests of the night that were bought before, or are at the API."""
        return self.snapshot.units - self.reused - self.work.requests

    @property
    def savings_usd(self) -> Decimal:
        return self.realtime.expected - self.batch.expected


def estimate(pipeline: Pipeline, spec: JobSpec, partition: str) -> Estimate:
    """The estimate of a night as it stands; sends no message.

    Writes nothing but the pause of an account that the API refuses.

    Raises the errors that would stop the night: input that cannot be used, a model without a price.
    """
    price = price_for(spec)
    declaration = Declaration.of(spec)
    owner, trouble = _owner(pipeline, spec, partition)
    verdict = models.check(spec, pipeline.api_for(spec) if trouble is None else None)
    with pipeline.ledger.read() as connection:
        night = nights.find_night(connection, spec.name, partition, owner)
    with _snapshot(pipeline, spec, partition, night) as (files, snapshot):
        earlier = copies.reusable(pipeline, spec, partition, owner)
        left = unbought(pipeline, files, snapshot, night, COUNTED_REQUESTS, earlier)
        found = experience.find(pipeline, spec, partition, owner, declaration, price)
        counted: float | None = None
        if trouble is None and (found is None or found.output is None):
            counted, trouble = count_tokens(pipeline, spec, files, snapshot, left)
        tokens = known_tokens(spec, left, found, counted)
    prefix = cache_forecast.count(pipeline, spec) if trouble is None else None
    notes = [*verdict.warnings, *([] if trouble is None else [trouble])]
    known = left, tokens, found
    return _assembled(
        pipeline, spec, partition, owner, night, snapshot, known, notes, prefix=prefix
    )


def expectation(pipeline: Pipeline, spec: JobSpec, night: Night, snapshot: NewSnapshot) -> Estimate:
    """As `estimate`, for a snapshot that was just taken; does not call the API."""
    declaration = Declaration.of(spec)
    left = unbought(pipeline, pipeline.files, snapshot, night, 0)
    price = price_for(spec)
    found = experience.find(pipeline, spec, night.partition, night.owner, declaration, price)
    tokens = known_tokens(spec, left, found, None)
    partition, owner = night.partition, night.owner
    known = left, tokens, found
    return _assembled(pipeline, spec, partition, owner, night, snapshot, known, [])


def of_input(pipeline: Pipeline, spec: JobSpec, partition: str, sources: Sources) -> Estimate:
    """As `estimate`, of the whole input, bought or not; does not call the API.

    Where the counts of the input tell all of it, no file of it is kept.
    """
    price, owner = price_for(spec), _owner(pipeline, spec, partition)[0]
    declaration = Declaration.of(spec)
    if spec.asked_by_routes() or spec.near_duplicates is not None or spec.reuse is not None:
        with _read(pipeline, spec, partition, sources) as (files, snapshot):
            earlier = copies.reusable(pipeline, spec, partition, owner)
            left = unbought(pipeline, files, snapshot, None, 0, earlier)
    else:
        snapshot = input_dataset.read_snapshot(pipeline, spec, partition, sources, keep=False)
        size, visual = snapshot.size_of_prompts, snapshot.visual_tokens or 0
        mean = size / max(1, snapshot.units)
        lengths = [(snapshot.units, mean)] if snapshot.units else []
        visual_mean = visual / max(1, snapshot.units)
        spread = Spread(mean, mean, mean)
        left = Unbought(snapshot.units, spread, lengths, (), visual=visual_mean)
    found = experience.find(pipeline, spec, partition, owner, declaration, price)
    known = left, known_tokens(spec, left, found, None), found
    return _assembled(pipeline, spec, partition, owner, None, snapshot, known, [])


def _sample(spec: JobSpec, night: Night | None, snapshot: NewSnapshot, left: Unbought) -> int:
    """How many requests a pilot still takes that go in real time, though the job sends batches."""
    verdict = None if night is None else night.pilot
    if verdict is not None and verdict["declaration_hash"] == snapshot.declaration_hash:
        return 0
    if spec.mode == "realtime" or spec.pilot.via != "realtime":
        return 0
    return sample_size(spec.pilot, snapshot.units, left.requests)


def _owner(pipeline: Pipeline, spec: JobSpec, partition: str) -> tuple[str, str | None]:
    """The owner whose nights count as experience, and why the API cannot be asked, else None."""
    try:
        return pipeline.owner_as_it_is(spec).name, None
    except (UsageError, ApiError, AccountError) as error:
        with pipeline.ledger.read() as connection:
            shown = nights.shown_night(connection, spec.name, partition)
        owner = pipeline.declared_owner(spec) if shown is None else shown.owner
        why = "there is no key" if isinstance(error, NoCredentialsError) else str(error)
        return owner, f"the API was not asked to count tokens: {why}"


@contextmanager
def _snapshot(
    pipeline: Pipeline, spec: JobSpec, partition: str, night: Night | None
) -> Iterator[tuple[Files, NewSnapshot]]:
    """The night's snapshot where input and declaration are unchanged, else a temporary one.

    A temporary one is in the staging folder and is removed at the end of the block.
    """
    current = None
    if night is not None and night.snapshot_id is not None and night.pruned_at is None:
        with pipeline.ledger.read() as connection:
            current = inputs.get_snapshot(connection, night.snapshot_id)
        if not Declaration.of(spec).has_made(current):
            current = None
    try:
        sources = find_input(pipeline, spec, partition)
    except InputDataError:
        if current is None:
            raise
        sources = None
    if current is not None and (sources is None or sources.signature == current.signature):
        yield pipeline.files, current
        return
    assert sources is not None
    with _read(pipeline, spec, partition, sources) as read:
        yield read


@contextmanager
def _read(
    pipeline: Pipeline, spec: JobSpec, partition: str, sources: Sources
) -> Iterator[tuple[Files, NewSnapshot]]:
    """A snapshot in the staging folder, which is removed at the end of the block."""
    with (
        pipeline.files.staged() as folder,
        Pipeline(replace(pipeline.settings, home=str(folder))) as scratch,
    ):
        yield scratch.files, input_dataset.read_snapshot(scratch, spec, partition, sources)


def _assembled(
    pipeline: Pipeline,
    spec: JobSpec,
    partition: str,
    owner: str,
    night: Night | None,
    snapshot: NewSnapshot,
    known: tuple[Unbought, Tokens, experience.Experience | None],
    notes: list[str],
    *,
    prefix: int | None = None,
) -> Estimate:
    price = price_for(spec)
    left, tokens, found = known
    if left.reusable:
        # As the snapshot will be once that is decided.
        counts = {"documents": left.reusable, "bytes": left.reusable_bytes}
        snapshot = replace(snapshot, avoided={**snapshot.avoided, REUSE: counts})
    output = tokens.output or Spread(*[float(spec.max_tokens)] * 3)
    searches = searches_bound(Declaration.of(spec), price)
    work = Work(
        requests=left.requests,
        prompt=left.sizes.scaled(tokens.per_byte),
        output=output,
        lengths=[(requests, size * tokens.per_byte) for requests, size in left.lengths],
        shares=tokens.shares,
        fees=tokens.fees if tokens.fees is not None else dict.fromkeys(MODES, searches),
    )
    buffer = spec.budget.buffer

    def priced(some: Unbought) -> Decimal:
        scaled = replace(
            work,
            prompt=some.sizes.scaled(tokens.per_byte),
            lengths=[(requests, size * tokens.per_byte) for requests, size in some.lengths],
        )
        ways = estimate_ways.ways(spec, some, tokens, found, buffer)
        batch, realtime = estimate_ways.both(some, scaled, price, ways, buffer)
        return realtime.expected if spec.mode == "realtime" else batch.expected

    asked = estimate_ways.ways(spec, left, tokens, found, buffer)
    caching = _caching(spec, left, price, tokens, prefix)
    way, declaration = way_of(spec), Declaration.of(spec)
    saved = (
        *avoided.priced(snapshot, declaration, tokens, price, way),
        *asked_otherwise.expected(asked, caching, way),
        *avoided.of_twins(_twins(spec, night, snapshot, left), declaration, tokens, price, way),
    )
    batch, realtime = estimate_ways.both(left, work, price, asked, buffer)
    extra = (realtime.expected - batch.expected) / max(1, left.requests)
    extra *= _sample(spec, night, snapshot, left)
    with pipeline.ledger.read() as connection:
        turnaround = outlook.measured_turnaround(connection, owner)
        concurrency = spec.realtime.concurrency
        speed = outlook.measured_speed(connection, spec.name, owner, concurrency)
        queue = pipeline.queue_limit(connection, spec)
    hours = batch_hours(left.requests, queue, turnaround.seconds)
    calls = realtime_hours(left.requests, speed.requests_per_second)
    rounds = math.ceil(left.requests / queue)
    return Estimate(
        job=spec.name,
        partition=partition,
        model_id=spec.model_id,
        price=price,
        snapshot=snapshot,
        work=work,
        tokens=tokens,
        mode=spec.mode,
        buffer=buffer,
        batch=batch,
        realtime=realtime,
        pilot_extra_usd=extra,
        batch_hours=hours,
        batch_hours_from=_batch_hours_from(turnaround, rounds, queue),
        realtime_hours=calls,
        realtime_hours_from=(
            f"{concurrency} calls at once, {as_speed(speed.requests_per_second)} answers a second "
            f"({'measured' if speed.measured else 'assumed: none was measured yet'})"
        ),
        advice=advise(Way(batch.expected, hours), Way(realtime.expected, calls), _hours_left(spec)),
        warnings=tuple(notes),
        ways=asked,
        avoided=saved,
        caching=caching,
        cascade=asked_otherwise.expected_cascade(asked, way),
        documents=document_ways.compare(spec, snapshot, left, priced),
    )


def _caching(
    spec: JobSpec, left: Unbought, price: ModelPrice, tokens: Tokens, counted: int | None
) -> CacheForecast | None:
    """The forecast for the requests that ask the job's own model as it declares."""
    own = left if left.route is None else left.scaled(0)
    if left.routes:
        own = left.routes.get(None, own.scaled(0))
    return cache_forecast.forecast(
        spec,
        own.requests,
        price,
        counted=counted,
        tokens_per_byte=tokens.per_byte_of_texts(left),
        prompt_tokens=own.sizes.mean * tokens.per_byte,
        usage=tokens.usage,
    )


def _twins(
    spec: JobSpec, night: Night | None, snapshot: NewSnapshot, left: Unbought
) -> tuple[int, float]:
    """The near duplicates that leaders would answer for, and their bytes, if the pilot shows that
    they agree; none where it cannot show that, or has shown that they do not."""
    near, verdict = spec.near_duplicates, None if night is None else night.pilot
    if near is None or not left.led:
        return 0, 0.0
    pairs = 0
    if isinstance(snapshot, Snapshot) and verdict is not None and snapshot.is_judged_by(verdict):
        if not (verdict.get("near_duplicates") or {}).get("accepted"):
            return 0, 0.0
    else:
        most = snapshot.units // UNITS_PER_SAMPLED
        # The pilot asks both of a pair.
        pairs = pairs_that_fit(near, min(spec.pilot.size, most), most) if spec.pilot.size else 0
        if not pairs or left.led < least_pairs(near.min_agreement):
            return 0, 0.0
    led = max(0, left.led - pairs)
    return led, left.led_bytes / left.led * led


def _batch_hours_from(turnaround: Turnaround, rounds: int, queue: int) -> str:
    known = (
        f"of this account's latest {turnaround.batches:,} batches"
        if turnaround.batches
        else "assumed: none was measured yet, and a batch may take 24 h"
    )
    each = f"{duration(turnaround.seconds)} a batch ({known})"
    return each if rounds <= 1 else f"{rounds:,} rounds of the queue ({queue:,}), {each}"


def _hours_left(spec: JobSpec) -> float | None:
    if spec.deadline is None:
        return None
    now = datetime.now(UTC)
    return (deadlines.due(spec.deadline, now, spec.partitions) - now).total_seconds() / 3600
