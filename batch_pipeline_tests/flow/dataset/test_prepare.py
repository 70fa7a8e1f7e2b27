"""What a piece of the input becomes, by itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest

from batch_pipeline.flow.dataset import input_dataset
from batch_pipeline.flow.dataset.prepare import Prepared, prepare
from batch_pipeline.flow.dataset.reading.listing import find_sources
from batch_pipeline.flow.dataset.reading.splits import pieces_of
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.flow.dataset.requests.request_builder import RequestBuilder
from batch_pipeline.flow.dataset.snapshot import Codec, part_paths, read_inputs
from batch_pipeline.flow.dataset.sources.find import find_input
from batch_pipeline.flow.paths import part_name
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.storage.files import Files
from batch_pipeline_tests import support
from batch_pipeline_tests.flow.dataset.prepared_rows import SNAPSHOT
from batch_pipeline_tests.support import documents, job, write_rows

LONG = "a text of some length, so that it is not hashed twice " * 90


def prepared(
    folder: Path, rows: list[dict[str, Any]], user: str, codec: Codec = "none"
) -> Prepared:
    folder.mkdir()
    source = write_rows(folder / "in.jsonl", [orjson.dumps(row) for row in rows])
    [piece] = pieces_of(find_sources(str(source), "all", {}))
    declaration = Declaration.of(job(source, prompt={"user": user}))
    return prepare(0, piece, declaration, folder, codec)


@pytest.mark.parametrize("text", ["", " ", "\n\t", "\u2003", "\x1f"])
@pytest.mark.parametrize("user", ["{text}", "{text}{text}", "Summarize: {text}."])
def test_a_blank_document_is_set_aside(tmp_path: Path, text: str, user: str) -> None:
    rows = [{"id": "1", "text": "first"}, {"id": "2", "text": text}, {"id": "3", "text": " \nx"}]
    done = prepared(tmp_path / "x", rows, user)
    assert (done.items, done.set_aside.total()) == (3, 1)


@pytest.mark.parametrize("long", [False, True])
def test_the_content_is_all_that_the_rows_have(tmp_path: Path, long: bool) -> None:
    end = LONG if long else ""
    cells = [("a", "bc", 1), ("ab", "c", 1), ("a", "bc", 2), ("a", "bd", 1), ("a", "bc", 1)]
    found = [
        prepared(
            tmp_path / str(number),
            [{"id": "same", "first": first, "second": second + end, "note": note}],
            "{first}{second}",
        ).content
        for number, (first, second, note) in enumerate(cells)
    ]
    assert len(set(found)) == 4
    assert found[0] == found[4]


MIXED: list[dict[str, Any]] = [
    {"id": "common", "text": LONG},
    {"id": "blank", "text": " "},
    {"id": "another", "text": "short", "n": 1.5},
    {"id": "escaped", "text": "caf\u00e9 " + LONG},
    {"id": "escaped too", "text": "x\u2028"},
    {"id": "nested", "text": LONG, "list": [LONG]},
    {"id": 7, "text": "a number"},
    {"id": "no text", "text": None},
    {"id": "last", "text": LONG},
]


@pytest.mark.parametrize("codec", ["none", "zstd"])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\n\n"])
def test_each_row_is_found_again_and_makes_the_request_of_its_fingerprint(
    tmp_path: Path, codec: Codec, ending: str
) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(ending.join(map(json.dumps, MIXED)), newline="")
    [piece] = pieces_of(find_sources(str(source), "all", {}))
    declaration = Declaration.of(job(source, prompt={"user": "{text}"}))
    done = prepare(0, piece, declaration, tmp_path, codec)
    [part] = done.parts
    part.replace(tmp_path / part_name(0))
    table = pq.read_table(tmp_path / part_name(0))
    found = list(
        read_inputs(
            Files(str(tmp_path)),
            replace(SNAPSHOT, folder="."),
            table.column("ordinal").to_pylist(),
        )
    )
    assert [orjson.loads(row.text) for row in found] == MIXED
    assert table.column("id").to_pylist() == [str(row["id"]) for row in MIXED]
    builder = RequestBuilder(declaration)
    made = [
        None if fingerprint is None else builder.rebuild(row.text, row.places)
        for row, fingerprint in zip(found, table.column("fingerprint").to_pylist(), strict=True)
    ]
    assert [number for number, params in enumerate(made) if params is None] == [1, 7]
    sizes = [None if params is None else len(params) for params in made]
    assert table.column("request_bytes").to_pylist() == sizes
    fingerprints = [None if params is None else builder.fingerprint(params) for params in made]
    assert table.column("fingerprint").to_pylist() == fingerprints


@pytest.mark.parametrize(
    ("home", "room", "codec"),
    [("home", 2, "UNCOMPRESSED"), ("home", 1e15, "ZSTD"), ("memory://packed", 2, "ZSTD")],
)
def test_a_snapshot_is_compressed_where_room_or_the_network_is_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str, room: float, codec: str
) -> None:
    monkeypatch.setattr(input_dataset, "_ROOM", room)
    spec = job(write_rows(tmp_path / "in.jsonl", documents(10)))
    place = home if "://" in home else tmp_path / home
    ledger = f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    pipeline = Pipeline(support.settings(place, ledger_url=ledger))
    sources = find_input(pipeline, spec, "all")
    snapshot = input_dataset.read_snapshot(pipeline, spec, "all", sources)
    [part] = part_paths(snapshot)
    with pipeline.files.open(part) as file:
        group = pq.ParquetFile(file).metadata.row_group(0)
    found = [group.column(number).compression for number in range(group.num_columns)]
    assert set(found) == {codec}
