"""A night's progress is summed up from its submissions, by indices alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Connection

from batch_pipeline.flow.gates import breaker
from batch_pipeline.flow.status import progress
from batch_pipeline.jobs.spec import AlertsSpec
from batch_pipeline.ledger import nights, shards, snapshots
from batch_pipeline.ledger.accounts import accounts
from batch_pipeline.ledger.admission import admission
from batch_pipeline.ledger.admission.admission import Intent, Limits, Sender
from batch_pipeline.ledger.admission.night_state import OPEN_GATES
from batch_pipeline.ledger.control import redrives
from batch_pipeline.ledger.database.ledger import Ledger
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.shards import NewShard
from batch_pipeline.ledger.snapshots import NewSnapshot
from batch_pipeline.ledger.submissions import submissions, transitions
from batch_pipeline.ledger.submissions.submissions import Submission
from batch_pipeline.ledger.sums import Counts

LIMITS = Limits(senders=(Sender("default", "default", 10_000),), job_queue=None, lease_seconds=60)
ALERTS = AlertsSpec(error_rate=0.1, after_items=1)
COUNTS = Counts(
    items={"succeeded": 3, "refused": 1}, open=1,
    tokens={"input_tokens": 100, "output_tokens": 7}, first_attempts=4, first_need_fix=1,
    first_errors={"refusal": 1}, examples={"refusal": ["a: no"]},
)  # fmt: skip


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    """An empty ledger with one account."""
    opened = Ledger(ledger_url)
    with opened.write() as connection:
        accounts.register_account(connection, "default", simulated=False)
    yield opened
    opened.close()


def a_night(connection: Connection, count: int) -> Night:
    night = nights.open_night(connection, "job", "2026-01-02", "default")
    snapshot = NewSnapshot(
        folder="f", signature="s", content_hash="c", declaration_hash="d", declaration={},
        parts=1, items=100, set_aside={}, duplicates=0, request_bytes=1,
    )  # fmt: skip
    snapshots.replace_snapshot(connection, night, snapshot, {"invalid_input": 2})
    planned = NewShard(
        engine="batch", pilot=False, manifest="m", requests=5, bytes=1, usd_bound=Decimal(1),
        largest_bytes=1, output_tokens=1,
    )  # fmt: skip
    night = nights.get_night(connection, night.id)
    assert shards.add_shards(connection, night, [planned] * count, open_requests=0)
    return nights.get_night(connection, night.id)


def send(connection: Connection, night: Night) -> Submission:
    intent = admission.begin(connection, night, "me", LIMITS, lambda *_: OPEN_GATES)
    assert isinstance(intent, Intent)
    sent = intent.submission
    transitions.accept(connection, sent.id, sent.token, accepted_at=10.0 + sent.id, expires_at=None)
    return submissions.get(connection, sent.id)


def collect(connection: Connection, sent: Submission, counts: Counts = COUNTS) -> None:
    transitions.end(connection, sent)
    assert transitions.collect(connection, sent, counts, Decimal("0.25"))


def test_progress_is_the_sum_of_what_was_collected(ledger: Ledger) -> None:
    with ledger.write() as connection:
        night = a_night(connection, 5)
        for _ in range(4):
            collect(connection, send(connection, night))
        state = progress.of_night(connection, night.id)
    assert state.statuses == {"succeeded": 12, "refused": 4, "invalid_input": 2}
    assert (state.batches, state.batches_ended, state.waiting) == (4, 4, 5 + 4)
    assert state.cost_usd["batch"] == Decimal(1)
    assert state.usage["input_tokens"] == 400
    assert (state.first.done, state.first.needs_fix) == (16, 4)
    assert state.first.errors == {"refusal": 4}
    assert state.first.examples == {"refusal": ["a: no"] * 3}
    assert len(state.submissions) == 4


def test_only_answers_to_the_present_snapshot_settle_items(ledger: Ledger) -> None:
    with ledger.write() as connection:
        collect(connection, send(connection, a_night(connection, 1)))
        night = a_night(connection, 1)
        state = progress.of_night(connection, night.id)
        assert state.statuses == {"invalid_input": 2}
        assert (state.cost_usd["batch"], state.first.done) == (Decimal("0.25"), 4)


def test_what_a_redrive_has_put_behind_is_no_evidence(ledger: Ledger) -> None:
    with ledger.write() as connection:
        night = a_night(connection, 2)
        collect(connection, send(connection, night))
        tripped = breaker.look(connection, ALERTS, night)
        assert tripped is not None
        assert tripped.examples == ("a: no",)
        redrives.record(connection, night.id, ["refused"])
        assert breaker.look(connection, ALERTS, night) is None
        assert progress.of_night(connection, night.id).statuses["refused"] == 1
        collect(
            connection, send(connection, night), replace(COUNTS, examples={"refusal": ["b: no"]})
        )
        state = progress.of_night(connection, night.id)
        assert (state.first.done, state.first.errors) == (4, {"refusal": 1})
        assert state.first.examples == {"refusal": ["b: no"]}


def test_no_step_of_a_shard_reads_what_grows_with_the_night(tmp_path: Any) -> None:
    """Every statement of a claim, a collection and a look goes by an index of SQLite's."""
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    with ledger.write() as connection:
        accounts.register_account(connection, "default", simulated=False)
        night = a_night(connection, 3)
    with ledger.write() as connection, statements(connection) as seen:
        transitions.reap(connection, "default")
        collect(connection, send(connection, night))
        send(connection, night)
        progress.of_night(connection, night.id)
        shards.telling_shards(connection, night)
        submissions.nights_with(connection, *submissions.LIVE)
    with ledger.read() as connection:
        plans = {
            (statement, row.detail)
            for statement, parameters in seen
            for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
        }
    grows = ("shard", "submission", "seen", "settled_items", "first_error")
    assert len(seen) > 20
    assert [p for p in plans if p[1].startswith(tuple(f"SCAN {t}" for t in grows))] == []
    assert any("USING COVERING INDEX submission_sums" in detail for _, detail in plans)
    assert any("USING COVERING INDEX shard_to_go" in detail for _, detail in plans)
    ledger.close()


@contextmanager
def statements(connection: Connection) -> Iterator[list[tuple[str, Any]]]:
    """The queries and updates of the block, with their parameters."""
    seen: list[tuple[str, Any]] = []

    def note(_c: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        if statement.startswith(("SELECT", "UPDATE", "DELETE")):
            seen.append((statement, parameters))

    sa.event.listen(connection, "before_cursor_execute", note)
    yield seen
    sa.event.remove(connection, "before_cursor_execute", note)
