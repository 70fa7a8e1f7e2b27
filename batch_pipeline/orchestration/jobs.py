"""The two Dagster jobs of a job: one up to submission, one from the results on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.orchestration.names import (
    ASSETS,
    JOB_TAG,
    KIND_TAG,
    PRIORITY_TAG,
    Kind,
    asset_key,
    dagster_job,
)

if TYPE_CHECKING:
    # What `define_asset_job` returns has no public name.
    from dagster._core.definitions.unresolved_asset_job_definition import (
        UnresolvedAssetJobDefinition,
    )

    AssetJob = UnresolvedAssetJobDefinition

_ABOUT = {
    Kind.SUBMIT: "Input, pilot and submission of a night: what schedules and backfills target.",
    Kind.COLLECT: "Results of ended batches; publishes the night once it is complete.",
}
# Paid results are fetched before more is sent: a backfill over a year must not keep them waiting.
_PRIORITY = {Kind.SUBMIT: "0", Kind.COLLECT: "10"}


def build_jobs(spec: JobSpec) -> dict[Kind, AssetJob]:
    return {
        kind: dg.define_asset_job(
            name=dagster_job(spec.name, kind),
            selection=dg.AssetSelection.assets(
                *(asset_key(spec.name, name) for name in ASSETS[kind])
            ),
            description=_ABOUT[kind],
            tags={
                JOB_TAG: spec.name,
                KIND_TAG: kind.value,
                PRIORITY_TAG: _PRIORITY[kind],
            },
            # The steps follow one another: a process each would only add their starting times.
            executor_def=dg.in_process_executor,
        )
        for kind in Kind
    }
