"""The circuit breaker: a systematic failure that needs a fix stops a night before it has cost all.

Belongs here: what counts, and the decision, which is made of the ledger's rows alone. Does not
belong here: what a single result means (`outcomes`), and the pilot's own gate (`pilot`).

What counts are first attempts under the night's present declaration that the API worked on. What
will be sent again by itself (expired, overloaded, cancelled) is no evidence and never counts.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection

from batch_pipeline.errors import GateClosedError
from batch_pipeline.flow.outcomes import Action, Outcome
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.spec import AlertsSpec
from batch_pipeline.state import approvals, nights, redrives, submissions
from batch_pipeline.state.admission import MaySend
from batch_pipeline.state.approvals import Approval, Gate
from batch_pipeline.state.nights import Night, Shard, Snapshot
from batch_pipeline.state.submissions import State, Submission

log = logging.getLogger(__name__)

# Kept of each submission: more kinds of error than these are not systematic.
MOST_ERRORS = 5
EXAMPLES = 3
# The ledger keeps them for ever; the whole messages are in the answers.
MESSAGE_CHARACTERS = 300


@dataclass
class FirstAttempts:
    """First attempts that were worked on: `done` of them, of which `needs_fix` were set aside.

    `errors` counts the latter by error type; `examples` are up to three `id: message` of each.
    """

    done: int = 0
    needs_fix: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def count(self, item_id: str, attempt: int, outcome: Outcome) -> None:
        """Take one result into account, if it is evidence."""
        needs_fix = outcome.action is Action.SET_ASIDE
        if attempt != 1 or not (needs_fix or outcome.action is Action.KEEP):
            return
        self.done += 1
        if needs_fix:
            kind = outcome.error_type or str(outcome.status)
            self.needs_fix += 1
            self.errors[kind] += 1
            message = (outcome.error_message or "no message")[:MESSAGE_CHARACTERS]
            self._keep_examples(kind, [f"{item_id}: {message}"])

    def add(self, summary: Mapping[str, Any]) -> None:
        """Add what a submission's summary says."""
        self.done += summary["done"]
        self.needs_fix += summary["needs_fix"]
        self.errors.update(summary["errors"])
        for kind, examples in summary["examples"].items():
            self._keep_examples(kind, examples)

    def as_json(self) -> dict[str, Any]:
        """For a submission's summary; the most frequent errors only."""
        errors = dict(self.errors.most_common(MOST_ERRORS))
        examples = {kind: self.examples.get(kind, []) for kind in errors}
        return {
            "done": self.done,
            "needs_fix": self.needs_fix,
            "errors": errors,
            "examples": examples,
        }

    def _keep_examples(self, kind: str, examples: Iterable[str]) -> None:
        kept = self.examples.setdefault(kind, [])
        kept.extend(list(examples)[: EXAMPLES - len(kept)])


@dataclass(frozen=True)
class Tripped:
    """Why nothing more of a night goes out, with up to three `id: message` of the main error."""

    reason: str
    examples: tuple[str, ...]

    def __str__(self) -> str:
        return f"the circuit breaker is open: {self.reason}"


def judge(
    alerts: AlertsSpec,
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


def first_attempts(
    snapshot: Snapshot | None,
    shards: Sequence[Shard],
    snapshots: Mapping[int, Snapshot],
    collected: Iterable[Submission],
    overruled: Sequence[Approval],
) -> FirstAttempts:
    """What counts of a night; `snapshots` are all of the night's, by id.

    A pilot counts for the input that it was drawn from, since corrected data get one of their own,
    and not where a person has approved of it.
    """
    total = FirstAttempts()
    if snapshot is None:
        return total
    of_shard = {shard.id: shard for shard in shards}
    for submission in collected:
        if submission.summary is None or "first" not in submission.summary:
            continue
        shard = of_shard[submission.shard_id]
        sent_for = snapshots[shard.snapshot_id]
        if sent_for.declaration_hash != snapshot.declaration_hash:
            continue
        if shard.pilot and (
            sent_for.content_hash != snapshot.content_hash
            or _approved(Gate.PILOT, sent_for, overruled)
        ):
            continue
        total.add(submission.summary["first"])
    return total


def look(connection: Connection, alerts: AlertsSpec, night: Night) -> Tripped | None:
    """The breaker of a night by what the ledger says now."""
    snapshot_id = nights.get_night(connection, night.id).snapshot_id
    if snapshot_id is None:
        return None
    snapshots = nights.snapshots_of(connection, night.id)
    overruled = approvals.of_night(connection, night.id)
    # What a redrive has put behind was looked at by a person.
    behind = {redriven.token for redriven in redrives.of_night(connection, night.id)}
    collected = submissions.of_night(connection, night.id, State.COLLECTED)
    first = first_attempts(
        snapshots[snapshot_id],
        nights.list_shards(connection, night.id),
        snapshots,
        [submission for submission in collected if submission.token not in behind],
        overruled,
    )
    return judge(alerts, snapshots[snapshot_id], first, overruled)


def gate(alerts: AlertsSpec) -> MaySend:
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
def watched(pipeline: Pipeline, alerts: AlertsSpec, night: Night) -> Iterator[None]:
    """Log a breaker that opens within the block: once a night, since each answer comes once."""
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
