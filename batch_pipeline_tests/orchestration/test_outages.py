"""An API that does not answer, under Dagster: one living run, one alert, and on by itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa
from starlette.responses import Response

from batch_pipeline.api import client
from batch_pipeline.flow.status import warnings
from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.database.ledger import Ledger
from batch_pipeline.orchestration.names import OUTAGE_TAG
from batch_pipeline.orchestration.sensing import lost_runs, run_requests
from batch_pipeline.orchestration.steps import asset_steps
from batch_pipeline_tests.orchestration.nightly import Nightly
from batch_pipeline_tests.support import Faults

MakeNightly = Callable[..., Nightly]


def unavailable(_: object) -> Response:
    return Response("<html>503</html>", 503, media_type="text/html")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """An outage is told after half a second, and a lost run is repeated at once."""
    monkeypatch.setattr(client, "READ_PAUSES", ())
    monkeypatch.setattr(run_requests, "FIRST_LOST_REST_SECONDS", 0.0)
    monkeypatch.setattr(warnings, "OUTAGE_SECONDS", 0.5)


@pytest.fixture
def ledger(environment: Path) -> Iterator[Ledger]:
    """The ledger of the home that Dagster's runs use."""
    with Ledger(f"sqlite:///{environment}/ledger.sqlite") as opened:
        yield opened


def told(ledger: Ledger) -> list[str]:
    with ledger.read() as connection:
        return list(connection.scalars(sa.select(tables.alert.c.code)))


def test_a_night_that_an_outage_has_stopped_goes_on_by_itself(
    nightly: MakeNightly,
    instance: dg.DagsterInstance,
    nights: list[str],
    ledger: Ledger,
    faults: Faults,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job, night = nightly(), nights[0]
    faults.on_request = unavailable
    monkeypatch.setattr(asset_steps, "PATIENCE_SECONDS", 1.5)
    for _ in range(run_requests.MOST_FAILURES + 1):
        # As if the outage lasted for hours: each run fails when its patience is over.
        launched = job.launch(night)
        assert not launched.success
        [run] = instance.get_runs(dg.RunsFilter(run_ids=[launched.run_id]))
        assert OUTAGE_TAG in run.tags
    assert told(ledger) == ["api_unavailable"]
    faults.on_request = lambda _: None
    [again] = job.tick().run_requests
    assert again.partition_key == night
    assert all(result.success for result in job.follow([again]))
    assert job.metadata("submitted_batches", night)["waiting"] == "nothing waits"
    assert told(ledger) == ["api_unavailable"]


def test_a_run_that_waits_for_the_api_is_alive(
    nightly: MakeNightly,
    instance: dg.DagsterInstance,
    nights: list[str],
    ledger: Ledger,
    faults: Faults,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ticks meanwhile neither report it dead nor ask for another run."""
    monkeypatch.setenv("BATCH_PIPELINE_LEASE_SECONDS", "3")
    job, night, asked = nightly(), nights[0], threading.Event()

    def down(_: object) -> Response:
        asked.set()
        return unavailable(_)

    faults.on_request = down
    results: list[bool] = []
    run = threading.Thread(target=lambda: results.append(job.launch(night).success))
    run.start()
    assert asked.wait(60)
    for _ in range(4):
        asked.clear()
        assert asked.wait(60)
        assert not job.tick().run_requests
        lost_runs.report_dead(instance, ledger, job.name, 3.0)
    faults.on_request = lambda _: None
    run.join()
    assert results == [True]
    assert [r.status for r in instance.get_runs()] == [dg.DagsterRunStatus.SUCCESS]
