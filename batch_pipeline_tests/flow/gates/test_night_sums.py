"""A night's sums are those of its submissions, whoever collected them, at a constant price."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Connection

from batch_pipeline.flow.gates import breaker, night_sums
from batch_pipeline.flow.status import progress
from batch_pipeline.jobs.spec import AlertsSpec
from batch_pipeline.ledger import (
    accounts,
    admission,
    nights,
    redrives,
    shards,
    snapshots,
    submissions,
    tables,
    tallies,
)
from batch_pipeline.ledger.admission import Intent, Limits
from batch_pipeline.ledger.ledger import Ledger
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.shards import NewShard
from batch_pipeline.ledger.snapshots import NewSnapshot
from batch_pipeline.ledger.submissions import Submission

LIMITS = Limits(account_queue=10_000, job_queue=None, lease_seconds=60)
ALERTS = AlertsSpec(error_rate=0.1, after_items=1)
SUMMARY = {
    "statuses": {"succeeded": 3, "refused": 1}, "open": 1, "duplicate": False,
    "usage": {"input_tokens": 100, "output_tokens": 7},
    "first": {
        "done": 4, "needs_fix": 1, "errors": {"refusal": 1}, "examples": {"refusal": ["a: no"]},
    },
}  # fmt: skip


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
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
        engine="batch", pilot=False, manifest="m", requests=5, bytes=1, usd_bound=Decimal(1)
    )
    night = nights.get_night(connection, night.id)
    assert shards.add_shards(connection, night, [planned] * count, open_requests=0)
    return nights.get_night(connection, night.id)


def send(connection: Connection, night: Night) -> Submission:
    intent = admission.begin(connection, night, "me", LIMITS, breaker.gate(AlertsSpec()))
    assert isinstance(intent, Intent)
    sent = intent.submission
    submissions.accept(connection, sent.id, sent.token, accepted_at=10.0 + sent.id, expires_at=None)
    return submissions.get(connection, sent.id)


def collect(connection: Connection, sent: Submission, *, kept: bool = True) -> None:
    submissions.end(connection, sent)
    assert submissions.collect(connection, sent, SUMMARY, Decimal("0.25"))
    if kept:
        night_sums.keep(connection, sent.night_id)


def test_sums_do_not_depend_on_which_release_collected(ledger: Ledger) -> None:
    """A process of an older release leaves it out of the tally: it counts all the same."""
    with ledger.write() as connection:
        night = a_night(connection, 5)
        for kept in (True, False, True, False):
            collect(connection, send(connection, night), kept=kept)
        one_by_one = len(tallies.not_tallied(connection, night.id))
        state = progress.of_night(connection, night.id)
    assert one_by_one == 1
    assert state.statuses == {"succeeded": 12, "refused": 4, "invalid_input": 2}
    assert (state.batches, state.batches_ended, state.waiting) == (4, 4, 5 + 4)
    assert state.cost_usd["batch"] == Decimal(1)
    assert state.usage["input_tokens"] == 400
    assert (state.first.done, state.first.needs_fix) == (16, 4)
    assert state.first.examples == {"refusal": ["a: no"] * 3}
    assert len(state.submissions) == 4


@pytest.mark.parametrize("kept", [True, False])
def test_what_a_redrive_has_put_behind_is_no_evidence(ledger: Ledger, kept: bool) -> None:
    with ledger.write() as connection:
        night = a_night(connection, 2)
        collect(connection, send(connection, night), kept=kept)
        assert breaker.look(connection, ALERTS, night) is not None
        redrives.record(connection, night.id, ["refused"])
        assert breaker.look(connection, ALERTS, night) is None
        assert progress.of_night(connection, night.id).statuses["refused"] == 1
        night_sums.keep(connection, night.id)
        assert breaker.look(connection, ALERTS, night) is None
        collect(connection, send(connection, night), kept=kept)
        assert progress.of_night(connection, night.id).first.done == 4


def test_waiting_requests_are_right_after_a_process_that_did_not_count_them(
    ledger: Ledger,
) -> None:
    with ledger.write() as connection:
        night = a_night(connection, 3)
        nights.update_night(connection, night.id, waiting_requests=None)
        assert progress.of_night(connection, night.id).waiting == 15
        send(connection, night)
        assert progress.of_night(connection, night.id).waiting == 10
        nights.update_night(connection, night.id, waiting_requests=0)
        assert progress.of_night(connection, night.id).waiting == 5
        nights.update_night(connection, night.id, waiting_requests=99)
        send(connection, night)
        send(connection, night)
        assert progress.of_night(connection, night.id).waiting == 0


def test_no_step_of_a_shard_reads_what_grows_with_the_night(tmp_path: Any) -> None:
    """Every statement of a claim, a collection and a look goes by an index of SQLite's."""
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    with ledger.write() as connection:
        accounts.register_account(connection, "default", simulated=False)
        night = a_night(connection, 3)
    with ledger.write() as connection, statements(connection) as seen:
        submissions.reap(connection, "default")
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
    grows = (tables.shard.name, tables.submission.name, tables.seen.name)
    assert len(seen) > 20
    assert [p for p in plans if p[1].startswith(tuple(f"SCAN {t}" for t in grows))] == []
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
