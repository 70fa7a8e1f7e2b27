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

from batch_pipeline.flow.dataset.reading.listing import find_sources
from batch_pipeline.flow.dataset.reading.row_json import row_of_json, values_of
from batch_pipeline.flow.dataset.reading.rows import read_rows
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.flow.dataset.requests.request_builder import RequestBuilder
from batch_pipeline_tests.flow.dataset.reading.input_files import read, write, write_parquet
from batch_pipeline_tests.support import job

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
        assert values_of(row_of_json(row.input), ("a", "b", "c")) == (row.values, row.problem)
        assert values_of(row_of_json(orjson.dumps(orjson.Fragment(row.input))), ("c",))[1] in {
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
        assert values_of(row_of_json(row.input), ("a", "b")) == (row.values, row.problem)
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
        assert values_of(row_of_json(row.input), ("a", "b", "c")) == (row.values, row.problem)
        assert row.values.get("c") == text
        assert row.values.get("a", "\ufffd").encode() in {data, "\ufffd".encode()}
        if "b" in row.values:
            assert float(row.values["b"]) == number


LONG = "a text of some length " * 5
TEXTS = st.one_of(
    st.text('\\"/abu\n\x01é\u2028\U0001f600', max_size=12),
    st.sampled_from(["", " ", LONG, 'text":"', '"title":', 'ends so "text', LONG + '"\n\\']),
)
CELLS = st.one_of(
    TEXTS,
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(),
    st.lists(TEXTS, max_size=2),
    st.dictionaries(st.sampled_from(["text", "a"]), TEXTS, max_size=2),
)
WRITERS = st.sampled_from(
    [
        lambda row: json.dumps(row).encode(),
        lambda row: json.dumps(row).encode().replace(b"\\u00e9", b"\\u00E9"),
        lambda row: json.dumps(row, ensure_ascii=False).encode(),
        lambda row: json.dumps(row, separators=(",", " :\t")).encode(),
        lambda row: json.dumps(row).encode().replace(b"/", b"\\/"),
        # The last of two cells of one name counts.
        lambda row: b'{"text": "former", ' + json.dumps(row).encode()[1:],
    ]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    beside=st.dictionaries(st.sampled_from(["note", "te", 'a"text', "ä", "text "]), CELLS),
    text=TEXTS,
    title=TEXTS,
    names=st.permutations(["id", "text", "title"]),
    write_row=WRITERS,
)
def test_a_line_makes_its_request_without_being_parsed_again(
    tmp_path: Path, beside: dict[str, Any], text: str, title: str, names: list[str], write_row: Any
) -> None:
    cells = {**beside, "id": "x", "text": text, "title": title}
    row = {name: cells[name] for name in [*beside, *names]}
    path = write(tmp_path / "x.jsonl", write_row(row))
    builder = RequestBuilder(Declaration.of(job(path, prompt={"user": "{text}: {title} {text}"})))
    [found] = read_rows(find_sources(str(path), "all", {}), "id", builder.columns)
    assert json.loads(found.input) == row
    assert found.places is not None
    assert builder.splice(found.input, found.places) == builder.build(found.values)
    assert found.values == {"text": text, "title": title}
