"""Rows of the ledger as values, for the tests of decisions that are made of them."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

from batch_pipeline.flow.gates.first_attempts import FirstAttempts
from batch_pipeline.flow.status.progress import Progress
from batch_pipeline.ledger.accounts.accounts import Account
from batch_pipeline.ledger.control.approvals import Approval, Gate
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.shards import Shard, ShardState
from batch_pipeline.ledger.snapshots import Snapshot
from batch_pipeline.ledger.submissions.submissions import State, Submission

NOW = 10_000_000.0
ACCOUNT = Account(name="default", simulated=False)
NIGHT = Night(
    id=1, job="review", partition="all", owner="default", created_at=0.0, snapshot_id=1,
    open_requests=0, revision=0, published=True, rebuilding=False, held_at=None, refused=None,
    wanted_room_at=0.0, pilot=None, completed_at=None,
)  # fmt: skip
SNAPSHOT = Snapshot(
    folder="f", signature="s", content_hash="content", declaration_hash="declared",
    declaration={}, parts=1, items=1_000, set_aside={}, duplicates=0,
    request_bytes=1, id=1, night_id=1, settled={}, taken_at=0.0,
)  # fmt: skip
SHARD = Shard(
    engine="batch", pilot=False, manifest="m", requests=10, bytes=1, usd_bound=Decimal(1),
    largest_bytes=1, output_tokens=1, id=1, night_id=1, snapshot_id=1,
    state=ShardState.COLLECTED, created_at=0.0,
)  # fmt: skip
SUBMISSION = Submission(
    id=1, shard_id=1, night_id=1, snapshot_id=1, pilot=False, account="default", engine="batch",
    token="t" * 16, requests=10, usd_bound=Decimal(1), state=State.COLLECTED, holder="me", fence=1,
    lease_until=0.0, intent_at=NOW, window_from=None, error=None, batch_id="batch_1",
    accepted_at=NOW, expires_at=NOW + 86_400, cancel_requested_at=None, ended_at=None,
    collected_at=None,
    cost_usd=None,
)  # fmt: skip
STATE = Progress(
    night=NIGHT, accounts=(ACCOUNT,), snapshot=SNAPSHOT, items=1_000, statuses={}, waiting=0,
    in_flight=10, unknown=0, to_collect=0, batches=1, batches_ended=0,
    cost_usd={"batch": Decimal(0)}, usage={}, submissions=(), first=FirstAttempts(), approvals=(),
    at=NOW,
)  # fmt: skip


def submission(**changes: Any) -> Submission:
    return replace(SUBMISSION, **changes)


def approval(gate: Gate, declaration: str = "declared", content: str = "content") -> Approval:
    return Approval(
        id=1, night_id=1, gate=gate, declaration_hash=declaration, content_hash=content,
        reason="so be it", approved_by="someone", approved_at=NOW,
    )  # fmt: skip
