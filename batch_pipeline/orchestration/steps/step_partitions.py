"""Runs a step's work for the one partition of a run, or for each partition of a range.

A backfill may give a run many partitions. Dagster would record one result for all of them, and end
the run at the first night that is stopped. So the first step of such a run works through all the
assets that the run selects, night by night, and logs the events of each night itself. The other
nights go on after one that is stopped, and the run fails at its end and names the stopped ones. The
run's further steps have nothing left to do, and Dagster skips them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import dagster as dg

from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.orchestration.checks import evaluations
from batch_pipeline.orchestration.names import DATA_VERSION_TAG, OUTAGE_TAG
from batch_pipeline.orchestration.resources import PipelineResource
from batch_pipeline.orchestration.steps import asset_steps
from batch_pipeline.safe_text import lines

Result = dg.MaterializeResult[Any] | dg.AssetCheckResult
# The work of one asset for one partition. Each result names its asset; results of assets or checks
# that the run did not select are dropped.
Work = Callable[[dg.AssetExecutionContext, Pipeline, JobSpec, str], Iterator[Result]]
Event = Result | dg.AssetMaterialization | dg.AssetCheckEvaluation

MOST_NAMED = 10


def is_range(context: dg.AssetExecutionContext) -> bool:
    """Whether a run has a range of partitions; a range may have a single one."""
    return not context.has_partition_key and context.has_partition_key_range


def results(
    context: dg.AssetExecutionContext,
    resource: PipelineResource,
    spec: JobSpec,
    works: Sequence[Work],
) -> Iterator[Event]:
    """Do the works of a step; yield results of its one partition, or events of each of a range."""
    with asset_steps.failure_noted(context):
        if is_range(context):
            yield from _of_range(context, resource, spec, works)
            return
        if not context.has_partition_key:
            # "Execute" on the page of a check, as Dagster knows no partitions of checks; or a job
            # that was launched without one.
            checks = context.selected_asset_check_keys
            assets = " and ".join(sorted({check.asset_key.path[-1] for check in checks}))
            raise dg.Failure(
                f"Which night is meant? Materialize {assets or 'its assets'} of a partition instead"
                + (": that evaluates the checks too." if assets else ", or give the run its tag."),
                allow_retries=False,
            )
        for work in works:
            for result in _night(context, resource, spec, work, context.partition_key):
                if _is_selected(context, result):
                    yield result


def _of_range(
    context: dg.AssetExecutionContext,
    resource: PipelineResource,
    spec: JobSpec,
    works: Sequence[Work],
) -> Iterator[Event]:
    stopped: dict[str, str] = {}
    checks: dict[dg.AssetCheckKey, dict[str, dg.AssetCheckResult]] = {}
    keys = context.partition_keys if works else ()
    for key in keys:
        try:
            for work in works:
                for result in _night(context, resource, spec, work, key):
                    if isinstance(result, dg.AssetCheckResult):
                        checks.setdefault(_check_key(result), {})[key] = result
                    yield _as_event(result, key)
        except Exception as error:  # the other nights go on; the run fails below
            if _is_outage(context):
                # The next night would meet the same outage, and the sensor repeats what is left.
                raise
            stopped[key] = lines(getattr(error, "description", None) or f"{error!r}")
            asset_steps.log_of(context).error("%s: %s", key, stopped[key])
    for check, found in checks.items():
        yield _summary(check, found)
    if stopped:
        shown = "\n".join(f"{key}: {why}" for key, why in list(stopped.items())[:MOST_NAMED])
        more = len(stopped) - MOST_NAMED
        raise dg.Failure(
            f"{len(stopped)} of {len(keys)} partitions were stopped, the others went on:\n{shown}"
            + (f"\nand {more} more" if more > 0 else ""),
            allow_retries=False,
        )


def _is_outage(context: dg.AssetExecutionContext) -> bool:
    """Whether the API has not answered for long, as `at_work` has noted on the run."""
    run = context.instance.get_run_by_id(context.run.run_id)
    return run is not None and OUTAGE_TAG in run.tags


def _night(
    context: dg.AssetExecutionContext,
    resource: PipelineResource,
    spec: JobSpec,
    work: Work,
    partition: str,
) -> Iterator[Result]:
    with asset_steps.at_work(context, resource, spec, partition) as pipeline:
        yield from work(context, pipeline, spec, partition)


def _is_selected(context: dg.AssetExecutionContext, result: Result) -> bool:
    if isinstance(result, dg.AssetCheckResult):
        return _check_key(result) in context.selected_asset_check_keys
    return result.asset_key in context.selected_asset_keys


def _check_key(result: dg.AssetCheckResult) -> dg.AssetCheckKey:
    assert result.asset_key is not None, "each result names its asset"
    assert result.check_name is not None, "each result names its check"
    return dg.AssetCheckKey(result.asset_key, result.check_name)


def _as_event(result: Result, partition: str) -> dg.AssetMaterialization | dg.AssetCheckEvaluation:
    if isinstance(result, dg.AssetCheckResult):
        return evaluations.of_result(_check_key(result), result, partition)
    assert result.asset_key is not None, "each result names its asset"
    version = result.data_version
    return dg.AssetMaterialization(
        asset_key=result.asset_key,
        partition=partition,
        metadata=result.metadata,
        tags={
            **(result.tags or {}),
            **({DATA_VERSION_TAG: version.value} if version is not None else {}),
        },
    )


def _summary(
    check: dg.AssetCheckKey, found: dict[str, dg.AssetCheckResult]
) -> dg.AssetCheckEvaluation:
    """The check of the whole run, which Dagster has planned and shows as the newest."""
    failed = {key: result for key, result in found.items() if not result.passed}
    severe = any(result.severity is dg.AssetCheckSeverity.ERROR for result in failed.values())
    worst = dg.AssetCheckSeverity.ERROR if severe or not failed else dg.AssetCheckSeverity.WARN
    named = ", ".join(list(failed)[:MOST_NAMED])
    return dg.AssetCheckEvaluation(
        asset_key=check.asset_key,
        check_name=check.name,
        passed=not failed,
        severity=worst,
        metadata={
            "partitions": len(found),
            "failed": len(failed),
            **({"failed_partitions": named} if failed else {}),
        },
    )
