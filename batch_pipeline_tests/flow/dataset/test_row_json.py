"""A row and what is rebuilt from its JSON text agree, whatever was in the file."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batch_pipeline.flow.dataset.rows import row_values
from batch_pipeline_tests.flow.dataset.input_files import read, write, write_parquet

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from("abc"), json_values), max_size=4))
def test_jsonl_rows_rebuild_from_their_input(tmp_path: Path, cells: list[dict[str, Any]]) -> None:
    # One full row ahead: a column that no row has would be an error.
    rows = [{"id": "first", "a": 1, "b": 2, "c": 3}, *({"id": "x", **row} for row in cells)]
    path = write(tmp_path / "x.jsonl", b"\n".join(json.dumps(row).encode() for row in rows))
    for row in read(path, ("a", "b", "c")):
        row.input.decode()
        assert row_values(row.input, ("a", "b", "c")) == (row.values, row.problem)
        assert row_values(orjson.dumps(orjson.Fragment(row.input)), ("c",))[1] in {
            None,
            *problems(),
        }


def problems() -> set[str]:
    return {f"{kind} in column 'c'" for kind in ("null", "undecodable text")}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(st.text(), st.text()), max_size=4))
def test_csv_rows_come_back_as_written(tmp_path: Path, pairs: list[tuple[str, str]]) -> None:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, quoting=csv.QUOTE_ALL)
    writer.writerow(["id", "a", "b"])
    writer.writerows(("x", *pair) for pair in pairs)
    rows = read(write(tmp_path / "x.csv", buffer.getvalue().encode()), ("a", "b"))
    assert [orjson.loads(row.input) for row in rows] == [
        {"id": "x", "a": a or None, "b": b or None} for a, b in pairs
    ]
    for row, (a, b) in zip(rows, pairs, strict=True):
        assert row_values(row.input, ("a", "b")) == (row.values, row.problem)
        assert row.values == {name: text for name, text in (("a", a), ("b", b)) if text}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(st.binary(), st.floats() | st.none(), st.text() | st.none()), min_size=1))
def test_parquet_rows_rebuild_from_their_input(tmp_path: Path, cells: list[Any]) -> None:
    a, b, c = zip(*cells, strict=True)
    table = {
        "id": range(len(cells)),
        "a": a,
        "b": pa.array(b, pa.float64()),
        "c": pa.array(c, pa.string()),
    }
    rows = read(write_parquet(tmp_path / "x.parquet", table), ("a", "b", "c"))
    for row, (data, number, text) in zip(rows, cells, strict=True):
        assert row_values(row.input, ("a", "b", "c")) == (row.values, row.problem)
        assert row.values.get("c") == text
        assert row.values.get("a", "\ufffd").encode() in {data, "\ufffd".encode()}
        if "b" in row.values:
            assert float(row.values["b"]) == number
