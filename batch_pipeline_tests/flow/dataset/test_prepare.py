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
from batch_pipeline.flow.dataset.files import find_sources
from batch_pipeline.flow.dataset.prepare import DIGEST_BYTES, prepare
from batch_pipeline.flow.dataset.prepared import Prepared
from batch_pipeline.flow.dataset.requests import Declaration, RequestBuilder
from batch_pipeline.flow.dataset.snapshot import part_paths, read_inputs
from batch_pipeline.flow.dataset.splits import pieces_of
from batch_pipeline.flow.paths import documents_of, part_name
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.storage.files import Files
from batch_pipeline_tests import support
from batch_pipeline_tests.flow.dataset.prepared_rows import SNAPSHOT
from batch_pipeline_tests.support import documents, job, write_rows

LONG = "a text of some length, so that it is not hashed twice " * 20


def prepared(
    folder: Path, rows: list[dict[str, Any]], user: str, *, packed: bool = False
) -> Prepared:
    folder.mkdir()
    source = write_rows(folder / "in.jsonl", [orjson.dumps(row) for row in rows])
    [piece] = pieces_of(find_sources(str(source), "all", {}))
    declaration = Declaration.of(job(source, prompt={"user": user}))
    return prepare(0, piece, declaration, folder, packed)


@pytest.mark.parametrize("text", ["", " ", "\n\t", "\u2003", "\x1f"])
@pytest.mark.parametrize(
    ("user", "set_aside"), [("{text}", 1), ("{text}{text}", 1), ("{text}.", 0)]
)
def test_a_blank_prompt_is_set_aside(tmp_path: Path, text: str, user: str, set_aside: int) -> None:
    rows = [{"id": "1", "text": "first"}, {"id": "2", "text": text}, {"id": "3", "text": " \nx"}]
    done = prepared(tmp_path / "x", rows, user)
    assert (done.items, done.set_aside.total()) == (3, set_aside)


@pytest.mark.parametrize("long", [False, True])
def test_a_digest_is_of_all_that_a_row_has(tmp_path: Path, long: bool) -> None:
    end = LONG if long else ""
    cells = [("a", "bc", 1), ("ab", "c", 1), ("a", "bc", 2), ("a", "bd", 1), ("a", "bc", 1)]
    rows = [
        {"id": "same", "first": first, "second": second + end, "note": note}
        for first, second, note in cells
    ]
    digests = prepared(tmp_path / "x", rows, "{first}{second}").digests
    each = [digests[at : at + DIGEST_BYTES] for at in range(0, len(digests), DIGEST_BYTES)]
    assert len(set(each)) == 4
    assert each[0] == each[4]


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


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\n\n"])
def test_each_row_is_found_again_and_makes_the_request_of_its_fingerprint(
    tmp_path: Path, packed: bool, ending: str
) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(ending.join(map(json.dumps, MIXED)), newline="")
    [piece] = pieces_of(find_sources(str(source), "all", {}))
    declaration = Declaration.of(job(source, prompt={"user": "{text}"}))
    done = prepare(0, piece, declaration, tmp_path, packed)
    [part] = done.parts
    input_dataset.name_part(part, 0)
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
        None if fingerprint is None else builder.rebuild(row.text, None, row.places)
        for row, fingerprint in zip(found, table.column("fingerprint").to_pylist(), strict=True)
    ]
    assert [number for number, params in enumerate(made) if params is None] == [1, 7]
    sizes = [None if params is None else len(params) for params in made]
    assert table.column("request_bytes").to_pylist() == sizes
    fingerprints = [None if params is None else builder.fingerprint(params) for params in made]
    assert table.column("fingerprint").to_pylist() == fingerprints


def test_packed_documents_are_the_same(tmp_path: Path) -> None:
    rows = [{"id": str(number), "text": LONG} for number in range(50)]
    made = [
        prepared(tmp_path / str(packed), rows, "{text}", packed=packed) for packed in (False, True)
    ]
    assert made[0].digests == made[1].digests
    [[plain], [packed]] = (each.parts for each in made)
    documents = Path(documents_of(str(plain)))
    assert documents.read_bytes() == (tmp_path / "False" / "in.jsonl").read_bytes()
    assert not Path(documents_of(str(packed))).exists()
    tables = [pq.read_table(part).drop_columns("source") for part in (plain, packed)]
    assert tables[0].drop_columns(["at", "bytes"]) == tables[1].drop_columns("input")
    assert documents.stat().st_size > 2 * packed.stat().st_size


@pytest.mark.parametrize(
    ("home", "room", "packed"),
    [("home", 2, False), ("home", 1e15, True), ("memory://packed", 2, True)],
)
def test_documents_are_packed_where_room_or_the_network_is_short(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    home: str,
    room: float,
    packed: bool,
) -> None:
    monkeypatch.setattr(input_dataset, "_ROOM", room)
    spec = job(write_rows(tmp_path / "in.jsonl", documents(10)))
    place = home if "://" in home else tmp_path / home
    ledger = f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    pipeline = Pipeline(support.settings(place, ledger_url=ledger))
    sources = input_dataset.find_input(pipeline, spec, "all")
    snapshot = input_dataset.read_snapshot(pipeline, spec, "all", sources)
    [part] = part_paths(snapshot)
    with pipeline.files.open(part) as file:
        group = pq.ParquetFile(file).metadata.row_group(0)
    found = [group.column(number) for number in range(group.num_columns)]
    assert {column.compression for column in found} == {"ZSTD"}
    assert ("input" in {column.path_in_schema for column in found}) is packed
    assert bool(pipeline.files.list(snapshot.folder, ".jsonl")) is not packed
