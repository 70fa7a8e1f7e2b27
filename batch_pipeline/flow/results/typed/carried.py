"""The carried columns of a snapshot, as a small file beside each of its layers.

A night's answers are collected a batch at a time, and each time need these columns of their items:
finding them in the snapshot would read all documents again. A file has the row's id and each column
as JSON text. Its footer says which kinds of values there are, and which types the input had that
JSON has no word for (dates, times, decimals); the columns' types follow from both.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batch_pipeline.errors import InputDataError
from batch_pipeline.flow.dataset.reading.files import Kind, Sources
from batch_pipeline.flow.dataset.reading.streams import open_stream
from batch_pipeline.flow.paths import parts_in
from batch_pipeline.ledger.snapshots import Layer, NewSnapshot
from batch_pipeline.storage.files import Files

_ROWS = 10_000
_KINDS, _TYPES = b"kinds", b"types"
_KIND_OF = {str: "text", bool: "boolean", float: "number", Decimal: "number"}
_NAMED = 20


class Carried:
    """The carried columns of a snapshot: their types, and their values by id."""

    def __init__(self, files: Files, snapshot: NewSnapshot, names: Sequence[str]) -> None:
        self._files = files
        self._names = names
        self._paths = [_path(layer, names) for layer in snapshot.layers if names]
        prepare(files, snapshot, names)
        footers = [_footer(files, path) for path in self._paths]
        self.fields = [pa.field(f"input_{name}", _type(footers, name)) for name in names]

    def arrays(self, ids: Sequence[str]) -> list[pa.Array]:
        """The columns of the items with these ids, in their order."""
        found: dict[str, Sequence[str | None]] = {}
        wanted = pa.array(ids, pa.string())
        for path in self._paths:  # a higher layer takes the place of a lower one
            with self._files.open_native(path) as source, pq.ParquetFile(source) as parquet:
                for batch in parquet.iter_batches(_ROWS * 10):
                    some = batch.filter(pc.is_in(batch.column("id"), wanted))
                    columns = [some.column(name).to_pylist() for name in _columns(self._names)]
                    ids_there = some.column("id").to_pylist()
                    found.update(zip(ids_there, zip(*columns, strict=True), strict=True))
        nothing = (None,) * len(self._names)
        rows = [found.get(item, nothing) for item in ids]
        return [
            _array([row[place] for row in rows], field.type)
            for place, field in enumerate(self.fields)
        ]


def prepare(
    files: Files, snapshot: NewSnapshot, names: Sequence[str], sources: Sources | None = None
) -> None:
    """Write the files that a snapshot lacks; its `sources` tell the types of Parquet columns.

    Raises InputDataError where no row of the input has a column.
    """
    for layer in snapshot.layers if names else ():
        path = _path(layer, names)
        if not files.list(layer.folder, path.rsplit("/", 1)[-1]):
            _write(files, layer, names, _types_of(snapshot, sources, names), path)


def _write(
    files: Files,
    layer: Layer,
    names: Sequence[str],
    types: Mapping[str, pa.DataType],
    path: str,
) -> None:
    kinds: dict[str, set[str]] = {name: set() for name in names}
    kept = dict(types)
    seen: set[str] = set()
    rows, last = 0, dict[str, Any]()
    schema = pa.schema([("id", pa.string()), *((name, pa.string()) for name in _columns(names))])
    with files.staged(".parquet") as staged:
        with pq.ParquetWriter(staged, schema, compression="zstd") as writer:
            for part in parts_in(layer.folder, layer.parts):
                with files.open_native(part) as source, pq.ParquetFile(source) as parquet:
                    for batch in parquet.iter_batches(_ROWS, columns=["id", "input"]):
                        cells = [_cells(text) for text in batch.column("input").to_pylist()]
                        rows += len(cells)
                        for row in cells:
                            seen.update(row.keys() & kinds.keys())
                        columns = []
                        for name in names:
                            values = [row.get(name) for row in cells]
                            kinds[name].update(map(_kind_of, values))
                            texts = [_text(value) for value in values]
                            if name in kept and not _fits(texts, kept[name]):
                                del kept[name]
                            columns.append(pa.array(texts, pa.string()))
                        first = batch.column("id").cast(pa.string())
                        writer.write_batch(
                            pa.RecordBatch.from_arrays([first, *columns], schema=schema)
                        )
                        last = cells[-1] if cells else {}
            missing = [name for name in names if name not in seen] if rows else []
            if missing:
                there = ", ".join(map(repr, list(last)[:_NAMED])) or "none"
                raise InputDataError(
                    f"no row of the input has the column {missing[0]!r} that output.carry names. "
                    f"Columns there: {there}. Correct output.carry, or the input."
                )
            found = {name: sorted(kinds[name] - {""}) for name in names}
            typed = pa.schema(list(kept.items())).serialize().to_pybytes()
            writer.add_key_value_metadata(
                {_KINDS: orjson.dumps(found), _TYPES: base64.b64encode(typed)}
            )
        files.make_durable(staged)
        files.publish(staged, path)


def _columns(names: Sequence[str]) -> Sequence[str]:
    return [f"input_{name}" for name in names]


def _path(layer: Layer, names: Sequence[str]) -> str:
    """The name follows from the columns, in their order."""
    digest = hashlib.sha256(orjson.dumps(list(names))).hexdigest()[:12]
    return f"{layer.folder}/carried-{digest}.parquet"


def _cells(text: bytes) -> dict[str, Any]:
    """A row's cells; unlike orjson, json keeps every digit of a decimal and of a large integer."""
    cells: dict[str, Any] = json.loads(text, parse_float=Decimal)
    return cells


def _kind_of(value: Any) -> str:
    if value is None:
        return ""
    if type(value) is int:
        return "integer" if -(1 << 63) <= value < 1 << 63 else "json"
    return _KIND_OF.get(type(value), "json")


def _text(value: Any) -> str | None:
    """A value as JSON text, a text as itself: the column's type tells them apart."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Decimal):
        return str(value)
    return json.dumps(value, ensure_ascii=False, default=str)


def _footer(files: Files, path: str) -> tuple[dict[str, list[str]], pa.Schema]:
    with files.open_native(path) as source, pq.ParquetFile(source) as parquet:
        found = parquet.metadata.metadata
    types = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(found[_TYPES])))
    return orjson.loads(found[_KINDS]), types


def _type(footers: Sequence[tuple[dict[str, list[str]], pa.Schema]], name: str) -> pa.DataType:
    """The one type of a column in all layers; text where values differ in kind."""
    declared = {types.field(name).type if name in types.names else None for _, types in footers}
    if len(declared) == 1 and None not in declared:
        return declared.pop()
    kinds = {kind for found, _ in footers for kind in found[name]}
    if kinds <= {"integer", "number"} and kinds:
        return pa.float64() if "number" in kinds else pa.int64()
    return pa.bool_() if kinds == {"boolean"} else pa.string()


def _array(texts: Sequence[str | None], kind: pa.DataType) -> pa.Array:
    return pa.array(texts, pa.string()).cast(kind)


def _fits(texts: Sequence[str | None], kind: pa.DataType) -> bool:
    try:
        _array(texts, kind)
    except pa.ArrowException:
        return False
    return True


def _types_of(
    snapshot: NewSnapshot, sources: Sources | None, names: Sequence[str]
) -> dict[str, pa.DataType]:
    """The types that JSON has no word for, of columns of Parquet files or of another source."""
    if snapshot.source is not None:
        texts = {**snapshot.source["columns"], **snapshot.source["types"]}
        told = {name: type_of_text(texts.get(name)) for name in names}
        return {name: kind for name, kind in told.items() if kind is not None}
    found: dict[str, set[pa.DataType]] = {name: set() for name in names}
    for file in () if sources is None else sources.files:
        if file.kind is not Kind.PARQUET:
            return {}
        with open_stream(file) as stream:
            schema = pq.read_schema(stream)
        for name in names:
            there = name in schema.names
            found[name].add(schema.field(name).type if there else pa.null())
    # Where files differ, JSON's types count.
    return {name: kinds.pop() for name, kinds in found.items() if len(kinds) == 1 and _rich(*kinds)}


def _rich(kind: pa.DataType) -> bool:
    return bool(pa.types.is_temporal(kind) or pa.types.is_decimal(kind))


def type_of_text(text: str | None) -> pa.DataType | None:
    """The type that Arrow writes as this text, where JSON has no word for it."""
    if text is None:
        return None
    if zoned := re.fullmatch(r"timestamp\[(\w+), tz=(.+)\]", text):
        return pa.timestamp(*zoned.groups())
    if amount := re.fullmatch(r"decimal(?:128|256)\((\d+), (\d+)\)", text):
        return pa.decimal128(*map(int, amount.groups())) if int(amount[1]) <= 38 else None
    with suppress(ValueError):
        kind = pa.type_for_alias(text)
        return kind if _rich(kind) else None
    return None
