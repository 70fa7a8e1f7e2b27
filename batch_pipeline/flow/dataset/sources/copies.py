"""A source's rows as they are copied into the home, and read from there like files.

The copy is compressed JSON lines, in parts that processes read at once. It is immutable: its folder
is named by the source's version, or by a hash of the rows where there is none. `prune` removes it.
Bytes that are documents are no part of it: the home keeps them beside, under their hash.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from batch_pipeline.errors import InputDataError
from batch_pipeline.flow import paths
from batch_pipeline.flow.dataset.documents.inspection.content_kinds import begins_like_a_document
from batch_pipeline.flow.dataset.documents.reference import MARK, is_mark
from batch_pipeline.flow.dataset.documents.store import DocumentStore
from batch_pipeline.flow.dataset.reading.files import Copied, Kind, SourceFile, Sources
from batch_pipeline.flow.dataset.reading.row_json import row_of_cells
from batch_pipeline.flow.dataset.sources.source import Source
from batch_pipeline.flow.dataset.sources.value_types import ValueTypes
from batch_pipeline.storage.files import Files

# Bytes of a part before compression: enough for its process to be busy for a while.
PART_BYTES = 16 << 20
_LEVEL = 1


def copy(files: Files, job: str, partition: str, source: Source) -> Sources:
    """The copy of a source's rows, made where it is not there yet."""
    if source.version is not None:
        folder = _folder(job, partition, source.kind, source.origin, source.version)
        found = read_copy(files, folder)
        if found is not None:
            return found
    with files.staged() as staged:
        staged.mkdir(parents=True)
        with source.open() as reading:
            untyped = [name for name, kind in reading.columns.items() if kind is None]
            rows = _Rows(staged, ValueTypes(untyped), DocumentStore(files, job))
            try:
                rows.write(reading.rows, source.origin)
            finally:
                rows.close()
        copied = Copied(
            source.kind,
            source.origin,
            source.version,
            rows.count,
            rows.digest,
            {**reading.columns, **rows.types.found},
            tuple(rows.parts),
            source.simulated,
        )
        (staged / paths.COPY_FACTS).write_bytes(orjson.dumps(asdict(copied)))
        folder = folder_of(job, partition, source, copied)
        if read_copy(files, folder) is None:
            files.make_durable(staged)
            files.publish(staged, folder)
    # The same rows may be there already, copied in another order: that copy counts.
    found = read_copy(files, folder)
    assert found is not None
    return found


def read_copy(files: Files, folder: str) -> Sources | None:
    """The files of a copy, or None where there is none."""
    facts = files.read(f"{folder}/{paths.COPY_FACTS}")
    if facts is None:
        return None
    data = orjson.loads(facts)
    copied = Copied(**{**data, "parts": tuple(map(tuple, data["parts"]))})
    return Sources(
        tuple(_file(files, folder, copied, name, size) for name, size in copied.parts),
        copied=copied,
    )


def folder_of(job: str, partition: str, source: Source, copied: Copied) -> str:
    """The folder of a copy in the home."""
    return _folder(job, partition, source.kind, source.origin, source.version or copied.rows_hash)


def _folder(job: str, partition: str, *names: str) -> str:
    name = hashlib.sha256(orjson.dumps(names)).hexdigest()[:16]
    return f"{paths.input_copies(job, partition)}/{name}"


def _file(files: Files, folder: str, copied: Copied, name: str, size: int) -> SourceFile:
    """A part, which errors name by its origin."""
    shown = f"{copied.origin}, {name}"
    name_in_store, store = files.opened_as(f"{folder}/{name}")
    return SourceFile(shown, name, Kind.JSONL, size, copied.rows_hash, name_in_store, store)


@dataclass
class _Rows:
    """The parts that rows are written into, and what is known of all rows."""

    folder: Path
    types: ValueTypes
    store: DocumentStore
    parts: list[tuple[str, int]] = field(default_factory=list)
    count: int = 0
    _sum: int = 0
    _open: BinaryIO | None = None
    _written: int = 0

    @property
    def digest(self) -> str:
        """A hash of the rows that their order does not change: databases promise none."""
        facts = f"{self.count} {self._sum % (1 << 256):064x}"
        return hashlib.sha256(facts.encode()).hexdigest()

    def write(self, rows: Iterable[Mapping[str, Any]], origin: str) -> None:
        for row in rows:
            try:
                line = row_of_cells(self._with_marks(row)).text
            except ValueError as error:
                raise InputDataError(
                    f"{origin}, row {self.count + 1}: cannot be written as JSON: {error}; nothing "
                    "was sent. Leave the column out, or make a text of it."
                ) from error
            self.types.add(row)
            self.count += 1
            self._sum += int.from_bytes(hashlib.sha256(line).digest())
            if self._open is None or self._written >= PART_BYTES:
                self._next_part()
            assert self._open is not None
            self._written += self._open.write(line + b"\n")

    def _with_marks(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """A row whose bytes that are documents are marks, whatever the prompt asks for now; what
        looks like a mark and comes from elsewhere is a text."""
        changed: dict[str, Any] = {}
        for name, cell in row.items():
            if isinstance(cell, (bytes, bytearray, memoryview)):
                data = bytes(cell)
                if begins_like_a_document(data):
                    changed[name] = self._stored(data)
            elif is_mark(cell):
                changed[name] = json.dumps(cell, default=str)
        return {**row, **changed} if changed else row

    def _stored(self, data: bytes) -> dict[str, Any]:
        sha256 = hashlib.sha256(data).hexdigest()
        with self.store.files.staged() as staged:
            staged.write_bytes(data)
            self.store.add(staged, sha256)
        with (self.folder / paths.COPY_DOCUMENTS).open("a") as names:
            names.write(f"{sha256}\n")
        return {MARK: {"sha256": sha256, "size": len(data), "stored": True}}

    def _next_part(self) -> None:
        import zstandard  # noqa: PLC0415  # where nothing is copied it is not needed

        self._close_part()
        path = self.folder / f"part-{len(self.parts):05d}.jsonl.zst"
        compressor = zstandard.ZstdCompressor(level=_LEVEL)
        self._open = compressor.stream_writer(path.open("wb"), closefd=True)
        self._written = 0
        self.parts.append((path.name, 0))

    def _close_part(self) -> None:
        if self._open is not None:
            self._open.close()
            name, _ = self.parts[-1]
            self.parts[-1] = (name, (self.folder / name).stat().st_size)
            self._open = None

    def close(self) -> None:
        """Finish the last part; a source without rows has one empty part."""
        if not self.parts:
            self._next_part()
        self._close_part()
