"""Rows of every format: what is read, and what sets one row aside."""

from __future__ import annotations

import datetime as dt
import gzip
import io
import tracemalloc
from decimal import Decimal
from pathlib import Path
from typing import Any

import fsspec
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_pipeline.flow.dataset.reading import formats
from batch_pipeline.flow.dataset.reading.listing import find_sources
from batch_pipeline.flow.dataset.reading.row_json import row_of_json, values_of
from batch_pipeline.flow.dataset.reading.rows import read_rows
from batch_pipeline.jobs.input.inputs import CsvSpec
from batch_pipeline_tests.flow.dataset.reading.input_files import read, write, write_parquet

# --- what is read --------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "csv.zst", "CSV"])
def test_csv(tmp_path: Path, ending: str) -> None:
    data = '\ufeffid,text,other\r\n007,"a ""b"", c\r\nd",\r\n\r\n8,ü\u2028ü,1.10\r\n'
    rows = read(write(tmp_path / f"x.{ending}", data.encode()), ("text", "id"))
    assert [(row.id, row.number, row.problem) for row in rows] == [("007", 2, None), ("8", 5, None)]
    assert rows[0].values == {"text": 'a "b", c\r\nd', "id": "007"}
    assert orjson.loads(rows[0].input) == {"id": "007", "text": 'a "b", c\r\nd', "other": None}
    assert orjson.loads(rows[1].input) == {"id": "8", "text": "ü\u2028ü", "other": "1.10"}
    assert rows[0].source == str(tmp_path / f"x.{ending}")


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "jsonl.zst"])
def test_jsonl(tmp_path: Path, ending: str) -> None:
    lines = [
        b'\xef\xbb\xbf{"id": "a", "text": "one\xe2\x80\xa8line"}\r',
        b"",
        b'{"id": 12345678901234567890123, "text": 1.10}',
        b'  {"id": 1.50, "text": {"n": [123456789012345678901, 2.0]}} ',
        b'{"id": true, "text": true, "x": NaN}',
    ]
    rows = read(write(tmp_path / f"x.{ending}", b"\n".join(lines)))
    assert [(row.id, row.number, row.values["text"]) for row in rows] == [
        ("a", 1, "one\u2028line"),
        ("12345678901234567890123", 3, "1.10"),
        ("1.50", 4, '{"n":[123456789012345678901,2.0]}'),
        ("true", 5, "true"),
    ]
    assert orjson.loads(rows[3].input)["x"] is None


def test_parquet_types(tmp_path: Path) -> None:
    cells: dict[str, tuple[pa.Array[Any], str | None]] = {
        "string": (pa.array(["ü"]), "ü"),
        "large": (pa.array(["x"], pa.large_string()), "x"),
        "dictionary": (pa.array(["d"]).dictionary_encode(), "d"),
        "int": (pa.array([-3]), "-3"),
        "uint": (pa.array([2**64 - 1], pa.uint64()), "18446744073709551615"),
        "bool": (pa.array([True]), "true"),
        "float": (pa.array([1.5]), "1.5"),
        "float32": (pa.array([0.1], pa.float32()), "0.1"),
        "nan": (pa.array([float("nan")]), None),
        "nan32": (pa.array([float("nan")], pa.float32()), None),
        "null": (pa.nulls(1), None),
        "decimal": (pa.array([Decimal("1.10")]), "1.10"),
        "date": (pa.array([dt.date(2026, 1, 2)]), "2026-01-02"),
        "timestamp": (pa.array([1], pa.timestamp("us")), "1970-01-01T00:00:00.000001"),
        "zoned": (pa.array([0], pa.timestamp("s", "UTC")), "1970-01-01T00:00:00+00:00"),
        "nanoseconds": (pa.array([1], pa.timestamp("ns")), "1970-01-01T00:00:00.000000001"),
        "time": (pa.array([61], pa.time32("s")), "00:01:01"),
        "half": (pa.array([0.1], pa.float16()), "0.1"),
        "floats": (
            pa.array([[0.1, None, 1e10]], pa.list_(pa.float32())),
            "[0.1,null,10000000000.0]",
        ),
        "halves": (pa.array([[0.1, None]], pa.large_list(pa.float16())), "[0.1,null]"),
        "view": (pa.array([[0.1]], pa.list_view(pa.float32())), "[0.1]"),
        "pair": (pa.array([[0.1, 0.2]], pa.list_(pa.float32(), 2)), "[0.1,0.2]"),
        "scores": (pa.array([[("a", 0.1)]], pa.map_(pa.string(), pa.float32())), '[["a",0.1]]'),
        "deep": (
            pa.array(
                [[{"f": 0.1, "h": 0.1, "t": 1}, None]],
                pa.list_(
                    pa.struct([("f", pa.float32()), ("h", pa.float16()), ("t", pa.time64("ns"))])
                ),
            ),
            '[{"f":0.1,"h":0.1,"t":"00:00:00.000000001"},null]',
        ),
        "tensor": (
            pa.ExtensionArray.from_storage(
                pa.fixed_shape_tensor(pa.float32(), [2]),
                pa.array([[0.1, 0.2]], pa.list_(pa.float32(), 2)),
            ),
            "[0.1,0.2]",
        ),
        "duration": (pa.array([61], pa.duration("s")), "0:01:01"),
        "binary": (pa.array(["ü".encode()]), "ü"),
        "list": (pa.array([[1, None]]), "[1,null]"),
        "struct": (
            pa.array([{"a": b"x", "b": Decimal("2.50"), "c": dt.date(2026, 1, 2)}]),
            '{"a":"x","b":"2.50","c":"2026-01-02"}',
        ),
        "map": (pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())), '[["k",1]]'),
    }
    path = write_parquet(
        tmp_path / "x.parquet", {"id": [7], **{name: array for name, (array, _) in cells.items()}}
    )
    (row,) = read(path, tuple(cells))
    assert row.id == "7"
    assert row.values == {name: text for name, (_, text) in cells.items() if text is not None}
    assert row.problem == "null in column 'nan'"


def test_parquet_in_several_row_groups_numbers_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    table = pa.table({"id": range(1000), "text": ["x" * 100] * 1000})
    pq.write_table(table, path, row_group_size=300)
    rows = read(path)
    assert [(row.id, row.number) for row in rows] == [(str(n), n + 1) for n in range(1000)]


def test_texts_are_one_row_a_file(tmp_path: Path) -> None:
    write(tmp_path / "in" / "b.txt", b"")
    write(tmp_path / "in" / "a" / "x.md", "\ufeff# Ü\r\n".encode())
    write(tmp_path / "in" / "c.txt.gz", b"packed")
    rows = read(tmp_path / "in" / "**")
    assert [(row.id, row.values["text"], row.number) for row in rows] == [
        ("a/x.md", "# Ü\r\n", 1),
        ("b.txt", "", 1),
        ("c.txt.gz", "packed", 1),
    ]
    assert rows[1].problem is None


def test_remote_files_read_like_local_ones() -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/readers/a.csv", b"id,text\n1,one\n")
    memory.pipe("/readers/b.jsonl.gz", gzip.compress(b'{"id":"2","text":"two"}\n'))
    buffer = io.BytesIO()
    pq.write_table(pa.table({"id": [3], "text": ["three"]}), buffer)
    memory.pipe("/readers/c.parquet", buffer.getvalue())
    rows = read("memory://readers/*")
    assert [(row.id, row.values["text"]) for row in rows] == [
        ("1", "one"),
        ("2", "two"),
        ("3", "three"),
    ]
    memory.rm("/readers", recursive=True)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.csv", b""),
        ("x.csv", b"id,text\n"),
        ("x.jsonl", b""),
        ("x.jsonl", b"\n \n"),
        ("x.jsonl.zst", b""),
    ],
)
def test_no_rows_is_valid(tmp_path: Path, name: str, data: bytes) -> None:
    assert read(write(tmp_path / name, data)) == []


def test_a_document_larger_than_the_csv_modules_default_limit(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", b"id,text\n1," + b"x" * 1_000_000 + b"\n")
    assert len(read(path)[0].values["text"]) == 1_000_000


# --- what sets a row aside -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("x.csv", b"id,text\n1,\n", "null in column 'text'"),
        ("x.csv", b'id,text\n1,""\n', "null in column 'text'"),
        ("x.csv", b"id,text\n1,caf\xe9\n", "undecodable text in column 'text'"),
        ("x.jsonl", b'{"id":1,"text":null}\n', "null in column 'text'"),
        ("x.jsonl", b'{"id":1}\n{"id":2,"text":"x"}\n', "null in column 'text'"),
        ("x.jsonl", b'{"id":1,"text":NaN}\n', "null in column 'text'"),
        ("x.jsonl", b'{"id":1,"text":"\\ud83d"}\n', "undecodable text in column 'text'"),
        ("x.jsonl", b'{"id":1,"text":"caf\xe9"}\n', "undecodable text in column 'text'"),
        ("x.jsonl", b'{"id":1,"text":["caf\xe9"]}\n', "undecodable text in column 'text'"),
        (
            "x.jsonl",
            b'{"id":1,"text":' + b"[" * 300 + b"]" * 300 + b"}",
            "too deeply nested JSON in column 'text'",
        ),
        (
            "x.jsonl",
            b'{"id":1,"text":' + b"[" * 1000 + b"]" * 1000 + b"}",
            "too deeply nested JSON in column 'text'",
        ),
        ("x.jsonl", b'{"id":1,"text":"x","other":"\\ud83d"}\n', None),
        ("x.jsonl", b'{"id":1,"text":"x","\\ud83d":1}\n', None),
        ("x.jsonl", b'{"id":1,"text":{"\\ud83d":1}}\n', "undecodable text in column 'text'"),
        (
            "x.jsonl",
            b'{"id":1,"text":[{"a":{"\\udc00":"x"}}]}\n',
            "undecodable text in column 'text'",
        ),
        ("x.jsonl", b'{"id":1,"text":{"caf\xe9":1}}\n', "undecodable text in column 'text'"),
        ("x.jsonl", b'{"id":1,"text":"\\\\xe9 is a backslash"}\n', None),
        ("x.txt", b"caf\xe9", "undecodable text in column 'text'"),
    ],
)
def test_a_dirty_row_is_set_aside(
    tmp_path: Path, name: str, data: bytes, problem: str | None
) -> None:
    row = read(write(tmp_path / name, data))[0]
    assert row.problem == problem
    assert values_of(row_of_json(row.input), ("text",)) == (row.values, problem)
    assert ("text" in row.values) == (problem is None)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.csv", b"id,text\n1,caf\xe9\n"),
        ("x.jsonl", b'{"id":1,"text":"caf\xe9"}\n'),
        ("x.txt", b"caf\xe9"),
    ],
)
def test_undecodable_bytes_are_kept(tmp_path: Path, name: str, data: bytes) -> None:
    (row,) = read(write(tmp_path / name, data))
    assert orjson.loads(row.input)["text"] == {"$undecodable": "caf\\xe9"}


@pytest.mark.parametrize("name", ["x.txt", "x.md.gz", "x.txt.zst"])
def test_a_text_that_fits_in_no_request_is_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(formats, "ROW_BYTES", 5_000)
    monkeypatch.setattr(formats, "_TEXT_BLOCK", 1_000)
    row = read(write(tmp_path / name, b"a" * 100_000))[0]
    assert (row.id, row.problem) == (name, "larger than a batch may be")
    assert orjson.loads(row.input)["text"] == {"$cut_off": "a" * 1_000}
    assert read(write(tmp_path / name, b"a" * 5_000))[0].problem is None


def test_csv_is_read_as_it_is_declared(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", 'id;größe\r\n1;"a;b"\r\n2;€ 5\r\n'.encode("cp1252"))
    sources = find_sources(str(path), "all", {}, CsvSpec(delimiter=";", encoding="cp1252"))
    rows = list(read_rows(sources, "id", ("größe",)))
    assert [row.values["größe"] for row in rows] == ["a;b", "€ 5"]


def test_a_table_of_many_columns_is_read(tmp_path: Path) -> None:
    """Where each cell cost as much as all those before it, this would take hours."""
    path = tmp_path / "x.csv"
    columns = 300_000
    cells = [",".join(map(str, range(columns))), *(",".join(["a"] * columns) for _ in range(3))]
    names = ["id,text", "1,one", "2,two", "3,three"]
    path.write_text("".join(f"{cell},{name}\n" for cell, name in zip(cells, names, strict=True)))
    rows = read(path)
    assert [(row.id, row.values["text"]) for row in rows] == [
        ("1", "one"), ("2", "two"), ("3", "three"),
    ]  # fmt: skip


@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_all_members_of_a_compressed_file_are_read(tmp_path: Path, ending: str) -> None:
    lines = [b'{"id":%d,"text":"x"}\n' % number for number in range(3)]
    members = [write(tmp_path / f"{n}.jsonl.{ending}", line) for n, line in enumerate(lines)]
    whole = tmp_path / f"whole.jsonl.{ending}"
    whole.write_bytes(b"".join(member.read_bytes() for member in members))
    assert [row.id for row in read(whole)] == ["0", "1", "2"]


def test_undecodable_parquet_strings_spoil_only_their_cell(tmp_path: Path) -> None:
    strings = pa.array([b"caf\xe9", b"fine"]).view(pa.string())
    binary = pa.array([b"fine", b"caf\xe9"])
    nested = pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), strings)
    table = {"id": [1, 2], "s": strings, "d": strings.dictionary_encode(), "b": binary, "n": nested}
    rows = read(write_parquet(tmp_path / "x.parquet", table), ("s", "d", "b", "n"))
    assert rows[0].values == {"b": "fine"}
    assert rows[0].problem == "undecodable text in column 's'"
    assert rows[1].values == {"s": "fine", "d": "fine", "n": '["fine"]'}
    assert rows[1].problem == "undecodable text in column 'b'"


def test_a_date_that_python_lacks_spoils_only_its_cell(tmp_path: Path) -> None:
    dates = pa.array([3_000_000, 0], pa.date32())
    rows = read(write_parquet(tmp_path / "x.parquet", {"id": [1, 2], "text": dates}))
    assert [row.problem is None for row in rows] == [False, True]
    assert rows[1].values == {"text": "1970-01-01"}


# --- memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.parquet", "x.csv.zst", "x.jsonl.gz"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, name: str) -> None:
    path, number = tmp_path / name, 6000
    text = "word " * 2_000  # 10 KB; 60 MB in all
    if name == "x.parquet":
        texts = [f"{n} {text}" for n in range(number)]
        pq.write_table(pa.table({"id": range(number), "text": texts}), path)
    elif name == "x.csv.zst":
        write(path, b"id,text\n" + b"".join(b"%d,%s\n" % (n, text.encode()) for n in range(number)))
    else:
        lines = (b'{"id":%d,"text":"%s"}\n' % (n, text.encode()) for n in range(number))
        write(path, b"".join(lines))
    sources = find_sources(str(path), "all", {})
    arrow_before = pa.total_allocated_bytes()
    arrow_peak = 0
    tracemalloc.start()
    for row in read_rows(sources, "id", ("text",)):
        assert row.problem is None
        arrow_peak = max(arrow_peak, pa.total_allocated_bytes() - arrow_before)
    python_peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert python_peak + arrow_peak < 40_000_000
