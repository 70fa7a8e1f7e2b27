"""The forms and types in which results are read, from a disk and from an object store."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_pipeline import read_results, scan_results
from batch_pipeline.errors import UsageError
from batch_pipeline.flow import paths
from batch_pipeline.flow.answers.schemas import RESULTS_SCHEMA
from batch_pipeline.reading import datasets
from batch_pipeline.reading.datasets import PARTITION
from batch_pipeline.storage.files import Files

NIGHTS = {"2026-01-01": True, "2026-01-02": True, "2026-01-03": False, "007": True}


@pytest.fixture(params=["local", "remote"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A home with four nights of three rows, of which one is not complete."""
    remote = f"memory://home-{uuid.uuid4().hex}"
    home = str(tmp_path / "home") if request.param == "local" else remote
    files = Files(home)
    for night, complete in NIGHTS.items():
        table = pa.Table.from_pylist([row(night, n) for n in range(3)], schema=RESULTS_SCHEMA)
        # Written before the newest columns were added.
        publish(files, f"{paths.results('review', night)}/a.parquet", table.drop(["route"]))
        report = orjson.dumps({"complete": complete})
        files.write(paths.report("review", night, ".json"), report)
    return home


def row(night: str, number: int) -> dict[str, Any]:
    return {
        "id": f"{night} {number}",
        "status": "succeeded" if number else "refused",
        "content": "=1+1",
        "parsed": '{"total": 1.10}' if number else None,
        "input_tokens": 7,
        "cost_usd": Decimal("0.000000000001") * (number + 1),
        "collected_at": datetime(2026, 1, 4, tzinfo=UTC),
        "simulated": True,
    }


def publish(files: Files, path: str, table: pa.Table) -> None:
    with files.staged() as staged:
        pq.write_table(table, staged)
        files.publish(staged, path)


def test_one_several_and_all_partitions_are_read(home: str) -> None:
    one = read_results("review", "007", home=home)
    assert list(one.columns) == [*RESULTS_SCHEMA.names, PARTITION.name]
    assert list(one["partition"]) == ["007"] * 3
    two = read_results("review", ["2026-01-02", "2026-01-01"], ["id"], home=home)
    assert list(two["id"].str[:10].unique()) == ["2026-01-02", "2026-01-01"]
    every = read_results("review", home=home, as_="arrow")
    assert set(every["partition"].to_pylist()) == {"007", "2026-01-01", "2026-01-02"}
    unfinished = read_results("review", incomplete="read", home=home, as_="arrow")
    assert unfinished.num_rows == 12
    assert read_results("review", "007", ["partition"], home=home, as_="arrow").num_rows == 3


def test_files_that_are_replaced_meanwhile_are_looked_for_again(
    home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, found = Files(home), datasets.is_complete
    folder = paths.results("review", "007")

    def replaced(*night: Any) -> bool:
        if files.list(folder, "a.parquet"):
            files.remove(f"{folder}/a.parquet")
            for number in range(2):
                table = pa.Table.from_pylist([row("007", number)], schema=RESULTS_SCHEMA)
                publish(files, f"{folder}/b-{number}.parquet", table)
        return found(*night)

    monkeypatch.setattr(datasets, "is_complete", replaced)
    assert list(read_results("review", "007", home=home)["id"]) == ["007 0", "007 1"]


def test_types_are_right_in_pandas(home: str) -> None:
    frame = read_results("review", "2026-01-01", home=home)
    assert frame["cost_usd"].sum() == Decimal("0.000000000006")
    kinds = {name: str(frame[name].dtype) for name in ("id", "input_tokens", "collected_at")}
    assert kinds == {"id": "str", "input_tokens": "int64", "collected_at": "datetime64[us, UTC]"}
    assert isinstance(frame["status"].dtype, pd.CategoricalDtype)
    assert isinstance(frame["route"].dtype, pd.CategoricalDtype)


def test_typed_nights_are_read_with_the_wider_type(home: str) -> None:
    files = Files(home)
    values: dict[str, list[Any]] = {
        "2026-01-01": [pa.nulls(1), Decimal("0.5"), 1],
        "2026-01-02": [["x"], Decimal("12.25"), 0.5],
    }
    for night, columns in values.items():
        arrays = [
            column if isinstance(column, (list, pa.Array)) else [column] for column in columns
        ]
        table = pa.table([[night], *arrays], names=["id", "text", "money", "number"])
        publish(files, f"{paths.typed('review', night)}/a.parquet", table)
    frame = read_results("review", list(values), dataset="typed", home=home)
    assert {name: str(frame[name].dtype) for name in ("text", "money", "number")} == {
        "text": "str",
        "money": "decimal128(4, 2)[pyarrow]",
        "number": "float64",
    }
    assert frame["money"].tolist() == [Decimal("0.50"), Decimal("12.25")]


def test_polars_reads_the_same_at_once_and_lazily(home: str) -> None:
    now = read_results("review", "2026-01-01", home=home, as_="polars")
    lazy = scan_results("review", "2026-01-01", home=home)
    assert lazy.collect().equals(now)
    assert now.schema["cost_usd"] == pl.Decimal(18, 12)
    assert now.schema["status"] == pl.Categorical()
    good = lazy.filter(pl.col("status") == "succeeded").select("id", "cost_usd")
    assert good.collect()["id"].to_list() == ["2026-01-01 1", "2026-01-01 2"]
    assert lazy.head(2).collect().height == 2


def test_batches_are_a_stream_with_the_schema_of_the_contract(home: str) -> None:
    reader = read_results("review", ["007"], home=home, as_="batches")
    assert isinstance(reader, pa.RecordBatchReader)
    assert reader.schema.equals(RESULTS_SCHEMA.append(PARTITION))
    assert sum(batch.num_rows for batch in reader) == 3


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"partition": "2026-01-03"}, "review 2026-01-03 is not complete"),
        ({"partition": ["007", "2026-02-01"]}, "review 2026-02-01 has no results"),
        ({"job": "other", "partition": None}, "other has no results"),
        ({"partition": "../007"}, "is no name"),
        ({"columns": ["id", "contents"]}, "has no column 'contents'"),
        ({"columns": "id"}, "columns is a list"),
        ({"dataset": "raw"}, "dataset is one of"),
        ({"dataset": "typed", "partition": "007"}, "has no typed dataset"),
        ({"as_": "spark"}, "as_ is 'pandas'"),
    ],
)
def test_what_cannot_be_read_is_refused(home: str, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_results(**{"job": "review", **asked}, home=home)
