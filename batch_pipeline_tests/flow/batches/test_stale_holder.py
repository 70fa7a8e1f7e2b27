"""A holder of real-time calls that was frozen until another took them over."""

from __future__ import annotations

import time
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from batch_pipeline.flow import night_input, steps
from batch_pipeline.flow.run import run
from batch_pipeline.jobs.spec import RealtimeSpec
from batch_pipeline.ledger import shards
from batch_pipeline.ledger.admission import admission
from batch_pipeline.ledger.admission.admission import Intent, Limits, Waiting
from batch_pipeline.ledger.admission.senders import Sender
from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.shards import ShardState
from batch_pipeline.ledger.submissions import submissions
from batch_pipeline.ledger.submissions.submissions import State
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.support import (
    PARTITION,
    Faults,
    documents,
    job,
    results,
    statuses,
    write_rows,
)

PILOT = 60
LEASE_SECONDS = 0.2


def test_it_asks_nothing_more_once_its_lease_is_lost(
    sim: Simulator, make_pipeline: MakePipeline, faults: Faults, tmp_path: Path
) -> None:
    spec = job(
        write_rows(tmp_path / "in.jsonl", documents(10 * PILOT)),
        pilot={"size": PILOT, "max_error_rate": 1, "max_truncated_rate": 1},
    )
    stale, other = (make_pipeline(lease_seconds=LEASE_SECONDS) for _ in range(2))
    night = steps.open_night(stale, spec, PARTITION)
    night_input.take_input(stale, spec, night)
    calls = 0

    def take_over(request: Request) -> Response | None:
        nonlocal calls
        if request.url.path == "/v1/messages":
            calls += 1
            if calls == 1:
                [account] = night.sent_by
                limits = Limits((Sender(account, account, 10_000),), None, LEASE_SECONDS)
                with other.ledger.write() as connection:
                    connection.execute(tables.submission.update().values(lease_until=0.0))
                    [shard] = shards.list_shards(connection, night.id, ShardState.CLAIMED)
                    begun = admission.begin_calls(connection, night, shard, "other", limits)
                assert isinstance(begun, Intent)
                time.sleep(2 * LEASE_SECONDS)
        return None

    faults.on_request = take_over
    waiting = steps.run_pilot(stale, spec, night)
    assert isinstance(waiting, Waiting)
    assert calls <= RealtimeSpec().concurrency
    with other.ledger.read() as connection:
        [submission] = submissions.of_night(connection, night.id)
    assert (submission.state, submission.holder, submission.fence) == (State.CALLING, "other", 2)

    # What it was answered by then is in its journal, and is not asked again.
    assert run(other, spec, PARTITION).complete
    assert calls == PILOT
    assert statuses(results(other, spec)) == {"succeeded": 10 * PILOT}
    assert not sim.books.billed_more_than_once
