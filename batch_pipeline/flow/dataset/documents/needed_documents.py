"""Which of the kept documents the nights of a job need.

Named they are in three places: the rows of snapshots, copies of tables whose bytes they were, and
what is known of URLs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import orjson
import pyarrow.parquet as pq

from batch_pipeline.flow import paths
from batch_pipeline.storage.files import Files


def documents_needed(files: Files, job: str, without: Collection[str] = ()) -> set[str]:
    """The hashes that any night names but those of the partitions `without`.

    Read part by part, the column alone; 64 characters are held for each document.
    """
    needed: set[str] = set()
    for path in _of_nights(files, f"{paths.snapshots(job, '*')}/*/part-*.parquet", without):
        needed.update(names_in(files, path))
    copied = f"{paths.input_copies(job, '*')}/*/{paths.COPY_DOCUMENTS}"
    for path in _of_nights(files, copied, without):
        needed.update((files.read(path) or b"").decode().split())
    for path in _of_nights(files, f"{paths.document_urls(job, '*')}/*.json", without):
        found = files.read(path)
        if found is not None:
            needed.add(orjson.loads(found)["sha256"])
    return needed


def names_in(files: Files, part: str) -> Iterator[str]:
    """The documents that the rows of a snapshot's part need."""
    with files.open(part) as file, pq.ParquetFile(file) as parquet:
        if "stored" not in parquet.schema_arrow.names:  # written before there were any
            return
        for group in range(parquet.num_row_groups):
            column = parquet.read_row_group(group, ["stored"], use_threads=False).column(0)
            yield from column.combine_chunks().flatten().to_pylist()


def _of_nights(files: Files, pattern: str, without: Collection[str]) -> list[str]:
    def night(path: str) -> str:
        part = next(part for part in path.split("/") if part.startswith("partition="))
        return part.removeprefix("partition=")

    return [path for path in files.glob(pattern) if night(path) not in without]
