"""Which submissions that were given up are looked for still."""

from __future__ import annotations

import pytest

from batch_pipeline.ledger import accounts, late_batches, submissions
from batch_pipeline.ledger.late_batches import LATE_WATCH_SECONDS, watched
from batch_pipeline.ledger.ledger import Ledger
from batch_pipeline.ledger.submissions import State
from batch_pipeline_tests.ledger.conftest import ACCOUNT, Clock, a_night, accept, begun


@pytest.fixture
def clock(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(late_batches, "now", clock)
    return clock


def test_what_may_have_left_whole_is_watched_for_48_hours(ledger: Ledger, clock: Clock) -> None:
    with ledger.write() as connection:
        night = a_night(connection, 3)
        submission = begun(connection, night)
        assert submissions.seal(connection, submission, 60)
        submissions.lose_track(connection, submission, "lost")
        assert watched(connection, ACCOUNT) == []
        clock.at += 600
        submissions.give_back(connection, submission, State.ABSENT, "not listed")
        accounts.register_account(connection, "other", simulated=False)
        [found] = watched(connection, ACCOUNT)
        assert found.id == submission.id
        assert watched(connection) == [found]
        assert watched(connection, "other") == []
        clock.at += LATE_WATCH_SECONDS - 601
        assert watched(connection, ACCOUNT) == [found]
        clock.at += 2
        assert watched(connection, ACCOUNT) == []


def test_an_incomplete_body_is_not_watched(ledger: Ledger, clock: Clock) -> None:
    with ledger.write() as connection:
        night = a_night(connection, 3)
        submission = begun(connection, night)
        submissions.give_back(connection, submission, State.ABSENT, "its sender died")
        assert watched(connection) == []


def test_what_was_found_is_not_watched_any_more(ledger: Ledger, clock: Clock) -> None:
    with ledger.write() as connection:
        night = a_night(connection, 3)
        submission = begun(connection, night)
        submissions.seal(connection, submission, 60)
        submissions.lose_track(connection, submission, "lost")
        submissions.give_back(connection, submission, State.ABSENT, "not listed")
        accept(connection, submission)
        assert watched(connection) == []
