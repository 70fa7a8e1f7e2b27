"""Which columns an input must have, and how an error names a place of it.

Looking for them in a file is `formats`. Nothing here is slow to import.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from batch_pipeline.errors import InputDataError
from batch_pipeline.flow.dataset.files import Kind, SourceFile


@dataclass(frozen=True, slots=True)
class Wanted:
    """The columns that every file must have: the id's, and those that the template names."""

    id_column: str
    columns: tuple[str, ...]

    def missing_from(self, present: Iterable[str]) -> list[str]:
        """The wanted columns that are not there, in order and each once."""
        present = set(present)
        return [
            name for name in dict.fromkeys((self.id_column, *self.columns)) if name not in present
        ]

    def check(self, place: str, present: Iterable[str]) -> None:
        """Raise InputDataError where a wanted column is missing at this place of the input."""
        names = list(present)
        missing = self.missing_from(names)
        if missing:
            raise self.error(place, missing[0], names)

    def error(self, place: str, column: str, present: Iterable[str]) -> InputDataError:
        """The error for one missing column."""
        there = ", ".join(repr(name) for name in present) or "none"
        if column == self.id_column:
            what, remedy = "the id column", "Correct input.id_column"
        else:
            what, remedy = (
                "the prompt's column",
                "Correct the placeholder (double its braces if they are meant literally)",
            )
        return InputDataError(
            f"{place}: {what} {column!r} is missing. Columns there: {there}. {remedy}, or the file."
        )


def place_of(file: SourceFile, number: int) -> str:
    """How an error names a row, or the whole file where no row has been read (`number` 0)."""
    if not number or file.kind in {Kind.TXT, Kind.MD}:
        return file.path
    return f"{file.path}, {'row' if file.kind is Kind.PARQUET else 'line'} {number}"


@dataclass(slots=True)
class LinesSeen:
    """What the lines of a jsonl file had, as far as it was read.

    A key that some rows lack is a null there; one that no row of the file has is a mistake in the
    declaration, known only at the file's end, which is still before anything is sent. `first` is
    the first row's line and columns, `lines` how many lines they are.
    """

    unseen: set[str]
    first: tuple[int, list[str]] | None = None
    lines: int = 0

    def add(self, later: LinesSeen) -> None:
        """Take in what the lines after these had, which count from 1 there."""
        self.unseen &= later.unseen
        if self.first is None and later.first is not None:
            number, present = later.first
            self.first = (self.lines + number, present)
        self.lines += later.lines

    def check(self, file: SourceFile, wanted: Wanted) -> None:
        """Raise InputDataError where no row of the whole file had a column."""
        if self.first and self.unseen:
            number, present = self.first
            column = next(name for name in wanted.columns if name in self.unseen)
            raise wanted.error(f"{place_of(file, number)} and every other row", column, present)
