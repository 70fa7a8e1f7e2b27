"""Files of answers that a home holds, that no submission bought, and that the ledger does not know:
copies of earlier nights' answers, and former answers that stand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pyarrow.parquet as pq
from sqlalchemy import Connection

from batch_pipeline.flow.results import standing_answers
from batch_pipeline.flow.reuse.copies import FILE_PREFIX
from batch_pipeline.ledger import answers_files, nights, snapshots
from batch_pipeline.ledger.answers_files import AnswersFile
from batch_pipeline.ledger.home import restoring
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.snapshots import REUSE, NewSnapshot
from batch_pipeline.storage.files import Files


@dataclass(frozen=True)
class Copied:
    """Such a file, why it was made, and what it says of itself."""

    job: str
    partition: str
    owner: str
    name: str
    origin: str
    rows: int
    snapshot: str
    documents: int
    size: int


def find(files: Files, connection: Connection) -> list[Copied]:
    """All files of copies in a home that the ledger does not name."""
    return [copied for copied in _every(files) if not _is_known(connection, copied)]


def restore(
    connection: Connection,
    night: Night,
    copied: Copied,
    known: Mapping[str, NewSnapshot],
    lost: NewSnapshot,
) -> int:
    """Let the ledger name a file of copies again; returns the id of its snapshot."""
    new = known.get(copied.snapshot) or lost
    snapshot = snapshots.get_snapshot(connection, restoring.snapshot(connection, night, new))
    file = AnswersFile(snapshot.id, copied.origin, copied.name, copied.rows)
    answers_files.add(connection, night.id, file)
    if copied.documents:
        snapshots.avoid(connection, snapshot, copied.origin, copied.documents, copied.size)
    return snapshot.id


def _every(files: Files) -> Iterator[Copied]:
    found = {
        path: origin
        for prefix, origin in (
            (FILE_PREFIX, REUSE),
            (standing_answers.FILE_PREFIX, standing_answers.STANDS),
        )
        for path in files.glob(f"*/answers/*/partition=*/{prefix}*.parquet")
    }
    for path, origin in found.items():
        job, _, owner, partition, name = path.split("/")
        with files.open_native(path) as file, pq.ParquetFile(file) as parquet:
            told = parquet.metadata.metadata or {}
            yield Copied(
                job,
                partition.removeprefix("partition="),
                owner,
                name,
                origin=told.get(b"origin", origin.encode()).decode(),
                rows=parquet.metadata.num_rows,
                snapshot=told[b"snapshot"].decode(),
                documents=int(told.get(b"documents", 0)),
                size=int(told.get(b"bytes", 0)),
            )


def _is_known(connection: Connection, copied: Copied) -> bool:
    night = nights.find_night(connection, copied.job, copied.partition, copied.owner)
    if night is None:
        return False
    return copied.name in {file.name for file in answers_files.of_night(connection, night.id)}
