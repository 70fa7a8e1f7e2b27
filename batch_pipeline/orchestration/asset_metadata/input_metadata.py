"""A night's input as the page of `input_dataset` shows it: documents, origin, columns, estimate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import dagster as dg
import orjson

from batch_pipeline import safe_text
from batch_pipeline.flow.answers.outcomes import Status
from batch_pipeline.flow.dataset import snapshot as snapshots
from batch_pipeline.flow.dataset.reading.listing import environ_with, expand_path
from batch_pipeline.flow.night_input import InputTaken
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.jobs.partitions import path_patterns
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger.snapshots import NewSnapshot
from batch_pipeline.orchestration.asset_metadata import columns
from batch_pipeline.orchestration.asset_metadata.values import ROW_COUNT, URI, Metadata, safely
from batch_pipeline.orchestration.names import DATA_VERSION_TAG
from batch_pipeline.wording import usd

# As many rows tell the type of a column.
FIRST_ROWS = 20
# What Dagster called `dagster/relation_identifier` before.
TABLE = "dagster/table_name"


@safely
def of_input(spec: JobSpec, taken: InputTaken, notices: Sequence[str] = ()) -> Metadata:
    """A night's input, and what a person should know of the job's model and parameters."""
    snapshot = taken.snapshot
    filtered = snapshot.count_set_aside(Status.FILTERED)
    aside = snapshot.count_set_aside() - filtered
    headline = f"{snapshot.items:,} documents, {snapshot.units:,} requests"
    if filtered:
        headline += f", {filtered:,} filtered"
    if aside:
        headline += f", {aside:,} set aside"
    if snapshot.duplicates:
        headline += f", {snapshot.duplicates:,} answered by an identical one"
    return {
        "summary": f"{headline} ({taken.note})",
        ROW_COUNT: snapshot.items,
        "requests": snapshot.units,
        "invalid_input": snapshot.count_set_aside("invalid_input"),
        "too_large": snapshot.count_set_aside("too_large"),
        **({"filtered": filtered} if filtered else {}),
        "duplicates": snapshot.duplicates,
        "request_megabytes": round(snapshot.request_bytes / 1e6, 3),
        **_origin(spec, taken),
        **_estimate(taken.night.estimate),
        **_avoided(taken.night.estimate),
        **({"warnings": "; ".join(notices)} if notices else {}),
    }


def _origin(spec: JobSpec, taken: InputTaken) -> dict[str, dg.MetadataValue | str]:
    """Where the rows are from: a path, or a source and which version of it was read."""
    source = taken.snapshot.source
    if source is None:
        partition = taken.night.partition
        path = path_patterns.fill(spec.input.origin, spec.partitions, partition)
        return {"path": dg.MetadataValue.path(safe_text.one_line(path))}
    version = {} if source["version"] is None else {"source_version": source["version"]}
    return {"source": source["origin"], **version}


def _avoided(found: Mapping[str, Any] | None) -> dict[str, dg.MetadataValue | float]:
    """What the declaration saves, by cause, as expected; what depends on the pilot is left out."""
    rows = [] if found is None else found.get("avoided", [])
    rows = [row for row in rows if not row.get("conditional")]
    if not rows:
        return {}
    lines = [
        f"| {safe_text.markdown(row['cause'])} | {row['documents']:,} | {row['requests']:,} "
        f"| {row['input_tokens']:,} | {usd(Decimal(str(row['avoided_usd'])))} |"
        for row in rows
    ]
    head = ["| saved by | documents | requests | input tokens | USD |", "|---|--:|--:|--:|--:|"]
    return {
        "avoided": dg.MetadataValue.md("\n".join([*head, *lines])),
        "avoided_usd": round(sum(row["avoided_usd"] for row in rows), 6),
    }


def _estimate(found: Mapping[str, Any] | None) -> dict[str, dg.MetadataValue | float]:
    """What the night is expected to cost, as a number to plot and as a table."""
    if found is None:
        return {}
    batch, realtime, tokens = found["batch"], found["realtime"], found["tokens"]
    rows = [
        ("expected, USD", batch["expected_usd"], realtime["expected_usd"]),
        (f"with the buffer of {found['buffer']:.0%}", *_both(found, "with_buffer_usd")),
        ("if every request were P95", *_both(found, "at_p95_usd")),
        ("hours", round(batch["hours"], 1), round(realtime["hours"], 1)),
    ]
    lines = [f"| {name} | {one:,} | {other:,} |" for name, one, other in rows]
    advice = found["recommendation"]
    caching = found.get("caching")
    about = f" Caching: {caching['summary']}." if caching else ""
    table = "\n".join(["| | as batches | in real time |", "|---|---|---|", *lines])
    return {
        "expected_cost_usd": found["expected_usd"],
        "estimate": dg.MetadataValue.md(
            f"{table}\n\nInput tokens from {tokens['input_from']}; output from "
            f"{tokens['output_from']}.{about} Recommended: {advice['mode']}; {advice['reason']}."
        ),
    }


def _both(found: Mapping[str, Any], name: str) -> tuple[float, float]:
    return found["batch"][name], found["realtime"][name]


def of_table(
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
