"""A ledger with a night in it, and a clock that tests turn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

import pytest
from sqlalchemy import Connection

from batch_pipeline.jobs.accounts.accounts_file import AccountNames
from batch_pipeline.ledger import nights, shards, snapshots, waits
from batch_pipeline.ledger.accounts import accounts, organisations
from batch_pipeline.ledger.admission import admission, budget, decision, queue
from batch_pipeline.ledger.admission.admission import Intent, Limits, Sender, Waiting
from batch_pipeline.ledger.admission.night_state import OPEN_GATES
from batch_pipeline.ledger.database.ledger import Ledger
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.processes import leases
from batch_pipeline.ledger.shards import Engine, NewShard
from batch_pipeline.ledger.snapshots import NewSnapshot
from batch_pipeline.ledger.submissions import listed_batches, takeovers, transitions
from batch_pipeline.ledger.submissions.submissions import Submission

ACCOUNT = "default"
# Accounts of one owner and two organisations, and the ids of these.
OWNER = "research"
A = AccountNames("a", OWNER, "north", simulated=False, declared="a")
B = AccountNames("b", OWNER, "south", simulated=False, declared="b")
C = AccountNames("c", OWNER, "north", simulated=False, declared="c")
NORTH, SOUTH = "11111111-aaaa-4bbb-8ccc-000000000001", "22222222-aaaa-4bbb-8ccc-000000000002"

# What is no matter of SQL.
ONE_DATABASE = pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)


def queue_of(requests: int, account: str = ACCOUNT) -> tuple[Sender]:
    """One account that may send, whose organisation's queue has so much room."""
    return (Sender(account, account, requests),)


LIMITS = Limits(senders=queue_of(100), job_queue=None, lease_seconds=60)
# What asks the database for the time.
TELL_TIME = (
    accounts, admission, budget, decision, leases, listed_batches, nights, organisations, queue,
    shards, snapshots, takeovers, transitions, waits
)  # fmt: skip


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    """An empty ledger with one account, in each of the two databases."""
    opened = Ledger(ledger_url)
    with opened.write() as connection:
        accounts.register_account(connection, ACCOUNT, simulated=False)
    yield opened
    opened.close()


@dataclass
class Clock:
    """The database's clock, as far as the state machine sees it."""

    at: float = 1_000_000.0

    def __call__(self, _connection: Connection) -> float:
        return self.at


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The ledger's clock, which stands until a test sets it."""
    clock = Clock()
    for module in TELL_TIME:
        monkeypatch.setattr(module, "now", clock)
    return clock


def a_snapshot(items: int = 100) -> NewSnapshot:
    return NewSnapshot(
        folder="f", signature="s", content_hash="c", declaration_hash="d", declaration={},
        parts=1, items=items, set_aside={}, duplicates=0, request_bytes=1,
    )  # fmt: skip


def a_shard(requests: int, engine: Engine = "batch") -> NewShard:
    return NewShard(
        engine=engine, pilot=False, manifest="m", requests=requests, bytes=1, usd_bound=Decimal(1),
        largest_bytes=1, output_tokens=1,
    )  # fmt: skip


def a_night(
    connection: Connection,
    *requests: int,
    partition: str = "2026-01-02",
    job: str = "job",
    engine: Engine = "batch",
    owner: str = ACCOUNT,
) -> Night:
    """A night with a snapshot and waiting shards of so many requests each."""
    night = nights.open_night(connection, job, partition, owner)
    snapshots.replace_snapshot(connection, night, a_snapshot(), {})
    night = nights.get_night(connection, night.id)
    new = [a_shard(count, engine) for count in requests]
    assert shards.add_shards(connection, night, new, open_requests=0)
    return nights.get_night(connection, night.id)


def begin(connection: Connection, night: Night, limits: Limits = LIMITS) -> Intent | Waiting:
    return admission.begin(connection, night, "me", limits, lambda *_: OPEN_GATES)


def begun(connection: Connection, night: Night, limits: Limits = LIMITS) -> Submission:
    intent = begin(connection, night, limits)
    assert isinstance(intent, Intent), intent
    return intent.submission


def accept(connection: Connection, submission: Submission, batch_id: str = "batch_1") -> None:
    transitions.accept(
        connection, submission.id, batch_id, accepted_at=1_000_000.0, expires_at=1_086_400.0
    )
