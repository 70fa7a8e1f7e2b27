"""Input files → the night's snapshot.

Belongs here: reading a night's rows once, on all cores, and everything about the input as a whole
that stops the night before anything is sent. What is done for a piece of it is `preparing`; formats
and the snapshot's own files have modules of their own.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batch_pipeline.errors import InputDataError
from batch_pipeline.flow import joins, kept_units, paths, snapshots
from batch_pipeline.flow.formats import LinesSeen, Wanted
from batch_pipeline.flow.kept_units import KeptUnits
from batch_pipeline.flow.pieces import Piece, pieces_of
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.preparing import EXAMPLES, Prepared, prepare
from batch_pipeline.flow.prompt import Template
from batch_pipeline.flow.requests import Declaration
from batch_pipeline.flow.sources import SourceFile, Sources, find_sources, is_plain
from batch_pipeline.flow.workers import Workers
from batch_pipeline.spec import JobSpec
from batch_pipeline.state.durable import flushing
from batch_pipeline.state.files import Files
from batch_pipeline.state.inputs import NewSnapshot

# How many times as large as its file what is read from it may be if that is compressed, by a large
# estimate; and how many times what is written has to be free, for documents not to be packed.
_UNPACKED = 5
_ROOM = 2
# Below this another process has hardly started when this one is through.
PROCESSES_FROM_BYTES = 40 << 20


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
    free: Callable[[], bool] = lambda: True,
) -> NewSnapshot:
    """Read the files into snapshot files, in memory bounded by the largest document.

    Without `keep` the input is only checked and the files are removed again. Items in `kept` keep
    their unit, as long as the declaration that made it makes the same of their row. As long as this
    process is not `free` its workers read without it. Raises
    InputDataError for what stops the night: an unreadable file, a missing column, null or duplicate
    ids, too many rows that have to be set aside.
    """
    declaration = Declaration.of(spec)
    with pipeline.files.staged() as folder:
        folder.mkdir(parents=True)
        whole = _Whole(pipeline.settings.workers, declaration, free)
        packed = pipeline.files.is_remote or not _is_room_for(sources, folder)
        whole.read(sources, folder, kept, packed=packed, durable=keep)
        _refuse_too_many_invalid(spec, partition, whole)
        duplicates, kept_count = _finish(pipeline.files, folder, whole, spec, partition)
        target = f"{paths.snapshots(spec.name, partition)}/{whole.name[:16]}"
        if keep:
            pipeline.files.make_durable(folder)
            pipeline.files.publish(folder, target)
    return NewSnapshot(
        folder=target,
        signature=sources.signature,
        content_hash=whole.content.hexdigest(),
        declaration_hash=declaration.hash,
        declaration=declaration.to_json(),
        parts=whole.parts,
        items=whole.items,
        invalid_input=whole.invalid_input,
        too_large=whole.too_large,
        duplicates=duplicates,
        request_bytes=whole.request_bytes,
        kept=kept_count,
    )


class _Whole:
    """The pieces of an input put together, in their order."""

    def __init__(self, workers: int, declaration: Declaration, free: Callable[[], bool]) -> None:
        self._workers = workers
        self._free = free
        self._declaration = declaration
        self._columns = Wanted(declaration.id_column, Template.parse(declaration.user).columns)
        self.content, self._kept, self._layout = (hashlib.sha256() for _ in range(3))
        self.parts = self.items = self.invalid_input = self.too_large = self.request_bytes = 0
        self.problems: list[str] = []

    @property
    def name(self) -> str:
        """Follows from the rows, from what is made of them, and from how they lie in files."""
        made_from = [self._declaration.hash, self.content.hexdigest(), self._layout.hexdigest()]
        made_from.append(self._kept.hexdigest())
        return hashlib.sha256("\n".join(made_from).encode()).hexdigest()

    def read(
        self, sources: Sources, folder: Path, kept: KeptUnits, *, packed: bool, durable: bool
    ) -> None:
        # What is kept is looked up in a file of this process; so little is worth no process.
        alone = kept is not kept_units.NOTHING or not worth_processes(sources)
        seen: tuple[SourceFile, LinesSeen] | None = None
        pieces: list[Piece] = []

        def tasks() -> Iterator[tuple[Any, ...]]:
            for piece in pieces_of(sources):
                pieces.append(piece)
                yield (
                    len(pieces) - 1,
                    piece,
                    self._declaration,
                    folder,
                    packed,
                    *([kept] if alone else []),
                )

        # A disk writes while the next pieces are read.
        with (
            Workers(1 if alone else self._workers, self._free) as workers,
            flushing() as flush_soon,
        ):
            for number, prepared in enumerate(workers.map(prepare, tasks())):
                file = pieces[number][0].file
                if seen is not None and seen[0] != file:
                    seen[1].check(seen[0], self._columns)
                    seen = None
                if prepared.seen is not None:
                    if seen is None:
                        seen = (file, prepared.seen)
                    else:
                        seen[1].add(prepared.seen)
                for path in self._add(prepared, folder):
                    if durable:
                        flush_soon(path)
        if seen is not None:
            seen[1].check(seen[0], self._columns)

    def _add(self, piece: Prepared, folder: Path) -> list[Path]:
        """Returns where its files are now."""
        added = []
        for part in piece.parts:
            added.append(part.replace(folder / snapshots.part_name(self.parts)))
            self.parts += 1
        self._layout.update(b"%d %d\n" % (piece.items, len(piece.parts)))
        self.content.update(piece.digests)
        self._kept.update(piece.kept)
        self.items += piece.items
        self.invalid_input += piece.invalid_input
        self.too_large += piece.too_large
        self.request_bytes += piece.request_bytes
        self.problems += piece.problems[: EXAMPLES - len(self.problems)]
        return added


def _is_room_for(sources: Sources, folder: Path) -> bool:
    """Whether a disk has room to spare for the night's documents as they are."""
    size = sum(file.size * (1 if is_plain(file) else _UNPACKED) for file in sources.files)
    return shutil.disk_usage(folder).free > _ROOM * size


def worth_processes(sources: Sources) -> bool:
    """Whether an input is so large that other processes start sooner than this one reads it."""
    return sum(file.size for file in sources.files) >= PROCESSES_FROM_BYTES


def compare(files: Files, former: NewSnapshot, new: NewSnapshot) -> str:
    """What changed from one snapshot of a night to the next, by id; for people."""
    sources = {
        "former": (snapshots.part_paths(former), snapshots.SCHEMA),
        "new": (snapshots.part_paths(new), snapshots.SCHEMA),
    }
    with joins.tables(files, sources, rows=former.items + new.items) as connection:
        [(added, gone, changed)] = connection.execute(_CHANGES).fetchall()
    return f"{added:,} new items, {gone:,} gone, {changed:,} with another request"


def _refuse_too_many_invalid(spec: JobSpec, partition: str, whole: _Whole) -> None:
    items, invalid = whole.items, whole.invalid_input
    if items and invalid / items > spec.pilot.max_error_rate:
        raise InputDataError(
            f"{spec.name} {partition}: {invalid:,} of {items:,} rows cannot be sent "
            f"({invalid / items:.1%}, pilot.max_error_rate is {spec.pilot.max_error_rate:.1%}); "
            f"nothing was sent. The first: {'; '.join(whole.problems)}. Correct the input or the "
            "template, or raise pilot.max_error_rate."
        )


def _finish(
    files: Files, folder: Path, whole: _Whole, spec: JobSpec, partition: str
) -> tuple[int, int]:
    """Refuse duplicate ids; write down which rows another row's request answers.

    Returns how many these are, and how many kept units there are.
    """
    local = Files(str(folder))
    part_paths = [snapshots.part_name(number) for number in range(whole.parts)]
    with joins.tables(files, {}, rows=whole.items) as connection:
        data = local.dataset(part_paths) if part_paths else snapshots.SCHEMA.empty_table()
        connection.register("snapshot", data)
        connection.execute(_REPEATED)
        [(kept,)] = connection.execute(_KEPT_UNITS).fetchall()
        [(repeated,)] = connection.execute("SELECT count(*) FROM repeated_units").fetchall()
        if connection.execute("FROM repeated_ids LIMIT 1").fetchall():
            _refuse_duplicate_ids(list(joins.batches(connection, _DUPLICATE_IDS)), spec, partition)
        count = 0
        path = folder / "duplicates.parquet"
        with pq.ParquetWriter(path, snapshots.DUPLICATES_SCHEMA, compression="zstd") as writer:
            looked_at = part_paths if repeated else ()
            for _ in snapshots.each_part(connection, local, looked_at, whole.items):
                for batch in joins.batches(connection, _DUPLICATE_UNITS):
                    writer.write_batch(batch.cast(snapshots.DUPLICATES_SCHEMA))
                    count += batch.num_rows
    return count, int(kept)


_CHANGES = """
    SELECT count(*) FILTER (f.id IS NULL), count(*) FILTER (n.id IS NULL),
           count(*) FILTER (f.fingerprint IS DISTINCT FROM n.fingerprint
                            AND f.id IS NOT NULL AND n.id IS NOT NULL)
    FROM (SELECT id, fingerprint FROM former) f
    FULL JOIN (SELECT id, fingerprint FROM new) n ON f.id = n.id
"""
# Few, if any: what they are and where they stand is looked up for them alone.
_REPEATED = """
    CREATE TEMP TABLE repeated_ids AS SELECT id FROM snapshot GROUP BY id HAVING count(*) > 1;
    CREATE TEMP TABLE repeated_units AS
        SELECT unit, min(ordinal) AS first_ordinal FROM snapshot
        WHERE unit IS NOT NULL GROUP BY unit HAVING count(*) > 1
"""
_DUPLICATE_IDS = f"""
    SELECT id, count(*) AS rows, list(source || ':' || "row" ORDER BY ordinal)[:3] AS places,
           count(*) OVER () AS ids
    FROM snapshot SEMI JOIN repeated_ids USING (id)
    GROUP BY id ORDER BY min(ordinal) LIMIT {EXAMPLES}
"""  # noqa: S608  # made of constants
_KEPT_UNITS = "SELECT count(DISTINCT unit) FROM snapshot WHERE kept_from IS NOT NULL"
_DUPLICATE_UNITS = """
    SELECT s.unit, s.ordinal, s.id, f.first_ordinal
    FROM snapshot s JOIN repeated_units f ON f.unit = s.unit
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
