"""What a file of documents tells of the job to be: its id, its text, and its sizes.

DuckDB reads the file, up to `MOST_ROWS` rows: a guess has no need of the bounds and checks that the
reading of a night has. `validate` then reads the whole input as a night does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batch_pipeline.errors import UsageError
from batch_pipeline.flow.dataset.reading.files import Kind, SourceFile, Sources
from batch_pipeline.safe_text import one_line

if TYPE_CHECKING:
    import duckdb

MOST_ROWS = 200_000
# Types of DuckDB that may name an item; floats, dates and nested values do not.
_OF_IDS = ("VARCHAR", "UUID", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT",
           "USMALLINT", "UINTEGER", "UBIGINT")  # fmt: skip
_READERS = {
    Kind.PARQUET: "read_parquet(?)",
    Kind.CSV: "read_csv(?, all_varchar = true)",
    Kind.JSONL: "read_json(?, format = 'newline_delimited', maximum_object_size = 268435456)",
}


@dataclass(frozen=True)
class Guess:
    """A file's columns and sizes; lengths in characters, of the text column.

    `rows` counts what was looked at, at most `MOST_ROWS`. `delimiter` is what stands between the
    cells of a CSV file.
    """

    id_column: str
    text_column: str
    other_columns: tuple[str, ...]
    rows: int
    mean_length: int
    longest: int
    empty_texts: int = 0
    delimiter: str = ","


@dataclass(frozen=True)
class _Column:
    name: str
    kind: str
    filled: int
    different: int
    mean_length: float
    longest: int


def guess(sources: Sources, id_column: str | None = None) -> Guess:
    """What the first file tells. Raises UsageError where no column fits as id or as text."""
    file = sources.files[0]
    if file.kind not in _READERS:
        sizes = [each.size for each in sources.files]
        return Guess("id", "text", (), len(sizes), sum(sizes) // len(sizes), max(sizes))
    if file.is_remote:
        raise UsageError(
            f"{file.path} is not on this machine: guess from a local copy of one file, and put the "
            "address into defs.yaml afterwards"
        )
    import duckdb  # noqa: PLC0415  # heavy, and few commands need it

    with duckdb.connect() as database:
        try:
            rows, columns = _columns(database, file)
            delimiter = _delimiter(database, file)
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
    return Guess(
        chosen_id, text.name, others, rows, round(text.mean_length), text.longest,
        rows - text.filled, delimiter,
    )  # fmt: skip


def _columns(database: duckdb.DuckDBPyConnection, file: SourceFile) -> tuple[int, list[_Column]]:
    reader = _READERS[file.kind]
    described = database.execute(f"describe select * from {reader}", [file.name]).fetchall()  # noqa: S608
    names = [(row[0], row[1]) for row in described]
    facts = ", ".join(
        f"count({quoted}), count(distinct hash({quoted})), "
        f"coalesce(avg(length({quoted}::varchar)), 0), coalesce(max(length({quoted}::varchar)), 0)"
        for quoted in (_quoted(name) for name, _ in names)
    )
    query = f"select count(*), {facts} from (select * from {reader} limit {MOST_ROWS})"  # noqa: S608
    found = database.execute(query, [file.name]).fetchone()
    assert found is not None
    rows, *numbers = found
    columns = [
        _Column(name, kind, *numbers[4 * place : 4 * place + 4])
        for place, (name, kind) in enumerate(names)
    ]
    return rows, columns


def _delimiter(database: duckdb.DuckDBPyConnection, file: SourceFile) -> str:
    if file.kind is not Kind.CSV:
        return ","
    found = database.execute("select delimiter from sniff_csv(?)", [file.name]).fetchone()
    return found[0] if found is not None else ","


def _id(file: SourceFile, columns: list[_Column], rows: int, wanted: str | None) -> str:
    """The column that names an item: the wanted one, or the likeliest without nulls and repeats."""
    fit = [each.name for each in columns if each.filled == each.different == rows]
    if wanted is not None:
        if wanted not in {each.name for each in columns}:
            names = ", ".join(each.name for each in columns)
            raise UsageError(f"{file.path} has no column {wanted!r}; its columns are {names}")
        if wanted not in fit:
            raise UsageError(
                f"column {wanted!r} of {file.path} has empty or repeated values, so it cannot be "
                "the id"
            )
        return wanted
    kinds = {each.name: each.kind for each in columns}
    candidates = [name for name in fit if kinds[name] in _OF_IDS]
    if not candidates:
        raise UsageError(
            f"no column of {file.path} can name an item: each has empty or repeated values; add "
            "one that is different in each row"
        )
    return min(candidates, key=_unlike_an_id)


def _unlike_an_id(name: str) -> int:
    lowered = name.lower()
    if lowered == "id":
        return 0
    return 1 if lowered.endswith(("id", "key", "uuid", "number", "no")) else 2


def _braces(name: str) -> bool:
    """Whether a name cannot stand between the braces of a template."""
    return "{" in name or "}" in name


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
