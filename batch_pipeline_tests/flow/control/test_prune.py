"""Pruning: old files of finished nights go, and nothing of such a night is ever bought again."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

from batch_pipeline.errors import UsageError
from batch_pipeline.flow.control import prune as pruning
from batch_pipeline.flow.control.prune import begun_before, prune
from batch_pipeline.flow.control.redrive import redrive
from batch_pipeline.flow.costs.cost_report import build_report
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.run import run
from batch_pipeline.jobs.partitions.declared_partitions import PartitionsSpec
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.reporting.report.report_json import to_json
from batch_pipeline.simulator import Simulator
from batch_pipeline.storage.files import Files
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.support import documents, job, results, submissions_of, write_rows

DAYS = ("2026-01-01", "2026-01-02", "2026-01-03")
ONE_DAY = [{"id": "1", "text": "a"}, {"id": "2", "text": "b"}, {"id": "no text"}]
Nightly = Callable[..., JobSpec]


@pytest.fixture
def nightly(tmp_path: Path) -> Nightly:
    """A job with three days of input, each of two documents and one that cannot be sent."""
    for day in DAYS:
        write_rows(tmp_path / f"{day}.jsonl", ONE_DAY)

    def make(**changes: object) -> JobSpec:
        return job(tmp_path / "{partition}.jsonl", partitions={"start": DAYS[0]}, **changes)

    return make


def files_of(pipeline: Pipeline, day: str) -> set[str]:
    """Which kinds of files a night has."""
    folder = Path(pipeline.files.uri("review"))
    return {path.parts[0] for path in map(Path, _below(folder)) if f"partition={day}" in path.parts}


def _below(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]


def test_finished_nights_lose_snapshot_and_raw_lines_alone(
    sim: Simulator, make_pipeline: MakePipeline, nightly: Nightly
) -> None:
    pipeline, spec = make_pipeline(), nightly()
    for day in DAYS:
        run(pipeline, spec, day, wait=day != DAYS[1])
    shown = results(pipeline, spec, DAYS[0])

    planned = prune(pipeline, spec, DAYS[2], dry_run=True)
    assert "snapshots" in files_of(pipeline, DAYS[0])
    done = prune(pipeline, spec, DAYS[2])
    assert done == planned
    assert list(done.freed) == [DAYS[0]]
    assert done.freed[DAYS[0]] > 0
    assert list(done.kept) == [DAYS[1]]

    assert files_of(pipeline, DAYS[0]) == {"answers", "dead_letter", "manifests", "results"}
    for day in DAYS[1:]:
        assert "snapshots" in files_of(pipeline, day)
    assert results(pipeline, spec, DAYS[0]) == shown
    assert prune(pipeline, spec, DAYS[2]).freed == {}


@pytest.mark.parametrize(
    ("changes", "rewritten"),
    [({}, False), ({}, True), ({"prompt": {"user": "Another prompt: {text}"}}, True)],
    ids=["as it was", "rewritten", "declared and rewritten"],
)
def test_a_pruned_night_runs_without_buying(
    sim: Simulator,
    make_pipeline: MakePipeline,
    nightly: Nightly,
    tmp_path: Path,
    changes: dict[str, object],
    rewritten: bool,
) -> None:
    pipeline = make_pipeline()
    state = run(pipeline, nightly(), DAYS[0])
    before = submissions_of(pipeline)
    report = build_report(pipeline, nightly(), state.night)
    prune(pipeline, nightly(), DAYS[1])
    if rewritten:
        write_rows(tmp_path / f"{DAYS[0]}.jsonl", documents(5))

    state = run(make_pipeline(), nightly(**changes), DAYS[0])
    assert state.complete
    assert state.statuses == {"succeeded": 2, "invalid_input": 1}
    assert submissions_of(pipeline) == before
    again = build_report(pipeline, nightly(**changes), state.night)
    assert (
        json.loads(to_json(again))["batch_cost_usd"]
        == json.loads(to_json(report))["batch_cost_usd"]
    )
    with pytest.raises(UsageError, match="pruned"):
        redrive(pipeline, nightly(**changes), DAYS[0])


def test_a_prune_that_was_killed_is_finished_by_the_next(
    sim: Simulator, make_pipeline: MakePipeline, nightly: Nightly, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, spec = make_pipeline(), nightly()
    run(pipeline, spec, DAYS[0])

    def killed(_files: Files, _path: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Files, "remove", killed)
        with pytest.raises(KeyboardInterrupt):
            prune(pipeline, spec, DAYS[1])
    assert run(pipeline, spec, DAYS[0]).complete
    assert list(prune(pipeline, spec, DAYS[1]).freed) == [DAYS[0]]
    assert "snapshots" not in files_of(pipeline, DAYS[0])


def test_what_is_told_of_it() -> None:
    pruned = pruning.Pruned({DAYS[0]: 2_500_000, DAYS[2]: 3_490}, {DAYS[1]: "not complete"})
    assert pruning.describe(pruned, dry_run=True) == [
        "2026-01-01: 2.5 MB would be removed",
        "2026-01-03: 3,490 bytes would be removed",
        "2026-01-02: stays, not complete",
    ]
    assert json.dumps(pruned.as_json())


@pytest.mark.parametrize(
    ("before", "older"),
    [
        ("2026-10-25-01:00+0000", ["2026-10-24", "2026-10-25-01:00", "2026-10-25-02:00"]),
        ("2026-10-25", ["2026-10-24"]),
    ],
)
def test_what_is_before_follows_from_windows(before: str, older: list[str]) -> None:
    """Hours that clocks show twice, not in the order of their texts; and a night of a time when
    the job had days."""
    declared = PartitionsSpec(every="hour", start=date(2026, 10, 1), timezone="Antarctica/Troll")
    hours = ["2026-10-25-02:00+0000", "2026-10-25-01:00+0000", "2026-10-25-02:00"]
    hours.append("2026-10-25-01:00")
    assert begun_before(declared, [*hours, "2026-10-24"], before) == older
