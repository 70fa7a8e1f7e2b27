"""The report of whole nights: it agrees with the results, with each answer, and with the biller."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.flow import night as stations
from batch_pipeline.flow import paths, progress, standing_answers
from batch_pipeline.flow import report as reports
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.progress import USAGE
from batch_pipeline.flow.report import build_report, write_report
from batch_pipeline.flow.run import run
from batch_pipeline.money.prices import TokenUsage, find_price
from batch_pipeline.money.report import Report, as_json, to_json
from batch_pipeline.simulator import Simulator
from batch_pipeline.spec import JobSpec
from batch_pipeline.state import nights, submissions
from batch_pipeline.state.submissions import State
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.support import (
    MODEL,
    PARTITION,
    RealApi,
    dead_letters,
    documents,
    job,
    results,
    write_rows,
)

PILOT = {"size": 10, "max_error_rate": 1, "max_truncated_rate": 1}


def read(pipeline: Pipeline, suffix: str) -> str:
    data = pipeline.files.read(paths.report("review", PARTITION, suffix))
    assert data is not None
    return data.decode()


def read_json(pipeline: Pipeline) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(read(pipeline, ".json"), parse_float=Decimal)
    return found


def finished(pipeline: Pipeline, spec: JobSpec) -> Report:
    return write_report(pipeline, spec, run(pipeline, spec, PARTITION).night)


def shown_cost(pipeline: Pipeline, spec: JobSpec) -> Decimal:
    return sum((row["cost_usd"] for row in results(pipeline, spec)), Decimal(0))


def priced_one_by_one(pipeline: Pipeline, model_id: str) -> Decimal:
    """All answers of the one night there is, each at the real-time price of today."""
    price = find_price(model_id, datetime.now(UTC))
    with pipeline.ledger.read() as connection:
        [night] = nights.list_nights(connection)
        collected = submissions.of_night(connection, night.id, State.COLLECTED)
    answers = pipeline.files.dataset(standing_answers.answer_paths(night, collected))
    return sum(
        (
            price.cost(TokenUsage(*(row[name] for name in USAGE)), mode="realtime")
            for row in answers.to_table(columns=list(USAGE)).to_pylist()
        ),
        Decimal(0),
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    rows = documents(60)
    rows += [{"id": "twin", "text": rows[0]["text"]}, {"id": "null", "text": None}]
    return write_rows(tmp_path / "input.jsonl", rows)


def test_a_night_by_both_engines_agrees_with_results_answers_and_biller(
    pipeline: Pipeline, sim: Simulator, source: Path
) -> None:
    # Little room for an answer: some are cut off and set aside.
    spec = job(source, max_tokens=3, pilot=PILOT, limits={"max_requests_per_batch": 20})
    report = finished(pipeline, spec)
    costs = report.costs
    assert costs.batch_usd == sim.books.batch_cost_usd > 0
    assert costs.realtime_usd == sim.books.realtime_cost_usd > 0
    assert shown_cost(pipeline, spec) + costs.unattributed_usd == costs.billed_usd
    assert costs.unattributed_usd == 0
    assert costs.counterfactual_usd == priced_one_by_one(pipeline, MODEL)
    # A batch costs half; what went out in real time saves nothing.
    assert costs.savings_usd == costs.batch_usd
    assert report.tokens.output_tokens == sim.books.billed_tokens["output_tokens"]
    assert report.items == report.settled == 62
    assert report.dead_letter == len(dead_letters(pipeline, spec)) > 1
    assert sum(group.items for group in report.set_aside) == report.dead_letter
    assert report.simulated
    assert report.complete
    assert report.estimated_usd is not None


def test_files_say_the_same_as_the_report(pipeline: Pipeline, source: Path, sim: Simulator) -> None:
    spec = job(source, pilot=PILOT)
    report = finished(pipeline, spec)
    document = read_json(pipeline)
    with pipeline.ledger.read() as connection:
        [night] = nights.list_nights(connection)
        common = progress.as_json(progress.of_night(connection, night.id))
    assert common.items() <= document.items()
    assert document["batch_cost_usd"] == report.costs.batch_usd
    assert document["complete"] is True
    assert Path(document["results_path"]).is_absolute()
    assert Path(document["results_path"]).is_dir()
    assert read(pipeline, ".json") == to_json(report)
    assert "SIMULATED" in read(pipeline, ".md")
    assert "SIMULATED" in read(pipeline, ".html")


def test_what_left_the_input_stays_on_the_bill(
    pipeline: Pipeline, sim: Simulator, tmp_path: Path
) -> None:
    source = write_rows(tmp_path / "input.jsonl", documents(12))
    spec = job(source)
    before = finished(pipeline, spec).costs
    write_rows(source, documents(12, start=6))
    report = finished(pipeline, spec)
    assert report.costs.unattributed_usd > 0
    assert shown_cost(pipeline, spec) + report.costs.unattributed_usd == report.costs.billed_usd
    assert report.costs.billed_usd == sim.books.batch_cost_usd > before.billed_usd
    assert report.costs.counterfactual_usd == 2 * report.costs.billed_usd
    assert (report.items, report.succeeded, report.batches) == (12, 12, 2)


def test_each_answer_is_priced_by_its_own_prompt_length(
    pipeline: Pipeline, sim: Simulator, tmp_path: Path
) -> None:
    model = "claude-haiku-5-5"  # costs more above 100,000 prompt tokens
    rows = [*documents(3), {"id": "long", "text": "a long contract " * 30_000}]
    spec = job(write_rows(tmp_path / "input.jsonl", rows), model_id=model)
    report = finished(pipeline, spec)
    assert report.tokens.input_tokens > 100_000
    assert report.costs.counterfactual_usd == priced_one_by_one(pipeline, model)
    assert report.costs.savings_usd == report.costs.batch_usd == sim.books.batch_cost_usd
    flat = find_price(model, datetime.now(UTC)).cost(report.tokens, mode="realtime")
    untiered = find_price(model, datetime.now(UTC)).realtime.prices[0]
    assert report.costs.counterfactual_usd < flat
    assert report.costs.counterfactual_usd > untiered.input * report.tokens.input_tokens


def test_a_changed_model_is_priced_as_it_was_asked(
    pipeline: Pipeline, sim: Simulator, tmp_path: Path
) -> None:
    source = write_rows(tmp_path / "input.jsonl", documents(4))
    finished(pipeline, job(source, model_id="claude-sonnet-4-6"))
    report = finished(pipeline, job(source))
    assert (report.model.model_id, report.other_models) == (MODEL, ("claude-sonnet-4-6",))
    assert report.costs.counterfactual_usd == 2 * sim.books.batch_cost_usd


def test_retried_answers_are_counted(pipeline: Pipeline, sim: Simulator, tmp_path: Path) -> None:
    source = write_rows(tmp_path / "input.jsonl", documents(5))
    spec = job(source)
    sim.hold()
    night = run(pipeline, spec, PARTITION, wait=False).night
    cancel_elsewhere(pipeline, sim)
    sim.release()
    report = write_report(pipeline, spec, run(pipeline, spec, PARTITION).night)
    assert night.completed_at is None
    assert (report.batches, report.retries, report.succeeded) == (2, 5, 5)
    assert report.costs.unattributed_usd == 0


def cancel_elsewhere(pipeline: Pipeline, sim: Simulator) -> None:
    """Cancel what is in flight without the ledger: its requests go out again as retries."""
    sim.set_done_at_cancel(0.0)
    with pipeline.ledger.read() as connection:
        for submission in submissions.find(connection, states=[State.ACCEPTED]):
            assert submission.batch_id is not None
            pipeline.api.cancel_batch(submission.batch_id)


def test_an_empty_night(pipeline: Pipeline, tmp_path: Path) -> None:
    spec = job(write_rows(tmp_path / "input.jsonl", []))
    report = finished(pipeline, spec)
    document = read_json(pipeline)
    assert (document["items"], document["complete"]) == (0, True)
    assert document["cost_per_document_usd"] is None
    assert as_json(report)["savings_usd"] == 0


def test_a_night_on_its_way_is_reported_as_not_complete(
    pipeline: Pipeline, sim: Simulator, source: Path
) -> None:
    spec = job(source, pilot=PILOT)
    new = stations.open_night(pipeline, spec, PARTITION)
    assert not build_report(pipeline, spec, new).complete
    sim.hold()
    night = run(pipeline, spec, PARTITION, wait=False).night
    report = write_report(pipeline, spec, night)
    assert not report.complete
    assert read_json(pipeline)["complete"] is False
    assert report.costs.batch_usd == 0
    assert report.costs.realtime_usd == sim.books.realtime_cost_usd > 0
    assert 0 < report.settled < report.items


def test_a_file_that_is_about_to_be_collected_does_not_count_yet(
    pipeline: Pipeline, sim: Simulator, source: Path
) -> None:
    spec = job(source, pilot=PILOT)
    sim.hold()
    night = run(pipeline, spec, PARTITION, wait=False).night
    before = build_report(pipeline, spec, night)
    folder = paths.results(spec.name, PARTITION)
    with pipeline.ledger.read() as connection:
        [pending] = submissions.of_night(connection, night.id, State.ACCEPTED)
        [pilot] = submissions.of_night(connection, night.id, State.COLLECTED)
    data = pipeline.files.read(f"{folder}/{pilot.token}.parquet")
    assert data is not None
    pipeline.files.write(f"{folder}/{pending.batch_id}.parquet", data)
    assert build_report(pipeline, spec, night).costs == before.costs


def test_an_outdated_signal_of_completion_is_not_written(
    pipeline: Pipeline, sim: Simulator, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = job(source)
    night = run(pipeline, spec, PARTITION).night
    built = []

    def build_while_another_process_takes_the_night_up(*given: Any) -> Report:
        built.append(build_report(*given))
        with pipeline.ledger.write() as connection:
            nights.update_night(connection, night.id, completed_at=None)
        return built[-1]

    monkeypatch.setattr(reports, "build_report", build_while_another_process_takes_the_night_up)
    assert not write_report(pipeline, spec, night).complete
    assert [report.complete for report in built] == [True, False]
    assert read_json(pipeline)["complete"] is False


def test_another_accounts_report_is_left_alone(
    pipeline: Pipeline, make_pipeline: MakePipeline, source: Path
) -> None:
    spec = job(source)
    simulated = finished(pipeline, spec)
    other = make_pipeline(api=RealApi())
    night = stations.open_night(other, spec, PARTITION)
    report = write_report(other, spec, night)
    assert (report.account, report.items, report.set_aside) == ("default", 0, ())
    assert read(pipeline, ".json") == to_json(simulated)
