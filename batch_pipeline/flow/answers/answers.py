"""Which of a night's answers settle their units: the table `answers`.

Planning and results join with it. A final answer settles its unit for good, unless it was
redriven: from then on it counts as an attempt and as a cost alone. Answer files never change; which
answers were redriven is known to the ledger.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
from sqlalchemy import Connection

from batch_pipeline.flow import joins, paths
from batch_pipeline.flow.answers.schemas import ANSWERS_SCHEMA
from batch_pipeline.ledger import answers_files
from batch_pipeline.ledger.control import redrives
from batch_pipeline.ledger.control.redrives import Redriven
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.snapshots import NewSnapshot
from batch_pipeline.ledger.submissions import submissions
from batch_pipeline.ledger.submissions.submissions import State
from batch_pipeline.storage.files import Files

if TYPE_CHECKING:
    import duckdb

# A redriven answer settles nothing, with one exception: a snapshot with later layers that have no
# row with its unit. Its item was not in the input when it was redriven, and keeps its dead letter.
# A custom id begins with its submission's token. The right sides of the joins are a few rows.
_WITH_REDRIVEN = """
    CREATE TEMP TABLE asked_again AS
        SELECT DISTINCT unit FROM overlaid_rows WHERE unit IS NOT NULL;
    CREATE TEMP VIEW answers AS
    SELECT a.* REPLACE (a.final AND (r.token IS NULL OR {settles}) AS final),
           r.token IS NOT NULL AS redriven
    FROM collected_answers a
    LEFT JOIN redriven_answers r
        ON r.token = split_part(a.custom_id, '_', 1) AND r.status = a.status
    LEFT JOIN asked_again g ON g.unit = a.unit
"""
_WITHOUT_REDRIVEN = "CREATE TEMP VIEW answers AS SELECT *, false AS redriven FROM collected_answers"
_OVERLAID_SCHEMA = pa.schema([("unit", pa.string())])
_REDRIVEN_SCHEMA = pa.schema([("token", pa.string()), ("status", pa.string())])
# In the names of files with what a submission's first publication lacked.
REST = "-rest"


@dataclass(frozen=True)
class NightAnswers:
    """A night's answer files, and which of the answers were redriven.

    `overlaid` are the part files of the snapshot's later layers: the rows that redrives have read
    again.
    """

    files: Sequence[str]
    redriven: Sequence[Redriven]
    overlaid: Sequence[str] = ()


def of_night(
    connection: Connection, night: Night, snapshot: NewSnapshot, also_redriven: Collection[str] = ()
) -> NightAnswers:
    """The answers of a night for a snapshot, as if those of the statuses in `also_redriven` were
    redriven too."""
    collected = _collected(connection, night)
    redriven = set(redrives.of_night(connection, night.id))
    redriven |= {Redriven(each.token, status) for each in collected for status in also_redriven}
    later = snapshot.layers[1:]
    overlaid = [part for each in later for part in paths.parts_in(each.folder, each.parts)]
    return NightAnswers(_files(connection, night, collected), tuple(redriven), overlaid)


def files_of(connection: Connection, night: Night) -> list[str]:
    """All files of a night's answers: those of its submissions, and copied ones."""
    return _files(connection, night, _collected(connection, night))


def still_there(files: Files, night: Night, found: Sequence[str]) -> list[str]:
    """Those of a night's answer files that were not removed by hand, as with old nights."""
    listed = set(files.list(_folder(night), ".parquet"))
    return [path for path in found if path in listed]


def _files(
    connection: Connection, night: Night, collected: Sequence[submissions.Submission]
) -> list[str]:
    copied = [f.name for f in answers_files.of_night(connection, night.id) if f.name is not None]
    return [*answer_paths(night, collected), *(f"{_folder(night)}/{name}" for name in copied)]


def _collected(connection: Connection, night: Night) -> list[submissions.Submission]:
    """The night's submissions that have answers."""
    every = submissions.of_night(connection, night.id, State.COLLECTED, State.ENDED)
    return [each for each in every if each.has_answers]


def answer_paths(
    night: Night, collected: Sequence[submissions.Submission], *, duplicates: bool = False
) -> list[str]:
    """The answer files of submissions that have answers; files that a crash has left do not count.

    Where answers were published before all could be read, the rest has a file of its own.

    Of a shard that was bought twice only the first answers count; with `duplicates` the answer
    files of the second are returned instead, which were billed as well.
    """
    return [
        f"{_folder(night)}/{name}"
        for submission in collected
        if submission.duplicate is duplicates
        for name in submission.answer_files or _answer_files(submission)
    ]


def _folder(night: Night) -> str:
    return paths.answers(night.job, night.partition, night.owner)


def next_suffix(submission: submissions.Submission) -> str:
    """What the names of the files end with that a submission's next publication makes."""
    return "" if submission.published is None else REST


def _answer_files(submission: submissions.Submission) -> list[str]:
    """The names of answer files of a local home."""
    in_part = submission.published is not None and submission.state is not State.ENDED
    return [f"{submission.token}{suffix}.parquet" for suffix in (("", REST) if in_part else ("",))]


@contextmanager
def tables(
    files: Files,
    answers: NightAnswers,
    sources: Mapping[str, tuple[Sequence[str], pa.Schema]],
) -> Iterator[duckdb.DuckDBPyConnection]:
    """`joins.tables` with the table `answers` besides: the columns of `ANSWERS_SCHEMA`, of which
    `final` says whether the answer settles its unit, and `redriven`."""
    collected = {
        "collected_answers": (answers.files, ANSWERS_SCHEMA),
        "overlaid_rows": (answers.overlaid, _OVERLAID_SCHEMA),
    }
    with joins.tables(files, {**sources, **collected}) as connection:
        if answers.redriven:
            pairs = [{"token": r.token, "status": r.status} for r in answers.redriven]
            connection.register(
                "redriven_answers", pa.Table.from_pylist(pairs, schema=_REDRIVEN_SCHEMA)
            )
            settles = "g.unit IS NULL" if answers.overlaid else "false"
            connection.execute(_WITH_REDRIVEN.format(settles=settles))
        else:
            connection.execute(_WITHOUT_REDRIVEN)
        yield connection
