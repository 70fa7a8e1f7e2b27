"""What the input of a night is made of: its columns, and the versions of what is upstream."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import dagster as dg
import orjson

from batch_pipeline import safe_text
from batch_pipeline.flow.dataset import snapshot as snapshots
from batch_pipeline.flow.dataset.reading.listing import environ_with, expand_path
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger.snapshots import NewSnapshot
from batch_pipeline.orchestration.names import DATA_VERSION_TAG
from batch_pipeline.orchestration.shown import columns

# As many rows tell the type of a column.
FIRST_ROWS = 20
URI = "dagster/uri"
# What Dagster called `dagster/relation_identifier` before.
TABLE = "dagster/table_name"


def of_input(
    pipeline: Pipeline, spec: JobSpec, snapshot: NewSnapshot, partition: str
) -> dict[str, dg.MetadataValue | str]:
    """Where the snapshot is, the table that was read, if it was one, and the columns of the input:
    as its source has them, else as its rows have them, if it has any."""
    used = spec.prompt.columns
    if snapshot.source is not None:
        types: Mapping[str, str | None] = snapshot.source["columns"]
    else:
        types = columns.types_of(_first_rows(pipeline, snapshot))
    return {
        URI: pipeline.files.uri(snapshot.folder),
        **_table(pipeline, spec, partition),
        **(columns.of_input(types, spec.input.id_column, used) if types else {}),
    }


def _table(pipeline: Pipeline, spec: JobSpec, partition: str) -> dict[str, str]:
    """The name of the table that was read, as Dagster's pages show it."""
    if spec.input.delta is not None:
        environ = environ_with(pipeline.settings.home)
        uri = expand_path(spec.input.delta.uri, partition, environ)
        return {TABLE: safe_text.one_line(f"delta.`{uri}`")}
    table = None if spec.input.sql is None else spec.input.sql.table
    return {} if table is None else {TABLE: table}


def _first_rows(pipeline: Pipeline, snapshot: NewSnapshot) -> list[dict[str, Any]]:
    first = range(min(snapshot.items, FIRST_ROWS))
    return [
        row
        for each in snapshots.read_inputs(pipeline.files, snapshot, first)
        if isinstance(row := orjson.loads(each.text), dict)
    ]


def upstream(
    instance: dg.DagsterInstance, keys: Iterable[dg.AssetKey], partition: str
) -> dict[str, dg.MetadataValue]:
    """The data version that each upstream asset has now: of this partition, else its newest one."""
    versions = {key.to_user_string(): _version(instance, key, partition) for key in keys}
    if not versions:
        return {}
    lines = [f"| {safe_text.markdown(key)} | {found} |" for key, found in versions.items()]
    head = ["| upstream asset | data version |", "|---|---|"]
    return {"upstream_data_versions": dg.MetadataValue.md("\n".join([*head, *lines]))}


def _version(instance: dg.DagsterInstance, key: dg.AssetKey, partition: str) -> str:
    for partitions in ([partition], None):
        wanted = dg.AssetRecordsFilter(asset_key=key, asset_partitions=partitions)
        records = instance.fetch_materializations(wanted, limit=1).records
        if records and (found := records[0].asset_materialization) is not None:
            version = safe_text.markdown((found.tags or {}).get(DATA_VERSION_TAG, "none"))
            return f"`{version}`" if partitions is None else f"`{version}` of this partition"
    return "never materialized"
