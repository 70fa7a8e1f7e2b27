"""Lets former answers stand where no stronger model is asked any more, or where it was in vain.

An answer that may be escalated settles nothing until that is decided, so that no published answer
ever changes. Here it becomes final: a file of answers of its own, without tokens or cost, because
these are booked already. Which units are escalated is chosen in `planning.plan`.
"""

from __future__ import annotations

import uuid
from pathlib import Path

import pyarrow as pa

from batch_pipeline.flow import paths
from batch_pipeline.flow.answers.schemas import ANSWERS_SCHEMA, SUMMED, parquet_writer
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.planning import plan
from batch_pipeline.flow.planning.escalations import Escalations
from batch_pipeline.flow.planning.open_units import OpenUnits
from batch_pipeline.flow.results import results_folder
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import answers_files, nights
from batch_pipeline.ledger.answers_files import AnswersFile, Stands
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.submissions import submissions
from batch_pipeline.safe_text import get_logger

log = get_logger(__name__)

# The begin of the names of these files; no token of a submission is like it.
FILE_PREFIX = "stands-"
STANDS = "stands"


def settle(
    pipeline: Pipeline, spec: JobSpec, night: Night, no_unsure: Stands | None = None
) -> bool:
    """Let the answers of a night stand for which the stronger model is asked no more.

    Once no first answer is missing, these are all that exceed the share, and with `no_unsure`, for
    that cause, all that succeeded. Where something of the night is in flight nothing is done yet.
    Returns whether an answer stands now that did not before.
    """
    night = pipeline.refreshed(night)
    concerned = night.undecided or (spec.retry.escalate is not None and night.open_requests)
    if not concerned or not night.published:
        return False
    with pipeline.ledger.read() as connection:
        if submissions.of_night(connection, night.id, *submissions.LIVE):
            return False
    seen = plan.view(pipeline, night)
    with pipeline.files.staged(".parquet") as staged:
        with plan.open_of(pipeline, seen) as units:
            found = units.escalations()
            causes = _choose(units, found, spec, no_unsure)
            count = sum(causes.values())
            if not count:
                return False
            left = units.count() - count
            _write(units, seen.snapshot.folder, staged)
        pipeline.files.make_durable(staged)
        folder = paths.answers(night.job, night.partition, night.owner)
        name = f"{FILE_PREFIX}{uuid.uuid4().hex}.parquet"
        pipeline.files.publish(staged, f"{folder}/{name}")
    try:
        rebuilt = results_folder.with_answers(
            pipeline, seen.night, seen.snapshot, f"{folder}/{name}"
        )
        with rebuilt as (connection, current):
            snapshot_id = seen.snapshot.id
            made = [AnswersFile(snapshot_id, STANDS, name, count)]
            made += [AnswersFile(snapshot_id, cause, None, n) for cause, n in causes.items() if n]
            for each in made:
                answers_files.add(connection, night.id, each)
            nights.update_night(
                connection, night.id,
                open_requests=left, undecided=0, revision=current.revision + 1,
            )  # fmt: skip
    except results_folder.NightChangedError:
        pipeline.files.remove(f"{folder}/{name}")
        log.info("%s %s was changed by another process meanwhile", night.job, night.partition)
        return False
    log.info(
        "%s %s: %s answers stand that were to be escalated (%s)",
        night.job, night.partition, f"{count:,}",
        ", ".join(f"{n:,} {cause.replace('_', ' ')}" for cause, n in causes.items() if n),
    )  # fmt: skip
    return True


def _choose(
    units: OpenUnits, found: Escalations, spec: JobSpec, no_unsure: Stands | None
) -> dict[Stands, int]:
    """Leave out the units whose answers stand; returns their number by cause."""
    causes = {Stands.IN_VAIN: found.stands}
    if not found.all_answered:
        # Nothing is decided yet about those that wait: only about those that were escalated.
        units.leave_out(found.waiting, unsure=True)
        return causes
    escalate = spec.retry.escalate
    allowed = 0 if escalate is None else found.allowed(escalate.max_share)
    units.leave_out(allowed, unsure=no_unsure is None)
    failed = max(0, found.failed - allowed)
    if no_unsure is None:
        causes[Stands.SHARE] = max(0, found.waiting - allowed)
    else:
        causes[Stands.SHARE] = failed
        causes[no_unsure] = found.unsure + found.again
    return causes


def _write(units: OpenUnits, snapshot: str, target: Path) -> None:
    """Write the answers that stand as final ones, without tokens and cost."""
    with parquet_writer(target, ANSWERS_SCHEMA) as writer:
        for batch in units.standing():
            writer.write_table(_as_final(pa.Table.from_batches([batch]).cast(ANSWERS_SCHEMA)))
        # For a ledger that is lost.
        writer.add_key_value_metadata({"snapshot": snapshot})


def _as_final(answers: pa.Table) -> pa.Table:
    zero = dict.fromkeys((*SUMMED, "other_way_usd"), 0)
    values = {"final": True, "counted": False, "escalate": None, **zero}
    for name, value in values.items():
        field = ANSWERS_SCHEMA.field(name)
        column = pa.repeat(pa.scalar(value, field.type), answers.num_rows)
        answers = answers.set_column(answers.schema.get_field_index(name), field, column)
    return answers
