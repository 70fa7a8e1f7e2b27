"""The report of whole nights: it agrees with the results, with each answer, and with the biller."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.flow import paths, steps
from batch_pipeline.flow.answers import answers as night_answers
from batch_pipeline.flow.costs import cost_report as reports
from batch_pipeline.flow.costs.cost_report import build_report, write_report
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.run import run
from batch_pipeline.flow.status import progress
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import nights
from batch_pipeline.ledger.submissions import submissions
from batch_pipeline.ledger.submissions.submissions import State
from batch_pipeline.pricing.prices import find_price
from batch_pipeline.pricing.tokens import TOKENS, TokenUsage
from batch_pipeline.reporting.report.report import Report
from batch_pipeline.reporting.report.report_json import as_json, to_json
from batch_pipeline.simulator import Simulator
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
    answers = pipeline.files.dataset(night_answers.answer_paths(night, collected))
    return sum(
        (
            price.cost(TokenUsage(*(row[name] for name in TOKENS)), mode="realtime")
            for row in answers.to_table(columns=list(TOKENS)).to_pylist()
        ),
        Decimal(0),
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """60 documents, a duplicate of the first, and a row without a text."""
    rows = documents(60)
    rows += [{"id": "twin", "text": rows[0]["text"]}, {"id": "null", "text": None}]
    return write_rows(tmp_path / "input.jsonl", rows)


def test_a_night_by_both_engines_agrees_with_results_answers_biller_and_files(
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

    document = read_json(pipeline)
    with pipeline.ledger.read() as connection:
        [night] = nights.list_nights(connection)
        common = progress.as_json(progress.of_night(connection, night.id))
    assert common.items() <= document.items()
    assert document["batch_cost_usd"] == costs.batch_usd
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
            pipeline.api_of("simulator").cancel_batch(submission.batch_id)


def test_an_empty_night(pipeline: Pipeline, tmp_path: Path) -> None:
    spec = job(write_rows(tmp_path / "input.jsonl", []))
    report = finished(pipeline, spec)
    document = read_json(pipeline)
    assert (document["items"], document["complete"]) == (0, True)
    assert document["cost_per_document_usd"] is None
    assert as_json(report)["savings_usd"] == 0


def test_a_night_on_its_way_is_reported_as_not_complete_and_without_what_is_about_to_be_collected(
    pipeline: Pipeline, sim: Simulator, source: Path
) -> None:
    spec = job(source, pilot=PILOT)
    new = steps.open_night(pipeline, spec, PARTITION)
    assert not build_report(pipeline, spec, new).complete
    sim.hold()
    night = run(pipeline, spec, PARTITION, wait=False).night
    report = write_report(pipeline, spec, night)
    assert not report.complete
    assert read_json(pipeline)["complete"] is False
    assert report.costs.batch_usd == 0
    assert report.costs.realtime_usd == sim.books.realtime_cost_usd > 0
    assert 0 < report.settled < report.items

    folder = paths.results(spec.name, PARTITION)
    with pipeline.ledger.read() as connection:
        [pending] = submissions.of_night(connection, night.id, State.ACCEPTED)
        [pilot] = submissions.of_night(connection, night.id, State.COLLECTED)
    data = pipeline.files.read(f"{folder}/{pilot.token}.parquet")
    assert data is not None
    pipeline.files.write(f"{folder}/{pending.batch_id}.parquet", data)
    assert build_report(pipeline, spec, night).costs == report.costs


def test_another_accounts_report_and_an_outdated_signal_of_completion_are_not_written(
    pipeline: Pipeline, make_pipeline: MakePipeline, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = job(source)
    night = run(pipeline, spec, PARTITION).night
    simulated = write_report(pipeline, spec, night)
    other = make_pipeline(api=RealApi())
    report = write_report(other, spec, steps.open_night(other, spec, PARTITION))
    assert (report.account, report.items, report.set_aside) == ("default", 0, ())
    assert read(pipeline, ".json") == to_json(simulated)

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


def test_what_was_billed_is_told_by_model_way_and_use(
    pipeline: Pipeline, sim: Simulator, source: Path
) -> None:
    finished(pipeline, job(source, model_id="claude-sonnet-4-6", max_tokens=3))
    report = finished(pipeline, job(source, pilot=PILOT))
    costs = report.costs
    ways = {(usage.model_id, usage.mode) for usage in report.models}
    assert ways == {("claude-sonnet-4-6", "batch"), (MODEL, "batch"), (MODEL, "realtime")}
    assert sum((usage.usd for usage in report.models), Decimal(0)) == costs.billed_usd
    summed = sum((usage.tokens for usage in report.models), TokenUsage())
    assert summed == report.tokens
    assert summed.output_tokens == sim.books.billed_tokens["output_tokens"]
    # Some were cut off under the former declaration.
    [wasted] = report.wasted
    cut_off = [answer for answer in all_answers(pipeline) if answer["status"] == "truncated"]
    assert (wasted.reason, wasted.answers) == ("truncated", len(cut_off))
    assert wasted.usd == sum(answer["cost_usd"] for answer in cut_off) > 0


def test_distributions_are_those_of_the_billed_answers(
    pipeline: Pipeline, sim: Simulator, tmp_path: Path
) -> None:
    texts = ["word " * (n + 1) ** 2 for n in range(40)]
    rows = [{"id": str(n), "text": text} for n, text in enumerate(texts)]
    report = finished(pipeline, job(write_rows(tmp_path / "input.jsonl", rows)))
    for found, column in (
        (report.prompt_tokens, "input_tokens"), (report.output_tokens, "output_tokens")
    ):  # fmt: skip
        assert found is not None
        values = sorted(answer[column] for answer in all_answers(pipeline))
        assert found.values == sum(found.counts) == 40
        assert (found.minimum, found.maximum) == (values[0], values[-1])
        assert found.mean == pytest.approx(sum(values) / 40)
        assert (found.median, found.p95) == (values[19], values[37])


def test_the_difference_from_the_estimate_is_explained_to_the_last_digit(
    pipeline: Pipeline, sim: Simulator, tmp_path: Path
) -> None:
    # The tail is much longer than what a small sample can know.
    rows = [*documents(100), {"id": "long", "text": "a long contract " * 20_000}]
    spec = job(write_rows(tmp_path / "input.jsonl", rows), pilot=PILOT)
    report = finished(pipeline, spec)
    before, by_pilot = report.differences
    assert by_pilot.expected_usd == report.estimated_usd
    for found in (before, by_pilot):
        assert found.actual_usd == report.costs.billed_usd
        assert sum(found.reasons.values(), found.expected_usd) == found.actual_usd
        assert found.reasons["items"] == found.reasons["duplicates"] == 0
    # Nothing was measured before: each answer counted at `max_tokens`, and was shorter.
    assert before.reasons["output_tokens"] < 0
    documents_of = read_json(pipeline)["differences"]
    assert [each["difference_usd"] for each in documents_of] == [before.usd, by_pilot.usd]


def test_the_trend_is_the_jobs_latest_nights_under_the_account(
    pipeline: Pipeline, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    source = write_rows(tmp_path / "input.jsonl", documents(3))
    declared = {"path": str(source), "same_every_night": True}
    # Its clocks are put back by two hours: keys as texts are not in the order of time.
    hours = {"every": "hour", "start": "2026-10-25", "timezone": "Antarctica/Troll"}
    spec = job(source, input=declared, partitions=hours)
    one, two, three = "2026-10-25-02:00", "2026-10-25-01:00+0000", "2026-10-25-02:00+0000"
    for night in (three, one, two):
        run(pipeline, spec, night)
    other = make_pipeline(api=RealApi())
    run(other, spec, two)
    [middle] = [
        night
        for night in all_nights(pipeline)
        if (night.partition, night.owner) == (two, "simulator")
    ]
    report = build_report(pipeline, spec, middle)
    assert [night.partition for night in report.trend] == [one, two]
    assert report.trend[-1].usd == report.costs.billed_usd > 0
    assert report.trend[-1].per_document_usd == report.cost_per_document_usd
    assert all(night.complete and night.settled == 3 for night in report.trend)


def all_nights(pipeline: Pipeline) -> list[nights.Night]:
    with pipeline.ledger.read() as connection:
        return nights.list_nights(connection)


def all_answers(pipeline: Pipeline) -> list[dict[str, Any]]:
    """Every answer of the one night there is, as it is stored."""
    [night] = all_nights(pipeline)
    with pipeline.ledger.read() as connection:
        collected = submissions.of_night(connection, night.id, State.COLLECTED)
    paths_of_answers = night_answers.answer_paths(night, collected)
    found: list[dict[str, Any]] = pipeline.files.dataset(paths_of_answers).to_table().to_pylist()
    return found
