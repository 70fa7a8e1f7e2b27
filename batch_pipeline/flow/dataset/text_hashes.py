"""A column of many rows as hashes of its texts, so that rows can be compared without a database.

Equal texts have equal hashes. Different ones have the same with a chance of one to 2^64 for two of
them: once in a million nights of five million rows each.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from batch_pipeline.storage.files import Files

# Eight bytes a hash; of more rows a database, which spills to the disk, is asked.
ROWS_IN_MEMORY = 5_000_000

Hashes = npt.NDArray[np.int64]


def sorted_hashes(files: Files, paths: Sequence[str], columns: Sequence[str]) -> list[Hashes]:
    """Of each column of these Parquet files the hashes of all texts, nulls left out, ascending.

    They are of use in this process alone: Python hashes texts differently in each.
    """
    found: list[list[Hashes]] = [[np.empty(0, np.int64)] for _ in columns]
    for path in paths:
        table = files.read_columns(path, columns)
        for hashes, column in zip(found, table.columns, strict=True):
            texts = column.drop_null().to_pylist()
            hashes.append(np.fromiter(map(hash, texts), np.int64, len(texts)))
    return [np.sort(np.concatenate(hashes)) for hashes in found]
