"""What stops the night: files and columns that cannot be used, each named with its place."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_pipeline.errors import InputDataError
from batch_pipeline.flow.dataset.reading import columns, csv_format, formats
from batch_pipeline.flow.dataset.reading.columns import Wanted
from batch_pipeline.flow.dataset.reading.listing import find_sources
from batch_pipeline.flow.dataset.reading.rows import read_rows, read_section
from batch_pipeline.flow.dataset.reading.splits import Section
from batch_pipeline.jobs.input.inputs import CsvSpec
from batch_pipeline_tests.flow.dataset.reading.input_files import read, write, write_parquet


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
        ("x.csv", b",id,text\n0,1,a\n", ["column 1 has no name", "to_csv(index=False)"]),
        ("x.csv", b"id,text,,\n1,a,,\n", ["column 3 has no name", "Spreadsheets"]),
        ("x.csv", b"id,text\n1,a\n,\n", ["line 3", "null in column 'id'", "spreadsheets"]),
        ("x.csv", b"id,text\n1,a\n,,\n", ["line 3", "3 cells", "spreadsheets"]),
        ("x.csv", b"id,text\n1,a,,\n", ["line 2", "4 cells", "spreadsheets"]),
        ("x.csv", b"Unnamed: 0,text\n1,a\n", ["'id' is missing", "pandas", "index_label"]),
        ("x.csv", b"id;text\n1;a\n", ["'id;text'", 'input.csv: {delimiter: ";"}']),
        ("x.csv", b"id\ttext\n1\ta\n", ['input.csv: {delimiter: "\\t"}']),
        ("x.csv", b"sep=;\nid;text\n1;a\n", ["delete line 1", "input.csv"]),
        ("x.csv", b"id;t\xe9xt\n", ["not UTF-8", "input.csv: {encoding:", "separated"]),
        ("x.csv", "id,text\n".encode("utf-16"), ["input.csv: {encoding: utf-16}"]),
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


def test_rows_that_the_footer_has_and_the_columns_lack_are_missed() -> None:
    path = Path(__file__).parent / "data" / "columns_of_unequal_length.parquet"
    with pytest.raises(InputDataError, match=r"row group 1: 0 rows .* footer says 3"):
        read(path, ("string",), "int64")


def test_rows_are_counted_where_a_row_group_is_read_by_itself() -> None:
    path = Path(__file__).parent / "data" / "columns_of_unequal_length.parquet"
    (file,) = find_sources(str(path), "all", {}).files
    with pytest.raises(InputDataError, match="row group 1: 0 rows"):
        list(read_section(Section(file, 0, 1), Wanted("int64", ())))


@pytest.mark.parametrize("ending", ["gz", "zst"])
@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.jsonl", b'{"id":1,"text":"' + b"a" * 3_000),
        ("x.jsonl", b" " * 3_000),
        ("x.csv", b"id,text\n1," + b"a" * 3_000),
        ("x.csv", b"id,text\n1," + b"," * 3_000),
        ("x.csv", b'id,text\n1,"' + b"a\n" * 1_500),
        ("x.csv", b'id,text\n1,"' + b"\n" * 50),
        ("x.csv", b"id,text" + b",x" * 1_500),
    ],
)
def test_what_goes_on_without_end_is_refused_once_it_fits_in_no_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, name: str, data: bytes
) -> None:
    for module in (columns, csv_format, formats):
        monkeypatch.setattr(module, "ROW_BYTES", 1_000)
    path = write(tmp_path / f"{name}.{ending}", data)
    with pytest.raises(InputDataError, match=r"over 1,000 (bytes|characters)"):
        read(path)


def test_a_line_with_more_cells_than_any_table_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_format, "_WIDE_LINE", 100)
    monkeypatch.setattr(csv_format, "_MOST_COLUMNS", 50)
    with pytest.raises(InputDataError, match="over 50 cells"):
        read(write(tmp_path / "x.csv", b"id,text" + b",x" * 100))


def test_an_error_names_a_few_of_many_columns(tmp_path: Path) -> None:
    names = ",".join(f"c{number}" for number in range(100_000))
    with pytest.raises(InputDataError, match="and 99,980 more") as caught:
        read(write(tmp_path / "x.csv", names.encode()))
    assert len(str(caught.value)) < 1_000


def test_text_that_breaks_the_declared_encoding_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "id,text\n1,ä\n".encode("utf-16")[:-1])
    sources = find_sources(str(path), "all", {}, CsvSpec(encoding="utf-16"))
    with pytest.raises(InputDataError, match=r"line 2: no text in utf-16.*input\.csv\.encoding"):
        list(read_rows(sources, "id", ("text",)))


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
