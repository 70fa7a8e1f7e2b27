"""The earlier nights whose answers a night may reuse, and which of them it waits for.

Reads the ledger alone. A night that has begun may be buying, at this moment, what another one is
about to ask for: a backfill would buy one document once for each of its nights.
"""

from __future__ import annotations

from sqlalchemy import Connection

from batch_pipeline.flow.deadline import outlook
from batch_pipeline.flow.status import night_state, progress
from batch_pipeline.jobs.partitions import partitions
from batch_pipeline.jobs.spec import AlertsSpec, JobSpec
from batch_pipeline.ledger import answers_files, nights
from batch_pipeline.ledger.admission.night_state import Kind, states_of
from batch_pipeline.ledger.database.ledger import now
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.snapshots import REUSE

# A night that is opened and has no input yet after this time is not about to have one.
INPUT_SECONDS = 3_600.0
# How many times as long as a batch usually takes a night needs before its deadline: for its
# batches, and for what fails and is asked again.
ROUNDS = 2
# What only a person ends: a night in such a state is not waited for.
LEFT_TO_A_PERSON = frozenset(
    {
        Kind.HELD,
        Kind.REFUSED,
        Kind.DECLARATION_CHANGED,
        Kind.PILOT_CLOSED,
        Kind.BREAKER_OPEN,
        Kind.SHORT_OF_BUDGET,
    }
)


def earlier_nights(
    connection: Connection, spec: JobSpec, partition: str, account: str
) -> list[Night]:
    """The nights within the declared window before a partition, the newest first."""
    if spec.reuse is None:
        return []
    window = partitions.keys_up_to(spec.partitions, partition, spec.reuse.nights + 1)[:-1]
    age = {key: number for number, key in enumerate(reversed(window))}
    every = nights.list_nights(connection, job=spec.name, account=account)
    return sorted(
        (each for each in every if each.partition in age), key=lambda each: age[each.partition]
    )


def is_due(connection: Connection, spec: JobSpec, night: Night) -> bool:
    """Whether it is still to be decided which answers the night's present snapshot reuses."""
    if spec.reuse is None or night.snapshot_id is None or night.held_at is not None:
        return False
    return not answers_files.is_decided(connection, night.id, night.snapshot_id, REUSE)


def waits_for(connection: Connection, spec: JobSpec, night: Night) -> str | None:
    """The oldest partition whose answers a night waits for before it reuses any; None: it may go.

    Nights that only a person can bring forward are not waited for, and none is once the deadline
    presses.
    """
    at = now(connection)
    if not is_due(connection, spec, night) or _presses(connection, night, at):
        return None
    under_way = (
        each.partition
        for each in reversed(earlier_nights(connection, spec, night.partition, night.account))
        if _is_under_way(connection, spec.alerts, each, at)
    )
    return next(under_way, None)


def _is_under_way(
    connection: Connection, alert_limits: AlertsSpec, night: Night, at: float
) -> bool:
    if night.completed_at is not None or night.held_at is not None:
        return False
    if night.snapshot_id is None:
        return at - night.created_at < INPUT_SECONDS
    if not night.published:
        # The results folder shows another account's night in its place.
        return False
    state = progress.of_night(connection, night.id)
    found = states_of(night_state.facts_of(state, alert_limits))
    return not any(each.kind in LEFT_TO_A_PERSON for each in found)


def _presses(connection: Connection, night: Night, at: float) -> bool:
    if night.deadline_at is None:
        return False
    usual = outlook.measured_turnaround(connection, night.account).seconds
    return night.deadline_at - at < ROUNDS * usual
