"""What a night will cost and how long it will take, from its input, without sending a message.

Belongs here: what is still to be bought, and where its tokens are known from: measured answers, the
API's count of a sample, or a rule. The arithmetic is in `pricing.estimate`, the recommendation in
`advice`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from batch_pipeline.api.failures import refuses_account
from batch_pipeline.api.protocol import ApiFailure
from batch_pipeline.errors import (
    AccountError,
    ApiError,
    InputDataError,
    NoCredentialsError,
    UsageError,
)
from batch_pipeline.flow.costs import avoided, cache_forecast, estimate_ways, experience
from batch_pipeline.flow.costs.advice import Advice, Way, advise
from batch_pipeline.flow.costs.cache_forecast import CacheForecast
from batch_pipeline.flow.costs.estimate_ways import AskedWay
from batch_pipeline.flow.dataset import input_dataset
from batch_pipeline.flow.dataset import snapshot as snapshots
from batch_pipeline.flow.dataset.priced import asks_for_caching
from batch_pipeline.flow.dataset.requests import Declaration, RequestBuilder
from batch_pipeline.flow.deadline import outlook
from batch_pipeline.flow.deadline.forecast import Turnaround
from batch_pipeline.flow.gates import models
from batch_pipeline.flow.gates.billing import searches_bound
from batch_pipeline.flow.gates.prices import price_for
from batch_pipeline.flow.pilot.sample import sample_size
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.planning.unbought import Unbought, unbought
from batch_pipeline.flow.reuse import copies
from batch_pipeline.jobs import due_times as deadlines
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import accounts, nights
from batch_pipeline.ledger import snapshots as inputs
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.snapshots import REUSE, NewSnapshot
from batch_pipeline.pricing.estimate import (
    UNCACHED,
    Amounts,
    Shares,
    Spread,
    Work,
    amounts,
    batch_hours,
    realtime_hours,
)
from batch_pipeline.pricing.prices import MODES, Mode, ModelPrice
from batch_pipeline.pricing.tokens import TokenUsage
from batch_pipeline.reporting.avoided import Avoided, by_cause
from batch_pipeline.storage.files import Files
from batch_pipeline.wording import duration

# From the API's documentation: a token is about 3.5 characters of English. Code and other scripts
# have other ratios.
RULE_BYTES_PER_TOKEN = 3.5
# How many requests the API counts the tokens of; they are spread over all lengths.
COUNTED_REQUESTS = 24


@dataclass(frozen=True)
class Tokens:
    """Tokens for each byte of a prompt and of each answer, and where they are known from.

    `source` names that in a word; `prompt` and `answer` describe it. `output` is None where nothing
    was measured: then each answer counts at `max_tokens`, and has as many web searches as its tools
    allow. `fees` are USD of an answer beside its tokens, where that was measured.
    """

    source: str
    prompt: str
    answer: str
    per_byte: float
    output: Spread | None = None
    shares: Shares = UNCACHED
    fees: Mapping[Mode, Decimal] | None = None
    usage: TokenUsage | None = None


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
    account, trouble = _account(pipeline, spec, partition)
    verdict = models.check(spec, pipeline.api if trouble is None else None)
    with pipeline.ledger.read() as connection:
        night = nights.find_night(connection, spec.name, partition, account)
    with _snapshot(pipeline, spec, partition, night) as (files, snapshot):
        earlier = copies.reusable(pipeline, spec, partition, account)
        left = unbought(pipeline, files, snapshot, night, COUNTED_REQUESTS, earlier)
        found = experience.find(pipeline, spec.name, partition, account, declaration, price)
        counted: float | None = None
        if trouble is None and (found is None or found.output is None):
            counted, trouble = _count(pipeline, files, snapshot, left)
        tokens = _tokens(spec, left, found, counted)
    prefix = cache_forecast.count(pipeline, spec) if trouble is None else None
    notes = [*verdict.warnings, *([] if trouble is None else [trouble])]
    known = left, tokens, found
    return _assembled(
        pipeline, spec, partition, account, night, snapshot, known, notes, prefix=prefix
    )


def expectation(pipeline: Pipeline, spec: JobSpec, night: Night, snapshot: NewSnapshot) -> Estimate:
    """As `estimate`, for a snapshot that was just taken; does not call the API."""
    declaration = Declaration.of(spec)
    left = unbought(pipeline, pipeline.files, snapshot, night, 0)
    price = price_for(spec)
    found = experience.find(pipeline, spec.name, night.partition, night.account, declaration, price)
    tokens = _tokens(spec, left, found, None)
    partition, account = night.partition, night.account
    known = left, tokens, found
    return _assembled(pipeline, spec, partition, account, night, snapshot, known, [])


def _sample(spec: JobSpec, night: Night | None, snapshot: NewSnapshot, left: Unbought) -> int:
    """How many requests a pilot still takes that go in real time, though the job sends batches."""
    verdict = None if night is None else night.pilot
    if verdict is not None and verdict["declaration_hash"] == snapshot.declaration_hash:
        return 0
    if spec.mode == "realtime" or spec.pilot.via != "realtime":
        return 0
    return sample_size(spec.pilot.size, snapshot.units, left.requests)


def _account(pipeline: Pipeline, spec: JobSpec, partition: str) -> tuple[str, str | None]:
    """The account whose nights count as experience, and why the API cannot be asked, else None."""
    try:
        return pipeline.account_as_it_is.name, None
    except (UsageError, ApiError, AccountError) as error:
        with pipeline.ledger.read() as connection:
            shown = nights.shown_night(connection, spec.name, partition)
        account = pipeline.settings.account if shown is None else shown.account
        why = "there is no key" if isinstance(error, NoCredentialsError) else str(error)
        return account, f"the API was not asked to count tokens: {why}"


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
        sources = input_dataset.find_input(pipeline, spec, partition)
    except InputDataError:
        if current is None:
            raise
        sources = None
    if current is not None and (sources is None or sources.signature == current.signature):
        yield pipeline.files, current
        return
    assert sources is not None
    with (
        pipeline.files.staged() as folder,
        Pipeline(replace(pipeline.settings, home=str(folder))) as scratch,
    ):
        yield scratch.files, input_dataset.read_snapshot(scratch, spec, partition, sources)


def _tokens(
    spec: JobSpec,
    left: Unbought,
    found: experience.Experience | None,
    counted: float | None,
) -> Tokens:
    """The tokens from the best source there is; `counted`: tokens a byte, by the API."""
    at_most = f"max_tokens ({spec.max_tokens:,}) for each: none was measured yet"
    if found is not None and found.output is not None:
        per_byte = found.measured.tokens / found.measured.bytes
        usage = found.usage.get("realtime" if spec.mode == "realtime" else "batch", TokenUsage())
        if spec.caching == "off":
            # Without marks of the pipeline's, only the job's own are cached, the same every way.
            own = asks_for_caching(Declaration.of(spec))
            usage = sum(found.usage.values(), TokenUsage()) if own else TokenUsage()
        shares = Shares.of(usage)
        source = found.source
        return Tokens("measured", source, source, per_byte, found.output, shares, found.fees, usage)
    if counted is not None:
        requests = f"{len(left.sample):,} requests of all lengths, counted by the API"
        return Tokens("count_tokens", requests, at_most, counted)
    if found is not None:
        per_byte = found.measured.tokens / found.measured.bytes
        return Tokens("model", found.source, at_most, per_byte)
    rule = (
        f"a rule, {RULE_BYTES_PER_TOKEN} bytes a token (the API's documentation, for English); "
        "with a key a sample is counted"
    )
    return Tokens("rule", rule, at_most, 1 / RULE_BYTES_PER_TOKEN)


def _count(
    pipeline: Pipeline, files: Files, snapshot: NewSnapshot, left: Unbought
) -> tuple[float | None, str | None]:
    """Tokens for each byte of the sample, counted by the API; or None, and why it did not.

    An account that the API refuses is paused, as by a message.
    """
    if not left.sample:
        return None, None
    declaration = Declaration.from_json(snapshot.declaration)
    builder = RequestBuilder(declaration)
    tokens = size = 0
    try:
        for row in snapshots.read_inputs(files, snapshot, left.sample):
            params = builder.rebuild(row.text, row.places)
            tokens += pipeline.api.count_tokens(params, declaration.betas)
            size += len(params)
    except ApiFailure as failure:
        if refuses_account(failure):
            name = pipeline.account_as_it_is.name
            with pipeline.ledger.write() as connection:
                accounts.pause_account(connection, name, str(failure))
        return None, f"the API did not count tokens: {failure}"
    return tokens / size, None


def _assembled(
    pipeline: Pipeline,
    spec: JobSpec,
    partition: str,
    account: str,
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
    asked = estimate_ways.ways(spec, left, tokens, found, buffer)
    if len(asked) > 1 or left.route is not None:
        batch, realtime = (
            estimate_ways.summed(parts)
            for parts in ((way.batch for way in asked), (way.realtime for way in asked))
        )
    else:
        batch, realtime = (amounts(work, price, mode, buffer) for mode in MODES)
    extra = (realtime.expected - batch.expected) / max(1, left.requests)
    extra *= _sample(spec, night, snapshot, left)
    with pipeline.ledger.read() as connection:
        turnaround = outlook.measured_turnaround(connection, account)
        concurrency = spec.realtime.concurrency
        speed = outlook.measured_speed(connection, spec.name, account, concurrency)
    queue = min(
        pipeline.settings.max_queued_requests,
        spec.limits.max_queued_requests or pipeline.settings.max_queued_requests,
    )
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
            f"{concurrency} calls at once, {speed.requests_per_second:,.3g} answers a second "
            f"({'measured' if speed.measured else 'assumed: none was measured yet'})"
        ),
        advice=advise(Way(batch.expected, hours), Way(realtime.expected, calls), _hours_left(spec)),
        warnings=tuple(notes),
        ways=asked,
        avoided=avoided.priced(snapshot, Declaration.of(spec), tokens, price, way_of(spec)),
        caching=cache_forecast.forecast(
            spec,
            left.requests,
            price,
            counted=prefix,
            tokens_per_byte=tokens.per_byte,
            prompt_tokens=work.prompt.mean,
            usage=tokens.usage,
        ),
    )


def way_of(spec: JobSpec) -> Mode:
    """The way that most of a job's requests go."""
    return "realtime" if spec.mode == "realtime" else "batch"


def tokens_without_api(
    pipeline: Pipeline, spec: JobSpec, partition: str, price: ModelPrice, account: str | None = None
) -> Tokens:
    """What is known of a night's tokens without asking the API.

    Without an `account` it is the one whose results are shown, else the declared one.
    """
    if account is None:
        with pipeline.ledger.read() as connection:
            shown = nights.shown_night(connection, spec.name, partition)
        account = pipeline.settings.account if shown is None else shown.account
    declaration = Declaration.of(spec)
    found = experience.find(pipeline, spec.name, partition, account, declaration, price)
    return _tokens(spec, Unbought(0, Spread(0.0, 0.0, 0.0), (), ()), found, None)


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


def as_json(found: Estimate) -> dict[str, Any]:
    """An estimate as a document; amounts are rounded to a millionth of a dollar."""
    work, snapshot = found.work, found.snapshot
    return {
        "job": found.job,
        "partition": found.partition,
        "model_id": found.model_id,
        "price_model": found.price.matched_model,
        "price_library": found.price.source,
        "items": snapshot.items,
        "requests": work.requests,
        "duplicates": snapshot.duplicates,
        "invalid_input": snapshot.count_set_aside("invalid_input"),
        "too_large": snapshot.count_set_aside("too_large"),
        "filtered": snapshot.count_set_aside("filtered"),
        "filtered_by": snapshot.filtered_by,
        "reused": found.reused,
        "already_bought": found.already_bought,
        "tokens": {
            "source": found.tokens.source,
            "input_from": found.tokens.prompt,
            "output_from": found.tokens.answer,
            "input": _rounded(work.prompt),
            "output": _rounded(work.output),
        },
        "fees_usd_per_request": {mode: _usd(fee) for mode, fee in work.fees.items() if fee},
        "mode": found.mode,
        "buffer": found.buffer,
        "batch": _way(found.batch, found.batch_hours, found.batch_hours_from),
        "realtime": _way(found.realtime, found.realtime_hours, found.realtime_hours_from),
        "pilot_extra_usd": _usd(found.pilot_extra_usd),
        "expected_usd": _usd(found.expected_usd),
        "savings_usd": _usd(found.savings_usd),
        "avoided_usd": {cause: _usd(amount) for cause, amount in by_cause(found.avoided).items()},
        "avoided": [{**each.as_json(), "avoided_usd": _usd(each.usd)} for each in found.avoided],
        "by_route": [way.as_json() for way in found.ways] if len(found.ways) > 1 else [],
        "caching": None if found.caching is None else found.caching.as_json(),
        "recommendation": asdict(found.advice),
        "warnings": list(found.warnings),
    }


def _way(found: Amounts, hours: float, hours_from: str) -> dict[str, Any]:
    return {
        "expected_usd": _usd(found.expected),
        "with_buffer_usd": _usd(found.buffered),
        "at_p95_usd": _usd(found.p95),
        "hours": round(hours, 3),
        "hours_from": hours_from,
    }


def _rounded(spread: Spread) -> dict[str, float]:
    return {name: round(value, 1) for name, value in asdict(spread).items()}


def _usd(amount: Decimal) -> float:
    return round(float(amount), 6)
