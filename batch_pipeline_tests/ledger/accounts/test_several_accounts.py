"""A night that several accounts may send: which of them gets a shard, and why the others wait."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text

from batch_pipeline.jobs.accounts.accounts_file import AccountNames, Accounts, AccountSpec
from batch_pipeline.ledger import nights, shards
from batch_pipeline.ledger.accounts import accounts, organisations
from batch_pipeline.ledger.admission import admission, senders
from batch_pipeline.ledger.admission.admission import Intent, Limits, Marks, Sender, Waiting
from batch_pipeline.ledger.admission.budget import Ceilings, Money
from batch_pipeline.ledger.admission.night_state import OPEN_GATES, Kind
from batch_pipeline.ledger.admission.queue import read_queues
from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.database.ledger import Ledger
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.submissions import listed_batches, submissions, transitions
from batch_pipeline.ledger.submissions.submissions import State, Submission
from batch_pipeline.ledger.sums import Counts
from batch_pipeline_tests.ledger.conftest import (
    NORTH,
    ONE_DATABASE,
    OWNER,
    A,
    B,
    C,
    Clock,
    a_night,
    a_shard,
    accept,
    begin,
    begun,
    queue_of,
)


def sender(names: AccountNames, queue: int = 100, usd: int | None = None) -> Sender:
    ceiling = None if usd is None else Decimal(usd)
    return Sender(names.name, names.organisation, queue, ceiling, f"the ceiling of {names.name}")


def limits(*known: Sender, job_queue: int | None = None) -> Limits:
    """Limits of these senders, under which each request is bound to a dollar."""
    money = Money(bound=lambda shard: Decimal(shard.requests))
    return Limits(known, job_queue, lease_seconds=60, money=money)


def night_of(connection: Connection, *requests: int, **more: Any) -> Night:
    """A night of the owner with waiting shards, which a, b and c may send."""
    for names in (A, B, C):
        accounts.register(connection, names)
    night = a_night(connection, *requests, owner=OWNER, **more)
    nights.update_night(connection, night.id, accounts=["a", "b", "c"])
    return nights.get_night(connection, night.id)


def lost(connection: Connection, submission: Submission) -> None:
    """Sealed, the answer lost, and not in the list: its batch may still appear there."""
    transitions.seal(connection, submission, 60)
    transitions.lose_track(connection, submissions.get(connection, submission.id), "lost")
    submission = submissions.get(connection, submission.id)
    assert transitions.give_back(connection, submission, State.ABSENT, "not listed")


def why(found: Intent | Waiting) -> str:
    assert isinstance(found, Waiting), found
    return str(found.state)


def test_an_account_that_gets_another_name_keeps_its_list_and_its_queue(ledger: Ledger) -> None:
    """From the account of the environment to one of accounts.yaml, in the same workspace."""
    with ledger.write() as connection:
        night = a_night(connection, 30, 20)
        first = begun(connection, night)
        accept(connection, first, "batch_1")
        own = AccountNames("default", "default", "default", simulated=False)
        accounts.note_ids(connection, own, NORTH, "wrkspc_1")
        accounts.note_workspace(connection, "default", "wrkspc_1", in_flight=True)
        listed_batches.mark(connection, "default", "theirs", None)
        mark = listed_batches.add_mark(connection, "default", 0.0, ["theirs"], 0, whole=True)
        accounts.register(connection, A)
        accounts.note_ids(connection, A, NORTH, "wrkspc_1", others={"south"})
        assert listed_batches.known(connection, "a") == {"batch_1", "theirs"}
        assert submissions.by_token(connection, "a", first.token) is not None
        assert listed_batches.fresh_mark(connection, "a", float("inf")) == mark
        queues = read_queues(connection, night, (sender(A),), None)
        assert queues["a"].used == 30
        assert listed_batches.known(connection, "b") == set()
        # What was lost on its way is the same account's.
        second = begun(connection, night)
        lost(connection, second)
        renamed = limits(sender(A))
        assert begun(connection, night, renamed).account == "a"


def test_the_account_with_most_room_gets_a_shard(ledger: Ledger) -> None:
    both = limits(sender(A, 50), sender(B, 80), sender(C, 50))
    with ledger.write() as connection:
        night = night_of(connection, 40, 30, 25, 15)
        assert [begun(connection, night, both).account for _ in range(3)] == ["b", "a", "b"]
        found = begin(connection, night, both)
        # a and c share what is left of north: 20 of 50; south has 15 of 80.
        assert isinstance(found, Intent)
        assert (found.submission.account, found.shard.requests) == ("c", 15)


def test_workspaces_of_one_organisation_share_its_queue(ledger: Ledger) -> None:
    shared = limits(sender(A, 50), sender(C, 50))
    with ledger.write() as connection:
        night = night_of(connection, 30, 15, 10)
        assert [begun(connection, night, shared).account for _ in range(2)] == ["a", "c"]
        found = begin(connection, night, shared)
        assert "organisation north's queue limit (50 requests) is in use" in why(found)
        assert isinstance(found, Waiting)
        assert set(found.by_account) == {"a", "c"}
        # The oldest night that wants room of it goes first there, and nowhere else.
        second = night_of(connection, 10, partition="2026-01-03")
        begin(connection, second, shared)
        younger = night_of(connection, 5, partition="2026-01-04")
        assert "an older night (job 2026-01-02) goes first" in why(
            begin(connection, younger, shared)
        )
        nights.update_night(connection, second.id, accounts=["a", "c"])
        nights.update_night(connection, night.id, accounts=["a", "c"])
        assert begun(connection, younger, limits(sender(A, 50), sender(B))).account == "b"
        # One that waited behind it has wanted room as long.
        nights.update_night(connection, night.id, held_at=1.0)
        another = night_of(connection, 5, partition="2026-01-05")
        assert "an older night (job 2026-01-03) goes first" in why(
            begin(connection, another, shared)
        )


@ONE_DATABASE
def test_the_word_that_a_queue_is_full_holds_for_its_organisation(ledger: Ledger) -> None:
    with ledger.write() as connection:
        night = night_of(connection, 10, 10)
        organisations.wait_for_queue(connection, "c", 30)
        assert accounts.get_account(connection, "a").wait_until > 0
        found = begin(connection, night, limits(sender(A)))
        assert "queue is full for organisation north" in why(found)
        assert begun(connection, night, limits(sender(A), sender(B))).account == "b"


@ONE_DATABASE
def test_a_paused_account_pauses_itself_alone(ledger: Ledger, clock: Clock) -> None:
    both = limits(sender(A), sender(B, 60))
    with ledger.write() as connection:
        night = night_of(connection, 30, 30, 20, 10, 10, 10, 10)
        assert begun(connection, night, both).account == "a"
        clock.at += 1
        accounts.pause_account(connection, "a", "no credit")
        assert begun(connection, night, both).account == "b"
        # Its probe is one small batch, when it is due, whatever was sent before the pause; and is
        # not kept waiting for the prompt cache.
        clock.at += 1_000
        cold = replace(both, marks=lambda *_: Marks(wait="the prompt cache is warmed up"))
        probe = begin(connection, night, cold)
        assert isinstance(probe, Intent)
        assert (probe.submission.account, probe.probe, probe.shard.requests) == ("a", True, 10)
        # The next one only after twice the time, and not while that one can tell.
        assert begun(connection, night, both).account == "b"
        transitions.give_back(connection, probe.submission, State.ABSENT, "never sent")
        alone = limits(sender(A))
        assert "no credit" in why(begin(connection, night, alone))
        clock.at += 2_000
        second = begun(connection, night, alone)
        accept(connection, second, "batch_probe")
        transitions.end(connection, submissions.get(connection, second.id))
        clock.at += 10_000
        assert "no credit" in why(begin(connection, night, alone))
        accounts.pause_account(connection, "b", "on hold")
        waiting = begin(connection, night, both)
        assert isinstance(waiting, Waiting)
        assert {state.kind for state in waiting.by_account.values()} == {Kind.PAUSED}
        found = admission.facts_of(connection, nights.get_night(connection, night.id))
        assert found.paused is None, "account c may send it too"


@ONE_DATABASE
def test_of_what_keeps_several_accounts_that_is_told_which_passes_soonest(ledger: Ledger) -> None:
    with ledger.write() as connection:
        night = night_of(connection, 50, 50)
        accounts.pause_account(connection, "a", "no credit")
        both = limits(sender(A), sender(B, 60))
        begun(connection, night, both)
        found = begin(connection, night, both)
        assert isinstance(found, Waiting)
        assert "queue limit" in why(found)
        assert [state.kind for state in found.by_account.values()] == [
            Kind.PAUSED, Kind.QUEUE_FULL,
        ]  # fmt: skip


@ONE_DATABASE
def test_an_account_that_has_spent_its_month_leaves_the_rest_to_the_others(ledger: Ledger) -> None:
    with ledger.write() as connection:
        night = night_of(connection, 10, 10, 10, 10)
        both = limits(sender(A, 100, usd=15), sender(B, 50, usd=15))
        assert [begun(connection, night, both).account for _ in range(2)] == ["a", "b"]
        found = begin(connection, night, both)
        assert "the ceiling of" in why(found)
        # Another owner's night counts under the same account, and a job's month does not.
        other = a_night(connection, 10, job="other")
        assert "the ceiling of a" in why(begin(connection, other, limits(sender(A, 100, usd=15))))
        assert begun(connection, night, limits(sender(A, usd=15), sender(C))).account == "c"


def test_what_may_still_appear_in_a_list_is_sent_by_its_account_alone(
    ledger: Ledger, clock: Clock
) -> None:
    both = limits(sender(A), sender(B, 90))
    with ledger.write() as connection:
        night = night_of(connection, 30, 10)
        first = begun(connection, night, both)
        assert first.account == "a"
        lost(connection, first)
        other = limits(sender(B, 90))
        found = begin(connection, night, other)
        assert isinstance(found, Intent), "the shard that was never sent may go"
        assert found.shard.requests == 10
        assert "may still appear in the list of account a" in why(begin(connection, night, other))
        assert begun(connection, night, both).account == "a"
        assert transitions.pinned_to(connection, night.id)[first.shard_id][0] == "a"


@ONE_DATABASE
@pytest.mark.parametrize("how", ["a probe", "the cheapest"])
def test_no_other_account_is_given_it_for_being_small(
    ledger: Ledger, clock: Clock, how: str
) -> None:
    with ledger.write() as connection:
        night = night_of(connection, 10, 30)
        lost(connection, begun(connection, night, limits(sender(A))))
        if how == "a probe":
            accounts.pause_account(connection, "b", "no credit")
            clock.at += 1_000
            assert begun(connection, night, limits(sender(B))).requests == 30
        else:
            money = Money(Ceilings(partition=Decimal(20)), lambda shard: Decimal(shard.requests))
            short = replace(limits(sender(B)), money=money)
            assert "max_usd_per_partition ($20.00) has no room" in why(
                begin(connection, night, short)
            )


@ONE_DATABASE
def test_after_two_days_another_account_may_send_it(ledger: Ledger, clock: Clock) -> None:
    with ledger.write() as connection:
        night = night_of(connection, 30)
        lost(connection, begun(connection, night, limits(sender(A))))
        clock.at += listed_batches.LATE_WATCH_SECONDS + 1
        assert begun(connection, night, limits(sender(B))).account == "b"


def calls(connection: Connection, night: Night, known: Limits) -> Intent | Waiting:
    return admission.begin_next_calls(connection, night, "me", known, lambda *_: OPEN_GATES)


def test_calls_go_to_the_account_with_fewest_and_stay_with_it(ledger: Ledger, clock: Clock) -> None:
    both = limits(sender(A), sender(B))
    with ledger.write() as connection:
        night = night_of(connection, 30, 20, 20, engine="realtime")
        begun_calls = [calls(connection, night, both) for _ in range(2)]
        assert [each.submission.account for each in begun_calls if isinstance(each, Intent)] == [
            "a",
            "b",
        ]
        clock.at += 61  # both holders gave no sign of life
        accounts.pause_account(connection, "a", "no credit")
        goes_on = calls(connection, night, both)
        assert isinstance(goes_on, Intent)
        assert (goes_on.submission.account, goes_on.submission.fence) == ("b", 2)
        # An account that does not answer now keeps no other one's shards waiting.
        fresh = calls(connection, night, limits(sender(B)))
        assert isinstance(fresh, Intent)
        assert (fresh.submission.account, fresh.shard.requests) == ("b", 20)
        left = calls(connection, night, limits(sender(C)))
        assert "account a, which has begun these calls" in why(left) or "paused" in why(left)


@ONE_DATABASE
def test_a_batch_is_taken_over_under_the_ceiling_of_its_account(ledger: Ledger) -> None:
    with ledger.write() as connection:
        night = night_of(connection, 10)
        own = limits(sender(A, usd=15))
        batch = begun(connection, night, own)
        accept(connection, batch)
        kept_from = admission.reserve_takeover(
            connection, night, batch, Decimal(20), own, lambda *_: OPEN_GATES
        )
        assert "the ceiling of a" in str(kept_from)


@ONE_DATABASE
def test_a_pilot_is_not_called_with_the_rest(ledger: Ledger) -> None:
    with ledger.write() as connection:
        night = night_of(connection)
        pilot = replace(a_shard(5, "realtime"), pilot=True)
        assert shards.add_shards(connection, night, [pilot], open_requests=0)
        assert calls(connection, night, limits(sender(A))) == Waiting(None)


@ONE_DATABASE
def test_only_calls_under_way_count_where_the_next_ones_go(ledger: Ledger) -> None:
    both = limits(sender(A), sender(B))
    with ledger.write() as connection:
        night = night_of(connection, 30, 20, 10, engine="realtime")
        first, second = calls(connection, night, both), calls(connection, night, both)
        assert isinstance(first, Intent)
        assert isinstance(second, Intent)
        assert (first.submission.account, second.submission.account) == ("a", "b")
        transitions.end(connection, first.submission)
        third = calls(connection, night, both)
        assert isinstance(third, Intent)
        assert third.submission.account == "a"


@ONE_DATABASE
def test_calls_go_on_as_a_probe_or_under_another_name(ledger: Ledger, clock: Clock) -> None:
    with ledger.write() as connection:
        night = night_of(connection, 30, engine="realtime")
        first = calls(connection, night, limits(sender(A)))
        assert isinstance(first, Intent)
        clock.at += 61
        accounts.pause_account(connection, "a", "no credit")
        assert "no credit" in why(calls(connection, night, limits(sender(A))))
        clock.at += 1_000
        probe = calls(connection, night, limits(sender(A)))
        assert isinstance(probe, Intent)
        assert (probe.probe, probe.submission.fence) == (True, 2)
        assert not accounts.get_account(connection, "a").probe_is_due(clock.at)
        accounts.lift_pause(connection, "a")
        # The account is called c from now on, as its workspace tells.
        clock.at += 61
        for names in (A, C):
            accounts.note_ids(connection, names, NORTH, "wrkspc_1")
        goes_on = calls(connection, night, limits(sender(C)))
        assert isinstance(goes_on, Intent)
        assert goes_on.submission.fence == 3


@ONE_DATABASE
def test_calls_of_an_account_that_left_the_job_are_closed(ledger: Ledger, clock: Clock) -> None:
    """No process would go on with them, and what they left unanswered would wait for ever."""
    with ledger.write() as connection:
        night = night_of(connection, 30, 20, engine="realtime")
        left, stays = (
            calls(connection, night, limits(sender(names), sender(B))) for names in (A, A)
        )
        assert isinstance(left, Intent)
        assert isinstance(stays, Intent)
        assert (left.submission.account, stays.submission.account) == ("a", "b")
        nights.update_night(connection, night.id, accounts=["b"])
        assert admission.close_abandoned_calls(connection, night, "me") == 0, "both still call"
        clock.at += 61
        assert admission.close_abandoned_calls(connection, night, "me") == 1
        assert submissions.get(connection, left.submission.id).state is State.ENDED
        assert submissions.get(connection, stays.submission.id).state is State.CALLING
        nights.update_night(connection, night.id, held_at=1.0)
        assert admission.close_abandoned_calls(connection, night, "me") == 1


def test_limits_of_several_senders() -> None:
    found = limits(sender(A, 50, usd=5), sender(C, 50), sender(B, 30, usd=7))
    assert (found.at_once, replace(found, job_queue=60).at_once) == (80, 60)
    ceilings = found.money_of("b").ceilings
    assert (ceilings.account, ceilings.account_month) == ("b", Decimal(7))


@ONE_DATABASE
def test_of_calls_that_wait_that_is_told_which_passes_soonest(ledger: Ledger, clock: Clock) -> None:
    with ledger.write() as connection:
        night = night_of(connection, 30, 20, engine="realtime")
        assert isinstance(calls(connection, night, limits(sender(A))), Intent)
        clock.at += 61
        found = calls(connection, night, limits(sender(B, usd=10)))
        assert isinstance(found, Waiting)
        assert (found.requests, "the ceiling of b" in why(found)) == (50, True)


@ONE_DATABASE
def test_senders_of_a_night_have_the_limits_in_force(ledger: Ledger) -> None:
    file = Accounts(
        {
            "a": AccountSpec(organisation="north", owner=OWNER, max_queued_requests=500),
            "b": AccountSpec(key_env="B", owner=OWNER),
            "d": AccountSpec(key_env="D", organisation="far", max_queued_requests=400),
            "e": AccountSpec(key_env="E", organisation="far"),
        },
        Path("accounts.yaml"),
        queue_limit_set=None,
        max_usd_per_month=Decimal(9),
    )
    with ledger.write() as connection:
        organisations.note_limit(connection, "north", 300)
        organisations.note_limit(connection, "b", 700)
        found = senders.declared(connection, file, ["a", "b"], simulated=False)
        assert [(each.account, each.organisation, each.queue_limit) for each in found] == [
            ("a", "north", 300),
            ("b", "b", 700),
        ]
        assert found[0].ceiling == "BATCH_PIPELINE_MAX_USD_PER_MONTH"
        night = night_of(connection, 5)
        assert senders.of_night(connection, file, night) == found, "c is not declared any more"
        [far] = senders.declared(connection, file, ["e"], simulated=False)
        assert far.queue_limit == 400, "as another account of its organisation declares it"
        other = Accounts({"z": AccountSpec()}, queue_limit_set=450)
        [former] = senders.of_night(connection, other, a_night(connection, 5, owner="a"))
        assert (former.account, former.organisation, former.queue_limit) == ("a", "north", 300)
        [simulated] = senders.declared(connection, file, ["b"], simulated=True)
        assert (simulated.account, simulated.organisation) == ("simulator.b", "simulator.b")


def test_a_ledger_of_version_6_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "ledger.sqlite"
    with sqlite3.connect(file) as before:
        before.executescript((Path(__file__).parent / "ledger_of_version_6.sql").read_text())
    url = f"sqlite:///{file}"
    with Ledger(url) as opened, opened.write() as connection:
        assert connection.scalar(text("SELECT version FROM schema_version")) == (
            tables.SCHEMA_VERSION
        )
        done, flying = nights.list_nights(connection, owner="default")
        assert (done.completed_at, flying.sent_by) == (1_000_000.0, ["default"])
        queues = read_queues(connection, flying, queue_of(100), None)
        assert (queues["default"].used, queues.room) == (30, 70)
        [batch] = submissions.of_night(connection, flying.id, State.ACCEPTED)
        assert (batch.account, batch.holder, batch.batch_id) == ("default", "me", "msgbatch_flies")
        assert begun(connection, flying).requests == 12
        # A process of that version, which is still running, writes what it knows.
        connection.execute(
            text(
                "INSERT INTO night (job, partition, account, created_at, open_requests, undecided, "
                "revision, published, rebuilding, wanted_room_at, retry_rounds) SELECT job, "
                "'2026-01-03', account, created_at, 0, 0, 0, 0, 0, 0.0, 0 FROM night WHERE id = 2"
            )
        )
        connection.execute(text("UPDATE submission SET owner = 'theirs' WHERE state = 'accepted'"))
        added = "INSERT INTO account (name, simulated, wait_until) VALUES ('x', 0, 0)"
        connection.execute(text(added))
    with Ledger(url) as opened, opened.write() as connection:
        assert len(nights.list_nights(connection, owner="default")) == 3
        batch = submissions.get(connection, batch.id)
        assert batch.holder == "theirs"
        assert accounts.get_account(connection, "x").sends
        transitions.end(connection, batch)
        assert transitions.collect(connection, batch, Counts(open=1), Decimal("0.5"))
