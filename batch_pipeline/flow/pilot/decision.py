"""What a person decides about a pilot: where its gate stands, what to look at, what to do.

Pure functions of a verdict and of the approvals that a night has; the words of the pilot's page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from batch_pipeline.flow.pilot.agreement import lower_bound
from batch_pipeline.ledger.control import approvals
from batch_pipeline.ledger.control.approvals import Approval, Gate
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.snapshots import Snapshot
from batch_pipeline.reporting.pilot_page import Decision
from batch_pipeline.reporting.value_distribution import Field
from batch_pipeline.wording import usd


def of(night: Night, verdict: Mapping[str, Any], given: Sequence[Approval]) -> Decision:
    """Where the gate stands, and the steps that are left to a person."""
    reasons = tuple(verdict["reasons"])
    covering = [
        each
        for each in given
        if each.gate is Gate.PILOT
        and approvals.covers(
            [each], Gate.PILOT, verdict["declaration_hash"], verdict["content_hash"]
        )
    ]
    place = f"{night.job} --partition {night.partition}"
    run = f"batch-pipeline run {place}"
    if covering:
        last = covering[-1]
        at = datetime.fromtimestamp(last.approved_at, UTC)
        said = f"{last.approved_by}, {at:%Y-%m-%d %H:%M} UTC: {last.reason}"
        steps: list[tuple[str, str | None]] = [
            ("The rest of the night goes with the next run:", run)
        ]
        return Decision(
            "approved", "Approved: the rest of the night may go", (said, *reasons), tuple(steps)
        )
    in_dagster = f"under Dagster: the action approve of the job {night.job}_control"
    approve = (
        f"If you would pay for more answers like these, approve it and go on ({in_dagster}):",
        f'batch-pipeline approve {place} --gate pilot --reason "why"\n{run}',
    )
    again = "prompt, schema or documents and run it again: a new pilot comes first."
    if not verdict["open"]:
        first = ("Look at what went wrong, and at the answers below.", None)
        headline = "The gate is closed: nothing more is sent until a person acts"
        return Decision("closed", headline, reasons, (first, (f"Correct {again}", run), approve))
    if approvals.needs_review(verdict):
        first = ("Read what was asked and the answers below, beside their documents.", None)
        headline = "Waits for a person's review: nothing more is sent until this pilot is approved"
        return Decision(
            "review", headline, reasons, (first, approve, (f"If not, correct {again}", run))
        )
    headline = "The gate is open: the rest of the night goes without a person"
    stop = (
        "To stop it, cancel the night; what is answered is kept.",
        f"batch-pipeline cancel {place}",
    )
    return Decision("open", headline, reasons, (stop,))


def notes(
    verdict: Mapping[str, Any],
    good: int,
    sample: int,
    fields: Sequence[Field],
    snapshot: Snapshot,
) -> tuple[str, ...]:
    """What a person should know before the answers are read, the worst first."""
    found = []
    if snapshot.count_set_aside("invalid_input", "too_large"):
        aside = snapshot.set_aside.items()
        whys = [why for status, each in aside if status != "filtered" for why in each.items()]
        named = ", ".join(f"{count:,} {reason}" for reason, count in whys)
        found.append(f"Documents that cannot be sent, and are not in the sample: {named}.")
    if good < sample:
        found.append(
            f"{sample - good:,} of {sample:,} answers cannot be used: see what went wrong."
        )
    found += [
        f"{field.path} is always {field.always}: is the prompt asking for it?"
        for field in fields
        if field.always is not None
    ]
    failing = 1 - lower_bound(good, sample)
    if good == sample:
        found.append(
            f"No answer failed. Of {sample:,} that says: at most {failing:.0%} of all answers of "
            "the night will fail, with 95 % confidence. Whether they are true is yours to judge."
        )
    else:
        found.append(
            f"By this sample up to {failing:.0%} of all answers of the night may fail, with 95 % "
            "confidence."
        )
    if snapshot.declaration["output_schema"] is None:
        found.append(
            "No output_schema is declared: answers are free text, and no field of them is counted."
        )
    if verdict.get("escalated_rate"):
        found.append(f"{verdict['escalated_rate']:.1%} were asked once more of a stronger model.")
    if len(verdict.get("routes") or ()) > 1:
        found += [
            f"Route {route['route'] or 'none'} ({route['model_id']}): {route['sample']:,} tried, "
            f"{route['error_rate']:.1%} failed, {usd(Decimal(str(route['projected_usd'])))} in all."
            for route in verdict["routes"]
        ]
    near = verdict.get("near_duplicates")
    if near is not None:
        found.append(f"Near duplicates: {near['reason']}.")
    return tuple(found)
