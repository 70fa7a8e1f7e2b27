"""Alerts in both databases: a cause is recorded once, and sent by one process at a time."""

from __future__ import annotations

import pytest

from batch_pipeline.ledger import alerts, nights
from batch_pipeline.ledger.alerts import FIRST_REST_SECONDS, LEASE_SECONDS, AlertState, NewAlert
from batch_pipeline.ledger.database.ledger import Ledger
from batch_pipeline.ledger.nights import Night
from batch_pipeline_tests.ledger.conftest import ACCOUNT, Clock


@pytest.fixture
def alert_clock(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of alerts too."""
    monkeypatch.setattr(alerts, "now", clock)
    return clock


@pytest.fixture
def night(ledger: Ledger) -> Night:
    """A night of one account."""
    with ledger.write() as connection:
        return nights.open_night(connection, "review", "2026-01-01", ACCOUNT)


def test_a_cause_is_recorded_once_a_night_and_that_of_an_account_once_for_all(
    ledger: Ledger, night: Night, alert_clock: Clock
) -> None:
    with ledger.write() as connection:
        other = nights.open_night(connection, "review", "2026-01-02", ACCOUNT)
        cause = NewAlert(night.id, "error_rate d", "error_rate", "many")
        assert alerts.record(connection, [cause, cause], send=True) == [cause]
        again = NewAlert(other.id, "error_rate d", "error_rate", "many")
        assert alerts.record(connection, [again], send=True) == [again]
        paused = [
            NewAlert(each.id, "account_paused 1", "account_paused", "pay", account_wide=True)
            for each in (night, other)
        ]
        assert alerts.record(connection, paused, send=False) == paused[:1]
        assert alerts.known(connection, paused) == {(p.night_id, p.cause) for p in paused}
        states = [alert.state for alert in alerts.of_night(connection, night.id)]
    assert states == [AlertState.WAITING, AlertState.LOGGED]


def test_what_one_process_sends_no_other_does_until_its_lease_is_over(
    ledger: Ledger, night: Night, alert_clock: Clock
) -> None:
    with ledger.write() as connection:
        alerts.record(connection, [NewAlert(night.id, "c", "c", "m")], send=True)
        [mine] = alerts.claim(connection)
        assert alerts.claim(connection) == []
        assert not alerts.anything_due(connection)
        alert_clock.at += LEASE_SECONDS
        [theirs] = alerts.claim(connection)
        # The first one comes back late, and changes nothing.
        alerts.settle(connection, [mine], [0], sent=True)
        [alert] = alerts.of_night(connection, night.id)
        assert (alert.state, alert.attempts) == (AlertState.SENDING, 2)
        alerts.settle(connection, [theirs], [0, 1], sent=True)
        [alert] = alerts.of_night(connection, night.id)
    assert (alert.state, alert.delivered, alert.sent_at) == (
        AlertState.SENT,
        (0, 1),
        alert_clock.at,
    )


def test_a_failed_sending_rests_longer_each_time_and_is_given_up(
    ledger: Ledger, night: Night, alert_clock: Clock
) -> None:
    rests = []
    with ledger.write() as connection:
        alerts.record(connection, [NewAlert(night.id, "c", "c", "m")], send=True)
        for _ in range(alerts.MOST_ATTEMPTS):
            [claimed] = alerts.claim(connection)
            alerts.settle(connection, [claimed], [], sent=False)
            [alert] = alerts.of_night(connection, night.id)
            rests.append(alert.next_at - alert_clock.at)
            alert_clock.at = max(alert_clock.at, alert.next_at)
        assert alerts.claim(connection) == []
    assert rests[:-1] == [FIRST_REST_SECONDS * 4**n for n in range(alerts.MOST_ATTEMPTS - 1)]
    assert alert.state is AlertState.FAILED


def test_one_that_dies_in_its_last_attempt_is_given_up(
    ledger: Ledger, night: Night, alert_clock: Clock
) -> None:
    with ledger.write() as connection:
        alerts.record(connection, [NewAlert(night.id, "c", "c", "m")], send=True)
        for _ in range(alerts.MOST_ATTEMPTS):
            assert len(alerts.claim(connection)) == 1
            alert_clock.at += LEASE_SECONDS
        assert alerts.claim(connection) == []
        [alert] = alerts.of_night(connection, night.id)
    assert alert.state is AlertState.FAILED
