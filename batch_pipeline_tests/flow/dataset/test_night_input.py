"""Input that stops a night before anything is sent, and how the message names what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.errors import BatchPipelineError, InputDataError, UsageError
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.run import run
from batch_pipeline.flow.status import warnings
from batch_pipeline.ledger import alerts
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.support import PARTITION, documents, job, results, write_rows

A, B = {"id": "a", "text": "one"}, {"id": "b", "text": "two"}


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([A, B, {**A, "text": "three"}], ["'a'", "in.jsonl:1", "in.jsonl:3", "more than once"]),
        ([A, {"id": None, "text": "x"}], ["in.jsonl, line 2", "null in column 'id'"]),
        ([A, {"text": "x"}], ["in.jsonl, line 2", "'id'"]),
        ([{"id": "a", "body": "one"}, {"id": "b", "body": "two"}], ["'text'", "in.jsonl"]),
        ([A, b'{"id": "b", "text": '], ["in.jsonl", "line 2"]),
    ],
    ids=["duplicate ids", "null id", "no id", "missing column", "unreadable line"],
)
def test_a_night_that_cannot_be_read_sends_nothing(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path, rows: list[Any], named: list[str]
) -> None:
    spec = job(write_rows(tmp_path / "in.jsonl", rows))
    with pytest.raises(InputDataError) as caught:
        run(pipeline, spec, PARTITION)
    for part in named:
        assert part in str(caught.value)
    assert sim.books.accepted_requests == 0
    assert results(pipeline, spec) == []


def test_duplicate_ids_are_found_over_files_and_counted(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    write_rows(tmp_path / "1.jsonl", documents(40))
    write_rows(tmp_path / "2.jsonl", documents(8))
    with pytest.raises(InputDataError, match=r"8 ids of column 'id'") as caught:
        run(pipeline, job(tmp_path / "*.jsonl"), PARTITION)
    assert "1.jsonl:1" in str(caught.value)
    assert "2.jsonl:1" in str(caught.value)


def test_no_file_is_named(sim: Simulator, pipeline: Pipeline, tmp_path: Path) -> None:
    with pytest.raises(BatchPipelineError, match=r"nothing-\*\.jsonl"):
        run(pipeline, job(tmp_path / "nothing-*.jsonl"), PARTITION)
    assert sim.books.accepted_requests == 0


def test_a_damaged_file_stops_the_night(sim: Simulator, pipeline: Pipeline, tmp_path: Path) -> None:
    write_rows(tmp_path / "1.jsonl", documents(5))
    (tmp_path / "2.parquet").write_bytes(b"PAR1 and then something else")
    with pytest.raises(InputDataError, match=r"2\.parquet"):
        run(pipeline, job(tmp_path / "*"), PARTITION)
    assert sim.books.accepted_requests == 0


@pytest.mark.parametrize("data", ["", "\n\n"])
def test_an_input_without_rows_is_complete_and_told(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path, data: str, caplog: pytest.LogCaptureFixture
) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(data)
    state = run(pipeline, job(source), PARTITION)
    assert state.complete
    assert [warning.code for warning in warnings.of(state, job(source).alerts)] == ["empty_input"]
    assert "files without a row" in caplog.text
    with pipeline.ledger.read() as connection:
        [alert] = alerts.of_night(connection, state.night.id)
    assert alert.code == "empty_input"


def test_what_is_not_read_is_told(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_rows(tmp_path / "in.jsonl", documents(3))
    write_rows(tmp_path / "_more.jsonl", documents(3, start=3))
    assert run(pipeline, job(tmp_path / "*.jsonl"), PARTITION).items == 3
    assert "_more.jsonl" in caplog.text


@pytest.mark.parametrize(("invalid", "stops"), [(2, False), (3, True)])
def test_too_many_rows_to_set_aside_stop_the_night(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path, invalid: int, stops: bool
) -> None:
    rows = documents(20 - invalid) + [{"id": f"bad {n}", "text": None} for n in range(invalid)]
    spec = job(write_rows(tmp_path / "in.jsonl", rows), pilot={"size": 0, "max_error_rate": 0.1})
    if not stops:
        assert run(pipeline, spec, PARTITION).complete
        return
    with pytest.raises(InputDataError) as caught:
        run(pipeline, spec, PARTITION)
    for part in ("3 of 20 rows", "15.0%", "10.0%", "'bad 0'", "null in column 'text'"):
        assert part in str(caught.value)
    assert sim.books.accepted_requests == 0


def test_a_model_without_a_price_stops_the_night(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    spec = job(write_rows(tmp_path / "in.jsonl", documents(5)), model_id="claude-unheard-of")
    with pytest.raises(UsageError, match="claude-unheard-of"):
        run(pipeline, spec, PARTITION)
    assert sim.books.accepted_requests == 0


def test_a_night_with_a_problem_goes_on_once_it_is_corrected(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    source = write_rows(tmp_path / "in.jsonl", [A, A])
    with pytest.raises(InputDataError):
        run(pipeline, job(source), PARTITION)
    write_rows(source, [A, B])
    assert run(pipeline, job(source), PARTITION).complete
    assert [row["id"] for row in results(pipeline, job(source))] == ["a", "b"]
