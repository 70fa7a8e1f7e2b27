"""Which submissions that were given up are looked for still."""

from __future__ import annotations

from batch_pipeline.ledger.accounts import accounts
from batch_pipeline.ledger.database.ledger import Ledger
from batch_pipeline.ledger.submissions import transitions
from batch_pipeline.ledger.submissions.listed_batches import LATE_WATCH_SECONDS, watched
from batch_pipeline.ledger.submissions.submissions import State
from batch_pipeline_tests.ledger.conftest import ACCOUNT, Clock, a_night, accept, begun


def test_what_may_have_left_whole_is_watched_for_48_hours(ledger: Ledger, clock: Clock) -> None:
    with ledger.write() as connection:
        night = a_night(connection, 3)
        submission = begun(connection, night)
        assert transitions.seal(connection, submission, 60)
        transitions.lose_track(connection, submission, "lost")
        assert watched(connection, ACCOUNT) == []
        clock.at += 600
        transitions.give_back(connection, submission, State.ABSENT, "not listed")
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
        transitions.give_back(connection, submission, State.ABSENT, "its sender died")
        assert watched(connection) == []


def test_what_was_found_is_not_watched_any_more(ledger: Ledger, clock: Clock) -> None:
    with ledger.write() as connection:
        night = a_night(connection, 3)
        submission = begun(connection, night)
        transitions.seal(connection, submission, 60)
        transitions.lose_track(connection, submission, "lost")
        transitions.give_back(connection, submission, State.ABSENT, "not listed")
        accept(connection, submission)
        assert watched(connection) == []
