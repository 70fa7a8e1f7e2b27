"""Two workers, deaths, cancels and a list that may lag for ever, in any order, on both databases.

`test_submissions_model` shows that nothing is sent twice while nobody is given up wrongly. Here the
list hides batches at will, so that some are: what is then bought twice has to be found and booked.
"""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from batch_pipeline.ledger import nights, shards
from batch_pipeline.ledger.accounts import accounts
from batch_pipeline.ledger.admission import admission
from batch_pipeline.ledger.admission.admission import Intent, Limits
from batch_pipeline.ledger.admission.night_state import OPEN_GATES
from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.database.ledger import Ledger
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.shards import ShardState
from batch_pipeline.ledger.submissions import listed_batches, submissions, transitions
from batch_pipeline.ledger.submissions.submissions import IN_QUEUE, LIVE, State, Submission
from batch_pipeline.ledger.sums import Counts
from batch_pipeline_tests.ledger.conftest import ACCOUNT, TELL_TIME, Clock, a_night, queue_of

LIMIT = 20
LEASE = 60.0
LIMITS = Limits(senders=queue_of(LIMIT), job_queue=None, lease_seconds=LEASE)
PICK = st.integers(min_value=0, max_value=1_000)
WORKER = st.sampled_from(["one", "two"])
PRICE = Decimal(1)


class Lagging(RuleBasedStateMachine):
    """`made` is the truth: which submissions became batches. `told` are answers on their way."""

    ledger: Ledger

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.patches = [mock.patch.object(module, "now", self.clock) for module in TELL_TIME]
        for patch in self.patches:
            patch.start()
        self.in_hand: dict[str, list[Submission]] = {"one": [], "two": []}
        self.made: dict[int, Submission] = {}
        self.told: set[int] = set()
        self.given_up_wrongly: set[int] = set()
        self.night: Night

    @initialize(sizes=st.lists(st.integers(5, 12), min_size=1, max_size=2))
    def start(self, sizes: list[int]) -> None:
        with self.ledger.write() as connection:
            for table in reversed(tables.metadata.sorted_tables):
                if table is not tables.schema:
                    connection.execute(table.delete())
            accounts.register_account(connection, ACCOUNT, simulated=False)
            self.night = a_night(connection, *sizes)

    def teardown(self) -> None:
        for patch in self.patches:
            patch.stop()

    def _one(self, worker: str, pick: int) -> Submission | None:
        held = self.in_hand[worker]
        return held[pick % len(held)] if held else None

    @rule(worker=WORKER)
    def begin(self, worker: str) -> None:
        with self.ledger.write() as connection:
            held = nights.get_night(connection, self.night.id).held_at is not None
            free = LIMIT - _queued(connection)
            intent = admission.begin(connection, self.night, worker, LIMITS, lambda *_: OPEN_GATES)
        if isinstance(intent, Intent):
            assert not held
            assert intent.submission.requests <= free
            self.in_hand[worker].append(intent.submission)

    @rule(worker=WORKER, pick=PICK, reaches=st.sampled_from([True, True, False]))
    def seal_and_send(self, worker: str, pick: int, reaches: bool) -> None:
        one = self._one(worker, pick)
        if one is None:
            return
        with self.ledger.write() as connection:
            held = nights.get_night(connection, self.night.id).held_at is not None
            lease_until = submissions.get(connection, one.id).lease_until
            others = submissions.find(
                connection,
                tables.submission.c.shard_id == one.shard_id,
                tables.submission.c.id != one.id,
                states=(*LIVE, State.COLLECTED),
            )
            sealed = transitions.seal(connection, one, LEASE)
        if sealed:
            assert not held, "a cancel came before the last bytes"
            assert lease_until > self.clock.at, "the claim had lapsed"
            assert not others, "another submission has the shard"
            if reaches:
                earlier = {s.id for s in self.made.values() if s.shard_id == one.shard_id}
                assert earlier <= self.given_up_wrongly, "bought twice without any lag"
                self.made[one.id] = one
                self.told.add(one.id)

    @rule(worker=WORKER, pick=PICK)
    def answer_comes(self, worker: str, pick: int) -> None:
        one = self._one(worker, pick)
        if one is not None and one.id in self.told:
            self.told.discard(one.id)
            with self.ledger.write() as connection:
                _accept(connection, one)
                if nights.get_night(connection, self.night.id).held_at is not None:
                    transitions.request_cancel(connection, one)

    @rule(worker=WORKER, pick=PICK)
    def answer_is_lost(self, worker: str, pick: int) -> None:
        one = self._one(worker, pick)
        if one is not None:
            self.told.discard(one.id)
            with self.ledger.write() as connection:
                transitions.lose_track(connection, one, "lost")

    @rule(worker=WORKER)
    def crash(self, worker: str) -> None:
        """What it had in hand, and what the API would have told it, is gone."""
        self.told -= {one.id for one in self.in_hand[worker]}
        self.in_hand[worker] = []

    @rule(seconds=st.sampled_from([1, 59, 61, 700]))
    def time_goes_by(self, seconds: int) -> None:
        self.clock.at += seconds

    @rule(held=st.booleans())
    def cancel_or_resume(self, held: bool) -> None:
        with self.ledger.write() as connection:
            at = self.clock.at if held else None
            nights.update_night(connection, self.night.id, held_at=at)
            for one in submissions.of_account(connection, ACCOUNT, State.ACCEPTED):
                if held:
                    transitions.request_cancel(connection, one)

    @rule(shown=st.booleans(), late_enough=st.booleans())
    def look(self, shown: bool, late_enough: bool) -> None:
        """Read a list that shows all or nothing: adopt what is ours, give up what is not there."""
        with self.ledger.write() as connection:
            transitions.reap(connection, ACCOUNT)
            unknown = submissions.of_account(connection, ACCOUNT, State.UNKNOWN)
            watched = listed_batches.watched(connection, ACCOUNT)
            for one in [*unknown, *watched]:
                if shown and one.id in self.made:
                    _accept(connection, one)
            for one in unknown:
                if (
                    late_enough
                    and transitions.give_back(connection, one, State.ABSENT, "not listed")
                    and one.id in self.made
                ):
                    self.given_up_wrongly.add(one.id)

    @rule(pick=PICK)
    def batch_ends(self, pick: int) -> None:
        with self.ledger.write() as connection:
            running = submissions.of_account(connection, ACCOUNT, State.ACCEPTED)
            if running:
                transitions.end(connection, running[pick % len(running)])

    @rule(pick=PICK, again=st.booleans())
    def collect(self, pick: int, again: bool) -> None:
        """Both workers may collect the same one."""
        with self.ledger.read() as connection:
            ended = submissions.of_account(connection, ACCOUNT, State.ENDED)
        if not ended:
            return
        one = ended[pick % len(ended)]
        outcomes = []
        for _ in range(1 + again):
            with self.ledger.write() as connection:
                shard = shards.get_shard(connection, one.shard_id)
                counts = Counts(duplicate=shard.state is not ShardState.CLAIMED)
                outcomes.append(transitions.collect(connection, one, counts, PRICE))
        assert outcomes == [True, False][: len(outcomes)]

    @invariant()
    def every_batch_is_booked_or_will_be_found(self) -> None:
        if not hasattr(self, "night"):
            return
        with self.ledger.read() as connection:
            every = {one.id: one for one in submissions.find(connection)}
            watched = {one.id for one in listed_batches.watched(connection)}
        for number in self.made:
            one = every[number]
            looked_for = one.state in (State.SEALED, State.UNKNOWN) or number in watched
            assert one.batch_id is not None or looked_for or self._too_old(one)
        for one in every.values():
            if one.batch_id is not None:
                assert one.id in self.made
        collected = [one for one in every.values() if one.state is State.COLLECTED]
        first = Counter(one.shard_id for one in collected if not one.duplicate)
        assert set(first.values()) <= {1}, "two submissions answered one shard"
        assert {one.shard_id for one in collected} == set(first)

    def _too_old(self, one: Submission) -> bool:
        assert one.window_from is not None
        return one.window_from <= self.clock.at - listed_batches.LATE_WATCH_SECONDS

    @invariant()
    def shards_say_what_their_submissions_say(self) -> None:
        if not hasattr(self, "night"):
            return
        with self.ledger.read() as connection:
            live = {one.shard_id for one in submissions.find(connection, states=LIVE)}
            done = {one.shard_id for one in submissions.find(connection, states=[State.COLLECTED])}
            every = shards.list_shards(connection, self.night.id)
            late = [
                one
                for one in submissions.find(connection, states=IN_QUEUE)
                if one.id in self.given_up_wrongly
            ]
            # Only what nobody could know of goes beyond the limit.
            assert _queued(connection) <= LIMIT + sum(one.requests for one in late)
        for shard in every:
            if shard.id in done:
                assert shard.state is ShardState.COLLECTED
            else:
                expected = ShardState.CLAIMED if shard.id in live else ShardState.WAITING
                assert shard.state is expected


def _queued(connection: Any) -> int:
    return sum(one.requests for one in submissions.of_account(connection, ACCOUNT, *IN_QUEUE))


def _accept(connection: Any, one: Submission) -> None:
    transitions.accept(connection, one.id, f"batch_{one.id}", accepted_at=0, expires_at=0)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_whatever_is_made_is_booked_once(ledger: Ledger, ledger_url: str) -> None:
    is_sqlite = ledger_url.startswith("sqlite")
    if is_sqlite:
        # The test is of transactions' content, not of the disk.
        with ledger._engine.connect() as connection:
            connection.exec_driver_sql("COMMIT")
            connection.exec_driver_sql("PRAGMA synchronous = OFF")
    run_state_machine_as_test(
        type("OnThisLedger", (Lagging,), {"ledger": ledger}),
        settings=settings(
            max_examples=25 if is_sqlite else 6,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
