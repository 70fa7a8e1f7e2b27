"""`input.asset`: the value of an upstream asset becomes the copy that a night's input is read from.

The value is loaded in the step and not as an input of the asset, through the same IO manager: so a
partition that was never materialized is told with what to do, and of mapped partitions one after
the other is loaded. `input_dataset` alone knows of it: what is loaded for a subsettable multi-asset
is loaded whatever is selected.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import dagster as dg

from batch_pipeline.errors import InputDataError, UsageError
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.jobs.input.input_sources import AssetSourceSpec
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.orchestration.names import (
    DATA_VERSION_TAG,
    INPUT_DATASET,
    asset_key,
)
from batch_pipeline.safe_text import one_line

_NAMED = 5


def take(
    context: dg.AssetExecutionContext, pipeline: Pipeline, spec: JobSpec, partition: str
) -> None:
    """Copy the upstream asset's value for a partition into the home, if the job's input is one."""
    declared = spec.input.asset
    if declared is None:
        return
    from batch_pipeline.flow.dataset.sources import frames  # noqa: PLC0415  # only here needed

    key = dg.AssetKey.from_user_string(declared.key)
    upstream = _partitions(context, spec, key, partition)
    versions = [_version(context, key, each) for each in upstream]
    values = (_load(context, declared, key, each) for each in upstream)
    version = (
        versions[0]
        if len(versions) == 1
        else hashlib.sha256("\n".join(versions).encode()).hexdigest()
    )
    source = frames.FramesSource(declared.key, values)
    frames.keep(pipeline.files, spec.name, partition, source, version)


def _partitions(
    context: dg.AssetExecutionContext, spec: JobSpec, key: dg.AssetKey, partition: str
) -> Sequence[str | None]:
    """The upstream partitions that one partition is made of, by Dagster's mapping; [None]: the
    upstream asset has none.

    The mapping is asked itself: what the context says of an input is of all partitions of a run.
    """
    layer = context.job_def.asset_layer
    if layer.get(key).assets_def.is_auto_created_stub:
        raise UsageError(
            f"The upstream asset {key.to_user_string()} is not defined in this code location, so "
            "that nothing tells how its value is loaded; nothing was sent. Correct "
            "input.asset.key; an asset of another code location is declared here as "
            "dg.AssetSpec(…, partitions_def=…).with_io_manager_key(…)."
        )
    graph = layer.asset_graph
    mine = asset_key(spec.name, INPUT_DATASET)
    upstream, own = graph.get(key).partitions_def, graph.get(mine).partitions_def
    if upstream is None:
        return [None]
    found = graph.get_partition_mapping(
        mine, key
    ).get_upstream_mapped_partitions_result_for_partitions(
        None if own is None else own.subset_with_partition_keys([partition]),
        own,
        upstream,
        dynamic_partitions_store=context.instance,
    )
    missing = found.required_but_nonexistent_subset
    keys = list(found.partitions_subset.get_partition_keys())
    if not missing.is_empty or not keys:
        named = ", ".join(list(missing.get_partition_keys())[:_NAMED])
        raise InputDataError(
            f"The upstream asset {key.to_user_string()} has no partition {named or partition}, and "
            "its value is the input; nothing was sent. Begin the partitions of both at the same "
            "time, or wait until the upstream partition has ended."
        )
    return keys


def _version(context: dg.AssetExecutionContext, key: dg.AssetKey, partition: str | None) -> str:
    """The data version of an upstream partition; InputDataError where it was never materialized."""
    wanted = dg.AssetRecordsFilter(
        asset_key=key, asset_partitions=None if partition is None else [partition]
    )
    instance = context.instance
    found = instance.fetch_materializations(wanted, limit=1).records
    if found:
        event = found[0].asset_materialization
        tags = (event.tags if event is not None else None) or {}
        return str(tags.get(DATA_VERSION_TAG, f"event-{found[0].storage_id}"))
    observed = instance.fetch_observations(wanted, limit=1).records
    if observed:
        return f"event-{observed[0].storage_id}"
    which = key.to_user_string() if partition is None else f"{key.to_user_string()} {partition}"
    raise InputDataError(
        f"The upstream asset {which} was never materialized, and its value is the input; nothing "
        "was sent. Materialize it first, then this partition again."
    )


def _load(
    context: dg.AssetExecutionContext,
    declared: AssetSourceSpec,
    key: dg.AssetKey,
    partition: str | None,
) -> Any:
    try:
        return context.load_asset_value(
            key, python_type=_python_type(declared.frame), partition_key=partition
        )
    except Exception as error:
        # IO managers raise what their libraries raise.
        which = key.to_user_string() if partition is None else f"{key.to_user_string()} {partition}"
        raise InputDataError(
            f"The value of the upstream asset {which} cannot be loaded as {declared.frame} by its "
            f"IO manager: {type(error).__name__}: {one_line(str(error))}; nothing was sent. "
            "Materialize it again, or set input.asset.as to what its IO manager gives."
        ) from error


def _python_type(frame: str) -> type:
    """The type that the IO manager is asked for: one with several handlers refuses none."""
    if frame == "pandas":
        import pandas as pd  # noqa: PLC0415  # each is heavy, and only the declared one is needed

        return pd.DataFrame
    if frame == "polars":
        import polars as pl  # noqa: PLC0415

        return pl.DataFrame
    import pyarrow as pa  # noqa: PLC0415

    table: type = pa.Table
    return table
