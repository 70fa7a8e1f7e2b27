"""`caching: auto`: warms the API's prompt cache up, measures, and goes on with marks if they pay.

1. The API counts the tokens of the prefix that all prompts of a job share (`count`). One that is
   shorter than its model's minimum is never marked.
2. One open unit of each prefix goes first as a batch of its own, with a 1-hour mark (`prepare`).
   Its answer is kept; its row bears the write. The other batches wait for it.
3. The first batch after it goes with marks, and the others wait for what it measures.
4. They go with marks where the marked batches of the night were cheaper by them, and without where
   not. That is decided for each model, also within a batch that asks several, and is the break-even
   of the model's prices: `cache_saved_usd` is what reads saved less what writes cost more.

A night waits an hour at most for both together, and never where its deadline would suffer; then it
goes on without marks. Everything follows from what the ledger has of submissions, in the
transaction that claims a shard: a second process, or one after a crash, decides the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import pyarrow as pa
from sqlalchemy import Connection

from batch_pipeline.api.protocol import ApiFailure
from batch_pipeline.flow.batches.refused_shards import part_of
from batch_pipeline.flow.dataset.requests import cache_marks as places
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.flow.deadline import outlook
from batch_pipeline.flow.gates.cache_marks import asked, cached_models, fitting, marked, warmed_as
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.planning import manifests, variants
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import cache_prefixes, cache_use, nights, shards, snapshots
from batch_pipeline.ledger.admission.admission import NO_MARKS, Limits, Marks
from batch_pipeline.ledger.admission.queue import read_queues
from batch_pipeline.ledger.cache_use import NOTHING_CACHED, CacheSums
from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.database.ledger import now
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.shards import Shard, ShardState
from batch_pipeline.ledger.submissions.submissions import LIVE, State
from batch_pipeline.pricing.tokens import LIFETIME_SECONDS, Lifetime
from batch_pipeline.safe_text import get_logger

log = get_logger(__name__)

LIFETIME: Lifetime = "1h"
# The warm-up and the first batch with marks are waited for this long at most, both together.
LONGEST_WAIT_SECONDS = 3_600.0
# With fewer requests a warm-up costs more time than its reads are worth.
LEAST_REQUESTS = 20
# More warm-ups of one night would mean that its batches take longer than an entry lasts.
MOST_WARM_UPS = 5
# A count that failed is tried again after this time.
COUNT_AGAIN_SECONDS = 3_600.0

WARMING = "a batch of its own warms the prompt cache up for the others"
MEASURING = "the first batch with cache marks shows whether they pay for the others"


def count(pipeline: Pipeline, spec: JobSpec, night: Night) -> None:
    """Have the API count the tokens of the job's shared prefixes, once for each account.

    Where it does not, the answers tell: a prefix that is too short is neither written nor read.
    """
    if spec.caching == "auto":
        for declaration in asked(spec):
            _count(pipeline, spec, night, declaration)


def _count(pipeline: Pipeline, spec: JobSpec, night: Night, declaration: Declaration) -> None:
    prefix = places.prefix_key(declaration)
    with pipeline.ledger.read() as connection:
        found = cache_prefixes.find(connection, night.owner, prefix)
        at = now(connection)
    if found is not None and (
        found.tokens is not None or at - found.counted_at < COUNT_AGAIN_SECONDS
    ):
        return
    tokens = problem = None
    try:
        tokens = pipeline.api_for(spec).count_tokens(
            places.prefix_params(declaration), declaration.betas
        )
    except ApiFailure as failure:
        problem = str(failure)
    with pipeline.ledger.write() as connection:
        model = declaration.model_id
        cache_prefixes.record(connection, night.owner, prefix, model, tokens, problem)
        found = cache_prefixes.find(connection, night.owner, prefix)
    assert found is not None
    log.info("%s %s: caching: %s", night.job, night.partition, found.describe())


@dataclass(frozen=True)
class Standing:
    """What is known of a night's prefixes when a batch of the night is about to go.

    `models` are those of the batch whose prefix is long enough, with the sums of the night's
    marked batches that have a result; a batch that marks those of `measuring` has none yet.

    `began` is when the latest warm-up was claimed, None: there was none; `warming`: it has no
    result yet; `wrote`: it wrote the prefix or read it. The entry is there until `warm_until`.
    `wait_until`: until then the others may wait; `warm_up_until`: until then the deadline, if there
    is one, leaves time for a new warm-up. Times in seconds since the epoch.
    """

    now: float
    models: Mapping[str, CacheSums]
    began: float | None = None
    warming: bool = False
    wrote: bool = False
    warm_until: float = 0.0
    measuring: frozenset[str] = frozenset()
    wait_until: float = 0.0
    warm_up_until: float = math.inf

    @property
    def unmeasured(self) -> frozenset[str]:
        return frozenset(name for name, used in self.models.items() if used.hit_rate is None)

    @property
    def worth_marks(self) -> frozenset[str]:
        """The models for which marks paid in this night, or were not measured yet."""
        paying = {name for name, used in self.models.items() if used.saved_usd > 0}
        return self.unmeasured | paying

    @property
    def is_warm(self) -> bool:
        return self.wrote and self.now < self.warm_until


def decide(standing: Standing, *, warms: bool = False) -> Marks:
    """Whether the next batch is sent with marks, or waits; `warms`: it is a warm-up itself."""
    worth, measured_now = standing.worth_marks, standing.unmeasured & standing.measuring
    if warms or not worth:
        return marked(LIFETIME, worth)
    if not standing.warming and not standing.is_warm:
        return NO_MARKS
    waits = measured_now and standing.unmeasured == standing.models.keys()
    wait = WARMING if standing.warming else MEASURING if waits else None
    if wait is None:
        # A model that is being measured does without, rather than keep the others waiting.
        return marked(LIFETIME, worth - measured_now)
    return Marks(wait=wait) if standing.now < standing.wait_until else NO_MARKS


def wants_warm_up(standing: Standing) -> bool:
    """Whether a batch of its own is to warm the cache up now."""
    if not standing.worth_marks or standing.warming or standing.is_warm:
        return False
    if standing.now >= standing.warm_up_until:
        return False
    # One that wrote nothing would write nothing again.
    return standing.began is None or standing.wrote


def with_marks(spec: JobSpec, limits: Limits) -> Limits:
    """The limits of admission for a night's batches: with `auto` by what was measured."""
    if spec.caching != "auto":
        return limits
    fits, otherwise = fitting(spec), limits.marks

    def read(connection: Connection, night: Night, shard: Shard, account: str) -> Marks:
        if shard.engine != "batch" or shard.pilot:
            return otherwise(connection, night, shard, account)
        if not fits(shard):
            return NO_MARKS
        standing = standing_of(connection, spec, night, shard, limits.at_once, account)
        return decide(standing, warms=shard.warms is not None)

    return replace(limits, marks=read)


def waits_for(
    connection: Connection, spec: JobSpec, night: Night, shard: Shard, queue: int
) -> str | None:
    """Why a batch of a night waits for the prompt cache; None: through one of its accounts it does
    not. `queue` is the most requests that the night may have at the API at once."""
    if spec.caching != "auto" or shard.engine != "batch" or shard.pilot:
        return None
    waits = [
        decide(standing, warms=shard.warms is not None).wait
        for standing in _by_account(connection, spec, night, shard, queue)
    ]
    return waits[0] if all(waits) else None


def _by_account(
    connection: Connection, spec: JobSpec, night: Night, shard: Shard, queue: int
) -> list[Standing]:
    return [
        standing_of(connection, spec, night, shard, queue, account) for account in night.sent_by
    ]


def _latest_wait(connection: Connection, night: Night, queue: int) -> float:
    """Until when batches may wait: what waits needs a turnaround for each time that it fills the
    queue, and one to spare, before the deadline."""
    if night.deadline_at is None:
        return math.inf
    waiting = shards.waiting_by_engine(connection, night.id).get("batch", 0)
    rounds = math.ceil((waiting + night.open_requests) / queue) + 1
    turnaround = outlook.measured_turnaround(connection, night.owner)
    return night.deadline_at - rounds * turnaround.seconds


def standing_of(
    connection: Connection, spec: JobSpec, night: Night, shard: Shard, queue: int, account: str
) -> Standing:
    """What the ledger knows of the prefixes of a batch in the cache of an account's workspace;
    `queue` as in `waits_for`."""
    at = now(connection)
    latest = _latest_wait(connection, night, queue)
    models = cached_models(connection, spec, night.owner, shard)
    measured = _measured(connection, night)
    standing = Standing(
        at, {name: measured.get(name, NOTHING_CACHED) for name in models}, warm_up_until=latest
    )
    warm_up = cache_prefixes.latest_warm_up(connection, account, warmed_as(spec))
    if warm_up is None:
        return standing
    since = warm_up.intent_at
    flying = cache_prefixes.marked_batches(connection, night.id, LIVE, since)
    ended = cache_prefixes.latest_marked_end(connection, night.id, since)
    used = at if flying else max(ended, warm_up.ended_at or since)
    # Of another night's warm-up this one has waited for nothing yet.
    own = warm_up.night_id == night.id or warm_up.state in LIVE
    began = since if own or not flying else flying[0].intent_at
    return replace(
        standing,
        began=since,
        warming=warm_up.state in LIVE,
        wrote=warm_up.cache_saved_usd is not None,
        warm_until=used + LIFETIME_SECONDS[LIFETIME],
        measuring=frozenset(name for each in flying for name in each.marked_models or models),
        wait_until=min(latest, began + LONGEST_WAIT_SECONDS),
    )


def _measured(connection: Connection, night: Night) -> dict[str, CacheSums]:
    columns = tables.submission.c
    return cache_use.by_model(
        connection,
        night.id,
        columns.engine == "batch",
        columns.pilot.is_(False),
        columns.caching.is_not(None),
        columns.warms.is_(None),
        columns.state == State.COLLECTED.value,
    )


def prepare(pipeline: Pipeline, spec: JobSpec, night: Night) -> None:
    """Take one unit of each prefix out of the night's next batch, as the batch that warms up."""
    if spec.caching != "auto":
        return
    with pipeline.ledger.read() as connection:
        senders = pipeline.senders_of(connection, night)
        queue = read_queues(connection, night, senders, spec.limits.max_queued_requests).at_once
        shard = _to_split(connection, spec, night, queue)
        if shard is None:
            return
        snapshot = snapshots.get_snapshot(connection, shard.snapshot_id)
    declaration = Declaration.from_json(snapshot.declaration)
    manifest = manifests.read(pipeline.files, shard.manifest)
    first, others = _one_of_each_prefix(manifest, declaration)
    if not others.num_rows:
        return
    warm_up, rest = (part_of(pipeline, night, declaration, shard, rows) for rows in (first, others))
    with pipeline.ledger.write() as connection:
        # The next one to go may be another by now, or another process was faster.
        still = _to_split(connection, spec, night, queue)
        done = still is not None and still.id == shard.id
        if done:
            shards.set_shard_state(connection, shard.id, ShardState.DROPPED)
            parts = [replace(warm_up, warms=warmed_as(spec)), rest]
            shards.insert(connection, night.id, shard.snapshot_id, parts, origin=shard.origin)
    if not done:
        for part in (warm_up, rest):
            pipeline.files.remove(part.manifest)


def _to_split(connection: Connection, spec: JobSpec, night: Night, queue: int) -> Shard | None:
    """The batch that the units of a warm-up are taken out of; None: there is to be no warm-up."""
    shard = shards.next_to_go(connection, night.id, "batch")
    if shard is None or shard.pilot or shard.warms is not None:
        return None
    if shards.waiting_by_engine(connection, night.id).get("batch", 0) < LEAST_REQUESTS:
        return None
    if cache_prefixes.warm_ups_of(connection, night.id) >= MOST_WARM_UPS:
        return None
    night = nights.get_night(connection, night.id)
    # Each workspace has a cache of its own, and one of them is warmed: what goes through the others
    # has no marks.
    standings = _by_account(connection, spec, night, shard, queue)
    return shard if all(map(wants_warm_up, standings)) else None


def _one_of_each_prefix(manifest: pa.Table, declaration: Declaration) -> tuple[pa.Table, pa.Table]:
    """The first row of each shared prefix that a manifest asks with, and all other rows."""
    declared = variants.declarations_of(manifest, declaration)
    prefix_of = {name: places.prefix_key(asked) for name, asked in declared.items()}
    first: dict[str, int] = {}
    for number, name in enumerate(manifest.column("variant").to_pylist()):
        first.setdefault(prefix_of[name], number)
    taken = set(first.values())
    rest = [number for number in range(manifest.num_rows) if number not in taken]
    return manifest.take(sorted(taken)), manifest.take(rest)
