"""The six assets of a job: their keys, what they are for, what they depend on, their checks.

The steps' work is in `submit_steps` and `collect_steps`, which are imported when a step runs: they
import the flow.
"""

# Annotations are not postponed here: Dagster refuses a `context` annotated with a string.

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dagster as dg

from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.orchestration import run_tags
from batch_pipeline.orchestration.asset_metadata import columns, four_answers, job_description
from batch_pipeline.orchestration.checks import night_checks
from batch_pipeline.orchestration.dagster_partitions import Partitions, backfill_policy
from batch_pipeline.orchestration.definitions import asset_options, spread
from batch_pipeline.orchestration.definitions.io_manager import IO_MANAGER_KEY
from batch_pipeline.orchestration.names import (
    COLLECTED_RESULTS,
    COST_REPORT,
    DEAD_LETTER,
    INPUT_DATASET,
    PILOT_GATE,
    PILOT_SAMPLE,
    SUBMITTED_BATCHES,
    Kind,
    asset_key,
    op_name,
    upstream_keys,
)
from batch_pipeline.orchestration.resources import PipelineResource
from batch_pipeline.wording import usd

# The assets whose work several workers may share; a pilot is too small for that.
SPREAD = (INPUT_DATASET, SUBMITTED_BATCHES)


def build_assets(spec: JobSpec, partitions: Partitions) -> list[dg.AssetsDefinition]:
    """All assets of a job: three up to submission, and three that one step makes at the end."""
    return [
        _asset(
            spec,
            partitions,
            INPUT_DATASET,
            upstream_keys(spec),
            "python",
            "parquet",
            description=job_description.of(spec),
        ),
        _asset(
            spec,
            partitions,
            PILOT_SAMPLE,
            [asset_key(spec.name, INPUT_DATASET)],
            "python",
            description=(
                "A random sample goes through the whole path first; its verdict gates the rest. "
                "Good answers of it are kept and not bought again."
            ),
            checks={
                PILOT_GATE: (
                    f"At most {spec.pilot.max_error_rate:.1%} of the sample may fail and "
                    f"{spec.pilot.max_truncated_rate:.1%} be cut off{_projected_limit(spec)}; "
                    f"{_reviewed(spec)}while it fails, the rest of the night is not sent."
                )
            },
        ),
        _asset(
            spec,
            partitions,
            SUBMITTED_BATCHES,
            [asset_key(spec.name, PILOT_SAMPLE)],
            "python",
            description=(
                "The night's batches at the API. Done as soon as they are sent; how far they are "
                "shows in the observations that the sensor adds, and what waits for room goes on "
                "its own."
            ),
        ),
        _collected(spec, partitions),
    ]


def _asset(
    spec: JobSpec,
    partitions: Partitions,
    name: str,
    deps: Sequence[dg.AssetKey],
    *kinds: str,
    description: str,
    checks: Mapping[str, str] | None = None,
) -> dg.AssetsDefinition:
    """The asset `name` with the step that makes it; `checks` are descriptions by check name.

    A multi-asset of one, because only those may leave a check without a result (while a pilot is at
    the API there is no verdict), and because `@asset` warns that a backfill policy is new.
    """
    key = asset_key(spec.name, name)
    asset = dg.AssetSpec(
        key,
        deps=deps,
        skippable=True,
        description=description,
        **asset_options.submitting(spec, *kinds),
    )
    check_specs = [
        dg.AssetCheckSpec(check, asset=key, description=about)
        for check, about in (checks or {}).items()
    ]
    tags = run_tags.of_step(spec)
    if spec.spread > 1 and name in SPREAD:
        return spread.build(spec, partitions, name, [asset], check_specs, tags)

    @dg.multi_asset(
        name=op_name(spec.name, name),
        specs=[asset],
        check_specs=check_specs,
        partitions_def=partitions,
        backfill_policy=backfill_policy(spec),
        pool=spec.pool,
        op_tags=tags,
        can_subset=True,
    )
    def step(context: dg.AssetExecutionContext, batch_pipeline: PipelineResource) -> Iterator[Any]:
        from batch_pipeline.orchestration.steps import submit_steps  # noqa: PLC0415  # the flow

        yield from submit_steps.run(context, batch_pipeline, spec, name)

    return step


def _collected(spec: JobSpec, partitions: Partitions) -> dg.AssetsDefinition:
    """The three assets from the results on, made by one step: collecting is one piece of work."""
    specs, checks, tags = _specs(spec), night_checks.specs(spec), run_tags.of_step(spec)
    if spec.spread > 1:
        return spread.build(spec, partitions, Kind.COLLECT, specs, checks, tags)

    @dg.multi_asset(
        name=op_name(spec.name, Kind.COLLECT),
        specs=specs,
        check_specs=checks,
        partitions_def=partitions,
        backfill_policy=backfill_policy(spec),
        pool=spec.pool,
        op_tags=tags,
        # The assets are skippable: a run or backfill of all assets gets here before batches end.
        can_subset=True,
    )
    def collect(
        context: dg.AssetExecutionContext, batch_pipeline: PipelineResource
    ) -> Iterator[Any]:
        from batch_pipeline.orchestration.steps import collect_steps  # noqa: PLC0415  # the flow

        yield from collect_steps.run(context, batch_pipeline, spec)

    return collect


def _specs(spec: JobSpec) -> list[dg.AssetSpec]:
    results = asset_key(spec.name, COLLECTED_RESULTS)
    letters = asset_key(spec.name, DEAD_LETTER)
    specs = [
        dg.AssetSpec(
            results,
            deps=[asset_key(spec.name, SUBMITTED_BATCHES)],
            description="Exactly one row for each document, answered or not.",
            metadata=columns.of_table(columns.RESULTS),
            skippable=True,
            freshness_policy=asset_options.freshness(spec),
            **asset_options.common(spec, "python", "parquet"),
        ),
        dg.AssetSpec(
            letters,
            deps=[results],
            description="Documents set aside, each with the reason and its whole input row.",
            metadata=columns.of_table(columns.DEAD_LETTERS),
            skippable=True,
            **asset_options.common(spec, "python", "parquet"),
        ),
        dg.AssetSpec(
            asset_key(spec.name, COST_REPORT),
            deps=[results, letters],
            description=four_answers.DESCRIPTION,
            skippable=True,
            **asset_options.common(spec, "python"),
        ),
    ]
    # These assets are files in the home, materialized without a value: this IO manager loads them
    # for assets downstream.
    return [spec.with_io_manager_key(IO_MANAGER_KEY) for spec in specs]


def _reviewed(spec: JobSpec) -> str:
    if spec.pilot.review == "required":
        return "a person has to look at pilot_page and approve it; "
    return ""


def _projected_limit(spec: JobSpec) -> str:
    limit = spec.pilot.max_projected_usd
    return "" if limit is None else f", and the night may be projected to cost {usd(limit)}"
