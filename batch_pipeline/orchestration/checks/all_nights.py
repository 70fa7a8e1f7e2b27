"""The checks of all nights together, as a tick of the sensor reports them: once a change, and once
after each materialization of their asset. Dagster shows a result that is older than the newest
materialization as "not evaluated", whichever partition that was of.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import dagster as dg

from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.orchestration.checks import missing_nights, stopped_nights
from batch_pipeline.orchestration.checks.stopped_nights import StoppedNights
from batch_pipeline.orchestration.names import INPUT_DATASET, SUBMITTED_BATCHES, asset_key
from batch_pipeline.safe_text import one_line

# Keys of the sensor's cursor, never ones of a partition.
DUE, STOPPED = "~due", "~stopped"


@dataclass
class Reported:
    """The evaluations that changed, what the cursor keeps, and a line for the skip reason."""

    events: list[dg.AssetCheckEvaluation] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)
    line: str | None = None


def look(
    instance: dg.DagsterInstance,
    pipeline: Pipeline,
    spec: JobSpec,
    stopped: StoppedNights | None,
    before: Mapping[str, str],
) -> Reported:
    """What is to be reported; `before` is the cursor, `stopped` None where the tick could not look.
    Alerts of nights that never began are told too."""
    found = Reported(kept={key: before[key] for key in (DUE, STOPPED) if key in before})
    newest = _newest_materializations(instance, spec)
    missing = missing_nights.find(instance, pipeline, spec)
    if missing is not None:
        missing_nights.tell(pipeline, spec, missing)
        partitions = sorted(night.partition for night in missing.missing)
        facts = f"{partitions} {newest[INPUT_DATASET]}"
        _note(found, DUE, facts, missing_nights.evaluation(spec, missing))
        if missing.missing:
            found.line = f"not begun: {one_line(missing.verdict)}"
    if stopped is not None and (stopped.by_partition or not stopped.not_seen):
        kinds = sorted((key, str(why.kind)) for key, why in stopped.by_partition.items())
        facts = f"{kinds} {newest[SUBMITTED_BATCHES]}"
        _note(found, STOPPED, facts, stopped_nights.evaluation(spec, stopped))
    return found


def _newest_materializations(instance: dg.DagsterInstance, spec: JobSpec) -> dict[str, int | None]:
    """By asset, the number of its newest materialization of any partition in Dagster's storage."""
    keys = {name: asset_key(spec.name, name) for name in (INPUT_DATASET, SUBMITTED_BATCHES)}
    records = {
        record.asset_entry.asset_key: record.asset_entry.last_materialization_storage_id
        for record in instance.get_asset_records(list(keys.values()))
    }
    return {name: records.get(key) for name, key in keys.items()}


def _note(found: Reported, key: str, facts: str, evaluation: dg.AssetCheckEvaluation) -> None:
    now = hashlib.sha256(facts.encode()).hexdigest()[:12]
    if found.kept.get(key) != now:
        found.events.append(evaluation)
        found.kept[key] = now
