"""Looks at the documents of a shard before its body leaves, and takes those out that have changed.

A snapshot knows a document by its hash. What has changed since the input was taken would be asked
about in the name of a row that says otherwise, and what is gone cannot be asked about: such a row
is set aside, and the rest of the shard goes without it. Where most documents are gone at once, it
is their folder that is, and nothing is set aside.

Belongs here: what is looked at before a batch. A document that changes while a body is sent is
noticed by `dataset.documents.opening`; a real-time call looks when it leaves (`realtime.shard`).
"""

from __future__ import annotations

import os.path
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.errors import InputDataError
from batch_pipeline.flow.answers.outcomes import DOCUMENT_CHANGED
from batch_pipeline.flow.batches import refused_shards
from batch_pipeline.flow.concurrency import Stop
from batch_pipeline.flow.dataset import snapshot as snapshot_files
from batch_pipeline.flow.dataset.documents.opening import DocumentOpener
from batch_pipeline.flow.dataset.documents.reference import (
    Document,
    DocumentChangedError,
    Opener,
)
from batch_pipeline.flow.dataset.reading.row_json import row_of_json
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.planning import manifests, variants
from batch_pipeline.ledger import snapshots
from batch_pipeline.ledger.accounts import accounts
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.shards import Shard
from batch_pipeline.ledger.submissions import refusals, transitions
from batch_pipeline.ledger.submissions.refusals import Refusal
from batch_pipeline.ledger.submissions.submissions import State, Submission
from batch_pipeline.safe_text import get_logger

log = get_logger(__name__)

# Where at least this number of documents are looked at, and more than half of them are gone, the
# folder is.
FEW = 5
# How many requests of a shard are looked at before its first call leaves.
SAMPLE = 20
_COLUMNS = ("ordinal", "variant", "visual_tokens")


@dataclass(frozen=True)
class Changed:
    """A request of a shard, by its number, whose document has changed, and how."""

    number: int
    message: str


@dataclass(frozen=True)
class Looked:
    """What a look at a shard's documents found, and what opens them now."""

    changed: Sequence[Changed]
    opener: Opener


@contextmanager
def looked_at(pipeline: Pipeline, night: Night, shard: Shard, stop: Stop) -> Iterator[Looked]:
    """Look at each document of a shard; in the block its documents can be opened.

    A remote document is copied meanwhile and is sent from there, so that it is fetched once.

    Raises InputDataError where most documents are gone.
    """
    opener = DocumentOpener(pipeline.files, night.job)
    manifest = manifests.read(pipeline.files, shard.manifest, _COLUMNS)
    numbers = with_documents(manifest)
    if not numbers:
        yield Looked((), opener)
        return
    with pipeline.files.staged() as folder:
        folder.mkdir()
        look = _Look(opener, folder, home_is_remote=pipeline.files.is_remote, stop=stop)
        changed = [
            Changed(number, problem)
            for number, documents in _documents(pipeline, shard, manifest, numbers)
            if (problem := look.first_problem(documents)) is not None
        ]
        refuse_a_folder_that_is_gone(look.missing, look.looked_at, "the next batch")
        yield Looked(changed, look)


def refuse_missing(pipeline: Pipeline, night: Night, shard: Shard) -> None:
    """Raise InputDataError where most of a sample of a shard's documents are gone.

    For calls, each of which looks at its own documents when it leaves.
    """
    manifest = manifests.read(pipeline.files, shard.manifest, _COLUMNS)
    numbers = with_documents(manifest)
    sample = numbers[:: max(1, len(numbers) // SAMPLE)]
    opener = DocumentOpener(pipeline.files, night.job)
    looked_at, missing = 0, []
    for _, documents in _documents(pipeline, shard, manifest, sample):
        for document in documents:
            looked_at += 1
            try:
                next(opener.open(document))
            except DocumentChangedError as error:
                if isinstance(error.__cause__, OSError):
                    missing.append(document)
    refuse_a_folder_that_is_gone(missing, looked_at, "a sample of the next calls")


def with_documents(manifest: pa.Table) -> list[int]:
    """The numbers of the requests for which documents are opened: those with pages or images. Text
    that was taken out of a document is in the snapshot."""
    has = pc.fill_null(pc.greater(manifest.column("visual_tokens"), 0), False)
    found: list[int] = pc.indices_nonzero(has).to_pylist()
    return found


def refuse_a_folder_that_is_gone(missing: Sequence[Document], looked_at: int, what: str) -> None:
    """Raise InputDataError where most of the documents that were looked at are missing."""
    if looked_at < FEW or len(missing) * 2 <= looked_at:
        return
    names = [document.name for document in missing if document.name and document.store is None]
    folder = os.path.commonpath([Path(name).parent for name in names]) if names else ""
    where = f" under {folder}" if folder else f", {missing[0].path} for one"
    raise InputDataError(
        f"{len(missing):,} of {looked_at:,} documents of {what} are missing{where}: is it mounted? "
        "None of these requests was sent. Once the documents are there, run it again."
    )


class _Look:
    """Looks at documents, each once, and opens them afterwards (`Opener`)."""

    def __init__(
        self, opener: DocumentOpener, folder: Path, *, home_is_remote: bool, stop: Stop
    ) -> None:
        self._opener, self._folder, self._stop = opener, folder, stop
        self._home_is_remote = home_is_remote
        self._problems: dict[tuple[str, str], str | None] = {}
        self.missing: list[Document] = []

    @property
    def looked_at(self) -> int:
        """Different documents so far."""
        return len(self._problems)

    def first_problem(self, documents: Sequence[Document]) -> str | None:
        """Why a request with these documents cannot be sent any more; None: it can."""
        for document in documents:
            self._stop.check()
            key = document.path, _sha256(document)
            if key not in self._problems:
                self._problems[key] = self._problem(document)
            if self._problems[key] is not None:
                return self._problems[key]
        return None

    def open(self, document: Document) -> Iterator[bytes]:
        copy = self._copy(document)
        if copy is None or not copy.exists():
            return self._opener.open(document)
        # The copy is what is sent: a file of its own, of the same content.
        whole = replace(
            document,
            name=str(copy),
            store=None,
            stored=False,
            size=document.bytes_sent,
            sha256=_sha256(document),
            sent_sha256=None,
            sent_size=None,
        )
        return self._opener.open(whole)

    def _problem(self, document: Document) -> str | None:
        copy = self._copy(document)
        try:
            if copy is None:
                for _ in self._opener.open(document):
                    self._stop.check()
            elif not copy.exists():
                self._fetch(document, copy)
        except DocumentChangedError as error:
            if isinstance(error.__cause__, OSError):
                self.missing.append(document)
            return str(error)
        return None

    def _fetch(self, document: Document, copy: Path) -> None:
        part = copy.with_suffix(".part")
        with part.open("wb") as file:
            for piece in self._opener.open(document):
                self._stop.check()
                file.write(piece)
        part.rename(copy)

    def _copy(self, document: Document) -> Path | None:
        """Where a remote document is copied to; None: it is local."""
        kept = document.stored or document.sent_sha256 is not None
        is_remote = self._home_is_remote if kept else document.store is not None
        return self._folder / _sha256(document) if is_remote else None


def _sha256(document: Document) -> str:
    """The hash of what is sent of a document."""
    return document.sent_sha256 or document.sha256


def _documents(
    pipeline: Pipeline, shard: Shard, manifest: pa.Table, numbers: Sequence[int]
) -> Iterator[tuple[int, list[Document]]]:
    """The documents that are opened for each of these requests."""
    with pipeline.ledger.read() as connection:
        snapshot = snapshots.get_snapshot(connection, shard.snapshot_id)
    declaration = Declaration.from_json(snapshot.declaration)
    builders = variants.builders_of(variants.declarations_of(manifest, declaration))
    ordinals, names = (manifest.column(name).to_pylist() for name in ("ordinal", "variant"))
    wanted = [ordinals[number] for number in numbers]
    rows = snapshot_files.read_inputs(pipeline.files, snapshot, wanted)
    for number, row in zip(numbers, rows, strict=True):
        parts = builders[names[number]].parts_of(row_of_json(row.text))
        yield number, [each for each in parts.documents.values() if not each.as_text]


def take_out(
    pipeline: Pipeline, night: Night, shard: Shard, submission: Submission, found: Sequence[Changed]
) -> None:
    """Give a shard back unsent, and set its requests aside whose documents have changed."""
    with pipeline.ledger.read() as connection:
        declared = snapshots.get_snapshot(connection, shard.snapshot_id).declaration
    declaration = Declaration.from_json(declared)
    manifest = manifests.read(pipeline.files, shard.manifest)
    out = np.zeros(manifest.num_rows, dtype=bool)
    out[[each.number for each in found]] = True
    tables = [manifest.filter(pa.array(rows)) for rows in (out, ~out)]
    taken, *rest = (
        refused_shards.part_of(pipeline, night, declaration, shard, rows)
        for rows in tables
        if rows.num_rows
    )
    told = f"{len(found):,} documents have changed" if len(found) > 1 else found[0].message
    messages = tuple(each.message for each in found)
    refusal = Refusal(DOCUMENT_CHANGED, messages[0], told, messages=messages)
    with pipeline.ledger.write() as connection:
        done = transitions.give_back(
            connection, submission, State.ABSENT, told
        ) and refusals.take_out(
            connection, submission, taken, rest[0] if rest else None, refusal, pipeline.holder
        )
        # As a probe of a paused account it told nothing: another shard goes instead.
        accounts.probe_at_once(connection, submission.account)
    if not done:
        for part in (taken, *rest):
            pipeline.files.remove(part.manifest)
        return
    log.warning("set aside without being sent: %s (%s)", _named(manifest, found), told)


def _named(manifest: pa.Table, found: Sequence[Changed]) -> str:
    ids = [manifest.column("id")[each.number].as_py() for each in found[:FEW]]
    names = ", ".join(map(repr, ids))
    return names if len(found) <= FEW else f"{names} and {len(found) - FEW:,} more"
