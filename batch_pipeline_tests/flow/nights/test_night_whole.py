"""A night from its input to its end: what comes out, in which form, and what it cost."""

from __future__ import annotations

import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from batch_pipeline.flow.dataset.requests.declaration import CUSTOM_ID
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.results.dead_letters import summarize
from batch_pipeline.flow.run import run
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.support import (
    MODEL,
    PARTITION,
    Faults,
    accepted_twice,
    by_id,
    dead_letters,
    documents,
    hive,
    job,
    results,
    statuses,
    submissions_of,
    write_rows,
)

# The contract's columns, in its order and with its types.
CONTRACT = [
    ("id", pa.string()),
    ("status", pa.string()),
    ("content", pa.string()),
    ("parsed", pa.string()),
    ("stop_reason", pa.string()),
    ("error_type", pa.string()),
    ("error_message", pa.string()),
    ("model", pa.string()),
    ("input_tokens", pa.int64()),
    ("output_tokens", pa.int64()),
    ("cache_write_5m_tokens", pa.int64()),
    ("cache_write_1h_tokens", pa.int64()),
    ("cache_read_tokens", pa.int64()),
    ("cost_usd", pa.decimal128(18, 12)),
    ("attempt", pa.int64()),
    ("mode", pa.string()),
    ("batch_id", pa.string()),
    ("custom_id", pa.string()),
    ("fingerprint", pa.string()),
    ("simulated", pa.bool_()),
    ("collected_at", pa.timestamp("us", "UTC")),
    ("answered_by", pa.string()),
    ("route", pa.string()),
    ("details", pa.string()),
]
DIRTY: list[dict[str, Any] | bytes] = [
    {"id": "null", "text": None},
    {"id": "blank", "text": " \n"},
    b'{"id": "bytes", "text": "caf\xe9"}',
]


def test_every_item_ends_in_one_row_with_the_columns_of_the_contract_whatever_its_state(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    ids = [" ", "a" * 300, "../x", "NULL", "日本", 'q"uote', "line\nbreak"]
    rows: list[dict[str, Any]] = [
        {"id": name, "text": f"text of {n}"} for n, name in enumerate(ids)
    ]
    rows.append({"id": 7, "text": "a number as id"})
    spec = job(
        write_rows(tmp_path / "in.jsonl", [*documents(10), *rows, *DIRTY]),
        prompt={"user": "{text}"},
        limits={"max_requests_per_batch": 12},
    )
    state = run(pipeline, spec, PARTITION)

    found = by_id(results(pipeline, spec))
    assert set(found) == {d["id"] for d in documents(10)} | {*ids, "7", "null", "blank", "bytes"}
    assert statuses(found.values()) == {"succeeded": 18, "invalid_input": 3}
    assert state.statuses == {"succeeded": 18, "invalid_input": 3}
    assert (state.items, state.settled, state.complete, state.batches) == (21, 21, True, 2)
    assert sim.books.accepted_requests == 18
    assert not accepted_twice(sim)
    for row in found.values():
        if row["status"] == "succeeded":
            assert row["content"]
            assert row["model"] == MODEL
            assert CUSTOM_ID.fullmatch(row["custom_id"])
            assert (row["mode"], row["attempt"], row["simulated"]) == ("batch", 1, True)
        else:
            assert row["content"] is None
            assert (row["attempt"], row["cost_usd"]) == (0, 0)
            assert row["custom_id"] is None
    assert found["null"]["error_message"] == "null in column 'text'"
    assert found["blank"]["error_message"] == "blank document"
    assert "undecodable" in found["bytes"]["error_message"]
    files = pipeline.files.list(f"{spec.name}/results/partition={PARTITION}", ".parquet")
    assert len(files) == 3
    for path in files:
        schema = pq.read_schema(pipeline.files.uri(path)).remove_metadata()
        assert [(field.name, field.type) for field in schema] == CONTRACT


def test_dead_letters_hold_the_input_row(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    long = {"id": "long", "text": "x" * 900, "page": 3}
    spec = job(
        write_rows(tmp_path / "in.jsonl", [*documents(3), *DIRTY, long]),
        prompt={"user": "{text}"},
        limits={"max_bytes_per_batch": 700},
    )
    state = run(pipeline, spec, PARTITION)

    letters = by_id(dead_letters(pipeline, spec))
    assert {name: row["reason"] for name, row in letters.items()} == {
        "null": "invalid_input", "blank": "invalid_input", "bytes": "invalid_input",
        "long": "too_large",
    }  # fmt: skip
    assert json.loads(letters["long"]["input"]) == long
    assert json.loads(letters["null"]["input"]) == DIRTY[0]
    assert "\\xe9" in json.loads(letters["bytes"]["input"])["text"]["$undecodable"]
    assert all(row["attempts"] == 0 and row["simulated"] for row in letters.values())
    assert (state.succeeded, state.dead_letter, state.complete) == (3, 4, True)
    assert by_id(results(pipeline, spec))["long"]["status"] == "too_large"
    groups = summarize(pipeline, spec.name, PARTITION)
    # Each cause is a group of its own, though all three are `invalid_input`.
    assert sorted((group.reason, group.items) for group in groups) == [
        *[("invalid_input", 1)] * 3,
        ("too_large", 1),
    ]


# In a process of its own: polars handles SIGINT from its first query on, and restarts what a signal
# interrupts, so that a later test's main thread would not wake.
BY_POLARS = """
import json, sys
import polars as pl
frame = pl.scan_parquet(sys.argv[1], hive_partitioning=True).collect()
print(json.dumps([frame.height, frame.columns]))
"""


def test_common_readers_see_a_hive_partitioned_dataset(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    for night in ("2026-01-01", "2026-01-02"):
        write_rows(tmp_path / f"{night}.jsonl", documents(5))
    spec = job(tmp_path / "{partition}.jsonl", partitions={"start": "2026-01-01"})
    for night in ("2026-01-01", "2026-01-02"):
        run(pipeline, spec, night)

    folder = pipeline.files.uri(f"{spec.name}/results")
    frame = pd.read_parquet(folder)
    scan = f"SELECT partition, count(*) FROM read_parquet('{folder}/**/*.parquet') GROUP BY ALL"
    counts = duckdb.connect().execute(scan).fetchall()
    by_polars = subprocess.run(
        [sys.executable, "-c", BY_POLARS, folder], capture_output=True, check=True, text=True
    )
    assert sorted(frame["partition"].astype(str).value_counts().items()) == [
        ("2026-01-01", 5),
        ("2026-01-02", 5),
    ]
    assert sorted((str(night), rows) for night, rows in counts) == [
        ("2026-01-01", 5),
        ("2026-01-02", 5),
    ]
    rows, columns = json.loads(by_polars.stdout)
    assert rows == hive(pipeline, spec).count_rows() == 10
    assert "partition" in columns


def test_an_empty_night_is_complete_and_readable(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    spec = job(write_rows(tmp_path / "in.jsonl", []), pilot={"size": 100})
    state = run(pipeline, spec, PARTITION)
    assert (state.complete, state.items, state.error_rate) == (True, 0, 0.0)
    assert sim.books.accepted_requests == 0
    frame = pd.read_parquet(pipeline.files.uri(f"{spec.name}/results"))
    assert list(frame.columns) == [name for name, _ in CONTRACT] + ["partition"]
    assert len(frame) == 0


def test_duplicates_are_bought_once_and_answer_every_item(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    rows = [{"id": str(n), "text": f"text {n % 4}"} for n in range(12)]
    spec = job(write_rows(tmp_path / "in.jsonl", rows))
    state = run(pipeline, spec, PARTITION)

    assert sim.books.accepted_requests == 4
    found = by_id(results(pipeline, spec))
    assert statuses(found.values()) == {"succeeded": 12}
    assert {len({found[str(n)]["content"] for n in range(k, 12, 4)}) for k in range(4)} == {1}
    # The first item of each content bears the cost.
    for n in range(12):
        bears = found[str(n)]["cost_usd"] > 0
        assert bears == (n < 4)
        assert (found[str(n)]["output_tokens"] > 0) == bears
    assert sum(row["cost_usd"] for row in found.values()) == state.total_cost_usd


def test_without_deduplication_each_item_is_bought(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    rows = [{"id": str(n), "text": f"text {n % 4}"} for n in range(12)]
    spec = job(write_rows(tmp_path / "in.jsonl", rows), deduplicate=False)
    run(pipeline, spec, PARTITION)
    assert set(accepted_twice(sim).values()) == {3}
    assert sim.books.accepted_requests == 12
    assert all(row["cost_usd"] > 0 for row in results(pipeline, spec))


def test_money_agrees_with_the_books(sim: Simulator, pipeline: Pipeline, tmp_path: Path) -> None:
    spec = job(
        write_rows(tmp_path / "in.jsonl", documents(60)),
        pilot={"size": 6},
        limits={"max_requests_per_batch": 25},
    )
    state = run(pipeline, spec, PARTITION)
    shown: Decimal = sum((row["cost_usd"] for row in results(pipeline, spec)), Decimal(0))
    assert shown == state.total_cost_usd == sim.books.batch_cost_usd + sim.books.realtime_cost_usd
    assert state.cost_usd == {
        "batch": sim.books.batch_cost_usd,
        "realtime": sim.books.realtime_cost_usd,
    }
    assert state.usage["output_tokens"] == sim.books.billed_tokens["output_tokens"]
    assert state.usage["input_tokens"] == sim.books.billed_tokens["input_tokens"]


def test_raw_lines_are_the_bytes_of_the_api(
    sim: Simulator, pipeline: Pipeline, faults: Faults, tmp_path: Path
) -> None:
    sent: dict[str, bytes] = {}

    def record(batch_id: str, chunks: object) -> object:
        # A text with every character that text-mode readers take for a line's end.
        for chunk in chunks:  # type: ignore[attr-defined]
            marked = chunk.replace(b'"text":"', '"text":"a\u2028b\u2029c\u0085d '.encode())
            sent[batch_id] = sent.get(batch_id, b"") + marked
            yield marked

    faults.on_results = record  # type: ignore[assignment]
    spec = job(
        write_rows(tmp_path / "in.jsonl", documents(10)), limits={"max_requests_per_batch": 5}
    )
    run(pipeline, spec, PARTITION)
    files = pipeline.files.list(f"{spec.name}/raw/partition={PARTITION}", ".jsonl.zst")
    assert len(files) == len(sent) == 2
    for path in files:
        with zstandard.open(pipeline.files.uri(path), "rb") as file:
            assert file.read() == sent[Path(path).name.removesuffix(".jsonl.zst")]
    assert all("a\u2028b\u2029c\u0085d " in row["content"] for row in results(pipeline, spec))


def test_answers_are_read_against_the_declared_schema(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    schema = {
        "type": "object",
        "properties": {"topic": {"type": "string"}},
        "required": ["topic"],
        "additionalProperties": False,
    }
    spec = job(write_rows(tmp_path / "in.jsonl", documents(5)), output_schema=schema)
    run(pipeline, spec, PARTITION)
    found = results(pipeline, spec)
    assert statuses(found) == {"succeeded": 5}
    assert all(list(orjson.loads(row["parsed"])) == ["topic"] for row in found)


@pytest.mark.parametrize(
    ("limits", "highest"),
    [({}, 9), ({"max_queued_requests": 4}, 3)],
    ids=["the account's limit", "the job's share of it"],
)
def test_the_queue_never_holds_more_than_it_may(
    sim: Simulator,
    make_pipeline: MakePipeline,
    tmp_path: Path,
    limits: dict[str, int],
    highest: int,
) -> None:
    pipeline = make_pipeline(max_queued_requests=10)
    spec = job(
        write_rows(tmp_path / "in.jsonl", documents(14)),
        limits={"max_requests_per_batch": 3, **limits},
    )
    sim.hold()
    run(pipeline, spec, PARTITION, wait=False)
    # As many whole shards as fit, and not one more.
    assert sim.books.highest_queue == highest
    sim.release()
    assert run(pipeline, spec, PARTITION).complete
    assert statuses(results(pipeline, spec)) == {"succeeded": 14}
    assert sim.books.highest_queue == highest
    assert not accepted_twice(sim)


def test_a_shard_is_never_larger_than_the_queue(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    pipeline = make_pipeline(max_queued_requests=4)
    spec = job(write_rows(tmp_path / "in.jsonl", documents(9)))
    assert run(pipeline, spec, PARTITION).complete
    assert [s.requests for s in submissions_of(pipeline)] == [4, 4, 1]


def test_a_full_queue_at_the_api_is_waited_out(
    sim: Simulator, make_pipeline: MakePipeline, faults: Faults, tmp_path: Path
) -> None:
    """Others fill the organisation's queue: the API says 429, and nothing is lost or tried hard."""
    sim.set_queue_limit(5)
    sim.set_turnaround(0.2)
    pipeline = make_pipeline()

    def at_once(_request: object, response: object) -> object:
        if response.status_code == 429:  # type: ignore[attr-defined]
            response.headers["retry-after"] = "0.1"  # type: ignore[attr-defined]
        return response

    faults.on_response = at_once  # type: ignore[assignment]
    spec = job(
        write_rows(tmp_path / "in.jsonl", documents(14)), limits={"max_requests_per_batch": 5}
    )
    assert run(pipeline, spec, PARTITION).complete
    assert sim.books.highest_queue <= 5
    assert not accepted_twice(sim)
    assert "refused" in {str(s.state) for s in submissions_of(pipeline)}
