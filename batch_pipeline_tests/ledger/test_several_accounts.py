"""Several accounts in the ledger: whose they are, the ids of their keys, and who gets a shard."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text

from batch_pipeline.errors import AccountError, LedgerError
from batch_pipeline.jobs.accounts_file import AccountNames, Accounts, AccountSpec
from batch_pipeline.ledger import (
    accounts,
    listed_batches,
    nights,
    organisations,
    submissions,
    transitions,
)
from batch_pipeline.ledger.admission import admission, senders
from batch_pipeline.ledger.admission.admission import Intent, Limits, Sender, Waiting
from batch_pipeline.ledger.admission.budget import Money
from batch_pipeline.ledger.admission.night_state import OPEN_GATES, Kind
from batch_pipeline.ledger.admission.queue import read_queues
from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.database.ledger import Ledger
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.submissions import State, Submission
from batch_pipeline.ledger.sums import Counts
from batch_pipeline_tests.ledger.conftest import (
    Clock,
    a_night,
    accept,
    begin,
    begun,
    queue_of,
)

OWNER = "research"
A = AccountNames("a", OWNER, "north", simulated=False, declared="a")
B = AccountNames("b", OWNER, "south", simulated=False, declared="b")
C = AccountNames("c", OWNER, "north", simulated=False, declared="c")
NORTH, SOUTH = "11111111-aaaa-4bbb-8ccc-000000000001", "22222222-aaaa-4bbb-8ccc-000000000002"

# What is no matter of SQL.
ONE_DATABASE = pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)


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


@ONE_DATABASE
def test_an_owner_that_is_no_account_sends_nothing(ledger: Ledger) -> None:
    with ledger.write() as connection:
        found = accounts.register(connection, A)
        assert (found.owned_by, found.organisation_name, found.sends) == (OWNER, "north", True)
        accounts.register(connection, B)
        assert [each.name for each in accounts.list_accounts(connection)] == ["a", "b", "default"]
        assert not accounts.get_account(connection, OWNER).sends
        with pytest.raises(LedgerError, match="'research' is an owner of nights"):
            accounts.register(connection, AccountNames(OWNER, "x", "north", simulated=False))
        with pytest.raises(LedgerError, match="is real, the server"):
            accounts.register(connection, AccountNames("sim", OWNER, "north", simulated=True))
        # What was one account's own goes on under its name.
        accounts.register(connection, AccountNames("a", "a", "a", simulated=False))
        assert accounts.get_account(connection, "a").owned_by == "a"


@ONE_DATABASE
@pytest.mark.parametrize(
    ("names", "before", "seen", "said"),
    [
        (A, (None, None), (NORTH, "wrkspc_1"), None),
        (A, (NORTH, "wrkspc_1"), (NORTH, "wrkspc_1"), None),
        (A, (NORTH, "wrkspc_1"), (None, None), None),
        (A, (NORTH, "wrkspc_1"), (SOUTH, "wrkspc_1"), f"organisation {SOUTH}; it was one of"),
        (A, (NORTH, "wrkspc_1"), (NORTH, "wrkspc_2"), "workspace wrkspc_2; it was one of wrkspc_1"),
        (
            replace(A, organisation_id=NORTH),
            (None, None),
            (SOUTH, None),
            "organisation .*, accounts.yaml says",
        ),
        (
            replace(A, workspace_id="wrkspc_1"),
            (None, None),
            (NORTH, "wrkspc_2"),
            "workspace wrkspc_2, accounts.yaml says wrkspc_1",
        ),
        # Without the file a key is changed as before.
        (AccountNames("d", "d", "d", simulated=False), (NORTH, "w"), (SOUTH, "x"), None),
    ],
)
def test_a_key_of_another_place_is_refused(
    ledger: Ledger,
    names: AccountNames,
    before: tuple[str | None, str | None],
    seen: tuple[str | None, str | None],
    said: str | None,
) -> None:
    with ledger.write() as connection:
        accounts.register(connection, names)
        accounts.note_ids(connection, names, *before)
        if said is None:
            accounts.note_ids(connection, names, *seen)
            return
        with pytest.raises(AccountError, match=said):
            accounts.note_ids(connection, names, *seen)
        if before[0] is not None:
            accounts.forget_ids(connection, names.name)
            accounts.note_ids(connection, names, *seen)


@ONE_DATABASE
def test_two_organisations_of_one_file_that_are_one_are_refused(ledger: Ledger) -> None:
    with ledger.write() as connection:
        for names in (A, B):
            accounts.register(connection, names)
        accounts.note_ids(connection, A, NORTH, "wrkspc_1", others={"south"})
        with pytest.raises(AccountError, match="overrun their common queue"):
            accounts.note_ids(connection, B, NORTH, "wrkspc_2", others={"north"})


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
        # An older night that wants room of it goes first there, and nowhere else.
        younger = night_of(connection, 5, partition="2026-01-03")
        assert "an older night (job 2026-01-02) goes first" in why(
            begin(connection, younger, shared)
        )
        nights.update_night(connection, night.id, accounts=["a", "c"])
        assert begun(connection, younger, limits(sender(A, 50), sender(B))).account == "b"


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
        night = night_of(connection, 30, 20, 10, 10)
        accounts.pause_account(connection, "a", "no credit")
        assert begun(connection, night, both).account == "b"
        # Its probe is one small batch, when it is due.
        clock.at += 1_000
        probe = begin(connection, night, both)
        assert isinstance(probe, Intent)
        assert (probe.submission.account, probe.probe, probe.shard.requests) == ("a", True, 10)
        assert begun(connection, night, both).account == "b"
        accounts.pause_account(connection, "b", "on hold")
        waiting = begin(connection, night, both)
        assert isinstance(waiting, Waiting)
        assert {state.kind for state in waiting.by_account.values()} == {Kind.PAUSED}
        found = admission.facts_of(connection, nights.get_night(connection, night.id))
        assert found.paused is None, "account c may send it too"


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


@ONE_DATABASE
def test_senders_of_a_night_have_the_limits_in_force(ledger: Ledger) -> None:
    file = Accounts(
        {
            "a": AccountSpec(organisation="north", owner=OWNER, max_queued_requests=500),
            "b": AccountSpec(key_env="B", owner=OWNER),
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
