"""What the input of a night is made of: its columns, and the versions of what is upstream."""

from __future__ import annotations

from collections.abc import Iterable

import dagster as dg
import orjson

from batch_pipeline import safe_text
from batch_pipeline.flow.dataset import snapshot as snapshots
from batch_pipeline.flow.dataset.template import Template
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger.snapshots import NewSnapshot
from batch_pipeline.orchestration.shown import columns

# As many rows tell the type of a column.
FIRST_ROWS = 20
URI = "dagster/uri"
DATA_VERSION_TAG = "dagster/data_version"


def of_input(
    pipeline: Pipeline, spec: JobSpec, snapshot: NewSnapshot
) -> dict[str, dg.MetadataValue | str]:
    """Where the snapshot is, and the columns of the input as its rows have them, if it has any."""
    first = range(min(snapshot.items, FIRST_ROWS))
    rows = [
        row
        for each in snapshots.read_inputs(pipeline.files, snapshot, first)
        if isinstance(row := orjson.loads(each.text), dict)
    ]
    used = Template.parse(spec.prompt.user).columns
    found = columns.of_rows(rows, spec.input.id_column, used) if rows else {}
    return {URI: pipeline.files.uri(snapshot.folder), **found}


def upstream(context: dg.AssetExecutionContext, keys: Iterable[str]) -> dict[str, dg.MetadataValue]:
    """The data version that each upstream asset has now: of this partition, else its newest one."""
    versions = {key: _version(context, dg.AssetKey.from_user_string(key)) for key in keys}
    if not versions:
        return {}
    lines = [f"| {safe_text.markdown(key)} | {found} |" for key, found in versions.items()]
    head = ["| upstream asset | data version |", "|---|---|"]
    return {"upstream_data_versions": dg.MetadataValue.md("\n".join([*head, *lines]))}


def _version(context: dg.AssetExecutionContext, key: dg.AssetKey) -> str:
    for partitions in ([context.partition_key], None):
        wanted = dg.AssetRecordsFilter(asset_key=key, asset_partitions=partitions)
        records = context.instance.fetch_materializations(wanted, limit=1).records
        if records and (found := records[0].asset_materialization) is not None:
            version = safe_text.markdown((found.tags or {}).get(DATA_VERSION_TAG, "none"))
            return f"`{version}`" if partitions is None else f"`{version}` of this partition"
    return "never materialized"
