"""What a file of documents tells of the job to be: its id, its text, and its sizes.

DuckDB reads the file, up to `MOST_ROWS` rows: a guess has no need of the bounds and checks that the
reading of a night has. What a night would refuse of the first row is told here, too.
"""

from __future__ import annotations

import codecs
import io
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from batch_pipeline.errors import UsageError
from batch_pipeline.flow.dataset.reading.files import Kind, SourceFile, Sources
from batch_pipeline.flow.dataset.reading.rows import read_rows
from batch_pipeline.flow.dataset.reading.streams import open_stream
from batch_pipeline.jobs.prompts.template import DOCUMENT
from batch_pipeline.jobs.spec import CsvSpec
from batch_pipeline.safe_text import one_line

if TYPE_CHECKING:
    import duckdb

MOST_ROWS = 200_000
# Types of DuckDB that may name an item; floats, dates and nested values do not.
_OF_IDS = ("VARCHAR", "UUID", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT",
           "USMALLINT", "UINTEGER", "UBIGINT")  # fmt: skip
_OBJECTS = f"maximum_object_size = 268435456, sample_size = {MOST_ROWS}"
_READERS = {
    Kind.PARQUET: "read_parquet(?)",
    Kind.CSV: "read_csv(?, all_varchar = true, header = true)",
    Kind.JSONL: f"read_json(?, format = 'newline_delimited', {_OBJECTS})",
    Kind.JSON: f"read_json(?, format = 'array', {_OBJECTS})",
}
# How much of a CSV file is looked at for its encoding, in bytes.
_MOST_BYTES = 64_000_000
# A last word of a column's name by which it is likely an id, in small letters.
_ID_WORDS = {"id", "key", "uuid", "guid", "number", "no", "nr", "ref"}
# Ids are short: a longer text that is different in each row is more likely the document.
_ID_LENGTH = 100


@dataclass(frozen=True)
class Guess:
    """A file's columns and sizes; lengths in characters, of the text column.

    `rows` counts what was looked at, at most `MOST_ROWS`. `delimiter` and `encoding` are those of a
    CSV file. `of_files`: each row is a file that is sent as it is, and lengths are in bytes.
    """

    id_column: str
    text_column: str
    other_columns: tuple[str, ...]
    rows: int
    mean_length: int
    longest: int
    empty_texts: int = 0
    delimiter: str = ","
    encoding: str = "utf-8"
    of_files: bool = False


@dataclass(frozen=True)
class _Column:
    name: str
    kind: str
    filled: int
    different: int
    mean_length: float
    longest: int


def guess(sources: Sources, id_column: str | None = None) -> Guess:
    """What the first file tells.

    Raises UsageError where no column fits as id or as text, and InputDataError where a night would
    refuse the file's first row.
    """
    file = sources.files[0]
    if file.kind not in _READERS:
        sizes = [each.size for each in sources.files]
        # A placeholder of this name takes any of them, txt and md files too.
        is_document = any(each.is_document for each in sources.files)
        found = Guess("id", "text", (), len(sizes), sum(sizes) // len(sizes), max(sizes))
        return replace(found, text_column=DOCUMENT, of_files=True) if is_document else found
    if file.is_remote:
        raise UsageError(
            f"{file.path} is not on this machine: guess from a local copy of one file, and put the "
            "address into defs.yaml afterwards"
        )
    import duckdb  # noqa: PLC0415  # heavy, and few commands need it

    encoding = _encoding(file)
    with duckdb.connect() as database, _in_utf8(file, encoding) as name:
        try:
            rows, columns = _columns(database, file.kind, name)
            delimiter = _delimiter(database, file.kind, name)
        except duckdb.Error as error:
            raise UsageError(
                f"{file.path} cannot be read to guess from: {one_line(str(error))}"
            ) from error
    if not rows:
        raise UsageError(f"{file.path} has no rows to guess from")
    chosen_id = _id(file, columns, rows, id_column)
    texts = [each for each in columns if each.name != chosen_id and not _braces(each.name)]
    if not texts:
        raise UsageError(
            f"{file.path} has no column beside {chosen_id!r} that could be asked about"
        )
    text = max(texts, key=lambda each: (each.kind == "VARCHAR", each.mean_length))
    others = tuple(each.name for each in texts if each is not text)
    declared = replace(file, csv=CsvSpec(delimiter=delimiter, encoding=encoding))
    next(read_rows(Sources((declared,)), chosen_id, [text.name]), None)
    return Guess(
        chosen_id, text.name, others, rows, round(text.mean_length), text.longest,
        rows - text.filled, delimiter, encoding,
    )  # fmt: skip


def _encoding(file: SourceFile) -> str:
    """The encoding of a CSV file: UTF-16 by its mark, UTF-8 where it can be, else Windows'."""
    if file.kind is not Kind.CSV:
        return "utf-8"
    decoder = codecs.getincrementaldecoder("utf-8")()
    with open_stream(file) as stream:
        block = stream.read(1_000_000)
        if block.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "utf-16"
        looked_at = 0
        try:
            while block and looked_at < _MOST_BYTES:
                decoder.decode(block)
                looked_at += len(block)
                block = stream.read(1_000_000)
        except UnicodeDecodeError:
            return "cp1252"
    return "utf-8"


@contextmanager
def _in_utf8(file: SourceFile, encoding: str) -> Iterator[str]:
    """The name of a file that DuckDB can read, which knows UTF-8 alone: a copy where need be."""
    if encoding == "utf-8":
        yield file.name
        return
    with tempfile.TemporaryDirectory() as folder, open_stream(file) as stream:
        copy = Path(folder) / "copy.csv"
        text = io.TextIOWrapper(stream, encoding, errors="replace", newline="")
        with copy.open("w", encoding="utf-8", newline="") as to:
            shutil.copyfileobj(text, to)
        yield str(copy)


def _columns(
    database: duckdb.DuckDBPyConnection, kind: Kind, name: str
) -> tuple[int, list[_Column]]:
    reader = _READERS[kind]
    described = database.execute(f"describe select * from {reader}", [name]).fetchall()  # noqa: S608
    names = [(row[0], row[1]) for row in described]
    facts = ", ".join(
        f"count({quoted}), count(distinct hash({quoted})), "
        f"coalesce(avg(length({quoted}::varchar)), 0), coalesce(max(length({quoted}::varchar)), 0)"
        for quoted in (_quoted(name) for name, _ in names)
    )
    query = f"select count(*), {facts} from (select * from {reader} limit {MOST_ROWS})"  # noqa: S608
    found = database.execute(query, [name]).fetchone()
    assert found is not None
    rows, *numbers = found
    columns = [
        _Column(*column, *numbers[4 * place : 4 * place + 4]) for place, column in enumerate(names)
    ]
    return rows, columns


def _delimiter(database: duckdb.DuckDBPyConnection, kind: Kind, name: str) -> str:
    if kind is not Kind.CSV:
        return ","
    found = database.execute("select delimiter from sniff_csv(?)", [name]).fetchone()
    return found[0] if found is not None else ","


def _id(file: SourceFile, columns: list[_Column], rows: int, wanted: str | None) -> str:
    """The column that names an item: the wanted one, or the likeliest without nulls and repeats."""
    fit = [each for each in columns if each.filled == each.different == rows]
    if wanted is not None:
        if wanted not in {each.name for each in columns}:
            names = ", ".join(each.name for each in columns)
            raise UsageError(f"{file.path} has no column {wanted!r}; its columns are {names}")
        if wanted not in {each.name for each in fit}:
            raise UsageError(
                f"column {wanted!r} of {file.path} has empty or repeated values, so it cannot be "
                "the id"
            )
        return wanted
    candidates = [each for each in fit if each.kind in _OF_IDS]
    if not candidates:
        raise UsageError(
            f"no column of {file.path} can name an item: each has empty or repeated values; add "
            "one that is different in each row"
        )
    return min(candidates, key=_unlike_an_id).name


def _unlike_an_id(column: _Column) -> tuple[int, bool]:
    """The less the column is like an id, the more; among equals the first column is taken."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+|[0-9]+", column.name)
    last = words[-1].lower() if words else ""
    by_name = 0 if column.name.lower() == "id" else 1 if last in _ID_WORDS else 2
    return by_name, column.mean_length > _ID_LENGTH


def _braces(name: str) -> bool:
    """Whether a name cannot stand between the braces of a template."""
    return "{" in name or "}" in name


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
