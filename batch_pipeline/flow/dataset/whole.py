"""The pieces of an input put together: sums over all rows, and the checks of the input as a whole.

Belongs here: what is known only once all pieces are read, and what of it stops the night before
anything is sent. Who has read the pieces, and where their part files lie, makes no difference here;
that is in `input_dataset` and `shared_reading`.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import orjson
import pyarrow as pa

from batch_pipeline.errors import InputDataError
from batch_pipeline.flow import joins, paths
from batch_pipeline.flow.answers.outcomes import Status
from batch_pipeline.flow.dataset.choosing import asked_before
from batch_pipeline.flow.dataset.choosing.asked_before import Former
from batch_pipeline.flow.dataset.choosing.duplicates import note_repeats
from batch_pipeline.flow.dataset.choosing.filters import MOST_FAILED, WHERE_FAILED
from batch_pipeline.flow.dataset.choosing.near import decide as near_decide
from batch_pipeline.flow.dataset.choosing.near.decide import NEAR_DUPLICATE, Decided
from batch_pipeline.flow.dataset.layers import Layers, Overlay, add_table, layers_of
from batch_pipeline.flow.dataset.prepare import EXAMPLES, RULE_FAILED, Prepared, wanted_by
from batch_pipeline.flow.dataset.reading.columns import LinesSeen
from batch_pipeline.flow.dataset.reading.files import SourceFile, Sources, named
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.flow.dataset.requests.sizes import NOTHING, SUMS, Sizes, sum_sizes
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger.snapshots import NewSnapshot
from batch_pipeline.safe_text import get_logger
from batch_pipeline.storage.files import Files

log = get_logger(__name__)

# The signatures of all rows, as long as a snapshot is made.
_SIGNATURES = "signatures"


class Whole:
    """The pieces of an input put together, in their order."""

    def __init__(
        self, declaration: Declaration, overlay: Overlay | None, carried: Sequence[str]
    ) -> None:
        self.declaration = declaration
        self.overlay = overlay
        self.pages_without_text = 0
        self._documents: dict[str, Counter[str]] = {}
        self._columns = wanted_by(declaration, carried)
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
        # The last piece's file as far as it was read.
        self._seen: tuple[SourceFile, LinesSeen] | None = None

    @property
    def name(self) -> str:
        """Follows from the rows, from what is made of them, and from how they lie in files."""
        made_from = [self.declaration.hash, self.content.hexdigest(), self._layout.hexdigest()]
        made_from.append(self._kept.hexdigest())
        if self.overlay is not None:
            made_from.append(self.overlay.below.folder)
        return hashlib.sha256("\n".join(made_from).encode()).hexdigest()

    @property
    def documents(self) -> dict[str, dict[str, int]] | None:
        """Counts of the documents that are sent, by media type; None: there are none."""
        return {name: dict(counts) for name, counts in sorted(self._documents.items())} or None

    def add(self, file: SourceFile, piece: Prepared) -> None:
        """Take in the next piece, whose first file this is.

        Raises InputDataError where a file that has ended before it lacks a column.
        """
        if self._seen is not None and self._seen[0] != file:
            self.end()
        lines_before = 0
        if piece.seen is not None:
            if self._seen is None:
                self._seen = (file, piece.seen)
            else:
                lines_before = self._seen[1].lines
                self._seen[1].add(piece.seen)
        self.lines_before.append(lines_before)
        self.parts += len(piece.parts)
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
        self.problems += [problem.told(lines_before) for problem in found]

    def end(self) -> None:
        """To be called after the last piece; raises InputDataError where a column is missing."""
        if self._seen is not None:
            self._seen[1].check(self._seen[0], self._columns)
            self._seen = None

    def decide_near_duplicates(
        self, pipeline: Pipeline, folder: Path, layers: Layers, former: Former | None
    ) -> Decided:
        """Decide what becomes of near duplicates, and count those that are set aside."""
        declared, near = self.declaration.near_duplicates, Decided()
        if self.overlay is not None:
            below = self.overlay.below
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


def add_signatures(folder: Path, signatures: BinaryIO) -> None:
    """Add the signatures of the next piece to those of all rows, in the folder where a snapshot is
    made."""
    with (folder / _SIGNATURES).open("ab") as together:
        shutil.copyfileobj(signatures, together, 1 << 20)


def conclude(
    pipeline: Pipeline,
    spec: JobSpec,
    partition: str,
    sources: Sources,
    whole: Whole,
    folder: Path,
    read: tuple[Files, Sequence[str]],
    former: Former | None,
) -> NewSnapshot:
    """The snapshot that all pieces make, whose part files are those `read`.

    Writes what was decided of its rows, and its facts, into a local `folder`. Raises InputDataError
    for what stops the night: duplicate ids, too many rows that have to be set aside.
    """
    declaration, overlay = whole.declaration, whole.overlay
    _tell_what_is_missing(spec, partition, sources, whole)
    layers: Layers = [read]
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
    prompt_size, visual_tokens = whole.sizes.of_prompts
    return NewSnapshot(
        folder=f"{paths.snapshots(spec.name, partition)}/{whole.name[:16]}",
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


def _tell_what_is_missing(spec: JobSpec, partition: str, sources: Sources, whole: Whole) -> None:
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


def _refuse_too_many_invalid(spec: JobSpec, partition: str, whole: Whole) -> None:
    items = whole.items
    invalid = sum(whole.set_aside_by_reason().get(Status.INVALID_INPUT, {}).values())
    if items and invalid / items > spec.pilot.max_error_rate:
        raise InputDataError(
            f"{spec.name} {partition}: {invalid:,} of {items:,} rows cannot be sent "
            f"({invalid / items:.1%}, pilot.max_error_rate is {spec.pilot.max_error_rate:.1%}); "
            f"nothing was sent. The first: {'; '.join(whole.problems)}. Correct the input or the "
            f"template, or raise pilot.max_error_rate.{_hint(whole.problems)}"
        )


def _refuse_failing_expressions(spec: JobSpec, partition: str, whole: Whole) -> None:
    """Stop the night where expressions fail on more rows than a fault of the rows explains."""
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
