"""What a job's definitions are called, and the tags on its runs.

Users script against these names, so they are here and nowhere else.
"""

from __future__ import annotations

from enum import StrEnum

import dagster as dg

from batch_pipeline.jobs.spec import JobSpec

INPUT_DATASET = "input_dataset"
PILOT_SAMPLE = "pilot_sample"
SUBMITTED_BATCHES = "submitted_batches"
COLLECTED_RESULTS = "collected_results"
DEAD_LETTER = "dead_letter"
COST_REPORT = "cost_report"
PILOT_GATE = "pilot_gate"
EVERY_DUE_NIGHT_BEGAN = "every_due_night_began"
NO_NIGHT_IS_STOPPED = "no_night_is_stopped"

PARTITION_TAG = "dagster/partition"
# On a run over a range of partitions, in place of `PARTITION_TAG`.
RANGE_START_TAG = "dagster/asset_partition_range_start"
RANGE_END_TAG = "dagster/asset_partition_range_end"
DATA_VERSION_TAG = "dagster/data_version"
PRIORITY_TAG = "dagster/priority"
# Who launched a run, where Dagster knows.
USER_TAG = "user"
BACKFILL_TAG = "dagster/backfill"
SCHEDULE_TAG = "dagster/schedule_name"
JOB_TAG = "batch_pipeline/job"
KIND_TAG = "batch_pipeline/kind"
# On the runs that a sensor asks for: they go on with a night, they do not start one. Its value is
# how far the night was, so that runs that changed nothing are recognised.
FOLLOW_UP_TAG = "batch_pipeline/follow_up"
# A run that failed because the API did not answer for long: its night goes on by itself.
OUTAGE_TAG = "batch_pipeline/outage"
# A run one of whose steps has failed for a reason, which it has told: the op of the step.
FAILED_TAG = "batch_pipeline/failed"
# On the run that a sensor asks for in place of one whose worker died, with that run's id.
REPEATS_TAG = "batch_pipeline/repeats"
# Overrules a closed gate; its value is `pilot: reason` or `breaker: reason`.
APPROVE_TAG = "batch_pipeline/approve"


class Kind(StrEnum):
    """The two halves of a night: what leads to batches at the API, and what follows from them."""

    SUBMIT = "submit"
    COLLECT = "collect"


ASSETS = {
    Kind.SUBMIT: (INPUT_DATASET, PILOT_SAMPLE, SUBMITTED_BATCHES),
    Kind.COLLECT: (COLLECTED_RESULTS, DEAD_LETTER, COST_REPORT),
}


def asset_key(job: str, asset: str) -> dg.AssetKey:
    return dg.AssetKey([job, asset])


def upstream_keys(spec: JobSpec) -> list[dg.AssetKey]:
    """What `input_dataset` is made of: what the job declares, and what its input is."""
    keys = [dg.AssetKey.from_user_string(key) for key in spec.input.upstream]
    if spec.input.asset is not None:
        keys.append(dg.AssetKey.from_user_string(spec.input.asset.key))
    if spec.input.job is not None:
        keys.append(asset_key(spec.input.job, COLLECTED_RESULTS))
    return list(dict.fromkeys(keys))


class Part(StrEnum):
    """The steps of an asset whose work is spread: the second one runs several times at once."""

    BEGIN = "begin"
    SHARE = "share"
    END = "end"


def op_name(job: str, work: str, part: Part | None = None) -> str:
    """The op of an asset, or of all that is collected; `part` where its work is spread."""
    return f"{job}__{work}" + ("" if part is None else f"_{part}")


def work_of(job: str, op: str) -> tuple[str, Part | None]:
    """What an op does: the inverse of `op_name`."""
    work = op.removeprefix(op_name(job, ""))
    for part in Part:
        if work.endswith(f"_{part}"):
            return work.removesuffix(f"_{part}"), part
    return work, None


def dagster_job(job: str, kind: Kind) -> str:
    return f"{job}_{kind}"


def schedule_name(job: str) -> str:
    return f"{job}_nightly"


def control_job(job: str) -> str:
    return f"{job}_control"


def automation_sensor_name(job: str) -> str:
    return f"{job}_automation"


def sensor_name(job: str) -> str:
    return f"{job}_batches"
