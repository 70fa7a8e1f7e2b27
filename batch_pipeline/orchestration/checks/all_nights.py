"""The checks of all nights together, as a tick of the sensor reports them: once a change."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import dagster as dg

from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.orchestration.checks import missing_nights, stopped_nights
from batch_pipeline.orchestration.checks.stopped_nights import StoppedNights
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
    missing = missing_nights.find(instance, pipeline, spec)
    if missing is not None:
        missing_nights.tell(pipeline, spec, missing)
        partitions = sorted(night.partition for night in missing.missing)
        _note(found, DUE, repr(partitions), missing_nights.evaluation(spec, missing))
        if missing.missing:
            found.line = f"not begun: {one_line(missing.verdict)}"
    if stopped is not None and (stopped.by_partition or not stopped.not_seen):
        kinds = sorted((key, str(why.kind)) for key, why in stopped.by_partition.items())
        _note(found, STOPPED, repr(kinds), stopped_nights.evaluation(spec, stopped))
    return found


def _note(found: Reported, key: str, facts: str, evaluation: dg.AssetCheckEvaluation) -> None:
    now = hashlib.sha256(facts.encode()).hexdigest()[:12]
    if found.kept.get(key) != now:
        found.events.append(evaluation)
        found.kept[key] = now
