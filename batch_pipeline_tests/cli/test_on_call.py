"""What people and machines see from outside: failed nights, nights never begun, metrics, logs."""

from __future__ import annotations

import json
import signal
import urllib.request
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from batch_pipeline_tests.cli.program import Program, documents, finished

Samples = dict[tuple[str, tuple[str, ...]], float]


def samples(text: str) -> Samples:
    """Values by name, without its prefix, and by the values of the labels in their order."""
    return {
        (
            sample.name.removeprefix("batch_pipeline_"),
            tuple(sample.labels[label] for label in sorted(sample.labels)),
        ): sample.value
        for family in text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
        for sample in family.samples
    }


def test_a_failed_night_says_why_until_it_goes_on(program: Program) -> None:
    job = program.declare("review")
    assert program("run", job).code == 1
    [night] = program("status", job, "--json").document["nights"]
    assert (night["state"], night["failure"]["code"]) == ("failed", "invalid_input_data")
    assert night["night_state"]["reason"] == night["failure"]["reason"]
    said = program("status", job).out
    assert "failed" in said
    assert night["failure"]["remedy"] in said
    report = program.home / job / "reports" / "all.json"
    assert json.loads(report.read_text())["failure"]["code"] == "invalid_input_data"
    program.declare(job, documents(3))
    assert program("run", job).code == 0
    [night] = program("status", job, "--json").document["nights"]
    assert (night["state"], night["failure"]) == ("complete", None)
    assert "failure" not in json.loads(report.read_text())


def test_a_night_that_was_never_begun_says_when_it_was_due(program: Program) -> None:
    job = program.declare(
        "daily",
        documents(3),
        partitions={"start": "2026-01-01"},
        schedule="30 1 * * *",
        input={"path": str(program.folder / "daily.jsonl"), "same_every_night": True},
    )
    assert program("run", job, "--partition", "2026-01-05").code == 0
    ended = program("status", job, "-p", "2026-01-04")
    assert ended.code == 0
    assert "due at 2026-01-05 01:30 UTC by the schedule '30 1 * * *'" in ended.out
    assert "the newest is 2026-01-05" in ended.out
    document = program("status", job, "-p", "2026-01-04", "--json").document
    assert document["nights"] == []
    assert (document["never_begun"]["complete"], document["never_begun"]["newest"]) == (
        1,
        "2026-01-05",
    )


def test_metrics_tell_what_is_in_flight_and_what_has_failed(program: Program) -> None:
    job = program.declare("measured", documents(4))
    assert program("run", job).code == 0
    failing = program.declare("failing")
    assert program("run", failing).code == 1
    found = samples(program("metrics").out)
    assert found["up", ()] == 1
    assert found["nights", (job, "complete")] == 1
    assert found["items", (job, "succeeded")] == 4
    assert found["cost_usd", (job, "batch")] > 0
    assert found["queue_room_requests", ("simulator",)] == 200_000
    assert (
        found["account_spent_usd", ("simulator", "billed", "simulator")]
        == found["cost_usd", (job, "batch")]
    )
    assert found["nights", (failing, "failed")] == 1
    assert found["night_failures", ("invalid_input_data", failing)] == 1
    assert found["account_refused", ("simulator", "simulator")] == 0


def test_metrics_are_served_until_they_are_stopped(offline: Program) -> None:
    with offline.start("metrics", "--serve", "0") as process:
        assert process.stderr is not None
        said = [process.stderr.readline() for _ in range(2)][-1]
        url = said.removeprefix("Metrics at ").strip()
        assert url.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(url, timeout=10) as response:
            assert b"batch_pipeline_up 1.0" in response.read()
        process.send_signal(signal.SIGINT)
        assert finished(process).code == 130


def test_logs_are_objects_and_steps_are_spans(program: Program) -> None:
    """Of one run: its records name the night and the span that they belong to."""
    pytest.importorskip("opentelemetry.sdk")
    job = program.declare("traced", documents(3))
    ended = program.process(
        "run",
        job,
        BATCH_PIPELINE_LOG_FORMAT="json",
        OTEL_TRACES_EXPORTER="console",
    )
    assert ended.code == 0, ended.err
    records = [json.loads(line) for line in ended.err.splitlines() if line.startswith("{")]
    [accepted] = [record for record in records if "accepted" in record["message"]]
    assert (accepted["job"], accepted["partition"], accepted["level"]) == (job, "all", "info")
    spans = _spans(ended.out)
    names = {span["name"] for span in spans}
    assert {
        f"batch_pipeline.{name}"
        for name in ("take_input", "submit", "shard", "poll", "collect", "collect_batch", "finish")
    } <= names
    [shard] = [span for span in spans if span["name"] == "batch_pipeline.shard"]
    assert shard["context"]["trace_id"] == f"0x{accepted['trace_id']}"
    assert shard["attributes"]["batch_pipeline.batch_id"].startswith("msgbatch_")
    [create] = [span for span in spans if span["name"] == "batch_pipeline.api.create_batch"]
    assert create["parent_id"] == shard["context"]["span_id"]
    assert not any("file " in json.dumps(span["attributes"]) for span in spans)


def test_an_unknown_format_of_logs_is_refused(offline: Program) -> None:
    ended = offline.process("jobs", BATCH_PIPELINE_LOG_FORMAT="xml")
    assert ended.code == 2
    assert "BATCH_PIPELINE_LOG_FORMAT" in ended.err


def _spans(out: str) -> list[dict[str, Any]]:
    """The spans that the console exporter printed, among other output."""
    decoder, found, at = json.JSONDecoder(), [], out.find("{\n")
    while at >= 0:
        span, end = decoder.raw_decode(out, at)
        found.append(span)
        at = out.find("{\n", end)
    return found
