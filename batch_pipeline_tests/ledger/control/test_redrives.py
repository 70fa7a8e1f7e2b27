"""What a redrive puts behind: the answers that there are, and none that come later."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import Connection

from batch_pipeline.ledger import nights, snapshots
from batch_pipeline.ledger.control import redrives
from batch_pipeline.ledger.control.redrives import Redriven
from batch_pipeline.ledger.database.ledger import Ledger
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.submissions import transitions
from batch_pipeline.ledger.sums import Counts
from batch_pipeline_tests.ledger.conftest import a_night, a_snapshot, accept, begun

COUNTS = Counts(items={"errored": 1})


@pytest.fixture
def ledger_url(tmp_path: Path) -> str:
    """SQLite alone: what is tested does not depend on the database."""
    return f"sqlite:///{tmp_path / 'ledger.sqlite'}"


def collected(connection: Connection, night: Night, batch_id: str) -> str:
    submission = begun(connection, night)
    accept(connection, submission, batch_id)
    transitions.end(connection, submission)
    assert transitions.collect(connection, submission, COUNTS, Decimal(0))
    return submission.token


def test_answers_of_these_statuses_are_behind_and_later_ones_stand(ledger: Ledger) -> None:
    with ledger.write() as connection:
        night = a_night(connection, 5, 5, 5)
        other = a_night(connection, 5, partition="2026-01-03")
        collected(connection, other, "other")
        first = collected(connection, night, "first")
        redrives.record(connection, night.id, ["errored"])
        assert redrives.of_night(connection, night.id) == [Redriven(first, "errored")]
        second = collected(connection, night, "second")
        assert redrives.of_night(connection, night.id) == [Redriven(first, "errored")]
        # Again, with what was put behind before among it.
        redrives.record(connection, night.id, ["refused", "errored"])
        found = {
            (behind.token, behind.status) for behind in redrives.of_night(connection, night.id)
        }
        assert found == {(t, s) for t in (first, second) for s in ("errored", "refused")}
        assert redrives.of_night(connection, other.id) == []


def test_nothing_is_recorded_without_a_reason_or_an_answer(ledger: Ledger) -> None:
    with ledger.write() as connection:
        night = a_night(connection, 5)
        redrives.record(connection, night.id, ["errored"])
        collected(connection, night, "first")
        redrives.record(connection, night.id, [])
        assert redrives.of_night(connection, night.id) == []


@pytest.mark.parametrize("kept", [0, 40])
def test_a_snapshot_knows_how_many_units_it_keeps(ledger: Ledger, kept: int) -> None:
    with ledger.write() as connection:
        night = a_night(connection)
        new = replace(a_snapshot(), kept=kept)
        snapshot = snapshots.replace_snapshot(connection, night, new, {"succeeded": kept})
        assert (snapshot.kept, snapshot.units) == (kept, 100 - kept)
        assert nights.get_night(connection, night.id).open_requests == 100 - kept
        assert snapshots.declarations(connection, night.id) == {"d": {}}
