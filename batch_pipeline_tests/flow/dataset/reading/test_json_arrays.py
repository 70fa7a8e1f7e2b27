"""JSON arrays, `.ndjson`, and CSV in which quotes have no meaning."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from batch_pipeline.errors import InputDataError
from batch_pipeline.flow.dataset.reading import json_format
from batch_pipeline.flow.dataset.reading.files import Kind
from batch_pipeline.flow.dataset.reading.listing import find_sources
from batch_pipeline.flow.dataset.reading.rows import read_rows
from batch_pipeline.jobs.input.inputs import CsvSpec

ROWS = [{"id": str(n), "text": f'a ] }} " {n} é', "n": {"list": [1.10, None]}} for n in range(50)]


def read(path: Path, csv: CsvSpec | None = None) -> list[bytes]:
    sources = find_sources(str(path), "all", {}, csv or CsvSpec())
    return [row.input for row in read_rows(sources, "id", ["text"])]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("block", [1, 7, 1 << 20])
def test_an_array_is_read_as_its_objects_stand(
    tmp_path: Path, indent: int | None, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_format, "_BLOCK", block)
    path = tmp_path / "in.json"
    path.write_text(json.dumps(ROWS, indent=indent, ensure_ascii=False), encoding="utf-8-sig")
    assert [json.loads(row) for row in read(path)] == ROWS


def test_an_array_may_be_compressed_or_empty_and_numbers_keep_their_digits(tmp_path: Path) -> None:
    text = '[{"id": "a", "text": 1.10, "big": 12345678901234567890123}]'
    (tmp_path / "in.json.gz").write_bytes(gzip.compress(text.encode()))
    assert read(tmp_path / "in.json.gz") == [text[1:-1].encode()]
    (tmp_path / "empty.json").write_text(" [ ] \n")
    assert read(tmp_path / "empty.json") == []


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"id": "a"}\n{"id": "b"}', r"begins with '\{'.*\.jsonl"),
        ('[{"id": "a", "text": "x"}, 5]', "row 2: an object is expected"),
        ('[{"id": "a", "text": "x"} {"id": "b"}]', "row 1: a comma"),
        ('[{"id": "a", "text": "x"}, {"id": "b", "te', "row 2: not JSON"),
        ('[{"id": "a", "text": "x"}', "row 1: a comma"),
        ('[{"id": "a", "text": "x"}] []', "goes on after the end"),
        ('[{"text": "x"}]', "row 1: the id column"),
        ("", "begins with ''"),
    ],
)
def test_what_is_no_array_of_objects_stops_the_night(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "in.json"
    path.write_text(text)
    with pytest.raises(InputDataError, match=named):
        read(path)


def test_ndjson_is_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "in.ndjson"
    path.write_text('{"id": "a", "text": "x"}\n')
    [file] = find_sources(str(path), "all", {}).files
    assert (file.kind, file.is_plain) == (Kind.JSONL, True)
    assert read(path) == [b'{"id": "a", "text": "x"}']


def test_quotes_are_characters_where_quoting_is_none(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text('id\ttext\n1\ta 5" pipe\n2\t"open\n')
    none = CsvSpec(delimiter="\t", quoting="none")
    texts = [json.loads(row)["text"] for row in read(path, none)]
    assert texts == ['a 5" pipe', '"open']
    with pytest.raises(InputDataError, match="quoting: none"):
        read(path, CsvSpec(delimiter="\t"))
    signatures = {
        find_sources(str(path), "all", {}, csv).signature for csv in (none, CsvSpec(delimiter="\t"))
    }
    assert len(signatures) == 2
