"""Gives near duplicates the answers of their leaders, once all that is to be asked is answered.

The answers are copied into a file of the night's answers, as those of earlier nights are. Twins
whose leaders have no usable answer are open from then on, and are asked.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from batch_pipeline.flow import joins
from batch_pipeline.flow.answers.outcomes import Status
from batch_pipeline.flow.answers.schemas import ANSWERS_SCHEMA, parquet_writer
from batch_pipeline.flow.dataset.choosing.near_duplicates.decide import NEAR_DUPLICATES
from batch_pipeline.flow.dataset.requests.sizes import PROMPT_SIZE
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.planning import plan
from batch_pipeline.flow.planning.open_units import open_units
from batch_pipeline.flow.planning.plan import View
from batch_pipeline.flow.results import results_folder
from batch_pipeline.flow.reuse import copies
from batch_pipeline.ledger import nights
from batch_pipeline.ledger.nights import Night
from batch_pipeline.safe_text import get_logger

if TYPE_CHECKING:
    import duckdb

log = get_logger(__name__)

# A leader that was redriven has several final answers: the last one that succeeded is copied.
_PICK = f"""
    CREATE TEMP TABLE picked AS
        SELECT a.unit, max_by(a.custom_id, a.collected_at) AS custom_id
        FROM answers a SEMI JOIN held h ON h.leader_unit = a.unit
        WHERE a.final AND a.status = '{Status.SUCCEEDED}' GROUP BY a.unit
"""  # noqa: S608  # made of constants
_COPY_COLUMNS = copies.columns(
    unit="h.unit", id="h.id", collected_at="k.at", answered_by="'id:' || h.leader_id"
)
_SELECT_COPIES = f"""
    SELECT {_COPY_COLUMNS}
    FROM answers a
    JOIN picked p ON p.unit = a.unit AND p.custom_id = a.custom_id
    JOIN held h ON h.leader_unit = a.unit
    CROSS JOIN constants k
    WHERE a.final AND a.status = '{Status.SUCCEEDED}'
"""  # noqa: S608
_SUMS = f"""
    SELECT count(*), coalesce(sum({PROMPT_SIZE}), 0)
    FROM held h SEMI JOIN picked p ON p.unit = h.leader_unit
"""  # noqa: S608


def settle(pipeline: Pipeline, night: Night) -> None:
    """Answer the twins that wait by their leaders' answers, and open those whose leaders have none.

    For a night of which nothing is open or in flight. Where another process changes the night
    meanwhile nothing is done: the next step looks again.
    """
    seen = plan.view(pipeline, night)
    if not seen.hold_twins or not seen.night.held_twins:
        return
    try:
        _settle(pipeline, seen)
    except results_folder.NightChangedError:
        log.info("%s %s was changed by another process meanwhile", night.job, night.partition)


def _settle(pipeline: Pipeline, seen: View) -> None:
    with (
        pipeline.files.staged(".parquet") as staged,
        open_units(
            pipeline.files, seen.snapshot, seen.answers, seen.manifests, hold_twins=True
        ) as units,
    ):
        left = units.count()
        copied, size = _write(units.connection, staged, seen.snapshot.folder)
        path = copies.publish(pipeline, seen.night, staged) if copied else None
    if path is None:
        with pipeline.ledger.write() as connection:
            current = nights.get_night(connection, seen.night.id)
            if current.revision == seen.night.revision:
                nights.release_twins(connection, current, left)
        return
    with copies.published(pipeline, seen, path) as (connection, current):
        copies.record(connection, seen, NEAR_DUPLICATES, path, copied, (copied, size))
        nights.release_twins(connection, current, left)
    log.info(
        "%s %s: %s near duplicates have the answers of their leaders, %s are asked",
        seen.night.job, seen.night.partition, f"{copied:,}", f"{left:,}",
    )  # fmt: skip


def _write(connection: duckdb.DuckDBPyConnection, target: Path, snapshot: str) -> tuple[int, int]:
    """Write the copies into a local file; returns how many, and the sizes of their prompts."""
    connection.execute(_PICK)
    [(copied, size)] = connection.execute(_SUMS).fetchall()
    at = pa.array([datetime.now(UTC)], ANSWERS_SCHEMA.field("collected_at").type)
    connection.register("constants", pa.table({"at": at}))
    if copied:
        with parquet_writer(target, ANSWERS_SCHEMA) as writer:
            for batch in joins.batches(connection, _SELECT_COPIES):
                writer.write_batch(batch.cast(ANSWERS_SCHEMA))
            facts = copies.facts_of(NEAR_DUPLICATES, snapshot, copied, size)
            writer.add_key_value_metadata(facts)
    return int(copied), int(size)
