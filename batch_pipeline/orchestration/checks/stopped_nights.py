"""Nights that wait for a person: a check of `submitted_batches`, evaluated by the sensor.

The page of a check shows its newest evaluation: the pilot's gate of last night, closed, would be
hidden by the open one of tonight. This check looks at all unfinished nights at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import dagster as dg

from batch_pipeline import safe_text
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.status import night_state, progress, warnings
from batch_pipeline.flow.status.progress import Progress
from batch_pipeline.jobs.partitions import partitions
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import nights
from batch_pipeline.ledger.admission.night_state import Kind, NightState, states_of
from batch_pipeline.orchestration.checks import evaluations
from batch_pipeline.orchestration.names import NO_NIGHT_IS_STOPPED, SUBMITTED_BATCHES, asset_key

WAITS_FOR_A_PERSON = frozenset({Kind.HELD, *warnings.STOPPED, *warnings.GATES})
MOST_NAMED = 10


@dataclass(frozen=True)
class StoppedNights:
    """By partition, why a night goes on only once a person does something; of `not_seen` more
    nights there was no time to look at, that is not known: they do not count as well."""

    by_partition: Mapping[str, NightState]
    not_seen: int = 0


def of_states(spec: JobSpec, states: Iterable[Progress], not_seen: int = 0) -> StoppedNights:
    """Of the nights in the order of their windows."""

    def order(state: Progress) -> tuple[int, float]:
        night = state.night
        return partitions.order_of(spec.partitions, night.partition, night.created_at)

    found = {}
    for state in sorted(states, key=order):
        if not state.complete and (stopped := _stopped(spec, state)) is not None:
            found[state.night.partition] = stopped
    return StoppedNights(found, not_seen)


def _stopped(spec: JobSpec, state: Progress) -> NightState | None:
    for found in states_of(night_state.facts_of(state, spec.alerts)):
        if found.kind is Kind.RUNNING:
            return None
        if found.kind in WAITS_FOR_A_PERSON:
            return found
    return None


def evaluation(spec: JobSpec, stopped: StoppedNights) -> dg.AssetCheckEvaluation:
    """The check's result, for the sensor to report."""
    check = dg.AssetCheckKey(asset_key(spec.name, SUBMITTED_BATCHES), NO_NIGHT_IS_STOPPED)
    return evaluations.of_result(check, _result(stopped))


def look(pipeline: Pipeline, spec: JobSpec) -> dg.AssetCheckResult:
    """What the check finds now."""
    return _result(of_states(spec, _unfinished(pipeline, spec)))


def _unfinished(pipeline: Pipeline, spec: JobSpec) -> list[Progress]:
    owner = pipeline.likely_owner(spec).name
    with pipeline.ledger.read() as connection:
        return [
            progress.of_night(connection, night.id)
            for night in nights.list_nights(connection, job=spec.name, owner=owner)
            if night.snapshot_id is not None and night.completed_at is None
        ]


def _result(stopped: StoppedNights) -> dg.AssetCheckResult:
    found = stopped.by_partition
    verdict = _verdict(stopped)
    held = all(why.kind is Kind.HELD for why in found.values())
    not_seen = {"nights_not_looked_at": stopped.not_seen} if stopped.not_seen else {}
    return dg.AssetCheckResult(
        passed=not found and not stopped.not_seen,
        severity=dg.AssetCheckSeverity.WARN if held else dg.AssetCheckSeverity.ERROR,
        description=verdict,
        metadata={
            "verdict": verdict,
            "nights_stopped": len(found),
            "partitions": ", ".join(list(found)[:MOST_NAMED]) or "none",
            **not_seen,
        },
    )


def _verdict(stopped: StoppedNights) -> str:
    found = list(stopped.by_partition.items())
    named = "; ".join(f"{key}: {safe_text.one_line(str(why))}" for key, why in found[:MOST_NAMED])
    more = len(found) - MOST_NAMED
    said = named + (f"; and {more:,} more" if more > 0 else "")
    return said or "no night waits for a person"
