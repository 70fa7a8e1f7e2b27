"""The submissions' state machine, on both databases: who may send what, and what a death leaves."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import pytest
from sqlalchemy import Connection

from batch_pipeline.ledger import nights, shards, snapshots
from batch_pipeline.ledger.accounts import accounts, organisations
from batch_pipeline.ledger.admission import admission, queue
from batch_pipeline.ledger.admission.admission import Intent, Limits, Waiting
from batch_pipeline.ledger.admission.night_state import (
    CALLED_ELSEWHERE,
    ClosedGate,
    Gates,
    Kind,
    running,
)
from batch_pipeline.ledger.database.ledger import Ledger
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.processes import leases
from batch_pipeline.ledger.shards import ShardState
from batch_pipeline.ledger.submissions import listed_batches, submissions, transitions
from batch_pipeline.ledger.submissions.submissions import State, Submission
from batch_pipeline.ledger.sums import Counts
from batch_pipeline_tests.ledger.conftest import (
    ACCOUNT,
    LIMITS,
    Clock,
    a_night,
    a_shard,
    accept,
    begin,
    begun,
    queue_of,
)

COUNTS = Counts(items={"succeeded": 3}, open=2, tokens={"input_tokens": 7})
OLDER = "2026-01-01"


def paused(connection: Connection, night: Night) -> None:
    accounts.pause_account(connection, ACCOUNT, "pay first")


def held(connection: Connection, night: Night) -> None:
    nights.update_night(connection, night.id, held_at=1.0)


def refused(connection: Connection, night: Night) -> None:
    nights.update_night(
        connection, night.id, refused="the API refused a batch as a whole: no model"
    )


def queue_is_full(connection: Connection, night: Night) -> None:
    organisations.wait_for_queue(connection, ACCOUNT, 30)


def account_is_full(connection: Connection, night: Night) -> None:
    begun(connection, a_night(connection, 71, partition="2026-01-03", job="other"))


def an_older_night_that_waits(connection: Connection, job: str = "job") -> Night:
    """It wants 50 of the queue's 100 places, of which 60 are taken."""
    begun(connection, a_night(connection, 60, partition="2026-01-09", job="third"))
    older = a_night(connection, 50, partition=OLDER, job=job)
    assert isinstance(begin(connection, older), Waiting)
    return older


def older_night_waits(connection: Connection, night: Night) -> None:
    an_older_night_that_waits(connection, "other")


@pytest.mark.parametrize(
    ("arrange", "reason"),
    [
        (held, "held after a cancel"),
        (paused, "submission is paused for account default: pay first"),
        (refused, "the API refused a batch as a whole: no model"),
        (queue_is_full, "the API's queue is full"),
        (account_is_full, "queue limit (100 requests) is in use"),
        (older_night_waits, "an older night (other 2026-01-01) goes first"),
    ],
)
def test_what_keeps_a_shard_waiting(
    ledger: Ledger, clock: Clock, arrange: Callable[[Connection, Night], None], reason: str
) -> None:
    with ledger.write() as connection:
        night = a_night(connection, 30, 20)
        arrange(connection, night)
        before = len(submissions.find(connection))
        waiting = begin(connection, night)
        assert isinstance(waiting, Waiting)
        assert reason in str(waiting.state)
        assert waiting.requests == 50
        assert len(submissions.find(connection)) == before


def test_nothing_waits(ledger: Ledger) -> None:
    with ledger.write() as connection:
        night = a_night(connection)
        assert begin(connection, night) == Waiting(None)
        realtime = a_night(connection, 5, job="calls", engine="realtime")
        assert begin(connection, realtime) == Waiting(None)


def test_the_gate_has_a_say_for_each_shard(ledger: Ledger) -> None:
    with ledger.write() as connection:
        night = a_night(connection, 3)
        asked: list[tuple[int, int]] = []

        def read_gates(_: Connection, of: Night, shard: shards.Shard) -> Gates:
            asked.append((of.id, shard.requests))
            return Gates(pilot=ClosedGate("bad"))

        waiting = admission.begin(connection, night, "me", LIMITS, read_gates)
        assert isinstance(waiting, Waiting)
        assert str(waiting).startswith("3 requests wait: the pilot's gate is closed: bad; ")
        assert asked == [(night.id, 3)]


@pytest.mark.parametrize("state", [State.INTENT, State.SEALED, State.UNKNOWN, State.ACCEPTED])
def test_whatever_may_be_at_the_api_takes_room(ledger: Ledger, clock: Clock, state: State) -> None:
    with ledger.write() as connection:
        night = a_night(connection, 60, 40, 1)
        first = begun(connection, night)
        if state is not State.INTENT:
            assert transitions.seal(connection, first, 60)
        if state is State.UNKNOWN:
            assert transitions.lose_track(connection, first, "lost")
        if state is State.ACCEPTED:
            accept(connection, first)
        assert begun(connection, night).requests == 40  # room is used up to the last request
        assert isinstance(begin(connection, night), Waiting)


@pytest.mark.parametrize("way", ["given back", "ended"])
def test_room_is_free_again(ledger: Ledger, way: str) -> None:
    with ledger.write() as connection:
        night = a_night(connection, 100, 100)
        first = begun(connection, night)
        assert isinstance(begin(connection, night), Waiting)
        if way == "ended":
            accept(connection, first)
            transitions.end(connection, submissions.get(connection, first.id))
        else:
            transitions.give_back(connection, first, State.ABSENT, "never made")
        assert begun(connection, night).requests == 100


def test_what_rests_after_a_failure_keeps_the_others_back_in_a_storm_alone(
    ledger: Ledger, clock: Clock
) -> None:
    with ledger.write() as connection:
        night = a_night(connection, 10, 10)
        nights.update_night(connection, night.id, retry_at=clock.at + 100)
        begun(connection, night)
        nights.update_night(connection, night.id, storm_since=clock.at)
        waiting = begin(connection, night)
        assert isinstance(waiting, Waiting)
        assert waiting.state is not None
        assert waiting.state.kind is Kind.BACKING_OFF


def test_a_jobs_share_of_the_queue(ledger: Ledger) -> None:
    share = Limits(senders=queue_of(100), job_queue=30, lease_seconds=60)
    with ledger.write() as connection:
        night = a_night(connection, 20, 20)
        other_night = a_night(connection, 20, partition=OLDER)
        other_job = a_night(connection, 20, job="other")
        begun(connection, night, share)
        for full in (night, other_night):
            waiting = begin(connection, full, share)
            assert isinstance(waiting, Waiting)
            assert "the job's share of the queue (30 requests) is in use" in str(waiting.state)
        begun(connection, other_job, share)
        accounts.register_account(connection, "theirs", simulated=False)
        begun(connection, a_night(connection, 20, owner="theirs"), share)


def test_a_shard_larger_than_the_queue_does_not_wait_for_room(ledger: Ledger) -> None:
    lowered = Limits(senders=queue_of(20), job_queue=None, lease_seconds=60)
    with ledger.write() as connection:
        night = a_night(connection, 30, partition=OLDER)
        waiting = begin(connection, night, lowered)
        assert isinstance(waiting, Waiting)
        assert waiting.state is not None
        assert waiting.state.kind is Kind.SHARD_TOO_LARGE
        # It keeps no younger night waiting.
        begun(connection, a_night(connection, 10), lowered)


def test_a_night_that_waits_for_its_own_share_keeps_nobody_waiting(ledger: Ledger) -> None:
    share = Limits(senders=queue_of(100), job_queue=10, lease_seconds=60)
    with ledger.write() as connection:
        assert isinstance(
            begin(connection, a_night(connection, 20, partition=OLDER), share), Waiting
        )
        begun(connection, a_night(connection, 20, job="other"))


def test_an_older_night_goes_first_until_it_no_longer_asks(ledger: Ledger, clock: Clock) -> None:
    with ledger.write() as connection:
        older = a_night(connection, 80, partition=OLDER)
        night = a_night(connection, 80, 10)
        first = begun(connection, night)
        assert isinstance(begin(connection, older), Waiting)
        assert isinstance(
            begin(connection, night), Waiting
        )  # ten would fit, but it is not its turn
        transitions.give_back(connection, first, State.ABSENT, "never made")
        assert isinstance(begin(connection, night), Waiting)
        began = begun(connection, older)
        transitions.give_back(connection, began, State.ABSENT, "never made")
        assert begun(connection, night).requests == 80


def test_an_older_night_that_went_away_is_not_waited_for(ledger: Ledger, clock: Clock) -> None:
    with ledger.write() as connection:
        an_older_night_that_waits(connection)
        night = a_night(connection, 10)
        assert isinstance(begin(connection, night), Waiting)
        clock.at += queue.ROOM_WANTED_SECONDS + 1
        begun(connection, night)


def test_a_held_older_night_is_not_waited_for(ledger: Ledger, clock: Clock) -> None:
    with ledger.write() as connection:
        held(connection, an_older_night_that_waits(connection))
        begun(connection, a_night(connection, 10))


def test_seal_needs_intent_fence_lease_and_no_cancel(ledger: Ledger, clock: Clock) -> None:
    def stale(connection: Connection, at: Intent) -> bool:
        clock.at = at.submission.lease_until
        return transitions.seal(connection, at.submission, 60)

    def fenced(connection: Connection, at: Intent) -> bool:
        import dataclasses  # noqa: PLC0415

        return transitions.seal(connection, dataclasses.replace(at.submission, fence=2), 60)

    def cancelled(connection: Connection, at: Intent) -> bool:
        held(connection, nights.get_night(connection, at.submission.night_id))
        return transitions.seal(connection, at.submission, 60)

    def given_back(connection: Connection, at: Intent) -> bool:
        transitions.give_back(connection, at.submission, State.ABSENT, "never made")
        return transitions.seal(connection, at.submission, 60)

    def in_time(connection: Connection, at: Intent) -> bool:
        clock.at = at.submission.lease_until - 0.1
        return transitions.seal(connection, at.submission, 60)

    expected = {stale: False, fenced: False, cancelled: False, given_back: False, in_time: True}
    for number, (way, sealed) in enumerate(expected.items()):
        with ledger.write() as connection:
            intent = begin(connection, a_night(connection, 1, job=f"job{number}"))
            assert isinstance(intent, Intent)
            assert way(connection, intent) is sealed, way.__name__
            found = submissions.get(connection, intent.submission.id)
            assert (found.state is State.SEALED) is sealed
    assert found.lease_until == clock.at + 60


def test_a_sealed_submission_is_not_sealed_again(ledger: Ledger, clock: Clock) -> None:
    with ledger.write() as connection:
        first = begun(connection, a_night(connection, 1))
        assert transitions.seal(connection, first, 60)
        assert not transitions.seal(connection, first, 60)


def test_what_a_dead_sender_leaves(ledger: Ledger, clock: Clock) -> None:
    with ledger.write() as connection:
        night = a_night(connection, 1, 2, 3)
        intent, sealed = begun(connection, night), begun(connection, night)
        alive = begun(connection, night)
        assert transitions.seal(connection, sealed, 60)
        clock.at += 30
        assert leases.keep_alive(connection, alive, 60)
        transitions.reap(connection, ACCOUNT)
        assert [s.state for s in submissions.find(connection)] == ["intent", "sealed", "intent"]

        clock.at += 31
        transitions.reap(connection, ACCOUNT)
        states = [submissions.get(connection, s.id) for s in (intent, sealed, alive)]
        assert [s.state for s in states] == [State.ABSENT, State.UNKNOWN, State.INTENT]
        assert states[1].window_from == states[1].lease_until == clock.at - 1
        of_shards = [s.state for s in shards.list_shards(connection, night.id)]
        assert of_shards == ["waiting", "claimed", "claimed"]
        assert not leases.keep_alive(connection, intent, 60)
        assert begun(connection, night).shard_id == intent.shard_id


@pytest.mark.parametrize(
    "state", [State.INTENT, State.SEALED, State.UNKNOWN, State.ABSENT, State.REFUSED]
)
def test_an_id_that_the_api_returned_is_always_recorded(
    ledger: Ledger, clock: Clock, state: State
) -> None:
    with ledger.write() as connection:
        night = a_night(connection, 5)
        first = begun(connection, night)
        if state in (State.SEALED, State.UNKNOWN):
            transitions.seal(connection, first, 60)
        if state is State.UNKNOWN:
            transitions.lose_track(connection, first, "lost")
        if state in (State.ABSENT, State.REFUSED):
            transitions.give_back(connection, first, state, "never made")
        accept(connection, first)
        found = submissions.get(connection, first.id)
        assert (found.state, found.batch_id, found.error) == (State.ACCEPTED, "batch_1", None)
        assert shards.get_shard(connection, first.shard_id).state is ShardState.CLAIMED
        assert listed_batches.known(connection, ACCOUNT) == {"batch_1"}
        assert begin(connection, night) == Waiting(None)  # it does not go out beside it
        accept(connection, first)
        assert len(submissions.find(connection)) == 1


@pytest.mark.parametrize("state", [State.ENDED, State.COLLECTED])
def test_a_late_answer_does_not_undo_what_came_after_it(
    ledger: Ledger, clock: Clock, state: State
) -> None:
    """A slow sender and a reconciler may both learn the id of one batch."""
    with ledger.write() as connection:
        first = begun(connection, a_night(connection, 5))
        accept(connection, first)
        transitions.end(connection, submissions.get(connection, first.id))
        if state is State.COLLECTED:
            ended = submissions.get(connection, first.id)
            assert transitions.collect(connection, ended, COUNTS, Decimal(1))
        accept(connection, first)
        assert submissions.get(connection, first.id).state is state


@pytest.mark.parametrize("state", [State.ABSENT, State.REFUSED])
def test_give_back_lets_the_shard_wait_again_once(
    ledger: Ledger, clock: Clock, state: State
) -> None:
    with ledger.write() as connection:
        night = a_night(connection, 5)
        first = begun(connection, night)
        assert transitions.give_back(connection, first, state, "why")
        again = begun(connection, night)
        assert again.shard_id == first.shard_id
        assert again.token != first.token
        # A holder of the first that comes late must not free what the second holds.
        assert not transitions.give_back(connection, first, State.ABSENT, "late")
        assert shards.get_shard(connection, first.shard_id).state is ShardState.CLAIMED
        found = submissions.get(connection, first.id)
        assert (found.state, found.error) == (state, "why")


def test_an_accepted_submission_is_not_given_back(ledger: Ledger, clock: Clock) -> None:
    with ledger.write() as connection:
        first = begun(connection, a_night(connection, 5))
        accept(connection, first)
        assert not transitions.give_back(connection, first, State.ABSENT, "late")
        assert not transitions.lose_track(connection, first, "late")
        assert submissions.get(connection, first.id).state is State.ACCEPTED


def test_lose_track_begins_the_window(ledger: Ledger, clock: Clock) -> None:
    with ledger.write() as connection:
        first = begun(connection, a_night(connection, 5))
        assert not transitions.lose_track(connection, first, "not sealed yet")
        transitions.seal(connection, first, 60)
        clock.at += 7
        assert transitions.lose_track(connection, first, "HTTP 500")
        found = submissions.get(connection, first.id)
        assert (found.state, found.window_from, found.error) == ("unknown", clock.at, "HTTP 500")
        transitions.reap(connection, ACCOUNT)
        clock.at += 1_000
        transitions.reap(connection, ACCOUNT)
        assert submissions.get(connection, first.id).window_from == found.window_from


def test_a_submission_is_collected_once(ledger: Ledger, clock: Clock) -> None:
    with ledger.write() as connection:
        night = a_night(connection, 5)
        first = begun(connection, night)
        assert not transitions.collect(connection, first, COUNTS, Decimal(1))
        accept(connection, first)
        transitions.end(connection, first)
        assert transitions.collect(connection, first, COUNTS, Decimal("0.000000000001"))
        assert not transitions.collect(connection, first, COUNTS, Decimal(2))
        found = submissions.get(connection, first.id)
        assert (found.state, found.cost_usd, found.input_tokens) == (
            State.COLLECTED,
            Decimal("0.000000000001"),
            7,
        )
        after = nights.get_night(connection, night.id)
        assert after.open_requests == night.open_requests + 2
        assert after.revision == night.revision + 1
        assert shards.get_shard(connection, first.shard_id).state is ShardState.COLLECTED


def test_real_time_shards_have_one_holder_at_a_time(ledger: Ledger, clock: Clock) -> None:
    with ledger.write() as connection:
        night = a_night(connection, 5, engine="realtime")
        [shard] = shards.list_shards(connection, night.id)
        first = admission.begin_calls(connection, night, shard, "me", LIMITS)
        assert isinstance(first, Intent)
        assert first.submission.state is State.CALLING
        waiting = admission.begin_calls(connection, night, shard, "you", LIMITS)
        assert waiting == Waiting(running(CALLED_ELSEWHERE), 5)

        clock.at += LIMITS.lease_seconds
        second = admission.begin_calls(connection, night, shard, "you", LIMITS)
        assert isinstance(second, Intent)
        assert second.submission.id == first.submission.id
        assert (second.submission.holder, second.submission.fence) == ("you", 2)
        assert not leases.keep_alive(connection, first.submission, 60)
        assert leases.keep_alive(connection, second.submission, 60)
        assert begin(connection, night) == Waiting(None)

        transitions.end(connection, second.submission)
        third = admission.begin_calls(connection, night, shard, "he", LIMITS)
        assert isinstance(third, Intent)
        assert third.submission.state is State.ENDED
        transitions.collect(connection, third.submission, COUNTS, Decimal(1))
        assert admission.begin_calls(connection, night, shard, "he", LIMITS) == Waiting(None)


@pytest.mark.parametrize("arrange", [held, paused])
def test_real_time_shards_wait_as_well(
    ledger: Ledger, arrange: Callable[[Connection, Night], None]
) -> None:
    with ledger.write() as connection:
        night = a_night(connection, 5, engine="realtime")
        [shard] = shards.list_shards(connection, night.id)
        arrange(connection, night)
        waiting = admission.begin_calls(connection, night, shard, "me", LIMITS)
        assert isinstance(waiting, Waiting)
        assert waiting.requests == 5


def test_foreign_batches_stay_foreign(ledger: Ledger) -> None:
    with ledger.write() as connection:
        first = begun(connection, a_night(connection, 5))
        listed_batches.mark(connection, ACCOUNT, "theirs", None)
        listed_batches.mark(connection, ACCOUNT, "theirs", first.id)
        assert listed_batches.known(connection, ACCOUNT) == {"theirs"}
        assert listed_batches.known(connection, "another") == set()


def test_a_plan_for_an_older_state_of_the_night_is_thrown_away(ledger: Ledger) -> None:
    with ledger.write() as connection:
        night = a_night(connection, 5)
        assert shards.add_shards(connection, night, [a_shard(1)], open_requests=7)
        assert not shards.add_shards(connection, night, [a_shard(2)], open_requests=0)
        assert [s.requests for s in shards.list_shards(connection, night.id)] == [5, 1]
        assert nights.get_night(connection, night.id).open_requests == 7


def test_a_new_snapshot_drops_what_waits_and_keeps_what_is_claimed(ledger: Ledger) -> None:
    from batch_pipeline_tests.ledger.conftest import a_snapshot  # noqa: PLC0415

    with ledger.write() as connection:
        night = a_night(connection, 5, 6)
        begun(connection, night)
        snapshots.replace_snapshot(connection, night, a_snapshot(9), {"succeeded": 4})
        assert [s.state for s in shards.list_shards(connection, night.id)] == ["claimed", "dropped"]
        after = nights.get_night(connection, night.id)
        assert (after.revision, after.open_requests) == (night.revision + 1, 9)
        assert snapshots.get_snapshot(connection, int(after.snapshot_id or 0)).settled == {
            "succeeded": 4
        }


def given_up_and_sent_again(connection: Connection) -> tuple[Night, Submission, Submission]:
    """A submission that was given up, accepted all the same, and the one that took its shard."""
    night = a_night(connection, 5)
    first = begun(connection, night)
    transitions.give_back(connection, first, State.ABSENT, "not in the API's list")
    second = begun(connection, night)
    assert second.shard_id == first.shard_id
    accept(connection, first)
    return night, first, second


def test_a_late_acceptance_stops_the_one_that_was_sent_in_its_place(
    ledger: Ledger, clock: Clock
) -> None:
    with ledger.write() as connection:
        night, first, second = given_up_and_sent_again(connection)
        assert not transitions.seal(connection, second, 60)
        assert transitions.give_back(connection, second, State.ABSENT, "not sealed")
        assert shards.get_shard(connection, first.shard_id).state is ShardState.CLAIMED
        assert begin(connection, night) == Waiting(None)


def test_giving_back_does_not_open_a_shard_that_is_answered(ledger: Ledger, clock: Clock) -> None:
    with ledger.write() as connection:
        night = a_night(connection, 5)
        first = begun(connection, night)
        transitions.give_back(connection, first, State.ABSENT, "not in the API's list")
        second = begun(connection, night)
        assert transitions.seal(connection, second, 60)
        accept(connection, first)
        transitions.end(connection, first)
        ended = submissions.get(connection, first.id)
        assert transitions.collect(connection, ended, COUNTS, Decimal(1))
        transitions.give_back(connection, second, State.ABSENT, "not in the API's list")
        assert shards.get_shard(connection, first.shard_id).state is ShardState.COLLECTED
        assert begin(connection, night) == Waiting(None)
