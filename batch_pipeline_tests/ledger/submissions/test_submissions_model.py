"""Many submitters, clocks and deaths in any order: the queue's limit and one live claim a shard."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from batch_pipeline.ledger import shards
from batch_pipeline.ledger.accounts import accounts
from batch_pipeline.ledger.admission import admission
from batch_pipeline.ledger.admission.admission import Intent, Limits
from batch_pipeline.ledger.admission.night_state import OPEN_GATES
from batch_pipeline.ledger.database.ledger import Ledger
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.shards import ShardState
from batch_pipeline.ledger.submissions import submissions, transitions
from batch_pipeline.ledger.submissions.submissions import IN_QUEUE, State, Submission
from batch_pipeline.ledger.sums import Counts
from batch_pipeline_tests.ledger.conftest import ACCOUNT, TELL_TIME, Clock, a_night, queue_of
from batch_pipeline_tests.support import together

LIMIT = 20
LIMITS = Limits(senders=queue_of(LIMIT), job_queue=None, lease_seconds=60)
PICK = st.integers(min_value=0, max_value=4)  # the newest first: long ago is seldom interesting
COUNTS = Counts()


class Submitters(RuleBasedStateMachine):
    """Any process may do any step with any submission that it once held, however stale it is.

    `at_the_api` is the truth: what a create has really made. Nothing that is there may be sent a
    second time, as long as no submission is given up that was really made.
    """

    @initialize(sizes=st.lists(st.integers(1, 12), min_size=1, max_size=4))
    def start(self, sizes: list[int]) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.ledger = Ledger(f"sqlite:///{Path(self.folder.name) / 'l.sqlite'}")
        # The test is of transactions' content, not of the disk.
        with self.ledger._engine.connect() as connection:
            connection.exec_driver_sql("COMMIT")
            connection.exec_driver_sql("PRAGMA synchronous = OFF")
        self.clock = Clock()
        self.patches = [mock.patch.object(module, "now", self.clock) for module in TELL_TIME]
        for patch in self.patches:
            patch.start()
        with self.ledger.write() as connection:
            accounts.register_account(connection, ACCOUNT, simulated=False)
            half = len(sizes) // 2
            self.nights = [
                a_night(connection, *sizes[:half], partition="2026-01-01"),
                a_night(connection, *sizes[half:], partition="2026-01-02"),
            ]
        self.held: list[Submission] = []
        self.at_the_api: dict[int, int] = {}

    def teardown(self) -> None:
        for patch in getattr(self, "patches", ()):
            patch.stop()
        if hasattr(self, "ledger"):
            self.ledger.close()
            self.folder.cleanup()

    def _with_one(self, pick: int, do: Callable[[Any, Submission], object]) -> None:
        if self.held:
            with self.ledger.write() as connection:
                do(connection, self.held[-1 - pick % len(self.held)])

    @rule(night=st.integers(0, 1))
    def begin(self, night: int) -> None:
        of: Night = self.nights[night]
        with self.ledger.write() as connection:
            transitions.reap(connection, ACCOUNT)
            intent = admission.begin(connection, of, "me", LIMITS, lambda *_: OPEN_GATES)
        if isinstance(intent, Intent):
            self.held.append(intent.submission)

    @rule(pick=PICK, made=st.booleans())
    def seal_and_send(self, pick: int, made: bool) -> None:
        """The last bytes leave only after the seal; the API may take the batch in or not."""

        def do(connection: Any, one: Submission) -> None:
            if transitions.seal(connection, one, 60) and made:
                assert one.shard_id not in self.at_the_api.values(), "sent a second time"
                self.at_the_api[one.id] = one.shard_id

        self._with_one(pick, do)

    @rule(night=st.integers(0, 1))
    def send_and_die(self, night: int) -> None:
        self.begin(night)
        self.seal_and_send(0, made=True)

    @rule(pick=PICK)
    def answer_comes(self, pick: int) -> None:
        def do(connection: Any, one: Submission) -> None:
            if one.id in self.at_the_api:
                transitions.accept(
                    connection, one.id, f"batch_{one.id}", accepted_at=0, expires_at=0
                )

        self._with_one(pick, do)

    @rule(pick=PICK)
    def answer_is_lost(self, pick: int) -> None:
        self._with_one(pick, lambda connection, one: transitions.lose_track(connection, one, "x"))

    @rule(pick=PICK)
    def refused(self, pick: int) -> None:
        def do(connection: Any, one: Submission) -> None:
            state = submissions.get(connection, one.id).state
            # A definite answer, or an incomplete body, or a list that shows nothing.
            if one.id not in self.at_the_api or state is State.INTENT:
                transitions.give_back(connection, one, State.ABSENT, "x")

        self._with_one(pick, do)

    @rule(pick=PICK)
    def batch_ends(self, pick: int) -> None:
        self._with_one(pick, transitions.end)

    @rule(pick=PICK)
    def collect(self, pick: int) -> None:
        self._with_one(
            pick,
            lambda connection, one: transitions.collect(connection, one, COUNTS, Decimal(1)),
        )

    @rule(seconds=st.sampled_from([59, 61, 700]))
    def time_goes_by(self, seconds: int) -> None:
        self.clock.at += seconds

    @invariant()
    def the_queue_is_never_overfull(self) -> None:
        if hasattr(self, "ledger"):
            with self.ledger.read() as connection:
                queued = submissions.of_account(connection, ACCOUNT, *IN_QUEUE)
            assert sum(one.requests for one in queued) <= LIMIT

    @invariant()
    def a_shard_is_claimed_by_one(self) -> None:
        if hasattr(self, "ledger"):
            with self.ledger.read() as connection:
                live = Counter(
                    one.shard_id for one in submissions.find(connection, states=submissions.LIVE)
                )
                found = {
                    shard.id: shard.state
                    for night in self.nights
                    for shard in shards.list_shards(connection, night.id)
                }
                done = {
                    one.shard_id for one in submissions.find(connection, states=[State.COLLECTED])
                }
            assert set(live.values()) <= {1}
            for shard, state in found.items():
                expected = ShardState.COLLECTED if shard in done else ShardState.WAITING
                assert state is (ShardState.CLAIMED if shard in live else expected)


Submitters.TestCase.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
test_submitters = pytest.mark.filterwarnings("ignore::ResourceWarning")(Submitters.TestCase)


def test_submitters_side_by_side_never_take_the_same_shard(ledger: Ledger, ledger_url: str) -> None:
    """Real threads, real databases: claims, seals and ends race each other."""
    with ledger.write() as connection:
        night = a_night(connection, *[3] * 12)
    taken: list[int] = []
    highest: list[int] = []

    def submit() -> None:
        own = Ledger(ledger_url)
        try:
            for _ in range(200):
                with own.write() as connection:
                    intent = admission.begin(connection, night, "me", LIMITS, lambda *_: OPEN_GATES)
                    queued = submissions.of_account(connection, ACCOUNT, *IN_QUEUE)
                highest.append(sum(one.requests for one in queued))
                if isinstance(intent, Intent):
                    taken.append(intent.shard.id)
                    with own.write() as connection:
                        assert transitions.seal(connection, intent.submission, 60)
                    with own.write() as connection:
                        transitions.accept(
                            connection, intent.submission.id, intent.submission.token,
                            accepted_at=0, expires_at=0,
                        )  # fmt: skip
                    with own.write() as connection:
                        transitions.end(connection, intent.submission)
                elif intent.state is None:
                    return
        finally:
            own.close()

    together(*[submit] * 4)
    assert len(taken) == len(set(taken)) == 12
    assert max(highest) <= LIMIT
