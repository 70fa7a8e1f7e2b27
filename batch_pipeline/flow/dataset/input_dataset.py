"""Input files → the night's snapshot.

Belongs here: reading a night's rows once, on all cores of one machine. What is done for a piece of
it is in `prepare`, what is known of all pieces together in `whole_input`; several machines read an
input by `shared_reading`.
"""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import orjson

from batch_pipeline.flow import joins, paths
from batch_pipeline.flow.dataset.choosing.asked_before import Former
from batch_pipeline.flow.dataset.choosing.near_duplicates import signatures as near_signatures
from batch_pipeline.flow.dataset.documents.declared_documents import document_input
from batch_pipeline.flow.dataset.documents.resolve import DocumentInput
from batch_pipeline.flow.dataset.kept_units import KeptUnits
from batch_pipeline.flow.dataset.layers import PIECES_A_LAYER, Overlay, add_table, layers_of
from batch_pipeline.flow.dataset.prepare import prepare, wanted_by
from batch_pipeline.flow.dataset.process_pool import Task, map_in_processes
from batch_pipeline.flow.dataset.reading.files import ONE_ROW, Sources
from batch_pipeline.flow.dataset.reading.splits import NAMES_DOCUMENTS, Piece, pieces_of
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.flow.dataset.snapshot import Codec
from batch_pipeline.flow.dataset.texts import language
from batch_pipeline.flow.dataset.whole_input import Whole, add_signatures, conclude
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger.snapshots import NewSnapshot
from batch_pipeline.storage.durable import flushing
from batch_pipeline.storage.files import Files

# By a large estimate, how many times as large as a compressed file its content is.
_UNPACKED = 5
# How many times the size of the input has to be free on the disk, for a snapshot to be written
# without compression: of short documents it is four times as large as its input.
_ROOM = 6
_DOCUMENT_BYTES = 1 << 20
# Of a file that is a document, this many bytes come into the snapshot by a large estimate.
_OF_A_DOCUMENT = 100_000
# Inputs smaller than this are read by one process: to start others takes longer than they save.
PROCESSES_FROM_BYTES = 128 << 20


def read_snapshot(
    pipeline: Pipeline,
    spec: JobSpec,
    partition: str,
    sources: Sources,
    *,
    keep: bool = True,
    kept: KeptUnits | None = None,
    overlay: Overlay | None = None,
    former: Former | None = None,
) -> NewSnapshot:
    """Read the files into snapshot files, in memory bounded by the largest document.

    Without `keep` the input is only checked and the files are removed again. Items in `kept` keep
    their unit, as long as the declaration that made it makes the same of their row. For an
    `overlay` its items alone are read, as a layer on its snapshot. What the `former` snapshot asked
    and has an answer keeps it, whatever filters say. Raises InputDataError for what stops the
    night: an unreadable file, a missing column, null or duplicate ids, too many rows that have to
    be set aside.
    """
    declaration = Declaration.of(spec)
    documents = documents_of(
        pipeline, spec, partition, sources, store_sources=keep, fetch_again=overlay is not None
    )
    require_libraries(spec)
    with pipeline.files.staged() as folder:
        folder.mkdir(parents=True)
        whole = Whole(declaration, overlay, spec.output.carry)
        codec = codec_for(pipeline.files, sources, folder)
        # Kept units are looked up in a file that this process has open, an overlay's items in a
        # set in its memory.
        alone = kept is not None or overlay is not None
        share = share_of(declaration, spec.output.carry)
        processes = 1 if alone else _processes_for(pipeline, sources, share)
        # The disk writes the first pieces while the next ones are read and duplicates are found.
        with flushing() as flush_soon:
            added = flush_soon if keep else _leave

            def task(number: int, piece: Piece) -> Task:
                only = None if overlay is None else overlay.ids
                about = declaration, folder, codec, kept, only, spec.output.carry
                return number, piece, *about, documents

            _read(whole, pieces_of(sources, share), task, folder, processes, added)
            read = [paths.part_name(number) for number in range(whole.parts)]
            new = conclude(
                pipeline, spec, partition, sources, whole, folder, (Files(str(folder)), read),
                former,
            )  # fmt: skip
        if keep:
            write_facts(folder, new)
            pipeline.files.make_durable(folder)
            pipeline.files.publish(folder, new.folder)
    return new


def _read(
    whole: Whole,
    pieces: Iterable[Piece],
    task: Callable[[int, Piece], Task],
    folder: Path,
    processes: int,
    added: Callable[[Path], None],
) -> None:
    """Read all pieces into files; `added` is called with each file once it is there."""
    first = 0 if whole.overlay is None else PIECES_A_LAYER * len(whole.overlay.below.layers)
    under_way: deque[Piece] = deque()

    def tasks() -> Iterator[Task]:
        for number, piece in enumerate(pieces, first):
            under_way.append(piece)
            yield task(number, piece)

    with closing(map_in_processes(prepare, tasks(), processes)) as results:
        for prepared in results:
            parts = enumerate(prepared.parts, whole.parts)
            whole.add(under_way.popleft()[0].file, prepared)
            for number, part in parts:
                added(part.replace(folder / paths.part_name(number)))
            if prepared.signatures is not None:
                with prepared.signatures.open("rb") as signatures:
                    add_signatures(folder, signatures)
                prepared.signatures.unlink()
    whole.end()


def write_facts(folder: Path, new: NewSnapshot) -> None:
    """Write what the ledger will know of a snapshot beside it, for a ledger that is lost."""
    facts = paths.snapshot_facts(str(folder))
    Path(facts).write_bytes(orjson.dumps(asdict(new)))


def documents_of(
    pipeline: Pipeline,
    spec: JobSpec,
    partition: str,
    sources: Sources,
    *,
    store_sources: bool = True,
    fetch_again: bool = False,
) -> DocumentInput:
    """Where the documents that rows of an input name are looked for."""
    return document_input(
        pipeline, spec, partition, from_copies=sources.copied is not None,
        store_sources=store_sources, fetch_again=fetch_again,
    )  # fmt: skip


def require_libraries(spec: JobSpec) -> None:
    """Raise UsageError where a library is missing that the reading of an input needs."""
    if spec.filters.languages:
        language.require()
    if spec.near_duplicates is not None:
        near_signatures.require()


def share_of(declaration: Declaration, carried: Sequence[str]) -> int:
    """By how much smaller pieces of tables are."""
    return NAMES_DOCUMENTS if wanted_by(declaration, carried).documents else 1


def bytes_of(sources: Sources, share: int) -> int:
    """How long an input takes to be read, in bytes of rows. To look at a document takes as long as
    to read a megabyte of rows, and a row that names one takes much longer than its bytes."""
    return sum(
        max(file.size, _DOCUMENT_BYTES)
        if file.is_document
        else file.size * (1 if file.kind in ONE_ROW else share)
        for file in sources.files
    )


def _processes_for(pipeline: Pipeline, sources: Sources, share: int) -> int:
    return pipeline.settings.workers if bytes_of(sources, share) >= PROCESSES_FROM_BYTES else 1


def _leave(_: Path) -> None:
    """Files that are removed again need not be flushed to the disk."""


def codec_for(files: Files, sources: Sources, folder: Path) -> Codec:
    """How a snapshot is compressed: on a local disk with room not at all, which takes a quarter of
    the time; where the home is remote, the network is slower than zstd is."""
    size = sum(
        min(file.size, _OF_A_DOCUMENT)
        if file.is_document
        else file.size * (1 if file.is_plain else _UNPACKED)
        for file in sources.files
    )
    has_room = shutil.disk_usage(folder).free > _ROOM * size
    return "none" if has_room and not files.is_remote else "zstd"


def compare(files: Files, former: NewSnapshot, new: NewSnapshot) -> str:
    """What changed from one snapshot of a night to the next, by id; for people."""
    with joins.tables(files, {}) as connection:
        add_table(connection, layers_of(files, former), "former")
        add_table(connection, layers_of(files, new), "new")
        [(added, gone, changed)] = connection.execute(_CHANGES).fetchall()
    return f"{added:,} new items, {gone:,} gone, {changed:,} with another request"


_CHANGES = """
    SELECT count(*) FILTER (f.id IS NULL), count(*) FILTER (n.id IS NULL),
           count(*) FILTER (f.fingerprint IS DISTINCT FROM n.fingerprint
                            AND f.id IS NOT NULL AND n.id IS NOT NULL)
    FROM (SELECT id, fingerprint FROM former) f
    FULL JOIN (SELECT id, fingerprint FROM new) n ON f.id = n.id
"""
