"""Input files → the night's snapshot.

Belongs here: reading a night's rows once, on all cores, and every check of the input as a whole
that stops the night before anything is sent. What is done for a piece of it is in `prepare`.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from batch_pipeline.errors import InputDataError
from batch_pipeline.flow import joins, paths
from batch_pipeline.flow.dataset.choosing import asked_before
from batch_pipeline.flow.dataset.choosing.asked_before import Former
from batch_pipeline.flow.dataset.choosing.duplicates import note_repeats
from batch_pipeline.flow.dataset.choosing.filters import MOST_FAILED, WHERE_FAILED
from batch_pipeline.flow.dataset.choosing.near import decide as near_decide
from batch_pipeline.flow.dataset.choosing.near import signatures as near_signatures
from batch_pipeline.flow.dataset.choosing.near.decide import NEAR_DUPLICATE, Decided
from batch_pipeline.flow.dataset.documents.declared import document_input
from batch_pipeline.flow.dataset.documents.resolve import DocumentInput
from batch_pipeline.flow.dataset.kept_units import KeptUnits
from batch_pipeline.flow.dataset.layers import PIECES_A_LAYER, Layers, add_table, layers_of
from batch_pipeline.flow.dataset.prepare import (
    EXAMPLES,
    RULE_FAILED,
    Prepared,
    prepare,
    wanted_by,
)
from batch_pipeline.flow.dataset.process_pool import map_in_processes
from batch_pipeline.flow.dataset.reading.columns import LinesSeen
from batch_pipeline.flow.dataset.reading.files import ONE_ROW, SourceFile, Sources, named
from batch_pipeline.flow.dataset.reading.splits import NAMES_DOCUMENTS, Piece, pieces_of
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.flow.dataset.requests.sizes import NOTHING, SUMS, Sizes, sum_sizes
from batch_pipeline.flow.dataset.snapshot import Codec
from batch_pipeline.flow.dataset.texts import language
from batch_pipeline.flow.outcomes import Status
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger.snapshots import NewSnapshot
from batch_pipeline.safe_text import get_logger
from batch_pipeline.storage.durable import flushing
from batch_pipeline.storage.files import Files

log = get_logger(__name__)

# The signatures of all rows, as long as a snapshot is made.
_SIGNATURES = "signatures"
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
    documents = document_input(
        pipeline, spec, partition, from_copies=sources.copied is not None, store_sources=keep,
        fetch_again=overlay is not None,
    )  # fmt: skip
    if spec.filters.languages:
        language.require()
    if spec.near_duplicates is not None:
        near_signatures.require()
    with pipeline.files.staged() as folder:
        folder.mkdir(parents=True)
        whole = _Whole(declaration, kept, overlay, spec.output.carry, documents)
        codec = codec_for(pipeline.files, sources, folder)
        # Kept units are looked up in a file that this process has open, an overlay's items in a
        # set in its memory.
        alone = kept is not None or overlay is not None
        processes = 1 if alone else _processes_for(pipeline, sources, whole.share)
        # The disk writes the first pieces while the next ones are read and duplicates are found.
        with flushing() as flush_soon:
            added = flush_soon if keep else _leave
            whole.read(sources, folder, processes, codec=codec, added=added)
            _tell_what_is_missing(spec, partition, sources, whole)
            read = [paths.part_name(number) for number in range(whole.parts)]
            layers: Layers = [(Files(str(folder)), read)]
            declarations = [declaration.hash]
            if overlay is not None:
                layers = [*layers_of(pipeline.files, overlay.below), *layers]
                made_by = [layer.declaration_hash for layer in overlay.below.layers]
                declarations = [*made_by, *declarations]
                whole.count_again(pipeline.files, layers)
            before = asked_before.NONE
            if former is not None and whole.has_requests_set_aside:
                before = asked_before.find(pipeline, former, layers)
                whole.take_back(before)
            _refuse_too_many_invalid(spec, partition, whole)
            _refuse_failing_expressions(spec, partition, whole)
            repeats = note_repeats(
                pipeline.files,
                folder,
                layers,
                declarations,
                whole.items,
                whole.lines_before,
                spec,
                partition,
                before,
                filters=whole.has_requests_set_aside,
            )
            near = whole.decide_near_duplicates(pipeline, folder, layers, former)
        target = f"{paths.snapshots(spec.name, partition)}/{whole.name[:16]}"
        prompt_size, visual_tokens = whole.sizes.of_prompts
        new = NewSnapshot(
            folder=target,
            # What has changed of items that no overlay reads is noticed by the next run.
            signature=sources.signature if overlay is None else overlay.below.signature,
            content_hash=whole.content.hexdigest(),
            declaration_hash=declaration.hash,
            declaration=declaration.to_json(),
            parts=whole.parts,
            items=whole.items,
            set_aside=whole.set_aside_by_reason(),
            duplicates=repeats.duplicates - near.duplicates[0],
            request_bytes=whole.sizes.request_bytes,
            prompt_size=prompt_size,
            visual_tokens=visual_tokens,
            documents=whole.documents if overlay is None else overlay.below.documents,
            kept=repeats.kept,
            avoided=near.avoided(repeats.avoided),
            below=() if overlay is None else overlay.below.layers,
            source=None if sources.copied is None else sources.copied.as_json(),
        )
        if keep:
            facts = paths.snapshot_facts(str(folder))
            Path(facts).write_bytes(orjson.dumps(asdict(new)))
            pipeline.files.make_durable(folder)
            pipeline.files.publish(folder, target)
    return new


@dataclass(frozen=True)
class Overlay:
    """Items of a snapshot that are read again, by id; their new rows lie on the old ones."""

    below: NewSnapshot
    ids: Collection[str]


def _processes_for(pipeline: Pipeline, sources: Sources, share: int) -> int:
    """How many processes read an input. To look at a document takes as long as to read a megabyte
    of rows, and a row that names one takes much longer than its bytes."""
    size = sum(
        max(file.size, _DOCUMENT_BYTES)
        if file.is_document
        else file.size * (1 if file.kind in ONE_ROW else share)
        for file in sources.files
    )
    return pipeline.settings.workers if size >= PROCESSES_FROM_BYTES else 1


def _leave(_: Path) -> None:
    """Files that are removed again need not be flushed to the disk."""


class _Whole:
    """The pieces of an input put together, in their order."""

    def __init__(
        self,
        declaration: Declaration,
        kept: KeptUnits | None,
        overlay: Overlay | None,
        carried: Sequence[str],
        documents: DocumentInput,
    ) -> None:
        self._declaration = declaration
        self._carried = carried
        self._kept_units = kept
        self._overlay = overlay
        self._document_input = documents
        self.pages_without_text = 0
        self._documents: dict[str, Counter[str]] = {}
        self._columns = wanted_by(declaration, carried)
        # By how much smaller pieces of tables are.
        self.share = NAMES_DOCUMENTS if self._columns.documents else 1
        self.content, self._kept, self._layout = (hashlib.sha256() for _ in range(3))
        if declaration.selecting:
            # What was approved or refused of these rows was so of those that were let through.
            self.content.update(orjson.dumps(declaration.selecting))
        self.parts = self.items = 0
        self.sizes = NOTHING
        self.set_aside: Counter[tuple[str, str]] = Counter()
        self.problems: list[str] = []
        self.without_rows: list[str] = []
        # By piece, how many lines of its file are before it.
        self.lines_before: list[int] = []

    @property
    def name(self) -> str:
        """Follows from the rows, from what is made of them, and from how they lie in files."""
        made_from = [self._declaration.hash, self.content.hexdigest(), self._layout.hexdigest()]
        made_from.append(self._kept.hexdigest())
        if self._overlay is not None:
            made_from.append(self._overlay.below.folder)
        return hashlib.sha256("\n".join(made_from).encode()).hexdigest()

    @property
    def documents(self) -> dict[str, dict[str, int]] | None:
        """Counts of the documents that are sent, by media type; None: there are none."""
        return {name: dict(counts) for name, counts in sorted(self._documents.items())} or None

    def decide_near_duplicates(
        self, pipeline: Pipeline, folder: Path, layers: Layers, former: Former | None
    ) -> Decided:
        """Decide what becomes of near duplicates, and count those that are set aside."""
        declared, near = self._declaration.near_duplicates, Decided()
        if self._overlay is not None:
            below = self._overlay.below
            near = near_decide.carry_on(pipeline, folder, layers, self.items, below)
        elif declared is not None:
            signatures = folder / _SIGNATURES
            signatures.touch()
            # Arrow keeps freed memory for allocations of the same sizes, and these are others.
            pa.default_memory_pool().release_unused()
            near = near_decide.decide(
                pipeline, folder, layers, self.items, signatures, declared, former
            )
            signatures.unlink()
        self.set_aside[str(Status.FILTERED), NEAR_DUPLICATE] += near.filtered
        self.set_aside = +self.set_aside
        self.sizes -= near.sizes
        self._kept.update(near.digest)
        return near

    @property
    def has_requests_set_aside(self) -> bool:
        """Whether rows are set aside that have a request: by filters."""
        return any(
            status == Status.FILTERED or reason == WHERE_FAILED for status, reason in self.set_aside
        )

    def take_back(self, rows: pa.Table) -> None:
        """Count rows that were set aside as asked."""
        reasons = (rows.column(name).to_pylist() for name in ("status", "reason"))
        self.set_aside -= Counter(zip(*reasons, strict=True))
        self.sizes += sum_sizes(rows)
        for ordinal in rows.column("ordinal").to_pylist():
            self._kept.update(b"%d\n" % ordinal)

    def set_aside_by_reason(self) -> dict[str, dict[str, int]]:
        """How many rows are set aside: {status: {reason: count}}."""
        found: dict[str, dict[str, int]] = {}
        for (status, reason), count in sorted(self.set_aside.items()):
            found.setdefault(status, {})[reason] = count
        return found

    def read(
        self,
        sources: Sources,
        folder: Path,
        processes: int,
        *,
        codec: Codec,
        added: Callable[[Path], None],
    ) -> None:
        """Read all pieces into files; `added` is called with each file once it is there."""
        # The piece's file as far as it was read.
        seen: tuple[SourceFile, LinesSeen] | None = None
        pieces: list[Piece] = []
        first, only = 0, None
        if self._overlay is not None:
            first = PIECES_A_LAYER * len(self._overlay.below.layers)
            only = self._overlay.ids

        def tasks() -> Iterator[tuple[Any, ...]]:
            for piece in pieces_of(sources, self.share):
                number = first + len(pieces)
                pieces.append(piece)
                about = self._declaration, folder, codec, self._kept_units, only, self._carried
                yield number, piece, *about, self._document_input

        with closing(map_in_processes(prepare, tasks(), processes)) as results:
            for number, prepared in enumerate(results):
                file = pieces[number][0].file
                if seen is not None and seen[0] != file:
                    seen[1].check(seen[0], self._columns)
                    seen = None
                lines_before = 0
                if prepared.seen is not None:
                    if seen is None:
                        seen = (file, prepared.seen)
                    else:
                        lines_before = seen[1].lines
                        seen[1].add(prepared.seen)
                self.lines_before.append(lines_before)
                for path in self._add(prepared, folder):
                    added(path)
        if seen is not None:
            seen[1].check(seen[0], self._columns)

    def count_again(self, files: Files, layers: Layers) -> None:
        """Replace the sums over the rows that were read by sums over the rows of all layers."""
        with joins.tables(files, {}) as connection:
            add_table(connection, layers)
            groups = connection.execute(_COUNTS).fetchall()
        self.items = sum(count for _, _, count, *_ in groups)
        asked = [sums for status, _, _, *sums in groups if status is None]
        self.sizes = sum((Sizes(*map(int, sums)) for sums in asked), NOTHING)
        self.set_aside = Counter(
            {(status, reason): count for status, reason, count, *_ in groups if status is not None}
        )

    def _add(self, piece: Prepared, folder: Path) -> list[Path]:
        """Give its part files their names in the snapshot; returns where they are now."""
        added = [
            part.replace(folder / paths.part_name(number))
            for number, part in enumerate(piece.parts, self.parts)
        ]
        self.parts += len(added)
        if piece.signatures is not None:
            with (folder / _SIGNATURES).open("ab") as whole, piece.signatures.open("rb") as part:
                shutil.copyfileobj(part, whole, 1 << 20)
            piece.signatures.unlink()
        self._layout.update(b"%d %d\n" % (piece.items, len(piece.parts)))
        self.content.update(piece.content)
        self._kept.update(piece.kept)
        self.items += piece.items
        self.set_aside += piece.set_aside
        self.sizes += piece.sizes
        self.pages_without_text += piece.pages_without_text
        for media_type, counts in piece.documents.items():
            self._documents.setdefault(media_type, Counter()).update(counts)
        self.without_rows += piece.without_rows
        found = piece.problems[: EXAMPLES - len(self.problems)]
        self.problems += [problem.told(self.lines_before[-1]) for problem in found]
        return added


def _tell_what_is_missing(spec: JobSpec, partition: str, sources: Sources, whole: _Whole) -> None:
    if sources.notice is not None:
        log.warning("%s %s: %s", spec.name, partition, sources.notice)
    if whole.pages_without_text:
        log.warning(
            "%s %s: %s pages of PDFs have no text, and nothing of them is sent: input.pdf is "
            "{as: text}; {as: native} sends pages as they are",
            spec.name,
            partition,
            f"{whole.pages_without_text:,}",
        )
    if whole.without_rows:
        log.warning(
            "%s %s: files without a row: %s", spec.name, partition, named(whole.without_rows)
        )


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


def _refuse_too_many_invalid(spec: JobSpec, partition: str, whole: _Whole) -> None:
    items = whole.items
    invalid = sum(whole.set_aside_by_reason().get(Status.INVALID_INPUT, {}).values())
    if items and invalid / items > spec.pilot.max_error_rate:
        raise InputDataError(
            f"{spec.name} {partition}: {invalid:,} of {items:,} rows cannot be sent "
            f"({invalid / items:.1%}, pilot.max_error_rate is {spec.pilot.max_error_rate:.1%}); "
            f"nothing was sent. The first: {'; '.join(whole.problems)}. Correct the input or the "
            f"template, or raise pilot.max_error_rate.{_hint(whole.problems)}"
        )


def _refuse_failing_expressions(spec: JobSpec, partition: str, whole: _Whole) -> None:
    """Stop the night where expressions fail on so many rows that they are themselves at fault."""
    for reason, advice in (
        (
            WHERE_FAILED,
            "try_cast(column as int) is NULL where a cast fails, and such rows are filtered.",
        ),
        (
            RULE_FAILED,
            "try_cast(column as int) is NULL where a cast fails, and the next route is tried.",
        ),
    ):
        failed = whole.set_aside.get((Status.INVALID_INPUT, reason), 0)
        if whole.items and failed / whole.items > MOST_FAILED:
            raise InputDataError(
                f"{spec.name} {partition}: {reason} for {failed:,} of {whole.items:,} rows "
                f"({failed / whole.items:.1%}, at most {MOST_FAILED:.0%} are set aside); nothing "
                f"was sent. The first: {'; '.join(whole.problems)}. Correct the expression: "
                f"{advice}"
            )


def _hint(problems: Sequence[str]) -> str:
    if any("undecodable" in problem and ".csv" in problem.lower() for problem in problems):
        return " CSV in another encoding than UTF-8 is read with input.csv: {encoding: …}."
    return ""


_COUNTS = f"SELECT status, reason, count(*), {SUMS} FROM snapshot GROUP BY status, reason"  # noqa: S608
_CHANGES = """
    SELECT count(*) FILTER (f.id IS NULL), count(*) FILTER (n.id IS NULL),
           count(*) FILTER (f.fingerprint IS DISTINCT FROM n.fingerprint
                            AND f.id IS NOT NULL AND n.id IS NOT NULL)
    FROM (SELECT id, fingerprint FROM former) f
    FULL JOIN (SELECT id, fingerprint FROM new) n ON f.id = n.id
"""
