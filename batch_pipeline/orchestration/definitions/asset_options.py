"""What a job declares of its assets in Dagster: owners, tags, automation, freshness."""

from __future__ import annotations

from typing import Any, TypedDict

import dagster as dg
from dagster_shared.check import CheckError

from batch_pipeline.errors import DeclarationError
from batch_pipeline.jobs.in_dagster import duration
from batch_pipeline.jobs.partitions.partitions import timezone_of
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.orchestration import run_tags
from batch_pipeline.orchestration.names import ASSETS, Kind, asset_key, automation_sensor_name


class Options(TypedDict):
    """Arguments of `AssetSpec` that all assets of a job have in common."""

    group_name: str
    owners: list[str]
    tags: dict[str, str]
    kinds: set[str]


class SubmittingOptions(Options):
    """Arguments that the assets up to submission have in common."""

    automation_condition: dg.AutomationCondition[Any] | None


def common(spec: JobSpec, *kinds: str) -> Options:
    """Options of each asset of a job; `kinds` are used where the job declares none."""
    return {
        "group_name": spec.group or spec.name,
        "owners": list(spec.owners),
        "tags": dict(spec.tags),
        "kinds": set(spec.kinds or kinds),
    }


def submitting(spec: JobSpec, *kinds: str) -> SubmittingOptions:
    """Options of each asset up to submission, with the job's automation condition.

    All three have the condition, so that one run starts the night with all of them.
    """
    return {**common(spec, *kinds), "automation_condition": _condition(spec)}


def freshness(spec: JobSpec) -> dg.FreshnessPolicy | None:
    """When the newest results count as late; None where nothing is declared."""
    declared = spec.freshness
    if declared is None:
        return None
    if declared.fail_window is not None:
        warn = duration(declared.warn_window) if declared.warn_window else None
        return dg.FreshnessPolicy.time_window(duration(declared.fail_window), warn)
    assert declared.deadline_cron is not None
    assert declared.lower_bound_delta is not None
    try:
        return dg.FreshnessPolicy.cron(
            deadline_cron=declared.deadline_cron,
            lower_bound_delta=duration(declared.lower_bound_delta),
            timezone=timezone_of(spec.partitions),
        )
    except CheckError as error:
        raise DeclarationError(
            f"job {spec.name}: freshness.lower_bound_delta {declared.lower_bound_delta} is longer "
            f"than the shortest time between two deadlines of {declared.deadline_cron!r}"
        ) from error


def automation_sensor(spec: JobSpec) -> dg.AutomationConditionSensorDefinition | None:
    """The sensor that evaluates a declared condition; None where there is none.

    It is the job's own, so that its runs have the job's tags. Stopped until a person starts it: it
    spends money.
    """
    if spec.automation_condition is None:
        return None
    keys = [asset_key(spec.name, name) for name in ASSETS[Kind.SUBMIT]]
    return dg.AutomationConditionSensorDefinition(
        automation_sensor_name(spec.name),
        target=dg.AssetSelection.assets(*keys),
        run_tags=run_tags.of_run(spec),
        default_status=dg.DefaultSensorStatus.STOPPED,
        description="Starts a night where the job's automation_condition is true.",
    )


def _condition(spec: JobSpec) -> dg.AutomationCondition[Any] | None:
    match spec.automation_condition:
        case None:
            return None
        case "eager":
            return dg.AutomationCondition.eager()
        case "on_missing":
            return dg.AutomationCondition.on_missing()
        case cron:
            return dg.AutomationCondition.on_cron(cron, timezone_of(spec.partitions))
