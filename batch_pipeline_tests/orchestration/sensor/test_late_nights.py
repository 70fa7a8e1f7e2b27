"""A complete night of which a batch comes to light is collected once more."""

from __future__ import annotations

from batch_pipeline.ledger import nights
from batch_pipeline.ledger.accounts import accounts
from batch_pipeline.ledger.database.ledger import Ledger
from batch_pipeline.ledger.submissions import submissions, transitions
from batch_pipeline.orchestration.sensor.unfinished_nights import unfinished_nights
from batch_pipeline_tests.ledger.conftest import ACCOUNT, a_night, accept, begun


def test_a_late_batch_makes_a_complete_night_unfinished(ledger_url: str) -> None:
    ledger = Ledger(ledger_url)
    with ledger.write() as connection:
        accounts.register_account(connection, ACCOUNT, simulated=False)
        night = a_night(connection, 5)
        submission = begun(connection, night)
        transitions.give_back(connection, submission, submissions.State.ABSENT, "not listed")
        nights.update_night(connection, night.id, completed_at=1.0)
        assert unfinished_nights(connection, "job", ACCOUNT, set()) == []
        accept(connection, submission)
        [found] = unfinished_nights(connection, "job", ACCOUNT, set())
        assert found.id == night.id
    ledger.close()
