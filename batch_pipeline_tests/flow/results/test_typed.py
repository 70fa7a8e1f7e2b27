"""The typed dataset: its columns, and that it has the rows that the results have at any time."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_pipeline import read_results
from batch_pipeline.errors import InputDataError
from batch_pipeline.flow.control.redrive import redrive
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.results.typed import carried_types
from batch_pipeline.flow.results.typed.columns import columns_of
from batch_pipeline.flow.run import run
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.support import PARTITION, documents, job, results, write_rows

SCHEMA = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "kind": {"type": "string", "enum": ["lease", "sale"]},
        "pages": {"type": "integer"},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["id", "kind", "pages", "tags"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("schema", "kind", "given", "value"),
    [
        ({"type": "integer"}, pa.int64(), 3.0, 3),
        ({"type": "integer"}, pa.int64(), 1 << 70, None),
        ({"type": ["number", "null"]}, pa.float64(), 2, 2.0),
        ({"type": "number", "multipleOf": 0.01}, pa.decimal128(38, 2), 1.1, Decimal("1.10")),
        ({"type": "boolean"}, pa.bool_(), True, True),
        ({"type": "string", "format": "date"}, pa.date32(), "2026-02-03", date(2026, 2, 3)),
        ({"type": "string", "format": "date"}, pa.date32(), "soon", None),
        (
            {"type": "string", "format": "date-time"},
            pa.timestamp("us", "UTC"),
            "2026-02-03T01:00:00+01:00",
            datetime(2026, 2, 3, tzinfo=UTC),
        ),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, pa.int64(), 3, 3),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, pa.string(), "a", '"a"'),
        ({"enum": ["a", "b", None]}, pa.string(), "a", "a"),
        ({"type": "object"}, pa.string(), {"a": 1}, '{"a":1}'),
        (
            {"type": "object", "properties": {"n": {"type": "integer"}}},
            pa.struct([("n", pa.int64())]),
            {"n": 1, "further": 2},
            {"n": 1},
        ),
        ({"type": "array", "items": {"type": "number"}}, pa.list_(pa.float64()), [1], [1.0]),
        ({"$ref": "#/$defs/part"}, pa.list_(pa.string()), [[]], ["[]"]),
    ],
)
def test_a_field_has_the_type_of_its_schema(
    schema: dict[str, Any], kind: pa.DataType, given: Any, value: Any
) -> None:
    part = {"type": "array", "items": {"$ref": "#/$defs/part"}}
    whole = {"type": "object", "properties": {"x": schema}, "$defs": {"part": part}}
    [column] = columns_of(whole, ())
    assert (column.field.name, column.field.type) == ("x", kind)
    assert column.value({"x": given}) == value
    assert column.value(None) is None
    pa.array([column.value({"x": given})], column.field.type)


def test_types_of_a_source_are_those_that_json_has_no_word_for() -> None:
    """A source keeps the types of its columns as the texts that Arrow has for them."""
    for kind in (
        pa.timestamp("us", "Europe/Zurich"), pa.timestamp("ns"), pa.date32(), pa.time64("us"),
        pa.decimal128(9, 2),
    ):  # fmt: skip
        assert carried_types.type_of_text(str(kind)) == kind
    for kind in ("string", "number", "int64", "struct<a: int8>", "decimal256(50, 2)", None):
        assert carried_types.type_of_text(kind) is None


def test_kinds_of_values_are_the_types_of_a_column_that_the_input_does_not_tell() -> None:
    rows = [
        b'{"n":1,"x":1,"flag":true,"big":123456789012345678901,"mixed":1,"list":[1]}',
        b'{"n":null,"x":0.5,"flag":false,"big":1,"mixed":"1"}',
    ]
    names = ["n", "x", "flag", "big", "mixed", "list", "none"]
    seen = carried_types.ColumnsSeen(names, {})
    columns = dict(zip(names, seen.add(rows), strict=True))
    types = {name: carried_types.type_of([seen.footer], name) for name in names}
    assert types == {
        "n": pa.int64(), "x": pa.float64(), "flag": pa.bool_(), "none": pa.null(),
        **dict.fromkeys(("big", "mixed", "list"), pa.string()),
    }  # fmt: skip
    found = {
        name: carried_types.as_type(pa.array(columns[name], pa.string()), types[name]).to_pylist()
        for name in names
    }
    assert found == {
        "n": [1, None], "x": [1.0, 0.5], "flag": [True, False], "none": [None, None],
        "big": ["123456789012345678901", "1"], "mixed": ["1", "1"], "list": ["[1]", None],
    }  # fmt: skip
    with pytest.raises(InputDataError, match="no row of the input has the column 'none'"):
        seen.check()


def test_names_that_are_taken_are_told_apart() -> None:
    fields = {name: {"type": "string"} for name in ("ID", "Input_a", "name", "NAME")}
    columns = columns_of({"type": "object", "properties": fields}, ["input_a"])
    names = [column.field.name for column in columns]
    assert names == ["parsed_ID", "parsed_Input_a", "name", "parsed_NAME"]


def source(tmp_path: Path, count: int = 6) -> Path:
    table = pa.table(
        {
            "id": [f"{n}" for n in range(count)],
            "text": [f"document {n} of a lease" for n in range(count)],
            "customer": [None if n == 1 else f"customer {n}" for n in range(count)],
            "filed_at": [datetime(2026, 1, 1, n, tzinfo=UTC) for n in range(count)],
            "amount": pa.array([Decimal("1.10") * n for n in range(count)], pa.decimal128(9, 2)),
            "pages": list(range(count)),
            "nothing": pa.nulls(count),
        }
    )
    pq.write_table(table, tmp_path / "in.parquet")
    return tmp_path / "in.parquet"


def typed(pipeline: Pipeline) -> pd.DataFrame:
    home = pipeline.settings.home
    frame = read_results("review", PARTITION, dataset="typed", incomplete="read", home=home)
    return frame.sort_values("id")


def test_carried_columns_and_fields_stand_beside_each_item(
    pipeline: Pipeline, tmp_path: Path, sim: Simulator
) -> None:
    path = source(tmp_path)
    plain = {"output_schema": SCHEMA, "limits": {"max_requests_per_batch": 2}}
    output = {"carry": ["customer", "filed_at", "amount", "pages", "nothing"], "typed": True}
    spec = job(path, **plain, output=output)
    assert run(pipeline, spec, PARTITION).complete
    frame = typed(pipeline)
    parsed = {row["id"]: row["parsed"] for row in results(pipeline, spec)}
    assert list(frame["id"]) == sorted(parsed)
    assert frame["input_amount"].tolist() == [Decimal("1.10") * n for n in range(6)]
    assert frame["input_filed_at"].tolist()[5] == pd.Timestamp("2026-01-01T05:00Z")
    assert frame["input_pages"].tolist() == list(range(6))
    assert frame["input_customer"].isna().tolist() == [n == 1 for n in range(6)]
    assert (str(frame["input_nothing"].dtype), bool(frame["input_nothing"].isna().all())) == (
        "str",
        True,
    )
    assert str(frame["kind"].dtype) == "category"
    assert str(frame["pages"].dtype) == "Int64"
    for row in frame.to_dict("records"):
        answer = json.loads(parsed[row["id"]])
        found = {"id": row["parsed_id"], "kind": row["kind"], "pages": row["pages"]}
        assert {**found, "tags": list(row["tags"])} == answer

    # Declared otherwise, the night is published anew and nothing is bought.
    before = sim.books.accepted_requests
    assert run(pipeline, job(path, **plain, output={"carry": ["filed_at"]}), PARTITION).complete
    assert list(typed(pipeline).columns) == ["id", "status", "input_filed_at", "partition"]
    with pytest.raises(InputDataError, match=r"'custmer' that output\.carry names"):
        run(pipeline, job(path, **plain, output={"carry": ["custmer"]}), PARTITION)
    assert typed(pipeline)["input_filed_at"].tolist() == frame["input_filed_at"].tolist()
    assert run(pipeline, job(path, **plain), PARTITION).complete
    assert pipeline.files.list("review/typed/partition=all", ".parquet") == []
    assert sim.books.accepted_requests == before


def test_typed_rows_follow_a_redrive_and_new_input(pipeline: Pipeline, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    rows = [{**row, "n": n} for n, row in enumerate(documents(4))]
    write_rows(path, [*rows, {"id": "blank", "text": None, "n": 4}])
    spec = job(path, output={"carry": ["n"]})
    assert run(pipeline, spec, PARTITION).complete
    assert typed(pipeline)["input_n"].tolist() == [0, 1, 2, 3, 4]
    assert typed(pipeline)["status"].tolist()[-1] == "invalid_input"
    write_rows(path, [*rows, {"id": "blank", "text": "now there", "n": 40}])
    assert redrive(pipeline, spec, PARTITION, ()).sent
    assert typed(pipeline)["id"].tolist() == [row["id"] for row in results(pipeline, spec)]
    assert run(pipeline, spec, PARTITION).complete
    assert typed(pipeline)["input_n"].tolist() == [0, 1, 2, 3, 40]


def test_a_missing_column_stops_the_night_before_anything_is_sent(
    pipeline: Pipeline, tmp_path: Path, sim: Simulator
) -> None:
    spec = job(write_rows(tmp_path / "in.jsonl", documents(2)), output={"carry": ["custmer"]})
    with pytest.raises(InputDataError, match=r"of output\.carry, 'custmer' is missing"):
        run(pipeline, spec, PARTITION)
    assert sim.books.accepted_requests == 0
