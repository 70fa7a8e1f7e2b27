"""Input files as values: what each holds, by its ending, and what tells that one has changed.

Finding them is in `listing`, opening one in `streams`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from batch_pipeline.errors import InputDataError
from batch_pipeline.jobs.input.inputs import CsvSpec

# How many files a warning names.
_NAMED = 5
PLAIN_CSV = CsvSpec()


class Kind(StrEnum):
    """How a file's rows are written down; the value is the file's ending, or the first of them."""

    PARQUET = ".parquet"
    CSV = ".csv"
    JSONL = ".jsonl"
    JSON = ".json"
    TXT = ".txt"
    MD = ".md"
    PDF = ".pdf"
    PNG = ".png"
    JPG = ".jpg"
    WEBP = ".webp"
    GIF = ".gif"
    DOCX = ".docx"
    HTML = ".html"
    EML = ".eml"


# Each is one row, and the row's document is the file as it is.
DOCUMENTS = frozenset(
    {Kind.PDF, Kind.PNG, Kind.JPG, Kind.WEBP, Kind.GIF, Kind.DOCX, Kind.HTML, Kind.EML}
)
# One row each.
ONE_ROW = DOCUMENTS | {Kind.TXT, Kind.MD}
# What the extra `documents` reads.
OF_EXTRA = frozenset({Kind.DOCX, Kind.HTML, Kind.EML})
_OTHER_ENDINGS = {".ndjson": Kind.JSONL, ".jpeg": Kind.JPG, ".htm": Kind.HTML}
_ENDINGS = {**{kind.value: kind for kind in Kind}, **_OTHER_ENDINGS}
_COMPRESSIONS = (".gz", ".zst")
SUPPORTED_ENDINGS = (
    "parquet, csv, jsonl, ndjson, json, txt, md, these but parquet also with .gz or .zst; pdf, "
    "png, jpg, jpeg, webp, gif, docx, html, htm, eml"
)


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One input file.

    `path` is absolute, or a URL; `relative_path` starts after the pattern's last folder without a
    glob character, with `/` between folders. In both, bytes that are not UTF-8 are escaped. `size`
    is in bytes; `version` is a text that changes whenever the file does. `name` is what opens the
    file, locally or in the filesystem of the URL `store`. `csv` is how CSV is written.
    """

    path: str
    relative_path: str
    kind: Kind
    size: int
    version: str
    name: str
    store: str | None = None
    csv: CsvSpec = PLAIN_CSV

    @property
    def is_remote(self) -> bool:
        """Whether the file is opened through fsspec, and not as a local one."""
        return self.store is not None

    @property
    def is_plain(self) -> bool:
        """Whether a file holds its rows as they are: it is not compressed in any way."""
        is_compressed = self.path.lower().endswith(_COMPRESSIONS)
        return not is_compressed and self.kind is not Kind.PARQUET

    @property
    def is_document(self) -> bool:
        """Whether the file is a document as it is, which nothing but its row is read from."""
        return self.kind in DOCUMENTS


@dataclass(frozen=True, slots=True)
class Copied:
    """The rows of an input that is not files, as they were copied into the home.

    `kind` is the declaration's key, `origin` says for people where they are from, and `version`
    what they were upstream at that moment (None: it has no versions). `rows_hash` does not depend
    on the order of the rows. `columns` has the type of each, as Arrow writes it, where it is known.
    """

    kind: str
    origin: str
    version: str | None
    rows: int
    rows_hash: str
    columns: dict[str, str | None]
    parts: tuple[tuple[str, int], ...]
    simulated: bool = False

    def as_json(self) -> dict[str, Any]:
        """What the ledger keeps of it."""
        kept = ("kind", "origin", "version", "rows", "columns")
        return {name: getattr(self, name) for name in kept}


@dataclass(frozen=True, slots=True)
class Sources:
    """The files of one night, sorted by path; and what the pattern matches too and is not read.

    Of an input that is not files, `copied` is what is known of the copy that the files are.
    """

    files: tuple[SourceFile, ...]
    left_out: tuple[str, ...] = ()
    copied: Copied | None = None

    @property
    def signature(self) -> str:
        """SHA-256 over every file's path and version: another text means other input. Of a copy it
        is the hash of its rows, whatever their order and their version upstream."""
        if self.copied is not None:
            return self.copied.rows_hash
        listing = [
            (file.path, file.relative_path, file.version, *_dialect(file)) for file in self.files
        ]
        return hashlib.sha256(json.dumps(listing).encode()).hexdigest()

    def with_version(self, version: str) -> Sources:
        """The same copy of rows, under another version upstream."""
        assert self.copied is not None
        return replace(self, copied=replace(self.copied, version=version))

    @property
    def notice(self) -> str | None:
        """What is left out, for people; None: nothing is."""
        return notice_of(self.left_out) if self.left_out else None


def _dialect(file: SourceFile) -> list[str]:
    """How a CSV file is written, where that is declared: read otherwise it is another input."""
    declared = file.kind is Kind.CSV and file.csv != PLAIN_CSV
    if not declared:
        return []
    quoting = [] if file.csv.quoting == PLAIN_CSV.quoting else [file.csv.quoting]
    return [file.csv.delimiter, file.csv.encoding, *quoting]


def notice_of(left_out: Sequence[str]) -> str:
    """What is left out, for people, and how it would be read."""
    return (
        f"input.path matches {named(left_out)} too, which is not read. Names that start with '.', "
        "and data files under a name that starts with '_', are read where the path spells that "
        "character out; files in a folder, where the path goes on into it (/** for all)"
    )


def named(paths: Sequence[str]) -> str:
    """Some paths as a short list for people."""
    more = f" and {len(paths) - _NAMED:,} more" if len(paths) > _NAMED else ""
    return ", ".join(paths[:_NAMED]) + more


def kind_of(path: str) -> Kind | None:
    """What a file holds, by its ending; None where that ending is not read."""
    name = path.rpartition("/")[2].lower()
    plain = name
    for compression in _COMPRESSIONS:
        plain = plain.removesuffix(compression)
    for ending, kind in _ENDINGS.items():
        is_packed_itself = kind is Kind.PARQUET or kind in DOCUMENTS
        if plain.endswith(ending) and (not is_packed_itself or plain == name):
            return kind
    return None


def file_kind(path: str) -> Kind:
    """What a file holds, by its ending; raises InputDataError where that ending is not read."""
    kind = kind_of(path)
    if kind is None:
        raise InputDataError(
            f"{path} is of a kind that is not read. Supported endings: {SUPPORTED_ENDINGS}. "
            "Narrow input.path, for instance to '*.parquet', or move the file elsewhere."
        )
    return kind
