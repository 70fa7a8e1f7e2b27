"""What went into each source comes out row for row: in the snapshot, and as one result for each."""

from __future__ import annotations

import csv
import gzip
import io
import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from batch_pipeline.flow import paths
from batch_pipeline.flow.dataset.sources.frames import FramesSource, keep
from batch_pipeline.flow.night_input import take_input
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.run import run
from batch_pipeline.flow.steps import open_night
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import snapshots
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.support import PARTITION, accepted_twice, job, results

Rows = list[dict[str, Any]]
Put = Callable[["Place", Rows], dict[str, Any]]

ROWS: Rows = [
    {"id": "007", "text": 'says "no", then\n\tnew line', "number": 1, "share": 0.1},
    {"id": "Akte 1/ä", "text": "emoji 🜁 and \u2028 separators", "number": None, "share": -2.5e-9},
    {"id": "{x}", "text": "{partition} :partition ${HOME} \\n", "number": 2**53 + 1, "share": None},
]
TABLE = pa.Table.from_pylist(ROWS)


class Place:
    """Where a test puts its rows, and what the declared input needs to find them."""

    def __init__(self, folder: Path, pipeline: Pipeline, request: pytest.FixtureRequest) -> None:
        self.folder, self.pipeline, self.request = folder, pipeline, request

    def file(self, name: str, data: bytes, **declared: Any) -> dict[str, Any]:
        (self.folder / name).write_bytes(data)
        return {"path": str(self.folder / name), **declared}


def parquet(place: Place, rows: Rows) -> dict[str, Any]:
    pq.write_table(pa.Table.from_pylist(rows), place.folder / "rows.parquet")
    return {"path": str(place.folder / "rows.parquet")}


def csv_file(place: Place, rows: Rows) -> dict[str, Any]:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), delimiter=";")
    writer.writeheader()
    writer.writerows(rows)
    return place.file("rows.csv", text.getvalue().encode(), csv={"delimiter": ";"})


def ndjson(place: Place, rows: Rows) -> dict[str, Any]:
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    return place.file("rows.ndjson.gz", gzip.compress(lines.encode()))


def array(place: Place, rows: Rows) -> dict[str, Any]:
    return place.file("rows.json", json.dumps(rows, indent=2, ensure_ascii=False).encode())


def database(url_fixture: str) -> Put:
    def put(place: Place, rows: Rows) -> dict[str, Any]:
        url = f"sqlite:///{place.folder / 'rows.sqlite'}"
        if url_fixture:
            url = place.request.getfixturevalue(url_fixture)
        place.request.getfixturevalue("monkeypatch").setenv("WAREHOUSE", url)
        engine = sa.create_engine(url)
        with engine.begin() as connection:
            types = "id text, text text, number bigint, share double precision"
            connection.execute(sa.text(f"CREATE TABLE rows_in ({types})"))
            connection.execute(
                sa.text("INSERT INTO rows_in VALUES (:id, :text, :number, :share)"), rows
            )
        engine.dispose()
        return {"sql": {"url_env": "WAREHOUSE", "query": "SELECT * FROM rows_in"}}

    return put


def delta(place: Place, rows: Rows) -> dict[str, Any]:
    deltalake = pytest.importorskip("deltalake")
    deltalake.write_deltalake(str(place.folder / "lake"), pa.Table.from_pylist(rows))
    return {"delta": {"uri": str(place.folder / "lake")}}


def frame(of: Callable[[pa.Table], Any]) -> Put:
    def put(place: Place, rows: Rows) -> dict[str, Any]:
        source = FramesSource("raw/x", [of(pa.Table.from_pylist(rows))])
        keep(place.pipeline.files, "review", PARTITION, source, "v1")
        return {"asset": {"key": "raw/x"}}

    return put


def as_text(row: dict[str, Any]) -> dict[str, Any]:
    """A row as CSV has it."""
    return {name: None if value is None else str(value) for name, value in row.items()}


SOURCES: dict[str, Put] = {
    "parquet": parquet,
    "csv": csv_file,
    "ndjson": ndjson,
    "array": array,
    "sqlite": database(""),
    "postgres": database("postgres_url"),
    "delta": delta,
    "pandas": frame(lambda table: table.to_pandas(types_mapper=pd.ArrowDtype)),
    "polars": frame(pl.from_arrow),
    "lazy": frame(lambda table: pl.from_arrow(table).lazy()),  # type: ignore[union-attr]
    "arrow": frame(lambda table: table),
}


def taken(pipeline: Pipeline, spec: JobSpec) -> dict[str, dict[str, Any]]:
    """The rows of the night's snapshot by id."""
    night = open_night(pipeline, spec, PARTITION)
    with pipeline.ledger.read() as connection:
        snapshot = snapshots.get_snapshot(connection, night.snapshot_id or 0)
    [layer] = snapshot.layers
    parts = paths.parts_in(layer.folder, layer.parts)
    found = pipeline.files.dataset(parts).to_table(columns=["id", "input"]).to_pylist()
    assert len(found) == snapshot.items
    return {row["id"]: json.loads(row["input"]) for row in found}


@pytest.mark.parametrize("source", SOURCES)
def test_what_went_in_comes_out_row_for_row(
    sim: Simulator,
    pipeline: Pipeline,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    source: str,
) -> None:
    spec = job("", input=SOURCES[source](Place(tmp_path, pipeline, request), ROWS))
    take_input(pipeline, spec, open_night(pipeline, spec, PARTITION))
    wanted = [as_text(row) for row in ROWS] if source == "csv" else ROWS
    assert taken(pipeline, spec) == {row["id"]: row for row in wanted}


def test_a_copy_in_a_remote_home_is_read_from_there_and_each_row_has_its_result(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    ledger = f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    pipeline = make_pipeline(home=f"memory://home-{uuid.uuid4().hex}", ledger_url=ledger)
    spec = job("", input=SOURCES["sqlite"](Place(tmp_path, pipeline, request), ROWS))
    run(pipeline, spec, PARTITION)
    assert taken(pipeline, spec) == {row["id"]: row for row in ROWS}
    assert not (tmp_path / "home").exists()
    assert [row["id"] for row in results(pipeline, spec)] == sorted(row["id"] for row in ROWS)
    assert sim.books.accepted_requests == len(ROWS)
    assert not accepted_twice(sim)


def test_types_that_json_lacks_keep_their_digits(pipeline: Pipeline) -> None:
    table = pa.table(
        {
            "id": ["a"],
            "text": ["x"],
            "share": pa.array([0.1], pa.float32()),
            "money": pa.array([Decimal("1.10")], pa.decimal128(9, 2)),
            "at": pa.array([datetime(2026, 3, 29, 1, 30, tzinfo=UTC)]),
            "tags": [["x"]],
        }
    )
    spec = job("", input={"asset": {"key": "raw/x"}})
    keep(pipeline.files, "review", PARTITION, FramesSource("raw/x", [table]), "v1")
    take_input(pipeline, spec, open_night(pipeline, spec, PARTITION))
    assert taken(pipeline, spec) == {
        "a": {
            "id": "a",
            "text": "x",
            "share": 0.1,
            "money": "1.10",
            "at": "2026-03-29T01:30:00+00:00",
            "tags": ["x"],
        }
    }
