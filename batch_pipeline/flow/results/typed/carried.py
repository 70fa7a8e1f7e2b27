"""The carried columns of a snapshot, as a small file beside each of its layers.

A night's answers are collected a batch at a time, and each time need these columns of their items:
finding them in the snapshot would read all documents again. A file has the row's id and each column
as text, in the order of the snapshot; its footer tells the types (`carried_types`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batch_pipeline.flow.dataset.reading.files import Sources
from batch_pipeline.flow.dataset.snapshot import GROUP_BYTES
from batch_pipeline.flow.paths import parts_in
from batch_pipeline.flow.results.typed.carried_types import ColumnsSeen, as_type, told_by, type_of
from batch_pipeline.ledger.snapshots import Layer, NewSnapshot
from batch_pipeline.storage.files import Files

# The bounds of a row group, beside the bytes of one of a snapshot.
_GROUP_ROWS = 20_000


class Carried:
    """The carried columns of a snapshot: their types, and their values by id."""

    def __init__(self, files: Files, snapshot: NewSnapshot, names: Sequence[str]) -> None:
        self._files = files
        self._schema = _schema(names)
        self._paths = [_path(layer, names) for layer in snapshot.layers if names]
        prepare(files, snapshot, names)
        footers = [_footer(files, path) for path in self._paths]
        self.fields = [
            pa.field(column, type_of(footers, name))
            for column, name in zip(self._schema.names[1:], names, strict=True)
        ]

    def arrays(self, ids: pa.Array) -> list[pa.Array]:
        """The columns of the items with these ids, in their order."""
        left, found = ids, [self._schema.empty_table()]
        for path in reversed(self._paths):  # a higher layer takes the place of a lower one
            rows = self._found(path, left)
            found.append(rows)
            left = left.filter(pc.invert(pc.is_in(left, rows.column("id").combine_chunks())))
        table = pa.concat_tables(found)
        places = pc.index_in(ids, table.column("id").combine_chunks())
        return [
            as_type(table.column(field.name).combine_chunks().take(places), field.type)
            for field in self.fields
        ]

    def _found(self, path: str, ids: pa.Array) -> pa.Table:
        """The rows with these ids, each of which is there once at most.

        All columns are read of those row groups alone that hold one of the ids: the items of a
        batch stand together.
        """
        found, left = [self._schema.empty_table()], len(ids)
        with self._files.open_native(path) as source, pq.ParquetFile(source) as parquet:
            for group in range(parquet.num_row_groups):
                if not left:
                    break
                mask = pc.is_in(parquet.read_row_group(group, ["id"]).column("id"), ids)
                if pc.any(mask).as_py():
                    found.append(parquet.read_row_group(group).cast(self._schema).filter(mask))
                    left -= found[-1].num_rows
        return pa.concat_tables(found)


def prepare(
    files: Files, snapshot: NewSnapshot, names: Sequence[str], sources: Sources | None = None
) -> None:
    """Write the files that a snapshot lacks; its `sources` tell the types of Parquet columns.

    Raises InputDataError where no row of the input has a column.
    """
    schema = _schema(names)
    for layer in snapshot.layers if names else ():
        path = _path(layer, names)
        if not files.list(layer.folder, path.rsplit("/", 1)[-1]):
            seen = ColumnsSeen(names, told_by(snapshot, sources, names))
            with files.staged(".parquet") as staged:
                with pq.ParquetWriter(staged, schema, compression="zstd") as writer:
                    for batch in _groups(files, layer, schema, seen):
                        writer.write_batch(batch)
                    seen.check()
                    writer.add_key_value_metadata(seen.footer)
                files.make_durable(staged)
                files.publish(staged, path)


def _groups(
    files: Files, layer: Layer, schema: pa.Schema, seen: ColumnsSeen
) -> Iterator[pa.RecordBatch]:
    """Ids and columns of a layer's rows; one row group of documents is in memory."""
    columns: list[list[str | None]] = [[] for _ in schema]
    size = 0
    for part in parts_in(layer.folder, layer.parts):
        with files.open_native(part) as source, pq.ParquetFile(source) as parquet:
            for group in range(parquet.num_row_groups):
                rows = parquet.read_row_group(group, ["id", "input"])
                ids, inputs = (column.to_pylist() for column in rows.columns)
                for column, texts in zip(columns, [ids, *seen.add(inputs)], strict=True):
                    column.extend(texts)
                    size += sum(len(text or "") for text in texts)
                if size >= GROUP_BYTES or len(columns[0]) >= _GROUP_ROWS:
                    yield _batch(columns, schema)
                    columns, size = [[] for _ in schema], 0
    yield _batch(columns, schema)


def _batch(columns: Sequence[Sequence[str | None]], schema: pa.Schema) -> pa.RecordBatch:
    arrays = [pa.array(column, pa.string()) for column in columns]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _schema(names: Sequence[str]) -> pa.Schema:
    return pa.schema([("id", pa.string()), *((f"input_{name}", pa.string()) for name in names)])


def _path(layer: Layer, names: Sequence[str]) -> str:
    """The name follows from the columns, in their order."""
    digest = hashlib.sha256(orjson.dumps(list(names))).hexdigest()[:12]
    return f"{layer.folder}/carried-{digest}.parquet"


def _footer(files: Files, path: str) -> Mapping[bytes, bytes]:
    with files.open_native(path) as source, pq.ParquetFile(source) as parquet:
        found: Mapping[bytes, bytes] = parquet.metadata.metadata
        return found
