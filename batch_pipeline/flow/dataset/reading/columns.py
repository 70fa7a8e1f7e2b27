"""Which columns the files of an input must have, and how an error names a place in a file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from batch_pipeline.errors import InputDataError
from batch_pipeline.flow.dataset.reading.files import ONE_ROW, Kind, SourceFile
from batch_pipeline.flow.dataset.reading.row_json import JsonRow, has_surrogate
from batch_pipeline.jobs.prompts.template import DOCUMENT, Slot
from batch_pipeline.jobs.spec import MAX_BYTES_PER_BATCH

NumberedRows = Iterator[tuple[int, JsonRow]]

# A longer line, row of CSV or text fits in no request. What is compressed may go on without end.
ROW_BYTES = MAX_BYTES_PER_BATCH
# How many columns an error names.
_NAMED_COLUMNS = 20
# What pandas calls an index without a name, in CSV (when it reads it again) and in parquet.
_PANDAS_INDEX = ("Unnamed: 0", "__index_level_0__")


@dataclass(frozen=True, slots=True)
class Wanted:
    """The columns that every file must have: the id's, those that the template names, and `also`
    further ones with the key of the declaration that reads each.

    `columns` has the names of all placeholders, `documents` those of them that may stand for a
    document: `{contract:pdf}` is a text where a column has just that name, and else takes its
    document from the column `contract`.
    """

    id_column: str
    columns: tuple[str, ...]
    also: tuple[tuple[str, str], ...] = ()
    documents: tuple[Slot, ...] = ()

    @property
    def read(self) -> tuple[str, ...]:
        """All of them but the id's."""
        return (*self.columns, *(name for name, _ in self.also))

    def missing_from(self, present: Iterable[str]) -> list[str]:
        """The wanted columns that are not there, in order and each once."""
        present = set(present)
        return [
            name
            for name in dict.fromkeys((self.id_column, *self.read))
            if present.isdisjoint((name, self.source_of(name)))
        ]

    def source_of(self, name: str) -> str:
        """The column that a placeholder's document is taken from; its own name for any other."""
        return next((slot.column for slot in self.documents if slot.name == name), name)

    @property
    def takes_files(self) -> bool:
        """Whether the prompt asks for a row's file as it is."""
        return any(slot.column == DOCUMENT for slot in self.documents)

    def seen(self) -> LinesSeen:
        """What is to be learned of the lines of a file."""
        return LinesSeen({*self.read, *(slot.column for slot in self.documents)})

    def check(self, place: str, names: Sequence[str], hint: str = "") -> None:
        """Raise InputDataError where a wanted column is missing at this place of the input."""
        missing = self.missing_from(names)
        if missing:
            raise self.error(place, missing[0], names, hint)

    def error(
        self, place: str, column: str, present: Sequence[str], hint: str = ""
    ) -> InputDataError:
        """The error for one missing column; `hint` says more of what may be done."""
        there = ", ".join(map(repr, present[:_NAMED_COLUMNS])) or "none"
        if len(present) > _NAMED_COLUMNS:
            there += f" and {len(present) - _NAMED_COLUMNS:,} more"
        index = next((name for name in _PANDAS_INDEX if name in present), None)
        if index is not None:
            hint += (
                f" {index!r} is an index that pandas wrote without a name: name it "
                f"(index_label=), write the file with index=False, or use {index!r} as it is."
            )
        if column == self.id_column:
            what, remedy = "the id column", "Correct input.id_column"
        elif (key := dict(self.also).get(column)) is not None:
            what, remedy = f"the column of {key},", f"Correct {key}"
        else:
            what, remedy = (
                "the prompt's column",
                "Correct the placeholder (double its braces if they are meant literally)",
            )
            source = self.source_of(column)
            if source != column:
                what = f"the prompt's column {source!r}, or one of the name"
        return InputDataError(
            f"{place}: {what} {column!r} is missing. Columns there: {there}. {remedy}, or the "
            f"file.{hint}"
        )


def place_of(file: SourceFile, number: int) -> str:
    """How an error names a row, or the whole file where no row has been read (`number` 0)."""
    if not number or file.kind in ONE_ROW:
        return file.path
    in_rows = file.kind in {Kind.PARQUET, Kind.JSON}
    return f"{file.path}, {'row' if in_rows else 'line'} {number}"


@dataclass(slots=True)
class LinesSeen:
    """Which of the wanted columns the lines of a jsonl file had, as far as it was read.

    A key that some rows lack is a null there; one that no row of the file has is a mistake in the
    declaration, known only at the file's end, which is still before anything is sent. `unseen` are
    the columns that no line had, `first` is the number and the columns of the first row, `lines`
    the number of lines.
    """

    unseen: set[str]
    first: tuple[int, list[str]] | None = None
    lines: int = 0

    def add_row(self, number: int, cells: Mapping[str, object]) -> None:
        """Take in the row of a line."""
        if self.unseen:
            self.unseen.difference_update(cells)
        if self.first is None:
            self.first = (number, list(cells))

    def add(self, later: LinesSeen) -> None:
        """Take in the lines of the file's next part, whose numbers count from 1."""
        self.unseen &= later.unseen
        if self.first is None and later.first is not None:
            number, present = later.first
            self.first = (self.lines + number, present)
        self.lines += later.lines

    def check(self, file: SourceFile, wanted: Wanted) -> None:
        """Raise InputDataError where no row of the whole file had a column."""
        if self.first is None or not self.unseen:
            return
        number, present = self.first
        for name in wanted.read:
            if {name, wanted.source_of(name)} <= self.unseen:
                raise wanted.error(f"{place_of(file, number)} and every other row", name, present)


def check_header(place: str, names: Sequence[str], hint: str = "") -> None:
    """Raise InputDataError where a column has no name of its own; `hint` says more of a remedy."""
    seen: set[str] = set()
    for position, name in enumerate(names, 1):
        remedy = "Every column needs a name of its own."
        if not name:
            problem = f"column {position} has no name"
            if not any(names[position:]) and position > 1:
                remedy += " Spreadsheets leave empty columns beside the last one: delete them."
            elif position == 1:
                remedy += (
                    " pandas writes its index so: write the file with to_csv(index=False), or name "
                    "the index (index_label=)."
                )
        elif name in seen:
            problem = f"two columns are named {name!r}"
        elif has_surrogate(name):
            problem = f"the name of column {position} is not UTF-8"
        else:
            seen.add(name)
            continue
        raise InputDataError(f"{place}: {problem}. {remedy}{hint}")
