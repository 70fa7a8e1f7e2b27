"""The circuit breaker: a systematic failure that needs a fix stops a night before it has cost all.

Belongs here: what counts, and the decision, which is made of the ledger's rows alone. Does not
belong here: what a single result means (`outcomes`), and the pilot's own gate (`pilot`).

What counts are first attempts under the night's present declaration that the API worked on. What
will be sent again by itself (expired, overloaded, cancelled) is no evidence and never counts.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from batch_pipeline.errors import GateClosedError
from batch_pipeline.flow.gates.first_attempts import FirstAttempts
from batch_pipeline.jobs.alert_limits import AlertLimits
from batch_pipeline.ledger import approvals, nights, sums
from batch_pipeline.ledger import snapshots as inputs
from batch_pipeline.ledger.admission import MaySend
from batch_pipeline.ledger.approvals import Approval, Gate
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.shards import Shard
from batch_pipeline.ledger.snapshots import Snapshot
from batch_pipeline.ledger.sums import Part

if TYPE_CHECKING:
    from batch_pipeline.flow.pipeline import Pipeline

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tripped:
    """Why nothing more of a night goes out, with up to three `id: message` of the main error."""

    reason: str
    examples: tuple[str, ...]

    def __str__(self) -> str:
        return f"the circuit breaker is open: {self.reason}"


def judge(
    alerts: AlertLimits,
    snapshot: Snapshot | None,
    first: FirstAttempts,
    overruled: Sequence[Approval],
) -> Tripped | None:
    """Whether so many first attempts failed that the rest would too, and nobody approved of it."""
    if snapshot is None or not first.done or first.done < alerts.after_items:
        return None
    if _approved(Gate.BREAKER, snapshot, overruled):
        return None
    share = first.needs_fix / first.done
    if share <= alerts.error_rate:
        return None
    [(kind, count)] = first.errors.most_common(1)
    return Tripped(
        f"{first.needs_fix:,} of {first.done:,} first attempts need a fix "
        f"({share:.1%}, over {alerts.error_rate:.1%}), most often {kind} ({count:,})",
        tuple(first.examples.get(kind, ())),
    )


def parts_that_count(
    snapshot: Snapshot, snapshots: Mapping[int, Snapshot], overruled: Sequence[Approval]
) -> set[Part]:
    """The parts of a night whose first attempts are evidence; `snapshots` are all of the night's.

    Those that were sent with the present declaration. A pilot counts for the input that it was
    drawn from, since corrected input gets a pilot of its own, and not where a person has approved
    of it.
    """
    counting: set[Part] = set()
    for snapshot_id, sent_for in snapshots.items():
        if sent_for.declaration_hash != snapshot.declaration_hash:
            continue
        counting.add((snapshot_id, False))
        same_input = sent_for.content_hash == snapshot.content_hash
        if same_input and not _approved(Gate.PILOT, sent_for, overruled):
            counting.add((snapshot_id, True))
    return counting


def first_attempts(
    connection: Connection, night_id: int, snapshot: Snapshot, overruled: Sequence[Approval]
) -> FirstAttempts:
    """What counts of a night's collected first attempts."""
    counting = parts_that_count(snapshot, inputs.snapshots_of(connection, night_id), overruled)
    total = FirstAttempts()
    for part, found in sums.first_attempts(connection, night_id).items():
        if part in counting:
            total.add(FirstAttempts(found.done, found.need_fix, found.errors, found.examples))
    return total


def look(
    connection: Connection,
    alerts: AlertLimits,
    night: Night,
    running: Iterable[FirstAttempts] = (),
) -> Tripped | None:
    """The breaker of a night by what the ledger says now, and by what `running` calls count."""
    snapshot_id = nights.get_night(connection, night.id).snapshot_id
    if snapshot_id is None:
        return None
    snapshot = inputs.get_snapshot(connection, snapshot_id)
    overruled = approvals.of_night(connection, night.id)
    first = first_attempts(connection, night.id, snapshot, overruled)
    for attempts in running:
        first.add(attempts)
    return judge(alerts, snapshot, first, overruled)


def gate(alerts: AlertLimits) -> MaySend:
    """What the breaker says to each shard of a job, in the transaction that claims it."""

    def may_send(connection: Connection, night: Night, _shard: Shard) -> str | None:
        tripped = look(connection, alerts, night)
        return None if tripped is None else str(tripped)

    return may_send


def closed_error(night: Night, tripped: Tripped, waiting: int) -> GateClosedError:
    """What a person reads whose night was stopped."""
    examples = "".join(f"\n  {example}" for example in tripped.examples)
    return GateClosedError(
        f"{night.job} {night.partition}: {tripped}. "
        f"{waiting:,} requests are held back.{examples}\nCorrect the prompt, the schema or "
        "max_tokens and run again, or let the night go as it is with `batch-pipeline approve "
        f"{night.job} --partition {night.partition} --gate breaker --reason …`."
    )


@contextmanager
def watched(pipeline: Pipeline, alerts: AlertLimits, night: Night) -> Iterator[None]:
    """Log a breaker that opens within the block: once a night, or once for each of the blocks that
    are under way at that moment."""
    with pipeline.ledger.read() as connection:
        before = look(connection, alerts, night)
    yield
    with pipeline.ledger.read() as connection:
        after = look(connection, alerts, night)
    if after is not None and before is None:
        log.warning(
            "%s %s: the circuit breaker opened: %s", night.job, night.partition, after.reason
        )


def _approved(gate: Gate, snapshot: Snapshot, overruled: Sequence[Approval]) -> bool:
    return approvals.covers(overruled, gate, snapshot.declaration_hash, snapshot.content_hash)
