"""Admission with several accounts as a state machine: no organisation's queue and no account's
month is ever passed, and what may appear in one account's list is sent by no other."""

from __future__ import annotations

import tempfile
from collections import Counter
from decimal import Decimal
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from batch_pipeline.jobs.accounts.accounts_file import AccountNames
from batch_pipeline.ledger import nights
from batch_pipeline.ledger.accounts import accounts, organisations
from batch_pipeline.ledger.admission import admission, budget
from batch_pipeline.ledger.admission.admission import Intent, Limits, Sender, Waiting
from batch_pipeline.ledger.admission.budget import Ceilings, Money
from batch_pipeline.ledger.admission.night_state import OPEN_GATES
from batch_pipeline.ledger.database.ledger import Ledger
from batch_pipeline.ledger.shards import Engine
from batch_pipeline.ledger.submissions import submissions, transitions
from batch_pipeline.ledger.submissions.submissions import IN_QUEUE, LIVE, State
from batch_pipeline.ledger.sums import Counts
from batch_pipeline_tests.ledger.conftest import TELL_TIME, Clock, a_night

OWNER = "research"
ORGANISATIONS = {"a": "north", "b": "south", "c": "north"}
QUEUES = {"north": 20, "south": 12}
SENDERS = {
    "a": Sender("a", "north", QUEUES["north"], Decimal(25)),
    "b": Sender("b", "south", QUEUES["south"]),
    "c": Sender("c", "north", QUEUES["north"], Decimal(40)),
}
PICK = st.integers(0, 3)  # the newest first
SOME = st.lists(st.sampled_from(list(ORGANISATIONS)), min_size=1, unique=True)
ENGINES = st.sampled_from(["batch", "batch", "batch", "realtime"])


class Senders(RuleBasedStateMachine):
    """Two nights of one owner that three accounts of two organisations may send."""

    @initialize(sizes=st.lists(st.integers(1, 12), min_size=4, max_size=10), engine=ENGINES)
    def start(self, sizes: list[int], engine: Engine) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.ledger = Ledger(f"sqlite:///{Path(self.folder.name) / 'l.sqlite'}")
        with self.ledger._engine.connect() as connection:
            connection.exec_driver_sql("COMMIT")
            connection.exec_driver_sql("PRAGMA synchronous = OFF")
        self.clock = Clock()
        self.patches = [mock.patch.object(module, "now", self.clock) for module in TELL_TIME]
        for patch in self.patches:
            patch.start()
        with self.ledger.write() as connection:
            for name, organisation in ORGANISATIONS.items():
                accounts.register(
                    connection, AccountNames(name, OWNER, organisation, simulated=False)
                )
            half = len(sizes) // 2
            self.nights = [
                a_night(connection, *sizes[:half], partition="2026-01-01", owner=OWNER),
                a_night(
                    connection, *sizes[half:], partition="2026-01-02", owner=OWNER, engine=engine
                ),
            ]
            for night in self.nights:
                nights.update_night(connection, night.id, accounts=list(ORGANISATIONS))

    def teardown(self) -> None:
        for patch in getattr(self, "patches", ()):
            patch.stop()
        if hasattr(self, "ledger"):
            self.ledger.close()
            self.folder.cleanup()

    @rule(night=st.integers(0, 1), answering=SOME, calls=st.sampled_from([False, False, True]))
    def begin(self, night: int, answering: list[str], calls: bool) -> None:
        """Something is sent through an account that answers, unless each of them is kept from it;
        one that could send everything is never told to wait."""
        of = self.nights[night]
        money = Money(Ceilings(), lambda shard: Decimal(shard.requests))
        limits = Limits(tuple(SENDERS[name] for name in answering), None, 60, money)
        go = admission.begin_next_calls if calls else admission.begin
        with self.ledger.write() as connection:
            transitions.reap(connection, *ORGANISATIONS)
            pinned = transitions.pinned_to(connection, of.id)
            paused = {
                each.name
                for each in accounts.list_accounts(connection)
                if each.paused_reason is not None
            }
            found = go(connection, of, "me", limits, lambda *_: OPEN_GATES)
            if isinstance(found, Intent):
                account = found.submission.account
                assert account in answering
                assert found.probe or account not in paused
                if found.shard.id in pinned:
                    assert account == pinned[found.shard.id][0], "bought by another account"
            else:
                assert set(found.by_account) <= set(answering)
                self._is_told_rightly(found)

    def _is_told_rightly(self, found: Waiting) -> None:
        assert (found.state is None) == (found.requests == 0) or "calls" in str(found.state)

    @rule(pick=PICK)
    def is_lost_on_its_way(self, pick: int) -> None:
        """Its batch may appear for two days."""
        self.answer(pick, "lost")
        with self.ledger.write() as connection:
            unknown = submissions.find(connection, states=(State.UNKNOWN,))
            if unknown:
                one = unknown[-1 - pick % len(unknown)]
                transitions.give_back(connection, one, State.ABSENT, "not listed")

    @rule(pick=PICK, outcome=st.sampled_from(["accepted", "lost", "refused", "absent", "full"]))
    def answer(self, pick: int, outcome: str) -> None:
        with self.ledger.write() as connection:
            waiting = submissions.find(
                connection, states=(State.INTENT, State.SEALED, State.UNKNOWN)
            )
            if not waiting:
                return
            one = waiting[-1 - pick % len(waiting)]
            if one.state is State.INTENT and outcome != "absent":
                transitions.seal(connection, one, 60)
            match outcome:
                case "accepted":
                    transitions.accept(
                        connection, one.id, f"batch_{one.id}", accepted_at=0, expires_at=0
                    )
                case "lost":
                    transitions.lose_track(connection, one, "lost")
                case "absent":
                    transitions.give_back(connection, one, State.ABSENT, "not listed")
                case "full":
                    transitions.give_back(connection, one, State.REFUSED, "full")
                    organisations.wait_for_queue(connection, one.account, 60)
                case _:
                    transitions.give_back(connection, one, State.REFUSED, "refused")

    @rule(pick=PICK, share=st.integers(0, 100))
    def ends(self, pick: int, share: int) -> None:
        with self.ledger.write() as connection:
            sent = submissions.find(connection, states=(State.ACCEPTED, State.CALLING))
            if sent:
                one = sent[-1 - pick % len(sent)]
                transitions.end(connection, one)
                cost = one.usd_bound * share / 100
                assert transitions.collect(connection, one, Counts(), cost)

    @rule(name=st.sampled_from(list(ORGANISATIONS)), paused=st.booleans())
    def pause(self, name: str, paused: bool) -> None:
        with self.ledger.write() as connection:
            if paused:
                accounts.pause_account(connection, name, "no credit")
            else:
                accounts.lift_pause(connection, name)

    @rule(seconds=st.sampled_from([59, 61, 950, 48 * 3600]))
    def time_goes_by(self, seconds: int) -> None:
        self.clock.at += seconds

    @invariant()
    def no_queue_is_overfull(self) -> None:
        if hasattr(self, "ledger"):
            used: Counter[str] = Counter()
            with self.ledger.read() as connection:
                for one in submissions.find(connection, states=IN_QUEUE):
                    used[ORGANISATIONS[one.account]] += one.requests
            assert all(used[name] <= limit for name, limit in QUEUES.items()), used

    @invariant()
    def no_month_is_overspent(self) -> None:
        if hasattr(self, "ledger"):
            with self.ledger.read() as connection:
                for name, sender in SENDERS.items():
                    ceilings = Ceilings().of(name, sender)
                    for _, limit, spent in budget.spendings(connection, self.nights[0], ceilings):
                        assert spent.total <= limit, name

    @invariant()
    def a_shard_is_sent_once(self) -> None:
        if hasattr(self, "ledger"):
            with self.ledger.read() as connection:
                live = Counter(one.shard_id for one in submissions.find(connection, states=LIVE))
            assert set(live.values()) <= {1}


Senders.TestCase.settings = settings(max_examples=12, stateful_step_count=25, deadline=None)
test_senders = pytest.mark.filterwarnings("ignore::ResourceWarning")(Senders.TestCase)
