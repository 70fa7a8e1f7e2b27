"""Reads what people and checks look at in a night's results: how many rows, and a few answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow.compute as pc

from batch_pipeline.flow import joins, paths
from batch_pipeline.flow.answers.outcomes import NOT_DEAD, Status
from batch_pipeline.flow.answers.schemas import RESULTS_SCHEMA
from batch_pipeline.flow.pipeline import Pipeline

_SHOWN = ("id", "status", "content", "error_type", "error_message")


@dataclass(frozen=True)
class Rows:
    """How many rows a results folder has, and how many different ids."""

    rows: int
    ids: int


@dataclass(frozen=True)
class Example:
    """A row of the results, good or bad."""

    id: str
    status: str
    content: str | None
    error_type: str | None
    error_message: str | None

    @property
    def good(self) -> bool:
        return self.status == Status.SUCCEEDED


def count_rows(pipeline: Pipeline, job: str, partition: str) -> Rows:
    """Count a night's rows and ids in the files themselves, in bounded memory."""
    files = pipeline.files.list(paths.results(job, partition), ".parquet")
    with joins.tables(pipeline.files, {"results": (files, RESULTS_SCHEMA)}) as connection:
        found = connection.execute("SELECT count(*), count(DISTINCT id) FROM results").fetchone()
    assert found is not None
    return Rows(*found)


def of_night(pipeline: Pipeline, job: str, partition: str, *, good: int, bad: int) -> list[Example]:
    """The first `good` answers of a night and up to `bad` rows set aside, of several kinds first.

    Reads one column of each file until there are enough, and whole rows of few files.
    """
    left = {True: good, False: bad}
    kinds: set[str] = set()
    found: list[Example] = []
    spare: list[Example] = []
    for path in pipeline.files.list(paths.results(job, partition), ".parquet"):
        statuses = pipeline.files.read_columns(path, ["status"]).column("status")
        wanted = _rows_of(statuses.combine_chunks().dictionary_encode(), max(good, bad))
        if not wanted:
            continue
        rows = pipeline.files.read_columns(path, _SHOWN).take(sorted(wanted)).to_pylist()
        for example in (Example(**row) for row in rows):
            if not left[example.good]:
                continue
            if not example.good and example.status in kinds:
                spare.append(example)
                continue
            kinds.add(example.status)
            left[example.good] -= 1
            found.append(example)
        if not left[True] and left[False] <= len(spare):
            break
    found += spare[: left[False]]
    return sorted(found, key=lambda example: not example.good)


def _rows_of(statuses: object, most: int) -> list[int]:
    """The numbers of the first rows of each status that is shown."""
    found: list[int] = []
    for status in pc.unique(statuses).to_pylist():
        if status in NOT_DEAD and status != Status.SUCCEEDED:
            continue
        rows: Sequence[int] = pc.indices_nonzero(pc.equal(statuses, status))[:most].to_pylist()
        found.extend(rows)
    return found
