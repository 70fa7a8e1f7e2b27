"""The assets that a job's input is made of."""

from __future__ import annotations

import dagster as dg

from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.orchestration.names import COLLECTED_RESULTS, asset_key


def upstream_keys(spec: JobSpec) -> list[dg.AssetKey]:
    """What `input_dataset` is made of: what the job declares, and what its input is."""
    keys = [dg.AssetKey.from_user_string(key) for key in spec.input.upstream]
    if spec.input.asset is not None:
        keys.append(dg.AssetKey.from_user_string(spec.input.asset.key))
    if spec.input.job is not None:
        keys.append(asset_key(spec.input.job, COLLECTED_RESULTS))
    return list(dict.fromkeys(keys))
