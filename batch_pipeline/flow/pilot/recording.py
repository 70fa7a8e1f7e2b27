"""Records a pilot's verdict, after the page that shows what it is based on.

How the verdict is found is in `pilot_run` and `verdict`, what the page shows in `page`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from batch_pipeline.flow.pilot import page
from batch_pipeline.flow.pilot import verdict as verdicts
from batch_pipeline.flow.pilot.verdict import Verdict
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.planning.plan import View
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import nights
from batch_pipeline.ledger.control import approvals
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.snapshots import Snapshot


def store(pipeline: Pipeline, spec: JobSpec, seen: View, verdict: Verdict) -> None:
    """Write the page of a new verdict, and record both."""
    judged = asdict(replace(verdict, review=spec.pilot.review))
    judged |= page.write(pipeline, spec, seen.night, seen.snapshot, judged)
    with pipeline.ledger.write() as connection:
        nights.update_night(connection, seen.night.id, pilot=judged)


def as_declared_now(
    pipeline: Pipeline, spec: JobSpec, night: Night, snapshot: Snapshot, verdict: dict[str, Any]
) -> dict[str, Any]:
    """A verdict by what is declared now: a closed one is judged by the limits, which may have been
    raised, and whether it needs a review; nothing is measured again. A page that a person waits
    for is written."""
    judged = {**verdict, "review": spec.pilot.review}
    if not verdict["open"]:
        reasons = verdicts.why_closed(spec.pilot, verdict, max_share(spec))
        judged |= {"open": not reasons, "reasons": reasons}
    if judged == {"review": "none", **verdict} and not _lacks_page(pipeline, night, judged):
        return verdict
    judged |= page.write(pipeline, spec, night, snapshot, judged)
    if judged != verdict:
        with pipeline.ledger.write() as connection:
            nights.update_night(connection, night.id, pilot=judged)
    return judged


def max_share(spec: JobSpec) -> float | None:
    """The largest share of requests that a stronger model may be asked, if the job escalates."""
    return None if spec.retry.escalate is None else spec.retry.escalate.max_share


def _lacks_page(pipeline: Pipeline, night: Night, verdict: Mapping[str, Any]) -> bool:
    """Whether a person waits for a page that could not be written."""
    if verdict.get("page") is not None or not approvals.needs_review(verdict):
        return False
    with pipeline.ledger.read() as connection:
        return not approvals.lets_go(verdict, approvals.of_night(connection, night.id))
