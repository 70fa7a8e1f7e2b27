"""Accounts in the ledger: whose they are, the ids of their keys, refusals, outages and pauses."""

from __future__ import annotations

from dataclasses import replace

import pytest

from batch_pipeline.errors import AccountError, LedgerError
from batch_pipeline.jobs.accounts.accounts_file import AccountNames
from batch_pipeline.ledger.accounts import accounts
from batch_pipeline.ledger.database.ledger import Ledger
from batch_pipeline_tests.ledger.conftest import NORTH, ONE_DATABASE, OWNER, SOUTH, A, B, Clock


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


@ONE_DATABASE
def test_a_key_counts_as_refused_after_three_times_in_a_row(ledger: Ledger, clock: Clock) -> None:
    with ledger.write() as connection:
        accounts.register(connection, A)

        def refused() -> str | None:
            accounts.note_refused(connection, "a", "HTTP 401")
            return accounts.get_account(connection, "a").key_refused

        assert [refused() for _ in range(2)] == [None, None]
        clock.at += 3_601  # these were of another time
        assert [refused() for _ in range(3)] == [None, None, "HTTP 401"]
        accounts.note_accepted(connection, "a")
        assert refused() is None


@ONE_DATABASE
def test_an_outage_lasts_while_it_is_asked_for(ledger: Ledger, clock: Clock) -> None:
    with ledger.write() as connection:
        accounts.register(connection, A)

        def since() -> float:
            accounts.note_unanswered(connection, "a", "HTTP 503")
            known = accounts.get_account(connection, "a").unanswered
            assert known is not None
            return clock.at - float(known["since"])

        assert since() == 0
        clock.at += 3_600
        assert since() == 3_600
        clock.at += 3_601
        assert since() == 0


@ONE_DATABASE
def test_what_ends_a_pause_and_when_it_is_probed(ledger: Ledger, clock: Clock) -> None:
    with ledger.write() as connection:
        accounts.register(connection, A)

        def is_paused() -> bool:
            return accounts.get_account(connection, "a").paused_reason is not None

        accounts.pause_account(connection, "a", "no credit")
        accounts.prove(connection, "a", clock.at - 1, by_results=False)
        assert is_paused(), "sent before the pause"
        waits_until = []
        for _ in range(4):
            accounts.take_probe(connection, "a")
            waits_until.append((accounts.get_account(connection, "a").probe_at or 0.0) - clock.at)
        assert waits_until == [1_800, 3_600, 3_600, 3_600]
        accounts.prove(connection, "a", clock.at, by_results=False)
        assert not is_paused()
        accounts.pause_account(connection, "a", "answers say no credit", by_results=True)
        accounts.prove(connection, "a", clock.at, by_results=False)
        assert is_paused(), "its creates are taken in all the same"
        accounts.prove(connection, "a", clock.at, by_results=True)
        assert not is_paused()


@ONE_DATABASE
def test_the_workspace_is_that_of_what_is_in_flight(ledger: Ledger) -> None:
    with ledger.write() as connection:
        for seen, in_flight in (("w1", False), ("w2", True)):
            accounts.note_workspace(connection, "default", seen, in_flight=in_flight)
        found = accounts.get_account(connection, "default")
        assert (found.workspace, found.key_workspace) == ("w1", "w2")
