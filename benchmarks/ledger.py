"""(f) The cost of the ledger per shard, at 1,000 and at 100,000 shards a night.

Two things are timed on a night of which half is collected already: the life of a shard (claim,
seal, acceptance, end, collection), and reading the night's progress as `status` does. Each step is
durable on the disk. Each claim (for the breaker) and each progress sums up what is collected, and
so takes longer the larger the night is.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import sqlalchemy as sa

from batch_pipeline.flow.gates import breaker
from batch_pipeline.flow.status import progress
from batch_pipeline.jobs.spec import AlertsSpec
from batch_pipeline.ledger import nights, shards, snapshots, sums
from batch_pipeline.ledger.accounts import accounts
from batch_pipeline.ledger.admission import admission
from batch_pipeline.ledger.admission.admission import Intent, Limits, Sender
from batch_pipeline.ledger.admission.night_state import Gates
from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.database.ledger import Ledger
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.shards import NewShard, Shard
from batch_pipeline.ledger.snapshots import NewSnapshot
from batch_pipeline.ledger.submissions import submissions, transitions
from batch_pipeline.ledger.sums import Counts
from batch_pipeline_tests.databases import running_postgres
from benchmarks.measure import parser, verdict

LIMITS = Limits(senders=(Sender("default", "default", 10**9),), job_queue=None, lease_seconds=60)
STATUS_SECONDS = 1.0
IN_FLIGHT = 20
COUNTS = Counts(
    items={"succeeded": 9_900, "refused": 100}, tokens={"input_tokens": 10**7},
    measured_answers=10_000, measured_bytes=4 * 10**7, measured_tokens=10**7,
    first_attempts=10_000, first_need_fix=100, first_errors={"refusal": 100},
    examples={"refusal": ["an id: a message"] * 3},
)  # fmt: skip


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--shards", type=int, default=100_000, help="the larger night")
    made.add_argument("--timed", type=int, default=300, help="shards whose life is timed")
    options = made.parse_args()
    large, timed = (2_000, 50) if options.quick else (options.shards, options.timed)
    print("\n(f) milliseconds of ledger per shard, half of the night collected")
    for name, database in (("SQLite", _sqlite), ("PostgreSQL", _postgres)):
        with database() as url:
            for partition, count in enumerate((large // 100, large)):
                ledger = Ledger(url)
                night, seconds = _fill(ledger, f"2026-01-{partition + 1:02}", count)
                cost = _per_shard(ledger, night, min(timed, count // 2))
                looking = _progress(ledger, night)
                print(
                    f"  {name}, {count:,} shards: {cost * 1e3:.1f} ms a shard, {looking * 1e3:.0f} "
                    f"ms for the night's progress, {seconds:.1f} s to plan them",
                    flush=True,
                )
                ledger.close()
            verdict(
                f"{name} progress, seconds", looking, f"under {STATUS_SECONDS:g}",
                met=looking < STATUS_SECONDS,
            )  # fmt: skip


@contextlib.contextmanager
def _sqlite() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        yield f"sqlite:///{Path(folder) / 'ledger.sqlite'}"


@contextlib.contextmanager
def _postgres() -> Iterator[str]:
    with running_postgres() as url:
        yield url.render_as_string(hide_password=False)


def _fill(ledger: Ledger, partition: str, count: int) -> tuple[Night, float]:
    """A night of `count` shards, half of them collected, and the seconds that planning took."""
    with ledger.write() as connection:
        accounts.register_account(connection, "default", simulated=False)
        night = nights.open_night(connection, "bench", partition, "default")
        snapshots.replace_snapshot(connection, night, _snapshot(count * 10_000), {})
        night = nights.get_night(connection, night.id)
    planned = NewShard(
        engine="batch", pilot=False, manifest="m", requests=10_000, bytes=1, usd_bound=Decimal(1),
        largest_bytes=1, output_tokens=1,
    )  # fmt: skip
    start = time.perf_counter()
    with ledger.write() as connection:
        assert shards.add_shards(connection, night, [planned] * count, open_requests=0)
    seconds = time.perf_counter() - start
    with ledger.write() as connection:
        done = shards.list_shards(connection, night.id)[: count // 2]
        rows = [
            {
                "shard_id": shard.id, "night_id": night.id, "snapshot_id": night.snapshot_id,
                "pilot": False, "account": "default",
                "engine": "batch", "token": transitions.new_token(), "requests": 10_000,
                "usd_bound": Decimal(1), "state": "collected", "holder": "me", "fence": 1,
                "lease_until": 0.0, "intent_at": 0.0, "batch_id": f"{partition}-{shard.id}",
                "accepted_at": 0.0, "ended_at": 1.0, "collected_at": 2.0,
                "cost_usd": Decimal(1), **COUNTS.columns(),
            }
            for shard in done
        ]  # fmt: skip
        connection.execute(sa.insert(tables.submission), rows)
        collected = submissions.of_night(connection, night.id)
        sums.record(connection, collected[0].id, COUNTS)
        for table, values in (
            (tables.settled_items, [{"status": k, "items": n} for k, n in COUNTS.items.items()]),
            (
                tables.first_error,
                [
                    {"night_id": night.id, "pilot": False, "error_type": kind, "requests": number}
                    for kind, number in COUNTS.first_errors.items()
                ],
            ),
        ):
            connection.execute(
                sa.insert(table).values(snapshot_id=night.snapshot_id),
                [{**row, "submission_id": sent.id} for sent in collected[1:] for row in values],
            )
        connection.execute(
            sa.update(tables.shard)
            .where(tables.shard.c.night_id == night.id, tables.shard.c.id <= done[-1].id)
            .values(state="collected")
        )
        if connection.dialect.name == "postgresql":
            # In a night rows come one by one, and autovacuum keeps the statistics; here they come
            # at once, and a plan for few rows would go on for minutes.
            connection.exec_driver_sql("ANALYZE")
    return night, seconds


def _per_shard(ledger: Ledger, night: Night, timed: int) -> float:
    """Seconds of one shard's life, with some others in flight."""

    def read_gates(connection: sa.Connection, night: Night, _shard: Shard) -> Gates:
        return Gates(breaker=breaker.look(connection, AlertsSpec(), night))

    numbers = itertools.count()
    sent = []
    start = time.perf_counter()
    for _ in range(timed):
        with ledger.write() as connection:
            transitions.reap(connection, "default")
            intent = admission.begin(connection, night, "me", LIMITS, read_gates)
        assert isinstance(intent, Intent)
        submission = intent.submission
        with ledger.write() as connection:
            assert transitions.seal(connection, submission, 60)
        with ledger.write() as connection:
            transitions.accept(
                connection, submission.id, f"{night.partition}/{next(numbers)}",
                accepted_at=time.time(), expires_at=None,
            )  # fmt: skip
        sent.append(submission)
        if len(sent) > IN_FLIGHT:
            first = sent.pop(0)
            with ledger.write() as connection:
                transitions.end(connection, first)
            with ledger.write() as connection:
                assert transitions.collect(connection, first, COUNTS, Decimal(1))
    return (time.perf_counter() - start) / timed


def _progress(ledger: Ledger, night: Night) -> float:
    """Seconds of reading where a night stands."""
    start = time.perf_counter()
    with ledger.read() as connection:
        progress.of_night(connection, night.id)
    return time.perf_counter() - start


def _snapshot(items: int) -> NewSnapshot:
    return NewSnapshot(
        folder="f", signature="s", content_hash="c", declaration_hash="d", declaration={},
        parts=1, items=items, set_aside={}, duplicates=0, request_bytes=1,
    )  # fmt: skip


if __name__ == "__main__":
    main()
