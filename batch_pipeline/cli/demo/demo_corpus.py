"""Real documents for the demo: the licence and copyright texts that any machine has.

Belongs here: finding them and writing them down as a night's input. They are taken as they are,
with odd encodings, duplicates, empty and very long ones: what a real archive holds.
"""

from __future__ import annotations

import filecmp
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from itertools import chain, islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

# An ordinary machine has hundreds to thousands of such texts; with at most this number of them, a
# night of the demo takes well under a minute.
DOCUMENTS_PER_NIGHT = 400

_LEGAL_NAME = re.compile(r"(licen[cs]e|copying|copyright|notice|authors)", re.IGNORECASE)
_SYSTEM_SHARE = Path("/usr/share")
_COLUMNS: dict[str, pa.DataType] = {
    "id": pa.string(),
    "origin": pa.string(),
    "package": pa.string(),
    # Bytes and not a string: not every licence is UTF-8, which is for the pipeline to notice.
    "text": pa.binary(),
}
_SCHEMA = pa.schema(_COLUMNS)
_ROWS_PER_GROUP = 64


@dataclass(frozen=True, slots=True)
class Document:
    """One text on this machine; `id` is unique among all of them."""

    id: str
    origin: str
    package: str
    path: Path


def collect_documents(
    folder: Path, nights: Sequence[str], per_night_limit: int | None = DOCUMENTS_PER_NIGHT
) -> dict[str, int]:
    """Write `<folder>/<night>/documents.parquet` for each night; returns the number by night.

    Columns: id, origin (python or debian), package, text (binary). Which document falls in which
    night, and which ones a limit keeps, follows from its id alone; on a machine where nothing
    changed the files come out the same, and are then not touched.
    """
    documents = find_documents(distributions(), _SYSTEM_SHARE)
    return {
        night: write_documents(folder / night / "documents.parquet", chosen)
        for night, chosen in spread(documents, nights, per_night_limit).items()
    }


def find_documents(
    installed: Iterable[Distribution], system_share: Path = _SYSTEM_SHARE
) -> list[Document]:
    """The legal texts of Python distributions and, where there are any, of system packages."""
    found: dict[str, Document] = {}
    for document in chain(_python_documents(installed), _system_documents(system_share)):
        found.setdefault(document.id, document)  # the same distribution may be on the path twice
    return sorted(found.values(), key=lambda document: document.id)


def spread(
    documents: Iterable[Document], nights: Sequence[str], per_night_limit: int | None
) -> dict[str, list[Document]]:
    """Deal documents to the nights by the hash of their id; a limit keeps the smallest hashes."""
    dealt: dict[str, list[Document]] = {night: [] for night in nights}
    for document in sorted(documents, key=id_hash):
        chosen = dealt[nights[id_hash(document) % len(nights)]]
        if per_night_limit is None or len(chosen) < per_night_limit:
            chosen.append(document)
    return {
        night: sorted(chosen, key=lambda document: document.id) for night, chosen in dealt.items()
    }


def write_documents(path: Path, documents: Iterable[Document]) -> int:
    """Write the texts as one Parquet file, whole or not at all; returns the number of rows.

    A text that cannot be read (gone, or closed to this user) is left out.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    count = 0
    try:
        with pq.ParquetWriter(temporary, _SCHEMA, compression="zstd") as writer:
            rows_left = _rows(documents)
            while rows := list(islice(rows_left, _ROWS_PER_GROUP)):
                writer.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA))
                count += len(rows)
        if not (path.exists() and filecmp.cmp(temporary, path, shallow=False)):
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def _python_documents(installed: Iterable[Distribution]) -> Iterator[Document]:
    for distribution in installed:
        name, version = distribution.metadata["Name"], distribution.version
        seen: set[str] = set()
        # In this order LICENSE comes before licenses/LICENSE, which then keeps its longer name.
        for file in sorted(distribution.files or [], key=str):
            folder, _, inner = file.as_posix().partition("/")
            if not folder.endswith(".dist-info") or not _is_legal(inner):
                continue
            short = inner.removeprefix("licenses/")
            inner = inner if short in seen else short
            seen.add(inner)
            path = Path(str(distribution.locate_file(file)))
            yield Document(f"python/{name}-{version}/{inner}", "python", name, path)


def _is_legal(inner: str) -> bool:
    return inner.startswith("licenses/") or bool(_LEGAL_NAME.match(inner.rpartition("/")[2]))


def _system_documents(share: Path) -> Iterator[Document]:
    for path in share.glob("common-licenses/*"):
        yield Document(f"debian/common-licenses/{path.name}", "debian", "common-licenses", path)
    for path in share.glob("doc/*/copyright"):
        package = path.parent.name
        yield Document(f"debian/{package}/copyright", "debian", package, path)


def id_hash(document: Document) -> int:
    """The number that decides of a document where a choice among all of them is to be had."""
    return int.from_bytes(hashlib.sha256(document.id.encode()).digest()[:8])


def _rows(documents: Iterable[Document]) -> Iterator[dict[str, object]]:
    for document in documents:
        try:
            text = document.path.read_bytes()
        except OSError:
            continue
        yield {
            "id": document.id,
            "origin": document.origin,
            "package": document.package,
            "text": text,
        }
