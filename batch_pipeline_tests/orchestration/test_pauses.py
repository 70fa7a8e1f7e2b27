"""An account that the API refuses, under Dagster: the sensor tries it, and goes on by itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa

from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.database.ledger import Ledger, now
from batch_pipeline.simulator import Faults, Simulator
from batch_pipeline_tests.orchestration.nightly import Nightly

MakeNightly = Callable[..., Nightly]
OUT_OF_CREDIT = {
    "fault": {"kind": "spend_limit", "form": "credit"},
    "endpoints": ["messages", "create"],
}


def probe_now(home: Path) -> None:
    """As if the time to the next probe were over."""
    ledger = Ledger(f"sqlite:///{home}/ledger.sqlite")
    with ledger.write() as connection:
        connection.execute(sa.update(tables.account).values(probe_at=now(connection) - 1))
    ledger.close()


def test_a_night_that_stopped_in_its_pilot_goes_on_after_a_probe(
    nightly: MakeNightly, nights: list[str], environment: Path, sim: Simulator
) -> None:
    night = nights[0]
    job = nightly(
        pilot={"size": 4, "via": "realtime", "max_error_rate": 0.0, "max_truncated_rate": 1.0}
    )
    sim.set_faults(Faults.of(outages=[OUT_OF_CREDIT]))
    assert job.launch(night).success
    assert "credit balance is too low" in job.metadata("pilot_sample", night)["summary"]
    tick = job.tick()
    assert not tick.run_requests
    assert "the sensor tries it" in str(tick.skip_message)
    probe_now(environment)
    [request] = job.tick().run_requests
    assert all(result.success for result in job.follow([request]))
    assert sim.books.accepted_requests == sim.books.billed_requests == 0
    sim.set_faults(Faults())
    assert not job.tick().run_requests
    probe_now(environment)
    job.run_to_the_end(night)
    assert job.metadata("collected_results", night)["succeeded"] == 40
    assert sim.books.billed_requests == 40
