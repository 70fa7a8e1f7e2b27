"""An API that does not answer: waited for at the start as later, told in `status`, one alert."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response

from batch_pipeline.api import client
from batch_pipeline.errors import ApiUnavailableError
from batch_pipeline.flow.run import run
from batch_pipeline.flow.status import night_state, warnings
from batch_pipeline.flow.status.progress import Progress
from batch_pipeline.ledger.accounts import accounts
from batch_pipeline.ledger.admission.night_state import Kind
from batch_pipeline.ledger.database import tables
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.support import (
    PARTITION,
    Faults,
    accepted_twice,
    documents,
    job,
    write_rows,
)


class Outage:
    """A gateway's page answers the next reads: a create of unknown outcome is another matter."""

    def __init__(self, requests: int) -> None:
        self.left = requests

    def __call__(self, request: Request) -> Response | None:
        if request.method != "GET":
            return None
        self.left -= 1
        page = "<html>502 Bad Gateway</html>"
        return Response(page, 502, media_type="text/html") if self.left >= 0 else None


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """An outage is told after a moment, and reads are not repeated."""
    monkeypatch.setattr(client, "READ_PAUSES", ())
    monkeypatch.setattr(warnings, "OUTAGE_SECONDS", 0.05)


@pytest.mark.parametrize("asked_before", [0, 1], ids=["at the start", "in the middle"])
def test_an_outage_is_waited_for_and_told_once(
    asked_before: int,
    sim: Simulator,
    faults: Faults,
    make_pipeline: MakePipeline,
    tmp_path: Path,
) -> None:
    spec = job(write_rows(tmp_path / "in.jsonl", documents(6)), pilot={"size": 0})
    pipeline = make_pipeline()
    if asked_before:
        assert pipeline.owner(spec).simulated
    faults.on_request = Outage(8)
    kinds: set[Kind] = set()

    def watch(state: Progress) -> None:
        kinds.add(night_state.of_progress(state, spec.alerts).kind)

    state = run(pipeline, spec, PARTITION, watch=watch)
    assert state.complete
    assert not accepted_twice(sim)
    with pipeline.ledger.read() as connection:
        told = list(connection.scalars(sa.select(tables.alert.c.code)))
        assert told == ["api_unavailable"]
        assert accounts.get_account(connection, "simulator").unanswered is None
    if asked_before:
        assert Kind.API_UNAVAILABLE in kinds


def test_without_waiting_an_api_that_is_down_is_said_at_once(
    sim: Simulator, faults: Faults, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    faults.on_request = Outage(1000)
    spec = job(write_rows(tmp_path / "in.jsonl", documents(3)))
    with pytest.raises(ApiUnavailableError, match="cannot be used now"):
        run(make_pipeline(), spec, PARTITION, wait=False)
