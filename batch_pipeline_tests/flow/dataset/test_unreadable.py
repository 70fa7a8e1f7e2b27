"""What stops the night: files and columns that cannot be used, each named with its place."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_pipeline.errors import InputDataError
from batch_pipeline.flow.dataset.files import find_sources
from batch_pipeline.flow.dataset.rows import read_rows
from batch_pipeline_tests.flow.dataset.input_files import read, write, write_parquet


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("x.csv", b"key,text\n1,a\n", ["line 1", "id column 'id'", "'key', 'text'", "id_column"]),
        ("x.csv", b"id,body\n1,a\n", ["line 1", "'text'", "'id', 'body'", "placeholder"]),
        ("x.csv", b"id,body\n", ["line 1", "'text' is missing"]),
        ("x.csv", b"id,text\n1,a,b\n", ["line 2", "3 cells", "has 2"]),
        ("x.csv", b'id,text\n1,"a\nb"\n2\n', ["line 4", "1 cells"]),
        ("x.csv", b"id,text,text\n", ["two columns are named 'text'"]),
        ("x.csv", b"id,,text\n", ["column 2 has no name"]),
        ("x.csv", b"id,t\xe9xt\n", ["column 2", "UTF-8"]),
        ("x.csv", b'id,text\n1,a\n2,"open\n3,c\n', ["line 3", "not valid CSV"]),
        ("x.csv", b"id,text\n,a\n", ["line 2", "null in column 'id'"]),
        ("x.csv", b"id,text\n\xff,a\n", ["line 2", "undecodable text in column 'id'"]),
        ("x.jsonl", b'{"id":1,"text":"a"}\n{"id":2\n', ["line 2", "not JSON"]),
        ("x.jsonl", b'{"id":1,"text":"a"}\n[1]\n', ["line 2", "not a JSON object"]),
        ("x.jsonl", b'{"id":1,"text":"a"}\n"a"\n', ["line 2", "not a JSON object"]),
        ("x.jsonl", b'{"id":' + b"[" * 5000, ["line 1", "nested too deeply"]),
        ("x.jsonl", b'{"text":"a"}\n', ["line 1", "id column 'id'", "there: 'text'"]),
        ("x.jsonl", b'{"id":null,"text":"a"}\n', ["line 1", "null in column 'id'"]),
        ("x.jsonl", b'{"id":NaN,"text":"a"}\n', ["line 1", "null in column 'id'"]),
        ("x.jsonl", b'{"id":"","text":"a"}\n', ["line 1", "empty id"]),
        ("x.jsonl", b'\n{"id":1}\n{"id":2}\n', ["line 2 and every other", "'text'", "there: 'id'"]),
    ],
)
def test_malformed_text_files(tmp_path: Path, name: str, data: bytes, said: list[str]) -> None:
    path = write(tmp_path / name, data)
    with pytest.raises(InputDataError) as caught:
        read(path)
    for text in [str(path), *said]:
        assert text in str(caught.value)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"id": [1], "body": ["a"]}, ["row 1", "'text'", "'id', 'body'"]),
        ({"key": [1], "text": ["a"]}, ["row 1", "id column 'id'"]),
        ({"id": ["a", None], "text": ["a", "b"]}, ["row 2", "null in column 'id'"]),
        ({"id": [1.0, float("nan")], "text": ["a", "b"]}, ["row 2", "null in column 'id'"]),
        ({"id": ["a", ""], "text": ["a", "b"]}, ["row 2", "empty id"]),
        ({"id": [b"\xff"], "text": ["a"]}, ["row 1", "undecodable text in column 'id'"]),
    ],
)
def test_unusable_parquet_tables(tmp_path: Path, table: dict[str, Any], said: list[str]) -> None:
    path = write_parquet(tmp_path / "x.parquet", table)
    with pytest.raises(InputDataError) as caught:
        read(path)
    for text in [str(path), *said]:
        assert text in str(caught.value)


def test_a_parquet_file_with_two_columns_of_one_name(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["id", "id"]), path)
    with pytest.raises(InputDataError, match="two columns are named 'id'"):
        read(path, ())


def test_a_text_file_has_only_id_and_text(tmp_path: Path) -> None:
    path = write(tmp_path / "x.txt", b"x")
    with pytest.raises(InputDataError, match=r"'body' is missing. Columns there: 'id', 'text'"):
        read(path, ("body",))


def csv_lines(number: int) -> bytes:
    return b"id,text\n" + b"".join(
        b"%d,%s\n" % (n, os.urandom(30).hex().encode()) for n in range(number)
    )


@pytest.mark.parametrize("ending", ["gz", "zst"])
@pytest.mark.parametrize("keep", [0.0, 0.5, 0.999])
def test_a_compressed_file_that_was_cut_off(tmp_path: Path, ending: str, keep: float) -> None:
    path = write(tmp_path / f"x.csv.{ending}", csv_lines(50_000))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(InputDataError, match="cannot be read") as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert ("after" in str(caught.value)) == (keep > 0)


@pytest.mark.parametrize(
    "name", ["junk.parquet", "empty.parquet", "cut.parquet", "damaged.parquet", "junk.csv.gz"]
)
def test_a_corrupt_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    text = pa.array([os.urandom(200).hex() for _ in range(2000)])
    pq.write_table(pa.table({"id": range(2000), "text": text}), path, compression="zstd")
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(
        {
            "junk": b"this is no such file",
            "empty": b"",
            "cut": data[:middle],
            "damaged": data[:middle] + bytes(5000) + data[middle + 5000 :],
        }[name.partition(".")[0]]
    )
    with pytest.raises(InputDataError, match="cannot be read") as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_a_vanished_file(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", b"id,text\n1,a\n")
    sources = find_sources(str(path), "all", {})
    path.unlink()
    with pytest.raises(InputDataError, match=r"x\.csv: .*No such file"):
        list(read_rows(sources, "id", ()))


def test_a_file_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "x.csv", b"id,text\n1,a\n")

    def refuse(self: Path, *arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    sources = find_sources(str(path), "all", {})
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputDataError, match=r"x\.csv: .*Permission denied"):
        list(read_rows(sources, "id", ()))
