"""Input files → the night's snapshot.

Belongs here: reading a night's rows once, turning each into its request, and everything about the
input as a whole that stops the night before anything is sent. Formats and the snapshot's own files
have modules of their own.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from batch_pipeline.errors import InputDataError
from batch_pipeline.flow import joins, kept_units, paths, snapshots
from batch_pipeline.flow.kept_units import KeptUnits
from batch_pipeline.flow.outcomes import Status
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.readers import Row, read_rows, row_values
from batch_pipeline.flow.requests import Declaration, RequestBuilder, unit_of
from batch_pipeline.flow.snapshots import SnapshotRow, SnapshotWriter
from batch_pipeline.flow.sources import Sources, find_sources
from batch_pipeline.spec import JobSpec
from batch_pipeline.state.files import Files
from batch_pipeline.state.nights import NewSnapshot

EXAMPLES = 5


def find_input(pipeline: Pipeline, spec: JobSpec, partition: str) -> Sources:
    """The night's files; `${BATCH_PIPELINE_HOME}` in the path is the home in force."""
    environ = {**os.environ, "BATCH_PIPELINE_HOME": pipeline.settings.home}
    return find_sources(spec.input.path, partition, environ)


def read_snapshot(
    pipeline: Pipeline,
    spec: JobSpec,
    partition: str,
    sources: Sources,
    *,
    keep: bool = True,
    kept: KeptUnits = kept_units.NOTHING,
) -> NewSnapshot:
    """Read the files into snapshot files, in memory bounded by the largest document.

    Without `keep` the input is only checked and the files are removed again. Items in `kept` keep
    their unit, as long as the declaration that made it makes the same of their row. Raises
    InputDataError for what stops the night: an unreadable file, a missing column, null or duplicate
    ids, too many rows that have to be set aside.
    """
    declaration = Declaration.of(spec)
    content, kept_rows = hashlib.sha256(), hashlib.sha256()
    with pipeline.files.staged() as folder:
        writer = SnapshotWriter(folder)
        builder = RequestBuilder(declaration)
        counts = {Status.INVALID_INPUT: 0, Status.TOO_LARGE: 0}
        first_problems: list[str] = []
        request_bytes = 0
        for row in read_rows(sources, declaration.id_column, builder.columns):
            prepared = _kept(row, kept) or _prepare(row, declaration, builder)
            content.update(b"%d\n%b" % (len(row.input), row.input))
            if prepared.problem_status is not None:
                counts[Status(prepared.problem_status)] += 1
                if len(first_problems) < EXAMPLES:
                    first_problems.append(
                        f"{row.id!r} ({row.source}:{row.number}): {prepared.problem}"
                    )
            if prepared.kept_from is not None:
                kept_rows.update(f"{prepared.unit}{len(row.id)}\n{row.id}".encode())
            request_bytes += prepared.request_bytes or 0
            writer.add(prepared)
        writer.close()
        _refuse_too_many_invalid(
            spec, partition, writer.items, counts[Status.INVALID_INPUT], first_problems
        )
        duplicates, kept_count = _finish(pipeline.files, folder, writer.parts, spec, partition)
        made_from = f"{declaration.hash}\n{content.hexdigest()}"
        if kept_count:
            made_from += f"\n{kept_rows.hexdigest()}"
        name = hashlib.sha256(made_from.encode()).hexdigest()
        target = f"{paths.snapshots(spec.name, partition)}/{name[:16]}"
        if keep:
            pipeline.files.make_durable(folder)
            pipeline.files.publish(folder, target)
    return NewSnapshot(
        folder=target,
        signature=sources.signature,
        content_hash=content.hexdigest(),
        declaration_hash=declaration.hash,
        declaration=declaration.to_json(),
        parts=writer.parts,
        items=writer.items,
        invalid_input=counts[Status.INVALID_INPUT],
        too_large=counts[Status.TOO_LARGE],
        duplicates=duplicates,
        request_bytes=request_bytes,
        kept=kept_count,
    )


def compare(files: Files, former: NewSnapshot, new: NewSnapshot) -> str:
    """What changed from one snapshot of a night to the next, by id; for people."""
    sources = {
        "former": (snapshots.part_paths(former), snapshots.SCHEMA),
        "new": (snapshots.part_paths(new), snapshots.SCHEMA),
    }
    with joins.tables(files, sources) as connection:
        [(added, gone, changed)] = connection.execute(_CHANGES).fetchall()
    return f"{added:,} new items, {gone:,} gone, {changed:,} with another request"


def _kept(row: Row, kept: KeptUnits) -> SnapshotRow | None:
    """The row as the declaration made it that its answer was bought under; None: it is asked as
    the present one has it, because nothing is kept for it or its texts have changed."""
    found = kept.of(row.id)
    if found is None:
        return None
    unit, builder = found
    values, problem = row_values(row.input, builder.columns)
    former = _prepare(replace(row, values=values, problem=problem), builder.declaration, builder)
    return replace(former, kept_from=builder.declaration.hash) if former.unit == unit else None


def _prepare(row: Row, declaration: Declaration, builder: RequestBuilder) -> SnapshotRow:
    status: Status | None = None
    problem = row.problem
    fingerprint = unit = size = None
    if problem is None:
        built = builder.build(row.values)
        problem = built.problem
    if problem is not None:
        status = Status.INVALID_INPUT
    elif len(built.params) > declaration.max_request_bytes:
        status = Status.TOO_LARGE
        problem = (
            f"the request has {len(built.params):,} bytes, a batch holds at most "
            f"{declaration.max_request_bytes:,}"
        )
    else:
        size = len(built.params)
        fingerprint = builder.fingerprint(built.params)
        unit = unit_of(fingerprint, row.id, deduplicate=declaration.deduplicate)
    return SnapshotRow(
        id=row.id,
        unit=unit,
        fingerprint=fingerprint,
        request_bytes=size,
        problem_status=status,
        problem=problem,
        source=row.source,
        row=row.number,
        input=row.input,
    )


def _refuse_too_many_invalid(
    spec: JobSpec, partition: str, items: int, invalid: int, examples: list[str]
) -> None:
    if items and invalid / items > spec.pilot.max_error_rate:
        raise InputDataError(
            f"{spec.name} {partition}: {invalid:,} of {items:,} rows cannot be sent "
            f"({invalid / items:.1%}, pilot.max_error_rate is {spec.pilot.max_error_rate:.1%}); "
            f"nothing was sent. The first: {'; '.join(examples)}. Correct the input or the "
            "template, or raise pilot.max_error_rate."
        )


def _finish(
    files: Files, folder: Path, parts: int, spec: JobSpec, partition: str
) -> tuple[int, int]:
    """Refuse duplicate ids; write down which rows another row's request answers.

    Returns how many these are, and how many kept units there are.
    """
    local = Files(str(folder))
    part_paths = [snapshots.part_name(number) for number in range(parts)]
    with joins.tables(files, {}) as connection:
        data = local.dataset(part_paths) if parts else snapshots.SCHEMA.empty_table()
        connection.register("snapshot", data)
        _refuse_duplicate_ids(list(joins.batches(connection, _DUPLICATE_IDS)), spec, partition)
        count = 0
        path = folder / "duplicates.parquet"
        with pq.ParquetWriter(path, snapshots.DUPLICATES_SCHEMA, compression="zstd") as writer:
            for batch in joins.batches(connection, _DUPLICATE_UNITS):
                writer.write_batch(batch.cast(snapshots.DUPLICATES_SCHEMA))
                count += batch.num_rows
        [(kept,)] = connection.execute(_KEPT_UNITS).fetchall()
    return count, int(kept)


_CHANGES = """
    SELECT count(*) FILTER (f.id IS NULL), count(*) FILTER (n.id IS NULL),
           count(*) FILTER (f.fingerprint IS DISTINCT FROM n.fingerprint
                            AND f.id IS NOT NULL AND n.id IS NOT NULL)
    FROM (SELECT id, fingerprint FROM former) f
    FULL JOIN (SELECT id, fingerprint FROM new) n ON f.id = n.id
"""
_DUPLICATE_IDS = f"""
    SELECT id, count(*) AS rows, list(source || ':' || "row" ORDER BY ordinal)[:3] AS places,
           count(*) OVER () AS ids
    FROM snapshot GROUP BY id HAVING count(*) > 1 ORDER BY min(ordinal) LIMIT {EXAMPLES}
"""  # noqa: S608  # made of constants
_KEPT_UNITS = "SELECT count(DISTINCT unit) FROM snapshot WHERE kept_from IS NOT NULL"
_DUPLICATE_UNITS = """
    SELECT s.unit, s.ordinal, s.id, f.first_ordinal
    FROM snapshot s JOIN (
        SELECT unit, min(ordinal) AS first_ordinal FROM snapshot
        WHERE unit IS NOT NULL GROUP BY unit HAVING count(*) > 1
    ) f ON f.unit = s.unit
    WHERE s.ordinal > f.first_ordinal
"""


def _refuse_duplicate_ids(found: list[pa.RecordBatch], spec: JobSpec, partition: str) -> None:
    rows = [row for batch in found for row in batch.to_pylist()]
    if rows:
        named = "; ".join(f"{row['id']!r} in {', '.join(row['places'])}" for row in rows)
        raise InputDataError(
            f"{spec.name} {partition}: {rows[0]['ids']:,} ids of column "
            f"{spec.input.id_column!r} occur more than once, so answers could not be told apart; "
            f"nothing was sent. {named}. Make the ids unique, or name another input.id_column."
        )
