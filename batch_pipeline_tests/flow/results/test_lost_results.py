"""Results that can never be had: set aside, booked honestly, never bought again silently."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response

from batch_pipeline.api.protocol import ApiFailure
from batch_pipeline.flow import paths
from batch_pipeline.flow.control import redrive
from batch_pipeline.flow.costs.cost_report import write_report
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.results import lost_results
from batch_pipeline.flow.results.judging.odd_lines import ResultsIncompleteError
from batch_pipeline.flow.results.lost_results import LEAST_SECONDS, MOST_DOWNLOADS, why_gone
from batch_pipeline.flow.run import run
from batch_pipeline.flow.status import warnings
from batch_pipeline.flow.status.batch_warnings import RESULTS_KEPT_SECONDS
from batch_pipeline.jobs.spec import AlertsSpec, JobSpec
from batch_pipeline.ledger import waits
from batch_pipeline.ledger.database.ledger import now
from batch_pipeline.ledger.processes import leases
from batch_pipeline.ledger.submissions import transitions
from batch_pipeline.ledger.submissions.submissions import State
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.flow.dataset.prepared_rows import NOW, submission
from batch_pipeline_tests.flow.fake_api import a_batch
from batch_pipeline_tests.support import (
    PARTITION,
    Faults,
    RealApi,
    by_id,
    dead_letters,
    documents,
    error,
    job,
    results,
    statuses,
    submissions_of,
    write_rows,
)

OLD, YOUNG = NOW + RESULTS_KEPT_SECONDS + 1, NOW + RESULTS_KEPT_SECONDS - 1
NOT_FOUND = ApiFailure(404, "not_found_error", None, "m")
OUT = ApiFailure(500, "api_error", None, "m")
REVOKED = ApiFailure(401, "authentication_error", None, "m")
INCOMPLETE = ResultsIncompleteError("m")
ARCHIVED = a_batch("batch_1")
object.__setattr__(ARCHIVED, "archived", True)


@pytest.mark.parametrize(
    ("failure", "batch", "at", "is_gone"),
    [
        (NOT_FOUND, a_batch("batch_1"), YOUNG, False),
        (NOT_FOUND, None, YOUNG, False),
        (NOT_FOUND, ARCHIVED, YOUNG, True),
        (NOT_FOUND, a_batch("batch_1"), OLD, True),
        (NOT_FOUND, None, OLD, True),
        (OUT, ARCHIVED, OLD, False),
        (REVOKED, ARCHIVED, OLD, False),
    ],
)
def test_what_the_api_has_deleted_is_gone(
    failure: ApiFailure, batch: object, at: float, is_gone: bool
) -> None:
    assert (why_gone(submission(), failure, batch, at) is not None) is is_gone  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("downloads", "waited", "is_gone"),
    [
        (0, LEAST_SECONDS, False),
        (MOST_DOWNLOADS - 2, LEAST_SECONDS, False),
        (MOST_DOWNLOADS - 1, LEAST_SECONDS - 1, False),
        (MOST_DOWNLOADS - 1, LEAST_SECONDS, True),
    ],
)
def test_lines_that_many_downloads_lacked_for_a_day_are_gone(
    downloads: int, waited: float, is_gone: bool
) -> None:
    ended = submission(ended_at=NOW, downloads=downloads)
    assert (why_gone(ended, INCOMPLETE, None, NOW + waited) is not None) is is_gone


@pytest.fixture
def spec(tmp_path: Path) -> JobSpec:
    """A job of eight documents in two batches."""
    return job(
        write_rows(tmp_path / "in.jsonl", documents(8)), limits={"max_requests_per_batch": 5}
    )


def test_a_batch_that_was_deleted_by_its_age_ends_in_dead_letters(
    sim: Simulator, make_pipeline: MakePipeline, faults: Faults, spec: JobSpec
) -> None:
    pipeline = make_pipeline(api=RealApi())
    sim.hold()
    run(pipeline, spec, PARTITION, wait=False)
    sim.release()
    [old, _] = submissions_of(pipeline)
    days = RESULTS_KEPT_SECONDS + 1
    with pipeline.ledger.write() as connection:
        query = f"UPDATE submission SET accepted_at = accepted_at - {days} WHERE id = {old.id}"
        connection.execute(sa.text(query))

    def deleted(request: Request) -> Response | None:
        return error(404, "not_found_error") if str(old.batch_id) in request.url.path else None

    def unlisted(request: Request, response: Response) -> Response:
        if request.method == "GET" and request.url.path.endswith("/batches"):
            data = json.loads(bytes(response.body))
            data["data"] = [batch for batch in data["data"] if batch["id"] != old.batch_id]
            return Response(json.dumps(data), media_type="application/json")
        return response

    faults.on_request, faults.on_response = deleted, unlisted
    state = run(pipeline, spec, PARTITION)
    assert state.complete
    assert sim.books.accepted_requests == 8, "nothing is bought again"
    rows = results(pipeline, spec)
    assert statuses(rows) == {"errored": old.requests, "succeeded": 8 - old.requests}
    lost = [row for row in rows if row["status"] == "errored"]
    assert {row["error_type"] for row in lost} == {"results_gone"}
    assert {row["cost_usd"] for row in lost} == {Decimal(0)}
    assert len(dead_letters(pipeline, spec)) == old.requests
    assert not pipeline.files.list(paths.raw(spec.name, PARTITION), f"{old.batch_id}.jsonl.zst")
    [warning] = [w for w in warnings.of(state, AlertsSpec()) if w.code == "results_gone"]
    assert "is not known: at most $" in warning.message
    report = write_report(pipeline, spec, state.night)
    assert (report.gone.requests, report.gone.usd_bound) == (old.requests, old.usd_bound)
    text = pipeline.files.read(paths.report(spec.name, PARTITION, ".md"))
    assert text is not None
    assert f"**Results gone:** {old.requests} requests, cost unknown" in text.decode()

    faults.on_request, faults.on_response = lambda _: None, lambda _, response: response
    assert redrive.redrive(pipeline, spec, PARTITION).sent == {"errored": old.requests}
    assert run(pipeline, spec, PARTITION).statuses == {"succeeded": 8}
    assert sim.books.accepted_requests == 8 + old.requests


def test_lines_that_never_come_are_set_aside_and_the_others_kept(
    sim: Simulator,
    pipeline: Pipeline,
    faults: Faults,
    spec: JobSpec,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def short(_batch_id: str, chunks: Iterator[bytes]) -> Iterator[bytes]:
        lines = b"".join(chunks).splitlines(keepends=True)
        yield b"".join([*lines[:-1], b'{"custom_id": \n'])

    faults.on_results = short
    monkeypatch.setattr(lost_results, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(waits, "LONGEST_WAIT_SECONDS", 0.0)
    state = run(pipeline, spec, PARTITION)
    assert state.complete
    assert state.statuses == {"succeeded": 6, "errored": 2}
    assert (state.gone_requests, sim.books.accepted_requests) == (2, 8)
    rows = by_id(results(pipeline, spec))
    assert len(rows) == 8
    billed = sum((row["cost_usd"] for row in rows.values()), Decimal(0))
    assert billed + state.gone_usd_bound > sim.books.batch_cost_usd > billed
    assert {s.downloads for s in submissions_of(pipeline)} == {MOST_DOWNLOADS}
    assert {s.state for s in submissions_of(pipeline)} == {State.COLLECTED}


@pytest.mark.parametrize("pilot", [{"size": 0}, {"size": 20, "via": "batch"}], ids=["", "pilot"])
def test_readable_answers_are_published_once_after_the_third_download(
    sim: Simulator,
    pipeline: Pipeline,
    faults: Faults,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pilot: dict[str, object],
) -> None:
    spec = job(write_rows(tmp_path / "in.jsonl", documents(200)), pilot=pilot)
    downloads: list[int] = []
    seen: list[tuple[int, dict[str, str]]] = []

    def odd(_batch_id: str, chunks: Iterator[bytes]) -> Iterator[bytes]:
        first, *others = b"".join(chunks).splitlines(keepends=True)
        downloads.append(len(others) + 1)
        seen.append((len(downloads), published()))
        if len(downloads) == 5:
            yield b"".join([first, *others]).replace(b'"text":"', b'"text":"changed ')
        elif len(downloads) < 5:
            yield b"".join([first.replace(b'"usage"', b"NaN"), *others])
        else:
            yield b"".join([first, *others])

    def published() -> dict[str, str]:
        folder = paths.results(spec.name, PARTITION)
        if not pipeline.files.list(folder, ".parquet"):
            return {}
        return {row["id"]: row["content"] for row in results(pipeline, spec)}

    faults.on_results = odd
    monkeypatch.setattr(waits, "LONGEST_WAIT_SECONDS", 0.0)
    state = run(pipeline, spec, PARTITION)
    assert state.statuses == {"succeeded": 200}
    assert sim.books.accepted_requests == 200, "nothing is sent again"
    size = downloads[0]
    counts = [len(found) for _, found in seen]
    if size == 200:
        assert counts == [0, 0, 0, 199, 199]
        after = published()
        assert {key: after[key] for key in seen[-1][1]} == seen[-1][1], "published answers changed"
        assert sum(text.startswith("changed ") for text in after.values()) == 1
    assert len(results(pipeline, spec)) == 200
    rows = by_id(results(pipeline, spec))
    assert sum((row["cost_usd"] for row in rows.values()), Decimal(0)) == sim.books.batch_cost_usd
    report = write_report(pipeline, spec, state.night)
    assert report.costs.batch_usd == sim.books.batch_cost_usd == report.costs.attributed_usd
    assert report.estimated_cost_usd == 0


def test_what_is_missing_is_told_and_waits_for_all_processes(
    sim: Simulator, make_pipeline: MakePipeline, faults: Faults, spec: JobSpec
) -> None:
    pipeline = make_pipeline(poll_seconds=100.0)
    faults.on_results = lambda _, chunks: iter([b"".join(chunks).replace(b"{", b"", 1)])
    run(pipeline, spec, PARTITION, wait=False)
    state = run(pipeline, spec, PARTITION, wait=False)
    pauses = []
    for _ in range(8):
        [first, _] = submissions_of(pipeline)
        with pipeline.ledger.write() as connection:
            assert first.next_download_at is not None
            pauses.append(first.next_download_at - now(connection))
            assert leases.claim_ended(
                connection, first.night_id, "me", 1, after=0, is_gone=lambda _: True
            ) is None  # fmt: skip
            transitions.count_download(connection, first, "m", pipeline.settings.poll_seconds)
    # Some seconds may pass between the count and the look.
    assert pauses == pytest.approx([100, 200, 400, 800, 1600, 3200, 3600, 3600], abs=20)
    found = [w for w in warnings.of(state, AlertsSpec()) if w.code == "results_incomplete"]
    assert len(found) == 2
    assert "lack 1 of " in found[0].message
    assert "1 lines cannot be read (line 1: " in found[0].message
    assert "due in" in found[0].message
    assert state.collectable == 0 < state.to_collect


def test_a_download_that_fails_is_repeated_with_back_off_and_told(
    sim: Simulator, make_pipeline: MakePipeline, faults: Faults, spec: JobSpec
) -> None:
    pipeline = make_pipeline(poll_seconds=100.0)
    down = True

    def fail(request: Request) -> Response | None:
        refused = error(529, "overloaded_error")
        refused.headers["retry-after"] = "250"
        return refused if down and request.url.path.endswith("/results") else None

    faults.on_request = fail
    run(pipeline, spec, PARTITION, wait=False)
    state = run(pipeline, spec, PARTITION, wait=False)
    pauses = []
    for _ in range(7):
        first, _ = submissions_of(pipeline)
        with pipeline.ledger.write() as connection:
            assert first.next_download_at is not None
            pauses.append(first.next_download_at - now(connection))
            transitions.count_failed_download(connection, first, "m", 100.0, 0.0)
    assert pauses == pytest.approx([250, 200, 400, 800, 1600, 3200, 3600], abs=20)
    found = [w for w in warnings.of(state, AlertsSpec()) if w.code == "download_failed"]
    assert len(found) == 2
    assert "HTTP 529 overloaded_error" in found[0].message
    down = False
    # A person who runs the night does not wait for the pause.
    assert run(pipeline, spec, PARTITION, wait=False).complete
